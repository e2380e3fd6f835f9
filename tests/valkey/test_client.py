"""The client: what the engine builds on."""

import asyncio
import gc
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import anyio
import hiredis
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from tests.servers import Server, free_port

import leaseq
from leaseq import LeaseqError
from leaseq._core.errors import ServerError, ServerUnavailableError, UnusableServerError
from leaseq._valkey.client import Client, Node, Script, ServerClient, open_client
from leaseq._valkey.connection import Connection, dial
from leaseq._valkey.diagnostics import why_unusable
from leaseq._valkey.scripts import FORMAT
from leaseq._valkey.url import ValkeyUrl

from .conftest import MakeServer
from .wire import Fault, Side, Wire

pytestmark = pytest.mark.anyio

ECHO = Script("return {KEYS[1], ARGV[1]}")
COUNT = Script("return redis.call('INCR', KEYS[1])")
REFUSE = Script("return redis.error_reply(ARGV[1])")
SECRET = "geheim"
PATIENCE = 20


@asynccontextmanager
async def connected(
    url: str, *, channel: str | None = None, on_message: Callable[[bytes], None] | None = None
) -> AsyncIterator[Client]:
    client = await open_client(ValkeyUrl.parse(url), channel=channel, on_message=on_message)
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.listen)
            yield client
            tg.cancel_scope.cancel()
    finally:
        await client.close()


async def counted(server: Server, key: str) -> int:
    """How often COUNT ran on this key, by the server's word."""
    async with connected(server.url) as other:
        answer = await other.command("GET", key)
    return int(answer) if isinstance(answer, bytes) else 0


async def eventually(
    is_so: Callable[[], bool] | Callable[[], Awaitable[bool]], *, within: float = PATIENCE
) -> None:
    """Wait for something that the server or another thread does."""
    with anyio.fail_after(within):
        while True:
            answer = is_so()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(0.005)


# Scripts


async def test_a_script_is_given_keys_and_arguments_as_they_are(client: Client) -> None:
    assert await client.script(ECHO, ["kéy"], [b"\x00\xff"]) == ["kéy".encode(), b"\x00\xff"]


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        ("return 1", 1),
        ("return -2.9", -2),
        ("return 'x'", b"x"),
        ("return ''", b""),
        ("return nil", None),
        ("return false", None),
        ("return true", 1),
        ("return {}", []),
        ("return {1, 'a', {2, false}}", [1, b"a", [2, None]]),
        ("return {1, nil, 3}", [1]),
    ],
)
async def test_what_a_script_returns(client: Client, source: str, reply: object) -> None:
    assert await client.script(Script(source), [], []) == reply


async def test_a_script_that_the_server_forgot_runs_all_the_same_and_once(
    client: Client,
) -> None:
    assert await client.script(COUNT, ["n"], []) == 1
    assert await client.script(COUNT, ["n"], []) == 2
    await client.command("SCRIPT", "FLUSH")
    assert await client.script(COUNT, ["n"], []) == 3
    assert await client.script(COUNT, ["n"], []) == 4


# Functions


CALL = Script(
    "return (function()\nlocal calls = 0\nreturn function(keys, arguments)\n"
    "  calls = calls + 1\n  if arguments[1] then\n    redis.call('SET', keys[1], calls)\n  end\n"
    "  return calls\nend\nend)()(KEYS, ARGV, true)\n",
    is_function=True,
)
"""Counts the calls since its definitions were made: 1 in a script, more in a function."""


@asynccontextmanager
async def with_functions(
    server: Server, *, may_call: bool = True, may_load: bool = True
) -> AsyncIterator[Client]:
    server.command("FUNCTION", "FLUSH")
    async with connected(server.url) as client:
        client.functions.may_call = may_call
        client.functions.may_load = may_load
        yield client


async def test_a_function_is_loaded_once_and_keeps_what_it_defines(own_server: Server) -> None:
    async with with_functions(own_server) as client:
        assert [await client.script(CALL, ["n"], []) for _ in range(3)] == [1, 2, 3]
    own_server.command("SCRIPT", "FLUSH")
    async with connected(own_server.url) as client:
        client.functions.may_call = True  # another one has loaded it
        assert await client.script(CALL, ["n"], []) == 4


