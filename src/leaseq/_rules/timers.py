"""Times of an item, and other fields that few items need. Sans-IO."""

from __future__ import annotations

from math import inf


class ItemTimers:
    """Times of an item, on the ledger's clock, and other fields that few items need."""

    __slots__ = ("consumer", "due", "expires", "expiries", "not_before", "number")

    def __init__(self) -> None:
        self.due = -inf  # the time at which it is ready
        self.not_before = -inf  # the earliest time that a put may set: it rests after a failure
        self.expires = inf  # the end of its time to live
        self.number = 0  # of those that fall due at one time, the lowest comes first; 0: none yet
        self.expiries = 0  # leases on it that ran out
        self.consumer: str | None = None

    @property
    def of_any_item(self) -> bool:
        """True if there is nothing to keep but the time at which it is ready."""
        return self.expires == inf and self.not_before == -inf and not self.expiries
