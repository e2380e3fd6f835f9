"""A connection to one server: commands go out, answers and messages come in.

It has one request under way at a time and needs no task of its own: the caller sends its request,
then reads until the answers are there. No other file imports the parser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import hiredis
from anyio import CancelScope

from .stream import Stream, connect

if TYPE_CHECKING:
    import ssl

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
_CHUNK: Final = 1 << 16  # bytes to receive at a time, and to send of a long request
_LONGEST: Final = 64 << 20
"""Bytes of an answer: those of the scripts have far fewer, so that a longer one is another's."""


class Connection:
    """A connection to one server, by RESP3.

    Args:
        stream: The bytes.
        host: The host, as it was asked for.
        port: Its port.

    Attributes:
        said: The words of the server about itself: its mode, and its role.
    """

    def __init__(self, stream: Stream, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._stream = stream
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self.said: dict[str, str] = {}
        self._received = 0  # bytes since the last answer
        self._owed = 0  # answers still to come to requests that were given up
        self._torn = False  # a part of a command may have been sent

    @property
    def is_usable(self) -> bool:
        """False once a command was sent in part, and the server waits for the rest."""
        return not self._torn

    async def ask(
        self, *commands: Sequence[Arg], on_part: Callable[[], object] | None = None
    ) -> list[Answer]:
        """Send commands, one directly after the other, and return their answers.

        If cancelled, they may have been done, or may still be.

        Args:
            commands: The commands.
            on_part: Called when a part of a long request was sent, and when a part of a long answer
                has come: 64 KiB of either.

        Raises:
            LOST: there is no answer, and there will be none; some may have been done.
        """
        request = b"".join([_pack(command) for command in commands])
        self._torn = True
        await self._send(request, on_part)
        self._torn = False
        answers: list[Answer] = []
        try:
            while len(answers) < len(commands):
                answer = await self._receive(on_part)
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

    async def _send(self, request: bytes, on_part: Callable[[], object] | None) -> None:
        if len(request) <= _CHUNK:
            await self._stream.send(request)
            return
        with memoryview(request) as rest:
            for start in range(0, len(request), _CHUNK):
                await self._stream.send(bytes(rest[start : start + _CHUNK]))
                if on_part is not None:
                    on_part()

    async def _receive(self, on_part: Callable[[], object] | None = None) -> Answer:
        part = 0
        while (answer := self._reader.gets()) is _NOTHING:
            if part >= _CHUNK and on_part is not None:
                on_part()
                part = 0
            chunk = await self._stream.receive(_CHUNK)
            part += len(chunk)
            self._received += len(chunk)
            if self._received > _LONGEST:
                raise hiredis.ProtocolError(f"an answer of more than {_LONGEST:,} bytes")
            self._reader.feed(chunk)
        self._received = 0
        return answer  # type: ignore[no-any-return]

    async def hang_up(self) -> None:
        """Close the connection without waiting for requests under way.

        Takes effect even if cancelled.
        """
        with CancelScope(shield=True) as scope:  # or the caller would not come to its next one
            scope.cancel()
            await self._stream.aclose()


async def dial(host: str, port: int, context: ssl.SSLContext | None) -> Connection:
    """Connect to a server, as `connect` does.

    Raises:
        LOST: the server cannot be reached, or does not speak TLS.
    """
    return Connection(await connect(host, port, context), host, port)


def _pack(command: Sequence[Arg]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # of any length
    return packed
