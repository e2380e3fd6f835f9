"""The contract of a queue whose leases are settled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from ..lease import Lease

__all__ = ["Settling"]

K = TypeVar("K")
V = TypeVar("V")


class Settling(ABC, Generic[K, V]):
    """How leases end, and how they are made to last."""

    # Settling

    @abstractmethod
    async def ack(self, lease: Lease[K, V]) -> bool:
        """The item is done: it leaves the queue.

        Returns:
            True if an update that this consumer never saw was dropped with it.

        Raises:
            LeaseAlreadyAcknowledgedError: it was acknowledged before.
            LeaseLostError: it has expired; the item may be somebody else's by now.
            InvalidLeaseError: it was released before, or is another queue's.
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled: what is done is not undone. O(1).
        """

    @abstractmethod
    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """Let the item be tried again; or give it up, if that was its last delivery.

        Args:
            lease: What holds it.
            requeue_front: To the front of its priority's line, at once; else to the back.
            delay: Seconds until it is ready again; None: as the retry policy has it.
            counted: Whether this hand-out counts as a delivery. If it does and is the last one that
                the retry policy allows, the item becomes a dead letter.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            ValueError: the delay is negative or not a number, or goes with ``requeue_front``.

        Takes effect even if cancelled. O(1); delayed or with a tenant O(log n).
        """

    @abstractmethod
    async def fail(self, lease: Lease[K, V], error: BaseException) -> None:
        """Release an item whose consumer raised, as ``async with lease`` does.

        A counted release under the retry policy; if the item becomes a dead letter, that has the
        error's text.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.

        Takes effect even if cancelled. O(1); delayed or with a tenant O(log n).
        """

    @abstractmethod
    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Give the item up: it becomes a dead letter.

        Args:
            lease: What holds it.
            reason: Why, for those who read the dead letters.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.

        Takes effect even if cancelled. O(1).
        """

    @abstractmethod
    async def give_back(self, lease: Lease[K, V]) -> None:
        """Return an item whose consumer was cancelled, as ``async with lease`` does.

        The hand-out is not counted. The item goes to its old place, but from the second time in a
        row on to the back of the line.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.

        Takes effect even if cancelled. O(1).
        """

    @abstractmethod
    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        """Give a lease a new deadline.

        Args:
            lease: The lease.
            timeout: Seconds from now, more or less than it had; None: it never expires.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: `run` was not started.
            ValueError: the timeout is negative or not a number.

        Takes effect even if cancelled. O(log leased).
        """

    @abstractmethod
    async def resume(self, receipt: str) -> Lease[K, V]:
        """The lease that a receipt was written for, to be settled by whoever has the receipt.

        Args:
            receipt: The `Lease.receipt`.

        Raises:
            InvalidLeaseError: it is not a receipt, or another queue's.
            LeaseLostError: the lease has ended.
            QueueClosedError: the queue is closed.

        O(1).
        """

    @abstractmethod
    async def release_all(self, *, consumer: str) -> int:
        """Take all its leases from a consumer that is known to be gone, as if they had expired.

        Args:
            consumer: Who, as `get` or `take` was told.

        Returns:
            How many there were.

        Raises:
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled. O(leased).
        """
