"""Whether a server can hold queues, and why one could not be connected to."""

from __future__ import annotations

import os
import ssl

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from ..errors import ServerError
from .url import ValkeyUrl

__all__ = ["is_elsewhere", "of_cluster", "why_not_connected", "why_unusable"]

OLDEST_VALKEY = (8, 0)
OLDEST_REDIS = (7, 0)


def is_elsewhere(error: Exception) -> bool:
    """Whether a client says that the server it was sent to is another one's replica."""
    return "No primary node found" in str(error)


async def why_not_connected(
    url: ValkeyUrl, channel: str | None, error: Exception, tls: ssl.SSLContext | None
) -> str:
    """What to tell the user whose client could not connect; never the password.

    If cancelled, nothing happened. Takes ``url.connect_timeout`` seconds for each host at most.

    Args:
        url: What the client could not connect to.
        channel: What it should have subscribed to.
        error: What it said of that: often just that it took too long, whatever the cause.
        tls: How to speak TLS; None: not at all.
    """
    said = str(error)
    if "WRONGPASS" in said:
        return f"{url.address} does not know that user with that password"
    if "NOAUTH" in said:
        return f"{url.address} asks for a password: valkey://user:password@host"
    if "No topology views found" in said:
        if url.is_cluster:
            return f"{url.address} are no cluster, as several hosts in a URL are: name one host"
        return f"{url.address} is the replica of another server: name that one"
    if isinstance(error, TimeoutError):
        return f"{url.address} does not let this user subscribe to {channel}"
    if isinstance(error, ServerError) or "PermissionDenied" in said:
        return f"{url.address} refuses what leaseq must ask at first: {said}"
    return "; ".join([await _what_is_there(host, port, url, tls) for host, port in url.hosts])


async def _what_is_there(host: str, port: int, url: ValkeyUrl, tls: ssl.SSLContext | None) -> str:
    where = f"{host}:{port}"
    try:
        with anyio.fail_after(url.connect_timeout):
            stream = await anyio.connect_tcp(host, port)
    except TimeoutError:
        return f"{where} cannot be reached within {url.connect_timeout:g} s"
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        # Each backend words it differently; a name that is not found has no errno of the system.
        known = os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause
        return f"no server at {where}: {known}"
    if tls is not None:
        async with stream:
            return f"{where}: {await _what_tls_says(stream, host, url, tls)}"
    async with stream:
        answer = await _answer(stream, b"PING\r\n", url.connect_timeout)
    if answer[:1] not in (b"+", b"-"):
        return f"what listens at {where} is not a Valkey or Redis server"
    return f"{where} {_why_not_let_in(url)}"


def _why_not_let_in(url: ValkeyUrl) -> str:
    if url.database:
        return f"does not let this user in to database {url.database}: does it have one?"
    return f"took longer than {url.connect_timeout:g} s to let this user in"


async def _what_tls_says(
    stream: ByteStream, host: str, url: ValkeyUrl, context: ssl.SSLContext
) -> str:
    """Why there is no connection by TLS, over one that there is without."""
    try:
        with anyio.fail_after(url.connect_timeout):
            tls = await TLSStream.wrap(
                stream, hostname=host, ssl_context=context, standard_compatible=False
            )
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message}"
    except (TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream, OSError):
        return "it does not speak TLS"
    answer = await _answer(tls, b"PING\r\n", url.connect_timeout)
    if not answer:
        # A server says that it does not like a client's certificate after all is agreed on.
        shown = "the certificate that it was shown" if url.cert else "to be shown no certificate"
        return f"it does not accept {shown}: ?cert= and ?key= in the URL name one"
    if answer[:1] not in (b"+", b"-"):
        return "it is not a Valkey or Redis server"
    return f"it {_why_not_let_in(url)}"


async def _answer(stream: ByteStream, request: bytes, timeout: float) -> bytes:
    """The first bytes that come back; none if there are none."""
    with anyio.move_on_after(timeout):
        try:
            await stream.send(request)
            return await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            pass
    return b""


def _read(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def of_cluster(info: str) -> bool:
    """Whether a server is one of a cluster, by what it answers to ``INFO``."""
    return _read(info).get("cluster_enabled") == "1"


def why_unusable(info: str, wait_replicas: int = 0) -> str | None:
    """Why a server cannot hold queues, if it cannot.

    Args:
        info: What the server answers to ``INFO``.
        wait_replicas: How many replicas are to have what is done.
    """
    said = _read(info)
    if "valkey_version" in said:
        name, version, oldest = "Valkey", said["valkey_version"], OLDEST_VALKEY
    elif "redis_version" in said:
        name, version, oldest = "Redis", said["redis_version"], OLDEST_REDIS
    else:
        return "it is not a Valkey or Redis server"
    numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdigit())
    if numbers < oldest:
        return f"it is {name} {version}: Valkey 8.0 or Redis 7.0 is the oldest that will do"
    policy = said.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return (
            f"its maxmemory-policy is {policy}: when its memory is full it would silently drop "
            "queues that are not empty; set maxmemory-policy to noeviction"
        )
    replicas = int(said.get("connected_slaves", 0))
    if replicas < wait_replicas:
        return (
            f"{wait_replicas} replicas are to have what is done (wait_replicas), and it has "
            f"{replicas}: nothing would ever be"
        )
    return None
