"""A server that answers as a test says, for what no real one can be made to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeAlias

import anyio
from anyio.abc import ByteStream, SocketAttribute

from .wire import Frames, words_of

Said: TypeAlias = "bytes | Callable[[list[bytes]], bytes | None] | None"
"""Answers to a command, or what makes them of its words; b"": none; None: the end of the line."""


def bulk(*texts: str) -> bytes:
    """Return texts as the server sends them, one after the other."""
    return b"".join(b"$%d\r\n%s\r\n" % (len(each.encode()), each.encode()) for each in texts)


def hello(**said: str) -> bytes:
    """Return an answer to ``HELLO``."""
    return b"%%%d\r\n" % len(said) + b"".join(bulk(*pair) for pair in said.items())


def push(*texts: str) -> bytes:
    """Return a message that is sent unasked."""
    return b">%d\r\n" % len(texts) + bulk(*texts)


class Fake:
    """Such a server.

    Attributes:
        port: Where it listens.
        asked: The commands that it was sent.
        streams: The connections to it, in their order.
    """

    def __init__(self, answers: Mapping[str, Said]) -> None:
        self.port = 0
        self.asked: list[list[bytes]] = []
        self.streams: list[ByteStream] = []
        self._turn = anyio.Lock()
        self.answers: dict[str, Said] = {
            "HELLO": hello(mode="standalone", role="master"),
            "INFO": bulk(""),
            "ASKING": b"+OK\r\n",
            "PING": b"+PONG\r\n",
            "SUBSCRIBE": push("subscribe", "mine", "1"),
            "SSUBSCRIBE": push("ssubscribe", "mine", "1"),
            **answers,
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def count(self, command: str) -> int:
        """Return how often it was sent a command."""
        return sum(words[0] == command.encode() for words in self.asked)

    async def send(self, message: bytes) -> None:
        """Send something unasked, on the newest connection."""
        async with self._turn:
            await self.streams[-1].send(message)

    async def serve(self, stream: ByteStream) -> None:
        """Answer the commands of a connection."""
        self.streams.append(stream)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with stream:
                async for frame in Frames(stream):
                    words = words_of(frame)
                    self.asked.append(words)
                    answer = self.answers[words[0].decode()]
                    if callable(answer):
                        answer = answer(words)
                    if answer is None:
                        return
                    if answer:
                        async with self._turn:
                            await stream.send(answer)


@asynccontextmanager
async def fakes(*answers: Mapping[str, Said]) -> AsyncIterator[list[Fake]]:
    """Serve several, each with answers of its own."""
    servers = [Fake(each) for each in answers]
    async with AsyncExitStack() as listeners, anyio.create_task_group() as tg:
        for server in servers:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            await listeners.enter_async_context(listener)
            server.port = listener.extra(SocketAttribute.local_port)
            tg.start_soon(listener.serve, server.serve)
        try:
            yield servers
        finally:
            tg.cancel_scope.cancel()
