"""What all parts of the contract suite are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol, TypedDict, TypeVar, Unpack

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from ...abc import LeasedQueue

__all__ = ["TIMEOUT", "Engine", "Part", "Queue", "QueueOptions", "Start", "in_line", "until"]

K = TypeVar("K")
V = TypeVar("V")

Queue = LeasedQueue[str, object]

TIMEOUT = 60.0
"""Seconds until a lease of the suite's `timed` queue expires."""

_PATIENCE = 10_000  # looks at the statistics: a second and more, should each ask a server


class QueueOptions(TypedDict, total=False):
    """What a queue is made with, on every engine."""

    default_lease_timeout: float | None


class Engine(Protocol):
    """What the suite has to be given: an engine under test."""

    async def queue(self, **options: Unpack[QueueOptions]) -> Queue:
        """A new and empty queue, whose `run` was not started."""

    async def advance(self, seconds: float) -> None:
        """Let time pass for queues and leases, and all that falls due in it happen."""


class Start(Protocol):
    """Makes a queue whose timekeeper runs until the end of the test."""

    def __call__(self, **options: Unpack[QueueOptions]) -> Awaitable[Queue]: ...


@pytest.mark.anyio
class Part:
    """A part of the suite: its fixtures. The fixture ``engine`` is the engine's to give."""

    @pytest.fixture
    async def start(self, engine: Engine) -> AsyncIterator[Start]:
        async with create_task_group() as tg:

            async def start(**options: Unpack[QueueOptions]) -> Queue:
                queue = await engine.queue(**options)
                await tg.start(queue.run)
                return queue

            yield start
            tg.cancel_scope.cancel()

    @pytest.fixture
    async def queue(self, start: Start) -> Queue:
        return await start()

    @pytest.fixture
    async def timed(self, start: Start) -> Queue:
        return await start(default_lease_timeout=TIMEOUT)


async def until(queue: LeasedQueue[K, V], **counts: int) -> None:
    """Wait until the queue's statistics have these counts."""
    for _ in range(_PATIENCE):
        statistics = await queue.statistics()
        if all(getattr(statistics, name) == count for name, count in counts.items()):
            return
        await checkpoint()
    raise AssertionError(f"waited for {counts}, and there are {statistics}")


async def in_line(queue: LeasedQueue[K, V]) -> list[K]:
    """Lease all that is ready, and give the keys in the order in which they came."""
    keys: list[K] = []
    while True:
        try:
            key, _, _ = await queue.get(timeout=0, lease_timeout=None)
        except TimeoutError:
            return keys
        keys.append(key)