async def test_functions_of_several_versions_are_there_side_by_side(own_server: Server) -> None:
    other = Script(CALL.source.replace("calls = 0", "calls = 100"), is_function=True)
    assert re.fullmatch(rf"leaseq_{FORMAT}_[0-9a-f]{{16}}", other.function)
    async with with_functions(own_server) as client:
        replies = [await client.script(each, ["n"], []) for each in (CALL, other) * 2]
    assert replies == [1, 101, 2, 102]


async def test_functions_that_the_server_forgot_are_loaded_again(own_server: Server) -> None:
    async with with_functions(own_server) as client:
        assert [await client.script(CALL, ["n"], []) for _ in range(2)] == [1, 2]
        own_server.command("FUNCTION", "FLUSH")
        assert [await client.script(CALL, ["n"], []) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("may_call", "may_load"), [(False, True), (True, False)])
async def test_who_has_no_functions_runs_scripts(
    own_server: Server, may_call: bool, may_load: bool
) -> None:
    async with with_functions(own_server, may_call=may_call, may_load=may_load) as client:
        assert [await client.script(CALL, ["n"], []) for _ in range(3)] == [1, 1, 1]
    calls = own_server.command("INFO", "commandstats").count(b"cmdstat_fcall:calls=1,")
    assert calls == may_call  # it is asked for once, and not again for a while


async def test_who_may_not_call_functions_any_more_runs_scripts(own_server: Server) -> None:
    async with with_functions(own_server) as client:
        assert await client.script(CALL, ["n"], []) == 1
        own_server.command("ACL", "SETUSER", "default", "-fcall")
        assert await client.script(CALL, ["n"], []) == 1
        assert await client.script(CALL, ["n"], []) == 1
    stats = own_server.command("INFO", "commandstats").decode()
    assert re.search(r"cmdstat_fcall:.*rejected_calls=1,", stats)  # it does not insist


async def test_on_a_full_server_a_script_does_what_takes_no_memory(own_server: Server) -> None:
    async with with_functions(own_server) as client:
        assert await client.script(CALL, ["n"], ["write"]) == 1
        own_server.command("CONFIG", "SET", "maxmemory", "1")
        assert await client.script(CALL, ["n"], []) == 1
        with pytest.raises(ServerError) as caught:
            await client.script(CALL, ["n"], ["write"])
        assert caught.value.code == "OOM"
        own_server.command("CONFIG", "SET", "maxmemory", "0")
        assert await client.script(CALL, ["n"], ["write"]) == 2


async def test_requests_of_many_tasks_take_their_turns(client: Client) -> None:
    replies = dict[int, object]()

    async def ask(number: int) -> None:
        replies[number] = await client.script(ECHO, ["k"], [str(number)])

    async with anyio.create_task_group() as tg:
        for number in range(1000):
            tg.start_soon(ask, number)
    assert replies == {n: [b"k", str(n).encode()] for n in range(1000)}


async def test_commands_that_go_together_are_answered_each_errors_included(
    client: Client,
) -> None:
    await client.command("SET", "word", "x")
    answers = await client.pipeline(("GET", "word"), ("INCR", "word"), ("STRLEN", "word"))
    assert (answers[0], answers[2]) == (b"x", 1)
    assert isinstance(answers[1], ServerError)
    assert answers[1].code == "ERR"


# What the server refuses


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("LEASEQ it is so", "LEASEQ"),
        ("ERR it is so", "ERR"),
        ("EXECABORT no", "EXECABORT"),
    ],
)
async def test_an_error_of_the_server_keeps_its_code_and_text(
    client: Client, said: str, code: str
) -> None:
    with pytest.raises(ServerError) as caught:
        await client.script(REFUSE, [], [said])
    assert caught.value.code == code
    assert str(caught.value) == said


async def test_a_script_that_fails_says_where(client: Client) -> None:
    with pytest.raises(ServerError, match=r"^ERR .*boom") as caught:
        await client.script(Script("error('boom')"), [], [])
    assert caught.value.code == "ERR"
    with pytest.raises(ServerError, match=r"^ERR Error compiling script"):
        await client.script(Script("it is not Lua"), [], [])


