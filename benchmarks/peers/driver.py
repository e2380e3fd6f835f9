"""What the scripts that drive the queues share. It runs where leaseq is not installed.

Each script says how its queue is opened, how items are put in, and how a worker runs; all of them
take the same arguments, and do the same with that: `speed` puts items in and drains them, in one
process; `work` is a worker, and `put` a producer, in processes of their own.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NoReturn
from urllib.parse import urlsplit

from sizes import BATCH, CONCURRENCY


def arguments() -> argparse.Namespace:
    """The server, and what is to be done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("mode", choices=("speed", "work", "put"))
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--way", default="", help="of those that the queue has, to take work")
    parser.add_argument("--results", action="store_true", help="what is returned is kept")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--lease", type=float, help="seconds until another worker takes over")
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first item")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds from put to put")
    parser.add_argument("--tenant")
    parser.add_argument("--work-for", type=float, default=0.0, help="seconds that an item takes")
    return parser.parse_args()


asked = arguments()


def value(number: int) -> dict[str, object]:
    """What an item carries: some 60 bytes of JSON, and more if its way is timed."""
    made: dict[str, object] = {"id": number, "to": "ada@example.org", "kind": "welcome"}
    if asked.mode == "put":
        made["at"] = time.time()
    return made


def batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """The numbers of the items, `BATCH` at a time."""
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]


# What is measured


class Server:
    """What the server says of itself, by a connection of its own."""

    def __init__(self) -> None:
        place = urlsplit(asked.url)
        assert place.hostname is not None
        assert place.port is not None
        self._socket = socket.create_connection((place.hostname, place.port))
        self._file = self._socket.makefile("rb")

    def counts(self) -> tuple[int, float]:
        """How often it has read from clients, each time a trip, and its processor time."""
        self._socket.sendall(b"*2\r\n$4\r\nINFO\r\n$3\r\nall\r\n")
        size = int(self._file.readline()[1:])
        info = dict(
            line.split(":", 1)
            for line in self._file.read(size + 2).decode().splitlines()
            if ":" in line
        )
        used = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        return int(info["total_reads_processed"]), used


class Stretch:
    """A stretch of time: how long it was, and what client and server did in it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reads, self._used = server.counts()
        self._own = time.process_time()
        self._start = time.perf_counter()

    def end(self, items: int) -> dict[str, float]:
        """What it was for each item."""
        seconds = time.perf_counter() - self._start
        own = time.process_time() - self._own
        reads, used = self._server.counts()
        found = {
            "rate": items / seconds,
            "trips": (reads - self._reads - 1) / items,
            "server": (used - self._used) / items,
        }
        if not told:  # or it is other processes that have used it
            found["client"] = own / items
        return found


measured: dict[str, dict[str, float]] = {}
"""The stretches so far, by what was done in them."""

_server = cache(Server)


def stretch() -> Stretch:
    """Begin a stretch."""
    return Stretch(_server())


def report() -> NoReturn:
    """Say what was measured, and end all processes of this group as they are: it is a worker's."""
    print(json.dumps(measured), flush=True)
    os.killpg(0, signal.SIGKILL)
    raise AssertionError


# What a handler does


class Drain:
    """The items that were handled. The first tenth warms up, and does not count."""

    def __init__(self) -> None:
        self._handled = 0
        self._stretch: Stretch | None = None
        self._lock = threading.Lock()

    def handled(self, items: int = 1) -> None:
        with self._lock:
            self._handled += items
            if self._stretch is None:
                if self._handled >= asked.items // 10:
                    self._first, self._stretch = self._handled, stretch()
            elif self._handled >= asked.items:
                measured["drain"] = self._stretch.end(self._handled - self._first)
                report()


drain = Drain()
told: list[int] = []
"""The end of a pipe into which processes write that are forked from this one."""


def count_by_pipe() -> None:
    """Count what processes handle that are forked from this one."""
    hears, tells = os.pipe()
    told.append(tells)

    def count() -> None:
        while read := os.read(hears, 65536):
            drain.handled(len(read))

    threading.Thread(target=count, daemon=True).start()


def begin(item: dict[str, Any]) -> None:
    """A handler has an item."""
    if asked.mode == "work":
        os.write(1, b"start %d %f %f\n" % (item["id"], item["at"], time.time()))


def end(item: dict[str, Any]) -> object:
    """A handler has done its item; what it returns."""
    if asked.mode == "work":
        os.write(1, b"end %d %f %f\n" % (item["id"], item["at"], time.time()))
    elif told:
        os.write(told[0], b".")
    else:
        drain.handled()
    return {"done": item["id"]} if asked.results else None


