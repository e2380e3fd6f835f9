"""Several tasks measure, and one statement writes a hundred rows to SQLite."""

import logging
import random
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import anyio

from leaseq import Backoff, Batcher, Retry

SENSORS = 8
READINGS = 1_250

Reading = tuple[int, int, float]


class Database:
    """A file that other programs write to as well: now and then it is locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TABLE readings (sensor INTEGER, number INTEGER, value REAL, "
                "PRIMARY KEY (sensor, number))"
            )

    async def write(self, readings: list[Reading]) -> None:
        """All of them or none, in a worker thread: SQLite blocks."""
        # A thread runs to its end even if this is cancelled. So a batch that was written may come
        # again: OR IGNORE makes that harmless.
        await anyio.to_thread.run_sync(self._write, readings)

    def _write(self, readings: list[Reading]) -> None:
        if random.random() < 0.1:
            raise sqlite3.OperationalError("database is locked")
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO readings VALUES (?, ?, ?)", readings)

    def count(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM readings").fetchone()
            return int(rows)


async def measure(sensor: int, batcher: Batcher[Reading]) -> None:
    for number in range(READINGS):
        await batcher.add((sensor, number, random.gauss(20.0, 2.0)))  # waits if SQLite falls behind


async def main() -> None:
    random.seed(4)
    quiet = logging.getLogger("readings")
    quiet.setLevel(logging.CRITICAL)  # each failure would be logged
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "readings.sqlite")
        batcher = Batcher(
            database.write,
            max_batch_size=100,
            flush_interval=0.5,
            max_pending=1_000,
            retry=Retry(backoff=Backoff(base=0.01, ceiling=0.1)),
            logger=quiet,
        )
        async with anyio.create_task_group() as tg, batcher:
            await tg.start(batcher.run)
            async with anyio.create_task_group() as sensors:
                for sensor in range(SENSORS):
                    sensors.start_soon(measure, sensor, batcher)
            while batcher.pending():  # the final flush would try each batch only once
                with suppress(sqlite3.OperationalError):
                    await batcher.flush()
        stats = batcher.stats
        rows = database.count()
    print(f"{rows} rows in {stats.flushes} batches; {stats.failures} failed and were tried again")
    assert rows == SENSORS * READINGS


if __name__ == "__main__":
    anyio.run(main)
