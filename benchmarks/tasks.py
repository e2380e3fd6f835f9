"""Tasks beside bare items in a pool: what it costs to call a function by name."""

from collections.abc import Callable, Iterator
from functools import partial

import anyio

from leaseq import Lease, LeasedQueue, connect, serve
from leaseq.tasks import Task, TaskQueue, TaskWorker

from .harness import Bench, Row, Stopwatch, at_most

ITEMS = 20_000
ROUNDS = 7
CONCURRENCY = 32
LEASE_TIMEOUT = 60.0


async def bare_items(items: int) -> float:
    """Empty a queue of a broker by `serve`, with timed leases, heartbeats, and no work."""

    async def handle(lease: Lease[str, object]) -> None:
        pass

    async with anyio.create_task_group() as tg, connect("memory://") as broker:
        await tg.start(broker.run)
        queue: LeasedQueue[str, object] = await broker.queue(
            "items", default_lease_timeout=LEASE_TIMEOUT
        )
        await queue.put_many([(f"{key:032}", {"name": "nothing"}) for key in range(items)])
        with Stopwatch() as watch:
            await tg.start(partial(serve, heartbeat=True), queue, handle, CONCURRENCY)
            await queue.join()
        tg.cancel_scope.cancel()
    return watch.seconds / items


async def tasks_of(kind: str, items: int) -> float:
    """Empty it by a `TaskWorker`, whose functions do nothing."""
    async with anyio.create_task_group() as tg, connect("memory://") as broker:
        tasks = TaskQueue(broker, lease_timeout=LEASE_TIMEOUT)

        @tasks.task
        async def nothing() -> None:
            pass

        @tasks.task
        async def with_arguments(order: int, customer: str) -> None:
            pass

        @tasks.task(result_ttl=3600.0)
        async def with_result() -> int:
            return 1

        await tg.start(broker.run)
        kinds: dict[str, Callable[[int], Task[object]]] = {
            "nothing": lambda number: nothing.task(),
            "arguments": lambda number: with_arguments.task(number, customer="c"),
            "result": lambda number: with_result.task(),
        }
        await tasks.push_many(map(kinds[kind], range(items)))
        worker = TaskWorker(tasks, concurrency=CONCURRENCY)
        with Stopwatch() as watch:
            await tg.start(worker.run)
            await tasks.join()
        tg.cancel_scope.cancel()
    return watch.seconds / items


def tasks_in_a_pool(bench: Bench) -> Iterator[Row]:
    """tasks that do nothing, done by a worker, to bare items through serve, with heartbeats."""
    nothing, arguments, result = (
        partial(tasks_of, kind) for kind in ("nothing", "arguments", "result")
    )
    subjects = (bare_items, nothing, arguments, result)
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    yield costs.cost("no-op task", nothing, bare_items, at_most(2))
    yield costs.cost("with two arguments", arguments, bare_items)
    yield costs.cost("with a result that is kept", result, bare_items)
    yield costs.cost("with a result, to without", result, nothing, at_most(1.3))
