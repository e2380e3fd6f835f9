"""The one task that lets time pass for a queue, and for those that depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from anyio import TASK_STATUS_IGNORED, CancelScope, Event
from anyio.abc import TaskStatus

from .._core.loop import Home

__all__ = ["Timed", "Timekeeper"]


class Timed(Protocol):
    """A queue, as a timekeeper sees it."""

    timekeeper: Timekeeper | None
    """Who looks after it, of those who have offered to."""

    def offer(self, keeper: Timekeeper, /) -> None:
        """Somebody would look after it."""

    def withdraw(self, keeper: Timekeeper, /) -> None:
        """Somebody will not any more."""

    def tick(self, now: float, /) -> float:
        """Do what is due, or a part of it; and say when there is more."""


class Timekeeper:
    """Sleeps until the next deadline of its queues, whatever its kind, and has them do what is due.

    It wakes for no other reason, save when a queue is given an earlier deadline. A deadline that
    is dropped costs one look at most: the time once planned for is kept, so that the next lease of
    the same length needs no new plan.

    Args:
        home: The event loop.
        owner: The queue whose `run` this is, if it is one's: it is looked after by no other.
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
        """Have it look again at once."""
        self._alarm.set()

    async def keep(
        self,
        queues: Callable[[], Iterable[Timed]],
        over: Callable[[], bool],
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Let time pass for queues, unless another timekeeper does, until it is over."""
        known: dict[Timed, None] = {}
        started = False
        try:
            while not started or not over():
                present = dict.fromkeys(queues())
                for queue in present.keys() - known.keys():
                    queue.offer(self)
                for queue in known.keys() - present.keys():
                    queue.withdraw(self)
                known = present
                if not started:
                    task_status.started()
                    started = True
                    continue
                now = self._home.time()
                due = [queue.tick(now) for queue in known if queue.timekeeper is self]
                planned = self.wake_at if self.wake_at > now else inf
                self.wake_at = min([planned, *due])
                self._alarm = Event()
                with CancelScope(deadline=self.wake_at):
                    await self._alarm.wait()
        finally:
            for queue in {**known, **dict.fromkeys(queues())}:  # also those made just now
                queue.withdraw(self)