@pytest.mark.parametrize("code", ["LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN"])
async def test_a_server_that_is_not_ready_has_not_done_it(client: Client, code: str) -> None:
    with pytest.raises(ServerUnavailableError, match=rf"not ready: {code} wait") as caught:
        await client.script(REFUSE, [], [f"{code} wait"])
    assert not caught.value.in_doubt


async def test_a_full_server_says_so(own_server: Server) -> None:
    async with connected(own_server.url) as client:
        own_server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServerError) as caught:
            await client.script(COUNT, ["n"], [])
    assert caught.value.code == "OOM"


# Connecting


async def refused(url: str) -> str:
    """Why there is no connection; the same without a word of the password."""
    with pytest.raises(UnusableServerError) as caught:
        await open_client(ValkeyUrl.parse(url), channel="mine", on_message=print)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert all(SECRET not in str(each) + repr(each) for each in chain)
    assert all(isinstance(each, LeaseqError) for each in chain)
    return str(caught.value)


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[int]:
    """Something that listens, and answers to whatever it is told; its port."""

    async def talk(stream: SocketStream) -> None:
        async with stream:
            async for _ in stream:
                if answer:
                    await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, talk)
        yield listener.extra(SocketAttribute.local_port)
        tg.cancel_scope.cancel()


async def test_a_wrong_password_is_refused(make_server: MakeServer) -> None:
    server = make_server("--requirepass", "right")
    address = f"127.0.0.1:{server.port}"
    reason = (
        f"{address} does not know that user with that password (in a URL, what is special in them "
        "is escaped)"
    )
    assert await refused(f"valkey://:{SECRET}@{address}") == reason
    assert await refused(f"valkey://ada:{SECRET}@{address}") == reason
    assert "asks for a password" in await refused(f"valkey://{address}")
    async with connected(f"valkey://:right@{address}") as client:
        assert await client.script(ECHO, ["k"], ["v"]) == [b"k", b"v"]


async def test_a_user_who_may_nothing_is_told_so(make_server: MakeServer) -> None:
    server = make_server()
    server.command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "+hello", "+client")
    with pytest.raises(LeaseqError, match=r"its ACL lacks \+"):
        async with leaseq.connect(f"valkey://ada:{SECRET}@127.0.0.1:{server.port}"):
            pass


async def test_a_server_that_does_not_show_info_will_do(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    server.command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all", "-info")
    async with leaseq.connect(f"valkey://ada:{SECRET}@127.0.0.1:{server.port}") as broker:
        queue = await broker.queue("work")
        await queue.put("a", 1)
    assert "does not show INFO" in caplog.text
    assert "maxmemory-policy" in caplog.text


async def test_a_server_without_a_command_is_told_which(make_server: MakeServer) -> None:
    server = make_server("--rename-command", "HRANDFIELD", "")
    with pytest.raises(UnusableServerError, match="needs: it lacks hrandfield"):
        async with leaseq.connect(server.url):
            pass


async def test_a_sentinel_is_told_from_a_server() -> None:
    async with listening(b"%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n") as port:
        assert "is a Sentinel, which is not supported" in await refused(
            f"valkey://127.0.0.1:{port}"
        )


@pytest.mark.parametrize(
    "slots",
    [
        None,
        7,
        [],
        [None, 7, [], ["a", "b"], [0], [0, 16383], [0, 16383, 7], [0, 16383, []]],
        [[0, 16383, [b"h" * 1000, 1]], [0, 16383, [b"h", 0]], [0, 16383, [7, 7]]],
    ],
)
def test_what_is_no_list_of_slots_names_no_node(slots: object) -> None:
    client = ServerClient(ValkeyUrl.parse("valkey://there,here/0"))
    before = client._nodes
    assert client._read_slots(slots, Node("there", 1)) is None  # type: ignore[arg-type]
    assert client._nodes == before


def test_the_first_of_a_range_owns_it_or_no_node_does() -> None:
    client = ServerClient(ValkeyUrl.parse("valkey://there,here/0"))
    unread, replica, primary = [b"h" * 1000, 1], [b"replica", 7], [b"primary", 7]
    slots: Any = [[0, 16383, unread, replica]]
    assert client._read_slots(slots, Node("there", 1)) is None
    assert Node("replica", 7) in client._nodes
    slots = [[0, 16383, primary, unread, replica]]
    assert client._read_slots(slots, Node("there", 1)) == Node("primary", 7)


class Subscribed:
    """A connection on which nothing is heard until it is hung up."""

    def __init__(self, node: Node) -> None:
        self.host, self.port = node
        self.is_usable = True
        self._over = anyio.Event()

    async def hear(self) -> list[bytes]:
        await self._over.wait()
        raise anyio.ClosedResourceError

    async def hang_up(self) -> None:
        self.is_usable = False
        self._over.set()


@pytest.mark.parametrize("redirected", [True, False])
async def test_a_redirection_is_not_forgotten_as_the_old_subscription_ends(
    monkeypatch: pytest.MonkeyPatch, redirected: bool
) -> None:
    client = ServerClient(ValkeyUrl.parse("valkey://one,two/0"), channel="channel")
    one, two = Node("one", 1), Node("two", 2)
    client._owner = one
    client._subscription = Subscribed(one)  # type: ignore[assignment]
    seen: list[Node | None] = []

    async def subscribe(channel: str) -> Any:
        seen.append(client._owner)
        await anyio.sleep_forever()

    monkeypatch.setattr(client, "_subscribe", subscribe)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.listen)
            await anyio.wait_all_tasks_blocked()
            await client._hang_up()
            if redirected:
                client._owner = two
            await eventually(lambda: bool(seen))
            tg.cancel_scope.cancel()
    assert seen == [two if redirected else None]


