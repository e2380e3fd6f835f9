"""Errors of misuse that every engine raises in the same words. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from .errors import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseCancelledError,
    LeaseLostError,
    LeaseqError,
    LostAtCloseError,
    QueueClosedError,
    TenantMismatchError,
    TimekeeperNotRunningError,
)
from .heap import Due
from .limits import MOST_PAUSED
from .options import ANY_KEY, AnyKey
from .texts import shown
from .validation import check_flag, delay_seconds

if TYPE_CHECKING:
    from .reports import LostBy, Paused

RUN_TWICE = "running the timekeeper of"
"""The action in the text of an `anyio.BusyResourceError`, for a second `run` beside the first."""


def no_timekeeper(queue: object, what: str, would_never: str) -> TimekeeperNotRunningError:
    """Return the error for a call that needs a timekeeper, with the way to start one.

    Args:
        queue: The queue.
        what: The part of the call that needs it, for instance "a delay of 3 s".
        would_never: The verb for what would never happen without it, for instance "end".
    """
    owner = getattr(queue, "_kept_by", "queue")
    return TimekeeperNotRunningError(
        f"{what} needs a timekeeper, or it would never {would_never}, and none is running for "
        f"{queue!r}. Start it in your own task group:\n\n"
        f"    async with anyio.create_task_group() as tg, {owner}:\n"
        f"        await tg.start({owner}.run)\n\n"
        f"(in an asyncio.TaskGroup: tg.create_task({owner}.run()), then await asyncio.sleep(0)); "
        "or do without time: lease_timeout=None, no delay, no backoff"
    )


def put_needs_time(queue: object, delay: float) -> TimekeeperNotRunningError:
    """Return the error for a put with a delay, where no timekeeper runs."""
    return no_timekeeper(queue, f"a delay of {delay:g} s", "be ready")


def claim_needs_time(queue: object, lease_timeout: float) -> TimekeeperNotRunningError:
    """Return the error for a claim, where no timekeeper runs.

    Args:
        queue: The queue.
        lease_timeout: Seconds; `math.inf`: the lease never expires, but the queue has a backoff.
    """
    if lease_timeout == inf:
        return no_timekeeper(queue, "a backoff", "end")
    return no_timekeeper(queue, f"a lease of {lease_timeout:g} s", "expire")


def tenant_mismatch(key: object, tenant: str | None, wanted: str | None) -> TenantMismatchError:
    """Return the error for a put on a key whose item has another tenant.

    Args:
        key: The key.
        tenant: The tenant of the item.
        wanted: The tenant of the put.
    """
    return TenantMismatchError(
        f"key {shown(key)} belongs to the tenant {shown(tenant)}: leave tenant= out, "
        f"or put the item for {shown(wanted)} under another key",
        tenant=tenant,
    )


def never_fits(new: int, max_size: float) -> ValueError:
    """Return the error for a put of more new keys than a queue may ever hold."""
    return ValueError(
        f"{new} new items never fit into a queue with max_size={max_size}: put fewer at a time"
    )


def check_release(
    queue: object, requeue_front: bool, delay: float | None, counted: bool, *, timed: bool
) -> float | None:
    """Return the delay of a release as a float; raise if a lease cannot be released like that.

    Args:
        queue: The lease's queue.
        requeue_front: True: the item goes to the front of its line, without a delay.
        delay: Seconds until the item is ready again; None: the retry policy decides.
        counted: True: the delivery counts.
        timed: True: the queue has a timekeeper.

    Raises:
        TimekeeperNotRunningError: it has none, and there is a delay.
        TypeError: an option has a value of another type.
        ValueError: the delay is negative, endless or not a number, or goes with ``requeue_front``.
    """
    check_flag("requeue_front", requeue_front)
    check_flag("counted", counted)
    if delay is None:
        return None
    seconds = delay_seconds(delay)
    if seconds > 0 and not timed:
        raise no_timekeeper(queue, f"a delay of {seconds:g} s", "end")
    if seconds > 0 and requeue_front:
        raise ValueError(
            f"requeue_front=True excludes a delay, and delay={shown(delay)}: leave one of them out"
        )
    return seconds


def check_held(lease: Due, now: float) -> None:
    """Raise the error for settling a lease that does not hold its item. O(1)."""
    if lease._ended == "acked":
        raise LeaseAlreadyAcknowledgedError(f"{lease!r} was acknowledged before")
    if lease._ended not in (None, "lost", "cancelled"):
        raise InvalidLeaseError(f"{lease!r} was {lease._ended} before: settle a lease once")
    if lease._ended is not None or lease._deadline <= now:
        raise lease_lost(lease, now)


class Cancellation(NamedTuple):
    """The cause of a loss by `cancel`."""

    reason: str


_CAUSES: dict[LostBy, str] = {
    "revoked": (
        "it was taken away, by release_all() or through its receipt, and another consumer may have "
        "the item: let what it writes be refused by its token"
    ),
    "damaged": (
        "its item could not be read any more, others having written among the queue's data: what "
        "was found is a dead letter, or was dropped, as the log says"
    ),
    "closed": (
        "its queue was closed or deleted: to let consumers finish first, call shutdown() and wait "
        "in join()"
    ),
}


def lease_lost(lease: Due, now: float, when: str = "") -> LeaseLostError:
    """Return the error for using a lease that was lost, with the cause and the way out.

    Args:
        lease: The lease.
        now: The time, on the clock of its deadline.
        when: The moment of the loss, as the end of a sentence: " while its body ran".
    """
    if lease._ended == "cancelled":
        return _cancelled(f"{lease!r} was cancelled{when}", _reason(lease))
    return _lost_kind(lease)(f"{lease!r} was lost{when}: {_cause(lease, now)}")


def batch_lost(batch: object, last: Due, now: float) -> LeaseLostError:
    """Return the error for a batch whose remaining leases were lost.

    Args:
        batch: The batch.
        last: The last lease that it has lost.
        now: The time, on the clock of the lease's deadline.
    """
    message = f"{batch!r}: all remaining leases were lost while its body ran. Of the last, {last!r}"
    if last._ended == "cancelled":
        return _cancelled(f"{message}: it was cancelled", _reason(last))
    return _lost_kind(last)(f"{message}: {_cause(last, now)}")


def _reason(lease: Due) -> str:
    """Return the reason for which a lease was cancelled; empty: none was given."""
    cause = getattr(lease, "_lost_by", None)
    return cause.reason if isinstance(cause, Cancellation) else ""


def _cancelled(message: str, reason: str) -> LeaseCancelledError:
    because = f": {shown(reason)}" if reason else ""
    return LeaseCancelledError(f"{message}{because}. Its item is not tried again", reason=reason)


def _lost_kind(lease: Due) -> type[LeaseLostError]:
    return LostAtCloseError if getattr(lease, "_lost_by", None) == "closed" else LeaseLostError


def _cause(lease: Due, now: float) -> str:
    cause: LostBy | None = getattr(lease, "_lost_by", None)
    if cause in _CAUSES:
        return _CAUSES[cause]
    if cause is None and lease._deadline > now:
        return "it no longer holds its item"
    ago = round(now - lease._deadline, 3)
    return (
        f"it expired {f'{ago:g} s ago' if ago > 0 else 'just now'}. Take a longer lease_timeout, "
        "or extend it in time: a pool does so with heartbeat=True"
    )


# Puts


def key_in_flight(key: object) -> KeyAlreadyInFlightError:
    """Return the error for a put with ``if_in_flight="reject"`` on a leased key."""
    return KeyAlreadyInFlightError(
        f"key {shown(key)} is leased: wait until it is settled, or put it with "
        'if_in_flight="buffer"'
    )


def full(queue: object, max_size: float) -> str:
    """Return the text of a `WouldBlock` for a put into a queue that has no room."""
    return f"{queue} is full: it has max_size={max_size}"


def not_ready(queue: object, key: object | AnyKey, paused: str = "") -> str:
    """Return the text of a `WouldBlock` for a claim of what is not ready, or is paused.

    Args:
        queue: The queue.
        key: The key that was asked for.
        paused: The pause that is the cause, as `paused_text` says it; empty: there is none.
    """
    what = "no item is ready" if key is ANY_KEY else f"key {shown(key)} is not ready"
    return f"{queue!r}: {paused or what}"


def paused_text(tenant: str | None, paused: Paused) -> str:
    """Return the words for a pause.

    Args:
        tenant: The tenant; None: the whole queue.
        paused: The pause.
    """
    what = "the queue" if tenant is None else f"the tenant {shown(tenant)}"
    why = f": {shown(paused.reason)}" if paused.reason else ""
    return f"{what} is paused{why}"


def too_many_paused(tenant: str) -> ValueError:
    """Return the error for pausing one tenant more than `MOST_PAUSED`."""
    return ValueError(
        f"{MOST_PAUSED:,} tenants of the queue are paused, which is the most, so the tenant "
        f"{shown(tenant)} was not: resume another one, or pause the whole queue"
    )


def no_room(queue: object, places: int) -> LeaseqError:
    """Return the error for a transaction that puts more items than there is room for."""
    return LeaseqError(f"{queue!r} has no room for {places} more items")


def takes_nothing_more(queue: object, how: str = "") -> QueueClosedError:
    """Return the error for a put into a queue that was shut down or closed.

    Args:
        queue: The queue.
        how: ``"shut down"`` or ``"closed"``; empty: left out of the text.
    """
    why = f": it is {how}" if how else ""
    return QueueClosedError(f"{queue!r} accepts no more items{why}")


# Leases


def not_of_queue(lease: object, owner: str = "another queue") -> InvalidLeaseError:
    """Return the error for settling a lease through a queue or batch that does not have it."""
    return InvalidLeaseError(f"{shown(lease)} belongs to {owner}: settle it there")


def leases_lost(queue: object, *, drained: bool) -> LostAtCloseError:
    """Return the error for settling a lease of a queue that was closed."""
    return LostAtCloseError(
        f"{queue!r}: its leases are lost, since {_CAUSES['closed']}", drained=drained
    )


def settled_twice(lease: object) -> InvalidLeaseError:
    """Return the error for a transaction that ends one lease more than once."""
    return InvalidLeaseError(f"{lease!r} is settled twice")


def lease_ended(key: object, token: int) -> LeaseLostError:
    """Return the error for a receipt whose lease has ended."""
    return LeaseLostError(
        f"the lease on {shown(key)} with the token {token} has ended: it was settled, has expired "
        "or was taken away. Settle it in time, or take a longer lease_timeout"
    )


def lease_cancelled(key: object, token: int, cause: Cancellation) -> LeaseCancelledError:
    """Return the error for a receipt whose lease was cancelled."""
    lease = f"the lease on {shown(key)} with the token {token}"
    return _cancelled(f"{lease} was cancelled", cause.reason)


def other_receipt(queue: str, receipt_of: str) -> InvalidLeaseError:
    """Return the error for a receipt that is for another queue."""
    return InvalidLeaseError(
        f"a receipt for the queue {shown(receipt_of)} is not valid for {shown(queue)}"
    )


# The end


def drained(queue: object) -> QueueClosedError:
    """Return the error for waiting at a queue that is drained and takes nothing more."""
    return QueueClosedError(f"{queue!r} is drained: no more items will come", drained=True)


def timed_out(
    queue: object, key: object | AnyKey, seconds: float, paused: str = ""
) -> TimeoutError:
    """Return the error for a wait for an item that has taken too long.

    Args:
        queue: The queue.
        key: The key that was asked for.
        seconds: The timeout.
        paused: The pause that is the cause, as `paused_text` says it; empty: none is known.
    """
    if paused:
        return TimeoutError(f"{queue!r}: nothing was handed out within {seconds:g} s, as {paused}")
    what = "no item was ready" if key is ANY_KEY else f"key {shown(key)} was not ready"
    return TimeoutError(f"{queue!r}: {what} within {seconds:g} s")


def closed_with_work_left(queue: object) -> QueueClosedError:
    """Return the error for using a queue that was closed before it was drained."""
    return QueueClosedError(
        f"{queue!r} was closed with work left: to let consumers finish first, call shutdown() and "
        "wait in join()"
    )


def key_cannot_come(queue: object, key: object) -> QueueClosedError:
    """Return the error for waiting for a key that is absent from a queue that was shut down."""
    return QueueClosedError(
        f"{queue!r} accepts no more items, so key {shown(key)} can no longer come in"
    )


def broker_closed(broker: object) -> QueueClosedError:
    """Return the error for using a broker that was closed."""
    return QueueClosedError(f"the broker is closed: {broker!r}")


# Queues of a broker


def not_of_broker(queue: object) -> ValueError:
    """Return the error for a queue of another broker in a transaction, or for no queue at all."""
    if isinstance(queue, str):
        return ValueError(
            f"{shown(queue)} is a name: a step is on a queue itself, as broker.queue() returns it"
        )
    return ValueError(f"{shown(queue)} is not a queue of this broker")


class _OtherBrokersLeaseError(InvalidLeaseError, ValueError):
    """The lease is of a queue that is not the transaction's: a `ValueError`, as for the queue."""

    __module__, __qualname__ = InvalidLeaseError.__module__, InvalidLeaseError.__qualname__


