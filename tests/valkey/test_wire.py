"""The wire on which things go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream
from tests.servers import Server
from tests.valkey.wire import Fault, Kind, Side, Wire, end_of_frame, words_of

pytestmark = pytest.mark.anyio

SET = b"*3\r\n$3\r\nSET\r\n$4\r\nword\r\n$5\r\nvalue\r\n"


@pytest.mark.parametrize(
    "frame",
    [
        SET,
        b"+OK\r\n",
        b":-7\r\n",
        b"_\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"*2\r\n*1\r\n:1\r\n%1\r\n+a\r\n*0\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
        b"|1\r\n+a\r\n+b\r\n:1\r\n",
        b"~2\r\n#t\r\n,1.5\r\n",
    ],
)
def test_a_frame_ends_where_the_next_one_begins(frame: bytes) -> None:
    for rest in (b"", b"+OK\r\n"):
        assert end_of_frame(frame + rest, 0) == len(frame)
    assert all(end_of_frame(frame[:end], 0) is None for end in range(len(frame)))


def test_a_command_is_words() -> None:
    assert words_of(SET) == [b"SET", b"word", b"value"]
    assert words_of(b"*1\r\n$2\r\n\r\n\r\n") == [b"\r\n"]


def test_the_same_seed_draws_the_same_fault() -> None:
    drawn = [Fault.drawn(seed, b"word") for seed in range(50)]
    assert drawn == [Fault.drawn(seed, b"word") for seed in range(50)]
    assert len({(fault.side, fault.kind) for fault in drawn}) == 8
    assert Fault.drawn(1, b"word") != Fault.drawn(1, b"other")


@asynccontextmanager
async def connected(wire: Wire) -> AsyncIterator[SocketStream]:
    async with wire.listening() as url:
        port = urlsplit(url).port
        assert port is not None
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream


async def read(stream: SocketStream) -> bytes:
    """What comes within a second, until the connection ends or an answer is whole."""
    received = b""
    with anyio.move_on_after(1):
        try:
            while not received.endswith(b"\r\n"):
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return received


@pytest.mark.parametrize(
    ("side", "at", "done", "answer"),
    [
        ("request", 0.0, b":0", b""),
        ("request", 0.5, b":0", b""),
        ("reply", 0.0, b":1", b""),
        ("reply", 0.5, b":1", b"+O"),
        ("reply", 1.0, b":1", b"+OK\r\n"),
    ],
)
async def test_what_is_cut_ends_there(
    server: Server, side: Side, at: float, done: bytes, answer: bytes
) -> None:
    wire = Wire(server)
    fault = Fault(b"word", side, at)
    wire.plan(fault)
    async with connected(wire) as stream:
        await stream.send(SET)
        assert await read(stream) == answer
        assert wire.happened == [fault]
        assert server.command("EXISTS", "word") == done
        assert await read(stream) == b""


@pytest.mark.parametrize("side", ["request", "reply"])
@pytest.mark.parametrize("kind", ["delay", "split"])
async def test_what_is_late_or_in_two_pieces_arrives(
    server: Server, side: Side, kind: Kind
) -> None:
    wire = Wire(server)
    wire.plan(Fault(b"word", side, 0.5, kind))
    async with connected(wire) as stream:
        await stream.send(SET)
        assert await read(stream) == b"+OK\r\n"
        assert len(wire.happened) == 1


@pytest.mark.parametrize("side", ["request", "reply"])
async def test_what_stalls_holds_up_all_until_it_is_mended(server: Server, side: Side) -> None:
    wire = Wire(server)
    wire.plan(Fault(b"word", side, 0.0, "stall"))
    async with connected(wire) as stream:
        await stream.send(SET)
        assert await read(stream) == b""
        await stream.send(b"*1\r\n$4\r\nPING\r\n")
        wire.mend()
        answers = b""
        while len(answers) < len(b"+OK\r\n+PONG\r\n"):
            answers += await read(stream)
        assert answers == b"+OK\r\n+PONG\r\n"


async def test_only_commands_with_the_word_are_hit_each_in_turn(server: Server) -> None:
    wire = Wire(server)
    wire.plan(Fault(b"word", "reply", 0.0, "split"), Fault(b"word", "reply", 0.0))
    async with connected(wire) as stream:
        for word, answer in ((b"other", b"+OK\r\n"), (b"words", b"+OK\r\n"), (b"word", b"+OK\r\n")):
            size = str(len(word)).encode()
            await stream.send(SET.replace(b"$4\r\nword", b"$" + size + b"\r\n" + word))
            assert await read(stream) == answer
        assert wire.planned == 1
        await stream.send(SET)
        assert await read(stream) == b""
        assert wire.planned == 0
