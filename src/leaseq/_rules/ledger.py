"""The rules: which state a key is in, and how it moves. Sans-IO.

Theory of operation
===================

Each key is in exactly one state, and the state is where its item is kept::

    absent      nowhere
    delayed     `delayed`, until it falls due
    ready       `ready`, in the order of arrival; and in the schedule, once there is one
    leased      `leased`, in the order of the hand-outs

These are all the moves there are:

    ========  ============================  ========  ============================================
    from      by                            to        and
    ========  ============================  ========  ============================================
    absent    put                           ready     at the back of its priority's line
    absent    put with a delay              delayed
    absent    put, acked lately             absent    a duplicate, if the queue looks out for them
    waiting   put                           the same  value replaced, place kept; see `_replace`
    delayed   tick, when it is due          ready     at the back
    waiting   tick or claim, its time to    absent    a dead letter, "expired"
              live being over
    waiting   drain                         absent    dropped
    ready     claim                         leased    a new token, one more delivery
    leased    put, "update"                 leased    the value is kept for the item's return
    leased    put, "buffer"                 leased    a successor waits for the end of the lease
    leased    put, "reject"                 leased    refused
    leased    ack                           absent    done; an update that came meanwhile is dropped
    leased    release                       ready     at the front or the back; or delayed
    leased    fail                          waiting   by the retry policy
    leased    tick, lease expired           ready     at its old place, the first time; later by the
                                                      retry policy: it may be what kills its workers
    leased    any counted one of these, at  absent    a dead letter, "max_deliveries"
              the last delivery
    leased    reject                        absent    a dead letter
    leased    give_back, once               ready     at its old place, not counted as a delivery
    leased    give_back, again in a row     ready     at the back, not counted as a delivery
    leased    undo                          ready     at its old place, as if never handed out
    leased    close                         ready     at its old place, its lease lost
    ========  ============================  ========  ============================================

(*Waiting* is ready or delayed.) Where a successor was buffered, it takes the item's place in each
of the moves out of *leased*, with fresh counts: after an ack or a death as a second item of the
key; otherwise the first one is *superseded*. One key is never in two hands.

An `Item` object lives through one stay in the line and the lease that ends it. It is never put
back: what returns to the line is another object with the old one's counts. So an old lease says by
itself, for ever and at no cost, how it ended, and there is no set of old leases to keep.

The *token* is one counter for the whole queue, started at the wall clock's microseconds, so that
it grows for each key, across re-puts and, at less than a million hand-outs a second, restarts.

A lease past its deadline is lost at once, whether or not `tick` has come by yet; until then its
item waits for it in `leased`. A dead letter is handed to `bury` within the move; if nobody takes
it, the item is delayed instead, and dies again later: it is never lost.

As long as all items have one priority and no tenant, `ready` is the line, and there is no
schedule to pay for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, TypeVar

from .._core.messages import check_held
from .._core.policies import Retry, Tenant
from .._core.reports import Ended
from .death import Bury
from .ready_list import Place
from .stock import Stock, Successor

if TYPE_CHECKING:
    from .._core.requests import ClaimRequest
    from ..abc import LeasedQueue
    from .item import Item

__all__ = ["Ledger"]

K = TypeVar("K")
V = TypeVar("V")

_UNBURIED = 60.0  # seconds until an item that nobody buried is tried again, without a backoff


class Ledger(Stock[K, V]):
    """One queue's items and their states.

    Every method takes effect wholly or, when it raises, not at all. ``now`` is in seconds, on one
    monotonic clock; where neither the item nor the call has to do with time it is not looked at.

    Args:
        make: Makes an item from its queue, its key and its value.
        queue: What the items name as their queue.
        first_token: The first lease's token less one.
        retry: What becomes of items whose delivery failed.
        bury: Takes a dead item, its newest value, the reason and the error, and says what became
            of it: it is a dead letter, or dropped, or, None, neither could be done.
        tenants: Weights and caps.
        dedupe_for: How long the key of an acknowledged item is not taken again; None: not at all.
    """

    def __init__(
        self,
        make: type[Item[K, V]],
        queue: LeasedQueue[K, V],
        *,
        first_token: int,
        retry: Retry = Retry(),  # noqa: B008 - a constant
        bury: Bury[K, V],
        tenants: Mapping[str, Tenant] | None = None,
        dedupe_for: float | None = None,
    ) -> None:
        super().__init__(make, queue, tenants, dedupe_for)
        self._first_token = self._token = first_token
        self._retry = retry
        self._bury = bury
        self.acked = 0
        self.released = 0
        self.expired = 0
        self.cancelled = 0
        self.dead = 0
        self.dropped = 0
        self.superseded = 0
        self.outlived = 0  # items whose time to live was over
        self._undone = 0

    # What is in there

    @property
    def drained(self) -> bool:
        """Nothing is ready, delayed or leased, and so nothing buffered."""
        return not self.ready and not self.leased and not self.delayed

    @property
    def added(self) -> int:
        """Items put so far: each one is still here, or left in one of four ways."""
        here = self.waiting + len(self.leased) + self.buffered
        return here + self.acked + self.dead + self.dropped + self.superseded

    @property
    def delivered(self) -> int:
        """Hand-outs that count."""
        return self._token - self._first_token - self._undone - self.cancelled

    # Handing out

    def claim_next(self, now: float | None = None, deadline: float = inf) -> Item[K, V] | None:
        """The short way of `claim`, for any item; None: it has to go the long way. O(1).

        ``now`` may be left out where no timekeeper runs, and the lease has no end.
        """
        line = self.line
        if line is None:
            turn = self._take_turn()
            if turn is None:
                return None
            item = turn
            key = item.key
        else:
            if line.special or not line.items:
                return None
            ready = line.items
            key, item = ready.popitem(False)
            if item.deadline != inf:  # it has a time to live
                ready[key] = item
                ready.move_to_end(key, last=False)
                return None
        self.leased[key] = item
        self._token = item.token = self._token + 1
        item.deliveries += 1
        item.since = now
        if deadline != inf:
            item.deadline = deadline
            self._deadlines.add(deadline, item)
        return item

    def _take_turn(self) -> Item[K, V] | None:
        """Take the item out whose turn it is, unless it has a time to live. O(log tenants)."""
        schedule = self.schedule
        assert schedule is not None
        item = schedule.next()
        if item is None or item.deadline != inf:
            return None
        del self.ready[item.key]
        schedule.hand_out(item, restricted=False)
        return item

    def claim(self, request: ClaimRequest[K], now: float) -> Item[K, V] | None:
        """Hand out what is asked for; None: it is not ready.

        O(1), with a timeout or tenants O(log n), restricted to some tenants O(their number).
        """
        while True:
            item = self._first(request)
            if item is None:
                return None
            if item.deadline > now:
                return self._hand_out(item, request, now)
            self._take_out(item)
            self._outlive(item, now)

    def _hand_out(self, item: Item[K, V], request: ClaimRequest[K], now: float) -> Item[K, V]:
        key = item.key
        if self.line is not None:
            self.line.leave(item)
        else:
            assert self.schedule is not None
            del self.ready[key]
            self.schedule.hand_out(item, restricted=request.restricted)
        self.leased[key] = item
        self._token = item.token = self._token + 1
        item.deliveries += 1
        item.since = now
        if item.deadline != inf:
            self._deadlines.drop(item)
            item.deadline = inf
        if request.lease_timeout != inf:
            item.deadline = now + request.lease_timeout
            self._deadlines.add(item.deadline, item)
        if request.consumer is not None:
            self._extra(item).consumer = request.consumer
        return item

    def undo(self, item: Item[K, V], now: float) -> None:
        """Take back a hand-out that its consumer never saw."""
        self._end(item, "released")
        self._undone += 1
        expires = inf if item.extra is None else item.extra.expires
        self._return(item, now, "old", item.deliveries - 1, item.cancellations, expires=expires)

    # Settling

    def ack(self, item: Item[K, V], now: float = 0.0) -> bool:
        """The item is done. True: an update came that its consumer never saw. O(1)."""
        if item.ended is not None or item.deadline <= now:
            check_held(item, now)
        item.ended = "acked"
        del self.leased[item.key]
        if item.deadline != inf:
            self._deadlines.drop(item)
        if self.schedule is not None:
            self.schedule.end(item)
        self.acked += 1
        self._remember(item.key, now)
        after = item.after
        if after is None:
            return False
        if after.buffered:
            self._succeed(item, after, now)
        return not after.buffered

    def release(
        self,
        item: Item[K, V],
        now: float,
        *,
        front: bool = False,
        delay: float | None = None,
        counted: bool = True,
        error: str | None = None,
    ) -> None:
        """Let it be tried again; or give it up, at a counted last delivery."""
        check_held(item, now)
        self._end(item, "released")
        self.released += 1
        deliveries = item.deliveries
        if not counted:
            self._undone += 1
            deliveries -= 1
        elif self.is_last_delivery(item):
            self._die(item, now, "max_deliveries", error)
            return
        if delay is None:
            delay = self._retry.delay(deliveries) if counted and not front else 0.0
        place: Place = "front" if front else "back"
        self._return(item, now, place, deliveries, 0, delay=delay)

    def is_last_delivery(self, item: Item[K, V]) -> bool:
        """Whether a lease is its item's last, if it counts."""
        return self._retry.exhausted(item.deliveries)

    def give_back(self, item: Item[K, V], now: float) -> None:
        """Its consumer was cancelled: not counted."""
        check_held(item, now)
        self._end(item, "released")
        self.cancelled += 1
        place: Place = "back" if item.cancellations else "old"
        self._return(item, now, place, item.deliveries - 1, item.cancellations + 1)

    def reject(self, item: Item[K, V], now: float, reason: str, error: str | None = None) -> None:
        """Give it up."""
        check_held(item, now)
        self._end(item, "rejected")
        self._die(item, now, reason, error)

    def extend(self, item: Item[K, V], now: float, deadline: float) -> None:
        """A new deadline for a lease, earlier or later; `math.inf`: never. O(log n)."""
        check_held(item, now)
        self._set_deadline(item, deadline)

    # What happens by itself

    def tick(self, now: float) -> Iterator[Item[K, V]]:
        """Do what is due, and give each item that it was done to. O(log n) each.

        An item whose lease has run out has ``ended``; the others have fallen due, or are dead.
        """
        for item in self._deadlines.pop_due(now):
            if self.leased.get(item.key) is item:
                self._expire(item, now)
            else:
                item.deadline = inf
                self._take_out(item)
                expires = self._extra(item).expires
                if expires <= now:
                    self._outlive(item, now)
                else:
                    self._place(item, now, due=-inf, expires=expires)
            yield item

    def _expire(self, item: Item[K, V], now: float) -> None:
        self.expired += 1
        self._end(item, "lost", forget=False)
        self._lose(item, now)

    def revoke(self, consumer: str, now: float) -> list[Item[K, V]]:
        """End all leases of a consumer that is gone, as if they had expired. O(leased)."""
        leases = self.leased.values()
        lost = [
            item for item in leases if item.extra is not None and item.extra.consumer == consumer
        ]
        for item in lost:
            self.released += 1
            self._end(item, "lost")
            self._lose(item, now)
        return lost

    def _lose(self, item: Item[K, V], now: float) -> None:
        if self.is_last_delivery(item):
            self._die(item, now, "max_deliveries", None)
        elif item.extra is None or item.extra.expiries == 0:
            self._return(item, now, "old", item.deliveries, 0, expiries=1)
        else:
            delay = self._retry.delay(item.deliveries)
            self._return(
                item, now, "back", item.deliveries, 0, expiries=item.extra.expiries + 1, delay=delay
            )

    def _outlive(self, item: Item[K, V], now: float) -> None:
        self.outlived += 1
        self._die(item, now, "expired", None)

    def close(self, now: float) -> list[Item[K, V]]:
        """End every lease; what was leased is back at its old place. O(leased)."""
        lost = list(self.leased.values())
        for item in lost:
            self._end(item, "lost")
            self._return(item, now, "old", item.deliveries, item.cancellations)
        return lost

    def drain(self) -> list[Item[K, V]]:
        """Drop all that waits, and give it: what is ready, then what is delayed, by due time."""
        delayed = sorted(self.delayed.values(), key=lambda item: self._extra(item).due)
        left = [*(self.line or self.ready.values()), *delayed]
        for item in left:
            self._take_out(item)
        self.dropped += len(left)
        return left

    def take_out(self, key: K) -> Item[K, V]:
        """Take a ready item out for good, as if it had been acknowledged. O(1)."""
        item = self.ready[key]
        self._take_out(item)
        self.acked += 1
        return item

    # Moves

    def _end(self, item: Item[K, V], how: Ended, *, forget: bool = True) -> None:
        item.ended = how
        del self.leased[item.key]
        if forget and item.deadline != inf:
            self._deadlines.drop(item)
        if self.schedule is not None:
            self.schedule.end(item)

    def _return(
        self,
        item: Item[K, V],
        now: float,
        place: Place,
        deliveries: int,
        cancellations: int,
        *,
        expiries: int | None = None,
        delay: float = 0.0,
        expires: float = inf,
    ) -> None:
        """Put the item of an ended lease back in the line, or its successor in its stead."""
        after = item.after
        if after is not None and after.buffered:
            self.superseded += 1
            self._succeed(item, after, now)
            return
        again = self._make(self._queue, item.key, item.value)
        again.tenant = item.tenant
        again.priority = item.priority
        if after is not None:
            again.value = after.value
            again.priority = max(item.priority, after.priority)
        again.deliveries = deliveries
        again.cancellations = cancellations
        if expiries is None and item.extra is not None:
            expiries = item.extra.expiries
        if expiries:
            self._extra(again).expiries = expiries
        if delay > 0:
            self._extra(again).not_before = now + delay
        if place != "back":
            again.token = item.token
        self._place(again, now, due=now + delay, expires=expires, place=place)

    def _succeed(self, item: Item[K, V], after: Successor[V], now: float) -> None:
        self.buffered -= 1
        fresh = self._make(self._queue, item.key, after.value)
        fresh.tenant = item.tenant
        fresh.priority = after.priority
        self._place(fresh, now, due=after.due, expires=after.expires)

    def _die(self, item: Item[K, V], now: float, reason: str, error: str | None) -> None:
        """Bury an item that is nowhere any more; if that cannot be done, it has to live on."""
        after = item.after
        succeeded = after is not None and after.buffered
        value = item.value if after is None or succeeded else after.value
        fate = self._bury(item, value, reason, error)
        if fate == "dead":
            self.dead += 1
        elif fate == "dropped":
            self.dropped += 1
        else:
            backoff = self._retry.backoff
            delay = _UNBURIED if backoff is None else backoff.ceiling
            self._return(item, now, "back", item.deliveries, 0, delay=delay)
            return
        if after is not None and after.buffered:
            self._succeed(item, after, now)
