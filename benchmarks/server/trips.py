"""The calls of the server that each way to take work costs."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from tests.servers import Server

import leaseq
from benchmarks.harness import Backend, Row, at_most
from leaseq.tasks import TaskQueue, TaskWorker

from .stats import calls_of, processor_time_of, reset

ITEMS, LESS = 32_000, 6_400
ROUNDS = 5  # of tasks with results, and without
WORKERS, BATCH = 32, 100
LOT = 500
HOLDERS, LEASE, LENGTHS = 800, 3.0, 3

Queue: TypeAlias = "leaseq.LeasedQueue[int, int]"
Pool: TypeAlias = Callable[..., Awaitable[None]]


class Cost(NamedTuple):
    """What an item takes of the server."""

    calls: float
    seconds: float


def calls(server: Server) -> int:
    """The calls of scripts since the last reset."""
    return sum(calls_of(server, command)[0] for command in ("evalsha", "eval", "fcall"))


async def drained(server: Server, queue: Queue, tg: TaskGroup, pool: Pool, items: int) -> float:
    """The calls for each of so many items that a pool handles."""
    for start in range(0, items, LOT):
        await queue.put_many([(number, 1) for number in range(start, min(start + LOT, items))])
    reset(server)
    await tg.start(pool)
    await queue.join()
    return calls(server) / items


async def take_batches(
    queue: Queue, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED
) -> None:
    """Take batches, one after the other, in one task."""
    task_status.started()
    while True:
        async with queue.lease_batch(BATCH) as batch:
            await handle(batch)


async def handle(work: object) -> None:
    """Do nothing."""


async def hang(lease: leaseq.Lease[Any, Any]) -> None:
    """Hold a lease until cancelled."""
    await anyio.sleep_forever()


async def done(server: Server, broker: leaseq.Broker, ttl: float | None, items: int) -> Cost:
    """What each of so many tasks that do nothing takes of the server; their results are kept."""
    tasks = TaskQueue(broker, name="tasks" if ttl is None else "tasks-with-results")

    @tasks.task(result_ttl=ttl)
    async def nothing(number: int) -> int:
        return number

    for start in range(0, items, LOT):
        numbers = range(start, min(start + LOT, items))
        await tasks.push_many([nothing.task(number) for number in numbers])
    reset(server)
    before = processor_time_of(server)
    worker = TaskWorker(tasks, concurrency=WORKERS)
    async with anyio.create_task_group() as tg:
        await tg.start(worker.run)
        await tasks.join()
        worker.stop()
    return Cost(calls(server) / items, (processor_time_of(server) - before) / items)


async def tasks_and_results(server: Server, broker: leaseq.Broker, items: int) -> list[Row]:
    """The rows of tasks that keep a result beside others that do not."""
    rounds: dict[float | None, list[Cost]] = {None: [], 600.0: []}
    for _ in range(ROUNDS):
        for ttl, costs in rounds.items():
            costs.append(await done(server, broker, ttl, items // ROUNDS))
    bare, kept = (
        Cost(median(each.calls for each in costs), median(each.seconds for each in costs))
        for costs in rounds.values()
    )
    what = f"TaskWorker, {WORKERS}, with results"
    times = f"{kept.seconds * 1e6:.0f} us to {bare.seconds * 1e6:.0f} us"
    return [
        Row(bare.calls, "", f"TaskWorker, {WORKERS}: calls an item", at_most(0.035)),
        Row(kept.calls, "", f"{what}: calls an item", at_most(0.035)),
        Row(kept.seconds / bare.seconds, "x", f"{what}: time, to none", at_most(1.3), times),
    ]


def trips(server: Server, backend: Backend, quick: bool) -> Iterator[Row]:
    """calls of the server an item, and for leases that are held."""
    items = LESS if quick else ITEMS
    rows: list[Row] = []

    async def measure() -> None:
        async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("held", default_lease_timeout=LEASE)
            await queue.put_many([(number, 1) for number in range(HOLDERS)])
            await tg.start(partial(leaseq.serve, queue, hang, HOLDERS, heartbeat=True))
            await anyio.sleep(2 * LEASE)  # all of them are at work
            assert await queue.inflight_size() == HOLDERS
            reset(server)
            before = processor_time_of(server)
            await anyio.sleep(LENGTHS * LEASE)
            what = f"{HOLDERS} leases held for their length, with three beats"
            rows.append(Row(calls(server) / LENGTHS, "", f"{what}: calls", at_most(5)))
            used = (processor_time_of(server) - before) / LENGTHS
            rows.append(Row(used * 1e3, "ms", f"{what}: the server's processor time", None))
            pools: dict[str, tuple[Callable[[Queue], Pool], float]] = {
                f"serve, {WORKERS} workers": (
                    lambda queue: partial(leaseq.serve, queue, handle, WORKERS),
                    0.035,
                ),
                f"serve_batches of {BATCH}": (
                    lambda queue: partial(leaseq.serve_batches, queue, handle, BATCH),
                    0.03,
                ),
                f"lease_batch of {BATCH}": (lambda queue: partial(take_batches, queue), 0.03),
            }
            for name, (pool, most) in pools.items():
                queue = await broker.queue(name.replace(" ", "-").replace(",", ""))
                cost = await drained(server, queue, tg, pool(queue), items)
                rows.append(Row(cost, "", f"{name}: calls an item", at_most(most)))
            rows.extend(await tasks_and_results(server, broker, items))
            tg.cancel_scope.cancel()

    anyio.run(measure, backend=backend)
    yield from rows
