"""What a long backlog costs the server, in time and in memory."""

from collections.abc import Awaitable, Callable, Iterator
from statistics import median
from typing import TypeAlias

import anyio
from tests.servers import Server

import leaseq
from benchmarks.harness import Backend, Row, at_most

from .stats import SCRIPTS, calls_of, memory_of, reset

SHORT, LONG, LESS = 1_000, 1_000_000, 100_000
BATCH = 500
ROUNDS, CALLS = 9, 100
BODY = "x" * 62  # 64 bytes of JSON

Queue: TypeAlias = "leaseq.LeasedQueue[str, str]"
Costs: TypeAlias = dict[str, float]


def key(prefix: str, number: int) -> str:
    """Twelve bytes."""
    return f"{prefix}{number:011}"


async def fill(queue: Queue, items: int) -> None:
    """Put so many, as many at once as is sensible."""
    for start in range(0, items, BATCH):
        numbers = range(start, min(start + BATCH, items))
        await queue.put_many([(key("a", number), BODY) for number in numbers])


async def one_round(server: Server, queue: Queue, turn: int) -> Costs:
    """The server's seconds a call, of calls that come one by one."""
    leases: list[leaseq.Lease[str, str]] = []
    costs: Costs = {}

    async def put(number: int) -> None:
        await queue.put(key("b", turn * CALLS + number), BODY)

    async def claim(number: int) -> None:
        leases.append((await queue.get(timeout=0))[2])

    async def ack(number: int) -> None:
        await queue.ack(leases[number])

    steps: tuple[Callable[[int], Awaitable[None]], ...] = (put, claim, ack)
    for step in steps:
        reset(server)
        for number in range(CALLS):
            await step(number)
        calls, microseconds = calls_of(server, *SCRIPTS)
        assert calls >= CALLS
        costs[step.__name__] = microseconds / calls / 1e6
    return costs


async def measure(server: Server, items: int) -> tuple[list[Costs], list[Costs], float]:
    """The rounds at a short backlog and at a long one, and the bytes an item of that."""
    async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
        short = await broker.queue("short", default_lease_timeout=60)
        long = await broker.queue("long", default_lease_timeout=60)
        await tg.start(broker.run)
        await fill(short, SHORT)
        empty = memory_of(server)
        await fill(long, items)
        size = (memory_of(server) - empty) / items
        shorts, longs = [], []
        for turn in range(ROUNDS):
            shorts.append(await one_round(server, short, turn))
            longs.append(await one_round(server, long, turn))
        tg.cancel_scope.cancel()
    return shorts, longs, size


def backlog(server: Server, backend: Backend, quick: bool) -> Iterator[Row]:
    """the server's own time a call, at a long backlog beside one of 1,000, and its memory."""
    server.command("FLUSHALL")
    items = LESS if quick else LONG
    shorts, longs, size = anyio.run(measure, server, items, backend=backend)
    for step in shorts[0]:
        ratio = median(long[step] / short[step] for long, short in zip(longs, shorts, strict=True))
        costs = (f"{median(one[step] for one in each) * 1e6:.1f} us" for each in (longs, shorts))
        yield Row(ratio, "x", f"{step}, at a backlog of {items:,}", at_most(2), *costs)
    yield Row(size, "B", f"an item, at a backlog of {items:,}", at_most(400))
