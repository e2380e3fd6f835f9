"""Queries of queues and items through the contract. They neither make nor change any."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from math import inf
from typing import Any, TypeVar

import anyio

from .._core.codec import Codec
from .._core.errors import QueueClosedError, ServerError
from .._core.queue_options import NOTES_KEPT, unknown_notes
from .._core.reports import DeadLetter, QueueInfo, Statistics
from ..abc import Broker, LeasedQueue
from .common import CommandError
from .text import LegibleCodec, write_key

T = TypeVar("T")
R = TypeVar("R")

_CONCURRENCY = 500  # calls that are under way together


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue in a list."""

    info: QueueInfo
    statistics: Statistics | None
    """None: the queue was deleted meanwhile."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that is held."""

    key: Any
    token: int
    consumer: str | None
    age: float | None
    """Seconds since the hand-out; None: unknown."""
    left: float | None
    """Seconds until it expires, 0 if it is overdue; None: it never does."""
    deliveries: int
    tenant: str | None
    priority: int
    cancelled: bool = False
    """True: it was cancelled, and its holder has not ended."""


@dataclass(frozen=True, slots=True)
class UnknownTasks:
    """Tasks of one function that a worker did not know lately, and left to others."""

    name: str
    """The name of the function."""
    reason: str
    worker: str
    age: float
    """Seconds since then."""


