"""What queues cost that are in a file: one table, from one run."""

import argparse
import json
import logging
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias

import anyio

from benchmarks.harness import LINE, Row, at_least, at_most, show
from benchmarks.peers.subjects import ENVIRONMENTS, environment
from leaseq import connect
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol as p
from leaseq._sqlite.file import File
from leaseq._sqlite.url import SqliteUrl

from . import floor
from .floor import AT_ONCE

ROOT = Path(__file__).parent.parent.parent
SYNCHRONOUS = ("full", "normal")
PEERS = {
    "huey": "huey==3.5.4",
    "litequeue": "litequeue==0.9",
    "persistqueue": "persist-queue==1.1.0",
    "dbos": "dbos==3.4.0",
}
FEWER = {"dbos": 10}  # times as few items
QUEUE = p.QueueRef("work")

Section: TypeAlias = Callable[[Path, bool], Iterator[Row]]


def url_of(folder: Path, name: str, synchronous: str = "full") -> str:
    """The URL of a new file."""
    return f"sqlite:///{folder / name}.db?synchronous={synchronous}"


# One process


async def cycles(url: str, items: int) -> float:
    """The seconds an item of a put, a lease and an ack, 32 at once."""
    async with anyio.create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=30)

        async def one(first: int) -> None:
            for number in range(first, items, AT_ONCE):
                await queue.put(str(number), "x" * 100)
                _, _, lease = await queue.get()
                await queue.ack(lease)

        started = time.perf_counter()
        async with anyio.create_task_group() as users:
            for first in range(AT_ONCE):
                users.start_soon(one, first)
        seconds = time.perf_counter() - started
        tg.cancel_scope.cancel()
    return seconds / items


def cycle(folder: Path, quick: bool) -> Iterator[Row]:
    """put, lease and ack, 32 at once, beside the least SQL that does the same writes."""
    items, rounds = (960, 3) if quick else (3200, 7)
    for synchronous in SYNCHRONOUS:
        ours, awaited, least = [], [], []
        for number in range(rounds):
            name = f"{synchronous}-{number}"
            with closing(floor.opened(folder / f"floor-{name}.db", synchronous)) as connection:
                started = time.perf_counter()
                floor.cycles(connection, items)
                least.append((time.perf_counter() - started) / items)
            with closing(floor.opened(folder / f"awaited-{name}.db", synchronous)) as connection:
                started = time.perf_counter()
                anyio.run(floor.awaited_cycles, connection, items)
                awaited.append((time.perf_counter() - started) / items)
            ours.append(anyio.run(cycles, url_of(folder, name, synchronous), items))
        target = at_least(0.5) if synchronous == "full" else None
        for costs, what, wanted in (
            (ours, f"speed, synchronous={synchronous}", target),
            (awaited, "the same SQL, awaited by 32 tasks", None),
        ):
            ratio = median([one / other for one, other in zip(least, costs, strict=True)])
            both = (f"{median(each) * 1e6:.0f} us" for each in (costs, least))
            yield Row(ratio, "x", what, wanted, *both)


# Several processes


