"""The states of a queue's keys after steps that are not taken yet. Sans-IO.

The steps of a transaction are done all or none. So each is planned here first: `Plan` follows the
moves of the table for the keys that the transaction touches, and raises the errors of the ledger.
A step that was planned cannot fail.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from .._core.messages import settled_twice
from .ledger import Ledger
from .moves import check_put_on

if TYPE_CHECKING:
    from .._core.requests import PutRequest
    from .item import Item


class _Key:
    """The state of a key after the planned steps."""

    __slots__ = ("done", "leased", "succeeded", "tenant", "there")

    def __init__(self, item: Item[Any, Any] | None, *, leased: bool, done: bool) -> None:
        self.there = item is not None
        self.leased = leased
        self.succeeded = item is not None and item._after is not None and item._after.buffered
        self.tenant = None if item is None else item._tenant
        self.done = done  # so lately that a put is a duplicate


class Plan:
    """The state of a queue after the steps that are planned so far.

    Attributes:
        places: The number of places for waiting items that the puts need.
    """

    __slots__ = ("_keys", "_ledger", "_now", "_waiting", "places")

    def __init__(self, ledger: Ledger[Any, Any], now: float) -> None:
        self._ledger = ledger
        self._now = now
        self.places = 0
        self._waiting = 0  # the number of additional waiting items
        self._keys: dict[Hashable, _Key] = {}

    def put(self, key: Hashable, terms: PutRequest) -> None:
        """Plan a put.

        Raises:
            KeyAlreadyInFlightError, ValueError: as `Ledger.put` would then.
        """
        known = self._look_at(key)
        if known.there:
            check_put_on(key, known.tenant, terms, leased=known.leased)
            known.succeeded |= known.leased and terms.if_in_flight == "buffer"
        elif not known.done:
            known.there = True
            known.tenant = terms.tenant
            self._waiting += 1
            self.places = self._waiting

    def ack(self, item: Item[Any, Any]) -> None:
        """Plan an ack of a lease that still holds its item.

        Raises:
            InvalidLeaseError: it will have been settled.
        """
        self._settle(item, stays=False).done = self._ledger.dedupes

    def release(self, item: Item[Any, Any], *, leaves: bool) -> None:
        """Plan a release or a rejection. Raises what `ack` raises.

        Args:
            item: The lease.
            leaves: True: the item dies, and is buried or dropped.
        """
        self._settle(item, stays=not leaves)

    def _settle(self, item: Item[Any, Any], *, stays: bool) -> _Key:
        known = self._look_at(item._key)
        if not known.leased:
            raise settled_twice(item)
        known.leased = False
        known.there = stays or known.succeeded
        self._waiting += known.there
        return known

    def _look_at(self, key: Hashable) -> _Key:
        if key not in self._keys:
            ledger = self._ledger
            self._keys[key] = _Key(
                ledger.item(key),
                leased=key in ledger.leased,
                done=ledger.is_duplicate(key, self._now),
            )
        return self._keys[key]
