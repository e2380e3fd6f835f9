"""What users of the server must be allowed, by the server's own word."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group
from tests.remote.mishaps import eventually
from tests.servers import Cluster, Server
from tests.valkey.calls import CALLS, Scene, outcome, picture
from tests.valkey.conftest import MakeServer

import leaseq
from leaseq._core.errors import ServerError, UnusableServerError
from leaseq._valkey.permissions import CONSUMER, OPERATOR, PRODUCER
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "set-up-a-server.md"

ROLES = {"producer": PRODUCER, "consumer": CONSUMER, "operator": OPERATOR}
ALONE = ("eval", "evalsha", "info", "ping", "publish", "subscribe")
IN_A_CLUSTER = ("cluster|slots", "eval", "evalsha", "info", "ping", "spublish", "ssubscribe")
OPERATORS_CALLS = {
    *("list queues", "delete queue", "purge", "info", "history", "sweep"),
    *("redrive", "release all"),
}
PRODUCERS_CALLS = {
    *(
        "put",
        "put many",
        "put in flight",
        "put refused",
        "join",
        "peek",
        "state",
        "discard",
        "qsize",
    ),
    *("available keys", "inflight keys", "inflight", "queue", "dead letters", "close", "hello"),
}


def allow(server: Server, *commands: str, keys: tuple[str, ...] = ("*",), prefix: str) -> str:
    """Have a user who may give these commands, on keys that begin like these; its URL."""
    words = [f"+{command}" for command in commands]
    patterns = [f"~{{{prefix}}}:{key}" for key in keys]
    server.command(
        *("ACL", "SETUSER", "ada", "reset", "on", ">secret", "-@all", *words),
        *(*patterns, "resetchannels", f"&{{{prefix}}}:p:*"),
    )
    return server.url.replace("://", "://ada:secret@") + f"?prefix={prefix}"


def denied(server: Server) -> set[str]:
    """What anybody was denied, by the server's log."""
    log = server.command("ACL", "LOG").decode()
    return set(re.findall(r"object\r\n\$\d+\r\n([^\r]+)", log))


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def test_the_scripts_give_just_these_commands() -> None:
    sources = files("leaseq._valkey") / "lua"
    text = "".join(path.read_text() for path in sources.iterdir())
    given = {each.lower() for each in re.findall(r'call\("([A-Z]+)"', text)}
    assert given == {*OPERATOR, "publish", "spublish"}


def test_the_page_for_operators_has_what_each_role_needs(own_server: Server) -> None:
    text = PAGE.read_text()
    [block] = re.findall(r"<!-- acl -->\n```text\n(.*?)```", text, re.DOTALL)
    lines = {line.split()[2]: line for line in block.splitlines()}
    assert lines.keys() == ROLES.keys()
    for role, line in lines.items():
        given = {word[1:] for word in line.split() if word.startswith("+")}
        assert given == {*ROLES[role], *ALONE}
        assert own_server.command(*line.replace("PASSWORD", "secret").split()) == b"+OK"
    for command in {*IN_A_CLUSTER} - {*ALONE} | {"wait", "select"}:
        assert f"+{command}" in text


