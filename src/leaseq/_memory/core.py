"""What a queue of this engine is made of: its parts, its time, its dead letters and its end."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import Any, TypeVar

from anyio import TASK_STATUS_IGNORED, BusyResourceError, Event
from anyio.abc import TaskStatus

from .._core.errors import InvalidLeaseError, LeaseqError, QueueClosedError
from .._core.lease import Lease
from .._core.loop import Home
from .._core.options import ANY_KEY, AnyKey
from .._core.policies import Retry, Tenant
from .._core.reports import DeadLetter, HistoryEntry
from .._core.requests import Request
from .._core.validation import lease_seconds, wait_seconds
from .._rules.capacity import Capacity
from .._rules.item import Item
from .._rules.ledger import Burial, Death, Ledger
from .._rules.moves import Fate
from .._rules.waiters import Waiter, Waiters
from ..abc import LeasedQueue
from .timekeeper import Timekeeper

__all__ = ["Core", "EventWaiter"]

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger("leaseq")

_SLICE = 200  # what is done in one go of what is due: a millisecond or two of the loop's time


class EventWaiter(Waiter[K, V]):
    """A consumer that waits, and what wakes it."""

    __slots__ = ("event",)

    def __init__(self, request: Request[K], *, patient: bool = False) -> None:
        super().__init__(request, patient=patient)
        self.event = Event()


class Core(LeasedQueue[K, V]):
    """The parts of a queue, and what has to happen whenever an item has moved."""

    def __init__(
        self,
        *,
        default_lease_timeout: float | None = None,
        max_size: float = inf,
        retry: Retry = Retry(),  # noqa: B008 - a constant
        dead_letters: Core[str, DeadLetter[K, V]] | None = None,
        tenants: Mapping[str, Tenant] | None = None,
        history: int = 0,
        dedupe_for: float | None = None,
        fast_acquire: bool = False,
        name: str = "",
    ) -> None:
        if not max_size >= 1:
            raise ValueError(f"max_size must be 1 or more, or math.inf, not {max_size!r}")
        if history < 0:
            raise ValueError(f"history must be 0 or more items, not {history!r}")
        if dedupe_for is not None:
            wait_seconds("dedupe_for", dedupe_for)
        self.name = name
        self._created_at = time.time()
        self._letters_of: dict[str, None] = {}  # the names of queues whose dead letters these are
        self.dead_letters = dead_letters
        self.timekeeper: Timekeeper | None = None
        self._keepers: list[Timekeeper] = []  # the first one is it
        lease_seconds("default_lease_timeout", default_lease_timeout)
        self._lease_timeout = default_lease_timeout
        self._any: Request[K] = Request(lease_timeout=default_lease_timeout)
        self._requests: dict[frozenset[object], Request[K]] = {}  # that pools make again and again
        self._fast_acquire = fast_acquire
        self._needs_time = retry.backoff is not None
        self._ledger: Ledger[K, V] = Ledger(
            Item,
            self,
            first_token=time.time_ns() // 1000,
            retry=retry,
            bury=self._prepare_burial,
            tenants=tenants,
            dedupe_for=dedupe_for,
        )
        # Deaths that are to be told of: the item, its fate, and the key of its letter.
        self._deaths: list[tuple[Death[K, V], Fate, str]] = []
        self._waiters: Waiters[K, V] = Waiters(self._ledger)
        self._room: Capacity[Event] | None = None if max_size == inf else Capacity(max_size)
        self._history: deque[HistoryEntry[K, V]] | None = deque(maxlen=history) if history else None
        self._home = Home()
        self._runs = False
        self._shut_down = False
        self._closed = False
        self._drained: Event | None = None  # there is one while somebody waits in `join`
        self._gated = self._room is not None or dedupe_for is not None  # not every put goes through
        self._timeless = False  # no timekeeper runs, and none is needed
        self._choose_keeper()
        # An ack is of interest to somebody: it may drain the queue, or goes into the history.
        self._always_watched = self._history is not None or dedupe_for is not None
        self._watched = self._always_watched
        if dead_letters is not None:
            dead_letters.has_letters_of(name)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "shut down" if self._shut_down else "open"
        delayed = len(self._ledger.delayed)
        counts = [f"{len(self._ledger.ready)} ready", f"{len(self._ledger.leased)} leased"]
        if delayed:
            counts.insert(1, f"{delayed} delayed")
        return f"<{type(self).__name__} {self.name!r} {state}: {', '.join(counts)}>"

    @property
    def closed(self) -> bool:
        return self._closed

    # For transactions, whose steps are planned with `Plan` and done on `ledger`

    def after_transaction(self, put: list[K], settled: list[Item[K, V]], now: float) -> None:
        """Tell those who wait what a transaction has brought. O(log n) for each step."""
        if self._waiters.total:
            self._wake(self._waiters.serve(put, now))
        self._after_return(*settled)

    def _admit(self) -> None:
        """Let producers in for whom there is room by now."""
        if self._room is not None:
            for turn in self._room.admit(self._ledger.waiting):
                turn.set()

    # Waiting

    def _wake(self, served: Iterable[Waiter[K, V]]) -> None:
        """Wake those who have been handed something."""
        for waiter in served:
            assert isinstance(waiter, EventWaiter)
            item = waiter.item
            if item is not None and self.timekeeper is not None:
                self.timekeeper.plan(item.deadline)
            waiter.event.set()
        self._admit()
        if self._deaths:
            self._tell_deaths()

    def _after_return(self, *items: Item[K, V]) -> None:
        """Items have left their leases: their keys may be ready again, or gone."""
        if self._waiters.total:
            now = self._home.time()
            self._wake(self._waiters.serve([item.key for item in items], now))
            if self._ledger.schedule is not None:
                for item in items:
                    self._wake(self._waiters.serve_tenant(item.tenant, now))
        if self.timekeeper is not None:
            self.timekeeper.plan(self._ledger.next_deadline())
        if self._shut_down:
            for item in items:
                if self._waiters.takers and item.key not in self._ledger:
                    self._turn_away(self._waiters.drop_takers(item.key))
        self._admit()
        self._check_drained()
        if self._deaths:
            self._tell_deaths()

    def _turn_away(self, waiters: Iterable[Waiter[K, V]]) -> None:
        for waiter in waiters:
            assert isinstance(waiter, EventWaiter)
            waiter.event.set()

    # Settling

    def _mine(self, lease: Lease[K, V]) -> Item[K, V]:
        """The lease as the ledger's item, if it is one of this queue's."""
        if lease.queue is not self or self._closed:
            raise self._not_mine(lease)
        self._check_home()
        return lease  # type: ignore[return-value]

    def _not_mine(self, lease: Lease[K, V]) -> LeaseqError:
        if lease.queue is not self:
            return InvalidLeaseError(f"{lease!r} is another queue's: settle it there")
        return QueueClosedError(f"{self!r}: its leases are lost", drained=self._ledger.drained)

    def _check_home(self) -> None:
        """See that this is the right event loop, if somebody may have to be woken in it."""
        if self._waiters.total or self.timekeeper is not None or self._drained is not None:
            self._home.check()

    # Dead letters

    def _prepare_burial(self, death: Death[K, V]) -> Burial:
        """Make the letter of an item that is about to die. Nothing has changed yet."""
        letters = self.dead_letters
        if letters is None or letters.closed:
            fate: Fate = "dropped" if letters is None else "kept"
            return Burial(fate, lambda: self._deaths.append((death, fate, "")))
        key = uuid.uuid4().hex
        now = self._home.time()
        letter = DeadLetter(
            queue=self.name,
            key=death.item.key,
            value=death.value,
            token=death.token,
            reason=death.reason,
            error=death.error,
            deliveries=death.item.deliveries,
            tenant=death.item.tenant,
            priority=death.item.priority,
            died_at=time.time(),
        )

        def finish() -> None:
            # Whatever the size of that queue, and even if it is shut down.
            letters._ledger.add(key, letter, now)
            self._deaths.append((death, "dead", key))

        return Burial("dead", finish)

    def _tell_deaths(self) -> None:
        """Wake those who wait for letters, and log the deaths, of moves that are complete."""
        deaths, self._deaths = self._deaths, []
        keys = [key for _, fate, key in deaths if fate == "dead"]
        if keys and self.dead_letters is not None:
            self.dead_letters._wake_for(keys)
        for death, fate, _ in deaths:
            held = "not leased" if death.token is None else f"token {death.token}"
            what = (self.name, death.item.key, held, death.reason)
            if fate == "dropped":
                # A time to live without a queue of dead letters is for what nobody will miss.
                level = logging.DEBUG if death.reason == "expired" else logging.WARNING
                logger.log(level, "queue %r: %r, %s, is dead (%s) and dropped", *what)
            elif fate == "kept":
                logger.error(
                    "queue %r: %r, %s, is dead (%s), but the queue of dead letters is closed: "
                    "it is tried again later",
                    *what,
                )
            else:
                logger.warning("queue %r: %r, %s, is a dead letter (%s)", *what)

    def has_letters_of(self, name: str, *, so: bool = True) -> None:
        """Remember that another queue's dead letters come here, or do no more."""
        if so:
            self._letters_of[name] = None
        else:
            self._letters_of.pop(name, None)

    def _wake_for(self, keys: list[K]) -> None:
        """Serve those who wait, when keys have become ready."""
        if self._waiters.total:
            self._wake(self._waiters.serve(keys, self._home.time()))

    # The end

    def _check_drained(self) -> None:
        if not self._watched or not self._ledger.drained:
            return
        if self._drained is not None:
            self._drained.set()
            self._drained = None
            self._watched = self._shut_down or self._always_watched
        if self._shut_down:
            self._turn_away(self._waiters.drop_all())
            if self.timekeeper is not None:
                self.timekeeper.ring()

    def _check_can_come(self, key: K | AnyKey) -> None:
        """Raise if what is asked for cannot come any more."""
        gone = key is not ANY_KEY and key not in self._ledger
        if self._closed or self._ledger.drained or gone:
            raise self._closed_error(key)

    def _closed_error(self, key: K | AnyKey = ANY_KEY) -> QueueClosedError:
        drained = self._ledger.drained
        if drained:
            why = f"{self!r} is drained: nothing more is coming"
        elif self._closed or key is ANY_KEY:
            why = f"{self!r} was closed with work left"
        else:
            why = f"{self!r} takes nothing more, so that key {key!r} cannot come any more"
        return QueueClosedError(why, drained=drained)

    # Time

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._runs:
            raise BusyResourceError("letting time pass for")
        self._home.check()
        self._runs = True
        keeper = Timekeeper(self._home, owner=self)
        try:
            await keeper.keep(self._with_dead_letters, self._is_over, task_status)
        finally:
            self._runs = False

    def _is_over(self) -> bool:
        return self._closed or (self._shut_down and self._ledger.drained)

    def _with_dead_letters(self) -> Iterator[Core[Any, Any]]:
        """The queues that `run` lets time pass for, unless they have a `run` of their own."""
        queue: Core[Any, Any] | None = self
        while queue is not None:
            yield queue
            queue = queue.dead_letters

    def offer(self, keeper: Timekeeper) -> None:
        """A timekeeper would look after this queue: its own `run`'s, or another's. For `run`."""
        if keeper not in self._keepers:
            self._keepers.insert(0 if keeper.owner is self else len(self._keepers), keeper)
            self._choose_keeper()

    def withdraw(self, keeper: Timekeeper) -> None:
        """A timekeeper will not look after this queue any more. For `run`."""
        if keeper in self._keepers:
            self._keepers.remove(keeper)
            self._choose_keeper()
        if self.timekeeper is not None:
            self.timekeeper.ring()

    def _choose_keeper(self) -> None:
        self.timekeeper = self._keepers[0] if self._keepers else None
        needed = self._needs_time or self._any.timed or self._gated
        self._timeless = self.timekeeper is None and not needed

    def expire_now(self) -> int:
        """Bury the items whose time to live is over; how many there were. O(log n) each."""
        before = self._ledger.outlived
        self._check_home()
        now = self._home.time()
        while self.tick(now) <= now:
            pass
        return self._ledger.outlived - before

    def letters(self: Core[str, DeadLetter[Any, Any]]) -> Iterator[DeadLetter[Any, Any]]:
        """All the dead letters in here. O(letters)."""
        ledger = self._ledger
        for items in (ledger.ready, ledger.delayed, ledger.leased):
            for item in items.values():
                if isinstance(item.value, DeadLetter):  # others may have been put there by hand
                    yield item.value

    def tick(self, now: float) -> float:
        """Do what is due, a slice of it at a time, and say when there is more. For `run`."""
        changed = list(islice(self._ledger.tick(now), _SLICE))
        for item in changed:
            if item.ended == "lost":
                logger.warning(
                    "queue %r: the lease on %r, token %d, expired", self.name, item.key, item.token
                )
                item.cancel_body()
        if changed:
            self._after_return(*changed)
        return self._ledger.next_deadline()
