"""The instant between the hand-over of an item and the next step of the task that waits for it."""

import asyncio
from contextlib import suppress

import anyio
import pytest
from anyio import CancelScope, WouldBlock, create_task_group, current_time
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until
from tests.support.stalls import block

from leaseq import Lease, LeasedKeyQueue, PutOutcome, QueueClosedError, TimekeeperNotRunningError
from leaseq.testing import advance

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, object]


class Consumer:
    """A task that gets or takes one item, and that can be cancelled in each way."""

    def __init__(self, queue: Queue, key: str | None = None, *, native: bool = False) -> None:
        self.queue = queue
        self.key = key
        self.native = native
        self.scope = CancelScope()
        self.lease: Lease[str, object] | None = None
        self.error: Exception | None = None

    async def __call__(self, **options: float) -> None:
        if self.native:
            self.task = asyncio.current_task()
        with suppress(asyncio.CancelledError), self.scope:
            try:
                if self.key is None:
                    _, _, self.lease = await self.queue.get(**options)
                else:
                    _, _, self.lease = await self.queue.take(self.key)
            except Exception as error:
                self.error = error

    def cancel(self) -> None:
        if self.native:
            assert self.task is not None
            self.task.cancel()
        else:
            self.scope.cancel()

    @property
    def keys(self) -> list[str]:
        return [] if self.lease is None else [self.lease.key]


@pytest.fixture
def queue() -> Queue:
    return LeasedKeyQueue()


async def test_a_waiter_has_its_item_before_it_runs(queue: Queue) -> None:
    consumer = Consumer(queue)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        assert await queue.inflight_keys() == {"a"}
        with pytest.raises(WouldBlock):
            queue.get_nowait()
        assert consumer.lease is None
    assert consumer.keys == ["a"]


@pytest.mark.parametrize("getters", [1, 2, 4])
@pytest.mark.parametrize(
    "items",
    [
        [("a", 1), ("b", 2), ("c", 3)],
        [("a", 1), ("b", 2), ("a", 3)],  # a key that comes twice has its last value
        [("a", 1), ("held", 2), ("b", 3)],  # one that is leased is updated
    ],
    ids=["new", "twice", "held"],
)
async def test_several_items_go_to_those_who_wait_as_one_by_one(
    queue: Queue, items: list[tuple[str, int]], getters: int
) -> None:
    queue.put_nowait("held", 0)
    _, _, held = queue.get_nowait()
    got: dict[str, object] = {}

    async def consume() -> None:
        key, value, _ = await queue.get()
        got[key] = value

    async with create_task_group() as tg:
        for _ in range(getters):
            tg.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
        outcomes = await queue.put_many(items)
        await anyio.wait_all_tasks_blocked()
        new = {key: value for key, value in items if key != "held"}
        assert got == dict(list(new.items())[:getters])  # trio wakes them in any order
        assert outcomes.count(PutOutcome.ADDED) == len(new)
        assert queue.drain_nowait() == list(new.items())[getters:]
        tg.cancel_scope.cancel()
    assert held.ended is None


async def test_an_item_on_its_way_can_be_updated(queue: Queue) -> None:
    consumer = Consumer(queue)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        assert queue.put_nowait("a", 2) is PutOutcome.UPDATED_IN_FLIGHT
    assert consumer.lease is not None
    assert consumer.lease.value == 1
    assert await consumer.lease.ack() is True


# Cancelled


async def test_a_cancellation_just_before_the_hand_over_gives_the_item_back(
    queue: Queue, native: bool
) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.cancel()
        queue.put_nowait("a", 1)
    assert consumer.keys == []
    assert await in_line(queue) == ["a"]


async def test_a_cancellation_just_after_the_hand_over_loses_nothing(
    queue: Queue, native: bool
) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        consumer.cancel()
    assert consumer.keys + await in_line(queue) == ["a"]


@pytest.mark.only("asyncio")
async def test_a_native_cancellation_just_after_the_hand_over_gives_the_item_back(
    queue: Queue,
) -> None:
    consumer = Consumer(queue, native=True)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        consumer.cancel()
    assert await in_line(queue) == ["a"]


async def test_an_item_that_was_given_back_was_never_delivered(queue: Queue, native: bool) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.cancel()
        queue.put_nowait("a", 1)
    statistics = await queue.statistics()
    assert (statistics.delivered, statistics.released, statistics.given_back) == (0, 0, 0)
    _, _, lease = await queue.get()
    assert (lease.deliveries, lease.cancellations) == (1, 0)


