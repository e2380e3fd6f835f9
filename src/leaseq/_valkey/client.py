"""The client of a server, or of the node of a cluster that has a broker's keys.

It sends one request at a time, and connects when there is one to send: at first, after a connection
was lost, and when another node has taken over. A request that was sent is never sent again, except
to another node when the first one has answered that it did not do it.

Messages that are published for this process come through a second connection. `listen` reads them,
in a task of the caller's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, cast

import anyio
from anyio import CancelScope, CapacityLimiter, Lock, fail_after, sleep, sleep_until, to_thread

from .._core.errors import LeaseqError, ServerError, ServerUnavailableError, UnusableServerError
from .._core.log import log
from .connection import LOST, Answer, Arg, Connection, Refusal, dial
from .diagnostics import (
    connected_replicas,
    make_context,
    why_not_connected,
    why_unusable,
)
from .scripts import digest_of, library, slot_key
from .server_errors import ServerNotReadyError, error_of
from .spread import slot_of
from .url import ValkeyUrl, place

if TYPE_CHECKING:
    import ssl

Reply: TypeAlias = "int | bytes | list[Reply] | None"
"""The value that a script returns: Lua's number, cut to an integer; string; nil and false; table,
up to its first nil. A script is not to return a status, nor an error within a table."""

OnMessage: TypeAlias = Callable[[bytes], None]

_PAUSE: Final = 0.05
"""Seconds between two tries to connect."""
_SPREAD: Final = 0.5
"""Seconds over which clients come back that lost their connections together."""
_LOOK: Final = 1.0
"""Seconds within which a node must say which node has the keys."""
_LEFT: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})
"""Errors of a server that may have been replaced as primary."""
_LEAVE_EVERY: Final = 1.0
"""Seconds from one time to the next at which a server is left for its successor."""
_AWAY: Final = 60.0
"""Seconds for which scripts are used when the function is missing and this user may not load it."""
_FOR_NOW: Final = frozenset({"MISCONF", "NOREPLICAS", "OOM"})
"""Codes of a server that refuses a function as a whole, where of a script it refuses a command."""
_REFUSED: Final = frozenset({*_FOR_NOW, "NOPERM"})
"""Codes of a server that has not begun with a function."""
_MOST_NODES: Final = 1000
"""Nodes of a cluster that are remembered."""
_PARTS: Final = 12
"""Timeouts of a request that all its parts together may take, and those of its answer."""
_LONGEST_HOST: Final = 255
"""Characters of a host's name."""
_REDIRECTIONS: Final = 5
"""Nodes of a cluster that may send a request on to another one."""


@dataclass(frozen=True)
class Script:
    """A script in Lua. Made once, at import.

    Attributes:
        source: The Lua.
        changes: True: it changes something, and so is numbered and remembered by the server.
        is_function: True: there is a function that does the same.
    """

    source: str = field(repr=False)
    changes: bool = True
    is_function: bool = False

    @cached_property
    def sha(self) -> str:
        """The digest by which the server knows it."""
        return digest_of(self.source)

    @cached_property
    def function(self) -> str:
        """The name of the function."""
        return self._function_and_library[0]

    @property
    def library(self) -> str:
        """The code that defines the function."""
        return self._function_and_library[1]

    @cached_property
    def _function_and_library(self) -> tuple[str, str]:
        return library(self.source)


class Functions:
    """The use of a server's functions: by default none.

    Attributes:
        may_call: True: the user may call functions.
        may_load: True: the user may load the library that is missing.
    """

    def __init__(self) -> None:
        self.may_call = False
        self.may_load = False
        self._away_until = -inf

    @property
    def are_there(self) -> bool:
        """False if they cannot be used, or could not a moment ago."""
        return self.may_call and anyio.current_time() >= self._away_until

    def rest(self) -> None:
        """Do without them for a while."""
        self._away_until = anyio.current_time() + _AWAY


