"""The queue of this engine, as its users see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TypeVar, Unpack, cast

from anyio import Event, WouldBlock

from .._core.errors import InvalidLeaseError, LeaseLostError, QueueClosedError
from .._core.lease import Lease, read_receipt
from .._core.messages import check_held, no_timekeeper
from .._core.options import ANY_KEY, GetOptions, PutOptions, TakeOptions
from .._core.policies import Tenant
from .._core.reports import DeadLetter, PutOutcome, RedriveResult
from .._core.requests import Terms, check_batch, check_limit
from .._core.validation import check_consumer, lease_seconds, wait_seconds
from .._rules.item import Item
from .inspecting import Inspecting

__all__ = ["LeasedKeyQueue"]

K = TypeVar("K")
V = TypeVar("V")

_ADDED = PutOutcome.ADDED
_NO_TERMS = Terms()
_TURN = frozenset({"tenant", "priority"})  # what says no more than whose turn it is


class LeasedKeyQueue(Inspecting[K, V]):
    """A keyed, leased queue in this process.

    What each call promises is said in the contract, `leaseq.abc.LeasedQueue`. In this engine
    `get`, `take`, `put`, `add` and `put_many` are checkpoints, always; `join` is one too. The other
    calls take effect at once and never suspend, and leaving ``async with lease`` neither: work that
    is done is not undone by a cancellation. What can be done without waiting has a synchronous
    twin, ``..._nowait``.

    Not thread-safe: from a thread, ``anyio.from_thread.run_sync(queue.put_nowait, key, value)``. A
    queue belongs to the event loop in which it was first used.

    Args:
        default_lease_timeout: Seconds until a lease expires, unless `get` or `take` say otherwise;
            None: never.
        max_size: How many items may wait, ready and delayed ones; `put` waits for room.
        retry: What becomes of items whose delivery failed or expired.
        dead_letters: The queue for items that are given up, under keys of its own making; several
            queues may share it. None: they are dropped.
        tenants: Weights and caps of tenants; the others have `Tenant()`.
        history: How many acknowledged items `history` remembers.
        fast_acquire: Leave out the checkpoint of `get`, `take` and `put` where nothing has to be
            waited for, as in `anyio.Lock`: faster, but a task that never has to wait never lets
            others run.
        name: What the queue is called in logs, errors and dead letters.

    Raises:
        ValueError: a timeout or a size is not a positive number.
    """

    # Producers

    def put_nowait(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        """`put` without waiting. O(1); with a tenant, a delay or a ttl O(log n).

        Raises:
            WouldBlock: the queue is full.
            QueueClosedError, KeyAlreadyInFlightError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put` does.
        """
        if not (self._gated or self._waiters.total):  # the short way
            now = None if self._timeless else self._home.time()
            if not options:
                if self._ledger.add(key, value, now):
                    return _ADDED
            elif options.keys() <= _TURN:
                priority = options.get("priority")
                if priority is not None:
                    priority = int(priority)
                if self._ledger.add(key, value, now, options.get("tenant"), priority):
                    return _ADDED
        terms = Terms(**options) if options else _NO_TERMS
        if not self.has_room(self._places([key], terms)):
            raise WouldBlock
        return self._put_all([(key, value)], terms)[0]

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        if not self._fast_acquire:
            await self._home.checkpoint()
        if self._room is not None:
            terms = Terms(**options)
            await self._wait_for_room([key], terms)
            return self._put_all([(key, value)], terms)[0]
        return self.put_nowait(key, value, **options)

    def put_many_nowait(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        """`put_many` without waiting. O(items); with a tenant, a delay or a ttl O(items log n).

        Raises:
            WouldBlock: there is no room for all of them; none was put.
            QueueClosedError, KeyAlreadyInFlightError, TimekeeperNotRunningError, TypeError,
                ValueError: as `put_many` does.
        """
        pairs = self._pairs(items)
        terms = Terms(**options)
        if not self.has_room(self._places([key for key, _ in pairs], terms)):
            raise WouldBlock
        return self._put_all(pairs, terms)

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        pairs = self._pairs(items)
        terms = Terms(**options)
        if not self._fast_acquire:
            await self._home.checkpoint()
        await self._wait_for_room([key for key, _ in pairs], terms)
        return self._put_all(pairs, terms)

    # Consumers

    def get_nowait(self, **options: Unpack[GetOptions]) -> tuple[K, V, Lease[K, V]]:
        """`get` without waiting. O(1); a timed lease or with tenants O(log n).

        Raises:
            WouldBlock: nothing is ready that would do.
            QueueClosedError, TimekeeperNotRunningError, ValueError: as `get` does.
        """
        item = self._ledger.claim_next() if self._timeless and not options else None
        if item is None:
            item = self._claim(self._request(ANY_KEY, options) if options else self._any)
            if item is None:
                raise WouldBlock
        return item.key, item.value, item

    def take_nowait(self, key: K, **options: Unpack[TakeOptions]) -> tuple[K, V, Lease[K, V]]:
        """`take` without waiting. O(1); a timed lease or with tenants O(log n).

        Raises:
            WouldBlock: the key is not ready, or its tenant at its cap.
            QueueClosedError, TimekeeperNotRunningError, TypeError, ValueError: as `take` does.
        """
        item = self._claim(self._request(key, options))
        if item is None:
            raise WouldBlock
        return item.key, item.value, item

    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        request = self._request(ANY_KEY, options) if options else self._any
        if timeout is not None:
            wait_seconds("timeout", timeout)
        if not self._fast_acquire:
            await self._home.checkpoint()
        item = self._claim(request)
        if item is None:
            item = await self._wait(request, timeout)
        return item.key, item.value, item

    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        request = self._request(key, options)
        if timeout is not None:
            wait_seconds("timeout", timeout)
        if not self._fast_acquire:
            await self._home.checkpoint()
        item = self._claim(request)
        if item is None:
            item = await self._wait(request, timeout)
        return item.key, item.value, item

    async def get_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> list[Lease[K, V]]:
        request = self._request(ANY_KEY, options) if options else self._any
        check_batch(request, max_items, max_wait, timeout)
        if not self._fast_acquire:
            await self._home.checkpoint()
        batch: list[Item[K, V]] = []
        while not batch:  # again, if all were lost meanwhile
            first = self._claim(request)
            if first is None:
                first = await self._wait(request, timeout)
            batch = await self._fill([first], request, max_items, max_wait)
        return [*batch]

    # Settling

    def ack_nowait(self, lease: Lease[K, V]) -> bool:
        """`ack`, as a plain function. Raises what `ack` raises. O(1)."""
        item: Item[K, V] = lease  # type: ignore[assignment]  # all leases of this queue are Items
        if lease.queue is not self or self._closed:
            raise self._not_mine(lease)
        served = item.tenant is not None and self._waiters.total  # maybe, now that there is room
        if served or self._watched or item.after is not None:
            self._check_home()
            updated = self.do_ack(item, self._home.time())
            self._after_return(item)
            return updated
        return self._ledger.ack(item, 0.0 if item.deadline == inf else self._home.time())

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
        """`release`, as a plain function. Raises what `release` raises. O(1), delayed O(log n)."""
        item = self._mine(lease)
        self.check_release(requeue_front, delay)
        now = self._home.time()
        self._ledger.release(item, now, front=requeue_front, delay=delay, counted=counted)
        self._after_return(item)

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        self.release_nowait(lease, requeue_front=requeue_front, delay=delay, counted=counted)

    async def fail(self, lease: Lease[K, V], error: BaseException) -> None:
        item = self._mine(lease)
        text = f"{type(error).__name__}: {error}"
        self._ledger.release(item, self._home.time(), error=text)
        self._after_return(item)

    async def give_back(self, lease: Lease[K, V]) -> None:
        item = self._mine(lease)
        self._ledger.give_back(item, self._home.time())
        self._after_return(item)

    def reject_nowait(self, lease: Lease[K, V], reason: str) -> None:
        """`reject`, as a plain function. Raises what `reject` raises. O(1)."""
        item = self._mine(lease)
        self._ledger.reject(item, self._home.time(), reason)
        self._after_return(item)

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        self.reject_nowait(lease, reason)

    def extend_nowait(self, lease: Lease[K, V], timeout: float | None) -> None:
        """`extend`, as a plain function. Raises what `extend` raises. O(log leased)."""
        item = self._mine(lease)
        seconds = lease_seconds("timeout", timeout)
        if seconds != inf and self.timekeeper is None:
            raise no_timekeeper(self, f"a lease of {seconds} s", "expire")
        now = self._home.time()
        self._ledger.extend(item, now, now + seconds)
        if self.timekeeper is not None:
            self.timekeeper.plan(item.deadline)

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        self.extend_nowait(lease, timeout)

    async def resume(self, receipt: str) -> Lease[K, V]:
        queue, key, token = read_receipt(receipt)
        if queue != self.name:
            raise InvalidLeaseError(f"a lease of the queue {queue!r} is not {self.name!r}'s")
        if self._closed:
            raise self._closed_error()
        item = self._ledger.leased.get(cast("K", key))
        if item is None or item.token != token:
            raise LeaseLostError(f"the lease on {key!r} with the token {token} has ended")
        check_held(item, self._home.time())
        return item

    async def release_all(self, *, consumer: str) -> int:
        check_consumer(consumer)
        if self._closed:
            raise self._closed_error()
        self._check_home()
        lost = self._ledger.revoke(consumer, self._home.time())
        for item in lost:
            item.cancel_body()
        self._after_return(*lost)
        return len(lost)

    # Dead letters

    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        letters = self.dead_letters
        if letters is None:
            raise ValueError(f"{self!r} has no queue of dead letters to bring items back from")
        check_limit(limit)
        if self._shut_down:
            raise QueueClosedError(f"{self!r} takes nothing more")
        wanted = None if keys is None else set(keys)
        back: list[K] = []
        conflicts: list[K] = []
        for letter_key, item in list(letters._ledger.ready.items()):
            letter: object = item.value
            if not isinstance(letter, DeadLetter) or letter.queue != self.name:
                continue
            if wanted is not None and letter.key not in wanted:
                continue
            if limit is not None and len(back) == limit:
                break
            if letter.key in self._ledger:
                conflicts.append(letter.key)
                continue
            letters._ledger.take_out(letter_key)
            self._ledger.forget_done(letter.key)
            terms = Terms(tenant=letter.tenant, priority=letter.priority)
            self._put_all([(letter.key, letter.value)], terms)
            back.append(letter.key)
        letters._admit()
        letters._check_drained()
        return RedriveResult(tuple(back), tuple(conflicts))

    # What is in there

    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        if self._closed:
            raise self._closed_error()
        self._ledger.set_tenant(name, tenant)
        self._wake(self._waiters.serve_tenant(name, self._home.time()))

    # The end

    async def shutdown(self) -> None:
        self._home.check()
        self._shut_down = self._gated = self._watched = True
        self._timeless = False
        for key in self._waiters.waited_for():
            if key not in self._ledger:
                self._turn_away(self._waiters.drop_takers(key))
        self._turn_away(self._waiters.drop_patient())
        if self._room is not None:
            for turn in self._room.clear():
                turn.set()
        self._check_drained()

    async def join(self) -> None:
        await self._home.checkpoint()
        if self._ledger.drained:
            return
        if not self._closed:
            self._home.check()
            if self._drained is None:
                self._drained = Event()
                self._watched = True
            await self._drained.wait()
        if self._closed and not self._ledger.drained:
            raise self._closed_error()

    async def close(self) -> None:
        self._home.check()
        if self._closed:
            return
        await self.shutdown()
        self._closed = True
        for item in self._ledger.close(self._home.time()):
            item.cancel_body()
        self._turn_away(self._waiters.drop_all())
        if self._drained is not None:
            self._drained.set()
        if self.timekeeper is not None:
            self.timekeeper.ring()

    def drain_nowait(self) -> list[tuple[K, V]]:
        """Take out all that waits: what is ready, then what is delayed, as it falls due.

        What is ready comes in the order of the line; with tenants or priorities, as it became
        ready. After `close` that is all there was. The items count as dropped. O(items log items).

        Raises:
            RuntimeError: somebody waits, and this is not their event loop.
        """
        self._check_home()
        left = [(item.key, item.value) for item in self._ledger.drain()]
        self._admit()
        self._check_drained()
        return left
