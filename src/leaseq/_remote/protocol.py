"""The seam between the client and a store: operations, answers, events, and their exchange.

A store keeps the queues that processes share: on a server, in a file. The client in this folder
does all that has to do with users: waiting, cancellation, leases and their bodies, lost replies.
A store is asked for a batch of operations at a time, does them in their order, each wholly or not
at all, and answers each of them. That is all that the two know of one another:

- An operation and its answer are values, with keys, names and seconds as users have them, and
  with bodies that a codec has made bytes of. How a store writes them down is its own business.
- A batch has a number, which grows from batch to batch of a process. A store remembers the last
  one and its answers, so that a batch whose reply was lost can be exchanged again and is not done
  again; one that arrives after a later one was done is refused. A claim that is answered again
  leaves out the leases that have ended since. Queries change nothing, and need not be remembered.
- Besides the answers a reply says when something falls due in each queue that took part, and what
  has happened to leases and items on the way.
- What a store tells a process unasked, a wake-up for instance, is a hint: it may be lost, late or
  told twice. The client looks for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

from .._core.errors import LeaseqError
from .._core.options import BrokerQueueOptions
from .._core.policies import Tenant
from .._core.reports import (
    DeadLetter,
    HistoryEntry,
    KeyState,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    Statistics,
)
from .._core.requests import ClaimRequest, PutRequest

A = TypeVar("A")
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def _value(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots, of which type checkers alone keep the frost.

    Several are made for every item; a dataclass that refuses changes at run time takes twice as
    long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


Key: TypeAlias = str | int | bytes

Family = Literal["commands", "queries", "admin"]
"""The families of operations that can share a batch: those of producers and consumers, those that
change nothing, and those that concern whole queues."""

UNDECODABLE = "undecodable"
"""The reason of an item whose value no codec here could decode. A store without a queue of dead
letters for it keeps the item, where it would drop one that was rejected for another reason."""


class RawKey(bytes):
    """A key in the store's own encoding, which did not come from this library's keys."""

    __slots__ = ()


@_value
class QueueRef:
    """A queue of the store, and its queue of dead letters as far as it is known here."""

    name: str
    letters: QueueRef | None = None


Body: TypeAlias = "bytes | DeadLetter[Key | RawKey, Body]"
"""The value of an item as a codec has encoded it; or a dead letter, with a body of its own."""


# Waiting


WantKind = Literal[
    "any", "key", "cap", "own", "steal", "any more", "own more", "steal more", "room", "drained"
]


class Want(NamedTuple):
    """Something that a process waits for, under which it is parked in the store.

    ``any``: any item; ``key``: an item of this key; ``cap``: the tenant of a ready key under its
    cap; ``own``: an item of this tenant; ``steal``: the same, if its own tenants have nothing;
    ``… more``: the same for a consumer that has something and waits for more, served last;
    ``room``: room in a queue with a bound; ``drained``: the end of all items.
    """

    kind: WantKind
    name: Key | None = None


class Park(NamedTuple):
    """A want under which the process is parked, and the stamp of that."""

    want: Want
    stamp: int


# Operations, and their answers


@_value
class Operation(Generic[A]):
    """An operation of a store, on one queue where it has one, and the type of its answer."""

    family: ClassVar[Family] = "commands"
    effort: ClassVar[float] = 1.0
    """The work of the store for it, beside that for others."""

    queue: QueueRef

    @property
    def weight(self) -> int:
        """Bytes of bodies that it carries."""
        return 0


class GoneError(LeaseqError):
    """The answer of any operation: no such queue; it was never made, or was deleted."""


# Puts


@_value
class PutRefused:
    """Nothing was put: one item can not be put on what is there."""

    index: int
    """Of the item, from 0."""
    why: Literal["in flight", "tenant"]
    tenant: str | None = None
    """The tenant of the item that is there."""


@_value
class Full:
    """Nothing was put: there is no room as yet."""

    places: int
    """Places that the put needs."""
    stamp: int | None = None
    """Of the process's park for room; None: it was not parked."""


@_value
class NeverFits:
    """Nothing was put: it is more than the queue may ever hold."""

    new: int
    """Keys of the put that were not there."""


PutAnswer: TypeAlias = tuple[PutOutcome, ...] | PutRefused | Full | NeverFits


@_value
class Put(Operation[PutAnswer]):
    """Put items, all or none, and return the outcome of each."""

    items: tuple[tuple[Key, bytes], ...]
    request: PutRequest
    behind: bool = False
    """A producer of this process waits before it: it is not put where room is short."""

    @property
    def weight(self) -> int:
        return sum([len(body) for _, body in self.items])


# Claims


@_value
class ClaimFor:
    """A part of a claim: so many items of those that a request asks for."""

    request: ClaimRequest[Key]
    count: int
    patient: bool = False
    """The consumer has something already, and waits for more."""


class Delivery(NamedTuple):
    """An item that was handed out."""

    key: Key | RawKey
    body: Body
    token: int
    priority: int
    tenant: str | None
    deliveries: int
    cancellations: int