class Client(Protocol):
    """A client of a server, or of a cluster, in one event loop.

    It reconnects by itself. In a cluster all that it asks is about keys of one slot, and goes to
    the node that has these.

    Attributes:
        is_cluster: True: the server is one of a cluster.
        functions: The use of the server's functions.
    """

    is_cluster: bool
    functions: Functions

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        """Run a script by the shortest way that the server has: see `run_script`.

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
        """Run a command, and return its answer; raises as `script`.

        If cancelled, the command may have been done, or may still be.
        """
        ...

    async def pipeline(self, *commands: Sequence[Arg]) -> list[object]:
        """Run commands one directly after the other, and return their answers, errors included.

        They go to one server, and through one connection. Only the first may name keys.

        If cancelled, some or all may have been done, or may still be.

        Raises:
            ServerUnavailableError: there is no answer; ``in_doubt`` says whether some were done.
        """
        ...

    async def listen(self) -> None:
        """Pass on what is published for this process, until cancelled; not by two tasks at a time.

        Subscribes anew whenever the connection is lost. Messages that are published meanwhile are
        lost.
        """
        ...

    async def close(self) -> None:
        """Close the connections; idempotent. Requests under way fail, in doubt."""
        ...


class Node(NamedTuple):
    """The place of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return place(self.host, self.port)


