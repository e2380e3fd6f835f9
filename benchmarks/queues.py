"""leaseq's queue and leasedkeyq's, opened the same way, so that one subject can measure either."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import anyio
from leasedkeyq import LeasedKeyQueue as LeasedKeyQ  # type: ignore[import-untyped]

from leaseq import LeasedKeyQueue

Q_co = TypeVar("Q_co", covariant=True)

#: Opens a queue for one measurement; what is varied is bound to it by `functools.partial`.
Opening: TypeAlias = Callable[[], AbstractAsyncContextManager[Q_co]]


class KeyedQueue(Protocol):
    """The calls that the two queues have in common."""

    async def put(self, key: int, value: int) -> object: ...
    async def get(self, *, lease_timeout: float | None = ...) -> tuple[int, int, Any]: ...
    async def take(self, key: int) -> tuple[int, int, Any]: ...
    async def ack(self, lease: Any) -> object: ...


@asynccontextmanager
async def leaseq(
    lease_timeout: float | None = None, *, fast_acquire: bool = False
) -> AsyncIterator[LeasedKeyQueue[int, int]]:
    """leaseq's queue, with its timekeeper running."""
    async with (
        anyio.create_task_group() as tg,
        LeasedKeyQueue[int, int](
            default_lease_timeout=lease_timeout, fast_acquire=fast_acquire
        ) as queue,
    ):
        await tg.start(queue.run)
        yield queue


@asynccontextmanager
async def timeless() -> AsyncIterator[LeasedKeyQueue[int, int]]:
    """leaseq's queue for those who need no time to pass: no timekeeper runs."""
    async with LeasedKeyQueue[int, int]() as queue:
        yield queue


@asynccontextmanager
async def leasedkeyq(lease_timeout: float | None = None) -> AsyncIterator[KeyedQueue]:
    """leasedkeyq's queue, with its reaper running where leases are timed; asyncio only."""
    async with LeasedKeyQ(default_lease_timeout=lease_timeout) as queue:
        yield queue
