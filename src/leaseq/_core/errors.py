"""Every exception of the library."""

from __future__ import annotations

from collections.abc import Sequence

from .exports import adopt
from .limits import MOST_REASON
from .texts import failure_text, is_a, leaves
from .validation import check_text


def _made_again(
    kind: type[LeaseqError], args: tuple[object, ...], fields: dict[str, object]
) -> LeaseqError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class LeaseqError(Exception):
    """The base of every exception of this library."""

    def __reduce__(self) -> tuple[object, ...]:
        # That of `Exception` makes a copy by the arguments of the message alone.
        return _made_again, (type(self), self.args, self.__dict__.copy())


class QueueClosedError(LeaseqError):
    """The queue is closed; or it is shut down, and the item asked for can no longer come.

    Attributes:
        drained: True if nothing was left in the queue.
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

    def __init__(self, message: str = "", *, tenant: str | None = None) -> None:
        super().__init__(message)
        self.tenant = tenant


class InvalidLeaseError(LeaseqError):
    """The lease does not hold its item: it was released, or belongs to another queue."""


class LeaseAlreadyAcknowledgedError(InvalidLeaseError):
    """The lease was acknowledged before; its item is done."""


class LeaseLostError(InvalidLeaseError):
    """The lease expired or was taken away, or its queue was closed; the message says which.

    Another consumer may hold the item.
    """


class LostAtCloseError(LeaseLostError, QueueClosedError):
    """The lease was lost because its queue was closed: a lost lease and a closed queue in one.

    Attributes:
        drained: True if nothing was left in the queue.
    """


class LeaseCancelledError(LeaseLostError):
    """The lease was cancelled, by `cancel`: its item is not tried again.

    Attributes:
        reason: The reason that was given; ``""``: there was none.
    """

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class TimekeeperNotRunningError(LeaseqError, RuntimeError):
    """The call needs a timekeeper, and ``queue.run`` was not started."""


class TransactionError(LeaseqError):
    """A transaction failed, and nothing was done.

    Attributes:
        failures: An error for each step that could not be done.
    """

    def __init__(self, failures: Sequence[Exception]) -> None:
        self.failures = tuple(failures)
        reasons = "; ".join(f"{type(failure).__name__}: {failure}" for failure in failures)
        super().__init__(f"nothing was done, because of {len(failures)}: {reasons}")


class Reject(Exception):  # noqa: N818 - the decision of a body, not an error
    """Raised by a body or a handler to give its item up: it is a dead letter with this reason."""

    def __init__(self, reason: str) -> None:
        check_text("reason", reason)
        super().__init__(reason)
        self.reason = reason


def rejection(error: BaseException) -> str | None:
    """Return the reason of a `Reject`, or of a group of nothing else; None for other errors."""
    reasons: dict[str, None] = {}
    for leaf in leaves(error):
        if not is_a(leaf, Reject):
            return None
        reasons[_reason_of(leaf)] = None  # type: ignore[arg-type]  # a Reject
    return "; ".join(reasons)[:MOST_REASON]


def _reason_of(rejected: Reject) -> str:
    try:
        reason: object = rejected.reason  # a subclass may have another one, or none, or raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        reason = None
    return reason if isinstance(reason, str) else failure_text(rejected)


class CodecError(LeaseqError, ValueError):
    """The value could not be encoded or decoded."""


class ProcessError(LeaseqError):
    """An error of a function that ran in a process, with ``run_in="process"``.

    Its class is a subclass with the name of the error's own.

    Attributes:
        kinds: The names of the error's class and of its bases, that of the class first.
        traceback: The traceback, as text.
    """

    def __init__(
        self, message: str = "", *, kinds: Sequence[str] = (), traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)
        self.traceback = traceback

    @classmethod
    def made(cls, kinds: Sequence[str], message: str, traceback: str) -> ProcessError:
        """Make one of what a process has told."""
        # Its repr and its text in a log are those of the error there.
        kind = type(kinds[0], (cls,), {"__module__": "builtins", "__reduce__": _as_process_error})
        error: ProcessError = kind(message, kinds=kinds, traceback=traceback)
        if traceback:
            error.__cause__ = _InProcess(traceback)
        return error


def _as_process_error(error: ProcessError) -> tuple[object, ...]:
    return ProcessError.made, (error.kinds, str(error), error.traceback)


class _InProcess(Exception):  # noqa: N818 - shows a traceback, and is never raised
    """The traceback of an error in a process, shown as the cause of the error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class ProcessDiedError(ProcessError):
    """The process in which a function ran has died: it was killed, or has crashed.

    Attributes:
        exit_code: The exit code; negative: the number of the signal that has ended it.
    """

    def __init__(self, message: str = "", exit_code: int = 0) -> None:
        super().__init__(message, kinds=("ProcessDiedError",))
        self.exit_code = exit_code


class UnusableServerError(LeaseqError):
    """The server cannot be connected to, or cannot hold queues; the message says why."""


class ServerUnavailableError(LeaseqError, ConnectionError):
    """The server could not be reached, did not answer in time, or was not ready to.

    The connection comes back by itself, once the server does.

    Attributes:
        in_doubt: True if the request may have been done, or may still be: it was sent, and its
            answer was lost. False if it certainly was not done.
    """

    def __init__(self, message: str = "", *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class ServerError(LeaseqError):
    """The server refused the request, with an error of its own.

    Attributes:
        code: The first word of the error: ``"OOM"`` (the server is full), ``"NOPERM"`` (the user is
            not permitted), ``"ERR"`` (anything else).
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


adopt("leaseq", globals())
