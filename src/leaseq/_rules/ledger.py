"""The rules: which state a key is in, and how it moves. Sans-IO.

Theory of operation
===================

Each key is in exactly one state, and the state is where its item is kept::

    absent      nowhere
    delayed     `delayed`, until it falls due
    ready       `ready`, in the order of arrival; and in the schedule, once there is one
    leased      `leased`, in the order of the hand-outs

These are all the moves there are. The table is written from `moves.py`, which computes what each
does (``python -m tests.vectors`` writes it anew):

    ========  ==============================  ========  ============================================
    from      by                              to        and
    ========  ==============================  ========  ============================================
    absent    put                             ready     at the back of its priority's line
    absent    put, with a delay               delayed
    absent    put, acknowledged within        absent    a duplicate: nothing was put
              dedupe_for
    waiting   put                             same      value replaced, place kept; a time to live
                                                        starts anew
    waiting   put, with a higher priority     same      at the back of that priority's line
    waiting   put, due by reschedule          waiting   at the earlier time, or with "latest" at the
                                                        new one; never before its rest is over
    leased    put, "update"                   leased    the value is kept for the return
    leased    put, "buffer"                   leased    one successor waits for the end of the
                                                        lease, the latest
    leased    put, "reject"                   leased    refused
    delayed   tick, it is due                 ready     at the back
    waiting   tick, claim, its time to live   absent    a dead letter, "expired"
              is over
    ready     claim                           leased    a new token, one more delivery
    leased    ack                             absent    done; an update that came meanwhile is
                                                        dropped
    leased    release                         waiting   by the retry policy, at the back
    leased    release, with a delay           delayed   at the back
    leased    release, to the front           ready     at the front
    leased    release, uncounted              ready     at the back; or delayed, as was asked for
    leased    tick, its lease is over         ready     at its old place
    leased    tick, its lease is over, again  waiting   by the retry policy: it may be what kills
                                                        its workers
    leased    release_all                     ready     at its old place; as if its lease had
                                                        expired
    leased    release_all, lost before        waiting   at the back; as if its lease had expired
                                                        again
    leased    give_back                       ready     at its old place, uncounted
    leased    give_back, again in a row       ready     at the back, uncounted
    leased    undo                            ready     at its old place; as if it had never been
                                                        handed out
    leased    close                           ready     at its old place, uncounted
    leased    reject                          absent    a dead letter
    leased    any that counts, at the last    absent    a dead letter, "max_deliveries"
              delivery
    any       any death, it cannot be buried  delayed   at the back; it dies again later, and is
                                                        never lost
    waiting   drain, discard                  absent    dropped
    waiting   cancel                          absent    dropped
    leased    cancel                          leased    the lease has ended, and the key stays
                                                        leased until its holder has cleaned up
    leased    any end, it was cancelled       absent    nothing is tried again
    ready     redrive                         absent    moved elsewhere
    ========  ==============================  ========  ============================================

(*Waiting* is ready or delayed.) Where a successor was buffered, it takes the item's place in each
of the moves out of *leased*, with fresh counts: after an ack, a death or a cancellation as a second
item of the key; otherwise the first one is *superseded*. One key is never in two hands.

A lease that is cancelled has ended, and says so; but its item stays in `leased` until its holder
has ended too: until any settlement, which is refused, or the end of the lease's time. So no other
consumer has the key while the holder cleans up. Once the key is free, the deadline of the item is
minus infinity, which tells `wind_up` that nothing is left to do.

A waiting item about which nothing is unusual is *bare*: it has no object of its own. Its value is
in `ready` or `delayed` under its key; and the key is in the line, or with a time in `_deadlines`.
So a million waiting items are a few large containers, and no objects that the garbage collector
would have to follow. An item is bare if its key is *plain*, a `str`, `int` or `bytes`; if it has no
tenant, no priority, no time to live and no deliveries so far; and if it is delayed, or in a line
without a schedule and not at an old place or the front.

Any other waiting item is in *full*: an `Item` in the same tables. A bare item becomes one where a
move needs one (`_full`), and an item that joins the back becomes bare if it may (`_place`). An
`Item` in these tables is never the value of a bare item: a value that is itself a lease is of the
same class, and so its item is in full.

An `Item` is also the lease. It is made at the hand-out, or for an item in full before that. It
never returns to the line: its value does, or another object with its counts. So an old lease knows
by itself, for ever and at no cost, how it ended, and there is no set of old leases to keep.

The *token* is one counter for the whole queue, started at the wall clock's microseconds, so that
it grows for each key, across re-puts and, at less than a million hand-outs a second, restarts.

A lease past its deadline is lost from that moment on, whether or not `tick` has run yet; until it
runs, the item stays in `leased`.

A move first computes everything that can raise, then changes the ledger, and tells last. So a death
is prepared by `bury`, which makes the letter and returns the fate of the item; then the ledger
changes; then the burial is finished. An item that can be neither a letter nor dropped is delayed
instead, and dies again later: it is never lost.

A policy that raises refuses a call: the lease holds its item as before. Where there is no caller to
hear of it, when a lease expires or a body has raised, the item rests for a minute and is tried
again, and the error is kept in `mishaps`, to be logged.

As long as all items have one priority and no tenant, there is one line, and the schedule costs
nothing.

While the queue is paused, nothing is claimed; all other moves go on. A tenant that is paused does
not compete in the schedule, as if it were at its cap. The pauses are kept apart from the accounts
of tenants: one that has nothing is forgotten as ever, and is paused still when it comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import inf, nan
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .._core.heap import Heap
from .._core.limits import MOST_PAUSED
from .._core.messages import check_held, too_many_paused
from .._core.options import ANY_KEY
from .._core.policies import Backoff, Retry, Tenant, rest_by
from .._core.reports import PutOutcome
from .._core.validation import check_key
from .._core.values import plain_value
from . import moves
from .by_key import (
    PLAIN,
    by_time,
    expel,
    fill,
    find,
    first_of,
    has,
    hashable,
    in_order,
    insert,
    insert_bare,
    plain_key,
    rebuild,
)
from .moves import MOVES, NORMAL, Counter, Fate, ItemRecord, Move, Moved, Place, pause_of
from .ready_list import Ranks, ReadyList, last_token
from .schedule import Schedule
from .timers import ItemTimers

if TYPE_CHECKING:
    from .._core.reports import Ended, KeyState, Paused
    from .._core.requests import ClaimRequest, PutRequest
    from ..abc import LeasedQueue
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")

_SHORT = 256  # of a text that is not too long for a key
_SMALL = 1 << 64  # of an int that is not too large for a key
_ABSENT: Any = object()
_AFTER_LEASES = 1 << 62  # of equal deadlines, leases come before what waits
_NUMBERS = 1 << 32  # for each waiting item with a time, as often as it may be given another one
_OFTEN = (1 << 10) - 1  # a token has none of these bits at each 1024th hand-out
_SPARSE = 400  # bytes an item of a table that was much longer


@plain_value
class Death(Generic[K, V]):
    """An item that is about to be given up."""

    item: Item[K, V]
    value: V
    """Its newest value."""
    token: int | None
    """The last lease's; None: it was never leased, or is too far from it to know."""
    reason: str
    error: str | None


