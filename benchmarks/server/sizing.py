"""How large a server has to be: what things take of its memory, and calls of its time."""

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import anyio
from tests.servers import Server

import leaseq
from benchmarks.harness import Backend, Row
from leaseq._core.ids import new_id
from leaseq._core.kept import Kept
from leaseq.tasks._results import result_name

from .stats import SCRIPTS, calls_of, memory_of, processor_time_of, reset

ITEMS, LESS = 100_000, 20_000
BATCH = 500
TASKS = 32
PROCESSES = 200

Queue: TypeAlias = "leaseq.LeasedQueue[str, str]"
Fill: TypeAlias = Callable[[Queue, int], Awaitable[None]]


async def put(queue: Queue, items: int, size: int = 62, **options: object) -> None:
    """Put so many, of so many bytes."""
    body = "x" * size
    for start in range(0, items, BATCH):
        keys = [f"a{number:011}" for number in range(start, start + BATCH)]
        await queue.put_many(dict.fromkeys(keys, body), **options)  # type: ignore[arg-type]


async def lease(queue: Queue, items: int) -> None:
    """Put so many, and lease them all."""
    await put(queue, items)
    leased = 0
    while leased < items:
        leased += len(await queue.get_batch(100))


async def bury(queue: Queue, items: int) -> None:
    """Have so many die."""
    await put(queue, items)
    died = 0
    while died < items:
        batch = await queue.get_batch(100)
        async with anyio.create_task_group() as tg:
            for each in batch:
                tg.start_soon(each.reject, "no good")
        died += len(batch)


async def spread(queue: Queue, items: int) -> None:
    """Put so many, each a tenant's own."""
    async with anyio.create_task_group() as tg:
        turns = iter(range(items))

        async def some() -> None:
            for number in turns:
                await queue.put(f"a{number:011}", "x" * 62, tenant=f"t{number:011}")

        for _ in range(TASKS):
            tg.start_soon(some)


async def keep(queue: Queue, items: int) -> None:
    """Keep so many results, as the acks of tasks do."""
    body = b'{"value":%s}' % (b"1" * 54)
    for _ in range(0, items, BATCH):
        names = [result_name(new_id()) for _ in range(BATCH)]
        await queue._keep([Kept(name, body, 3600.0, b"") for name in names])


FILLS: dict[str, Fill] = {
    "ready, a body of 64 B": put,
    "ready, a body of 1 KiB": lambda queue, items: put(queue, items, 1022),
    "delayed, a body of 64 B": lambda queue, items: put(queue, items, delay=3600.0),
    "with a time to live, a body of 64 B": lambda queue, items: put(queue, items, ttl=3600.0),
    "leased, a body of 64 B": lease,
    "dead, a body of 64 B": bury,
    "each another tenant's, a body of 64 B": spread,
    "a result that is kept, 64 B as JSON": keep,
}


async def bytes_an_item(server: Server, what: str, items: int) -> float:
    """What the server's memory grows by, with each item."""
    server.command("FLUSHALL", "SYNC")
    async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        queue, _ = await broker.create_queue_pair("queue", default_lease_timeout=3600)
        await put(queue, BATCH)  # what the first ones take counts for nothing
        await broker.purge("queue")
        before = memory_of(server)
        await FILLS[what](queue, items)
        grown = memory_of(server) - before
        tg.cancel_scope.cancel()
        server.command("FLUSHALL", "SYNC")  # or the leases would go back, one by one
    return grown / items


async def bytes_a_process(server: Server) -> float:
    """What a process takes that waits for work, its connection included."""
    server.command("FLUSHALL", "SYNC")
    async with anyio.create_task_group() as tg:
        before = memory_of(server)
        for _ in range(PROCESSES):
            tg.start_soon(wait, server)
        await anyio.sleep(5)
        grown = memory_of(server) - before
        tg.cancel_scope.cancel()
    return grown / PROCESSES


async def wait(server: Server) -> None:
    """Wait for an item that does not come."""
    async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await (await broker.queue("queue")).get()


async def time_an_item(server: Server, items: int, tasks: int) -> tuple[float, float]:
    """The server's seconds for an item that is put, leased and acked, and the items a second."""
    server.command("FLUSHALL", "SYNC")
    async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("queue", default_lease_timeout=60)
        turns = iter(range(items))

        async def some() -> None:
            for number in turns:
                await queue.put(f"a{number:011}", "x" * 62)
                await (await queue.get())[2].ack()

        reset(server)
        before, began = processor_time_of(server), anyio.current_time()
        async with anyio.create_task_group() as working:
            for _ in range(tasks):
                working.start_soon(some)
        seconds = anyio.current_time() - began
        taken = processor_time_of(server) - before
        calls, _ = calls_of(server, *SCRIPTS)
        assert calls
        tg.cancel_scope.cancel()
    return taken / items, items / seconds


async def measure(server: Server, items: int) -> list[Row]:
    """All rows."""
    rows = [Row(await bytes_a_process(server) / 1024, "KiB", "a process that waits", None)]
    for what in FILLS:
        size = await bytes_an_item(server, what, items)
        rows.append(Row(size, "B", what, None))
    for tasks in (1, TASKS):
        seconds, speed = await time_an_item(server, items // 10, tasks)
        what = f"an item's put, lease and ack, {tasks} at once"
        rows.append(Row(seconds * 1e6, "us", what, None, f"{speed:,.0f}/s"))
    return rows


def sizing(server: Server, backend: Backend, quick: bool) -> Iterator[Row]:
    """the server's memory for an item or a process, and its processor time for an item."""
    yield from anyio.run(measure, server, LESS if quick else ITEMS, backend=backend)
