"""A store on a Valkey or Redis server: an exchange is one call of a script."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final

import anyio
from anyio import CancelScope

from .._core.errors import ServerError, ServerUnavailableError, UnusableServerError
from .._core.log import log
from .._core.options import ANY_KEY
from .._core.texts import shown
from .._remote import protocol
from .._remote.protocol import Batch, Event, OnEvent, Operation, QueueRef, Reply
from .client import Client, Script, load_function, open_client
from .encoding import decode_want, encode_key, encode_name, read_key, read_seconds, read_text
from .operations import OPERATIONS, Word, unreadable
from .permissions import Permissions, commands_to_check
from .replication import ReplicatedClient
from .scripts import ADMIN, COMMANDS, HANDSHAKE, QUERIES, broker_keys, channel, queue_keys
from .server_errors import server_error
from .url import ValkeyUrl

_SCRIPTS: Final = {
    "commands": Script(COMMANDS, is_function=True),
    "queries": Script(QUERIES, changes=False),
    "admin": Script(ADMIN),
}
_HANDSHAKE: Final = Script(HANDSHAKE, changes=False)
_PRIORITIES: Final = range(-(2**31), 2**31)
_QUEUES: Final = 1024
"""Queues of which the names of their keys are remembered."""
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


def _ended(name: str, _key: bytes, token: int) -> protocol.ItemDied | protocol.LeaseEnded:
    return protocol.LeaseEnded(name, int(token))


_EVENTS: Final[Mapping[bytes, Callable[..., protocol.ItemDied | protocol.LeaseEnded]]] = {
    b"dead": _died,
    b"expired": _ended,
    b"lost": _ended,
}


def decode_message(message: bytes) -> Event:
    """Return the event that a script has published to a process.

    Raises:
        ValueError: no script has.
    """
    name, separator, what = message.partition(b"\0")
    if not separator:
        raise ValueError(f"not a message: {shown(message)}")
    queue = name.decode()
    if what[:1] == b"l":
        return protocol.LeaseEnded(queue, int(what.rpartition(b"\0")[2]))
    if what == b"x":
        return protocol.QueueDeleted(queue)
    return protocol.Woken(queue, decode_want(what))


# Checks: by types alone, as what passes is encoded when it is sent


_PLAIN: Final = frozenset({str, int, bytes})


def _check_keys(keys: Iterable[object]) -> None:
    for key in keys:
        if type(key) not in _PLAIN:
            encode_key(key)


def _check_names(*names: object) -> None:
    for name in names:
        if name is not None and type(name) is not str:
            encode_name(name)  # type: ignore[arg-type]


def _check_put(put: protocol.Put) -> None:
    request = put.request
    if request.priority is not None and request.priority not in _PRIORITIES:
        raise ValueError(
            f"a priority is between -2**31 and 2**31 - 1 on this engine, not {request.priority}"
        )
    if request.tenant is not None:
        _check_names(request.tenant)
    for key, _ in put.items:
        if type(key) not in _PLAIN:
            encode_key(key)


def _check_claim(claim: protocol.Claim) -> None:
    for each in claim.claims:
        request = each.request
        _check_names(request.consumer, *(request.tenants or ()), *request.steal_from)
        if request.key is not ANY_KEY:
            _check_keys((request.key,))


def _check_transact(transact: protocol.Transact) -> None:
    for step in transact.steps:
        if isinstance(step, protocol.Put):
            _check_put(step)


def _check_key(operation: protocol.Look | protocol.Discard | protocol.Resume) -> None:
    _check_keys((operation.key,))


_CHECKS: Final[Mapping[type[Operation[Any]], Callable[[Any], object]]] = {
    protocol.Put: _check_put,
    protocol.Claim: _check_claim,
    protocol.Transact: _check_transact,
    protocol.Look: _check_key,
    protocol.Discard: _check_key,
    protocol.Resume: _check_key,
    protocol.Redrive: lambda redrive: _check_keys(redrive.keys or ()),
    protocol.SetTenant: lambda change: _check_names(change.name),
    protocol.ReleaseAll: lambda release: _check_names(release.consumer),
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
        self.offset = 0

    async def exchange(self, batch: Batch) -> Reply:
        """Do a batch by one call of a script. See `Store.exchange`."""
        call = ScriptCall(batch)
        words = call.encode(self.offset, self._process)
        keys = [*self._broker_keys]
        for name in call.names:
            keys += self._keys_of(name)
        script = _SCRIPTS[batch.operations[0].family]
        return call.decode(await self._client.script(script, keys, words))

    def check(self, operation: Operation[Any]) -> None:
        """Raise if the server would refuse an operation. O(1), for a put O(items).

        Raises:
            ServerError: the user may not ask for it; the code is ``"NOPERM"``.
            TypeError: a key or a name is of another type than these can be.
            ValueError: a priority or an option is out of range.
        """
        kind = type(operation)
        self._permissions.check(kind)
        check = _CHECKS.get(kind)
        if check is not None:
            check(operation)

    async def listen(self) -> None:
        """Hear what is published for this process. See `Store.listen`."""
        await self._client.listen()

    async def close(self) -> None:
        """Close the connection; idempotent. Calls under way fail, in doubt."""
        await self._client.close()


async def open_store(url: ValkeyUrl, process: str, on_event: OnEvent) -> ValkeyStore:
    """Connect to a server, and ask for the permissions of its user.

    If cancelled, there is no connection.

    Args:
        url: The server, and its user.
        process: This process's name among those of the broker.
        on_event: Called in the event loop's thread with events that others publish for this
            process.

    Raises:
        UnusableServerError: there is no such server, it cannot hold queues, or it does not let this
            user do what every user has to.
        ServerUnavailableError: it went away meanwhile.
    """

    def hear(message: bytes) -> None:
        try:
            event = decode_message(message)
        except ValueError as error:
            log(logging.WARNING, "a message from the server is ignored: %s", error)
        else:
            on_event(event)

    client = await open_client(url, channel=channel(url.prefix, process), on_message=hear)
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
    permissions = Permissions(map(read_text, lacking))
    if permissions.missing:
        raise UnusableServerError(
            f"{url.address} does not let this user do what every user must: its ACL lacks "
            f"{permissions.missing}"
        )
    return permissions
