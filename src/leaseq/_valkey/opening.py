"""Making a connection: to one server or to a cluster, seen to be one that can hold queues."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import anyio
import glide
from anyio import to_thread
from anyio.lowlevel import current_token

from .._core.errors import ServerError, ServerUnavailableError, UnusableServerError
from .connection import Client, GlideConnection, ServerNotReadyError
from .diagnostics import (
    connected_replicas,
    is_elsewhere,
    of_cluster,
    why_not_connected,
    why_unusable,
)
from .scripts import slot_key
from .tls import make_context
from .url import ValkeyUrl

__all__ = ["OnMessage", "open_client"]

logger = logging.getLogger("leaseq")

OnMessage: TypeAlias = Callable[[bytes], None]
_Deliver: TypeAlias = Callable[[glide.PubSubMsg, Any], None]

_GLIDE_IN_FLIGHT: Final = 20_000
"""When the core refuses. Cancelled requests are in flight until they are answered, and count."""

_BACKOFF: Final = glide.BackoffStrategy(
    num_of_retries=3, factor=50, exponent_base=2, jitter_percent=50
)
"""Tries to reconnect every 0.6 s at the latest; when a server is back, not all who wait at once."""

_MAY: Final = "return redis.acl_check_cmd(ARGV[1], ARGV[2]) and 1 or 0"
"""Whether the user may give a command that is about a channel."""

_PAUSE: Final = 0.05
"""Seconds between two tries to connect."""

_RESUBSCRIBE_MS: Final = 250
"""How often the core looks whether its subscription is still there; it asks no server for that."""


async def open_client(
    url: ValkeyUrl, *, channel: str | None = None, on_message: OnMessage | None = None
) -> Client:
    """Connect to a server, or to its whole cluster, and see that it can hold queues.

    If cancelled, there is no connection.

    Args:
        url: Which server, and as whom.
        channel: What to subscribe to, in a cluster on the shard that has the broker's keys; the
            client is subscribed when it is returned.
        on_message: Called in the event loop's thread with what is published there. Messages are
            lost while the connection is.

    Raises:
        RuntimeError: another event loop of this process has been connected, and has not ended.
        UnusableServerError: there is no such server, it does not let this user in, or it cannot
            hold queues: it is too old, or would evict them.
    """
    _one_loop.settle()
    # The core would write its warnings to stderr, unless the user has set it up already.
    glide.Logger.init(glide.LogLevel.OFF)
    deliver = None if on_message is None else _delivery(on_message)
    tls = await to_thread.run_sync(make_context, url) if url.tls else None
    options, advanced = await _options(url)
    if not url.is_cluster:
        alone = GlideConnection(await _standalone(options, advanced, deliver), url)
        if await _open(alone, url, channel, tls):
            return alone
    clustered = GlideConnection(await _of_cluster(options, advanced, deliver), url)
    await _open(clustered, url, channel, tls)
    return clustered


async def _open(
    connection: GlideConnection, url: ValkeyUrl, channel: str | None, tls: ssl.SSLContext | None
) -> bool:
    """Connect, see that the server can hold queues, and subscribe. False: it is one of a cluster.

    Unless it is open then, the connection is closed.

    Raises:
        UnusableServerError: there is no such server; the message says why.
    """
    try:
        try:
            info = await _info(connection, url.connect_timeout)
            if not connection.is_cluster and (info is None or of_cluster(info)):
                await connection.close()
                return False
            _check(info or "", url)
            if channel is not None and not await connection.subscribe(channel):
                raise UnusableServerError(await _why_not_subscribed(connection, url, channel))
        except (ServerError, ServerUnavailableError) as error:
            raise UnusableServerError(await why_not_connected(url, error, tls)) from None
    except BaseException:
        await connection.close()
        raise
    return True


async def _info(connection: GlideConnection, timeout: float) -> str | None:
    """What the server says of itself; None: that it is a replica.

    For so many seconds it is asked again, if the connection breaks, or while it is not ready.
    """
    until = anyio.current_time() + timeout
    while True:
        try:
            return cast("bytes", await connection.command("INFO")).decode(errors="replace")
        except ServerUnavailableError as error:
            if is_elsewhere(error) and not connection.is_cluster:
                return None
            may_answer = error.in_doubt or isinstance(error, ServerNotReadyError)
            if not may_answer or anyio.current_time() >= until:
                raise
        await anyio.sleep(_PAUSE)


async def _why_not_subscribed(connection: GlideConnection, url: ValkeyUrl, channel: str) -> str:
    """Why a server has not confirmed a subscription."""
    command = "ssubscribe" if connection.is_cluster else "subscribe"
    if await connection.command("EVAL", _MAY, "0", command, channel):
        return f"{url.address} has not confirmed a subscription for {url.connect_timeout:g} s"
    return (
        f"{url.address} does not let this user subscribe to {channel}: its ACL lacks "
        f"+{command}, or &{slot_key(url.prefix)}:p:*"
    )


def _check(info: str, url: ValkeyUrl) -> None:
    """See that a server can hold queues."""
    if (reason := why_unusable(info)) is not None:
        raise UnusableServerError(f"{url.address} cannot hold queues: {reason}")
    if (replicas := connected_replicas(info)) < url.wait_replicas:
        logger.warning(
            "%s has %d of the %d replicas that are to be waited for: calls wait until it has them",
            url.address,
            replicas,
            url.wait_replicas,
        )


# A client connects with its first request: with its making, it would block the event loop.


async def _standalone(
    options: dict[str, Any], advanced: dict[str, Any], deliver: _Deliver | None
) -> glide.GlideClient:
    configuration = glide.GlideClientConfiguration
    return await glide.GlideClient.create(
        configuration(
            **options,
            advanced_config=glide.AdvancedGlideClientConfiguration(**advanced),
            pubsub_subscriptions=configuration.PubSubSubscriptions({}, deliver, None),
        )
    )


async def _of_cluster(
    options: dict[str, Any], advanced: dict[str, Any], deliver: _Deliver | None
) -> glide.GlideClusterClient:
    configuration = glide.GlideClusterClientConfiguration
    return await glide.GlideClusterClient.create(
        configuration(
            **options,
            advanced_config=glide.AdvancedGlideClusterClientConfiguration(**advanced),
            pubsub_subscriptions=configuration.PubSubSubscriptions({}, deliver, None),
        )
    )


async def _options(url: ValkeyUrl) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both kinds of clients are told, and what of it counts as advanced."""
    options: dict[str, Any] = {
        "addresses": [glide.NodeAddress(host, port) for host, port in url.hosts],
        "use_tls": url.tls,
        "credentials": None
        if url.password is None
        else glide.ServerCredentials(url.password, url.username),
        "request_timeout": round(url.request_timeout * 1000),
        "reconnect_strategy": _BACKOFF,
        "database_id": url.database,
        "inflight_requests_limit": _GLIDE_IN_FLIGHT,
        "lazy_connect": True,
        "client_info_tag": "leaseq",
    }
    advanced: dict[str, Any] = {
        "connection_timeout": round(url.connect_timeout * 1000),
        "pubsub_reconciliation_interval": _RESUBSCRIBE_MS,
    }
    if url.tls:
        # A certificate that is renewed is read anew, its key with it.
        advanced["tls_config"] = glide.TlsAdvancedConfiguration(
            root_pem_cacerts=await anyio.Path(url.cacert).read_bytes() if url.cacert else None,
            client_cert_path=url.cert,
            client_key_path=url.key,
        )
    return options, advanced


