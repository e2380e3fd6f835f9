"""Clients of one store, among whom whatever can go wrong does, as a seed decides.

Several brokers of one process share a `LedgerBackend`, in virtual time and without a server. Each
reaches it through a `FaultyStore`, which loses replies, delays and doubles batches, lets them come
too late, and loses, delays and doubles what processes are told. Clients crash, close, are cancelled
and start anew. An `Auditor` sees what producers and consumers see, and at the end what is left:
nothing is lost, and nothing was ever in two hands.

A run is repeated with ``python -m tests.remote.simulation --seed N``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

import anyio
from anyio import CancelScope, Event, create_task_group, fail_after, move_on_after, sleep
from anyio.abc import TaskGroup
from tests.remote.ledger_store import LedgerBackend, LedgerStore

from leaseq import (
    InvalidLeaseError,
    Lease,
    LeaseqError,
    PutOutcome,
    QueueClosedError,
    Retry,
    ServerError,
    ServerUnavailableError,
    Tenant,
    TransactionError,
)
from leaseq._core.kept import Kept
from leaseq._core.options import BrokerQueueOptions
from leaseq._core.policies import Backoff
from leaseq._remote import protocol as p
from leaseq._remote.broker import RemoteBroker
from leaseq.testing import virtual_backend

__all__ = ["Auditor", "Simulation", "ViolationError", "simulate"]

T = TypeVar("T")

EPOCH = 1_700_000_000.0
HOT = ("hot-1", "hot-2")
"""Keys that are put again and again; any other key is put once."""
TENANTS = ("red", "blue", None)


class ViolationError(AssertionError):
    """Something was lost, or in two hands."""


# The audit


@dataclass
class Audit:
    """What is known of a key that is put once."""

    put: str = "in doubt"
    acks: set[int] = field(default_factory=set)
    """Tokens whose ack was confirmed."""
    doubtful: set[int] = field(default_factory=set)
    """Tokens whose ack may have been done."""
    kept: bool = False
    """Whether an ack was confirmed that keeps its token as the key's value."""
    with_ack_of: tuple[str, int] | None = None
    """The key and token that one transaction with the put acknowledges."""


