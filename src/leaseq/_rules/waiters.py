"""Who waits for what, and who is next. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from itertools import count
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from .._core.options import ANY_KEY
from .._core.requests import ClaimRequest
from .ledger import Ledger

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")

Kind = Literal[
    "key", "capped", "own", "any", "steal", "patient own", "patient any", "patient steal"
]
_Name = tuple[Kind, object]  # of a line: its kind; and the key or the tenant, or None for any

_TURNS: tuple[tuple[Kind, ...], ...] = (
    ("capped",),
    ("own", "any"),
    ("steal",),
    ("patient own", "patient any"),
    ("patient steal",),
)
"""The lines for what a tenant has, in the order in which they are served."""


class Waiter(Generic[K, V]):
    """A consumer that waits, and what it is given: an item, or, if that stays None, the end."""

    __slots__ = ("item", "lines", "number", "request")

    def __init__(self, request: ClaimRequest[K], *, patient: bool = False) -> None:
        self.request = request
        self.item: Item[K, V] | None = None
        self.number = -1  # who came first
        self.lines: list[_Name]
        if request.key is not ANY_KEY:
            self.lines = [("key", request.key)]
        elif request.tenants is None:
            self.lines = [("patient any" if patient else "any", None)]
        else:
            own: Kind = "patient own" if patient else "own"
            steal: Kind = "patient steal" if patient else "steal"
            self.lines = [
                *((own, name) for name in request.tenants),
                *((steal, name) for name in request.steal_from),
            ]


class Waiters(Generic[K, V]):
    """Those who wait for an item, and the hand-over to them.

    There is a line for each key that is waited for, two for each tenant that some wait for in
    particular (their own, or to steal from), and one for those who take anything; and one for each
    tenant at its cap, for those whose key is ready otherwise. A waiter stands in each line that may
    serve it. First come, first served; but those who want just the key that has become ready come
    first, and those who would steal it last; and after all of these the patient, who have something
    already and wait for more.

    What can be claimed is never left lying while somebody waits who may have it: `serve` and
    `serve_tenant` are called at each change that could make it so.
    """

    __slots__ = ("_ledger", "_lines", "_numbers", "takers", "total")

    def __init__(self, ledger: Ledger[K, V]) -> None:
        self._ledger = ledger
        self._lines: dict[_Name, OrderedDict[Waiter[K, V], None]] = {}
        self._numbers = count()
        self.total = 0
        self.takers = 0

    def add(self, waiter: Waiter[K, V]) -> None:
        """Let somebody wait: last in line, or first if it has waited before. O(its lines)."""
        again = waiter.number >= 0
        if not again:
            waiter.number = next(self._numbers)
        waiter.item = None
        for name in waiter.lines:
            line = self._lines.setdefault(name, OrderedDict())
            line[waiter] = None
            if again:
                line.move_to_end(waiter, last=False)
        self.total += 1
        key = waiter.request.key
        if key is not ANY_KEY:
            self.takers += 1
            self._line_up_for_cap(key)

    def drop(self, waiter: Waiter[K, V]) -> None:
        """Let somebody who waits go. O(its lines)."""
        self._leave_lines(waiter, waiter.lines)
        if waiter.request.key is not ANY_KEY:
            self.takers -= 1
            del waiter.lines[1:]  # it may have stood in line for a cap
        self.total -= 1

    def drop_all(self) -> list[Waiter[K, V]]:
        """Let all go. O(waiters and their lines)."""
        everybody = list({waiter: None for line in self._lines.values() for waiter in line})
        for waiter in everybody:
            self.drop(waiter)
        return everybody

    def drop_takers(self, key: K) -> list[Waiter[K, V]]:
        """Let all go who wait for just this key. O(their number)."""
        takers = list(self._lines.get(("key", key), ()))
        for waiter in takers:
            self.drop(waiter)
        return takers

    def drop_patient(self) -> list[Waiter[K, V]]:
        """Let all go who wait for more. O(their number and the lines)."""
        patient = [line for (kind, _), line in self._lines.items() if kind.startswith("patient")]
        everybody = list({waiter: None for line in patient for waiter in line})
        for waiter in everybody:
            self.drop(waiter)
        return everybody

    def waited_for(self) -> list[K]:
        """The keys that are waited for. O(lines)."""
        return [key for kind, key in self._lines if kind == "key"]  # type: ignore[misc]

    def serve(self, keys: Collection[K], now: float) -> Iterator[Waiter[K, V]]:
        """Keys may have become ready: give who gets them, or what their tenants have next.

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
        ready = self._ledger.ready
        tenants = {item.tenant: None for key in keys if (item := ready.get(key)) is not None}
        yield from self._serve_tenants(tenants, now)

    def serve_tenant(self, tenant: str | None, now: float) -> Iterator[Waiter[K, V]]:
        """A tenant may have come under its cap: give who gets what it has next. O(log n) each."""
        return self._serve_tenants((tenant,), now)

    def _serve_tenants(self, tenants: Collection[str | None], now: float) -> Iterator[Waiter[K, V]]:
        # What somebody is given may be another one's of these tenants, or another item of this
        # one: so each is asked until it has nothing left, or nobody waits for it.
        for kinds in _TURNS:
            for tenant in tenants:
                while self._claimable(tenant):
                    waiter = self._next(kinds, tenant)
                    if waiter is None:
                        break
                    if self._give(waiter, now):
                        yield waiter

    def _claimable(self, tenant: str | None) -> bool:
        schedule = self._ledger.schedule
        return bool(self._ledger.ready) if schedule is None else schedule.claimable(tenant)

    def _leave_lines(self, waiter: Waiter[K, V], names: Collection[_Name]) -> None:
        for name in names:
            line = self._lines[name]
            del line[waiter]
            if not line:
                del self._lines[name]

    def _give(self, waiter: Waiter[K, V], now: float) -> bool:
        """Hand over to a waiter; False: what there was is gone, and it waits on."""
        self.drop(waiter)
        item = self._ledger.claim(waiter.request, now)
        if item is None:
            self.add(waiter)
            return False
        waiter.item = item
        return True

    def _first(self, name: _Name) -> Waiter[K, V] | None:
        line = self._lines.get(name)
        return None if line is None else next(iter(line))

    def _next(self, kinds: Collection[Kind], tenant: str | None) -> Waiter[K, V] | None:
        """Who came first of those in these lines for a tenant."""
        first: Waiter[K, V] | None = None
        for kind in kinds:
            waiter = self._first((kind, None if kind.endswith("any") else tenant))
            if first is None or (waiter is not None and waiter.number < first.number):
                first = waiter
        return first

    def _line_up_for_cap(self, key: K) -> None:
        """Let those wait for a tenant's cap whom nothing else keeps from their key."""
        item = self._ledger.ready.get(key)
        if item is None or self._ledger.claimable(key):
            return
        name: _Name = ("capped", item.tenant)
        for waiter in self._lines.get(("key", key), ()):
            if name not in waiter.lines:
                self._leave_lines(waiter, waiter.lines[1:])  # another tenant had the key before
                waiter.lines[1:] = [name]
                self._lines.setdefault(name, OrderedDict())[waiter] = None
