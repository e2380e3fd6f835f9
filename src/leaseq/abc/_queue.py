"""The contract of a queue: what it promises, on every engine."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .._core.errors import QueueClosedError
from .._core.lease import LeaseBatchContext
from .._core.options import ANY_KEY, AnyKey, GetOptions, PutOptions, TakeOptions
from .._core.policies import Tenant
from .._core.reports import (
    HistoryEntry,
    LeaseInfo,
    MessageId,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
)

if TYPE_CHECKING:
    from .._core.lease import Lease

__all__ = ["LeaseContext", "LeasedQueue"]

K = TypeVar("K")


V = TypeVar("V")


class LeasedQueue(ABC, Generic[K, V]):
    """A queue of keyed items that consumers take under leases.

    Every key is in one state: ready, delayed, leased, or absent. Every operation is atomic with
    respect to cancellation, by anyio's cancel scopes and by `asyncio.Task.cancel`: **if it raised,
    it did not happen**. All times are seconds.

    ``async with queue`` closes the queue when it is left.
    """

    name: str
    """What it is called in logs and errors."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close` was called."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Producers

    @abstractmethod
    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        """Put an item, or replace the value of one that is there.

        Args:
            key: What identifies the item; hashable.
            value: What its consumer gets.
            **options: As `PutOptions` has them.

        Returns:
            What happened: the key was absent, waiting, or leased.

        Raises:
            KeyAlreadyInFlightError: the key is leased, and ``if_in_flight="reject"``.
            QueueClosedError: the queue is shut down or closed.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            TypeError: the key is not hashable.
            ValueError: an option has a value that it cannot have; or the key is there for another
                tenant.

        Waits while the queue is full; for a key that is there it never does. If cancelled, nothing
        was put. O(1); with a tenant, a delay or a time to live O(log n).
        """

    async def add(
        self: LeasedQueue[str, V],
        value: V,
        *,
        message_id: str | None = None,
        **options: Unpack[PutOptions],
    ) -> MessageId:
        """Put an item under a new key of the queue's making.

        Args:
            value: What its consumer gets.
            message_id: The key to put it under; None: 32 hexadecimal digits, drawn at random. A
                producer that may send twice gives one of its own: with the queue's ``dedupe_for``
                it is taken once, and the second time its outcome is `PutOutcome.DUPLICATE`.
            **options: As `PutOptions` has them.

        Returns:
            The key, which also has the ``outcome``.

        Raises:
            KeyAlreadyInFlightError, QueueClosedError, TimekeeperNotRunningError, ValueError: as
                `put` does.

        If cancelled, nothing was put. O(1).
        """
        key = uuid.uuid4().hex if message_id is None else message_id
        return MessageId(key, await self.put(key, value, **options))

    @abstractmethod
    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        """Put items in their order, all or none, with the same options.

        Args:
            items: Pairs of a key and a value, or a mapping.
            **options: As `PutOptions` has them.

        Returns:
            What `put` would return, for each.

        Raises:
            KeyAlreadyInFlightError, QueueClosedError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put` does, for the first item that cannot be put; then none is.
            ValueError: there are more new keys than the queue may ever hold.

        Waits until there is room for all of them. If cancelled, nothing was put. O(items).
        """

    # Consumers

    @abstractmethod
    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        """Lease the next item, and wait for one if need be.

        Args:
            timeout: Seconds to wait for an item, None: without end; 0: do not wait. Where it is
                not a matter of one call, ``with anyio.fail_after(...)`` says it better.
            **options: As `GetOptions` has them.

        Returns:
            The key, the value, and the lease, which has both too.

        Raises:
            TimeoutError: nothing came in time.
            QueueClosedError: the queue is closed, or shut down and drained.
            TimekeeperNotRunningError: the lease is timed, or retries have a backoff, or something
                delayed is to be waited for, and `run` was not started.
            ValueError: an option has a value that it cannot have.

        If cancelled, nothing was taken: an item that was on its way goes back to the head of the
        line, uncounted, and to the next consumer that waits. O(1); with a timeout or tenants
        O(log n).
        """

    @abstractmethod
    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        """Lease one key; wait while it is absent, delayed or leased, or its tenant at its cap.

        A consumer that waits for a key comes before those that would take any.

        Args:
            key: The key.
            timeout: Seconds to wait for it, None: without end; 0: do not wait.
            **options: As `TakeOptions` has them.

        Returns:
            The key, the value, and the lease, which has both too.

        Raises:
            TimeoutError: the key did not become ready in time.
            QueueClosedError: the queue is closed; or it is shut down and the key absent, so that
                it cannot come any more.
            TimekeeperNotRunningError: as `get` does.
            TypeError: the key is not hashable.
            ValueError: an option has a value that it cannot have.

        If cancelled, nothing was taken, as with `get`. O(1); with a timeout or tenants O(log n).
        """

    @abstractmethod
    async def get_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> list[Lease[K, V]]:
        """Lease several items: one at least, and more as they come.

        Args:
            max_items: How many at most.
            max_wait: Seconds to wait for more once there is one. Who waits for a single item comes
                before those who wait for more.
            timeout: Seconds to wait for the first, as in `get`.
            **options: As `GetOptions` has them.

        Returns:
            The leases, in the order of the line. There are fewer than ``max_items`` when
            ``max_wait`` is over, or when the queue is shut down and nothing waits any more.

        Raises:
            TimeoutError, QueueClosedError, TimekeeperNotRunningError: as `get` does.
            ValueError: an option has a value that it cannot have; or ``max_wait`` is not less than
                the timeout of the leases, so that the first could be lost before the last comes.

        If cancelled, nothing was taken: all go back to their old places, uncounted. O(1) for each
        item; with a timeout or tenants O(log n).
        """

    def lease_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> LeaseBatchContext[K, V]:
        """Lease several items for one body: ``async with queue.lease_batch(100) as batch``.

        It is `get_batch`, and then a `LeaseBatch` around the body: what its end does is said there.
        Arguments and errors are those of `get_batch`.
        """
        return LeaseBatchContext(self, max_items, max_wait, timeout, options)

    def lease(
        self,
        timeout: float | None = None,
        *,
        key: K | AnyKey = ANY_KEY,
        **options: Unpack[GetOptions],
    ) -> LeaseContext[K, V]:
        """Lease an item for a body: ``async with queue.lease() as lease``.

        It is `get`, or with ``key=`` `take`, and then ``async with lease``: what the end of the
        body does is said there. Arguments and errors are those of `get` and `take`.
        """
        return LeaseContext(self, key, timeout, options)

    def __aiter__(self) -> AsyncIterator[Lease[K, V]]:
        """Leases as they come, each to be entered with ``async with lease``.

        Ends when the queue is drained, and shut down or closed. If cancelled, nothing was taken.

        Raises:
            QueueClosedError: the queue was closed with work left.
        """
        return _Leases(self)

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

    # What is in there

    @abstractmethod
    async def peek(self, key: K) -> V | None:
        """The newest value put under a key, whoever holds it; None if it is absent. O(1)."""

    @abstractmethod
    async def contains(self, key: K) -> bool:
        """Whether the key is ready, delayed or leased. O(1)."""

    @abstractmethod
    async def available_keys(self) -> set[K]:
        """The keys that are ready. O(ready)."""

    @abstractmethod
    async def inflight_keys(self) -> set[K]:
        """The keys that are leased. O(leased)."""

    @abstractmethod
    async def qsize(self) -> int:
        """How many items wait: ready and delayed ones, and buffered successors. O(1)."""

    @abstractmethod
    async def inflight_size(self) -> int:
        """How many items are leased. O(1)."""

    @abstractmethod
    async def statistics(self, *, tenants: bool = False) -> Statistics:
        """Counts of what is in there and of what has happened.

        Args:
            tenants: Whether to tell it for each tenant, too.

        O(1); with tenants O(tenants).
        """

    @abstractmethod
    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        """What is being worked on, in the order of the hand-outs.

        Args:
            consumer: By whom; None: by anybody.

        O(leased).
        """

    @abstractmethod
    async def info(self) -> QueueInfo:
        """What the queue is, and how full. O(1), plus the number of its dead letters."""

    @abstractmethod
    async def history(self) -> list[HistoryEntry[K, V]]:
        """The last items that were acknowledged, the latest last. O(their number).

        As many as the queue was told to remember, which is none unless it was told.
        """

    # Dead letters and tenants

    @abstractmethod
    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        """Bring dead letters of this queue back, with their tenants and priorities, to start anew.

        Args:
            keys: The keys of the items to bring back; None: of all.
            limit: How many at most, the oldest first; None: all.

        Returns:
            The keys that are back, and those whose letters stay because another item has the key.
            Letters that are leased or delayed in their own queue are left alone.

        Raises:
            QueueClosedError: the queue is shut down or closed.
            ValueError: the queue has no queue of dead letters, or the limit is less than 1.

        If cancelled, some may be back and others not; each comes back in one step. O(letters).
        """

    @abstractmethod
    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        """Give a tenant another weight or cap, from its next hand-out on.

        Raises:
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled. O(log tenants).
        """

    # The end

    @abstractmethod
    async def shutdown(self) -> None:
        """Say that nothing more is coming.

        Puts raise `QueueClosedError` from now on. Consumers go on until the queue is drained,
        retries included; then they get `QueueClosedError`, and iterations end.

        Takes effect even if cancelled. O(waiting consumers).
        """

    @abstractmethod
    async def join(self) -> None:
        """Wait until the queue is drained: nothing ready, delayed, leased or buffered.

        Raises:
            QueueClosedError: the queue was closed before.

        If cancelled, nothing has changed. O(1).
        """

    @abstractmethod
    async def close(self) -> None:
        """End it at once, whatever is left.

        Leased items go back to their old places, their leases are lost, and bodies that run under
        them are cancelled. Everyone who waits, and every later call that would change something,
        gets `QueueClosedError`. Closing again does nothing.

        Takes effect even if cancelled. O(leased + waiting consumers).
        """

    @abstractmethod
    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Let time pass for the queue: the timekeeper.

        Leases expire, delayed items fall due, times to live run out; in the queue of dead letters
        too, unless that has a `run` of its own.

        Start it in your own task group: ``await tg.start(queue.run)``. It returns when the queue is
        closed, or shut down and drained, and no event of an item or a lease ever raises out of it.

        Raises:
            BusyResourceError: it is running already.

        If cancelled, time stands still: leases keep their deadlines, and a lease past its own is
        refused, but no item returns to the line by itself until `run` is started again.
        """


class LeaseContext(Generic[K, V]):
    """What `LeasedQueue.lease` gives: leases an item when entered, ends the lease when left."""

    __slots__ = ("_key", "_lease", "_options", "_queue", "_timeout")

    _lease: Lease[K, V]

    def __init__(
        self,
        queue: LeasedQueue[K, V],
        key: K | AnyKey,
        timeout: float | None,
        options: GetOptions,
    ) -> None:
        self._queue = queue
        self._key = key
        self._timeout = timeout
        self._options = options

    async def __aenter__(self) -> Lease[K, V]:
        if self._key is ANY_KEY:
            _, _, lease = await self._queue.get(self._timeout, **self._options)
        else:
            options: TakeOptions = self._options  # less may be said of one key: `take` refuses more
            _, _, lease = await self._queue.take(self._key, self._timeout, **options)
        self._lease = await lease.__aenter__()
        return lease

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lease.__aexit__(exc_type, error, traceback)


class _Leases(Generic[K, V]):
    __slots__ = ("_queue",)

    def __init__(self, queue: LeasedQueue[K, V]) -> None:
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Lease[K, V]:
        try:
            _, _, lease = await self._queue.get()
        except QueueClosedError as end:
            if end.drained:
                raise StopAsyncIteration from None
            raise
        return lease
