"""The states of a queue's keys after steps that are not taken yet. Sans-IO.

The steps of a transaction are done all or none. So each is planned here first: `Plan` follows the
moves of the table for the keys that the transaction touches, and says what would be refused. A step
that was planned cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from .moves import Refusal, refusal

if TYPE_CHECKING:
    from .._core.requests import PutRequest
    from .ledger import Ledger


class PutRefusal(NamedTuple):
    """A put that would be refused."""

    why: Refusal
    tenant: str | None
    """The tenant of the item that will be there."""


class PlannedKey:
    """The state of a key after the planned steps.

    Attributes:
        there: True if it has an item.
        leased: True if that is leased.
        succeeded: True if a successor is buffered.
        tenant: The item's tenant.
        done: True if it was done so lately that a put is a duplicate once it has no item.
    """

    __slots__ = ("done", "leased", "succeeded", "tenant", "there")

    def __init__(
        self,
        *,
        there: bool,
        leased: bool = False,
        succeeded: bool = False,
        tenant: str | None = None,
        done: bool = False,
    ) -> None:
        self.there = there
        self.leased = leased
        self.succeeded = succeeded
        self.tenant = tenant
        self.done = done


class Plan:
    """The state of a queue after the steps that are planned so far.

    Args:
        look: Returns the state of a key before the first step.
        dedupes: True if a key that was done is a duplicate for a while.

    Attributes:
        places: The number of places for waiting items that the puts need.
    """

    __slots__ = ("_dedupes", "_keys", "_look", "_waiting", "places")

    def __init__(self, look: Callable[[Any], PlannedKey], *, dedupes: bool) -> None:
        self._look = look
        self._dedupes = dedupes
        self.places = 0
        self._waiting = 0  # the number of additional waiting items
        self._keys: dict[Hashable, PlannedKey] = {}

    def put(self, key: Hashable, terms: PutRequest) -> PutRefusal | None:
        """Plan a put; return the refusal, if it will be refused."""
        known = self._look_at(key)
        if known.there:
            why = refusal(known.tenant, terms, leased=known.leased)
            if why is not None:
                return PutRefusal(why, known.tenant)
            known.succeeded |= known.leased and terms.if_in_flight == "buffer"
        elif not known.done:
            known.there = True
            known.tenant = terms.tenant
            self._waiting += 1
            self.places = self._waiting
        return None

    def ack(self, key: Hashable) -> bool:
        """Plan an ack of a lease that holds a key; False: it will have been settled."""
        known = self._look_at(key)
        if not self._settle(known, stays=False):
            return False
        known.done |= self._dedupes
        return True

    def release(self, key: Hashable, *, leaves: bool) -> bool:
        """Plan a release or a rejection; False as of `ack`.

        Args:
            key: The key that the lease holds.
            leaves: True: the item dies, and is buried or dropped.
        """
        return self._settle(self._look_at(key), stays=not leaves)

    def _settle(self, known: PlannedKey, *, stays: bool) -> bool:
        if not known.leased:
            return False
        known.leased = False
        known.there = stays or known.succeeded
        self._waiting += known.there
        return True

    def _look_at(self, key: Hashable) -> PlannedKey:
        if key not in self._keys:
            self._keys[key] = self._look(key)
        return self._keys[key]


def plan_for(ledger: Ledger[Any, Any], now: float) -> Plan:
    """Return a plan for the keys of a ledger."""

    def look(key: Hashable) -> PlannedKey:
        item = ledger.item(key)
        done = ledger.was_done(key, now)
        if item is None:
            return PlannedKey(there=False, done=done)
        succeeded = item._after is not None and item._after.buffered
        leased = key in ledger.leased
        return PlannedKey(
            there=True, leased=leased, succeeded=succeeded, tenant=item._tenant, done=done
        )

    return Plan(look, dedupes=ledger.dedupes)