class Worker:
    """A process, which does something at each line that it is told."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self.child = child

    def tell(self) -> None:
        """Have it go on."""
        assert self.child.stdin is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def hear(self) -> str:
        """The next line that it says."""
        assert self.child.stdout is not None
        return self.child.stdout.readline()


@contextmanager
def worker(what: str, url: str, items: int = 0) -> Iterator[Worker]:
    """Start a process, and wait until it is ready."""
    command = [sys.executable, "-m", "benchmarks.sqlite.worker", what, url, str(items)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as child:
        try:
            started = Worker(child)
            started.hear()
            yield started
        finally:
            child.kill()


def processes(folder: Path, quick: bool) -> Iterator[Row]:
    """put, lease and ack in several processes on one file, 32 at once in each."""
    items = 640 if quick else 2560
    alone = 0.0
    for number in (1, 2, 4):
        url = url_of(folder, f"processes-{number}")
        with ExitStack() as stack:
            workers = [stack.enter_context(worker("cycle", url, items)) for _ in range(number)]
            started = time.perf_counter()
            for each in workers:
                each.tell()
            for each in workers:
                each.hear()
            seconds = (time.perf_counter() - started) / (number * items)
        alone = alone or seconds
        what = f"{number} process{'es' * (number > 1)}: speed, all together"
        yield Row(alone / seconds, "x", what, None, f"{seconds * 1e6:.0f} us")


def waking(folder: Path, quick: bool) -> Iterator[Row]:
    """from a put to its handler in another process, both idle."""
    url = url_of(folder, "waking")
    items = 50 if quick else 200

    async def put() -> None:
        async with anyio.create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            queue = await broker.queue("work", default_lease_timeout=60)
            for number in range(items):
                await queue.put(f"item-{number}", time.monotonic_ns())
                await anyio.sleep(0.02)
            await queue.join()
            tg.cancel_scope.cancel()

    with worker("consume", url) as consumer:
        anyio.run(put)
        consumer.tell()
        on_their_way, _ = json.loads(consumer.hear())
    yield Row(median(on_their_way) * 1e3, "ms", "put to handler, p50", at_most(5))
    yield Row(quantiles(on_their_way, n=100)[98] * 1e3, "ms", "put to handler, p99", None)


def idle(folder: Path, quick: bool) -> Iterator[Row]:
    """ten processes whose consumers wait, and nothing comes."""
    url = url_of(folder, "idle")
    seconds = 5 if quick else 20
    with ExitStack() as stack:
        workers = [stack.enter_context(worker("consume", url)) for _ in range(10)]

        def spent() -> float:
            for each in workers:
                each.tell()
            return sum(float(json.loads(each.hear())[1]) for each in workers)

        time.sleep(2)
        before = spent()
        started = time.perf_counter()
        time.sleep(seconds)
        share = (spent() - before) / (time.perf_counter() - started)
    yield Row(share * 100, "%", "of one processor, all together", at_most(0.5))


# Size


def batches(numbers: range) -> Iterator[range]:
    """Numbers, as many at a time as one call puts."""
    for first in range(numbers.start, numbers.stop, 500):
        yield range(first, min(first + 500, numbers.stop))


class Filled:
    """A file with items in some state, and the store that does operations on it."""

    def __init__(self, path: Path, state: str, items: int) -> None:
        self.file = File(SqliteUrl(path, "normal"), "bench", "", lambda _: False)
        self.file.open()
        self._number = 0
        self.do(p.Declare(QUEUE, {"default_lease_timeout": 3600.0}))
        delay = 3600.0 if state == "delayed" else 0.0
        for numbers in batches(range(items)):
            body = b"x" * 100
            put = tuple((f"item-{number}", body) for number in numbers)
            self.do(p.Put(QUEUE, put, PutRequest(delay=delay)))
            if state == "leased":
                self.claim(len(put), 3600.0)

    def do(self, *operations: p.Operation[Any]) -> Any:
        self._number += 1
        reply, _ = self.file.do(p.Batch(self._number, operations))
        return reply.answers

    def claim(self, count: int, timeout: float = 60.0) -> Any:
        request: ClaimRequest[Any] = ClaimRequest(lease_timeout=timeout)
        [answer] = self.do(p.Claim(QUEUE, (p.ClaimFor(request, count),)))
        return answer.batches[0]

    def cycle(self, rounds: int) -> float:
        """The processor time of a put, a lease and an ack beside what is there."""
        started = time.process_time()
        for _ in range(rounds):
            keys = [f"new-{self._number}-{each}" for each in range(AT_ONCE)]
            request = PutRequest(priority=9)
            self.do(*(p.Put(QUEUE, ((key, b"x" * 100),), request) for key in keys))
            leases = self.claim(AT_ONCE)
            self.do(*(p.Ack(QUEUE, lease.key, lease.token) for lease in leases))
        return (time.process_time() - started) / (rounds * AT_ONCE)


def growth(folder: Path, quick: bool) -> Iterator[Row]:
    """put, lease and ack beside a thousand and beside a million items, in processor time."""
    many = 100_000 if quick else 1_000_000
    for state in ("ready", "delayed", "leased"):
        few = Filled(folder / f"few-{state}.db", state, 1000)
        full = Filled(folder / f"many-{state}.db", state, many)
        ratios = []
        for _ in range(5):
            beside = few.cycle(20)
            ratios.append(full.cycle(20) / beside)
        what = f"beside {many:,} {state} items"
        yield Row(median(ratios), "x", what, at_most(1.5))
        size = (folder / f"many-{state}.db").stat().st_size / many
        yield Row(size, "B", f"in the file, an item that is {state}, 100 bytes itself", None)
        few.file.close()
        full.file.close()


# Peers


def peers(folder: Path, quick: bool) -> Iterator[Row]:
    """one process, items in one by one and out again; each with the settings that it comes with."""
    items = 500 if quick else 2000

    def run(name: str, python: str, **environ: str) -> float:
        count = items // FEWER.get(name, 1)
        script = str(Path(__file__).with_name("peers.py"))
        file = str(folder / f"{name}-{time.monotonic_ns()}.db")
        done = subprocess.run(
            [python, "-P", script, name, file, str(count)],
            env={**os.environ, **environ},
            capture_output=True,
            check=False,
            text=True,
            timeout=600,
        )
        if done.returncode:
            print(done.stderr[-500:], file=sys.stderr)
            return float("inf")
        seconds: float = sum(json.loads(done.stdout.splitlines()[-1]))
        return seconds / count

    pythons = {
        name: str(environment(ENVIRONMENTS / f"sqlite-{name}", [requirement]))
        for name, requirement in PEERS.items()
    }
    rounds: dict[str, list[float]] = {}
    for _ in range(1 if quick else 3):
        for synchronous in SYNCHRONOUS:
            ours = run("leaseq", sys.executable, SYNCHRONOUS=synchronous)
            rounds.setdefault(synchronous, []).append(ours)
        for name, python in pythons.items():
            rounds.setdefault(name, []).append(run(name, python))
    costs = {name: median(each) for name, each in rounds.items()}
    best = min(costs[name] for name in PEERS)
    for synchronous in SYNCHRONOUS:
        mine = costs[synchronous]
        what = f"speed beside the best peer, synchronous={synchronous}"
        yield Row(
            best / mine, "x", what, at_least(5), f"{mine * 1e6:.0f} us", f"{best * 1e6:.0f} us"
        )
    for name in PEERS:
        mine, theirs = costs["full"], costs[name]
        yield Row(theirs / mine, "x", f"speed beside {name}", None, "", f"{theirs * 1e6:.0f} us")


SECTIONS: Mapping[str, Section] = {
    "cycle": cycle,
    "processes": processes,
    "waking": waking,
    "idle": idle,
    "growth": growth,
    "peers": peers,
}


def main() -> None:
    """Run the sections that are asked for, each in a folder of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sqlite", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="NAME",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure; left out: a new one")
    asked = parser.parse_args()
    logging.getLogger("leaseq").setLevel(logging.ERROR)
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{platform.python_implementation()} {platform.python_version()}", end=", ")
    print(f"SQLite {sqlite3.sqlite_version}")
    print(f"Processors: {os.cpu_count()}. The machine's load, before: {loads}.")
    met = []
    for name in asked.only:
        section = SECTIONS[name]
        print(f"\n{name}: {section.__doc__}")
        print(LINE.format("measured", "target", "met", "", "cost", "beside"), flush=True)
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            for row in section(Path(folder), asked.quick):
                print(show(row), flush=True)
                met.append(row.met)
    print(f"\n{met.count(True)} targets met, {met.count(False)} missed")


if __name__ == "__main__":
    main()
