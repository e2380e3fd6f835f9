"""What faults do to work that is under way: what is lost, done twice or late, and for how long.

Two workers handle what a producer puts at a steady pace, each in a process of its own, on a server
that writes down each command before it answers. Then something goes wrong.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.servers import Server

from benchmarks.peers.subjects import NONE, Subject

LEASE = 10.0
"""Seconds after which another worker takes over, set wherever that can be set."""
PACE = 0.05  # seconds from put to put
ITEMS = 700
WORK_FOR = 0.25  # seconds that an item takes
PLACES = 16  # items at once of each worker
FAULT_AFTER = 5.0
STOPPED_FOR = LEASE + 5.0
AWAY_FOR = 1.0
LATE = 1.0
"""Seconds from the put to the handler after which an item is late."""
PATIENCE = 60.0
"""Seconds without any change after which what is not done is lost."""
CALM = 2.0
"""Seconds for which items are waited for that are done again."""

BACKLOG = 100_000
QUIET = 200
QUIET_PACE = 0.05


class Process:
    """A worker or a producer, in a group of its own, whose words are in a file."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._command = command
        self._output = output
        self.ends = 0  # by itself
        self._was_killed = False
        self._start()

    def _start(self) -> None:
        with self._output.open("ab") as file:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def supervise(self) -> None:
        """Start it again if it has ended by itself, as a supervisor of services does."""
        if self.has_ended and not self._was_killed:
            self.ends += 1
            self._start()

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._child.poll() is not None

    def lines(self) -> list[list[str]]:
        """Its words so far, line by line."""
        text = self._output.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its children."""
        os.killpg(self._child.pid, number)

    def kill(self) -> None:
        """Kill it and its children."""
        self._was_killed = True
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._child.wait()


@dataclass(frozen=True)
class Stage:
    """All that runs."""

    server: Server
    workers: Sequence[Process]
    producer: Process


def kill(stage: Stage) -> None:
    """kill -9 of one of two workers."""
    stage.workers[0].kill()


def stop(stage: Stage) -> None:
    """SIGSTOP of one of two workers for longer than its leases, then SIGCONT."""
    stage.workers[0].signal(signal.SIGSTOP)
    time.sleep(STOPPED_FOR)
    stage.workers[0].signal(signal.SIGCONT)


def restart(stage: Stage) -> None:
    """kill -9 of the server, which is back a second later."""
    stage.server.kill()
    time.sleep(AWAY_FOR)
    stage.server.start()


def cut(stage: Stage) -> None:
    """All connections cut by the server, three times in three seconds."""
    for _ in range(3):
        for kind in ("normal", "pubsub"):
            stage.server.command("CLIENT", "KILL", "TYPE", kind)
        time.sleep(1.0)


FAULTS: Mapping[str, Callable[[Stage], None]] = {
    "kill": kill,
    "stop": stop,
    "restart": restart,
    "cut": cut,
}


@dataclass
class Outcome:
    """What became of the items."""

    put: int
    """Items whose put was confirmed."""
    refused: int
    """Puts that raised an error."""
    lost: int
    """Items that were put and never done."""
    doubled: int
    """Items that were done more than once."""
    late: int
    """Items that waited for longer than `LATE`, or are lost."""
    longest: float
    """The longest wait of an item that was done, in seconds."""
    standstill: float
    """The longest time in which nothing was done while items were put, in seconds."""
    ended: int
    """How often a worker ended by itself, and was started again."""


def outcome(puts: Sequence[list[str]], words: Sequence[list[str]]) -> Outcome:
    """What became of the items, by the words of the producer and of the workers."""
    put = {int(line[1]) for line in puts if line[0] == "put"}
    refused = sum(line[0] == "refused" for line in puts)
    ends: dict[int, list[tuple[float, float]]] = {}
    for word, number, at, when in words:
        if word == "end":
            ends.setdefault(int(number), []).append((float(when), float(at)))
    waits = {number: min(found)[0] - min(found)[1] - WORK_FOR for number, found in ends.items()}
    times = sorted(when for found in ends.values() for when, _ in found)
    last = max((float(line[2]) for line in puts), default=0.0)
    gaps = [later - earlier for earlier, later in pairwise(times) if earlier < last]
    lost = len(put - ends.keys())
    return Outcome(
        put=len(put),
        refused=refused,
        lost=lost,
        doubled=sum(len(found) > 1 for found in ends.values()),
        late=sum(wait > LATE for wait in waits.values()) + lost,
        longest=max(waits.values(), default=0.0),
        standstill=max(gaps, default=0.0),
        ended=0,
    )


@contextmanager
def running(command: Sequence[str], folder: Path, name: str) -> Iterator[Process]:
    """A process, which is killed in the end."""
    process = Process(command, folder / name)
    try:
        yield process
    finally:
        process.kill()


def options(subject: Subject) -> list[str]:
    """The options of all its processes."""
    return ["--backend", subject.backend, "--way", subject.way]


def wait_until(condition: Callable[[], bool], patience: float) -> bool:
    """Look again and again; False if it has not come true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def suffer(
    fault: Callable[[Stage], None], subject: Subject, command: Sequence[str], binary: str
) -> Outcome:
    """Have something go wrong, and see what becomes of the items."""
    with ExitStack() as stack:
        start = stack.enter_context
        folder = Path(start(tempfile.TemporaryDirectory()))
        server = start(Server(binary, folder / "server", durable=True))
        common = [*command, server.url.replace("valkey://", "redis://")]
        shared = [*options(subject), "--lease", str(LEASE)]
        work = ["--concurrency", str(PLACES), "--work-for", str(WORK_FOR)]
        workers = [
            start(running([*common, "work", *shared, *work], folder, f"worker {number}"))
            for number in range(2)
        ]
        time.sleep(3.0)
        put = ["--items", str(ITEMS), "--pace", str(PACE)]
        producer = start(running([*common, "put", *shared, *put], folder, "producer"))
        wait_until(lambda: bool(producer.lines()), PATIENCE)
        time.sleep(FAULT_AFTER)
        fault(Stage(server, workers, producer))

        def now() -> Outcome:
            words = [line for worker in workers for line in worker.lines() if len(line) == 4]
            puts = [line for line in producer.lines() if len(line) == 3]
            return outcome(puts, words)

        found = now()
        before, changed_at = found, time.monotonic()
        while time.monotonic() < changed_at + (PATIENCE if found.lost else CALM):
            for worker in workers:
                worker.supervise()
            time.sleep(0.2)
            found = now()
            if found != before or not producer.has_ended:
                before, changed_at = found, time.monotonic()
        found.ended = sum(worker.ends for worker in workers)
        return found


