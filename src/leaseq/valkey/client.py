"""What the engine needs of a client, and the one there is: the only file that knows whose it is.

The client is valkey-glide, whose core has threads of its own. What the engine relies on:

- It never sends a request twice. A request whose connection broke fails, and may have been done.
- A request that is made while the connection is down waits for it to come back, up to its timeout.
- The connection and the subscription come back by themselves, however long the server was away.
- A cancelled request is done all the same. Its answer is dropped, and given to nobody else.

And one thing that it does not do: serve two event loops of one process at once. One of them reads
the answers of both, and takes them with it when it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
import glide
from anyio.lowlevel import current_token

from ..errors import LeaseqError, ServerError, ServerUnavailableError, UnusableServerError
from .probe import why_not_connected, why_unusable
from .url import ValkeyUrl

__all__ = ["Arg", "Client", "Reply", "Script", "open_client"]

logger = logging.getLogger("leaseq")

Arg: TypeAlias = str | bytes

Reply: TypeAlias = "int | bytes | list[Reply] | None"
"""What a script returns: Lua's number, cut to an integer; string; nil and false; table, up to its
first nil. A script is not to return a status, nor an error within a table."""

OnMessage: TypeAlias = Callable[[bytes], None]
Glide: TypeAlias = glide.GlideClient | glide.GlideClusterClient

IN_FLIGHT: Final = 500
"""How many requests wait for their answers at once; more wait for their turn."""

_GLIDE_IN_FLIGHT: Final = 20_000
"""When the core refuses. Cancelled requests are in flight until they are answered, and count."""

_BACKOFF: Final = glide.BackoffStrategy(num_of_retries=3, factor=50, exponent_base=2)
"""Tries to reconnect every 0.4 s at the latest."""

_RESUBSCRIBE_MS: Final = 250
"""How often the core looks whether its subscription is still there; it asks no server for that."""

_SIGNALLED: Final = re.compile(r"An error was signalled by the server: - (\w+): ?", re.DOTALL)
_CODED: Final = re.compile(r"([A-Z][A-Z0-9_]*): ?")

_CODES: Final[Mapping[str, str]] = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterDown": "CLUSTERDOWN",
    "CrossSlot": "CROSSSLOT",
    "ExecAbortError": "EXECABORT",
    "MasterDown": "MASTERDOWN",
    "Moved": "MOVED",
    "NoScriptError": "NOSCRIPT",
    "NotBusy": "NOTBUSY",
    "PermissionDenied": "NOPERM",
    "ReadOnly": "READONLY",
    "ResponseError": "ERR",
    "TryAgain": "TRYAGAIN",
}
"""The server's own words for what the core calls otherwise."""

_NOT_READY: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN"}
)
"""What a server says that will do it later, or that another one does instead."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script in Lua, and the digest by which the server knows it. Made once, at import."""

    source: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())


class Client(Protocol):
    """A connection to a server, in one event loop. It reconnects by itself."""

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        """Run a script, sent by its digest, and in full only if the server does not know it.

        If cancelled, the script may have run, or may still run.

        Args:
            script: The script.
            keys: Its ``KEYS``: all that it touches.
            args: Its ``ARGV``.

        Raises:
            ServerUnavailableError: there is no answer; ``in_doubt`` says whether it may have run.
            ServerError: the server refused to run it, or it failed half-way.
        """
        ...

    async def command(self, *args: Arg) -> object:
        """Run a command, and return what the client makes of its answer; raises as `script`.

        If cancelled, the command may have been done, or may still be.
        """
        ...

    async def close(self) -> None:
        """Close the connections; idempotent. Requests under way fail, in doubt."""
        ...


