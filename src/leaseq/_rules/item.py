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
    """The lease on an item, and before it a waiting item about which something is unusual.

    Most items wait as their bare values, and this is made at the hand-out; the others wait as the
    object that becomes the lease. An item that returns to the line after its lease does not return
    as this object: an old lease stays as it ended, whatever becomes of its key.

    `deadline` is the time of the next timed event: while the item is leased, its lease expires;
    before that, it falls due, or its time to live is over. `token` is the lease's number, and
    before the hand-out the item's rank in line.
    """

    __slots__ = ("_after", "_timers")

    def __init__(
        self,
        queue: LeasedQueue[K, V],
        key: K,
        value: V,
        token: int = 0,
        deliveries: int = 0,
        since: float | None = None,
    ) -> None:
        # All of Lease.__init__ again: this runs once for every hand-out, and a call costs as much.
        self._queue = queue
        self._key = key
        self._value = value
        self._priority = NORMAL
        self._tenant = None
        self._token = token
        self._deadline = inf
        self._since = since
        self._deliveries = deliveries
        self._cancellations = 0
        self._ended = None
        self._scope = None
        self._pledge = None
        self._after: Successor[V] | None = None
        self._timers: ItemTimers | None = None


Item.__name__ = Item.__qualname__ = "Lease"  # users know nothing of its other life
Item.__module__ = "leaseq"
