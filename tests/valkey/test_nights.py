"""Nights when everything breaks: processes that freeze, servers that forget, clocks that are wrong.

All that is killed, frozen or cut off here is a process of its own.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.children import Child
from tests.remote.mishaps import eventually
from tests.servers import Server
from tests.valkey.conftest import start
from tests.valkey.processes import LEASE
from tests.valkey.wire import Wire

import leaseq
from leaseq import LeasedQueue

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.only("asyncio"),
    pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them"),
]

BACKENDS = ("asyncio", "asyncio+uvloop", "trio")
PATIENCE = 30.0
HOURS = 3600.0


@asynccontextmanager
async def queue_on(url: str) -> AsyncIterator[LeasedQueue[str, Any]]:
    """The programs' queue, with a handle here."""
    async with leaseq.connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        yield await broker.queue("work", default_lease_timeout=LEASE)
        tg.cancel_scope.cancel()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    """How to tell the programs of a test their backend: another one than that of the next test."""
    return "--backend", random.Random(request.node.name).choice(BACKENDS)


def put_by(*producers: Child) -> set[str]:
    """What they put, as far as they came to say so."""
    return {line[0] for each in producers for line in each.lines if len(line) == 1}


def acked_by(*consumers: Child) -> Counter[str]:
    """What they acknowledged, and how often."""
    return Counter(line[0] for each in consumers for line in each.lines if len(line) == 2)


async def test_a_server_that_forgets_its_scripts_is_told_them_again(
    own_server: Server, backend: tuple[str, str]
) -> None:
    async with (
        start("produce", own_server.url, *backend, "--name", "a") as producer,
        start("consume", own_server.url, *backend) as consumer,
        queue_on(own_server.url) as queue,
    ):
        for _ in range(20):
            await producer.say_more()
            assert own_server.command("SCRIPT", "FLUSH") == b"+OK"
        producer.kill()
        with fail_after(PATIENCE):
            await queue.join()
        acked = (await queue.statistics()).acked
        await consumer.until(lambda lines: acked_by(consumer).total() == acked)
        done = acked_by(consumer)
        assert set(done.values()) == {1}
        assert put_by(producer) <= done.keys()
        assert not [line for line in consumer.lines if line[0] == "lost"]


async def test_a_frozen_consumer_does_no_harm_when_it_thaws(
    own_server: Server, backend: tuple[str, str]
) -> None:
    async with queue_on(own_server.url) as queue:
        await queue.put_many([("by hand", 1), ("in a body", 2)])
        async with start("hang", own_server.url, *backend) as frozen:
            await frozen.until(bool)
            frozen.freeze()
            tokens = {}
            with fail_after(PATIENCE):
                for _ in range(2):  # when the leases have expired
                    _, _, lease = await queue.get()
                    tokens[lease.key] = lease.token
                    await lease.ack()
            frozen.thaw()
            await frozen.until(lambda lines: ["done"] in lines)
            assert await frozen.ended() == 0
        said = {line[0]: line[1:] for line in frozen.lines}
        assert said["ended"][0] == "in a body"  # it was cancelled
        assert said["lost"][0] == "in a body"
        assert said["late"][0] == "by hand"  # the ack was refused
        assert said["lost"][1] < tokens["in a body"]
        assert said["late"][1] < tokens["by hand"]
        statistics = await queue.statistics()
        assert (statistics.acked, statistics.expired) == (2, 2)


async def test_who_is_frozen_while_it_waits_does_not_hold_up_others(
    own_server: Server, backend: tuple[str, str]
) -> None:
    one = (own_server.url, *backend, "--consumers", "1")
    async with queue_on(own_server.url) as queue, AsyncExitStack() as stack:
        frozen = await stack.enter_async_context(start("consume", *one))
        await frozen.until(lambda lines: ["ready"] in lines)
        await queue.put("first", 1)
        await frozen.until(
            lambda lines: acked_by(frozen).total() == 1
        )  # and waits again, the first
        await anyio.sleep(0.2)
        awake = await stack.enter_async_context(start("consume", *one))
        await awake.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.2)
        frozen.freeze()
        started = time.monotonic()
        await queue.put("second", 2)  # for which the one that is frozen is woken
        with fail_after(PATIENCE):
            await queue.join()
        assert time.monotonic() - started < 5.0  # that is, after one look of who waits
        await queue.put_many([(str(number), number) for number in range(10)])
        with fail_after(PATIENCE):
            await queue.join()
        await awake.until(lambda lines: acked_by(awake).total() == 11)
        frozen.thaw()
        await queue.put("last", 1)
        with fail_after(PATIENCE):
            await queue.join()


async def test_who_is_cut_off_stops_before_another_has_its_item(
    own_server: Server, backend: tuple[str, str]
) -> None:
    wire = Wire(own_server)
    async with wire.listening() as url, queue_on(own_server.url) as queue:
        await queue.put_many([("by hand", 1), ("in a body", 2)])
        async with start("hang", url, *backend) as cut_off:
            await cut_off.until(bool)
            wire.stall()
            got: dict[str, float] = {}
            with fail_after(PATIENCE):
                for _ in range(2):
                    _, _, lease = await queue.get()
                    got[lease.key] = time.monotonic()
                    await lease.ack()
            await cut_off.until(lambda lines: any(line[0] == "ended" for line in lines))
            [ended] = [line for line in cut_off.lines if line[0] == "ended"]
            assert ended[2] < got["in a body"]
            wire.mend()
            await cut_off.until(lambda lines: ["done"] in lines)
            assert {line[0] for line in cut_off.lines} == {"begun", "ended", "lost", "late", "done"}


