"""Cancellation at every step of each operation that waits: no item is lost or doubled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import Engine, Queue, in_line, left_in, sweep

from leaseq.testing import Operation, Scenario

pytestmark = pytest.mark.anyio

Consumer = Callable[[Queue, list[str]], Awaitable[object]]


async def get(queue: Queue, done: list[str]) -> None:
    key, _, lease = await queue.get()
    done.append(key)
    await queue.ack(lease)


async def get_in_time(queue: Queue, done: list[str]) -> None:
    key, _, lease = await queue.get(timeout=3600)
    done.append(key)
    await queue.ack(lease)


async def take(queue: Queue, done: list[str]) -> None:
    key, _, lease = await queue.take("a")
    done.append(key)
    await queue.ack(lease)


async def lease(queue: Queue, done: list[str]) -> None:
    async with queue.lease() as lease:
        await checkpoint()
        done.append(lease.key)


async def iterate(queue: Queue, done: list[str]) -> None:
    async for lease in queue:
        async with lease:
            await checkpoint()
            done.append(lease.key)
        break


async def test_a_cancelled_get_loses_nothing(engine: Engine) -> None:
    await sweep(consumer(engine, get))


async def test_a_cancelled_get_with_a_timeout_loses_nothing(engine: Engine) -> None:
    await sweep(consumer(engine, get_in_time))


async def test_a_cancelled_take_loses_nothing(engine: Engine) -> None:
    await sweep(consumer(engine, take))


async def test_a_cancelled_body_loses_nothing(engine: Engine) -> None:
    await sweep(consumer(engine, lease))


async def test_a_cancelled_iteration_loses_nothing(engine: Engine) -> None:
    await sweep(consumer(engine, iterate))


async def test_a_cancelled_put_happened_wholly_or_not_at_all(engine: Engine) -> None:
    await sweep(producer(engine))


@pytest.mark.needs("cancelled_puts")
async def test_a_put_that_was_cancelled_did_not_happen(engine: Engine) -> None:
    await sweep(producer(engine, certain=True))


def consumer(engine: Engine, consume: Consumer) -> Scenario:
    """One item that comes while a consumer waits for it."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: list[str] = []
        queue = await engine.queue()

        async def produce() -> None:
            for _ in range(4):
                await checkpoint()
            await queue.put("a", 1)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            async with create_task_group() as producers:
                producers.start_soon(produce)
                yield lambda: consume(queue, done)
            assert done + await left_in(queue) == ["a"]
            tg.cancel_scope.cancel()

    def fresh() -> AbstractAsyncContextManager[Operation]:
        return scenario()

    return fresh


def producer(engine: Engine, *, certain: bool = False) -> Scenario:
    """A producer of two items, which are both there if it says so; and if certain, only then."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        returned = False
        queue = await engine.queue()

        async def put() -> None:
            nonlocal returned
            await queue.put_many([("a", 1), ("b", 1)])
            returned = True

        async with create_task_group() as tg:
            await tg.start(queue.run)
            yield put
            left = await in_line(queue)
            assert left in ([], ["a", "b"])
            assert left or not returned
            assert returned or not certain or not left
            tg.cancel_scope.cancel()

    def fresh() -> AbstractAsyncContextManager[Operation]:
        return scenario()

    return fresh
