"""The sweep for wake-ups: random plans, after each step of which nobody waits for what is there.

A `World` is a queue with dead letters, a bound and caps, and all who may wait at it. It takes
random steps, up to three before the event loop runs again. When all tasks wait, it asks the queue
what is there, by public calls alone, and finds fault with each that waits for it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random
from typing import Any

from anyio import (
    BusyResourceError,
    CancelScope,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    sleep,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from tests.contract.helpers import BrokerEngine

from leaseq import (
    Backoff,
    Broker,
    Lease,
    LeasedQueue,
    LeaseInfo,
    LeaseqError,
    QueueClosedError,
    Retry,
    Tenant,
    TransactionError,
)

Queue = LeasedQueue[str, Any]

KEYS = ("a", "b", "x1", "x2", "y1", "y2")
TENANTS = ("x", "y")
LEASES = (None, None, 1.0, 3.0, 20.0)
DELAYS = (0.0, 2.0, 7.0)
LONGEST_REST = 7.0
"""Seconds: the longest delay or backoff in a plan."""

_CHOICES: tuple[tuple[tuple[str | None, ...] | None, tuple[str | None, ...]], ...] = (
    (None, ()), (None, ()), (("x",), ()), (("y", None), ()), (("x",), ("y", None)),
)  # fmt: skip
_BURSTS = 20


def tenant_of(key: str) -> str | None:
    """The tenant whose key it is."""
    return key[0] if key[0] in TENANTS else None


@dataclass(eq=False)
class Waiting:
    """A task that may wait, and for what."""

    what: str
    queue: Queue
    kind: str
    keys: tuple[str, ...] = ()
    tenants: Collection[str | None] | None = None
    scope: CancelScope = field(default_factory=CancelScope)
    task: asyncio.Task[Any] | None = None
    began: bool = False
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Its name as a consumer, if it keeps leases."""

    def cancel(self, *, natively: bool) -> None:
        """Cancel it."""
        if natively and self.task is not None:
            self.task.cancel()
        else:
            self.scope.cancel()


@dataclass(frozen=True)
class Scene:
    """What there is in a queue, when all tasks wait."""

    states: Mapping[str, str]
    leases: list[LeaseInfo[str]]
    waiting: int
    drained: bool
    shut_down: bool
    closed: bool
    max_size: float
    caps: dict[str, int | None]
    paused: Collection[str | None]
    """Tenants; None: the queue."""

    def eligible(self, key: str) -> bool:
        """True if a consumer could have the key."""
        tenant = tenant_of(key)
        if None in self.paused or (tenant is not None and tenant in self.paused):
            return False
        cap = self.caps.get(tenant) if tenant is not None else None
        capped = cap is not None and sum(lease.tenant == tenant for lease in self.leases) >= cap
        return self.states.get(key) == "ready" and not capped

    def collects(self, one: Waiting) -> bool:
        """True if a task has leases by now."""
        return any(lease.consumer == one.name for lease in self.leases)

    def new(self, keys: Collection[str]) -> int:
        """The places that keys need."""
        return sum(self.states.get(key) is None for key in set(keys))


