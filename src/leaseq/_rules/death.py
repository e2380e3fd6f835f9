"""What becomes of items that are given up. Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from .item import Item

__all__ = ["Bury", "Fate"]

K = TypeVar("K")
V = TypeVar("V")

Fate = Literal["dead", "dropped"]


class Bury(Protocol[K, V]):
    """What the ledger hands its dead to."""

    def __call__(
        self, item: Item[K, V], value: V, reason: str, error: str | None, /
    ) -> Fate | None: ...
