"""What an item takes in memory, without its key and value, and how long many stop the collector."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial

from leaseq import LeasedKeyQueue

from .harness import BYTES, MILLISECONDS, Bench, Row, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq, timeless

#: Just more than makes a dict grow (2**17 * 2 / 3): near the worst for all who build on dicts.
ITEMS = 100_000
WAITING = 1_000_000
LONG = 3_600.0


async def held(opening: Opening[KeyedQueue], items: int, *, leased: bool) -> float:
    """The bytes an item that is ready, or leased; its consumer keeps the lease."""
    keys = list(range(1_000, 1_000 + items))
    leases: list[object] = [None] * items
    gc.collect()
    async with opening() as queue:
        tracemalloc.start()
        try:
            for key in keys:
                await queue.put(key, key)
            if leased:
                for number in range(items):
                    _, _, leases[number] = await queue.get()
            gc.collect()
            return tracemalloc.get_traced_memory()[0] / items
        finally:
            tracemalloc.stop()


async def held_back(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """The bytes an item that is delayed, each to a time of its own."""
    keys = list(range(1_000, 1_000 + items))
    gc.collect()
    async with opening() as queue:
        tracemalloc.start()
        try:
            for key in keys:
                await queue.put(key, key, delay=LONG)
            gc.collect()
            return tracemalloc.get_traced_memory()[0] / items
        finally:
            tracemalloc.stop()


async def longest_put(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """The longest put on the way to so many items in line: one in which rubbish is collected."""
    longest = 0.0
    gc.collect()
    async with opening() as queue:
        for key in range(items):
            start = time.process_time()
            queue.put_nowait(key, key)
            longest = max(longest, time.process_time() - start)
    return longest


async def collection(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """A full collection of rubbish with so many items in line."""
    async with opening() as queue:
        for key in range(items):
            queue.put_nowait(key, key)
        gc.collect()
        start = time.process_time()
        gc.collect()
        return time.process_time() - start


def collections(bench: Bench) -> Iterator[Row]:
    """how long the garbage collector stops all else, with many items in line."""
    put, full = partial(longest_put, timeless), partial(collection, timeless)
    items = bench.items(WAITING)
    costs = bench.measure((put, full), items=items, rounds=1)
    yield costs.amount(MILLISECONDS, f"the longest put of {items:,}", put, at_most(20))
    yield costs.amount(MILLISECONDS, f"a full collection, {items:,} in line", full, at_most(20))


def bytes_an_item(bench: Bench) -> Iterator[Row]:
    """the memory of an item, untimed, without key and value."""
    opening = partial(leaseq, fast_acquire=True)
    ready, leased = (partial(held, opening, leased=leased) for leased in (False, True))
    peer_ready, peer_leased = (partial(held, leasedkeyq, leased=leased) for leased in (False, True))
    delayed = partial(held_back, opening)
    peers = (peer_ready, peer_leased) if bench.on_asyncio else ()
    costs = bench.measure((ready, leased, delayed, *peers), items=bench.items(ITEMS), rounds=1)
    yield costs.amount(BYTES, "ready", ready, at_most(170))
    yield costs.amount(BYTES, "leased", leased, at_most(300))
    yield costs.amount(BYTES, "delayed", delayed, at_most(300))
    if bench.on_asyncio:
        yield costs.amount(BYTES, "leasedkeyq: ready", peer_ready)
        yield costs.amount(BYTES, "leasedkeyq: leased", peer_leased)