class World:
    """A queue, its dead letters, and all who wait there."""

    def __init__(self, engine: BrokerEngine, tg: TaskGroup, seed: int) -> None:
        self.engine = engine
        self.tg = tg
        self.seed = seed
        self.random = Random(seed)
        self.log: list[str] = []
        self.tasks: list[Waiting] = []
        self.held: list[Lease[str, Any]] = []
        self.delayed_since: dict[str, float] = {}
        self.shut_down: set[Queue] = set()
        self.paused: dict[Queue, set[str | None]] = {}
        self.on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)

    async def open(self) -> None:
        """Make the queue, and start its timekeeper."""
        random = self.random
        self.max_size = random.choice((1, 2, 3, inf))
        self.caps: dict[str, int | None] = {
            name: random.choice((None, 1, 1, 2)) for name in TENANTS
        }
        retry = Retry(
            random.choice((None, 1, 2)), random.choice((None, Backoff(LONGEST_REST, seed=1)))
        )
        self.broker: Broker = await self.engine.broker()
        self.queue, self.letters = await self.broker.create_queue_pair(
            "work",
            max_size=self.max_size,
            retry=retry,
            tenants={name: Tenant(max_in_flight=cap) for name, cap in self.caps.items()},
        )
        self.log.append(f"max_size={self.max_size}, caps={self.caps}, {retry}")
        self.start("run", self.queue, self.queue.run, "run")
        if random.random() < 0.5:  # otherwise the other one's looks after it
            self.start("run", self.letters, self.letters.run, "run of the letters")
        await self.engine.advance(0)

    # Who waits

    def start(
        self,
        kind: str,
        queue: Queue,
        call: Callable[[], Awaitable[object]],
        what: str,
        keys: Collection[str] = (),
        tenants: Collection[str | None] | None = None,
    ) -> Waiting:
        """Start a task that may wait."""
        waiting = Waiting(what, queue, kind, tuple(keys), tenants)

        async def run() -> None:
            waiting.task = asyncio.current_task() if self.on_asyncio else None
            try:
                with waiting.scope:
                    await call()
            except (LeaseqError, TimeoutError, BusyResourceError, ValueError):
                pass
            except get_cancelled_exc_class():
                if waiting.task is None or not waiting.task.cancelling():
                    raise
                waiting.task.uncancel()
            finally:
                self.tasks.remove(waiting)

        self.tasks.append(waiting)
        self.tg.start_soon(run)
        return waiting

    def of_kind(self, kind: str, queue: Queue) -> list[Waiting]:
        """Those who wait at a queue for one kind of thing."""
        return [each for each in self.tasks if each.kind == kind and each.queue is queue]

    # Steps

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """The steps that a plan may take, the likelier ones more than once."""
        return [
            *[self.let_produce] * 5,
            *[self.let_consume] * 4,
            *[self.let_take] * 3,
            self.let_collect,
            self.let_hold_a_body,
            self.let_join,
            *[self.settle_one] * 6,
            *[self.cancel_one] * 3,
            *[self.let_time_pass] * 3,
            self.set_cap,
            self.pause,
            *[self.resume] * 2,
            self.discard,
            self.purge,
            self.redrive,
            self.revoke,
            self.transact,
            self.restart,
        ]

    async def let_produce(self) -> None:
        if any(not each.began for each in self.of_kind("producer", self.queue)):
            return  # who of two comes first, trio draws by lot
        random = self.random
        keys = random.sample(KEYS, random.choice((1, 1, 1, 2, 3)))
        tenant = tenant_of(keys[0])
        keys = [key for key in keys if tenant_of(key) == tenant]
        delay = random.choice(DELAYS)
        ttl = random.choice((None, None, delay + 5.0))
        policy = random.choice(("update", "reject", "buffer"))
        options: Any = {"tenant": tenant, "delay": delay, "ttl": ttl, "if_in_flight": policy}
        put = partial(self.queue.put_many, [(key, 1) for key in keys], **options)
        what = f"put {keys} {options}"
        self.log.append(what)
        self.start("producer", self.queue, put, what, keys)

    async def let_consume(self) -> None:
        random = self.random
        queue = random.choice((self.queue, self.queue, self.queue, self.letters))
        own, others = random.choice(_CHOICES) if queue is self.queue else (None, ())
        options: Any = {"lease_timeout": random.choice(LEASES), "consumer": random.choice("cd")}
        if own is not None:
            options |= {"tenants": own, "steal_from": others}
        timeout = random.choice((None, None, 4.0))
        served = None if own is None else (*own, *others)

        async def get() -> None:
            _, _, lease = await queue.get(timeout, **options)
            self.held.append(lease)

        what = f"get({timeout}) from {queue.name} {options}"
        self.log.append(what)
        self.start("getter", queue, get, what, tenants=served)

    async def let_take(self) -> None:
        key = self.random.choice(KEYS)
        lease_timeout = self.random.choice(LEASES)

        async def take() -> None:
            _, _, lease = await self.queue.take(key, lease_timeout=lease_timeout)
            self.held.append(lease)

        what = f"take({key}, lease_timeout={lease_timeout})"
        self.log.append(what)
        self.start("taker", self.queue, take, what, (key,))

    async def let_collect(self) -> None:
        random = self.random
        size, seconds, lease_timeout = random.choice((1, 2, 3)), random.choice((0, 6)), 8.0

        async def collect() -> None:
            batch = await self.queue.get_batch(
                size, max_wait=seconds, lease_timeout=lease_timeout, consumer=collector.name
            )
            self.held.extend(batch)

        what = f"get_batch({size}, max_wait={seconds})"
        self.log.append(what)
        collector = self.start("collector", self.queue, collect, what)

    async def let_hold_a_body(self) -> None:
        seconds, error = self.random.choice((0, 5, 30)), self.random.choice((None, KeyError))
        lease_timeout = self.random.choice(LEASES)

        async def hold() -> None:
            try:
                async with self.queue.lease(lease_timeout=lease_timeout, consumer=body.name):
                    body.kind = "body"
                    await sleep(seconds)
                    if error is not None:
                        raise error
            except KeyError:
                pass

        what = f"a body of {seconds} s that raises {error}"
        self.log.append(what)
        body = self.start("getter", self.queue, hold, what)

    async def let_join(self) -> None:
        queue = self.random.choice((self.queue, self.letters))
        self.log.append(f"join {queue.name}")
        self.start("joiner", queue, queue.join, f"join {queue.name}")

    async def settle_one(self) -> None:
        if not self.held:
            return
        lease = self.held.pop(self.random.randrange(len(self.held)))
        how = self.random.choice(("ack", "ack", "release", "delay", "front", "uncounted", "reject",
                                  "fail", "give back", "extend"))  # fmt: skip
        self.log.append(f"{how} {lease}")
        try:
            if how == "ack":
                await lease.ack()
            elif how == "release":
                await lease.release()
            elif how == "delay":
                await lease.release(delay=self.random.choice(DELAYS))
            elif how == "front":
                await lease.release(requeue_front=True)
            elif how == "uncounted":
                await lease.release(counted=False)
            elif how == "reject":
                await lease.reject("no")
            elif how == "fail":
                await lease.queue._fail(lease, KeyError())
            elif how == "give back":
                await lease.queue._give_back(lease)
            else:
                self.held.append(lease)
                await lease.extend(self.random.choice((None, 0.5, 10.0)))
        except LeaseqError:
            if lease.ended is None and lease not in self.held:
                self.held.append(lease)  # the call was refused

    async def cancel_one(self) -> None:
        those = [each for each in self.tasks if each.kind != "run"]
        if those:
            one, natively = self.random.choice(those), self.random.random() < 0.5
            self.log.append(f"cancel {one.what}{' natively' if natively else ''}")
            one.cancel(natively=natively)

    async def let_time_pass(self) -> None:
        seconds = self.random.choice((0.5, 2.0, 10.0, 60.0))
        self.log.append(f"{seconds} s pass")
        await self.engine.advance(seconds)

    async def set_cap(self) -> None:
        name, cap = self.random.choice(TENANTS), self.random.choice((None, 1, 2, 3))
        self.log.append(f"{name} has the cap {cap}")
        await self.queue.set_tenant(name, Tenant(max_in_flight=cap))
        self.caps[name] = cap

    async def pause(self) -> None:
        queue, tenant = self.random.choice((self.queue, self.letters)), None
        if queue is self.queue:
            tenant = self.random.choice((None, *TENANTS))
        self.log.append(f"pause {tenant or queue.name}")
        await queue.pause(tenant)
        self.paused.setdefault(queue, set()).add(tenant)

    async def resume(self) -> None:
        queue = self.random.choice((self.queue, self.letters))
        paused = self.paused.get(queue)
        if paused:
            tenant = self.random.choice(sorted(paused, key=str))
            self.log.append(f"resume {tenant or queue.name}")
            assert await queue.resume(tenant)
            paused.remove(tenant)

    async def discard(self) -> None:
        key = self.random.choice(KEYS)
        self.log.append(f"discard {key}")
        await self.queue.discard(key)

    async def purge(self) -> None:
        if self.random.random() < 0.3:
            self.log.append("purge")
            await self.broker.purge("work")

    async def redrive(self) -> None:
        self.log.append("redrive")
        if self.queue not in self.shut_down:
            await self.queue.redrive()

    async def revoke(self) -> None:
        consumer = self.random.choice("cd")
        self.log.append(f"release_all {consumer}")
        await self.queue.release_all(consumer=consumer)

    async def transact(self) -> None:
        mine = [lease for lease in self.held if lease.queue is self.queue]
        random = self.random
        leases = random.sample(mine, min(len(mine), random.choice((0, 1, 2))))
        keys = random.sample(KEYS, random.choice((0, 1, 2)))
        self.log.append(f"in one transaction: put {keys}, settle {leases}")
        try:
            async with self.broker.transaction() as tx:
                for lease in leases:
                    random.choice((tx.ack, tx.release, partial(tx.reject, reason="no")))(lease)
                for key in keys:
                    tx.put(self.queue, key, 1, tenant=tenant_of(key))
        except (TransactionError, LeaseqError):
            pass

    async def restart(self) -> None:
        """Cancel the timekeeper, and start another one."""
        natively = self.random.random() < 0.5
        self.log.append(f"restart run{' natively' if natively else ''}")
        for each in self.of_kind("run", self.queue):
            each.cancel(natively=natively)
        await self.engine.advance(0)
        self.start("run", self.queue, self.queue.run, "run")
        await self.engine.advance(0)

    # The plan

    async def live(self, bursts: int) -> None:
        """Take steps, check after each burst of them, end the queue, and check again."""
        ends_at = self.random.randrange(bursts)
        try:
            for burst in range(bursts):
                for _ in range(self.random.choice((1, 1, 2, 3))):
                    with suppress(QueueClosedError):
                        await self.random.choice(self.steps())()
                if burst == ends_at:
                    await self.end()
                await self.look()
        except Exception as error:
            error.add_note("\n".join([f"in the plan of seed {self.seed}:", *self.log]))
            raise

    async def end(self) -> None:
        """End one of the queues, in one way or the other."""
        queue = self.random.choice((self.queue, self.queue, self.letters))
        how = self.random.choice(("shutdown", "shutdown", "close", None))
        self.log.append(f"{how} {queue.name}")
        if how is not None:
            await (queue.close() if how == "close" else queue.shutdown())
            self.shut_down.add(queue)

    async def look(self) -> None:
        """Let all come to wait, and find fault with those who wait for what is there."""
        await self.engine.advance(0)
        self.log.append("---")
        for each in self.tasks:
            each.began = True
        for queue in (self.queue, self.letters):
            scene = await self.scene(queue)
            faults = [each.what for each in self.tasks if each.queue is queue
                      and self.waits_in_vain(each, scene)]  # fmt: skip
            if not self.of_kind("run", queue) and queue is self.queue:
                over = scene.closed or (scene.shut_down and scene.drained)
                faults += [] if over else ["run has returned"]
            faults += self.overdue(queue, scene)
            faults += self.lost(scene)
            assert not faults, f"{queue!r}, {scene}: {faults}"

    async def scene(self, queue: Queue) -> Scene:
        """Look at a queue, by public calls."""
        mine = queue is self.queue
        statistics = await queue.statistics()
        keys = KEYS if mine else tuple(await queue.available_keys())
        states = {key: state for key in keys if (state := await queue.state(key)) != "absent"}
        return Scene(
            states=states,
            leases=await queue.inflight(),
            waiting=statistics.ready + statistics.delayed,
            drained=not (statistics.ready or statistics.delayed or statistics.leased),
            shut_down=queue in self.shut_down,
            closed=queue.closed,
            max_size=self.max_size if mine else inf,
            caps=self.caps if mine else {},
            paused=self.paused.get(queue, ()),
        )

    def waits_in_vain(self, one: Waiting, scene: Scene) -> bool:
        """True if somebody waits for what is there, or for what cannot come."""
        if one.kind == "body":
            return scene.closed
        if one.kind == "run":
            return scene.closed or (scene.shut_down and scene.drained)
        if scene.closed or (one.kind == "joiner" and scene.drained):
            return True
        if one.kind == "joiner":
            return False
        if one.kind == "producer":
            in_line = self.of_kind("producer", one.queue)
            new = scene.new(one.keys)
            room = one is in_line[0] and scene.waiting + new <= scene.max_size
            return scene.shut_down or room or not new
        there = any(
            scene.eligible(key)
            for key in (one.keys or scene.states)
            if one.tenants is None or tenant_of(key) in one.tenants
        )
        gone = one.kind == "taker" and one.keys[0] not in scene.states
        return there or (scene.shut_down and (scene.drained or gone or scene.collects(one)))

    def lost(self, scene: Scene) -> list[str]:
        """Name the leases that nobody has."""
        tokens = {lease.token for lease in self.held}
        names = {each.name for each in self.tasks}
        leases = [] if scene.closed else scene.leases
        return [f"nobody has {lease}" for lease in leases
                if lease.token not in tokens and lease.consumer not in names]  # fmt: skip

    def overdue(self, queue: Queue, scene: Scene) -> list[str]:
        """Name what should have fallen due by now."""
        runs = [each for each in self.tasks if each.kind == "run"]
        if scene.closed or not any(each.queue in (queue, self.queue) for each in runs):
            return []
        now = current_time()
        late = [lease.key for lease in scene.leases if lease.deadline < now]
        rests = {key for key, state in scene.states.items() if state == "delayed"}
        if queue is self.queue:
            kept = {key: self.delayed_since.get(key, now) for key in rests}
            self.delayed_since = kept
            late += [key for key, since in kept.items() if now - since > 100 * LONGEST_REST]
        return [f"{key} is overdue" for key in late]


async def sweep(engine: BrokerEngine, seeds: range) -> None:
    """Live through the plans of some seeds. The first fault is raised, with its plan."""
    for seed in seeds:
        fault = None
        async with create_task_group() as tg:
            world = World(engine, tg, seed)
            await world.open()
            try:
                await world.live(_BURSTS)
            except AssertionError as error:  # out of the task group it would come as a group
                fault = error
            tg.cancel_scope.cancel()
        if fault is not None:
            raise fault