async def test_an_item_that_was_given_back_goes_to_the_next_who_waits(
    queue: Queue, native: bool
) -> None:
    first, second = Consumer(queue, native=native), Consumer(queue)
    async with create_task_group() as tg:
        for number, consumer in enumerate((first, second), start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        first.cancel()
        queue.put_nowait("a", 1)
    assert (first.keys, second.keys) == ([], ["a"])


async def test_a_key_that_was_given_back_goes_to_the_next_who_waits_for_it(
    queue: Queue, native: bool
) -> None:
    first, second = Consumer(queue, "a", native=native), Consumer(queue, "a")
    getter = Consumer(queue)
    async with create_task_group() as tg:
        tg.start_soon(getter)
        await until(queue, getters=1)
        for number, consumer in enumerate((first, second), start=1):
            tg.start_soon(consumer)
            await until(queue, takers=number)
        first.cancel()
        queue.put_nowait("a", 1)
        queue.put_nowait("b", 1)
    assert (first.keys, second.keys, getter.keys) == ([], ["a"], ["b"])


async def test_an_item_that_was_given_back_is_at_the_head_of_the_line(
    queue: Queue, native: bool
) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.cancel()
        queue.put_nowait("a", 1)
        queue.put_nowait("b", 1)
    assert await in_line(queue) == ["a", "b"]


async def test_an_item_that_was_given_back_has_its_update(queue: Queue, native: bool) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.cancel()
        queue.put_nowait("a", 1)
        queue.put_nowait("a", 2)
    _, value, _ = await queue.get()
    assert value == 2


async def test_an_item_that_was_given_back_gives_way_to_its_successor(
    queue: Queue, native: bool
) -> None:
    first, second = Consumer(queue, native=native), Consumer(queue)
    async with create_task_group() as tg:
        for number, consumer in enumerate((first, second), start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        first.cancel()
        queue.put_nowait("a", 1)
        queue.put_nowait("a", 2, if_in_flight="buffer")
    assert second.lease is not None
    assert second.lease.value == 2
    assert await in_line(queue) == []


async def test_many_cancelled_waiters_lose_and_double_nothing(queue: Queue, native: bool) -> None:
    consumers = [Consumer(queue, native=native and number % 2 == 0) for number in range(20)]
    keys = [str(number) for number in range(10)]
    async with create_task_group() as tg:
        for number, consumer in enumerate(consumers, start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        for key, consumer in zip(keys, consumers, strict=False):
            queue.put_nowait(key, 1)
            consumer.cancel()
        for _ in range(5):
            await checkpoint()
        tg.cancel_scope.cancel()
    got = [key for consumer in consumers for key in consumer.keys]
    assert sorted(got + await in_line(queue)) == keys


@pytest.mark.only("asyncio")
async def test_a_native_cancellation_together_with_a_scopes_loses_nothing(queue: Queue) -> None:
    consumer = Consumer(queue, native=True)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.scope.cancel()
        queue.put_nowait("a", 1)
        consumer.cancel()
    assert consumer.keys + await in_line(queue) == ["a"]


# Out of time


@pytest.mark.virtual_time
@pytest.mark.parametrize("producer_first", [True, False])
async def test_an_item_that_comes_with_the_timeout_is_got_or_stays(
    queue: Queue, producer_first: bool
) -> None:
    consumer = Consumer(queue)

    async def consume() -> None:
        await consumer(timeout=10)

    async def produce() -> None:
        await anyio.sleep(10)
        queue.put_nowait("a", 1)

    async with create_task_group() as tg:
        for task in (produce, consume) if producer_first else (consume, produce):
            tg.start_soon(task)
            await advance(0)
    assert consumer.lease is not None or isinstance(consumer.error, TimeoutError)
    assert consumer.keys + await in_line(queue) == ["a"]


@pytest.mark.virtual_time
@pytest.mark.only("asyncio")
@pytest.mark.parametrize("producer_first", [True, False])
async def test_an_item_that_comes_with_the_end_of_asyncio_timeout_is_got_or_stays(
    queue: Queue, producer_first: bool
) -> None:
    keys: list[str] = []

    async def consume() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                key, _, _ = await queue.get()
                keys.append(key)

    async def produce() -> None:
        await anyio.sleep(10)
        queue.put_nowait("a", 1)

    async with create_task_group() as tg:
        for task in (produce, consume) if producer_first else (consume, produce):
            tg.start_soon(task)
            await advance(0)
    assert keys + await in_line(queue) == ["a"]


# Closed


async def test_a_queue_that_is_closed_takes_back_what_is_on_its_way(queue: Queue) -> None:
    consumer = Consumer(queue)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        await queue.close()
    assert isinstance(consumer.error, QueueClosedError)
    assert queue.drain_nowait() == [("a", 1)]


async def test_a_cancelled_waiter_of_a_closed_queue_gives_nothing_back_twice(
    queue: Queue, native: bool
) -> None:
    consumer = Consumer(queue, native=native)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        consumer.cancel()
        queue.put_nowait("a", 1)
        await queue.close()
    assert queue.drain_nowait() == [("a", 1)]


async def test_a_queue_that_is_closed_takes_everything_back_in_order(queue: Queue) -> None:
    consumers = [Consumer(queue) for _ in range(3)]
    async with create_task_group() as tg:
        for number, consumer in enumerate(consumers, start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        await queue.put_many(dict.fromkeys("abcd", 1))
        await queue.close()
    assert all(isinstance(consumer.error, QueueClosedError) for consumer in consumers)
    assert [key for key, _ in queue.drain_nowait()] == ["a", "b", "c", "d"]


async def test_what_is_on_its_way_arrives_in_spite_of_a_shutdown(queue: Queue) -> None:
    consumer = Consumer(queue)
    async with create_task_group() as tg:
        tg.start_soon(consumer)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
        await queue.shutdown()
    assert consumer.keys == ["a"]


async def test_what_was_given_back_after_a_shutdown_goes_to_the_next(
    queue: Queue, native: bool
) -> None:
    first, second = Consumer(queue, native=native), Consumer(queue)
    async with create_task_group() as tg:
        for number, consumer in enumerate((first, second), start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        first.cancel()
        queue.put_nowait("a", 1)
        await queue.shutdown()
    assert (first.keys, second.keys) == ([], ["a"])


# Expired


@pytest.fixture
def timed() -> Queue:
    return LeasedKeyQueue(default_lease_timeout=10)


async def have_the_timekeeper_look_late(queue: Queue) -> None:
    """Have a lease end before the next ones, so that those do not wake the timekeeper."""
    queue.put_nowait("early", 1)
    await queue.take("early", lease_timeout=5)
    await advance(0)


@pytest.mark.virtual_time
async def test_a_waiter_whose_lease_ran_out_before_it_ran_waits_again(timed: Queue) -> None:
    consumer = Consumer(timed, "a")
    async with create_task_group() as tg:
        await tg.start(timed.run)
        await have_the_timekeeper_look_late(timed)
        tg.start_soon(consumer)
        await until(timed, takers=1)
        timed.put_nowait("a", 1)
        block(11)
        await advance(0)
        assert consumer.lease is not None
        assert consumer.lease.ended is None
        assert consumer.lease.deadline == current_time() + 10
        tg.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_a_waiter_whose_lease_was_seen_to_expire_before_it_ran_waits_again(
    timed: Queue,
) -> None:
    consumer = Consumer(timed)
    async with create_task_group() as tg:
        await tg.start(timed.run)
        tg.start_soon(consumer)
        await until(timed, getters=1)
        timed.put_nowait("a", 1)
        block(11)
        await advance(0)
        assert consumer.lease is not None
        assert consumer.lease.ended is None
        assert consumer.lease.deadline == current_time() + 10
        tg.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_a_late_waiter_whose_item_went_to_another_is_served_next(timed: Queue) -> None:
    late, other, last = Consumer(timed), Consumer(timed), Consumer(timed)
    async with create_task_group() as tg:
        await tg.start(timed.run)
        for number, consumer in enumerate((late, other, last), start=1):
            tg.start_soon(consumer)
            await until(timed, getters=number)
        timed.put_nowait("a", 1)
        block(11)
        await advance(0)
        assert late.keys + other.keys == ["a"]
        timed.put_nowait("b", 1)
        await advance(0)
        assert sorted(late.keys + other.keys) == ["a", "b"]
        assert last.keys == []
        tg.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_an_item_that_a_late_waiter_leaves_goes_to_who_waits_for_it(timed: Queue) -> None:
    late, taker = Consumer(timed), Consumer(timed, "a")
    timed.put_nowait("b", 1)
    async with create_task_group() as tg:
        await tg.start(timed.run)
        _, _, lease = await timed.get(lease_timeout=None)
        await have_the_timekeeper_look_late(timed)
        tg.start_soon(late)
        await until(timed, getters=1)
        tg.start_soon(taker)
        await checkpoint()
        # In one tick "a" is on its way to one who will be late, another comes to wait for it, and
        # "b" is back, which was handed out before "a" and so is what the late one finds.
        timed.put_nowait("a", 1)
        await timed._give_back(lease)
        block(11)
        await advance(0)
        assert {*late.keys, *taker.keys} >= {"a", "b"}
        tg.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_an_item_that_a_late_waiter_may_not_have_again_goes_to_the_next(
    queue: Queue,
) -> None:
    late, other = Consumer(queue), Consumer(queue)
    timekeeper = CancelScope()

    async def run() -> None:
        with timekeeper:
            await queue.run()

    async def consume_late() -> None:
        await late(lease_timeout=10)

    async with create_task_group() as tg:
        tg.start_soon(run)
        await advance(0)
        tg.start_soon(consume_late)
        await until(queue, getters=1)
        tg.start_soon(other)
        await until(queue, getters=2)
        timekeeper.cancel()
        queue.put_nowait("a", 1)
        block(11)
        await advance(0)
        assert late.keys + other.keys == ["a"]
        tg.cancel_scope.cancel()
    assert late.keys == ["a"] or isinstance(late.error, TimekeeperNotRunningError)


@pytest.mark.virtual_time
async def test_items_that_expire_at_once_go_to_those_who_wait_for_them(timed: Queue) -> None:
    taker, getter = Consumer(timed, "a"), Consumer(timed)
    timed.put_nowait("a", 1)
    timed.put_nowait("b", 1)
    async with create_task_group() as tg:
        await tg.start(timed.run)
        await timed.take("a", lease_timeout=3)
        await timed.take("b", lease_timeout=2)
        tg.start_soon(getter)
        await until(timed, getters=1)
        tg.start_soon(taker)
        await until(timed, takers=1)
        block(4)
        await advance(0)
        assert (taker.error, taker.keys, getter.keys) == (None, ["a"], ["b"])
        tg.cancel_scope.cancel()
