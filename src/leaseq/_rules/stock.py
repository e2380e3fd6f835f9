"""The items, how they are put, and how they get into the line. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from .._core.errors import KeyAlreadyInFlightError
from .._core.heap import Deadlines
from .._core.messages import tenant_mismatch
from .._core.options import ANY_KEY
from .._core.policies import Priority, Tenant
from .._core.reports import PutOutcome
from .._core.validation import check_hashable
from .ready_list import Line, Place
from .schedule import Schedule

if TYPE_CHECKING:
    from .._core.requests import ClaimRequest, PutRequest
    from ..abc import LeasedQueue
    from .item import Item

__all__ = ["Stock", "Successor", "check_put_on"]

K = TypeVar("K")
V = TypeVar("V")

_NORMAL = int(Priority.NORMAL)


def check_put_on(key: object, tenant: str | None, terms: PutRequest, *, leased: bool) -> None:
    """Raise if a key that is there, for this tenant, cannot be put like that."""
    if leased and terms.if_in_flight == "reject":
        raise KeyAlreadyInFlightError(
            f'key {key!r} is leased: wait until it is settled, or put it with if_in_flight="buffer"'
        )
    if terms.tenant not in (None, tenant):
        raise tenant_mismatch(key, tenant, terms.tenant)


class Extra:
    """What few items have. Times are on the ledger's clock."""

    __slots__ = ("consumer", "due", "expires", "expiries", "not_before")

    def __init__(self) -> None:
        self.due = -inf  # when it is ready
        self.not_before = -inf  # no put may make that earlier: it rests after a failure
        self.expires = inf  # when its time to live is over
        self.expiries = 0  # leases on it that ran out
        self.consumer: str | None = None


class Successor(Generic[V]):
    """What was put while its key was leased: a buffered item, or an update of the leased one."""

    __slots__ = ("buffered", "due", "expires", "priority", "tenant", "value")

    def __init__(self, value: V, priority: int, tenant: str | None) -> None:
        self.value = value
        self.priority = priority
        self.tenant = tenant
        self.buffered = False
        self.due = -inf
        self.expires = inf


