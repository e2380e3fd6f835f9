"""What the contract says of a pipeline: what leaves one queue is in the next, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from ...abc import Broker, LeasedQueue
from .._sweep import Operation, Scenario
from .base import left_in
from .broker_base import BrokerEngine, BrokerPart
from .cancelling import sweep

__all__ = ["HandingOver"]

AnyQueue = LeasedQueue[str, Any]


async def hand_over_inside(broker: Broker, source: AnyQueue, target: AnyQueue) -> None:
    async with source.lease() as lease:
        await checkpoint()
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(target, lease.key, lease.value)
            await checkpoint()


async def hand_over_around(broker: Broker, source: AnyQueue, target: AnyQueue) -> None:
    async with broker.transaction() as tx:
        async with source.lease() as lease:
            await checkpoint()
            tx.ack(lease)
        tx.put(target, lease.key, lease.value)
        await checkpoint()


class HandingOver(BrokerPart):
    """A consumer that hands an item on by a transaction, and who looks on."""

    async def test_a_cancelled_hand_over_loses_and_doubles_nothing(
        self, engine: BrokerEngine
    ) -> None:
        await sweep(pipeline(engine, hand_over_inside))

    async def test_nor_with_the_transaction_around_the_body(self, engine: BrokerEngine) -> None:
        await sweep(pipeline(engine, hand_over_around))


def pipeline(engine: BrokerEngine, hand_over: Any) -> Scenario:
    """One item that comes while somebody waits to hand it over."""

    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        async with create_task_group() as tg, await engine.broker() as broker:
            await tg.start(broker.run)
            source, target = [await broker.queue(name) for name in ("source", "target")]

            async def produce() -> None:
                for _ in range(4):
                    await checkpoint()
                await source.put("a", 1)

            async with create_task_group() as producers:
                producers.start_soon(produce)
                yield lambda: hand_over(broker, source, target)
            assert await left_in(source) + await left_in(target) == ["a"]

    def fresh() -> AbstractAsyncContextManager[Operation]:
        return scenario()

    return fresh
