"""A way to a server on which things go wrong: at a chosen byte of a chosen command.

The wire is a proxy that knows where a command begins and where its reply ends. A `Fault` says what
happens to which: it is cut, stalled, held up for a while, or comes in two pieces. Faults are
planned one by one, or drawn from a seed; the same seed gives the same faults.
"""

from __future__ import annotations

import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.streams.tls import TLSListener
from tests.servers import Server

Side: TypeAlias = Literal["request", "reply"]
Kind: TypeAlias = Literal["cut", "stall", "delay", "split", "end"]

PAUSE = 0.01
"""Seconds between the two pieces of what is split: they do not come together."""


@dataclass(frozen=True)
class Fault:
    """What happens to the next command that has a certain word in it, or to its reply.

    Attributes:
        word: One of the command's words.
        side: Whether it happens to the command, or to its reply.
        at: At which part of its bytes, from 0, before the first, to 1, after the last.
        kind: What happens there. The connection is *cut*; it *stalls* until the wire is mended;
            there is a *delay*; it goes on after a moment, *split* in two; or it is the *end*, and
            no connection gets through until the wire is mended.
        seconds: How long a delay takes.
    """

    word: bytes
    side: Side
    at: float
    kind: Kind = "cut"
    seconds: float = 0.1

    @classmethod
    def drawn(cls, seed: object, word: bytes) -> Fault:
        """One that the seed decides, after which it goes on, of a command that has this word."""
        chance = random.Random(repr((seed, word)))
        side, kind = chance.choice(get_args(Side)), chance.choice(get_args(Kind)[:-1])
        return cls(word, side, chance.random(), kind)


class WireCutError(Exception):
    """A connection is cut."""