def lease_not_of_broker(why: ValueError) -> InvalidLeaseError:
    """Return the error for a lease of such a queue in a transaction."""
    return _OtherBrokersLeaseError(f"{why}, and has handed the lease out: settle it there")


def no_queue(name: str) -> LookupError:
    """Return the error for a queue that does not exist."""
    return LookupError(f"there is no queue {shown(name)}: broker.queue() makes one")


def no_dead_letters(name: str) -> LookupError:
    """Return the error for a queue without a queue of dead letters."""
    return LookupError(f"queue {shown(name)} has no queue of dead letters")


def no_dead_letters_of(queue: object) -> ValueError:
    """Return the error for a redrive of a queue that has no queue of dead letters."""
    return ValueError(f"{queue!r} has no queue of dead letters to bring items back from")


def own_dead_letters(name: str) -> ValueError:
    """Return the error for a queue named as its own queue of dead letters."""
    return ValueError(f"queue {shown(name)} cannot be its own queue of dead letters")


def _in_group(group: str) -> str:
    return f"in group {shown(group)}" if group else "in the broker's own group"


def letters_elsewhere(name: str, group: str, letters: str, theirs: str) -> ValueError:
    """Return the error for a queue in another group than its queue of dead letters."""
    return ValueError(
        f"queue {shown(letters)} is {_in_group(theirs)}, and cannot have the dead letters of "
        f"{shown(name)}, which is to be {_in_group(group)}: write group={shown(theirs)}, or name "
        "another queue of dead letters"
    )


def groups_differ(queue: str, group: str, first: str, firsts: str) -> ValueError:
    """Return the error for a step of a transaction on a queue of another group than the first's."""
    return ValueError(
        f"a transaction is on queues of one group: {shown(queue)} is {_in_group(group)}, and "
        f"{shown(first)}, of its first step, {_in_group(firsts)}; make both with the same group=, "
        "or use two transactions"
    )


def pair_without_dead_letters() -> ValueError:
    """Return the error for a pair of queues with ``dead_letters=None``."""
    return ValueError("a pair includes a queue of dead letters: leave dead_letters=None out")


def dead_letters_used(name: str, users: Iterable[str]) -> ValueError:
    """Return the error for deleting a queue that holds the dead letters of others."""
    return ValueError(
        f"queue {shown(name)} holds the dead letters of {', '.join(map(shown, users))}: "
        "delete those queues first"
    )