async def test_an_answer_that_comes_by_the_byte_is_waited_for_no_longer_than_any() -> None:
    hello = b"%2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"

    async def trickle(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(hello)
            await stream.receive()
            await stream.send(b"$0\r\n\r\n")  # of INFO
            await stream.receive()
            with suppress(anyio.BrokenResourceError):
                await stream.send(b"$1000\r\n")
                while True:
                    await stream.send(b"x")
                    await anyio.sleep(0.02)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, trickle)
        port = listener.extra(SocketAttribute.local_port)
        url = ValkeyUrl.parse(f"valkey://127.0.0.1:{port}?request_timeout=0.1")
        client = await open_client(url)
        with anyio.fail_after(10), pytest.raises(ServerUnavailableError) as caught:
            await client.command("PING")
        assert caught.value.in_doubt
        await client.close()
        tg.cancel_scope.cancel()


async def test_an_answer_without_an_end_is_given_up() -> None:
    async def pour(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"$1000000000\r\n")
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(bytes(1 << 20))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, pour)
        port = listener.extra(SocketAttribute.local_port)
        connection = await dial("127.0.0.1", port, None)
        with pytest.raises(hiredis.ProtocolError, match="more than 67,108,864 bytes"):
            await connection.ask(("PING",))
        await connection.hang_up()
        tg.cancel_scope.cancel()


async def test_a_user_who_may_not_subscribe_is_told_so(make_server: MakeServer) -> None:
    server = make_server()
    server.command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "+@all", "resetchannels")
    times = "connect_timeout=0.2&request_timeout=0.2"
    reason = await refused(f"valkey://ada:{SECRET}@127.0.0.1:{server.port}?{times}")
    assert reason == (
        f"127.0.0.1:{server.port} does not let this user subscribe to mine: its ACL lacks "
        "+subscribe, or &{leaseq}:p:*"
    )


async def test_where_nothing_listens_is_no_server() -> None:
    port = free_port()
    reason = await refused(f"valkey://:{SECRET}@127.0.0.1:{port}")
    assert reason == f"no server at 127.0.0.1:{port}: Connection refused"


async def test_a_host_that_is_not_there_is_no_server() -> None:
    reason = await refused(f"valkey://:{SECRET}@no.such.host.invalid?connect_timeout=0.3")
    assert "no server at no.such.host.invalid:6379" in reason


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not a Valkey or Redis server"),
        (b"", "does not answer within 0.2 s"),
        (b"-LOADING it reads\r\n", "is not ready: LOADING it reads"),
    ],
    ids=["web", "mute", "loading"],
)
async def test_what_cannot_be_a_server_now_is_told(answer: bytes, said: str) -> None:
    async with listening(answer) as port:
        reason = await refused(f"valkey://:{SECRET}@127.0.0.1:{port}?connect_timeout=0.2")
    assert reason == f"127.0.0.1:{port} {said}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "127.0.0.1:{port} cannot be reached"),
        (b"-LOADING it reads\r\n", "127.0.0.1:{port} is not ready: LOADING it reads"),
    ],
    ids=["mute", "loading"],
)
async def test_a_known_server_that_is_not_there_now_is_told_in_so_many_words(
    answer: bytes, said: str
) -> None:
    async with listening(answer) as port:
        url = ValkeyUrl.parse(f"valkey://127.0.0.1:{port}?connect_timeout=0.2")
        with pytest.raises(ServerUnavailableError) as caught:
            await open_client(url, is_known=True)
    assert str(caught.value) == said.format(port=port)
    assert not caught.value.in_doubt