@pytest.mark.parametrize("hours", [-5.0, 7.0], ids=["behind", "ahead"])
async def test_clocks_that_are_hours_off_make_no_difference(
    own_server: Server, backend: tuple[str, str], hours: float
) -> None:
    wrong = ("--clock", str(hours * HOURS))
    async with queue_on(own_server.url) as queue, AsyncExitStack() as stack:
        await queue.put_many([(f"held-{number}", number) for number in range(100)])
        holder = await stack.enter_async_context(start("hold", own_server.url, *backend, *wrong))
        await holder.until(lambda lines: ["holding"] in lines)
        tokens = dict(holder.lines[:100])
        now = time.time() * 1e6
        assert all(abs(token - now) < 60e6 for token in tokens.values())  # the server's time
        holder.kill()
        killed_at = time.monotonic()
        consumer = await stack.enter_async_context(
            start("consume", own_server.url, *backend, *wrong)
        )
        producer = await stack.enter_async_context(
            start("produce", own_server.url, *backend, *wrong, "--pause", "0.005")
        )
        await consumer.until(lambda lines: acked_by(consumer).total() >= 200)
        producer.kill()
        with fail_after(PATIENCE):
            await queue.join()
        assert time.monotonic() - killed_at < LEASE + 10
        statistics = await queue.statistics()
        assert statistics.expired == 100  # those of the one that was killed, and no others
        await consumer.until(lambda lines: acked_by(consumer).total() == statistics.acked)
        done = dict(line for line in consumer.lines if len(line) == 2)
        assert all(done[key] > token for key, token in tokens.items())


async def test_a_full_server_refuses_what_is_new_and_has_done_what_is_there(
    own_server: Server, backend: tuple[str, str]
) -> None:
    async with queue_on(own_server.url) as queue, AsyncExitStack() as stack:
        await queue.put_many([(f"old-{number}", number) for number in range(500)])
        _, _, held = await queue.get(lease_timeout=PATIENCE)
        own_server.command("CONFIG", "SET", "maxmemory", "1")
        producer = await stack.enter_async_context(start("produce", own_server.url, *backend))
        await producer.until(lambda lines: len(lines) > 20)
        assert {(line[0], line[2]) for line in producer.lines} == {("refused", "OOM")}
        await held.release()
        consumer = await stack.enter_async_context(start("consume", own_server.url, *backend))
        with fail_after(PATIENCE):
            await eventually(lambda: acked_by(consumer).total() == 500)
        assert set(acked_by(consumer).values()) == {1}
        own_server.command("CONFIG", "SET", "maxmemory", "0")
        await consumer.until(lambda lines: acked_by(consumer).total() > 520)


async def test_five_hundred_consumers_in_a_process_share_what_there_is(
    own_server: Server, backend: tuple[str, str]
) -> None:
    items = 5000
    many = ("--consumers", "500", "--work", "0.05")
    async with (
        start("consume", own_server.url, *backend, *many) as consumers,
        queue_on(own_server.url) as queue,
    ):
        await consumers.until(lambda lines: ["ready"] in lines)
        for first in range(0, items, 500):
            await queue.put_many([(str(first + number), number) for number in range(500)])
        with fail_after(PATIENCE):
            await queue.join()
        await consumers.until(lambda lines: acked_by(consumers).total() == items)
        assert set(acked_by(consumers).values()) == {1}
        assert not [line for line in consumers.lines if line[0] == "lost"]
        statistics = await queue.statistics()
        assert (statistics.delivered, statistics.expired) == (items, 0)


async def test_a_hundred_who_are_cut_off_do_not_come_back_in_one_rush(own_server: Server) -> None:
    backends = ("asyncio", "asyncio+uvloop", "trio", "trio")
    wire = Wire(own_server)
    async with (
        wire.listening() as url,
        queue_on(own_server.url) as queue,
        AsyncExitStack() as stack,
    ):
        crowd = [
            await stack.enter_async_context(
                start("consume", url, "--backend", each, "--brokers", "25", "--consumers", "1")
            )
            for each in backends
        ]
        for child in crowd:
            await child.until(lambda lines: lines.count(["ready"]) == 25)
        await anyio.sleep(0.5)
        wire.refuse()
        wire.tried_at.clear()

        def later() -> list[float]:
            """When they have tried again, but for the first tries."""
            return [when for when in wire.tried_at if when - wire.tried_at[0] > 1.5]

        await eventually(lambda: len(later()) > 200)  # they go on trying
        rush = max(Counter(int(when / 0.05) for when in later()).values())
        assert rush < 60  # of the hundred, in any fifty milliseconds
        wire.mend()
        began = time.monotonic()
        for first in (0, 500):
            await queue.put_many([(str(number), 1) for number in range(first, first + 500)])
        with fail_after(PATIENCE):
            await queue.join()
        assert time.monotonic() - began < 10
        await eventually(lambda: acked_by(*crowd).total() == 1000)
