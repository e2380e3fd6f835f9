"""The task that processes what falls due in queues."""

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
    """The timekeeper in charge, of those that are attached."""

    def attach(self, keeper: Timekeeper, /) -> None:
        """Add a timekeeper."""

    def detach(self, keeper: Timekeeper, /) -> None:
        """Remove a timekeeper."""

    def tick(self, now: float, /) -> float:
        """Process what is due, or a part of it, and return the next deadline."""


class Timekeeper:
    """A loop that sleeps until the next deadline of some engines, and has them process it.

    It wakes early only when an engine gets an earlier deadline. A dropped deadline costs one
    wake-up at most: the planned time is kept, so that the next lease of the same length needs no
    new plan.

    Args:
        home: The event loop.
        owner: The engine whose `run` this is, which prefers this timekeeper; None: a broker's.
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
        """Wake the timekeeper in the next step of the event loop."""
        self._alarm.set()

    async def keep(
        self,
        engines: Callable[[], Iterable[Timed]],
        over: Callable[[], bool],
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Look after the engines that have no other timekeeper in charge, until ``over()``."""
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
