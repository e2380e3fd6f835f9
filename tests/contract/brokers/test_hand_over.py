"""A pipeline: an item that leaves one queue is in the next, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import BrokerEngine, left_in, sweep

from leaseq import Broker, LeasedQueue
from leaseq.testing import Operation, Scenario

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

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


async def test_a_cancelled_hand_over_loses_and_doubles_nothing(engine: BrokerEngine) -> None:
    await sweep(pipeline(engine, hand_over_inside))


async def test_nor_with_the_transaction_around_the_body(engine: BrokerEngine) -> None:
    await sweep(pipeline(engine, hand_over_around))


@pytest.mark.needs("owned")
async def test_an_item_is_in_one_queue_at_every_step(broker: Broker) -> None:
    source, target = [await broker.queue(name) for name in ("source", "target")]
    over = False
    places: Counter[tuple[bool, bool]] = Counter()

    async def look_on() -> None:
        while not over:
            states = [await queue.state("a") for queue in (source, target)]
            places[states[0] != "absent", states[1] != "absent"] += 1
            await checkpoint()

    await source.put("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(look_on)
        await checkpoint()
        await hand_over_inside(broker, source, target)
        await hand_over_around(broker, target, source)
        await hand_over_inside(broker, source, target)
        over = True
    assert places.keys() <= {(True, False), (False, True)}


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
