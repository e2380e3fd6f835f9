"""The items of a batcher, their batches, and the times at which these are due. Sans-IO.

Items are gathered in order of arrival. As soon as there are enough of them, they form a full batch,
which is due immediately. So at most one batch is not full, the last one: it is due some time after
its first item, the only one whose time has to be known.

A batch that is being flushed stays here, in front and unchanged, until it is flushed or given up:
if the flush is cancelled, there is nothing to put back. If the flush fails, the batch rests, and no
other passes it. Once taken, a batch accepts no more items, full or not.

An item's *position* is the number of items that came before it, ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from math import inf
from typing import Generic, TypeVar

from .._core.policies import Retry, rest_by

T = TypeVar("T")
P = TypeVar("P")

_UNTAKEN = 60.0  # seconds until a batch that was not taken is offered again, without a backoff


class Batch(Generic[T]):
    """Items that are flushed together.

    Attributes:
        start: The position of the first one.
        items: The items, in order.
        deliveries: The number of failed deliveries.
        due: The time until which it rests.
        error: The error of the last delivery that the retry policy allows; None: there are more.
    """

    __slots__ = ("deliveries", "due", "error", "items", "start")

    def __init__(self, start: int, items: list[T]) -> None:
        self.start = start
        self.items = items
        self.deliveries = 0
        self.due = -inf
        self.error: Exception | None = None


class Buffer(Generic[T, P]):
    """The items in order, their batches, and the producers that wait for room.

    A waiting producer is handed its places before it is woken, in order of arrival, so that no
    later producer can take them.

    Args:
        size: The number of items in a full batch.
        interval: Seconds after its first item until a batch is due that is not full.
        capacity: The largest number of items, including the batch in the callback.
        retry: The policy for batches that failed.

    Attributes:
        filling: The items of the last batch, which is not full.
        open: True: items are accepted.
        spare: The number of items that may simply be appended to `filling`: they neither begin a
            batch nor fill one, and there is room for them.
    """

    __slots__ = (
        "_admitted",
        "_capacity",
        "_interval",
        "_producers",
        "_reserved",
        "_retry",
        "_run_items",
        "_runs",
        "_since",
        "_size",
        "_start",
        "_taken",
        "_taken_items",
        "filling",
        "open",
        "spare",
    )

    def __init__(self, size: int, interval: float, capacity: float, retry: Retry) -> None:
        self.filling: list[T] = []
        self.open = False
        self.spare = 0
        self._size = size
        self._interval = interval
        self._capacity = capacity
        self._retry = retry
        self._since = 0.0  # the time of the first item of `filling`
        self._runs: deque[list[T]] = deque()  # one or more full batches each, the first items last
        self._run_items = 0
        self._start = 0  # the position of the first item in no taken batch
        self._taken: OrderedDict[int, Batch[T]] = OrderedDict()  # by their starts, and so in order
        self._taken_items = 0
        self._producers: OrderedDict[P, int] = OrderedDict()
        self._admitted: dict[P, int] = {}
        self._reserved = 0

    def __len__(self) -> int:
        return self._taken_items + self._run_items + len(self.filling)

    def __iter__(self) -> Iterator[T]:
        for batch in self._taken.values():
            yield from batch.items
        for run in self._runs:
            yield from reversed(run)
        yield from self.filling

    # Adding items

    def add(self, items: list[T], now: float) -> None:
        """Add items in their order. O(items)."""
        size, filling = self._size, self.filling
        fits = 0
        if filling:
            fits = size - len(filling)
            filling += items[:fits]
            if len(items) < fits:
                self.recount()
                return
            self._add_run(filling[::-1])
        short = len(items) - (len(items) - fits) % size  # from here on they form no full batch
        if short > fits:  # one backward slice: to copy and then reverse takes a third longer
            self._add_run(items[short - 1 : fits - 1 if fits else None : -1])
        self.filling = items[short:]
        self._since = now
        self.recount()

    def _add_run(self, items: list[T]) -> None:
        """Add full batches, given with the first item last: so they can be taken from the end."""
        self._runs.append(items)
        self._run_items += len(items)

    def recount(self) -> None:
        """Count `spare` anew. O(1)."""
        short = len(self.filling)
        if short and self.open and not self._producers:
            room = self._capacity - len(self) - self._reserved
            self.spare = int(min(self._size - 1 - short, room))
        else:
            self.spare = 0

    # Flushing batches

    @property
    def start(self) -> int:
        """The position of the first item that is neither flushed nor given up. O(1)."""
        return next(iter(self._taken), self._start)

    def end(self, *, short: bool) -> int:
        """Return the position after the last item, or after the last full batch. O(1)."""
        end = self._start + self._run_items
        return end + len(self.filling) if short else end

    def end_of_due(self, now: float) -> int:
        """Return the position after the last item that is due. O(1)."""
        return self.end(short=self._since + self._interval <= now)

    def rests_until(self) -> float:
        """Return the time from which the first batch may be tried. O(1)."""
        return next((batch.due for batch in self._taken.values()), -inf)

    def next_deadline(self) -> float:
        """Return the time at which the next batch is due; `math.inf`: never. O(1)."""
        if self._taken:
            return self.rests_until()
        if self._runs:
            return -inf
        return self._since + self._interval if self.filling else inf

    def take(self, end: int, now: float) -> Batch[T] | None:
        """Return the first batch if it starts before a position and does not rest. O(its items)."""
        if self.start >= end or self.rests_until() > now:
            return None
        if not self._taken:
            self._take_next()
        return next(iter(self._taken.values()))

    def take_all(self) -> list[Batch[T]]:
        """Return all batches, due or not. O(items)."""
        while self._runs or self.filling:
            self._take_next()
        return list(self._taken.values())

    def _take_next(self) -> None:
        if self._runs:
            run = self._runs[0]
            items = run[-self._size :]
            items.reverse()
            del run[-self._size :]
            if not run:
                self._runs.popleft()
            self._run_items -= len(items)
        else:
            items, self.filling = self.filling, []
        self._taken[self._start] = Batch(self._start, items)
        self._start += len(items)
        self._taken_items += len(items)
        self.recount()

    def failed(self, batch: Batch[T], error: Exception, now: float) -> BaseException | None:
        """Let a batch rest that failed, or record the error of its last delivery. O(1).

        Returns:
            An error of the retry policy, which may be the user's own: the batch rests for a minute.
        """
        batch.deliveries += 1
        try:
            if self._retry.exhausted(batch.deliveries):
                batch.error = error
            else:
                batch.due = now + rest_by(self._retry, batch.deliveries)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as mishap:
            batch.due = now + _UNTAKEN
            return mishap
        return None

    def not_given_up(self, batch: Batch[T], now: float) -> None:
        """Let a batch rest that could not be given up: it is offered again later. O(1)."""
        backoff = self._retry.backoff
        batch.due = now + (_UNTAKEN if backoff is None else backoff.ceiling)

    def remove(self, batch: Batch[T]) -> None:
        """Remove a batch that was flushed or given up. O(1)."""
        del self._taken[batch.start]
        self._taken_items -= len(batch.items)
        self.recount()

    # Waiting producers

    def room(self, places: int) -> bool:
        """Return True if so many items can be added now. O(1)."""
        if not self.open or self._producers:
            return False
        return self._capacity == inf or len(self) + self._reserved + places <= self._capacity

    def wait(self, producer: P, places: int) -> None:
        """Add a producer that waits for so many places. O(1)."""
        self._producers[producer] = places
        self.recount()

    def leave(self, producer: P) -> bool:
        """Remove a producer; True: it had its places, which are no longer reserved. O(1)."""
        admitted = self._admitted.pop(producer, 0)
        self._reserved -= admitted
        self._producers.pop(producer, None)
        self.recount()
        return admitted > 0

    def admit(self) -> Iterator[P]:
        """Reserve places for producers while there is room, and yield each of them. O(1) each."""
        while self._producers:
            producer, places = next(iter(self._producers.items()))
            if len(self) + self._reserved + places > self._capacity:
                return
            del self._producers[producer]
            self._admitted[producer] = places
            self._reserved += places
            self.recount()
            yield producer

    def turn_away(self) -> list[P]:
        """Remove all waiting producers, and return them. O(their number)."""
        producers = list(self._producers)
        self._producers.clear()
        self.recount()
        return producers
