"""The engines that are held to the contract.

An engine is an entry in `ENGINES`: how it is opened for a test, the features it has, and the
backends that it runs on. A test runs on every engine that has the features which the test needs:
those of ``@pytest.mark.needs(...)``, on the test or on its module. Without a word about its
subject, it needs queues.

========================  ==========================================================================
``"queues"``              ``await engine.queue(**options)``: a new queue
``"brokers"``             ``await engine.broker()``: a new broker
``"handles"``             ``await engine.handles(**options)``: two handles on one queue
``"advance"``             ``await engine.advance(seconds)``: time can be moved
``"owned"``               queues end with their handle, and nobody else can put into them or look
``"cancelled_puts"``      a put that was cancelled did not happen: a request that was sent cannot be
                          called back, but an engine may know whether it was done
========================  ==========================================================================

The suite uses strings as keys and what JSON knows as values. It leaves every queue as it is at the
end of a test: the engine cleans up when it is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, Unpack

import pytest
from tests.backends import REAL_TIME, VIRTUAL_TIME
from tests.contract.handles_here import HandlesHere
from tests.contract.helpers import QueueOptions
from tests.remote.engine import Ledgers
from tests.servers import Cluster, Servers
from tests.sqlite.engine import Sqlite
from tests.valkey.engine import Valkey

from leaseq import LeasedKeyQueue, MemoryBroker
from leaseq.testing import advance

Opened: TypeAlias = AbstractAsyncContextManager[object]
Open: TypeAlias = Callable[[pytest.FixtureRequest], Opened]

FEATURES = {"queues", "brokers", "handles", "advance", "owned", "cancelled_puts"}
SUBJECTS = {"queues", "brokers", "handles"}
"""Features that a test can be about: it needs one of them, a queue if it does not say."""


@dataclass(frozen=True)
class Entry:
    """An engine under test, in real or in virtual time."""

    name: str
    open: Open
    features: frozenset[str]
    backends: Iterable[str]
    """Names of `tests.backends`."""
    slow: frozenset[str] = frozenset()
    """The backends that are left out of the default run: what they add to the others is little, or
    the same contract runs on an engine that is less to start."""


class Memory:
    """Makes queues and brokers of this process."""

    async def queue(self, **options: Unpack[QueueOptions]) -> LeasedKeyQueue[str, object]:
        return LeasedKeyQueue(**options)

    async def broker(self) -> MemoryBroker:
        return MemoryBroker()

    async def advance(self, seconds: float) -> None:
        await advance(seconds)


def here(engine: Callable[[], object]) -> Open:
    """Open an engine of this process."""
    return lambda _: nullcontext(engine())


def on_server(kind: str, options: str = "") -> Open:
    """Open the engine on a server of this kind, with nothing in it."""

    def open_on_server(request: pytest.FixtureRequest) -> Opened:
        servers: Servers = request.getfixturevalue("servers")
        server = servers(kind)
        server.command("FLUSHALL")
        return valkey(server.url, options)

    return open_on_server


def on_cluster(request: pytest.FixtureRequest) -> Opened:
    """Open the engine on a cluster.

    Each test has a prefix of its own, and with it a slot, so that all three primaries have some: a
    key that is in another slot than the rest, or that a script was not told of, does not go
    unnoticed.
    """
    cluster: Cluster = request.getfixturevalue("shared_cluster")
    return valkey(cluster.url)


@asynccontextmanager
async def valkey(url: str, options: str = "") -> AsyncIterator[Valkey]:
    engine = Valkey(url, options)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def sqlite() -> AsyncIterator[Sqlite]:
    engine = Sqlite()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def ledgers() -> AsyncIterator[Ledgers]:
    engine = Ledgers()
    try:
        yield engine
    finally:
        await engine.close()


IN_PROCESS = frozenset({"queues", "brokers", "owned", "cancelled_puts"})
SHARED = frozenset({"queues", "brokers", "handles", "advance"})

ENGINES: tuple[Entry, ...] = (
    Entry("memory", here(Memory), IN_PROCESS, REAL_TIME),
    Entry("memory", here(Memory), IN_PROCESS | {"advance"}, VIRTUAL_TIME),
    Entry("handles", here(HandlesHere), frozenset({"handles"}), REAL_TIME),
    Entry("handles", here(HandlesHere), frozenset({"handles", "advance"}), VIRTUAL_TIME),
    Entry("remote", lambda _: ledgers(), SHARED, VIRTUAL_TIME, frozenset({"trio+virtual"})),
    Entry("sqlite", lambda _: sqlite(), SHARED, REAL_TIME, frozenset({"trio"})),
    Entry("valkey", on_server("valkey"), SHARED, REAL_TIME),
    Entry(
        "groups",
        on_server("valkey", "&groups=1"),
        SHARED,
        ["asyncio"],
        frozenset({"asyncio"}),
    ),
    Entry("redis", on_server("redis"), SHARED, ["trio"]),
    Entry("cluster", on_cluster, SHARED, ["asyncio"], frozenset({"asyncio"})),
)
"""All that are held to the contract. Whose server it is makes no difference to the backends: Redis
and the cluster are each run on one of them alone. ``"groups"`` has no queue in the broker's own
group: all are found through it."""
