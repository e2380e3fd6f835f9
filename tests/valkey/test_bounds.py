"""No answer is without bounds, and no call holds the server for long, however much there is."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from resource import RUSAGE_SELF, getrusage
from typing import Any
from unittest.mock import patch

import anyio
import pytest
import valkey
from anyio import create_task_group, fail_after
from script_calls import Caller, claim, declare, put, request
from tests.contract.helpers import in_line
from tests.remote.mishaps import eventually
from tests.servers import Server
from tests.valkey.conftest import start
from tests.valkey.engine import Valkey, store_of

import leaseq
from leaseq import Tenant, serve
from leaseq._core.limits import MOST_BODIES, MOST_ITEMS, MOST_NAMES, MOST_STEPS, MOST_TENANTS
from leaseq._valkey.scripts import broker_keys, queue_keys
from leaseq.valkey import ValkeyBroker

pytestmark = pytest.mark.anyio

SOME = 9 << 20  # bytes: what an answer may have, and one item more


class Bytes:
    """A codec of bytes as they are."""

    def encode(self, value: bytes, /) -> bytes:
        return value

    def decode(self, body: bytes, /) -> bytes:
        return body


@pytest.fixture
async def engine(anyio_backend: object, server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(server.url)
    yield made
    await made.close()


@pytest.fixture
async def broker(engine: Valkey) -> ValkeyBroker:
    return await engine.broker()


def size_of(reply: Any) -> int:
    """The bytes of an answer, more or less."""
    if isinstance(reply, list):
        return sum(map(size_of, reply))
    return len(reply) if isinstance(reply, bytes) else 8


@contextmanager
def replies_of(broker: ValkeyBroker) -> Iterator[list[int]]:
    """Collect the sizes of the server's answers."""
    client: Any = store_of(broker)._client
    sizes: list[int] = []
    call = client.script

    async def script(*args: Any) -> Any:
        reply = await call(*args)
        sizes.append(size_of(reply))
        return reply

    with patch.object(client, "script", script):
        yield sizes


async def fill(queue: Any, items: int, **options: Any) -> None:
    for first in range(0, items, MOST_ITEMS):
        numbers = range(first, min(first + MOST_ITEMS, items))
        await queue.put_many([(number, number) for number in numbers], **options)


async def lease_all(queue: Any, items: int) -> list[Any]:
    leases: list[Any] = []
    while len(leases) < items:
        leases += await queue.get_batch(1000, timeout=10)
    return leases


# Values


async def test_the_largest_value_goes_everywhere_and_one_byte_more_nowhere(
    broker: ValkeyBroker,
) -> None:
    queue, letters = await broker.create_queue_pair("big", codec=Bytes(), history=5)
    value, more = bytes(MOST_BODIES), bytes(MOST_BODIES + 1)
    refusal = r"takes 4,194,305 bytes, and 4,194,304 is the most"
    for put_it in (
        lambda: queue.put("a", more),
        lambda: queue.put_many([("a", more)]),
    ):
        with pytest.raises(ValueError, match=refusal):
            await put_it()
    async with broker.transaction() as transaction:
        with pytest.raises(ValueError, match=refusal):
            transaction.put(queue, "a", more)
    assert await queue.qsize() == 0
    with replies_of(broker) as sizes:
        for key in ("a", "b", "c"):
            await queue.put(key, value)
        assert await queue.peek("a") == value
        assert len(await queue.get_batch(3)) == 3
        first, second, third = [*queue._engine._held.values()]
        await queue.ack(first)
        await queue.ack(second)
        assert [entry.value for entry in await queue.history()] == [value, value]
        assert len(await queue.inflight()) == 1
        await queue.reject(await queue.lease_of(third.receipt), "bad")
        assert (await letters.peek((await letters.available_keys()).pop())).value == value
        assert (await queue.redrive()).keys == ("c",)
        assert (await queue.get())[1] == value
    assert max(sizes) < SOME


