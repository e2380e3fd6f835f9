"""From a put to a handler in one of several processes that wait."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles

from tests.servers import Server

from benchmarks.harness import Backend, Row, at_most
from leaseq._valkey.scripts import QUEUE_PARTS, queue_keys
from leaseq._valkey.url import ValkeyUrl

from .process import QUEUE
from .stats import calls_of, number, reset

ROOT = Path(__file__).parent.parent.parent
PROCESSES, FEWER = (1, 8, 32), (1, 8)
ITEMS, LESS = 300, 100
PATIENCE = 120.0  # seconds for anything


class Process:
    """A child, which ends with its standard input, and so with this process at the latest."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def tell(self) -> None:
        """Have it go on."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def hear(self) -> str:
        """The next that it says."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with {self._child.wait(PATIENCE)}")
        return line


@contextmanager
def process(url: str, backend: Backend, *options: str) -> Iterator[Process]:
    """A child, which is killed at the end if it does not end by itself."""
    command = (sys.executable, "-m", "benchmarks.server.process", url, "--backend", backend)
    with subprocess.Popen(
        (*command, *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as child:
        try:
            yield Process(child)
            child.communicate(timeout=PATIENCE)
        finally:
            child.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again, but not often enough to be in the way."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the processes do not come to rest")
        time.sleep(0.1)


def deliveries(server: Server, backend: Backend, processes: int, items: int) -> Iterator[Row]:
    """The rows of so many processes, each of which has one consumer."""
    server.command("FLUSHALL")
    parts = dict(
        zip(QUEUE_PARTS, queue_keys(ValkeyUrl.parse(server.url).prefix, QUEUE), strict=True)
    )

    def at_rest() -> bool:
        parked = number(server, "ZCARD", parts["parked"])
        return parked == processes and not number(server, "HLEN", parts["items"])

    with ExitStack() as stack:
        start = stack.enter_context
        consumers = [start(process(server.url, backend)) for _ in range(processes)]
        for each in consumers:
            each.hear()
        wait_until(at_rest)
        options = ("--items", str(items), "--warm-up", str(2 * processes))
        producer = start(process(server.url, backend, *options))
        round_trip = json.loads(producer.hear())["nanoseconds"]
        wait_until(at_rest)
        reset(server)
        for each in consumers:
            each.tell()
        time.sleep(0.2)
        producer.tell()
        producer.hear()
        wait_until(at_rest)
        published, _ = calls_of(server, "publish")
        producer.tell()
        for each in consumers:
            each.tell()
        said = [json.loads(each.hear()) for each in consumers]

    milliseconds = [each / 1e6 for one in said for each in one["nanoseconds"]]
    assert len(milliseconds) == items
    claims, looks = (sum(one[each] for one in said) for each in ("claims", "looks"))
    what = f"{processes} idle process{'es' * (processes > 1)}"
    yield Row(round_trip / 1e6, "ms", f"{what}: a PING, there and back", None)
    yield Row(median(milliseconds), "ms", f"{what}: p50, put to handler", at_most(2.5))
    yield Row(quantiles(milliseconds, n=100)[98], "ms", f"{what}: p99, put to handler", None)
    yield Row(published / items, "", f"{what}: wake-ups an item", at_most(1))
    yield Row(claims / items, "", f"{what}: claims an item", at_most(2.2))
    yield Row(looks / items, "", f"{what}: of these, unasked looks", None)


def waking(server: Server, backend: Backend, quick: bool) -> Iterator[Row]:
    """from put to handler in one of several idle processes, one item every 20 ms."""
    for processes in FEWER if quick else PROCESSES:
        yield from deliveries(server, backend, processes, LESS if quick else ITEMS)
