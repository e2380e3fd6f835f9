"""What timed leases cost while nothing happens, how late they expire, and how many at once."""

import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import anyio
from anyio.lowlevel import checkpoint

from leaseq import LeasedKeyQueue

from .harness import MILLISECONDS, PERCENT, Bench, Row, Stopwatch, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq

IDLE_LEASES = 300_000
IDLE_ROUNDS = 3
IDLE_SECONDS = 1.0
LONG = 3_600.0

EXPIRING_LEASES = 400
EXPIRY_ROUNDS = 5
SHORTEST = 0.2
SPREAD = 0.6

BURST_LEASES = 100_000
BURST_ROUNDS = 3
BURST_SECONDS = 2.0


async def idle(opening: Opening[KeyedQueue], items: int) -> float:
    """The share of a processor that a queue takes while all it does is to hold timed leases."""
    async with opening() as queue:
        for key in range(items):
            await queue.put(key, key)
            await queue.get()
        await anyio.sleep(0.1)
        start, worked = time.perf_counter(), time.process_time()
        await anyio.sleep(IDLE_SECONDS)
        return (time.process_time() - worked) / (time.perf_counter() - start)


async def lateness(opening: Opening[KeyedQueue], items: int) -> float:
    """How long after its lease ran out a waiting consumer has an item: the median, in seconds."""
    due: dict[int, float] = {}
    late: list[float] = []
    async with opening() as queue:
        for key in range(items):
            await queue.put(key, key)
        for number in range(items):
            timeout = SHORTEST + SPREAD * number / items
            start = time.perf_counter()
            key, _, _ = await queue.get(lease_timeout=timeout)
            due[key] = start + timeout
        for _ in range(items):
            key, _, lease = await queue.get(lease_timeout=LONG)
            late.append(time.perf_counter() - due[key])
            await queue.ack(lease)
    return median(late)


async def longest_turn(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """The longest time for which nobody else runs while many leases expire in one tick.

    Processor seconds.
    """
    longest = 0.0
    async with opening() as queue:
        for key in range(items):
            queue.put_nowait(key, key)
        leases = [queue.get_nowait()[2] for _ in range(items)]
        time.sleep(max(0.0, leases[-1].deadline - anyio.current_time()))  # noqa: ASYNC251 - so that all are due
        with Stopwatch():
            while await queue.inflight_size():
                start = time.process_time()
                await checkpoint()
                longest = max(longest, time.process_time() - start)
    return longest


def idle_queue(bench: Bench) -> Iterator[Row]:
    """the processor time of a queue that only holds timed leases."""
    ours = partial(idle, partial(leaseq, LONG, fast_acquire=True))
    peer = partial(idle, partial(leasedkeyq, LONG))
    items = bench.items(IDLE_LEASES)
    subjects = (ours, peer) if bench.on_asyncio else (ours,)
    costs = bench.measure(subjects, items=items, rounds=IDLE_ROUNDS)
    yield costs.amount(PERCENT, f"{items:,} leases", ours, at_most(1))
    if bench.on_asyncio:
        yield costs.amount(PERCENT, f"leasedkeyq: {items:,} leases", peer)


def expiry(bench: Bench) -> Iterator[Row]:
    """how late a lease expires, at the median."""
    ours = partial(lateness, leaseq)
    peer = partial(lateness, leasedkeyq)
    items = bench.items(EXPIRING_LEASES)
    subjects = (ours, peer) if bench.on_asyncio else (ours,)
    costs = bench.measure(subjects, items=items, rounds=EXPIRY_ROUNDS)
    yield costs.amount(MILLISECONDS, "from deadline to the next consumer", ours, at_most(3))
    if bench.on_asyncio:
        yield costs.amount(MILLISECONDS, "leasedkeyq: the same", peer)


def burst(bench: Bench) -> Iterator[Row]:
    """how long others have to wait while many leases expire in one tick."""
    ours = partial(longest_turn, partial(leaseq, BURST_SECONDS))
    items = bench.items(BURST_LEASES)
    costs = bench.measure((ours,), items=items, rounds=BURST_ROUNDS)
    yield costs.amount(MILLISECONDS, f"the longest wait, {items:,} leases", ours, at_most(5))
