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
  leaves out the leases that have ended since; the client asks about the others. Queries change
  nothing, and need not be remembered.
- Besides the answers a reply says when something falls due in each queue that took part, and what
  has happened to leases and items on the way.
- What a store tells a process unasked, a wake-up for instance, is a hint: it may be lost, late or
  told twice. The client looks for itself.

A lease that is cancelled has ended: `Extend`, `Held` and the like are answered with the
`Cancellation`. But its item stays leased until its holder has ended too. Any other settlement says
that it has: it gets the same answer, and frees the key. So does the end of the lease's time, which
`HoldOn` puts off while code works on the item that cannot be stopped.

A store also keeps values for a time, each under a name, beside the items of a queue:

- `Ack`, `Reject` and `Cancel` keep theirs (``keep``) in the same step that ends the lease or the
  item, and only then: if the token does not hold the item, or there is nothing to cancel, nothing
  is kept. `KeepValues` keeps values by themselves. A value replaces an older one of its name, and
  its time to live begins anew. It is no item: it is in no count and no listing, and a purge leaves
  it alone.
- A store that has no room ends the lease all the same, keeps the short body that each value has for
  this case (`Kept.instead`), and answers `Settled.NOT_KEPT`. `KeepValues` is refused like a put.
- `Recall` returns the value of a name while its time lasts. With ``waits`` it notes, in the same
  step, that the process waits for a name that has no value: once a value is kept under it, by
  whatever operation, the store tells `ValueKept` to every process that waits for it, and forgets
  that they do. It also forgets this at `StopWaiting`, and some time after it last heard of the
  process.
- A queue that is made under the name of a deleted one has none of its values. These may take up
  their room until their time is over.
- A name is any string of up to a few thousand bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
)

from .._core.errors import LeaseqError, ServerUnavailableError
from .._core.kept import Kept
from .._core.messages import Cancellation
from .._core.options import BrokerQueueOptions
from .._core.policies import Tenant
from .._core.reports import (
    DeadLetter,
    HistoryEntry,
    KeyState,
    LeaseInfo,
    LostBy,
    PutOutcome,
    QueueInfo,
    Statistics,
    TenantStatistics,
)
from .._core.requests import ClaimRequest, PutRequest
from .._core.values import plain_value as _value

A = TypeVar("A")
T = TypeVar("T")

Key: TypeAlias = str | int | bytes

Family = Literal["commands", "queries", "admin"]
"""The families of operations that can share a batch: those of producers and consumers, those that
change nothing, and those that concern whole queues."""

UNDECODABLE = "undecodable"
"""The reason of an item whose value no codec here could decode."""

CORRUPT = "corrupt"
"""The reason of a dead letter that is what was found in the store in place of an item."""


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
    queue: QueueRef

    @property
    def weight(self) -> int:
        """Bytes of bodies that it carries."""
        return 0

    @property
    def effort(self) -> float:
        """The work of the store for it, beside that for others, in units of some 80 microseconds.

        A batch has 256 of these, which are 20 milliseconds.
        """
        return 1.0


class Later(Enum):
    """The answer of any operation: the store had enough to do, and it is to be asked for again.

    Then all operations after it in the batch have this answer as well.
    """

    LATER = "later"


LATER = Later.LATER


