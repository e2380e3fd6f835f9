"""The wall clock of schedules, which goes on with the event loop's where that is virtual."""

from __future__ import annotations

import time

from anyio import current_time
from anyio.lowlevel import RunVar

_SLACK = 0.05  # seconds by which two readings of real clocks may differ
_DRIFT = 0.001  # and the part of the time that they may drift apart


_wall = time.time


class _WallClock:
    """The wall clock of one run of an event loop.

    Where the loop's clock is virtual (`leaseq.testing`), the wall clock has to jump with it: a slot
    would never come otherwise, however far the loop's clock is. A step of the wall clock counts on
    either.
    """

    __slots__ = ("_is_virtual", "_loop", "_real")

    def __init__(self) -> None:
        self._loop = current_time()
        self._real = time.monotonic()
        self._is_virtual = False

    def now(self) -> float:
        passed = time.monotonic() - self._real
        ahead = current_time() - self._loop - passed
        if not self._is_virtual:
            self._is_virtual = abs(ahead) > _SLACK + _DRIFT * passed
        return _wall() + (ahead if self._is_virtual else 0.0)


_clock: RunVar[_WallClock] = RunVar("leaseq.tasks.clock")


def wall_time() -> float:
    """Return the wall clock's time, in seconds since the epoch. Call it in an event loop."""
    clock = _clock.get(None)
    if clock is None:
        clock = _WallClock()
        _clock.set(clock)
    return clock.now()
