"""A pool of workers beside a bare loop over leases."""

import asyncio
import math
from collections.abc import Iterator
from functools import partial

import anyio
from anyio.lowlevel import checkpoint

from leaseq import Lease, LeasedKeyQueue, serve

from .harness import Bench, Row, Stopwatch, at_most
from .queues import Opening, leaseq

ITEMS = 100_000
ROUNDS = 5
LEASE_TIMEOUT = 60.0


async def bare_loop(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """Empty a full queue in one task, each item in a body of its own."""
    async with opening() as queue:
        queue.put_many_nowait((key, key) for key in range(items))
        with Stopwatch() as watch:
            for _ in range(items):
                async with queue.lease():
                    pass
    return watch.seconds / items


async def pool(
    opening: Opening[LeasedKeyQueue[int, int]],
    limit: int,
    items: int,
    *,
    heartbeat: bool = False,
) -> float:
    """Empty it by a pool whose handler does nothing."""

    async def handle(lease: Lease[int, int]) -> None:
        pass

    async with anyio.create_task_group() as tg, opening() as queue:
        queue.put_many_nowait((key, key) for key in range(items))
        with Stopwatch() as watch:
            await tg.start(partial(serve, heartbeat=heartbeat), queue, handle, limit)
            await queue.join()
        tg.cancel_scope.cancel()
    return watch.seconds / items


async def queue_pool(limit: int, items: int) -> float:
    """Empty an `asyncio.Queue` by workers that do nothing but let others run, item by item."""
    queue = asyncio.Queue[int]()
    for key in range(items):
        queue.put_nowait(key)

    async def work() -> None:
        while True:
            await queue.get()
            await checkpoint()
            queue.task_done()

    async with anyio.create_task_group() as tg:
        with Stopwatch() as watch:
            for _ in range(limit):
                tg.start_soon(work)
            await queue.join()
        tg.cancel_scope.cancel()
    return watch.seconds / items


async def stream_pool(limit: int, items: int) -> float:
    """Empty anyio's memory object stream, whose `receive` lets others run, by such workers."""
    send, receive = anyio.create_memory_object_stream[int](math.inf)
    async with anyio.create_task_group() as tg, receive:
        async with send:
            for key in range(items):
                send.send_nowait(key)

        async def work() -> None:
            async for _ in receive:
                pass

        with Stopwatch() as watch:
            async with anyio.create_task_group() as workers:
                for _ in range(limit):
                    workers.start_soon(work)
        tg.cancel_scope.cancel()
    return watch.seconds / items


def pools(bench: Bench) -> Iterator[Row]:
    """serve with a handler that does nothing, to a bare loop of async with queue.lease()."""
    timed = partial(leaseq, LEASE_TIMEOUT)
    bare, bare_timed = partial(bare_loop, leaseq), partial(bare_loop, timed)
    workers = {count: partial(pool, leaseq, count) for count in (1, 10, 100)}
    workers_timed = partial(pool, timed, 100)
    beating = partial(pool, timed, 100, heartbeat=True)
    name = "asyncio.Queue" if bench.on_asyncio else "anyio's stream"
    peer = partial(queue_pool if bench.on_asyncio else stream_pool, 10)
    subjects = (bare, bare_timed, *workers.values(), workers_timed, beating, peer)
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    target = at_most(3.5) if bench.on_asyncio else None
    yield costs.cost(f"10 workers, to 10 on {name}", workers[10], peer, target)
    yield costs.cost("1 worker", workers[1], bare)
    yield costs.cost("10 workers", workers[10], bare)
    yield costs.cost("100 workers", workers[100], bare, at_most(1.3))
    yield costs.cost("100 workers, timed", workers_timed, bare_timed)
    yield costs.cost("100 workers, timed, heartbeat", beating, bare_timed)
