"""What a broker sees to while its calls are carried: what falls due, who waits, what it is told."""

from __future__ import annotations

import logging
import random
from math import inf
from typing import TYPE_CHECKING, Any

from .._core.heap import Deadlines, Heap
from .._valkey.keys import shown
from .lease import ValkeyLease
from .requests import Answer, Ask, Trip

if TYPE_CHECKING:
    from .broker import ValkeyBroker
    from .claiming import Claiming
    from .queue import ValkeyQueue

__all__ = ["Upkeep"]

logger = logging.getLogger("leaseq")

_BEAT = (1.0, 2.0)  # seconds after which those who wait ask anew, a wake-up may have been lost
_LEVELS = {"dead": logging.WARNING, "dropped": logging.WARNING, "kept": logging.ERROR}
_FATES = {
    "dead": "a dead letter (%s)",
    "dropped": "dead (%s) and dropped",
    "kept": "dead (%s), but there is no queue of dead letters for it: it is tried again later",
}
_SLACK = 0.001  # seconds after which something is due on the server that one looks


class Upkeep:
    """A broker's `Chores`.

    Attributes:
        deadlines: When the leases here run out.
    """

    def __init__(self, broker: ValkeyBroker) -> None:
        self._broker = broker
        self._beat_at = inf
        self._awaited: dict[Claiming[Any, Any], None] = {}  # where somebody waits, or did lately
        self._due: Heap[ValkeyQueue[Any, Any]] = Heap(lambda when, queue: queue.next_due == when)
        self.deadlines: Deadlines[ValkeyLease[Any, Any]] = Deadlines()

    def expire(self, now: float) -> float:
        """End the leases here that have run out, and say when the next one does."""
        for lease in self.deadlines.pop_due(now):
            lease.handle.expire(lease)
        return self.deadlines.next()

    def do(self, now: float) -> float:
        """Do what else is due, and say when there is more."""
        while (first := self._due.first()) is not None and first[0] <= now:
            self._due.pop().sweep()
        if self._beat_at <= now:
            self._beat_at = inf
            for queue in [*self._awaited]:
                if queue.awaited and not queue.closed:
                    queue.look_again()
                else:
                    del self._awaited[queue]
        if self._awaited and self._beat_at == inf:
            self._beat_at = now + random.uniform(*_BEAT)
        first = self._due.first()
        return min(self._beat_at, inf if first is None else first[0])

    def waits(self, queue: Claiming[Any, Any]) -> None:
        """Somebody waits for something of a queue here."""
        if queue not in self._awaited:
            self._awaited[queue] = None
            self._broker.courier.nudge()

    def claims(self) -> list[Ask]:
        """What is to be asked for those who wait."""
        return [claim for queue in self._awaited if not queue.closed for claim in queue.claims()]

    def heard(self, trip: Trip, next_due: list[float], events: list[Answer]) -> None:
        """What the server said besides the answers."""
        sites = list(trip.sites)
        for site, when in zip(sites, next_due, strict=True):
            queue = self._broker.queue_here(site.name)
            # One that turns out to be later costs one look; always later, it would never come.
            if queue is not None and when + _SLACK < queue.next_due:
                if queue.next_due != inf:
                    self._due.drop(queue)
                queue.next_due = when + _SLACK
                self._due.add(queue.next_due, queue)
        for index, what, wire_key, token, *rest in events:
            self._happened(sites[index - 1].name, what, wire_key, int(token), rest)

    def _happened(
        self, name: str, what: bytes, wire_key: bytes, token: int, rest: list[bytes]
    ) -> None:
        if what == b"dead":
            held = f"token {token}" if token else "not leased"
            reason, fate = (each.decode(errors="replace") for each in rest)
            # A time to live without a queue of dead letters is for what nobody will miss.
            is_missed = fate != "dropped" or reason != "expired"
            logger.log(
                _LEVELS[fate] if is_missed else logging.DEBUG,
                "queue %r: %r, %s, is " + _FATES[fate],
                *(name, shown(wire_key), held, reason),
            )
        elif (queue := self._broker.queue_here(name)) is not None:
            queue.lost(token)

    def told(self, message: bytes) -> None:
        """What somebody has published to this process."""
        name, _, want = message.partition(b"\0")
        queue = self._broker.queue_here(name.decode())
        if queue is not None and not queue.closed:
            queue.woken(want)
        elif want[:1] not in (b"l", b"x", b"j"):
            self._pass_on(name.decode(), want)

    def _pass_on(self, name: str, want: bytes) -> None:
        """A wake-up for a handle that is closed is for somebody else."""
        self._broker.courier.post(Ask("turn", "wake", self._broker.site(name), want))
