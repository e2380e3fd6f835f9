"""A process with a broker of its own: one consumer that waits, or the producer.

It says a line when it is ready, does what it is there for when it is told one, and says a line when
it is done. It ends when it is told another, and at once with its standard input.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from statistics import median

import anyio

import leaseq
from leaseq._remote.protocol import Batch, Claim, Parked, Reply
from leaseq._valkey.client import open_client
from leaseq._valkey.store import ValkeyStore
from leaseq._valkey.url import ValkeyUrl

QUEUE = "jobs"
INTERVAL = 0.02  # seconds between two items
PINGS = 50


class Count:
    """Counts the claims that this process sends, and those of them for which nobody called.

    These are the looks of those who wait, in case a wake-up was lost.
    """

    def __init__(self) -> None:
        self.claims = self.looks = 0
        exchange = ValkeyStore.exchange

        async def counted(store: ValkeyStore, batch: Batch) -> Reply:
            for operation in batch.operations:
                self.claims += isinstance(operation, Claim)
                self.looks += isinstance(operation, Parked)
            return await exchange(store, batch)

        ValkeyStore.exchange = counted  # type: ignore[method-assign]

    def start(self) -> None:
        """Count from here."""
        self.claims = self.looks = 0


class Orders:
    """What is said to this process, which ends with its standard input, whatever it is at."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        os._exit(0)

    async def told(self) -> None:
        """Wait for a line."""
        await anyio.to_thread.run_sync(self._lines.get)


async def consume(url: str, orders: Orders) -> None:
    """Handle one item at a time, and note how long each was on its way."""
    count = Count()
    nanoseconds: list[int] = []

    async def handle(lease: leaseq.Lease[int, int]) -> None:
        nanoseconds.append(time.monotonic_ns() - lease.value)

    async with leaseq.connect(url) as broker, anyio.create_task_group() as tg:
        jobs = await broker.queue(QUEUE, default_lease_timeout=30)
        await tg.start(broker.run)
        await tg.start(leaseq.serve, jobs, handle, 1)
        print("ready", flush=True)
        await orders.told()
        count.start()
        nanoseconds.clear()
        await orders.told()
        said = {"claims": count.claims, "looks": count.looks, "nanoseconds": nanoseconds}
        print(json.dumps(said), flush=True)
        tg.cancel_scope.cancel()


async def round_trip_of_nothing(url: str) -> float:
    """The nanoseconds of a command that does nothing, sent as rarely as the items are put."""
    client = await open_client(ValkeyUrl.parse(url))
    nanoseconds: list[int] = []
    for _ in range(PINGS):
        sent_at = time.monotonic_ns()
        await client.command("PING")
        nanoseconds.append(time.monotonic_ns() - sent_at)
        await anyio.sleep(INTERVAL)
    await client.close()
    return median(nanoseconds)


async def produce(url: str, orders: Orders, items: int, warm_up: int) -> None:
    """Put so many items that do not count, and then, when told, those that do."""
    async with leaseq.connect(url) as broker, anyio.create_task_group() as tg:
        jobs = await broker.queue(QUEUE, default_lease_timeout=30)
        await tg.start(broker.run)
        for number in range(warm_up):
            await jobs.put(-number, time.monotonic_ns())
            await anyio.sleep(INTERVAL)
        round_trip = await round_trip_of_nothing(url)
        print(json.dumps({"nanoseconds": round_trip}), flush=True)
        await orders.told()
        for number in range(items):
            await jobs.put(number, time.monotonic_ns())
            await anyio.sleep(INTERVAL)
        print("done", flush=True)
        await orders.told()
        tg.cancel_scope.cancel()


def main() -> None:
    """Be what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--backend", default="asyncio")
    parser.add_argument("--items", type=int, default=0, help="to put; otherwise, consume")
    parser.add_argument("--warm-up", type=int, default=0)
    asked = parser.parse_args()
    orders = Orders()
    if asked.items:
        anyio.run(produce, asked.url, orders, asked.items, asked.warm_up, backend=asked.backend)
    else:
        anyio.run(consume, asked.url, orders, backend=asked.backend)


if __name__ == "__main__":
    main()
