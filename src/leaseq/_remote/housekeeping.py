"""Background work of a broker: due items, waiters, events of the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

from .._core.heap import Deadlines, Heap
from .._core.log import Burst
from .dispatcher import Call, Dispatcher
from .engine import Engine, RemoteLease
from .protocol import (
    Event,
    ItemDied,
    LeaseEnded,
    QueueDeleted,
    ValueKept,
    Woken,
)

AnyEngine: TypeAlias = Engine[Any, Any]

_BEAT = (1.0, 2.0)  # seconds after which waiters look again, a wake-up may have been lost
_SLACK = 0.001  # seconds after which something is due in the store that one looks


class Housekeeping:
    """The callbacks of a broker's dispatcher, and the timers of its queues.

    Args:
        find: Returns the engine of a queue that is open here, or was lately, by its name.

    Attributes:
        burst: The records of one reply or event, or of a batch.
        deadlines: The leases here, by the time at which they expire.
        dispatcher: The dispatcher.
    """

    dispatcher: Dispatcher

    def __init__(self, find: Callable[[str], AnyEngine | None]) -> None:
        self._find = find
        self.burst = Burst()
        self._beat_at = inf
        self._awaited: dict[AnyEngine, None] = {}  # where tasks wait, or did lately
        self._due: Heap[AnyEngine] = Heap(lambda when, engine: engine.next_due == when)
        self.deadlines: Deadlines[RemoteLease[Any, Any]] = Deadlines()

    # For the dispatcher

    def expire(self, now: float) -> float:
        """End the leases here that have expired, and return the time at which the next one does."""
        for lease in self.deadlines.pop_due(now):
            lease._engine.expire(lease)
            self.burst.expiry(lease._engine.name, lease.key, lease.token)
        self.burst.write()
        return self.deadlines.next()

    def do_due(self, now: float) -> float:
        """Do the other work that is due, and return the time at which there is more."""
        while (first := self._due.first()) is not None and first[0] <= now:
            self._due.pop().sweep()
        if self._beat_at <= now:
            self._beat_at = inf
            for engine in [*self._awaited]:
                if engine.awaited and not engine.closed:
                    engine.look_again()
                else:
                    del self._awaited[engine]
        if self._awaited and self._beat_at == inf:
            self._beat_at = now + random.uniform(*_BEAT)
        first = self._due.first()
        return min(self._beat_at, inf if first is None else first[0])

    def claims(self, effort: float) -> list[Call[Any]]:
        """Return the calls to be sent on behalf of waiters, for so much work of the store."""
        calls: list[Call[Any]] = []
        for engine in self._awaited:
            if engine.closed:
                continue
            for call in engine.claims():
                calls.append(call)
                effort -= call.operation.effort
                if effort <= 0:
                    break
            if effort <= 0:
                self._turn_from(engine)
                self.dispatcher.wake_leader()
                break
        return calls

    def _turn_from(self, engine: AnyEngine) -> None:
        """Let a queue, and those before it, come after all others the next time. O(queues)."""
        engines = [*self._awaited]
        end = engines.index(engine) + 1
        self._awaited = dict.fromkeys([*engines[end:], *engines[:end]])

    def heard(
        self, due: Mapping[str, float], events: Sequence[ItemDied | LeaseEnded], now: float
    ) -> None:
        """Take the news in a reply, besides the answers."""
        for name, left in due.items():
            engine = self._find(name)
            when = now + left + _SLACK
            # One that turns out to be later costs one look; always later, it would never come.
            if engine is not None and when < engine.next_due:
                if engine.next_due != inf:
                    self._due.drop(engine)
                engine.next_due = when
                self._due.add(when, engine)
        for event in events:
            if isinstance(event, ItemDied):
                self._die(event)
            else:
                self._lose(event)
        self.burst.write()

    def hinted(self, event: Event) -> None:
        """Take an event that was published to this process: the store is asked whether it is so."""
        engine = self._find(event.queue)
        is_open = engine is not None and not engine.closed
        if isinstance(event, ValueKept):
            if engine is not None:
                engine.value_kept(event.name)  # which asks for it
        elif engine is not None and is_open:
            if isinstance(event, Woken):
                engine.woken(event.want)
            elif isinstance(event, LeaseEnded):
                engine.doubt_lease(event.token)
            elif isinstance(event, QueueDeleted):
                engine.doubt_queue()
        elif engine is not None and isinstance(event, Woken):
            engine.pass_on(event.want)  # another process may want it

    def deleted(self, name: str) -> None:
        """Note that a queue is gone, by the store's answer."""
        engine = self._find(name)
        if engine is not None and not engine.closed:
            engine.note_deleted()

    def _lose(self, event: LeaseEnded) -> None:
        engine = self._find(event.queue)
        if engine is not None:
            engine.lose_token(event.token, event.cause)

    def _die(self, event: ItemDied) -> None:
        self.burst.death(event.queue, event.key, event.token, event.reason, event.fate)

    # For the engines

    def waits(self, engine: AnyEngine) -> None:
        """Note that a task waits for something of a queue."""
        if engine not in self._awaited:
            self._awaited[engine] = None
            self.dispatcher.wake_leader()
