"""Diagnostics: why a server cannot be connected to, or cannot hold queues."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import anyio

from .._core.errors import ServerError, UnusableServerError
from .stream import reach
from .url import ValkeyUrl, is_socket, place

if TYPE_CHECKING:
    import ssl

    from anyio.abc import ByteStream


async def why_not_connected(url: ValkeyUrl, error: Exception, tls: ssl.SSLContext | None) -> str:
    """Return an explanation for the user whose client could not connect, without the password.

    If cancelled, nothing happened. Takes ``url.connect_timeout`` seconds for each host at most.

    Args:
        url: The server.
        error: The error of the client.
        tls: The settings of TLS; None: the connection is without it.
    """
    said = str(error)
    if said.startswith("WRONGPASS"):
        return (
            f"{url.address} does not know that user with that password (in a URL, what is special "
            "in them is escaped)"
        )
    if said.startswith("NOAUTH"):
        return f"{url.address} asks for a password: valkey://user:password@host"
    if "'HELLO'" in said:
        return (
            f"{url.address} does not know HELLO: it is older than Redis 6.2, or has another name "
            "for it"
        )
    if isinstance(error, ServerError):
        return f"{url.address} refuses what leaseq must ask at first: {error}"
    found = [
        await _what_is_there(host, port, url, tls) or f"{place(host, port)} {_but(url)}: {said}"
        for host, port in url.hosts
    ]
    return "; ".join(found)


def _but(url: ValkeyUrl) -> str:
    """Return the possible fault where a host is as it should be."""
    if url.is_cluster:
        return "is there, but the node that has these keys is not, or does not let this user in"
    return "does not let this user in"


async def _what_is_there(
    host: str, port: int, url: ValkeyUrl, tls: ssl.SSLContext | None
) -> str | None:
    """Return what is wrong with a host; None if nothing can be seen."""
    where = place(host, port)
    if is_socket(host) and (kind := _kind_of_file(host)):
        return f"{where} is a {kind}, and not a socket"
    try:
        with anyio.fail_after(url.connect_timeout):
            stream = await reach(host, port)
    except TimeoutError:
        return f"{where} cannot be reached within {url.connect_timeout:g} s"
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        # Each backend words it differently; a name that is not found has no errno of the system.
        number = cause.errno or 0
        known = os.strerror(number) if number > 0 else cause.strerror or cause
        return f"no server at {where}: {known}"
    async with stream:
        try:
            if tls is None:
                said = await _what_it_says(stream, url)
            else:
                said = await _by_tls(stream, host, url, tls)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            said = "closes connections immediately"
            if tls is None:
                said += ": does it want TLS, which is valkeys://?"
        return said and f"{where} {said}"


def _kind_of_file(name: str) -> str:
    """Return the kind of what is there in place of a socket; "": nothing."""
    from pathlib import Path

    path = Path(name)
    return "folder" if path.is_dir() else "file" if path.is_file() else ""


async def _by_tls(
    stream: ByteStream, host: str, url: ValkeyUrl, context: ssl.SSLContext
) -> str | None:
    import ssl

    from anyio.streams.tls import TLSStream

    try:
        with anyio.fail_after(url.connect_timeout):
            tls = await TLSStream.wrap(
                stream, hostname=host, ssl_context=context, standard_compatible=False
            )
    except ssl.SSLCertVerificationError as error:
        return f"has a certificate that is not trusted: {error.verify_message}"
    except (TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as error:
        if "ALERT" in str(getattr(error, "reason", "")):
            return _what_is_shown(url)
        return "does not speak TLS"
    try:
        return await _what_it_says(tls, url)
    except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
        # With TLS 1.3 it is only after all is agreed on that a server says that it is not content.
        return _what_is_shown(url)


def _what_is_shown(url: ValkeyUrl) -> str:
    if url.cert is not None:
        return f"does not accept the certificate that it was shown, {url.cert!r}"
    return "wants to be shown a certificate: ?cert= and ?key= in the URL name it and its key"


async def _what_it_says(stream: ByteStream, url: ValkeyUrl) -> str | None:
    """Return what is wrong with a server, by its answer to ``PING``; None if nothing is."""
    answer = b""
    with anyio.move_on_after(url.connect_timeout):
        await stream.send(b"PING\r\n")
        answer = await stream.receive()
    if not answer:
        return f"does not answer within {url.connect_timeout:g} s"
    if answer[:1] not in (b"+", b"-"):
        return "is not a Valkey or Redis server"
    said = answer[1:].partition(b"\r")[0].decode(errors="replace")
    if answer[:1] == b"-" and not said.startswith("NOAUTH"):
        return f"is not ready: {said}"
    return None


def _read(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def why_unusable(info: str) -> str | None:
    """Return why a server cannot hold queues, by its answer to ``INFO``; None if it can.

    Whether it has the commands that are needed it is asked at the handshake.
    """
    policy = _read(info).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return (
            f"its maxmemory-policy is {policy}: when its memory is full it would silently drop "
            "queues that are not empty; set maxmemory-policy to noeviction"
        )
    return None


def connected_replicas(info: str) -> int:
    """Return the number of replicas that follow a server, by its answer to ``INFO``."""
    lines = [value for name, value in _read(info).items() if re.fullmatch(r"slave\d+", name)]
    return sum("state=online" in line for line in lines)


# Certificates


def make_context(url: ValkeyUrl) -> ssl.SSLContext:
    """Read the certificates of a URL for Python's own TLS. Blocks as long as its files take.

    Raises:
        UnusableServerError: a file is not there, or is not what it should be; it is named.
    """
    import ssl
    from pathlib import Path

    for path in (url.cacert, url.cert, url.key):
        if path is not None:
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise UnusableServerError(f"{path!r} cannot be read: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=url.cacert)
    except ssl.SSLError as error:
        raise UnusableServerError(f"no certificates in {url.cacert!r}: {_explain(error)}") from None
    if url.cert is not None:
        try:
            context.load_cert_chain(url.cert, url.key, password=_no_password)
        except (ssl.SSLError, _EncryptedError) as error:
            pair = f"{url.cert!r} and {url.key!r}"
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise UnusableServerError(
                    f"{pair} are a certificate, and the key of another one"
                ) from None
            raise UnusableServerError(
                f"{pair} are not a certificate and its private key, in PEM: {_explain(error)}"
            ) from None
    return context


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedError("the key is encrypted")  # else one would be asked for at the terminal


def _explain(error: BaseException | None) -> str:
    """Return the words of an error of TLS, without its place in the library."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
