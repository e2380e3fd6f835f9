"""What an item costs when many consumers wait for it."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import anyio
import leasedkeyq as peer  # type: ignore[import-untyped]
from anyio.lowlevel import checkpoint

from leaseq import QueueClosedError

from .harness import Bench, Row, Stopwatch, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq

ITEMS = 3_000
ROUNDS = 9

PEER_ITEMS = 100
PEER_ROUNDS = 5


async def served(
    opening: Opening[KeyedQueue], waiters: int, items: int, *, by_key: bool = False
) -> float:
    """Put an item, wait until a consumer has done it, and so on; all others wait all the time.

    Args:
        opening: Opens the queue.
        waiters: How many consumers wait.
        items: How many items are put.
        by_key: Whether each takes a key of its own (the keys come in turn), or gets what comes.
    """
    done = 0

    async def consume(key: int) -> None:
        nonlocal done
        with suppress(QueueClosedError, peer.QueueClosedError):
            while True:
                _, _, lease = await (queue.take(key) if by_key else queue.get())
                await queue.ack(lease)
                done += 1

    async with anyio.create_task_group() as tg, opening() as queue:
        for key in range(waiters):
            tg.start_soon(consume, key)
        await anyio.wait_all_tasks_blocked()
        with Stopwatch() as watch:
            for number in range(items):
                await queue.put(number % waiters, number)
                while done <= number:
                    await checkpoint()
    return watch.seconds / items


def waiting_consumers(bench: Bench) -> Iterator[Row]:
    """put + get + ack of an item that consumers wait for, to the same with one consumer."""
    gets = {count: partial(served, leaseq, count) for count in (1, 10, 100, 1_000)}
    takes = {count: partial(served, leaseq, count, by_key=True) for count in (1, 3_000)}
    subjects = (*gets.values(), *takes.values())
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    yield costs.cost("10 waiting gets", gets[10], gets[1])
    yield costs.cost("100 waiting gets", gets[100], gets[1])
    yield costs.cost("1,000 waiting gets", gets[1_000], gets[1], at_most(2.5))
    yield costs.cost("3,000 waiting takes", takes[3_000], takes[1])
    if bench.on_asyncio:
        peers = {count: partial(served, leasedkeyq, count) for count in (1, 1_000)}
        costs = bench.measure(peers.values(), items=bench.items(PEER_ITEMS), rounds=PEER_ROUNDS)
        yield costs.cost("leasedkeyq: 1,000 waiting gets", peers[1_000], peers[1])