async def test_a_put_of_many_says_how_to_split_it(broker: ValkeyBroker) -> None:
    queue = await broker.queue("work", codec=Bytes())
    with pytest.raises(ValueError, match=r"takes 500 items at most .* split them into lots of 500"):
        await queue.put_many([(number, b"") for number in range(MOST_ITEMS + 1)])
    with pytest.raises(ValueError, match=r"take 5,000,000 bytes together.* into 3 lots or more"):
        await queue.put_many([(number, bytes(100_000)) for number in range(50)])
    async with broker.transaction() as transaction:
        for number in range(MOST_STEPS):
            transaction.put(queue, number, b"")
        with pytest.raises(ValueError, match=r"transaction\(\) takes 250 steps at most.*own"):
            transaction.put(queue, "more", b"")
    assert await queue.qsize() == MOST_STEPS
    await queue.put_many([(number, b"x") for number in range(MOST_ITEMS)])


async def test_values_that_are_there_can_be_too_much_to_replace_together(
    broker: ValkeyBroker,
) -> None:
    queue = await broker.queue("work", codec=Bytes())
    for number in range(8):
        await queue.put(number, bytes(MOST_BODIES - 1000))
    with pytest.raises(ValueError, match="too much to be replaced by one call"):
        await queue.put_many([(number, b"") for number in range(8)])
    for number in range(8):
        await queue.put(number, b"")


async def test_tenants_among_the_options_have_a_bound(broker: ValkeyBroker) -> None:
    tenants = {str(number): Tenant() for number in range(MOST_TENANTS + 1)}
    with pytest.raises(ValueError, match=r"names 1,000 at most .*set_tenant"):
        await broker.queue("work", tenants=tenants)
    tenants.popitem()
    await broker.queue("work", tenants=tenants)


def test_the_scripts_refuse_what_is_beyond_the_limits(server: Server) -> None:
    caller = Caller(("127.0.0.1", server.port))
    caller.client.flushall()
    caller.call("manage", declare(1, "q"), declare(2, "d"))
    longer = "n" * 300
    refused = [
        put(1, ("k" * 70_000, 1)),
        put(1, ("k" * 1100, 1)),
        put(1, ("a", 1), tenant=longer),
        put(1, ("a", 1), tenant="n" * 65_536),
        put(1, *((str(number), 1) for number in range(MOST_ITEMS + 1))),
        put(1, ("a", "x" * (MOST_BODIES + 1))),
        claim(1, request(consumer=f"={longer}")),
        ["transact", 1, *put(1, ("a", 1), tenant=longer)],
        [
            "transact",
            MOST_STEPS + 1,
            *[w for n in range(MOST_STEPS + 1) for w in put(1, (str(n), 1))],
        ],
    ]
    for operation in refused:
        word, said = caller.turn(operation).results[0]
        assert (word, said[:8]) == (b"raised", b"TOOLONG ")
    assert caller.manage("set_tenant", 1, f"={longer}", 1, -1)[0] == b"raised"
    assert caller.turn(put(1, ("a", 1)), claim(1)).results[0] == [b"ok", b"a"]
    caller.client.close()


# Answers


@pytest.mark.parametrize("tenants", [None, {"x": Tenant()}], ids=["plain", "tenants"])
async def test_ten_large_items_for_ten_workers_are_done_and_hold_up_no_other_queue(
    broker: ValkeyBroker, tenants: Any
) -> None:
    big = await broker.queue("big", codec=Bytes(), tenants=tenants)
    other = await broker.queue("other")
    for number in range(10):
        await big.put(number, bytes(4_000_000))
    done: list[Any] = []

    async def handle(lease: Any) -> None:
        done.append(lease.key)

    with fail_after(60), replies_of(broker) as sizes:
        async with create_task_group() as tg:
            await tg.start(broker.run)
            await tg.start(serve, big, handle, 10)
            await other.put("a", 1)
            await big.shutdown()
            await big.join()
            tg.cancel_scope.cancel()
    assert sorted(done) == [*range(10)]
    assert max(sizes) < SOME


async def test_what_is_asked_for_together_is_answered_in_parts(broker: ValkeyBroker) -> None:
    queue = await broker.queue("big", codec=Bytes(), history=100)
    for number in range(20):
        await queue.put(number, bytes(1_000_000))
    seen: list[bytes] = []

    async def peek(number: int) -> None:
        seen.append(await queue.peek(number))

    with fail_after(60), replies_of(broker) as sizes:
        async with create_task_group() as tg:
            for number in range(20):
                tg.start_soon(peek, number)
        leases = await queue.get_batch(20)
        await queue.inflight()
        assert len(leases) == 20
        async with create_task_group() as tg:
            for lease in leases[10:]:
                tg.start_soon(queue.release, lease)
            for lease in leases[:10]:
                tg.start_soon(queue.ack, lease)
        assert len(await queue.history()) == 10
        await queue.statistics(tenants=True)
        assert len(await lease_all(queue, 10)) == 10
    assert [len(each) for each in seen] == [1_000_000] * 20
    assert max(sizes) < SOME