@pytest.mark.only("trio")
async def test_a_server_that_is_busy_is_waited_for(own_server: Server) -> None:
    own_server.command("CONFIG", "SET", "busy-reply-threshold", "10")
    url = f"{own_server.url}?connect_timeout=20"

    async def keep_busy() -> None:
        loop = "local t = redis.call('TIME')[1] + 2 repeat until redis.call('TIME')[1] + 0 > t"
        await anyio.to_thread.run_sync(own_server.command, "EVAL", loop, "0")

    async with anyio.create_task_group() as tg:
        tg.start_soon(keep_busy)
        await anyio.sleep(0.2)
        assert own_server.command("PING").startswith(b"-BUSY")
        async with connected(url) as client:
            assert await client.command("PING") in (b"PONG", "PONG")


async def test_tls_where_there_is_none_is_said_to_be_that(server: Server) -> None:
    address = f"127.0.0.1:{server.port}"
    reason = await refused(f"valkeys://:{SECRET}@{address}?connect_timeout=0.2")
    assert "does not speak TLS" in reason


async def test_a_database_that_is_not_there_is_asked_for(server: Server) -> None:
    address = f"127.0.0.1:{server.port}"
    reason = await refused(f"valkey://{address}/999?connect_timeout=0.2")
    assert "database 999: does it have one?" in reason


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_is_refused(make_server: MakeServer, policy: str) -> None:
    server = make_server("--maxmemory-policy", policy)
    reason = await refused(server.url)
    assert f"maxmemory-policy is {policy}" in reason
    assert "set maxmemory-policy to noeviction" in reason


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("redis_version:7.2.4\r\nvalkey_version:7.2.5", None),
        ("redis_version:8.2.0\r\nmaxmemory_policy:noeviction", None),
        ("", None),
        ("valkey_version:8.1.0\r\nmaxmemory_policy:allkeys-lfu", "allkeys-lfu"),
    ],
)
def test_what_a_server_must_be(info: str, reason: str | None) -> None:
    found = why_unusable(f"# Server\r\n{info}\r\n")
    assert (found is None) if reason is None else (found is not None and reason in found)


async def test_connecting_does_not_hold_up_the_event_loop() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.01)
            turns += 1

    async with listening(b"") as port, anyio.create_task_group() as tg:
        tg.start_soon(count_turns)
        await refused(f"valkey://127.0.0.1:{port}?connect_timeout=0.2")
        tg.cancel_scope.cancel()
    assert turns > 10


async def test_connecting_can_be_given_up() -> None:
    async with listening(b"") as port:
        with anyio.move_on_after(0.05) as scope:
            await open_client(ValkeyUrl.parse(f"valkey://127.0.0.1:{port}"))
        assert scope.cancelled_caught
        gc.collect()  # a connection that was left open would complain


# Lost connections, lost answers


@pytest.mark.parametrize(
    ("side", "at", "done"),
    [("request", 0.0, 0), ("request", 0.5, 0), ("reply", 0.0, 1), ("reply", 0.5, 1)],
    ids=["before", "amid", "after", "amid the reply"],
)
async def test_a_request_whose_connection_is_cut_is_in_doubt_and_never_sent_again(
    own_server: Server, side: Side, at: float, done: int
) -> None:
    wire = Wire(own_server)
    async with wire.listening() as url, connected(url) as client:
        await client.script(COUNT, ["warm"], [])
        wire.plan(Fault(COUNT.sha.encode(), side, at))
        with pytest.raises(ServerUnavailableError, match="lost before the answer") as caught:
            await client.script(COUNT, ["n"], [])
        assert caught.value.in_doubt
        assert await client.script(COUNT, ["later"], []) == 1
        assert await counted(own_server, "n") == done


