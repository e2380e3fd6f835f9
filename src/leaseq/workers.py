"""The workers of a pool, and what happens beside them: heartbeats, and the end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, TypeAlias, TypeVar

from anyio import (
    CancelScope,
    Event,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    sleep,
)
from anyio.abc import TaskStatus

from ._loop import is_failure
from .errors import InvalidLeaseError, QueueClosedError
from .lease import Lease
from .values import lease_seconds, wait_seconds

__all__ = ["Pool", "Worker", "is_mere_failure"]

K = TypeVar("K")
V = TypeVar("V")

_Leases: TypeAlias = Sequence[Lease[Any, Any]]

logger = logging.getLogger("leaseq")


def is_mere_failure(error: BaseException) -> bool:
    """Whether an error is a failure, and nothing beside it is to end more than a handler."""
    if isinstance(error, BaseExceptionGroup):
        _, beside = error.split((Exception, get_cancelled_exc_class()))
        if beside is not None:
            return False
    return is_failure(error)


class Worker:
    """One worker of a pool: what it has in hand, and when its leases are to be extended."""

    __slots__ = ("_length", "_until", "beat_at", "leases", "scope")

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.leases: _Leases | None = None  # None: it waits for some
        self.beat_at = inf
        self._length = inf
        self._until = inf

    def plan(self, leases: _Leases, max_runtime: float) -> None:
        """Have leases extended, if they have an end: a third after the hand-out of the first."""
        first = min(leases, key=lambda lease: lease.deadline)
        if first.deadline == inf:
            self.beat_at = inf
            return
        now = current_time()
        self._length = first.deadline - (now if first.since is None else first.since)
        self._until = now + max_runtime
        self.beat_at = first.deadline - self._length * 2 / 3

    async def beat(self, now: float) -> None:
        """Extend what it has in hand."""
        deadline = min(now + self._length, self._until)
        self.beat_at = inf if deadline == self._until else now + self._length / 3
        for lease in self.leases or ():
            if lease.ended is None and now < lease.deadline < deadline:
                with suppress(InvalidLeaseError, QueueClosedError):  # its body is told already
                    await lease.extend(deadline - now)


class Pool:
    """Workers in a task group, and what happens beside them."""

    def __init__(
        self,
        name: str,
        limit: int,
        *,
        heartbeat: bool = False,
        max_runtime: float | None = None,
        stop: Event | None = None,
        grace: float = inf,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be 1 worker or more, not {limit!r}")
        if max_runtime is not None and not heartbeat:
            raise ValueError(
                f"max_runtime={max_runtime!r} bounds the heartbeat, and there is none: "
                "set heartbeat=True, or leave the bound to lease_timeout"
            )
        if wait_seconds("grace", grace) < inf and stop is None:
            raise ValueError(
                f"grace={grace!r} is for handlers that run when the pool is stopped, and nothing "
                "stops it: give it an event as stop"
            )
        self._name = name
        self._heartbeat = heartbeat
        self._max_runtime = lease_seconds("max_runtime", max_runtime)
        self._grace = grace
        self._stop = stop
        self._workers = [Worker() for _ in range(limit)]
        self._beat_at = inf
        self._alarm = Event()
        self._everything = CancelScope()
        self._error: BaseException | None = None

    async def run(
        self,
        claim: Callable[[], Awaitable[Sequence[Lease[K, V]]]],
        work: Callable[[Sequence[Lease[K, V]]], Awaitable[None]],
        task_status: TaskStatus[None],
    ) -> None:
        """Let the workers work until there is nothing more to do."""
        at_work = len(self._workers)

        async def run_one(worker: Worker) -> None:
            nonlocal at_work
            await self._work(worker, claim, work)
            at_work -= 1
            if not at_work:
                self._everything.cancel()  # what runs beside the workers

        async with create_task_group() as tg:
            self._everything = tg.cancel_scope
            for worker in self._workers:
                tg.start_soon(run_one, worker)
            if self._heartbeat:
                tg.start_soon(self._beat)
            if self._stop is not None:
                tg.start_soon(self._end_when, self._stop)
            task_status.started()
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:  # as itself it would pass for the cancellation of this task
            raise RuntimeError("what a callback awaited was cancelled") from self._error

    def replan(self, leases: _Leases) -> None:
        """Beat for leases by the length that they have by now. O(workers)."""
        if self._heartbeat:
            for worker in self._workers:
                if worker.leases is leases:
                    worker.plan(leases, self._max_runtime)
                    self._wake_at(worker.beat_at)

    async def _work(
        self,
        worker: Worker,
        claim: Callable[[], Awaitable[Sequence[Lease[K, V]]]],
        work: Callable[[Sequence[Lease[K, V]]], Awaitable[None]],
    ) -> None:
        try:
            with worker.scope:
                while self._stop is None or not self._stop.is_set():
                    leases = worker.leases = await claim()
                    if self._heartbeat:
                        worker.plan(leases, self._max_runtime)
                        self._wake_at(worker.beat_at)
                    await work(leases)
                    worker.leases = None
                    worker.beat_at = inf
        except BaseException as error:
            if not is_mere_failure(error):
                raise
            claiming = worker.leases is None
            if not (claiming and isinstance(error, QueueClosedError) and error.drained):
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End the pool with an error, which comes out of it as it is: no group around it."""
        if self._error is None:
            self._error = error
            self._everything.cancel()
        else:
            logger.error("queue %r: one more error ends the pool", self._name, exc_info=error)

    async def _end_when(self, stop: Event) -> None:
        await stop.wait()
        for worker in self._workers:
            if worker.leases is None:
                worker.scope.cancel()
        if self._grace < inf:
            await sleep(self._grace)
            self._everything.cancel()

    def _wake_at(self, beat_at: float) -> None:
        """Beat at a time, if nothing is planned before it."""
        if beat_at < self._beat_at:
            self._beat_at = beat_at
            self._alarm.set()

    async def _beat(self) -> None:
        """Extend the leases that are due, all in one go."""
        try:
            while True:
                now = current_time()
                for worker in self._workers:
                    if worker.beat_at <= now:
                        await worker.beat(now)
                self._beat_at = min(worker.beat_at for worker in self._workers)
                self._alarm = Event()
                with CancelScope(deadline=self._beat_at):
                    await self._alarm.wait()
        except Exception as error:
            self._fail(error)
