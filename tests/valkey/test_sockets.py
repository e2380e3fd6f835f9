"""A server of this machine, through a socket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from anyio import create_task_group, fail_after
from tests.contract.helpers import in_line
from tests.valkey.conftest import MakeServer

import leaseq
from leaseq._core.errors import UnusableServerError

pytestmark = pytest.mark.anyio


async def refused(url: str) -> str:
    with pytest.raises(UnusableServerError) as caught:
        async with leaseq.connect(url):
            pass
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["unix", "valkey+unix", "redis+unix"])
async def test_a_broker_works_through_a_socket(
    make_server: MakeServer, tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "our server.sock"
    server = make_server("--unixsocket", str(path), "--requirepass", "secret")
    url = f"{scheme}://:secret@{quote(str(path))}?db=1&groups=3"
    with fail_after(10):
        async with leaseq.connect(url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            assert repr(broker).startswith(f"<ValkeyBroker unix://:***@{quote(str(path))}?db=1")
            got: list[object] = []

            async def consume() -> None:
                got.append((await queue.get())[0])

            queue = await broker.queue("work")
            tg.start_soon(consume)
            async with leaseq.connect(url) as other:
                await (await other.queue("work")).put("a", 1)
                await (await other.queue("more")).put("b", 1)
            assert await in_line(await broker.queue("more")) == ["b"]
            tg.cancel_scope.cancel()
    assert got == ["a"]
    assert server.is_up


async def test_a_broker_comes_back_when_its_server_does(
    make_server: MakeServer, tmp_path: Path
) -> None:
    server = make_server("--unixsocket", str(tmp_path / "s.sock"), durable=True)
    with fail_after(20):
        async with leaseq.connect(f"unix://{tmp_path}/s.sock") as broker:
            queue = await broker.queue("work")
            await queue.put("a", 1)
            server.restart()
            assert await in_line(queue) == ["a"]


@pytest.mark.only("asyncio")
async def test_it_is_told_why_a_socket_is_of_no_use(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    assert await refused(f"unix://{path}") == f"no server at {path}: No such file or directory"
    path.touch()
    assert await refused(f"unix://{path}") == f"{path} is a file, and not a socket"
    assert await refused(f"unix://{tmp_path}") == f"{tmp_path} is a folder, and not a socket"
    make_server("--unixsocket", str(tmp_path / "t.sock"), "--requirepass", "secret")
    said = await refused(f"unix://{tmp_path}/t.sock")
    assert said.startswith(f"{tmp_path}/t.sock asks for a password")
    said = await refused(f"unix://:secret@{tmp_path}/t.sock?db=99")
    assert "does not let this user in to database 99" in said