class ServerClient:
    """A `Client` with two connections, one for commands and one for messages.

    Args:
        url: The server, and its user.
        channel: The channel to subscribe to; None: to none.
        on_message: Called with each message.
    """

    def __init__(
        self, url: ValkeyUrl, *, channel: str | None = None, on_message: OnMessage | None = None
    ) -> None:
        self.is_cluster = url.is_cluster
        self.functions = Functions()
        self._url = url
        self._channel = channel
        self._on_message = on_message
        self._turn = Lock(fast_acquire=True)
        self._slot = slot_of(url.prefix)
        self._nodes = [Node(*host) for host in url.hosts]  # any may know who has the keys
        self._owner: Node | None = None  # that has the keys, by the last answer or redirection
        self._connection: Connection | None = None
        self._subscription: Connection | None = None
        self._was_lost = False
        self._left_at = -inf
        self._pause = _PAUSE  # the longest before the next try to subscribe, and when that is
        self._subscribe_at = -inf
        self._threads = CapacityLimiter(1)
        self._closed = False

    # Requests

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        [reply] = await run_script(self, script, (str(len(keys)), *keys, *args))
        if isinstance(reply, LeaseqError):
            raise reply
        return cast("Reply", reply)

    async def command(self, *args: Arg) -> object:
        [answer] = await self.pipeline(args)
        if isinstance(answer, LeaseqError):
            raise answer
        return answer

    async def pipeline(self, *commands: Sequence[Arg]) -> list[object]:
        async with self._turn:
            self._check_open()
            answers = list(map(self._explained, await self._ask(commands)))
            if any(getattr(answer, "code", "") in _LEFT for answer in answers):
                await self._leave()
            return answers

    async def _ask(self, commands: Sequence[Sequence[Arg]]) -> list[Answer]:
        until = anyio.current_time() + self._url.request_timeout
        for _ in range(_REDIRECTIONS):
            connection = await self._reach(until)
            answers = await self._send(connection, commands, until)
            redirection = _redirection(answers[0], connection)
            if redirection is None:
                return answers
            code, node = redirection
            if code == "ASK":  # for this once: the slot is on its way there
                return await self._send_once(node, commands, until)
            await self._hang_up()
            self._owner = node
        where = self._url.address
        raise ServerNotReadyError(
            f"{where}: its nodes keep redirecting to one another", code="MOVED"
        )

    async def _reach(self, until: float) -> Connection:
        """Return the connection; connect, until a deadline, if there is none.

        Raises:
            ServerUnavailableError: that was not possible.
        """
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        problem: Exception | None = None
        pause = _PAUSE
        with CancelScope(deadline=until):
            await self._drop(self._connection)
            if self._was_lost:  # other clients may have lost theirs too: not all at one moment
                self._was_lost = False
                await sleep(random.uniform(0, _SPREAD))
            while True:
                try:
                    self._connection = await self._connect()
                except (TimeoutError, *LOST) as error:
                    problem = error
                except ServerNotReadyError:
                    raise
                except LeaseqError as error:
                    raise ServerUnavailableError(str(error), in_doubt=False) from None
                else:
                    return self._connection
                await sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _SPREAD)
        raise _unreachable(self._url.address, problem)

    async def _send(
        self, connection: Connection, commands: Sequence[Sequence[Arg]], until: float
    ) -> list[Answer]:
        """Send a request; if the answer is lost, raise that it is in doubt.

        While parts of the two come through there is more time, up to a limit: a request that takes
        longer than the timeout would be made again and again, and take as long each time.
        """
        where = self._url.address
        timeout = self._url.request_timeout
        latest = anyio.current_time() + _PARTS * timeout

        def go_on() -> None:
            scope.deadline = min(latest, anyio.current_time() + timeout)

        try:
            with CancelScope(deadline=until) as scope:
                return await connection.ask(*commands, on_part=go_on)
        except LOST:
            await self._drop(connection)
            self._was_lost = True
            self._owner = None
            lost = f"the connection to {where} was lost before the answer came"
            if self._closed:
                lost = "the connection was closed meanwhile"
            raise ServerUnavailableError(lost, in_doubt=True) from None
        await self._drop(connection)
        self._owner = None
        late = f"no answer from {where} within {self._url.request_timeout:g} s"
        raise ServerUnavailableError(late, in_doubt=True)

    async def _send_once(
        self, node: Node, commands: Sequence[Sequence[Arg]], until: float
    ) -> list[Answer]:
        """Send a request to the node that the keys are moving to (`ASKING`), this once."""
        try:
            connection = await self._open(node)
        except (TimeoutError, LeaseqError, *LOST) as error:
            raise ServerUnavailableError(f"{node}: {error}", in_doubt=False) from None
        try:
            _, *answers = await self._send(connection, [("ASKING",), *commands], until)
        finally:
            await connection.hang_up()
        return answers

    def _explained(self, answer: Answer) -> object:
        """Return an answer, or the exception for an error reply."""
        if isinstance(answer, Refusal):
            return error_of(str(answer), self._url.address)
        return answer

    # The way

    async def _connect(self) -> Connection:
        """Connect to the server, or to the node that has the keys."""
        if not self.is_cluster:
            return await self._open(self._nodes[0])
        owner = self._owner or await self._find_owner()
        self._owner = None  # if it is not there, the others are asked the next time
        connection = await self._open(owner)
        self._owner = owner
        return connection

    async def _find_owner(self) -> Node:
        """Ask the nodes of a cluster, one after the other, which of them has the keys."""
        problem: Exception = ServerNotReadyError(
            f"{self._url.address}: no node has these keys", code="CLUSTERDOWN"
        )
        for node in random.sample(self._nodes, len(self._nodes)):
            try:
                with fail_after(_LOOK):
                    connection = await self._open(node)
                    try:
                        [slots] = await connection.ask(("CLUSTER", "SLOTS"))
                    finally:
                        await connection.hang_up()
            except (TimeoutError, LeaseqError, *LOST) as error:
                problem = error
                continue
            if isinstance(slots, Refusal):
                problem = error_of(str(slots), str(node))
                continue
            owner = self._read_slots(slots, node)
            if owner is not None:
                return owner
        raise problem

    def _read_slots(self, slots: Answer, asked: Node) -> Node | None:
        """Return the owner of the keys, by a node's answer, and remember all that it names."""
        owner: Node | None = None
        found: dict[Node, None] = {}
        for first, last, *places in _ranges(slots):
            nodes = [_node(place, asked.host) for place in places]
            if len(found) < _MOST_NODES:
                found.update(dict.fromkeys(node for node in nodes if node is not None))
            if nodes and first <= self._slot <= last:
                owner = nodes[0]  # the primary; the others are its replicas
        if found:
            self._nodes = [*dict.fromkeys([*found, *(Node(*host) for host in self._url.hosts)])]
        return owner

    async def _open(self, node: Node) -> Connection:
        """Connect to a server and authenticate.

        Raises:
            TimeoutError, LOST: it is not there.
            ServerError: it does not let this user in.
            ServerNotReadyError: it is not ready.
            UnusableServerError: the files of the certificates are not what they should be.
        """
        url = self._url
        context = await self._context()
        user = () if url.password is None else ("AUTH", url.username or "default", url.password)
        commands: list[Sequence[Arg]] = [("HELLO", "3", *user, "SETNAME", "leaseq")]
        if url.database:
            commands.append(("SELECT", str(url.database)))
        with fail_after(url.connect_timeout):
            connection = await dial(*node, context)
            try:
                hello, *selected = map(self._explained, await connection.ask(*commands))
                if isinstance(hello, LeaseqError):
                    raise hello
                connection.said = _texts(hello)
                for answer in selected:
                    if isinstance(answer, LeaseqError):
                        is_right = getattr(answer, "code", "") == "NOPERM"
                        raise UnusableServerError(
                            f"{node} does not let this user in to database {url.database}: "
                            f"{answer if is_right else f'does it have one? ({answer})'}"
                        )
                self._check_open()  # it may have been closed meanwhile
            except BaseException:
                await connection.hang_up()
                raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise ServerUnavailableError("the connection is closed", in_doubt=False)

    async def _context(self) -> ssl.SSLContext | None:
        """Read the certificates anew: they may have been renewed."""
        if not self._url.tls:
            return None
        # A limiter of its own: the usual threads may all wait for this connection.
        return await to_thread.run_sync(make_context, self._url, limiter=self._threads)

    async def _drop(self, connection: Connection | None) -> None:
        """Close a connection; the next request makes another one."""
        if connection is None:
            return
        if connection is self._connection:
            self._connection = None
        if connection is self._subscription:
            self._subscription = None
        await connection.hang_up()

    async def _hang_up(self) -> None:
        for connection in (self._connection, self._subscription):
            await self._drop(connection)

    async def _leave(self) -> None:
        """Close the connections to a server that is no longer the primary.

        The same name may lead to the new one.
        """
        now = anyio.current_time()
        if now - self._left_at >= _LEAVE_EVERY:
            self._left_at = now
            self._owner = None
            await self._hang_up()

    # Opening and closing

    async def open(self, *, is_known: bool = False) -> None:
        """Connect for the first time, see that the server can hold queues, and subscribe.

        Raises:
            UnusableServerError: there is no such server; the message says why.
            ServerUnavailableError: the server, which is known to be one, is not there now.
        """
        url = self._url
        context = await self._context()
        try:
            info = await self._look(anyio.current_time() + url.connect_timeout)
            if (reason := why_unusable(info)) is not None:
                raise UnusableServerError(f"{url.address} cannot hold queues: {reason}")
            if (replicas := connected_replicas(info)) < url.wait_replicas:
                log(
                    logging.WARNING,
                    "%s has %d of the %d replicas that are to be waited for: calls wait until it "
                    "has them",
                    url.address,
                    replicas,
                    url.wait_replicas,
                )
            if self._channel is not None:
                self._subscription = await self._subscribe_first(self._channel)
        except (TimeoutError, ServerError, ServerUnavailableError, *LOST) as error:
            if not is_known or isinstance(error, ServerError):
                raise UnusableServerError(await why_not_connected(url, error, context)) from None
            if isinstance(error, ServerUnavailableError):
                raise
            raise _unreachable(url.address, error) from None

    async def _look(self, until: float) -> str:
        """Connect to the server that has the keys, and return its answer to ``INFO``.

        Tries again until some time if the connection breaks, or while the server is not ready.
        """
        while True:
            try:
                self._connection = await self._open_first()
                said = self._connection.said
                if said.get("mode") == "sentinel":
                    raise UnusableServerError(
                        f"{self._url.address} is a Sentinel, which is not supported: name the "
                        "primary, or the name that leads to it, or take a cluster"
                    )
                if said.get("mode") == "cluster":
                    self.is_cluster = True
                    await self._hang_up()
                    self._connection = await self._connect()
                    return await self._info(self._connection)
                if len(self._url.hosts) > 1:
                    raise UnusableServerError(
                        f"{self._url.address} are no cluster, as several hosts in a URL are: name "
                        "one host"
                    )
                if said.get("role") in ("replica", "slave"):
                    raise UnusableServerError(
                        f"{self._url.address} is the replica of another server: name that one"
                    )
                return await self._info(self._connection)
            except (anyio.EndOfStream, anyio.BrokenResourceError, ServerUnavailableError):
                await self._hang_up()
                if anyio.current_time() >= until:
                    raise
            await sleep(_PAUSE)

    async def _open_first(self) -> Connection:
        """Connect to the first host of the URL that is there."""
        *others, last = self._nodes
        for node in others:
            with suppress(TimeoutError, LeaseqError, *LOST):
                return await self._open(node)
        return await self._open(last)

    async def _info(self, connection: Connection) -> str:
        with fail_after(self._url.connect_timeout):
            [answer] = await connection.ask(("INFO",))
        info = self._explained(answer)
        if isinstance(info, ServerError):  # it is hidden, from this user or from all
            log(
                logging.WARNING,
                "%s does not show INFO, so that nothing is known of its maxmemory-policy: with any "
                "but noeviction it would drop queues when it is full (%s)",
                self._url.address,
                info,
            )
            return ""
        if isinstance(info, LeaseqError):
            raise info
        return str(info, errors="replace") if isinstance(info, bytes) else str(info)

    async def close(self) -> None:
        self._closed = True
        await self._hang_up()

    # Messages

    async def listen(self) -> None:
        while self._channel is not None and not self._closed:
            subscription = self._subscription
            try:
                if subscription is None or not subscription.is_usable:
                    await self._drop(subscription)
                    subscription = None
                    await sleep_until(self._subscribe_at)
                    subscription = await self._subscribe_again(self._channel)
                await self._hear(subscription)
            except (TimeoutError, LeaseqError, Refusal, *LOST):
                await self._drop(subscription)
                lost = None if subscription is None else Node(subscription.host, subscription.port)
                if lost in (None, self._owner):  # or a redirection has named another one meanwhile
                    self._owner = None

    async def _subscribe_again(self, channel: str) -> Connection:
        """Subscribe, after a connection was lost.

        Without a `run` the listening call is cancelled often. So a try is finished even then,
        within a second; and if it fails, the next one is later.
        """
        self._subscribe_at = anyio.current_time() + random.uniform(0.5, 1.5) * self._pause
        self._pause = min(2 * self._pause, _SPREAD)
        with fail_after(_LOOK, shield=True):
            self._subscription = await self._subscribe(channel)
        self._pause = _PAUSE
        return self._subscription

    async def _subscribe(self, channel: str) -> Connection:
        """Subscribe, in a cluster at the node that has the broker's keys."""
        connection = await self._connect()
        command = "SSUBSCRIBE" if self.is_cluster else "SUBSCRIBE"
        try:
            with fail_after(self._url.connect_timeout):
                await connection.tell(command, channel)
                await connection.hear()
            self._check_open()
        except Refusal as error:
            await connection.hang_up()
            raise error_of(str(error), self._url.address) from None
        except BaseException:
            await connection.hang_up()
            raise
        return connection

    async def _subscribe_first(self, channel: str) -> Connection:
        """Subscribe, and say clearly why that is not possible."""
        where = self._url.address
        try:
            return await self._subscribe(channel)
        except TimeoutError:
            raise UnusableServerError(
                f"{where} has not confirmed a subscription for {self._url.connect_timeout:g} s"
            ) from None
        except ServerError as error:
            if error.code != "NOPERM":
                raise
            command = "ssubscribe" if self.is_cluster else "subscribe"
            raise UnusableServerError(
                f"{where} does not let this user subscribe to {channel}: its ACL lacks "
                f"+{command}, or &{slot_key(self._url.prefix)}:p:*"
            ) from None

    async def _hear(self, subscription: Connection) -> None:
        """Pass on what comes, until the subscription is lost, which raises."""
        while True:
            message = await subscription.hear()
            if len(message) < 3:
                continue  # no server sends such a one
            kind, *_, payload = message
            if kind in (b"message", b"smessage"):
                self._pass_on(payload)
            elif kind in (b"unsubscribe", b"sunsubscribe"):  # the keys have gone to another node
                raise anyio.EndOfStream

    def _pass_on(self, payload: bytes) -> None:
        try:
            if self._on_message is not None:
                self._on_message(payload)
        except Exception as error:
            log(logging.ERROR, "handling a message from the server failed", error=error)


