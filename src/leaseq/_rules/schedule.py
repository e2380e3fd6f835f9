"""The turns of tenants, and within a tenant priority, then first in first out. Sans-IO.

Between tenants it is WF²Q+, worst-case fair weighted fair queueing (Bennett and Zhang,
"Hierarchical packet fair queueing algorithms", IEEE/ACM Transactions on Networking 5(5), 1997),
with one item as the unit of cost, charged when it is handed out.

Each tenant has a *start* and a *finish*: the virtual times at which its next item begins and ends
in an ideal world, where all tenants with ready items are served side by side, each at the rate of
its weight. So ``finish = start + 1 / weight``, and after a hand-out the finish is the next start.
The *virtual time* moves on by one item over the sum of the competing weights for each item handed
out, and leaps to the earliest start when it is behind them all. Of the tenants whose start it has
reached, the *eligible*, the one with the earliest finish is next; of equal finishes, the one whose
next item arrived first. No tenant is ever more than one item ahead of or behind the ideal world.

A tenant *competes* while it has something ready and is under its cap. When it comes back, its
start is its own or the virtual time, whichever is later: it gets no credit for having idled. A
tenant that is paused is as if at a cap of 0: it costs the others nothing, not even a look. A
hand-out that was restricted to some tenants, or to one key, is charged like any other, but does
not move the virtual time: the tenants that were not asked must not pay for it.

A tenant with nothing ready and nothing leased is forgotten once the virtual time has reached its
start, for then a new one would get the same. Of the tenants that are ahead of it only a limited
number is remembered, the ones furthest ahead.

Virtual times are integers, so that they stay exact however long a queue lives.

Until there is a first tenant, there are only priorities, and no turns to count.

`moves.py` has the same rules in a few lines, without the heaps; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, TypeVar

from .._core.heap import Heap
from .._core.policies import Tenant
from .moves import ITEM, Place, cost_of, shares_of
from .ready_list import Ranks, ReadyList

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")

_RANKS = 64  # bits of a rank, in a tag
_LEAST = 32  # below this many priorities without a line it costs more to sweep them out
_REMEMBERED = 1024  # idle tenants ahead of the virtual time that are kept


class _Account(Generic[K, V]):
    """A tenant's ready and leased items, and its next turn."""

    __slots__ = (
        "competing",
        "cost",
        "first",
        "idle",
        "in_flight",
        "lines",
        "max_in_flight",
        "name",
        "priorities",
        "ranks",
        "ready",
        "shares",
        "start",
        "tag",
    )

    def __init__(
        self, name: str | None, tenant: Tenant, ranks: Ranks, *, paused: bool = False
    ) -> None:
        self.name = name
        self.ranks = ranks
        self.lines: dict[
            int, Item[K, V] | ReadyList[Item[K, V]]
        ] = {}  # a lone item is its own line
        self.priorities: list[int] = []  # a heap of the negative ones, with some of no line
        self.ready = 0
        self.in_flight = 0
        self.start = 0
        self.first: Item[K, V] | None = None  # its next item, while it is eligible
        self.tag = 0  # then: its finish, and after that the rank of its next item
        self.competing = False
        self.idle = False
        self.set(tenant, paused=paused)

    def set(self, tenant: Tenant, *, paused: bool) -> None:
        self.shares = shares_of(tenant.weight)
        self.cost = cost_of(self.shares)
        self.max_in_flight = 0 if paused else tenant.max_in_flight

    @property
    def finish(self) -> int:
        return self.start + self.cost

    @property
    def may_compete(self) -> bool:
        capped = self.max_in_flight is not None and self.in_flight >= self.max_in_flight
        return self.ready > 0 and not capped

    def head(self) -> Item[K, V]:
        lines, priorities = self.lines, self.priorities
        while (line := lines.get(-priorities[0])) is None:
            heappop(priorities)
        return line.first() if isinstance(line, ReadyList) else line

    def push(self, item: Item[K, V], place: Place) -> bool:
        """Add an item; return True if it may be the next one."""
        ranks = self.ranks
        if place == "back":
            ranks.back = item._token = ranks.back + 1
        else:
            ranks.give(item, place)
        self.ready += 1
        lines, priority = self.lines, item._priority
        line = lines.get(priority)
        if line is None:
            lines[priority] = item
            if len(self.priorities) > 2 * len(lines) + _LEAST:
                self.priorities = [-each for each in lines]
                heapify(self.priorities)
            else:
                heappush(self.priorities, -priority)
            return True
        if not isinstance(line, ReadyList):
            alone, line = line, ReadyList(self.ranks)
            lines[priority] = line
            line.insert(alone, alone._token)
        line.insert(item, item._token)
        return place != "back"

    def remove(self, item: Item[K, V]) -> None:
        self.ready -= 1
        line = self.lines[item._priority]
        if isinstance(line, ReadyList):
            line.leave(item, item._token)
            if line:
                return
        del self.lines[item._priority]


