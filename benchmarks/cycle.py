"""The cycle of one item: put, get, ack."""

import asyncio
import math
from collections.abc import Iterator
from functools import partial

import anyio
import trio

from leaseq import LeasedKeyQueue

from .harness import Bench, Row, Stopwatch, at_least, at_most
from .queues import KeyedQueue, Opening, leasedkeyq, leaseq, timeless

ITEMS = 5_000
ROUNDS = 25
LEASE_TIMEOUT = 60.0


async def cycle(opening: Opening[KeyedQueue], items: int) -> float:
    """The awaitable calls of leaseq or leasedkeyq."""
    async with opening() as queue:
        with Stopwatch() as watch:
            for key in range(items):
                await queue.put(key, key)
                _, _, lease = await queue.get()
                await queue.ack(lease)
    return watch.seconds / items


async def nowait_cycle(opening: Opening[LeasedKeyQueue[int, int]], items: int) -> float:
    """leaseq's synchronous calls."""
    async with opening() as queue:
        with Stopwatch() as watch:
            for key in range(items):
                queue.put_nowait(key, key)
                _, _, lease = queue.get_nowait()
                queue.ack_nowait(lease)
    return watch.seconds / items


async def asyncio_queue(items: int) -> float:
    """asyncio's queue by its synchronous calls, without an ack."""
    queue = asyncio.Queue[tuple[int, int]]()
    with Stopwatch() as watch:
        for key in range(items):
            queue.put_nowait((key, key))
            queue.get_nowait()
    return watch.seconds / items


async def asyncio_queue_done(items: int) -> float:
    """asyncio's queue by its synchronous calls, with its counterpart of an ack."""
    queue = asyncio.Queue[tuple[int, int]]()
    with Stopwatch() as watch:
        for key in range(items):
            queue.put_nowait((key, key))
            queue.get_nowait()
            queue.task_done()
    return watch.seconds / items


async def anyio_stream(items: int) -> float:
    """anyio's memory object stream, without an ack."""
    send, receive = anyio.create_memory_object_stream[tuple[int, int]](math.inf)
    async with send, receive:
        with Stopwatch() as watch:
            for key in range(items):
                await send.send((key, key))
                await receive.receive()
    return watch.seconds / items


async def trio_channel(items: int) -> float:
    """trio's memory channel, without an ack."""
    send, receive = trio.open_memory_channel[tuple[int, int]](math.inf)
    async with send, receive:
        with Stopwatch() as watch:
            for key in range(items):
                await send.send((key, key))
                await receive.receive()
    return watch.seconds / items


async def trio_channel_nowait(items: int) -> float:
    """trio's memory channel by its synchronous calls, without an ack."""
    send, receive = trio.open_memory_channel[tuple[int, int]](math.inf)
    async with send, receive:
        with Stopwatch() as watch:
            for key in range(items):
                send.send_nowait((key, key))
                receive.receive_nowait()
    return watch.seconds / items


awaiting = partial(cycle, leaseq)
fast = partial(cycle, partial(leaseq, fast_acquire=True))
nowait = partial(nowait_cycle, leaseq)
plain = partial(nowait_cycle, timeless)
peer = partial(cycle, leasedkeyq)

timed_awaiting = partial(cycle, partial(leaseq, LEASE_TIMEOUT))
timed_fast = partial(cycle, partial(leaseq, LEASE_TIMEOUT, fast_acquire=True))
timed_nowait = partial(nowait_cycle, partial(leaseq, LEASE_TIMEOUT))
timed_peer = partial(cycle, partial(leasedkeyq, LEASE_TIMEOUT))


def untimed_leases(bench: Bench) -> Iterator[Row]:
    """put + get + ack of an item, leases without end."""
    everywhere = (awaiting, fast, nowait, plain, anyio_stream)
    peers = (
        (peer, asyncio_queue, asyncio_queue_done)
        if bench.on_asyncio
        else (trio_channel, trio_channel_nowait)
    )
    costs = bench.measure((*everywhere, *peers), items=bench.items(ITEMS), rounds=ROUNDS)
    if bench.on_asyncio:
        yield costs.speed("nowait, as fast as leasedkeyq", plain, peer, at_least(6.5))
        yield costs.speed("fast_acquire, as fast as leasedkeyq", fast, peer, at_least(4.5))
        yield costs.speed("awaiting, as fast as leasedkeyq", awaiting, peer, at_least(1.5))
    yield costs.speed("awaiting, as fast as anyio's stream", awaiting, anyio_stream, at_least(1.3))
    if bench.on_asyncio:
        done = "to asyncio.Queue with task_done"
        yield costs.cost(f"nowait, {done}", plain, asyncio_queue_done, at_most(2.5))
        yield costs.cost("nowait, to asyncio.Queue without it", plain, asyncio_queue)
        yield costs.cost(f"nowait, timekeeper running, {done}", nowait, asyncio_queue_done)
    else:
        yield costs.speed("awaiting, as fast as trio's channel", awaiting, trio_channel)
        yield costs.cost("nowait, to trio's channel nowait", nowait, trio_channel_nowait)


def timed_leases(bench: Bench) -> Iterator[Row]:
    """put + get + ack of an item, leases with a timeout."""
    modes = {
        "nowait": (timed_nowait, nowait),
        "fast_acquire": (timed_fast, fast),
        "awaiting": (timed_awaiting, awaiting),
    }
    subjects = [subject for pair in modes.values() for subject in pair]
    if bench.on_asyncio:
        subjects.append(timed_peer)
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    for mode, (timed, untimed) in modes.items():
        yield costs.cost(f"{mode}, to untimed", timed, untimed, at_most(1.6))
    if bench.on_asyncio:
        for mode, (timed, _) in modes.items():
            target = at_least(1.3) if mode == "awaiting" else None
            yield costs.speed(f"{mode}, as fast as leasedkeyq timed", timed, timed_peer, target)
