"""Connections to a server, or to a whole cluster. No other file imports the client library.

The client is valkey-glide, whose core has threads of its own. The store relies on this:

- A request whose connection broke fails, and may have been done. It is not sent twice, save that
  in a cluster a node that did not do it may have it sent to another one.
- A request that is made while the connection is down waits for it to come back, up to its timeout.
- The connection and the subscription come back by themselves, however long the server was away.
- A cancelled request is done all the same. Its answer is dropped.

It cannot serve two event loops of one process at the same time. One of them reads
the answers of both, and takes them with it when it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
import glide
from anyio import to_thread
from anyio.lowlevel import current_token

from .._core.errors import (
    LeaseqError,
    ServerError,
    ServerUnavailableError,
    UnusableServerError,
)
from .._core.log import log
from .._core.texts import shown
from .diagnostics import (
    connected_replicas,
    make_context,
    of_cluster,
    reasons_of,
    why_not_connected,
    why_unusable,
)
from .scripts import slot_key
from .server_errors import server_error
from .url import ValkeyUrl

Arg: TypeAlias = str | bytes

Reply: TypeAlias = "int | bytes | list[Reply] | None"
"""The value that a script returns: Lua's number, cut to an integer; string; nil and false; table,
up to its first nil. A script is not to return a status, nor an error within a table."""

IN_FLIGHT: Final = 500
"""Requests that may wait for their answers at the same time; more wait for their turn."""

_SIGNALLED: Final = re.compile(r"An error was signalled by the server: - (\w+): ?", re.DOTALL)
_CODED: Final = re.compile(r"([A-Z][A-Z0-9_]*): ?")

_LEAVE_EVERY: Final = 1.0
"""Seconds from one time to the next at which a server is left for its successor."""

_ECHO: Final = ", with args beginning with"
"""The words before a server's echo of an unknown command, which may have a password in it."""

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
"""The server's own codes for the errors to which the core gives other names."""

_NOT_READY: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN"}
)
"""Codes of a server that will do the request later, or whose request another one does."""

_REFUSED: Final = re.compile(
    r"connect failed.*[ `]({}): ?(.*)".format("|".join(_NOT_READY)), re.DOTALL
)
"""The same codes in the refusal of a connection."""


