"""The room in a queue, and the producers that wait for it. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

P = TypeVar("P")


class Capacity(Generic[P]):
    """The room of a queue with a ``max_size``: waiting items, and reserved places.

    A waiting producer is handed a reserved place before it is woken, in order of arrival, so that
    no later producer can take it. It gives the place back when it puts its item or is cancelled.

    Args:
        size: The largest number of waiting items.
    """

    __slots__ = ("_line", "_reserved", "size")

    def __init__(self, size: float) -> None:
        self.size = size
        self._reserved = 0
        self._line: OrderedDict[P, int] = OrderedDict()

    @property
    def putters(self) -> int:
        """The number of waiting producers. O(1)."""
        return len(self._line)

    def free(self, waiting: int, wanted: int = 1) -> bool:
        """Return True if so many items can be put now, with so many waiting. O(1)."""
        return not self._line and waiting + self._reserved + wanted <= self.size

    def wait(self, putter: P, wanted: int, *, first: bool = False) -> None:
        """Add a producer that waits for so many places, last in line or first. O(1)."""
        self._line[putter] = wanted
        if first:
            self._line.move_to_end(putter, last=False)

    def leave(self, putter: P) -> bool:
        """Remove a producer; False: it no longer waits, its places are reserved. O(1)."""
        return self._line.pop(putter, None) is not None

    def give_back(self, places: int) -> None:
        """Return reserved places, used or not. O(1)."""
        self._reserved -= places

    def admit(self, waiting: int) -> Iterator[P]:
        """Reserve places for producers while there is room, and yield each of them. O(1) each."""
        while self._line:
            putter, wanted = next(iter(self._line.items()))
            if waiting + self._reserved + wanted > self.size:
                return
            del self._line[putter]
            self._reserved += wanted
            yield putter

    def clear(self) -> list[P]:
        """Remove all producers, and return them. O(producers)."""
        producers = list(self._line)
        self._line.clear()
        return producers
