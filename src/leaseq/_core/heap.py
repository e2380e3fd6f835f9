"""Heaps whose entries are dropped by becoming stale, and deadlines in one. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from math import inf
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


_LEAST = 32  # below this many dead entries a sweep costs more than it frees


class Heap(Generic[T]):
    """A heap of things, each with a number, in the order of these numbers.

    An entry records the number of its thing when it was added, and is alive while the thing still
    has that number. So a thing is dropped by a change of its number, in O(1), and the heap is swept
    when more than half of it is dead: O(1) for each drop, amortised.

    Args:
        alive: Returns True while a thing still has this number and is still of interest.
    """

    __slots__ = ("_alive", "_dead", "_entries", "_serial")

    def __init__(self, alive: Callable[[float, T], bool]) -> None:
        self._alive = alive
        self._entries: list[tuple[float, int, T]] = []
        self._serial = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._entries) - self._dead

    def __iter__(self) -> Iterator[T]:
        """Iterate over the things in the order of their numbers. O(n log n)."""
        for number, _, thing in sorted(self._entries, key=itemgetter(0, 1)):
            if self._alive(number, thing):
                yield thing

    def add(self, number: float, thing: T) -> None:
        """Add a thing; of equal numbers the one that was added first comes first. O(log n)."""
        self._serial = serial = self._serial + 1
        heappush(self._entries, (number, serial, thing))

    def add_in_order(self, number: float, order: int, thing: T) -> tuple[float, int, T]:
        """Add a thing, and return its entry; of equal numbers the lowest order is first. O(log n).

        No two things may have the same number and the same order. In one heap, things are added
        either all with an order or all without one.
        """
        entry = (number, order, thing)
        heappush(self._entries, entry)
        return entry

    def drop(self, thing: T) -> None:
        """Forget a thing of this heap that is about to have another number, or no number.

        O(1), amortised; for the first one O(log n).
        """
        entries = self._entries
        if entries[-1][2] is thing:  # the newest is mostly the last: a leaf, free to go
            entries.pop()
        elif entries[0][2] is thing:  # the first would go at the next look
            heappop(entries)
        else:
            self._dead += 1
        if self._dead > _LEAST and self._dead * 2 > len(entries):
            self._sweep(thing)

    def first(self) -> tuple[float, T] | None:
        """Return the smallest number and its thing; None if empty. O(log n), amortised."""
        entries = self._entries
        while entries:
            number, _, thing = entries[0]
            if self._alive(number, thing):
                return number, thing
            heappop(entries)
            self._dead -= 1
        return None

    def pop(self) -> T:
        """Remove and return the thing that `first` has just returned. O(log n)."""
        _, _, thing = heappop(self._entries)
        if self._dead > _LEAST and self._dead * 2 > len(self._entries):
            self._sweep(thing)
        return thing

    def _sweep(self, gone: T) -> None:
        # A thing that got its old number back may stand here twice: once is enough.
        alive = {
            entry[2]: entry
            for entry in self._entries
            if entry[2] is not gone and self._alive(entry[0], entry[2])
        }
        self._entries = list(alive.values())
        heapify(self._entries)
        self._dead = 0


class Due(Protocol):
    """A lease, or something else with a deadline, which matters until it has ended."""

    _deadline: float
    _ended: Any


D = TypeVar("D", bound=Due)


class Deadlines(Heap[D], Generic[D]):
    """A heap of things by deadline, in seconds of the caller's clock."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda when, thing: thing._deadline == when and thing._ended is None)

    def next(self) -> float:
        """Return the earliest deadline; `math.inf` if there is none. O(1), amortised."""
        first = self.first()
        return inf if first is None else first[0]

    def pop_due(self, now: float) -> Iterator[D]:
        """Remove and yield the things that are due, the earliest first. O(log n) each."""
        while self.next() <= now:
            yield self.pop()