class Wire:
    """A proxy in front of a server, on which faults happen.

    Attributes:
        happened: The faults that have, in that order.
        tried_at: When connections were made, in seconds of the event loop's time.
    """

    def __init__(self, server: Server, *, tls: ssl.SSLContext | None = None) -> None:
        """Of a way, say where it leads to, and whether it is by TLS."""
        self._server = server
        self._tls = tls
        self._planned: deque[Fault] = deque()
        self._connections: set[_Connection] = set()
        self._refuses = False
        self._stalled = anyio.Event()
        self._mended = anyio.Event()
        self._mended.set()
        self.happened: list[Fault] = []
        self.tried_at: list[float] = []

    @asynccontextmanager
    async def listening(self, options: str = "") -> AsyncIterator[str]:
        """Serve, and give the URL; what is still there in the end is cut."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = cast(int, listener.extra(SocketAttribute.local_port))
        serving: Listener[Any] = listener
        if self._tls is not None:
            serving = TLSListener(listener, self._tls, standard_compatible=False)
        scheme = "valkey" if self._tls is None else "valkeys"
        async with listener, anyio.create_task_group() as tg:
            tg.start_soon(serving.serve, self._serve)
            try:
                yield f"{scheme}://127.0.0.1:{port}/0{options}"
            finally:
                tg.cancel_scope.cancel()

    def lead_to(self, server: Server) -> None:
        """Have connections that are made from now on be to another server."""
        self._server = server

    def plan(self, *faults: Fault) -> None:
        """Have these happen, one after the other."""
        self._planned.extend(faults)

    @property
    def planned(self) -> int:
        """How many faults are still to happen."""
        return len(self._planned)

    def cut(self) -> None:
        """Cut all connections."""
        for connection in [*self._connections]:
            connection.cut()

    def stall(self) -> None:
        """Let nothing through from now on; connections stay open."""
        self._mended = anyio.Event()
        self._stalled.set()

    def refuse(self) -> None:
        """Cut all connections, and all that are made from now on."""
        self._refuses = True
        self.cut()

    def mend(self) -> None:
        """Let everything through; what was held up, first."""
        self._refuses = False
        self._stalled = anyio.Event()
        self._mended.set()

    async def mend_after(self, seconds: float) -> None:
        """Mend it when it has stalled for so long."""
        await self._stalled.wait()
        await anyio.sleep(seconds)
        self.mend()

    async def _serve(self, client: ByteStream) -> None:
        self.tried_at.append(anyio.current_time())
        connection = _Connection(self, client)
        self._connections.add(connection)
        try:
            async with client:
                if not self._refuses:
                    await connection.run(self._server.port)
        finally:
            self._connections.remove(connection)

    def due(self, words: list[bytes]) -> Fault | None:
        """What is to happen to this command, or to its reply."""
        if self._planned and self._planned[0].word in words:
            return self._planned.popleft()
        return None

    async def flows(self) -> None:
        """Wait while nothing comes through."""
        await self._mended.wait()

    async def pass_on(self, sink: ByteStream, frame: bytes, fault: Fault | None) -> None:
        """Send a command or a reply, and let the fault happen to it."""
        await self.flows()
        if fault is None:
            await sink.send(frame)
            return
        at = round(fault.at * len(frame))
        self.happened.append(fault)
        if at:
            await sink.send(frame[:at])
        if fault.kind == "end":
            self.refuse()
        if fault.kind in ("cut", "end"):
            raise WireCutError
        if fault.kind == "stall":
            self.stall()
            await self.flows()
        await anyio.sleep(fault.seconds if fault.kind == "delay" else PAUSE)
        if at < len(frame):
            await sink.send(frame[at:])


class _Connection:
    """One connection, and the commands on it that wait for their replies."""

    def __init__(self, wire: Wire, client: ByteStream) -> None:
        self._wire = wire
        self._client = client
        self._waiting: deque[Fault | None] = deque()
        self._scope = anyio.CancelScope()

    def cut(self) -> None:
        self._scope.cancel()

    async def run(self, port: int) -> None:
        """Pass on what comes, in both directions, until one of them ends; or there is no server."""
        with self._scope, suppress(OSError):
            async with (
                await anyio.connect_tcp("127.0.0.1", port) as server,
                anyio.create_task_group() as tg,
            ):
                tg.start_soon(self._requests, server)
                tg.start_soon(self._replies, server)

    async def _requests(self, server: ByteStream) -> None:
        try:
            async for frame in Frames(self._client):
                words = words_of(frame)
                fault = self._wire.due(words)
                if not words[0].upper().endswith(b"SUBSCRIBE"):  # which is answered by a push
                    self._waiting.append(fault if fault and fault.side == "reply" else None)
                await self._wire.pass_on(
                    server, frame, fault if fault and fault.side == "request" else None
                )
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, WireCutError):
            pass
        self.cut()

    async def _replies(self, server: ByteStream) -> None:
        try:
            async for frame in Frames(server):
                is_push = frame.startswith(b">")
                fault = None if is_push else self._waiting.popleft()
                await self._wire.pass_on(self._client, frame, fault)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, WireCutError):
            pass
        self.cut()


class Frames:
    """The commands, or replies, that come, each whole."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._pending = b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (end := end_of_frame(self._pending, 0)) is None:
            try:
                self._pending += await self._stream.receive()
            except anyio.EndOfStream:
                raise StopAsyncIteration from None
        frame, self._pending = self._pending[:end], self._pending[end:]
        return frame


_PARTS: Mapping[bytes, int] = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}
"""How many values each of the elements has, of what consists of some."""


def end_of_frame(data: bytes, start: int) -> int | None:
    """Where the value ends that begins there; None: later than what there is."""
    missing = 1  # values that are still to come
    while missing:
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind, size = data[start : start + 1], data[start + 1 : line_end]
        start = line_end + 2
        missing -= 1
        if kind in (b"$", b"!", b"=") and size != b"-1":
            start += int(size) + 2
        elif kind in _PARTS and size != b"-1":
            missing += _PARTS[kind] * int(size) + (kind == b"|")  # an attribute is of what follows
    return start if start <= len(data) else None


def words_of(frame: bytes) -> list[bytes]:
    """The words of a command."""
    if not frame.startswith(b"*"):
        return frame.split()  # as it is typed by hand
    words = []
    at = frame.index(b"\r\n") + 2
    while at < len(frame):
        line_end = frame.index(b"\r\n", at)
        size = int(frame[at + 1 : line_end])
        words.append(frame[line_end + 2 : line_end + 2 + size])
        at = line_end + 4 + size
    return words
