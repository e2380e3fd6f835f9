"""The calls of the server that each way to take work costs."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from tests.servers import Server

import leaseq
from benchmarks.harness import Backend, Row, at_most

from .stats import calls_of, processor_time_of, reset

ITEMS, LESS = 32_000, 6_400
WORKERS, BATCH = 32, 100
HOLDERS, LEASE, LENGTHS = 800, 3.0, 3

Queue: TypeAlias = "leaseq.LeasedQueue[int, int]"
Pool: TypeAlias = Callable[..., Awaitable[None]]


def calls(server: Server) -> int:
    """The calls of scripts since the last reset."""
    return sum(calls_of(server, command)[0] for command in ("evalsha", "eval", "fcall"))


async def drained(server: Server, queue: Queue, tg: TaskGroup, pool: Pool, items: int) -> float:
    """The calls for each of so many items that a pool handles."""
    for start in range(0, items, 10_000):
        await queue.put_many([(number, 1) for number in range(start, min(start + 10_000, items))])
    reset(server)
    await tg.start(pool)
    await queue.join()
    return calls(server) / items


async def handle(work: object) -> None:
    """Do nothing."""


async def hang(lease: leaseq.Lease[Any, Any]) -> None:
    """Hold a lease until cancelled."""
    await anyio.sleep_forever()


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
            }
            for name, (pool, most) in pools.items():
                queue = await broker.queue(name.replace(" ", "-").replace(",", ""))
                cost = await drained(server, queue, tg, pool(queue), items)
                rows.append(Row(cost, "", f"{name}: calls an item", at_most(most)))
            tg.cancel_scope.cancel()

    anyio.run(measure, backend=backend)
    yield from rows
