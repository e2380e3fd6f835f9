"""The handle on a queue in a store, as its users have it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from math import inf
from typing import Any, TypeVar, Unpack, cast

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .._core.codec import Codec
from .._core.errors import ServerError, ServerUnavailableError
from .._core.kept import Kept
from .._core.limits import check_bodies
from .._core.log import log
from .._core.messages import no_dead_letters_of, too_many_paused
from .._core.options import ANY_KEY, AnyKey, GetOptions, PutOptions, TakeOptions
from .._core.policies import Backoff, Tenant
from .._core.queue_options import check_tenant, group_of
from .._core.reports import (
    HistoryEntry,
    KeyState,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
    TenantStatistics,
    with_paused,
)
from .._core.requests import PutRequest, check_batch, checked_limit
from .._core.texts import failure_text, shown
from .._core.validation import (
    check_flag,
    keys_of,
    name_or_none,
    name_text,
    pairs_of,
    reason_text,
    timeout_seconds,
)
from ..abc import LeasedQueue
from ..abc._lease import Lease, verdict_on
from ..abc._queue import EarlyClaim
from . import protocol
from .encoding import plain_key
from .engine import Engine, RemoteLease, in_lots
from .protocol import Ack, GiveBack, Key, RawKey, Reject, Release, Settled, SettledAnswer
from .transaction import RemoteTransaction

K = TypeVar("K")
V = TypeVar("V")

_PLAIN = PutRequest()
_REDRIVEN = 1000  # keys that one call of the store looks for


class RemoteQueue(LeasedQueue[K, V]):
    """A handle on a queue that processes share.

    Made by ``broker.queue(...)``. The contract, `leaseq.abc.LeasedQueue`, documents each call. All
    handles on a queue, in all processes, see the same queue.

    Keys are `str`, `int` or `bytes`; values go through the queue's codec. `close` and `shutdown`
    concern this handle: its leases go back, the queue lives on.

    Every call is at least one exchange with the store. A cancel scope that is cancelled while one
    is under way lets it end, for two seconds at most. `asyncio.Task.cancel` does not: what was
    under way is done all the same, save that items on their way to the task go back; so after it a
    put may have happened.
    """

    _kept_by = "broker"

    def __init__(self, engine: Engine[K, V]) -> None:
        self.name = engine.name
        self.group = group_of(engine.made_with)
        self._engine = engine
        engine.queue = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._engine.state}>"

    @property
    def closed(self) -> bool:
        return self._engine.closed

    # Producers

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        items, request = self._checked("put", [(key, value)], options)
        [outcome] = await self._put(items, request)
        return outcome

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        encoded, request = self._checked("put_many", pairs_of("put_many", items), options)
        if not encoded:
            await self._engine.home.checkpoint()
        return [*await self._put(encoded, request)]

    def _checked(
        self, call: str, pairs: list[tuple[K, V]], options: PutOptions
    ) -> tuple[tuple[tuple[Key, bytes], ...], PutRequest]:
        """Return the items and the options of a public call as they are sent."""
        request = PutRequest(call, **options) if options else _PLAIN
        keys = [plain_key(key) for key, _ in pairs]
        encode = self._engine.encode
        items = tuple([(key, encode(value)) for key, (_, value) in zip(keys, pairs, strict=True)])
        if items:
            check_bodies(call, [len(body) for _, body in items], keys[0])
        return items, request

    async def _put(
        self, items: tuple[tuple[Key, bytes], ...], request: PutRequest
    ) -> Sequence[PutOutcome]:
        engine = self._engine
        if (turn := engine.turn()) is not None:
            await turn
        engine.check_takes(request)
        return await engine.put(items, request) if items else ()

    # Consumers

    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        return await self._lease_one("get", ANY_KEY, timeout, options)

    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        return await self._lease_one("take", key, timeout, options)

    async def _lease_one(
        self, call: str, key: K | AnyKey, timeout: float | None, options: GetOptions | TakeOptions
    ) -> tuple[K, V, Lease[K, V]]:
        engine = self._engine
        request = engine.request(call, key, options)
        timeout = timeout_seconds(timeout)
        if (turn := engine.turn()) is not None:
            await turn
        [lease] = await engine.lease(request, 1, timeout)
        return lease.key, lease.value, lease

    async def get_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> list[Lease[K, V]]:
        engine = self._engine
        request = engine.request("get_batch", ANY_KEY, options)
        max_items, max_wait, timeout = check_batch(request, max_items, max_wait, timeout)
        if (turn := engine.turn()) is not None:
            await turn
        return [*await engine.lease_many(request, max_items, max_wait, timeout)]

    async def discard(self, key: K) -> bool:
        engine = self._engine
        key = plain_key(key)
        return await engine.change(protocol.Discard(engine.ref, cast("Key", key)))

    # Settling

    async def ack(self, lease: Lease[K, V]) -> bool:
        held = self._engine.mine(lease)
        return await self._engine.settle(held, "acked", Ack) is Settled.UPDATE_DROPPED

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        engine = self._engine
        held = engine.mine(lease)
        delay = engine.check_release(requeue_front, delay, counted)
        await engine.settle(held, "released", Release, requeue_front, delay, counted)

    async def _fail(
        self, lease: Lease[K, V], error: BaseException, backoff: Backoff | None = None
    ) -> None:
        await self._begin_to_fail(self._engine.mine(lease), error, backoff)

    def _begin_to_fail(
        self, held: RemoteLease[K, V], error: BaseException, backoff: Backoff | None
    ) -> Awaitable[SettledAnswer]:
        engine = self._engine
        text, delay = failure_text(error), None
        if backoff is not None and engine.kept and not engine.has_backoff:
            delay = backoff.delay(held.deliveries)
        return engine.settle(held, "released", Release, False, delay, True, text)

    def _end(
        self, lease: Lease[K, V], error: BaseException | None, backoff: Backoff | None = None
    ) -> Awaitable[object]:
        if error is None and lease._pledge is not None:
            return super()._end(lease, error)  # a transaction, say, will settle it
        engine = self._engine
        held = engine.mine(lease)
        if error is None:
            return engine.settle(held, "acked", Ack)
        how, reason = verdict_on(error, of_pool=backoff is not None)
        if how == "rejected":
            return engine.settle(held, "rejected", Reject, reason)
        if how == "failed":
            return self._begin_to_fail(held, error, backoff)
        return engine.settle(held, "released", GiveBack)

    def _ack_and_keep(self, lease: Lease[K, V], values: Sequence[Kept]) -> Awaitable[SettledAnswer]:
        return self._engine.settle(self._engine.mine(lease), "acked", Ack, tuple(values))

    async def _reject_and_keep(
        self, lease: Lease[K, V], reason: str, values: Sequence[Kept]
    ) -> None:
        held = self._engine.mine(lease)
        how = (reason_text(reason), None, tuple(values))
        await self._engine.settle(held, "rejected", Reject, *how)

    async def _cancel_and_keep(
        self, key: K, reason: str, values: Sequence[Kept], *, keep_successor: bool = False
    ) -> bool:
        name = cast("Key", plain_key(key))
        check_flag("keep_successor", keep_successor)
        engine = self._engine
        how = (reason_text(reason), keep_successor, tuple(values))
        return await engine.change(protocol.Cancel(engine.ref, name, *how))

    async def _keep(self, values: Sequence[Kept]) -> None:
        engine = self._engine
        await engine.change(protocol.KeepValues(engine.ref, tuple(values)))

    async def _recall(self, name: str, timeout: float | None) -> bytes:
        if (turn := self._engine.turn()) is not None:
            await turn
        return await self._engine.recall(name, timeout)

    def _claim_early(self, options: GetOptions) -> EarlyClaim[K, V] | None:
        return self._engine.claim_early(self._engine.request("get", ANY_KEY, options))

    def _codec(self) -> Codec[V]:
        return self._engine.codec

    def _transaction(self) -> RemoteTransaction:
        return RemoteTransaction(lambda _: self._engine)

    def _begin_to_extend(self, lease: Lease[K, V], timeout: float) -> Awaitable[None]:
        return self._engine.extend(self._engine.mine(lease), timeout)

    async def _give_back(self, lease: Lease[K, V]) -> None:
        await self._engine.settle(self._engine.mine(lease), "released", GiveBack)

    def _wind_up(self, lease: Lease[K, V]) -> Awaitable[object] | None:
        assert isinstance(lease, RemoteLease)
        return self._engine.wind_up(lease)

    def _hold_on(self, lease: Lease[K, V], seconds: float) -> Awaitable[object]:
        return self._engine.hold_on(self._engine.mine(lease), seconds)

    def _one_burst(self) -> AbstractContextManager[None]:
        return self._engine.burst.held()

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        await self._reject_and_keep(lease, reason, ())

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        await self._engine.extend(self._engine.mine(lease), timeout)

    async def lease_of(self, receipt: str) -> Lease[K, V]:
        return await self._engine.lease_of(receipt)

    async def release_all(self, *, consumer: str) -> int:
        consumer = name_text("consumer", consumer)
        engine = self._engine
        number, after = 0, None
        while True:
            step = await engine.change(protocol.ReleaseAll(engine.ref, consumer, after))
            number += step.number
            after = step.after
            if after is None:
                return number

    # What is in there

    async def _look(self, key: K, *, value: bool = True) -> tuple[KeyState, V | None]:
        key = plain_key(key)
        engine = self._engine
        found = await engine.perform(protocol.Look(engine.ref, cast("Key", key), value))
        return found.state, None if found.body is None else engine.decode(found.body)

    async def available_keys(self) -> set[K]:
        return await self._keys(protocol.AvailableKeys)

    async def delayed_keys(self) -> set[K]:
        return await self._keys(protocol.DelayedKeys)

    async def inflight_keys(self) -> set[K]:
        return await self._keys(protocol.LeasedKeys)

    async def _keys(
        self, question: type[protocol.AvailableKeys | protocol.DelayedKeys | protocol.LeasedKeys]
    ) -> set[K]:
        engine = self._engine
        keys = await engine.all_pages(lambda after: question(engine.ref, after))
        return cast("set[K]", {key for key in keys if self._is_readable(key)})

    def _is_readable(self, key: Key | RawKey) -> bool:
        """Return True for a key of this library's; log another one."""
        if type(key) is RawKey:
            log(logging.WARNING, "queue %r: %s is not a key, and left out", self.name, shown(key))
            return False
        return True

    async def _counts(self) -> Statistics:
        engine = self._engine
        return await engine.perform(protocol.Counts(engine.ref))

    async def qsize(self) -> int:
        counts = await self._counts()
        return counts.ready + counts.delayed + counts.buffered

    async def inflight_size(self) -> int:
        return (await self._counts()).leased

    async def statistics(self, *, tenants: bool = False) -> Statistics:
        check_flag("tenants", tenants)
        engine = self._engine
        counts = await self._counts()
        by_tenant: dict[str | None, TenantStatistics] | None = None
        if tenants:
            found = await engine.all_pages(lambda after: protocol.CountTenants(engine.ref, after))
            info = await engine.perform(protocol.Info(engine.ref))
            by_tenant = with_paused(dict(found), info.paused_tenants)
        getters, takers, putters = engine.waiting
        return replace(
            counts,
            getters=getters,
            takers=takers,
            putters=putters,
            tenants=by_tenant,
        )

    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        consumer = name_or_none("consumer", consumer)
        engine = self._engine
        leases: dict[int, LeaseInfo[K]] = {}  # by token: one may be in two pages
        after: bytes | None = None
        while True:
            page = await engine.perform(protocol.InFlight(engine.ref, after))
            now = engine.home.time()
            for lease in page.members:
                wanted = consumer is None or lease.consumer == consumer
                if wanted and self._is_readable(lease.key):
                    leases[lease.token] = replace(
                        cast("LeaseInfo[K]", lease),
                        since=now + (lease.since or 0.0),
                        deadline=now + lease.deadline,
                    )
            after = page.after
            if after is None:
                return [leases[token] for token in sorted(leases)]

    async def info(self) -> QueueInfo:
        engine = self._engine
        info = await engine.perform(protocol.Info(engine.ref))
        queues = await engine.all_pages(lambda after: protocol.ListQueues(engine.ref, after))
        senders = sorted({each for each in queues if each.letters == self.name})
        names = tuple([each.name for each in senders])
        return replace(info, group=self.group, dead_letters_of=names)

    async def history(self) -> list[HistoryEntry[K, V]]:
        engine = self._engine
        entries = await engine.all_pages(lambda after: protocol.ReadHistory(engine.ref, after))
        found = {entry.token: entry for entry in entries if self._is_readable(entry.key)}
        return [
            replace(cast("HistoryEntry[K, V]", entry), value=engine.decode(entry.value))
            for entry in found.values()
        ]

    # Dead letters and tenants

    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        engine = self._engine
        if engine.ref.letters is None:
            raise no_dead_letters_of(self)
        limit = checked_limit(limit)
        engine.check_accepts()
        wanted = None if keys is None else tuple(map(plain_key, keys_of("redrive", keys)))
        back: list[Any] = []
        conflicts: list[Any] = []
        try:
            for lot in [None] if wanted is None else in_lots(wanted, _REDRIVEN) or [()]:
                await self._redrive(lot, limit, back, conflicts)
        except (ServerError, ServerUnavailableError) as error:
            if not back:
                raise
            done = f"{len(back)} dead letters were brought back, but then: {error}"
            raise ServerUnavailableError(done, in_doubt=True) from error
        return RedriveResult(tuple(back), tuple(conflicts))

    async def _redrive(
        self,
        keys: tuple[Key, ...] | None,
        limit: int | None,
        back: list[Any],
        conflicts: list[Any],
    ) -> None:
        """Bring the dead letters of some keys back, step by step; add these to the lists."""
        engine = self._engine
        left = inf  # of the letters that were there at first, those that were not looked at
        after: bytes | None = None
        while limit is None or len(back) < limit:
            most = None if limit is None else limit - len(back)
            step = await engine.perform(protocol.Redrive(engine.ref, keys, most, after))
            back += step.keys
            conflicts += step.conflicts
            left = (step.letters if left == inf else left) - step.looked_at
            after = step.after
            if after is None or left <= 0:
                break

    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        name = name_text("a tenant's name", name)
        check_tenant(name, tenant)
        engine = self._engine
        await engine.change(protocol.SetTenant(engine.ref, name, tenant))

    async def pause(self, tenant: str | None = None, *, reason: str = "") -> None:
        tenant, reason = name_or_none("a tenant's name", tenant), reason_text(reason)
        engine = self._engine
        done = await engine.change(protocol.Pause(engine.ref, tenant, reason))
        if not done:
            assert tenant is not None
            raise too_many_paused(tenant)

    async def resume(self, tenant: str | None = None) -> bool:
        tenant = name_or_none("a tenant's name", tenant)
        engine = self._engine
        return await engine.change(protocol.Resume(engine.ref, tenant))

    # The end

    async def shutdown(self) -> None:
        await self._engine.shutdown()

    async def join(self) -> None:
        await self._engine.home.checkpoint()
        await self._engine.join()

    async def close(self) -> None:
        await self._engine.close()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        await self._engine.run(task_status)
