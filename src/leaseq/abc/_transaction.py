"""The contract of a transaction: steps that are done all together, or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from .._core.exports import not_copied
from .._core.ids import new_id
from .._core.messages import groups_differ, lease_not_of_broker
from .._core.options import PutOptions
from ._lease import Lease, check_lease, settle_each
from ._queue import LeasedQueue

K = TypeVar("K")
V = TypeVar("V")
E = TypeVar("E")


class Transaction(ABC):
    """Puts and settlements that are done in one step, or not at all.

    Nothing happens until the block is left without an error. Then all steps are done, in the order
    in which they were asked for, and others see all of them or none. If a step cannot be done,
    `TransactionError` is raised, and nothing was done; likewise after an error or a cancellation
    inside the block.

    A lease that is settled in a transaction is left alone by the end of its own ``async with``. If
    the transaction is not done, the item goes back: released after a failure, given back uncounted
    after a cancellation.

    Its calls are plain functions: they never suspend, and note a step in O(1). The cost of the
    steps is due at the end of the block. On a server, a cancellation at that moment waits for the
    answer, as for any call.

    All queues that take part are of one group. A step on a queue of another one is refused
    immediately with a `ValueError`, on every engine.

    For engines: a subclass keeps the steps, each after `_check_open` and `_check_group`, and
    gives every lease that a step settles to `_pledge`: the end of its body is then left to the
    transaction.
    """

    def __init__(self) -> None:
        self._state: Literal["new", "open", "over"] = "new"
        self._pledged: list[Lease[Any, Any]] = []
        self._bodiless: list[Lease[Any, Any]] = []  # their bodies have ended, and left them to us
        self._first: LeasedQueue[Any, Any] | None = None  # of the first step

    __reduce__ = not_copied

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a transaction is for one block: make another one")
        self._state = "open"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "over"
        if error is None:
            try:
                await self._commit()
            except BaseException as failed:
                await self._abandon(failed)
                raise
            self._release_pledges()
        else:
            await self._abandon(error)

    @abstractmethod
    def put(
        self, queue: LeasedQueue[K, V], key: K, value: V, **options: Unpack[PutOptions]
    ) -> None:
        """Put an item at the commit, as `LeasedQueue.put`, without ever waiting for room.

        Args:
            queue: A queue of this broker.
            key: The identity of the item; hashable.
            value: The value for the consumer.
            **options: As `PutOptions` has them.

        Raises:
            RuntimeError: the transaction is not open.
            ValueError: the queue does not belong to this broker, or is of another group than that
                of the first step.
            ValueError, TypeError: as `LeasedQueue.put` does, as far as can be told now.

        O(1).
        """

    @abstractmethod
    def ack(self, lease: Lease[K, V]) -> None:
        """Acknowledge a lease at the commit, as `LeasedQueue.ack`.

        Args:
            lease: A lease on an item of a queue of this broker.

        Raises:
            RuntimeError: the transaction is not open.
            InvalidLeaseError: it is not a lease of a queue of this broker; a `ValueError` too, if
                it is one of another broker.
            ValueError: its queue is of another group than that of the first step.

        O(1).
        """

    @abstractmethod
    def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """Release a lease at the commit, as `LeasedQueue.release`.

        Args:
            lease: A lease on an item of a queue of this broker.
            requeue_front: True: to the front of its priority's line, without a delay; False (the
                default): to the back.
            delay: Seconds until it is ready again; None (the default): by the retry policy.
            counted: True (the default): this hand-out counts as a delivery.

        Raises:
            RuntimeError, InvalidLeaseError, ValueError: as `ack` does.
            TimekeeperNotRunningError, ValueError: as `LeasedQueue.release` does.

        O(1).
        """

    @abstractmethod
    def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Reject a lease at the commit, as `LeasedQueue.reject`.

        Args:
            lease: A lease on an item of a queue of this broker.
            reason: The reason, for readers of the dead letters.

        Raises:
            RuntimeError, InvalidLeaseError, ValueError: as `ack` does.
            TypeError: the reason is not a string.

        O(1).
        """

    def add(
        self,
        queue: LeasedQueue[str, V],
        value: V,
        *,
        message_id: str | None = None,
        **options: Unpack[PutOptions],
    ) -> str:
        """Add an item at the commit, as `LeasedQueue.add`, and return its key now.

        Args:
            queue: A queue of this broker.
            value: The value for the consumer.
            message_id: The key; None: 32 random hexadecimal digits.
            **options: As `PutOptions` has them.

        Raises:
            RuntimeError, ValueError, TypeError: as `put` does.

        O(1).
        """
        key = new_id() if message_id is None else message_id
        self.put(queue, key, value, **options)
        return key

    # For engines

    @abstractmethod
    async def _commit(self) -> None:
        """Do all steps; or none, and raise `TransactionError`."""

    @staticmethod
    def _engine_for(lease: Lease[Any, Any], engine_of: Callable[[object], E]) -> E:
        """Return the engine of a lease by that of its queue.

        Raises:
            InvalidLeaseError: it is not a lease, or the function raises `ValueError`: its queue is
                not of this broker.
        """
        check_lease(lease)
        try:
            return engine_of(lease.queue)
        except ValueError as error:
            raise lease_not_of_broker(error) from None

    def _check_open(self) -> None:
        if self._state != "open":
            raise RuntimeError("the transaction is not open: use it inside its async with")

    def _check_group(self, queue: LeasedQueue[Any, Any]) -> None:
        """Raise if the queue of a step, which is valid otherwise, is of another group."""
        first = self._first = self._first or queue
        if queue.group != first.group:
            raise groups_differ(queue.name, queue.group, first.name, first.group)

    def _pledge(self, lease: Lease[Any, Any]) -> None:
        """Let the end of this lease's body leave the settlement to the transaction."""
        self._pledged.append(lease)
        lease._pledge = self._take_over

    def _take_over(self, lease: Lease[Any, Any]) -> None:
        self._bodiless.append(lease)

    def _release_pledges(self) -> None:
        for lease in self._pledged:
            if lease._pledge == self._take_over:
                lease._pledge = None

    async def _abandon(self, error: BaseException) -> None:
        """Return the items whose bodies have ended, since nothing was done."""
        self._release_pledges()
        await settle_each(self._bodiless, error, missed=lambda lease: None)
