"""Helpers of the contract suite: what its engines are, and what its tests have in common."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator, Mapping
from typing import Any, Protocol, TypedDict, TypeVar, Unpack

import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, current_token

from leaseq import Broker, DeadLetter, GetOptions, Lease, LeasedQueue, PutOptions, Retry, Tenant
from leaseq.testing import Scenario, cancel_sweep

K = TypeVar("K")
V = TypeVar("V")

Queue = LeasedQueue[str, object]
Handles = tuple[Queue, Queue]

TIMEOUT = 60.0
"""Seconds until a lease of the `timed` queue expires."""

WINDOW = 300.0
"""Seconds for which the `queue` of a broker does not take a key again that is done."""

_PATIENCE = 10_000  # looks at the statistics: a second and more, should each ask a server

each_way = pytest.mark.parametrize(
    "how", ["ack", "release", "extend", "reject", "fail", "give back"]
)
"""Each way to settle or extend a lease: see `settle`."""


# Engines


class QueueOptions(TypedDict, total=False):
    """Options of a queue, on every engine."""

    default_lease_timeout: float | None
    max_size: float
    retry: Retry
    dead_letters: Any  # of the engine's own type, or the engine would have to cast it
    """A queue that the same engine made before; None: there is none."""
    tenants: Mapping[str, Tenant] | None
    history: int
    name: str
    """What the dead letters are to say; unlike that of any other queue of the same test."""


class Advancing(Protocol):
    """An engine whose time can be moved: it offers "advance"."""

    async def advance(self, seconds: float) -> None:
        """Let time pass for queues and leases, and all that falls due in it happen."""


class Engine(Advancing, Protocol):
    """An engine that makes queues: it offers "queues"."""

    async def queue(self, **options: Unpack[QueueOptions]) -> Queue:
        """Make a new and empty queue, whose `run` was not started.

        Where queues live on, one of the same name in another test is another queue.
        """


class SharedEngine(Engine, Protocol):
    """An engine where others may have the same queue: it offers "handles"."""

    async def handles(self, **options: Unpack[QueueOptions]) -> Handles:
        """Make two handles on one new and empty queue, as two processes would have them.

        The `run` of neither was started. Dead letters go to a queue of this engine's.
        """


class BrokerEngine(Advancing, Protocol):
    """An engine that makes brokers: it offers "brokers"."""

    async def broker(self) -> Broker:
        """Make a new broker without any queues, whose `run` was not started."""


class Start(Protocol):
    """Makes a queue whose timekeeper runs until the end of the test."""

    def __call__(self, **options: Unpack[QueueOptions]) -> Awaitable[Queue]: ...


class StartBoth(Protocol):
    """Makes two handles on a queue, whose timekeepers run until the end of the test."""

    def __call__(self, **options: Unpack[QueueOptions]) -> Awaitable[Handles]: ...


# Waiting


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


async def sweep(scenario: Scenario) -> None:
    """Sweep each way in which one can cancel here."""
    on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    for native in (False, True) if on_asyncio else (False,):
        assert await cancel_sweep(scenario, native=native) > 0


# Items and leases


async def fill(queue: Queue, items: dict[str, int]) -> None:
    """Put so many items for each tenant, one tenant after the other: "ann0", "ann1", and so on."""
    for tenant, count in items.items():
        await queue.put_many([(f"{tenant}{n}", n) for n in range(count)], tenant=tenant)


async def lease_of(
    queue: LeasedQueue[str, Any], key: str, value: object = None, *, consumer: str | None = None
) -> Lease[str, Any]:
    """Put a key and lease it, for ever."""
    await queue.put(key, value)
    _, _, lease = await queue.take(key, lease_timeout=None, consumer=consumer)
    return lease


async def settle(lease: Lease[str, object], how: str) -> None:
    """Settle or extend a lease."""
    if how == "ack":
        await lease.ack()
    elif how == "release":
        await lease.release()
    elif how == "extend":
        await lease.extend(None)
    elif how == "reject":
        await lease.reject("unreadable")
    elif how == "fail":
        await lease.queue._fail(lease, KeyError())
    else:
        await lease.queue._give_back(lease)


@types.coroutine
def suspensions(awaitable: Awaitable[object]) -> Generator[Any, Any, int]:
    """Await something, and count how often it let other tasks run."""
    steps = awaitable.__await__()
    count = 0
    answer = None
    while True:
        try:
            trap = steps.send(answer)
        except StopIteration:
            return count
        count += 1
        answer = yield trap
