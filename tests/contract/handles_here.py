"""An engine of handles on one queue that only look as if they were in two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Unpack, cast

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus
from tests.contract.helpers import QueueOptions

from leaseq import InvalidLeaseError, Lease, LeasedKeyQueue, LeasedQueue, QueueClosedError
from leaseq._core.loop import Home
from leaseq._memory.timekeeper import Timekeeper
from leaseq.testing import advance


class Handle:
    """One of two handles on a queue of this process, each of which ends by itself."""

    lease = LeasedQueue.lease
    __aiter__ = LeasedQueue.__aiter__

    def __init__(self, queue: LeasedKeyQueue[str, Any], handles: list[Handle]) -> None:
        handles.append(self)
        self.closed = self.shut_down = False
        self._shared = queue
        self._handles = handles
        self._home = Home()
        self._keeper: Timekeeper | None = None
        self._waits: dict[CancelScope, str] = {}
        self._held: set[Lease[str, Any]] = set()
        self._found: dict[Lease[str, Any], Lease[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    @property
    def over(self) -> bool:
        return self.closed or (self.shut_down and self._shared._engine.ledger.drained)

    def end_if_over(self) -> None:
        if self.over:
            for scope in [*self._waits]:
                scope.cancel()
            if self._keeper is not None:
                self._keeper.ring()

    def _check(self, refused: bool) -> None:
        if refused:
            drained = self._shared._engine.ledger.drained
            raise QueueClosedError(f"{self!r}: closed, shut down or drained", drained=drained)

    @asynccontextmanager
    async def _waiting(self, kind: str) -> AsyncIterator[None]:
        with CancelScope() as scope:
            self._waits[scope] = kind
            try:
                yield
            finally:
                del self._waits[scope]
        self._check(scope.cancelled_caught)

    # Producers and consumers

    async def put(self, *args: Any, **options: Any) -> Any:
        self._check(self.shut_down)
        async with self._waiting("putters"):
            return await self._shared.put(*args, **options)

    async def put_many(self, *args: Any, **options: Any) -> Any:
        self._check(self.shut_down)
        async with self._waiting("putters"):
            return await self._shared.put_many(*args, **options)

    async def get(self, timeout: float | None = None, **options: Any) -> Any:
        return await self._claim("getters", self._shared.get, timeout, options)

    async def take(self, key: str, timeout: float | None = None, **options: Any) -> Any:
        return await self._claim("takers", self._shared.take, timeout, {"key": key, **options})

    async def _claim(self, kind: str, call: Any, timeout: float | None, options: Any) -> Any:
        self._check(self.over)
        async with self._waiting(kind):
            key, value, lease = await call(timeout=timeout, **options)
        lease._queue = self
        self._held.add(lease)
        return key, value, lease

    async def statistics(self, *, tenants: bool = False) -> Any:
        kinds = list(self._waits.values())
        return replace(
            await self._shared.statistics(tenants=tenants),
            getters=kinds.count("getters"),
            takers=kinds.count("takers"),
            putters=kinds.count("putters"),
        )

    # Settling

    async def _settle(self, call: Any, lease: Lease[str, Any], *args: Any, **options: Any) -> Any:
        of: object = lease.queue
        if of is not self:
            raise InvalidLeaseError(f"{lease!r} is another queue's")
        self._check(self.closed)
        held = self._found.get(lease, lease)
        mine, held._queue = held.queue, self._shared
        try:
            return await call(held, *args, **options)
        finally:
            held._queue = mine
            lease._ended = held.ended
            for handle in self._handles:
                handle.end_if_over()

    async def ack(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared.ack, *args, **options)

    async def release(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared.release, *args, **options)

    async def reject(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared.reject, *args, **options)

    async def extend(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared.extend, *args, **options)

    async def _fail(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared._fail, *args, **options)

    async def _give_back(self, *args: Any, **options: Any) -> Any:
        return await self._settle(self._shared._give_back, *args, **options)

    async def lease_of(self, receipt: str) -> Any:
        held = await self._shared.lease_of(receipt)
        lease: Lease[str, Any] = Lease(cast("Any", self), held.key, held.value)
        lease._token = held.token
        self._found[lease] = held
        return lease

    # Pauses

    async def pause(self, *args: Any, **options: Any) -> None:
        self._check(self.closed)
        await self._shared.pause(*args, **options)

    async def resume(self, *args: Any, **options: Any) -> bool:
        self._check(self.closed)
        return await self._shared.resume(*args, **options)

    # The end

    async def shutdown(self) -> None:
        self.shut_down = True
        for scope, kind in [*self._waits.items()]:
            if kind == "putters":
                scope.cancel()
        self.end_if_over()

    async def close(self) -> None:
        for lease in self._held:
            if lease.ended is None:
                await self._give_back(lease)
                lease._ended = "lost"
                lease._lose("closed")
            else:
                self._shared._wind_up(lease)  # if it was cancelled
        self.closed = self.shut_down = True
        self.end_if_over()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        self._keeper = Timekeeper(self._home)
        try:
            await self._keeper.keep(lambda: [self._shared._engine], lambda: self.over, task_status)
        finally:
            self._keeper = None


class HandlesHere:
    """Makes pairs of handles on queues of this process, to hold the suite itself to its word."""

    async def queue(self, **options: Unpack[QueueOptions]) -> LeasedKeyQueue[str, object]:
        return LeasedKeyQueue(**options)

    async def handles(self, **options: Unpack[QueueOptions]) -> tuple[Handle, Handle]:
        queue = await self.queue(**options)
        handles: list[Handle] = []
        return Handle(queue, handles), Handle(queue, handles)

    async def advance(self, seconds: float) -> None:
        await advance(seconds)
