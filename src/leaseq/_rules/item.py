"""An item of a ledger, which is also the lease on it."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from ..abc._lease import Lease
from .moves import NORMAL

if TYPE_CHECKING:
    from ..abc import LeasedQueue
    from .moves import Successor
    from .timers import ItemTimers

K = TypeVar("K")
V = TypeVar("V")


class Item(Lease[K, V]):
    """The stay of a key in the queue, and the lease that ends it.

    A consumer's lease is the same object that has waited since the put, so that a hand-out
    allocates nothing. An item that returns to the line after its lease returns as another object
    with the old one's counts: an old lease stays as it ended, whatever becomes of its key.

    `deadline` is the time of the next timed event: while the item is leased, its lease expires;
    before that, it falls due, or its time to live is over. `token` is the lease's number, and
    before the hand-out the item's rank in line.
    """

    __slots__ = ("_after", "_timers")

    def __init__(self, queue: LeasedQueue[K, V], key: K, value: V) -> None:
        # All of Lease.__init__ again: this runs once for every put, and a call costs as much.
        self._queue = queue
        self._key = key
        self._value = value
        self._priority = NORMAL
        self._tenant = None
        self._token = 0
        self._deadline = inf
        self._since = None
        self._deliveries = 0
        self._cancellations = 0
        self._ended = None
        self._scope = None
        self._pledge = None
        self._after: Successor[V] | None = None
        self._timers: ItemTimers | None = None


def insert(items: dict[K, Item[K, V]], item: Item[K, V]) -> object:
    """Add an item under its key, and return what it is under. O(1).

    A key that has changed since it was put may be equal to another one by now, or not be hashable:
    then the item is under an object of its own, for `expel` and those that look at all items.
    """
    key: Any = item._key
    try:
        if items.setdefault(key, item) is item:
            return key
    except Exception:
        pass
    key = object()
    items[key] = item
    return key


def expel(items: dict[K, Item[K, V]], item: Item[K, V]) -> None:
    """Take out an item that is there. O(1); O(items) if its key has changed since it was put."""
    try:
        if items.get(item._key) is item:
            del items[item._key]
            return
    except Exception:
        pass
    others = [other for other in each_of(items) if other is not item]
    items.clear()
    for other in others:
        insert(items, other)


def each_of(items: dict[K, Item[K, V]]) -> Iterator[Item[K, V]]:
    """Iterate over items in their order, also those whose keys have changed since they were put.

    O(1) each; but an `OrderedDict` looks each key up, so after one that has changed O(items).
    """
    told = 0
    try:
        for item in items.values():
            told += 1
            yield item
    except Exception:
        # Those that were handed out before have gone to the front, in the order of their ranks.
        ordered = sorted(dict.values(items), key=lambda item: min(item._token, 0))
        yield from ordered[told:]


def has(items: dict[K, Item[K, V]], item: Item[K, V]) -> bool:
    """Return True if an item is under its key. O(1)."""
    try:
        return items.get(item._key) is item
    except Exception:
        return False


Item.__name__ = Item.__qualname__ = "Lease"  # users know nothing of its other life
Item.__module__ = "leaseq"
