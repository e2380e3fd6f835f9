"""The queue in this process, as its users hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Never, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus

from .._core.errors import LeaseCancelledError
from .._core.kept import Kept
from .._core.options import ANY_KEY, GetOptions, PutOptions, TakeOptions
from .._core.policies import Backoff, Priority, Retry, Tenant
from .._core.queue_options import check_queue_options, check_tenant
from .._core.reports import (
    DeadLetter,
    HistoryEntry,
    KeyState,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
)
from .._core.requests import PutRequest, check_batch
from .._core.texts import shown
from .._core.validation import (
    check_flag,
    check_key,
    check_known,
    check_text,
    name_or_none,
    name_text,
    pairs_of,
    reason_text,
    timeout_seconds,
)
from .._rules.item import Item
from ..abc import LeasedQueue
from ..abc._lease import Lease
from .engine import Engine
from .transaction import MemoryTransaction

K = TypeVar("K")
V = TypeVar("V")

_ADDED = PutOutcome.ADDED
_PLAIN = PutRequest()
_TURN = frozenset({"tenant", "priority"})  # options that concern the turn alone
_PRIORITIES = frozenset({int, Priority})
_SHORT = 64  # characters of a name that is not too long


class LeasedKeyQueue(LeasedQueue[K, V]):
    """A keyed, leased queue in this process.

    The contract, `leaseq.abc.LeasedQueue`, documents each call. In this engine `get`, `take`,
    `put`, `add`, `put_many` and `get_batch` always deliver a pending cancellation. Where they need
    not wait, each 32nd of them in an event loop is a checkpoint, and so is the first one after a
    millisecond. The other calls but `join`, and leaving ``async with lease``, take effect
    immediately and never suspend: finished work is not undone by a cancellation. Calls that need
    not wait have a synchronous twin, ``..._nowait``.

    Not thread-safe: from a thread, ``anyio.from_thread.run_sync(queue.put_nowait, key, value)``. A
    queue belongs to the event loop in which it was first used.

    Args:
        default_lease_timeout: Seconds until a lease expires, unless `get` or `take` say otherwise;
            None: never.
        max_size: The largest number of ready and delayed items, above which `put` waits;
            `math.inf`: no limit.
        retry: The policy for items whose delivery failed or expired.
        dead_letters: The queue for items that are given up, under generated keys; several queues
            may share it. None: they are dropped.
        tenants: Weights and caps of tenants; the others have `Tenant()`.
        history: The number of acknowledged items that `history` remembers.
        dedupe_for: Seconds after an ack for which the same key is refused as a duplicate; None: 0.
        fast_acquire: True: leave out the checkpoint of `get`, `take` and `put` where they need not
            wait, as in `anyio.Lock`: faster, but a task that never has to wait never lets others
            run, and hears of no cancellation.
        name: The name of the queue in logs, errors and dead letters.

    Raises:
        TypeError: an option is unknown, or its value of another type.
        ValueError: a timeout or a size is not a positive number.
    """

    def __init__(
        self,
        *,
        default_lease_timeout: float | None = None,
        max_size: float = inf,
        retry: Retry = Retry(),  # noqa: B008 - a constant
        dead_letters: LeasedKeyQueue[str, DeadLetter[K, V]] | None = None,
        tenants: Mapping[str, Tenant] | None = None,
        history: int = 0,
        dedupe_for: float | None = None,
        fast_acquire: bool = False,
        name: str = "",
        **unknown: Never,
    ) -> None:
        if unknown:
            check_known("LeasedKeyQueue", unknown, LeasedKeyQueue.__init__.__kwdefaults__ or ())
        if not isinstance(dead_letters, LeasedKeyQueue | None):
            raise TypeError(
                f"dead_letters must be a LeasedKeyQueue or None, not {shown(dead_letters)}: make "
                "one, or have a broker find it by its name"
            )
        check_text("name", name)
        check_flag("fast_acquire", fast_acquire)
        options = check_queue_options(
            {
                "default_lease_timeout": default_lease_timeout,
                "max_size": max_size,
                "retry": retry,
                "tenants": tenants,
                "history": history,
                "dedupe_for": dedupe_for,
            }
        )
        self.name = name
        self._dead_letters = dead_letters
        self._engine: Engine[K, V] = Engine(
            self,
            name=name,
            dead_letters=None if dead_letters is None else dead_letters._engine,
            fast_acquire=fast_acquire,
            **options,
        )

    def __repr__(self) -> str:
        engine = self._engine
        state = "closed" if engine.closed else "shut down" if engine.shut_down else "open"
        ledger = engine.ledger
        delayed = f"{len(ledger.delayed)} delayed, " if ledger.delayed else ""
        counts = f"{len(ledger.ready)} ready, {delayed}{len(ledger.leased)} leased"
        return f"<{type(self).__name__} {shown(self.name)} {state}: {counts}>"

    @property
    def closed(self) -> bool:
        return self._engine.closed

    @property
    def dead_letters(self) -> LeasedKeyQueue[str, DeadLetter[K, V]] | None:
        """The queue for items that are given up; None: they are dropped."""
        return self._dead_letters

    # Producers

    def put_nowait(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        """`put` without waiting: the arguments are the same.

        Raises:
            WouldBlock: the queue is full.
            QueueClosedError, KeyAlreadyInFlightError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put` does.

        O(1); with a tenant, a delay or a time to live O(log n).
        """
        engine = self._engine
        if engine.gated:
            pass
        elif engine.waiters.total:
            if engine.waiters.anyone and not options and engine.hand_new(key, value):
                return _ADDED
        else:  # the fast path
            now = None
            if not engine.timeless:
                clock = engine.home.time
                now = clock()
            if not options:
                if engine.ledger.add(key, value, now):
                    return _ADDED
            elif (
                len(options) == 1
                and type(tenant := options.get("tenant")) is str
                and len(tenant) <= _SHORT
            ):
                if engine.ledger.add(key, value, now, tenant):
                    return _ADDED
            elif options.keys() <= _TURN:
                tenant, priority = options.get("tenant"), options.get("priority")
                if priority is not None and type(priority) in _PRIORITIES:
                    priority = int(priority)
                right = (tenant is None or (type(tenant) is str and len(tenant) <= _SHORT)) and (
                    priority is None or type(priority) is int
                )
                if right and engine.ledger.add(key, value, now, tenant, priority):
                    return _ADDED
        request = PutRequest("put", **options) if options else _PLAIN
        if not engine.has_room(len(engine.new_keys([key], request))):
            raise engine.no_room_now()
        return engine.put_all([(key, value)], request)[0]

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        engine = self._engine
        if not engine.fast_acquire:
            turn = engine.turn(timed="delay" in options)
            if turn is not None:
                await turn
        if engine.capacity is not None:
            request = PutRequest("put", **options) if options else _PLAIN
            await engine.wait_for_room([key], request)
            return engine.put_all([(key, value)], request)[0]
        if not options:  # a call without ** is half the cost
            return self.put_nowait(key, value)
        return self.put_nowait(key, value, **options)

    def put_many_nowait(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        """`put_many` without waiting: the arguments are the same.

        Raises:
            WouldBlock: there is no room for all of them; none was put.
            QueueClosedError, KeyAlreadyInFlightError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put_many` does.

        O(items); with a tenant, a delay or a time to live O(items log n).
        """
        engine = self._engine
        pairs = pairs_of("put_many_nowait", items)
        request = PutRequest("put_many_nowait", **options)
        if engine.capacity is None:
            engine.check_puts([key for key, _ in pairs], request)
        elif not engine.has_room(len(engine.new_keys([key for key, _ in pairs], request))):
            raise engine.no_room_now()
        return engine.put_all(pairs, request)

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        engine = self._engine
        pairs = pairs_of("put_many", items)
        request = PutRequest("put_many", **options)
        if not engine.fast_acquire:
            turn = engine.turn(timed=request.timed)
            if turn is not None:
                await turn
        await engine.wait_for_room([key for key, _ in pairs], request)
        return engine.put_all(pairs, request)

    # Consumers

    def get_nowait(self, **options: Unpack[GetOptions]) -> tuple[K, V, Lease[K, V]]:
        """`get` without waiting: the arguments are the same, without ``timeout``.

        Raises:
            WouldBlock: no item is ready for this request, or what is ready is paused.
            QueueClosedError, TimekeeperNotRunningError, TypeError, ValueError: as `get` does.

        O(1); a timed lease or with tenants O(log n); in vain O(paused tenants).
        """
        engine = self._engine
        item = engine.ledger.claim_next() if engine.timeless and not options else None
        if item is None:
            request = (
                engine.request("get_nowait", ANY_KEY, options) if options else engine.any_request
            )
            item = engine.claim(request)
            if item is None:
                raise engine.would_block(request)
        return item._key, item._value, item

    def take_nowait(self, key: K, **options: Unpack[TakeOptions]) -> tuple[K, V, Lease[K, V]]:
        """`take` without waiting: the arguments are the same, without ``timeout``.

        Raises:
            WouldBlock: the key is not ready, its tenant is at its cap, or the queue or the tenant
                is paused.
            QueueClosedError, TimekeeperNotRunningError, TypeError, ValueError: as `take` does.

        O(1); a timed lease or with tenants O(log n); in vain O(paused tenants).
        """
        engine = self._engine
        request = engine.request("take_nowait", key, options)
        item = engine.claim(request)
        if item is None:
            raise engine.would_block(request)
        return item._key, item._value, item

    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        engine = self._engine
        request = engine.request("get", ANY_KEY, options) if options else engine.any_request
        if timeout is not None:
            timeout = timeout_seconds(timeout)
        if not engine.fast_acquire:
            turn = engine.turn(timed=request.timed)
            if turn is not None:
                await turn
        item = engine.claim(request)
        if item is None:
            item = await engine.wait(request, timeout)
        return item._key, item._value, item

    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        engine = self._engine
        request = engine.request("take", key, options)
        if timeout is not None:
            timeout = timeout_seconds(timeout)
        if not engine.fast_acquire:
            turn = engine.turn(timed=request.timed)
            if turn is not None:
                await turn
        item = engine.claim(request)
        if item is None:
            item = await engine.wait(request, timeout)
        return item._key, item._value, item

    async def get_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> list[Lease[K, V]]:
        engine = self._engine
        request = engine.request("get_batch", ANY_KEY, options) if options else engine.any_request
        max_items, max_wait, timeout = check_batch(request, max_items, max_wait, timeout)
        if not engine.fast_acquire:
            turn = engine.turn(timed=request.timed)
            if turn is not None:
                await turn
        batch: list[Item[K, V]] = []
        while not batch:  # again, if all were lost meanwhile
            first = engine.claim(request)
            if first is None:
                first = await engine.wait(request, timeout)
            batch = await engine.fill([first], request, max_items, max_wait)
        return [*batch]

    async def discard(self, key: K) -> bool:
        check_key(key)
        return self._engine.discard(key)

    # Settling

    def ack_nowait(self, lease: Lease[K, V]) -> bool:
        """`ack` as a plain function, with the same arguments and errors. O(1)."""
        engine = self._engine
        if type(lease) is not Item or lease._queue is not self or engine.closed:
            raise engine.not_mine(lease)
        item: Item[K, V] = lease
        if (
            item._after is not None
            or (engine.watched and engine.ack_is_watched())
            or (item._tenant is not None and engine.waiters.total)  # there may be room for one
        ):
            updated = engine.ack(engine.ending(lease), engine.home.time())
            engine.after_return(item)
            return updated
        try:
            if item._deadline == inf:
                return engine.ledger.ack(item)
            clock = engine.home.time
            now = clock()
            if item._deadline <= now:
                engine.spare(item, now)
            return engine.ledger.ack(item, now)
        except LeaseCancelledError:
            engine.wind_up(item)
            raise

    async def ack(self, lease: Lease[K, V]) -> bool:
        return self.ack_nowait(lease)

    def release_nowait(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        """`release` as a plain function, with the same arguments and errors.

        O(1); delayed or with a tenant O(log n).
        """
        self._engine.release(lease, requeue_front=requeue_front, delay=delay, counted=counted)

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        self._engine.release(lease, requeue_front=requeue_front, delay=delay, counted=counted)

    def reject_nowait(self, lease: Lease[K, V], reason: str) -> None:
        """`reject` as a plain function, with the same arguments and errors. O(1)."""
        self._engine.reject(lease, reason)

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        self._engine.reject(lease, reason)

    def extend_nowait(self, lease: Lease[K, V], timeout: float | None) -> None:
        """`extend` as a plain function, with the same arguments and errors. O(log leased)."""
        self._engine.extend(lease, timeout)

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        self._engine.extend(lease, timeout)

    async def lease_of(self, receipt: str) -> Lease[K, V]:
        return self._engine.lease_of(receipt)

    async def release_all(self, *, consumer: str) -> int:
        return self._engine.release_all(name_text("consumer", consumer))

    def _transaction(self) -> MemoryTransaction:
        return MemoryTransaction(lambda _: self._engine, self._engine.home)

    def _new_scope(self) -> CancelScope:
        home = self._engine.home
        return home.scope()

    async def _fail(
        self, lease: Lease[K, V], error: BaseException, backoff: Backoff | None = None
    ) -> None:
        self._engine.fail(lease, error, backoff)

    async def _give_back(self, lease: Lease[K, V]) -> None:
        self._engine.give_back(lease)

    def _wind_up(self, lease: Lease[K, V]) -> None:
        assert type(lease) is Item
        self._engine.wind_up(lease)

    def _hold_on(self, lease: Lease[K, V], seconds: float) -> None:
        self._engine.hold_on(lease, seconds)

    def _ack_and_keep(self, lease: Lease[K, V], values: Sequence[Kept]) -> None:
        self.ack_nowait(lease)
        self._engine.keep(values)

    async def _reject_and_keep(
        self, lease: Lease[K, V], reason: str, values: Sequence[Kept]
    ) -> None:
        self._engine.reject(lease, reason)
        self._engine.keep(values)

    async def _cancel_and_keep(
        self, key: K, reason: str, values: Sequence[Kept], *, keep_successor: bool = False
    ) -> bool:
        check_key(key)
        check_flag("keep_successor", keep_successor)
        was = self._engine.cancel(key, reason_text(reason), keep_successor=keep_successor)
        if was and values:
            self._engine.keep(values)
        return was

    async def _keep(self, values: Sequence[Kept]) -> None:
        await self._engine.home.checkpoint()
        self._engine.check_not_closed()
        self._engine.keep(values)

    async def _recall(self, name: str, timeout: float | None) -> bytes:
        engine = self._engine
        return await engine.keeper_of_values().recall(name, timeout, engine.check_not_closed)

    def _one_burst(self) -> AbstractContextManager[None]:
        return self._engine.burst.held()

    # Inspection

    async def _look(self, key: K, *, value: bool = True) -> tuple[KeyState, V | None]:
        check_key(key)
        return self._engine.ledger.look(key)

    async def available_keys(self) -> set[K]:
        return self._engine.ledger.keys("ready")

    async def delayed_keys(self) -> set[K]:
        return self._engine.ledger.keys("delayed")

    async def inflight_keys(self) -> set[K]:
        return self._engine.ledger.keys("leased")

    async def qsize(self) -> int:
        ledger = self._engine.ledger
        return ledger.waiting + ledger.buffered

    async def inflight_size(self) -> int:
        return len(self._engine.ledger.leased)

    async def statistics(self, *, tenants: bool = False) -> Statistics:
        check_flag("tenants", tenants)
        return self._engine.statistics(tenants=tenants)

    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        return self._engine.inflight(name_or_none("consumer", consumer))

    async def info(self) -> QueueInfo:
        return self._engine.info()

    async def history(self) -> list[HistoryEntry[K, V]]:
        return list(self._engine.history or ())

    # Dead letters and tenants

    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        return self._engine.redrive(keys, limit)

    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        name = name_text("a tenant's name", name)
        self._engine.set_tenant(name, check_tenant(name, tenant))

    async def pause(self, tenant: str | None = None, *, reason: str = "") -> None:
        self._engine.pause(name_or_none("a tenant's name", tenant), reason_text(reason))

    async def resume(self, tenant: str | None = None) -> bool:
        return self._engine.resume(name_or_none("a tenant's name", tenant))

    # The end, and time

    async def shutdown(self) -> None:
        self._engine.shutdown()

    async def join(self) -> None:
        await self._engine.join()

    async def close(self) -> None:
        self._engine.close()

    def drain_nowait(self) -> list[tuple[K, V]]:
        """Drop all waiting items, and return them: ready ones, then delayed ones as they fall due.

        Ready items come in the order of the line; with tenants or priorities, in the order in which
        they became ready. After `close` these are all items. They count as dropped.
        O(items log items).

        Raises:
            RuntimeError: another task waits, and this is not its event loop.
        """
        return self._engine.drain()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        await self._engine.run(task_status=task_status)


def engine_of(queue: LeasedKeyQueue[K, V]) -> Engine[K, V]:
    """Return the engine behind a handle."""
    return queue._engine
