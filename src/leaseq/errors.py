"""Every exception of the library."""

from __future__ import annotations

__all__ = [
    "InvalidLeaseError",
    "KeyAlreadyInFlightError",
    "LeaseAlreadyAcknowledgedError",
    "LeaseLostError",
    "LeaseqError",
    "QueueClosedError",
    "TimekeeperNotRunningError",
]


class LeaseqError(Exception):
    """What every exception of this library is."""


class QueueClosedError(LeaseqError):
    """The queue is closed; or it is shut down, and what was asked for cannot come any more.

    Attributes:
        drained: Whether all is done: nothing was left in the queue.
    """

    def __init__(self, message: str = "", *, drained: bool = False) -> None:
        super().__init__(message)
        self.drained = drained


class KeyAlreadyInFlightError(LeaseqError):
    """The key is leased, and the put said ``if_in_flight="reject"``."""


class InvalidLeaseError(LeaseqError):
    """The lease does not hold its item: it was released before, or is another queue's."""


class LeaseAlreadyAcknowledgedError(InvalidLeaseError):
    """The lease was acknowledged before; its item is done."""


class LeaseLostError(InvalidLeaseError):
    """The lease passed its deadline, or its queue was closed: somebody else may hold the item."""


class TimekeeperNotRunningError(LeaseqError, RuntimeError):
    """Something needs time to pass, and nothing lets it: ``queue.run`` was not started."""
