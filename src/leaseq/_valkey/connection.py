"""What the engine needs of a client, and the one there is: this file and opening.py know whose.

The client is valkey-glide, whose core has threads of its own. What the engine relies on:

- A request whose connection broke fails, and may have been done. It is not sent twice, save that
  in a cluster a node that did not do it may have it sent to another one.
- A request that is made while the connection is down waits for it to come back, up to its timeout.
- The connection and the subscription come back by themselves, however long the server was away.
- A cancelled request is done all the same. Its answer is dropped, and given to nobody else.

And one thing that it does not do: serve two event loops of one process at once. One of them reads
the answers of both, and takes them with it when it ends.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
import glide

from .._core.errors import LeaseqError, ServerError, ServerUnavailableError
from .scripts import slot_key
from .server_errors import refusal
from .url import ValkeyUrl

__all__ = ["Arg", "Client", "GlideConnection", "Reply", "Script", "ServerNotReadyError"]

Arg: TypeAlias = str | bytes

Reply: TypeAlias = "int | bytes | list[Reply] | None"
"""What a script returns: Lua's number, cut to an integer; string; nil and false; table, up to its
first nil. A script is not to return a status, nor an error within a table."""

IN_FLIGHT: Final = 500
"""How many requests wait for their answers at once; more wait for their turn."""

_SIGNALLED: Final = re.compile(r"An error was signalled by the server: - (\w+): ?", re.DOTALL)
_CODED: Final = re.compile(r"([A-Z][A-Z0-9_]*): ?")

_LEAVE_EVERY: Final = 1.0
"""Seconds from one time to the next at which a server is left for its successor."""

_ECHO: Final = ", with args beginning with"
"""What a server does not know it repeats, and that may be the password that came with ``HELLO``."""

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

_REFUSED: Final = re.compile(
    r"connect failed.*[ `]({}): ?(.*)".format("|".join(_NOT_READY)), re.DOTALL
)
"""The same of one that was only to be connected to."""


class ServerNotReadyError(ServerUnavailableError):
    """The server is there, and will do later what it was asked for, or another one does.

    Attributes:
        code: The first word of what it said.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, in_doubt=False)
        self.code = code


@dataclass(frozen=True, slots=True)
class Script:
    """A script in Lua, and the digest by which the server knows it. Made once, at import.

    Attributes:
        source: The Lua.
        changes: Whether it changes anything, and so is numbered and remembered by the server.
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
        is_cluster: Whether the server is one of a cluster.
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
        """What the core's error says of the request."""
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
        return refusal(said)
