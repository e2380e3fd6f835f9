"""Leases on items, batches of them, and the cancel scopes of their bodies."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from anyio import CancelScope, current_time

from .._core.errors import InvalidLeaseError, rejection
from .._core.exports import adopt, not_copied
from .._core.loop import is_failure
from .._core.messages import Cancellation, batch_lost, lease_lost, not_of_queue
from .._core.policies import Backoff, Priority
from .._core.receipt import write_receipt
from .._core.texts import shown

if TYPE_CHECKING:
    from .._core.reports import Ended, LostBy
    from ._queue import LeasedQueue

K = TypeVar("K")
V = TypeVar("V")


kept_leases: set[Lease[Any, Any]] = set()
"""Leases on which code works that cannot be stopped, such as a thread.

A handle that is closed leaves them to their time: given back, their items would be in two hands.
"""


def _entered_twice(body: Lease[Any, Any] | LeaseBatch[Any, Any], noun: str) -> RuntimeError:
    return RuntimeError(f"{body!r} is entered already: one body for one {noun}")


async def _exit(
    body: Lease[Any, Any] | LeaseBatch[Any, Any],
    exc_type: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    """Close the cancel scope of a body, and settle what the body has left."""
    scope = body._scope
    if scope is None or isinstance(scope, _Member):
        raise RuntimeError(f"{body!r} is not entered: use async with")
    try:
        swallowed = scope.__exit__(exc_type, error, traceback)
    except BaseException as rest:  # a group, without the cancellations by this scope
        # Or an event loop closes an async generator that was left, in another task: no failure.
        ending = body._leave(error if type(error) is GeneratorExit else rest)
        if ending is not None:
            await ending
        raise
    finally:
        body._scope = None
    # The scope swallows only the cancellation of a lost lease, and then this raises.
    ending = body._leave(None if swallowed else error)
    if ending is not None:
        await ending


class Lease(Generic[K, V]):
    """The exclusive hold of a consumer on an item, until it is settled or lost.

    Queues make leases. ``async with lease`` runs its body in a cancel scope:

    - the body ends: the item is acknowledged, unless the body has settled the lease itself;
    - the body raises an error, also one outside `Exception` such as `SystemExit`, but for
      `KeyboardInterrupt`: the item is released under the retry policy, and the error propagates;
    - the body raises `Reject`, alone or as every leaf of a group: the item becomes a dead letter
      with that reason, and the error propagates;
    - the body is cancelled from outside: the item is released and this hand-out not counted; it
      returns to its old place the first time, and to the back of the line from the second time in
      a row on, so that no consumer can delay others by giving up again and again. An async
      generator that is closed in its body is cancelled in this sense: leaving a loop is no failure;
    - the lease is lost (it expired, or its queue was closed): the body is cancelled, and
      `LeaseLostError` raised after it. A body that blocks the event loop, or shields itself,
      cannot be stopped: let the target of its writes refuse a `token` lower than the last one;
    - the item is cancelled (`LeasedQueue.cancel`): the same, with `LeaseCancelledError`. No other
      consumer gets the key until the body has ended, or the time of the lease is over.

    A lease cannot be changed, copied or pickled.
    """

    __slots__ = (
        "_cancellations",
        "_deadline",
        "_deliveries",
        "_ended",
        "_key",
        "_lost_by",
        "_pledge",
        "_priority",
        "_queue",
        "_scope",
        "_since",
        "_tenant",
        "_token",
        "_value",
    )

    def __init__(self, queue: LeasedQueue[K, V], key: K, value: V) -> None:
        self._queue = queue
        self._key = key
        self._value = value
        self._priority = int(Priority.NORMAL)
        self._tenant: str | None = None
        self._token = 0
        self._deadline = math.inf
        self._since: float | None = None
        self._deliveries = 0
        self._cancellations = 0
        self._ended: Ended | None = None
        self._scope: CancelScope | _Member[K, V] | None = None
        # Called in place of the ack when the body ends without an error. An open transaction sets
        # it, to settle the lease itself; a worker, to keep a result with the ack.
        self._pledge: Callable[[Lease[K, V]], Awaitable[object] | None] | None = None

    __reduce__ = not_copied

    @property
    def queue(self) -> LeasedQueue[K, V]:
        """The queue that handed it out."""
        return self._queue

    @property
    def key(self) -> K:
        """The item's key."""
        return self._key

    @property
    def value(self) -> V:
        """The item's value as it was handed out; a later put does not change it."""
        return self._value

    @property
    def priority(self) -> int:
        """The item's priority."""
        return self._priority

    @property
    def tenant(self) -> str | None:
        """The item's tenant; None: no particular one."""
        return self._tenant

    @property
    def token(self) -> int:
        """The fencing token: for each key it only grows, also across restarts."""
        return self._token

    @property
    def deadline(self) -> float:
        """The time at which the lease expires; `math.inf`: never.

        In seconds of the event loop's clock (`anyio.current_time`).
        """
        return self._deadline

    @property
    def since(self) -> float | None:
        """The time of the hand-out, on the same clock; None where no timekeeper runs."""
        return self._since

    @property
    def deliveries(self) -> int:
        """Hand-outs of this item that count, this one included: 1 the first time."""
        return self._deliveries

    @property
    def cancellations(self) -> int:
        """Hand-outs in a row before this one that were cancelled, and so not counted."""
        return self._cancellations

    @property
    def ended(self) -> Ended | None:
        """None while the lease holds its item, then the way it ended."""
        return self._ended

    def __repr__(self) -> str:
        return f"<Lease {shown(self._key)} token={self._token} {self._ended or 'held'}>"

    @property
    def receipt(self) -> str:
        """The lease as a string, for another process or task to settle by `LeasedQueue.lease_of`.

        Raises:
            TypeError: the key is not a `str`, `int` or `bytes`.
        """
        return write_receipt(self._queue.name, self._key, self._token)

    async def ack(self) -> bool:
        """Acknowledge the item: it is done, and leaves the queue.

        Returns:
            True if an update that this consumer never saw was dropped with it.

        Raises:
            LeaseAlreadyAcknowledgedError: it was acknowledged before.
            LeaseLostError: it has expired; another consumer may hold the item.
            InvalidLeaseError: it was released or rejected before.
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
        """
        return await self._queue.ack(self)

    async def release(
        self, *, requeue_front: bool = False, delay: float | None = None, counted: bool = True
    ) -> None:
        """Release the item to be tried again, or give it up if this was its last delivery.

        Args:
            requeue_front: True: to the front of its priority's line, without a delay; False (the
                default): to the back.
            delay: Seconds until it is ready again; None (the default): by the retry policy.
            counted: True (the default): this hand-out counts as a delivery. The item becomes a dead
                letter if it was the last one that the retry policy allows.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            ValueError: the delay is negative or not a number, or goes with ``requeue_front``.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1); delayed or with a tenant O(log n).
        """
        await self._queue.release(self, requeue_front=requeue_front, delay=delay, counted=counted)

    async def reject(self, reason: str) -> None:
        """Give the item up: it becomes a dead letter.

        Args:
            reason: The reason, for readers of the dead letters.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TypeError: the reason is not a string.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
        """
        await self._queue.reject(self, reason)

    async def extend(self, timeout: float | None) -> None:
        """Give the lease a new deadline.

        Args:
            timeout: Seconds from now, more or less than were left; None: it never expires.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: `run` was not started.
            ValueError: the timeout is not above 0, or not a number.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(log leased).
        """
        await self._queue.extend(self, timeout)

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    def _enter(self, scope: CancelScope | None = None) -> CancelScope:
        """Begin its body, in a cancel scope that was entered before or in a new one; return it."""
        if self._ended is not None:
            if self._ended == "cancelled":
                self._queue._wind_up(self)
            if self._ended in ("lost", "cancelled"):
                raise lease_lost(self, current_time(), " before it was entered")
            raise InvalidLeaseError(f"{self!r} cannot be entered: it has ended")
        if self._scope is not None:
            raise _entered_twice(self, "lease")
        if scope is None:
            scope = self._queue._new_scope()
            scope.__enter__()
        self._scope = scope
        return scope

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        return _exit(self, exc_type, error, traceback)

    def _leave(self, error: BaseException | None) -> Awaitable[object] | None:
        """Begin to settle the lease by the end of its body, if the body has not done it.

        Returns an awaitable of the end; None: it has ended. A coroutine around it would cost as
        much as the ack itself.
        """
        if self._ended is not None:
            if self._ended == "cancelled":
                return self._wind_up(error)
            if self._ended == "lost" and error is None:
                raise lease_lost(self, current_time(), " while its body ran")
            return None  # the body has settled it
        return self._complete() if error is None else self._abandon_if_held(error)

    async def _wind_up(self, error: BaseException | None) -> None:
        """Free the key of a cancelled item, whose body has ended with this error.

        Raises:
            LeaseCancelledError: there is no error that says more.
        """
        ending = self._queue._wind_up(self)
        if ending is not None:
            await ending
        if error is None:
            raise lease_lost(self, current_time(), " while its body ran")

    def _complete(self) -> Awaitable[object] | None:
        """Begin to acknowledge after a body without an error, unless the lease is pledged.

        Returns an awaitable of the end; None: it has ended.
        """
        return self._queue.ack(self) if self._pledge is None else self._pledge(self)

    async def _abandon_if_held(self, error: BaseException) -> None:
        with suppress(InvalidLeaseError):  # it expired just now: the error says more
            await self._abandon(error)

    async def _abandon(self, error: BaseException, backoff: Backoff | None = None) -> None:
        """Reject or release after a failure of the body, or give back after its cancellation.

        Args:
            error: The error that ended the body.
            backoff: The rest after a failure, if the retry policy has none.
        """
        try:
            how, reason = verdict_on(error, of_pool=backoff is not None)
            if how == "rejected":
                await self._queue.reject(self, reason)
                return
            if how == "failed":
                await self._queue._fail(self, error, backoff)
                return
        except (KeyboardInterrupt, SystemExit):  # out of a policy, or of a text of the error
            if self._ended is None:
                await self._queue._give_back(self)
            raise
        await self._queue._give_back(self)

    def _lose(self, cause: LostBy | Cancellation) -> None:
        """Note the cause of a loss, and cancel the body under ``async with lease``. For engines."""
        self._lost_by = cause  # not before: it would be a word more to write for every put
        if self._scope is not None:
            self._scope.cancel("the lease was lost")