# One tenant beside another


@dataclass
class Waits:
    """How long the items of a quiet tenant waited, in seconds."""

    p50: float
    p99: float
    waiting: int
    """Items that were not begun within a minute; they count as if they had waited so long."""


def beside(subject: Subject, command: Sequence[str], binary: str) -> Waits:
    """Put 100,000 items for one tenant, and a few for another meanwhile."""
    with ExitStack() as stack:
        start = stack.enter_context
        folder = Path(start(tempfile.TemporaryDirectory()))
        server = start(Server(binary, folder / "server"))
        common = [*command, server.url.replace("valkey://", "redis://")]
        shared = options(subject)
        worker = start(running([*common, "work", *shared], folder, "worker"))
        time.sleep(3.0)
        many = ["--tenant", "noisy", "--items", str(BACKLOG)]
        start(running([*common, "put", *shared, *many], folder, "noisy"))
        time.sleep(2.0)
        few = ["--tenant", "quiet", "--first", str(10 * BACKLOG), "--items", str(QUIET)]
        few += ["--pace", str(QUIET_PACE)]
        quiet = start(running([*common, "put", *shared, *few], folder, "quiet"))
        wait_until(lambda: quiet.has_ended, PATIENCE + QUIET * QUIET_PACE)

        def waits() -> list[float]:
            return [
                float(when) - float(at)
                for word, number, at, when in (line for line in worker.lines() if len(line) == 4)
                if word == "start" and int(number) >= 10 * BACKLOG
            ]

        wait_until(lambda: len(waits()) >= QUIET, PATIENCE)
        found = waits()
    waiting = QUIET - len(found)
    found += [PATIENCE] * waiting
    return Waits(median(found), quantiles(found, n=100)[98], waiting)


# Tables


def run(
    section: str,
    commands: Mapping[Subject, Sequence[str]],
    absent: Mapping[Subject, str],
    binary: str,
) -> dict[str, Any]:
    """Print the table of one section, and return it."""
    subjects = [each for each in commands if each.takes_over]
    if section == "tenant":
        return run_tenants(subjects, commands, binary)
    fault = FAULTS[section]
    print(fault.__doc__)
    print(
        f"{ITEMS:,} items, one every {1e3 * PACE:.0f} ms, of {WORK_FOR:g} s each; {PLACES} at once "
        f"in each worker; taken over after {LEASE:g} s where that can be set"
    )
    line = "{:24}{:>6}{:>9}{:>7}{:>9}{:>11}{:>12}{:>9}  {}"
    heads = ("lost", "doubled", "late", "longest", "standstill", "refused", "ended")
    print(line.format("", *heads, "how another worker takes over").rstrip())
    found: dict[str, Any] = {}
    for each in subjects:
        try:
            had = suffer(fault, each, commands[each], binary)
        except Exception as error:
            print(f"{each.name}: failed with {error!r}", file=sys.stderr)
            continue
        found[each.name] = asdict(had)
        seconds = (f"{had.longest:.1f} s", f"{had.standstill:.1f} s")
        counts = (had.lost, had.doubled, had.late)
        print(
            line.format(each.name, *counts, *seconds, had.refused, had.ended, each.takes_over),
            flush=True,
        )
    for each, why in absent.items():
        print(f"{each.name}: {NONE} ({why})")
    return found


def run_tenants(
    subjects: Sequence[Subject], commands: Mapping[Subject, Sequence[str]], binary: str
) -> dict[str, Any]:
    """Print how long the items of a quiet tenant wait, and return it."""
    print(
        f"{QUIET} items of a quiet tenant, one every {1e3 * QUIET_PACE:.0f} ms, while another has"
    )
    print(f"put {BACKLOG:,}: from put to handler. One worker, one queue for all tenants.")
    line = "{:24}{:>12}{:>12}{:>12}  {}"
    print(line.format("", "p50", "p99", "not begun", "turns").rstrip())
    found: dict[str, Any] = {}
    for each in subjects:
        had = beside(each, commands[each], binary)
        found[each.name] = asdict(had)
        times = (f"{1e3 * had.p50:,.1f} ms", f"{1e3 * had.p99:,.1f} ms")
        turns = each.one_line or "a turn for each tenant"
        print(line.format(each.name, *times, had.waiting, turns), flush=True)
    return found
