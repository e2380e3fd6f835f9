"""Leases on items, batches of them, receipts, and the cancel scopes of their bodies."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from anyio import CancelScope

from .errors import InvalidLeaseError, LeaseLostError
from .loop import is_failure
from .policies import Priority
from .texts import shown

if TYPE_CHECKING:
    from .reports import Ended

K = TypeVar("K")
V = TypeVar("V")


class Settling(Protocol):
    """The part of a queue that a lease calls: every `LeasedQueue` has it.

    `_fail` and `_give_back` are for the ends of bodies, and not called by users.
    """

    @property
    def name(self) -> str:
        """The queue's name, for receipts."""

    async def ack(self, lease: Lease[Any, Any], /) -> bool:
        """Acknowledge the item."""

    async def release(
        self,
        lease: Lease[Any, Any],
        /,
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """Release the item, to be tried again."""

    async def reject(self, lease: Lease[Any, Any], /, reason: str) -> None:
        """Give the item up."""

    async def extend(self, lease: Lease[Any, Any], /, timeout: float | None) -> None:
        """Give the lease a new deadline."""

    async def _fail(self, lease: Lease[Any, Any], error: BaseException, /) -> None:
        """Release the item of a body that raised."""

    async def _give_back(self, lease: Lease[Any, Any], /) -> None:
        """Return the item of a body that was cancelled."""


class Cancellable(Protocol):
    """The cancel scope of a body."""

    def cancel(self, reason: str | None = None, /) -> None:
        """Cancel it."""


class Body:
    """A context manager around a body that it may have to cancel: a lease, or a batch."""

    __slots__ = ("_scope",)

    _scope: Cancellable | None
    _noun: ClassVar[str]

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError(f"{self!r} is entered already: one body for one {self._noun}")
        self._scope = CancelScope()
        self._scope.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scope
        assert isinstance(scope, CancelScope)
        try:
            swallowed = scope.__exit__(exc_type, error, traceback)
        except BaseException as rest:  # a group, without the cancellations by this scope
            await self._leave(rest)
            raise
        finally:
            self._scope = None
        # The scope swallows only the cancellation of a lost lease, and then this raises.
        await self._leave(None if swallowed else error)

    async def _leave(self, error: BaseException | None) -> None:
        """Settle the lease or batch after its body has ended, with this error or without one."""
        raise NotImplementedError


class Lease(Body, Generic[K, V]):
    """The exclusive hold of a consumer on an item, until it is settled or lost.

    Queues make leases. ``async with lease`` runs its body in a cancel scope:

    - the body ends: the item is acknowledged, unless the body has settled the lease itself;
    - the body raises an `Exception`: the item is released under the retry policy, and the error
      propagates;
    - the body is cancelled from outside: the item is released and this hand-out not counted; it
      returns to its old place the first time, and to the back of the line from the second time in
      a row on, so that no consumer can delay others by giving up again and again;
    - the lease is lost (it expired, or its queue was closed): the body is cancelled, and
      `LeaseLostError` raised after it. A body that blocks the event loop, or shields itself,
      cannot be stopped: let the target of its writes refuse a `token` lower than the last one.

    Attributes:
        queue: The queue that handed it out.
        key: The item's key.
        value: The item's value as it was handed out; a later put does not change it.
        priority: The item's priority.
        tenant: The item's tenant; None: no particular one.
        token: The fencing token: for each key it only grows, also across restarts.
        deadline: The time at which the lease expires, in seconds of the event loop's clock
            (`anyio.current_time`); `math.inf`: never.
        since: The time of the hand-out, on the same clock; None where no timekeeper runs.
        deliveries: Hand-outs of this item that count, this one included: 1 the first time.
        cancellations: Hand-outs in a row before this one that were cancelled, and so not counted.
        ended: None while the lease holds its item, then the way it ended.
    """

    _noun = "lease"
    __slots__ = (
        "_pledge",
        "cancellations",
        "deadline",
        "deliveries",
        "ended",
        "key",
        "priority",
        "queue",
        "since",
        "tenant",
        "token",
        "value",
    )

    def __init__(self, queue: Settling, key: K, value: V) -> None:
        self.queue = queue
        self.key = key
        self.value = value
        self.priority = int(Priority.NORMAL)
        self.tenant: str | None = None
        self.token = 0
        self.deadline = math.inf
        self.since: float | None = None
        self.deliveries = 0
        self.cancellations = 0
        self.ended: Ended | None = None
        self._scope = None
        # Set by an open transaction that will settle the lease: called if the body ends before.
        self._pledge: Callable[[Lease[K, V]], object] | None = None

    def __repr__(self) -> str:
        return f"<Lease {shown(self.key)} token={self.token} {self.ended or 'held'}>"

    @property
    def receipt(self) -> str:
        """The lease as a string, for another process or task to settle by `LeasedQueue.resume`.

        Raises:
            TypeError: the key is not a `str`, `int` or `bytes`.
        """
        return write_receipt(self.queue.name, self.key, self.token)

    async def ack(self) -> bool:
        """Acknowledge the item: `LeasedQueue.ack` with this lease. O(1)."""
        return await self.queue.ack(self)

    async def release(
        self, *, requeue_front: bool = False, delay: float | None = None, counted: bool = True
    ) -> None:
        """Release the item to be tried again: `LeasedQueue.release` with this lease."""
        await self.queue.release(self, requeue_front=requeue_front, delay=delay, counted=counted)

    async def reject(self, reason: str) -> None:
        """Give the item up: `LeasedQueue.reject` with this lease."""
        await self.queue.reject(self, reason)

    async def extend(self, timeout: float | None) -> None:
        """Give the lease a new deadline: `LeasedQueue.extend` with this lease."""
        await self.queue.extend(self, timeout)

    async def __aenter__(self) -> Self:
        if self.ended == "lost":
            raise LeaseLostError(f"{self!r} was lost before it was entered")
        if self.ended is not None:
            raise InvalidLeaseError(f"{self!r} cannot be entered: it has ended")
        return await super().__aenter__()

    async def _leave(self, error: BaseException | None) -> None:
        if self.ended == "lost":
            if error is None:
                raise LeaseLostError(f"{self!r} was lost while its body ran")
        elif self.ended is not None:
            pass  # the body has settled it
        elif error is None:
            await self._complete()
        else:
            with suppress(InvalidLeaseError):  # it expired just now: the error says more
                await self._abandon(error)

    async def _complete(self) -> None:
        """Acknowledge after a body without an error, unless a transaction will settle the lease."""
        if self._pledge is None:
            await self.queue.ack(self)
        else:
            self._pledge(self)

    async def _abandon(self, error: BaseException) -> None:
        """Release after a failure of the body, or give back after its cancellation."""
        if is_failure(error):
            await self.queue._fail(self, error)
        else:
            await self.queue._give_back(self)

    def _cancel_body(self) -> None:
        """Cancel the body under ``async with lease``. For engines: the lease is lost."""
        if self._scope is not None:
            self._scope.cancel("the lease was lost")


def write_receipt(queue: str, key: object, token: int) -> str:
    """Return a receipt of a queue's name, a key and a token.

    Raises:
        TypeError: the key is not a `str`, `int` or `bytes`.
    """
    if isinstance(key, bytes):
        return json.dumps([queue, {"bytes": base64.b64encode(key).decode()}, token])
    if isinstance(key, str) or type(key) is int:
        return json.dumps([queue, key, token])
    raise TypeError(
        f"a receipt can be written for a key that is str, int or bytes, not {shown(key)}"
    )


def read_receipt(receipt: str) -> tuple[str, object, int]:
    """Return the queue's name, the key and the token of a receipt.

    Raises:
        InvalidLeaseError: it is not a receipt.
    """
    try:
        queue, key, token = json.loads(receipt)
        if isinstance(key, dict):
            key = base64.b64decode(key["bytes"], validate=True)
    except (ValueError, TypeError, KeyError):
        raise InvalidLeaseError(f"not a receipt: {shown(receipt)}") from None
    if (
        not isinstance(queue, str)
        or not (isinstance(key, str | bytes) or type(key) is int)
        or type(token) is not int
    ):
        raise InvalidLeaseError(f"not a receipt: {shown(receipt)}")
    return queue, key, token


class LeaseBatch(Body, Generic[K, V]):
    """Leases for one body.

    `LeasedQueue.lease_batch` makes and enters it. At the end of the body, the leases that it has
    not settled itself are acknowledged; if it raised, they are released under the retry policy, in
    their old order; if it was cancelled, they are given back, uncounted.

    A lost lease leaves the batch. When all unsettled leases are lost, the body is cancelled, and
    `LeaseLostError` raised after it. Iterating yields the leases that are still held.

    Attributes:
        lost: The lost leases, in the order in which their loss was noticed.
    """

    _noun = "batch"
    __slots__ = ("_leases", "_none_left", "_size", "lost")

    def __init__(self, leases: Sequence[Lease[K, V]]) -> None:
        self._scope = None
        self._leases = dict.fromkeys(leases)  # without the lost ones
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
        """Acknowledge an item: `LeasedQueue.ack` with its lease. O(1)."""
        return await lease.ack()

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """Release an item to be tried again: `LeasedQueue.release` with its lease."""
        await lease.release(requeue_front=requeue_front, delay=delay, counted=counted)

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Give an item up: `LeasedQueue.reject` with its lease."""
        await lease.reject(reason)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for lease in list(self._leases):
            if lease.ended is None:
                lease._scope = _Member(self, lease)
            else:
                self._lose(lease)
        return self

    async def _settle_rest(self, settle: Callable[[Lease[K, V]], Awaitable[object]]) -> None:
        """Settle the leases that are still held, in their old order. Pools call it too."""
        for lease in list(self):
            try:
                await settle(lease)
            except InvalidLeaseError:  # it expired just now
                self._lose(lease)

    async def _leave(self, error: BaseException | None) -> None:
        for lease in self._leases:
            lease._scope = None
        held = list(self)
        if error is None:
            await self._settle_rest(Lease._complete)
            none_left = self._none_left or (held and self._leases.keys().isdisjoint(held))
            if none_left:
                raise LeaseLostError(f"{self!r}: all remaining leases were lost while its body ran")
        else:
            await self._settle_rest(lambda lease: lease._abandon(error))

    def _lose(self, lease: Lease[K, V]) -> None:
        if lease not in self._leases:  # its loss was noticed before
            return
        del self._leases[lease]
        self.lost.append(lease)
        if self._scope is not None and next(iter(self), None) is None:
            self._none_left = True
            self._scope.cancel("all leases of the batch were lost")


class _Member(Generic[K, V]):
    """The link of a lease to its batch, in place of a cancel scope of its own."""

    __slots__ = ("_batch", "_lease")

    def __init__(self, batch: LeaseBatch[K, V], lease: Lease[K, V]) -> None:
        self._batch = batch
        self._lease = lease

    def cancel(self, reason: str | None = None, /) -> None:
        self._batch._lose(self._lease)