@_value
class Claimed:
    """The deliveries of a claim, for each of its parts."""

    batches: tuple[tuple[Delivery, ...], ...]
    left: int
    """Items in the queue, in whatever state."""
    parks: tuple[Park, ...] = ()
    """The parks that are new."""


@_value
class Claim(Operation[Claimed]):
    """Lease items for several requests, in their order."""

    claims: tuple[ClaimFor, ...]
    parks: bool = False
    """Park the process for what was asked for and is not there."""
    held: tuple[Park, ...] = ()
    """Parks that the process has for these requests, as far as it knows."""


@_value
class Resumed:
    """A lease that holds its item."""

    delivery: Delivery
    left: float
    """Seconds until it expires; `math.inf`: never."""


# Settlements


class Settled(Enum):
    """The outcome of a settlement."""

    DONE = "done"
    UPDATE_DROPPED = "update dropped"
    """An ack was done, and has dropped an update of the value."""
    NOT_HELD = "not held"
    """Nothing was done: the token does not hold the item any more."""


@_value
class Settlement(Operation[Settled]):
    """An end of a lease, or a change of it."""

    key: Key | RawKey
    token: int


@_value
class Ack(Settlement):
    """The item is done."""


@_value
class Release(Settlement):
    """Let the item be tried again, or die at its last delivery."""

    front: bool = False
    delay: float | None = None
    """Seconds; None: as the retry policy has it."""
    counted: bool = True
    error: str | None = None


@_value
class Reject(Settlement):
    """Give the item up."""

    reason: str
    error: str | None = None


@_value
class GiveBack(Settlement):
    """Return the item of a consumer that was cancelled."""


@_value
class Undo(Settlement):
    """Take back a hand-out that its consumer never saw."""


@_value
class Extend(Settlement):
    """Give the lease a new deadline."""

    effort: ClassVar[float] = 0.25

    timeout: float
    """Seconds from now; `math.inf`: it never expires."""


@_value
class Discard(Operation[bool]):
    """Drop the item of a key that waits; False: there is none."""

    key: Key


@_value
class Remaining:
    """The number of items left, and the stamp of the park for the end of them; 0: none."""

    left: int
    stamp: int = 0


@_value
class Close(Operation[Remaining]):
    """Give leases back to their old places, for a handle that closes."""

    leases: tuple[tuple[Key, int], ...]


# Waiting, and what falls due


@_value
class Swept:
    """Some of what had fallen due was done."""

    more: bool
    outlived: int
    """Items whose time to live was over."""


@_value
class Sweep(Operation[Swept]):
    """Do what has fallen due, so many items at most."""

    limit: int


@_value
class Wake(Operation[None]):
    """Pass a wake-up on that no task here wants any more."""

    want: Want


@_value
class Unpark(Operation[None]):
    """Take parks of this process away."""

    parks: tuple[Park, ...]


@_value
class Parked(Operation[tuple[Want, ...]]):
    """Return the wants of which the parks of this process are gone, or overlooked."""

    parks: tuple[Park, ...]
    places: int = 0
    """Places that the first producer here waits for."""


@_value
class Join(Operation[Remaining]):
    """Ask whether anything is left, and park for the end."""

    stamp: int = 0
    """Of the park for it that the process has; 0: none."""


# Transactions


@_value
class StepRefused:
    """A step that could not be taken, and the reason."""

    step: int
    """From 0."""
    why: Literal["gone", "in flight", "tenant", "not held", "twice", "full"]
    tenant: str | None = None
    places: int = 0


@_value
class Transact(Operation[tuple[StepRefused, ...]]):
    """Take steps, all or none; ``queue`` is the first one's. Return those that were refused.

    A step that is None is known to be impossible, so that all must be refused.
    """

    steps: tuple[Put | Ack | Release | Reject | None, ...]

    @property
    def weight(self) -> int:
        return sum([step.weight for step in self.steps if step is not None])


# Queries


@_value
class _Query(Operation[A]):
    """A question, which changes nothing."""

    family: ClassVar[Family] = "queries"


@_value
class Looked:
    """The state of a key, and its newest value; None: it is absent, or was not asked for."""

    state: KeyState
    body: Body | None


@_value
class Look(_Query[Looked]):
    """Look at a key, in whatever state."""

    key: Key
    value: bool = True
    """False: without its value."""


@_value
class AvailableKeys(_Query[tuple[Key, ...]]):
    """Return the ready keys."""


@_value
class LeasedKeys(_Query[tuple[Key, ...]]):
    """Return the leased keys."""


@_value
class Counts(_Query[Statistics]):
    """Count what is in a queue, and what has happened; those who wait are for the client."""

    tenants: bool = False


@_value
class InFlight(_Query[tuple[LeaseInfo[Key], ...]]):
    """Return the leases, in the order of the hand-outs, with times in seconds from now."""


@_value
class Info(_Query[QueueInfo]):
    """Describe the queue, and how full it is."""

    senders: bool = True
    """Say also which queues have their dead letters here. O(queues)."""


@_value
class ReadHistory(_Query[tuple[HistoryEntry[Key, "Body"], ...]]):
    """Return the items that were acknowledged last, the latest last."""


