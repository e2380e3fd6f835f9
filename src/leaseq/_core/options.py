"""Options: plain values that go into the calls of a queue, a broker, and their consumers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from .codec import Codec
    from .policies import Retry, Tenant

__all__ = [
    "ANY_KEY",
    "AnyKey",
    "BrokerQueueOptions",
    "GetOptions",
    "InFlightPolicy",
    "PutOptions",
    "Reschedule",
    "TakeOptions",
]

K = TypeVar("K")
V = TypeVar("V")

InFlightPolicy = Literal["update", "reject", "buffer"]
Reschedule = Literal["earliest", "latest"]


class AnyKey(Enum):
    """The type of `ANY_KEY`, which no key can be taken for."""

    ANY_KEY = "any key"


ANY_KEY = AnyKey.ANY_KEY


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
