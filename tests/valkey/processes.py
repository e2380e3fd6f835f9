"""Programs of the tests' own, each a process that may be killed, frozen, or have a wrong clock.

``python processes.py WHAT URL``. What they have to tell they say in lines of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import anyio

import leaseq
from leaseq import Broker, Lease, LeasedQueue, LeaseLostError
from leaseq._core.errors import ServerError, ServerUnavailableError, UnusableServerError

LEASE = 2.0
"""Seconds until a lease expires, of the queue of these programs."""

Queue: TypeAlias = LeasedQueue[str, Any]

wall = time.time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=PROGRAMS)
    parser.add_argument("url")
    parser.add_argument("--backend", default="asyncio", help="asyncio, asyncio+uvloop, or trio")
    parser.add_argument("--name", default="", help="what keys begin with")
    parser.add_argument("--consumers", type=int, default=8)
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--clock", type=float, default=0, help="seconds that it is wrong by")
    parser.add_argument("--work", type=float, default=0.001, help="seconds that an item takes")
    parser.add_argument("--pause", type=float, default=0, help="seconds between two puts")
    parser.add_argument("--fails", type=float, default=0, help="the part of the work that does")
    return parser.parse_args()


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def drain(queue: Queue, asked: argparse.Namespace) -> None:
    """Do what there is, until a signal comes, and say how much memory that took at most, in MB."""
    done = 0

    async def handle(lease: Lease[str, Any]) -> None:
        nonlocal done
        done += 1

    stop = anyio.Event()
    async with anyio.create_task_group() as tg:
        await tg.start(leaseq.stop_on_signals, stop)
        say("ready")
        await leaseq.serve(queue, handle, asked.consumers, stop=stop)
    say("drained", done, most_memory())


def most_memory() -> float:
    """The most megabytes that this program has had.

    `getrusage` has those of the program that has started this one among them.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


async def hold(queue: Queue, asked: argparse.Namespace) -> None:
    """Lease a hundred items, say so, and never come to an end."""
    leases: list[Lease[str, Any]] = []
    while len(leases) < 100:
        leases += await queue.get_batch(100 - len(leases))
    for lease in leases:
        say(lease.key, lease.token)
    say("holding")
    await anyio.sleep_forever()


async def consume(queue: Queue, asked: argparse.Namespace) -> None:
    """Do what there is, and say what was acknowledged, and which leases were lost."""

    async def one_by_one() -> None:
        async for lease in queue:
            try:
                async with lease:
                    await anyio.sleep(asked.work)
            except LeaseLostError:
                say("lost", lease.key, lease.token)
            else:
                say(lease.key, lease.token)

    async with anyio.create_task_group() as tg:
        say("ready")
        for _ in range(asked.consumers):
            tg.start_soon(one_by_one)


async def cancel(queue: Queue, asked: argparse.Namespace) -> None:
    """Cancel a hundred keys, one after the other, and say which ones were cancelled."""
    say("ready")
    for number in range(100):
        key = f"item-{number}"
        say(key, await queue.cancel(key, reason="not needed"))


async def produce(queue: Queue, asked: argparse.Namespace) -> None:
    """Put one item after the other, and say which ones were put, and which were refused."""
    for number in range(1_000_000):
        key = f"{asked.name}-{number}"
        try:
            await queue.put(key, number)
        except ServerError as error:
            say("refused", key, error.code)
        else:
            say(key)
        await anyio.sleep(asked.pause)


async def supply(queue: Queue, asked: argparse.Namespace) -> None:
    """Put one item after the other, and say which ones were put."""
    for number in range(1_000_000):
        key = f"{asked.name}-{number}"
        with suppress(ServerError):  # it is full
            await queue.put(key, number)
            say("put", key)
        await anyio.sleep(asked.pause)


async def toil(queue: Queue, asked: argparse.Namespace) -> None:
    """Do what there is, or fail, and say what was leased, and what was acknowledged."""

    async def one_by_one() -> None:
        async for lease in queue:
            say("took", lease.key, lease.token)
            with suppress(LeaseLostError, FailedError):
                async with lease:
                    await anyio.sleep(asked.work)
                    if random.random() < asked.fails:
                        raise FailedError
                say("acked", lease.key, lease.token)

    async with anyio.create_task_group() as tg:
        for _ in range(asked.consumers):
            tg.start_soon(one_by_one)


class FailedError(Exception):
    """The work has."""


async def hang(queue: Queue, asked: argparse.Namespace) -> None:
    """Lease two items, and hang: in the body of one, and with the other in its hands."""
    _, _, by_hand = await queue.get()

    async def in_a_body() -> None:
        try:
            async with queue.lease() as lease:
                say("begun", lease.key, lease.token)
                try:
                    await anyio.sleep_forever()
                finally:
                    say("ended", lease.key, time.monotonic())
        except LeaseLostError:
            say("lost", lease.key, lease.token)

    async with anyio.create_task_group() as tg:
        tg.start_soon(in_a_body)
        await anyio.sleep_until(by_hand.deadline)
    try:
        await queue.ack(by_hand)
    except LeaseLostError:
        say("late", by_hand.key, by_hand.token)
    say("done")


PROGRAMS: Mapping[str, Callable[[Queue, argparse.Namespace], Awaitable[None]]] = {
    "drain": drain,
    "hold": hold,
    "consume": consume,
    "cancel": cancel,
    "produce": produce,
    "supply": supply,
    "toil": toil,
    "hang": hang,
}


async def connected(url: str, stack: AsyncExitStack) -> Broker:
    """Connect, as soon as there is a server."""
    while True:
        with suppress(UnusableServerError, ServerUnavailableError):
            return await stack.enter_async_context(leaseq.connect(url))
        await anyio.sleep(0.2)


async def main(asked: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        runs = await stack.enter_async_context(anyio.create_task_group())
        queues = []
        for _ in range(asked.brokers):
            broker = await connected(asked.url, stack)
            await runs.start(broker.run)
            queues.append(await broker.queue("work", default_lease_timeout=LEASE))
        async with anyio.create_task_group() as users:
            for queue in queues:
                users.start_soon(PROGRAMS[asked.what], queue, asked)


if __name__ == "__main__":
    asked = arguments()
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)
    time.time = lambda: wall() + asked.clock  # of this process alone
    library, _, loop = asked.backend.partition("+")
    anyio.run(main, asked, backend=library, backend_options={"use_uvloop": True} if loop else {})