async def test_looks_and_changes_of_a_whole_queue_take_many_short_calls(
    broker: ValkeyBroker,
) -> None:
    queue = await broker.queue("work", dead_letters="dead", history=5000)
    keys = {*range(4000)}
    await fill(queue, 4000)
    with replies_of(broker) as sizes:
        assert await queue.available_keys() == keys
        assert len(sizes) > 3
        leases = await lease_all(queue, 3000)
        sizes.clear()
        inflight = await queue.inflight()
        assert len(sizes) > 5
        assert [lease.key for lease in inflight] == [lease.key for lease in leases]
        assert await queue.inflight_keys() == {lease.key for lease in leases}
        sizes.clear()
        assert await broker.purge("work") == 1000
        assert 1 < len(sizes) < 20
    async with create_task_group() as tg:
        for lease in leases[:1000]:
            tg.start_soon(queue.ack, lease)
        for lease in leases[1000:1300]:
            tg.start_soon(queue.reject, lease, "bad")
    assert len(await queue.history()) == 1000
    with replies_of(broker) as sizes:
        assert len((await queue.redrive()).keys) == 300
        assert len(sizes) > 1
    gone = await queue.get_batch(100, consumer="gone")
    with replies_of(broker) as sizes:
        assert await queue.release_all(consumer="gone") == len(gone)
        assert len(sizes) > 2
    await queue.close()
    again = await broker.queue("work")
    counts = await again.statistics()
    assert (counts.ready, counts.leased) == (2000, 0)


async def put_later(queue: Any, values: dict[str, bytes]) -> None:
    items = [*values.items()]
    async with create_task_group() as tg:
        await tg.start(queue.run)
        for first in range(0, len(items), MOST_ITEMS):
            await queue.put_many(items[first : first + MOST_ITEMS], delay=600)
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("mortal", [0, 500], ids=["for ever", "with times to live"])
async def test_delayed_keys_come_in_pages(broker: ValkeyBroker, mortal: int) -> None:
    queue = await broker.queue("work", codec=Bytes())
    values = dict.fromkeys(map(str, range(4000)), b"x")
    await put_later(queue, values)
    for number in range(mortal):  # then there are timers of ready items too
        await queue.put(f"ready{number}", b"x", ttl=600)
    with replies_of(broker) as sizes:
        assert await queue.delayed_keys() == {*values}
        assert len(sizes) > 3
        assert max(sizes) < 50_000


async def test_items_with_large_values_are_read_few_at_a_time_to_find_the_delayed_ones(
    broker: ValkeyBroker,
) -> None:
    queue = await broker.queue("work", codec=Bytes())
    values = dict.fromkeys(map(str, range(16)), bytes(1 << 20))
    for key, value in values.items():
        await put_later(queue, {key: value})
    with replies_of(broker) as sizes:
        assert await queue.delayed_keys() == {*values}
        assert len(sizes) == 1  # there was no need to read any
        await queue.put("ready", b"x", ttl=600)
        sizes.clear()
        assert await queue.delayed_keys() == {*values}
        assert len(sizes) > 3


@pytest.mark.parametrize("change", ["leaves", "moves"])
@pytest.mark.parametrize("what", ["delayed", "leased"])
async def test_what_goes_between_two_pages_hides_nothing_that_stays(
    broker: ValkeyBroker, engine: Valkey, what: str, change: str
) -> None:
    queue = await broker.queue("work", codec=Bytes())
    other = await (await engine.another_broker()).queue("work", codec=Bytes())
    keys = [f"{number:02}" for number in range(16)]
    leases: dict[str, Any] = {}
    client: Any = store_of(broker)._client
    call, replies = client.script, 0

    async def script(*args: Any) -> Any:
        nonlocal replies
        reply = await call(*args)
        replies += 1
        if replies == 1:
            if what == "delayed" and change == "leaves":
                await other.discard("00")
            elif what == "delayed":
                await other.put("00", b"x", delay=900, reschedule="latest")
            else:
                await (leases["00"].ack() if change == "leaves" else leases["00"].extend(900))
        return reply

    async with create_task_group() as tg:
        await tg.start(other.run)
        for key in keys:
            await other.put(key, bytes(1 << 20), delay=600 if what == "delayed" else 0)
            if what == "leased":
                leases[key] = (await other.take(key, lease_timeout=600))[2]
        await other.put("mortal", b"x", ttl=800)
        with patch.object(client, "script", script):
            if what == "delayed":
                found = await queue.delayed_keys()
            else:
                found = {lease.key for lease in await queue.inflight()}
        tg.cancel_scope.cancel()
    assert replies > 3
    assert found - {"00"} == {*keys[1:]}


