"""Who waits for what, and who is next. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from ..values import ANY_KEY, AnyKey

__all__ = ["Waiters"]

K = TypeVar("K")
W = TypeVar("W")


class Waiters(Generic[K, W]):
    """Those who wait: a line for each key that is waited for, and one for those who take any.

    First come, first served; for a key, those who want just that one come before the others.
    """

    __slots__ = ("_lines", "total")

    def __init__(self) -> None:
        self._lines: dict[K | AnyKey, OrderedDict[W, None]] = {}
        self.total = 0

    @property
    def getters(self) -> int:
        """How many wait for any key. O(1)."""
        return len(self._lines.get(ANY_KEY, ()))

    @property
    def takers(self) -> int:
        """How many wait for one key. O(1)."""
        return self.total - self.getters

    def add(self, waiter: W, key: K | AnyKey, *, first: bool = False) -> None:
        """Let somebody wait, last in line or first. O(1)."""
        line = self._lines.setdefault(key, OrderedDict())
        line[waiter] = None
        if first:
            line.move_to_end(waiter, last=False)
        self.total += 1

    def drop(self, waiter: W, key: K | AnyKey) -> None:
        """Let somebody who waits go; nothing if nobody by that name does. O(1)."""
        line = self._lines.get(key)
        if line is not None and waiter in line:
            del line[waiter]
            self._take_out(key, line)

    def pop(self, key: K) -> W | None:
        """Take out whose turn it is now that a key is ready; None: nobody waits for it. O(1)."""
        return self._pop_from(key) or self._pop_from(ANY_KEY)

    def pop_all(self, key: K) -> list[W]:
        """Take out all who wait for just this key. O(their number)."""
        line = self._lines.pop(key, OrderedDict())
        self.total -= len(line)
        return list(line)

    def clear(self) -> list[W]:
        """Take out all. O(waiters)."""
        everybody = [waiter for line in self._lines.values() for waiter in line]
        self._lines.clear()
        self.total = 0
        return everybody

    def waited_for(self) -> list[K]:
        """The keys that are waited for. O(their number)."""
        return [key for key in self._lines if key is not ANY_KEY]

    def _pop_from(self, key: K | AnyKey) -> W | None:
        line = self._lines.get(key)
        if line is None:
            return None
        waiter, _ = line.popitem(last=False)
        self._take_out(key, line)
        return waiter

    def _take_out(self, key: K | AnyKey, line: OrderedDict[W, None]) -> None:
        self.total -= 1
        if not line:
            del self._lines[key]
