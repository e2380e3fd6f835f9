"""Fixtures of the tests of brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import WINDOW, BrokerEngine

from leaseq import Broker, LeasedQueue


@pytest.fixture
async def broker(engine: BrokerEngine) -> AsyncIterator[Broker]:
    """A broker whose timekeeper runs until the end of the test."""
    async with create_task_group() as tg, await engine.broker() as broker:
        await tg.start(broker.run)
        yield broker


@pytest.fixture
async def queue(broker: Broker) -> LeasedQueue[str, Any]:
    """A queue that remembers what was done: the last two items, and each key for a while."""
    return await broker.queue("orders", history=2, dedupe_for=WINDOW, dead_letters="lost")


@pytest.fixture
async def orders(broker: Broker) -> LeasedQueue[str, Any]:
    """A queue with one for its dead letters."""
    queue, _ = await broker.create_queue_pair("orders")
    return queue


@pytest.fixture
async def invoices(broker: Broker) -> LeasedQueue[str, Any]:
    """Another queue of the same broker."""
    return await broker.queue("invoices")
