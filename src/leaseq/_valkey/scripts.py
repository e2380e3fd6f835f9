"""The scripts that the server runs, put together, and the names of the keys they work on.

The rules of a queue are in the files of `lua/`; each says at its beginning what it is about. A
script is some of them, one after the other.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

FORMAT: Final = 1
"""The number of the format in which queues are kept. `lua/item.lua` says what it is."""

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
    """Put a script together, which defines all its functions and then does a call.

    What the first two files define is in an outer function, for the others to be defined in an
    inner one: a function that is defined finds each local of its own function by a search.
    """
    base, item, *others = map(_source, names)
    inner = "".join(("return (function()\n", *others, "end)()\n"))
    return f"{_BEGINNING}{base}{item}{inner}{_END}(KEYS, ARGV)\n"


_BEGINNING, _END = "return (function()\n", "end)()"


def library(script: str) -> tuple[str, str]:
    """Return the name of the function that does a script's calls, and the library that has it.

    The definitions are made at the first call, as commands cannot be given while a library is
    loaded; they stay from one call to the next. The name has the number of the format and a digest
    of the code, so that processes of several versions can share a server.
    """
    assert script.startswith(_BEGINNING)
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    name = f"leaseq_{FORMAT}_{digest[:16]}"
    definitions = script.removeprefix("return ").removesuffix("(KEYS, ARGV)\n")
    return name, (
        f"#!lua name={name}\n"
        "local do_call\n"
        f"redis.register_function('{name}', function(keys, arguments)\n"
        f"do_call = do_call or {definitions}\n"
        "return do_call(keys, arguments)\n"
        "end)\n"
    )


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
