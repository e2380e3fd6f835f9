"""`get_batch`, and bodies that have many leases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until

from leaseq import (
    DeadLetter,
    InvalidLeaseError,
    LeaseBatch,
    LeasedKeyQueue,
    LeaseLostError,
    QueueClosedError,
    Retry,
    Tenant,
    TimekeeperNotRunningError,
)
from leaseq.testing import Operation, advance, cancel_sweep

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]

virtual_time = pytest.mark.virtual_time


@pytest.fixture
def queue() -> Queue:
    queue = Queue()
    queue.put_many_nowait({"a": 1, "b": 2, "c": 3})
    return queue


@asynccontextmanager
async def timekeeper(queue: Queue) -> AsyncIterator[None]:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        yield
        tg.cancel_scope.cancel()


class Gatherer:
    """A task that gets a batch."""

    def __init__(self, queue: Queue, max_items: int = 10, **options: Any) -> None:
        self.queue = queue
        self.max_items = max_items
        self.options = options
        self.scope = CancelScope()
        self.keys: list[str] | None = None
        self.at = -1.0

    async def __call__(self) -> None:
        with self.scope:
            leases = await self.queue.get_batch(self.max_items, **self.options)
            assert all(lease.ended is None for lease in leases)
            self.keys = [lease.key for lease in leases]
            self.at = current_time()


# What a batch has


async def test_a_batch_has_what_is_ready_in_the_order_of_the_line(queue: Queue) -> None:
    leases = await queue.get_batch(10)
    assert [lease.key for lease in leases] == ["a", "b", "c"]
    assert [lease.deliveries for lease in leases] == [1, 1, 1]


async def test_a_batch_has_no_more_than_was_asked_for(queue: Queue) -> None:
    assert len(await queue.get_batch(2)) == 2
    assert len(await queue.get_batch(2)) == 1


async def test_a_batch_waits_for_its_first_item() -> None:
    queue = Queue()
    gatherer = Gatherer(queue)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await until(queue, getters=1)
        queue.put_many_nowait({"a": 1, "b": 1})
    # "a" was handed over, and "b" was ready by the time that it arrived.
    assert gatherer.keys == ["a", "b"]


async def test_a_batch_waits_no_longer_than_its_timeout() -> None:
    with pytest.raises(TimeoutError):
        await Queue().get_batch(10, timeout=0)


@virtual_time
async def test_a_batch_goes_when_max_wait_has_passed_since_the_first() -> None:
    queue = Queue()
    gatherer = Gatherer(queue, max_wait=10)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        for key in ("a", "b", "c"):
            await sleep(4)
            await queue.put(key, 1)
        await sleep(4)
        await queue.put("d", 1)
    assert (gatherer.keys, gatherer.at) == (["a", "b", "c"], 14)
    assert await in_line(queue) == ["d"]


@virtual_time
async def test_a_batch_goes_when_it_is_full(queue: Queue) -> None:
    gatherer = Gatherer(queue, 5, max_wait=10)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await sleep(2)
        queue.put_many_nowait({"d": 1, "e": 1, "f": 1})
    assert (gatherer.keys, gatherer.at) == (["a", "b", "c", "d", "e"], 2)
    assert await in_line(queue) == ["f"]


@virtual_time
async def test_single_getters_that_wait_come_before_a_batch_that_waits_for_more(
    queue: Queue,
) -> None:
    gatherer, single = Gatherer(queue, max_wait=10), Gatherer(queue, 1)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await until(queue, leased=3, getters=1)
        tg.start_soon(single)
        await until(queue, getters=2)
        await queue.put("d", 1)
        await queue.put("e", 1)
    assert single.keys == ["d"]
    assert gatherer.keys == ["a", "b", "c", "e"]


@virtual_time
async def test_two_batches_that_wait_for_more_are_filled_in_turn(queue: Queue) -> None:
    older, newer = Gatherer(queue, 3, max_wait=10), Gatherer(queue, 3, max_wait=10)
    async with create_task_group() as tg:
        for _ in range(2):
            await queue.get_batch(1)
        tg.start_soon(older)
        await until(queue, getters=1)
        tg.start_soon(newer)
        await until(queue, getters=2)
        await queue.put("d", 1)  # the first of the newer: it comes before more for the older
        await advance(0)
        queue.put_many_nowait({"e": 1, "f": 1})
    assert (older.keys, newer.keys) == (["c", "e"], ["d", "f"])


@virtual_time
async def test_a_batch_of_some_tenants_is_of_these_alone() -> None:
    queue = Queue(tenants={"x": Tenant(), "y": Tenant()})
    gatherer = Gatherer(queue, max_wait=10, tenants=["x"])
    await queue.put("a", 1, tenant="y")
    await queue.put("b", 1, tenant="x")
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await advance(0)
        await queue.put("c", 1, tenant="y")
        await queue.put("d", 1, tenant="x")
    assert gatherer.keys == ["b", "d"]
    assert await in_line(queue) == ["a", "c"]


@virtual_time
async def test_a_shutdown_gives_the_partial_batch(queue: Queue) -> None:
    gatherer = Gatherer(queue, max_wait=10)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await sleep(3)
        await queue.shutdown()
    assert (gatherer.keys, gatherer.at) == (["a", "b", "c"], 3)


@virtual_time
async def test_after_a_shutdown_a_batch_does_not_wait_for_more(queue: Queue) -> None:
    await queue.shutdown()
    gatherer = Gatherer(queue, max_wait=10)
    await gatherer()
    assert (gatherer.keys, gatherer.at) == (["a", "b", "c"], 0)


async def test_there_is_no_batch_of_a_drained_queue(queue: Queue) -> None:
    await in_line(queue)
    queue.drain_nowait()
    await queue.close()
    with pytest.raises(QueueClosedError):
        await queue.get_batch(10)


@virtual_time
async def test_a_batch_that_gathers_when_its_queue_is_closed_gets_the_error(queue: Queue) -> None:
    async def gather() -> None:
        with pytest.raises(QueueClosedError, match="work left"):
            await queue.get_batch(10, max_wait=10)

    async with create_task_group() as tg:
        tg.start_soon(gather)
        await advance(1)
        await queue.close()
    assert [key for key, _ in queue.drain_nowait()] == ["a", "b", "c"]


# Cancelled


@virtual_time
async def test_when_a_gathering_batch_is_cancelled_all_goes_back_in_order(queue: Queue) -> None:
    gatherer = Gatherer(queue, max_wait=10)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await advance(1)
        await queue.put("d", 1)
        await advance(1)
        await queue.put("e", 1)  # on its way when the batch is cancelled
        gatherer.scope.cancel()
    assert gatherer.keys is None
    statistics = await queue.statistics()
    assert (statistics.delivered, statistics.given_back, statistics.ready) == (0, 0, 5)
    assert await in_line(queue) == ["a", "b", "c", "d", "e"]


@virtual_time
async def test_what_a_cancelled_batch_gives_back_goes_to_those_who_wait(queue: Queue) -> None:
    gatherer, single = Gatherer(queue, max_wait=10), Gatherer(queue, 1)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await until(queue, leased=3)
        tg.start_soon(single)
        await advance(0)
        gatherer.scope.cancel()
    assert single.keys == ["a"]
    assert await in_line(queue) == ["b", "c"]


@virtual_time
async def test_an_item_that_comes_when_max_wait_ends_is_in_the_batch_or_in_line(
    queue: Queue,
) -> None:
    gatherer = Gatherer(queue, max_wait=10)
    async with create_task_group() as tg:
        tg.start_soon(gatherer)
        await sleep(10)
        await queue.put("d", 1)
    assert gatherer.keys is not None
    assert gatherer.keys + await in_line(queue) == ["a", "b", "c", "d"]


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_items": 0}, "max_items must be 1 or more, not 0"),
        ({"max_items": float("nan")}, "max_items must be 1 or more, not nan"),
        ({"max_wait": -1.0}, "max_wait must be 0 seconds or more, not -1.0"),
        ({"max_wait": float("nan")}, "max_wait must be 0 seconds or more, not nan"),
        ({"max_wait": float("inf")}, "max_wait=inf s must be less"),
        ({"max_wait": 5.0, "lease_timeout": 5.0}, "max_wait=5.0 s must be less than the lease"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds, not nan"),
        ({"tenants": []}, "tenants must name at least one tenant"),
    ],
)
async def test_a_batch_says_what_is_wrong_with_its_options(
    queue: Queue, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await queue.get_batch(**{"max_items": 2, **options})
    with pytest.raises(ValueError, match=message):
        async with queue.lease_batch(**{"max_items": 2, **options}):
            raise AssertionError("it was entered")


async def test_timed_leases_of_a_batch_need_a_timekeeper(queue: Queue) -> None:
    with pytest.raises(TimekeeperNotRunningError):
        await queue.get_batch(2, lease_timeout=10)


# Bodies


async def test_the_end_of_its_body_acks_a_batch(queue: Queue) -> None:
    async with queue.lease_batch(10) as batch:
        assert [lease.value for lease in batch] == [1, 2, 3]
        assert len(batch) == 3
    assert (await queue.statistics()).acked == 3
    assert repr(batch) == "<LeaseBatch 0 held, 0 lost, of 3>"


async def test_when_its_body_fails_a_batch_is_released_in_its_old_order(queue: Queue) -> None:
    await queue.put("d", 4)
    with pytest.raises(KeyError):
        async with queue.lease_batch(3):
            raise KeyError
    leases = await queue.get_batch(10)
    assert [(lease.key, lease.deliveries) for lease in leases] == [
        ("d", 1), ("a", 2), ("b", 2), ("c", 2),
    ]  # fmt: skip


async def test_when_its_body_fails_too_often_a_batch_is_dead_letters() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(retry=Retry(max_deliveries=1), dead_letters=letters)
    queue.put_many_nowait({"a": 1, "b": 1})
    with suppress(ValueError):
        async with queue.lease_batch(3):
            raise ValueError("bad table")
    dead = [letter for _, letter in letters.drain_nowait()]
    assert [(letter.key, letter.error) for letter in dead] == [
        ("a", "ValueError: bad table"),
        ("b", "ValueError: bad table"),
    ]


async def test_when_its_body_is_cancelled_a_batch_goes_back_uncounted(queue: Queue) -> None:
    with CancelScope() as scope:
        async with queue.lease_batch(2):
            scope.cancel()
            await sleep_forever()
    leases = await queue.get_batch(10)
    assert [(lease.key, lease.deliveries, lease.cancellations) for lease in leases] == [
        ("a", 1, 1), ("b", 1, 1), ("c", 1, 0),
    ]  # fmt: skip


@pytest.mark.only("asyncio")
async def test_when_somebody_elses_task_was_cancelled_a_batch_has_failed(queue: Queue) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with queue.lease_batch(2):
            await other
    assert (await queue.statistics()).released == 2


async def test_single_leases_of_a_batch_can_be_settled(queue: Queue) -> None:
    await queue.put("d", 4)
    async with queue.lease_batch(10) as batch:
        first, second, third, _ = batch
        assert await batch.ack(first) is False
        await batch.release(second, requeue_front=True)
        await batch.reject(third, "no such page")
        assert [lease.key for lease in batch] == ["d"]
    assert [first.ended, second.ended, third.ended] == ["acked", "released", "rejected"]
    assert await in_line(queue) == ["b"]
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.dropped) == (2, 1)


async def test_a_body_that_has_settled_all_is_left_alone(queue: Queue) -> None:
    async with queue.lease_batch(10) as batch:
        for lease in batch:
            await lease.release()
        await checkpoint()
    assert await in_line(queue) == ["a", "b", "c"]


async def test_one_batch_has_one_body(queue: Queue) -> None:
    async with queue.lease_batch(10) as batch:
        with pytest.raises(RuntimeError, match="one body for one batch"):
            async with batch:
                raise AssertionError("entered twice")


async def test_a_lease_of_a_batch_has_no_body_of_its_own(queue: Queue) -> None:
    async with queue.lease_batch(10) as batch:
        with pytest.raises(RuntimeError, match="one body for one lease"):
            async with next(iter(batch)):
                raise AssertionError("entered twice")


# Lost leases


@virtual_time
async def test_a_lost_lease_leaves_the_batch(queue: Queue) -> None:
    async with timekeeper(queue), queue.lease_batch(10, lease_timeout=10) as batch:
        first, *others = batch
        for lease in others:
            await lease.extend(100)
        await sleep(50)
        assert [lease.key for lease in batch] == ["b", "c"]
        assert batch.lost == [first]
    assert (await queue.statistics()).acked == 2
    assert await in_line(queue) == ["a"]


@virtual_time
async def test_a_body_is_cancelled_when_none_of_its_leases_is_left(queue: Queue) -> None:
    async with timekeeper(queue):
        with pytest.raises(LeaseLostError, match="all remaining leases were lost"):
            async with queue.lease_batch(10, lease_timeout=10) as batch:
                await sleep_forever()
        assert current_time() == 10
    assert [lease.key for lease in batch.lost] == ["a", "b", "c"]
    assert await in_line(queue) == ["a", "b", "c"]


@virtual_time
async def test_a_body_is_cancelled_when_what_it_has_not_settled_is_lost(queue: Queue) -> None:
    async with timekeeper(queue):
        with pytest.raises(LeaseLostError):
            async with queue.lease_batch(10, lease_timeout=10) as batch:
                await batch.ack(next(iter(batch)))
                await sleep_forever()
    assert [lease.key for lease in batch.lost] == ["b", "c"]


@virtual_time
async def test_a_body_that_settles_what_is_left_is_no_loss(queue: Queue) -> None:
    async with timekeeper(queue), queue.lease_batch(10, lease_timeout=10) as batch:
        _, *others = batch
        for lease in others:
            await lease.extend(100)
        await sleep(50)
        for lease in batch:
            await lease.ack()
        await checkpoint()
    assert len(batch.lost) == 1


@virtual_time
async def test_a_body_that_has_not_noticed_has_lost_its_leases_too(queue: Queue) -> None:
    async with timekeeper(queue):
        with pytest.raises(LeaseLostError):
            async with queue.lease_batch(10, lease_timeout=10):
                with CancelScope(shield=True):
                    await sleep(20)
    assert await in_line(queue) == ["a", "b", "c"]


@virtual_time
async def test_an_error_of_the_clean_up_is_not_masked_by_the_loss(queue: Queue) -> None:
    async with timekeeper(queue):
        with pytest.raises(KeyError):
            async with queue.lease_batch(10, lease_timeout=10):
                try:
                    await sleep_forever()
                finally:
                    raise KeyError
    assert await in_line(queue) == ["a", "b", "c"]


@virtual_time
async def test_a_cancellation_from_outside_wins_over_the_loss(queue: Queue) -> None:
    async with timekeeper(queue):
        with CancelScope() as scope:
            async with queue.lease_batch(10, lease_timeout=10):
                with CancelScope(shield=True):
                    await sleep(20)
                scope.cancel()
                await checkpoint()
        assert scope.cancelled_caught


class LateQueue(LeasedKeyQueue[str, int]):
    """A queue that has not noticed yet that the leases on some keys have run out."""

    late: tuple[str, ...] = ()

    async def ack(self, lease: Any) -> bool:
        self._refuse(lease)
        return await super().ack(lease)

    async def _fail(self, lease: Any, error: BaseException, *args: Any) -> None:
        self._refuse(lease)
        await super()._fail(lease, error, *args)

    def _refuse(self, lease: Any) -> None:
        if lease.key in self.late:
            raise LeaseLostError(f"{lease!r} expired just now")


@pytest.mark.parametrize("error", [None, KeyError(), ExceptionGroup("two", [KeyError()])])
async def test_a_lease_that_runs_out_as_the_body_ends_keeps_no_other_from_its_end(
    error: Exception | None,
) -> None:
    queue = LateQueue()
    queue.late = ("a",)
    queue.put_many_nowait({"a": 1, "b": 1})
    with suppress(KeyError, ExceptionGroup):
        async with queue.lease_batch(10) as batch:
            if error is not None:
                raise error
    assert [lease.key for lease in batch.lost] == ["a"]
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.released) == ((1, 0) if error is None else (0, 1))


async def test_if_all_leases_run_out_as_the_body_ends_they_are_lost() -> None:
    queue = LateQueue()
    queue.late = ("a", "b")
    queue.put_many_nowait({"a": 1, "b": 1})
    with pytest.raises(LeaseLostError):
        async with queue.lease_batch(10):
            pass


async def test_if_all_leases_run_out_as_the_body_fails_the_error_goes_on() -> None:
    queue = LateQueue()
    queue.late = ("a",)
    queue.put_nowait("a", 1)
    with pytest.raises(KeyError):
        async with queue.lease_batch(10):
            raise KeyError


async def test_a_lease_that_is_missed_twice_is_lost_once() -> None:
    queue = LateQueue()
    queue.late = ("a",)
    queue.put_many_nowait({"a": 1, "b": 1})
    async with queue.lease_batch(10) as batch:
        first, _ = batch
        await batch._settle_rest(None)
        first._lose("expired")  # as a timekeeper does
        assert batch.lost == [first]


async def test_a_batch_with_leases_that_were_lost_before_has_the_others(queue: Queue) -> None:
    other = Queue()
    other.put_nowait("x", 1)
    leases = [*await other.get_batch(1), *await queue.get_batch(10)]
    await other.close()
    async with LeaseBatch(leases) as batch:
        assert [lease.key for lease in batch] == ["a", "b", "c"]
        assert [lease.key for lease in batch.lost] == ["x"]


async def test_closing_the_queue_cancels_the_body_of_a_batch(queue: Queue) -> None:
    with pytest.raises(LeaseLostError):
        async with queue.lease_batch(10), create_task_group() as tg:
            tg.start_soon(queue.close)
            await sleep_forever()


async def test_what_was_lost_cannot_be_settled(queue: Queue) -> None:
    with suppress(LeaseLostError):
        async with queue.lease_batch(1) as batch:
            await queue.close()
    with pytest.raises(InvalidLeaseError):
        async with batch.lost[0]:
            raise AssertionError("entered after its end")


# The cancel sweep


@virtual_time
@pytest.mark.parametrize("in_body", [False, True])
@pytest.mark.parametrize("max_wait", [0.0, 3600.0])
async def test_a_cancelled_batch_loses_and_doubles_nothing(
    in_body: bool, max_wait: float, native: bool
) -> None:
    keys = ["a", "b", "c", "d", "e"]

    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = Queue()
        done: list[str] = []

        async def produce() -> None:
            for key in keys:
                for _ in range(3):
                    await checkpoint()
                await queue.put(key, 1)
            await queue.shutdown()

        async def gather() -> None:
            for lease in await queue.get_batch(4, max_wait=max_wait):
                queue.ack_nowait(lease)
                done.append(lease.key)

        async def work() -> None:
            async with queue.lease_batch(4, max_wait=max_wait) as batch:
                first = next(iter(batch))
                await checkpoint()
                await batch.ack(first)
                done.append(first.key)
                await checkpoint()
                held = [lease.key for lease in batch]
            done.extend(held)

        async def work_on_the_rest() -> None:
            async for lease in queue:
                async with lease:
                    await checkpoint()
                done.append(lease.key)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            yield work if in_body else gather
            tg.start_soon(work_on_the_rest)
        assert sorted(done) == keys
        assert (await queue.statistics()).acked == len(keys)

    assert await cancel_sweep(scenario, native=native) > 3


@virtual_time
async def test_a_batch_cancelled_while_its_leases_expire_loses_nothing(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = Queue()
        queue.put_many_nowait({"a": 1, "b": 1})

        async def work() -> None:
            with suppress(LeaseLostError):
                async with queue.lease_batch(4, max_wait=5, lease_timeout=10):
                    await anyio.sleep(20)

        async with timekeeper(queue):
            yield work
            assert await in_line(queue) == ["a", "b"]

    assert await cancel_sweep(scenario, native=native) > 3
