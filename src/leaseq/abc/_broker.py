"""The contract of a broker: queues by name, and transactions over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .._core.options import BrokerQueueOptions
from .._core.reports import DeadLetter, QueueInfo
from ._queue import LeasedQueue
from ._transaction import Transaction

__all__ = ["Broker"]

K = TypeVar("K")
V = TypeVar("V")


class Broker(ABC):
    """Queues by name, all under one timekeeper, and transactions over them.

    ``async with broker`` closes all its queues when it is left. Names have 1 to 128 characters:
    letters, digits, and ``.``, ``_``, ``-``, ``:`` after the first one.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> LeasedQueue[Any, Any]:
        """The queue of a name, made if it is not there.

        Args:
            name: The name.
            make: False: of a queue that is not there, say so, and do not make it.
            **options: As `BrokerQueueOptions` has them. Of a queue that is there none may differ;
                those left out are as they are. ``type`` and ``codec`` are this broker's alone,
                which has them from its first call for the queue on.

        Raises:
            LookupError: there is no such queue, and none is to be made.
            QueueClosedError: the broker is closed.
            TypeError: there is no such option.
            ValueError: the name is not one; an option differs from what the queue has, or has a
                value that it cannot have; there are both a type and a codec.
            LeaseqError: the values need a codec that is not installed.

        If cancelled, nothing was made. O(1).
        """

    @abstractmethod
    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[LeasedQueue[Any, Any], LeasedQueue[str, DeadLetter[Any, Any]]]:
        """A queue, and its queue of dead letters; made if they are not there.

        Of a queue that is there the dead letters are as they are. A new one's are ``<name>.dead``,
        unless the options have another name.

        Raises:
            QueueClosedError, TypeError, ValueError: as `queue` does.
            ValueError: the queue has no dead letters.

        If cancelled, nothing was made. O(1).
        """

    @abstractmethod
    async def dead_letters(self, name: str) -> LeasedQueue[str, DeadLetter[Any, Any]]:
        """The queue of dead letters of the queue of a name.

        Raises:
            LookupError: there is no such queue, or it has none.
            QueueClosedError: the broker is closed.

        O(1).
        """

    @abstractmethod
    async def list_queues(self) -> list[QueueInfo]:
        """What there is, in the order in which it was made.

        Raises:
            QueueClosedError: the broker is closed.

        O(queues and dead letters).
        """

    @abstractmethod
    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        """Close a queue and forget it, with all that is in it.

        Who waits gets `QueueClosedError`, its leases are lost.

        Args:
            name: The name.
            dead_letters: Its queue of dead letters too, unless another queue has the same.

        Raises:
            LookupError: there is no such queue.
            QueueClosedError: the broker is closed.
            ValueError: it is the queue of dead letters of another one.

        Takes effect even if cancelled. O(its items).
        """

    @abstractmethod
    async def purge(self, name: str) -> int:
        """Drop all that waits in a queue, and say how many. What is leased is left alone.

        Raises:
            LookupError: there is no such queue.
            QueueClosedError: the broker is closed.

        Takes effect even if cancelled. O(its items).
        """

    @abstractmethod
    async def process_expired(self) -> int:
        """Bury all items whose time to live is over, now, and say how many.

        Raises:
            QueueClosedError: the broker is closed.

        The timekeeper does it anyway. Takes effect even if cancelled. O(log n) each.
        """

    @abstractmethod
    def transaction(self) -> Transaction:
        """Puts and settlements over any queues of the broker, done all in one step or not at all.

        ``async with broker.transaction() as tx``: what is asked of ``tx`` is done when the block is
        left without an error.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all queues. Closing again does nothing. Takes effect even if cancelled."""

    @abstractmethod
    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Let time pass for all queues: ``await tg.start(broker.run)``. Returns when it is closed.

        Raises:
            BusyResourceError: it is running already.

        If cancelled, time stands still, as with `LeasedQueue.run`.
        """
