"""What an item takes in memory, without its key and its value."""

import gc
import tracemalloc
from collections.abc import Iterator
from functools import partial

from .harness import BYTES, Bench, Row, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq

#: Just more than makes a dict grow (2**17 * 2 / 3): near the worst for all who build on dicts.
ITEMS = 100_000


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


def bytes_an_item(bench: Bench) -> Iterator[Row]:
    """the memory of an item, untimed, without key and value."""
    opening = partial(leaseq, fast_acquire=True)
    ready, leased = (partial(held, opening, leased=leased) for leased in (False, True))
    peer_ready, peer_leased = (partial(held, leasedkeyq, leased=leased) for leased in (False, True))
    peers = (peer_ready, peer_leased) if bench.on_asyncio else ()
    costs = bench.measure((ready, leased, *peers), items=bench.items(ITEMS), rounds=1)
    yield costs.amount(BYTES, "ready", ready, at_most(320))
    yield costs.amount(BYTES, "leased", leased, at_most(400))
    if bench.on_asyncio:
        yield costs.amount(BYTES, "leasedkeyq: ready", peer_ready)
        yield costs.amount(BYTES, "leasedkeyq: leased", peer_leased)
