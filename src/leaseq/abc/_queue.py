"""The contract of a queue: what it promises, on every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus

from .._core.codec import Codec, JsonCodec
from .._core.errors import QueueClosedError
from .._core.exports import not_copied
from .._core.functions import Later
from .._core.ids import new_id
from .._core.kept import Kept
from .._core.options import ANY_KEY, AnyKey, GetOptions, PutOptions, TakeOptions
from .._core.policies import Backoff, Tenant
from .._core.reports import (
    HistoryEntry,
    KeyState,
    LeaseInfo,
    MessageId,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
)
from .._core.requests import check_claim_known
from .._core.validation import check_known, check_text
from ._lease import Lease, LeaseBatch

if TYPE_CHECKING:
    from ._transaction import Transaction

K = TypeVar("K")
V = TypeVar("V")


class EarlyClaim(Protocol[K, V]):
    """A claim that was begun before its consumer waits for it."""

    async def lease(self) -> Lease[K, V]:
        """Wait for the lease, as `LeasedQueue.get` does."""
        ...

    def give_up(self) -> None:
        """Stop claiming; an item that was handed out meanwhile goes back, uncounted."""


class LeasedQueue(ABC, Generic[K, V]):
    """A queue of keyed items that consumers take under leases.

    Every key is in one state: ready, delayed, leased, or absent. Every operation is atomic with
    respect to cancellation, by anyio's cancel scopes and by `asyncio.Task.cancel`: **if it raised,
    it did not happen**. All times are seconds. In the costs, n is the number of items with a
    deadline, a delay or a time to live, or of tenants, whichever is larger.

    On a server each call is a round trip. It may also raise `ServerUnavailableError` and
    `ServerError`. A call that was sent and then cancelled by a cancel scope waits for its answer,
    for two seconds at most; one that `asyncio.Task.cancel` cancels raises immediately, and may have
    been done.

    ``async with queue`` closes the queue when it is left.
    """

    name: str
    """The name of the queue in logs and errors."""
    group: str = ""
    """The group of a broker's queue; ``""``: the broker's own."""
    _kept_by = "queue"  # that whose `run` is its timekeeper, as a user names it

    @property
    @abstractmethod
    def closed(self) -> bool:
        """True once `close` was called."""

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

    # Producers

    @abstractmethod
    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        """Put an item, or replace the value of one that is there.

        Args:
            key: The identity of the item; hashable.
            value: The value for the consumer.
            **options: As `PutOptions` has them.

        Returns:
            The outcome, by the state of the key: absent, ready or delayed, or leased.

        Raises:
            KeyAlreadyInFlightError: the key is leased, and ``if_in_flight="reject"``.
            QueueClosedError: the queue is shut down or closed.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            TypeError: the key is not hashable; an option is unknown, or its value of another type.
            ValueError: an option has an invalid value; the key is longer than 1,024 bytes, or the
                value, where processes share the queue, than 4 MiB.
            TenantMismatchError: the key is there for another tenant; a `ValueError` too.

        Waits while the queue is full, but never for a key that is there. If cancelled, nothing was
        put. O(1); with a tenant, a delay or a time to live O(log n).
        """

    async def add(
        self: LeasedQueue[str, V],
        value: V,
        *,
        message_id: str | None = None,
        **options: Unpack[PutOptions],
    ) -> MessageId:
        """Put an item under a generated key.

        Args:
            value: The value for the consumer.
            message_id: The key; None: 32 random hexadecimal digits. A producer that may send the
                same item twice gives a key of its own: a queue with ``dedupe_for`` takes it once,
                and the outcome of the second time is `PutOutcome.DUPLICATE`.
            **options: As `PutOptions` has them.

        Returns:
            The key, with the ``outcome`` as an attribute.

        Raises:
            KeyAlreadyInFlightError, QueueClosedError, TimekeeperNotRunningError, ValueError: as
                `put` does.

        If cancelled, nothing was put. O(1).
        """
        check_known("add", options, ("message_id", *PutOptions.__annotations__))
        if message_id is None:
            message_id = new_id()
        else:
            check_text("message_id", message_id, " or None")
        return MessageId(message_id, await self.put(message_id, value, **options))

    @abstractmethod
    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        """Put items in their order, all or none, with the same options.

        Args:
            items: Pairs of a key and a value, or a mapping.
            **options: As `PutOptions` has them.

        Returns:
            The outcome of each, as `put` returns it.

        Raises:
            KeyAlreadyInFlightError, QueueClosedError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put` does, for the first item that cannot be put; then none is.
            ValueError: there are more new keys than the queue may ever hold; or, where processes
                share the queue, more than 500 items, or than 4 MiB of values.

        Waits until there is room for all of them. If cancelled, nothing was put. O(items).
        """

    # Consumers

    @abstractmethod
    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        """Lease the next item, and wait for one if need be.

        Args:
            timeout: Seconds to wait for an item; None: no limit; 0 or less: do not wait. For more
                than one call, prefer ``with anyio.fail_after(...)``.
            **options: As `GetOptions` has them.

        Returns:
            The key, the value and the lease, which has both as attributes.

        Raises:
            TimeoutError: no item came in time.
            QueueClosedError: the queue is closed, or shut down and drained.
            TimekeeperNotRunningError: `run` was not started, and the lease is timed, retries have a
                backoff, or only a delayed item could come.
            ValueError: an option has an invalid value.

        If cancelled, nothing was taken: an item that was on its way goes back to the head of the
        line, uncounted, and to the next consumer that waits. O(1); with a timeout or tenants
        O(log n).
        """

    @abstractmethod
    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        """Lease one key; wait while it is absent, delayed or leased, or its tenant is at its cap.

        A consumer that waits for one key is served before consumers that take any.

        Args:
            key: The key.
            timeout: Seconds to wait for it; None: no limit; 0 or less: do not wait.
            **options: As `TakeOptions` has them.

        Returns:
            The key, the value and the lease, which has both as attributes.

        Raises:
            TimeoutError: the key did not become ready in time.
            QueueClosedError: the queue is closed; or it is shut down, and the key is absent and can
                no longer come.
            TimekeeperNotRunningError: as `get` does.
            TypeError: the key is not hashable.
            ValueError: an option has an invalid value.

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
        """Lease several items: at least one, and more as they come.

        Args:
            max_items: The largest number of items.
            max_wait: Seconds to wait for more items after the first. Consumers that wait for a
                single item are served before consumers that wait for more.
            timeout: Seconds to wait for the first, as in `get`.
            **options: As `GetOptions` has them.

        Returns:
            The leases, in the order of the line: fewer than ``max_items`` when ``max_wait`` is
            over, or when the queue is shut down and nothing is left to claim.

        Raises:
            TimeoutError, QueueClosedError, TimekeeperNotRunningError: as `get` does.
            ValueError: an option has an invalid value; or ``max_wait`` is not less than the timeout
                of the leases, so that the first could be lost before the last comes.

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

        It is `get_batch`, and then a `LeaseBatch` around the body, which settles the leases at its
        end. Arguments, errors and cost are those of `get_batch`; an unknown option is a `TypeError`
        of this call. If cancelled while it waits, nothing was taken; if its body is cancelled, the
        items go back, uncounted.
        """
        check_claim_known("lease_batch", options, GetOptions.__annotations__)
        return LeaseBatchContext(self, max_items, max_wait, timeout, options)

    def lease(
        self,
        timeout: float | None = None,
        *,
        key: K | AnyKey = ANY_KEY,
        **options: Unpack[GetOptions],
    ) -> LeaseContext[K, V]:
        """Lease an item for a body: ``async with queue.lease() as lease``.

        It is `get`, or with ``key=`` `take`, and then ``async with lease``, which settles the lease
        at the end of the body (see `Lease`). Arguments, errors and cost are those of `get` and
        `take`; an unknown option is a `TypeError` of this call. If cancelled while it waits,
        nothing was taken; if its body is cancelled, the item goes back, uncounted.
        """
        if options and key is ANY_KEY:
            check_claim_known("lease", options, GetOptions.__annotations__)
        elif options:
            check_claim_known("lease", options, TakeOptions.__annotations__, " with a key")
        return LeaseContext(self, key, timeout, options)

    def __aiter__(self) -> AsyncIterator[Lease[K, V]]:
        """Iterate over leases as they come, each to be entered with ``async with lease``.

        The iteration ends when the queue is drained, and shut down or closed.

        Raises:
            QueueClosedError: the queue was closed with work left.
            TimekeeperNotRunningError: as `get` does.

        If cancelled, nothing was taken. Each step costs what `get` costs.
        """
        return _Leases(self)

    @abstractmethod
    async def discard(self, key: K) -> bool:
        """Drop the item of a key that waits, ready or delayed.

        A leased item is left alone, and so is a buffered successor behind it: its key is leased.
        The item counts as dropped, and makes room. It was not acknowledged, so that ``dedupe_for``
        does not refuse its key.

        Args:
            key: The key.

        Returns:
            True if an item was dropped; False: the key is leased or absent.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError: the key is not hashable.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(1); delayed or with a tenant
        O(log n).
        """

    async def cancel(self, key: K, *, reason: str = "", keep_successor: bool = False) -> bool:
        """Cancel the item of a key, whatever state it is in: it is not tried again.

        A waiting item is dropped. The lease of a leased item ends as ``"cancelled"``: its body
        under ``async with`` is cancelled, and raises `LeaseCancelledError` when it has cleaned up;
        any settlement raises that too. The key stays leased until the body has ended, or a holder
        without a body has tried to settle the lease, other than in a transaction, or the time of
        the lease is over, whichever is first: so no other consumer works on the key beside the
        clean-up.

        Args:
            key: The key.
            reason: The reason, for the holder: it is in the error, cut to 4,096 characters.
            keep_successor: True: a successor that was buffered while the key was leased stays, and
                follows. False (the default): it is cancelled too, so that nothing of the key is
                left. A value that is put later is new work, and follows when the key is free.

        Returns:
            True if there was something to cancel; False: the key is absent, or its item was
            cancelled before.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError: the key is not hashable, or an option has a value of another type.

        Where processes share the queue, a hint tells the holder within milliseconds. If the hint is
        lost, the holder hears of it from its next call about the lease, such as the next extension
        by a heartbeat. In memory it never suspends, and takes effect even if cancelled. If
        cancelled before it was sent to a server, nothing has changed. O(1); delayed or with a
        tenant O(log n).
        """
        return await self._cancel_and_keep(key, reason, (), keep_successor=keep_successor)

    # Settling

    @abstractmethod
    async def ack(self, lease: Lease[K, V]) -> bool:
        """Acknowledge: the item is done, and leaves the queue.

        Args:
            lease: The lease on the item.

        Returns:
            True if an update that this consumer never saw was dropped with it.

        Raises:
            LeaseAlreadyAcknowledgedError: it was acknowledged before.
            LeaseLostError: it has expired; another consumer may hold the item.
            InvalidLeaseError: it was released or rejected before, or belongs to another queue.
            QueueClosedError: the queue is closed.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
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
        """Release the item to be tried again, or give it up if this was its last delivery.

        Args:
            lease: The lease on the item.
            requeue_front: True: to the front of its priority's line, without a delay; False: to
                the back.
            delay: Seconds until it is ready again; None: by the retry policy.
            counted: True: this hand-out counts as a delivery. The item becomes a dead letter if it
                was the last one that the retry policy allows.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: there is a delay, and `run` was not started.
            ValueError: the delay is negative or not a number, or goes with ``requeue_front``.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1); delayed or with a tenant O(log n).
        """

    @abstractmethod
    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Give the item up: it becomes a dead letter.

        Args:
            lease: The lease on the item.
            reason: The reason, for readers of the dead letters.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TypeError: the reason is not a string.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(1).
        """

    @abstractmethod
    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        """Give a lease a new deadline.

        Args:
            lease: The lease.
            timeout: Seconds from now, more or less than were left; None: it never expires.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.
            TimekeeperNotRunningError: `run` was not started.
            ValueError: the timeout is not above 0, or not a number.

        Takes effect even if cancelled: in memory it never suspends, on a server it waits for the
        answer. O(log leased).
        """

    @abstractmethod
    async def lease_of(self, receipt: str) -> Lease[K, V]:
        """Return the lease of a receipt, to be settled by the holder of the receipt.

        Args:
            receipt: The `Lease.receipt`.

        Raises:
            InvalidLeaseError: it is not a receipt, or it belongs to another queue.
            LeaseLostError: the lease has ended; `LeaseCancelledError`: its item was cancelled. That
                frees no key: the one that took the lease does, or the end of the lease's time.
            QueueClosedError: the queue is closed.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """

    @abstractmethod
    async def release_all(self, *, consumer: str) -> int:
        """End all leases of a consumer that is known to be gone, as if they had expired.

        Args:
            consumer: The name that was given to `get` or `take`.

        Returns:
            The number of leases that ended.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError: the name is not a string.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(leased).
        """

    # Inspection: all of it on a closed queue too

    async def peek(self, key: K) -> V | None:
        """Return the value of a key that is ready; None if it is not ready.

        Args:
            key: The key.

        Raises:
            TypeError: the key is not hashable.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """
        state, value = await self._look(key)
        return value if state == "ready" else None

    async def contains(self, key: K) -> bool:
        """Return True if the key is ready: it is among the `available_keys`.

        Args:
            key: The key.

        Raises:
            TypeError: the key is not hashable.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """
        return await self.state(key) == "ready"

    async def state(self, key: K) -> KeyState:
        """Return the state of a key: "ready", "delayed", "leased" or "absent".

        A key is leased until its lease has ended, whatever waits behind it: a buffered successor
        changes nothing. An item whose time to live is over counts as ready, or delayed, until it is
        given up: see ``ttl`` of `PutOptions`.

        Args:
            key: The key.

        Raises:
            TypeError: the key is not hashable.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """
        state, _ = await self._look(key, value=False)
        return state

    @abstractmethod
    async def available_keys(self) -> set[K]:
        """Return the keys that are ready.

        Where processes share the queue, a long list comes in parts: a key that becomes ready, or
        ceases to be, meanwhile may be in it. `delayed_keys`, `inflight_keys`, `inflight`, `history`
        and the counts by tenant do the same.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(ready).
        """

    @abstractmethod
    async def delayed_keys(self) -> set[K]:
        """Return the keys that are delayed: put with a delay, or resting before another try.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(delayed);
        where processes share the queue, O(items with a delay, a lease or a time to live).
        """

    @abstractmethod
    async def inflight_keys(self) -> set[K]:
        """Return the keys that are leased.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(leased).
        """

    @abstractmethod
    async def qsize(self) -> int:
        """Return the number of ready and delayed items and buffered successors.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """

    @abstractmethod
    async def inflight_size(self) -> int:
        """Return the number of leased items.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1).
        """

    @abstractmethod
    async def statistics(self, *, tenants: bool = False) -> Statistics:
        """Return counts of the items in the queue and of what has happened so far.

        Args:
            tenants: True: include counts by tenant.

        Raises:
            TypeError: ``tenants`` is not a bool.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1); with
        tenants O(tenants).
        """

    @abstractmethod
    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        """Return the leases, in the order of the hand-outs.

        Args:
            consumer: Only those of this consumer; None: all.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(leased).
        """

    @abstractmethod
    async def info(self) -> QueueInfo:
        """Return a description of the queue with its sizes.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(1), plus
        O(its dead letters).
        """

    @abstractmethod
    async def history(self) -> list[HistoryEntry[K, V]]:
        """Return the items that were last acknowledged, or cancelled while leased, in that order.

        There are at most as many as the queue's option ``history``, which is 0 by default.

        In memory it never suspends. If cancelled on a server, nothing has changed. O(their number).
        """

    # Dead letters and tenants

    @abstractmethod
    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        """Bring dead letters of this queue back, with their tenants and priorities, to start anew.

        Args:
            keys: The keys of the items to bring back; None: of all.
            limit: The largest number, the oldest first; None: all.

        Returns:
            The keys that are back, and the keys whose letters stay because another item has the
            key. Letters that are leased or delayed in their own queue are left alone.

        Raises:
            QueueClosedError: the queue is shut down or closed.
            ValueError: the queue has no queue of dead letters, or the limit is less than 1.

        If cancelled, some may be back and others not; each comes back in one step. O(letters).
        """

    @abstractmethod
    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        """Give a tenant another weight or cap, from its next hand-out on.

        Args:
            name: The name of the tenant.
            tenant: Its weight and cap, in place of those that it had.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError: the name is not a string, or the tenant not a `Tenant`.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(log tenants).
        """

    # Pauses

    @abstractmethod
    async def pause(self, tenant: str | None = None, *, reason: str = "") -> None:
        """Stop handing out items of the queue, or of one tenant, until `resume`.

        Consumers that wait go on waiting, and items of other tenants are handed out as ever. All
        else goes on: puts, the leases that were handed out before and their ends, delays, times to
        live, `join`, `shutdown`, `redrive`. The whole queue and its tenants are paused
        independently: an item can be claimed if neither the queue nor its tenant is paused. A
        tenant that is paused gets no credit for that time. An engine that keeps its items keeps its
        pauses. A second pause replaces the reason, and leaves the time.

        Args:
            tenant: The name of the tenant, which need not have anything in the queue; None: the
                whole queue. Items without a tenant can only be paused with the whole queue.
            reason: The reason, for `info`; at most 4,096 characters of it are kept.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError: the name or the reason is not a string.
            ValueError: the name is too long, or 1,000 other tenants are paused.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(log tenants).
        """

    @abstractmethod
    async def resume(self, tenant: str | None = None) -> bool:
        """Let items be claimed again after a `pause`, and serve the consumers that wait.

        Args:
            tenant: The name of the tenant; None: the whole queue, but not the tenants that are
                paused by themselves.

        Returns:
            True if it was paused.

        Raises:
            QueueClosedError: the queue is closed.
            TypeError, ValueError: as `pause` does.

        In memory it never suspends, and takes effect even if cancelled. If cancelled before it was
        sent to a server, nothing has changed. O(log tenants), and for the whole queue O(tenants);
        and O(log n) for each consumer served.
        """

    # The end

    @abstractmethod
    async def shutdown(self) -> None:
        """Refuse further puts, and let consumers go on until the queue is drained.

        Puts raise `QueueClosedError` from now on. When the queue is drained, retries included,
        consumers get `QueueClosedError`, and iterations end.

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
        """Close the queue without waiting, whatever is left in it.

        Leased items go back to their old places; their leases are lost, and the bodies that run
        under them are cancelled. Waiters, and later calls that would change something, get
        `QueueClosedError`. Closing again does nothing.

        Takes effect even if cancelled. O(leased + waiting consumers).
        """

    @abstractmethod
    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run the timekeeper: expiry of leases, delays, times to live, retries.

        It looks after the queue of dead letters too, unless that has a `run` of its own.

        Start it in your own task group: ``await tg.start(queue.run)``. It returns when the queue is
        closed, or shut down and drained, and no event of an item or a lease ever raises out of it.

        Args:
            task_status: For ``tg.start``: the timekeeper is running.

        Raises:
            BusyResourceError: it is running already.

        If cancelled, nothing falls due until `run` is started again: leases keep their deadlines,
        and a lease past its deadline is refused, but its item does not return to the line. It
        sleeps until the next deadline. O(log n) for each that falls due.
        """

    # For engines and tools, not called by users: a key in any state, and the ends of a body

    @abstractmethod
    async def _look(self, key: K, *, value: bool = True) -> tuple[KeyState, V | None]:
        """Return the state of a key, and the newest value put under it, leased or not.

        Args:
            key: The key.
            value: False: the value is not needed, and None.

        Raises:
            TypeError: the key is not hashable.

        O(1).
        """

    def _end(
        self, lease: Lease[K, V], error: BaseException | None, backoff: Backoff | None = None
    ) -> Awaitable[object]:
        """Begin to settle a lease by the end of its body, and return an awaitable of its end.

        Raises, there or here, what the settlement raises.

        Args:
            lease: The lease.
            error: The error that ended the body; None: acknowledge.
            backoff: The rest after a failure, if the retry policy has none.
        """

        async def end() -> None:
            if error is not None:
                await lease._abandon(error, backoff)
            elif (ending := lease._complete()) is not None:
                await ending

        return Later(end)

    def _claim_early(self, options: GetOptions) -> EarlyClaim[K, V] | None:
        """Begin to lease an item; the claim goes with the next request to the store.

        For engines that ask a store: on others this is None, since nothing is gained. The claim is
        to be waited for, or given up.
        """
        return None

    def _codec(self) -> Codec[V]:
        """Return the codec of its values, for a process that runs a handler."""
        return JsonCodec()

    def _begin_to_extend(self, lease: Lease[K, V], timeout: float) -> Awaitable[None]:
        """Begin to extend a lease, and return an awaitable of its end."""
        return Later(lambda: self.extend(lease, timeout))

    @abstractmethod
    async def _fail(
        self, lease: Lease[K, V], error: BaseException, backoff: Backoff | None = None
    ) -> None:
        """Release an item whose consumer raised, as ``async with lease`` does.

        A counted release under the retry policy, or with a backoff if that has none and a
        timekeeper runs; if the item becomes a dead letter, that has the error's text.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.

        Takes effect even if cancelled. O(1); delayed or with a tenant O(log n).
        """

    @abstractmethod
    async def _give_back(self, lease: Lease[K, V]) -> None:
        """Return an item whose consumer was cancelled, as ``async with lease`` does.

        The hand-out is not counted. The item goes to its old place, but from the second time in a
        row on to the back of the line.

        Raises:
            LeaseAlreadyAcknowledgedError, LeaseLostError, InvalidLeaseError, QueueClosedError:
                as `ack` does.

        Takes effect even if cancelled. O(1).
        """

    @abstractmethod
    def _wind_up(self, lease: Lease[K, V]) -> Awaitable[object] | None:
        """Begin to free the key of a cancelled item, whose holder has ended.

        Returns an awaitable of the end, which need not be awaited; None: it has ended. It raises
        no error of the queue, and takes effect even if cancelled. O(1); with a tenant O(log n).
        """

    @abstractmethod
    def _hold_on(self, lease: Lease[K, V], seconds: float) -> Awaitable[object] | None:
        """Begin to put off the time at which the key of a cancelled item is free.

        For a holder that cannot be stopped, such as a thread: its lease has ended, and cannot be
        extended, but nobody else may have the key before it has ended too. If the key is free by
        now, nothing is done.

        Args:
            lease: The lease, of which is known here that it was cancelled.
            seconds: Seconds from now.

        Returns:
            An awaitable of the end, which raises no error of the queue; None: it has ended.

        Raises:
            InvalidLeaseError, QueueClosedError: it is not a lease of this queue, or that is closed.

        Takes effect even if cancelled. O(log leased).
        """

    @abstractmethod
    def _transaction(self) -> Transaction:
        """Return a transaction for this queue alone, whether it has a broker or not."""

    def _new_scope(self) -> CancelScope:
        """Return a new cancel scope for the body of a lease."""
        return CancelScope()

    # Values kept for a time beside the items: results of tasks, and values that tasks share

    @abstractmethod
    def _ack_and_keep(self, lease: Lease[K, V], values: Sequence[Kept]) -> Awaitable[object] | None:
        """Begin to acknowledge a lease and keep values in one step.

        Returns:
            An awaitable of its end; None: it has ended.

        If the store has no room for the values, the lease is acknowledged all the same,
        `Kept.instead` of each is kept, and that is logged once.

        Raises the errors of `ack`, here or when it is awaited; then nothing was kept.

        Takes effect even if cancelled. O(1), and O(log n) for each value.
        """

    @abstractmethod
    async def _reject_and_keep(
        self, lease: Lease[K, V], reason: str, values: Sequence[Kept]
    ) -> None:
        """Give an item up and keep values in one step.

        Errors are those of `reject`; then nothing was kept. A store without room is dealt with as
        by `_ack_and_keep`.

        Takes effect even if cancelled. O(1), and O(log n) for each value.
        """

    @abstractmethod
    async def _cancel_and_keep(
        self, key: K, reason: str, values: Sequence[Kept], *, keep_successor: bool = False
    ) -> bool:
        """Cancel the item of a key, as `cancel` does, and keep values in the same step.

        They are kept if there was something to cancel. Errors, cancellation and cost are those of
        `cancel`; a store without room is dealt with as by `_ack_and_keep`.
        """

    @abstractmethod
    async def _keep(self, values: Sequence[Kept]) -> None:
        """Keep values, in place of older ones of their names.

        Raises:
            QueueClosedError: the queue is closed.
            ServerError: the store has no room, or refuses; then nothing was kept.

        If cancelled, nothing was kept. O(log n) for each.
        """

    @abstractmethod
    async def _recall(self, name: str, timeout: float | None) -> bytes:
        """Wait for the value that is kept under a name.

        Args:
            name: The name.
            timeout: Seconds; 0: do not wait; None: without end.

        Raises:
            TimeoutError: there was none in time.
            QueueClosedError: the queue is closed.

        If cancelled, nothing has changed. O(1).
        """

    def _one_burst(self) -> AbstractContextManager[None]:
        """Return a context in which leases of a batch are settled: its records are one burst."""
        return nullcontext()


def _entered_before(call: str) -> RuntimeError:
    return RuntimeError(f"{call}() is for one block, which was entered before: call it again")


class LeaseContext(Generic[K, V]):
    """The context manager of `LeasedQueue.lease`: leases an item, and settles the lease."""

    __slots__ = ("_key", "_lease", "_options", "_queue", "_timeout", "_used")

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
        self._used = False

    __reduce__ = not_copied

    async def __aenter__(self) -> Lease[K, V]:
        if self._used:
            raise _entered_before("lease")
        self._used = True
        try:
            if self._key is ANY_KEY and not self._options:  # a call without ** is half the cost
                _, _, lease = await self._queue.get(self._timeout)
            elif self._key is ANY_KEY:
                _, _, lease = await self._queue.get(self._timeout, **self._options)
            else:
                options: TakeOptions = self._options  # which has fewer options, as was checked
                _, _, lease = await self._queue.take(self._key, self._timeout, **options)
            lease._enter()
        except BaseException:
            self._used = False
            raise
        self._lease = lease
        return lease

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        return self._lease.__aexit__(exc_type, error, traceback)


class LeaseBatchContext(Generic[K, V]):
    """The context manager of `LeasedQueue.lease_batch`: leases items and settles them."""

    __slots__ = ("_batch", "_max_items", "_max_wait", "_options", "_queue", "_timeout", "_used")

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
        self._used = False

    __reduce__ = not_copied

    async def __aenter__(self) -> LeaseBatch[K, V]:
        if self._used:
            raise _entered_before("lease_batch")
        self._used = True
        try:
            leases = await self._queue.get_batch(
                self._max_items, max_wait=self._max_wait, timeout=self._timeout, **self._options
            )
            self._batch = await LeaseBatch(leases).__aenter__()
        except BaseException:
            self._used = False
            raise
        return self._batch

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._batch.__aexit__(exc_type, error, traceback)


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
