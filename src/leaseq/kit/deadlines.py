"""What falls due when. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Generic, Protocol, TypeVar

from .heap import Heap

__all__ = ["Deadlines"]


class Due(Protocol):
    """A thing that may fall due."""

    deadline: float

    @property
    def ended(self) -> object | None:
        """Not None once the thing is of no interest any more."""


T = TypeVar("T", bound=Due)


class Deadlines(Heap[T], Generic[T]):
    """Things in the order in which they fall due. Times are the caller's clock, in seconds."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda when, thing: thing.deadline == when and thing.ended is None)

    def next(self) -> float:
        """When to call `pop_due` again; `math.inf`: never, as things are. O(1), amortised."""
        first = self.first()
        return inf if first is None else first[0]

    def pop_due(self, now: float) -> Iterator[T]:
        """Give what is due, the earliest first, each forgotten as it is given. O(log n) each."""
        while self.next() <= now:
            yield self.pop()
