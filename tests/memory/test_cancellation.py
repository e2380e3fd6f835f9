"""The cancel sweep over what waits for more than the next item: room, a tenant, a time; and deaths.

What was put is what was got plus what is left, and nothing is in two places.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint

from leaseq import (
    Backoff,
    DeadLetter,
    LeasedKeyQueue,
    LeaseLostError,
    QueueClosedError,
    Retry,
    Tenant,
)
from leaseq._rules.capacity import Capacity
from leaseq.testing import Operation, Scenario, cancel_sweep

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]
Letters = LeasedKeyQueue[str, DeadLetter[str, int]]
Done = list[str]


class LeakyRoom(Capacity[Event]):
    """Capacity that does not see that a producer which is cancelled has a place."""

    def leave(self, putter: Event) -> int:
        places = super().leave(putter)
        self._reserved += places
        return places


def check(queue: Queue, done: Done, put: Done) -> None:
    left = [key for key, _ in queue.drain_nowait()]
    assert sorted(done + left) == sorted(put)
    assert repr(queue).endswith("0 ready, 0 leased>")
    assert queue._engine.waiters._lines == {}
    if queue._engine.capacity is not None:
        assert (queue._engine.capacity.putters, queue._engine.capacity._reserved) == (0, 0)


async def others_run() -> None:
    """Let those who have to wait come to it."""
    for _ in range(4):
        await checkpoint()


async def work(queue: Queue, done: Done) -> None:
    """Do what comes, until the queue is shut down."""
    async for lease in queue:
        async with lease:
            await checkpoint()
            done.append(lease.key)


# Capacity


async def put_one(queue: Queue, put: Done) -> None:
    await queue.put("b", 1)
    put.append("b")


async def put_with_tenant(queue: Queue, put: Done) -> None:
    await queue.put("b", 1, tenant="ann", priority=5)
    put.append("b")


async def put_many(queue: Queue, put: Done) -> None:
    await queue.put_many({"b": 1, "c": 1})
    put.extend("bc")


async def put_more_than_there_is_room(queue: Queue, put: Done) -> None:
    for key in "bcd":
        await queue.put(key, 1)
        put.append(key)


def one_producer(
    produce: Callable[[Queue, Done], Awaitable[object]],
    room: type[Capacity[Event]] = Capacity,
    *,
    fast_acquire: bool = False,
) -> Scenario:
    """A queue for two is full; items are taken one by one while this and others want to put."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        put: Done = ["x", "y"]
        done: Done = []
        queue = Queue(max_size=2, fast_acquire=fast_acquire)
        queue._engine.capacity = room(2)
        queue.put_many_nowait({"x": 1, "y": 1})

        async def take_one_by_one() -> None:
            await others_run()
            for _ in range(4):
                with suppress(TimeoutError):
                    key, _, lease = await queue.get(timeout=0)
                    queue.ack_nowait(lease)
                    done.append(key)
                await checkpoint()
            await work(queue, done)

        async def put_others() -> None:
            await others_run()
            with suppress(QueueClosedError):
                await queue.put("late", 1)
                put.append("late")
                await queue.put_many({"later": 1, "last": 1})
                put.extend(["later", "last"])

        async with create_task_group() as tg:
            tg.start_soon(take_one_by_one)
            tg.start_soon(put_others)
            yield lambda: produce(queue, put)
            for _ in range(100):
                await checkpoint()
            await queue.shutdown()
            tg.cancel_scope.cancel()
        assert "last" in put
        check(queue, done, put)

    return scenario


each_producer = pytest.mark.parametrize(
    "produce", [put_one, put_with_tenant, put_many, put_more_than_there_is_room]
)


@each_producer
@pytest.mark.parametrize("fast_acquire", [False, True])
async def test_a_producer_cancelled_while_places_are_handed_over_loses_none(
    produce: Callable[[Queue, Done], Awaitable[object]], fast_acquire: bool, native: bool
) -> None:
    scenario = one_producer(produce, fast_acquire=fast_acquire)
    assert await cancel_sweep(scenario, native=native) > 3