async def load_function(client: Client, script: Script) -> bool:
    """Give the server the function of a script, unless it has it; False: this user may not.

    If cancelled, it may have been done, or may still be.

    Raises:
        ServerUnavailableError: there is no answer.
    """
    may_load = client.functions.may_call and client.functions.may_load
    if may_load:
        await client.pipeline(("FUNCTION", "LOAD", script.library))
    return may_load


async def run_script(
    client: Client, script: Script, operands: Sequence[Arg], *others: Sequence[Arg]
) -> list[object]:
    """Run a script, and commands directly after it; return their answers, errors included.

    It is run as a function, for which the server defines nothing anew, or by its digest; or in full
    if the server knows neither. The server forgets functions and scripts, and a function is refused
    as a whole where a script could still do the operations that need no memory. Nothing is done by
    a call that is refused.

    If cancelled, some or all may have been done, or may still be.

    Args:
        client: The connection.
        script: The script.
        operands: The number of its keys, these, and its arguments.
        others: The commands.

    Raises:
        ServerUnavailableError: there is no answer; ``in_doubt`` says whether some were done.
    """
    if script.is_function and client.functions.are_there:
        call = ("FCALL", script.function, *operands)
        answers = await client.pipeline(call, *others)
        if _is_unknown(answers[0]) and await load_function(client, script):
            answers = await client.pipeline(call, *others)
        code = getattr(answers[0], "code", "")
        is_refused = code in _REFUSED or _is_unknown(answers[0])
        if not is_refused:
            return answers
        if code not in _FOR_NOW:
            client.functions.rest()
    answers = await client.pipeline(("EVALSHA", script.sha, *operands), *others)
    if getattr(answers[0], "code", "") == "NOSCRIPT":
        answers = await client.pipeline(("EVAL", script.source, *operands), *others)
    return answers


