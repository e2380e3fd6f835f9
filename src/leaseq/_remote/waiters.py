"""The consumers of one queue that wait in this process, in groups that want the same.

Consumers that ask for the same wait in one group, so that one claim serves them all. A group stands
for some *wants*, under which its process is parked in the store: an operation that makes an item
ready there takes one park away, and the process is told. As long as all its wants are parked, there
is nothing for a group to claim; a group whose wants are not is *hungry*.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Generic, TypeVar

from .._core.loop import Sleeper
from .._core.options import ANY_KEY
from .._core.requests import ClaimRequest
from .protocol import Park, Want

K = TypeVar("K")
L = TypeVar("L")

Signature = tuple[object, ...]

ROOM = Want("room")
DRAINED = Want("drained")
_ANY = Want("any")
_ANY_MORE = Want("any more")


def signature(request: ClaimRequest[K], patient: bool) -> Signature:
    """Return the terms of a request: one claim serves all requests with the same."""
    return (
        request.key,
        type(request.key),  # 1 and True are equal
        request.lease_timeout,
        request.tenants,
        request.steal_from,
        request.consumer,
        patient,
    )


def wants_of(request: ClaimRequest[K], patient: bool) -> tuple[Want, ...]:
    """Return the wants under which a process is parked for this request."""
    if request.key is not ANY_KEY:
        return (Want("key", request.key),)  # type: ignore[arg-type]  # the store has checked it
    if request.tenants is None:
        return (_ANY_MORE if patient else _ANY,)
    return (
        *(Want("own more" if patient else "own", name) for name in request.tenants),
        *(Want("steal more" if patient else "steal", name) for name in request.steal_from),
    )


class Waiter(Sleeper, Generic[K, L]):
    """A consumer that waits, and the leases that it is given; none at the end."""

    __slots__ = ("count", "done", "group", "leases", "number", "patient", "request")

    def __init__(self, request: ClaimRequest[K], count: int, *, patient: bool = False) -> None:
        super().__init__()
        self.request = request
        self.count = count
        self.patient = patient
        self.number = -1  # in the order of coming
        self.group: Group[K, L] | None = None
        self.leases: list[L] = []
        self.done = False

    def end(self) -> None:
        """End its wait: it has what it gets. O(1)."""
        self.done = True
        self.wake()


class Group(Generic[K, L]):
    """Waiters that ask for the same, in the order in which they came.

    Attributes:
        wanted: The number of items that they can have, all in all.
    """

    __slots__ = ("patient", "request", "waiters", "wanted", "wants")

    def __init__(self, request: ClaimRequest[K], *, patient: bool) -> None:
        self.request = request
        self.patient = patient
        self.wants = wants_of(request, patient)
        self.waiters: OrderedDict[Waiter[K, L], None] = OrderedDict()
        self.wanted = 0

    @property
    def turn(self) -> tuple[bool, bool, bool]:
        """Its place in a claim: first takers of a key; last those that steal, and the patient."""
        return self.patient, self.request.key is ANY_KEY, bool(self.request.steal_from)


class Waiters(Generic[K, L]):
    """The groups of one queue's waiters, and the parks of the process for them."""

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
        self._groups: dict[Signature, Group[K, L]] = {}
        self._by_want: dict[Want, dict[Group[K, L], None]] = {}
        self._hungry: dict[Group[K, L], None] = {}
        self._numbers = count()
        self._stale: list[Park] = []
        self.parked: dict[Want, int] = {}  # with the stamps
        self.total = 0
        self.takers = 0

    def add(self, waiter: Waiter[K, L]) -> bool:
        """Let a consumer wait; True: there may be something for it already. O(wants)."""
        key = signature(waiter.request, waiter.patient)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(waiter.request, patient=waiter.patient)
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

    def drop(self, waiter: Waiter[K, L]) -> bool:
        """Let a consumer go; False: it does not wait any more. O(wants)."""
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

    def _forget(self, group: Group[K, L]) -> None:
        del self._groups[signature(group.request, group.patient)]
        self._hungry.pop(group, None)
        for want in group.wants:
            groups = self._by_want[want]
            del groups[group]
            if groups:
                continue
            del self._by_want[want]
            if want not in (_ANY, _ANY_MORE):  # these will be wanted again
                self._unpark(want)
        if group.request.key is not ANY_KEY and not self.takers:
            for want in [want for want in self.parked if want.kind == "cap"]:
                self._unpark(want)

    def park(self, want: Want, stamp: int) -> None:
        """Note that the process is parked under a want, which no group may have any more. O(1)."""
        self.parked[want] = stamp
        wanted = want in self._by_want or (want.kind == "cap" and self.takers)
        if not wanted and want not in (_ANY, _ANY_MORE):
            self._unpark(want)

    def _unpark(self, want: Want) -> None:
        if want in self.parked:
            self._stale.append(Park(want, self.parked.pop(want)))

    def _see(self, group: Group[K, L]) -> None:
        """Make a group hungry if it wants something under which the process is not parked."""
        if group.waiters and not all(want in self.parked for want in group.wants):
            self._hungry[group] = None

    def drop_all(self) -> list[Waiter[K, L]]:
        """Let all go. O(waiters)."""
        return self._drop(list(self._groups.values()))

    def drop_patient(self) -> list[Waiter[K, L]]:
        """Let all go that wait for more. O(groups and their number)."""
        return self._drop([group for group in self._groups.values() if group.patient])

    def _drop(self, groups: list[Group[K, L]]) -> list[Waiter[K, L]]:
        waiters = [waiter for group in groups for waiter in group.waiters]
        for waiter in waiters:
            self.drop(waiter)
        return waiters

    def woken(self, want: Want) -> bool:
        """Make the groups of a want hungry; False: there are none. O(groups of it)."""
        self.parked.pop(want, None)
        groups = list(self._by_want.get(want, ()))
        if want.kind == "cap":  # a tenant is under its cap, which may be what kept a taker waiting
            groups = [group for group in self._groups.values() if group.request.key is not ANY_KEY]
        self._hungry.update(dict.fromkeys(groups))
        return bool(groups)

    def rest(self) -> None:
        """Claim nothing before there is a reason to. O(groups)."""
        self._hungry.clear()

    def look_again(self) -> None:
        """Make groups hungry again whose claims were of no avail. O(groups)."""
        for group in self._groups.values():
            self._see(group)

    def hungry(self, most: int) -> list[tuple[Group[K, L], int]]:
        """Return the groups to claim for, with numbers of items, in the order of their turn.

        A group of which some came before those of another one, and some after, is there more than
        once. O(groups), or if there are several O(their waiters).

        Args:
            most: The largest number of items.
        """
        if len(self._hungry) <= 1:
            return [(group, min(group.wanted, most)) for group in self._hungry]
        waiters = [(group.turn, waiter) for group in self._hungry for waiter in group.waiters]
        waiters.sort(key=lambda pair: (*pair[0], pair[1].number))
        runs: list[tuple[Group[K, L], int]] = []
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

    def stale(self) -> list[Park]:
        """Return the parks that no group wants any more, each once. O(their number)."""
        stale, self._stale = self._stale, []
        return stale

    def give(self, group: Group[K, L], leases: list[L], *, more: bool) -> list[L]:
        """Give a group the leases of a claim: waiters that are served go, the others stay.

        Args:
            group: The group that the claim was for.
            leases: The leases.
            more: True if the next claim may bring more. If not, and the store could not park this
                process either, `look_again` asks once more.

        Returns:
            The leases that no consumer waits for any more. O(leases).
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
