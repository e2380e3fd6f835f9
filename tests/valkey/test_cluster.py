"""A cluster: how it is found, and what becomes of queues whose node fails or is relieved."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.abc import TaskGroup
from tests.contract.helpers import in_line
from tests.remote.mishaps import eventually
from tests.servers import Cluster, Server, free_port
from tests.valkey.conftest import MakeServer

import leaseq
from leaseq import LeasedQueue, LeaseLostError
from leaseq._core.errors import ServerError, ServerUnavailableError, UnusableServerError
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(url: str) -> AsyncIterator[tuple[ValkeyBroker, TaskGroup]]:
    """A broker, whose time passes, and a task group for its users."""
    async with ValkeyBroker(ValkeyUrl.parse(url)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        yield broker, tg
        tg.cancel_scope.cancel()


async def refused(url: str) -> str:
    with pytest.raises(UnusableServerError) as caught:
        async with leaseq.connect(url):
            pass
    return str(caught.value)


# Finding it


@pytest.mark.parametrize("number", [0, 5], ids=["primary", "replica"])
async def test_one_node_is_enough_to_find_a_cluster(shared_cluster: Cluster, number: int) -> None:
    async with running(shared_cluster.nodes[number].url) as (broker, _):
        for name in ("one", "two", "three"):
            queue = await broker.queue(name)
            await queue.put("a", 1)
            assert await in_line(queue) == ["a"]


async def test_a_node_that_is_gone_is_not_missed_if_another_is_named(
    shared_cluster: Cluster,
) -> None:
    url = f"valkey://127.0.0.1:{free_port()},127.0.0.1:{shared_cluster.nodes[2].port}"
    async with running(url) as (broker, _):
        assert await broker.list_queues() is not None


@pytest.mark.only("asyncio")
async def test_replicas_that_are_there_are_waited_for_in_passing(shared_cluster: Cluster) -> None:
    async with running(f"{shared_cluster.url}?wait_replicas=1&prefix={uuid.uuid4().hex}") as (
        broker,
        _,
    ):
        queue = await broker.queue("work")
        await queue.put("a", 1)
        await (await queue.get())[2].ack()
        assert (await queue.statistics()).acked == 1


@pytest.mark.slow
@pytest.mark.only("trio")
async def test_several_hosts_that_are_no_cluster_are_refused(server: Server) -> None:
    url = f"valkey://127.0.0.1:{server.port},127.0.0.1:{server.port}?connect_timeout=1"
    assert "are no cluster, as several hosts in a URL are: name one host" in await refused(url)


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_a_replica_alone_is_refused(own_server: Server, make_server: MakeServer) -> None:
    replica = make_server("--replicaof", f"127.0.0.1 {own_server.port}")
    said = await refused(f"{replica.url}?connect_timeout=1")
    assert "is the replica of another server: name that one" in said


@pytest.mark.slow
async def test_replicas_that_are_not_there_are_told_and_waited_for(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    primary = make_server("--repl-diskless-sync-delay", "0")
    with fail_after(30):
        async with running(f"{primary.url}?wait_replicas=1") as (broker, tg):
            assert "has 0 of the 1 replicas that are to be waited for" in caplog.text
            assert await broker.list_queues() == []  # who only looks waits for none
            queues: list[object] = []

            async def make() -> None:
                queues.append(await broker.queue("work"))

            tg.start_soon(make)
            await anyio.sleep(1)
            assert not queues
            make_server("--replicaof", f"127.0.0.1 {primary.port}")
            await eventually(lambda: bool(queues))


@pytest.mark.slow
async def test_a_server_that_takes_no_writes_says_so_whatever_is_waited_for(
    make_server: MakeServer,
) -> None:
    primary = make_server("--repl-diskless-sync-delay", "0")
    replica = make_server("--replicaof", f"127.0.0.1 {primary.port}")
    with fail_after(30):
        await eventually(lambda: b"state=online" in primary.command("INFO", "replication"))
        async with running(f"{primary.url}?wait_replicas=1") as (broker, _):
            queue = await broker.queue("work")
            await queue.put("a", 1)
            primary.command("CONFIG", "SET", "min-replicas-to-write", "2")
            for _ in range(2):
                with pytest.raises(ServerError, match="NOREPLICAS"):
                    await queue.put("b", 1)
                assert await queue.qsize() == 1
            primary.command("CONFIG", "SET", "min-replicas-to-write", "0")
            await queue.put("b", 1)
            assert await in_line(queue) == ["a", "b"]
            assert replica.is_up


# Failing over


@pytest.mark.slow
async def test_all_who_wait_go_on_by_themselves_when_another_node_takes_over(
    own_cluster: Cluster,
) -> None:
    done: list[str] = []
    with fail_after(60):
        async with running(own_cluster.url) as (broker, _):
            queue = await broker.queue("work", default_lease_timeout=60)
            small = await broker.queue("small", max_size=1)
            await queue.put("held", 1)
            _, _, lease = await queue.get()
            await small.put("a", 1)

            async def noted(name: str, *steps: object) -> None:
                for step in steps:
                    await step  # type: ignore[misc]
                done.append(name)

            async def take() -> None:
                key, _, taken = await queue.take("wanted")
                assert key == "wanted"
                await taken.ack()

            async with create_task_group() as users:
                users.start_soon(noted, "get", queue.get())
                users.start_soon(noted, "take", take())
                users.start_soon(noted, "put", small.put("b", 1))
                users.start_soon(noted, "join", small.join())
                await eventually(
                    lambda: len(small._engine._putters) == 1 and queue._engine._waiters.total == 2
                )
                own_cluster.primary_of().kill()
                users.start_soon(noted, "ack", lease.ack())  # before anybody has taken over
                await queue.put("any", 1)
                await queue.put("wanted", 1)
                for key in ("a", "b"):
                    _, _, small_lease = await small.take(key)
                    await small_lease.ack()
            assert sorted(done) == ["ack", "get", "join", "put", "take"]


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_wake_ups_arrive_from_the_node_that_has_taken_over(own_cluster: Cluster) -> None:
    waits: list[float] = []
    with fail_after(60):
        async with running(own_cluster.url) as (one, _), running(own_cluster.url) as (other, _):
            queue, there = await one.queue("work"), await other.queue("work")
            own_cluster.primary_of().kill()
            await queue.put(-1, 0.0)
            await (await queue.take(-1))[2].ack()
            await anyio.sleep(3)  # the subscriptions have moved as well

            async def consume() -> None:
                _, began, lease = await queue.get()
                waits.append(time.monotonic() - began)
                await lease.ack()

            for number in range(10):
                async with create_task_group() as users:
                    users.start_soon(consume)
                    await anyio.sleep(0.05)
                    await there.put(number, time.monotonic())
    assert sorted(waits)[5] < 0.5  # and not at the next look, a second or two later


# What is lost


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [0, 1])
async def test_what_replicas_were_waited_for_is_not_lost_with_the_primary(
    own_cluster: Cluster, replicas: int
) -> None:
    put: set[str] = set()
    acked: set[str] = set()

    async def produce(queue: LeasedQueue[str, int], number: int) -> None:
        for count in range(1_000_000):
            key = f"{number}-{count}"
            await queue.put(key, count)
            put.add(key)

    async def consume(queue: LeasedQueue[str, int]) -> None:
        while True:
            _, _, lease = await queue.get()
            try:
                await queue.ack(lease)
            except LeaseLostError:
                assert not replicas  # the hand-out itself was lost
            else:
                acked.add(lease.key)

    primary = own_cluster.primary_of()
    with fail_after(60):
        async with running(f"{own_cluster.url}?wait_replicas={replicas}") as (broker, tg):
            produced, consumed = await broker.queue("produced"), await broker.queue("consumed")
            for first in range(0, 2000, 500):
                await consumed.put_many({str(n): n for n in range(first, first + 500)})
            for number in range(5):
                tg.start_soon(produce, produced, number)
                tg.start_soon(consume, consumed)
            await eventually(lambda: len(put) > 100 and len(acked) > 100)
            with own_cluster.cut_off(primary):
                await anyio.sleep(0.5)
                confirmed, done = set(put), set(acked)
            await eventually(lambda: len(put) > len(confirmed))
            async with leaseq.connect(own_cluster.url) as looking:
                there = await (await looking.queue("produced")).available_keys()
                back = await (await looking.queue("consumed")).available_keys()
            lost, undone = confirmed - there, done & back
            assert (bool(lost), bool(undone)) == ((False, False) if replicas else (True, True))
            tg.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.only("trio")
async def test_who_waits_in_vain_for_replicas_is_told_that_it_may_have_been_done(
    own_cluster: Cluster,
) -> None:
    url = f"{own_cluster.url}?wait_replicas=1&request_timeout=0.4"
    replica = own_cluster.replica_of(own_cluster.primary_of())
    with fail_after(30):
        async with ValkeyBroker(ValkeyUrl.parse(url), patience=0.5) as broker:
            queue = await broker.queue("work")
            with replica.frozen():
                with pytest.raises(ServerUnavailableError, match="0 of 1 replicas have") as caught:
                    await queue.put("a", 1)
                assert caught.value.in_doubt
            await queue.put("b", 1)
            assert await in_line(queue) == ["a", "b"]
            assert (await queue.statistics()).put == 2


# Moving away


@pytest.mark.slow
@pytest.mark.only("asyncio")
async def test_a_queue_that_moves_to_another_node_is_not_noticed(own_cluster: Cluster) -> None:
    done: list[int] = []
    old = own_cluster.primary_of()
    new = next(node for node in own_cluster.nodes[:3] if node is not old)
    slot = old.command("CLUSTER", "KEYSLOT", "{leaseq}")[1:].decode()
    with fail_after(60):
        async with running(own_cluster.url) as (broker, tg):
            queue = await broker.queue("work", default_lease_timeout=60)

            async def consume() -> None:
                async for lease in queue:
                    async with lease:
                        done.append(lease.value)

            tg.start_soon(consume)
            for number in range(400):
                await queue.put(number, number)
                if number == 100:
                    answer = old.command(
                        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", new.name
                    )
                    assert answer == b"+OK"
                await anyio.sleep(0.005)
            await queue.join()
            assert own_cluster.primary_of() is new
            assert sorted(done) == [*range(400)]
            tg.cancel_scope.cancel()
