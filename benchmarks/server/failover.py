"""What a fail-over costs, and what it loses."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from statistics import median

import anyio
from tests.servers import Cluster

import leaseq
from benchmarks.harness import Backend, Row, at_most

TASKS = 32
ROUNDS, FEWER = 5, 2
SECONDS = 1.0


class Load:
    """Producers, and what they know to be put, and when.

    Attributes:
        put: The seconds at which each key's put returned.
    """

    def __init__(self, queue: "leaseq.LeasedQueue[str, int]", name: str) -> None:
        self._queue = queue
        self._name = name
        self._more = anyio.Event()
        self.put: dict[str, float] = {}

    async def produce(self, task: int) -> None:
        """Put one item after the other, for ever."""
        number = 0
        while True:
            key = f"{self._name}-{task}-{number}"
            await self._queue.put(key, number)
            self.put[key] = time.monotonic()
            self._more.set()
            number += 1

    async def more(self) -> float:
        """Wait until one more put has returned; the time then."""
        self._more = anyio.Event()
        await self._more.wait()
        return time.monotonic()

    async def lost(self, since: float) -> int:
        """How many of those that were put before that time are not there."""
        there = await self._queue.available_keys()
        return len({key for key, when in self.put.items() if when < since} - there)


@asynccontextmanager
async def loaded(url: str, name: str) -> AsyncIterator[Load]:
    """Many producers at work on a queue of that name."""
    async with leaseq.connect(url) as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        load = Load(await broker.queue(name), name)
        for task in range(TASKS):
            tg.start_soon(load.produce, task)
        await load.more()
        yield load
        tg.cancel_scope.cancel()


async def rate(url: str, name: str) -> float:
    """Puts in a second."""
    async with loaded(url, name) as load:
        before, began = len(load.put), time.monotonic()
        await anyio.sleep(SECONDS)
        return (len(load.put) - before) / (time.monotonic() - began)


async def killed(cluster: Cluster, url: str, name: str) -> tuple[float, int]:
    """How many seconds nothing was put when the primary was killed, and how much was lost."""
    cluster.wait_until(cluster.is_whole)
    async with loaded(url, name) as load:
        await anyio.sleep(SECONDS)
        primary = cluster.primary_of()
        replica = cluster.replica_of(primary)
        primary.kill()
        killed_at = time.monotonic()
        is_primary = partial(replica.says, "ROLE", word=b"master")
        await anyio.to_thread.run_sync(cluster.wait_until, is_primary)
        primary.start()  # as a replica, for whoever waits for one
        gap = await load.more() - killed_at
        return gap, await load.lost(killed_at)


async def cut_off(cluster: Cluster, url: str, name: str) -> tuple[int, int]:
    """How much a primary confirmed that saw nobody of its cluster, and how much of it was lost."""
    cluster.wait_until(cluster.is_whole)
    async with loaded(url, name) as load:
        await anyio.sleep(SECONDS / 2)
        before = len(load.put)
        with cluster.cut_off(cluster.primary_of()):
            await anyio.sleep(2 * cluster.NODE_TIMEOUT)  # it does nothing more well before that
            confirmed, cut_at = len(load.put) - before, time.monotonic()
        await load.more()
        return confirmed, await load.lost(cut_at)


async def measure(cluster: Cluster, quick: bool) -> list[Row]:
    """All rows."""
    rounds = FEWER if quick else ROUNDS
    alone, waiting = cluster.url, f"{cluster.url}?wait_replicas=1"
    cost = []
    for turn in range(rounds):
        plain = await rate(alone, f"plain-{turn}")
        cost.append(await rate(waiting, f"waiting-{turn}") / plain)
    rows = [Row(median(cost), "x", "wait_replicas=1: puts a second, to 0", None, f"{plain:,.0f}/s")]
    for url, what in ((alone, "wait_replicas=0"), (waiting, "wait_replicas=1")):
        target = at_most(0) if url is waiting else None
        name = what.replace("=", "-")
        fell = [await killed(cluster, url, f"{name}-killed-{turn}") for turn in range(rounds)]
        gaps, lost = zip(*fell, strict=True)
        rows += [
            Row(median(gaps), "s", f"{what}: primary killed, nothing is put for", None),
            Row(max(lost), "", f"{what}: ... puts lost at most", target),
        ]
        cut = [await cut_off(cluster, url, f"{name}-cut-{turn}") for turn in range(rounds)]
        confirmed, lost = zip(*cut, strict=True)
        rows += [
            Row(median(confirmed), "", f"{what}: primary cut off, it confirmed", None),
            Row(max(lost), "", f"{what}: ... puts lost at most", target),
        ]
    return rows


def failover(cluster: Cluster, backend: Backend, quick: bool) -> Iterator[Row]:
    """a cluster's primary that is killed or cut off, at a node timeout of a second."""
    yield from anyio.run(measure, cluster, quick, backend=backend)
