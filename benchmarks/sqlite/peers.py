"""Queues on SQLite beside leaseq: one process, items in one by one, and out again with their acks.

``python peers.py NAME FILE ITEMS`` runs where the peer is installed, and says the seconds. Each has
the settings that it comes with, and so what survives a power cut is not the same for all.
"""

import json
import os
import sys
import time
from collections.abc import Callable

VALUE = {"id": 1, "to": "ada@example.org", "kind": "welcome"}


def huey(file: str, items: int) -> tuple[float, float]:
    """A task's message is put, and taken: huey knows no acks."""
    from huey import SqliteHuey

    app = SqliteHuey(filename=file)

    @app.task()
    def handle(value: object) -> None:
        pass

    started = time.perf_counter()
    for _ in range(items):
        handle(VALUE)
    enqueued = time.perf_counter()
    for _ in range(items):
        app.execute(app.dequeue())
    return enqueued - started, time.perf_counter() - enqueued


def litequeue(file: str, items: int) -> tuple[float, float]:
    """A message is put, popped and marked as done."""
    from litequeue import LiteQueue

    queue = LiteQueue(file)
    text = json.dumps(VALUE)
    started = time.perf_counter()
    for _ in range(items):
        queue.put(text)
    enqueued = time.perf_counter()
    for _ in range(items):
        queue.done(queue.pop().message_id)
    return enqueued - started, time.perf_counter() - enqueued


def persistqueue(file: str, items: int) -> tuple[float, float]:
    """An item is put, taken and acknowledged."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(file + ".d", auto_commit=True)
    started = time.perf_counter()
    for _ in range(items):
        queue.put(VALUE)
    enqueued = time.perf_counter()
    for _ in range(items):
        queue.ack(queue.get())
    return enqueued - started, time.perf_counter() - enqueued


def dbos(file: str, items: int) -> tuple[float, float]:
    """A workflow is enqueued, and run."""
    import logging

    from dbos import DBOS

    logging.disable(logging.CRITICAL)
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{file}"})

    @DBOS.workflow()
    def handle(value: object) -> None:
        pass

    DBOS.launch()
    DBOS.register_queue("jobs")
    queue = DBOS.retrieve_queue("jobs")
    started = time.perf_counter()
    handles = [queue.enqueue(handle, VALUE) for _ in range(items)]
    enqueued = time.perf_counter()
    for each in handles:
        each.get_result()
    return enqueued - started, time.perf_counter() - enqueued


def leaseq(file: str, items: int) -> tuple[float, float]:
    """Put one by one, 32 at once; and served by 32 workers."""
    import anyio

    from leaseq import Lease, connect, serve

    synchronous = os.environ.get("SYNCHRONOUS", "full")
    handled = 0

    async def main() -> tuple[float, float]:
        done = anyio.Event()

        async def handle(lease: Lease[str, object]) -> None:
            nonlocal handled
            handled += 1
            if handled == items:
                done.set()

        async with (
            anyio.create_task_group() as tg,
            connect(f"sqlite:///{file}?synchronous={synchronous}") as broker,
        ):
            await tg.start(broker.run)
            queue = await broker.queue("jobs", default_lease_timeout=60)

            async def produce(first: int) -> None:
                for number in range(first, items, 32):
                    await queue.put(str(number), VALUE)

            started = time.perf_counter()
            async with anyio.create_task_group() as producers:
                for first in range(32):
                    producers.start_soon(produce, first)
            enqueued = time.perf_counter()
            await tg.start(serve, queue, handle, 32)
            await done.wait()
            await queue.join()
            ended = time.perf_counter()
            tg.cancel_scope.cancel()
        return enqueued - started, ended - enqueued

    return anyio.run(main)


SUBJECTS: dict[str, Callable[[str, int], tuple[float, float]]] = {
    "leaseq": leaseq,
    "huey": huey,
    "litequeue": litequeue,
    "persistqueue": persistqueue,
    "dbos": dbos,
}

if __name__ == "__main__":
    name, file, items = sys.argv[1:]
    print(json.dumps(SUBJECTS[name](file, int(items))), flush=True)
    os._exit(0)
