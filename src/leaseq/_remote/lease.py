"""A lease of this engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from .._core.lease import Lease

if TYPE_CHECKING:
    from .engine import Core
    from .requests import Ask

__all__ = ["ValkeyLease", "local_seconds"]

K = TypeVar("K")
V = TypeVar("V")

_SHARE = 0.05  # of its length that a lease is over earlier here than on the server
_MOST = 0.5  # seconds, and no more than that


def local_seconds(timeout: float) -> float:
    """How long a lease holds for its consumer, of the seconds for which it holds on the server.

    A little less, so that its body has come to an end before somebody else can have the item.
    """
    if timeout == math.inf:
        return timeout
    return timeout - min(timeout * _SHARE, _MOST)


class ValkeyLease(Lease[K, V]):
    """What holds an item on the server. Its deadline is counted from before the claim was sent.

    Attributes:
        handle: Its queue, with what this engine needs of it.
        wire_key: The key as the server has it.
        settling: What is on its way to the server and will end the lease.
    """

    __slots__ = ("handle", "settling", "wire_key")

    def __init__(self, queue: Core[K, V], key: K, value: V, wire_key: bytes) -> None:
        super().__init__(queue, key, value)
        self.handle = queue
        self.wire_key = wire_key
        self.settling: Ask | None = None
