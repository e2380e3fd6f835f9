"""What falls due when. Sans-IO.

A binary heap of ``(when, number, thing)``, in which a thing's own ``deadline`` is the truth: an
entry whose thing has another deadline by now, or has ended, is dead. So a deadline is dropped by
saying so, in O(1), and the heap is swept clean as soon as more than half of it is dead: amortised
over the drops, that costs O(1) each, and a million leases that were acked an hour before their
deadlines leave nothing behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

__all__ = ["Deadlines"]


class Due(Protocol):
    """A thing that may fall due."""

    deadline: float

    @property
    def ended(self) -> object | None:
        """Not None once the thing is of no interest any more."""


T = TypeVar("T", bound=Due)

_LEAST = 32  # below this many dead entries a sweep costs more than it frees


class Deadlines(Generic[T]):
    """Things in the order in which they fall due. Times are the caller's clock, in seconds."""

    __slots__ = ("_dead", "_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._number = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def add(self, thing: T) -> None:
        """Remember a thing that has just been given its ``deadline``. O(log n)."""
        self._number = number = self._number + 1
        heappush(self._heap, (thing.deadline, number, thing))

    def drop(self, thing: T) -> None:
        """Forget a thing that has ended, or is about to get another deadline. O(1) amortised."""
        heap = self._heap
        if heap[-1][2] is thing:  # the newest deadline is mostly the latest: a leaf, free to go
            heap.pop()
        else:
            self._dead += 1
        if self._dead > _LEAST and self._dead * 2 > len(heap):
            self._sweep(thing)

    def next(self) -> float:
        """When to call `pop_due` again; `math.inf`: never, as things are. O(1) amortised."""
        heap = self._heap
        while heap and not _alive(heap[0]):
            heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else math.inf

    def pop_due(self, now: float) -> Iterator[T]:
        """Give what is due, the earliest first, each forgotten as it is given. O(log n) each."""
        while self.next() <= now:
            yield heappop(self._heap)[2]
            if self._dead > _LEAST and self._dead * 2 > len(self._heap):
                self._sweep()

    def _sweep(self, dropped: T | None = None) -> None:
        # A thing that got its old deadline back may stand here twice: once is enough.
        alive = {
            entry[2]: entry for entry in self._heap if entry[2] is not dropped and _alive(entry)
        }
        self._heap = list(alive.values())
        heapify(self._heap)
        self._dead = 0


def _alive(entry: tuple[float, int, Due]) -> bool:
    when, _, thing = entry
    return thing.deadline == when and thing.ended is None
