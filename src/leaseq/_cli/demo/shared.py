"""The job of the demo over several processes, of which some are killed in the middle of it.

The queue is in a file or on a server. What a killed process held goes to another one when its
leases expire, and a new process takes its place. Each record of a file is put in the transaction
that acknowledges its lease; so there is one record of each revision, and the audit sees whether
that is so.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

import anyio
from anyio import create_task_group, move_on_after
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from leaseq import LeasedQueue, LeaseqError, Statistics, connect

from .audit import Audit, Database, Record
from .files import Facts
from .job import TICK, Options, Report
from .process import is_edited, queues

_LONGEST_LINE = 1 << 16
_PATIENCE = 30.0  # seconds in which a worker process ends that was asked to
_LOT = 100
_KILLS = 0.1  # of the files that would kill a worker, the part that kills a process
_READY_WITHIN = 30.0


class _Taken(NamedTuple):
    """A lease, as a process has said that it has it; times are those of the machine's clock."""

    key: Path
    token: int
    deadline: float


class _Workers:
    """The worker processes, and what they have said."""

    def __init__(
        self,
        url: str,
        run: str,
        backend: str,
        options: Options,
        processes: int,
        files: int,
    ) -> None:
        each = max(1, options.workers // processes)
        chance = random.Random(options.seed)
        kills = math.ceil(options.crash_rate * _KILLS * files)
        self._kill_at = sorted(chance.randint(1, files) for _ in range(kills))
        self._done = 0
        self._command = [
            *(sys.executable, "-m", "leaseq._cli.demo.process", url, run, backend),
            *map(str, (each, options.lease_timeout, options.seed)),
        ]
        self._processes: dict[Process, None] = {}
        self._is_over = False
        self.said: list[tuple[float, list[Any]]] = []
        self.killed = 0
        self.ready = anyio.Event()
        self.failed = ""

    async def keep_one(self) -> None:
        """Keep a process running until the end: a new one comes for one that was killed."""
        while not self._is_over:
            async with await anyio.open_process(self._command, stderr=None) as process:
                self._processes[process] = None
                try:
                    await self._listen(process)
                    code = await process.wait()
                finally:
                    del self._processes[process]
                    with suppress(ProcessLookupError):
                        process.kill()
            if code > 0 and not self._is_over:
                self.failed = f"a worker process ended with the exit code {code}"
                return

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.IncompleteRead):  # it has ended
            while True:
                words = json.loads(await lines.receive_until(b"\n", _LONGEST_LINE))
                if words == ["ready"]:
                    self.ready.set()
                    continue
                self.said.append((words[3], words))
                self._done += words[0] == "done"
                if self._kill_at and self._done >= self._kill_at[0]:
                    del self._kill_at[0]
                    self.killed += 1
                    with suppress(ProcessLookupError):
                        process.kill()

    async def end(self) -> None:
        """Ask all processes to end, and wait until they have."""
        self._is_over = True
        with move_on_after(_PATIENCE):
            for process in [*self._processes]:
                with suppress(ProcessLookupError):
                    process.terminate()
            for process in [*self._processes]:
                await process.wait()


async def index_with_processes(
    files: Sequence[Path],
    options: Options,
    url: str,
    processes: int,
    backend: str,
    show: Callable[[Statistics], object] = lambda _: None,
) -> Report:
    """Index `files` with worker processes; check that no file is lost, and none in two hands.

    Args:
        files: The files, each path once.
        options: The options; with a crash rate of 0 no process is killed.
        url: The place of the queue, which the processes share.
        processes: The number of worker processes.
        backend: The event loop of these.
        show: Called with the queue's statistics, about ten times a second and once at the end.

    Raises:
        LeaseqError: the place cannot be used, or the worker processes end by themselves.
    """
    run = uuid4().hex[:8]
    began = perf_counter()
    async with connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue, records = await queues(broker, run, options.lease_timeout)
        workers = _Workers(url, run, backend, options, processes, len(files))
        try:
            for first in range(0, len(files), _LOT):
                await queue.put_many((str(path), 0) for path in files[first : first + _LOT])
            for _ in range(processes):
                tg.start_soon(workers.keep_one)
            with move_on_after(_READY_WITHIN):
                await workers.ready.wait()
            await _wait(queue, workers, show)
            await workers.end()
            statistics = await queue.statistics()
            show(statistics)
            done = [lease.value for lease in await _all_of(records)]
        finally:
            with anyio.CancelScope(shield=True):
                for name in (queue.name, records.name):
                    await broker.delete_queue(name)
        tg.cancel_scope.cancel()
    seconds = perf_counter() - began
    return _report(files, options, workers, statistics, done, seconds)


async def _wait(
    queue: LeasedQueue[str, int],
    workers: _Workers,
    show: Callable[[Statistics], object],
) -> None:
    """Wait until all is done."""
    while True:
        show(await queue.statistics())
        if workers.failed:
            raise LeaseqError(workers.failed)
        with move_on_after(TICK):
            await queue.join()
            return


async def _all_of(queue: LeasedQueue[str, Any]) -> list[Any]:
    """Lease all that there is."""
    found: list[Any] = []
    while await queue.qsize():
        found += await queue.get_batch(_LOT, timeout=0, lease_timeout=None)
    return found


def _report(
    files: Sequence[Path],
    options: Options,
    workers: _Workers,
    statistics: Statistics,
    done: Sequence[list[Any]],
    seconds: float,
) -> Report:
    audit: Any = Audit(files)
    database = Database()
    edited = {path for path in files if is_edited(str(path), options.seed)}
    for path in edited:
        audit.saved(path, 1)
    held: dict[tuple[Path, int], _Taken] = {}
    for when, (what, key, token, _, *rest) in sorted(workers.said):
        path = Path(key)
        if what == "taken":
            held[path, token] = taken = _Taken(path, token, rest[0])
            audit.taken(taken, when)
        elif (path, token) in held:
            audit.let_go(held[path, token])
    facts: list[Facts] = []
    seen: Counter[tuple[str, int]] = Counter()
    for name, revision, token, found in done:
        record = Record(token, revision, Facts(**{**found, "imports": tuple(found["imports"])}))
        seen[name, revision] += 1
        database.write(Path(name), record)
    facts = [record.facts for record in database.records.values()]
    twice = [name for (name, _), times in seen.items() if times > 1]
    failures = audit.failures(database.records)
    if twice:
        failures += (f"{len(twice)} of {len(files)} files done twice, the first is {twice[0]}",)
    imports: Counter[str] = Counter()
    for each in facts:
        imports.update(each.imports)
    return Report(
        files=len(files),
        unparsable=sum(not each.parsable for each in facts),
        definitions=sum(each.definitions for each in facts),
        imports=imports,
        deaths=workers.killed,
        expired=statistics.expired,
        saved_again=sum(1 for _, revision, *_ in done if revision),
        jobs=statistics.acked,
        seconds=seconds,
        failures=failures,
    )