async def test_a_request_to_a_server_that_is_down_waits_for_it_to_come_back(
    own_server: Server,
) -> None:
    async with connected(own_server.url) as client, anyio.create_task_group() as tg:
        own_server.kill()
        replies = list[object]()
        with pytest.raises(ServerUnavailableError, match="was lost"):  # which it notices now
            await client.script(COUNT, ["n"], [])

        async def ask() -> None:
            replies.append(await client.script(COUNT, ["n"], []))

        tg.start_soon(ask)
        await anyio.sleep(0.1)
        assert replies == []
        own_server.start()
        await eventually(lambda: replies == [1], within=3)


async def test_a_request_that_is_not_answered_in_time_is_in_doubt(own_server: Server) -> None:
    async with connected(f"{own_server.url}?request_timeout=0.2") as client:
        await client.script(COUNT, ["n"], [])
        late = pytest.raises(ServerUnavailableError, match=r"within 0\.2 s")
        with own_server.frozen(), late as caught:
            await client.script(COUNT, ["n"], [])
        assert caught.value.in_doubt

        async def was_done() -> bool:
            return await counted(own_server, "n") == 2

        await eventually(was_done)
        assert await client.script(COUNT, ["n"], []) == 3


class SlowStream(ByteStream):
    """A stream on which each part takes a while, up to one that never comes through."""

    def __init__(self, answer: bytes, stalls_after: float = inf) -> None:
        self.parts = 0
        self._answer = answer
        self._stalls_after = stalls_after

    async def send(self, item: bytes) -> None:
        await self._pass(len(item))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        part, self._answer = self._answer[:max_bytes], self._answer[max_bytes:]
        await self._pass(len(part))
        return part

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass

    async def _pass(self, size: int) -> None:
        assert size <= 1 << 16
        self.parts += 1
        await anyio.sleep(0.4 if self.parts <= self._stalls_after else inf)


LONG = b"x" * 600_000
ASKING_AND_ANSWERING = [(LONG, b"$1\r\n1\r\n"), (b"x", b"$600000\r\n" + LONG + b"\r\n")]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("request_body", "answer"), ASKING_AND_ANSWERING)
async def test_what_is_long_may_take_longer_than_the_timeout_while_it_comes_through(
    request_body: bytes, answer: bytes
) -> None:
    client = ServerClient(ValkeyUrl.parse("valkey://h?request_timeout=1"))
    client._connection = Connection(SlowStream(answer), "h", 6379)
    began = anyio.current_time()
    assert await client.command("ECHO", request_body) in (LONG, b"1")
    assert anyio.current_time() - began > 4


@pytest.mark.virtual_time
@pytest.mark.parametrize(("request_body", "answer"), ASKING_AND_ANSWERING)
async def test_what_is_long_and_comes_to_a_halt_is_in_doubt(
    request_body: bytes, answer: bytes
) -> None:
    client = ServerClient(ValkeyUrl.parse("valkey://h?request_timeout=1"))
    client._connection = Connection(SlowStream(answer, stalls_after=5), "h", 6379)
    began = anyio.current_time()
    with pytest.raises(ServerUnavailableError, match="no answer from h:6379 within 1 s") as caught:
        await client.command("ECHO", request_body)
    assert caught.value.in_doubt
    assert anyio.current_time() - began == pytest.approx(5 * 0.4 + 1)


@asynccontextmanager
async def slow_link(server: Server, rate: float) -> AsyncIterator[int]:
    """A way to a server that passes on so many bytes a second in each direction; its port."""

    async def pump(source: SocketStream, sink: SocketStream) -> None:
        async with sink:
            async for part in source:
                await anyio.sleep(len(part) / rate)
                await sink.send(part)

    async def serve(client: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, BaseExceptionGroup):
            async with (
                await anyio.connect_tcp("127.0.0.1", server.port) as stream,
                anyio.create_task_group() as tg,
            ):
                tg.start_soon(pump, client, stream)
                await pump(stream, client)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    [own] = listener.listeners
    # or it takes megabytes that it has yet to pass on
    own.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tg.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_long_value_comes_through_a_slow_link(own_server: Server) -> None:
    async with (
        slow_link(own_server, 2e6) as port,
        connected(f"valkey://127.0.0.1:{port}?request_timeout=1") as client,
    ):
        with anyio.fail_after(PATIENCE):
            began = anyio.current_time()
            assert await client.command("SET", "long", LONG * 10) == b"OK"
            assert await client.command("GET", "long") == LONG * 10
            assert anyio.current_time() - began > 5


