"""A store on a Valkey or Redis server: an exchange is one call of a script."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final

import anyio
from anyio import CancelScope, move_on_after

from .._core.errors import (
    LeaseqError,
    ServerError,
    ServerUnavailableError,
    UnusableServerError,
)
from .._core.log import log
from .._core.messages import Cancellation
from .._remote import protocol
from .._remote.checks import check_fields
from .._remote.encoding import decode_event, read_key, read_text
from .._remote.protocol import Batch, OnEvent, Operation, QueueRef, Reply
from .client import Client, Script, load_function, open_client
from .operations import OPERATIONS, Word, unreadable
from .permissions import Permissions, commands_to_check
from .replication import ReplicatedClient
from .scripts import ADMIN, COMMANDS, HANDSHAKE, QUERIES, broker_keys, channel, queue_keys
from .server_errors import server_error
from .times import read_seconds
from .url import ValkeyUrl

_SCRIPTS: Final = {
    "commands": Script(COMMANDS, is_function=True),
    "queries": Script(QUERIES, changes=False),
    "admin": Script(ADMIN),
}
_HANDSHAKE: Final = Script(HANDSHAKE, changes=False)
_QUEUES: Final = 1024
"""Queues of which the names of their keys are remembered."""
_LEAVING: Final = 0.5
"""Seconds for which a process that ends tries to take away what is kept of it."""
_PAUSE: Final = 0.05
"""Seconds between two tries to do the handshake."""


class ScriptCall:
    """The queues of a batch, numbered, and the batch as a script takes it.

    A queue is there once, whatever its references know of its queue of dead letters: one that came
    twice would be loaded and stored twice by the script, and lose what was done first.
    """

    __slots__ = ("_asked", "_batch", "_letters", "_numbers", "_unwritten")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._asked: list[Operation[Any]] = []
        self._unwritten: dict[int, Exception] = {}  # for operations that cannot be written down
        self._numbers: dict[str, int] = {}
        self._letters: list[int] = []  # the number of each queue's dead letters; 0: not known

    def number(self, queue: QueueRef) -> int:
        """Return the queue's number in the call, from 1."""
        number = self._numbers.get(queue.name)
        if number is None:
            number = self._numbers[queue.name] = len(self._numbers) + 1
            self._letters.append(0)
        if queue.letters is not None and not self._letters[number - 1]:
            self._letters[number - 1] = self.number(queue.letters)
        return number

    @property
    def names(self) -> list[str]:
        """The names of the queues, in the order of their numbers."""
        return list(self._numbers)

    def encode(self, offset: int, process: str) -> list[Word]:
        """Return the arguments of the script.

        Args:
            offset: Microseconds by which the server's clock is put forward.
            process: The name under which the server knows this process.
        """
        words: list[Word] = []
        for index, operation in enumerate(self._batch.operations):
            end = len(words)
            try:
                OPERATIONS[type(operation)].write(operation, words, self)
            except Exception as error:  # the others are asked for all the same
                del words[end:]
                self._unwritten[index] = error
            else:
                self._asked.append(operation)
        return [
            b"%d" % offset,
            b"%d" % random.getrandbits(31),  # a seed for the draws of backoffs
            process,
            b"%d" % self._batch.number,
            b"%d" % len(self._letters),
            *[b"%d" % number for number in self._letters],
            b"%d" % len(self._asked),
            *words,
        ]

    def decode(self, raw: Any) -> Reply:
        """Return the reply that the script gave.

        What cannot be read of it is in doubt, and lost: the same reply would come again.

        Raises:
            ServerError: the script did nothing, because a later batch was done before.
        """
        if raw[0] == b"old":
            raise ServerError("OLD a later call of this process was done before", code="OLD")
        try:
            _, due, events, *raws = raw
            pairs = zip(self._asked, raws, strict=True)
            answers: list[object] = [OPERATIONS[type(each)].read(raw) for each, raw in pairs]
            left = dict(zip(self._numbers, map(read_seconds, due), strict=True))
            happened = self._decode_events(events)
        except Exception as error:
            answers = [unreadable("a batch", error) for _ in self._asked]
            left, happened = {}, []
        for index, unwritten in self._unwritten.items():
            answers.insert(index, unwritten)
        return Reply(answers, left, happened)

    def _decode_events(self, events: Any) -> list[protocol.ItemDied | protocol.LeaseEnded]:
        names = self.names
        return [_EVENTS[event[1]](names[event[0] - 1], *event[2:]) for event in events]


def _died(
    name: str, key: bytes, token: int, reason: bytes, fate: bytes
) -> protocol.ItemDied | protocol.LeaseEnded:
    return protocol.ItemDied(
        name,
        read_key(key),
        int(token) or None,
        read_text(reason),
        fate.decode(),  # type: ignore[arg-type]  # one of three words
    )


def _damaged(name: str, _key: bytes, token: int) -> protocol.ItemDied | protocol.LeaseEnded:
    return protocol.LeaseEnded(name, int(token), "damaged")


def _ended(name: str, _key: bytes, token: int) -> protocol.ItemDied | protocol.LeaseEnded:
    return protocol.LeaseEnded(name, int(token))


def _cancelled(
    name: str, _key: bytes, token: int, reason: bytes
) -> protocol.ItemDied | protocol.LeaseEnded:
    return protocol.LeaseEnded(name, int(token), Cancellation(read_text(reason)))


