"""What an item costs when many consumers wait for it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial

import anyio
import leasedkeyq as peer  # type: ignore[import-untyped]
import trio
from anyio.lowlevel import checkpoint

from leaseq import QueueClosedError

from .harness import MILLISECONDS, Bench, Row, Stopwatch, Subject, at_least, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq

ITEMS = 3_000
ROUNDS = 9
LEASE_TIMEOUT = 60.0

BURST = 10_000

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


async def passed_on(
    put: Callable[[int], Awaitable[object]], get: Callable[[], Awaitable[object]], items: int
) -> float:
    """As `served` by one consumer, through a queue that has neither keys nor leases."""
    done = 0

    async def consume() -> None:
        nonlocal done
        while True:
            await get()
            done += 1

    async with anyio.create_task_group() as tg:
        tg.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        with Stopwatch() as watch:
            for number in range(items):
                await put(number)
                while done <= number:
                    await checkpoint()
        tg.cancel_scope.cancel()
    return watch.seconds / items


async def asyncio_queue(items: int) -> float:
    """asyncio's queue with one consumer that waits, without an ack."""
    queue = asyncio.Queue[int]()
    return await passed_on(queue.put, queue.get, items)


async def anyio_stream(items: int) -> float:
    """anyio's memory object stream, likewise."""
    send, receive = anyio.create_memory_object_stream[int](math.inf)
    async with send, receive:
        return await passed_on(send.send, receive.receive, items)


async def trio_channel(items: int) -> float:
    """trio's memory channel, likewise."""
    send, receive = trio.open_memory_channel[int](math.inf)
    async with send, receive:
        return await passed_on(send.send, receive.receive, items)


async def longest_hand_over(items: int) -> float:
    """The longest time for which nobody else runs while as many items are put as are waited for."""

    async def consume() -> None:
        _, _, lease = await queue.get()
        await queue.ack(lease)

    async with anyio.create_task_group() as tg, leaseq() as queue:
        for _ in range(items):
            tg.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        start = time.process_time()
        await queue.put_many([(key, key) for key in range(items)])
        longest = time.process_time() - start
        await queue.join()
        return longest


def waiting_consumers(bench: Bench) -> Iterator[Row]:
    """put + get + ack of an item that consumers wait for."""
    yield from beside_peers(bench)
    gets = {count: partial(served, leaseq, count) for count in (1, 10, 100, 1_000, 10_000)}
    takes = {count: partial(served, leaseq, count, by_key=True) for count in (1, 3_000)}
    subjects = (*gets.values(), *takes.values())
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    yield costs.cost("10 waiting gets, to one", gets[10], gets[1])
    yield costs.cost("100 waiting gets, to one", gets[100], gets[1])
    yield costs.cost("1,000 waiting gets, to one", gets[1_000], gets[1], at_most(1.2))
    yield costs.cost("10,000 waiting gets, to one", gets[10_000], gets[1], at_most(1.5))
    yield costs.cost("3,000 waiting takes, to one", takes[3_000], takes[1])
    many = bench.items(BURST)
    costs = bench.measure((longest_hand_over,), items=many, rounds=ROUNDS)
    what = f"put_many of {many:,} to as many waiters"
    yield costs.amount(MILLISECONDS, what, longest_hand_over, at_most(10))
    if bench.on_asyncio:
        peers = {count: partial(served, leasedkeyq, count) for count in (1, 1_000)}
        costs = bench.measure(peers.values(), items=bench.items(PEER_ITEMS), rounds=PEER_ROUNDS)
        yield costs.cost("leasedkeyq: 1,000 waiting gets, to one", peers[1_000], peers[1])


def beside_peers(bench: Bench) -> Iterator[Row]:
    """One consumer that waits, beside other queues."""
    ours = partial(served, leaseq, 1)
    timed = partial(served, partial(leaseq, LEASE_TIMEOUT), 1)
    peers: dict[str, Subject]
    if bench.on_asyncio:
        leased = partial(served, leasedkeyq, 1)
        peers = {"asyncio.Queue": asyncio_queue, "anyio's stream": anyio_stream}
    else:
        peers = {"trio's channel": trio_channel, "anyio's stream": anyio_stream}
    extra = (leased,) if bench.on_asyncio else ()
    costs = bench.measure(
        (ours, timed, *peers.values(), *extra), items=bench.items(ITEMS), rounds=3 * ROUNDS
    )
    if bench.on_asyncio:
        yield costs.speed("one waiting get, as fast as leasedkeyq", ours, leased, at_least(1.1))
    for number, (name, peer_subject) in enumerate(peers.items()):
        target = at_most(1.6) if bench.on_asyncio and not number else None
        yield costs.cost(f"one waiting get, to {name}", ours, peer_subject, target)
    yield costs.cost("one waiting get, timed, to untimed", timed, ours)
