"""The anyio shell around the ledger: who waits, who is woken, the timekeeper."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from math import inf
from typing import Generic, TypeVar, Unpack

from anyio import (
    TASK_STATUS_IGNORED,
    BusyResourceError,
    CancelScope,
    Event,
    WouldBlock,
    fail_after,
)
from anyio.abc import TaskStatus

from .._loop import Home
from ..abc import LeasedQueue
from ..errors import InvalidLeaseError, LeaseqError, QueueClosedError, TimekeeperNotRunningError
from ..lease import Lease
from ..values import (
    ANY_KEY,
    AnyKey,
    GetOptions,
    InFlight,
    Put,
    PutOptions,
    Statistics,
    TakeOptions,
    lease_seconds,
    wait_seconds,
)
from .item import Item
from .ledger import Ledger
from .waiters import Waiters

__all__ = ["LeasedKeyQueue"]

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger("leaseq")

_ADDED = Put.ADDED
_SLICE = 200  # expiries handled in one go: about a millisecond of the event loop's time


class _Waiter(Generic[K, V]):
    """A consumer that waits: for `key`, or for any. Woken with an item, or without: the end."""

    __slots__ = ("event", "item", "key", "lease_timeout")

    def __init__(self, key: K | AnyKey, lease_timeout: float) -> None:
        self.key = key
        self.lease_timeout = lease_timeout
        self.item: Item[K, V] | None = None
        self.event = Event()


class LeasedKeyQueue(LeasedQueue[K, V]):
    """A keyed, leased queue in this process.

    What each call promises is said in the contract, `leaseq.abc.LeasedQueue`. In this engine
    `get`, `take`, `put`, `add` and `put_many` are checkpoints, always; `join` is one too. The other
    calls take effect at once and never suspend, and leaving ``async with lease`` neither: work that
    is done is not undone by a cancellation. What can be done without waiting has a synchronous
    twin, ``..._nowait``.

    Not thread-safe: from a thread, ``anyio.from_thread.run_sync(queue.put_nowait, key, value)``. A
    queue belongs to the event loop in which somebody first waited for it.

    Args:
        default_lease_timeout: Seconds until a lease expires, unless `get` or `take` say otherwise;
            None: never.
        fast_acquire: Leave out the checkpoint of `get`, `take` and `put` where nothing has to be
            waited for, as in `anyio.Lock`: faster, but a task that never has to wait never lets
            others run.
        name: What the queue is called in logs and errors.

    Raises:
        ValueError: the timeout is not a positive number.
    """

    def __init__(
        self,
        *,
        default_lease_timeout: float | None = None,
        fast_acquire: bool = False,
        name: str = "",
    ) -> None:
        self.name = name
        self._default_lease_timeout = lease_seconds("default_lease_timeout", default_lease_timeout)
        self._fast_acquire = fast_acquire
        self._ledger: Ledger[K, V] = Ledger(Item, self, first_token=time.time_ns() // 1000)
        self._waiters: Waiters[K, _Waiter[K, V]] = Waiters()
        self._home = Home()
        self._shut_down = False
        self._closed = False
        self._drained: Event | None = None  # there is one while somebody waits in `join`
        self._ending = False  # somebody wants to know when the queue is drained
        self._alarm: Event | None = None  # there is one while the timekeeper runs
        self._wake_at = -inf  # when it will look again by itself

    def __repr__(self) -> str:
        state = "closed" if self._closed else "shut down" if self._shut_down else "open"
        ledger = self._ledger
        return (
            f"<LeasedKeyQueue {self.name!r} {state}: "
            f"{len(ledger.ready)} ready, {len(ledger.leased)} leased>"
        )

    @property
    def closed(self) -> bool:
        return self._closed

    # Producers

    def put_nowait(self, key: K, value: V, **options: Unpack[PutOptions]) -> Put:
        """`put` without its checkpoint. Raises what `put` raises. O(1)."""
        if self._shut_down or self._waiters.total:
            self._check_put()
            outcome = self._ledger.put(key, value, **options)
            if outcome is Put.ADDED:
                self._serve(key)
            return outcome
        if not options and self._ledger.add(key, value):
            return _ADDED
        return self._ledger.put(key, value, **options)

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> Put:
        if not self._fast_acquire:
            await self._home.checkpoint()
        return self.put_nowait(key, value, **options)

    def put_many_nowait(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[Put]:
        """`put_many` without its checkpoint. Raises what `put_many` raises. O(items)."""
        if self._shut_down or self._waiters.total:
            self._check_put()
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        for key, _ in pairs:
            self._ledger.check_put(key, **options)
        outcomes = [self._ledger.put(key, value, **options) for key, value in pairs]
        # Only now: a key that comes twice must not be leased in between.
        for (key, _), outcome in zip(pairs, outcomes, strict=True):
            if outcome is Put.ADDED:
                self._serve(key)
        return outcomes

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[Put]:
        if not self._fast_acquire:
            await self._home.checkpoint()
        return self.put_many_nowait(items, **options)

    # Consumers

    def get_nowait(self, **options: Unpack[GetOptions]) -> tuple[K, V, Lease[K, V]]:
        """`get` without waiting. O(1), a timed lease O(log leased).

        Raises:
            WouldBlock: nothing is ready.
            QueueClosedError, TimekeeperNotRunningError, ValueError: as `get` does.
        """
        timeout = self._lease_timeout(**options) if options else self._default_lease_timeout
        item = self._claim(ANY_KEY, timeout)
        if item is None:
            raise WouldBlock
        return item.key, item.value, item

    def take_nowait(self, key: K, **options: Unpack[TakeOptions]) -> tuple[K, V, Lease[K, V]]:
        """`take` without waiting. O(1), a timed lease O(log leased).

        Raises:
            WouldBlock: the key is not ready.
            QueueClosedError, TimekeeperNotRunningError, TypeError, ValueError: as `take` does.
        """
        timeout = self._lease_timeout(**options) if options else self._default_lease_timeout
        item = self._claim(key, timeout)
        if item is None:
            raise WouldBlock
        return item.key, item.value, item

    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        item = await self._acquire(ANY_KEY, timeout, options)
        return item.key, item.value, item

    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        item = await self._acquire(key, timeout, options)
        return item.key, item.value, item

    async def _acquire(
        self, key: K | AnyKey, timeout: float | None, options: GetOptions | TakeOptions
    ) -> Item[K, V]:
        if timeout is not None:
            wait_seconds("timeout", timeout)
        lease_timeout = self._lease_timeout(**options) if options else self._default_lease_timeout
        if not self._fast_acquire:
            await self._home.checkpoint()
        item = self._claim(key, lease_timeout)
        if item is not None:
            return item
        if timeout is None:
            return await self._wait(_Waiter(key, lease_timeout))
        with fail_after(timeout):
            return await self._wait(_Waiter(key, lease_timeout))

    def _claim(self, key: K | AnyKey, lease_timeout: float) -> Item[K, V] | None:
        """Hand out what is asked for, if it is ready."""
        if self._shut_down:
            self._check_get(key)
        if lease_timeout == inf:
            return self._ledger.claim(key)
        if self._alarm is None:
            raise self._no_timekeeper(lease_timeout)
        return self._claim_timed(key, lease_timeout)

    def _claim_timed(self, key: K | AnyKey, lease_timeout: float) -> Item[K, V] | None:
        deadline = self._home.time() + lease_timeout
        if deadline >= self._wake_at:
            return self._ledger.claim(key, deadline)
        self._home.check()
        item = self._ledger.claim(key, deadline)
        if item is not None:
            self._ring(deadline)
        return item

    # Waiting

    async def _wait(self, waiter: _Waiter[K, V]) -> Item[K, V]:
        self._home.check()
        self._waiters.add(waiter, waiter.key)
        while True:
            try:
                await waiter.event.wait()
            except BaseException:
                self._withdraw(waiter)
                raise
            item = waiter.item
            if self._closed or item is None:
                raise self._end(waiter.key)
            if item.ended is None:
                if item.deadline > self._home.time():
                    return item
                self._ledger.undo(item)
            # The lease ran out before its consumer could run: it was first in line, and still is.
            try:
                again = self._claim(waiter.key, waiter.lease_timeout)
            finally:
                if item.key in self._ledger.ready:  # it is left for others
                    self._serve(item.key)
            if again is not None:
                return again
            waiter.item = None
            waiter.event = Event()
            self._waiters.add(waiter, waiter.key, first=True)

    def _withdraw(self, waiter: _Waiter[K, V]) -> None:
        """Let a waiter go, and what it was given go back: it will never see it."""
        item = waiter.item
        if item is None:
            self._waiters.drop(waiter, waiter.key)
        elif item.ended is None:
            self._ledger.undo(item)
            self._serve(item.key)

    def _serve(self, key: K) -> None:
        """A key has become ready: hand an item to the one whose turn it is, before it wakes."""
        if not self._waiters.total:
            return
        waiter = self._waiters.pop(key)
        if waiter is not None:
            waiter.item = self._claim_timed(waiter.key, waiter.lease_timeout)
            waiter.event.set()

    # Settling

    def ack_nowait(self, lease: Lease[K, V]) -> bool:
        """`ack`, as a plain function. Raises what `ack` raises. O(1)."""
        item: Item[K, V] = lease  # type: ignore[assignment]  # all leases of this queue are Items
        if lease.queue is not self or self._closed:
            raise self._not_mine(lease)
        wakes = item.after is not None or self._ending
        if wakes:
            self._home.check()
        updated = self._ledger.ack(item, self._home.time() if item.deadline != inf else 0.0)
        if wakes:
            self._after_end(lease.key)
        return updated

    async def ack(self, lease: Lease[K, V]) -> bool:
        return self.ack_nowait(lease)

    def release_nowait(
        self, lease: Lease[K, V], *, requeue_front: bool = False, counted: bool = True
    ) -> None:
        """`release`, as a plain function. Raises what `release` raises. O(1)."""
        self._ledger.release(
            self._mine(lease), self._now(lease), front=requeue_front, counted=counted
        )
        self._serve(lease.key)

    async def release(
        self, lease: Lease[K, V], *, requeue_front: bool = False, counted: bool = True
    ) -> None:
        self.release_nowait(lease, requeue_front=requeue_front, counted=counted)

    async def give_back(self, lease: Lease[K, V]) -> None:
        self._ledger.give_back(self._mine(lease), self._now(lease))
        self._serve(lease.key)

    def extend_nowait(self, lease: Lease[K, V], timeout: float | None) -> None:
        """`extend`, as a plain function. Raises what `extend` raises. O(log leased)."""
        seconds = lease_seconds("timeout", timeout)
        if seconds != inf and self._alarm is None:
            raise self._no_timekeeper(seconds)
        now = self._home.time()
        self._ledger.extend(self._mine(lease), now, now + seconds)
        if lease.deadline < self._wake_at:
            self._ring(lease.deadline)

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        self.extend_nowait(lease, timeout)

    def _mine(self, lease: Lease[K, V]) -> Item[K, V]:
        """The lease as the ledger's item, if it is one of this queue's."""
        if lease.queue is not self or self._closed:
            raise self._not_mine(lease)
        if self._waiters.total or self._alarm is not None:
            self._home.check()
        return lease  # type: ignore[return-value]

    def _not_mine(self, lease: Lease[K, V]) -> LeaseqError:
        if lease.queue is not self:
            return InvalidLeaseError(f"{lease!r} is another queue's: settle it there")
        return QueueClosedError(f"{self!r}: its leases are lost")

    def _lease_timeout(self, *, lease_timeout: float | None) -> float:
        return lease_seconds("lease_timeout", lease_timeout)

    def _now(self, lease: Lease[K, V]) -> float:
        """The time, if it matters for this lease."""
        return self._home.time() if lease.deadline != inf else 0.0

    # What is in there

    async def peek(self, key: K) -> V | None:
        return self._ledger.peek(key)

    async def contains(self, key: K) -> bool:
        return key in self._ledger.ready or key in self._ledger.leased

    async def available_keys(self) -> set[K]:
        return set(self._ledger.ready)

    async def inflight_keys(self) -> set[K]:
        return set(self._ledger.leased)

    async def qsize(self) -> int:
        return len(self._ledger.ready) + self._ledger.buffered

    async def inflight_size(self) -> int:
        return len(self._ledger.leased)

    async def statistics(self) -> Statistics:
        ledger = self._ledger
        return Statistics(
            ready=len(ledger.ready),
            leased=len(ledger.leased),
            buffered=ledger.buffered,
            getters=self._waiters.getters,
            takers=self._waiters.takers,
            put=ledger.added,
            delivered=ledger.delivered,
            acked=ledger.acked,
            released=ledger.released,
            expired=ledger.expired,
            cancelled=ledger.cancelled,
            superseded=ledger.superseded,
            dropped=ledger.dropped,
        )

    async def inflight(self) -> list[InFlight[K]]:
        return [
            InFlight(item.key, item.token, item.deliveries, item.deadline)
            for item in self._ledger.leased.values()
        ]

    # The end

    async def shutdown(self) -> None:
        self._home.check()
        self._shut_down = self._ending = True
        for key in self._waiters.waited_for():
            self._after_end(key)
        self._check_drained()

    async def join(self) -> None:
        await self._home.checkpoint()
        if not self._ledger.drained:
            if self._closed:
                raise QueueClosedError(f"{self!r} was closed with work left")
            self._home.check()
            if self._drained is None:
                self._drained = Event()
                self._ending = True
            await self._drained.wait()
            if self._closed and not self._ledger.drained:
                raise QueueClosedError(f"{self!r} was closed with work left")

    async def close(self) -> None:
        if self._closed:
            return
        self._home.check()
        self._shut_down = self._closed = True
        for item in self._ledger.close():
            item.cancel_body()
        for waiter in self._waiters.clear():
            waiter.event.set()
        if self._drained is not None:
            self._drained.set()
        self._ring()

    def drain_nowait(self) -> list[tuple[K, V]]:
        """Take out what is ready, in the order of the line; after `close` that is all there was.

        The items count as dropped. O(ready).
        """
        if self._ending:
            self._home.check()
        left = self._ledger.drain()
        self._check_drained()
        return left

    def _after_end(self, key: K) -> None:
        """A lease has ended in an ack: its key is ready again, by a successor, or absent."""
        if key in self._ledger.ready:
            self._serve(key)
        elif self._shut_down and key not in self._ledger.leased:
            for waiter in self._waiters.pop_all(key):
                waiter.event.set()
        self._check_drained()

    def _check_drained(self) -> None:
        if not self._ledger.drained:
            return
        if self._drained is not None:
            self._drained.set()
            self._drained = None
            self._ending = self._shut_down
        if self._shut_down:
            for waiter in self._waiters.clear():
                waiter.event.set()
            self._ring()

    def _end(self, key: K | AnyKey) -> QueueClosedError:
        drained = self._ledger.drained
        if self._closed:
            why = f"{self!r}"
        elif key is ANY_KEY or drained:
            why = f"{self!r} is drained: nothing more is coming"
        else:
            why = f"{self!r} takes nothing more, so that key {key!r} cannot come any more"
        return QueueClosedError(why, drained=drained)

    def _check_put(self) -> None:
        if self._shut_down:
            raise QueueClosedError(f"{self!r} takes nothing more")
        self._home.check()

    def _check_get(self, key: K | AnyKey) -> None:
        """Raise if what is asked for cannot come any more."""
        ledger = self._ledger
        gone = key is not ANY_KEY and key not in ledger.ready and key not in ledger.leased
        if self._closed or ledger.drained or gone:
            raise self._end(key)

    # The timekeeper

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._alarm is not None:
            raise BusyResourceError("letting time pass for")
        self._home.check()
        self._alarm = Event()
        try:
            task_status.started()
            while not self._closed and not (self._shut_down and self._ledger.drained):
                self._sweep()
                self._alarm = Event()
                # It sleeps no longer than planned, even if that lease has ended by now. Else each
                # of many short leases, one after the other, would wake it.
                planned = self._wake_at if self._wake_at > self._home.time() else inf
                self._wake_at = min(planned, self._ledger.next_deadline())
                with CancelScope(deadline=self._wake_at):
                    await self._alarm.wait()
        finally:
            self._alarm = None
            self._wake_at = -inf

    def _no_timekeeper(self, lease_timeout: float) -> TimekeeperNotRunningError:
        return TimekeeperNotRunningError(
            f"a lease of {lease_timeout} s needs a timekeeper, or it would never expire, and "
            f"none is running for {self!r}. Start it in your own task group:\n\n"
            "    async with anyio.create_task_group() as tg, queue:\n"
            "        await tg.start(queue.run)\n\n"
            "(in an asyncio.TaskGroup: tg.create_task(queue.run())), "
            "or take leases without end: lease_timeout=None"
        )

    def _ring(self, wake_at: float = -inf) -> None:
        """Have the timekeeper look again: at once, and at the latest at a given time."""
        if self._alarm is not None:
            self._wake_at = wake_at
            self._alarm.set()

    def _sweep(self) -> None:
        """End the leases that are past their deadlines, a slice of them at a time."""
        for item in islice(self._ledger.expire(self._home.time()), _SLICE):
            logger.warning(
                "queue %r: the lease on %r, token %d, expired", self.name, item.key, item.token
            )
            item.cancel_body()
            self._serve(item.key)
