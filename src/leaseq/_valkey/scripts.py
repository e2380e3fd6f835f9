"""The scripts that the server runs, put together, and the names of the keys they work on.

The rules of a queue are in the files of `lua/`; each says at its beginning what it is about. A
script is some of them, one after the other.
"""

from __future__ import annotations

import re
from pkgutil import get_data
from typing import Final

from .._core.limits import (
    MOST_BODIES,
    MOST_ITEMS,
    MOST_KEY,
    MOST_NAME,
    MOST_PAUSED,
    MOST_REASON,
    MOST_STEPS,
)

FORMAT: Final = 4
"""The number of the format in which queues are kept: that of items, as `lua/item.lua` has it, of
states and records of calls, and the names of keys."""

OLDEST: Final = 4
"""The oldest format whose processes may work beside those of this one: see the page on upgrading.

A format that only adds fields at the ends of records is compatible; those that do not know these
fields keep them."""

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
    "kept",
)
"""The parts of a queue, in the order of its keys."""


def slot_key(prefix: str) -> str:
    """Return the beginning of all keys of a broker: they are in one slot of a cluster."""
    return f"{{{prefix}}}"


def queue_keys(prefix: str, name: str) -> list[str]:
    """Return the keys of a queue.

    No name has a slash, so that a pattern with one after the name is for this queue alone.
    """
    return [f"{slot_key(prefix)}:q:{name}/{part}" for part in QUEUE_PARTS]


def broker_keys(prefix: str) -> list[str]:
    """Return the keys of a broker's own."""
    return [f"{slot_key(prefix)}:calls", f"{slot_key(prefix)}:queues"]


def channel(prefix: str, process: str) -> str:
    """Return the channel on which a process is told that something may be there for it."""
    return f"{slot_key(prefix)}:p:{process}"


_CONSTANTS: Final = {
    "FORMAT": FORMAT,
    "OLDEST": OLDEST,
    "MOST_KEY": MOST_KEY + 1,
    "MOST_NAME": MOST_NAME + 1,
    "MOST_REASON": 4 * MOST_REASON,
    "MOST_ITEMS": MOST_ITEMS,
    "MOST_STEPS": MOST_STEPS,
    "MOST_BODIES": MOST_BODIES,
    "MOST_PAUSED": MOST_PAUSED,
}
"""Numbers that the Lua has by name; keys and names are a byte longer there, reasons in UTF-8."""


def _source(name: str) -> str:
    source = get_data("leaseq._valkey", f"lua/{name}.lua")
    assert source is not None
    return source.decode()


_DECLARED: Final = re.compile(r"^local ([A-Z_, ]+) = ([\d, ]+)(?: --.*)?\n", re.MULTILINE)


def _script(*names: str) -> str:
    """Put a script together, which defines all its functions and then does a call.

    What the first two files define is in an outer function, for the others to be defined in an
    inner one: a function that is defined finds each local of its own function by a search. It can
    use 60 of an outer function's at most; so the numbers among these are written in their places.
    """
    base, item, *others = map(_source, names)
    constants = {name: str(number) for name, number in _CONSTANTS.items()}
    for found in _DECLARED.finditer(base + item):
        constants |= zip(found[1].split(", "), found[2].split(", "), strict=True)
    outer = _DECLARED.sub("", base + item)
    inner = "".join(("return (function()\n", *others, "end)()\n"))
    numbers = re.compile(rf"\b({'|'.join(constants)})\b")
    script = numbers.sub(lambda name: constants[name[1]], outer + inner)
    return f"{_BEGINNING}{script}{_END}(KEYS, ARGV, true)\n"


_BEGINNING = "return (function()\n"
_END = "end)()"


def digest_of(script: str) -> str:
    """Return the digest by which a server knows a script."""
    import hashlib  # with OpenSSL, which takes a tenth of the time of an import

    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def library(script: str) -> tuple[str, str]:
    """Return the name of the function that does a script's calls, and the library that has it.

    The definitions are made at the first call, as commands cannot be given while a library is
    loaded; they stay from one call to the next. The name has the number of the format and a digest
    of the code, so that processes of several versions can share a server.
    """
    assert script.startswith(_BEGINNING)
    name = f"leaseq_{FORMAT}_{digest_of(script)[:16]}"
    definitions = script.removeprefix("return ").removesuffix("(KEYS, ARGV, true)\n")
    return name, (
        f"#!lua name={name}\n"
        "local do_call\n"
        f"redis.register_function('{name}', function(keys, arguments)\n"
        f"do_call = do_call or {definitions}\n"
        "return do_call(keys, arguments)\n"
        "end)\n"
    )


_COMMON = ("base", "item", "work", "fair", "line", "lease", "wake", "moves", "calls")

COMMANDS = _script(
    *_COMMON, "put", "claim", "kept", "settle", "wait", "transact", "commands", "reply"
)
"""Operations of producers and consumers."""

QUERIES = _script(*_COMMON, "named", "queries", "reply")
"""Queries, which change nothing."""

ADMIN = _script(*_COMMON, "named", "declare", "admin", "reply")
"""Changes of whole queues."""

HANDSHAKE = _script(*_COMMON, "handshake", "reply")
"""The permissions of a process's user."""

CONFIRM = _source("confirm")
"""Shows that this server has done a call: then what this connection has written includes it."""