async def test_the_sweep_catches_a_room_that_loses_places(native: bool) -> None:
    with pytest.raises(AssertionError):
        await cancel_sweep(one_producer(put_one, LeakyRoom), native=native)


async def test_a_producer_cancelled_while_its_queue_is_shut_down_has_put_nothing(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue(max_size=1)
        queue.put_nowait("a", 1)

        async def end() -> None:
            await others_run()
            queue.ack_nowait(queue.get_nowait()[2])
            await queue.shutdown()

        async def produce() -> None:
            with suppress(QueueClosedError):
                await queue.put("b", 1)
                done.append("b")

        async with create_task_group() as tg:
            tg.start_soon(end)
            yield produce
        assert done == []
        assert queue.drain_nowait() == []

    assert await cancel_sweep(scenario, native=native) > 3


# Tenants


async def get_anybodys(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get()
    done.append(key)
    queue.ack_nowait(lease)


async def get_own(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get(tenants=["ann"])
    done.append(key)
    queue.ack_nowait(lease)


async def get_own_or_steal(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get(tenants=["eve", "ann"], steal_from=["bob"])
    done.append(key)
    queue.ack_nowait(lease)


async def take_at_the_cap(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.take("ann2")
    done.append(key)
    queue.ack_nowait(lease)


async def lease_own(queue: Queue, done: Done) -> None:
    async with queue.lease(tenants=["ann", "bob"]) as lease:
        await checkpoint()
        done.append(lease.key)


@pytest.mark.parametrize(
    "consume", [get_anybodys, get_own, get_own_or_steal, take_at_the_cap, lease_own]
)
async def test_a_consumer_of_some_tenants_that_is_cancelled_loses_and_doubles_nothing(
    consume: Callable[[Queue, Done], Awaitable[object]], native: bool
) -> None:
    items = ["ann0", "ann1", "ann2", "bob0"]

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue(tenants={"ann": Tenant(max_in_flight=1)})
        queue.put_many_nowait({"ann0": 1, "ann1": 1, "ann2": 1}, tenant="ann")
        _, _, lease = queue.get_nowait()

        async def produce() -> None:
            async with lease:
                await others_run()
                done.append("ann0")
            await queue.put("bob0", 1, tenant="bob")
            await queue.shutdown()

        async def consume_or_be_late() -> None:
            with suppress(QueueClosedError):
                await consume(queue, done)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            yield consume_or_be_late
            tg.start_soon(work, queue, done)
        assert sorted(done) == items
        check(queue, done, items)
        assert queue._engine.ledger.schedule is not None
        assert {leased for _, _, leased in queue._engine.ledger.schedule} <= {0}

    assert await cancel_sweep(scenario, native=native) > 3


# Time


async def get_what_falls_due(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get()
    done.append(key)
    queue.ack_nowait(lease)


async def take_what_falls_due(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.take("b")
    done.append(key)
    queue.ack_nowait(lease)


async def get_within_the_delay(queue: Queue, done: Done) -> None:
    with suppress(TimeoutError):
        key, _, lease = await queue.get(timeout=10)
        done.append(key)
        queue.ack_nowait(lease)


async def lease_what_falls_due(queue: Queue, done: Done) -> None:
    async with queue.lease() as lease:
        await checkpoint()
        done.append(lease.key)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "consume",
    [get_what_falls_due, take_what_falls_due, get_within_the_delay, lease_what_falls_due],
)
async def test_a_consumer_cancelled_while_items_fall_due_loses_and_doubles_nothing(
    consume: Callable[[Queue, Done], Awaitable[object]], native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put_many({"a": 1, "b": 1}, delay=10)
            yield lambda: consume(queue, done)
            tg.start_soon(work, queue, done)
            await queue.shutdown()
        assert sorted(done) == ["a", "b"]
        check(queue, done, ["a", "b"])

    assert await cancel_sweep(scenario, native=native) > 3


@pytest.mark.virtual_time
async def test_a_body_cancelled_while_its_item_rests_and_comes_back_loses_nothing(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue(retry=Retry(backoff=Backoff(10, seed=1)))

        async def fail_and_try_again() -> None:
            with suppress(KeyError):
                async with queue.lease():
                    await checkpoint()
                    raise KeyError
            await lease_what_falls_due(queue, done)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put("a", 1)
            yield fail_and_try_again
            tg.start_soon(work, queue, done)
            await queue.shutdown()
        assert done == ["a"]
        check(queue, done, ["a"])

    assert await cancel_sweep(scenario, native=native) > 3


# Deaths


async def fail(queue: Queue) -> None:
    with suppress(KeyError):
        async with queue.lease():
            await checkpoint()
            raise KeyError


async def reject(queue: Queue) -> None:
    async with queue.lease() as lease:
        await checkpoint()
        await lease.reject("unreadable")
        await checkpoint()


async def release(queue: Queue) -> None:
    _, _, lease = await queue.get()
    await lease.release()


@pytest.mark.parametrize("die", [fail, reject, release])
async def test_an_item_whose_consumer_is_cancelled_as_it_dies_is_in_one_place(
    die: Callable[[Queue], Awaitable[object]], native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        letters = Letters()
        queue = Queue(dead_letters=letters, retry=Retry(max_deliveries=1), name="pages")
        read: Done = []
        leases: list[object] = []

        async def produce() -> None:
            await others_run()
            await queue.put("a", 1)

        async def die_by_hand() -> None:
            try:
                await die(queue)
            finally:
                leases.extend(await queue.inflight_keys())

        async def read_letters() -> None:
            async for lease in letters:
                async with lease:
                    await checkpoint()
                    read.append(lease.value.key)

        async with create_task_group() as tg:
            tg.start_soon(read_letters)
            async with create_task_group() as producers:
                producers.start_soon(produce)
                yield die_by_hand
            await letters.shutdown()
        check(queue, read, ["a"])
        assert leases == []
        assert (await queue.statistics()).dead == len(read)

    assert await cancel_sweep(scenario, native=native) > 3


async def test_a_reader_of_letters_that_is_cancelled_as_one_comes_loses_none(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        letters = Letters()
        queue = Queue(dead_letters=letters, name="pages")
        read: Done = []

        async def die_and_come_back() -> None:
            await others_run()
            for key in "ab":
                queue.put_nowait(key, 1)
                _, _, lease = queue.get_nowait()
                await lease.reject("unreadable")
            await checkpoint()
            await queue.redrive()

        async def read_one() -> None:
            async with letters.lease() as lease:
                await checkpoint()
                read.append(lease.value.key)

        async with create_task_group() as tg:
            tg.start_soon(die_and_come_back)
            yield read_one
        assert (await letters.statistics()).leased == 0
        left = [letter.key for _, letter in letters.drain_nowait()]
        check(queue, read + left, ["a", "b"])

    assert await cancel_sweep(scenario, native=native) > 3


@pytest.mark.virtual_time
async def test_an_item_whose_last_lease_expires_as_its_body_is_cancelled_is_in_one_place(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        letters = Letters()
        queue = Queue(
            dead_letters=letters,
            retry=Retry(max_deliveries=1),
            default_lease_timeout=10,
            name="pages",
        )
        done: Done = []

        async def consume() -> None:
            with suppress(LeaseLostError):
                async with queue.lease() as lease:
                    await anyio.sleep(10)
                    done.append(lease.key)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put("a", 1)
            yield consume
            await anyio.sleep(20)
            tg.cancel_scope.cancel()
        left = [letter.key for _, letter in letters.drain_nowait()]
        assert (await queue.statistics()).acked == 0
        check(queue, left, ["a"])

    assert await cancel_sweep(scenario, native=native) > 3
