"""The plain values that go in and come out: options, outcomes and reports."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, TypeVar

if TYPE_CHECKING:
    from .codec import Codec
    from .policies import Retry, Tenant

__all__ = [
    "ANY_KEY",
    "AnyKey",
    "BrokerQueueOptions",
    "DeadLetter",
    "Done",
    "Ended",
    "GetOptions",
    "InFlight",
    "InFlightPolicy",
    "MessageId",
    "Put",
    "PutOptions",
    "QueueInfo",
    "Redriven",
    "Reschedule",
    "Statistics",
    "TakeOptions",
    "TenantStatistics",
    "check_hashable",
    "lease_seconds",
    "wait_seconds",
]

K = TypeVar("K")
V = TypeVar("V")

InFlightPolicy = Literal["update", "reject", "buffer"]
Reschedule = Literal["earliest", "latest"]
Ended = Literal["acked", "released", "rejected", "lost"]


class AnyKey(Enum):
    """The type of `ANY_KEY`, which no key can be taken for."""

    ANY_KEY = "any key"


ANY_KEY = AnyKey.ANY_KEY


class Put(Enum):
    """What a put did."""

    ADDED = "added"
    """The key was absent: a new item is in line."""
    REPLACED = "replaced"
    """The key was waiting: its value was replaced, its place in line kept."""
    UPDATED_IN_FLIGHT = "updated in flight"
    """The key is leased: the new value comes back with a release or an expiry; an ack drops it."""
    DUPLICATE = "duplicate"
    """The key was acknowledged within the queue's ``dedupe_for``: nothing was put."""
    BUFFERED = "buffered"
    """The key is leased: the new value becomes ready when that lease ends, however it ends."""


class MessageId(str):
    """The key of an item that was added: a string, which also says what became of it."""

    __slots__ = ("outcome",)

    outcome: Put

    def __new__(cls, key: str, outcome: Put) -> Self:
        """Say of a key what became of its item."""
        message_id = super().__new__(cls, key)
        message_id.outcome = outcome
        return message_id

    def __getnewargs__(self) -> tuple[str, Put]:  # type: ignore[override]  # str has one less
        return str(self), self.outcome


class PutOptions(TypedDict, total=False):
    """How an item is put."""

    if_in_flight: InFlightPolicy
    """What to do when the key is leased. ``"update"`` (the default) replaces the value that a
    release or an expiry puts back, and that an ack drops; ``"reject"`` raises
    `KeyAlreadyInFlightError`; ``"buffer"`` keeps one successor, the latest, which becomes ready
    when the lease ends."""
    priority: int | None
    """One of `Priority`, or any int, the higher the sooner. None (the default): `Priority.NORMAL`,
    or what the key's item has. A higher one given to an item that waits moves it to the back of
    that priority's line; a lower one changes nothing."""
    tenant: str | None
    """Whose work it is: tenants get their turns by weight. None (the default): nobody's in
    particular, or whose the key's item is."""
    delay: float
    """Seconds until it is ready; 0 (the default): now."""
    ttl: float | None
    """Time to live: seconds in which it must have been leased for the first time, or it is a dead
    letter; None (the default): for ever, or what the key's item has."""
    reschedule: Reschedule
    """What becomes of the due time of an item that waits. ``"earliest"`` (the default): the earlier
    one of what it has and now + ``delay``; ``"latest"``: now + ``delay`` (a debounce). Never
    earlier than a retry's backoff."""


class BrokerQueueOptions(TypedDict, total=False):
    """How a broker makes a queue; what is left out is as usual.

    ``type`` and ``codec`` say how this broker reads and writes values: they are not the queue's.
    """

    default_lease_timeout: float | None
    """Seconds until a lease expires, unless `get` or `take` say otherwise; None: never."""
    max_size: float
    """How many items may wait; `math.inf`: any number."""
    retry: Retry
    """What becomes of items whose delivery failed or expired."""
    dead_letters: str | None
    """The name of the queue for items that are given up; None: they are dropped."""
    tenants: Mapping[str, Tenant] | None
    """Weights and caps of tenants."""
    history: int
    """How many acknowledged items to remember."""
    dedupe_for: float | None
    """Seconds after the ack of an item for which its key is not taken again; None: at once."""
    type: Any
    """The type of the values, where they leave the process: they are decoded to it. Left out: what
    JSON knows. In memory they are never encoded, and stay what they are."""
    codec: Codec[Any] | None
    """How values become bytes, where they leave the process, in place of JSON; None: as JSON."""


