"""Reindex what has changed: each document once for many changes, and none of them missed.

Documents change faster than they can be indexed. Each change is put under the document's key. While
the document waits, a change replaces the one before it. While it is being indexed, changes wait in
the buffer, the latest of them, and the document comes back once.
"""

import random
from collections import Counter

import anyio

from leaseq import LeasedKeyQueue, PutOutcome

DOCUMENTS = ["introduction", "tutorial", "reference"]
CHANGES = 60


async def edit(queue: LeasedKeyQueue[str, int], newest: Counter[str]) -> Counter[PutOutcome]:
    """Change documents, and say so. The value is the number of the document's revision."""
    outcomes: Counter[PutOutcome] = Counter()
    for _ in range(CHANGES):
        document = random.choice(DOCUMENTS)
        newest[document] += 1
        outcomes[await queue.put(document, newest[document], if_in_flight="buffer")] += 1
        await anyio.sleep(0.01)
    return outcomes


async def index(queue: LeasedKeyQueue[str, int], indexed: dict[str, int]) -> None:
    async for lease in queue:
        async with lease:
            await anyio.sleep(0.1)
            indexed[lease.key] = lease.value
            print(f"indexed {lease.key}, revision {lease.value}")


async def main() -> None:
    newest: Counter[str] = Counter()
    indexed: dict[str, int] = {}
    async with LeasedKeyQueue[str, int](name="documents") as queue:
        async with anyio.create_task_group() as workers:
            for _ in range(2):
                workers.start_soon(index, queue, indexed)
            outcomes = await edit(queue, newest)
            await queue.shutdown()
        done = (await queue.statistics()).acked

    for outcome, count in outcomes.items():
        print(f"{count:3} changes {outcome.value}")
    print(f"{CHANGES} changes, indexed {done} times")
    assert indexed == newest, "a change was missed"


if __name__ == "__main__":
    anyio.run(main)