class Auditor:
    """Sees what producers and consumers see, and raises where that cannot be."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.failures: list[str] = []
        self.keys: dict[str, Audit] = {}
        self.deliveries = 0
        self._log = log
        self._held: dict[str, list[tuple[Client, Lease[str, Any]]]] = {}
        self._tokens: dict[str, int] = {}

    def fail(self, what: str) -> None:
        """Say what is wrong, and raise."""
        self.failures.append(what)
        raise ViolationError(what)

    def trying_put(self, key: str, with_ack_of: tuple[str, int] | None = None) -> None:
        """A put is on its way: what becomes of it is in doubt."""
        if key not in HOT:
            self.keys[key] = Audit(with_ack_of=with_ack_of)

    def put(self, key: str, outcome: str) -> None:
        """A put was "done", or certainly "not done"."""
        self._log(f"put {key}: {outcome}")
        if key in HOT:
            return
        audit = self.keys[key]
        audit.put = outcome
        if outcome == "not done" and key in self._tokens:
            self.fail(f"{key} was not put, it was said, and was delivered before that")

    def delivered(self, client: Client, lease: Lease[str, Any], now: float) -> None:
        """A consumer got an item."""
        key, token = lease.key, lease.token
        self._log(f"{client.name} got {key} token={token} until {lease.deadline:.3f}")
        self.deliveries += 1
        if lease.ended is not None or lease.deadline <= now:
            return  # so it was lost while it came, and is known to be
        audit = self.keys.get(key)
        if audit is None and key not in HOT:
            self.fail(f"{key} was never put")
        if audit is not None and audit.put == "not done":
            self.fail(f"{key} was not put, it was said, and is delivered")
        if audit is not None and audit.acks:
            self.fail(f"{key} was acknowledged under {audit.acks}, and comes under {token}")
        if token <= self._tokens.get(key, 0):
            self.fail(f"{key}: the token {token} comes after {self._tokens[key]}")
        self._tokens[key] = token
        self._held[key] = [each for each in self._held.get(key, ()) if _holds(*each, now)]
        self._held[key].append((client, lease))
        self._check_hands(key)

    def extended(self, lease: Lease[str, Any], now: float) -> None:
        """A consumer has its item for longer."""
        held = self._held[lease.key]
        self._held[lease.key] = [each for each in held if _holds(*each, now)]
        self._check_hands(lease.key)

    def _check_hands(self, key: str) -> None:
        held = self._held[key]
        if len(held) > 1:
            hands = ", ".join(f"{client.name} under {lease.token}" for client, lease in held)
            self.fail(f"{key} is in two hands: {hands}")

    def letting_go(self, lease: Lease[str, Any]) -> None:
        """The consumer has done with the item, and says so next."""
        held = self._held.get(lease.key, [])
        self._held[lease.key] = [each for each in held if each[1] is not lease]

    def trying_ack(self, lease: Lease[str, Any]) -> None:
        """An ack is on its way."""
        self.letting_go(lease)
        if lease.key not in HOT:
            self.keys[lease.key].doubtful.add(lease.token)

    def acked(self, lease: Lease[str, Any], *, kept: bool = False) -> None:
        """An ack was confirmed, which may have kept its token."""
        self._log(f"acked {lease.key} token={lease.token}")
        if lease.key not in HOT:
            audit = self.keys[lease.key]
            audit.kept = kept
            audit.acks.add(lease.token)
            if self._tokens[lease.key] != lease.token:
                self.fail(f"{lease.key} was acknowledged with an old token, {lease.token}")

    def not_acked(self, lease: Lease[str, Any]) -> None:
        """An ack was certainly not done."""
        self._log(f"not acked {lease.key} token={lease.token}")
        if lease.key not in HOT:
            self.keys[lease.key].doubtful.discard(lease.token)

    def check_end(self, backend: LedgerBackend) -> None:
        """Compare what is left with what is known."""
        work, lost = backend.queues["work"], backend.queues["lost"]
        done: dict[Any, list[int]] = {}
        for record in work.history:
            done.setdefault(record.key, []).append(record.token)
        dead = [letter.key for letter in lost.letters()]
        for key, audit in self.keys.items():
            tokens = done.get(key, [])
            places = len(tokens) + dead.count(key) + (key in work.ledger)
            known = f"{key}: put {audit}, acked {tokens}, dead {dead.count(key)}"
            if places > 1:
                self.fail(f"there is more than one {known}")
            if audit.put == "done" and places != 1:
                self.fail(f"lost is {known}")
            if audit.put == "not done" and places:
                self.fail(f"not put, it was said, was {known}")
            if not audit.acks <= {*tokens} <= audit.acks | audit.doubtful:
                self.fail(f"not as its consumers know it is {known}")
            value = work.kept.read(key, backend.clock())
            if audit.kept if value is None else int(value) not in tokens:
                self.fail(f"the value {value!r} is not that of {known}")
            if audit.with_ack_of is not None:
                other, token = audit.with_ack_of
                if bool(places) != (token in done.get(other, ())):
                    self.fail(f"a transaction did one of two steps: {known}, ack of {other}")
        ledger = work.ledger
        if ledger.acked != len(work.history) or ledger.delivered < ledger.acked:
            self.fail(f"{ledger.acked} acked, {len(work.history)} remembered")
        if ledger.leased or ledger.waiting or ledger.buffered:
            self.fail(f"it was said to be drained, and has {ledger.leased} {ledger.ready}")
        if ledger.dead != len(dead) + lost.ledger.acked:
            self.fail(f"{ledger.dead} dead, and {len(dead)} letters")


def _holds(client: Client, lease: Lease[str, Any], now: float) -> bool:
    """Whether a consumer believes that it has the item."""
    return client.alive and lease.ended is None and lease.deadline > now


# Faults


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, of one exchange or one event."""

    undone: float = 0.05
    """It is not done, and that is certain."""
    lost: float = 0.08
    """It is done, and the reply is lost."""
    late: float = 0.06
    """There is no reply, and it arrives later, once more or for the first time."""
    doubled: float = 0.08
    """It is done, and arrives once more later."""
    refused: float = 0.01
    """One operation of it fails."""
    silent: float = 0.15
    """What a process is told is lost."""
    told_late: float = 0.2
    told_twice: float = 0.1

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """Some of all this, more or less."""
        usual = cls()
        how_much = rng.choice((0.0, 0.5, 1.0, 1.0, 3.0))
        return cls(
            **{
                name: getattr(usual, name) * how_much * rng.choice((0, 1, 1, 2))
                for name in cls.__dataclass_fields__
            }
        )


