"""A long time under load, with a fault every few seconds: ``python -m tests.valkey.soak``.

Producers and consumers are processes of their own, each with its own wire to the server. What goes
wrong, with whom, and for how long is drawn from a seed. In the end all is mended, and when all is
done it is counted: what was put and confirmed was acknowledged once, by the token of a lease that
somebody held, or is dead, or is still there. Nothing is missing, and nothing is there twice.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio import create_task_group, move_on_after
from tests import children
from tests.children import Child
from tests.remote.mishaps import eventually
from tests.servers import Cluster, Server, find_valkey
from tests.valkey.wire import Fault, Wire

import leaseq
from leaseq import Backoff, BrokerQueueOptions, DeadLetter, LeasedQueue, Retry

PROGRAM = str(Path(__file__).with_name("processes.py"))
BACKENDS = ("asyncio", "trio", "asyncio+uvloop")
PRODUCERS, CONSUMERS = 2, 4
REST = (1.0, 4.0)  # seconds from one fault to the next
PATIENCE = 120.0  # seconds in which all that is left is to be done
QUEUE: BrokerQueueOptions = {
    "default_lease_timeout": 2.0,
    "dead_letters": "dead",
    "retry": Retry(max_deliveries=3, backoff=Backoff(base=0.1, ceiling=1.0)),
    "history": 1_000_000,
}
WORDS = ("put", "claim", "ack", "release", "parked")


@dataclass
class Report:
    """What has come of it.

    Attributes:
        put: What was put and confirmed.
        acked: What was acknowledged, by the server's word.
        dead: What was given up.
        left: What is still there.
        faults: What went wrong, and how often.
        failures: What should not be so, a sentence each.
    """

    put: int = 0
    acked: int = 0
    dead: int = 0
    left: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        happened = ", ".join(f"{count} {what}" for what, count in sorted(self.faults.items()))
        lines = [
            f"{self.put:,} put and confirmed; {self.acked:,} acknowledged, each once, "
            f"{self.dead:,} dead, {self.left:,} left",
            f"{self.faults.total()} faults: {happened}",
            *(f"FAILED: {failure}" for failure in self.failures),
        ]
        return "\n".join(lines)


class Hand:
    """A producer or consumer: a process that is started again when it is killed."""

    def __init__(self, name: str, wire: Wire, url: str, *arguments: str) -> None:
        self.name = name
        self.wire = wire
        self.url = url
        self.lines: list[list[Any]] = []
        self._arguments = arguments
        self._child: Child | None = None
        self._is_killed = False
        self._is_wanted = True
        self._ended = anyio.Event()

    async def run(self, failures: list[str]) -> None:
        """Have it run for as long as it is wanted."""
        what, *options = self._arguments
        for born in count(1):
            name = ("--name", f"{self.name}-{born}")
            self._is_killed = False
            async with children.start(PROGRAM, what, self.url, *options, *name) as child:
                child.lines = self.lines
                self._child = child
                await child.ended(within=inf)
                self._child = None
            if not self._is_killed:
                failures.append(f"{self.name} ended by itself")
            if not self._is_wanted or not self._is_killed:
                break
        self._ended.set()

    def kill(self) -> None:
        """Kill it: another one takes its place."""
        if self._child is not None:
            self._is_killed = True
            self._child.thaw()
            self._child.kill()

    async def end(self) -> None:
        """Kill it for good, and wait until all that it said was heard."""
        self._is_wanted = False
        self.kill()
        await self._ended.wait()

    async def freeze(self, seconds: float) -> None:
        """Freeze it for a while."""
        if self._child is not None:
            child = self._child
            child.freeze()
            await anyio.sleep(seconds)
            child.thaw()


Trouble: TypeAlias = Callable[["Soak"], Awaitable[None]]


class Soak:
    """A server, or a cluster, with those who use it, and what goes wrong with them."""

    def __init__(self, seed: int, server: Server | Cluster) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.hands: list[Hand] = []
        self.report = Report()

    @property
    def producers(self) -> list[Hand]:
        return self.hands[:PRODUCERS]

    @property
    def consumers(self) -> list[Hand]:
        return self.hands[PRODUCERS:]

    def span(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most)

    @property
    def primary(self) -> Server:
        """The server that has the queue."""
        return self.server if isinstance(self.server, Server) else self.server.primary_of()

    # What goes wrong

    async def kill_a_consumer(self) -> None:
        self.chance.choice(self.consumers).kill()

    async def kill_a_producer(self) -> None:
        self.chance.choice(self.producers).kill()

    async def freeze_a_consumer(self) -> None:
        await self.chance.choice(self.consumers).freeze(self.span(0.5, 5))

    async def freeze_a_producer(self) -> None:
        await self.chance.choice(self.producers).freeze(self.span(0.5, 5))

    async def cut_somebody(self) -> None:
        self.chance.choice(self.hands).wire.cut()

    async def cut_off_somebody(self) -> None:
        wire = self.chance.choice(self.hands).wire
        wire.stall()
        await anyio.sleep(self.span(0.5, 5))
        wire.mend()

    async def turn_somebody_away(self) -> None:
        wire = self.chance.choice(self.hands).wire
        wire.refuse()
        await anyio.sleep(self.span(0.5, 3))
        wire.mend()

    async def break_some_call(self) -> None:
        wire = self.chance.choice(self.hands).wire
        word = self.chance.choice(WORDS).encode()
        fault = Fault.drawn(self.chance.random(), word)
        wire.plan(fault)
        if fault.kind == "stall":
            with move_on_after(2):
                await wire.mend_after(self.span(0.5, 3))

    async def flush_the_scripts(self) -> None:
        self.primary.command("SCRIPT", "FLUSH")

    async def kill_all_connections(self) -> None:
        self.primary.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.primary.command("CLIENT", "KILL", "TYPE", "pubsub")

    async def freeze_the_server(self) -> None:
        with self.primary.frozen():
            await anyio.sleep(self.span(0.2, 3))

    async def fill_the_server(self) -> None:
        server = self.primary
        server.command("CONFIG", "SET", "maxmemory", "1")
        await anyio.sleep(self.span(0.5, 2))
        server.command("CONFIG", "SET", "maxmemory", "0")

    async def kill_the_server(self) -> None:
        assert isinstance(self.server, Server)
        self.server.kill()
        await anyio.sleep(self.span(0, 2))
        self.server.start()

    async def stop_the_server(self) -> None:
        assert isinstance(self.server, Server)
        self.server.stop()
        self.server.start()

    async def kill_the_primary(self) -> None:
        assert isinstance(self.server, Cluster)
        cluster, primary = self.server, self.server.primary_of()
        replica = cluster.replica_of(primary)
        primary.kill()
        await self.settled(lambda: replica.says("ROLE", word=b"master"))
        primary.start()
        await self.settled(cluster.is_whole)

    async def hand_over_the_primary(self) -> None:
        assert isinstance(self.server, Cluster)
        replica = self.server.replica_of(self.server.primary_of())
        replica.command("CLUSTER", "FAILOVER")
        await self.settled(lambda: replica.says("ROLE", word=b"master"))
        await self.settled(self.server.is_whole)

    async def settled(self, is_so: Callable[[], bool]) -> None:
        await eventually(is_so, within=PATIENCE)

    # All of it

    async def go_wrong(self, troubles: Mapping[str, Trouble], seconds: float) -> None:
        """Let one thing after the other go wrong, each to its end."""
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            await anyio.sleep(self.span(*REST))
            name = self.chance.choice(sorted(troubles))
            self.report.faults[name.replace("_", " ")] += 1
            await troubles[name](self)
        for hand in self.hands:
            hand.wire.mend()

    async def count(self, queue: LeasedQueue[str, Any]) -> None:
        """Hold what is there against what everybody has said."""
        report = self.report
        said = [line for hand in self.hands for line in hand.lines]
        put = {line[1] for line in said if line[0] == "put"}
        taken = {(line[1], line[2]) for line in said if line[0] == "took"}
        confirmed = {(line[1], line[2]) for line in said if line[0] == "acked"}
        history = await queue.history()
        acked = Counter(done.key for done in history)
        tokens = {(done.key, done.token) for done in history}
        dead = {letter.key for letter in await self._letters()}
        left = {*await queue.available_keys(), *await queue.inflight_keys()}
        statistics = await queue.statistics()
        report.put, report.acked = len(put), len(acked)
        report.dead, report.left = len(dead), len(left)
        self._check("lost", put - acked.keys() - dead - left)
        self._check("acknowledged twice", {key for key, times in acked.items() if times > 1})
        self._check("in two places", (acked.keys() & dead) | (acked.keys() & left) | (dead & left))
        self._check("acknowledged without a lease", tokens - taken)
        self._check("said to be acknowledged, but not", confirmed - tokens)
        newest: dict[str, int] = {}
        for key, token in taken:
            newest[key] = max(token, newest.get(key, 0))
        self._check(
            "acknowledged under an old token",
            {key for key, token in tokens if token != newest.get(key)},
        )
        if statistics.acked != len(history):
            report.failures.append(f"{statistics.acked} acks, and {len(history)} remembered")

    async def _letters(self) -> list[DeadLetter[Any, Any]]:
        async with leaseq.connect(self.server.url) as broker:
            letters = await broker.dead_letters("work")
            found = [await letters.peek(key) for key in await letters.available_keys()]
        return [letter for letter in found if letter is not None]

    def _check(self, what: str, these: Iterable[object]) -> None:
        wrong = sorted(map(str, these))
        if wrong:
            self.report.failures.append(f"{len(wrong)} {what}: {', '.join(wrong[:5])}")


EVERYBODYS = (
    *("kill_a_consumer", "kill_a_producer", "freeze_a_consumer", "freeze_a_producer"),
    *("flush_the_scripts", "kill_all_connections", "fill_the_server"),
)
ALONE = (
    *(*EVERYBODYS, "cut_somebody", "cut_off_somebody", "turn_somebody_away", "break_some_call"),
    *("freeze_the_server", "kill_the_server", "stop_the_server"),
)
IN_A_CLUSTER = (*EVERYBODYS, "kill_the_primary", "hand_over_the_primary")


OPTIONS = {"supply": ("--pause", "0.005"), "toil": ("--fails", "0.1", "--consumers", "4")}


@asynccontextmanager
async def making(seed: int, server: Server | Cluster) -> AsyncIterator[Soak]:
    """Start all who have a hand in it."""
    async with create_task_group() as tg, AsyncExitStack() as stack:
        soak = Soak(seed, server)
        for number, what in enumerate(["supply"] * PRODUCERS + ["toil"] * CONSUMERS):
            if isinstance(server, Server):
                wire = Wire(server)
                url = await stack.enter_async_context(wire.listening())
            else:  # whose nodes say where they are, so that nobody would take a way round
                wire, url = Wire(server.nodes[0]), f"{server.url}?wait_replicas=1"
            backend = ("--backend", BACKENDS[number % len(BACKENDS)])
            hand = Hand(f"{what}-{number}", wire, url, what, *OPTIONS[what], *backend)
            soak.hands.append(hand)
            tg.start_soon(hand.run, soak.report.failures)
        yield soak
        tg.cancel_scope.cancel()


async def soak(seconds: float, seed: int, server: Server | Cluster) -> Report:
    """Have things go wrong for a while, and count."""
    names = ALONE if isinstance(server, Server) else IN_A_CLUSTER
    troubles = {name: getattr(Soak, name) for name in names}
    async with leaseq.connect(server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", **QUEUE)
        async with making(seed, server) as made:
            report = made.report
            await made.go_wrong(troubles, seconds)
            for hand in made.producers:
                await hand.end()
            with move_on_after(PATIENCE) as patience:
                await queue.join()
            if patience.cancelled_caught:
                report.failures.append(f"not all was done within {PATIENCE:g} s")
            for hand in made.consumers:
                await hand.end()
            await made.count(queue)
        tg.cancel_scope.cancel()
    return report


def run_soak(seconds: float, seed: int, folder: Path, *, cluster: bool = False) -> Report:
    """Start a server that loses nothing, or a cluster, and have it all there."""
    binary = find_valkey()
    assert binary is not None
    with Cluster(binary, folder) if cluster else Server(binary, folder, durable=True) as server:
        return anyio.run(soak, seconds, seed, server)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.valkey.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="of which primaries fail")
    asked = parser.parse_args()
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        report = run_soak(asked.seconds, asked.seed, Path(folder), cluster=asked.cluster)
    sys.stdout.write(f"{report}\n")
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