class ServerNotReadyError(ServerUnavailableError):
    """The server answers, but is not ready: it or another server will do the request later.

    Attributes:
        code: The first word of its answer.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, in_doubt=False)
        self.code = code


@dataclass(frozen=True, slots=True)
class Script:
    """A script in Lua, and the digest by which the server knows it. Made once, at import.

    Attributes:
        source: The Lua.
        changes: True if it changes anything, and so is numbered and remembered by the server.
    """

    source: str = field(repr=False)
    changes: bool = True
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())


class Client(Protocol):
    """A connection to a server, or to a cluster of them, in one event loop.

    It reconnects by itself. In a cluster all that it asks is about keys of one slot, and goes to
    the node that has these.

    Attributes:
        is_cluster: True if the server is one of a cluster.
    """

    is_cluster: bool

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

    async def pipeline(self, *commands: Sequence[Arg]) -> list[object]:
        """Run commands one directly after the other, and return their answers, errors included.

        They go to one server, and through one connection; but in a cluster, one that is about keys
        of another node may be sent there after the others.

        If cancelled, some or all may have been done, or may still be.

        Raises:
            ServerUnavailableError: there is no answer; ``in_doubt`` says whether some were done.
        """
        ...

    async def close(self) -> None:
        """Close the connections; idempotent. Requests under way fail, in doubt."""
        ...


class GlideConnection:
    """A `Client` by valkey-glide."""

    def __init__(
        self, client: glide.GlideClient | glide.GlideClusterClient, url: ValkeyUrl
    ) -> None:
        self._client = client
        self._url = url
        self._turn = anyio.Semaphore(IN_FLIGHT, fast_acquire=True)
        self._closed = False
        self._left_at = -inf
        self.is_cluster = isinstance(client, glide.GlideClusterClient)
        self._owner = glide.SlotKeyRoute(glide.SlotType.PRIMARY, slot_key(url.prefix))

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
            self._check_open()
            client = self._client
            try:
                if isinstance(client, glide.GlideClient):
                    return await client.custom_command(list(args))
                return await client.custom_command(list(args), self._owner)
            except glide.GlideError as error:
                explained = self._explained(error)
                await self._leave_a_replica(explained)
                raise explained from None

    async def pipeline(self, *commands: Sequence[Arg]) -> list[object]:
        async with self._turn:
            self._check_open()
            try:
                answers = await self._run_pipeline(commands)
            except glide.GlideError as error:
                raise self._explained(error) from None
        explained = [
            self._explained(answer) if isinstance(answer, glide.GlideError) else answer
            for answer in answers or ()
        ]
        for answer in explained:
            await self._leave_a_replica(answer)
        return explained

    async def _leave_a_replica(self, answer: object) -> None:
        """Hang up on a server that is a replica by now: its name may lead to its successor."""
        if not isinstance(answer, ServerNotReadyError) or answer.code != "READONLY":
            return
        now = anyio.current_time()
        if not self.is_cluster and now - self._left_at > _LEAVE_EVERY:
            self._left_at = now
            with suppress(glide.GlideError):
                await self._client.custom_command(["QUIT"])  # the core connects anew by itself

    async def _run_pipeline(self, commands: Sequence[Sequence[Arg]]) -> list[Any] | None:
        client = self._client
        if isinstance(client, glide.GlideClient):
            batch = glide.Batch(is_atomic=False)
            for command in commands:
                batch.custom_command(list(command))
            return await client.exec(batch, raise_on_error=False)
        of_cluster = glide.ClusterBatch(is_atomic=False)
        for command in commands:
            of_cluster.custom_command(list(command))
        options = glide.ClusterBatchOptions(route=self._owner)
        return await client.exec(of_cluster, raise_on_error=False, options=options)

    def _check_open(self) -> None:
        if self._closed:
            raise ServerUnavailableError("the connection is closed", in_doubt=False)

    async def subscribe(self, channel: str) -> bool:
        """Subscribe, in a cluster on the shard that has the broker's keys. False: one may not."""
        milliseconds = round(self._url.connect_timeout * 1000)
        try:
            if isinstance(self._client, glide.GlideClient):
                await self._client.subscribe({channel}, milliseconds)
            else:
                await self._client.ssubscribe({channel}, milliseconds)
        except glide.TimeoutError:
            return False
        except glide.GlideError as error:
            raise self._explained(error) from None
        return True

    async def close(self) -> None:
        self._closed = True
        await self._client.close()

    def _explained(self, error: glide.GlideError) -> LeaseqError:
        """Return the error for one of the core's, which has its reason in its text alone."""
        text = str(error).strip().partition(_ECHO)[0]
        where = self._url.address
        if isinstance(error, glide.TimeoutError):
            within = f"no answer from {where} within {self._url.request_timeout:g} s"
            return ServerUnavailableError(within, in_doubt=True)
        if isinstance(error, glide.ConnectionError):
            lost = f"the connection to {where} was lost before the answer came"
            return ServerUnavailableError(lost, in_doubt=True)
        if isinstance(error, glide.ClosingError):
            return ServerUnavailableError("the connection was closed meanwhile", in_doubt=True)
        if refused := _REFUSED.search(text):
            said = f"{refused[1]} {refused[2]}"
            return ServerNotReadyError(f"{where} is not ready: {said}", code=refused[1])
        signalled = _SIGNALLED.match(text)
        coded = signalled or _CODED.match(text)
        if coded is None:
            # Refused by the core itself, if it says so; whatever else it may say is in doubt.
            never_sent = text.endswith("- ClientError") or "connect failed" in text
            return ServerUnavailableError(f"{where}: {text}", in_doubt=not never_sent)
        code = _CODES.get(coded[1], coded[1])
        said = f"{code} {text[coded.end() :]}"
        if code in _NOT_READY:
            return ServerNotReadyError(f"{where} is not ready: {said}", code=code)
        return server_error(said)


# Opening


OnMessage: TypeAlias = Callable[[bytes], None]
_Deliver: TypeAlias = Callable[[glide.PubSubMsg, Any], None]

