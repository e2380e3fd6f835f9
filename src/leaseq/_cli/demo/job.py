"""The job of the demo: one item per file, workers that parse, and faults made on purpose.

There are two faults, both drawn from a seed before the work starts, so that a run can be repeated
whatever the scheduler does:

- Some files kill the first worker that takes them. It does not release the lease, as a dead
  process does not; the lease expires and another worker does the file. A new worker takes the
  place of the dead one.
- Some files are saved again while a worker holds them. The new revision waits in the queue's buffer
  and comes back as a second job.

A worker that is merely slow must not lose its file to the clock, so it extends its lease while its
thread is at work.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from anyio import (
    CapacityLimiter,
    create_task_group,
    current_time,
    move_on_after,
    sleep,
    to_thread,
)

from leaseq import Lease, LeasedKeyQueue, LeaseLostError, Statistics

from .audit import Audit, Database, Record
from .files import read_facts

EDIT_RATE = 0.05

# Parsing holds the interpreter's lock, so that more threads would not parse faster, only keep the
# event loop, and with it the heartbeats, waiting for its turn. And in CPython 3.11 two threads that
# parse at once can make both fail (python/cpython#106905).
_THREADS = 1

TICK = 0.1
_HEARTBEATS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the index.

    Raises:
        ValueError: A number is out of range.
    """

    workers: int = 8
    """Number of workers."""
    crash_rate: float = 0.05
    """Share of the files, 0 to 1, that kill the first worker that takes them."""
    seed: int = 0
    """Seed of the choice of these files, and of those that are saved again."""
    lease_timeout: float = 2.0
    """Seconds until the file of a dead worker goes to another one."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if not 0 <= self.crash_rate <= 1:
            raise ValueError(f"the crash rate must be from 0 to 1, not {self.crash_rate}")
        if not 0 < self.lease_timeout < math.inf:
            raise ValueError(
                "the lease timeout must be a finite number of seconds above 0, not "
                f"{self.lease_timeout}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts of the index and of the faults, and the checks that failed."""

    files: int
    """Files to be indexed."""
    unparsable: int
    """Files that this Python could not read or parse."""
    definitions: int
    """Functions, methods and classes in all of them."""
    imports: Mapping[str, int]
    """Number of imports of each top-level package."""
    deaths: int
    """Workers that died while they held a file."""
    expired: int
    """Leases that expired; another worker then did the file."""
    saved_again: int
    """Files that changed while a worker held them, and came back."""
    jobs: int
    """Jobs that were done, including those of files that came back."""
    seconds: float
    """Duration of the whole run."""
    failures: tuple[str, ...]
    """A sentence for each check that failed."""


async def index(
    files: Sequence[Path],
    options: Options,
    show: Callable[[Statistics], object] = lambda _: None,
) -> Report:
    """Index `files`, and check that none is lost and none is in two hands at once.

    Args:
        files: The files, each path once.
        options: The options.
        show: Called with the queue's statistics, about ten times a second and once at the end.
    """
    began = perf_counter()
    async with (
        LeasedKeyQueue[Path, int](
            default_lease_timeout=options.lease_timeout, name="demo"
        ) as queue,
        create_task_group() as tg,
    ):
        await tg.start(queue.run)
        job = _Job(queue, files, options)
        await queue.put_many((path, 0) for path in files)
        for _ in range(options.workers):
            tg.start_soon(job.keep_worker)
        drained = False
        while not drained:
            show(await queue.statistics())
            with move_on_after(TICK):
                await queue.join()
                drained = True
        await queue.shutdown()
        statistics = await queue.statistics()
        show(statistics)
    return job.report(statistics, perf_counter() - began)


class _WorkerDiedError(Exception):
    """Simulates a death without clean-up: a power cut, the OOM killer."""


class _Job:
    """State that the workers share.

    The value of an item is the revision of its file: 0, and 1 after it was saved again.
    """

    def __init__(
        self,
        queue: LeasedKeyQueue[Path, int],
        files: Sequence[Path],
        options: Options,
    ) -> None:
        chance = random.Random(options.seed)
        self._deadly = {path for path in files if chance.random() < options.crash_rate}
        self._edited = {path for path in files if chance.random() < EDIT_RATE}
        self._queue = queue
        self._lease_timeout = options.lease_timeout
        self._threads = CapacityLimiter(_THREADS)
        self._database = Database()
        self._audit = Audit(files)
        self._files = len(files)
        self._deaths = 0
        self._saved_again = 0

    async def keep_worker(self) -> None:
        """Run one worker until the queue is drained, and a new one whenever it dies."""
        while True:
            try:
                return await self._work()
            except _WorkerDiedError:
                self._deaths += 1

    async def _work(self) -> None:
        async for lease in self._queue:
            self._audit.taken(lease, current_time())
            if lease.key in self._deadly:
                self._deadly.remove(lease.key)
                # Not inside "async with lease", which would release it.
                raise _WorkerDiedError
            with suppress(LeaseLostError):  # then another worker does the file
                async with lease:
                    await self._index(lease)

    async def _index(self, lease: Lease[Path, int]) -> None:
        path, revision = lease.key, lease.value
        if path in self._edited:
            self._edited.remove(path)
            await self._save_again(path, revision + 1)
        async with _extended(lease, self._lease_timeout):
            facts = await to_thread.run_sync(read_facts, path, limiter=self._threads)
        self._database.write(path, Record(lease.token, revision, facts))
        self._audit.let_go(lease)

    async def _save_again(self, path: Path, revision: int) -> None:
        await self._queue.put(path, revision, if_in_flight="buffer")
        self._audit.saved(path, revision)
        self._saved_again += 1

    def report(self, statistics: Statistics, seconds: float) -> Report:
        """Return the report. The queue is drained."""
        records = self._database.records
        facts = [record.facts for record in records.values()]
        imports: Counter[str] = Counter()
        for each in facts:
            imports.update(each.imports)
        return Report(
            files=self._files,
            unparsable=sum(not each.parsable for each in facts),
            definitions=sum(each.definitions for each in facts),
            imports=imports,
            deaths=self._deaths,
            expired=statistics.expired,
            saved_again=self._saved_again,
            jobs=statistics.acked,
            seconds=seconds,
            failures=self._audit.failures(records),
        )


@asynccontextmanager
async def _extended(lease: Lease[Path, int], timeout: float) -> AsyncIterator[None]:
    """Extend `lease` regularly while the body runs, so that only dead workers lose theirs."""
    async with create_task_group() as tg:
        tg.start_soon(_extend_for_ever, lease, timeout)
        yield
        tg.cancel_scope.cancel()


async def _extend_for_ever(lease: Lease[Path, int], timeout: float) -> None:
    with suppress(LeaseLostError):  # the lease ends its own body
        while True:
            # A file that came back gets more time: it may be slow rather than deadly, and would
            # otherwise come back without end.
            await lease.extend(timeout * lease.deliveries)
            await sleep(timeout / _HEARTBEATS)
