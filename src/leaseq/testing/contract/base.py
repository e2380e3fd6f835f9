"""What all parts of the contract suite are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Protocol, TypedDict, TypeVar, Unpack

import pytest
from anyio import create_task_group
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..._core.options import GetOptions, PutOptions
from ..._core.policies import Retry, Tenant
from ..._core.reports import DeadLetter
from ...abc import LeasedQueue

__all__ = [
    "TIMEOUT",
    "Engine",
    "Part",
    "Queue",
    "QueueOptions",
    "Start",
    "Waiting",
    "in_line",
    "left_in",
    "letters_in",
    "others_run",
    "until",
]

K = TypeVar("K")
V = TypeVar("V")

Queue = LeasedQueue[str, object]

TIMEOUT = 60.0
"""Seconds until a lease of the suite's `timed` queue expires."""

_PATIENCE = 10_000  # looks at the statistics: a second and more, should each ask a server


class QueueOptions(TypedDict, total=False):
    """What a queue is made with, on every engine."""

    default_lease_timeout: float | None
    max_size: float
    retry: Retry
    dead_letters: Any  # of the engine's own type, or the engine would have to cast it
    """A queue that the same engine made before; None: there is none."""
    tenants: Mapping[str, Tenant] | None
    history: int
    name: str
    """What the dead letters are to say; unlike that of any other queue of the same test."""


class Engine(Protocol):
    """What the suite has to be given: an engine under test."""

    async def queue(self, **options: Unpack[QueueOptions]) -> Queue:
        """A new and empty queue, whose `run` was not started.

        Where queues live on, one of the same name in another test is another queue.
        """

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

    @pytest.fixture
    async def letters(self, start: Start) -> Queue:
        """A queue for dead letters."""
        return await start(name="letters")

    @pytest.fixture
    async def pages(self, start: Start, letters: Queue) -> Queue:
        """A queue whose dead letters go there."""
        return await start(dead_letters=letters, name="pages")


class Waiting:
    """Consumers and producers that come one after the other, and what each of them got."""

    def __init__(self, tg: TaskGroup, queue: Queue) -> None:
        self.tg = tg
        self.queue = queue
        self.got: dict[str, str] = {}

    async def get(self, name: str, **options: Unpack[GetOptions]) -> None:
        """Let one come that gets an item, and wait until it waits."""

        async def get() -> None:
            key, _, _ = await self.queue.get(**options)
            self.got[name] = key

        before = (await self.queue.statistics()).getters
        self.tg.start_soon(get)
        await until(self.queue, getters=before + 1)

    async def take(self, name: str, key: str) -> None:
        """Let one come that takes a key, and wait until it waits."""

        async def take() -> None:
            await self.queue.take(key)
            self.got[name] = key

        before = (await self.queue.statistics()).takers
        self.tg.start_soon(take)
        await until(self.queue, takers=before + 1)

    async def put(self, key: str, **options: Unpack[PutOptions]) -> None:
        """Let a producer come that has to wait, and wait until it does."""

        async def put() -> None:
            await self.queue.put(key, 1, **options)
            self.got[key] = "put"

        before = (await self.queue.statistics()).putters
        self.tg.start_soon(put)
        await until(self.queue, putters=before + 1)


async def until(queue: LeasedQueue[K, V], **counts: int) -> None:
    """Wait until the queue's statistics have these counts."""
    for _ in range(_PATIENCE):
        statistics = await queue.statistics()
        if all(getattr(statistics, name) == count for name, count in counts.items()):
            return
        await checkpoint()
    raise AssertionError(f"waited for {counts}, and there are {statistics}")


async def others_run() -> None:
    """Let those who have just been started come to wait."""
    for _ in range(10):
        await checkpoint()


async def in_line(queue: LeasedQueue[K, V]) -> list[K]:
    """Lease all that is ready, and give the keys in the order in which they came."""
    keys: list[K] = []
    while True:
        try:
            key, _, _ = await queue.get(timeout=0, lease_timeout=None)
        except TimeoutError:
            return keys
        keys.append(key)


async def left_in(queue: LeasedQueue[K, V]) -> list[K]:
    """Wait until all leases have ended, for which no other task is needed, and then `in_line`."""
    await until(queue, leased=0)
    return await in_line(queue)


async def letters_in(letters: Queue) -> list[DeadLetter[str, object]]:
    """Take all dead letters out, in the order in which they came."""
    found: list[DeadLetter[str, object]] = []
    while True:
        try:
            _, letter, lease = await letters.get(timeout=0, lease_timeout=None)
        except TimeoutError:
            return found
        assert isinstance(letter, DeadLetter)
        found.append(letter)
        await lease.ack()
