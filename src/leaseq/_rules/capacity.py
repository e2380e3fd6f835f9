"""The room in a queue, and the producers that wait for it. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from .by_key import leave

P = TypeVar("P")


class Capacity(Generic[P]):
    """The room of a queue with a ``max_size``: waiting items, and reserved places.

    A producer waits for a place for each of its keys that are not there yet. It is handed reserved
    places before it is woken, in order of arrival, so that no later producer can take them. It
    leaves when it puts its items or is cancelled. If its keys come in meanwhile by another
    producer, it needs no place, and does not wait any longer.

    Args:
        size: The largest number of waiting items.
    """

    __slots__ = ("_line", "_places", "_reserved", "_wanted_by", "size")

    def __init__(self, size: float) -> None:
        self.size = size
        self._reserved = 0
        self._places: dict[P, int] = {}  # the reserved places of each that was let in
        self._line: OrderedDict[P, set[Hashable]] = OrderedDict()  # the keys without a place
        self._wanted_by: dict[Hashable, OrderedDict[P, None]] = {}

    @property
    def putters(self) -> int:
        """The number of waiting producers. O(1)."""
        return len(self._line)

    def free(self, waiting: int, wanted: int = 1) -> bool:
        """Return True if so many items can be put now, with so many waiting. O(1)."""
        return not self._line and waiting + self._reserved + wanted <= self.size

    def wait(self, putter: P, keys: Iterable[Hashable], *, first: bool = False) -> None:
        """Add a producer that waits for places for these keys, last in line or first. O(keys)."""
        self._line[putter] = wanted = set(keys)
        if first:
            self._line.move_to_end(putter, last=False)
        for key in wanted:
            self._wanted_by.setdefault(key, OrderedDict())[putter] = None

    def leave(self, putter: P) -> int:
        """Remove a producer, in line or let in; return the number of its places. O(its keys)."""
        if putter in self._line:
            self._take_out(putter)
        places = self._places.pop(putter, 0)
        self._reserved -= places
        return places

    def admit(self, waiting: int) -> Iterator[P]:
        """Reserve places for producers while there is room, and yield each. O(its keys)."""
        while self._line:
            putter, wanted = next(iter(self._line.items()))
            if waiting + self._reserved + len(wanted) > self.size:
                return
            yield self._let_in(putter)

    def came(self, key: Hashable) -> Iterator[P]:
        """Take note that a key is there; yield producers that need no place now. O(producers)."""
        for putter in self._wanted_by.pop(key, ()):
            self._line[putter].discard(key)
            if not self._line[putter]:
                yield self._let_in(putter)

    def clear(self) -> list[P]:
        """Remove all producers from the line, and return them. O(producers)."""
        producers = list(self._line)
        self._line.clear()
        self._wanted_by.clear()
        return producers

    def _let_in(self, putter: P) -> P:
        self._places[putter] = places = len(self._line[putter])
        self._reserved += places
        self._take_out(putter)
        return putter

    def _take_out(self, putter: P) -> None:
        for key in self._line.pop(putter):
            leave(self._wanted_by, key, putter, rename=object)
