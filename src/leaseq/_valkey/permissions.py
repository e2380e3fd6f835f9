"""What a user of the server must be allowed to do, and what comes of it where that is not so.

A script is refused a command in the middle of an operation, which would leave half of it done. So
the server is asked at the beginning which commands this user may not give, and an operation that
needs one of them is refused here, before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._core.errors import ServerError

__all__ = ["CONSUMER", "OPERATOR", "PRODUCER", "Rights"]

_PUBLISH = {False: "publish", True: "spublish"}
_LATER = ("eval", "ping")
"""What is needed when the connection breaks, or the server has forgotten the scripts."""

PRODUCER = (
    *("get", "hdel", "hexists", "hget", "hincrby", "hmget", "hrandfield", "hset", "set", "time"),
    *("zadd", "zcard", "zrandmember", "zrange", "zrem", "zscore"),
)
"""What everybody must be allowed within scripts; and to publish."""

CONSUMER = (*PRODUCER, "del", "hkeys", "ltrim", "rpush", "zpopmin")
"""What those must be who lease."""

OPERATOR = (*CONSUMER, "hgetall", "lrange", "unlink")
"""What those must be who look after queues."""

_NEEDED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("claim", "resume"), frozenset(CONSUMER)),
    **dict.fromkeys(("purge", "delete", "redrive", "release_all"), frozenset(OPERATOR)),
    "queues": frozenset({"hgetall"}),
    "history": frozenset({"lrange"}),
}
"""What operations need, if it is not what all need. Those that end a lease need one first; to bring
letters back, or to take leases away, is nothing for just anybody."""

_MEANT: Mapping[str, str] = {
    "claim": "lease items",
    "resume": "take leases over",
    "purge": "purge queues",
    "delete": "delete queues",
    "redrive": "bring back dead letters",
    "release_all": "take leases away from others",
    "queues": "list queues",
    "history": "read histories",
}


class Rights:
    """What the user of a connection may do.

    Args:
        lacking: The commands of those that may be needed that it may not give.
    """

    def __init__(self, lacking: Iterable[str]) -> None:
        self._lacking = frozenset(lacking)
        self._forbidden = {
            operation: sorted(needed & self._lacking)
            for operation, needed in _NEEDED.items()
            if needed & self._lacking
        }

    @staticmethod
    def asked_for(*, is_cluster: bool, waits: bool) -> tuple[str, ...]:
        """The commands about which the server is asked, for brokers of some kind."""
        return (*OPERATOR, *_LATER, _PUBLISH[is_cluster], *(("wait",) if waits else ()))

    @property
    def missing(self) -> str:
        """What is lacking that everybody needs, as the server's ACL has it; nothing: ""."""
        needed = self._lacking & {*PRODUCER, *_LATER, *_PUBLISH.values(), "wait"}
        return " ".join(f"+{command}" for command in sorted(needed))

    def check(self, operation: object) -> None:
        """Raise if the user may not do that. O(1).

        Raises:
            ServerError: it may not; the code is ``"NOPERM"``.
        """
        if self._forbidden and (lacking := self._forbidden.get(str(operation))):
            commands = " ".join(f"+{command}" for command in lacking)
            raise ServerError(
                f"NOPERM this user may not {_MEANT[str(operation)]}: its ACL lacks {commands}",
                code="NOPERM",
            )
