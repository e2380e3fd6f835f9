"""How much room there is, and which producer gets it. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

P = TypeVar("P")


class Capacity(Generic[P]):
    """The room of a queue with a ``max_size``: items that wait, and places that are reserved.

    A producer that waits is handed a reserved place before it is woken, in order of arrival, so
    that nobody who comes later can take it; it gives it back when it puts its item, or when it is
    cancelled.

    Args:
        size: How many items may wait.
    """

    __slots__ = ("_line", "_reserved", "size")

    def __init__(self, size: float) -> None:
        self.size = size
        self._reserved = 0
        self._line: OrderedDict[P, int] = OrderedDict()

    @property
    def putters(self) -> int:
        """How many producers wait. O(1)."""
        return len(self._line)

    def free(self, waiting: int, wanted: int = 1) -> bool:
        """Whether so many items can be put now, with so many waiting. O(1)."""
        return not self._line and waiting + self._reserved + wanted <= self.size

    def wait(self, putter: P, wanted: int, *, first: bool = False) -> None:
        """Let a producer wait for so many places, last in line or first. O(1)."""
        self._line[putter] = wanted
        if first:
            self._line.move_to_end(putter, last=False)

    def leave(self, putter: P) -> bool:
        """Let a producer go; False: it does not wait any more, its places are reserved. O(1)."""
        return self._line.pop(putter, None) is not None

    def give_back(self, places: int) -> None:
        """Reserved places are used, or not needed. O(1)."""
        self._reserved -= places

    def admit(self, waiting: int) -> Iterator[P]:
        """Give the producers for whom there is room by now, their places reserved. O(1) each."""
        while self._line:
            putter, wanted = next(iter(self._line.items()))
            if waiting + self._reserved + wanted > self.size:
                return
            del self._line[putter]
            self._reserved += wanted
            yield putter

    def clear(self) -> list[P]:
        """Let all go. O(producers)."""
        everybody = list(self._line)
        self._line.clear()
        return everybody
