"""A line of items of one priority: first in first out, with ways to the front. Sans-IO."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from itertools import chain, repeat
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._core.heap import Heap
from .moves import OLD, Place

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")

T = TypeVar("T")  # of the things in line

_LEAST = 64  # below this many it costs more to sweep than it frees


def last_token(item: Item[K, V]) -> int | None:
    """Return the token of the last lease on an item that waits, if it is at its old place."""
    return item._token + OLD if -OLD < item._token < 0 else None


class Ranks:
    """The next ranks at the front and at the back, of all lines of a queue together."""

    __slots__ = ("back", "front")

    def __init__(self) -> None:
        self.front = -OLD
        self.back = 0

    def give(self, item: Item[K, V], place: Place) -> None:
        """Give an item that joins a line the rank of its place. O(1)."""
        if place == "back":
            self.back = item._token = self.back + 1
        elif place == "front":
            self.front = item._token = self.front - 1
        elif item._token > 0:  # one that comes from another line has its rank
            item._token -= OLD


class ReadyList(Generic[T]):
    """The order in which items are handed out.

    Most join at the back. Those that were handed out before may join at their *old place*: in front
    of all that was not handed out, in the order of their hand-outs among each other; or at the
    *front*, before these. While they wait, their `token` is their rank: negative for these two, at
    the old place the last lease's token less `OLD`. Those at the back are in `order`, and if they
    have a rank, it is positive, in the order of joining.

    The things in line are items, or plain keys that stand for them. So a million bare items are a
    million keys in one deque and as many numbers in one array, of which the garbage collector has
    next to nothing to look at.

    A thing that leaves from amidst those at the back is *dead*, and is only counted. It goes when
    it comes to the head, or when more than half of the order is dead.

    Attributes:
        order: The things at the back.
        times: The times at which the last of them joined, or NaN; empty if none is known. Before
            these there may be the times of some that have left at the head, until `trim`.
        special: True: some are in front, or dead; so the first of `order` need not be the next one.
    """

    __slots__ = ("_dead", "_gone", "_ranked", "_ranks", "order", "special", "times")

    def __init__(self, ranks: Ranks) -> None:
        self.order: deque[T] = deque()
        self.times = array("d")
        self._dead = 0
        self.special = False
        self._gone: dict[T, int] = {}  # how many of the first entries of a thing are dead
        self._ranks = ranks
        self._ranked: Heap[Any] | None = None  # most lines never need one

    def __len__(self) -> int:
        ranked = 0 if self._ranked is None else len(self._ranked)
        return ranked + len(self.order) - self._dead

    def __iter__(self) -> Iterator[T]:
        return (thing for thing, _ in self.with_times())

    def with_times(self) -> Iterator[tuple[T, float | None]]:
        """Iterate over the things in line, and when they joined, if that is known. O(n log n)."""
        for item in self._ranked or ():
            yield item, item._since
        for thing, time in self._at_the_back():
            yield thing, None if isnan(time) else time

    def _at_the_back(self) -> Iterator[tuple[T, float]]:
        dead = dict(self._gone)
        self.trim()
        unknown = repeat(nan, len(self.order) - len(self.times))
        for thing, time in zip(self.order, chain(unknown, self.times), strict=True):
            if dead and dead.get(thing):
                dead[thing] -= 1
            else:
                yield thing, time

    def first(self) -> T:
        """Return the first thing; there must be one. O(1), amortised."""
        if self.special and not self.skim():
            assert self._ranked is not None
            ranked: tuple[float, T] | None = self._ranked.first()
            assert ranked is not None
            return ranked[1]
        return self.order[0]

    def oldest(self) -> float | None:
        """Return the earliest known time of joining. O(1), and the number of those in front."""
        self.skim()
        times = [item._since for item in self._ranked or () if item._since is not None]
        if self.order and len(self.times) >= len(self.order):
            time = self.times[-len(self.order)]
            if not isnan(time):
                times.append(time)
        return min(times, default=None)

    def insert(self, thing: T, rank: int = 0, now: float | None = None) -> None:
        """Put a thing in the place of its rank; at the back it is the last. O(1), or O(log n)."""
        if rank < 0:
            if self._ranked is None:
                self._ranked = Heap(lambda rank, item: item._token == rank)
            self._ranked.add(rank, thing)
            self.special = True
            return
        self.order.append(thing)
        if now is not None:
            self.times.append(now)
        elif self.times:
            self.times.append(nan)

    def leave(self, thing: Any, rank: int = 0) -> None:
        """Take a thing of this rank out. O(1), amortised."""
        order = self.order
        if rank < 0 and self._ranked is not None:
            self._ranked.drop(thing)
            thing._token = 0
            self.skim()
        elif order[0] is thing:
            order.popleft()
            self.tidy()
        elif order[-1] is thing:
            order.pop()
            if self.times:
                self.times.pop()
        else:
            self._gone[thing] = self._gone.get(thing, 0) + 1
            self._dead += 1
            self.special = True
            if self._dead > _LEAST and self._dead * 2 > len(order):
                self._sweep()

    def skim(self) -> bool:
        """Drop dead things from the head of `order`; False: others come before it. O(1), amortised.

        To be called before the first is taken, if the line is special.
        """
        order, gone = self.order, self._gone
        while gone and (dead := gone.get(order[0])):
            thing = order.popleft()
            self._dead -= 1
            if dead > 1:
                gone[thing] = dead - 1
            else:
                del gone[thing]
        ranked = self._ranked is not None and len(self._ranked) > 0
        self.special = ranked or self._dead > 0
        return not ranked

    def _sweep(self) -> None:
        alive = [*self._at_the_back()]
        self.order = deque(thing for thing, _ in alive)
        self.times = array("d", [time for _, time in alive] if self.times else [])
        self._gone.clear()
        self._dead = 0
        self.skim()

    def tidy(self) -> None:
        """`trim`, if that is worth it. O(1), amortised."""
        if len(self.times) > 2 * len(self.order) + _LEAST:
            self.trim()

    def trim(self) -> None:
        """Forget the times of things that have left at the head. O(things)."""
        surplus = len(self.times) - len(self.order)
        if surplus > 0:
            del self.times[:surplus]
