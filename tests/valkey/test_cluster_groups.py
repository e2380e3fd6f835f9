"""Groups on a cluster of three: its load, a node that fails, and slots that move under load."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter, defaultdict
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.remote.mishaps import eventually
from tests.servers import Cluster, Node
from tests.valkey.test_cluster import running

import leaseq
from leaseq import LeasedQueue
from leaseq._core.errors import ServerUnavailableError
from leaseq._valkey.spread import group_tag, spread
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AnyQueue = LeasedQueue[Any, Any]


def calls(node: Node) -> int:
    """The calls of scripts that a node has had."""
    stats = node.command("INFO", "commandstats").decode()
    return sum(map(int, re.findall(r"cmdstat_(?:fcall|evalsha|eval):calls=(\d+)", stats)))


def group_on(cluster: Cluster, node: Node, prefix: str = "leaseq") -> str:
    """A group that a node has."""
    return next(
        group
        for group in map("g{}".format, range(100))
        if cluster.primary_of(group_tag(prefix, group)) is node
    )


async def work(queue: AnyQueue, done: Counter[Any]) -> None:
    async for lease in queue:
        async with lease:
            done[lease.key] += 1


@pytest.mark.only("asyncio")
@pytest.mark.parametrize("groups", [3, 30])
async def test_the_load_of_thirty_queues_lands_on_all_three(
    shared_cluster: Cluster, groups: int
) -> None:
    done: Counter[str] = Counter()
    url = f"{shared_cluster.url}?prefix={uuid.uuid4().hex}&groups={groups}"
    primaries = {shared_cluster.primary_of(tag) for tag in map(str, range(100))}
    with fail_after(60):
        async with running(url) as (broker, tg):
            queues = []
            for number in range(30):
                queue, _ = await broker.create_queue_pair(
                    f"queue-{number}", default_lease_timeout=30.0
                )
                queues.append(queue)
            before = {node: calls(node) for node in primaries}

            async def produce(queue: AnyQueue) -> None:
                for number in range(50):
                    await queue.put(f"{queue.name} {number}", number)
                await queue.join()

            for queue in queues:
                tg.start_soon(work, queue, done)
            async with create_task_group() as producers:
                for queue in queues:
                    producers.start_soon(produce, queue)
            had = sorted((calls(node) - before[node] for node in primaries), reverse=True)
            tg.cancel_scope.cancel()
    assert len(done) == done.total() == 1500
    assert len(primaries) == 3
    assert had[0] / sum(had) <= 0.45
    assert had[2] / sum(had) >= 0.2


@pytest.mark.only("asyncio")
async def test_a_node_that_fails_stops_its_own_groups_alone(own_cluster: Cluster) -> None:
    nodes = own_cluster.nodes[:3]
    failing = next(node for node in nodes if node is not own_cluster.primary_of())
    waits: defaultdict[str, list[float]] = defaultdict(list)
    with fail_after(60):
        async with running(own_cluster.url) as (broker, tg):
            queues: dict[Node, AnyQueue] = {
                node: await broker.queue(f"on-{node.port}", group=group_on(own_cluster, node))
                for node in nodes
            }

            async def put(queue: AnyQueue) -> None:
                for number in range(1_000_000):
                    began = time.monotonic()
                    await queue.put(number % 100, number)
                    waits[queue.name].append(time.monotonic() - began)
                    await anyio.sleep(0.005)

            async def get(queue: AnyQueue) -> None:
                while True:
                    _, _, lease = await queue.get(lease_timeout=30.0)
                    await lease.ack()

            for queue in queues.values():
                tg.start_soon(put, queue)
                tg.start_soon(get, queue)
            await eventually(lambda: all(len(each) > 20 for each in waits.values()))
            for each in waits.values():
                each.clear()
            failing.kill()
            await eventually(lambda: bool(waits[queues[failing].name]))
            away = max(waits[queues[failing].name])
            slowest = {queue.name: max(waits[queue.name]) for queue in queues.values()}
            assert away > 0.7
            for node, queue in queues.items():
                if node is not failing:
                    assert slowest[queue.name] < min(0.5, away / 2)
                    assert len(waits[queue.name]) > 20
            await eventually(lambda: len(waits[queues[failing].name]) > 20)
            tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
async def test_a_group_is_opened_as_soon_as_its_node_has_a_successor(own_cluster: Cluster) -> None:
    failing = next(node for node in own_cluster.nodes[:3] if node is not own_cluster.primary_of())
    group = group_on(own_cluster, failing)
    with fail_after(60):
        async with running(own_cluster.url) as (broker, tg):
            await broker.queue("work", group=group)
            failing.kill()
            async with running(own_cluster.url) as (other, others):
                queue = await other.queue("work")
                await queue.put("a", 1)
                assert [info.ready for info in await other.list_queues()] == [1]
                others.cancel_scope.cancel()
            tg.cancel_scope.cancel()


@pytest.mark.only("trio")
async def test_without_run_a_group_whose_node_is_away_is_told(own_cluster: Cluster) -> None:
    failing = next(node for node in own_cluster.nodes[:3] if node is not own_cluster.primary_of())
    group = group_on(own_cluster, failing)
    with fail_after(60):
        url = ValkeyUrl.parse(own_cluster.url)
        async with ValkeyBroker(url, patience=1.0) as broker:
            own = await broker.queue("own")
            own_cluster.replica_of(failing).kill()
            failing.kill()
            with pytest.raises(ServerUnavailableError) as caught:
                await broker.queue("work", group=group)
            assert not caught.value.in_doubt
            await own.put("a", 1)
            failing.start()
            assert (await broker.queue("work", group=group)).group == group


@pytest.mark.only("trio")
async def test_a_broker_is_closed_while_a_node_is_away(own_cluster: Cluster) -> None:
    nodes = own_cluster.nodes[:3]
    async with leaseq.connect(own_cluster.url) as broker:
        for node in nodes:
            queue = await broker.queue(f"on-{node.port}", group=group_on(own_cluster, node))
            await queue.put("a", 1)
            await queue.get(lease_timeout=None)
        for node in nodes[1:]:
            node.kill()
        began = time.monotonic()
    assert time.monotonic() - began < 4  # two seconds for all, and not for each


@pytest.mark.only("asyncio")
async def test_nothing_is_lost_or_done_twice_while_slots_move(own_cluster: Cluster) -> None:
    names = [f"queue-{number}" for number in range(9)]
    done: Counter[str] = Counter()
    put: set[str] = set()
    primaries = own_cluster.nodes[:3]
    moved = 0

    def move(tag: str) -> None:
        """Give a slot to the next node."""
        old = own_cluster.primary_of(tag)
        new = primaries[(primaries.index(old) + 1) % 3]
        slot = old.command("CLUSTER", "KEYSLOT", f"{{{tag}}}")[1:].decode()
        answer = old.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", new.name)
        assert answer == b"+OK", answer
        own_cluster.wait_until(lambda: own_cluster.primary_of(tag) is new)

    with fail_after(90):
        async with running(f"{own_cluster.url}?groups=9") as (broker, tg):
            queues = [await broker.queue(each, default_lease_timeout=60.0) for each in names]
            going = True

            async def produce(queue: AnyQueue) -> None:
                number = 0
                while going:
                    key = f"{queue.name} {number}"
                    await queue.put(key, number)
                    put.add(key)
                    number += 1
                    await anyio.sleep(0.002)

            for queue in queues:
                tg.start_soon(work, queue, done)
            async with create_task_group() as producers:
                for queue in queues:
                    producers.start_soon(produce, queue)
                await anyio.sleep(0.2)
                for tag in ("leaseq", *{group_tag("leaseq", queue.group) for queue in queues}):
                    await anyio.to_thread.run_sync(partial(move, tag))
                    moved += 1
                    await anyio.sleep(0.05)
                going = False
            for queue in queues:
                await queue.join()
            tg.cancel_scope.cancel()
    assert moved == 1 + len({spread("leaseq", each, 9) for each in names}) > 5
    assert done.keys() == put
    assert done.total() == len(put) > 500