async def test_only_the_request_under_way_when_the_server_is_killed_is_in_doubt(
    own_server: Server,
) -> None:
    failures = list[ServerUnavailableError]()
    async with connected(own_server.url) as client:

        async def ask() -> None:
            try:
                await client.script(COUNT, ["n"], [])
            except ServerUnavailableError as error:
                failures.append(error)

        async with anyio.create_task_group() as tg:
            with own_server.frozen():
                for _ in range(10):
                    tg.start_soon(ask)
                await anyio.sleep(0.1)
                own_server.kill()
                own_server.start()
        assert [each.in_doubt for each in failures] == [True]
        assert await client.script(COUNT, ["n"], []) == 10


# Cancellation


async def give_up(
    ask: Callable[[], Awaitable[object]], *, after: float, native: bool
) -> object | None:
    """What is answered within this time."""
    if not native:
        with anyio.move_on_after(after):
            return await ask()
        return None
    task = asyncio.ensure_future(ask())
    await asyncio.sleep(after)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return None if isinstance(outcome, asyncio.CancelledError) else outcome


async def test_a_cancelled_request_is_done_and_its_answer_goes_to_nobody_else(
    own_server: Server, native: bool
) -> None:
    answers = dict[int, object]()
    script = Script("redis.call('INCR', KEYS[1]) return ARGV[1]")
    async with connected(own_server.url) as client:
        await client.script(script, ["warm"], ["0"])

        async def ask(number: int) -> None:
            run = partial(client.script, script, ["n"], [str(number)])
            after = number % 7 * 0.0003
            answers[number] = await give_up(run, after=after, native=native)

        for start in range(0, 500, 50):
            async with anyio.create_task_group() as tg:
                for number in range(start, start + 50):
                    tg.start_soon(ask, number)
        sent = await client.command("GET", "n")
    assert None in answers.values()
    assert all(answer in (None, str(number).encode()) for number, answer in answers.items())
    # One that was cancelled before its first step was not sent.
    assert isinstance(sent, bytes)
    assert len([each for each in answers.values() if each]) <= int(sent) <= 500


# The subscription


class Mailbox:
    """Collects messages, and the threads they came in."""

    def __init__(self) -> None:
        self.messages = list[bytes]()
        self.threads = set[int]()
        self._came = anyio.Event()

    def __call__(self, message: bytes) -> None:
        self.messages.append(message)
        self.threads.add(threading.get_ident())
        self._came.set()

    async def next(self) -> bytes:
        with anyio.fail_after(PATIENCE):
            while not self.messages:
                await self._came.wait()
                self._came = anyio.Event()
        return self.messages.pop(0)


async def test_what_is_published_arrives_in_the_event_loop(server: Server) -> None:
    mail = Mailbox()
    # Valkey 9.1.1 garbles a long message to the connection that publishes it.
    async with (
        connected(server.url) as client,
        connected(server.url, channel="mine", on_message=mail),
    ):
        assert await client.command("PUBLISH", "mine", b"\x00\xff") == 1
        assert await mail.next() == b"\x00\xff"
        await client.command("PUBLISH", "another", b"no")
        await client.command("PUBLISH", "mine", b"x" * 1_000_000)
        assert await mail.next() == b"x" * 1_000_000
    assert mail.threads == {threading.get_ident()}


async def test_a_callback_that_fails_is_called_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mail = Mailbox()

    def fail(message: bytes) -> None:
        mail(message)
        raise ValueError("no good")

    async with connected(server.url, channel="mine", on_message=fail) as client:
        for message in (b"1", b"2"):
            await client.command("PUBLISH", "mine", message)
            assert await mail.next() == message
    assert caplog.text.count("ValueError: no good") == 2