NO_FAULTS = Faults(*(0.0,) * len(Faults.__dataclass_fields__))


class FaultyStore:
    """A process's way to the store, on which things go wrong."""

    def __init__(
        self,
        world: Simulation,
        name: str,
        backend: LedgerBackend,
        process: str,
        on_event: p.OnEvent,
    ) -> None:
        self._world = world
        self._backend = backend
        self._name = name
        self._process = process
        self._on_event = on_event
        self._cut = False
        self._closed = False
        self._store = LedgerStore(backend, process, self._told)

    async def exchange(self, batch: p.Batch) -> p.Reply:
        world, rng = self._world, self._world.rng
        faults = world.faults
        if world.says:
            what = ", ".join(type(operation).__name__ for operation in batch.operations)
            world.log(f"{self._name} asks {batch.number}: {what}")
        try:
            await self._travel(rng.expovariate(40.0))
        except BaseException:
            if not self._cut and rng.random() < 0.5:
                self._arrive_later(batch)
            raise
        draw = rng.random()
        if draw < faults.undone:
            raise ServerUnavailableError("not sent", in_doubt=False)
        draw -= faults.undone
        if draw < faults.late:
            self._arrive_later(batch)
            await self._travel(rng.uniform(0.0, 1.0))
            raise ServerUnavailableError("no reply as yet", in_doubt=True)
        draw -= faults.late
        reply = self._backend.do(self._process, batch)
        if world.says:
            world.log(f"{self._name} did {batch.number}: {reply.answers}")
        if draw < faults.lost:
            await self._travel(rng.uniform(0.0, 0.5))
            raise ServerUnavailableError("the reply was lost", in_doubt=True)
        draw -= faults.lost
        if draw < faults.doubled:
            self._arrive_later(batch)
        await self._travel(rng.expovariate(40.0) if rng.random() < 0.9 else rng.uniform(0.0, 3.0))
        return reply

    async def _travel(self, seconds: float) -> None:
        await sleep(seconds)
        if self._cut:
            await anyio.sleep_forever()
        if self._closed:
            raise ServerUnavailableError("the store was closed", in_doubt=True)

    def _arrive_later(self, batch: p.Batch) -> None:
        def arrive() -> None:
            with suppress(ServerError):  # if a later one was done
                self._backend.do(self._process, batch)
                self._world.log(f"{self._name} late {batch.number}")

        self._world.later(self._world.rng.uniform(0.0, 4.0), arrive)

    def _told(self, event: p.Event) -> None:
        rng, faults = self._world.rng, self._world.faults
        if rng.random() < faults.silent:
            return
        times = 2 if rng.random() < faults.told_twice else 1
        for _ in range(times):
            slow = rng.random() < faults.told_late
            delay = rng.uniform(0.0, 2.0) if slow else rng.expovariate(40.0)
            self._world.later(delay, lambda: self._hear(event))

    def _hear(self, event: p.Event) -> None:
        if not self._cut and not self._closed:
            self._on_event(event)

    def check(self, operation: p.Operation) -> None:
        self._store.check(operation)

    def cut(self) -> None:
        """Nothing comes through any more; whether that is known there, chance decides."""
        self._cut = True
        if self._world.rng.random() < 0.5:
            self._backend.listening.pop(self._process, None)

    async def listen(self) -> None:
        await self._store.listen()

    async def close(self) -> None:
        if not self._cut:
            await self._store.close()
        self._closed = True


# Clients


