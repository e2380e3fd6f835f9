"""A connection to one server: commands go out, answers and messages come in.

It has one request under way at a time and needs no task of its own: the caller sends its request,
then reads until the answers are there. No other file imports the parser.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import anyio
import hiredis
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

Refusal = hiredis.ReplyError
"""An error that a server has answered."""

Arg: TypeAlias = str | bytes

Answer: TypeAlias = "int | float | bool | bytes | str | list[Answer] | Refusal | None"
"""A value as the parser gives it: an error in place of a value is returned, and not raised."""

LOST: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
    hiredis.ProtocolError,
)
"""The errors after which a connection is unusable."""

_NOTHING: Final = object()
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_CHUNK: Final = 1 << 16  # bytes to receive at a time


class Connection:
    """A connection to one server, by RESP3.

    Args:
        stream: The bytes.
        host: The host, as it was asked for.
        port: Its port.
    """

    def __init__(self, stream: ByteStream, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._stream = stream
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._owed = 0  # answers still to come to requests that were given up
        self._torn = False  # a part of a command may have been sent

    @property
    def is_usable(self) -> bool:
        """False once a command was sent in part, and the server waits for the rest."""
        return not self._torn

    async def ask(self, *commands: Sequence[Arg]) -> list[Answer]:
        """Send commands, one directly after the other, and return their answers.

        If cancelled, they may have been done, or may still be.

        Raises:
            LOST: there is no answer, and there will be none; some may have been done.
        """
        request = b"".join([_pack(command) for command in commands])
        self._torn = True
        await self._stream.send(request)
        self._torn = False
        answers: list[Answer] = []
        try:
            while len(answers) < len(commands):
                answer = await self._receive()
                if isinstance(answer, hiredis.PushNotification):
                    continue
                if self._owed:
                    self._owed -= 1
                else:
                    answers.append(answer)
        except BaseException:
            self._owed += len(commands) - len(answers)
            raise
        return answers

    async def tell(self, *command: Arg) -> None:
        """Send a command whose answer arrives among the messages.

        If cancelled, the connection is not usable any more.
        """
        self._torn = True
        await self._stream.send(_pack(command))
        self._torn = False

    async def hear(self) -> list[Any]:
        """Return the next message; the confirmation of a subscription is one too.

        If cancelled, no message is lost: the next call returns it.

        Raises:
            LOST: there will be none.
            Refusal: the server refused what it was told.
        """
        while True:
            message = await self._receive()
            if isinstance(message, hiredis.PushNotification):
                return message
            if isinstance(message, Refusal):
                raise message

    async def _receive(self) -> Answer:
        while (answer := self._reader.gets()) is _NOTHING:
            self._reader.feed(await self._stream.receive(_CHUNK))
        return answer  # type: ignore[no-any-return]

    async def hang_up(self) -> None:
        """Close the connection without waiting for requests under way.

        Takes effect even if cancelled.
        """
        await anyio.aclose_forcefully(self._stream)


async def dial(host: str, port: int, context: ssl.SSLContext | None) -> Connection:
    """Connect to a server.

    If cancelled, there is no connection.

    Args:
        host: Its name or address.
        port: Its port.
        context: The settings of TLS; None: the connection is without it.

    Raises:
        LOST: the server cannot be reached, or does not speak TLS.
    """
    stream: ByteStream = await anyio.connect_tcp(host, port)
    try:
        _keep_alive(stream.extra(SocketAttribute.raw_socket))
        if context is not None:
            stream = await TLSStream.wrap(
                stream, hostname=host, ssl_context=context, standard_compatible=False
            )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return Connection(stream, host, port)


def _keep_alive(raw: socket.socket) -> None:
    """Turn on TCP keep-alive, so that the operating system notices a server that is gone."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)


def _pack(command: Sequence[Arg]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # of any length
    return packed