def _is_unknown(answer: object) -> bool:
    """Return True if an answer says that there is no such function, or no functions at all."""
    return isinstance(answer, ServerError) and str(answer).lower().startswith(
        ("err function not found", "err unknown command")
    )


async def open_client(
    url: ValkeyUrl,
    *,
    channel: str | None = None,
    on_message: OnMessage | None = None,
    is_known: bool = False,
) -> Client:
    """Connect to a server, or to its whole cluster, and see that it can hold queues.

    If cancelled, there is no connection.

    Args:
        url: The server, and its user.
        channel: The channel to subscribe to, in a cluster at the node that has the broker's keys;
            the client is subscribed when it is returned.
        on_message: Called in `listen` with what is published there. Messages are lost while the
            connection is.
        is_known: True: another client has found the server, or its cluster.

    Raises:
        UnusableServerError: there is no such server, it does not let this user in, or it cannot
            hold queues: it is too old, or would evict them.
        ServerUnavailableError: it is known, and not there now.
    """
    client = ServerClient(url, channel=channel, on_message=on_message)
    try:
        await client.open(is_known=is_known)
    except BaseException:
        await client.close()
        raise
    return client


def _texts(hello: object) -> dict[str, str]:
    """Return what a server has said of itself in words; what cannot be read is left out."""
    pairs = hello.items() if isinstance(hello, dict) else ()
    return {
        str(name, errors="replace"): str(value, errors="replace")
        for name, value in pairs
        if isinstance(name, bytes) and isinstance(value, bytes)
    }


