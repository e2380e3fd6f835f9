"""Options: plain values that go into the calls of a queue, a broker, and their consumers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .exports import adopt

if TYPE_CHECKING:
    from .codec import Codec
    from .policies import Retry, Tenant

K = TypeVar("K")
V = TypeVar("V")

InFlightPolicy = Literal["update", "reject", "buffer"]
Reschedule = Literal["earliest", "latest"]


class AnyKey(Enum):
    """The type of `ANY_KEY`, which no key can be taken for."""

    ANY_KEY = "any key"


ANY_KEY = AnyKey.ANY_KEY


class PutOptions(TypedDict, total=False):
    """Options of a put."""

    if_in_flight: InFlightPolicy
    """The policy for a key that is leased. ``"update"`` (the default) replaces the value, which a
    release or an expiry puts back, and an ack drops; ``"reject"`` raises
    `KeyAlreadyInFlightError`; ``"buffer"`` keeps one successor, the latest, which becomes ready
    when the lease ends."""
    priority: int | None
    """A `Priority`, or any int; higher comes first. None (the default): `Priority.NORMAL`, or that
    of the item that is there. A higher one moves a waiting item to the back of that
    priority's line; a lower one changes nothing."""
    tenant: str | None
    """The tenant whose work it is; tenants get their turns by weight. None (the default): none, or
    that of the item that is there."""
    delay: float
    """Seconds until it is ready; 0 by default."""
    ttl: float | None
    """Time to live: seconds within which it must be leased for the first time, or it becomes a dead
    letter. None (the default): no limit, or that of the item that is there. The item is given up by
    a timekeeper, by `Broker.process_expired`, or when a consumer would be handed it. Until then
    `state`, `peek`, `contains`, `available_keys`, `qsize` and `join` count it: without a `run` it
    may stay for long, but it is never handed out late."""
    reschedule: Reschedule
    """The new due time of an item that waits. ``"earliest"`` (the default): the earlier of its own
    and now + ``delay``; ``"latest"``: now + ``delay`` (a debounce). Never
    earlier than a retry's backoff."""


class BrokerQueueOptions(TypedDict, total=False):
    """Options of a broker's queue; an option left out has its default.

    ``type`` and ``codec`` say how this broker reads and writes values, and are not stored.
    """

    default_lease_timeout: float | None
    """Seconds until a lease expires, unless `get` or `take` give another timeout; None: never. Left
    out: a minute where processes share the queue, and never in memory. A queue of dead letters has
    that of the queue which it was made with."""
    max_size: float
    """The largest number of ready and delayed items; `math.inf`: no limit."""
    retry: Retry
    """The retry policy for items whose delivery failed or expired."""
    dead_letters: str | None
    """The name of the queue for items that are given up; None: they are dropped."""
    tenants: Mapping[str, Tenant] | None
    """Weights and caps of tenants."""
    history: int
    """The number of acknowledged items to remember."""
    dedupe_for: float | None
    """Seconds after an ack for which the same key is refused as a duplicate; None: 0."""
    group: str | None
    """The group that the queue belongs to, with its dead letters: a name as a queue's, of 64
    characters at most. A transaction is on queues of one group, and on a cluster each group is on
    one server. None (the default): that of its dead letters, if they are there; otherwise, with
    ``?groups=N`` in the URL, one of N; otherwise the broker's own, whose name is ``""``."""
    type: Any
    """The type to which values are decoded where they leave the process. Left out: JSON's own
    types. In memory values are never encoded."""
    codec: Codec[Any] | None
    """The codec of values that leave the process; None: JSON."""


class TakeOptions(TypedDict, total=False):
    """Options of a lease on one key."""

    lease_timeout: float | None
    """Seconds until the lease expires, from the hand-out; less than a millisecond counts as one.
    None: never. Left out: the queue's ``default_lease_timeout``."""
    consumer: str | None
    """The name of the consumer, for `inflight` and `release_all`."""


class GetOptions(TakeOptions, total=False):
    """Options of a lease on the next item."""

    tenants: Collection[str | None] | None
    """The tenants whose items are taken, in fair turn; None (the default): all."""
    steal_from: Collection[str | None]
    """With ``tenants``: the tenants whose items are taken when those have none to claim."""


adopt("leaseq", globals())
