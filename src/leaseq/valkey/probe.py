"""Whether a server can hold queues, and why one could not be connected to."""

from __future__ import annotations

import os

import anyio
from anyio.abc import ByteStream

from ..errors import ServerError
from .url import ValkeyUrl

__all__ = ["why_not_connected", "why_unusable"]

OLDEST_VALKEY = (8, 0)
OLDEST_REDIS = (7, 0)


async def why_not_connected(url: ValkeyUrl, channel: str | None, error: Exception) -> str:
    """What to tell the user whose client could not connect; never the password.

    If cancelled, nothing happened. Takes ``url.connect_timeout`` seconds for each host at most.

    Args:
        url: What the client could not connect to.
        channel: What it should have subscribed to.
        error: What it said of that: often just that it took too long, whatever the cause.
    """
    said = str(error)
    if "WRONGPASS" in said:
        return f"{url.address} does not know that user with that password"
    if "NOAUTH" in said:
        return f"{url.address} asks for a password: valkey://user:password@host"
    if isinstance(error, TimeoutError):
        return f"{url.address} does not let this user subscribe to {channel}"
    if isinstance(error, ServerError) or "PermissionDenied" in said:
        return f"{url.address} refuses what leaseq must ask at first: {said}"
    return "; ".join([await _what_is_there(host, port, url) for host, port in url.hosts])


async def _what_is_there(host: str, port: int, url: ValkeyUrl) -> str:
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
    async with stream:
        if url.tls:
            return f"{where} does not speak TLS, or its certificate is not trusted"
        answer = await _answer(stream, b"PING\r\n", url.connect_timeout)
    if answer[:1] not in (b"+", b"-"):
        return f"what listens at {where} is not a Valkey or Redis server"
    if url.database:
        return f"{where} does not let this user in to database {url.database}: does it have one?"
    return f"{where} took longer than {url.connect_timeout:g} s to let this user in"


async def _answer(stream: ByteStream, request: bytes, timeout: float) -> bytes:
    """The first bytes that come back; none if there are none."""
    with anyio.move_on_after(timeout):
        try:
            await stream.send(request)
            return await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return b""


def why_unusable(text: str) -> str | None:
    """Why a server cannot hold queues, if it cannot.

    Args:
        text: What the server answers to ``INFO``.
    """
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "valkey_version" in info:
        name, version, oldest = "Valkey", info["valkey_version"], OLDEST_VALKEY
    elif "redis_version" in info:
        name, version, oldest = "Redis", info["redis_version"], OLDEST_REDIS
    else:
        return "it is not a Valkey or Redis server"
    numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdigit())
    if numbers < oldest:
        return f"it is {name} {version}: Valkey 8.0 or Redis 7.0 is the oldest that will do"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return (
            f"its maxmemory-policy is {policy}: when its memory is full it would silently drop "
            "queues that are not empty; set maxmemory-policy to noeviction"
        )
    return None
