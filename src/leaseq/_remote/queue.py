"""The handle on a queue in a store, as its users have it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from math import inf
from typing import Any, TypeVar, Unpack, cast

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from .._core.errors import ServerError, ServerUnavailableError
from .._core.messages import no_dead_letters_of
from .._core.options import ANY_KEY, AnyKey, GetOptions, PutOptions, TakeOptions
from .._core.policies import Backoff, Tenant
from .._core.queue_options import check_tenant
from .._core.reports import (
    HistoryEntry,
    KeyState,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
)
from .._core.requests import PutRequest, check_batch, check_limit
from .._core.texts import failure_text
from .._core.validation import (
    check_flag,
    check_text,
    check_text_or_none,
    keys_of,
    pairs_of,
    plain_text,
    timeout_seconds,
)
from ..abc import LeasedQueue
from ..abc._lease import Lease, verdict_on
from ..abc._queue import EarlyClaim
from . import protocol
from .engine import Engine, RemoteLease
from .protocol import Ack, GiveBack, Key, Reject, Release, Settled

K = TypeVar("K")
V = TypeVar("V")


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

    def __init__(self, engine: Engine[K, V]) -> None:
        self.name = engine.name
        self._engine = engine
        engine.queue = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._engine.state}>"

    @property
    def closed(self) -> bool:
        return self._engine.closed

    # Producers

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        [outcome] = await self._put("put", [(key, value)], options)
        return outcome

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        return await self._put("put_many", items, options)

    async def _put(
        self, call: str, items: Mapping[K, V] | Iterable[tuple[K, V]], options: PutOptions
    ) -> list[PutOutcome]:
        engine = self._engine
        pairs = pairs_of(call, items)
        request = PutRequest(call, **options)
        encode = engine.encode
        encoded = tuple([(cast("Key", key), encode(value)) for key, value in pairs])
        await engine.home.checkpoint()
        engine.check_takes(request)
        return [*await engine.put(encoded, request)] if encoded else []

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
        await engine.home.checkpoint()
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
        max_wait, timeout = check_batch(request, max_items, max_wait, timeout)
        await engine.home.checkpoint()
        return [*await engine.lease_many(request, max_items, max_wait, timeout)]

    async def discard(self, key: K) -> bool:
        engine = self._engine
        engine.check_not_closed()
        return await engine.perform(protocol.Discard(engine.ref, cast("Key", key)))

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
    ) -> Awaitable[Settled]:
        engine = self._engine
        text, delay = failure_text(error), None
        if backoff is not None and engine.kept and not engine.has_backoff:
            delay = backoff.delay(held.deliveries)
        return engine.settle(held, "released", Release, False, delay, True, text)

    def _end(
        self, lease: Lease[K, V], error: BaseException | None, backoff: Backoff | None = None
    ) -> Awaitable[object]:
        if error is None and lease._pledge is not None:
            return super()._end(lease, error)  # a transaction will settle it
        engine = self._engine
        held = engine.mine(lease)
        if error is None:
            return engine.settle(held, "acked", Ack)
        how, reason = verdict_on(error)
        if how == "rejected":
            return engine.settle(held, "rejected", Reject, reason)
        if how == "failed":
            return self._begin_to_fail(held, error, backoff)
        return engine.settle(held, "released", GiveBack)

    def _claim_early(self, options: GetOptions) -> EarlyClaim[K, V] | None:
        return self._engine.claim_early(self._engine.request("get", ANY_KEY, options))

    def _begin_to_extend(self, lease: Lease[K, V], timeout: float) -> Awaitable[None]:
        return self._engine.extend(self._engine.mine(lease), timeout)

    async def _give_back(self, lease: Lease[K, V]) -> None:
        await self._engine.settle(self._engine.mine(lease), "released", GiveBack)

    def _one_burst(self) -> AbstractContextManager[None]:
        return self._engine.burst.held()

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        held = self._engine.mine(lease)
        check_text("reason", reason)
        await self._engine.settle(held, "rejected", Reject, reason)

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        await self._engine.extend(self._engine.mine(lease), timeout)

    async def resume(self, receipt: str) -> Lease[K, V]:
        return await self._engine.resume(receipt)

    async def release_all(self, *, consumer: str) -> int:
        check_text("consumer", consumer)
        engine = self._engine
        engine.check_not_closed()
        return await engine.perform(protocol.ReleaseAll(engine.ref, consumer))

    # What is in there

    async def _look(self, key: K, *, value: bool = True) -> tuple[KeyState, V | None]:
        engine = self._engine
        found = await engine.perform(protocol.Look(engine.ref, cast("Key", key), value))
        return found.state, None if found.body is None else engine.decode(found.body)

    async def available_keys(self) -> set[K]:
        engine = self._engine
        return cast("set[K]", {*await engine.perform(protocol.AvailableKeys(engine.ref))})

    async def inflight_keys(self) -> set[K]:
        engine = self._engine
        return cast("set[K]", {*await engine.perform(protocol.LeasedKeys(engine.ref))})

    async def _counts(self, *, tenants: bool = False) -> Statistics:
        engine = self._engine
        return await engine.perform(protocol.Counts(engine.ref, tenants))

    async def qsize(self) -> int:
        counts = await self._counts()
        return counts.ready + counts.delayed + counts.buffered

    async def inflight_size(self) -> int:
        return (await self._counts()).leased

    async def statistics(self, *, tenants: bool = False) -> Statistics:
        check_flag("tenants", tenants)
        counts = await self._counts(tenants=tenants)
        getters, takers, putters = self._engine.waiting
        return replace(
            counts,
            getters=getters,
            takers=takers,
            putters=putters,
            tenants=counts.tenants if tenants else None,
        )

    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        check_text_or_none("consumer", consumer)
        engine = self._engine
        leases = await engine.perform(protocol.InFlight(engine.ref))
        now = engine.home.time()
        return [
            replace(
                cast("LeaseInfo[K]", lease),
                since=now + (lease.since or 0.0),
                deadline=now + lease.deadline,
            )
            for lease in leases
            if consumer is None or lease.consumer == consumer
        ]

    async def info(self) -> QueueInfo:
        return await self._engine.perform(protocol.Info(self._engine.ref))

    async def history(self) -> list[HistoryEntry[K, V]]:
        engine = self._engine
        entries: Any = await engine.perform(protocol.ReadHistory(engine.ref))
        return [replace(entry, value=engine.decode(entry.value)) for entry in entries]

    # Dead letters and tenants

    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        engine = self._engine
        if engine.ref.letters is None:
            raise no_dead_letters_of(self)
        check_limit(limit)
        engine.check_accepts()
        wanted = None if keys is None else cast("tuple[Key, ...]", tuple(keys_of("redrive", keys)))
        back: list[Any] = []
        conflicts: list[Any] = []
        left = inf  # of the letters that were there at first, those that were not looked at
        after: bytes | None = None
        while limit is None or len(back) < limit:
            most = None if limit is None else limit - len(back)
            operation = protocol.Redrive(engine.ref, wanted, most, after)
            try:
                step = await engine.perform(operation)
            except (ServerError, ServerUnavailableError) as error:
                if not back:
                    raise
                done = f"{len(back)} dead letters were brought back, but then: {error}"
                raise ServerUnavailableError(done, in_doubt=True) from error
            back += step.keys
            conflicts += step.conflicts
            left = (step.letters if left == inf else left) - step.looked_at
            after = step.after
            if after is None or left <= 0:
                break
        return RedriveResult(tuple(back), tuple(conflicts))

    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        name = plain_text("a tenant's name", name)
        check_tenant(name, tenant)
        engine = self._engine
        engine.check_not_closed()
        await engine.perform(protocol.SetTenant(engine.ref, name, tenant))

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
