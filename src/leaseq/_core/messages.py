"""Errors of misuse that every engine raises in the same words. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from .errors import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
    LeaseqError,
    QueueClosedError,
    TenantMismatchError,
    TimekeeperNotRunningError,
)
from .validation import delay_seconds

if TYPE_CHECKING:
    from .lease import Lease

K = TypeVar("K")
V = TypeVar("V")

RUN_TWICE = "letting time pass for"
"""What an `anyio.BusyResourceError` says of a second `run` beside the first."""


def no_timekeeper(queue: object, what: str, would_never: str) -> TimekeeperNotRunningError:
    """The error for what needs a timekeeper while none is running, which says how to start it."""
    return TimekeeperNotRunningError(
        f"{what} needs a timekeeper, or it would never {would_never}, and none is running for "
        f"{queue!r}. Start it in your own task group:\n\n"
        "    async with anyio.create_task_group() as tg, queue:\n"
        "        await tg.start(queue.run)\n\n"
        "(in an asyncio.TaskGroup: tg.create_task(queue.run()), then await asyncio.sleep(0)); "
        "or do without time: lease_timeout=None, no delay, no backoff"
    )


def tenant_mismatch(key: object, tenant: str | None, wanted: str | None) -> TenantMismatchError:
    """Return the error for a put on a key whose item has another tenant.

    Args:
        key: The key.
        tenant: The tenant of the item.
        wanted: The tenant of the put.
    """
    return TenantMismatchError(
        f"key {key!r} is there for the tenant {tenant!r}: leave tenant= out, "
        f"or put it for {wanted!r} under another key",
        tenant=tenant,
    )


def never_fits(new: int, max_size: float) -> ValueError:
    """Return the error for a put of more new keys at once than a queue may ever hold."""
    return ValueError(
        f"{new} items at once never fit a queue of max_size={max_size}: put them in smaller lots"
    )


def check_release(queue: object, delay: float, *, requeue_front: bool, timed: bool) -> float:
    """Return the delay of a release as a float; raise if a lease cannot be released with it.

    Args:
        queue: The lease's queue.
        delay: Seconds until the item is ready again.
        requeue_front: Whether it is to go to the front of its line, at once.
        timed: Whether something lets time pass for the queue.

    Raises:
        TimekeeperNotRunningError: nothing does, and there is a delay.
        TypeError: the delay is not a number.
        ValueError: the delay is negative, endless or not a number, or goes with ``requeue_front``.
    """
    seconds = delay_seconds(delay)
    if seconds > 0 and not timed:
        raise no_timekeeper(queue, f"a delay of {delay} s", "end")
    if seconds > 0 and requeue_front:
        raise ValueError(f"requeue_front=True is at once, and delay={delay!r} later")
    return seconds


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


# Puts


def key_in_flight(key: object) -> KeyAlreadyInFlightError:
    """The error for a put on a leased key that said ``if_in_flight="reject"``."""
    return KeyAlreadyInFlightError(
        f'key {key!r} is leased: wait until it is settled, or put it with if_in_flight="buffer"'
    )


def no_room(queue: object, places: int) -> LeaseqError:
    """The error for a transaction that puts more items than there is room for."""
    return LeaseqError(f"{queue!r} has no room for {places} more")


def takes_nothing_more(queue: object, how: str = "") -> QueueClosedError:
    """The error for a put into a queue that was shut down or closed.

    Args:
        queue: The queue.
        how: ``"shut down"`` or ``"closed"``, if that is to be told.
    """
    why = f": it is {how}" if how else ""
    return QueueClosedError(f"{queue!r} takes nothing more{why}")


# Leases


def not_of_queue(lease: object) -> InvalidLeaseError:
    """The error for settling a lease through a queue that did not hand it out."""
    return InvalidLeaseError(f"{lease!r} is another queue's: settle it there")


def leases_lost(queue: object, *, drained: bool) -> QueueClosedError:
    """The error for settling a lease of a queue that was closed."""
    return QueueClosedError(f"{queue!r}: its leases are lost", drained=drained)


def settled_twice(lease: object) -> InvalidLeaseError:
    """The error for a transaction that ends one lease more than once."""
    return InvalidLeaseError(f"{lease!r} is settled twice")


def lease_ended(key: object, token: int) -> LeaseLostError:
    """The error for a receipt whose lease has ended."""
    return LeaseLostError(f"the lease on {key!r} with the token {token} has ended")


def other_receipt(queue: str, receipt_of: str) -> InvalidLeaseError:
    """The error for a receipt that is for another queue."""
    return InvalidLeaseError(f"a lease of the queue {receipt_of!r} is not {queue!r}'s")


# The end


def drained(queue: object) -> QueueClosedError:
    """The error for waiting at a queue that is drained and takes nothing more."""
    return QueueClosedError(f"{queue!r} is drained: nothing more is coming", drained=True)


def closed_with_work_left(queue: object) -> QueueClosedError:
    """The error for using a queue that was closed before it was drained."""
    return QueueClosedError(f"{queue!r} was closed with work left")


def broker_closed(broker: object) -> QueueClosedError:
    """The error for using a broker that was closed."""
    return QueueClosedError(f"{broker!r}")


# Queues of a broker


def not_of_broker(queue: object) -> ValueError:
    """The error for a queue of another broker in a transaction."""
    return ValueError(f"{queue!r} is not a queue of this broker")


def no_queue(name: str) -> LookupError:
    """The error for a queue that must be there and is not."""
    return LookupError(f"there is no queue {name!r}: broker.queue() makes one")


def no_dead_letters(name: str) -> LookupError:
    """The error for asking for the queue of dead letters of one that has none."""
    return LookupError(f"queue {name!r} has no queue of dead letters")


def no_dead_letters_of(queue: object) -> ValueError:
    """The error for a redrive of a queue that has no queue of dead letters."""
    return ValueError(f"{queue!r} has no queue of dead letters to bring items back from")


def own_dead_letters(name: str) -> ValueError:
    """The error for a queue that is to be its own queue of dead letters."""
    return ValueError(f"queue {name!r} cannot be its own queue of dead letters")


def pair_without_dead_letters() -> ValueError:
    """The error for a pair of queues with ``dead_letters=None``."""
    return ValueError("a pair has a queue of dead letters: leave dead_letters=None out")


def dead_letters_used(name: str, users: Iterable[str]) -> ValueError:
    """The error for deleting a queue that has the dead letters of others."""
    return ValueError(
        f"queue {name!r} has the dead letters of {', '.join(map(repr, users))}: delete these first"
    )
