"""Values that are kept for a time, each under a name. Sans-IO.

The names of values whose time ends in the same second are one list, in no particular order, and
all of these go together. So a value makes no object that the garbage collector looks at more than
once: it leaves a pair of a number and bytes alone from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf
from typing import Final

from .._core.kept import Kept

_LEAST = 64  # below this many names of values that were replaced a sweep costs more than it frees
_NONE: Final = (-inf, None)
_LATER: Final = (inf, None)
_SWEPT = 2  # values whose time is over that a new one takes along, where no timekeeper runs


class KeptValues:
    """The values of a queue, by name."""

    __slots__ = ("_listed", "_names", "_seconds", "_values")

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, bytes]] = {}  # when its time is over, and its body
        self._names: dict[int, list[str]] = {}  # by the second after that; some were replaced
        self._seconds: list[int] = []  # a heap of these
        self._listed = 0

    def __len__(self) -> int:
        return len(self._values)

    def keep(self, values: Iterable[Kept], now: float) -> float:
        """Keep values, in place of older ones of their names; return the time of the next sweep.

        O(1) for each, amortised; O(log n) for the first that ends in its second.
        """
        kept, seconds = self._values, self._seconds
        for name, body, ttl, _ in values:
            end = now + ttl
            kept[name] = (end, body)
            if end < inf:
                second = int(end) + 1
                names = self._names.get(second)
                if names is None:
                    names = self._new_second(second)
                names.append(name)
                self._listed += 1
        if seconds and seconds[0] <= now:
            self.sweep(now, _SWEPT)
        if self._listed > 2 * len(kept) + _LEAST:
            self._list_anew()
            seconds = self._seconds
        return seconds[0] if seconds else inf

    def _new_second(self, second: int) -> list[str]:
        heappush(self._seconds, second)
        names = self._names[second] = []
        return names

    def _list_anew(self) -> None:
        """Leave out the names of values that were replaced."""
        self._names, self._seconds = {}, []
        for name, (end, _) in self._values.items():
            if end < inf:
                second = int(end) + 1
                names = self._names.get(second)
                (self._new_second(second) if names is None else names).append(name)
        self._listed = sum(map(len, self._names.values()))

    def read(self, name: str, now: float) -> bytes | None:
        """Return the value of a name; None: there is none, or its time is over. O(1)."""
        end, body = self._values.get(name, _NONE)
        return body if now < end else None

    def next_sweep(self) -> float:
        """Return the next time to call `sweep`; `math.inf`: never, as things are. O(1)."""
        return self._seconds[0] if self._seconds else inf

    def sweep(self, now: float, most: int) -> None:
        """Forget values whose time is over, so many at most. O(1) for each, amortised."""
        while most and self._seconds and self._seconds[0] <= now:
            names = self._names[self._seconds[0]]
            while names and most:
                name = names.pop()
                self._listed -= 1
                most -= 1
                if self._values.get(name, _LATER)[0] <= now:
                    del self._values[name]
            if not names:
                del self._names[heappop(self._seconds)]

    def clear(self) -> None:
        """Forget all values. O(their number)."""
        self._values.clear()
        self._list_anew()