async def test_many_tenants_and_many_queues_come_in_pages(broker: ValkeyBroker) -> None:
    queue = await broker.queue("work")
    for lot in range(12):
        async with create_task_group() as tg:
            for number in range(100):
                tg.start_soon(_put_for, queue, f"{lot}-{number}")
    with replies_of(broker) as sizes:
        counts = await queue.statistics(tenants=True)
        assert counts.tenants is not None
        assert len(counts.tenants) == 1200
        assert len(sizes) > 3
        sizes.clear()
        assert await broker.purge("work") == 1200
        assert len(sizes) > 1
    assert await in_line(queue) == []
    names = {f"queue-{number}" for number in range(300)} | {"work"}
    for name in names:
        await broker.queue(name)
    infos = await broker.list_queues()
    assert infos[0].name == "work"
    assert {info.name for info in infos} == names
    times = [info.created_at for info in infos]
    assert times == sorted(times)


async def _put_for(queue: Any, name: str) -> None:
    await queue.put(name, 1, tenant=name)


async def test_waiters_on_many_queues_are_asked_for_in_lots_and_all_are_served(
    broker: ValkeyBroker, engine: Valkey
) -> None:
    queues = [await broker.queue(f"q{number}") for number in range(600)]
    other = await engine.another_broker()
    got: list[Any] = []

    async def get(queue: Any) -> None:
        got.append((await queue.get())[0])

    with fail_after(60):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            with replies_of(broker) as sizes:
                for queue in queues:
                    tg.start_soon(get, queue)
                await eventually(lambda: all(map(waits_on_the_server, queues)))
            assert 1 < len(sizes) < 60
            for queue in queues[::100]:
                await (await other.queue(queue.name)).put(queue.name, 1)
            await eventually(lambda: len(got) == 6)
            tg.cancel_scope.cancel()
    assert sorted(got) == sorted(queue.name for queue in queues[::100])


def waits_on_the_server(queue: Any, *, wants: int = 1) -> bool:
    """Tell whether the server knows what the consumers of a handle wait for."""
    return len(queue._engine._waiters.parked) >= wants


# The time for which the server does nothing else


LONGEST = 0.1
"""Seconds; a call is to take 20 milliseconds at most, and the machine may be slower."""


@contextmanager
def holds_up_nobody(broker: ValkeyBroker, server: Server) -> Iterator[None]:
    """See that no call of a broker takes more than `LONGEST` of the server's processor time.

    Its own clock goes on while other programs have the processor.
    """
    store: Any = store_of(broker)
    call = store._client.script
    times: list[float] = []
    with valkey.Valkey(port=server.port) as client:

        def used() -> float:
            cpu: Any = client.info("cpu")
            return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])

        async def script(*args: Any) -> Any:
            before = used()
            reply = await call(*args)
            times.append(used() - before)
            return reply

        with patch.object(store._client, "script", script):
            yield
    assert max(times) < LONGEST, sorted(times)[-5:]