@_value
class Resume(_Query[Resumed | None]):
    """Return the lease of a key and a token, for another holder; None: it holds nothing."""

    key: Key
    token: int


@_value
class Declared:
    """The options that a queue was made with."""

    letters: str
    """The name of its queue of dead letters; "": it has none."""
    options: BrokerQueueOptions


@_value
class Find(_Query[Declared]):
    """Look for a queue of this name."""


@_value
class ListQueues(_Query[tuple[tuple[str, str], ...]]):
    """Return the names of all queues, and of their queues of dead letters or "".

    They come in the order in which they were made. It is about no queue: ``queue`` may have any
    name.
    """


# Changes of whole queues


@_value
class _Administration(Operation[A]):
    """A change of a whole queue."""

    family: ClassVar[Family] = "admin"


@_value
class Declare(_Administration[Declared]):
    """Make a queue, and its queue of dead letters, unless they are there."""

    options: BrokerQueueOptions


@_value
class Delete(_Administration[None]):
    """Do away with a queue."""


@_value
class Purge(_Administration[int]):
    """Drop all that waits, and return the number of items."""


@_value
class Redriven:
    """The letters that came back, and the place to go on from."""

    keys: tuple[Key, ...]
    conflicts: tuple[Key, ...]
    letters: int
    """Ready in the queue of dead letters before this step."""
    looked_at: int
    """Letters that this step has looked at, at most."""
    after: bytes | None
    """For the next step; None: that was all."""


@_value
class Redrive(_Administration[Redriven]):
    """Bring some dead letters back."""

    keys: tuple[Key, ...] | None
    """Of the items to bring back; None: of all."""
    limit: int | None
    after: bytes | None = None
    """The place where the last step ended; None: the beginning."""


@_value
class SetTenant(_Administration[None]):
    """Give a tenant another weight and cap."""

    name: str
    tenant: Tenant


@_value
class ReleaseAll(_Administration[int]):
    """End all leases of a consumer as if they had expired, and return their number."""

    consumer: str


# Events


@_value
class ItemDied:
    """An item was given up: it is a dead letter, or dropped; or kept, to die again later."""

    queue: str
    key: Key | RawKey
    token: int | None
    """Of its last lease; None: it was not leased."""
    reason: str
    fate: Literal["dead", "dropped", "kept"]


@_value
class LeaseEnded:
    """A lease has expired, or was taken away."""

    queue: str
    token: int


@_value
class Woken:
    """A wake-up: there may be what the process was parked for, and the park is gone."""

    queue: str
    want: Want


@_value
class QueueDeleted:
    """The queue was deleted."""

    queue: str


Event: TypeAlias = "ItemDied | LeaseEnded | Woken | QueueDeleted"


# The exchange


@_value
class Batch:
    """Operations of one family that go together, and the number of their exchange."""

    number: int
    operations: tuple[Operation[Any], ...]


@_value
class Reply:
    """The answers to a batch, in the order of its operations, and what else there is to know."""

    answers: Sequence[object]
    """Each is of the type that its operation says, or the exception for which there is none:
    `GoneError`; `ServerError`, refused by the store; `ServerUnavailableError`, in doubt, the answer
    being unreadable; or any other, for what cannot be written down and was not asked for."""
    due: Mapping[str, float]
    """Seconds until the store has something to do in a queue, by name; `math.inf`: nothing."""
    events: Sequence[ItemDied | LeaseEnded] = ()


OnEvent: TypeAlias = Callable[[Event], None]


class Store(Protocol):
    """The place of the queues. Made for one process, used by one dispatcher, in one event loop."""

    async def exchange(self, batch: Batch) -> Reply:
        """Have a batch done, and return the answers.

        The same batch may be exchanged again, if its reply was lost; then it is not done again. It
        may also arrive late, when the client has given it up or had it answered, and is refused if
        a later one was done.

        Raises:
            ServerUnavailableError: there is no answer; ``in_doubt`` says whether the batch may have
                been done, or may still be.
            ServerError: the store refused all of it.
            Exception: anything else is a bug in the store, and leaves the batch in doubt.

        If cancelled, it may have been done, or may still be.
        """
        ...

    def check(self, operation: Operation[Any]) -> None:
        """Raise if the store would refuse an operation, before anything is sent.

        O(1), for keys or items O(their number).

        Raises:
            ServerError: the user may not do that.
            TypeError: a key or a name is of another type than these can be.
            ValueError: a value is out of the store's range.
        """
        ...

    async def listen(self) -> None:
        """Tell the callback what the store tells this process unasked, until cancelled.

        Run by one task at a time, and not always. What was told meanwhile may be lost.
        """
        ...

    async def close(self) -> None:
        """Let go of the store; idempotent. What is under way fails, in doubt."""
        ...


OpenStore: TypeAlias = Callable[[str, OnEvent], Awaitable[Store]]
"""Opens a store for a process of this name; what the store tells it unasked is given to the
callback, while `Store.listen` runs, or at other times in the event loop's thread."""
