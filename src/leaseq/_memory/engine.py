"""The anyio shell around the rules: who waits, who is woken, and what time does."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

from anyio import CancelScope, Event, fail_after

from .._core.errors import QueueClosedError
from .._core.lease import Lease
from .._core.messages import check_held, check_release, never_fits, no_timekeeper
from .._core.options import ANY_KEY, AnyKey, GetOptions, TakeOptions
from .._core.reports import HistoryEntry, PutOutcome
from .._core.requests import Request, Terms
from .._rules.item import Item
from .._rules.ledger import Ledger
from .core import Core, EventWaiter

__all__ = ["Shell"]

K = TypeVar("K")
V = TypeVar("V")

_MOST_REQUESTS = 64


class Shell(Core[K, V]):
    """What a queue of this engine does behind its calls: it asks the ledger, and does the waiting.

    An item is handed over before its consumer is woken, and a place before its producer is; who is
    cancelled in between gives back what it has been given.
    """

    # Producers

    def _pairs(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> list[tuple[K, V]]:
        return list(items.items() if isinstance(items, Mapping) else items)

    def _places(self, keys: Collection[K], terms: Terms) -> int:
        """How much room putting these keys takes; raises what putting them would raise."""
        self.check_takes(terms)
        for key in keys:
            self._ledger.check_put(key, terms)
        now = self._home.time()
        ledger = self._ledger
        new = {key for key in keys if key not in ledger and not ledger.is_duplicate(key, now)}
        if self._room is not None and len(new) > self._room.size:
            raise never_fits(len(new), self._room.size)
        return len(new)

    def check_takes(self, terms: Terms) -> None:
        """Raise if nothing can be put like that, whatever the key. O(1)."""
        if self._shut_down:
            raise QueueClosedError(f"{self!r} takes nothing more")
        if terms.delay > 0 and self.timekeeper is None:
            raise no_timekeeper(self, f"a delay of {terms.delay} s", "be ready")
        self._check_home()

    def has_room(self, places: int) -> bool:
        """Whether so many items can be put now. O(1)."""
        return not places or self._room is None or self._room.free(self._ledger.waiting, places)

    async def _wait_for_room(self, keys: Collection[K], terms: Terms) -> None:
        """Wait until these keys can be put; then it must be done before anything else is."""
        again = False
        while not self.has_room(places := self._places(keys, terms)):
            assert self._room is not None
            self._home.check()
            turn = Event()
            self._room.wait(turn, places, first=again)
            self._admit()  # there may be room by now for who comes first
            try:
                await turn.wait()
            except BaseException:
                if not self._room.leave(turn):
                    self._room.give_back(places)
                    self._admit()
                raise
            self._room.give_back(places)
            try:
                if self._places(keys, terms) <= places:
                    return
            except BaseException:
                self._admit()  # what it cannot use is for the next
                raise
            again = True

    def _put_all(self, pairs: Collection[tuple[K, V]], terms: Terms) -> list[PutOutcome]:
        """Put what `_places` has had no objection to."""
        now = self._home.time()
        outcomes = [self._ledger.put(key, value, now, terms) for key, value in pairs]
        if terms.timed and self.timekeeper is not None:
            self.timekeeper.plan(self._ledger.next_deadline())
        if self._waiters.total:  # only now: a key that comes twice must not be leased in between
            self._wake(self._waiters.serve([key for key, _ in pairs], now))
        self._admit()
        return outcomes

    # For transactions, whose steps are planned with `Plan` and done on `ledger`

    @property
    def ledger(self) -> Ledger[K, V]:
        """The queue's items. Who changes them tells those who wait, by `after_transaction`."""
        return self._ledger

    @property
    def buries(self) -> bool:
        """Whether an item that dies would be gone from here: a letter elsewhere, or dropped."""
        return self.dead_letters is None or not self.dead_letters.closed

    def held(self, lease: Lease[K, V], now: float) -> Item[K, V]:
        """What a lease holds; raises what settling it would raise. O(1)."""
        item = self._mine(lease)
        check_held(item, now)
        return item

    # Consumers

    def _request(self, key: K | AnyKey, options: GetOptions | TakeOptions) -> Request[K]:
        if key is not ANY_KEY:
            return self._new_request(key, options)
        try:
            known = frozenset(options.items())
            request = self._requests.get(known)
        except TypeError:  # a list of tenants, which may say something else the next time
            return self._new_request(key, options)
        if request is None:
            if len(self._requests) == _MOST_REQUESTS:
                self._requests.clear()
            request = self._requests[known] = self._new_request(key, options)
        return request

    def _new_request(self, key: K | AnyKey, options: GetOptions | TakeOptions) -> Request[K]:
        options = {"lease_timeout": self._lease_timeout, **options}
        return Request(key, **options)

    def _claim(self, request: Request[K]) -> Item[K, V] | None:
        """Hand out what is asked for, if it is ready."""
        keeper = self.timekeeper
        if request is self._any and not self._gated:  # the short way
            if self._timeless:
                item = self._ledger.claim_next()
            elif keeper is not None:
                now = self._home.time()
                deadline = now + request.lease_timeout
                if deadline < keeper.wake_at:
                    self._home.check()
                    keeper.plan(deadline)
                item = self._ledger.claim_next(now, deadline)
            else:
                item = None
            if item is not None:
                return item
        if self._shut_down:
            self._check_can_come(request.key)
        if keeper is None and (request.timed or self._needs_time):
            what = f"a lease of {request.lease_timeout} s" if request.timed else "a backoff"
            raise no_timekeeper(self, what, "expire" if request.timed else "end")
        if keeper is not None or self._waiters.total:
            self._home.check()
        item = self._ledger.claim(request, self._home.time())
        self._admit()
        if self._deaths:
            self._tell_deaths()
        if item is not None:
            if keeper is not None:
                keeper.plan(item.deadline)
        else:  # what was left may have outlived its time just now
            self._check_drained()
            if self._shut_down:
                self._check_can_come(request.key)
        return item

    # Waiting

    async def _wait(self, request: Request[K], timeout: float | None) -> Item[K, V]:
        self._home.check()
        if self.timekeeper is None and self._ledger.delayed:
            raise no_timekeeper(self, "an item that falls due later", "come")
        if timeout is None:
            return await self._stand_in_line(EventWaiter(request))
        with fail_after(timeout):
            return await self._stand_in_line(EventWaiter(request))

    async def _stand_in_line(self, waiter: EventWaiter[K, V]) -> Item[K, V]:
        self._waiters.add(waiter)
        while True:
            try:
                await waiter.event.wait()
            except BaseException:
                self._withdraw(waiter)
                raise
            item = waiter.item
            if self._closed or item is None:
                raise self._closed_error(waiter.request.key)
            if item.ended is None:
                if item.deadline > self._home.time():
                    return item
                self._ledger.undo(item, self._home.time())
            # The lease ran out before its consumer could run: it was first in line, and still is.
            try:
                again = self._claim(waiter.request)
            finally:
                self._after_return(item)  # what it was given and may not have is for others
            if again is not None:
                return again
            waiter.event = Event()
            self._waiters.add(waiter)

    async def _fill(
        self, batch: list[Item[K, V]], request: Request[K], size: int, seconds: float
    ) -> list[Item[K, V]]:
        """Add what is ready to a batch, and then what comes in some seconds."""
        try:
            while len(batch) < size and (item := self._claim(request)) is not None:
                batch.append(item)
            if seconds and len(batch) < size:
                with CancelScope(deadline=self._home.time() + seconds), suppress(QueueClosedError):
                    while len(batch) < size and not self._shut_down:
                        more = self._claim(request)  # many may have come at once
                        if more is None:
                            more = await self._stand_in_line(EventWaiter(request, patient=True))
                        batch.append(more)
        except BaseException:
            for item in batch:
                if item.ended is None:
                    self._ledger.undo(item, self._home.time())
            self._after_return(*batch)
            raise
        if self._closed:
            raise self._closed_error()
        now = self._home.time()
        return [item for item in batch if item.ended is None and item.deadline > now]

    def _withdraw(self, waiter: EventWaiter[K, V]) -> None:
        """Let a waiter go, and what it was given go back: it will never see it."""
        item = waiter.item
        if item is not None:
            if item.ended is None:
                self._ledger.undo(item, self._home.time())
                self._after_return(item)
        elif not waiter.event.is_set():
            self._waiters.drop(waiter)

    # Settling

    def do_ack(self, item: Item[K, V], now: float) -> bool:
        """Acknowledge an item, and remember it if that was asked for."""
        updated = self._ledger.ack(item, now)
        if self._history is not None:
            self._history.append(
                HistoryEntry(item.key, item.value, item.token, item.deliveries, time.time())
            )
        return updated

    def check_release(self, requeue_front: bool, delay: float | None) -> None:
        """Raise if a lease cannot be released like that."""
        if delay is not None:
            timed = self.timekeeper is not None
            check_release(self, delay, requeue_front=requeue_front, timed=timed)