class Bodies:
    """The bodies of leases one after the other in one task, as ``async with lease`` runs each.

    They share a cancel scope, which costs as much as all the rest of a delivery. A lost lease
    cancels it; then the next body has another one. Nothing may be waited for inside but bodies and
    leases::

        with Bodies() as bodies:
            while True:
                _, _, lease = await queue.get()
                async with bodies.of(lease):
                    ...

    For other loops than a pool's own there is no such scope: it would be open between two bodies,
    where code of the user's may leave another one open that was entered before.
    """

    __slots__ = ("_lease", "_scope")

    def __init__(self) -> None:
        self._lease: Lease[Any, Any] | None = None
        self._scope: CancelScope | None = None

    def of(self, lease: Lease[Any, Any]) -> Self:
        """Return the context manager for the body of a lease, which is to be entered next."""
        self._lease = lease
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        scope, self._scope = self._scope, None
        return scope is not None and scope.__exit__(exc_type, error, traceback)

    async def __aenter__(self) -> None:
        assert self._lease is not None
        try:
            self._scope = self._lease._enter(self._scope)
        except BaseException:
            self._lease = None
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease, self._lease = self._lease, None
        scope = self._scope
        assert lease is not None
        assert scope is not None
        if scope.cancel_called:
            self._scope = None
            await _exit(lease, exc_type, error, traceback)
        else:  # without a cancellation, the end of the scope would do nothing
            lease._scope = None
            ending = lease._leave(error)
            if ending is not None:
                await ending


