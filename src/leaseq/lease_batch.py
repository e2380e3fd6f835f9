"""Many leases under one body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from .errors import InvalidLeaseError, LeaseLostError
from .lease import Body, Lease

if TYPE_CHECKING:
    from .abc import LeasedQueue
    from .values import GetOptions

__all__ = ["LeaseBatch", "LeaseBatchContext"]

K = TypeVar("K")
V = TypeVar("V")


class LeaseBatch(Body, Generic[K, V]):
    """Leases that one body works on.

    Made by `LeasedQueue.lease_batch`, which enters it too. When the body ends, the leases that it
    has not settled by itself are: acknowledged, if it ended well; released under the retry policy,
    in their old order, if it raised; given back, uncounted, if it was cancelled.

    A lease that is lost leaves the batch. The body is cancelled when none is left, what it has
    settled by itself left out, and `LeaseLostError` raised after it. Iterating gives the leases
    that are still held.

    Attributes:
        lost: Leases that were lost, in the order in which that was found out.
    """

    _noun = "batch"
    __slots__ = ("_leases", "_none_left", "_size", "lost")

    def __init__(self, leases: Sequence[Lease[K, V]]) -> None:
        self._scope = None
        self._leases = dict.fromkeys(leases)  # those that are not lost
        self._size = len(self._leases)
        self._none_left = False  # and so the body was cancelled
        self.lost: list[Lease[K, V]] = []

    def __repr__(self) -> str:
        return f"<LeaseBatch {len(self)} held, {len(self.lost)} lost, of {self._size}>"

    def __len__(self) -> int:
        return sum(lease.ended is None for lease in self._leases)

    def __iter__(self) -> Iterator[Lease[K, V]]:
        return (lease for lease in self._leases if lease.ended is None)

    async def ack(self, lease: Lease[K, V]) -> bool:
        """One item is done: the same as `LeasedQueue.ack` with its lease."""
        return await lease.ack()

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """One item is to be tried again: the same as `LeasedQueue.release` with its lease."""
        await lease.release(requeue_front=requeue_front, delay=delay, counted=counted)

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        """One item is given up: the same as `LeasedQueue.reject` with its lease."""
        await lease.reject(reason)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for lease in list(self._leases):
            if lease.ended is None:
                lease._scope = _Member(self, lease)
            else:
                self._lose(lease)
        return self

    async def settle_rest(self, settle: Callable[[Lease[K, V]], Awaitable[object]]) -> None:
        """Settle what is still held, in its old order. For pools, whose handlers get batches."""
        for lease in list(self):
            try:
                await settle(lease)
            except InvalidLeaseError:  # it ran out just now
                self._lose(lease)

    async def _leave(self, error: BaseException | None) -> None:
        for lease in self._leases:
            lease._scope = None
        held = list(self)
        if error is None:
            await self.settle_rest(Lease.complete)
            none_left = self._none_left or (held and self._leases.keys().isdisjoint(held))
            if none_left:
                raise LeaseLostError(f"{self!r}: all that was left was lost while its body ran")
        else:
            await self.settle_rest(lambda lease: lease.abandon(error))

    def _lose(self, lease: Lease[K, V]) -> None:
        if lease not in self._leases:  # that it ran out has been noticed before
            return
        del self._leases[lease]
        self.lost.append(lease)
        if self._scope is not None and next(iter(self), None) is None:
            self._none_left = True
            self._scope.cancel("all leases of the batch were lost")


class _Member(Generic[K, V]):
    """What a lease of a batch has in place of a cancel scope of its own."""

    __slots__ = ("_batch", "_lease")

    def __init__(self, batch: LeaseBatch[K, V], lease: Lease[K, V]) -> None:
        self._batch = batch
        self._lease = lease

    def cancel(self, reason: str | None = None, /) -> None:
        self._batch._lose(self._lease)


class LeaseBatchContext(Generic[K, V]):
    """What `LeasedQueue.lease_batch` gives: leases items when entered, settles them when left."""

    __slots__ = ("_batch", "_max_items", "_max_wait", "_options", "_queue", "_timeout")

    _batch: LeaseBatch[K, V]

    def __init__(
        self,
        queue: LeasedQueue[K, V],
        max_items: int,
        max_wait: float,
        timeout: float | None,
        options: GetOptions,
    ) -> None:
        self._queue = queue
        self._max_items = max_items
        self._max_wait = max_wait
        self._timeout = timeout
        self._options = options

    async def __aenter__(self) -> LeaseBatch[K, V]:
        leases = await self._queue.get_batch(
            self._max_items, max_wait=self._max_wait, timeout=self._timeout, **self._options
        )
        self._batch = await LeaseBatch(leases).__aenter__()
        return self._batch

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._batch.__aexit__(exc_type, error, traceback)
