"""What the contract says of cancellation: if it raised, it did not happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio import create_task_group
from anyio.lowlevel import checkpoint, current_token

from .._sweep import Operation, Scenario, cancel_sweep
from .base import Engine, Part, Queue, in_line, left_in

__all__ = ["CancelledPuts", "Cancelling"]

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


class Cancelling(Part):
    """Each operation that waits, cancelled at each step: no item is lost or doubled."""

    async def test_a_cancelled_get_loses_nothing(self, engine: Engine) -> None:
        await sweep(consumer(engine, get))

    async def test_a_cancelled_get_with_a_timeout_loses_nothing(self, engine: Engine) -> None:
        await sweep(consumer(engine, get_in_time))

    async def test_a_cancelled_take_loses_nothing(self, engine: Engine) -> None:
        await sweep(consumer(engine, take))

    async def test_a_cancelled_body_loses_nothing(self, engine: Engine) -> None:
        await sweep(consumer(engine, lease))

    async def test_a_cancelled_iteration_loses_nothing(self, engine: Engine) -> None:
        await sweep(consumer(engine, iterate))

    async def test_a_cancelled_put_happened_wholly_or_not_at_all(self, engine: Engine) -> None:
        await sweep(producer(engine))


class CancelledPuts(Part):
    """A put that takes effect where its producer is: the producer knows whether it has."""

    async def test_a_put_that_was_cancelled_did_not_happen(self, engine: Engine) -> None:
        await sweep(producer(engine, certain=True))


async def sweep(scenario: Scenario) -> None:
    """Sweep each way in which one can cancel here."""
    on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    for native in (False, True) if on_asyncio else (False,):
        assert await cancel_sweep(scenario, native=native) > 0


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