class _OneLoop:
    """Lets one event loop of the process have connections, until it has ended."""

    def __init__(self) -> None:
        self._home: object = None
        self._lock = threading.Lock()

    def settle(self) -> None:
        here = current_token().native_token
        with self._lock:
            if here is not self._home and not _has_ended(self._home):
                raise RuntimeError(
                    "another event loop of this process is connected to a server, "
                    f"{self._home!r}: there can be one at a time, until it has ended"
                )
            self._home = here


_one_loop: Final = _OneLoop()


def _has_ended(home: Any) -> bool:
    if home is None:
        return True
    if isinstance(home, asyncio.AbstractEventLoop):
        return home.is_closed()
    try:
        home.run_sync_soon(lambda: None)
    except RuntimeError:  # trio's own way to tell
        return True
    return False


def _delivery(on_message: OnMessage) -> _Deliver:
    """Calls back in this thread, whichever one the core's messages are read in.

    All of a process have their messages read in the event loop of one of them. That may be another
    one's, in another thread, if the user has clients of the same kind for other ends.
    """
    home = threading.get_ident()
    token = current_token().native_token
    in_asyncio = isinstance(token, asyncio.AbstractEventLoop)
    call_soon = token.call_soon_threadsafe if in_asyncio else token.run_sync_soon  # type: ignore[attr-defined]

    def call(payload: bytes) -> None:
        try:
            on_message(payload)
        except Exception:
            logger.exception("a message from the server was not dealt with")

    def deliver(message: glide.PubSubMsg, _context: Any) -> None:
        text = message.message
        payload = text.encode() if isinstance(text, str) else text
        if threading.get_ident() == home:
            call(payload)
            return
        try:
            call_soon(call, payload)
        except RuntimeError:  # that event loop has ended, and nobody waits in it
            logger.debug("a message came after its event loop had ended")

    return deliver
