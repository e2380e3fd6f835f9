"""What a type checker makes of the sweep."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

from leaseq import LeasedKeyQueue
from leaseq.testing import Operation, Scenario, cancel_sweep


@asynccontextmanager
async def one_consumer() -> AsyncGenerator[Operation]:
    queue: LeasedKeyQueue[str, int] = LeasedKeyQueue()
    yield queue.get


async def sweep() -> None:
    scenario: Scenario = one_consumer
    assert_type(await cancel_sweep(scenario), int)
    assert_type(await cancel_sweep(one_consumer, native=True, limit=100), int)
    await cancel_sweep(one_consumer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
