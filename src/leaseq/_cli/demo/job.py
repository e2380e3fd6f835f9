"""The demo's job: one item a file, workers that parse, and what goes wrong on purpose.

Two things go wrong, both drawn from a seed before the work starts, so that a run can be repeated
whatever the scheduler does:

- Some files kill the first worker that takes them. It does not release the lease, for the dead
  release nothing; the lease expires and somebody else does the file. A new worker takes the place
  of the dead one.
- Some files are saved again while a worker has them. The new revision waits in the queue's buffer
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

__all__ = ["Options", "Report", "index"]

_EDIT_RATE = 0.05

# Parsing holds the interpreter's lock, so that more threads would not parse faster, only keep the
# event loop, and with it the heartbeats, waiting for its turn. And in CPython 3.11 two threads that
# parse at once can make both fail (python/cpython#106905).
_THREADS = 1

_TICK = 0.1
_HEARTBEATS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to index.

    Raises:
        ValueError: A number is out of its range.
    """

    workers: int = 8
    """How many are at work at a time."""
    crash_rate: float = 0.05
    """The part of the files, 0 to 1, that kill the first worker that takes them."""
    seed: int = 0
    """Decides which files those are, and which are saved again."""
    lease_timeout: float = 2.0
    """Seconds until a dead worker's file goes to somebody else."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if not 0 <= self.crash_rate <= 1:
            raise ValueError(f"the crash rate must be from 0 to 1, not {self.crash_rate}")
        if not 0 < self.lease_timeout < math.inf:
            raise ValueError(
                f"the lease timeout must be some seconds above 0, not {self.lease_timeout}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the index has, what went wrong on the way, and whether the queue kept its promises."""

    files: int
    """Files to be indexed."""
    unparsable: int
    """Those of them that this Python could not read or parse."""
    definitions: int
    """Functions, methods and classes in all of them."""
    imports: Mapping[str, int]
    """How often each top-level package is imported."""
    deaths: int
    """Workers that died with a file in their hands."""
    expired: int
    """Leases that ran out; somebody else then did the file."""
    saved_again: int
    """Files that changed while a worker had them, and came back."""
    jobs: int
    """Jobs done, those for files that came back included."""
    seconds: float
    """How long all of it took."""
    failures: tuple[str, ...]
    """The checks that failed, a sentence each; empty if all is well."""


async def index(
    files: Sequence[Path],
    options: Options,
    show: Callable[[Statistics], object] = lambda _: None,
) -> Report:
    """Index `files`, and check on the way that none is lost and none is in two hands at once.

    Args:
        files: What to index, each path once.
        options: How to.
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
            tg.start_soon(job.keep_a_worker)
        drained = False
        while not drained:
            show(await queue.statistics())
            with move_on_after(_TICK):
                await queue.join()
                drained = True
        await queue.shutdown()
        statistics = await queue.statistics()
        show(statistics)
    return job.report(statistics, perf_counter() - began)


class _WorkerDiedError(Exception):
    """Stands for what takes a worker down without a word: a power cut, the OOM killer."""


class _Job:
    """What the workers share.

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
        self._edited = {path for path in files if chance.random() < _EDIT_RATE}
        self._queue = queue
        self._lease_timeout = options.lease_timeout
        self._threads = CapacityLimiter(_THREADS)
        self._database = Database()
        self._audit = Audit(files)
        self._files = len(files)
        self._deaths = 0
        self._saved_again = 0

    async def keep_a_worker(self) -> None:
        """Keep one worker at work until the queue is drained, a new one whenever it dies."""
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
            with suppress(LeaseLostError):  # then somebody else does the file
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
    """Extend `lease` again and again while the body runs, so that only the dead lose theirs."""
    async with create_task_group() as tg:
        tg.start_soon(_extend_for_ever, lease, timeout)
        yield
        tg.cancel_scope.cancel()


async def _extend_for_ever(lease: Lease[Path, int], timeout: float) -> None:
    with suppress(LeaseLostError):  # the lease ends its own body
        while True:
            # A file that came back gets more time: it may be slow rather than deadly, and would
            # come back for ever.
            await lease.extend(timeout * lease.deliveries)
            await sleep(timeout / _HEARTBEATS)
