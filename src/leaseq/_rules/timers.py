"""What few items have: times, and what goes with them. Sans-IO."""

from __future__ import annotations

from math import inf


class ItemTimers:
    """Times of an item, on the ledger's clock, and what else few items have."""

    __slots__ = ("consumer", "due", "expires", "expiries", "not_before", "number")

    def __init__(self) -> None:
        self.due = -inf  # when it is ready
        self.not_before = -inf  # no put may make that earlier: it rests after a failure
        self.expires = inf  # when its time to live is over
        self.number = 0  # of those that fall due at one time, the lowest comes first; 0: none yet
        self.expiries = 0  # leases on it that ran out
        self.consumer: str | None = None
