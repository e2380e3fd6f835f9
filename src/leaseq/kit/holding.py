"""Whether a lease still holds its item. Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..errors import InvalidLeaseError, LeaseAlreadyAcknowledgedError, LeaseLostError

if TYPE_CHECKING:
    from ..lease import Lease

__all__ = ["check_held"]

K = TypeVar("K")
V = TypeVar("V")


def check_held(lease: Lease[K, V], now: float) -> None:
    """Raise what settling this lease would raise. O(1)."""
    if lease.ended == "acked":
        raise LeaseAlreadyAcknowledgedError(f"{lease!r} was acknowledged before")
    if lease.ended == "lost":
        raise LeaseLostError(f"{lease!r} was lost: its item is not held by it any more")
    if lease.ended is not None:
        raise InvalidLeaseError(f"{lease!r} was {lease.ended} before")
    if lease.deadline <= now:
        raise LeaseLostError(
            f"{lease!r} expired {now - lease.deadline:.3g} s ago: "
            "take a longer lease_timeout, or extend it in time"
        )
