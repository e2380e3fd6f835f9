"""The engines against each other: any plan of calls has the same outcomes in the same order.

A plan is what one user does with a broker: puts, claims, settlements and transactions, between
which time stands still or moves by whole units, so that much falls due in one step. It is run
through the public calls on the engine in memory and on another, and both must tell the same story.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.engines import Memory
from tests.remote.engine import Ledgers
from tests.servers import Servers
from tests.sqlite.engine import Sqlite
from tests.valkey.engine import Valkey

from leaseq import Broker, Lease, LeasedQueue, LeaseqError, Retry, Tenant
from leaseq.testing import virtual_backend

UNIT = 1_000.0  # seconds; a plan takes less
TICK = 0.001  # seconds that a step takes: only what one step does falls due in one moment
MAX_SIZE = 5
KEYS = "abcdefgh"
COUNTERS = (
    *("ready", "delayed", "leased", "buffered", "put", "delivered", "acked", "released"),
    *("expired", "given_back", "dead", "dropped", "superseded", "cancelled"),
)

Step = tuple[str, Any]
Plan = tuple[dict[str, Any], list[Step]]
Story = list[object]


class Brokers(Protocol):
    """An engine whose time can be moved."""

    async def broker(self) -> Broker: ...

    async def advance(self, seconds: float) -> None: ...


class Teller:
    """Carries out a plan, and tells what came of each step."""

    def __init__(
        self, engine: Brokers, queue: LeasedQueue[str, Any], broker: Broker, *, dedupes: bool
    ) -> None:
        self.engine = engine
        self.queue = queue
        self.broker = broker
        self.dedupes = dedupes
        self.leases: list[Lease[str, Any]] = []
        self.story: Story = []

    async def follow(self, plan: Iterable[Step]) -> None:
        for name, arguments in plan:
            await self.tell(name, getattr(self, name)(*arguments))
            await anyio.sleep(TICK)
            counts = await self.queue.statistics(tenants=True)
            tenants = sorted((counts.tenants or {}).items(), key=repr)
            shares = [(name, each) for name, each in tenants if each.ready or each.leased]
            self.story.append((*(getattr(counts, name) for name in COUNTERS), *shares))
            await self.tell("keys", self.keys())

    async def tell(self, name: str, outcome: Awaitable[object]) -> None:
        try:
            self.story.append((name, await outcome))
        except (LeaseqError, TimeoutError, TypeError, ValueError) as error:
            self.story.append((name, reasons(error)))

    async def keys(self) -> object:
        asked = {
            "ready": self.queue.available_keys,
            "delayed": self.queue.delayed_keys,
            "leased": self.queue.inflight_keys,
        }
        by_state = {state: sorted(await keys()) for state, keys in asked.items()}
        for state, keys in by_state.items():
            assert {await self.queue.state(key) for key in keys} <= {state}
        return by_state

    def lease(self, number: int) -> Lease[str, Any]:
        return self.leases[number % len(self.leases)]

    async def would_wait(self, keys: Iterable[str]) -> bool:
        """Return True if there is no room, for keys that the queue could hold."""
        counts = await self.queue.statistics()
        new = [key for key in {*keys} if await self.queue.state(key) == "absent"]
        if len(new) > MAX_SIZE and not self.dedupes:  # else some may be duplicates, and need none
            return False
        return len(new) > 0 and counts.ready + counts.delayed + len(new) > MAX_SIZE

    async def put(self, key: str, value: int, options: dict[str, Any]) -> object:
        if await self.would_wait([key]):
            return "full"
        return await self.queue.put(key, value, **options)

    async def put_many(self, keys: list[str], options: dict[str, Any]) -> object:
        if await self.would_wait(keys):
            return "full"
        return await self.queue.put_many([(key, 0) for key in keys], **options)

    async def get(self, options: dict[str, Any]) -> object:
        _, _, lease = await self.queue.get(timeout=0, **options)
        return self.hold(lease)

    async def get_batch(self, size: int, options: dict[str, Any]) -> object:
        leases = await self.queue.get_batch(size, timeout=0, **options)
        return [self.hold(lease) for lease in leases]

    async def take(self, key: str, options: dict[str, Any]) -> object:
        _, _, lease = await self.queue.take(key, timeout=0, **options)
        return self.hold(lease)

    def hold(self, lease: Lease[str, Any]) -> object:
        self.leases.append(lease)
        return lease.key, lease.value, lease.deliveries, lease.tenant, lease.priority

    async def settle(self, how: str, number: int, *arguments: Any) -> object:
        if not self.leases:
            return None
        settle = getattr(self.queue, how)
        return await settle(self.lease(number), *arguments)

    async def release(self, number: int, options: dict[str, Any]) -> object:
        return await self.queue.release(self.lease(number), **options) if self.leases else None

    async def cancel(self, key: str, options: dict[str, Any]) -> object:
        return await self.queue.cancel(key, **options)

    async def release_all(self, consumer: str) -> object:
        return await self.queue.release_all(consumer=consumer)

    async def transact(self, moves: list[Step]) -> object:
        if await self.would_wait([arguments[0] for name, arguments in moves if name == "put"]):
            return "full"
        async with self.broker.transaction() as transaction:
            for name, arguments in moves:
                if name == "put":
                    key, value, options = arguments
                    transaction.put(self.queue, key, value, **options)
                elif self.leases:
                    number, *rest = arguments
                    getattr(transaction, name)(self.lease(number), *rest)
        return "done"

    async def redrive(self, limit: int | None) -> object:
        result = await self.queue.redrive(limit=limit)
        return result.keys, result.conflicts

    async def pause(self, tenant: str | None, reason: str) -> object:
        await self.queue.pause(tenant, reason=reason)
        info = await self.queue.info()
        tenants = [(name, pause.reason) for name, pause in info.paused_tenants.items()]
        return info.paused and info.paused.reason, tenants

    async def resume(self, tenant: str | None) -> object:
        return await self.queue.resume(tenant)

    async def advance(self, halves: int) -> None:
        """Let time pass, looking often enough that no item has two things due in one step."""
        for _ in range(halves):
            await self.engine.advance(UNIT / 2)

    async def empty(self, queue: LeasedQueue[str, Any]) -> None:
        """Tell the order of all that is left."""
        while True:
            try:
                _, value, lease = await queue.get(timeout=0)
            except TimeoutError:
                return
            if hasattr(value, "reason"):
                value = (value.key, value.value, value.reason, value.deliveries, value.tenant)
            self.story.append((lease.key if queue is self.queue else "", value))
            await queue.ack(lease)


def reasons(error: BaseException) -> object:
    """The types of an error: of a group, of each that is in it."""
    if isinstance(error, BaseExceptionGroup):
        return sorted(str(reasons(each)) for each in error.exceptions)
    return type(error).__name__


async def story_of(engine: Brokers, plan: Plan) -> Story:
    options, steps = plan
    broker = await engine.broker()
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        letters = await broker.queue("dead")
        queue = await broker.queue("work", dead_letters="dead", **options)
        teller = Teller(engine, queue, broker, dedupes="dedupe_for" in options)
        await teller.follow(steps)
        for tenant in ("x", "y", None):
            await teller.tell("the end of pauses", queue.resume(tenant))
        await teller.advance(20)  # all leases expire, and all delays are over
        for lease in teller.leases:
            await teller.tell("the end", queue.release(lease))
            await anyio.sleep(TICK)
        await teller.empty(queue)
        await teller.empty(letters)
        tg.cancel_scope.cancel()
    return teller.story


def maybe(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


units = st.integers(1, 3).map(lambda number: number * UNIT)
keys = st.sampled_from(KEYS)
tenants = st.sampled_from(["x", "y", None])
puts = maybe(
    priority=st.sampled_from([-1, 0, 5]),
    tenant=tenants,
    delay=units,
    ttl=units.map(lambda seconds: seconds + UNIT / 2),
    if_in_flight=st.sampled_from(["update", "reject", "buffer"]),
    reschedule=st.sampled_from(["earliest", "latest"]),
)
takes = maybe(lease_timeout=units, consumer=st.sampled_from(["one", "two"]))
gets = maybe(
    lease_timeout=units,
    consumer=st.sampled_from(["one", "two"]),
    tenants=st.lists(tenants, min_size=1, max_size=2),
)
numbers = st.integers(0, 7)
releases = maybe(delay=units, requeue_front=st.booleans())


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments))


moves = st.one_of(
    *[step("put", keys, st.integers(0, 9), puts)] * 2,
    step("ack", numbers),
    step("release", numbers),
    step("reject", numbers, st.just("bad")),
)
steps = st.one_of(
    *[step("put", keys, st.integers(0, 9), puts)] * 4,
    step("put_many", st.lists(keys, min_size=1, max_size=7), puts),
    *[step("get", gets)] * 4,
    step("get_batch", st.integers(1, 4), gets),
    step("take", keys, takes),
    step("settle", st.just("ack"), numbers),
    step("settle", st.just("reject"), numbers, st.just("no")),
    step("settle", st.just("extend"), numbers, units),
    step("release", numbers, releases),
    step("release_all", st.sampled_from(["one", "two"])),
    step("cancel", keys, maybe(keep_successor=st.booleans())),
    step("transact", st.lists(moves, min_size=1, max_size=4)),
    step("redrive", st.sampled_from([None, 1, 2])),
    step("pause", st.sampled_from(["x", "y", None]), st.sampled_from(["", "a reason"])),
    step("resume", st.sampled_from(["x", "y", None])),
    step("resume", st.just(None)),
    step("advance", st.integers(1, 4)),
    step("advance", st.integers(1, 4)),
)
queues = st.fixed_dictionaries(
    {"max_size": st.just(MAX_SIZE)},
    optional={
        "retry": st.sampled_from([Retry(max_deliveries=1), Retry(max_deliveries=2)]),
        "tenants": st.sampled_from([{"x": Tenant(weight=2.0)}, {"x": Tenant(max_in_flight=1)}]),
        "dedupe_for": units,
        "default_lease_timeout": units,
    },
)
plans = st.tuples(queues, st.lists(steps, min_size=5, max_size=30))


def run(engine: Callable[[], Any], plan: Plan, backend: tuple[str, dict[str, object]]) -> Story:
    async def main() -> Story:
        opened = engine()
        try:
            return await story_of(opened, plan)
        finally:
            if hasattr(opened, "close"):
                await opened.close()

    name, options = backend
    return anyio.run(main, backend=name, backend_options=options)


def compare(other: Callable[[], Any], examples: int, *, virtual: bool) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(plans)
    def agree(plan: Plan) -> None:
        here = run(Memory, plan, virtual_backend("asyncio"))
        there = run(other, plan, virtual_backend("asyncio") if virtual else ("asyncio", {}))
        assert there == here

    agree()


@pytest.mark.parametrize("examples", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_plan_goes_as_in_memory_on_a_store_that_is_shared(examples: int) -> None:
    compare(Ledgers, examples, virtual=True)


@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_a_plan_goes_as_in_memory_in_a_file(examples: int) -> None:
    compare(Sqlite, examples, virtual=False)


@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.slow)])
def test_a_plan_goes_as_in_memory_on_a_server(servers: Servers, kind: str, examples: int) -> None:
    url = servers(kind).url
    compare(lambda: Valkey(url), examples, virtual=False)


LONG = [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(3, 303, 6))]


@pytest.mark.parametrize("first", LONG)
def test_long_plans_go_as_in_memory_on_a_server(servers: Servers, first: int) -> None:
    from tests.sqlite.plans import plan_of  # which takes its steps from here

    url = servers("valkey").url
    for seed in range(first, first + (6 if first else 3)):
        plan = plan_of(seed, 500 if first else 200)
        here = run(Memory, plan, virtual_backend("asyncio"))
        there = run(lambda: Valkey(url), plan, ("asyncio", {}))
        assert there == here, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_long_plan_goes_as_in_memory_in_a_file(seed: int) -> None:
    from tests.sqlite.plans import agrees  # which takes its steps from here

    assert agrees(seed, 300) == ""
