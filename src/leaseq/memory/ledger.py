"""The rules: which state a key is in, and how it moves. Sans-IO.

Theory of operation
===================

Each key is in exactly one state, and the state is where its item is kept::

    absent      nowhere
    ready       `ready`, in the order of the line
    leased      `leased`, in the order of the hand-outs

These are all the moves there are:

    ========  ===========================  ========  =============================================
    from      by                           to        and
    ========  ===========================  ========  =============================================
    absent    put                          ready     at the back of the line
    ready     put                          ready     value replaced, place kept
    ready     claim, claim_key             leased    a new token, one more delivery
    ready     drain                        absent    dropped
    leased    put, "update"                leased    the value is kept for a release or an expiry
    leased    put, "buffer"                leased    a successor waits for the end of the lease
    leased    put, "reject"                leased    refused
    leased    ack                          absent    done; an update that came meanwhile is dropped
    leased    release                      ready     at the front or the back
    leased    expire, the first time       ready     at its old place
    leased    expire, again                ready     at the back: it may be what kills its workers
    leased    give_back, once              ready     at its old place, not counted as a delivery
    leased    give_back, again in a row    ready     at the back, not counted as a delivery
    leased    undo                         ready     at its old place, as if never handed out
    leased    close                        ready     at its old place, its lease lost
    ========  ===========================  ========  =============================================

Where a successor was buffered, it takes the item's place in each of the moves out of *leased*: it
becomes ready at the back of the line with fresh counts. After an ack that is a second item of the
key; otherwise the first one is *superseded*. One key is never in two hands.

An `Item` object lives through one stay in the line and the lease that ends it. It is never put
back: what returns to the line is another object with the old one's counts. So an old lease says by
itself, for ever and at no cost, how it ended, and there is no set of old leases to keep.

The *token* is one counter for the whole queue, started at the wall clock's microseconds, so that
it grows for each key, across re-puts and, at less than a million hand-outs a second, restarts.

The *old place* of an item is in front of all that was not handed out, behind those that were handed
out before it and have come back to their old places too: among these, tokens tell the order, and
all others have the token 0.

A lease past its deadline is lost at once, for `ack`, `release` and `extend`, whether or not
`expire` has come by yet; until then its item waits for it in `leased`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from ..errors import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
)
from ..values import ANY_KEY, AnyKey, Ended, InFlightPolicy, Put
from .deadlines import Deadlines

if TYPE_CHECKING:
    from ..abc import LeasedQueue
    from ..lease import Lease
    from .item import Item

__all__ = ["PLAIN", "Extra", "Ledger", "Successor"]

K = TypeVar("K")
V = TypeVar("V")

Place = Literal["front", "back", "old"]

_POLICIES = get_args(InFlightPolicy)


@dataclass(frozen=True, slots=True)
class Extra:
    """What few items have. Items that have the same share it."""

    expiries: int = 0


PLAIN = Extra()


class Successor(Generic[V]):
    """What was put while its key was leased: a buffered item, or an update of the leased one."""

    __slots__ = ("buffered", "value")

    def __init__(self, value: V, *, buffered: bool) -> None:
        self.value = value
        self.buffered = buffered


class Ledger(Generic[K, V]):
    """One queue's items and their states.

    Every method takes effect wholly or, when it raises, not at all. ``now`` is in seconds, on
    one monotonic clock.

    Args:
        make: Makes an item from its queue, its key and its value.
        queue: What the items name as their queue.
        first_token: The first lease's token less one.
    """

    def __init__(
        self,
        make: type[Item[K, V]],
        queue: LeasedQueue[K, V],
        *,
        first_token: int,
    ) -> None:
        self._make = make
        self._queue = queue
        self._first_token = first_token
        self._token = first_token
        self._deadlines: Deadlines[Item[K, V]] = Deadlines()
        self.ready: OrderedDict[K, Item[K, V]] = OrderedDict()
        self.leased: dict[K, Item[K, V]] = {}
        self.buffered = 0
        self.acked = 0
        self.released = 0
        self.expired = 0
        self.cancelled = 0
        self.superseded = 0
        self.dropped = 0
        self._undone = 0

    # What is in there

    @property
    def drained(self) -> bool:
        """Nothing is ready and nothing leased, and so nothing buffered."""
        return not self.ready and not self.leased

    @property
    def added(self) -> int:
        """Items put so far: each one is still here, or left in one of three ways."""
        here = len(self.ready) + len(self.leased) + self.buffered
        return here + self.acked + self.superseded + self.dropped

    @property
    def delivered(self) -> int:
        """Hand-outs that count."""
        return self._token - self._first_token - self._undone - self.cancelled

    def peek(self, key: K) -> V | None:
        """The newest value of a key, as the next consumer would get it; None: absent. O(1)."""
        item = self.ready.get(key) or self.leased.get(key)
        if item is None:
            return None
        return item.value if item.after is None else item.after.value

    def next_deadline(self) -> float:
        """When to call `expire` again; `inf`: not before something changes. O(1)."""
        return self._deadlines.next()

    # Putting

    def check_put(self, key: K, *, if_in_flight: InFlightPolicy = "update") -> None:
        """Raise what `put` would raise. O(1)."""
        if if_in_flight not in _POLICIES:
            choices = ", ".join(map(repr, _POLICIES))
            raise ValueError(f"if_in_flight must be one of {choices}, not {if_in_flight!r}")
        try:
            held = key in self.leased
        except TypeError:
            raise _unhashable(key) from None
        if held and if_in_flight == "reject":
            raise KeyAlreadyInFlightError(
                f"key {key!r} is leased: wait until it is settled, "
                'or put it with if_in_flight="buffer"'
            )

    def add(self, key: K, value: V) -> bool:
        """Put a key that is absent, at the back of the line; False: it is not absent. O(1)."""
        try:
            if key in self.ready or key in self.leased:
                return False
        except TypeError:
            raise _unhashable(key) from None
        self.ready[key] = self._make(self._queue, key, value)
        return True

    def put(self, key: K, value: V, *, if_in_flight: InFlightPolicy = "update") -> Put:
        """Put a key, whatever state it is in. O(1)."""
        self.check_put(key, if_in_flight=if_in_flight)
        if self.add(key, value):
            return Put.ADDED
        item = self.ready.get(key)
        if item is not None:
            item.value = value
            return Put.REPLACED
        after = self.leased[key].after
        if after is not None and after.buffered:
            after.value = value
            return Put.BUFFERED
        self.leased[key].after = Successor(value, buffered=if_in_flight == "buffer")
        if if_in_flight == "update":
            return Put.UPDATED_IN_FLIGHT
        self.buffered += 1
        return Put.BUFFERED

    # Handing out

    def claim(self, key: K | AnyKey = ANY_KEY, deadline: float = inf) -> Item[K, V] | None:
        """Hand out the first item of the line, or the one of a key; None: it is not ready.

        O(1), with a deadline O(log leased).
        """
        ready = self.ready
        if key is ANY_KEY:
            if not ready:
                return None
            key, item = ready.popitem(False)
        else:
            try:
                found = ready.pop(key, None)
            except TypeError:
                raise _unhashable(key) from None
            if found is None:
                return None
            item = found
        self.leased[key] = item
        self._token = item.token = self._token + 1
        item.deliveries += 1
        if deadline != inf:
            item.deadline = deadline
            self._deadlines.add(item)
        return item

    def undo(self, item: Item[K, V]) -> None:
        """Take back a hand-out that its consumer never saw. O(1), as `_to_old_place` says."""
        self._end(item, "released")
        self._undone += 1
        self._return(item, "old", item.deliveries - 1, item.cancellations, item.extra)

    # Settling

    def check_lease(self, lease: Lease[K, V], now: float) -> None:
        """Raise what settling this lease would raise. O(1)."""
        if lease.ended == "acked":
            raise LeaseAlreadyAcknowledgedError(f"{lease!r} was acknowledged before")
        if lease.ended == "lost":
            raise LeaseLostError(f"{lease!r} was lost: its item is not held by it any more")
        if lease.ended is not None:
            raise InvalidLeaseError(f"{lease!r} was {lease.ended} before")
        if lease.deadline <= now:
            raise LeaseLostError(
                f"{lease!r} expired {now - lease.deadline:.3g} s ago: "
                "take a longer lease_timeout, or extend it in time"
            )

    def ack(self, item: Item[K, V], now: float = 0.0) -> bool:
        """The item is done. True: an update came that its consumer never saw. O(1)."""
        if item.ended is not None or item.deadline <= now:
            self.check_lease(item, now)
        item.ended = "acked"
        del self.leased[item.key]
        if item.deadline != inf:
            self._deadlines.drop(item)
        self.acked += 1
        after = item.after
        if after is None:
            return False
        if after.buffered:
            self._succeed(item.key, after)
        return not after.buffered

    def release(
        self, item: Item[K, V], now: float = 0.0, *, front: bool = False, counted: bool = True
    ) -> None:
        """Let it be tried again: from the back of the line, or at once. O(1)."""
        self.check_lease(item, now)
        self._end(item, "released")
        self.released += 1
        self._undone += not counted
        place: Place = "front" if front else "back"
        self._return(item, place, item.deliveries - (not counted), 0, item.extra)

    def give_back(self, item: Item[K, V], now: float = 0.0) -> None:
        """Its consumer was cancelled: not counted. O(1), as `_to_old_place` says."""
        self.check_lease(item, now)
        self._end(item, "released")
        self.cancelled += 1
        place: Place = "back" if item.cancellations else "old"
        self._return(item, place, item.deliveries - 1, item.cancellations + 1, item.extra)

    def extend(self, item: Item[K, V], now: float, deadline: float) -> None:
        """A new deadline for a lease, earlier or later; `inf`: never. O(log n)."""
        self.check_lease(item, now)
        if item.deadline != inf:
            self._deadlines.drop(item)
        item.deadline = deadline
        if deadline != inf:
            self._deadlines.add(item)

    # The ends that nobody asks for

    def expire(self, now: float) -> Iterator[Item[K, V]]:
        """End each lease that is past its deadline, and give it. O(log n) each."""
        for item in self._deadlines.pop_due(now):
            self.expired += 1
            self._end(item, "lost", forget=False)
            extra = replace(item.extra, expiries=item.extra.expiries + 1)
            place: Place = "back" if item.extra.expiries else "old"
            self._return(item, place, item.deliveries, 0, extra)
            yield item

    def close(self) -> list[Item[K, V]]:
        """End every lease; all that is left is ready, in its old order. O(leased)."""
        lost = list(self.leased.values())
        for item in reversed(lost):
            self._end(item, "lost")
            self._return(item, "old", item.deliveries, item.cancellations, item.extra)
        return lost

    def drain(self) -> list[tuple[K, V]]:
        """Drop all that is ready, and give it in the order of the line. O(ready)."""
        left = [(key, item.value) for key, item in self.ready.items()]
        self.dropped += len(left)
        self.ready.clear()
        return left

    # How an item leaves its lease

    def _end(self, item: Item[K, V], how: Ended, *, forget: bool = True) -> None:
        item.ended = how
        del self.leased[item.key]
        if forget and item.deadline != inf:
            self._deadlines.drop(item)

    def _return(
        self, item: Item[K, V], place: Place, deliveries: int, cancellations: int, extra: Extra
    ) -> None:
        after = item.after
        if after is not None and after.buffered:
            self.superseded += 1
            self._succeed(item.key, after)
            return
        again = self._make(self._queue, item.key, item.value if after is None else after.value)
        again.deliveries = deliveries
        again.cancellations = cancellations
        again.extra = extra
        self.ready[item.key] = again
        if place != "back":
            again.token = item.token
            self.ready.move_to_end(item.key, last=False)
        if place == "old":
            self._to_old_place(again)

    def _to_old_place(self, item: Item[K, V]) -> None:
        """Let those that were handed out earlier, and are back too, go before. O(their number)."""
        line = iter(self.ready.values())
        next(line)
        earlier = list(takewhile(lambda other: 0 < other.token < item.token, line))
        for other in reversed(earlier):
            self.ready.move_to_end(other.key, last=False)

    def _succeed(self, key: K, after: Successor[V]) -> None:
        self.buffered -= 1
        self.ready[key] = self._make(self._queue, key, after.value)


def _unhashable(key: object) -> TypeError:
    return TypeError(f"a key must be hashable, and {type(key).__name__!r} is not: {key!r}")