@plain_value
class Burial:
    """The fate of a dead item, prepared while nothing has changed yet."""

    fate: Fate
    """A dead letter, or dropped; or kept, because neither is possible."""
    finish: Callable[[], None] | None = None
    """Carries it out. Called once the ledger has changed; must not raise."""


class Bury(Protocol[K, V]):
    """A function that prepares a burial. If it raises, the item stays where it was."""

    def __call__(self, death: Death[K, V], /) -> Burial: ...


class Ledger(Generic[K, V]):
    """The items of a queue and their states.

    Every method takes effect wholly or, when it raises, not at all. ``now`` is in seconds, on one
    monotonic clock; it is ignored where neither the item nor the call is timed.

    Ready items are in `ready`, delayed items in `delayed`, and leased items in `leased`, in the
    order of the hand-outs. The order of ready items is that of the line while all have one priority
    and no tenant; with the first other item a schedule takes over. Timed items are also in the
    deadlines.

    Args:
        make: The class of items, called with the queue, the key and the value.
        queue: The queue that the items name as theirs.
        first_token: One less than the token of the first lease.
        retry: The policy for items whose delivery failed.
        bury: Prepares the burial of a dead item.
        tenants: Weights and caps.
        dedupe_for: Seconds for which the key of an acknowledged item is a duplicate; None: 0.
    """

    # Beyond some 30 attributes, CPython would give it a dict of its own, and take longer for each.
    __slots__ = (
        "_bare",
        "_bury",
        "_deadlines",
        "_dedupe_for",
        "_done",
        "_first_token",
        "_make",
        "_number",
        "_queue",
        "_ranks",
        "_retry",
        "_token",
        "acked",
        "buffered",
        "cancelled",
        "dead",
        "delayed",
        "dropped",
        "expired",
        "given_back",
        "leased",
        "line",
        "mishaps",
        "outlived",
        "paused",
        "paused_tenants",
        "ready",
        "released",
        "schedule",
        "superseded",
        "undone",
    )

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
        self._make = make
        self._queue = queue
        self._ranks = Ranks()
        self._deadlines: Heap[Any] = Heap(self._is_due)  # of items, and plain keys of bare ones
        self._bare: dict[Any, tuple[float, int, Any]] = {}  # by key: the entries of bare ones there
        self._number = _AFTER_LEASES  # of the last item that was given one among those that are due
        self.schedule: Schedule[K, V] | None = None
        self.line: ReadyList[K | Item[K, V]] | None = None
        self.paused: Paused | None = None  # the queue as a whole
        self.paused_tenants: dict[str, Paused] = {}
        if tenants is not None:
            self.schedule = Schedule(tenants, self._ranks, self.paused_tenants)
        else:
            self.line = ReadyList(self._ranks)
        self.ready: dict[K, Any] = {}  # values of bare items, and items in full
        self.delayed: dict[K, Any] = {}  # the same
        self.leased: dict[K, Item[K, V]] = {}
        self._dedupe_for = dedupe_for
        self._done: OrderedDict[K, float] = OrderedDict()  # keys, and until when
        self._first_token = self._token = first_token
        self._retry = retry
        self._bury = bury
        self.mishaps: list[tuple[Item[K, V], BaseException]] = []
        self.buffered = 0
        self.acked = 0
        self.released = 0
        self.expired = 0
        self.given_back = 0
        self.cancelled = 0
        self.dead = 0
        self.dropped = 0
        self.superseded = 0
        self.outlived = 0  # items whose time to live was over
        self.undone = 0  # hand-outs that were taken back, or were not to count

    # Inspection

    def __contains__(self, key: K) -> bool:
        return key in self.ready or key in self.leased or key in self.delayed

    def item(self, key: K) -> Item[K, V] | None:
        """Return the item of a key, whatever its state, to look at; None: absent. O(1)."""
        for _, items in self._tables():
            found = items.get(key, _ABSENT)
            if found is not _ABSENT:
                return self._seen(key, found)
        return None

    def look(self, key: K) -> tuple[KeyState, V | None]:
        """Return a key's state, and its newest value, as the next consumer would get it. O(1)."""
        for state, items in self._tables():
            found = items.get(key, _ABSENT)
            if found is not _ABSENT:
                item = self._seen(key, found)
                return state, item._value if item._after is None else item._after.value
        return "absent", None

    def items(self, state: KeyState) -> list[Item[K, V]]:
        """Return all items in a state, to look at, ready ones in their line. O(items log items)."""
        if state != "ready" or self.line is None:
            pairs = dict.items(dict(self._tables())[state])
            return in_order(self._seen(key, found) for key, found in pairs)
        full, items = self._make, []
        thing: Any
        for thing, since in self.line.with_times():
            found = thing if type(thing) is full else find(self.ready, thing, full)
            items.append(item := self._seen(thing, found))
            item._since = since
        return items

    def keys(self, state: KeyState) -> set[K]:
        """Return the keys in a state, as far as they are hashable still. O(items)."""
        pairs = dict.items(dict(self._tables())[state])
        full = self._make
        return hashable([found._key if type(found) is full else key for key, found in pairs])

    def values(self) -> Iterator[V]:
        """Iterate over the values of all items. O(items)."""
        for _, items in self._tables():
            for found in dict.values(items):
                yield found._value if type(found) is self._make else found

    def _tables(self) -> tuple[tuple[KeyState, dict[K, Any]], ...]:
        return ("ready", self.ready), ("leased", self.leased), ("delayed", self.delayed)

    @property
    def waiting(self) -> int:
        """The number of ready and delayed items."""
        return len(self.ready) + len(self.delayed)

    @property
    def drained(self) -> bool:
        """True if nothing is ready, delayed or leased, and so nothing is buffered."""
        return not self.ready and not self.leased and not self.delayed

    @property
    def added(self) -> int:
        """The number of items put so far: each is still here, or left in one of five ways."""
        here = self.waiting + len(self.leased) + self.buffered
        return here + self.acked + self.dead + self.dropped + self.superseded + self.cancelled

    @property
    def delivered(self) -> int:
        """The number of hand-outs that count."""
        return self._token - self._first_token - self.undone - self.given_back

    def claimable(self, key: K) -> bool:
        """Return True if a key is ready, its tenant under its cap, and nothing paused. O(1)."""
        if self.paused is not None or key not in self.ready:
            return False
        return self.schedule is None or self.schedule.claimable(self.ready[key]._tenant)

    def tenants(self) -> list[str | None]:
        """Return the tenants that may have ready items. O(tenants)."""
        return [None] if self.schedule is None else [name for name, _, _ in self.schedule]

    def oldest_ready_since(self) -> float | None:
        """Return the time at which the oldest ready item became ready, or None.

        O(1), plus the number of items that are back at the head of the line; with a schedule plus
        that of items which have left since the last one came.
        """
        if self.line is not None:
            return self.line.oldest()
        times: list[float] = []
        for item in first_of(self.ready):
            if item._since is not None:
                times.append(item._since)
            if item._token >= 0:  # from here on they are in the order in which they became ready
                break
        return min(times, default=None)

    def next_deadline(self) -> float:
        """Return the next time to call `tick`; `math.inf`: not before a change. O(1)."""
        first = self._deadlines.first()
        return inf if first is None else first[0]

    # Putting

    def check_put(self, key: K, terms: PutRequest) -> None:
        """Raise the error that `put` would raise. O(1)."""
        check_key(key)
        item = self.item(key)
        if item is not None:
            moves.check_put_on(key, item._tenant, terms, leased=key in self.leased)

    @property
    def dedupes(self) -> bool:
        """True if keys of acknowledged items are duplicates for a while."""
        return bool(self._dedupe_for)

    def is_duplicate(self, key: K, now: float) -> bool:
        """Return True if a key is absent, and was done within ``dedupe_for``. O(1)."""
        return self.was_done(key, now) and key not in self

    def was_done(self, key: K, now: float) -> bool:
        """Return True if a key was done within ``dedupe_for``, absent or not. O(1)."""
        return self._done.get(key, now) > now

    def forget_done(self, key: K) -> None:
        """Accept a key again, however lately it was done. O(1)."""
        self._done.pop(key, None)

    def _remember(self, item: Item[K, V], now: float, seconds: float) -> None:
        """Remember that a key is done: for a while it is a duplicate. O(1), amortised."""
        try:
            self._done[item._key] = now + seconds
            self._done.move_to_end(item._key)
        except Exception:  # its key has changed since it was put: no put can be of this one
            return
        try:
            while self._done and next(iter(self._done.values())) <= now:
                self._done.popitem(last=False)
        except Exception:  # a key has changed since it was done: no put can be of that one
            self._done = by_time(dict.items(self._done))

    def add(
        self,
        key: K,
        value: V,
        now: float | None = None,
        tenant: str | None = None,
        priority: int | None = None,
    ) -> bool:
        """Put a key that is absent, without times; False, and nothing done, if it is there.

        O(1) without a schedule, else O(log tenants).
        """
        try:
            if key in self.ready or key in self.leased or (self.delayed and key in self.delayed):
                return False
        except TypeError:
            check_key(key)
            raise
        kind = type(key)
        plain = kind is str or kind is bytes
        if (
            len(key) > _SHORT  # type: ignore[arg-type]
            if plain
            else kind is int and not -_SMALL < key < _SMALL  # type: ignore[operator]
        ):
            check_key(key)
        make = self._make  # a call as of a method would look for one in the class first
        line = self.line
        if line is not None and tenant is None and (priority is None or priority == NORMAL):
            if type(value) is not make and (plain or kind is int):  # as `PLAIN`
                self.ready[key] = value
                line.order.append(key)
            else:
                self.ready[key] = item = make(self._queue, key, value)
                line.order.append(self._in_line(item))
            if now is not None:
                line.times.append(now)
            elif line.times:
                line.times.append(nan)
            return True
        schedule = self.schedule or self._make_schedule()
        item = make(self._queue, key, value)
        item._since = now
        item._tenant = tenant
        if priority is not None:
            item._priority = priority
        self.ready[key] = item
        schedule.push(item, "back")
        return True

    def add_leased(
        self, key: K, value: V, now: float, request: ClaimRequest[K]
    ) -> Item[K, V] | None:
        """Put a key that is absent and hand it out, as `add` and `claim`; None: it is there.

        Nothing may be in the line before it, there is no schedule, and the queue is not paused.
        O(1), timed O(log n).
        """
        try:
            if key in self.ready or key in self.leased or (self.delayed and key in self.delayed):
                return None
        except TypeError:
            check_key(key)
            raise
        kind = type(key)
        if (
            len(key) > _SHORT  # type: ignore[arg-type]
            if kind is str or kind is bytes
            else kind is int and not -_SMALL < key < _SMALL  # type: ignore[operator]
        ):
            check_key(key)
        make = self._make
        token = self._token + 1
        item = make(self._queue, key, value, token, 1, now)
        self.leased[key] = item
        self._token = token
        if request.timed:
            item._deadline = deadline = now + request.lease_timeout
            self._deadlines.add_in_order(deadline, item._token, item)
        if request.consumer is not None:
            self._timers_of(item).consumer = request.consumer
        return item

    def put(self, key: K, value: V, now: float, terms: PutRequest) -> PutOutcome:
        """Put a key, whatever state it is in. O(1); if it is timed or has a tenant, O(log n)."""
        self.check_put(key, terms)
        leased = self.leased.get(key)
        if leased is not None:
            return self._put_on_leased(leased, value, now, terms)
        if key in self.ready or key in self.delayed:
            return self._put_on_waiting(key, value, now, terms)
        if self.is_duplicate(key, now):
            return PutOutcome.DUPLICATE
        return self._put_new(key, value, now, terms)

    def put_accepted(self, key: K, value: V, now: float, terms: PutRequest) -> PutOutcome:
        """Put a key that `check_put` has accepted before. It does not raise. As for `put`.

        It may be one of several that are put all or none. If its look-up raises now, it is tried
        once more; a key that raises always is equal to no other one, and so it is a new one.
        """
        for _ in range(2):
            with suppress(Exception):
                return self.put(key, value, now, terms)
        return self._put_new(key, value, now, terms)

    def _put_new(self, key: K, value: V, now: float, terms: PutRequest) -> PutOutcome:
        item = self._make(self._queue, key, value)
        if terms.priority is not None:
            item._priority = terms.priority
        item._tenant = terms.tenant
        self._place(item, now, due=now + terms.delay, expires=now + terms.ttl)
        return PutOutcome.ADDED

    def _put_on_waiting(self, key: K, value: V, now: float, terms: PutRequest) -> PutOutcome:
        make = self._make
        found = self.ready.get(key, _ABSENT)
        if terms.is_plain and found is not _ABSENT and make not in (type(found), type(value)):
            self.ready[key] = value  # bare, as it was
            return PutOutcome.REPLACED
        item = self._waiting(key)
        assert item is not None
        was = self._record(item)
        moved = moves.put_on_waiting(was, value, terms, now)
        record = moved.item
        assert record is not None
        assert moved.outcome is not None
        item._value = value
        if record.state == "ready" and moved.place is None:  # where it was
            if record.expires != was.expires:
                self._timers_of(item).expires = record.expires
                self._set_deadline(item, record.expires)
            return moved.outcome
        self._take_out(item)
        item._priority = record.priority
        item._token = 0
        self._place(item, now, due=record.due, expires=record.expires)
        return moved.outcome

    def _put_on_leased(
        self, item: Item[K, V], value: V, now: float, terms: PutRequest
    ) -> PutOutcome:
        moved = moves.put_on_leased(self._record(item), value, terms, now)
        assert moved.item is not None
        assert moved.outcome is not None
        after = moved.item.after
        assert after is not None
        if after.buffered and not (item._after is not None and item._after.buffered):
            self.buffered += 1
        item._after = after
        return moved.outcome

    # Handing out

    def claim_next(self, now: float | None = None, deadline: float = inf) -> Item[K, V] | None:
        """Hand out any item by the short way; None: call `claim` instead. O(1).

        Not for a queue that is paused. ``now`` may be left out where no timekeeper runs and the
        lease never expires.
        """
        make = self._make
        token = self._token + 1
        line = self.line
        turn: Any
        if line is None:
            schedule = self.schedule
            assert schedule is not None
            turn = schedule.next()
            if turn is None:
                return None
        elif (line.special and not line.skim()) or not (order := line.order):
            return None
        else:
            turn = order[0]
        if type(turn) is make:
            if turn._deadline != inf:  # it has a time to live
                return None
            item, key = turn, turn._key
            expel(self.ready, item)
            if line is None:
                assert schedule is not None
                schedule.hand_out(item, restricted=False)
            else:
                order.popleft()
            item._token = token
            item._deliveries += 1
            item._since = now
        else:
            key = turn
            try:
                value = self.ready.pop(key)
            except Exception:  # another key is in the way, that has changed since it was put
                return None
            if type(value) is make:  # it is in full, or another one
                insert(self.ready, value)
                return None
            order.popleft()
            item = make(self._queue, key, value, token, 1, now)
        try:
            alike = self.leased.setdefault(key, item)
        except Exception:  # its key, or one in its way, has changed since it was put
            alike = None
        if alike is not item:
            insert(self.leased, item)
        self._token = token
        if deadline != inf:
            item._deadline = deadline
            self._deadlines.add_in_order(deadline, token, item)
        if not token & _OFTEN:
            self._tidy()
        return item

    def _tidy(self) -> None:
        """Give back what a longer line has left behind. O(1), amortised."""
        if self.line is not None:
            self.line.tidy()
        if getsizeof(self.ready) > _SPARSE * (len(self.ready) + _OFTEN):
            rebuild(self.ready, [*dict.items(self.ready)], self._make)

    def claim(self, request: ClaimRequest[K], now: float) -> Item[K, V] | None:
        """Hand out an item for a request; None: none is ready, or the queue is paused.

        O(1), with a timeout or tenants O(log n), restricted to some tenants O(their number).
        """
        while self.paused is None:
            item = self._first(request)
            if item is None:
                return None
            if item._deadline > now:
                return self._hand_out(item, request, now)
            self._outlive(item, now)
        return None

    def _first(self, request: ClaimRequest[K]) -> Item[K, V] | None:
        if request.key is not ANY_KEY:
            return self._waiting(request.key) if self.claimable(request.key) else None
        if self.schedule is None:
            assert self.line is not None
            if not self.ready or not request.serves(None):
                return None
            return self._full(self.line.first())
        if request.tenants is None:
            return self.schedule.next()
        own = self.schedule.next_of(request.tenants)
        return own or self.schedule.next_of(request.steal_from)

    def _hand_out(self, item: Item[K, V], request: ClaimRequest[K], now: float) -> Item[K, V]:
        expel(self.ready, item)
        if self.line is not None:
            self.line.leave(self._in_line(item), item._token)
        else:
            assert self.schedule is not None
            self.schedule.hand_out(item, restricted=request.restricted)
        insert(self.leased, item)
        self._token = item._token = self._token + 1
        item._deliveries += 1
        item._since = now
        if item._deadline != inf:
            self._deadlines.drop(item)
            item._deadline = inf
        if request.lease_timeout != inf:
            item._deadline = now + request.lease_timeout
            self._deadlines.add_in_order(item._deadline, item._token, item)
        if request.consumer is not None:
            self._timers_of(item).consumer = request.consumer
        return item

    def undo(self, item: Item[K, V], now: float) -> None:
        """Take back a hand-out that its consumer never saw."""
        if not self.wind_up(item, now):
            self._move(item, moves.after_undo(self._record(item), now), now)

    # Settling

    def ack(self, item: Item[K, V], now: float = 0.0) -> bool:
        """Acknowledge an item. True: an update came that its consumer never saw. O(1)."""
        if item._ended is not None or item._deadline <= now:
            check_held(item, now)
        try:
            found = self.leased.pop(item._key, None)
        except Exception:  # as in `claim_next`
            found = None
        if found is not item:
            self._expel(self.leased, item, found)
        item._ended = "acked"
        if item._deadline != inf:
            self._deadlines.drop(item)
        if self.schedule is not None:
            self.schedule.end(item)
        self.acked += 1
        if self._dedupe_for:
            self._remember(item, now, self._dedupe_for)
        after = item._after
        if after is None:
            return False
        if after.buffered:
            self.buffered -= 1
            self._join(item, moves.after_buffer(self._record(item), after, now), "back", now)
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
        """Release an item to be tried again; or give it up, at a counted last delivery."""
        check_held(item, now)
        rest = self.verdict(item, rests=delay is None and not front) if counted else 0.0
        self.release_as(rest, item, now, front=front, delay=delay, counted=counted, error=error)

    def verdict(self, item: Item[K, V], *, rests: bool = True) -> float | None:
        """Ask the retry policy for the rest of a leased item, in seconds; None: it dies.

        The policy may be the user's own, and raise.

        Args:
            item: The item, whose delivery counts.
            rests: False: only death is in question, since it rests otherwise or not at all.
        """
        if self._retry.exhausted(item._deliveries):
            return None
        return rest_by(self._retry, item._deliveries) if rests else 0.0

    def release_as(
        self,
        rest: float | None,
        item: Item[K, V],
        now: float,
        *,
        front: bool = False,
        delay: float | None = None,
        counted: bool = True,
        error: str | None = None,
    ) -> None:
        """Release a held item by the verdict of the policy. It does not raise."""
        if rest is None:
            self._die(item, MOVES["fail"], now, "max_deliveries", error)
            return
        moved = moves.after_release(
            self._record(item), now, front=front, delay=delay, counted=counted, rest=rest
        )
        self._move(item, moved, now)

    def fail(
        self,
        item: Item[K, V],
        now: float,
        error: str,
        backoff: Backoff | None = None,
        *,
        fallback: float = moves.UNDECIDED,
    ) -> None:
        """Release the item of a body that raised, even if the retry policy raises.

        Args:
            item: The item.
            now: The time.
            error: The error of the body.
            backoff: The policy for the rest, instead of the retry policy's.
            fallback: The rest in seconds if a policy raises.
        """
        check_held(item, now)
        rest = self._safe_verdict(item, backoff, fallback=fallback)
        self.release_as(rest, item, now, error=error)

    def _safe_verdict(
        self,
        item: Item[K, V],
        backoff: Backoff | None = None,
        *,
        rests: bool = True,
        fallback: float = moves.UNDECIDED,
    ) -> float | None:
        """Ask the policy about an item that no caller will settle again.

        If the policy raises, that is kept in `mishaps`, and the item is tried again after a rest.
        """
        try:
            rest = self.verdict(item, rests=rests and backoff is None)
            if rest is not None and backoff is not None:
                rest = rest_by(backoff, item._deliveries)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.mishaps.append((item, error))
            return fallback
        return rest

    def give_back(self, item: Item[K, V], now: float) -> None:
        """Take back, uncounted, an item whose consumer was cancelled."""
        check_held(item, now)
        self._move(item, moves.after_give_back(self._record(item), now), now)

    def reject(self, item: Item[K, V], now: float, reason: str, error: str | None = None) -> None:
        """Give an item up."""
        check_held(item, now)
        self._die(item, MOVES["reject"], now, reason, error)

    def extend(self, item: Item[K, V], now: float, deadline: float) -> None:
        """Set a new deadline for a lease, earlier or later; `math.inf`: never. O(log n)."""
        check_held(item, now)
        self._set_deadline(item, deadline)

    # Cancelling

    def cancel(self, key: K, *, keep_successor: bool = False) -> Item[K, V] | None:
        """Cancel the item of a key, and return it; None: there is none, or it was cancelled before.

        A lease has ended as "cancelled" from now on; see `wind_up`. O(1), delayed or with a tenant
        O(log n).

        Args:
            key: The key.
            keep_successor: True: a successor that was buffered stays.
        """
        item = self._waiting(key)
        if item is not None:
            self._take_out(item)
            self._count(MOVES["cancel"].counts)
            return item
        item = self.leased.get(key)
        if item is None:
            return None
        record = self._record(item)
        moved = moves.after_cancel(record, keep_successor=keep_successor)
        if record.cancelled and not moved.counts:
            return None
        assert moved.item is not None
        self._count(moved.counts)
        self.buffered -= len(moved.counts)  # the only thing that counts by now is a successor
        item._after = moved.item.after
        item._ended = "cancelled"
        return item

    def wind_up(self, item: Item[K, V], now: float) -> bool:
        """Free the key of a cancelled item whose holder has ended; False: it is free. O(log n)."""
        if item._ended != "cancelled" or item._deadline == -inf:
            return False
        self._move(item, moves.after_wind_up(self._record(item), now), now)
        return True

    def hold_on(self, item: Item[K, V], deadline: float) -> bool:
        """Put off the time at which the key of a cancelled item is free; False: it is. O(log n)."""
        if item._ended != "cancelled" or item._deadline == -inf:
            return False
        self._set_deadline(item, deadline)
        return True

    # Timed events, and the end of many leases

    def tick(self, now: float) -> Iterator[Item[K, V]]:
        """Process what is due, and yield each item concerned. O(log n) each.

        An item whose lease has expired has ``ended``; the others have fallen due, or are dead.
        """
        deadlines = self._deadlines
        while (first := deadlines.first()) is not None and first[0] <= now:
            item = self._full(first[1])
            if self._state(item) == "leased":
                self._lose(item, now, MOVES["expire"])()
            elif self._timers_of(item).expires <= now:
                self._outlive(item, now)
            else:
                moved = moves.after_due(self._record(item), now)
                record = moved.item
                assert record is not None
                self._take_out(item)
                self._place(item, now, due=record.due, expires=record.expires)
            yield item

    def revoke(self, consumer: str, now: float) -> list[Item[K, V]]:
        """End all leases of a consumer that is gone, as if they had expired. O(leased)."""
        leases = self.leased.values()
        lost = [
            item
            for item in leases
            if item._timers is not None and item._timers.consumer == consumer
        ]
        for move in [self._lose(item, now, MOVES["revoke"]) for item in lost]:
            move()
        return lost

    def _lose(self, item: Item[K, V], now: float, cause: Move) -> Callable[[], None]:
        """Compute the move of an item whose lease is lost, and return a function that does it."""
        record = self._record(item)
        if record.cancelled:
            return lambda: self._move(item, moves.after_wind_up(record, now), now)
        expired = cause is MOVES["expire"]
        judge = self._safe_verdict if expired else self.verdict
        rest = judge(item, rests=record.expiries > 0)
        if rest is None:
            moved, burial = self._death(item, cause, now, "max_deliveries", None)
            return lambda: self._move(item, moved, now, burial)
        again = (moves.after_expiry if expired else moves.after_revocation)(record, now, rest)
        return lambda: self._move(item, again, now)

    def _outlive(self, item: Item[K, V], now: float) -> None:
        self._die(item, MOVES["outlive"], now, "expired", None)

    def close(self, now: float) -> list[Item[K, V]]:
        """End every lease: leased items return to their old places. O(leased)."""
        lost = list(self.leased.values())
        for item in lost:
            if not self.wind_up(item, now):
                self._move(item, moves.after_close(self._record(item), now), now)
        return lost

    def drain(self) -> list[Item[K, V]]:
        """Drop all waiting items, and return them: ready ones, then delayed ones by due time."""
        ready = self.ready.values() if self.line is None else self.line
        left = [self._full(thing) for thing in [*ready]]
        for key in [*self._bare]:
            self._full(key)
        left += sorted(self.delayed.values(), key=lambda item: self._timers_of(item).due)
        for item in left:
            self._take_out(item)
        self._count(MOVES["drain"].counts, len(left))
        return left

    def discard(self, key: K) -> Item[K, V] | None:
        """Drop the waiting item of a key, and return it; None: none waits. O(1), or as a put."""
        item = self._waiting(key)
        if item is not None:
            self._take_out(item)
            self._count(MOVES["drain"].counts)
        return item

    def take_out(self, key: K) -> Item[K, V]:
        """Remove a ready item, as if it had been acknowledged. O(1)."""
        item = self._waiting(key)
        assert item is not None
        self._take_out(item)
        self._count(MOVES["take_out"].counts)
        return item

    # Weights and caps

    def set_tenant(self, name: str | None, tenant: Tenant) -> None:
        """Give a tenant another weight or cap. O(log tenants)."""
        (self.schedule or self._make_schedule()).set(name, tenant)

    def pause(self, tenant: str | None, reason: str, since: float) -> None:
        """Stop handing out items, or those of a tenant. O(log tenants).

        A second pause replaces the reason, and leaves the time.

        Args:
            tenant: The tenant; None: the whole queue.
            reason: The reason.
            since: Seconds since the epoch.

        Raises:
            ValueError: `MOST_PAUSED` other tenants are paused.
        """
        if tenant is None:
            self.paused = pause_of(self.paused, reason, since)
            return
        was = self.paused_tenants.get(tenant)
        if was is None and len(self.paused_tenants) >= MOST_PAUSED:
            raise too_many_paused(tenant)
        self.paused_tenants[tenant] = pause_of(was, reason, since)
        if was is None and self.schedule is not None:
            self.schedule.refile(tenant)

    def resume(self, tenant: str | None) -> bool:
        """Hand out items again, or those of a tenant; False: no pause of it. O(log tenants)."""
        if tenant is None:
            was, self.paused = self.paused, None
            return was is not None
        if self.paused_tenants.pop(tenant, None) is None:
            return False
        if self.schedule is not None:
            self.schedule.refile(tenant)
        return True

    def _make_schedule(self) -> Schedule[K, V]:
        """Begin to have tenants or priorities. O(ready + leased), once."""
        schedule: Schedule[K, V] = Schedule({}, self._ranks, self.paused_tenants)
        for item in self.leased.values():
            schedule.adopt(item)
        items = self.items("ready")
        self.ready.clear()
        for item in items:
            schedule.push(item, "old" if item._token < 0 else "back")
            insert(self.ready, item)
        self.line = None
        self.schedule = schedule
        return schedule

    # Bare items, and items in full

    def _seen(self, key: Any, found: Any) -> Item[K, V]:
        """Return what is under a key as an item; that of a bare one is to look at, and no more."""
        if type(found) is self._make:
            return found
        item = self._make(self._queue, key, found)
        entry = self._bare.get(key)
        if entry is not None:
            timers = self._timers_of(item)
            timers.due, timers.number, _ = entry
            item._deadline = timers.due
        return item

    def _full(self, thing: Any) -> Item[K, V]:
        """Return a waiting item, which is in full from now on. O(1), delayed O(log n).

        Args:
            thing: The item, or the plain key that stands for it in the line or the deadlines.
        """
        if type(thing) is self._make:
            return thing
        items = self.delayed if thing in self._bare else self.ready
        found = find(items, thing, self._make)
        item = self._seen(thing, found)
        if item is not found:
            fill(items, item)
            if item._deadline != inf:
                _, _, key = self._bare.pop(thing)
                self._deadlines.drop(key)
                due, item._deadline = item._deadline, inf
                self._set_deadline(item, due)
        return item

    def _waiting(self, key: K) -> Item[K, V] | None:
        """Return the waiting item of a key, in full from now on; None: none waits. As `_full`."""
        make = self._make
        found = self.ready.get(key, _ABSENT)
        if found is _ABSENT:
            found = self.delayed.get(key, _ABSENT)
            if found is _ABSENT or type(found) is make:
                return None if found is _ABSENT else found
            return self._full(plain_key(self.delayed, key))
        if type(found) is make:
            return found
        self.ready[key] = item = make(self._queue, plain_key(self.ready, key), found)
        return item

    def _in_line(self, item: Item[K, V]) -> K | Item[K, V]:
        """Return what stands for a ready item in the line: its key, if it is at the back and plain.

        So it can become bare, and be in full again, where it stands.
        """
        return item._key if item._token >= 0 and type(item._key) in PLAIN else item

    def _may_be_bare(self, item: Item[K, V]) -> bool:
        """Return True if nothing is unusual about an item that joins at the back, or is delayed."""
        timers = item._timers
        return (
            type(item._key) in PLAIN
            and type(item._value) is not self._make
            and item._tenant is None
            and item._priority == NORMAL
            and not (item._deliveries or item._cancellations)
            and (timers is None or timers.of_any_item)
        )

    # Moves: everything that can raise has been computed

    def _state(self, item: Item[K, V]) -> KeyState:
        if has(self.leased, item):
            return "leased"
        if has(self.delayed, item):
            return "delayed"
        if not has(self.ready, item):  # its key has changed since it was put
            if any(other is item for other in self.leased.values()):
                return "leased"
            if any(other is item for other in self.delayed.values()):
                return "delayed"
        return "ready"

    def _record(self, item: Item[K, V]) -> ItemRecord[V]:
        """Return an item as the rules see it."""
        state = self._state(item)
        extra = item._timers
        if extra is None:
            return ItemRecord(
                state, item._value, item._priority, item._tenant,
                item._deliveries, item._cancellations, after=item._after,
                cancelled=item._ended == "cancelled",
            )  # fmt: skip
        return ItemRecord(
            state, item._value, item._priority, item._tenant,
            item._deliveries, item._cancellations, extra.expiries, extra.due, extra.not_before,
            extra.expires, item._after, item._ended == "cancelled",
        )  # fmt: skip

    def _move(
        self, item: Item[K, V], moved: Moved[V], now: float, burial: Burial | None = None
    ) -> None:
        """Carry out a computed move of an item, leased or waiting."""
        if moved.ended is not None:
            self._end(item, moved.ended)
        else:
            self._take_out(item)
        if item._after is not None and item._after.buffered:
            self.buffered -= 1
        self._count(moved.counts)
        if moved.item is not None:
            self._join(item, moved.item, moved.place or "back", now)
        if burial is not None and burial.finish is not None:
            burial.finish()

    @staticmethod
    def _expel(items: dict[K, Item[K, V]], item: Item[K, V], instead: Item[K, V] | None) -> None:
        """Take out an item whose key has changed, when another one was taken out instead."""
        if instead is not None:
            insert(items, instead)
        expel(items, item)

    def _end(self, item: Item[K, V], how: Ended) -> None:
        expel(self.leased, item)
        item._ended = how
        if item._deadline != inf:
            self._deadlines.drop(item)
        if how == "cancelled":
            item._deadline = -inf
        if self.schedule is not None:
            self.schedule.end(item)

    def _count(self, counters: tuple[Counter, ...], by: int = 1) -> None:
        for name in counters:
            setattr(self, name, getattr(self, name) + by)

    def _join(self, old: Item[K, V], record: ItemRecord[V], place: Place, now: float) -> None:
        """Add the item that follows another of its key: its successor, or the same one again."""
        item = self._make(self._queue, old._key, record.value)
        item._tenant = record.tenant
        item._priority = record.priority
        item._deliveries = record.deliveries
        item._cancellations = record.cancellations
        if record.expiries:
            self._timers_of(item).expiries = record.expiries
        if record.not_before > now:
            self._timers_of(item).not_before = record.not_before
        if place == "old":
            item._token = old._token
        self._place(item, now, due=record.due, expires=record.expires, place=place)

    def _death(
        self, item: Item[K, V], cause: Move, now: float, reason: str, error: str | None
    ) -> tuple[Moved[V], Burial]:
        """Prepare an item's burial, and compute the move of its key."""
        record = self._record(item)
        token = item._token if record.state == "leased" else last_token(item)
        burial = self._bury(Death(item, moves.newest_value(record), token, reason, error))
        rest = moves.unburied_rest(self._retry)
        return moves.after_death(cause, record, now, burial.fate, rest), burial

    def _die(
        self, item: Item[K, V], cause: Move, now: float, reason: str, error: str | None
    ) -> None:
        """Bury an item; if that is impossible, keep it for later."""
        moved, burial = self._death(item, cause, now, reason, error)
        self._move(item, moved, now, burial)

    # Getting into the line, and out

    def _place(
        self, item: Item[K, V], now: float, *, due: float, expires: float, place: Place = "back"
    ) -> None:
        """Add an item: to the line, or to the delayed items until it is due."""
        if due > now or expires != inf or item._timers is not None:
            extra = self._timers_of(item)
            extra.due = due if due > now else -inf
            extra.expires = expires
            if due <= now and expires == inf:
                extra.number = 0
        if due > now:
            bare = self._may_be_bare(item)
            if bare and insert_bare(self.delayed, item._key, item._value):
                number = self._next_number(item)
                self._bare[item._key] = self._deadlines.add_in_order(due, number, item._key)
                return
            insert(self.delayed, item)
            self._set_deadline(item, min(due, expires))
            return
        item._since = now
        schedule = self.schedule
        if schedule is None and (item._tenant is not None or item._priority != NORMAL):
            schedule = self._make_schedule()
        if schedule is not None:
            schedule.push(item, place)
            insert(self.ready, item)
        else:
            self._stand_in_line(item, place, now)
        self._set_deadline(item, expires)

    def _stand_in_line(self, item: Item[K, V], place: Place, now: float) -> None:
        """Add a ready item to the line, where there is no schedule."""
        line = self.line
        assert line is not None
        bare = place == "back" and self._may_be_bare(item)
        if bare and insert_bare(self.ready, item._key, item._value):
            line.insert(item._key, 0, now)
            return
        self._ranks.give(item, place)
        insert(self.ready, item)
        line.insert(self._in_line(item), item._token, now)

    def _take_out(self, item: Item[K, V]) -> None:
        """Remove a waiting item."""
        if self._state(item) == "delayed":
            expel(self.delayed, item)
        else:
            expel(self.ready, item)
            if self.line is not None:
                self.line.leave(self._in_line(item), item._token)
            else:
                assert self.schedule is not None
                self.schedule.remove(item)
        self._set_deadline(item, inf)

    def _timers_of(self, item: Item[K, V]) -> ItemTimers:
        if item._timers is None:
            item._timers = ItemTimers()
        return item._timers

    def _set_deadline(self, item: Item[K, V], deadline: float) -> None:
        if item._deadline != inf:
            self._deadlines.drop(item)
        item._deadline = deadline
        if deadline != inf:
            leased = self._state(item) == "leased"
            number = item._token if leased else self._next_number(item)
            self._deadlines.add_in_order(deadline, number, item)

    def _is_due(self, when: float, thing: Any) -> bool:
        if type(thing) is self._make:
            return thing._deadline == when and thing._ended in (None, "cancelled")
        entry = self._bare.get(thing)
        return entry is not None and entry[0] is when

    def _next_number(self, item: Item[K, V]) -> int:
        """Return a number for a waiting item, for its place among those that fall due with it.

        Each is another one, greater than its last one and less than that of any later item.
        """
        timers = self._timers_of(item)
        if timers.number:
            timers.number += 1
        else:
            self._number = timers.number = self._number + _NUMBERS
        return timers.number