async def test_the_largest_puts_hold_up_nobody(broker: ValkeyBroker, server: Server) -> None:
    queue = await broker.queue("work", tenants={"x": Tenant()}, codec=Bytes())
    keys = [f"{number}" for number in range(MOST_ITEMS)]
    with holds_up_nobody(broker, server):
        await queue.put_many([(key, b"") for key in keys])
        for urgency in range(3, 6):
            body = bytes(MOST_BODIES // MOST_ITEMS)
            await queue.put_many([(key, body) for key in keys], ttl=500.0, priority=urgency)
    with holds_up_nobody(broker, server):
        for size, options in ((10, {}), (4000, {"priority": 9}), (4000, {"priority": 10})):
            async with broker.transaction() as transaction:
                for number in range(MOST_STEPS):
                    tenant = f"t{number}"
                    transaction.put(queue, f"x{number}", bytes(size), tenant=tenant, **options)


@pytest.mark.parametrize("end", ["ack", "release", "reject"])
async def test_the_largest_settlements_hold_up_nobody(
    broker: ValkeyBroker, server: Server, end: str
) -> None:
    queue = await broker.queue("work", dead_letters="dead", dedupe_for=60.0, history=1000)
    await queue.put_many([(number, "x" * 1000) for number in range(MOST_ITEMS)])
    await queue.put_many([(-1 - number, "x" * 1000) for number in range(MOST_ITEMS)])
    more = {"reject": ("bad",)}.get(end, ())
    leases = await lease_all(queue, 2 * MOST_ITEMS)
    with holds_up_nobody(broker, server):
        async with broker.transaction() as transaction:
            for lease in leases[:MOST_STEPS]:
                getattr(transaction, end)(lease, *more)
        async with create_task_group() as tg:
            for lease in leases[MOST_STEPS:]:
                tg.start_soon(getattr(queue, end), lease, *more)


async def test_many_tenants_of_one_consumer_hold_up_nobody(
    broker: ValkeyBroker, server: Server
) -> None:
    queue = await broker.queue("work", tenants={"x": Tenant()})
    names = [f"{number}" for number in range(MOST_NAMES)]
    with pytest.raises(ValueError, match=r"1,000 tenants at most, not 50,000: have several"):
        await queue.get(tenants=[f"{number}" for number in range(50_000)])
    with pytest.raises(ValueError, match=r"1,000 tenants at most, not 1,001"):
        await queue.get(tenants=names, steal_from=["y"])
    got: list[Any] = []

    async def get(first: int) -> None:
        got.append((await queue.get(tenants=[f"{first}-{name}" for name in names]))[0])

    with holds_up_nobody(broker, server), fail_after(60):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            for first in range(20):
                tg.start_soon(get, first)
            await eventually(lambda: waits_on_the_server(queue, wants=20 * MOST_NAMES))
            for first in range(20):
                await queue.put(first, 1, tenant=f"{first}-{first}")
            await eventually(lambda: len(got) == 20)
            tg.cancel_scope.cancel()
    assert sorted(got) == [*range(20)]


async def test_many_keys_to_redrive_hold_up_nobody(broker: ValkeyBroker, server: Server) -> None:
    queue, letters = await broker.create_queue_pair("work")
    await queue.put_many([(number, 1) for number in range(300)])
    for lease in await lease_all(queue, 300):
        await queue.reject(lease, "bad")
    keys = [*range(5000, 8000), *range(0, 300, 2)]
    with replies_of(broker) as sizes, holds_up_nobody(broker, server):
        result = await queue.redrive(keys)
        assert sorted(result.keys) == [*range(0, 300, 2)]
        assert len(sizes) > 3
        assert len((await queue.redrive(range(300), limit=10)).keys) == 10
    assert await letters.qsize() == 140


@pytest.mark.parametrize("tenants", [None, {"x": Tenant()}], ids=["plain", "tenants"])
async def test_those_who_have_gone_without_a_word_hold_up_nobody(
    broker: ValkeyBroker, server: Server, tenants: Any
) -> None:
    queue = await broker.queue("work", tenants=tenants)
    prefix = store_of(broker)._broker_keys[0][1:].partition("}")[0]
    with valkey.Valkey(port=server.port) as client:
        for lot in range(20):
            gone = {
                b"\0\1a" + (lot * 1000 + n + 1).to_bytes(8, "big") + b"gone%d" % n: 0
                for n in range(1000)
            }
            client.zadd(queue_keys(prefix, "work")[5], gone)
    with holds_up_nobody(broker, server):
        await queue.put_many([(number, 1) for number in range(MOST_ITEMS)])
        assert len(await lease_all(queue, MOST_ITEMS)) == MOST_ITEMS


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_large_queues_hold_up_nobody(broker: ValkeyBroker, server: Server) -> None:
    queue = await broker.queue("work")
    with fail_after(300), holds_up_nobody(broker, server):
        await fill(queue, 101_000)
        for _ in range(1000):
            await queue.get_batch(100)
        assert len(await queue.inflight()) == 100_000
        assert await broker.purge("work") == 1000
        assert await queue.release_all(consumer="gone") == 0


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_waiters_on_three_thousand_queues_hold_up_nobody(
    broker: ValkeyBroker, server: Server
) -> None:
    queues = [await broker.queue(f"q{number}") for number in range(3000)]
    with fail_after(120), holds_up_nobody(broker, server):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            for queue in queues:
                tg.start_soon(queue.get)
            await anyio.sleep(8.0)
            tg.cancel_scope.cancel()


# What stays


async def test_a_process_that_closes_takes_its_entries_away(server: Server) -> None:
    server.command("FLUSHALL")
    with valkey.Valkey(port=server.port) as client:
        for _ in range(30):
            async with leaseq.connect(server.url) as broker:
                queue = await broker.queue("work")
                with anyio.move_on_after(0.01):
                    await queue.get()
        calls, _ = broker_keys("leaseq")
        assert client.hkeys(calls) == [b"@"]
        parked = queue_keys("leaseq", "work")[5]
        assert client.zcard(parked) == 0


# A lot


async def shrunk(queue: Any, size: int) -> None:
    """Wait until a queue has so many items at most."""
    while True:
        if await queue.qsize() <= size:
            return
        await anyio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_two_workers_drain_a_deep_queue_of_large_values_with_bounded_memory(
    own_server: Server,
) -> None:
    """By default half a gigabyte deep; the server needs so much memory, and some more."""
    items = int(os.environ.get("LEASEQ_ITEMS", "10000"))
    depth = int(os.environ.get("LEASEQ_DEPTH", "5000"))
    size = 100_000
    gate = anyio.CapacityLimiter(32)
    deepest = 0
    before = getrusage(RUSAGE_SELF).ru_maxrss
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=2.0)

        async def put(number: int) -> None:
            async with gate:
                await queue.put(str(number), "x" * size)

        async def put_lot(first: int) -> None:
            nonlocal deepest
            async with create_task_group() as putting:
                for number in range(first, first + 500):
                    putting.start_soon(put, number)
            deepest = max(deepest, await queue.qsize())

        for first in range(0, min(items, depth), 500):
            await put_lot(first)
        async with start("drain", own_server.url) as one, start("drain", own_server.url) as two:
            for worker in (one, two):
                await worker.until(lambda lines: ["ready"] in lines)
            for first in range(depth, items, 500):
                await shrunk(queue, depth - 500)  # the server has no room for all
                await put_lot(first)
            await queue.join()
            for worker in (one, two):
                worker.terminate()
                await worker.until(lambda lines: lines[-1][0] == "drained")
            done, most = zip(*(worker.lines[-1][1:] for worker in (one, two)), strict=True)
        tg.cancel_scope.cancel()
    assert deepest >= min(items, depth) - 500
    assert sum(done) == items
    assert min(done) > 0
    assert max(most) < 250
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.slow
@pytest.mark.only("asyncio")
@pytest.mark.parametrize("what", ["a million keys", "a hundred of the largest values"])
async def test_a_lot_holds_up_no_other_process(own_server: Server, what: str) -> None:
    slowest = 0.0
    async with leaseq.connect(own_server.url) as one, leaseq.connect(own_server.url) as other:
        queue = await one.queue("many")
        quick = await other.queue("quick")
        big = await one.queue("big", codec=Bytes())

        async def keep_putting() -> None:
            nonlocal slowest
            number = 0
            while True:
                number += 1
                started = time.monotonic()
                await quick.put(number % 100, 1)
                slowest = max(slowest, time.monotonic() - started)
                await anyio.sleep(0.01)

        async with create_task_group() as tg:
            await tg.start(one.run)
            await tg.start(other.run)
            tg.start_soon(keep_putting)
            if what == "a million keys":
                await fill(queue, 1_000_000)
                assert len(await queue.available_keys()) == 1_000_000
                assert await one.purge("many") == 1_000_000
            else:
                for number in range(100):
                    await big.put(number, bytes(MOST_BODIES))
                sizes = [len((await big.get())[1]) for _ in range(100)]
                assert sizes == [MOST_BODIES] * 100
            tg.cancel_scope.cancel()
    assert slowest < 1.0