class Stock(Generic[K, V]):
    """The items, each where its state says, and how those that wait get into the line and out.

    Ready ones are in `ready`. While all have one priority and no tenant, that is the line's; with
    the first one that has, a schedule takes over. Delayed ones are in `delayed`, leased ones in
    `leased`, in the order of the hand-outs. What falls due by itself is in the deadlines under the
    item's `deadline`.
    """

    def __init__(
        self,
        make: type[Item[K, V]],
        queue: LeasedQueue[K, V],
        tenants: Mapping[str, Tenant] | None,
        dedupe_for: float | None,
    ) -> None:
        self._make = make
        self._queue = queue
        self._deadlines: Deadlines[Item[K, V]] = Deadlines()
        self.schedule: Schedule[K, V] | None = None if tenants is None else Schedule(tenants)
        line: Line[K, V] = Line()
        self.ready = line.items
        self.line = line if self.schedule is None else None
        self.delayed: dict[K, Item[K, V]] = {}
        self.leased: dict[K, Item[K, V]] = {}
        self.buffered = 0
        self._dedupe_for = dedupe_for
        self._done: OrderedDict[K, float] = OrderedDict()  # keys not to be taken again, until when

    def __contains__(self, key: K) -> bool:
        return key in self.ready or key in self.leased or key in self.delayed

    def item(self, key: K) -> Item[K, V] | None:
        """The item of a key, whatever its state; None: absent. O(1)."""
        return self.ready.get(key) or self.leased.get(key) or self.delayed.get(key)

    def peek(self, key: K) -> V | None:
        """The newest value of a key, as the next consumer would get it; None: absent. O(1)."""
        item = self.item(key)
        if item is None:
            return None
        return item.value if item.after is None else item.after.value

    @property
    def waiting(self) -> int:
        """Items ready and delayed."""
        return len(self.ready) + len(self.delayed)

    def claimable(self, key: K) -> bool:
        """Whether a key is ready, and its tenant under its cap. O(1)."""
        item = self.ready.get(key)
        if item is None:
            return False
        return self.schedule is None or self.schedule.claimable(item.tenant)

    def oldest_ready_since(self) -> float | None:
        """When the item that has been ready for longest became so, or None.

        O(1), plus the number of items that are back at the head of the line.
        """
        times: list[float] = []
        for item in self.ready.values():
            if item.since is not None:
                times.append(item.since)
            if not item.token:  # from here on they are in the order in which they became ready
                break
        return min(times, default=None)

    def next_deadline(self) -> float:
        """When to call `tick` again; `math.inf`: not before something changes. O(1)."""
        return self._deadlines.next()

    # Putting

    def check_put(self, key: K, terms: PutRequest) -> None:
        """Raise what `put` would raise. O(1)."""
        check_hashable(key)
        item = self.item(key)
        if item is not None:
            check_put_on(key, item.tenant, terms, leased=key in self.leased)

    @property
    def dedupes(self) -> bool:
        """Whether a key that is done is not taken again for a while."""
        return bool(self._dedupe_for)

    def is_duplicate(self, key: K, now: float) -> bool:
        """Whether a key is absent, and was done so lately that it is not taken again. O(1)."""
        return self._done.get(key, now) > now and key not in self

    def forget_done(self, key: K) -> None:
        """Take a key again, however lately it was done. O(1)."""
        self._done.pop(key, None)

    def _remember(self, key: K, now: float) -> None:
        """A key is done: for a while it is not taken again. O(1), amortised."""
        if not self._dedupe_for:
            return
        self._done[key] = now + self._dedupe_for
        self._done.move_to_end(key)
        while next(iter(self._done.values())) <= now:
            self._done.popitem(last=False)

    def add(
        self,
        key: K,
        value: V,
        now: float | None = None,
        tenant: str | None = None,
        priority: int | None = None,
    ) -> bool:
        """Put a key that is absent, for now and for ever; False, and nothing done, if it is not.

        O(1) without a schedule, else O(log tenants).
        """
        try:
            if key in self.ready or key in self.leased or (self.delayed and key in self.delayed):
                return False
        except TypeError:
            check_hashable(key)
            raise
        item = self._make(self._queue, key, value)
        if now is not None:
            item.since = now
        schedule = self.schedule
        if tenant is not None or priority is not None:
            item.tenant = tenant
            if priority is not None:
                item.priority = priority
            if schedule is None and (tenant is not None or priority != _NORMAL):
                schedule = self._make_schedule()
        if schedule is not None:
            schedule.push(item, "back")
        self.ready[key] = item
        return True

    def put(self, key: K, value: V, now: float, terms: PutRequest) -> PutOutcome:
        """Put a key, whatever state it is in. O(1); if it is timed or has a tenant, O(log n)."""
        self.check_put(key, terms)
        if self.is_duplicate(key, now):
            return PutOutcome.DUPLICATE
        leased = self.leased.get(key)
        if leased is not None:
            return self._put_in_flight(leased, value, now, terms)
        waiting = self.ready.get(key) or self.delayed.get(key)
        if waiting is not None:
            self._replace(waiting, value, now, terms)
            return PutOutcome.REPLACED
        item = self._make(self._queue, key, value)
        if terms.priority is not None:
            item.priority = terms.priority
        item.tenant = terms.tenant
        self._place(item, now, due=now + terms.delay, expires=now + terms.ttl)
        return PutOutcome.ADDED

    def _replace(self, item: Item[K, V], value: V, now: float, terms: PutRequest) -> None:
        """A put on an item that waits.

        The value is replaced, the place kept. A higher priority joins the back of that priority's
        line. A time to live starts anew. The due time becomes the earlier one, or with "latest" the
        new one; never earlier than the rest after a failure.
        """
        item.value = value
        extra = item.extra
        due, rest, expires = (
            (-inf, -inf, inf) if extra is None else (extra.due, extra.not_before, extra.expires)
        )
        if terms.reschedule == "latest":
            due = now + terms.delay
        elif item.key in self.delayed:
            due = min(due, now + terms.delay)
        due = max(due, rest)
        if terms.ttl != inf:
            expires = now + terms.ttl
        higher = terms.priority is not None and terms.priority > item.priority
        moved = item.key in self.delayed or due > now or higher or terms.ttl != inf
        if not moved:
            return
        place: Place | None = "back" if higher or item.key in self.delayed else None
        if place is None and due <= now:  # its place is kept: only its time to live is new
            self._set_deadline(item, expires)
            self._extra(item).expires = expires
            return
        self._take_out(item)
        if higher:
            item.priority = terms.priority or 0
        item.token = 0
        self._place(item, now, due=due, expires=expires)

    def _put_in_flight(
        self, item: Item[K, V], value: V, now: float, terms: PutRequest
    ) -> PutOutcome:
        after = item.after
        if after is None:
            item.after = after = Successor(value, item.priority, item.tenant)
        after.value = value
        if terms.priority is not None:
            after.priority = max(after.priority, terms.priority)
        if terms.if_in_flight == "update" and not after.buffered:
            return PutOutcome.UPDATED_IN_FLIGHT
        due = now + terms.delay
        if not after.buffered:
            after.buffered = True
            self.buffered += 1
            after.due = due
        else:
            after.due = due if terms.reschedule == "latest" else min(after.due, due)
        if terms.ttl != inf:
            after.expires = now + terms.ttl
        return PutOutcome.BUFFERED

    # Getting into the line, and out

    def _first(self, request: ClaimRequest[K]) -> Item[K, V] | None:
        if request.key is not ANY_KEY:
            return self.ready[request.key] if self.claimable(request.key) else None
        if self.schedule is None:
            assert self.line is not None
            return self.line.first() if self.ready and request.serves(None) else None
        if request.tenants is None:
            return self.schedule.next()
        own = self.schedule.next_of(request.tenants)
        return own or self.schedule.next_of(request.steal_from)

    def _place(
        self, item: Item[K, V], now: float, *, due: float, expires: float, place: Place = "back"
    ) -> None:
        """Let an item wait: in the line, or until it is due."""
        if due > now or expires != inf or item.extra is not None:
            extra = self._extra(item)
            extra.due = due if due > now else -inf
            extra.expires = expires
        if due > now:
            self.delayed[item.key] = item
            self._set_deadline(item, min(due, expires))
            return
        item.since = now
        schedule = self.schedule
        if schedule is None and (item.tenant is not None or item.priority != _NORMAL):
            schedule = self._make_schedule()
        if schedule is not None:
            schedule.push(item, place)
            self.ready[item.key] = item
        else:
            assert self.line is not None
            self.line.join(item, place)
        self._set_deadline(item, expires)

    def _make_schedule(self) -> Schedule[K, V]:
        """From now on there are tenants, or priorities. O(ready + leased), once."""
        self.schedule = schedule = Schedule[K, V]()
        for item in self.leased.values():
            schedule.adopt(item)
        assert self.line is not None
        for item in list(self.line):
            schedule.push(item, "old" if item.token else "back")
        self.line = None
        return schedule

    def set_tenant(self, name: str | None, tenant: Tenant) -> None:
        """Give a tenant another weight or cap. O(log tenants)."""
        (self.schedule or self._make_schedule()).set(name, tenant)

    def _take_out(self, item: Item[K, V]) -> None:
        """Let an item wait no more."""
        if self.delayed.get(item.key) is item:
            del self.delayed[item.key]
        elif self.line is not None:
            self.line.leave(item)
        else:
            assert self.schedule is not None
            del self.ready[item.key]
            self.schedule.remove(item)
        self._set_deadline(item, inf)

    def _extra(self, item: Item[K, V]) -> Extra:
        if item.extra is None:
            item.extra = Extra()
        return item.extra

    def _set_deadline(self, item: Item[K, V], deadline: float) -> None:
        if item.deadline != inf:
            self._deadlines.drop(item)
        item.deadline = deadline
        if deadline != inf:
            self._deadlines.add(deadline, item)