class NotConfirmedError(ServerUnavailableError):
    """A store has answered, but not as surely as it was asked to, as with too few replicas.

    The batch is asked for again, under its number, for as long as it takes: nothing was lost.

    Args:
        message: The reason.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, in_doubt=True)


class GoneError(LeaseqError):
    """The answer of any operation: no such queue; it was never made, or was deleted."""


# Puts


@_value
class PutRefused:
    """Nothing was put: one item can not be put on what is there."""

    index: int
    """Of the item, from 0."""
    why: Literal["in_flight", "tenant", "size"]
    """``size``: what is there of the keys is too much for one put."""
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

    @property
    def effort(self) -> float:
        return max(1.0, len(self.items) * 0.4)


# Claims


@_value
class ClaimFor:
    """A part of a claim: so many items of those that a request asks for."""

    request: ClaimRequest[Key]
    count: int
    patient: bool = False
    """The consumer has something already, and waits for more."""

    @property
    def names(self) -> int:
        """The number of tenants that are asked for."""
        return len(self.request.tenants or ()) + len(self.request.steal_from)


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
    cut: bool = False
    """The answer was getting large: there may be more for requests that got less."""


@_value
class Claim(Operation[Claimed]):
    """Lease items for several requests, in their order."""

    claims: tuple[ClaimFor, ...]
    parks: bool = False
    """Park the process for what was asked for and is not there."""
    held: tuple[Park, ...] = ()
    """Parks that the process has for these requests, as far as it knows."""

    @property
    def effort(self) -> float:
        return 1.0 + sum([0.15 * claim.count + 0.1 * claim.names for claim in self.claims])


@_value
class FoundLease:
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
    NOT_KEPT = "not kept"
    """It was done, but the store had no room for its values, and has kept `Kept.instead` of each;
    it may have dropped an update too."""
    NOT_HELD = "not held"
    """Nothing was done: the token does not hold the item any more."""


def _size(values: tuple[Kept, ...]) -> int:
    """Return the bytes of the bodies of values."""
    return sum([len(value.body) for value in values]) if values else 0


SettledAnswer: TypeAlias = Settled | Cancellation
"""The outcome of a settlement; a cancellation: nothing was done, but the key is free now."""


@_value
class Settlement(Operation[SettledAnswer]):
    """An end of a lease, or a change of it."""

    key: Key | RawKey
    token: int


@_value
class Ack(Settlement):
    """The item is done."""

    keep: tuple[Kept, ...] = ()
    """Values to keep in the same step."""

    @property
    def weight(self) -> int:
        return _size(self.keep)


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
    keep: tuple[Kept, ...] = ()
    """Values to keep in the same step."""
    unread: bool = False
    """No process could read its value: without a queue of dead letters it is kept, not dropped."""

    @property
    def weight(self) -> int:
        return _size(self.keep)


@_value
class GiveBack(Settlement):
    """Return the item of a consumer that was cancelled."""


@_value
class Undo(Settlement):
    """Take back a hand-out that its consumer never saw."""


@_value
class Extend(Settlement):
    """Give the lease a new deadline."""

    timeout: float
    """Seconds from now; `math.inf`: it never expires."""

    @property
    def effort(self) -> float:
        return 0.25


@_value
class HoldOn(Settlement):
    """`Extend` it, also if it was cancelled, for a holder that cannot be stopped: a thread."""

    timeout: float

    @property
    def effort(self) -> float:
        return 0.25


@_value
class Discard(Operation[bool]):
    """Drop the item of a key that waits; False: there is none."""

    key: Key


@_value
class Cancel(Operation[bool]):
    """Cancel the item of a key; False: there is none, or it was cancelled before."""

    key: Key
    reason: str
    keep_successor: bool = False
    keep: tuple[Kept, ...] = ()
    """Values to keep in the same step, if something is cancelled."""

    @property
    def weight(self) -> int:
        return _size(self.keep)


@_value
class Remaining:
    """The number of items left, and the stamp of the park for the end of them; 0: none."""

    left: int
    stamp: int = 0


@_value
class Close(Operation[Remaining]):
    """Give leases back to their old places, for a handle that closes."""

    leases: tuple[tuple[Key, int], ...]

    @property
    def effort(self) -> float:
        return max(1.0, len(self.leases))


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

    @property
    def effort(self) -> float:
        return 1.0 + 0.1 * len(self.parks)


@_value
class Parked(Operation[tuple[Want, ...]]):
    """Return the wants of which the parks of this process are gone, or overlooked."""

    parks: tuple[Park, ...]
    places: int = 0
    """Places that the first producer here waits for."""

    @property
    def effort(self) -> float:
        return 1.0 + 0.25 * len(self.parks)


@_value
class Join(Operation[Remaining]):
    """Ask whether anything is left, and park for the end."""

    stamp: int = 0
    """Of the park for it that the process has; 0: none."""


@_value
class Abandon(Operation[bool]):
    """Give up the last batch of this process, whose answers are lost; False: it was not done.

    Then it will not be, as this comes in a later one. Hand-outs of it that were done are undone.
    ``queue`` may have any name.
    """

    number: int
    """Of the batch."""
    queues: tuple[QueueRef, ...]
    """The queues of its operations, in their order."""


# Kept values


@_value
class KeepValues(Operation[None]):
    """Keep values, all or none."""

    values: tuple[Kept, ...]

    @property
    def weight(self) -> int:
        return _size(self.values)


@_value
class Recalled:
    """The value of a name; None: there is none, or it was left out."""

    body: bytes | None
    is_there: bool
    """True: there is a value, or there may be one. If it was left out, ask once more: the answers
    of the batch were too large already, or the batch was sent again."""


@_value
class Recall(Operation[Recalled]):
    """Return the value of a name."""

    name: str
    waits: bool = False
    """True: if there is none, tell the process once a value is kept under the name."""

    @property
    def effort(self) -> float:
        return 2.0


@_value
class StopWaiting(Operation[None]):
    """Forget that this process waits for values of these names."""

    names: tuple[str, ...]


# Transactions


WhyNot: TypeAlias = Literal[
    "gone", "in_flight", "tenant", "size", "not held", "cancelled", "twice", "full"
]


@_value
class StepRefused:
    """A step that could not be taken, and the reason."""

    step: int
    """From 0."""
    why: WhyNot
    tenant: str | None = None
    places: int = 0
    reason: str = ""
    """The reason of a cancellation."""


@_value
class Transact(Operation[tuple[StepRefused, ...]]):
    """Take steps, all or none; ``queue`` is the first one's. Return those that were refused.

    A step that is None is known to be impossible, so that all must be refused.
    """

    steps: tuple[Put | Ack | Release | Reject | None, ...]

    @property
    def weight(self) -> int:
        return sum([step.weight for step in self.steps if step is not None])

    @property
    def effort(self) -> float:
        return max(1.0, len(self.steps))


# Queries


@_value
class _Query(Operation[A]):
    """A question, which changes nothing."""

    family: ClassVar[Family] = "queries"


class Page(NamedTuple, Generic[T]):
    """A part of a long answer, and the place to go on from; None: that was all.

    What was there all the while is in some page, and may be in two; what came or went meanwhile may
    be in one.
    """

    members: tuple[T, ...]
    after: bytes | None = None


@_value
class _Paged(_Query[Page[A]]):
    """A question whose answer comes in pages."""

    after: bytes | None = None
    """The place where the last page ended; None: the beginning."""


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
class AvailableKeys(_Paged[Key | RawKey]):
    """Return the ready keys."""


@_value
class DelayedKeys(_Paged[Key | RawKey]):
    """Return the delayed keys."""


@_value
class LeasedKeys(_Paged[Key | RawKey]):
    """Return the leased keys."""


@_value
class Counts(_Query[Statistics]):
    """Count what is in a queue, and what has happened; those who wait are for the client."""


@_value
class CountTenants(_Paged[tuple[str | None, TenantStatistics]]):
    """Count what is in a queue by tenant; `Info` says which tenants are paused."""


@_value
class InFlight(_Paged[LeaseInfo[Key | RawKey]]):
    """Return the leases, with times in seconds from now."""


@_value
class Info(_Query[QueueInfo]):
    """Describe the queue, how full it is, and its pauses.

    Without the queues whose dead letters are here.
    """


@_value
class ReadHistory(_Paged[HistoryEntry[Key | RawKey, "Body"]]):
    """Return the items that were acknowledged last, the latest last."""


@_value
class Held(_Query[bool | Cancellation]):
    """Ask whether a token holds the item of a key."""

    key: Key | RawKey
    token: int


@_value
class FindLease(_Query[FoundLease | Cancellation | None]):
    """Return the lease of a key and a token, for another holder; None: it holds nothing."""

    key: Key
    token: int


@_value
class Declared:
    """The options that a queue was made with."""

    letters: str
    """The name of its queue of dead letters; "": it has none."""
    options: BrokerQueueOptions
    unread: str = ""
    """The reason for which the options cannot be read; "": they can."""
    made: int = 0
    """A number that no other queue of the store has had; 0: it is not known."""


@_value
class Find(_Query[Declared]):
    """Look for a queue of this name."""


class Listed(NamedTuple):
    """A queue in a list of all."""

    number: int
    """Its place in the order in which they were made; -1: what is kept of it cannot be read."""
    name: str
    letters: str
    """The name of its queue of dead letters; "": it has none."""


@_value
class ListQueues(_Paged[Listed]):
    """Return the names of all queues. It is about no queue: ``queue`` may have any name."""


# Changes of whole queues


@_value
class _Administration(Operation[A]):
    """A change of a whole queue."""

    family: ClassVar[Family] = "admin"


@_value
class Declare(_Administration[Declared | None]):
    """Make a queue, and its queue of dead letters, unless they are there.

    Of these options, only the group applies to the queue of dead letters. None: the queue is not
    there, and was not made, as its dead letters are there in another group.
    """

    options: BrokerQueueOptions

    @property
    def effort(self) -> float:
        return 1.0 + 0.1 * len(self.options.get("tenants") or ())


@_value
class Delete(_Administration[None]):
    """Do away with a queue."""


@_value
class Purged:
    """Some of what waited is dropped."""

    dropped: int
    waited: int
    """Items that waited before this step."""


@_value
class Purge(_Administration[Purged]):
    """Drop some of what waits, all if that is not too much."""


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

    @property
    def effort(self) -> float:
        return 64.0 + 0.02 * len(self.keys or ())


@_value
class SetTenant(_Administration[None]):
    """Give a tenant another weight and cap."""

    name: str
    tenant: Tenant


@_value
class Pause(_Administration[bool]):
    """Stop handing out items of the queue, or of a tenant, to any process.

    No process is woken for the ready items of a queue that is paused. False: nothing was done, as
    `MOST_PAUSED` other tenants are paused.
    """

    tenant: str | None
    """None: the whole queue."""
    reason: str


@_value
class Resume(_Administration[bool]):
    """End a pause, and wake processes for the items that are ready.

    False: it was not paused.
    """

    tenant: str | None
    """None: the whole queue."""


@_value
class Released:
    """Some leases of a consumer have ended."""

    number: int
    after: bytes | None
    """For the next step; None: those were all."""


@_value
class ReleaseAll(_Administration[Released]):
    """End leases of a consumer as if they had expired."""

    consumer: str
    after: bytes | None = None
    """The place where the last step ended; None: the beginning."""


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
    cause: LostBy | Cancellation | None = None
    """None: the time says whether it has expired or was taken away."""


@_value
class Woken:
    """A wake-up: there may be what the process was parked for, and the park is gone."""

    queue: str
    want: Want


@_value
class ValueKept:
    """A value was kept under a name that the process waited for."""

    queue: str
    name: str


@_value
class QueueDeleted:
    """The queue was deleted."""

    queue: str


Event: TypeAlias = "ItemDied | LeaseEnded | Woken | ValueKept | QueueDeleted"


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
            NotConfirmedError: there is an answer, which is not sure as yet.
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