class Client:
    """A process: a broker, producers, consumers, and an end."""

    def __init__(self, world: Simulation, name: str, *, last: bool = False) -> None:
        self.name = name
        self.alive = True
        self._world = world
        self._rng = world.rng
        self._audit = world.auditor
        self._last = last
        self._runs = last or world.rng.random() < 0.8
        self._stores: list[FaultyStore] = []
        self._puts = 0
        self._waits_for: dict[str, None] = {}  # values of these keys

    async def _open(self, process: str, on_event: p.OnEvent) -> FaultyStore:
        return self._open_at(self._world.backend, process, on_event)

    def _open_group(self, group: str) -> p.OpenStore:
        async def open_store(process: str, on_event: p.OnEvent) -> FaultyStore:
            return self._open_at(self._world.place, process, on_event)

        return open_store

    def _open_at(self, backend: LedgerBackend, process: str, on_event: p.OnEvent) -> FaultyStore:
        self._stores.append(FaultyStore(self._world, self.name, backend, process, on_event))
        return self._stores[-1]

    async def live(self) -> None:
        """Work until the end, whichever that is."""
        self._world.log(f"{self.name} begins, {'with' if self._runs else 'without'} a run")
        try:
            await self._live()
        finally:
            self.alive = False
            self._world.gone.append(self.name)
            self._world.log(f"{self.name} is gone")

    async def _live(self) -> None:
        with CancelScope() as self._scope:
            broker = RemoteBroker(
                self._open,
                open_group=self._open_group if self._world.grouped else None,
                place="the simulation",
                patience=1.0,
            )
            async with broker:
                try:
                    queue = await broker.queue("work", **self._world.options)
                except (ServerUnavailableError, ServerError):
                    return
                async with create_task_group() as tg:
                    if self._runs:
                        await tg.start(broker.run)
                    if not self._last:
                        for _ in range(self._rng.randint(1, 2)):
                            tg.start_soon(self._produce, tg, queue)
                    if self._runs:
                        for _ in range(self._rng.randint(1, 2)):
                            tg.start_soon(self._consume, broker, queue)
                    await self._end(broker, queue, tg)

    async def _end(self, broker: RemoteBroker, queue: Any, tg: TaskGroup) -> None:
        world, rng = self._world, self._rng
        with move_on_after(inf if self._last else rng.expovariate(0.3)):
            await world.over.wait()
        if world.over.is_set():
            if self._last:
                await self._clear_up(queue)
            await world.quiet()
            await self._join(queue)
            await sleep(5.0)
            for key in self._waits_for:
                if world.backend.queues["work"].kept.read(key, world.backend.clock()):
                    self._audit.fail(f"{self.name} waits for the value of {key}, which is there")
            await queue.shutdown()
            await broker.close()
            return
        how = rng.choice(("crash", "crash", "close", "shutdown", "cancel"))
        world.log(f"{self.name}: {how}")
        if how == "crash":
            for store in self._stores:
                store.cut()
            self.alive = False
            self._scope.cancel()
        elif how == "cancel":
            tg.cancel_scope.cancel()
        else:
            if how == "shutdown":
                with suppress(ServerUnavailableError, ServerError):
                    await queue.shutdown()
                await sleep(rng.uniform(0.0, 3.0))
            await broker.close()  # and then nobody waits for anything

    async def _clear_up(self, queue: Any) -> None:
        """End the leases of those that are gone, which would not end, until nothing is left."""
        while True:
            for name in [*self._world.gone]:
                with suppress(ServerUnavailableError):  # as for what was asked before, see `_join`
                    await queue.release_all(consumer=name)
            with move_on_after(5.0):
                await self._world.quiet()
                await self._join(queue)
                return

    async def _join(self, queue: Any) -> None:
        """Wait until nothing is left, also if a call before it is given up, having no answer."""
        while True:
            try:
                return await queue.join()
            except ServerUnavailableError:
                await sleep(0.1)

    # Producers

    async def _produce(self, tg: TaskGroup, queue: Any) -> None:
        rng, world = self._rng, self._world
        for _ in range(rng.randint(1, 6)):
            await sleep(rng.expovariate(2.0))
            if world.over.is_set():
                return
            with world.pending():
                draw = rng.random()
                if draw < 0.1:
                    await self._look(queue)
                elif draw < 0.2:
                    with suppress(ServerUnavailableError, ServerError, QueueClosedError):
                        await queue.redrive(limit=rng.choice((None, 1)))
                elif draw < 0.3:
                    await self._put(queue, [rng.choice(HOT)])
                else:
                    keys = [self._new_key() for _ in range(rng.choice((1, 1, 3)))]
                    tg.start_soon(self._wait_for_value, queue, keys[0])
                    await self._put(queue, keys)

    async def _wait_for_value(self, queue: Any, key: str) -> None:
        """Wait for what an ack keeps, often not for long enough."""
        rng = random.Random(key)  # so that it takes no draw away from others
        self._waits_for[key] = None
        try:
            with suppress(LeaseqError), move_on_after(rng.choice((inf, rng.expovariate(1.0)))):
                await queue._recall(key, rng.choice((None, None, rng.expovariate(1.0))))
        except TimeoutError:
            pass
        finally:
            del self._waits_for[key]

    def _new_key(self) -> str:
        self._puts += 1
        return f"{self.name}-{self._puts}"

    async def _look(self, queue: Any) -> None:
        keys = (queue.available_keys, queue.delayed_keys, queue.inflight_keys)
        looks = (queue.statistics, queue.inflight, queue.history, *keys)
        with suppress(ServerUnavailableError, ServerError, QueueClosedError):
            await self._rng.choice(looks)()

    async def _put(self, queue: Any, keys: list[str]) -> None:
        rng = self._rng
        options: dict[str, Any] = {}
        if rng.random() < 0.2 and self._runs:
            options["delay"] = rng.uniform(0.0, 2.0)
        if rng.random() < 0.1:
            options["ttl"] = rng.uniform(2.5, 5.0)
        if rng.random() < 0.2:
            options["priority"] = rng.randint(1, 5)
        if self._world.fair and keys[0] not in HOT:
            options["tenant"] = rng.choice(TENANTS)
        if keys[0] in HOT:
            options["if_in_flight"] = rng.choice(("update", "buffer"))
        for key in keys:
            self._audit.trying_put(key)
        try:
            with move_on_after(rng.choice((inf, inf, rng.expovariate(3.0)))):
                outcomes = await queue.put_many([(key, self.name) for key in keys], **options)
                for key, outcome in zip(keys, outcomes, strict=True):
                    if key not in HOT and outcome is not PutOutcome.ADDED:
                        self._audit.fail(f"{key} was put once, and the outcome was {outcome!r}")
                    self._audit.put(key, "done")
        except (ServerUnavailableError, ServerError, QueueClosedError) as error:
            if not getattr(error, "in_doubt", False):
                for key in keys:
                    self._audit.put(key, "not done")

    # Consumers

    async def _consume(self, broker: RemoteBroker, queue: Any) -> None:
        while True:
            try:
                leases = await self._lease(queue)
            except (ServerUnavailableError, ServerError):
                await sleep(0.1)
                continue
            except TimeoutError:
                continue
            except QueueClosedError:
                return
            now = anyio.current_time()
            for lease in leases:
                self._audit.delivered(self, lease, now)
            for lease in leases:
                await self._work(broker, queue, lease)
                while lease.deadline == inf and lease.ended is None:  # it would never end
                    self._audit.letting_go(lease)
                    with suppress(LeaseqError):
                        await queue.release(lease)
                    await sleep(0.1)

    async def _lease(self, queue: Any) -> list[Lease[str, Any]]:
        rng = self._rng
        draw = rng.random()
        options: dict[str, Any] = {"consumer": self.name}
        if rng.random() < 0.3:
            options["lease_timeout"] = None
        if self._world.fair and rng.random() < 0.3:
            options["tenants"] = [rng.choice(TENANTS)]
            if rng.random() < 0.5:
                options["steal_from"] = [rng.choice(TENANTS)]
            options["timeout"] = rng.expovariate(1.0)
        if draw < 0.2:
            batch: list[Lease[str, Any]] = await queue.get_batch(
                3, max_wait=rng.uniform(0.0, 1.0), **options
            )
            return batch
        if draw < 0.3:
            how = {"consumer": self.name, "timeout": rng.expovariate(1.0)}
            _, _, lease = await queue.take(rng.choice(HOT), **how)
            return [lease]
        if draw < 0.45:
            options["timeout"] = rng.choice((0, rng.expovariate(1.0)))
            _, _, lease = await queue.get(**options)
            return [lease]
        if draw < 0.6:
            with move_on_after(rng.expovariate(2.0)):
                _, _, lease = await queue.get(**options)
                return [lease]
            return []
        if draw < 0.7:
            got = await self._natively(queue.get(**options), rng.expovariate(2.0))
            return [] if got is None else [got[2]]
        _, _, lease = await queue.get(**options)
        return [lease]

    async def _natively(self, call: Awaitable[T], patience: float) -> T | None:
        """Make a call in a task that is cancelled without a scope; None: it was."""
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait({task}, timeout=patience)
        finally:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return None

    async def _work(self, broker: RemoteBroker, queue: Any, lease: Lease[str, Any]) -> None:
        rng = self._rng
        length = self._world.options["default_lease_timeout"] or 1.0
        if self._world.over.is_set():
            with suppress(LeaseqError):
                await self._ack(queue, lease)
            return
        if rng.random() < 0.8:
            await sleep(rng.expovariate(5.0))
        else:  # often for longer than the lease lasts
            await sleep(rng.uniform(0.0, 2.0 * length))
        draw = rng.random()
        if draw < 0.3:
            self._audit.letting_go(lease)
        try:
            if draw < 0.1:
                await queue.release(lease, counted=rng.random() < 0.5)
            elif draw < 0.15:
                await queue.release(lease, requeue_front=True)
            elif draw < 0.2:
                await queue.release(lease, delay=rng.uniform(0.0, 1.0))
            elif draw < 0.25:
                await queue.reject(lease, "no good")
            elif draw < 0.3:
                with suppress(ZeroDivisionError):
                    async with lease:
                        raise ZeroDivisionError
            elif draw < 0.35:
                with move_on_after(rng.expovariate(5.0)):
                    async with lease:
                        try:
                            await sleep(rng.expovariate(2.0))
                        finally:
                            self._audit.trying_ack(lease)
                    self._audit.acked(lease)
            elif draw < 0.4:
                pass  # until it runs out
            elif draw < 0.5:
                await queue.extend(lease, rng.uniform(0.5, length))
                self._audit.extended(lease, anyio.current_time())
                await sleep(rng.uniform(0.0, length))
                await self._ack(queue, lease)
            elif draw < 0.6 and not self._world.over.is_set():
                with self._world.pending():
                    await self._ack_and_put(broker, queue, lease)
            else:
                await self._ack(queue, lease)
        except (InvalidLeaseError, QueueClosedError, ServerUnavailableError, ServerError):
            pass

    async def _ack(self, queue: Any, lease: Lease[str, Any]) -> None:
        rng = self._rng
        self._audit.trying_ack(lease)
        try:
            draw = rng.random()
            if draw < 0.1:
                if await self._natively(queue.ack(lease), rng.expovariate(20.0)) is None:
                    return
            elif draw < 0.2:
                with move_on_after(rng.expovariate(20.0)) as scope:
                    await queue.ack(lease)
                if scope.cancelled_caught:
                    return
            else:
                value = Kept(lease.key, b"%d" % lease.token, inf, b"")
                await queue._ack_and_keep(lease, [value])
        except (InvalidLeaseError, QueueClosedError, ServerUnavailableError, ServerError) as error:
            if not getattr(error, "in_doubt", False):
                self._audit.not_acked(lease)
            raise
        self._audit.acked(lease, kept=draw >= 0.2)

    async def _ack_and_put(self, broker: RemoteBroker, queue: Any, lease: Lease[str, Any]) -> None:
        key = self._new_key()
        in_one = None if lease.key in HOT else (lease.key, lease.token)
        self._audit.trying_ack(lease)
        self._audit.trying_put(key, in_one)
        try:
            async with broker.transaction() as transaction:
                transaction.ack(lease)
                transaction.put(queue, key, self.name)
        except LeaseqError as error:
            if isinstance(error, TransactionError) or not getattr(error, "in_doubt", False):
                self._audit.not_acked(lease)
                self._audit.put(key, "not done")
            return
        self._audit.acked(lease)
        self._audit.put(key, "done")