def _ranges(slots: object) -> list[list[Any]]:
    """Return the ranges in an answer to ``CLUSTER SLOTS``; what is not one is left out."""
    entries = slots if isinstance(slots, list) else []
    return [
        entry
        for entry in entries[: 1 << 14]
        if isinstance(entry, list) and [type(each) for each in entry[:2]] == [int, int]
    ]


def _node(place: object, otherwise: str) -> Node | None:
    """Return the node at a place in such an answer; None: it is not one."""
    match place:
        case [bytes() | None as host, int() as port, *_] if 0 < port < 1 << 16:
            if not host or host == b"?":
                return Node(otherwise, port)
            name = str(host, errors="replace")
            return Node(name, port) if len(name) <= _LONGEST_HOST else None
    return None


def _unreachable(address: str, problem: Exception | None) -> ServerUnavailableError:
    """Return the error for a server that is not there, by the last problem of connecting to it."""
    said = f": {problem}" if str(problem or "") else ""
    return ServerUnavailableError(f"{address} cannot be reached{said}", in_doubt=False)


def _redirection(answer: Answer, connection: Connection) -> tuple[str, Node] | None:
    """Return the code and the node of a redirection; None: the answer is not one.

    A node that redirects has done nothing.
    """
    if not isinstance(answer, Refusal):
        return None
    code, *words = str(answer).split() or [""]
    if code not in ("MOVED", "ASK") or len(words) != 2:
        return None
    host, _, port = words[1].rpartition(":")
    if not port.isdecimal() or not 0 < int(port[:6]) < 1 << 16 or len(host) > _LONGEST_HOST:
        return None
    return code, Node(host or connection.host, int(port))
