"""The contract of a broker: queues by name, and transactions over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .._core.exports import not_copied
from .._core.options import BrokerQueueOptions
from .._core.reports import DeadLetter, QueueInfo
from ._queue import LeasedQueue
from ._transaction import Transaction

K = TypeVar("K")
V = TypeVar("V")


class Broker(ABC):
    """Queues by name, all under one timekeeper, and transactions over them.

    ``async with broker`` closes all its queues when it is left. Names have 1 to 128 characters:
    letters, digits, and ``.``, ``_``, ``-``, ``:`` after the first one.

    Queues belong to *groups*: to the broker's own, unless they are made with ``group=``, or the URL
    says otherwise. A queue and its dead letters share one, and so do all queues of a transaction.
    On a cluster each group is on one server; elsewhere groups make no other difference. The name of
    a queue is unique in the broker, and the queue is found without its group.

    In memory no call but `run` suspends. On a server each is a round trip, and may also raise
    `ServerUnavailableError` and `ServerError`.
    """

    _is_shared = True  # other processes may have it too

    __reduce__ = not_copied

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _check_here(self) -> None:  # noqa: B027 - an engine may have nothing to check
        """Raise if it is closed, or belongs to another event loop or process."""

    @abstractmethod
    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> LeasedQueue[Any, Any]:
        """Return the queue of a name, made if it is not there.

        Args:
            name: The name.
            make: False: raise if the queue is not there, and do not make it.
            **options: As `BrokerQueueOptions` has them. They must not differ from those of a queue
                that is there; options left out stay as they are. ``type`` and ``codec`` concern
                this broker alone, from its first call for the queue on.

        Raises:
            LookupError: there is no such queue, and ``make`` is False.
            QueueClosedError: the broker is closed.
            TypeError: there is no such option.
            ValueError: the name is invalid; an option is invalid, or differs from the queue's; both
                a type and a codec are given; its queue of dead letters is of another group than
                ``group`` says.
            LeaseqError: the values need a codec that is not installed.

        If cancelled, nothing was made; on a server, a queue that was being made in another group
        than the broker's own may have its group already, as the next call finds. O(1): on a server
        a round trip, and two more for another group, which is connected to at first.
        """

    @abstractmethod
    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[LeasedQueue[Any, Any], LeasedQueue[str, DeadLetter[Any, Any]]]:
        """Return a queue and its queue of dead letters, made if they are not there.

        A queue that is there keeps its dead letters. A new one gets ``<name>.dead``, unless the
        options give another name.

        Args:
            name: The name of the queue.
            **options: As `BrokerQueueOptions` has them, for the queue; its dead letters have none.

        Raises:
            QueueClosedError, TypeError, ValueError, LeaseqError: as `queue` does.
            ValueError: the queue has no dead letters.

        If cancelled, nothing was made. O(1).
        """

    @abstractmethod
    async def dead_letters(self, name: str) -> LeasedQueue[str, DeadLetter[Any, Any]]:
        """Return the queue of dead letters of a queue.

        Args:
            name: The name of the queue whose items they were.

        Raises:
            LookupError: there is no such queue, or it has no queue of dead letters.
            QueueClosedError: the broker is closed.

        If cancelled, nothing has changed. O(1).
        """

    @abstractmethod
    async def list_queues(self) -> list[QueueInfo]:
        """Return descriptions of all queues of all groups, in the order in which they were made.

        Raises:
            QueueClosedError: the broker is closed.

        If cancelled, nothing has changed. O(queues and dead letters): on a server two round trips,
        and one for each group.
        """

    @abstractmethod
    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        """Close a queue and delete it with all its items.

        Waiters get `QueueClosedError`; held leases are lost.

        Args:
            name: The name.
            dead_letters: True: delete its queue of dead letters too, unless another queue shares
                it.

        Raises:
            LookupError: there is no such queue.
            QueueClosedError: the broker is closed.
            ValueError: another queue has its dead letters in it.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(its items).
        """

    @abstractmethod
    async def purge(self, name: str) -> int:
        """Drop all ready and delayed items of a queue, and return their number.

        Leased items are left alone. Where processes share the queue, it may take several steps; it
        ends when it has dropped as many items as were there at first.

        Args:
            name: The name of the queue.

        Raises:
            LookupError: there is no such queue.
            QueueClosedError: the broker is closed.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(its items).
        """

    @abstractmethod
    async def process_expired(self) -> int:
        """Give up all items whose time to live is over, and return their number.

        Raises:
            QueueClosedError: the broker is closed.

        The timekeeper does it anyway. Without one, items whose time is over stay where they are
        until this call, or until a consumer would be handed them.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(log n) for each item.
        """

    @abstractmethod
    def transaction(self) -> Transaction:
        """Return a transaction over queues of one group: all of its steps are done, or none.

        ``async with broker.transaction() as tx``: the steps asked of ``tx`` are done when the block
        is left without an error. Making one sends nothing. O(1).
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all queues. Closing again does nothing.

        Leases that are held here are lost, and their items go back to their old places; on a
        server, the queues live on for other processes.

        Takes effect even if cancelled. O(leased + waiting consumers).
        """

    @abstractmethod
    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run the timekeeper of all queues: ``await tg.start(broker.run)``.

        It returns when the broker is closed.

        Args:
            task_status: For ``tg.start``: the timekeeper is running.

        Raises:
            BusyResourceError: it is running already.

        If cancelled, nothing falls due until it is started again. Its cost is that of
        `LeasedQueue.run`, for each queue.
        """