async def handle(item: dict[str, Any], sleep: Callable[[float], Any] = asyncio.sleep) -> object:
    """What an `async def` handler does."""
    begin(item)
    if asked.work_for:
        await sleep(asked.work_for)
    return end(item)


def handle_in_thread(item: dict[str, Any]) -> object:
    """What a handler does that is not one."""
    begin(item)
    if asked.work_for:
        time.sleep(asked.work_for)
    return end(item)


def shares(has_bulk: bool) -> Iterator[tuple[str, range]]:
    """The ways in which items are put, and the numbers of those that are put so."""
    one, many = asked.items // 10, asked.items // 2 if has_bulk else asked.items
    yield "one", range(one)
    yield "many", range(one, many)
    if has_bulk:
        yield "bulk", range(many, asked.items)


def put_said(number: int, error: BaseException | None) -> None:
    said = "put" if error is None else "refused"
    os.write(1, f"{said} {number} {time.time():f}\n".encode())


# Queues with asyncio or trio


class Peer:
    """A queue whose calls are awaited. Its worker runs until it is cancelled."""

    has_bulk = False

    async def put(self, number: int) -> None:
        raise NotImplementedError

    async def put_many(self, numbers: Sequence[int]) -> None:
        raise NotImplementedError

    async def work(self) -> None:
        raise NotImplementedError

    async def at_once(self, numbers: Sequence[int]) -> None:
        """Put items, `CONCURRENCY` at once, each by itself."""
        left = iter(numbers)

        async def put_some() -> None:
            for number in left:
                await self.put(number)

        await self.together([put_some] * CONCURRENCY)

    async def together(self, calls: Sequence[Callable[[], Any]]) -> None:
        """Do calls at the same time."""
        await asyncio.gather(*(call() for call in calls))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def put_all(self) -> None:
        """Put what is to be drained, in each way that there is, and measure it."""
        for how, numbers in shares(self.has_bulk):
            now = stretch()
            if how == "one":
                for number in numbers:
                    await self.put(number)
            elif how == "many":
                await self.at_once(numbers)
            else:
                for some in batches(numbers):
                    await self.put_many(some)
            measured[how] = now.end(len(numbers))

    async def produce(self) -> None:
        """Put items at a pace, or as fast as can be, and say of each whether it went in."""
        numbers = range(asked.first, asked.first + asked.items)
        if not asked.pace:
            await (self._in_bulk if self.has_bulk else self.at_once)(numbers)
            print("all put", flush=True)
            return
        start = time.monotonic()
        for count, number in enumerate(numbers):
            await self.sleep(max(0.0, start + count * asked.pace - time.monotonic()))
            try:
                await self.put(number)
            except Exception as error:
                put_said(number, error)
            else:
                put_said(number, None)
        print("all put", flush=True)

    async def _in_bulk(self, numbers: Sequence[int]) -> None:
        for some in batches(numbers):
            await self.put_many(some)

    async def run(self) -> None:
        """Do what was asked for."""
        if asked.mode == "put":
            await self.produce()
            return
        if asked.mode == "speed":
            await self.put_all()
        await self.work()


# Queues with threads


class ThreadedPeer:
    """A queue whose calls block. Its worker runs until the process ends."""

    has_bulk = False

    def put(self, number: int) -> None:
        raise NotImplementedError

    def put_many(self, numbers: Sequence[int]) -> None:
        raise NotImplementedError

    def work(self) -> None:
        raise NotImplementedError

    def at_once(self, numbers: Sequence[int]) -> None:
        left, lock = iter(numbers), threading.Lock()

        def put_some(_: int) -> None:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                self.put(number)

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for _ in pool.map(put_some, range(CONCURRENCY)):
                pass

    def run(self) -> None:
        """Do what was asked for."""
        numbers = range(asked.first, asked.first + asked.items)
        if asked.mode == "speed":
            for how, some in shares(self.has_bulk):
                now = stretch()
                if how == "one":
                    for number in some:
                        self.put(number)
                elif how == "many":
                    self.at_once(some)
                else:
                    for each in batches(some):
                        self.put_many(each)
                measured[how] = now.end(len(some))
        if asked.mode != "put":
            self.work()
            return
        if not asked.pace:
            if self.has_bulk:
                for each in batches(numbers):
                    self.put_many(each)
            else:
                self.at_once(numbers)
        else:
            start = time.monotonic()
            for count, number in enumerate(numbers):
                time.sleep(max(0.0, start + count * asked.pace - time.monotonic()))
                try:
                    self.put(number)
                except Exception as error:
                    put_said(number, error)
                else:
                    put_said(number, None)
        print("all put", flush=True)
