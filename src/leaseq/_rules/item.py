"""An item of a ledger, which is also the lease on it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypeVar

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


Item.__name__ = Item.__qualname__ = "Lease"  # users know nothing of its other life
Item.__module__ = "leaseq"
