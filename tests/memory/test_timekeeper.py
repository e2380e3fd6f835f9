"""How the queue in this process lets time pass."""

import asyncio
import logging
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line

from leaseq import Backoff, Lease, LeasedKeyQueue, LeaseLostError, Retry
from leaseq._memory.engine import Engine
from leaseq.testing import advance

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

HOUR = 3600.0


class WatchedEngine(Engine[str, int]):
    """An engine that keeps the times at which its timekeeper looks for what is due."""

    def __init__(self, queue: LeasedKeyQueue[str, int], **options: Any) -> None:
        super().__init__(queue, **options)
        self.looks: list[float] = []

    def tick(self, now: float) -> None:
        self.looks.append(current_time())
        super().tick(now)


class WatchedQueue(LeasedKeyQueue[str, int]):
    """A queue on such an engine."""

    def __init__(self, *, default_lease_timeout: float | None = None) -> None:
        super().__init__()
        self._engine = WatchedEngine(self, default_lease_timeout=default_lease_timeout)
        self.looks = self._engine.looks


# When it wakes


async def test_an_idle_queue_makes_no_wake_ups() -> None:
    queue = WatchedQueue(default_lease_timeout=HOUR)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await advance(100 * HOUR)
        assert queue.looks == [0]
        tg.cancel_scope.cancel()


async def test_untimed_work_makes_no_wake_ups() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        for key in ("a", "b", "c"):
            await queue.put(key, 1)
            async with queue.lease():
                await advance(1)
        assert queue.looks == [0]
        tg.cancel_scope.cancel()


async def test_a_queue_that_waits_for_its_leases_makes_no_wake_ups() -> None:
    queue = WatchedQueue(default_lease_timeout=HOUR)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many((str(number), number) for number in range(1000))
        for _ in range(1000):
            await queue.get()
        queue.looks.clear()
        await advance(HOUR - 1)
        assert len(queue.looks) <= 1  # it has been told of the first lease
        tg.cancel_scope.cancel()


async def test_a_lease_is_looked_at_when_it_expires() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many({"a": 1, "b": 1})
        await queue.get(lease_timeout=10)
        await queue.get(lease_timeout=20)
        await advance(100)
        assert queue.looks == [0, 0, 10, 20]
        tg.cancel_scope.cancel()


async def test_an_earlier_deadline_has_the_timekeeper_wake_earlier() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many({"a": 1, "b": 1})
        await queue.get(lease_timeout=20)
        await advance(5)
        await queue.get(lease_timeout=10)
        await advance(100)
        assert queue.looks == [0, 0, 5, 15, 20]
        tg.cancel_scope.cancel()


async def test_a_lease_cut_short_has_the_timekeeper_wake_earlier() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        _, _, lease = await queue.get(lease_timeout=20)
        await advance(5)
        await queue.extend(lease, 1)
        await advance(100)
        assert queue.looks == [0, 0, 5, 6]
        tg.cancel_scope.cancel()


async def test_acked_leases_make_one_wake_up_for_many() -> None:
    queue = WatchedQueue(default_lease_timeout=HOUR)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        for number in range(1000):
            await queue.put(str(number), number)
            _, _, lease = await queue.get()
            await queue.ack(lease)
        await advance(10 * HOUR)
        assert len(queue.looks) <= 3
        tg.cancel_scope.cancel()


# What is due


async def test_expired_leases_are_handled_in_slices_between_which_others_run() -> None:
    seen = [0]
    queue = LeasedKeyQueue[str, int](default_lease_timeout=HOUR)

    async def look() -> None:
        await anyio.sleep_until(HOUR)
        while seen[-1] < 2000:
            await checkpoint()
            seen.append((await queue.statistics()).expired)

    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many((str(number), number) for number in range(2000))
        for _ in range(2000):
            queue.get_nowait()
        await look()
        assert max(after - before for before, after in pairwise(seen)) <= 500
        tg.cancel_scope.cancel()


async def test_an_expiry_is_logged_with_key_and_token_and_without_the_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = LeasedKeyQueue[str, str](name="pages")
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("page-1", "secret")
        _, _, lease = await queue.get(lease_timeout=10)
        await advance(11)
        tg.cancel_scope.cancel()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("leaseq", logging.WARNING)
    assert record.getMessage() == (
        f"queue 'pages': the lease on 'page-1', token {lease.token}, expired"
    )


async def test_a_lease_that_expires_over_and_over_again_is_found_each_time() -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        for deliveries in range(1, 6):
            _, _, lease = await queue.get()
            assert lease.deliveries == deliveries
        assert current_time() == pytest.approx(40)
        tg.cancel_scope.cancel()


# Times that the clock cannot tell from none

TINY = [5e-324, 1e-20, 1e-9]


