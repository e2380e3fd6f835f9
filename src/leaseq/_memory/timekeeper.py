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

    def tick(self, now: float, /) -> None:
        """Process what is due, or a part of it."""

    def next_deadline(self) -> float:
        """Return the next time to call `tick`; `math.inf`: not before a change. O(1)."""


_LATE = 0.02
"""Seconds after its time at which a timekeeper takes the event loop to have been stalled."""

_TURNS = 3
"""Turns that it then gives to the tasks which have been waiting to run."""


class Timekeeper:
    """A loop that sleeps until the next deadline of some engines, and has them process it.

    It wakes early only when an engine gets an earlier deadline. A dropped deadline costs one
    wake-up at most: the planned time is kept, so that the next lease of the same length needs no
    new plan.

    If it wakes late, the event loop was stalled, by a function that blocked it or by a garbage
    collection. Then tasks that were ready to settle or extend a lease in time could not run either.
    So they run first, and only what is still overdue after that is processed.

    Args:
        home: The event loop.
        owner: The engine whose `run` this is, which prefers this timekeeper; None: a broker's.
    """

    __slots__ = ("_alarm", "_asleep_since", "_home", "owner", "wake_at")

    def __init__(self, home: Home, owner: object = None) -> None:
        self._home = home
        self.owner = owner
        self.wake_at = inf
        self._asleep_since = -inf
        self._alarm = Event()

    def plan(self, deadline: float) -> None:
        """Wake at a deadline, if nothing is planned before it. O(1)."""
        if deadline < self.wake_at:
            self.wake_at = deadline
            self._alarm.set()

    def ring(self) -> None:
        """Wake the timekeeper in the next step of the event loop."""
        self._alarm.set()

    def is_late(self, now: float) -> bool:
        """Return True if a stall of the event loop has kept this from waking in time. O(1)."""
        return now - max(self.wake_at, self._asleep_since) > _LATE

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
                if self.is_late(self._home.time()):
                    for _ in range(_TURNS):
                        await self._home.checkpoint()
                self._alarm = Event()  # before the ticks: what ends in one may ring
                now = self._home.time()
                planned = self.wake_at if self.wake_at > now else inf
                self.wake_at = -inf  # until all have been looked at, no plan need wake it
                mine = [engine for engine in known if engine.timekeeper is self]
                for engine in mine:
                    engine.tick(now)
                self.wake_at = min([planned, *(engine.next_deadline() for engine in mine)])
                self._asleep_since = self._home.time()
                with CancelScope(deadline=self.wake_at):
                    await self._alarm.wait()
        finally:
            for engine in {**known, **dict.fromkeys(engines())}:  # also those made just now
                engine.detach(self)
