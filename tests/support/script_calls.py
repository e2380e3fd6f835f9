"""The scripts of the valkey engine, called by hand: one call is one list of operations."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import valkey

from leaseq._valkey import scripts

Argument = str | bytes | int | float
Operation = list[Argument]
Result = list[Any]


@dataclass
class Reply:
    """What came back."""

    now: int
    left: list[int]
    events: list[list[Any]]
    results: list[Result]


def put(
    queue: int,
    *items: tuple[str, Argument],
    if_in_flight: str = "update",
    priority: int | None = None,
    tenant: str | None = None,
    delay: int = 0,
    ttl: int = -1,
    reschedule: str = "earliest",
    behind: bool = False,
) -> Operation:
    """A put of keys that are strings."""
    terms: Operation = [if_in_flight, "" if priority is None else priority, name(tenant), delay]
    pairs = [part for key, body in items for part in (f"s{key}", body)]
    return ["put", queue, *terms, ttl, reschedule, int(behind), len(items), *pairs]


def request(
    kind: str = "any",
    key: str = "",
    own: Sequence[str | None] = (),
    steal: Sequence[str | None] = (),
    *,
    count: int = 1,
    lease: int = -1,
    consumer: str = "",
    patient: bool = False,
) -> Operation:
    """One request of a claim."""
    what: Operation = [kind]
    if kind == "key":
        what.append(f"s{key}")
    elif kind == "tenants":
        what += [len(own), *map(name, own), len(steal), *map(name, steal)]
    return [count, lease, consumer, int(patient), *what]


def claim(
    queue: int,
    *requests: Operation,
    park: bool = False,
    held: Mapping[bytes, int] | None = None,
) -> Operation:
    """A claim for some requests; without any, for the next item."""
    waits = [part for pair in (held or {}).items() for part in pair]
    asked = requests or (request(),)
    parts = [part for each in asked for part in each]
    return ["claim", queue, int(park), len(waits) // 2, *waits, len(asked), *parts]


def declare(
    queue: int,
    queue_name: str,
    *,
    letters: str = "",
    max_size: int = -1,
    max_deliveries: int = -1,
    backoff: tuple[float, float, float] = (-1, 0, 0),
    history: int = 0,
    dedupe_for: int = -1,
    tenants: Mapping[str | None, tuple[float, int]] | None = None,
) -> Operation:
    """A queue, unless it is there."""
    weights = [part for each, (w, c) in (tenants or {}).items() for part in (name(each), w, c)]
    limits: Operation = [max_size, max_deliveries, *backoff, history, dedupe_for]
    return ["declare", queue, queue_name, "{}", letters, "{}", *limits, len(weights) // 3, *weights]


def name(tenant: str | None) -> str:
    """A tenant on the wire."""
    return "" if tenant is None else f"={tenant}"


class Caller:
    """One who calls the scripts, for the queues "q", "d", its dead letters, and "x", which is not.

    Args:
        server: Where to.
        prefix: The broker's.
    """

    def __init__(self, server: tuple[str, int], prefix: str = "t") -> None:
        self.client = valkey.Valkey(host=server[0], port=server[1])
        self.prefix = prefix
        self.offset = 0
        self._seeds = count(1)
        sources = {
            "turn": scripts.COMMANDS,
            "look": scripts.QUERIES,
            "manage": scripts.ADMIN,
            "hello": scripts.HANDSHAKE,
        }
        self._sha = {which: self.load(text) for which, text in sources.items()}
        self._function = self.load_function(scripts.COMMANDS)

    def load(self, script: str) -> object:
        """Load a script, and return what it is called by."""
        return self.client.script_load(script)

    def load_function(self, script: str) -> str:
        """Load a script as a function, and return its name."""
        name, code = scripts.library(script)
        self.client.function_load(code, replace=True)
        return name

    def call(
        self,
        script: str,
        *operations: Operation,
        process: str = "p",
        number: str = "",
        letters: int = 2,
    ) -> Reply:
        """Call a script; ``letters`` is the index of the queue that "q"'s dead letters go to."""
        keys = scripts.broker_keys(self.prefix)
        for queue in ("q", "d", "x"):
            keys += scripts.queue_keys(self.prefix, queue)
        seed = next(self._seeds)
        header: Operation = [self.offset, seed, process, number, 3, letters, 0, 0]
        parts = [part for each in operations for part in each]
        arguments = [*header, len(operations), *parts]
        sha = self._sha.get(script) or self.load(script)
        self._sha[script] = sha
        raw: Any = None
        if script == "turn" and seed % 2:  # as the function that stays, or as one made anew
            with suppress(valkey.exceptions.OutOfMemoryError):
                raw = self.client.fcall(self._function, len(keys), *keys, *arguments)
        raw = raw or self.client.evalsha(sha, len(keys), *keys, *arguments)
        return Reply(int(raw[0]), raw[1], raw[2], raw[3:])

    def turn(self, *operations: Operation, **options: Any) -> Reply:
        """Call the script of producers and consumers."""
        return self.call("turn", *operations, **options)

    def one(self, *operation: Argument, script: str = "turn", **options: Any) -> Result:
        """Do one operation; its result."""
        return self.call(script, list(operation), **options).results[0]

    def look(self, *operation: Argument) -> Result:
        """Look into the queues."""
        return self.one(*operation, script="look")

    def manage(self, *operation: Argument, **options: Any) -> Result:
        """Manage the queues."""
        return self.one(*operation, script="manage", **options)


class FrozenCaller(Caller):
    """A caller whose ``offset`` is the time itself, which does not move by itself."""

    def load(self, script: str) -> object:
        """Load a script that does not look at the clock for the rules."""
        return super().load(self._frozen(script))

    def load_function(self, script: str) -> str:
        return super().load_function(self._frozen(script))

    def _frozen(self, script: str) -> str:
        frozen = script.replace("  now = steady + ARGV[1]\n", "  now = tonumber(ARGV[1])\n")
        assert frozen != script
        return frozen


class Ear:
    """What processes are told."""

    def __init__(self, caller: Caller) -> None:
        self._channel = scripts.channel(caller.prefix, "")
        self._sub = caller.client.pubsub()
        self._sub.psubscribe(self._channel + "*")
        self.heard()

    def heard(self) -> list[tuple[str, bytes]]:
        """What came since: to whom, and what of the queue "q"."""
        self._sub.ping()
        messages = []
        while (message := self._sub.get_message(timeout=5.0)) is None or message["type"] != "pong":
            if message is not None and message["type"] == "pmessage":
                whom = message["channel"].decode()[len(self._channel) :]
                queue, _, what = message["data"].partition(b"\0")
                messages.append((whom, what if queue == b"q" else message["data"]))
        return messages

    def close(self) -> None:
        """Listen no more."""
        self._sub.close()