@pytest.mark.parametrize("seconds", TINY)
async def test_a_lease_lasts_a_millisecond_at_least(seconds: float) -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=seconds)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await anyio.sleep(10**6)  # so that a float is coarse
        await queue.put("a", 1)
        [lease] = await queue.get_batch(2)
        assert lease.deadline - current_time() == pytest.approx(0.001, rel=1e-3)
        await lease.extend(seconds)
        assert await lease.ack() is False
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", TINY)
async def test_leases_that_expire_in_a_moment_let_time_pass(seconds: float) -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=seconds)

    async def consume() -> None:
        while True:
            await queue.get()
            await anyio.sleep(1)

    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many({"a": 1, "b": 1})
        tg.start_soon(consume)
        tg.start_soon(consume)
        await advance(10)
        assert (await queue.statistics()).expired <= 22
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", TINY)
async def test_other_times_that_are_over_in_a_moment_let_time_pass(seconds: float) -> None:
    queue = LeasedKeyQueue[str, int](
        retry=Retry(backoff=Backoff(seconds)), default_lease_timeout=10
    )
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("delayed", 1, delay=seconds)
        await queue.put("mortal", 1, ttl=seconds)
        await queue.put("failed", 1)
        _, _, lease = await queue.take("failed")
        await lease.release(delay=seconds)
        _, _, lease = await queue.take("failed")
        await lease.release()
        await advance(1)
        assert sorted(await in_line(queue)) == ["delayed", "failed"]
        tg.cancel_scope.cancel()


# In one tick


@pytest.mark.parametrize("consumer_first", [True, False])
@pytest.mark.parametrize("how", ["ack", "release", "extend"])
async def test_a_lease_is_lost_at_its_deadline_whoever_runs_first(
    how: str, consumer_first: bool
) -> None:
    queue = LeasedKeyQueue[str, int]()

    async def settle(lease: Lease[str, int]) -> None:
        await anyio.sleep_until(10)
        with pytest.raises(LeaseLostError):
            if how == "ack":
                await lease.ack()
            elif how == "release":
                await lease.release()
            else:
                await lease.extend(10)

    async with create_task_group() as tg:
        await queue.put("a", 1)
        await tg.start(queue.run)
        _, _, lease = await queue.get(lease_timeout=10)
        if not consumer_first:
            await advance(0)  # the timekeeper sets its timer
        async with create_task_group() as consumers:
            consumers.start_soon(settle, lease)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_a_body_that_ends_with_its_lease_has_lost_it() -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        with pytest.raises(LeaseLostError):
            async with queue.lease():
                await anyio.sleep_until(10)
        await advance(0)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


# When it does not run


async def test_without_its_timekeeper_an_item_stays_where_it_is() -> None:
    queue = LeasedKeyQueue[str, int]()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        await queue.get(lease_timeout=10)
        tg.cancel_scope.cancel()
    await advance(11)
    assert await queue.inflight_keys() == {"a"}


async def test_without_its_timekeeper_a_body_runs_on_and_has_lost_its_lease_in_the_end() -> None:
    reached_its_end = False
    queue = LeasedKeyQueue[str, int]()
    timekeeper = CancelScope()

    async def run() -> None:
        with timekeeper:
            await queue.run()

    async with create_task_group() as tg:
        tg.start_soon(run)
        await advance(0)
        await queue.put("a", 1)
        with pytest.raises(LeaseLostError, match="expired 1 s ago"):
            async with queue.lease(lease_timeout=10):
                timekeeper.cancel()
                await advance(11)
                reached_its_end = True
    assert reached_its_end


async def test_without_its_timekeeper_an_error_of_a_late_body_goes_on() -> None:
    queue = LeasedKeyQueue[str, int]()
    timekeeper = CancelScope()

    async def run() -> None:
        with timekeeper:
            await queue.run()

    async with create_task_group() as tg:
        tg.start_soon(run)
        await advance(0)
        await queue.put("a", 1)
        with pytest.raises(KeyError):
            async with queue.lease(lease_timeout=10):
                timekeeper.cancel()
                await advance(11)
                raise KeyError


# Where it runs


@pytest.mark.only("asyncio")
async def test_the_timekeeper_runs_in_a_task_group_of_asyncio() -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    async with asyncio.TaskGroup() as tg:
        tg.create_task(queue.run())
        await checkpoint()
        await queue.put("a", 1)
        await queue.get()
        await advance(11)
        assert await in_line(queue) == ["a"]
        await queue.close()


@pytest.mark.only("asyncio")
async def test_a_timekeeper_that_was_cancelled_natively_can_be_started_again() -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    async with asyncio.TaskGroup() as tg:
        for _ in range(2):
            timekeeper = tg.create_task(queue.run())
            await checkpoint()
            await queue.put("a", 1)
            _, _, lease = await queue.get()
            await queue.ack(lease)
            timekeeper.cancel()
            await asyncio.wait([timekeeper])


@pytest.mark.only("trio")
async def test_the_timekeeper_runs_in_a_nursery() -> None:
    import trio

    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.run)
        await queue.put("a", 1)
        await queue.get()
        await advance(11)
        assert await in_line(queue) == ["a"]
        await queue.close()