# The whole


class Simulation:
    """One run.

    Args:
        seed: Decides all of it.
        length: Seconds of virtual time in which things go wrong.
        remembers: Whether the store knows a batch again.
        grouped: Whether the queue is in another group than the broker's own, in a store of its own.
        say: Takes a line of the story.
    """

    def __init__(
        self,
        seed: int,
        *,
        length: float = 8.0,
        remembers: bool = True,
        grouped: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.faults = Faults.drawn(rng)
        self.fair = rng.random() < 0.4
        self.options: BrokerQueueOptions = {
            "default_lease_timeout": rng.uniform(1.0, 4.0),
            "dead_letters": "lost",
            "history": 1_000_000,
            "max_size": rng.choice((inf, inf, 3)),
            "retry": Retry(
                max_deliveries=rng.choice((None, 3)),
                backoff=rng.choice((None, Backoff(0.3, ceiling=2.0, seed=seed))),
            ),
            "tenants": {"red": Tenant(max_in_flight=1)} if self.fair else None,
        }
        self.backend = self.place = self._make_backend(remembers)
        self.grouped = grouped
        if grouped:
            self.options["group"] = "elsewhere"
            self.place = self._make_backend(remembers)
        self.auditor = Auditor(self.log)
        self.gone: list[str] = []  # clients
        self.over: Event
        self._say = say
        self.length = length
        self._pending = 0  # things that come later
        self._quiet: Event
        self._tg: TaskGroup

    def _make_backend(self, remembers: bool) -> LedgerBackend:
        backend = LedgerBackend(
            wall=lambda: EPOCH + backend.clock(),
            remembers=remembers,
            most=self.rng.choice((None, None, 1, 3)),
            refuse=self._refuse,
        )
        return backend

    @property
    def says(self) -> bool:
        """Whether anybody hears the story."""
        return self._say is not None

    def log(self, line: str) -> None:
        if self._say is not None:
            self._say(f"{anyio.current_time():9.4f} {line}")

    def later(self, delay: float, do: Callable[[], object]) -> None:
        """Do something later."""

        async def wait() -> None:
            with self.pending():
                await sleep(delay)
                do()

        self._tg.start_soon(wait)

    @contextmanager
    def pending(self) -> Iterator[None]:
        """While this is open, it is not quiet: something may be put."""
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1
            if not self._pending:
                self._quiet.set()
                self._quiet = Event()

    async def quiet(self) -> None:
        """Wait until nothing is to come any more."""
        await sleep(0.001)  # what was just started is pending
        while self._pending:
            await self._quiet.wait()

    def _refuse(self, operation: p.Operation) -> Exception | None:
        """Refuse what a full server does: leases end in any case."""
        takes = isinstance(operation, (p.Put, p.Claim, p.Transact, p.Declare, p.Extend, p.Redrive))
        if takes and self.rng.random() < self.faults.refused:
            return ServerError("OOM there is no room", code="OOM")
        return None

    async def run(self) -> None:
        """Run it, and raise `ViolationError` where something is not as it must be."""
        self.over, self._quiet = Event(), Event()
        try:
            with fail_after(3600.0):
                async with create_task_group() as self._tg:
                    for slot in range(self.rng.randint(2, 3)):
                        self._tg.start_soon(self._live, slot)
                    await sleep(self.length)
                    self.log("no more faults")
                    self.faults = NO_FAULTS
                    self.over.set()
                    await Client(self, "last", last=True).live()
        except BaseException:
            if not self.auditor.failures:
                raise
        if self.auditor.failures:
            raise ViolationError(self.auditor.failures[0])
        self.auditor.check_end(self.place)
        if self.grouped:
            signposts = [self.backend.queues[name].ledger for name in ("work", "lost")]
            assert not any(ledger.waiting or ledger.delivered for ledger in signposts)

    async def _live(self, slot: int) -> None:
        generation = 0
        while not self.over.is_set():
            await Client(self, f"{slot}.{generation}").live()
            generation += 1


def simulate(seed: int, **options: Any) -> Simulation:
    """Run a simulation from a seed to its end."""
    simulation = Simulation(seed, **options)
    random.seed(seed)  # the client draws its pauses there
    name, backend_options = virtual_backend("asyncio")
    try:
        anyio.run(simulation.run, backend=name, backend_options=backend_options)
    except BaseException as error:
        again = f"--seed {seed} --length {simulation.length}{' --grouped' * simulation.grouped}"
        error.add_note(f"replay it: python -m tests.remote.simulation {again}")
        raise
    return simulation


def main(arguments: Iterable[str]) -> None:
    parser = argparse.ArgumentParser(description="Simulate clients among whom all goes wrong.")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--length", type=float, default=5.0, help="seconds with faults")
    parser.add_argument("--grouped", action="store_true", help="the queue is in a group")
    parser.add_argument("--quiet", action="store_true", help="do not tell the story")
    chosen = parser.parse_args([*arguments])
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)
    deliveries = 0
    say = None if chosen.quiet or chosen.runs > 1 else print
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        deliveries += simulate(
            seed, length=chosen.length, grouped=chosen.grouped, say=say
        ).auditor.deliveries
    print(f"nothing lost, nothing in two hands: {deliveries} deliveries")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
