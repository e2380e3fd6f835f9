"""Waiting consumers, and the order in which they are served. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .._core.options import ANY_KEY
from .._core.requests import ClaimRequest
from .by_key import can_be_found, leave
from .ledger import Ledger

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")

Kind = Literal[
    "key", "capped", "own", "any", "steal", "patient own", "patient any", "patient steal"
]
_Name = tuple[Kind, Any]  # of a line: its kind; and the key or the tenant, or None for any

_TURNS: tuple[tuple[Kind, ...], ...] = (
    ("capped",),
    ("own", "any"),
    ("steal",),
    ("patient own", "patient any"),
    ("patient steal",),
)
"""The lines for what a tenant has, in the order in which they are served."""

_ANYONE: list[_Name] = [("any", None)]  # of all who take any item: most wait in no other line


class Waiter(Generic[K, V]):
    """A waiting consumer, and the item that it is given; None: it is turned away."""

    __slots__ = ("item", "lines", "number", "request")

    def __init__(self, request: ClaimRequest[K], *, patient: bool = False) -> None:
        self.request = request
        self.item: Item[K, V] | None = None
        self.number = -1  # the order of arrival
        self.lines: list[_Name]
        if not request.restricted:
            self.lines = [("patient any", None)] if patient else _ANYONE
        elif request.key is not ANY_KEY:
            self.lines = [("key", request.key)]
        else:
            assert request.tenants is not None
            own: Kind = "patient own" if patient else "own"
            steal: Kind = "patient steal" if patient else "steal"
            self.lines = [
                *((own, name) for name in request.tenants),
                *((steal, name) for name in request.steal_from),
            ]


class Waiters(Generic[K, V]):
    """Waiting consumers, and the hand-over of items to them.

    There is a line for each key that is waited for, two for each tenant that is named by waiters
    (as one of their own, or to steal from), and one for waiters that take any item; and one for
    each tenant at its cap, or paused, for waiters whose key is ready but for that. A waiter stands
    in each line that may serve it. First come, first served; but waiters for the one key come
    first, and waiters that would steal come last; and after all of these the patient ones, which
    have items already and wait for more.

    No item that can be claimed is left in the line while a waiter may have it: `serve` and
    `serve_tenant` are called after each change that could bring that about.

    Attributes:
        anyone: The line of waiters that take any item.
        total: All waiters.
        takers: The waiters for one key.
    """

    __slots__ = ("_ledger", "_lines", "_numbers", "anyone", "takers", "total")

    def __init__(self, ledger: Ledger[K, V]) -> None:
        self._ledger = ledger
        self.anyone: OrderedDict[Waiter[K, V], None] = OrderedDict()
        self._lines: dict[_Name, OrderedDict[Waiter[K, V], None]] = {}
        self._numbers = count()
        self.total = 0
        self.takers = 0

    def add(self, waiter: Waiter[K, V]) -> None:
        """Add a waiter: last in line, or first if it has waited before. O(its lines)."""
        again = waiter.number >= 0
        if not again:
            waiter.number = next(self._numbers)
        waiter.item = None
        if waiter.lines is _ANYONE:
            self.anyone[waiter] = None
            if again:
                self.anyone.move_to_end(waiter, last=False)
            self.total += 1
            return
        for name in waiter.lines:
            line = self._lines.setdefault(name, OrderedDict())
            line[waiter] = None
            if again:
                line.move_to_end(waiter, last=False)
        self.total += 1  # a key may have raised
        key = waiter.request.key
        if key is not ANY_KEY:
            self.takers += 1
            try:
                self._line_up_for_cap(key)
            except BaseException:  # raised by the key: its consumer does not wait
                self.drop(waiter)
                raise

    def drop(self, waiter: Waiter[K, V]) -> None:
        """Remove a waiter. O(its lines)."""
        if waiter.lines is _ANYONE:
            del self.anyone[waiter]
        else:
            self._leave_lines(waiter, waiter.lines)
        if waiter.request.key is not ANY_KEY:
            self.takers -= 1
            del waiter.lines[1:]  # it may have stood in line for a cap
        self.total -= 1

    def drop_all(self) -> list[Waiter[K, V]]:
        """Remove all waiters, and return them. O(waiters and their lines)."""
        return self._drop_from([self.anyone, *self._lines.values()])

    def drop_takers(self, key: K) -> list[Waiter[K, V]]:
        """Remove the waiters for just this key, and return them. O(their number)."""
        return self._drop_from([self._lines.get(("key", key), OrderedDict())])

    def drop_takers_of_absent(self) -> list[Waiter[K, V]]:
        """Remove the waiters for keys that are not in the ledger, and return them. O(lines)."""
        return self._drop_from(
            line
            for (kind, key), line in self._lines.items()
            if kind == "key" and not (can_be_found(key, self._ledger.item) and key in self._ledger)
        )

    def drop_patient(self) -> list[Waiter[K, V]]:
        """Remove the waiters that have items already. O(their number and the lines)."""
        return self._drop_from(
            line for (kind, _), line in self._lines.items() if kind.startswith("patient")
        )

    def _drop_from(self, lines: Iterable[OrderedDict[Waiter[K, V], None]]) -> list[Waiter[K, V]]:
        waiters = list({waiter: None for line in lines for waiter in line})
        for waiter in waiters:
            self.drop(waiter)
        return waiters

    def hand_new(self, key: K, value: V, now: float) -> Waiter[K, V] | None:
        """Put an item, and hand it over in the same step, to the first of those who take any.

        If there is none, or others wait too, or the key is there, or anything is ready, or there
        are tenants, nothing is done, and this returns None: `Ledger.put` and `serve` do the same
        with more to look at. O(1), a timed lease O(log n).
        """
        anyone, ledger = self.anyone, self._ledger
        if not anyone or len(anyone) != self.total or ledger.ready or ledger.schedule is not None:
            return None
        waiter = next(iter(anyone))
        item = ledger.add_leased(key, value, now, waiter.request)
        if item is None:
            return None
        del anyone[waiter]
        self.total -= 1
        waiter.item = item
        return waiter

    def serve(self, keys: Collection[K], now: float) -> Iterator[Waiter[K, V]]:
        """Hand over keys that may be ready, or their tenants' next items; yield each waiter served.

        O(log n) for each key.
        """
        for key in keys:
            taker = self._first(("key", key))
            if taker is None:
                continue
            if not self._ledger.claimable(key):
                self._line_up_for_cap(key)
            elif self._give(taker, now):
                yield taker
        tenants: dict[str | None, None] = {None: None}
        if self._ledger.schedule is not None:
            ready = self._ledger.ready
            tenants = {ready[key]._tenant: None for key in keys if key in ready}
        yield from self._serve_tenants(tenants, now)

    def serve_all(self, now: float) -> Iterator[Waiter[K, V]]:
        """Hand over all that may be claimed, once the queue is resumed.

        O(tenants), and O(log n) for each waiter served.
        """
        return self._serve_tenants(self._ledger.tenants(), now)

    def serve_tenant(self, tenant: str | None, now: float) -> Iterator[Waiter[K, V]]:
        """Hand over items of a tenant that may be claimed again. O(log n) each."""
        return self._serve_tenants((tenant,), now)

    def _serve_tenants(self, tenants: Collection[str | None], now: float) -> Iterator[Waiter[K, V]]:
        # A waiter may be given an item of another of these tenants, or another item of this one:
        # so each is asked until it has nothing left, or no waiter is left for it.
        for kinds in _TURNS:
            for tenant in tenants:
                while self._claimable(tenant):
                    waiter = self._next(kinds, tenant)
                    if waiter is None:
                        break
                    if self._give(waiter, now):
                        yield waiter

    def _claimable(self, tenant: str | None) -> bool:
        ledger = self._ledger
        if ledger.paused is not None:
            return False
        schedule = ledger.schedule
        return bool(ledger.ready) if schedule is None else schedule.claimable(tenant)

    def _leave_lines(self, waiter: Waiter[K, V], names: Collection[_Name]) -> None:
        for name in list(names):
            leave(self._lines, name, waiter, rename=lambda: ("key", object()))

    def _give(self, waiter: Waiter[K, V], now: float) -> bool:
        """Hand an item over to a waiter; False: there is none left, and it waits on."""
        item = self._ledger.claim(waiter.request, now)
        if item is None:
            if waiter.request.key is not ANY_KEY:
                self._leave_lines(waiter, waiter.lines[1:])  # it is not a cap that keeps it waiting
                del waiter.lines[1:]
                self._line_up_for_cap(waiter.request.key)
            return False
        self.drop(waiter)
        waiter.item = item
        return True

    def _first(self, name: _Name) -> Waiter[K, V] | None:
        line = self.anyone if name[0] == "any" else self._lines.get(name)
        return next(iter(line)) if line else None

    def _next(self, kinds: Collection[Kind], tenant: str | None) -> Waiter[K, V] | None:
        """Return the waiter that came first in these lines for a tenant."""
        first: Waiter[K, V] | None = None
        for kind in kinds:
            waiter = self._first((kind, None if kind.endswith("any") else tenant))
            if first is None or (waiter is not None and waiter.number < first.number):
                first = waiter
        return first

    def _line_up_for_cap(self, key: K) -> None:
        """Have waiters for a ready key wait for its tenant, if only a cap or a pause stops them."""
        ready = self._ledger.ready
        if key not in ready or self._ledger.claimable(key):
            return
        tenant = None if self._ledger.schedule is None else ready[key]._tenant
        name: _Name = ("capped", tenant)
        for waiter in self._lines.get(("key", key), ()):
            if name not in waiter.lines:
                self._leave_lines(waiter, waiter.lines[1:])  # another tenant had the key before
                waiter.lines[1:] = [name]
                self._lines.setdefault(name, OrderedDict())[waiter] = None
