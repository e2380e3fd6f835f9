"""The cancel sweep over all that waits: what was put is what was done plus what is left."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from leaseq import LeasedKeyQueue, LeaseLostError, QueueClosedError
from leaseq._memory.engine import Engine
from leaseq.testing import Operation, Scenario, cancel_sweep

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]
Done = list[str]
Consumer = Callable[[Queue, Done], Awaitable[object]]


class ForgetfulEngine(Engine[str, int]):
    __slots__ = ()

    def _leave_line(self, waiter: Any) -> None:
        if waiter.item is None:
            self.waiters.drop(waiter)


class ForgetfulQueue(LeasedKeyQueue[str, int]):
    """A queue that does not take back what it has handed to a waiter that is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self._engine.__class__ = ForgetfulEngine


# What consumers do


async def get(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get()
    done.append(key)
    queue.ack_nowait(lease)


async def get_with_timeout(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.get(timeout=3600)
    done.append(key)
    queue.ack_nowait(lease)


async def take(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.take("a")
    done.append(key)
    queue.ack_nowait(lease)


async def take_with_timeout(queue: Queue, done: Done) -> None:
    key, _, lease = await queue.take("a", timeout=3600)
    done.append(key)
    queue.ack_nowait(lease)


async def lease_next(queue: Queue, done: Done) -> None:
    async with queue.lease() as lease:
        await checkpoint()
        await checkpoint()
        done.append(lease.key)


async def lease_key(queue: Queue, done: Done) -> None:
    async with queue.lease(key="a") as lease:
        await checkpoint()
        done.append(lease.key)


async def lease_with_timeout(queue: Queue, done: Done) -> None:
    async with queue.lease(timeout=3600) as lease:
        await checkpoint()
        done.append(lease.key)


async def get_then_lease(queue: Queue, done: Done) -> None:
    _, _, lease = await queue.get()
    async with lease:
        await checkpoint()
        done.append(lease.key)


async def iterate(queue: Queue, done: Done) -> None:
    async for lease in queue:
        async with lease:
            await checkpoint()
            done.append(lease.key)
        if len(done) == 2:
            break


each_consumer = pytest.mark.parametrize(
    "consume",
    [get, get_with_timeout, take, take_with_timeout, lease_next, lease_key, lease_with_timeout,
     get_then_lease, iterate],
)  # fmt: skip
each_that_waits = pytest.mark.parametrize(
    "consume",
    [get, get_with_timeout, take, take_with_timeout, lease_next, lease_key, lease_with_timeout],
)


# The account


def check(queue: Queue, done: Done, put: list[str]) -> None:
    left = [key for key, _ in queue.drain_nowait()]
    assert sorted(done + left) == sorted(put)
    assert repr(queue).endswith("0 ready, 0 leased>")


async def others_run() -> None:
    """Let consumers come to wait."""
    for _ in range(4):
        await checkpoint()


def one_consumer(queue_type: type[Queue], consume: Consumer, **options: float) -> Scenario:
    """Two items come, one after the other, while a consumer waits."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = queue_type()

        async def produce() -> None:
            await others_run()
            await queue.put("a", 1)
            await queue.put("b", 1)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            yield lambda: consume(queue, done)
        check(queue, done, ["a", "b"])

    return scenario


@each_consumer
async def test_a_cancelled_consumer_loses_and_doubles_nothing(
    consume: Consumer, native: bool
) -> None:
    assert await cancel_sweep(one_consumer(Queue, consume), native=native) > 3


@each_that_waits
async def test_the_sweep_catches_a_queue_without_the_roll_back(
    consume: Consumer, native: bool
) -> None:
    with pytest.raises(AssertionError):
        await cancel_sweep(one_consumer(ForgetfulQueue, consume), native=native)


@each_consumer
async def test_what_a_cancelled_consumer_leaves_goes_to_those_who_wait(
    consume: Consumer, native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()

        async def produce() -> None:
            await others_run()
            await queue.put("a", 1)
            await queue.put("b", 1)
            await others_run()
            await queue.shutdown()

        async def consume_the_rest() -> None:
            with suppress(QueueClosedError):
                while True:
                    await lease_next(queue, done)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            yield lambda: consume_or_be_late(queue, done)
            tg.start_soon(consume_the_rest)
        check(queue, done, ["a", "b"])
        assert sorted(done) == ["a", "b"]

    async def consume_or_be_late(queue: Queue, done: Done) -> None:
        with suppress(QueueClosedError):
            await consume(queue, done)

    assert await cancel_sweep(scenario, native=native) > 3


async def test_of_many_consumers_a_cancelled_one_takes_nothing_from_the_others(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()

        async def produce() -> None:
            await others_run()
            await queue.put("a", 1)
            await checkpoint()
            await queue.put_many({"b": 1, "c": 1})
            await queue.shutdown()

        async def work() -> None:
            async for lease in queue:
                async with lease:
                    await checkpoint()
                    done.append(lease.key)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            for _ in range(2):
                tg.start_soon(work)
            yield lambda: lease_next(queue, done)
        check(queue, [], [])
        assert sorted(done) == ["a", "b", "c"]

    assert await cancel_sweep(scenario, native=native) > 3


async def test_a_consumer_cancelled_while_its_item_is_released_loses_nothing(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()
        queue.put_nowait("a", 1)

        async def hold_and_fail() -> None:
            with suppress(KeyError):
                async with queue.lease():
                    await others_run()
                    raise KeyError

        async with create_task_group() as tg:
            tg.start_soon(hold_and_fail)
            await checkpoint()
            await checkpoint()
            yield lambda: lease_key(queue, done)
        check(queue, done, ["a"])

    assert await cancel_sweep(scenario, native=native) > 3


async def test_a_consumer_cancelled_while_its_queue_is_closed_loses_nothing(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()

        async def produce_and_close() -> None:
            await others_run()
            await queue.put("a", 1)
            await checkpoint()
            await queue.close()

        async def consume() -> None:
            with suppress(QueueClosedError, LeaseLostError):
                await lease_next(queue, done)

        async with create_task_group() as tg:
            tg.start_soon(produce_and_close)
            yield consume
        check(queue, done, ["a"])

    assert await cancel_sweep(scenario, native=native) > 3


@pytest.mark.parametrize("fast_acquire", [False, True])
async def test_a_cancelled_producer_has_put_all_or_nothing(
    fast_acquire: bool, native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        put: list[str] = []
        done: Done = []
        queue = Queue(fast_acquire=fast_acquire)

        async def produce() -> None:
            await checkpoint()
            await queue.put("a", 1)
            put.append("a")
            await queue.put_many({"b": 1, "c": 1})
            put.extend("bc")
            put.append(await queue.add(1))

        async with create_task_group() as tg:
            tg.start_soon(lease_next, queue, done)
            yield produce
            await others_run()
            tg.cancel_scope.cancel()
        check(queue, done, put)

    assert await cancel_sweep(scenario, native=native) > 1


async def test_a_cancelled_join_leaves_the_others_who_join(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()
        queue.put_nowait("a", 1)

        async with create_task_group() as tg:
            tg.start_soon(queue.join)
            tg.start_soon(lease_next, queue, done)
            yield queue.join
        check(queue, done, ["a"])

    assert await cancel_sweep(scenario, native=native) > 3


@pytest.mark.virtual_time
async def test_a_body_cancelled_while_its_lease_expires_loses_nothing(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue(default_lease_timeout=10)
        queue.put_nowait("a", 1)

        async def consume() -> None:
            with suppress(LeaseLostError):
                async with queue.lease() as lease:
                    await anyio.sleep(10 if lease.deliveries == 1 else 0)
                    done.append("body")

        async def work() -> None:
            await anyio.sleep(5)
            async with queue.lease() as lease:
                done.append(lease.key)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            tg.start_soon(work)
            yield consume
            await queue.join()
            tg.cancel_scope.cancel()
        assert done.count("a") == 1
        check(queue, [], [])

    assert await cancel_sweep(scenario, native=native) > 3


@pytest.mark.virtual_time
async def test_a_timekeeper_can_be_started_again_wherever_it_was_cancelled(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: Done = []
        queue = Queue()
        queue.put_nowait("a", 1)

        async def run_for_a_while() -> None:
            with anyio.move_on_after(10):
                await queue.run()

        async with create_task_group() as tg:
            yield run_for_a_while
            await tg.start(queue.run)
            await queue.get(lease_timeout=10)
            await lease_next(queue, done)
            tg.cancel_scope.cancel()
        check(queue, done, ["a"])

    assert await cancel_sweep(scenario, native=native) > 0
