"""What delayed items cost: to put, to hold, and to have no more."""

import time
from collections.abc import Iterator
from functools import partial

import anyio

from leaseq import LeasedKeyQueue

from .harness import PERCENT, Bench, Row, Stopwatch, at_most
from .queues import Opening, leaseq

DELAYED = 1_000_000
FEW = 1_000
ROUNDS = 3
FAR = 86_400.0
IDLE_SECONDS = 1.0
DROPPED = 1_000


async def put(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """Put items that are ready at once."""
    async with opening() as queue:
        with Stopwatch() as watch:
            for key in range(items):
                queue.put_nowait(key, key)
    return watch.seconds / items


async def put_delayed(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """Put items that are due in a day."""
    async with opening() as queue:
        with Stopwatch() as watch:
            for key in range(items):
                queue.put_nowait(key, key, delay=FAR)
    return watch.seconds / items


async def idle(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """The share of a processor that a queue takes while all it does is to hold delayed items."""
    async with opening() as queue:
        for key in range(items):
            queue.put_nowait(key, key, delay=FAR)
        await anyio.sleep(0.1)
        start, worked = time.perf_counter(), time.process_time()
        await anyio.sleep(IDLE_SECONDS)
        return (time.process_time() - worked) / (time.perf_counter() - start)


async def drop(opening: Opening[LeasedKeyQueue[int, int]], held: int, items: int) -> float:
    """Have items delayed no more, one by one, by putting them for now; most of them stay."""
    async with opening() as queue:
        for key in range(held):
            queue.put_nowait(key, key, delay=FAR)
        stride = held // items
        with Stopwatch() as watch:
            for key in range(0, stride * items, stride):
                queue.put_nowait(key, key)
    return watch.seconds / items


def delayed_items(bench: Bench) -> Iterator[Row]:
    """items that are due in a day."""
    many = bench.items(DELAYED)
    ready, delayed = partial(put, leaseq), partial(put_delayed, leaseq)
    costs = bench.measure((ready, delayed), items=many, rounds=ROUNDS)
    yield costs.cost(f"put {many:,} delayed, to ready", delayed, ready)

    holding = partial(idle, leaseq)
    costs = bench.measure((holding,), items=many, rounds=1)
    yield costs.amount(PERCENT, f"processor time to hold {many:,}", holding, at_most(1))

    of_many, of_few = partial(drop, leaseq, many), partial(drop, leaseq, FEW)
    costs = bench.measure((of_many, of_few), items=DROPPED // 2, rounds=ROUNDS)
    yield costs.cost(f"drop one of {many:,}, to of {FEW:,}", of_many, of_few, at_most(3))