def verdict_on(
    error: BaseException, *, of_pool: bool
) -> tuple[Literal["rejected", "failed", "cancelled"], str]:
    """Return what the error that ended a body means for its item, and the reason of a rejection.

    Args:
        error: The error.
        of_pool: True if it comes from a pool, which has judged it to be a failure.
    """
    reason = rejection(error)
    if reason is not None:
        return "rejected", reason
    return "failed" if of_pool or is_failure(error) else "cancelled", ""


async def settle_each(
    leases: Sequence[Lease[K, V]],
    error: BaseException | None,
    missed: Callable[[Lease[K, V]], object],
    backoff: Backoff | None = None,
) -> None:
    """Settle leases in their order, by the end of their body.

    An engine that asks a store asks for all before it waits for the first. Whatever one raises, a
    cancellation too, the others are settled before the first error goes on. The records of the log
    about them are one burst.

    Args:
        leases: The leases.
        error: The error that ended the body; None: they are acknowledged.
        missed: Called with each lease that has ended otherwise.
        backoff: The rest after a failure, if the retry policy has none.
    """
    first: BaseException | None = None
    endings: list[tuple[Lease[K, V], Awaitable[object]]] = []
    with ExitStack() as bursts:
        for queue in dict.fromkeys(lease.queue for lease in leases):
            bursts.enter_context(queue._one_burst())
        for lease in leases:
            try:
                endings.append((lease, lease._queue._end(lease, error, backoff)))
            except InvalidLeaseError:
                missed(lease)
            except BaseException as problem:
                first = first or problem
        for lease, ending in endings:
            try:
                await ending
            except InvalidLeaseError:  # it expired just now, for instance
                missed(lease)
            except BaseException as problem:
                first = first or problem
    if first is not None:
        raise first


def check_lease(lease: object) -> None:
    """Raise `InvalidLeaseError` if an object is not a lease."""
    if not isinstance(lease, Lease):
        raise InvalidLeaseError(
            f"{shown(lease)} is not a lease: use the one that get, take or lease has given"
        )


