"""Who waits in this process, and what for.

Those who ask for the same wait in one group, so that one claim serves them all. A group stands for
some *wants*, the words under which its process is parked on the server: whoever makes an item
ready there pops one of them, and tells the process. As long as all its wants are parked, there is
nothing for a group to claim; a group whose wants are not is *hungry*.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from anyio import Event

from .._core.options import ANY_KEY
from .._core.requests import ClaimRequest
from .._valkey.keys import encode_key, encode_name

if TYPE_CHECKING:
    from .lease import ValkeyLease

__all__ = ["Group", "Waiter", "Waiters"]

K = TypeVar("K")
V = TypeVar("V")

Signature = tuple[object, ...]


def signature(request: ClaimRequest[K], patient: bool) -> Signature:
    """What two requests have in common that one claim can serve."""
    return (
        request.key,
        type(request.key),  # 1 and True are equal
        request.lease_timeout,
        request.tenants,
        request.steal_from,
        request.consumer,
        patient,
    )


def wants_of(request: ClaimRequest[K], patient: bool) -> tuple[bytes, ...]:
    """Under which words somebody is parked who asks for this."""
    if request.key is not ANY_KEY:
        return (b"k" + encode_key(request.key),)
    if request.tenants is None:
        return (b"A" if patient else b"a",)
    own, steal = (b"T", b"S") if patient else (b"t", b"s")
    return (
        *(own + encode_name(name) for name in request.tenants),
        *(steal + encode_name(name) for name in request.steal_from),
    )


class Waiter(Generic[K, V]):
    """A consumer that waits, and what it is given: leases; or an error; or else the end."""

    __slots__ = ("count", "done", "error", "event", "group", "leases", "number", "request")

    def __init__(self, request: ClaimRequest[K], count: int) -> None:
        self.request = request
        self.count = count
        self.number = -1  # who came first
        self.group: Group[K, V] | None = None
        self.leases: list[ValkeyLease[K, V]] = []
        self.error: Exception | None = None
        self.done = False
        self.event = Event()

    def wake(self) -> None:
        """Let it look again. O(1)."""
        self.event.set()
        if not self.done:
            self.event = Event()

    def end(self) -> None:
        """It has what it gets. O(1)."""
        self.done = True
        self.event.set()


class Group(Generic[K, V]):
    """Those who ask for the same, in the order in which they came.

    Attributes:
        wanted: How many items they can have all in all.
    """

    __slots__ = ("patient", "request", "waiters", "wanted", "wants")

    def __init__(self, request: ClaimRequest[K], *, patient: bool) -> None:
        self.request = request
        self.patient = patient
        self.wants = wants_of(request, patient)
        self.waiters: OrderedDict[Waiter[K, V], None] = OrderedDict()
        self.wanted = 0

    @property
    def turn(self) -> tuple[bool, bool, bool]:
        """Who comes first in a claim: who wants one key; who would steal, and the patient, last."""
        return self.patient, self.request.key is ANY_KEY, bool(self.request.steal_from)


class Waiters(Generic[K, V]):
    """The groups of one queue's waiters, and where they are parked."""

    __slots__ = (
        "_by_want",
        "_groups",
        "_hungry",
        "_numbers",
        "_stale",
        "parked",
        "takers",
        "total",
    )

    def __init__(self) -> None:
        self._groups: dict[Signature, Group[K, V]] = {}
        self._by_want: dict[bytes, dict[Group[K, V], None]] = {}
        self._hungry: dict[Group[K, V], None] = {}
        self._numbers = count()
        self._stale: list[tuple[bytes, bytes]] = []
        self.parked: dict[bytes, bytes] = {}  # wants, and since when
        self.total = 0
        self.takers = 0

    def add(self, waiter: Waiter[K, V], *, patient: bool = False) -> bool:
        """Let somebody wait; whether there may be something for it already. O(wants)."""
        key = signature(waiter.request, patient)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(waiter.request, patient=patient)
            for want in group.wants:
                self._by_want.setdefault(want, {})[group] = None
        waiter.number = next(self._numbers)
        group.waiters[waiter] = None
        group.wanted += waiter.count
        waiter.group = group
        self.total += 1
        self.takers += waiter.request.key is not ANY_KEY
        self._see(group)
        return group in self._hungry

    def drop(self, waiter: Waiter[K, V]) -> bool:
        """Let somebody go; False: it does not wait any more. O(wants)."""
        group = waiter.group
        if group is None or waiter not in group.waiters:
            return False
        del group.waiters[waiter]
        group.wanted -= waiter.count
        self.total -= 1
        self.takers -= waiter.request.key is not ANY_KEY
        if not group.waiters:
            self._forget(group)
        return True

    def _forget(self, group: Group[K, V]) -> None:
        del self._groups[signature(group.request, group.patient)]
        self._hungry.pop(group, None)
        for want in group.wants:
            groups = self._by_want[want]
            del groups[group]
            if groups:
                continue
            del self._by_want[want]
            if want not in (b"a", b"A"):  # these will be wanted again
                self._unpark(want)
        if group.request.key is not ANY_KEY and not self.takers:
            for want in [want for want in self.parked if want[:1] == b"c"]:
                self._unpark(want)

    def park(self, want: bytes, stamp: bytes) -> None:
        """The process is parked now under a want, which nobody here may have any more. O(1)."""
        self.parked[want] = stamp
        wanted = want in self._by_want or (want[:1] == b"c" and self.takers)
        if want not in (b"a", b"A") and not wanted:
            self._unpark(want)

    def _unpark(self, want: bytes) -> None:
        if want in self.parked:
            self._stale.append((want, self.parked.pop(want)))

    def _see(self, group: Group[K, V]) -> None:
        """A group that waits for something under which the process is not parked is hungry."""
        if group.waiters and not all(want in self.parked for want in group.wants):
            self._hungry[group] = None

    def drop_all(self) -> list[Waiter[K, V]]:
        """Let all go. O(waiters)."""
        return self._drop(list(self._groups.values()))

    def drop_patient(self) -> list[Waiter[K, V]]:
        """Let all go who wait for more. O(groups and their number)."""
        return self._drop([group for group in self._groups.values() if group.patient])

    def _drop(self, groups: list[Group[K, V]]) -> list[Waiter[K, V]]:
        waiters = [waiter for group in groups for waiter in group.waiters]
        for waiter in waiters:
            self.drop(waiter)
        return waiters

    def woken(self, want: bytes) -> bool:
        """There may be something for those who want this; False: nobody does. O(groups of it)."""
        self.parked.pop(want, None)
        groups = list(self._by_want.get(want, ()))
        if want[:1] == b"c":  # a tenant is under its cap, which may be what kept a taker waiting
            groups = [group for group in self._groups.values() if group.request.key is not ANY_KEY]
        self._hungry.update(dict.fromkeys(groups))
        return bool(groups)

    def rest(self) -> None:
        """Claim nothing before there is a reason to. O(groups)."""
        self._hungry.clear()

    def look_again(self) -> None:
        """Claim for those again whose claims were of no avail. O(groups)."""
        for group in self._groups.values():
            self._see(group)

    def hungry(self, most: int) -> list[tuple[Group[K, V], int]]:
        """For which groups to claim how many items, those first that come first.

        A group of which some came before those of another one, and some after, is there more than
        once. O(groups), or if there are several O(their waiters).

        Args:
            most: How many items at most.
        """
        if len(self._hungry) <= 1:
            return [(group, min(group.wanted, most)) for group in self._hungry]
        waiters = [(group.turn, waiter) for group in self._hungry for waiter in group.waiters]
        waiters.sort(key=lambda pair: (*pair[0], pair[1].number))
        runs: list[tuple[Group[K, V], int]] = []
        for _, waiter in waiters:
            assert waiter.group is not None
            if most <= 0:
                break
            count = min(waiter.count, most)
            most -= count
            if runs and runs[-1][0] is waiter.group:
                count += runs.pop()[1]
            runs.append((waiter.group, count))
        return runs

    def stale(self) -> list[tuple[bytes, bytes]]:
        """The parks that nobody here wants any more, each told once. O(their number)."""
        stale, self._stale = self._stale, []
        return stale

    def give(
        self, group: Group[K, V], leases: list[ValkeyLease[K, V]], *, more: bool
    ) -> list[ValkeyLease[K, V]]:
        """A claim for a group has brought these: who is served goes, the others wait on.

        Args:
            group: For whom it was.
            leases: What it has brought.
            more: Whether the next one may bring more. If not, and the server could not park this
                process either, it is for `look_again` to ask once more.

        Returns:
            What nobody waits for any more. O(leases).
        """
        given = 0
        while given < len(leases) and group.waiters:
            waiter = next(iter(group.waiters))
            waiter.leases = leases[given : given + waiter.count]
            given += len(waiter.leases)
            self.drop(waiter)
            waiter.end()
        self._hungry.pop(group, None)
        if more:
            self._see(group)
        return leases[given:]
