"""The scripts that the server runs, put together, and the names of the keys they work on.

The rules of a queue are in the files of `lua/`; each says at its beginning what it is about. A
script is some of them, one after the other.
"""

from __future__ import annotations

from importlib.resources import files

QUEUE_PARTS = (
    "state",
    "items",
    "ready",
    "leased",
    "timers",
    "parked",
    "accounts",
    "eligible",
    "early",
    "idle",
    "done",
    "history",
)
"""The parts of a queue, in the order of its keys."""


def slot_key(prefix: str) -> str:
    """Return the beginning of all keys of a broker: they are in one slot of a cluster."""
    return f"{{{prefix}}}"


def queue_keys(prefix: str, name: str) -> list[str]:
    """Return the keys of a queue."""
    return [f"{slot_key(prefix)}:q:{name}:{part}" for part in QUEUE_PARTS]


def broker_keys(prefix: str) -> list[str]:
    """Return the keys of a broker's own."""
    return [f"{slot_key(prefix)}:calls", f"{slot_key(prefix)}:queues"]


def channel(prefix: str, process: str) -> str:
    """Return the channel on which a process is told that something may be there for it."""
    return f"{slot_key(prefix)}:p:{process}"


def _source(name: str) -> str:
    return (files("leaseq._valkey") / "lua" / f"{name}.lua").read_text()


def _script(*names: str) -> str:
    """Put a script together.

    What the first two files define is in an outer function, for the others to be defined in an
    inner one: a function that is defined finds each local of its own function by a search.
    """
    base, item, *others = map(_source, names)
    return "".join((base, item, "return (function()\n", *others, "end)()\n"))


_COMMON = ("base", "item", "fair", "line", "lease", "wake", "moves", "calls")

COMMANDS = _script(*_COMMON, "put", "claim", "settle", "wait", "transact", "commands", "reply")
"""Operations of producers and consumers."""

QUERIES = _script(*_COMMON, "named", "queries", "reply")
"""Queries, which change nothing."""

ADMIN = _script(*_COMMON, "named", "declare", "admin", "reply")
"""Changes of whole queues."""

HANDSHAKE = _script(*_COMMON, "handshake", "reply")
"""The permissions of a process's user."""

CONFIRM = _source("confirm")
"""Shows that this server has done a call: then what this connection has written includes it."""
