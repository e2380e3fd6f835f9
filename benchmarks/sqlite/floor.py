"""The least SQL that does the writes of a queue, 32 items in each transaction.

It has the tables of the engine, and writes what the engine does for plain items; it knows no rule,
waits for nothing, and is told what it puts by no one. In a loop it is the floor; in a thread that
tasks wait for, one future a call, it is the least that a queue with awaited calls can cost.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from leaseq._sqlite import schema

AT_ONCE = 32
BODY = b'"' + b"x" * 100 + b'"'


def opened(path: Path, synchronous: str) -> sqlite3.Connection:
    """A file with the tables of the engine, and one queue."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    schema.make(connection)
    columns = "0, '0', '0', 0" + ", 0" * 18
    connection.execute(f"INSERT INTO leaseq_queues VALUES (1, 'work', '', x'7b7d', 0, {columns})")
    return connection


class Floor:
    """The single statements of a queue on a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._token = 0
        self._now = 0.0

    def begin(self) -> None:
        """Begin a transaction."""
        self._now = time.time()
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit it, with the counts of the queue and the number of the batch."""
        execute = self._execute
        execute("UPDATE leaseq_queues SET ready = ?, token = ?, acked = ? WHERE id = 1", (0, 0, 0))
        execute("UPDATE leaseq_clock SET seen = ?", (time.time(),))
        execute(
            "INSERT OR REPLACE INTO leaseq_processes VALUES ('floor', '', ?, ?, ?)",
            (1, AT_ONCE, time.time()),
        )
        execute("COMMIT")

    def put(self, number: int) -> None:
        """Put an item."""
        self._execute(
            "INSERT INTO leaseq_items (queue, key, state, place, urgency, tenant, turn, since, "
            "deliveries, cancellations, expiries, after, letter, body) "
            "VALUES (1, ?, 0, ?, -3, x'', 0, ?, 0, 0, 0, 0, 0, ?)",
            (b"s%d" % number, number, self._now, BODY),
        )

    def lease(self, _: object = None) -> tuple[bytes, int]:
        """Lease the first item."""
        execute = self._execute
        item, key, _ = execute(
            "SELECT id, key, body FROM leaseq_items WHERE state = 0 AND queue = 1 "
            "AND tenant = x'' ORDER BY urgency, place LIMIT 1"
        ).fetchone()
        self._token += 1
        execute(
            "UPDATE leaseq_items SET state = 2, place = ?, at = ?, turn = ?, since = ?, "
            "deliveries = 1, process = 'floor' WHERE id = ?",
            (self._token, self._now + 30, self._token, self._now, item),
        )
        return key, self._token

    def ack(self, lease: tuple[bytes, int]) -> None:
        """Acknowledge an item."""
        self._execute(
            "DELETE FROM leaseq_items WHERE queue = 1 AND key = ? AND state = 2 AND place = ?",
            lease,
        )


def cycles(connection: sqlite3.Connection, items: int) -> None:
    """Put, lease and acknowledge items, so many of each in a transaction."""
    floor = Floor(connection)
    for first in range(0, items, AT_ONCE):
        floor.begin()
        for number in range(first, first + AT_ONCE):
            floor.put(number)
        floor.commit()
        floor.begin()
        held = [floor.lease() for _ in range(AT_ONCE)]
        floor.commit()
        floor.begin()
        for lease in held:
            floor.ack(lease)
        floor.commit()


async def awaited_cycles(connection: sqlite3.Connection, items: int) -> None:
    """Put, lease and acknowledge items in as many tasks as there are in a transaction.

    What they ask for in one turn of the event loop goes to a thread, as one transaction.
    """
    floor = Floor(connection)
    loop = asyncio.get_running_loop()
    lots: SimpleQueue[list[tuple[Callable[[Any], Any], Any, asyncio.Future[Any]]] | None]
    lots = SimpleQueue()
    asked: list[tuple[Callable[[Any], Any], Any, asyncio.Future[Any]]] = []

    def work() -> None:
        while (lot := lots.get()) is not None:
            floor.begin()
            answers = [call(argument) for call, argument, _ in lot]
            floor.commit()
            futures = [future for _, _, future in lot]
            loop.call_soon_threadsafe(answer, futures, answers)

    def answer(futures: list[asyncio.Future[Any]], answers: list[Any]) -> None:
        for future, each in zip(futures, answers, strict=True):
            future.set_result(each)

    def send() -> None:
        lots.put([*asked])
        asked.clear()

    def ask(call: Callable[[Any], Any], argument: object) -> asyncio.Future[Any]:
        if not asked:
            loop.call_soon(send)
        future = loop.create_future()
        asked.append((call, argument, future))
        return future

    async def one(first: int) -> None:
        for number in range(first, items, AT_ONCE):
            await ask(floor.put, number)
            lease = await ask(floor.lease, None)
            await ask(floor.ack, lease)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        await asyncio.gather(*map(one, range(AT_ONCE)))
    finally:
        lots.put(None)
        thread.join()
