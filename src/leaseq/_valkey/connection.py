"""A connection to one server: commands go out, answers and messages come in.

It is asked for one thing at a time, and needs no task of its own: whoever asks sends, and reads
until the answers are there. No other file imports the parser.
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

Arg: TypeAlias = str | bytes

Answer: TypeAlias = "int | float | bool | bytes | str | list[Answer] | hiredis.ReplyError | None"
"""A value as the parser gives it: an error in place of a value is returned, and not raised."""

LOST: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
    hiredis.ProtocolError,
)
"""The errors of a connection that is of no more use."""

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
        self._owed = 0  # answers that are still to come, to what was given up
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
        """Send a command whose answer is to be heard among the messages.

        If cancelled, the connection is not usable any more.
        """
        self._torn = True
        await self._stream.send(_pack(command))
        self._torn = False

    async def hear(self) -> list[Any]:
        """Wait for the next message; what was subscribed to is one as well.

        If cancelled, nothing is lost: it comes the next time.

        Raises:
            LOST: there will be none.
            hiredis.ReplyError: the server refused what it was told.
        """
        while True:
            message = await self._receive()
            if isinstance(message, hiredis.PushNotification):
                return message
            if isinstance(message, hiredis.ReplyError):
                raise message

    async def _receive(self) -> Answer:
        while (answer := self._reader.gets()) is _NOTHING:
            self._reader.feed(await self._stream.receive(_CHUNK))
        return answer  # type: ignore[no-any-return]

    async def hang_up(self) -> None:
        """Close it, and do not wait for what is under way. Takes effect even if cancelled."""
        await anyio.aclose_forcefully(self._stream)


async def dial(host: str, port: int, context: ssl.SSLContext | None) -> Connection:
    """Connect to a server.

    If cancelled, there is no connection.

    Args:
        host: Its name or address.
        port: Its port.
        context: The settings of TLS; None: the connection is without it.

    Raises:
        LOST: it is not there, or does not speak TLS.
    """
    stream: ByteStream = await anyio.connect_tcp(host, port)
    _keep_alive(stream.extra(SocketAttribute.raw_socket))
    if context is not None:
        try:
            stream = await TLSStream.wrap(
                stream, hostname=host, ssl_context=context, standard_compatible=False
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
    return Connection(stream, host, port)


def _keep_alive(raw: socket.socket) -> None:
    """Have the system find out if the server's machine is gone: no task of ours is awake for it."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)


def _pack(command: Sequence[Arg]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # of any length
    return packed
