"""A process of the benchmark: ``python -m benchmarks.sqlite.worker WHAT URL ITEMS``."""

import json
import sys
import time

import anyio

from leaseq import Lease, connect


async def cycle(url: str, items: int) -> None:
    """Put, lease and acknowledge items, 32 at once, when told to."""
    async with anyio.create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=60)

        async def one(first: int) -> None:
            for number in range(first, items, 32):
                await queue.put(f"{time.monotonic_ns()}-{first}-{number}", "x" * 100)
                _, _, lease = await queue.get()
                await queue.ack(lease)

        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        async with anyio.create_task_group() as users:
            for first in range(32):
                users.start_soon(one, first)
        print("done", flush=True)
        tg.cancel_scope.cancel()


async def consume(url: str, items: int) -> None:
    """Handle what comes, and say how long each was on its way; and the processor time of all."""
    on_their_way: list[float] = []
    async with anyio.create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=60)

        async def handle() -> None:
            async for lease in queue:
                lease_of: Lease[str, int] = lease
                on_their_way.append((time.monotonic_ns() - lease_of.value) / 1e9)
                await queue.ack(lease)

        tg.start_soon(handle)
        await anyio.sleep(0.5)
        print("ready", flush=True)
        while True:
            await anyio.to_thread.run_sync(sys.stdin.readline)
            print(json.dumps([on_their_way, time.process_time()]), flush=True)


if __name__ == "__main__":
    what, url, items = sys.argv[1:]
    anyio.run({"cycle": cycle, "consume": consume}[what], url, int(items))
