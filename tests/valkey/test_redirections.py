"""Servers that say odd things: where the keys are, that they are no server, or nothing at all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.remote.mishaps import eventually

from leaseq import LeaseqError, ServerError, ServerUnavailableError, UnusableServerError
from leaseq._valkey import diagnostics, stream
from leaseq._valkey.client import Client, open_client
from leaseq._valkey.url import ValkeyUrl

from .fake import Fake, Said, bulk, fakes, hello, push

pytestmark = pytest.mark.anyio

IN_CLUSTER = hello(mode="cluster", role="master")


def slots(*nodes: tuple[str | None, int], first: int = 0, last: int = 16383) -> bytes:
    """Return an answer to ``CLUSTER SLOTS``: nodes that have a range."""
    places = b"".join(
        b"*2\r\n" + (b"_\r\n" if host is None else bulk(host)) + b":%d\r\n" % port
        for host, port in nodes
    )
    return b"*1\r\n*%d\r\n:%d\r\n:%d\r\n%s" % (2 + len(nodes), first, last, places)


@asynccontextmanager
async def nodes(*answers: dict[str, Said]) -> AsyncIterator[list[Fake]]:
    """Nodes of a cluster, of which the first one has the keys until it says something else."""
    async with fakes(*({"HELLO": IN_CLUSTER, **each} for each in answers)) as servers:
        owner = slots(("127.0.0.1", servers[0].port))
        for server in servers:
            server.answers.setdefault("CLUSTER", owner)
        yield servers


@asynccontextmanager
async def connected(
    *servers: Fake,
    channel: str | None = None,
    on_message: Callable[[bytes], None] | None = None,
) -> AsyncIterator[Client]:
    hosts = ",".join(server.address for server in servers)
    url = ValkeyUrl.parse(f"valkey://{hosts}?connect_timeout=2&request_timeout=2")
    client = await open_client(url, channel=channel, on_message=on_message)
    try:
        yield client
    finally:
        await client.close()


async def refused(*servers: Fake, path: str = "", channel: str | None = None) -> str:
    """The text of the error with which servers are refused."""
    hosts = ",".join(server.address for server in servers)
    url = ValkeyUrl.parse(f"valkey://{hosts}{path}?connect_timeout=0.5&request_timeout=0.5")
    with pytest.raises(UnusableServerError) as caught:
        await open_client(url, channel=channel, on_message=print)
    return str(caught.value)


# Redirections


@pytest.mark.parametrize("host", ["127.0.0.1", ""], ids=["named", "the same host"])
async def test_a_request_goes_to_the_node_that_it_is_sent_on_to_and_stays_there(host: str) -> None:
    async with nodes({}, {"GET": bulk("there")}) as (one, two):
        one.answers["GET"] = f"-MOVED 7 {host}:{two.port}\r\n".encode()
        async with connected(one) as client:
            assert [await client.command("GET", "key") for _ in range(3)] == [b"there"] * 3
        assert (one.count("GET"), two.count("GET")) == (1, 3)


async def test_keys_that_are_on_their_way_are_asked_for_at_the_other_node_this_once() -> None:
    async with nodes({}, {"GET": bulk("there")}) as (one, two):
        one.answers["GET"] = f"-ASK 7 127.0.0.1:{two.port}\r\n".encode()
        async with connected(one) as client:
            assert [await client.command("GET", "key") for _ in range(2)] == [b"there"] * 2
        assert (one.count("GET"), two.count("GET"), two.count("ASKING")) == (2, 2, 2)
        assert [words[0] for words in two.asked] == [b"HELLO", b"ASKING", b"GET"] * 2


@pytest.mark.parametrize(("answers", "in_doubt"), [({"HELLO": None}, False), ({"GET": None}, True)])
async def test_a_node_that_the_keys_move_to_may_not_answer(
    answers: dict[str, Said], in_doubt: bool
) -> None:
    async with nodes({}, answers) as (one, two):
        one.answers["GET"] = f"-ASK 7 127.0.0.1:{two.port}\r\n".encode()
        async with connected(one) as client:
            with pytest.raises(ServerUnavailableError) as caught:
                await client.command("GET", "key")
            assert caught.value.in_doubt is in_doubt
            one.answers["GET"] = bulk("here")
            assert await client.command("GET", "key") == b"here"


async def test_nodes_that_redirect_to_one_another_are_given_up() -> None:
    async with nodes({}, {}) as (one, two):
        for here, there in ((one, two), (two, one)):
            here.answers["GET"] = f"-MOVED 7 127.0.0.1:{there.port}\r\n".encode()
        async with connected(one) as client:
            with pytest.raises(LeaseqError, match="its nodes keep redirecting to one another"):
                await client.command("GET", "key")
        assert one.count("GET") + two.count("GET") == 5


@pytest.mark.parametrize(
    "place",
    ["", "7", "7 host", "7 host:", "7 host:x", "7 host:0", "7 host:65536", "7 host:-1",
     "7 host:1 more", f"7 {'h' * 256}:1"],
)  # fmt: skip
@pytest.mark.parametrize("code", ["MOVED", "ASK"])
async def test_a_redirection_to_no_place_is_an_error_like_others(code: str, place: str) -> None:
    async with nodes({"GET": f"-{code} {place}\r\n".encode()}) as (one,):
        async with connected(one) as client:
            with pytest.raises(LeaseqError, match=code):
                await client.command("GET", "key")
        assert one.count("GET") == 1


@pytest.mark.parametrize("said", ["", " "])
async def test_an_error_without_words_is_an_error_like_others(said: str) -> None:
    async with nodes({"GET": f"-{said}\r\n".encode()}) as (one,), connected(one) as client:
        with pytest.raises(ServerError, match="the server has refused, and not said why"):
            await client.command("GET", "key")


@pytest.mark.parametrize("code", ["READONLY", "CLUSTERDOWN", "MASTERDOWN"])
async def test_a_server_that_is_the_primary_no_more_is_left(code: str) -> None:
    async with fakes({"GET": f"-{code} You can't\r\n".encode()}) as (server,):
        async with connected(server) as client:
            for _ in range(2):  # but not for each request
                with pytest.raises(LeaseqError, match=code):
                    await client.command("GET", "key")
            server.answers["GET"] = bulk("there")
            assert await client.command("GET", "key") == b"there"
        assert server.count("HELLO") == 2


# Nodes


@pytest.mark.parametrize("host", [None, "", "?"])
async def test_a_node_that_does_not_know_its_name_has_the_one_it_was_asked_by(
    host: str | None,
) -> None:
    async with nodes({"GET": bulk("there")}) as (one,):
        one.answers["CLUSTER"] = slots((host, one.port))
        async with connected(one) as client:
            assert await client.command("GET", "key") == b"there"


@pytest.mark.parametrize(
    "answer",
    [None, b"-CLUSTERDOWN it is down\r\n", b"-LOADING it reads\r\n", b":7\r\n", b"*0\r\n"],
)
async def test_a_node_that_does_not_know_where_the_keys_are_is_not_the_only_one(
    answer: Said,
) -> None:
    async with nodes({"CLUSTER": answer}, {"GET": bulk("there")}) as (one, two):
        two.answers["CLUSTER"] = slots(("127.0.0.1", two.port))
        async with connected(one, two) as client:
            assert await client.command("GET", "key") == b"there"


async def test_a_node_that_is_not_there_is_not_the_only_one() -> None:
    async with nodes({"HELLO": None}, {"GET": bulk("there")}) as (one, two):
        two.answers["CLUSTER"] = slots(("127.0.0.1", two.port))
        async with connected(one, two) as client:
            assert await client.command("GET", "key") == b"there"


async def test_keys_that_no_node_has_are_told() -> None:
    async with nodes({}) as (one,):
        one.answers["CLUSTER"] = slots(("127.0.0.1", one.port), first=0, last=0)
        assert "no node has these keys" in await refused(one)


async def test_an_owner_that_is_not_there_is_told() -> None:
    async with nodes({}, {"HELLO": b"-NOPERM no\r\n"}) as (one, two):
        one.answers["CLUSTER"] = slots(("127.0.0.1", two.port))
        said = await refused(one, two)
        assert "refuses what leaseq must ask at first: NOPERM this user may not do that" in said


async def test_an_owner_that_closes_connections_is_told() -> None:
    async with nodes({}, {"HELLO": None}) as (one, two):
        one.answers["CLUSTER"] = slots(("127.0.0.1", two.port))
        said = await refused(one, two)
        assert (
            f"{one.address} is there, but the node that has these keys is not, or does not let"
            in said
        )


# Servers that will not do


async def test_several_hosts_that_are_no_cluster_are_refused() -> None:
    async with fakes({}, {}) as (one, two):
        said = await refused(one, two)
        assert said.endswith("are no cluster, as several hosts in a URL are: name one host")
        assert one.address in said
        assert two.address in said


@pytest.mark.parametrize("role", ["replica", "slave"])
async def test_a_replica_is_refused(role: str) -> None:
    async with fakes({"HELLO": hello(mode="standalone", role=role)}) as (server,):
        said = await refused(server)
        assert said == f"{server.address} is the replica of another server: name that one"


async def test_a_sentinel_is_refused() -> None:
    async with fakes({"HELLO": hello(mode="sentinel")}) as (server,):
        assert "is a Sentinel, which is not supported" in await refused(server)


async def test_a_server_that_evicts_what_it_holds_is_refused() -> None:
    async with fakes({"INFO": bulk("maxmemory_policy:allkeys-lru\r\n")}) as (server,):
        assert "its maxmemory-policy is allkeys-lru" in await refused(server)


async def test_a_server_without_the_database_is_refused() -> None:
    async with fakes({"SELECT": b"-ERR DB index is out of range\r\n"}) as (server,):
        said = await refused(server, path="/7")
        assert "does not let this user in to database 7: does it have one?" in said


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (
            {"HELLO": b"-ERR unknown command 'HELLO', with args beginning with: '3'\r\n"},
            "{0} does not know HELLO: it is older than Redis 6.2, or has another name for it",
        ),
        (
            {"HELLO": b"-NOAUTH HELLO must be called with the client already authenticated\r\n"},
            "{0} asks for a password: valkey://user:password@host",
        ),
        (
            {"HELLO": b"-WRONGPASS invalid username-password pair\r\n"},
            "{0} does not know that user with that password (in a URL, what is special in them is "
            "escaped)",
        ),
        (
            {"HELLO": b"-NOPROTO unsupported protocol version\r\n"},
            "{0} refuses what leaseq must ask at first: NOPROTO unsupported protocol version",
        ),
        (
            {"HELLO": None, "PING": None},
            "{0} closes connections immediately: does it want TLS, which is valkeys://?",
        ),
        ({"HELLO": None, "PING": b"-BUSY it runs a script\r\n"}, "{0} is not ready: BUSY it runs"),
        ({"HELLO": b"", "PING": b""}, "{0} does not answer within 0.5 s"),
        ({"HELLO": b"", "PING": b"SSH-2.0\r\n"}, "{0} is not a Valkey or Redis server"),
        ({"HELLO": None}, "{0} does not let this user in: "),
        ({"HELLO": b"-LOADING it reads\r\n", "PING": b"-LOADING it reads\r\n"}, "is not ready"),
    ],
    ids=[
        *("too old", "no password", "wrong password", "too new", "by TLS", "busy", "mute"),
        *("another protocol", "selective", "loading"),
    ],
)
async def test_why_there_is_no_connection_is_told(answers: dict[str, Said], why: str) -> None:
    async with fakes(answers) as (server,):
        said = await refused(server)
        assert why.format(server.address) in said


async def test_what_is_wrong_with_each_of_several_hosts_is_told() -> None:
    async with fakes({"HELLO": None, "PING": None}, {"HELLO": b"", "PING": b""}) as (one, two):
        first, second = (await refused(one, two)).split("; ")
        assert first.startswith(f"{one.address} closes connections immediately")
        assert second == f"{two.address} does not answer within 0.5 s"


async def test_a_host_that_cannot_be_reached_in_time_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def reach(_host: str, _port: int) -> None:
        await anyio.sleep_forever()

    for module in (stream, diagnostics):
        monkeypatch.setattr(module, "reach", reach)
    server = Fake({})
    server.port = 7
    assert await refused(server) == "127.0.0.1:7 cannot be reached within 0.5 s"


# Messages


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"-NOPERM no\r\n", "does not let this user subscribe to mine: its ACL lacks +subscribe"),
        (b"-ERR no\r\n", "refuses what leaseq must ask at first: ERR no"),
        (b"", "has not confirmed a subscription for 0.5 s"),
    ],
)
async def test_a_subscription_that_is_refused_says_why(answer: bytes, why: str) -> None:
    async with fakes({"SUBSCRIBE": answer}) as (server,):
        assert why in await refused(server, channel="mine")


async def test_a_cluster_s_subscription_that_is_refused_says_why() -> None:
    async with nodes({"SSUBSCRIBE": b"-NOPERM no\r\n"}) as (one,):
        assert "its ACL lacks +ssubscribe" in await refused(one, channel="mine")


async def test_only_messages_are_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []

    def hear(payload: bytes) -> None:
        heard.append(payload)
        if payload == b"bad":
            raise KeyError("what it means")

    async with (
        nodes({}) as (one,),
        connected(one, channel="mine", on_message=hear) as client,
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(client.listen)
        for message in (
            push("odd", "mine"),
            push("pong", "mine", "no message"),
            push("smessage", "mine", "one"),
            push("smessage", "mine", "bad"),
            push("message", "mine", "two"),
        ):
            await one.send(message)
        await eventually(lambda: heard == [b"one", b"bad", b"two"])
        tg.cancel_scope.cancel()
    assert "handling a message from the server failed" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize("how", ["sunsubscribe", "cut"])
async def test_a_subscription_that_ends_is_made_anew(how: str) -> None:
    heard: list[bytes] = []
    async with (
        nodes({}) as (one,),
        connected(one, channel="mine", on_message=heard.append) as client,
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(client.listen)
        if how == "cut":
            await one.streams[-1].aclose()
        else:
            await one.send(push("sunsubscribe", "mine", "0"))
        await eventually(lambda: one.count("SSUBSCRIBE") == 2)
        await one.send(push("smessage", "mine", "one"))
        await eventually(lambda: heard == [b"one"])
        tg.cancel_scope.cancel()
