"""What an operator sees of queues, read through the contract. Nothing is made or changed by it."""

from __future__ import annotations

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
from .._core.reports import DeadLetter, QueueInfo, Statistics
from ..abc import Broker, LeasedQueue
from .common import NotDone
from .text import LegibleCodec, write_key

__all__ = [
    "Details",
    "Holding",
    "Letters",
    "Row",
    "find",
    "find_details",
    "find_letters",
    "find_queue",
    "find_rows",
    "find_value",
]

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 500  # keys that are looked at together


@dataclass(frozen=True, slots=True)
class Row:
    """One queue, at a glance."""

    info: QueueInfo
    statistics: Statistics | None
    """None: it went away meanwhile."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One lease."""

    key: Any
    token: int
    consumer: str | None
    age: float | None
    """Seconds since the hand-out, if that is known."""
    left: float | None
    """Seconds until it expires, 0 if it is past that; None: it never does."""
    deliveries: int
    tenant: str | None
    priority: int


@dataclass(frozen=True, slots=True)
class Details:
    """One queue, at length."""

    info: QueueInfo
    statistics: Statistics
    leases: Sequence[Holding]
    """In the order of the hand-outs."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters."""

    total: int
    """How many there are, those that somebody deals with just now included."""
    letters: Sequence[DeadLetter[Any, Any]]
    """Some of them, the latest first."""


async def find(broker: Broker, name: str) -> QueueInfo:
    """What there is to say of the queue of a name.

    Raises:
        NotDone: there is none.
    """
    return await (await find_queue(broker, name)).info()


async def find_queue(
    broker: Broker, name: str, *, make: bool = False, codec: Codec[Any] | None = None
) -> LeasedQueue[Any, Any]:
    """The queue of a name.

    Raises:
        NotDone: there is none, and none is to be made.
    """
    try:
        return await broker.queue(name, make=make, codec=codec)
    except LookupError:
        names: list[str] = []
        with suppress(ServerError):  # not everybody may see what there is
            names = [info.name for info in await broker.list_queues()]
        raise NotDone(_not_there(name, names)) from None


def _not_there(name: str, names: Iterable[str]) -> str:
    similar = get_close_matches(name, names, 1)
    hint = f": did you mean {similar[0]!r}?" if similar else ""
    return f"there is no queue {name!r}{hint}"


def _among(infos: Iterable[QueueInfo], names: Collection[str]) -> list[QueueInfo]:
    there = {info.name: info for info in infos}
    for name in names:
        if name not in there:
            raise NotDone(_not_there(name, there))
    return [there[name] for name in names]


async def find_rows(broker: Broker, names: Collection[str] = ()) -> list[Row]:
    """Queues at a glance: these, or all there are.

    Raises:
        NotDone: one of them is not there.
    """
    infos = await broker.list_queues()
    if names:
        infos = _among(infos, names)
    return await _each(lambda info: _find_row(broker, info), infos)


async def _find_row(broker: Broker, info: QueueInfo) -> Row:
    try:
        queue = await broker.queue(info.name, make=False)
        return Row(info, await queue.statistics())
    except (LookupError, QueueClosedError):
        return Row(info, None)


async def find_details(broker: Broker, name: str) -> Details:
    """One queue at length.

    Raises:
        NotDone: there is none.
    """
    queue = await find_queue(broker, name)
    info = await queue.info()
    statistics = await queue.statistics(tenants=True)
    inflight = await queue.inflight()
    now = anyio.current_time()
    leases = [
        Holding(
            key=one.key,
            token=one.token,
            consumer=one.consumer,
            age=None if one.since is None else max(0.0, now - one.since),
            left=None if one.deadline == inf else max(0.0, one.deadline - now),
            deliveries=one.deliveries,
            tenant=one.tenant,
            priority=one.priority,
        )
        for one in inflight
    ]
    return Details(info, statistics, leases)


async def find_value(broker: Broker, name: str, key: Any) -> Any:
    """The value of a key.

    Raises:
        NotDone: there is no such queue, or the key is not in it.
    """
    queue = await find_queue(broker, name, codec=LegibleCodec())
    value = await queue.peek(key)
    if value is None and not await queue.contains(key):
        raise NotDone(f"there is no key {write_key(key)} in queue {name!r}")
    return value


async def find_letters(broker: Broker, name: str, limit: int) -> Letters:
    """The latest dead letters of a queue; or of all whose letters a queue has, if it has any.

    Raises:
        NotDone: there is no such queue, or it has no dead letters.
    """
    queue = await find_queue(broker, name, codec=LegibleCodec())  # and what is in its letters
    info = await queue.info()
    if info.dead_letters_of:
        letters = await _letters_in(queue)
        total = max(len(letters), info.ready + info.delayed + info.leased)
    else:
        try:
            letters_queue = await broker.dead_letters(name)
        except LookupError:
            raise NotDone(
                f"queue {name!r} has no queue of dead letters: what it gives up is dropped"
            ) from None
        letters = [each for each in await _letters_in(letters_queue) if each.queue == name]
        total = max(len(letters), info.dead)
    return Letters(total, nlargest(limit, letters, key=lambda letter: letter.died_at))


async def _letters_in(queue: LeasedQueue[Any, Any]) -> list[DeadLetter[Any, Any]]:
    keys = [*await queue.available_keys(), *await queue.inflight_keys()]
    found = await _each(queue.peek, keys)
    return [each for each in found if isinstance(each, DeadLetter)]


async def _each(function: Callable[[T], Awaitable[R]], arguments: Sequence[T]) -> list[R]:
    """What a function says of each, in that order, many at a time."""
    said: dict[int, R] = {}

    async def ask(number: int) -> None:
        said[number] = await function(arguments[number])

    for start in range(0, len(arguments), _AT_ONCE):
        async with anyio.create_task_group() as tg:
            for number in range(start, min(start + _AT_ONCE, len(arguments))):
                tg.start_soon(ask, number)
    return [said[number] for number in range(len(arguments))]
