"""The commands that a user of the server must be allowed, and the operations that need them.

A script is refused a command in the middle of an operation, which would leave half of it done. So
the server is asked at the beginning which commands this user may not give, and an operation that
needs one of them is refused here, before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._core.errors import ServerError
from .._remote.protocol import (
    Claim,
    CountTenants,
    Delete,
    FindLease,
    ListQueues,
    Operation,
    Purge,
    ReadHistory,
    Redrive,
    ReleaseAll,
)

_PUBLISH = {False: "publish", True: "spublish"}
_LATER = ("eval", "ping")
"""Commands that are needed when the connection breaks, or the server has forgotten the scripts."""

_FUNCTIONS = ("fcall", "function|load")
"""Commands that spare the server work, for users that may give them."""

PRODUCER = (
    *("get", "hdel", "hexists", "hget", "hincrby", "hmget", "hrandfield", "hset", "set", "time"),
    *("zadd", "zcard", "zrandmember", "zrange", "zrem", "zscan", "zscore"),
)
"""Commands that every user must be allowed within scripts, and to publish besides."""

CONSUMER = (*PRODUCER, "del", "hkeys", "hscan", "ltrim", "rpush", "zpopmin")
"""Commands for users that lease items."""

OPERATOR = (*CONSUMER, "llen", "lrange", "unlink")
"""Commands for users that look after queues."""

_NEEDED: Mapping[type[Operation[Any]], tuple[str, frozenset[str]]] = {
    Claim: ("lease items", frozenset(CONSUMER)),
    FindLease: ("take leases over", frozenset(CONSUMER)),
    Purge: ("purge queues", frozenset(OPERATOR)),
    Delete: ("delete queues", frozenset(OPERATOR)),
    Redrive: ("bring back dead letters", frozenset(OPERATOR)),
    ReleaseAll: ("take leases away from others", frozenset(OPERATOR)),
    ListQueues: ("list queues", frozenset({"hscan"})),
    CountTenants: ("count by tenant", frozenset({"hscan"})),
    ReadHistory: ("read histories", frozenset({"llen", "lrange"})),
}
"""Names of some operations, and the commands that they need, if not just those that all need.
Those that end a lease need one first; to bring letters back, or to take leases away, is for
operators alone."""


def commands_to_check(*, is_cluster: bool, waits: bool) -> tuple[str, ...]:
    """Return the commands about which to ask the server.

    Args:
        is_cluster: True if it is one of a cluster.
        waits: True if replicas are waited for.
    """
    publish = _PUBLISH[is_cluster]
    return (*OPERATOR, *_LATER, *_FUNCTIONS, publish, *(("wait",) if waits else ()))


class Permissions:
    """The operations that the user of a connection may ask for.

    Args:
        lacking: The commands of `commands_to_check` that it may not give.
    """

    def __init__(self, lacking: Iterable[str] = ()) -> None:
        self._lacking = frozenset(lacking)
        self._forbidden = {
            operation: f"{meant}: its ACL lacks {_as_acl(needed & self._lacking)}"
            for operation, (meant, needed) in _NEEDED.items()
            if needed & self._lacking
        }

    @property
    def missing(self) -> str:
        """The commands that are lacking and that every user needs, as the server's ACL has them."""
        return _as_acl(self._lacking & {*PRODUCER, *_LATER, *_PUBLISH.values(), "wait"})

    @property
    def may_call_functions(self) -> bool:
        """True if the user may call functions that the server has."""
        return "fcall" not in self._lacking

    @property
    def may_load_functions(self) -> bool:
        """True if the user may give functions to the server."""
        return "function|load" not in self._lacking

    def check(self, operation: type[Operation[Any]]) -> None:
        """Raise if the user may not ask for such an operation. O(1).

        Raises:
            ServerError: it may not; the code is ``"NOPERM"``.
        """
        if self._forbidden and (why := self._forbidden.get(operation)):
            raise ServerError(f"NOPERM this user may not {why}", code="NOPERM")


def _as_acl(commands: Iterable[str]) -> str:
    return " ".join(f"+{command}" for command in sorted(commands))
