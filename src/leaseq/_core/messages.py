"""Errors of misuse that every engine raises in the same words. Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .errors import (
    InvalidLeaseError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
    TenantMismatchError,
    TimekeeperNotRunningError,
)
from .validation import delay_seconds

if TYPE_CHECKING:
    from .lease import Lease

__all__ = ["check_held", "check_release", "never_fits", "no_timekeeper", "tenant_mismatch"]

K = TypeVar("K")
V = TypeVar("V")


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