@pytest.mark.parametrize("lost", ["server", "subscription"])
async def test_the_subscription_comes_back_by_itself(own_server: Server, lost: str) -> None:
    mail = Mailbox()
    async with connected(own_server.url, channel="mine", on_message=mail) as client:
        if lost == "server":
            own_server.restart()
        else:
            await client.command("CLIENT", "KILL", "TYPE", "pubsub")

        async def was_heard() -> bool:
            try:
                return await client.command("PUBLISH", "mine", "again") == 1
            except ServerUnavailableError:  # that connection was lost as well
                return False

        await eventually(was_heard, within=3)
        assert await mail.next() == b"again"


# Closing


async def test_a_closed_client_does_nothing(server: Server) -> None:
    client = await open_client(ValkeyUrl.parse(server.url))
    await client.close()
    await client.close()
    with pytest.raises(ServerUnavailableError, match="closed") as caught:
        await client.script(COUNT, ["n"], [])
    assert not caught.value.in_doubt
    assert await counted(server, "n") == 0


async def test_closing_takes_effect_even_if_cancelled(own_server: Server) -> None:
    client = await open_client(ValkeyUrl.parse(own_server.url), channel="mine")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.close()
    await eventually(lambda: b"name=leaseq" not in own_server.command("CLIENT", "LIST"))


async def test_a_client_that_is_closed_while_it_connects_anew_leaves_no_connection(
    own_server: Server,
) -> None:
    wire = Wire(own_server)
    async with wire.listening() as url, anyio.create_task_group() as tg:
        client = await open_client(ValkeyUrl.parse(url))
        wire.cut()
        with pytest.raises(ServerUnavailableError):
            await client.command("PING")
        wire.plan(Fault(b"HELLO", "reply", 0.0, "stall"))

        async def ask() -> None:
            with pytest.raises(ServerUnavailableError, match="closed"):
                await client.command("PING")

        tg.start_soon(ask)
        await eventually(lambda: bool(wire.happened))
        await client.close()
        wire.mend()
        await eventually(lambda: b"name=leaseq" not in own_server.command("CLIENT", "LIST"))


async def test_requests_under_way_when_it_is_closed_are_in_doubt(own_server: Server) -> None:
    client = await open_client(ValkeyUrl.parse(own_server.url))
    async with anyio.create_task_group() as tg:

        async def ask() -> None:
            with pytest.raises(ServerUnavailableError, match="closed meanwhile") as caught:
                await client.script(COUNT, ["n"], [])
            assert caught.value.in_doubt

        with own_server.frozen():
            tg.start_soon(ask)
            await anyio.sleep(0.05)
            await client.close()


async def test_closing_leaves_no_connection_thread_or_file_behind(own_server: Server) -> None:
    async def open_and_close() -> None:
        async with connected(own_server.url, channel="mine", on_message=print) as client:
            await client.script(COUNT, ["n"], [])

    def alone() -> bool:
        return b"connected_clients:1\r" in own_server.command("INFO", "clients")

    def left() -> list[int]:
        return [len(list(Path("/proc/self", each).iterdir())) for each in ("task", "fd")]

    await open_and_close()
    await eventually(alone)
    before = left()
    for _ in range(10):
        await open_and_close()
    await eventually(alone)
    await eventually(lambda: left() <= before)


def test_event_loops_one_after_another_each_have_their_client(own_server: Server) -> None:
    async def count(expected: int) -> None:
        mail = Mailbox()
        async with connected(own_server.url, channel="mine", on_message=mail) as client:
            assert await client.script(COUNT, ["n"], []) == expected
            await client.command("PUBLISH", "mine", "x")
            assert await mail.next() == b"x"

    for turn, backend in enumerate(["asyncio", "trio", "trio", "asyncio", "asyncio", "trio"], 1):
        anyio.run(count, turn, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("other", ["asyncio", "trio"])
def test_two_event_loops_at_once_each_have_their_client(
    own_server: Server, backend: str, other: str
) -> None:
    async def count() -> None:
        async with connected(own_server.url) as client:
            await client.script(COUNT, ["n"], [])

    async def meanwhile() -> None:
        async with connected(own_server.url) as client:
            await client.script(COUNT, ["n"], [])
            await anyio.to_thread.run_sync(partial(anyio.run, count, backend=other))
            assert await client.script(COUNT, ["n"], []) == 3

    anyio.run(meanwhile, backend=backend)
