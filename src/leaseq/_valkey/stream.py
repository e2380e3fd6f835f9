"""Bytes to and from a server: a socket as it is, or with TLS.

A connection without TLS has one request under way, and one task that waits for its answer. The
streams of anyio do more than that needs: each call lets other tasks run, and on asyncio it goes
through a transport and a protocol. A request and its answer take three times as long that way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.lowlevel import current_token

from .url import is_socket

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl

    from anyio.abc import ByteStream

_SETTINGS: Final = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_NOTSENT_LOWAT": 1 << 17,  # or megabytes count as sent that have yet to be
}


class Stream(Protocol):
    """Bytes in both directions, for one task in each of them."""

    async def send(self, item: bytes, /) -> None:
        """Send all of these bytes. If cancelled, a part may have been sent."""

    async def receive(self, max_bytes: int, /) -> bytes:
        """Return some bytes, one at least. If cancelled, none are lost."""

    async def aclose(self) -> None:
        """Close it immediately, and have tasks that wait raise `anyio.ClosedResourceError`."""


class SocketStream:
    """The bytes of a connected socket, which does not block."""

    def __init__(self, connected: socket.socket, readiness: Readiness) -> None:
        self._socket = connected
        self._readiness = readiness
        self._is_closed = False

    async def send(self, item: bytes, /) -> None:
        left: bytes | memoryview = item
        while True:
            self._check_open()
            try:
                sent = self._socket.send(left)
            except BlockingIOError:
                sent = 0
            if sent == len(left):
                return
            left = memoryview(left)[sent:]
            await self._readiness.writable()

    async def receive(self, max_bytes: int, /) -> bytes:
        while True:
            self._check_open()
            await self._readiness.readable()  # always: others are to run, and cancellations to come
            self._check_open()
            try:
                received = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            if not received:
                raise anyio.EndOfStream
            return received

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._readiness.stop()
            self._socket.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError


class Readiness(Protocol):
    """The wait until a socket can be read from or written to."""

    async def readable(self) -> None:
        """Wait until there is something to read."""

    async def writable(self) -> None:
        """Wait until something can be written."""

    def stop(self) -> None:
        """Have the tasks that wait go on: the socket is about to be closed."""


class OnTrio:
    """The wait on trio, by way of anyio."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def readable(self) -> None:
        await anyio.wait_readable(self._socket)

    async def writable(self) -> None:
        await anyio.wait_writable(self._socket)

    def stop(self) -> None:
        anyio.notify_closing(self._socket)


class OnAsyncio:
    """The wait on asyncio, which anyio does after waiting for a turn."""

    def __init__(self, connected: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._number = connected.fileno()
        self._loop = loop
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_over = False

    async def readable(self) -> None:
        await self._wait(self._loop.add_reader, self._loop.remove_reader)

    async def writable(self) -> None:
        await self._wait(self._loop.add_writer, self._loop.remove_writer)

    async def _wait(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = self._loop.create_future()
        add(self._number, _wake, ready)
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.remove(ready)
            if not self._is_over:  # or the number may be that of another socket by now
                remove(self._number)

    def stop(self) -> None:
        self._is_over = True
        self._loop.remove_reader(self._number)
        self._loop.remove_writer(self._number)
        for ready in self._waiting:
            _wake(ready)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def reach(host: str, port: int) -> ByteStream:
    """Connect to a host, or to a socket, whose path is in its place.

    If cancelled, there is no connection.

    Raises:
        OSError: it cannot be reached.
    """
    if is_socket(host):
        return await anyio.connect_unix(host)
    return await anyio.connect_tcp(host, port)


async def connect(host: str, port: int, context: ssl.SSLContext | None) -> Stream:
    """Connect to a server.

    If cancelled, there is no connection.

    Args:
        host: Its name or address; or the path of its socket.
        port: Its port.
        context: The settings of TLS; None: the connection is without it.

    Raises:
        OSError: the server cannot be reached.
        anyio.BrokenResourceError, anyio.EndOfStream: it does not speak TLS.
    """
    from anyio.abc import SocketAttribute  # with sockets and TLS, a fifth of the time of an import

    stream = await reach(host, port)
    try:
        raw = stream.extra(SocketAttribute.raw_socket)
        if not is_socket(host):
            _set_up(raw)
        if context is not None:
            from anyio.streams.tls import TLSStream

            return await TLSStream.wrap(
                stream, hostname=host, ssl_context=context, standard_compatible=False
            )
        own = _take_over(raw)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    if own is None:
        return stream
    try:
        with anyio.CancelScope(shield=True):  # or the caller would not get its own, to close it
            await anyio.aclose_forcefully(stream)
    except BaseException:  # `asyncio.Task.cancel` knows no shield
        await own.aclose()
        raise
    return own


def _take_over(raw: socket.socket) -> SocketStream | None:
    """Return a stream over the socket of another one, which may be closed then.

    None: the event loop cannot wait for sockets, as on Windows.
    """
    import socket

    if sys.platform == "win32":
        return None
    own = socket.socket(fileno=os.dup(raw.fileno()))
    own.setblocking(False)
    loop: Any = current_token().native_token
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(loop, asyncio.AbstractEventLoop):
        return SocketStream(own, OnAsyncio(own, loop))
    return SocketStream(own, OnTrio(own))


def _set_up(raw: socket.socket) -> None:
    """Have the operating system notice a server that is gone, and not run ahead of the network."""
    import socket

    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SETTINGS.items():
        if (option := getattr(socket, name, None)) is not None:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)