class Schedule(Generic[K, V]):
    """The ready items of all tenants, and the order of their hand-outs.

    Args:
        tenants: Weights and caps of tenants without the default ones.
        ranks: The ranks of items, if some were given by now.
        paused: The names of the tenants that are paused. Call `refile` when one comes or goes.
    """

    def __init__(
        self,
        tenants: Mapping[str, Tenant] = {},
        ranks: Ranks | None = None,
        paused: Container[object] = (),
    ) -> None:
        self._ranks = ranks or Ranks()
        self._paused = paused
        self._fair = bool(tenants)  # there are tenants, and not only priorities
        self._tenants: dict[str | None, Tenant] = dict(tenants.items())
        self._accounts: dict[str | None, _Account[K, V]] = {}
        self._now = 0  # the virtual time
        self._shares = 0  # of all that compete
        self._eligible: Heap[_Account[K, V]] = Heap(lambda n, a: a.first is not None and a.tag == n)
        self._early: Heap[_Account[K, V]] = Heap(
            lambda n, a: a.competing and a.first is None and a.start == n
        )
        self._idle: Heap[_Account[K, V]] = Heap(lambda n, a: a.idle and a.start == n)

    def __iter__(self) -> Iterator[tuple[str | None, int, int]]:
        """Yield the name of each remembered tenant with its counts of ready and leased items."""
        for account in self._accounts.values():
            yield account.name, account.ready, account.in_flight

    def tenant(self, name: str | None) -> Tenant:
        """Return a tenant's weight and cap. O(1)."""
        return self._tenants.get(name, _USUAL)

    def set(self, name: str | None, tenant: Tenant) -> None:
        """Give a tenant another weight or cap, from its next hand-out on. O(log tenants)."""
        if not self._fair:
            self._begin()
        self._tenants[name] = tenant
        self.refile(name)

    def refile(self, name: str | None) -> None:
        """File a tenant anew, whose weight, cap or pause has changed. O(log tenants)."""
        account = self._accounts.get(name)
        if account is not None:
            self._withdraw(account)
            account.set(self.tenant(name), paused=name in self._paused)
            self._compete(account)

    # Items

    def push(self, item: Item[K, V], place: Place) -> None:
        """Add an item that is ready. O(log tenants)."""
        if not self._fair and item._tenant is not None:
            self._begin()
        account = self._accounts.get(item._tenant)
        if account is None or account.idle:
            account = self._account(item._tenant)
        may_be_next = account.push(item, place)
        if account.first is not None:
            if may_be_next:
                self._follow(account)
        elif self._fair and not account.competing:
            self._compete(account)

    def remove(self, item: Item[K, V]) -> None:
        """Remove an item that is no longer ready, without a hand-out. O(log tenants)."""
        account = self._accounts[item._tenant]
        account.remove(item)
        if not account.ready:
            self._withdraw(account)
            if not account.in_flight:
                self._rest(account)
        elif account.first is not None:
            self._follow(account)

    def hand_out(self, item: Item[K, V], *, restricted: bool) -> None:
        """Remove an item that is handed out, and charge its tenant. O(log tenants).

        Args:
            item: The item from `next` or `next_of`, or that of a key.
            restricted: True: it was asked for by its tenant or its key.
        """
        account = self._accounts[item._tenant]
        account.remove(item)
        account.in_flight += 1
        if not self._fair:
            return
        if not restricted:
            self._now += -(-ITEM // self._shares)
        (self._early if account.first is None else self._eligible).drop(account)
        account.start += account.cost
        if account.may_compete:
            self._file(account)
        else:
            account.competing = False
            account.first = None
            self._shares -= account.shares

    def adopt(self, item: Item[K, V]) -> None:
        """Count a lease that was handed out before there was a schedule. O(1)."""
        self._account(item._tenant).in_flight += 1

    def end(self, item: Item[K, V]) -> None:
        """Count the end of the lease on an item. O(log tenants)."""
        account = self._accounts[item._tenant]
        account.in_flight -= 1
        if self._fair and account.ready and not account.competing:
            self._compete(account)
        if not account.ready and not account.in_flight:
            self._rest(account)
        elif self._idle._entries:
            self._forget()

    # Turns

    def claimable(self, tenant: str | None) -> bool:
        """Return True if a tenant has something ready and is under its cap. O(1)."""
        account = self._accounts.get(tenant)
        return account is not None and account.may_compete

    def has_ready(self, tenant: str | None) -> bool:
        """Return True if a tenant has something ready, whether or not it may have it. O(1)."""
        account = self._accounts.get(tenant)
        return account is not None and account.ready > 0

    def next(self) -> Item[K, V] | None:
        """Return the item whose turn it is; None: no tenant competes. O(log tenants)."""
        if not self._fair:
            only = self._accounts.get(None)
            return only.head() if only is not None and only.ready else None
        early, eligible = self._early, self._eligible
        starts = early._entries
        if starts and eligible.first() is None and (first := early.first()) is not None:
            self._now = max(self._now, first[1].start)
        while starts and starts[0][0] <= self._now:
            start, _, account = starts[0]
            if account.start == start and account.competing and account.first is None:
                self._be_eligible(early.pop())
            else:
                early.first()  # which drops what is dead
        tags = eligible._entries
        if tags and (account := tags[0][2]).tag == tags[0][0] and account.first is not None:
            return account.first
        turn = eligible.first()
        return None if turn is None else turn[1].first

    def next_of(self, tenants: Iterable[str | None]) -> Item[K, V] | None:
        """Return the next item of some tenants; None: they do not compete. O(those tenants)."""
        accounts = (self._accounts.get(name) for name in tenants)
        competing = [account for account in accounts if account is not None and account.may_compete]
        if not competing:
            return None
        first = min(competing, key=lambda account: (account.finish, account.head().token))
        return first.head()

    # Accounts

    def _begin(self) -> None:
        """Begin to count turns, with the first tenant."""
        self._fair = True
        for account in self._accounts.values():
            self._compete(account)

    def _account(self, name: str | None) -> _Account[K, V]:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account(
                name, self.tenant(name), self._ranks, paused=name in self._paused
            )
        elif account.idle:
            self._idle.drop(account)
            account.idle = False
        return account

    def _compete(self, account: _Account[K, V]) -> None:
        if not account.competing and account.may_compete:
            account.competing = True
            account.start = max(account.start, self._now)
            self._shares += account.shares
            self._file(account)

    def _withdraw(self, account: _Account[K, V]) -> None:
        if account.competing:
            (self._early if account.first is None else self._eligible).drop(account)
            account.competing = False
            account.first = None
            self._shares -= account.shares

    def _file(self, account: _Account[K, V]) -> None:
        if account.start <= self._now:
            self._be_eligible(account)
        else:
            account.first = None
            self._early.add(account.start, account)

    def _be_eligible(self, account: _Account[K, V]) -> None:
        account.first = first = account.head()
        account.tag = tag = (account.start + account.cost << _RANKS) + first._token
        self._eligible.add(tag, account)

    def _follow(self, account: _Account[K, V]) -> None:
        """File an eligible account anew, if it has another next item."""
        if account.head() is not account.first:
            self._eligible.drop(account)
            self._be_eligible(account)

    def _rest(self, account: _Account[K, V]) -> None:
        """Let an account idle that has nothing ready or leased."""
        if not account.idle:
            account.idle = True
            self._idle.add(account.start, account)
        self._forget()

    def _forget(self) -> None:
        """Forget the idle accounts that may be."""
        while (first := self._idle.first()) is not None:
            account = first[1]
            if account.start > self._now and len(self._idle) <= _REMEMBERED:
                return
            self._idle.pop()
            account.idle = False  # it may stand there twice
            del self._accounts[account.name]


_USUAL = Tenant()