@pytest.mark.only("asyncio")
async def test_replicas_follow_where_the_default_user_is_off(make_server: MakeServer) -> None:
    [block] = re.findall(r"<!-- acl of the .*? -->\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    primary = make_server("--repl-diskless-sync-delay", "0")
    replica = make_server("--masteruser", "replica", "--masterauth", "secret")
    *users, off = block.replace("PASSWORD", "secret").splitlines()
    for line in users:
        assert primary.command(*line.split()) == b"+OK"
    url = f"valkey://admin:secret@127.0.0.1:{primary.port}"
    async with leaseq.connect(url) as broker:
        queue = await broker.queue("work")
        assert primary.command(*off.split()) == b"+OK"
        replica.command("REPLICAOF", "127.0.0.1", str(primary.port))
        await eventually(lambda: b"link_status:up" in replica.command("INFO", "replication"))
        await queue.put("a", 1)  # it goes on with the connection that it has
        await eventually(lambda: replica.command("EXISTS", "{leaseq}:q:work:items") == b":1")


@pytest.mark.only("trio")
@pytest.mark.parametrize("role", ROLES)
async def test_who_may_do_what_its_role_needs_can_do_it(
    shared_server: Server, role: str, prefix: str
) -> None:
    names = {
        "producer": PRODUCERS_CALLS,
        "consumer": CALLS.keys() - OPERATORS_CALLS,
        "operator": CALLS.keys(),
    }[role]
    for name in sorted(names):
        shared_server.command("FLUSHALL")
        shared_server.command("ACL", "LOG", "RESET")
        url = allow(shared_server, *ROLES[role], *ALONE, prefix=prefix)
        open_url = f"{shared_server.url}?prefix={prefix}"
        async with (
            ValkeyBroker(ValkeyUrl.parse(open_url)) as free,
            ValkeyBroker(ValkeyUrl.parse(url)) as broker,
            create_task_group() as tg,
        ):
            scene = await Scene().set(free if role == "producer" else broker)
            await tg.start(broker.run)
            if role == "producer":  # who cannot lease has leases of others before him
                scene.broker = broker
                scene.queue = await broker.queue("work")
                scene.empty = await broker.queue("empty")
            assert await outcome(CALLS[name], scene) != "ServerError", name
            tg.cancel_scope.cancel()
        assert denied(shared_server) == set()


@pytest.mark.only("trio")
@pytest.mark.parametrize("given", [(), ("fcall",), ("fcall", "function|load")])
async def test_functions_are_for_those_who_may_use_them(
    own_server: Server, prefix: str, given: tuple[str, ...]
) -> None:
    url = allow(own_server, *CONSUMER, *ALONE, *given, prefix=prefix)
    async with leaseq.connect(url) as broker:
        queue = await broker.queue("work")
        for _ in range(3):
            await queue.put("a", 1)
    stats = own_server.command("INFO", "commandstats").decode()
    calls = dict(re.findall(r"cmdstat_(fcall|function\|load):calls=(\d+)", stats))
    assert calls.keys() == {*given}
    assert calls.get("function|load", "1") == "1"
    if calls:  # who may not load it asks for it once
        assert (int(calls["fcall"]) == 1) == (given == ("fcall",))
    assert denied(own_server) <= {"client|setinfo"}
    assert all(f"`+{each}`" in PAGE.read_text() for each in given)


FORBIDDEN: Mapping[str, Mapping[str, Callable[[Scene], Awaitable[object]]]] = {
    "producer": {
        "get": lambda scene: scene.queue.get(),
        "get at once": lambda scene: scene.queue.get(timeout=0),
        "take": lambda scene: scene.queue.take("5"),
        "get batch": lambda scene: scene.queue.get_batch(2),
        "resume": lambda scene: scene.queue.resume(scene.first.receipt),
    },
    "consumer": {
        "purge": lambda scene: scene.broker.purge("work"),
        "delete": lambda scene: scene.broker.delete_queue("small"),
        "redrive": lambda scene: scene.queue.redrive(),
        "release all": lambda scene: scene.queue.release_all(consumer="ada"),
        "history": lambda scene: scene.queue.history(),
    },
}


@pytest.mark.parametrize("role", FORBIDDEN)
async def test_who_may_not_is_refused_before_anything_is_done(
    shared_server: Server, prefix: str, role: str
) -> None:
    open_url = f"{shared_server.url}?prefix={prefix}"
    url = allow(shared_server, *ROLES[role], "hgetall", *ALONE, prefix=prefix)
    async with (
        ValkeyBroker(ValkeyUrl.parse(open_url)) as free,
        ValkeyBroker(ValkeyUrl.parse(url)) as broker,
        create_task_group() as tg,
    ):
        await tg.start(broker.run)
        scene = await Scene().set(free)
        scene.broker, scene.queue = broker, await broker.queue("work")
        before = await picture(free)
        for name, call in FORBIDDEN[role].items():
            with pytest.raises(ServerError, match=r"its ACL lacks \+") as caught:
                await call(scene)
            assert caught.value.code == "NOPERM", name
        assert await picture(free) == before
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("command", [*PRODUCER, "eval", "evalsha", "info", "ping", "publish"])
async def test_what_everybody_needs_is_asked_for_at_once(
    shared_server: Server, prefix: str, command: str
) -> None:
    given = {*OPERATOR, *ALONE} - {command}
    url = allow(shared_server, *given, prefix=prefix)
    with pytest.raises(UnusableServerError) as caught:
        async with leaseq.connect(url):
            pass
    assert command in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_user_can_be_kept_to_some_queues(shared_server: Server, prefix: str) -> None:
    keys = ("calls", "queues", "q:orders:*")
    url = allow(shared_server, *CONSUMER, *ALONE, keys=keys, prefix=prefix)
    async with leaseq.connect(f"{shared_server.url}?prefix={prefix}") as free:
        bills = await free.queue("bills")
        await bills.put("a", 1)
        async with leaseq.connect(url) as broker:
            orders = await broker.queue("orders")
            await orders.put("a", 1)
            await (await orders.get())[2].ack()
            with pytest.raises(ServerError, match="NOPERM"):
                await broker.queue("bills")
        assert (await bills.statistics()).ready == 1


async def test_a_user_of_few_rights_comes_back_when_its_connection_breaks(
    own_server: Server,
) -> None:
    url = allow(own_server, *CONSUMER, *ALONE, prefix="leaseq")
    async with leaseq.connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work")
        for number in range(3):
            own_server.command("CLIENT", "KILL", "USER", "ada")
            await queue.put(number, 1)
            got: list[object] = []

            async def consume() -> None:
                got.append((await queue.get())[0])  # noqa: B023

            async with create_task_group() as waiting:
                await queue.get(timeout=0)
                waiting.start_soon(consume)
                await anyio.sleep(0.6)  # the subscription is back
                await queue.put(-1 - number, 1)
            assert got == [-1 - number]
        tg.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_cluster_needs_a_few_more(shared_cluster: Cluster, prefix: str) -> None:
    needed = (*CONSUMER, *IN_A_CLUSTER)
    for lacking in (None, "cluster|slots", "spublish", "wait"):
        for node in shared_cluster.nodes:
            allow(node, *{*needed, "wait"} - {lacking or ""}, prefix=prefix)
        hosts = shared_cluster.url.replace("://", "://ada:secret@")
        options = f"?prefix={prefix}&wait_replicas=1&connect_timeout=2"
        url = f"{hosts}{options}"
        if lacking is None:
            one = shared_cluster.nodes[0].url.replace("://", "://ada:secret@")
            async with leaseq.connect(f"{one}{options}"), leaseq.connect(url) as broker:
                queue = await broker.queue("work")
                await queue.put("a", 1)
                await (await queue.get())[2].ack()
        else:
            with pytest.raises((UnusableServerError, ServerError)) as caught:
                async with leaseq.connect(url):
                    pass
            assert lacking in str(caught.value)