class TakeOptions(TypedDict, total=False):
    """How one key is leased."""

    lease_timeout: float | None
    """Seconds until the lease expires, from the hand-out; None: never. Left out: the queue's
    ``default_lease_timeout``."""
    consumer: str | None
    """Who takes it, for `inflight`."""


class GetOptions(TakeOptions, total=False):
    """How the next item is leased."""

    tenants: Collection[str | None] | None
    """Whose items alone will do, in fair turn; None (the default): anybody's."""
    steal_from: Collection[str | None]
    """With ``tenants``: whose items will do too when those have nothing to claim."""


@dataclass(frozen=True, slots=True)
class InFlight(Generic[K]):
    """One item that is being worked on."""

    key: K
    token: int
    consumer: str | None
    """Who has it, as `get` or `take` was told."""
    since: float | None
    """When it was handed out, in seconds on the event loop's clock; None: no timekeeper ran."""
    deadline: float
    """When the lease expires, on the same clock; `math.inf`: never."""
    deliveries: int
    """Hand-outs that count, this one included."""
    tenant: str | None
    priority: int


@dataclass(frozen=True, slots=True)
class Done(Generic[K, V]):
    """One item that was acknowledged, as a queue with ``history=`` remembers it."""

    key: K
    value: V
    token: int
    deliveries: int
    acked_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class DeadLetter(Generic[K, V]):
    """An item that was given up, as it is kept in a queue of dead letters."""

    queue: str
    """The name of the queue it comes from."""
    key: K
    value: V
    token: int | None
    """The last lease's; None: it was never leased."""
    reason: str
    """``"expired"``: its time to live was over; ``"max_deliveries"``: its last delivery failed;
    else what `reject` was told."""
    error: str | None
    """What its last delivery failed with, as text; None: it did not raise."""
    deliveries: int
    tenant: str | None
    priority: int
    died_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Redriven(Generic[K]):
    """What `redrive` did."""

    keys: tuple[K, ...]
    """The keys that are back in the queue."""
    conflicts: tuple[K, ...]
    """The keys that another item has by now: their letters stay."""


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What a queue is, and how full."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    """Letters in its queue of dead letters that are this queue's."""
    created_at: float
    """Seconds since the epoch."""
    dead_letters_of: tuple[str, ...]
    """The names of the queues whose dead letters it has; empty: it is an ordinary queue."""


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """What one tenant has in a queue."""

    ready: int
    leased: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is in a queue, who waits for it, and what has happened so far."""

    ready: int
    """Items that the next consumers can have."""
    delayed: int
    """Items that fall due later."""
    leased: int
    """Items in a consumer's hands."""
    buffered: int
    """Successors that wait for the end of their key's lease."""
    getters: int
    """Consumers that wait for any item, or any of some tenants."""
    takers: int
    """Consumers that wait for one key."""
    putters: int
    """Producers that wait for room."""
    put: int
    """Items added so far (a value that replaced another is not counted again)."""
    delivered: int
    """Hand-outs that count."""
    acked: int
    released: int
    """Leases given back, by hand or by an error; cancelled ones left out."""
    expired: int
    """Leases that ran past their deadline."""
    cancelled: int
    """Leases given back because their consumer was cancelled."""
    dead: int
    """Items moved to the queue of dead letters."""
    dropped: int
    """Items given up without one, or taken out by ``drain_nowait``."""
    superseded: int
    """Items that gave way to a buffered successor when their lease ended without an ack."""
    oldest_ready_age: float | None
    """Seconds for which the longest waiting ready item has been ready; None: there is none, or no
    timekeeper ran when it was put."""
    tenants: Mapping[str | None, TenantStatistics] | None
    """What each tenant has in there; None: not asked for."""


def check_hashable(key: object) -> None:
    """Raise `TypeError` if this cannot be a key."""
    try:
        hash(key)
    except TypeError:
        kind = type(key).__name__
        raise TypeError(f"a key must be hashable, and {kind!r} is not: {key!r}") from None


def wait_seconds(name: str, seconds: float) -> float:
    """The seconds, if they can be waited for: neither negative nor NaN."""
    if not seconds >= 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {seconds!r}")
    return seconds


def delay_seconds(seconds: float) -> float:
    """The seconds, if an item can be ready after them: not negative, not NaN, and not for ever."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"delay must be 0 or more seconds, and finite, not {seconds!r}")
    return seconds


def lease_seconds(name: str, seconds: float | None) -> float:
    """The length of a lease; `math.inf` for None, which never expires."""
    if seconds is None:
        return math.inf
    if not seconds > 0:
        raise ValueError(f"{name} must be more than 0 seconds, or None for ever, not {seconds!r}")
    return seconds
