"""A line of items of one priority: first in first out, with ways to the front. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._core.heap import Heap
from .by_key import expel, in_order, insert
from .moves import OLD, Place

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")


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


class ReadyList(Generic[K, V]):
    """Items in the order in which they are handed out.

    Most join at the back. Those that were handed out before may join at their *old place*: in front
    of all that was not handed out, in the order of their hand-outs among each other; or at the
    *front*, before these. While they wait, their `token` is their rank: negative for these two, at
    the old place the last lease's token less `OLD`. At the back ranks are positive, in the order
    of joining; or 0, for items that were put the short way, whose order `items` alone has.

    Attributes:
        items: All of them by key; those at the back in their order, the others before these.
        special: True: some are not at the back, so that the first of `items` need not be the first
            in line.
    """

    __slots__ = ("_ranked", "_ranks", "items", "special")

    def __init__(self, ranks: Ranks) -> None:
        self.items: OrderedDict[K, Item[K, V]] = OrderedDict()
        self.special = False
        self._ranks = ranks
        self._ranked: Heap[Item[K, V]] | None = None  # most lines never need one

    def __iter__(self) -> Iterator[Item[K, V]]:
        return iter(in_order(self.items))

    def first(self) -> Item[K, V]:
        """Return the first item; there must be one. O(1), amortised."""
        if self.special and self._ranked is not None:
            ranked = self._ranked.first()
            if ranked is not None:
                return ranked[1]
        try:
            return next(iter(self.items.values()))
        except Exception:  # its key has changed since it was put
            return in_order(self.items)[0]

    def join(self, item: Item[K, V], place: Place) -> None:
        """Put an item in its place. O(1) at the back, else O(log n)."""
        self._ranks.give(item, place)
        self.insert(item)

    def insert(self, item: Item[K, V]) -> None:
        """Put an item in the place of its rank; at the back it is the last. O(1), or O(log n)."""
        key: Any = insert(self.items, item)
        if item._token >= 0:
            return
        self.items.move_to_end(key, last=False)
        if self._ranked is None:
            self._ranked = Heap(lambda rank, item: item._token == rank)
        self._ranked.add(item._token, item)
        self.special = True

    def leave(self, item: Item[K, V]) -> None:
        """Take an item out. O(1), amortised."""
        if item._token < 0 and self._ranked is not None:
            self._ranked.drop(item)
            self.special = len(self._ranked) > 0
            item._token = 0
        expel(self.items, item)
