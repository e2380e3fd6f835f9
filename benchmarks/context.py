"""``async with queue.lease()`` beside a bare get and ack."""

from collections.abc import Iterator
from functools import partial

from leaseq import LeasedKeyQueue

from .harness import Bench, Row, Stopwatch, at_most
from .queues import Opening, leaseq

ITEMS = 5_000
ROUNDS = 15
LEASE_TIMEOUT = 60.0


async def get_and_ack(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """Empty a full queue by hand."""
    async with opening() as queue:
        for key in range(items):
            queue.put_nowait(key, key)
        with Stopwatch() as watch:
            for _ in range(items):
                _, _, lease = await queue.get()
                await queue.ack(lease)
    return watch.seconds / items


async def lease_context(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """Empty a full queue, each item in a body of its own."""
    async with opening() as queue:
        for key in range(items):
            queue.put_nowait(key, key)
        with Stopwatch() as watch:
            for _ in range(items):
                async with queue.lease():
                    pass
    return watch.seconds / items


def lease_contexts(bench: Bench) -> Iterator[Row]:
    """async with queue.lease(), to get + ack."""
    modes: dict[str, Opening[LeasedKeyQueue[int, int]]] = {
        "awaiting": leaseq,
        "awaiting, timed": partial(leaseq, LEASE_TIMEOUT),
        "fast_acquire": partial(leaseq, fast_acquire=True),
        "fast_acquire, timed": partial(leaseq, LEASE_TIMEOUT, fast_acquire=True),
    }
    contexts = {mode: partial(lease_context, opening) for mode, opening in modes.items()}
    by_hand = {mode: partial(get_and_ack, opening) for mode, opening in modes.items()}
    subjects = (*contexts.values(), *by_hand.values())
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    for mode in modes:
        target = at_most(2.5) if mode == "awaiting" else None
        yield costs.cost(mode, contexts[mode], by_hand[mode], target)
