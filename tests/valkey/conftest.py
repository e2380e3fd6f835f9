"""Servers for the tests of the engine."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from tests import children
from tests.children import Child
from tests.servers import BINARIES, Cluster, Server, Servers, binary
from tests.skipping import skip_with_server

from leaseq._valkey.client import Client, open_client
from leaseq._valkey.url import ValkeyUrl

MakeServer: TypeAlias = Callable[..., Server]

PROGRAM = Path(__file__).with_name("processes.py")

ON_REDIS = "trio"
"""Whose server it is makes no difference to the backends: tests run on one of them on Redis."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests on Redis on one backend."""
    items[:] = [item for item in items if _is_wanted(item.nodeid)]


def _is_wanted(test: str) -> bool:
    found = re.search(r"\[redis-((?:asyncio|trio)[^-\]]*)", test)
    return found is None or found[1] == ON_REDIS


def start(what: str, url: str, *options: str) -> AbstractAsyncContextManager[Child]:
    """Run one of the programs of `processes`, in a process of its own."""
    return children.start(str(PROGRAM), what, url, *options)


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time without its idle parts, for a test of those who use a server."""
    skip_with_server(monkeypatch)


@pytest.fixture(scope="session", params=BINARIES)
def shared_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """One server of each kind for the whole run: `server` is what a test takes."""
    return servers(request.param)


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server with nothing in it, of each kind in turn. A test does it no harm."""
    shared_server.command("FLUSHALL")
    return shared_server


@pytest.fixture
def address(server: Server) -> tuple[str, int]:
    """Where `server` is."""
    return "127.0.0.1", server.port


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own, whose nodes may be killed."""
    with Cluster(binary("valkey"), tmp_path) as cluster:
        yield cluster


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Starts servers of the test's own: ``make_server(*options, durable=False)``."""
    with ExitStack() as servers:

        def make(*options: str, durable: bool = False) -> Server:
            folder = tmp_path / f"server-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            new = Server(binary("valkey"), folder, *options, durable=durable)
            return servers.enter_context(new)

        yield make


@pytest.fixture
def own_server(make_server: MakeServer) -> Server:
    """A server of the test's own, to be killed, frozen and started again."""
    return make_server()


@pytest.fixture
async def client(anyio_backend: object, server: Server) -> AsyncIterator[Client]:
    """A client of `server`."""
    client = await open_client(ValkeyUrl.parse(server.url))
    yield client
    await client.close()
