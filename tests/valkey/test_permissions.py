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
from tests.valkey.engine import store_of

import leaseq
from leaseq import LeasedQueue
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
    *("keep", "recall", "stop waiting"),
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
        await eventually(lambda: replica.command("EXISTS", "{leaseq}:q:work/items") == b":1")


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
        "lease_of": lambda scene: scene.queue.lease_of(scene.first.receipt),
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


@pytest.mark.parametrize("command", [*PRODUCER, "eval", "evalsha", "ping", "publish"])
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


ALIKE = ("orders:eu", "orders:state", "orders.eu", "orders-eu", "orders_", "orders2", "Orders")


ATTEMPTS: tuple[Callable[[LeasedQueue[str, int]], Awaitable[object]], ...] = (
    lambda queue: queue.put("b", 3),
    lambda queue: queue.get(timeout=0),
    lambda queue: queue.peek("b"),
    lambda queue: queue.available_keys(),
    lambda queue: queue.delayed_keys(),
    lambda queue: queue.history(),
    lambda queue: queue.info(),
    lambda queue: queue.release_all(consumer="ada"),
)


def patterns_for_some_queues() -> list[str]:
    """The keys that the page for operators names for those who are kept to some queues."""
    [line] = re.findall(r"^~\{leaseq\}:calls .*orders\.dead/\*$", PAGE.read_text(), re.MULTILINE)
    return [word.removeprefix("~{leaseq}:") for word in line.split()]


async def test_a_user_can_be_kept_to_some_queues(shared_server: Server, prefix: str) -> None:
    url = allow(
        shared_server, *OPERATOR, *ALONE, keys=tuple(patterns_for_some_queues()), prefix=prefix
    )
    others = [
        *ALIKE,
        *(f"{each}.dead" for each in ALIKE),
        "bills",
        "orders.dead:eu",
        "orders.dead2",
    ]
    async with leaseq.connect(f"{shared_server.url}?prefix={prefix}") as free:
        for name in others:
            queue = await free.queue(name, history=1)
            await queue.put_many({"a": 1, "b": 2})
            await (await queue.get())[2].ack()
        before = await picture(free)
        async with leaseq.connect(url) as broker:
            orders, dead = await broker.create_queue_pair("orders")
            await orders.put("a", 1)
            await (await orders.get())[2].reject("bad")
            await (await dead.get())[2].ack()
            for name in others:
                with pytest.raises(ServerError, match="NOPERM"):
                    await broker.queue(name)
                with pytest.raises(ServerError, match="NOPERM"):
                    await broker.purge(name)
                with pytest.raises(ServerError, match="NOPERM"):
                    await broker.queue("orders:new", dead_letters=name)
                other = await broker.queue(name, make=False)
                for call in ATTEMPTS:
                    with pytest.raises(ServerError, match="NOPERM"):
                        await call(other)
            with pytest.raises(ServerError, match="NOPERM"):
                await broker.queue("orders:new")
            with pytest.raises(ServerError, match="NOPERM"):
                await broker.delete_queue("orders:eu")
            await broker.delete_queue("orders")
        assert await picture(free) == before


async def test_no_hint_and_no_forbidden_call_fails_the_calls_that_a_user_may_make(
    shared_server: Server, prefix: str
) -> None:
    own = ("calls", "queues", "q:mine/*", "q:mine.dead/*")
    url = allow(shared_server, *OPERATOR, *ALONE, keys=own, prefix=prefix)
    async with leaseq.connect(f"{shared_server.url}?prefix={prefix}") as free:
        await free.queue("other")
    async with leaseq.connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        mine = await broker.queue("mine")
        other = await broker.queue("other", make=False)
        mailbox = store_of(broker)._client._channel
        assert mailbox is not None
        refused: dict[int, str] = {}

        async def put(number: int) -> None:
            try:
                await (mine if number % 10 else other).put(number, 1)
            except ServerError as error:
                refused[number] = error.code

        for lot in range(5):
            for name in ("other", "else"):
                shared_server.command("PUBLISH", mailbox, f"{name}\0a")
            async with create_task_group() as putting:
                for number in range(30 * lot, 30 * lot + 30):
                    putting.start_soon(put, number)
        assert refused == dict.fromkeys(range(0, 150, 10), "NOPERM")
        assert await mine.qsize() == 135
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["shop:eu", "shop.eu", "shop-2", "shop2", "sho"])
async def test_a_user_can_be_kept_to_a_prefix(
    shared_server: Server, prefix: str, name: str
) -> None:
    mine, other = f"{prefix}.shop", f"{prefix}.{name}"
    url = allow(shared_server, *OPERATOR, *ALONE, prefix=mine)
    async with leaseq.connect(url) as broker:
        await (await broker.queue("work")).put("a", 1)
    with pytest.raises((ServerError, UnusableServerError), match=r"NOPERM|its ACL lacks"):
        async with leaseq.connect(url.replace(mine, other)) as broker:
            await broker.queue("work")


async def test_another_database_than_the_first_needs_a_right_that_is_named(
    shared_server: Server, prefix: str
) -> None:
    url = allow(shared_server, *CONSUMER, *ALONE, prefix=prefix)
    elsewhere = url.replace("/0?", "/1?") if "/0?" in url else url.replace("?", "/1?")
    with pytest.raises(UnusableServerError, match=r"database 1: .* its ACL lacks \+select"):
        async with leaseq.connect(elsewhere):
            pass
    allow(shared_server, *CONSUMER, *ALONE, "select", prefix=prefix)
    async with leaseq.connect(elsewhere) as broker:
        await (await broker.queue("work")).put("a", 1)


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
