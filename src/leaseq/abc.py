"""The contract: what a leased queue promises, on every engine."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .errors import QueueClosedError
from .values import ANY_KEY, AnyKey, GetOptions, InFlight, Put, PutOptions, Statistics, TakeOptions

if TYPE_CHECKING:
    from .lease import Lease

__all__ = ["LeaseContext", "LeasedQueue"]

K = TypeVar("K")
V = TypeVar("V")


class LeasedQueue(ABC, Generic[K, V]):
    """A queue of keyed items that consumers take under leases.

    Every key is in one state: ready, leased, or absent. Every operation is atomic with respect to
    cancellation, by anyio's cancel scopes and by `asyncio.Task.cancel`: **if it raised, it did not
    happen**. All times are seconds.

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
    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> Put:
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
            TypeError: the key is not hashable.
            ValueError: an option has a value that it cannot have.

        If cancelled, nothing was put. O(1).
        """

    async def add(self: LeasedQueue[str, V], value: V, **options: Unpack[PutOptions]) -> str:
        """Put an item under a new key of the queue's making.

        Returns:
            The key: 32 hexadecimal digits, drawn at random.

        Raises:
            QueueClosedError: the queue is shut down or closed.
            ValueError: an option has a value that it cannot have.

        If cancelled, nothing was put. O(1).
        """
        key = uuid.uuid4().hex
        await self.put(key, value, **options)
        return key

    @abstractmethod
    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[Put]:
        """Put items in their order, all or none, with the same options.

        Args:
            items: Pairs of a key and a value, or a mapping.
            **options: As `PutOptions` has them.

        Returns:
            What `put` would return, for each.

        Raises:
            KeyAlreadyInFlightError, QueueClosedError, TypeError, ValueError: as `put` does, for
                the first item that cannot be put; then none is.

        If cancelled, nothing was put. O(items).
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
            TimekeeperNotRunningError: the lease is timed, and `run` was not started.
            ValueError: a timeout is negative or not a number.

        If cancelled, nothing was taken: an item that was on its way goes back to the head of the
        line, uncounted, and to the next consumer that waits. O(1), a timed lease O(log leased).
        """

    @abstractmethod
    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        """Lease one key; wait while it is absent or leased.

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
            TimekeeperNotRunningError: the lease is timed, and `run` was not started.
            TypeError: the key is not hashable.
            ValueError: a timeout is negative or not a number.

        If cancelled, nothing was taken, as with `get`. O(1), a timed lease O(log leased).
        """

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

        Ends when the queue is shut down and drained. If cancelled, nothing was taken.

        Raises:
            QueueClosedError: the queue was closed, with work left.
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
        self, lease: Lease[K, V], *, requeue_front: bool = False, counted: bool = True
    ) -> None:
        """Let the item be tried again.

        Args:
            lease: What holds it.
            requeue_front: To the front of the line; else to the back.
            counted: Whether this hand-out counts as a delivery.

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

    # What is in there

    @abstractmethod
    async def peek(self, key: K) -> V | None:
        """The newest value put under a key, whoever holds it; None if it is absent. O(1)."""

    @abstractmethod
    async def contains(self, key: K) -> bool:
        """Whether the key is ready or leased. O(1)."""

    @abstractmethod
    async def available_keys(self) -> set[K]:
        """The keys that are ready. O(ready)."""

    @abstractmethod
    async def inflight_keys(self) -> set[K]:
        """The keys that are leased. O(leased)."""

    @abstractmethod
    async def qsize(self) -> int:
        """How many items wait: ready ones and buffered successors. O(1)."""

    @abstractmethod
    async def inflight_size(self) -> int:
        """How many items are leased. O(1)."""

    @abstractmethod
    async def statistics(self) -> Statistics:
        """Counts of what is in there and of what has happened. O(1)."""

    @abstractmethod
    async def inflight(self) -> list[InFlight[K]]:
        """What is being worked on, in the order of the hand-outs. O(leased)."""

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
        """Wait until the queue is drained: nothing ready, leased or buffered.

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
            _, _, lease = await self._queue.take(self._key, self._timeout, **self._options)
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
