"""Outcomes and reports: plain values that come out of a queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, Literal, Self, TypeVar

from .exports import adopt

K = TypeVar("K")
V = TypeVar("V")

Ended = Literal["acked", "released", "rejected", "lost", "cancelled"]
LostBy = Literal["expired", "revoked", "damaged", "closed"]
"""The cause of a loss: the deadline; `release_all` or a settlement by receipt; an item that cannot
be read any more; the queue's end."""
KeyState = Literal["absent", "delayed", "ready", "leased"]


class PutOutcome(StrEnum):
    """The outcome of a put."""

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
    """The key of an item that was added: a string, with the outcome of the put."""

    __slots__ = ("outcome",)

    outcome: PutOutcome

    def __new__(cls, key: str, outcome: PutOutcome) -> Self:
        """Make a key with the outcome of its put."""
        message_id = super().__new__(cls, key)
        message_id.outcome = outcome
        return message_id

    def __getnewargs__(self) -> tuple[str, PutOutcome]:  # type: ignore[override]  # str has one less
        return str(self), self.outcome


@dataclass(frozen=True, slots=True)
class LeaseInfo(Generic[K]):
    """A lease, as `inflight` reports it."""

    key: K
    token: int
    consumer: str | None
    """The name that was given to `get` or `take`."""
    since: float | None
    """The time of the hand-out, in seconds on the event loop's clock; None: no timekeeper ran."""
    deadline: float
    """The time of its expiry, on the same clock; `math.inf`: never."""
    deliveries: int
    """Hand-outs that count, this one included."""
    tenant: str | None
    priority: int
    cancelled: bool = False
    """True: the lease was cancelled, and its holder has not ended yet."""


@dataclass(frozen=True, slots=True)
class HistoryEntry(Generic[K, V]):
    """An item that was acknowledged, or cancelled while it was leased, as ``history=`` keeps it."""

    key: K
    value: V
    token: int
    deliveries: int
    ended_at: float
    """The time of the ack, or of the call of `cancel`, in seconds since the epoch."""
    ended: Literal["acked", "cancelled"] = "acked"


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
    otherwise the reason that was given to `reject`."""
    error: str | None
    """The error of its last delivery, as text; None: it did not raise."""
    deliveries: int
    tenant: str | None
    priority: int
    died_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class RedriveResult(Generic[K]):
    """The result of `redrive`."""

    keys: tuple[K, ...]
    """The keys that are back in the queue."""
    conflicts: tuple[K, ...]
    """The keys that another item has: their letters stay."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A pause of a queue, or of one of its tenants: nothing more is claimed."""

    reason: str
    """The reason that was given to `pause` last; ``""``: none."""
    since: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A description of a queue with its sizes."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    """Letters of this queue in its queue of dead letters."""
    created_at: float
    """Seconds since the epoch."""
    dead_letters_of: tuple[str, ...]
    """The names of the queues whose dead letters it holds; empty for an ordinary queue."""
    group: str = ""
    """The group that it belongs to; ``""``: the broker's own."""
    paused: Paused | None = None
    """The pause of the whole queue; None: it is not paused."""
    paused_tenants: Mapping[str, Paused] = field(default_factory=dict, hash=False)
    """The pauses of single tenants, by their names, those with nothing in the queue too."""


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """Counts of one tenant's items in a queue."""

    ready: int
    leased: int
    paused: bool = False
    """True if it is paused apart from the queue: then it is here even if it has nothing."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of a queue's items and waiters, and of what has happened so far."""

    ready: int
    """Items that can be claimed, caps and pauses aside."""
    delayed: int
    """Items that fall due later."""
    leased: int
    """Items under a lease."""
    buffered: int
    """Successors that wait for the end of their key's lease."""
    getters: int
    """Consumers that wait for any item, or for any of some tenants."""
    takers: int
    """Consumers that wait for one key."""
    putters: int
    """Producers that wait for room."""
    put: int
    """Items added so far; a replaced value is not counted again."""
    delivered: int
    """Hand-outs that count."""
    acked: int
    released: int
    """Leases released, by a call or by an error, without those given back."""
    expired: int
    """Leases that ran past their deadline."""
    given_back: int
    """Leases given back because their consumer was cancelled."""
    cancelled: int
    """Items that `cancel` has ended. A leased one counts once its holder has ended."""
    dead: int
    """Items moved to the queue of dead letters."""
    dropped: int
    """Items given up without a queue of dead letters, or taken out by `discard`, `purge`
    or ``drain_nowait``."""
    superseded: int
    """Items that gave way to a buffered successor when their lease ended without an ack."""
    oldest_ready_age: float | None
    """Seconds for which the oldest ready item has been ready; None: there is none, or no timekeeper
    ran when it was put."""
    tenants: Mapping[str | None, TenantStatistics] | None
    """Counts by tenant; None: not asked for."""
    paused: bool = False
    """True if the whole queue is paused."""


def with_paused(
    tenants: Mapping[str | None, TenantStatistics], paused: Iterable[str]
) -> dict[str | None, TenantStatistics]:
    """Return the counts of tenants, with those that are paused among them. O(tenants)."""
    nothing = TenantStatistics(0, 0)
    return {
        **tenants,
        **{name: replace(tenants.get(name, nothing), paused=True) for name in paused},
    }


adopt("leaseq", globals())
