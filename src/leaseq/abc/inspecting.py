"""The contract of a queue that is looked into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from ..values import (
    Done,
    InFlight,
    QueueInfo,
    Statistics,
)

if TYPE_CHECKING:
    pass

__all__ = ["Inspectable"]

K = TypeVar("K")
V = TypeVar("V")


class Inspectable(ABC, Generic[K, V]):
    """What one can see of a queue. Looking changes nothing, and never waits."""

    # What is in there

    @abstractmethod
    async def peek(self, key: K) -> V | None:
        """The newest value put under a key, whoever holds it; None if it is absent. O(1)."""

    @abstractmethod
    async def contains(self, key: K) -> bool:
        """Whether the key is ready, delayed or leased. O(1)."""

    @abstractmethod
    async def available_keys(self) -> set[K]:
        """The keys that are ready. O(ready)."""

    @abstractmethod
    async def inflight_keys(self) -> set[K]:
        """The keys that are leased. O(leased)."""

    @abstractmethod
    async def qsize(self) -> int:
        """How many items wait: ready and delayed ones, and buffered successors. O(1)."""

    @abstractmethod
    async def inflight_size(self) -> int:
        """How many items are leased. O(1)."""

    @abstractmethod
    async def statistics(self, *, tenants: bool = False) -> Statistics:
        """Counts of what is in there and of what has happened.

        Args:
            tenants: Whether to tell it for each tenant, too.

        O(1); with tenants O(tenants).
        """

    @abstractmethod
    async def inflight(self, *, consumer: str | None = None) -> list[InFlight[K]]:
        """What is being worked on, in the order of the hand-outs.

        Args:
            consumer: By whom; None: by anybody.

        O(leased).
        """

    @abstractmethod
    async def info(self) -> QueueInfo:
        """What the queue is, and how full. O(1), plus the number of its dead letters."""

    @abstractmethod
    async def history(self) -> list[Done[K, V]]:
        """The last items that were acknowledged, the latest last. O(their number).

        As many as the queue was told to remember, which is none unless it was told.
        """
