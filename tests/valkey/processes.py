"""Programs of the tests' own, each a process that may be killed.

``python processes.py WHAT URL BACKEND NAME``. What they have to tell they say in lines of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio

import leaseq
from leaseq import LeasedQueue

LEASE = 2.0
"""Seconds until a lease expires, of the queue of these programs."""


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def hold(queue: LeasedQueue[str, Any]) -> None:
    """Lease a hundred items, say so, and never come to an end."""
    leases = []
    while len(leases) < 100:
        leases += await queue.get_batch(100 - len(leases))
    for lease in leases:
        say(lease.key, lease.token)
    say("holding")
    await anyio.sleep_forever()


async def consume(queue: LeasedQueue[str, Any]) -> None:
    """Do what there is, and say what was acknowledged."""

    async def one_by_one() -> None:
        async for lease in queue:
            async with lease:
                await anyio.sleep(0.001)
            say(lease.key, lease.token)

    async with anyio.create_task_group() as tg:
        say("ready")
        for _ in range(8):
            tg.start_soon(one_by_one)


async def produce(queue: LeasedQueue[str, Any]) -> None:
    """Put one item after the other, and say which ones were put."""
    for number in range(1_000_000):
        await queue.put(f"{sys.argv[4]}-{number}", number)
        say(f"{sys.argv[4]}-{number}")


async def main() -> None:
    what = {"hold": hold, "consume": consume, "produce": produce}[sys.argv[1]]
    async with leaseq.connect(sys.argv[2]) as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await what(await broker.queue("work", default_lease_timeout=LEASE))


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[3])
