"""Every exception of the library."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CodecError",
    "InvalidLeaseError",
    "KeyAlreadyInFlightError",
    "LeaseAlreadyAcknowledgedError",
    "LeaseLostError",
    "LeaseqError",
    "QueueClosedError",
    "ServerError",
    "ServerUnavailableError",
    "TenantMismatchError",
    "TimekeeperNotRunningError",
    "TransactionError",
    "UnusableServerError",
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


class TenantMismatchError(LeaseqError, ValueError):
    """The put names another tenant than the key's item has.

    Attributes:
        tenant: The tenant of the item; None: no particular one.
    """

    def __init__(self, message: str = "", *, tenant: str | None) -> None:
        super().__init__(message)
        self.tenant = tenant


class InvalidLeaseError(LeaseqError):
    """The lease does not hold its item: it was released before, or is another queue's."""


class LeaseAlreadyAcknowledgedError(InvalidLeaseError):
    """The lease was acknowledged before; its item is done."""


class LeaseLostError(InvalidLeaseError):
    """The lease passed its deadline, or its queue was closed: somebody else may hold the item."""


class TimekeeperNotRunningError(LeaseqError, RuntimeError):
    """Something needs time to pass, and nothing lets it: ``queue.run`` was not started."""


class TransactionError(LeaseqError):
    """A transaction could not be done, and so nothing of it was.

    Attributes:
        failures: Why not: an error for each part that could not be done.
    """

    def __init__(self, failures: Sequence[Exception]) -> None:
        self.failures = tuple(failures)
        reasons = "; ".join(f"{type(failure).__name__}: {failure}" for failure in failures)
        super().__init__(f"nothing was done, because of {len(failures)}: {reasons}")


class CodecError(LeaseqError, ValueError):
    """A value cannot be made bytes of; or bytes are not those of a value."""


class UnusableServerError(LeaseqError):
    """There is no server to connect to, or none that can hold queues; the message says why."""


class ServerUnavailableError(LeaseqError, ConnectionError):
    """The server could not be reached, did not answer in time, or was not ready to.

    The connection comes back by itself, once the server does.

    Attributes:
        in_doubt: Whether what was asked for may have been done, or may still be: the request was
            on its way, and its answer was lost. Otherwise it certainly was not done.
    """

    def __init__(self, message: str = "", *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class ServerError(LeaseqError):
    """The server refused what it was asked for, with an error of its own.

    Attributes:
        code: The error's first word: ``"OOM"`` (the server is full), ``"NOPERM"`` (the user may
            not), ``"ERR"`` (anything).
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
