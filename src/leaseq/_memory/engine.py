"""The engine behind a queue in this process: its items, its waiters, its time and its end."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from itertools import islice
from math import inf
from typing import Any, Generic, Literal, TypeVar, cast

from anyio import (
    TASK_STATUS_IGNORED,
    BusyResourceError,
    CancelScope,
    Event,
    WouldBlock,
    move_on_after,
)
from anyio.abc import TaskStatus

from .._core.errors import LeaseqError, QueueClosedError
from .._core.ids import new_id
from .._core.kept import Kept
from .._core.log import Burst
from .._core.loop import Home
from .._core.messages import (
    RUN_TWICE,
    Cancellation,
    check_held,
    check_release,
    claim_needs_time,
    closed_with_work_left,
    drained,
    full,
    key_cannot_come,
    lease_ended,
    leases_lost,
    never_fits,
    no_dead_letters_of,
    no_timekeeper,
    not_of_queue,
    not_ready,
    other_receipt,
    paused_text,
    put_needs_time,
    takes_nothing_more,
    timed_out,
)
from .._core.options import ANY_KEY, AnyKey, GetOptions, TakeOptions
from .._core.policies import Backoff, Retry, Tenant, rests
from .._core.receipt import read_receipt
from .._core.reports import (
    DeadLetter,
    HistoryEntry,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
    TenantStatistics,
    with_paused,
)
from .._core.requests import ClaimRequest, PutRequest, checked_limit
from .._core.texts import failure_text
from .._core.validation import keys_of, lease_seconds, reason_text
from .._rules.by_key import can_be_found
from .._rules.capacity import Capacity
from .._rules.item import Item
from .._rules.ledger import Burial, Death, Ledger
from .._rules.moves import UNDECIDED, Fate
from .._rules.schedule import Schedule
from .._rules.waiters import Waiter, Waiters
from ..abc import LeasedQueue
from ..abc._lease import Lease, check_lease
from .kept import KeptHere
from .timekeeper import Timekeeper

K = TypeVar("K")
V = TypeVar("V")

_CHECKED = sys.flags.dev_mode  # Python's development mode: each call checks its event loop
_SLICE = 200  # due items processed in one go: a millisecond or two of the loop's time
_MOST_REQUESTS = 64
_WOKEN = 256  # waiters woken in one go: each of them wakes another one
_SPARED = 1.0  # seconds that an overdue lease gets to be settled or extended, which is now


class BellWaiter(Waiter[K, V]):
    """A waiting consumer, and the bell that wakes it.

    Attributes:
        bell: Made by `Home.bell`.
        in_line: False: it was served or turned away, and is about to wake.
    """

    __slots__ = ("bell", "in_line")

    bell: Awaitable[object]
    in_line: bool


class Engine(Generic[K, V]):
    """The ledger and waiters of a queue, and the anyio shell around them.

    The queue that users hold is a handle on it, and inlines the fast paths of the commonest calls;
    brokers, transactions and timekeepers call the engine itself.

    An item is handed over before its consumer is woken, and a place before its producer is; a task
    that is cancelled in between returns the item or the place.

    Args:
        queue: The handle, which leases name as their queue.
        name: As in `LeasedKeyQueue`, like all that follow.
        default_lease_timeout: Seconds, or `math.inf`.
        max_size: The largest number of waiting items.
        retry: The policy for failed deliveries.
        dead_letters: The engine of the queue of dead letters.
        tenants: Weights and caps.
        history: The number of acknowledged items to remember.
        dedupe_for: Seconds for which the key of an acknowledged item is a duplicate.
        fast_acquire: True: calls that need not wait neither look for a cancellation nor suspend.

    Attributes:
        timekeeper: The first of `timekeepers`, which processes what falls due.
        any_request: The request of a `get` without options.
        gated: True: a put may be refused or wait, by a maximum size, deduplication or a shutdown;
            or nothing may be claimed, as the queue is paused.
        always_gated: True: that is so by its options.
        timeless: True: no timekeeper runs, and nothing needs one.
        to_wake: The bells of consumers that are no longer in line, to be rung by others.
        watched: True: an ack may drain the queue for a waiter, or goes into the history. The ack of
            a lease that is not the last one drains nothing.
    """

    __slots__ = (
        "always_gated",
        "always_watched",
        "any_request",
        "burst",
        "capacity",
        "closed",
        "created_at",
        "dead_letters",
        "deaths",
        "drained_event",
        "fast_acquire",
        "gated",
        "history",
        "home",
        "kept",
        "ledger",
        "letters_of",
        "name",
        "needs_time",
        "queue",
        "requests",
        "running",
        "shut_down",
        "ticking",
        "timekeeper",
        "timekeepers",
        "timeless",
        "to_wake",
        "waiters",
        "watched",
    )

    def __init__(
        self,
        queue: LeasedQueue[K, V],
        *,
        name: str = "",
        default_lease_timeout: float | None = None,
        max_size: float = inf,
        retry: Retry = Retry(),  # noqa: B008 - a constant
        dead_letters: Engine[str, DeadLetter[K, V]] | None = None,
        tenants: Mapping[str, Tenant] | None = None,
        history: int = 0,
        dedupe_for: float | None = None,
        fast_acquire: bool = False,
    ) -> None:
        self.queue = queue
        self.name = name
        self.created_at = time.time()
        self.fast_acquire = fast_acquire
        self.home = Home()
        self.any_request: ClaimRequest[K] = ClaimRequest(lease_timeout=default_lease_timeout)
        self.requests: dict[frozenset[object], ClaimRequest[K]] = {}  # pools repeat them
        self.ledger: Ledger[K, V] = Ledger(
            Item,
            queue,
            first_token=time.time_ns() // 1000,
            retry=retry,
            bury=self._prepare_burial,
            tenants=tenants,
            dedupe_for=dedupe_for,
        )
        self.waiters: Waiters[K, V] = Waiters(self.ledger)
        self.to_wake: deque[Awaitable[object]] = deque()
        self.burst = Burst()  # records to write once the present move, or tick, is complete
        self.ticking = False  # slices of what is due are left
        self.deaths: list[tuple[Death[K, V], Fate, str]] = []  # to report: item, fate, letter
        self.capacity: Capacity[Event] | None = None if max_size == inf else Capacity(max_size)
        self.history: deque[HistoryEntry[K, V]] | None = deque(maxlen=history) if history else None
        self.needs_time = rests(retry)
        self.timekeeper: Timekeeper | None = None
        self.timekeepers: list[Timekeeper] = []
        self.kept: KeptHere | None = None  # made when something is first kept, or waited for
        self.running = False
        self.shut_down = False
        self.closed = False
        self.drained_event: Event | None = None  # there is one while a task waits in `join`
        self.always_gated = _CHECKED or self.capacity is not None or dedupe_for is not None
        self.gated = self.always_gated
        self.always_watched = _CHECKED or self.history is not None or dedupe_for is not None
        self.watched = self.always_watched
        self.timeless = False
        self._choose_timekeeper()
        self.letters_of: dict[str, None] = {}  # the names of queues whose dead letters these are
        self.dead_letters = dead_letters
        if dead_letters is not None:
            dead_letters.letters_of[name] = None

    def turn(self, *, timed: bool) -> Awaitable[object] | None:
        """Begin a call that may not have to wait, and return something to await before it, or None.

        It is not called with `fast_acquire`.

        Args:
            timed: True: the call needs a timekeeper.
        """
        if self.timekeeper is None and (timed or self.needs_time):
            return self.home.checkpoint()  # `run` may have been started just now
        return self.home.turn()

    # Producers

    def check_puts(self, keys: Collection[K], request: PutRequest) -> None:
        """Raise the error that putting these keys would raise. O(keys)."""
        self.check_takes(request)
        for key in keys:
            self.ledger.check_put(key, request)

    def new_keys(self, keys: Collection[K], request: PutRequest) -> set[K]:
        """Return the keys that need a place; raise the error that putting them would raise."""
        self.check_puts(keys, request)
        now = self.home.time()
        ledger = self.ledger
        new = {key for key in keys if key not in ledger and not ledger.is_duplicate(key, now)}
        if self.capacity is not None and len(new) > self.capacity.size:
            raise never_fits(len(new), self.capacity.size)
        return new

    def check_takes(self, request: PutRequest) -> None:
        """Raise if a put with these options is refused, whatever the key. O(1)."""
        if self.shut_down:
            raise self._takes_nothing_more()
        if request.delay > 0 and self.timekeeper is None:
            raise put_needs_time(self.queue, request.delay)
        self.check_home()

    def _takes_nothing_more(self) -> QueueClosedError:
        return takes_nothing_more(self.queue, "closed" if self.closed else "shut down")

    def has_room(self, places: int) -> bool:
        """Return True if so many items can be put now. O(1)."""
        if not places or self.capacity is None:
            return True
        return self.capacity.free(self.ledger.waiting, places)

    def no_room_now(self) -> WouldBlock:
        """Return the error for a put that does not wait for room."""
        assert self.capacity is not None
        return WouldBlock(full(repr(self.queue), self.capacity.size))

    async def wait_for_room(self, keys: Collection[K], request: PutRequest) -> None:
        """Wait until these keys can be put; the caller must put them without suspending."""
        if self.capacity is None:
            self.check_puts(keys, request)
            return
        again = False
        while not self.has_room(len(new := self.new_keys(keys, request))):
            self.home.check()
            turn = Event()
            self.capacity.wait(turn, new, first=again)
            self._admit()  # there may be room by now for the first in line
            places = 0
            try:
                await turn.wait()
                places = self.capacity.leave(turn)
                again = len(self.new_keys(keys, request)) > places
            except BaseException:
                self.capacity.leave(turn)
                self._admit()  # it may have been in the way, or have had places
                raise
            if not again:
                return

    def put_all(self, pairs: Sequence[tuple[K, V]], request: PutRequest) -> list[PutOutcome]:
        """Put items that `new_keys` has accepted."""
        now = self.home.time()
        outcomes: list[PutOutcome] = []
        if self.waiters.anyone and request.is_plain and not self.gated:
            outcomes = [PutOutcome.ADDED] * self._hand_first(pairs, now)
            if len(outcomes) == len(pairs):
                return outcomes
            pairs = pairs[len(outcomes) :]
        outcomes += [self.ledger.put_accepted(key, value, now, request) for key, value in pairs]
        # Only now: a key that comes twice must not be leased in between.
        self.after_change([key for key, _ in pairs], (request.tenant,))
        return outcomes

    def _hand_first(self, pairs: Sequence[tuple[K, V]], now: float) -> int:
        """Put the first of some items for those who wait for any, and return how many they were."""
        served: list[Waiter[K, V]] = []
        with suppress(Exception):  # a key's own: the others go the usual way
            if len({key for key, _ in pairs}) == len(pairs):
                for key, value in pairs:
                    waiter = self.waiters.hand_new(key, value, now)
                    if waiter is None:
                        break
                    served.append(waiter)
        self._wake(served)
        return len(served)

    # Consumers

    def request(
        self, call: str, key: K | AnyKey, options: GetOptions | TakeOptions
    ) -> ClaimRequest[K]:
        """Check the options of a get or take. The result for a get is kept for the next one."""
        if key is not ANY_KEY:
            return self._new_request(call, key, options)
        try:
            known = frozenset(options.items())
            request = self.requests.get(known)
        except TypeError:  # a list of tenants, which may say something else the next time
            return self._new_request(call, key, options)
        if request is None:
            if len(self.requests) == _MOST_REQUESTS:
                self.requests.clear()
            request = self.requests[known] = self._new_request(call, key, options)
        return request

    def _new_request(
        self, call: str, key: K | AnyKey, options: GetOptions | TakeOptions
    ) -> ClaimRequest[K]:
        timeout = self.any_request.lease_timeout
        options = {"lease_timeout": None if timeout == inf else timeout, **options}
        return ClaimRequest(key, call, **options)

    def claim(self, request: ClaimRequest[K]) -> Item[K, V] | None:
        """Hand out an item for a request; None: none is ready."""
        keeper = self.timekeeper
        ledger = self.ledger
        if request is self.any_request and not self.gated:  # the fast path
            if not ledger.ready and (self.timeless or keeper is not None):
                return None
            if self.timeless:
                item = ledger.claim_next()
            elif keeper is not None:
                clock = self.home.time
                now = clock()
                deadline = now + request.lease_timeout
                if deadline < keeper.wake_at:
                    self.home.check()
                    keeper.plan(deadline)
                item = ledger.claim_next(now, deadline)
            else:
                item = None
            if item is not None:
                return item
        if self.shut_down:
            self._check_can_come(request.key)
        if keeper is None and (request.timed or self.needs_time):
            raise claim_needs_time(self.queue, request.lease_timeout)
        self.check_home()
        item = ledger.claim(request, self.home.time())
        self._admit()
        if item is not None and keeper is not None:
            keeper.plan(item._deadline)
        if self.deaths:  # items that had outlived their time
            self.after_change(())
        if item is None and self.shut_down:
            self._check_can_come(request.key)
        return item

    def would_block(self, request: ClaimRequest[K]) -> WouldBlock:
        """Return the error for a claim that does not wait. O(tenants that are paused)."""
        return WouldBlock(not_ready(self.queue, request.key, self._pause_for(request)))

    def _pause_for(self, request: ClaimRequest[K]) -> str:
        """Return the words for the pause that keeps an item from a request; empty: none does."""
        ledger = self.ledger
        if ledger.paused is not None:
            return paused_text(None, ledger.paused)
        if ledger.schedule is not None:
            for tenant, pause in ledger.paused_tenants.items():
                if self._is_asked_for(request, tenant, ledger.schedule):
                    return paused_text(tenant, pause)
        return ""

    def _is_asked_for(
        self, request: ClaimRequest[K], tenant: str, schedule: Schedule[K, V]
    ) -> bool:
        """Return True if a tenant has something ready that a request asks for."""
        if request.key is not ANY_KEY:
            item = self.ledger.ready.get(request.key)
            return item is not None and item._tenant == tenant
        return request.serves(tenant) and schedule.has_ready(tenant)

    def wait(
        self, request: ClaimRequest[K], timeout: float | None
    ) -> Coroutine[Any, Any, Item[K, V]]:
        """Wait for an item. Raises `TimeoutError` after so many seconds."""
        if self.fast_acquire:  # else `turn` has looked
            self.home.check()
        if self.timekeeper is None and self.ledger.delayed:
            raise no_timekeeper(self.queue, "an item that falls due later", "come")
        if timeout is None:
            return self._stand_in_line(BellWaiter(request))
        return self._stand_in_line_for(BellWaiter(request), timeout)

    async def _stand_in_line_for(self, waiter: BellWaiter[K, V], seconds: float) -> Item[K, V]:
        with move_on_after(seconds):
            return await self._stand_in_line(waiter)
        request = waiter.request
        raise timed_out(self.queue, request.key, seconds, self._pause_for(request))

    async def _stand_in_line(self, waiter: BellWaiter[K, V]) -> Item[K, V]:
        while True:
            waiter.bell = bell = self.home.bell()
            waiter.in_line = True
            self.waiters.add(waiter)
            try:
                await bell
            except BaseException:
                self._leave_line(waiter)
                raise
            finally:
                if self.to_wake:
                    self.home.ring(self.to_wake.popleft())
            item = waiter.item
            if self.closed or item is None:
                raise self.closed_error(waiter.request.key)
            if item._ended is None and (item._deadline == inf or item._deadline > self.home.time()):
                return item
            self._take_back(item)
            # It lost the lease before it could run: it was first in line, and still is.
            try:
                again = self.claim(waiter.request)
            finally:
                self.after_return(item)  # an item that it may not have is for others
            if again is not None:
                return again

    def _leave_line(self, waiter: BellWaiter[K, V]) -> None:
        """Remove a waiter, and return the item that it was given and will never see."""
        item = waiter.item
        if item is not None:
            if self._take_back(item):
                self.after_return(item)
        elif waiter.in_line:
            self.waiters.drop(waiter)

    def _take_back(self, item: Item[K, V]) -> bool:
        """Take back a hand-out that its consumer never saw; False: it has ended."""
        now = self.home.time()
        if item._ended is not None:
            return self.ledger.wind_up(item, now)
        self.ledger.undo(item, now)
        return True

    async def fill(
        self, batch: list[Item[K, V]], request: ClaimRequest[K], size: int, seconds: float
    ) -> list[Item[K, V]]:
        """Add ready items to a batch, and then items that come within some seconds."""
        try:
            while len(batch) < size and (item := self.claim(request)) is not None:
                batch.append(item)
            if seconds and len(batch) < size:
                with CancelScope(deadline=self.home.time() + seconds), suppress(QueueClosedError):
                    while len(batch) < size and not self.shut_down:
                        more = self.claim(request)  # several may have come meanwhile
                        if more is None:
                            more = await self._stand_in_line(BellWaiter(request, patient=True))
                        batch.append(more)
        except BaseException:
            for item in batch:
                self._take_back(item)
            self.after_return(*batch)
            raise
        if self.closed:
            raise self.closed_error()
        now = self.home.time()
        for item in batch:
            if item._ended == "cancelled":
                self.wind_up(item)
        return [item for item in batch if item._ended is None and item._deadline > now]

    def discard(self, key: K) -> bool:
        """Drop a waiting item; False: none waits under this key."""
        if self.closed:
            raise self.closed_error()
        self.check_home()
        item = self.ledger.discard(key)
        if item is None:
            return False
        self.after_return(item)
        return True

    def cancel(self, key: K, reason: str, *, keep_successor: bool) -> bool:
        """Cancel the item of a key; False: there is none, or it was cancelled before."""
        if self.closed:
            raise self.closed_error()
        self.check_home()
        item = self.ledger.cancel(key, keep_successor=keep_successor)
        if item is None:
            return False
        if item._ended is None:  # it waited
            self.after_return(item)
        elif getattr(item, "_lost_by", None) is None:  # else only its successor is cancelled now
            self._remember(item, "cancelled")
            item._lose(Cancellation(reason))
        return True

    def wind_up(self, item: Item[K, V]) -> None:
        """Free the key of a cancelled item, whose holder has ended."""
        if self.ledger.wind_up(item, self.home.time()):
            self.after_return(item)

    def hold_on(self, lease: Lease[K, V], seconds: float) -> None:
        """Put off the time at which the key of a cancelled item is free, in seconds from now."""
        item = self.mine(lease)
        deadline = self.home.time() + seconds
        if self.timekeeper is not None and self.ledger.hold_on(item, deadline):
            self.timekeeper.plan(deadline)

    # Waking waiters

    def after_change(self, keys: Collection[K], tenants: Collection[str | None] = ()) -> None:
        """Look after all that wait, once a move is complete. O(log n) for each key.

        Every move that adds, returns or removes items ends here, but for those that hand items out.

        Args:
            keys: The keys that were put, have returned, or are gone.
            tenants: The tenants that may be under their caps again.
        """
        while True:
            try:
                self._look_after(keys, tenants)
            except Exception:  # a key's own: it has changed since it was put
                for key in keys:
                    with suppress(Exception):
                        self._look_after((key,), ())
                self._look_after((), self.ledger.tenants())
            if self.timekeeper is not None:
                self.timekeeper.plan(self.ledger.next_deadline())
            self._check_drained()
            if not self.deaths:
                break
            keys = self._report_deaths()
        if self.ledger.mishaps:
            self._report_mishaps()
        if self.burst and not self.ticking:
            self.burst.write()

    def after_return(self, *items: Item[K, V]) -> None:
        """Look after all that wait, once items have left their leases, or are gone."""
        self.after_change(
            [item._key for item in items], dict.fromkeys(item._tenant for item in items)
        )

    def after_transaction(self, put: list[K], settled: list[Item[K, V]]) -> None:
        """Look after all that wait, once the steps of a transaction are done."""
        self.after_change(
            [*put, *(item._key for item in settled)],
            dict.fromkeys(item._tenant for item in settled),
        )

    def _look_after(self, keys: Collection[K], tenants: Collection[str | None]) -> None:
        """Look after all that wait for these keys and tenants.

        Raises what a key raises when it is looked up; those before it have been served.
        """
        if self.waiters.total:
            now = self.home.time()
            self._wake(self.waiters.serve(keys, now))
            if self.ledger.schedule is not None or not keys:
                for tenant in tenants:
                    self._wake(self.waiters.serve_tenant(tenant, now))
        if self.shut_down and self.waiters.takers:
            for key in keys:
                if key not in self.ledger:
                    self._wake(self.waiters.drop_takers(key))
        self._admit(keys)

    def hand_new(self, key: K, value: V) -> bool:
        """Put an item for the first of those who wait for any, if nobody else waits. O(1).

        False, and nothing done: it is to be put like any other.
        """
        home = self.home
        home.check()
        waiter = self.waiters.hand_new(key, value, home.time())
        if waiter is None:
            return False
        self._wake_one(waiter)
        return True

    def _wake(self, served: Iterable[Waiter[K, V]]) -> None:
        """Wake consumers that have been handed an item, or that will not be given one.

        To wake thousands of tasks takes longer than others should have to wait for the event loop.
        So each of the first ones wakes another one when it runs, and that one the next. The others
        are asleep meanwhile, with their items in hand. One that is cancelled wakes another one too:
        that makes up for the bell of its own, which will be rung in vain.
        """
        for number, waiter in enumerate(served):
            self._wake_one(waiter, None if number < _WOKEN else self.to_wake.append)

    def _wake_one(
        self, waiter: Waiter[K, V], ring: Callable[[Awaitable[object]], object] | None = None
    ) -> None:
        """Wake a consumer, or have ``ring`` see to its bell."""
        assert isinstance(waiter, BellWaiter)
        item = waiter.item
        if item is not None and item._deadline != inf and self.timekeeper is not None:
            self.timekeeper.plan(item._deadline)
        waiter.in_line = False
        home = self.home
        (ring or home.ring)(waiter.bell)

    def _admit(self, came: Iterable[K] = ()) -> None:
        """Wake producers for which there is room by now, or whose keys have come by others."""
        if self.capacity is None or not self.capacity.putters:
            return
        for key in came:
            if key in self.ledger:
                for turn in self.capacity.came(key):
                    turn.set()
        for turn in self.capacity.admit(self.ledger.waiting):
            turn.set()

    # Settling

    def mine(self, lease: Lease[K, V]) -> Item[K, V]:
        """Return a lease of this queue as the ledger's item; raise for another lease."""
        if type(lease) is not Item or lease._queue is not self.queue or self.closed:
            raise self.not_mine(lease)
        self.check_home()
        if lease._deadline != inf:
            self.spare(lease, self.home.time())
        return lease

    def spare(self, item: Item[K, V], now: float) -> None:
        """Let a lease hold that its consumer could not settle in time: the loop was stalled. O(1).

        Nobody else can have had the item: the timekeeper, which would have ended the lease, has
        been kept from running as well.
        """
        keeper = self.timekeeper
        if item._deadline <= now and item._ended is None and keeper and keeper.is_late(now):
            self.ledger.extend(item, -inf, now + _SPARED)

    def not_mine(self, lease: Lease[K, V]) -> LeaseqError:
        """Return the error for a lease that cannot be settled here."""
        check_lease(lease)
        if type(lease) is not Item or lease._queue is not self.queue:
            return not_of_queue(lease)
        return leases_lost(self.queue, drained=self.ledger.drained)

    def ending(self, lease: Lease[K, V]) -> Item[K, V]:
        """Return a lease of this queue, as `mine` does, that is about to be settled.

        A cancelled one will be refused. Its holder has ended all the same: so the key is free.
        """
        item = self.mine(lease)
        if item._ended == "cancelled":
            self.wind_up(item)
        return item

    def held(self, lease: Lease[K, V], now: float) -> Item[K, V]:
        """Return the item that a lease holds; raise the error of settling it. O(1)."""
        item = self.mine(lease)
        check_held(item, now)
        return item

    @property
    def buries(self) -> bool:
        """True if an item that dies leaves this queue: as a letter elsewhere, or dropped."""
        return self.dead_letters is None or not self.dead_letters.closed

    def check_home(self) -> None:
        """Check that this is the right event loop, if a task may have to be woken in it.

        In Python's development mode it is checked as soon as the queue has been used in one.
        """
        if (
            self.waiters.total
            or self.timekeeper is not None
            or self.drained_event is not None
            or (self.capacity is not None and self.capacity.putters)
            or (_CHECKED and self.home.is_bound)
        ):
            self.home.check()

    def ack(self, item: Item[K, V], now: float) -> bool:
        """Acknowledge an item, and remember it if there is a history."""
        updated = self.ledger.ack(item, now)
        self._remember(item, "acked")
        return updated

    def _remember(self, item: Item[K, V], how: Literal["acked", "cancelled"]) -> None:
        """Add an item to the history, if there is one."""
        if self.history is not None:
            entry = item._key, item._value, item._token, item._deliveries, time.time()
            self.history.append(HistoryEntry(*entry, how))

    def ack_is_watched(self) -> bool:
        """Return True if the ack of a lease concerns others, in a queue that is `watched`. O(1)."""
        self.check_home()
        ledger = self.ledger
        last = len(ledger.leased) == 1 and not ledger.ready and not ledger.delayed
        return last or self.always_watched or self.waiters.takers > 0

    def check_release(
        self, requeue_front: bool, delay: float | None, counted: bool
    ) -> float | None:
        """Return the delay of a release as a float; raise if the options are invalid."""
        timed = self.timekeeper is not None
        return check_release(self.queue, requeue_front, delay, counted, timed=timed)

    def release(
        self, lease: Lease[K, V], *, requeue_front: bool, delay: float | None, counted: bool
    ) -> None:
        """Release an item to be tried again."""
        item = self.mine(lease)
        delay = self.check_release(requeue_front, delay, counted)
        if item._ended == "cancelled":  # as in `ending`
            self.wind_up(item)
        now = self.home.time()
        self.ledger.release(item, now, front=requeue_front, delay=delay, counted=counted)
        self.after_return(item)

    def fail(
        self, lease: Lease[K, V], error: BaseException, backoff: Backoff | None = None
    ) -> None:
        """Release an item whose consumer raised, with a backoff if the retry policy has none."""
        item = self.ending(lease)
        fallback = 0.0 if self.timekeeper is None else UNDECIDED
        if self.timekeeper is None or self.needs_time:
            backoff = None
        now = self.home.time()
        self.ledger.fail(item, now, failure_text(error), backoff, fallback=fallback)
        self.after_return(item)

    def give_back(self, lease: Lease[K, V]) -> None:
        """Return an item whose consumer was cancelled."""
        item = self.ending(lease)
        self.ledger.give_back(item, self.home.time())
        self.after_return(item)

    def reject(self, lease: Lease[K, V], reason: str) -> None:
        """Give an item up."""
        reason = reason_text(reason)
        item = self.ending(lease)
        self.ledger.reject(item, self.home.time(), reason)
        self.after_return(item)

    def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        """Give a lease a new deadline."""
        item = self.mine(lease)
        seconds = lease_seconds("timeout", timeout)
        if seconds != inf and self.timekeeper is None:
            raise claim_needs_time(self.queue, seconds)
        now = self.home.time()
        self.ledger.extend(item, now, now + seconds)
        if self.timekeeper is not None:
            self.timekeeper.plan(item._deadline)

    def lease_of(self, receipt: str) -> Item[K, V]:
        """Find the lease that a receipt was written for."""
        queue, key, token = read_receipt(receipt)
        if queue != self.name:
            raise other_receipt(self.name, queue)
        if self.closed:
            raise self.closed_error()
        item = self.ledger.leased.get(cast("K", key))
        if item is None or item._token != token:
            raise lease_ended(key, token)
        now = self.home.time()
        self.spare(item, now)
        check_held(item, now)
        return item

    def release_all(self, consumer: str) -> int:
        """End all leases of a consumer, as if they had expired."""
        if self.closed:
            raise self.closed_error()
        self.check_home()
        lost = self.ledger.revoke(consumer, self.home.time())
        for item in lost:
            if item._ended == "lost":
                item._lose("revoked")
        self.after_return(*lost)
        return len(lost)

    # Kept values

    def keep(self, values: Sequence[Kept]) -> None:
        """Keep values for a time. O(log n) for each."""
        kept = self.kept or self.keeper_of_values()
        next_sweep = kept.keep(values)
        keeper = self.timekeeper
        if keeper is not None and next_sweep < keeper.wake_at:
            keeper.plan(next_sweep)

    def keeper_of_values(self) -> KeptHere:
        """Return the values of the queue."""
        if self.kept is None:
            self.kept = KeptHere(self.home)
        return self.kept

    def check_not_closed(self) -> None:
        """Raise if the queue is closed."""
        if self.closed:
            raise self.closed_error()

    # Dead letters

    def _prepare_burial(self, death: Death[K, V]) -> Burial:
        """Make the letter of an item that is about to die, before anything has changed."""
        letters = self.dead_letters
        if letters is None or letters.closed:
            fate: Fate = "dropped" if letters is None else "kept"
            return Burial(fate, lambda: self.deaths.append((death, fate, "")))
        key = new_id()
        now = self.home.time()
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
            # Even if that queue is full or shut down.
            letters.ledger.add(key, letter, now)
            self.deaths.append((death, "dead", key))

        return Burial("dead", finish)

    def _report_deaths(self) -> list[K]:
        """Wake consumers of letters, and have the deaths logged; return the keys that died."""
        deaths, self.deaths = self.deaths, []
        keys = [key for _, fate, key in deaths if fate == "dead"]
        if keys and self.dead_letters is not None:
            self.dead_letters.after_change(keys)
        for death, fate, _ in deaths:
            self.burst.death(self.name, death.item._key, death.token, death.reason, fate)
        return [death.item._key for death, _, _ in deaths]

    def _report_mishaps(self) -> None:
        """Have the errors of a policy logged for which there is no caller."""
        mishaps, self.ledger.mishaps = self.ledger.mishaps, []
        for item, error in mishaps:
            self.burst.mishap(self.name, item._key, item._token, error)

    def letters(self: Engine[str, DeadLetter[Any, Any]]) -> Iterator[DeadLetter[Any, Any]]:
        """Iterate over the dead letters in this queue. O(letters)."""
        for value in self.ledger.values():
            if isinstance(value, DeadLetter):  # the user may have put others there
                yield value

    def redrive(self, keys: Iterable[K] | None, limit: int | None) -> RedriveResult[K]:
        """Bring dead letters of this queue back."""
        letters = self.dead_letters
        if letters is None:
            raise no_dead_letters_of(self.queue)
        limit = checked_limit(limit)
        if self.shut_down:
            raise self._takes_nothing_more()
        wanted = None if keys is None else set(keys_of("redrive", keys))
        back: list[K] = []
        taken: list[str] = []
        conflicts: list[K] = []
        for item in letters.ledger.items("ready"):
            letter: object = item._value
            letter_key = item._key
            if not isinstance(letter, DeadLetter) or letter.queue != self.name:
                continue
            if not can_be_found(letter.key, self.ledger.item):
                conflicts.append(letter.key)
                continue
            if wanted is not None and letter.key not in wanted:
                continue
            if limit is not None and len(back) == limit:
                break
            if letter.key in self.ledger:
                conflicts.append(letter.key)
                continue
            letters.ledger.take_out(letter_key)
            taken.append(letter_key)
            self.ledger.forget_done(letter.key)
            request = PutRequest(tenant=letter.tenant, priority=letter.priority)
            self.put_all([(letter.key, letter.value)], request)
            back.append(letter.key)
        letters.after_change(taken)
        return RedriveResult(tuple(back), tuple(conflicts))

    # Inspection

    def statistics(self, *, tenants: bool) -> Statistics:
        """Return counts of items, waiters and events so far."""
        ledger = self.ledger
        since = ledger.oldest_ready_since()
        return Statistics(
            ready=len(ledger.ready),
            delayed=len(ledger.delayed),
            leased=len(ledger.leased),
            buffered=ledger.buffered,
            getters=self.waiters.total - self.waiters.takers,
            takers=self.waiters.takers,
            putters=0 if self.capacity is None else self.capacity.putters,
            put=ledger.added,
            delivered=ledger.delivered,
            acked=ledger.acked,
            released=ledger.released,
            expired=ledger.expired,
            given_back=ledger.given_back,
            cancelled=ledger.cancelled,
            dead=ledger.dead,
            dropped=ledger.dropped,
            superseded=ledger.superseded,
            oldest_ready_age=None if since is None else self.home.time() - since,
            tenants=self._tenant_statistics() if tenants else None,
            paused=ledger.paused is not None,
        )

    def _tenant_statistics(self) -> dict[str | None, TenantStatistics]:
        ledger = self.ledger
        counts = ledger.schedule or [(None, len(ledger.ready), len(ledger.leased))]
        found = {name: TenantStatistics(ready, leased) for name, ready, leased in counts}
        return with_paused(found, ledger.paused_tenants)

    def inflight(self, consumer: str | None) -> list[LeaseInfo[K]]:
        """List the leases, or those of a consumer, in the order of the hand-outs."""
        held = [
            LeaseInfo(
                key=item._key,
                token=item._token,
                consumer=None if item._timers is None else item._timers.consumer,
                since=item._since,
                deadline=item._deadline,
                deliveries=item._deliveries,
                tenant=item._tenant,
                priority=item._priority,
                cancelled=item._ended == "cancelled",
            )
            for item in self.ledger.leased.values()
        ]
        return [lease for lease in held if consumer is None or lease.consumer == consumer]

    def info(self) -> QueueInfo:
        """Describe the queue. O(its dead letters)."""
        letters = () if self.dead_letters is None else self.dead_letters.letters()
        return QueueInfo(
            name=self.name,
            ready=len(self.ledger.ready),
            delayed=len(self.ledger.delayed),
            leased=len(self.ledger.leased),
            dead=sum(letter.queue == self.name for letter in letters),
            created_at=self.created_at,
            dead_letters_of=tuple(self.letters_of),
            group=self.queue.group,
            paused=self.ledger.paused,
            paused_tenants=dict(self.ledger.paused_tenants),
        )

    def set_tenant(self, name: str, tenant: Tenant) -> None:
        """Give a tenant another weight or cap."""
        if self.closed:
            raise self.closed_error()
        self.ledger.set_tenant(name, tenant)
        self.after_change((), (name,))

    def pause(self, tenant: str | None, reason: str) -> None:
        """Stop handing out items, or those of a tenant."""
        self.check_not_closed()
        self.check_home()
        self.ledger.pause(tenant, reason, time.time())
        if tenant is None:
            self._choose_gates()

    def resume(self, tenant: str | None) -> bool:
        """Hand out again, and serve the waiters; False: it was not paused."""
        self.check_not_closed()
        self.check_home()
        if not self.ledger.resume(tenant):
            return False
        freed: Collection[str | None] = (tenant,)
        if tenant is None:
            self._choose_gates()
            freed = ()
            try:
                self._wake(self.waiters.serve_all(self.home.time()))
            except Exception:  # raised by a key: the others are served one tenant after the other
                freed = self.ledger.tenants()
        self.after_change((), freed)
        return True

    def _choose_gates(self) -> None:
        self.gated = self.always_gated or self.shut_down or self.ledger.paused is not None
        self._choose_timekeeper()

    # The end

    def shutdown(self) -> None:
        """Accept no more items, and turn away waiters for which none can come."""
        self.home.check()
        self.shut_down = self.gated = self.watched = True
        self.timeless = False
        self._wake(self.waiters.drop_takers_of_absent())
        self._wake(self.waiters.drop_patient())
        if self.capacity is not None:
            for turn in self.capacity.clear():
                turn.set()
        self._check_drained()

    async def join(self) -> None:
        """Wait until the queue is drained."""
        if self.ledger.drained:
            await self.home.checkpoint()  # a producer may have been told that there is room
            if self.ledger.drained:
                return
        if not self.closed:
            self.home.check()
            if self.drained_event is None:
                self.drained_event = Event()
                self.watched = True
            await self.drained_event.wait()
        if self.closed and not self.ledger.drained:
            raise self.closed_error()

    def close(self) -> None:
        """End every lease and every wait."""
        self.home.check()
        if self.closed:
            return
        self.shutdown()
        self.closed = True
        for item in self.ledger.close(self.home.time()):
            if item._ended == "lost":
                item._lose("closed")
        self._wake(self.waiters.drop_all())
        if self.kept is not None:
            self.kept.close()
        if self.drained_event is not None:
            self.drained_event.set()
        if self.timekeeper is not None:
            self.timekeeper.ring()

    def drain(self) -> list[tuple[K, V]]:
        """Drop all waiting items, and return them."""
        self.check_home()
        left = [(item._key, item._value) for item in self.ledger.drain()]
        self.after_change([key for key, _ in left])
        return left

    def _check_drained(self) -> None:
        if not self.watched or not self.ledger.drained:
            return
        if self.drained_event is not None:
            self.drained_event.set()
            self.drained_event = None
            self.watched = self.shut_down or self.always_watched
        if self.shut_down:
            self._wake(self.waiters.drop_all())
            if self.timekeeper is not None:
                self.timekeeper.ring()

    def _check_can_come(self, key: K | AnyKey) -> None:
        """Raise if the key, or any item, can no longer come."""
        gone = key is not ANY_KEY and key not in self.ledger
        if self.closed or self.ledger.drained or gone:
            raise self.closed_error(key)

    def closed_error(self, key: K | AnyKey = ANY_KEY) -> QueueClosedError:
        """Return the error for a caller that will not get an item."""
        if self.ledger.drained:
            return drained(self.queue)
        if self.closed or key is ANY_KEY:
            return closed_with_work_left(self.queue)
        return key_cannot_come(self.queue, key)

    # Time

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run a timekeeper for this queue and its dead letters, until the queue ends."""
        if self.running:
            raise BusyResourceError(RUN_TWICE)
        self.home.check()
        self.running = True
        keeper = Timekeeper(self.home, owner=self)
        try:
            await keeper.keep(self._with_dead_letters, self._is_over, task_status)
        finally:
            self.running = False

    def _is_over(self) -> bool:
        return self.closed or (self.shut_down and self.ledger.drained)

    def _with_dead_letters(self) -> Iterator[Engine[Any, Any]]:
        """Iterate over the engines that `run` looks after: the queue's, and its dead letters'."""
        engine: Engine[Any, Any] | None = self
        while engine is not None:
            yield engine
            engine = engine.dead_letters

    def attach(self, keeper: Timekeeper) -> None:
        """Add a timekeeper: that of the queue's own `run` comes before others."""
        if keeper not in self.timekeepers:
            self.timekeepers.insert(0 if keeper.owner is self else len(self.timekeepers), keeper)
            self._choose_timekeeper()

    def detach(self, keeper: Timekeeper) -> None:
        """Remove a timekeeper."""
        if keeper in self.timekeepers:
            self.timekeepers.remove(keeper)
            self._choose_timekeeper()
            self.ticking = False  # what is left is for another one, or for nobody
            self.burst.write()
        if self.timekeeper is not None:
            self.timekeeper.ring()

    def _choose_timekeeper(self) -> None:
        self.timekeeper = self.timekeepers[0] if self.timekeepers else None
        needed = self.needs_time or self.any_request.timed or self.gated
        self.timeless = self.timekeeper is None and not needed

    def next_deadline(self) -> float:
        """Return the next time to call `tick`; `math.inf`: not before a change. O(1)."""
        first = self.ledger.next_deadline()
        return first if self.kept is None else min(first, self.kept.values.next_sweep())

    def tick(self, now: float) -> None:
        """Process a slice of what is due."""
        self.ticking = True
        if self.kept is not None:
            self.kept.values.sweep(now, _SLICE)
        changed: list[Item[K, V]] = []
        try:
            for item in islice(self.ledger.tick(now), _SLICE):
                changed.append(item)
                if item._ended == "lost":
                    item._lose("expired")
        finally:  # a policy may raise: the items before that have moved
            for item in changed:
                if item._ended == "lost":
                    what = (self.name, item._key, item._token)
                    self.burst.expiry(*what)
            self.ticking = self.next_deadline() <= now
            if changed:
                self.after_return(*changed)
            elif self.burst:
                self.burst.write()

    def process_expired(self) -> int:
        """Bury the items whose time to live is over, and count them. O(log n) each."""
        before = self.ledger.outlived
        self.check_home()
        now = self.home.time()
        while self.next_deadline() <= now:
            self.tick(now)
        return self.ledger.outlived - before
