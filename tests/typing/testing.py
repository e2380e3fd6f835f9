"""What a type checker makes of the sweep and the contract suite."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Unpack, assert_type

from leaseq import LeasedKeyQueue, LeasedQueue
from leaseq.testing import Operation, Scenario, cancel_sweep, contract


class Memory:
    async def queue(self, **options: Unpack[contract.QueueOptions]) -> LeasedQueue[str, object]:
        return LeasedKeyQueue(**options)

    async def advance(self, seconds: float) -> None: ...


class Standstill:
    async def queue(self, **options: Unpack[contract.QueueOptions]) -> LeasedQueue[str, object]:
        return LeasedKeyQueue(**options)


engine: contract.Engine = Memory()
no_engine: contract.Engine = Standstill()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@asynccontextmanager
async def one_consumer() -> AsyncGenerator[Operation]:
    queue: LeasedKeyQueue[str, int] = LeasedKeyQueue()
    yield queue.get


async def sweep() -> None:
    scenario: Scenario = one_consumer
    assert_type(await cancel_sweep(scenario), int)
    assert_type(await cancel_sweep(one_consumer, native=True, limit=100), int)
    await cancel_sweep(one_consumer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