@dataclass(frozen=True, slots=True)
class QueueDetails:
    """A queue with its counts and leases."""

    info: QueueInfo
    statistics: Statistics
    leases: Sequence[HeldLease]
    """In the order of their hand-out."""
    unknown: Sequence[UnknownTasks]
    """The latest first."""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters of one queue, or of those that share a queue of dead letters."""

    total: int
    """Number of all of them, leased ones included."""
    letters: Sequence[DeadLetter[Any, Any]]
    """The latest of them, in that order."""


async def find(broker: Broker, name: str) -> QueueInfo:
    """Return the state of a queue.

    Raises:
        CommandError: The queue does not exist.
    """
    return await (await find_queue(broker, name)).info()


async def find_queue(
    broker: Broker, name: str, *, make: bool = False, codec: Codec[Any] | None = None
) -> LeasedQueue[Any, Any]:
    """Return a queue.

    Raises:
        CommandError: The queue does not exist, and is not to be made.
    """
    try:
        return await broker.queue(name, make=make, codec=codec)
    except LookupError:
        names: list[str] = []
        with suppress(ServerError):  # the user may not list queues
            names = [info.name for info in await broker.list_queues()]
        raise _unknown_queue(name, names) from None


def _unknown_queue(name: str, names: Iterable[str]) -> CommandError:
    similar = get_close_matches(name, names, 1)
    hint = f": did you mean {similar[0]!r}?" if similar else ""
    return CommandError(f"there is no queue {name!r}{hint}")


def _select(infos: Iterable[QueueInfo], names: Collection[str]) -> list[QueueInfo]:
    there = {info.name: info for info in infos}
    for name in names:
        if name not in there:
            raise _unknown_queue(name, there)
    return [there[name] for name in names]


async def find_rows(broker: Broker, names: Collection[str] = ()) -> list[QueueRow]:
    """Return a row for each of these queues, or for all queues.

    Raises:
        CommandError: One of them does not exist.
    """
    infos = await broker.list_queues()
    if names:
        infos = _select(infos, names)
    return await call_with_each(lambda info: _find_row(broker, info), infos)


async def _find_row(broker: Broker, info: QueueInfo) -> QueueRow:
    try:
        queue = await broker.queue(info.name, make=False)
        return QueueRow(info, await queue.statistics())
    except (LookupError, QueueClosedError):
        return QueueRow(info, None)


async def find_details(broker: Broker, name: str) -> QueueDetails:
    """Return the details of one queue.

    Raises:
        CommandError: The queue does not exist.
    """
    queue = await find_queue(broker, name)
    info = await queue.info()
    statistics = await queue.statistics(tenants=True)
    inflight = await queue.inflight()
    now = anyio.current_time()
    leases = [
        HeldLease(
            key=one.key,
            token=one.token,
            consumer=one.consumer,
            age=None if one.since is None else max(0.0, now - one.since),
            left=None if one.deadline == inf else max(0.0, one.deadline - now),
            deliveries=one.deliveries,
            tenant=one.tenant,
            priority=one.priority,
            cancelled=one.cancelled,
        )
        for one in inflight
    ]
    return QueueDetails(info, statistics, leases, await find_unknown(broker, name))


async def find_unknown(broker: Broker, name: str) -> list[UnknownTasks]:
    """Return the notes of workers on tasks that they did not know."""
    try:
        queue = await broker.queue(unknown_notes(name), make=False, codec=LegibleCodec())
        found = await call_with_each(_note, [(queue, key) for key in await queue.available_keys()])
    except (LookupError, QueueClosedError, ServerError, ValueError):
        return []
    lately = [each for each in found if each is not None and each.age <= NOTES_KEPT]
    return sorted(lately, key=lambda each: each.age)


async def _note(place: tuple[LeasedQueue[Any, Any], Any]) -> UnknownTasks | None:
    queue, key = place
    _, note = await queue._look(key)
    match note:
        case {"reason": str(reason), "worker": str(worker), "at": float() | int() as at}:
            return UnknownTasks(str(key), reason, worker, max(0.0, time.time() - at))
    return None


async def find_value(broker: Broker, name: str, key: Any) -> Any:
    """Return the newest value of a key.

    Raises:
        CommandError: The queue does not exist, or does not have the key.
    """
    queue = await find_queue(broker, name, codec=LegibleCodec())
    state, value = await queue._look(key)
    if state == "absent":
        raise CommandError(f"there is no key {write_key(key)} in queue {name!r}")
    return value


async def find_letters(broker: Broker, name: str, limit: int) -> DeadLetters:
    """Return the latest dead letters of a queue.

    Of a queue of dead letters, those of all queues that share it.

    Raises:
        CommandError: The queue does not exist, or has no queue of dead letters.
    """
    queue = await find_queue(broker, name, codec=LegibleCodec())  # for its dead letters too
    info = await queue.info()
    if info.dead_letters_of:
        letters = await _letters_in(queue)
        total = max(len(letters), info.ready + info.delayed + info.leased)
    else:
        try:
            letters_queue = await broker.dead_letters(name)
        except LookupError:
            raise CommandError(
                f"queue {name!r} has no queue of dead letters: items that it gives up are dropped"
            ) from None
        letters = [each for each in await _letters_in(letters_queue) if each.queue == name]
        total = max(len(letters), info.dead)
    return DeadLetters(total, nlargest(limit, letters, key=lambda letter: letter.died_at))


async def _letters_in(queue: LeasedQueue[Any, Any]) -> list[DeadLetter[Any, Any]]:
    found = await call_with_each(queue._look, [*await find_keys(queue)])
    return [each for _, each in found if isinstance(each, DeadLetter)]


async def find_keys(queue: LeasedQueue[Any, Any]) -> set[Any]:
    """Return the keys of a queue, in whatever state.

    The states are asked for one after the other. A key that changes its state once meanwhile is
    found all the same: items go on from delayed to ready to leased, and back only from a lease.
    """
    asked = (queue.inflight_keys, queue.delayed_keys, queue.available_keys, queue.inflight_keys)
    return {key for keys in asked for key in await keys()}


async def call_with_each(function: Callable[[T], Awaitable[R]], arguments: Sequence[T]) -> list[R]:
    """Return the results for all arguments, in that order; calls run concurrently."""
    results: dict[int, R] = {}

    async def call(number: int) -> None:
        results[number] = await function(arguments[number])

    for start in range(0, len(arguments), _CONCURRENCY):
        async with anyio.create_task_group() as tg:
            for number in range(start, min(start + _CONCURRENCY, len(arguments))):
                tg.start_soon(call, number)
    return [results[number] for number in range(len(arguments))]
