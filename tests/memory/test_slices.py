"""Many consumers that are woken by one call: a slice at a time, each by one before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import product

import pytest
from anyio import WouldBlock, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until
from tests.memory.test_hand_over import Consumer, Queue

import leaseq._memory.engine
from leaseq import LeasedKeyQueue, QueueClosedError
from leaseq.testing import advance

pytestmark = pytest.mark.anyio

KEYS = "abcde"
PAIRS = [(key, 1) for key in KEYS]


@pytest.fixture(params=[1, 2])
def slice_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of consumers that are woken in one go: a few."""
    size: int = request.param
    monkeypatch.setattr(leaseq._memory.engine, "_WOKEN", size)
    return size


@pytest.fixture
def queue() -> Queue:
    return LeasedKeyQueue()


@asynccontextmanager
async def consumers_of(queue: Queue, *, native: bool = False) -> AsyncIterator[list[Consumer]]:
    """Have a consumer wait for each key, one after the other."""
    consumers = [Consumer(queue, native=native) for _ in KEYS]
    async with create_task_group() as tg:
        for number, consumer in enumerate(consumers, start=1):
            tg.start_soon(consumer)
            await until(queue, getters=number)
        yield consumers


async def test_all_are_woken_and_each_has_its_item(queue: Queue, slice_size: int) -> None:
    async with consumers_of(queue) as consumers:
        await queue.put_many(PAIRS)
        with pytest.raises(WouldBlock):
            queue.get_nowait()
        await checkpoint()
        assert sum(consumer.lease is not None for consumer in consumers) <= 2 * slice_size
    assert [consumer.keys for consumer in consumers] == [[key] for key in KEYS]


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.usefixtures("slice_size")
async def test_whoever_is_cancelled_the_others_are_woken(native: bool, steps: int) -> None:
    for cancelled in product([False, True], repeat=len(KEYS)):
        queue: Queue = LeasedKeyQueue()
        async with consumers_of(queue, native=native) as consumers:
            queue.put_many_nowait(PAIRS)
            for _ in range(steps):
                await checkpoint()
            for consumer, is_cancelled in zip(consumers, cancelled, strict=True):
                if is_cancelled:
                    consumer.cancel()
        got = [key for consumer in consumers for key in consumer.keys]
        assert sorted(got + await in_line(queue)) == list(KEYS)
        for consumer, is_cancelled in zip(consumers, cancelled, strict=True):
            assert is_cancelled or consumer.lease is not None


@pytest.mark.usefixtures("slice_size")
async def test_what_one_of_them_gives_back_goes_to_the_next_who_waits(
    queue: Queue, native: bool
) -> None:
    last = Consumer(queue)
    async with create_task_group() as tg, consumers_of(queue, native=native) as consumers:
        tg.start_soon(last)
        await until(queue, getters=6)
        queue.put_many_nowait(PAIRS)
        consumers[-1].cancel()
    got = [key for consumer in (*consumers, last) for key in consumer.keys]
    assert sorted(got + await in_line(queue)) == list(KEYS)
    assert last.keys or consumers[-1].keys
    assert await in_line(queue) == []


@pytest.mark.usefixtures("slice_size")
async def test_closing_the_queue_wakes_those_that_are_yet_to_be_woken(queue: Queue) -> None:
    async with consumers_of(queue) as consumers:
        queue.put_many_nowait(PAIRS)
        await queue.close()
    assert all(isinstance(consumer.error, QueueClosedError) for consumer in consumers)
    assert [key for key, _ in queue.drain_nowait()] == list(KEYS)


@pytest.mark.usefixtures("slice_size")
async def test_all_that_wait_are_woken_when_the_queue_is_closed(queue: Queue) -> None:
    async with consumers_of(queue) as consumers:
        await queue.close()
    assert all(isinstance(consumer.error, QueueClosedError) for consumer in consumers)


@pytest.mark.virtual_time
@pytest.mark.usefixtures("slice_size")
async def test_a_lease_expires_in_time_although_its_consumer_was_woken_later(queue: Queue) -> None:
    lengths = [100.0, 100.0, 100.0, 1.0]
    consumers = [Consumer(queue) for _ in lengths]

    async def consume(consumer: Consumer, length: float) -> None:
        with suppress(QueueClosedError):
            await consumer(lease_timeout=length)

    async with create_task_group() as tg:
        await tg.start(queue.run)
        for number, (consumer, length) in enumerate(zip(consumers, lengths, strict=True), 1):
            tg.start_soon(consume, consumer, length)
            await until(queue, getters=number)
        await queue.put_many(PAIRS[:4])
        await wait_all_tasks_blocked()
        await advance(2)
        leases = [consumer.lease for consumer in consumers]
        assert [lease is not None and lease.ended for lease in leases] == [None] * 3 + ["lost"]
        tg.cancel_scope.cancel()