class GlideConnection:
    """A `Client` by valkey-glide."""

    def __init__(self, client: Glide, url: ValkeyUrl) -> None:
        self._client = client
        self._url = url
        self._turn = anyio.Semaphore(IN_FLIGHT, fast_acquire=True)
        self._closed = False

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        operands = (str(len(keys)), *keys, *args)
        try:
            reply = await self.command("EVALSHA", script.sha, *operands)
        except ServerError as error:
            if error.code != "NOSCRIPT":
                raise
            reply = await self.command("EVAL", script.source, *operands)
        return cast(Reply, reply)

    async def command(self, *args: Arg) -> object:
        async with self._turn:
            if self._closed:
                raise ServerUnavailableError("the connection is closed", in_doubt=False)
            try:
                return await self._client.custom_command(list(args))
            except glide.GlideError as error:
                raise self._explained(error) from None

    async def wait_subscribed(self) -> None:
        """Wait until the subscription is there: the core knows, which asks no server for that."""
        while True:
            state = await self._client.get_subscriptions()
            wanted, there = (
                {channel for channels in each.values() for channel in channels}
                for each in (state.desired_subscriptions, state.actual_subscriptions)
            )
            if wanted <= there:
                return
            await anyio.sleep(0.005)

    async def close(self) -> None:
        self._closed = True
        await self._client.close()

    def _explained(self, error: glide.GlideError) -> LeaseqError:
        """What the core's error says of the request."""
        text = str(error).strip()
        where = self._url.address
        if isinstance(error, glide.TimeoutError):
            within = f"no answer from {where} within {self._url.request_timeout:g} s"
            return ServerUnavailableError(within, in_doubt=True)
        if isinstance(error, glide.ConnectionError):
            lost = f"the connection to {where} was lost before the answer came"
            return ServerUnavailableError(lost, in_doubt=True)
        if isinstance(error, glide.ClosingError):
            return ServerUnavailableError("the connection was closed meanwhile", in_doubt=True)
        signalled = _SIGNALLED.match(text)
        coded = signalled or _CODED.match(text)
        if coded is None:
            # Refused by the core itself, if it says so; whatever else it may say is in doubt.
            never_sent = text.endswith("- ClientError") or "connect failed" in text
            return ServerUnavailableError(f"{where}: {text}", in_doubt=not never_sent)
        code = _CODES.get(coded[1], coded[1])
        said = f"{code} {text[coded.end() :]}"
        if code in _NOT_READY:
            return ServerUnavailableError(f"{where} is not ready: {said}", in_doubt=False)
        return ServerError(said, code=code)


async def open_client(
    url: ValkeyUrl, *, channel: str | None = None, on_message: OnMessage | None = None
) -> Client:
    """Connect to a server, and see that it can hold queues.

    If cancelled, there is no connection.

    Args:
        url: Which server, and as whom.
        channel: What to subscribe to; the client is subscribed when it is returned.
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
    connection = GlideConnection(await _open_lazily(url, channel, deliver), url)
    try:
        try:
            # The core's own timeouts do not end its attempts to subscribe where it may not.
            with anyio.fail_after(url.connect_timeout + url.request_timeout):
                check_server(url, await connection.command("INFO"))
                if channel is not None:
                    await connection.wait_subscribed()
        except (ServerError, ServerUnavailableError, TimeoutError) as error:
            reason = await why_not_connected(url, channel, error)
            raise UnusableServerError(reason) from None
    except BaseException:
        await connection.close()
        raise
    return connection


def check_server(url: ValkeyUrl, info: object) -> None:
    """See that a server can hold queues, by its answer to ``INFO``; in a cluster, each node.

    Raises:
        UnusableServerError: it cannot; the message says why.
    """
    nodes = info if isinstance(info, dict) else {url.address: info}
    for node, answer in nodes.items():
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else ""
        reason = why_unusable(text)
        if reason is not None:
            where = node.decode() if isinstance(node, bytes) else node
            raise UnusableServerError(f"{where} cannot hold queues: {reason}")


async def _open_lazily(
    url: ValkeyUrl, channel: str | None, deliver: Callable[[glide.PubSubMsg, Any], None] | None
) -> Glide:
    """A client that connects with its first request: with its making, it would block the loop."""
    channels = {channel} if channel is not None else set[str]()
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
    if url.is_cluster:
        of_cluster = glide.GlideClusterClientConfiguration
        sharded = of_cluster.PubSubChannelModes.Sharded
        return await glide.GlideClusterClient.create(
            of_cluster(
                **options,
                advanced_config=glide.AdvancedGlideClusterClientConfiguration(**advanced),
                pubsub_subscriptions=None
                if channel is None
                else of_cluster.PubSubSubscriptions({sharded: channels}, deliver, None),
            )
        )
    standalone = glide.GlideClientConfiguration
    exact = standalone.PubSubChannelModes.Exact
    return await glide.GlideClient.create(
        standalone(
            **options,
            advanced_config=glide.AdvancedGlideClientConfiguration(**advanced),
            pubsub_subscriptions=None
            if channel is None
            else standalone.PubSubSubscriptions({exact: channels}, deliver, None),
        )
    )


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


def _delivery(on_message: OnMessage) -> Callable[[glide.PubSubMsg, Any], None]:
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
