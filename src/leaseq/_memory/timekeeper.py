"""The one task that runs what falls due in a queue, and in its dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from anyio import TASK_STATUS_IGNORED, CancelScope, Event
from anyio.abc import TaskStatus

from .._core.loop import Home


class Timed(Protocol):
    """The part of a queue's engine that a timekeeper works with."""

    timekeeper: Timekeeper | None
    """The one that does what falls due, of those that are attached."""

    def attach(self, keeper: Timekeeper, /) -> None:
        """Accept a timekeeper."""

    def detach(self, keeper: Timekeeper, /) -> None:
        """Do without a timekeeper from now on."""

    def tick(self, now: float, /) -> float:
        """Do what is due, or a part of it, and return when there is more."""


class Timekeeper:
    """A sleep until the next deadline of some engines, of any kind, and the call to do what is due.

    It wakes for no other reason, save when an engine is given an earlier deadline. A deadline that
    is dropped costs one look at most: the time once planned for is kept, so that the next lease of
    the same length needs no new plan.

    Args:
        home: The event loop.
        owner: The engine whose `run` this is, if it is one's: it prefers this timekeeper.
    """

    __slots__ = ("_alarm", "_home", "owner", "wake_at")

    def __init__(self, home: Home, owner: object = None) -> None:
        self._home = home
        self.owner = owner
        self.wake_at = inf
        self._alarm = Event()

    def plan(self, deadline: float) -> None:
        """Wake at a deadline, if nothing is planned before it. O(1)."""
        if deadline < self.wake_at:
            self.wake_at = deadline
            self._alarm.set()

    def ring(self) -> None:
        """Have it look again in its next turn."""
        self._alarm.set()

    async def keep(
        self,
        engines: Callable[[], Iterable[Timed]],
        over: Callable[[], bool],
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Keep engines that have no other timekeeper, until it is over."""
        known: dict[Timed, None] = {}
        started = False
        try:
            while not started or not over():
                present = dict.fromkeys(engines())
                for engine in present.keys() - known.keys():
                    engine.attach(self)
                for engine in known.keys() - present.keys():
                    engine.detach(self)
                known = present
                if not started:
                    task_status.started()
                    started = True
                    continue
                now = self._home.time()
                due = [engine.tick(now) for engine in known if engine.timekeeper is self]
                planned = self.wake_at if self.wake_at > now else inf
                self.wake_at = min([planned, *due])
                self._alarm = Event()
                with CancelScope(deadline=self.wake_at):
                    await self._alarm.wait()
        finally:
            for engine in {**known, **dict.fromkeys(engines())}:  # also those made just now
                engine.detach(self)
