"""A line of items of one priority: first in first out, with ways to the front. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from .._core.heap import Heap

if TYPE_CHECKING:
    from .item import Item

__all__ = ["Line", "Place"]

K = TypeVar("K")
V = TypeVar("V")

Place = Literal["front", "back", "old"]


class Line(Generic[K, V]):
    """Items in the order in which they are handed out.

    Most join at the back. Those that were handed out before may join at their *old place*: in front
    of all that was not handed out, in the order of their hand-outs among each other; or at the
    *front*, before these. While they wait, their `token` is their rank there, the last lease's or a
    negative one; that of all others is 0.

    Attributes:
        items: All of them by key; those at the back in their order, the others before these.
        special: Whether any is not at the back, so that the first of `items` need not be the first.
    """

    __slots__ = ("_front", "_ranked", "items", "special")

    def __init__(self) -> None:
        self.items: OrderedDict[K, Item[K, V]] = OrderedDict()
        self.special = False
        self._front = 0
        self._ranked: Heap[Item[K, V]] | None = None  # most lines never need one

    def __iter__(self) -> Iterator[Item[K, V]]:
        return iter(sorted(self.items.values(), key=lambda item: item.token or inf))

    def first(self) -> Item[K, V]:
        """The first item; there must be one. O(1), amortised."""
        ranked = self._ranked.first() if self.special and self._ranked is not None else None
        return next(iter(self.items.values())) if ranked is None else ranked[1]

    def join(self, item: Item[K, V], place: Place) -> None:
        """Put an item in its place. O(1) at the back, else O(log n)."""
        self.items[item.key] = item
        if place == "back":
            item.token = 0
            return
        if place == "front":
            self._front -= 1
            item.token = self._front
        else:  # it may come from another line, with its rank there
            self._front = min(self._front, item.token)
        self.items.move_to_end(item.key, last=False)
        if self._ranked is None:
            self._ranked = Heap(
                lambda rank, item: item.token == rank and self.items.get(item.key) is item
            )
        self._ranked.add(item.token, item)
        self.special = True

    def leave(self, item: Item[K, V]) -> None:
        """Take an item out. O(1), amortised."""
        if item.token and self._ranked is not None:
            self._ranked.drop(item)
            self.special = len(self._ranked) > 0
        del self.items[item.key]