_GLIDE_IN_FLIGHT: Final = 20_000
"""Requests in flight from which the core refuses more. Cancelled ones count until answered."""

_BACKOFF: Final = glide.BackoffStrategy(
    num_of_retries=3, factor=50, exponent_base=2, jitter_percent=50
)
"""Tries to reconnect every 0.6 s at the latest; when a server is back, clients come spread."""

_MAY: Final = "return redis.acl_check_cmd(ARGV[1], ARGV[2]) and 1 or 0"
"""Returns 1 if the user may give a command that is about a channel."""

_PAUSE: Final = 0.05
"""Seconds between two tries to connect."""

_RESUBSCRIBE_MS: Final = 250
"""Time between two checks of the core's subscription, which asks no server for that."""


async def open_client(
    url: ValkeyUrl, *, channel: str | None = None, on_message: OnMessage | None = None
) -> Client:
    """Connect to a server, or to its whole cluster, and see that it can hold queues.

    If cancelled, there is no connection.

    Args:
        url: The server, and its user.
        channel: The channel to subscribe to, in a cluster on the shard that has the broker's keys;
            the client is subscribed when it is returned.
        on_message: Called in the event loop's thread with the messages that are published there.
            They are lost while the connection is.

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
    """Connect, check that the server can hold queues, and subscribe. False: it is in a cluster.

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
        with anyio.CancelScope(shield=True):
            await connection.close()
        raise
    return True


async def _info(connection: GlideConnection, timeout: float) -> str | None:
    """Return the server's answer to ``INFO``; None if it is a replica.

    Asks again for ``timeout`` seconds if the connection breaks, or while the server is not ready.
    """
    until = anyio.current_time() + timeout
    while True:
        try:
            return cast("bytes", await connection.command("INFO")).decode(errors="replace")
        except ServerUnavailableError as error:
            if "replica" in reasons_of(error) and not connection.is_cluster:
                return None
            may_answer = error.in_doubt or isinstance(error, ServerNotReadyError)
            if not may_answer or anyio.current_time() >= until:
                raise
        await anyio.sleep(_PAUSE)


async def _why_not_subscribed(connection: GlideConnection, url: ValkeyUrl, channel: str) -> str:
    """Return the reason for which a server has not confirmed a subscription."""
    command = "ssubscribe" if connection.is_cluster else "subscribe"
    if await connection.command("EVAL", _MAY, "0", command, channel):
        return f"{url.address} has not confirmed a subscription for {url.connect_timeout:g} s"
    return (
        f"{url.address} does not let this user subscribe to {channel}: its ACL lacks "
        f"+{command}, or &{slot_key(url.prefix)}:p:*"
    )


def _check(info: str, url: ValkeyUrl) -> None:
    """Raise if a server cannot hold queues, by its answer to ``INFO``."""
    if (reason := why_unusable(info)) is not None:
        raise UnusableServerError(f"{url.address} cannot hold queues: {reason}")
    if (replicas := connected_replicas(info)) < url.wait_replicas:
        log(
            logging.WARNING,
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
    """Return the options of both kinds of clients, and those that count as advanced."""
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
    """The one event loop of the process that may have connections, until it has ended."""

    def __init__(self) -> None:
        self._home: object = None
        self._lock = threading.Lock()

    def settle(self) -> None:
        here = current_token().native_token
        with self._lock:
            if here is not self._home and not _has_ended(self._home):
                raise RuntimeError(
                    "another event loop of this process is connected to a server, "
                    f"{shown(self._home)}: there can be one at a time, until it has ended"
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
    """Return a callback that calls ``on_message`` in this thread, wherever it is called itself.

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
        except Exception as error:
            log(logging.ERROR, "a message from the server was not dealt with", error=error)

    def deliver(message: glide.PubSubMsg, _context: Any) -> None:
        text = message.message
        payload = text.encode() if isinstance(text, str) else text
        if threading.get_ident() == home:
            call(payload)
            return
        try:
            call_soon(call, payload)
        except RuntimeError:  # that event loop has ended, and no task waits in it
            log(logging.DEBUG, "a message came after its event loop had ended")

    return deliver
