"""What the parts of the contract suite for brokers are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
from anyio import create_task_group

from ..._core.lease import Lease
from ...abc import Broker, LeasedQueue

__all__ = ["WINDOW", "BrokerEngine", "BrokerPart", "TwoQueues", "lease_of"]

WINDOW = 300.0
"""Seconds for which the suite's `queue` does not take a key again that is done."""


class BrokerEngine(Protocol):
    """What the suite for brokers has to be given: an engine under test."""

    async def broker(self) -> Broker:
        """A new broker without any queues, whose `run` was not started."""

    async def advance(self, seconds: float) -> None:
        """Let time pass for queues and leases, and all that falls due in it happen."""


@pytest.mark.anyio
class BrokerPart:
    """A part of the suite: its fixtures. The fixture ``engine`` is the engine's to give."""

    @pytest.fixture
    async def broker(self, engine: BrokerEngine) -> AsyncIterator[Broker]:
        """A broker whose timekeeper runs until the end of the test."""
        async with create_task_group() as tg, await engine.broker() as broker:
            await tg.start(broker.run)
            yield broker

    @pytest.fixture
    async def queue(self, broker: Broker) -> LeasedQueue[str, Any]:
        """A queue that remembers what was done: the last two items, and each key for a while."""
        return await broker.queue("orders", history=2, dedupe_for=WINDOW, dead_letters="lost")


class TwoQueues(BrokerPart):
    """A part about work that goes from one queue to another."""

    @pytest.fixture
    async def orders(self, broker: Broker) -> LeasedQueue[str, Any]:
        queue, _ = await broker.create_queue_pair("orders")
        return queue

    @pytest.fixture
    async def invoices(self, broker: Broker) -> LeasedQueue[str, Any]:
        return await broker.queue("invoices")


async def lease_of(
    queue: LeasedQueue[str, Any], key: str, value: object = None, *, consumer: str | None = None
) -> Lease[str, Any]:
    """Put a key and lease it, for ever."""
    await queue.put(key, value)
    _, _, lease = await queue.take(key, lease_timeout=None, consumer=consumer)
    return lease