_EVENTS: Final[Mapping[bytes, Callable[..., protocol.ItemDied | protocol.LeaseEnded]]] = {
    b"cancelled": _cancelled,
    b"damaged": _damaged,
    b"dead": _died,
    b"expired": _ended,
    b"lost": _ended,
}


# The store


class ValkeyStore:
    """A `Store` on a server. Made by `open_store`.

    Args:
        client: The connection.
        prefix: The prefix of the broker's keys.
        process: The name under which the server knows this process.
        permissions: The permissions of the connection's user.

    Attributes:
        offset: Microseconds by which the server's clock is put forward, for tests.
    """

    def __init__(self, client: Client, prefix: str, process: str, permissions: Permissions) -> None:
        self._client = client
        self._process = process
        self._permissions = permissions
        self._broker_keys = broker_keys(prefix)
        self._keys_of = lru_cache(_QUEUES)(partial(queue_keys, prefix))
        self._at_rest = True  # nothing that was asked for can still arrive
        self.offset = 0

    async def exchange(self, batch: Batch) -> Reply:
        """Do a batch by one call of a script. See `Store.exchange`."""
        call = ScriptCall(batch)
        words = call.encode(self.offset, self._process)
        keys = [*self._broker_keys]
        for name in call.names:
            keys += self._keys_of(name)
        script = _SCRIPTS[batch.operations[0].family]
        self._at_rest = False
        reply = await self._client.script(script, keys, words)
        self._at_rest = True
        return call.decode(reply)

    def check(self, operation: Operation[Any]) -> None:
        """Raise if the server would refuse an operation. O(1), for a put O(items).

        Raises:
            ServerError: the user may not ask for it; the code is ``"NOPERM"``.
            TypeError: a key or a name is of another type than these can be.
            ValueError: a priority or an option is out of range.
        """
        self._permissions.check(type(operation))
        check_fields(operation)

    async def listen(self) -> None:
        """Hear what is published for this process. See `Store.listen`."""
        await self._client.listen()

    async def close(self) -> None:
        """Close the connection; idempotent. Calls under way fail, in doubt.

        What the server keeps of this process is for calls that are sent again; where there can be
        none it is taken away.
        """
        try:
            if self._at_rest:
                self._at_rest = False
                with move_on_after(_LEAVING), suppress(LeaseqError):
                    await self._client.command("HDEL", self._broker_keys[0], self._process)
        finally:
            await self._client.close()


async def open_store(
    url: ValkeyUrl, process: str, on_event: OnEvent, *, is_known: bool = False
) -> ValkeyStore:
    """Connect to a server, and ask for the permissions of its user.

    If cancelled, there is no connection.

    Args:
        url: The server, and its user.
        process: This process's name among those of the broker.
        on_event: Called in the event loop's thread with events that others publish for this
            process.
        is_known: True: another client has found the server, or its cluster.

    Raises:
        UnusableServerError: there is no such server, it cannot hold queues, or it does not let this
            user do what every user has to.
        ServerUnavailableError: it went away meanwhile.
    """

    def hear(message: bytes) -> None:
        try:
            event = decode_event(message)
        except ValueError as error:
            log(logging.WARNING, "a message from the server is ignored: %s", error)
        else:
            on_event(event)

    client = await open_client(
        url, channel=channel(url.prefix, process), on_message=hear, is_known=is_known
    )
    if url.wait_replicas:
        client = ReplicatedClient(client, url.wait_replicas, url.request_timeout)
    known_as = "!" * client.is_cluster + process  # one that listens on the shard
    try:
        permissions = await _shake_hands(client, url, known_as)
        client.functions.may_call = permissions.may_call_functions
        client.functions.may_load = permissions.may_load_functions
        with suppress(ServerUnavailableError):  # then it is loaded when it is called
            await load_function(client, _SCRIPTS["commands"])
    except BaseException:
        with CancelScope(shield=True):
            await client.close()
        raise
    return ValkeyStore(client, url.prefix, known_as, permissions)


async def _shake_hands(client: Client, url: ValkeyUrl, process: str) -> Permissions:
    """Make this process known to the server, and return the permissions of its user."""
    commands = commands_to_check(is_cluster=client.is_cluster, waits=url.wait_replicas > 0)
    words = ["0", "0", process, "0", "0", "1", "hello", str(len(commands)), *commands]
    until = anyio.current_time() + url.connect_timeout
    while True:
        try:
            reply: Any = await client.script(_HANDSHAKE, broker_keys(url.prefix), words)
            break
        except ServerError as error:
            if error.code == "NEWER":
                raise UnusableServerError(
                    f"{url.address}, prefix {url.prefix}: {error}, or take another prefix"
                ) from None
            raise UnusableServerError(
                f"{url.address} refuses what leaseq must ask at first: {error}"
            ) from None
        except ServerUnavailableError:
            if anyio.current_time() >= until:
                raise
        await anyio.sleep(_PAUSE)
    status, *lacking = reply[3]
    if status != b"ok":
        raise server_error(read_text(lacking[0]))
    names = [read_text(name) for name in lacking]
    absent = [name[1:] for name in names if name.startswith("?")]
    if unknown := Permissions(absent).missing:
        raise UnusableServerError(
            f"{url.address} does not have all commands that leaseq needs: it lacks "
            f"{unknown.replace('+', '')}"
        )
    permissions = Permissions([name.removeprefix("?") for name in names])
    if permissions.missing:
        raise UnusableServerError(
            f"{url.address} does not let this user do what every user must: its ACL lacks "
            f"{permissions.missing}"
        )
    return permissions
