"""The plain values that go in and come out: options, outcomes and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, TypedDict, TypeVar

__all__ = [
    "ANY_KEY",
    "AnyKey",
    "Ended",
    "GetOptions",
    "InFlight",
    "InFlightPolicy",
    "Put",
    "PutOptions",
    "Statistics",
    "TakeOptions",
    "lease_seconds",
    "wait_seconds",
]

K = TypeVar("K")

InFlightPolicy = Literal["update", "reject", "buffer"]
Ended = Literal["acked", "released", "lost"]


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
    BUFFERED = "buffered"
    """The key is leased: the new value becomes ready when that lease ends, however it ends."""


class PutOptions(TypedDict, total=False):
    """How an item is put."""

    if_in_flight: InFlightPolicy
    """What to do when the key is leased. ``"update"`` (the default) replaces the value that a
    release or an expiry puts back, and that an ack drops; ``"reject"`` raises
    `KeyAlreadyInFlightError`; ``"buffer"`` keeps one successor, the latest, which becomes ready
    when the lease ends."""


class TakeOptions(TypedDict, total=False):
    """How one key is leased."""

    lease_timeout: float | None
    """Seconds until the lease expires, from the hand-out; None: never. Left out: the queue's
    ``default_lease_timeout``."""


class GetOptions(TakeOptions, total=False):
    """How the next item is leased."""


@dataclass(frozen=True, slots=True)
class InFlight(Generic[K]):
    """One item that is being worked on."""

    key: K
    token: int
    deliveries: int
    """Hand-outs that count, this one included."""
    deadline: float
    """When the lease expires, on the event loop's clock, in seconds; `math.inf`: never."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is in a queue, who waits for it, and what has happened so far."""

    ready: int
    """Items that the next consumers can have."""
    leased: int
    """Items in a consumer's hands."""
    buffered: int
    """Successors that wait for the end of their key's lease."""
    getters: int
    """Consumers that wait for any item."""
    takers: int
    """Consumers that wait for one key."""
    put: int
    """Items added so far (a value that replaced another is not counted again)."""
    delivered: int
    """Hand-outs that count."""
    acked: int
    released: int
    """Leases given back, cancelled ones left out."""
    expired: int
    """Leases that ran past their deadline."""
    cancelled: int
    """Leases given back because their consumer was cancelled."""
    superseded: int
    """Items that gave way to a buffered successor when their lease ended without an ack."""
    dropped: int
    """Items taken out by ``drain_nowait``."""


def wait_seconds(name: str, seconds: float) -> float:
    """The seconds, if they can be waited for: neither negative nor NaN."""
    if not seconds >= 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {seconds!r}")
    return seconds


def lease_seconds(name: str, seconds: float | None) -> float:
    """The length of a lease; `math.inf` for None, which never expires."""
    if seconds is None:
        return math.inf
    if not seconds > 0:
        raise ValueError(f"{name} must be more than 0 seconds, or None for ever, not {seconds!r}")
    return seconds