class LeaseBatch(Generic[K, V]):
    """Leases for one body.

    `LeasedQueue.lease_batch` makes and enters it. At the end of the body, the leases that it has
    not settled itself are acknowledged; if it raised, they are released under the retry policy, in
    their old order; if it was cancelled, they are given back, uncounted.

    A lost lease leaves the batch. When all unsettled leases are lost, the body is cancelled, and
    `LeaseLostError` raised after it. Iterating yields the leases that are still held, and ``len``
    is their number. O(leases) each.

    Attributes:
        lost: The lost leases, in the order in which their loss was noticed.
    """

    __slots__ = ("_leases", "_none_left", "_scope", "_size", "lost")

    def __init__(self, leases: Sequence[Lease[K, V]]) -> None:
        self._scope: CancelScope | None = None
        self._leases = dict.fromkeys(leases)  # without the lost ones
        self._size = len(self._leases)
        self._none_left = False  # and so the body was cancelled
        self.lost: list[Lease[K, V]] = []

    __reduce__ = not_copied

    def __repr__(self) -> str:
        return f"<LeaseBatch {len(self)} held, {len(self.lost)} lost, of {self._size}>"

    def __len__(self) -> int:
        return sum(lease._ended is None for lease in self._leases)

    def __iter__(self) -> Iterator[Lease[K, V]]:
        return (lease for lease in self._leases if lease._ended is None)

    async def ack(self, lease: Lease[K, V]) -> bool:
        """Acknowledge one item of the batch before the body ends.

        Args:
            lease: A lease of this batch.

        Returns:
            True if an update that this consumer never saw was dropped with it.

        Raises:
            LeaseAlreadyAcknowledgedError: it was acknowledged before.
            LeaseLostError: it has expired; another consumer may hold the item.
            InvalidLeaseError: it was released or rejected before, or is not of this batch.
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
        """
        return await self._mine(lease).ack()

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """Release one item of the batch to be tried again, before the body ends.

        Args:
            lease: A lease of this batch.
            requeue_front: True: to the front of its priority's line, without a delay; False (the
                default): to the back.
            delay: Seconds until it is ready again; None (the default): by the retry policy.
            counted: True (the default): this hand-out counts as a delivery. The item becomes a dead
                letter if it was the last one that the retry policy allows.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            ValueError: the delay is negative or not a number, or goes with ``requeue_front``.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1); delayed or with a tenant O(log n).
        """
        await self._mine(lease).release(requeue_front=requeue_front, delay=delay, counted=counted)

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Give one item of the batch up before the body ends: it becomes a dead letter.

        Args:
            lease: A lease of this batch.
            reason: The reason, for readers of the dead letters.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TypeError: the reason is not a string.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
        """
        await self._mine(lease).reject(reason)

    def _mine(self, lease: Lease[K, V]) -> Lease[K, V]:
        check_lease(lease)
        if lease not in self._leases and lease not in self.lost:
            raise not_of_queue(lease, "another batch")
        return lease

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise _entered_twice(self, "batch")
        self._scope = scope = CancelScope()
        scope.__enter__()
        for lease in list(self._leases):
            if lease._ended is None:
                lease._scope = _Member(self, lease)
            else:
                self._lose(lease)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await _exit(self, exc_type, error, traceback)

    async def _settle_rest(
        self, error: BaseException | None, backoff: Backoff | None = None
    ) -> None:
        """Settle the leases that are still held, in their old order. Pools call it too."""
        await settle_each(list(self), error, self._lose, backoff)

    async def _leave(self, error: BaseException | None) -> None:
        for lease in self._leases:
            lease._scope = None
        held = list(self)
        try:
            await self._settle_held(error, held)
        finally:
            await self._wind_up()

    async def _wind_up(self) -> None:
        """Free the keys of items that were cancelled while the body ran."""
        lost = [lease for lease in self.lost if lease._ended == "cancelled"]
        for ending in [lease._queue._wind_up(lease) for lease in lost]:
            if ending is not None:
                await ending

    async def _settle_held(self, error: BaseException | None, held: Sequence[Lease[K, V]]) -> None:
        if error is None:
            await self._settle_rest(None)
            none_left = self._none_left or (held and self._leases.keys().isdisjoint(held))
            if none_left:
                raise batch_lost(self, self.lost[-1], current_time())
        else:
            await self._settle_rest(error)

    def _lose(self, lease: Lease[K, V]) -> None:
        if lease not in self._leases:  # its loss was noticed before
            return
        del self._leases[lease]
        self.lost.append(lease)
        lease._scope = None
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


adopt("leaseq", globals())
