"""The engine behind a queue handle: its waiters, the leases held here, its claims, its end.

Theory of operation
===================

A queue is in the store; what is here is what this process has of it. Consumers that wait form
groups (`Waiters`), and one claim goes along with each batch for all that are hungry. Producers
that wait for room stand in line here: the first of them is parked in the store, the others wait
behind it. Tasks that join share one park.

What a claim brings is held (`_held`) before any task that waited for it runs: if that task was
cancelled meanwhile, the hand-out is undone before anything else is asked for. A lease is over here
a little earlier than in the store, so that its body has ended before another consumer can have the
item.

The store's events are hints. A wake-up makes groups hungry, and they look; one that no task here
wants any more is passed on. Where tasks wait, the engine looks again every second or two, in case
a wake-up was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Any, Generic, Protocol, TypeVar, cast

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CancelScope, fail_after, move_on_after
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from .._core.codec import Codec, decode_with, encode_with
from .._core.errors import LeaseqError, QueueClosedError, ServerUnavailableError
from .._core.functions import Later
from .._core.heap import Deadlines
from .._core.limits import MOST_NAMES
from .._core.log import Burst, log
from .._core.messages import (
    RUN_TWICE,
    Cancellation,
    check_held,
    check_release,
    claim_needs_time,
    closed_with_work_left,
    drained,
    key_in_flight,
    lease_cancelled,
    lease_ended,
    leases_lost,
    never_fits,
    not_of_queue,
    other_receipt,
    put_needs_time,
    takes_nothing_more,
    tenant_mismatch,
    timed_out,
)
from .._core.options import ANY_KEY, AnyKey, BrokerQueueOptions, GetOptions, TakeOptions
from .._core.policies import Retry, rests
from .._core.receipt import read_receipt
from .._core.reports import (
    DeadLetter,
    Ended,
    LostBy,
    PutOutcome,
)
from .._core.requests import ClaimRequest, PutRequest
from .._core.texts import failure_text, shown
from .._core.validation import lease_seconds
from ..abc import LeasedQueue
from ..abc._lease import Lease, check_lease, kept_leases
from .dispatcher import Call, Dispatcher
from .encoding import plain_key
from .protocol import (
    UNDECODABLE,
    Ack,
    Body,
    Claim,
    Claimed,
    ClaimFor,
    Close,
    Declared,
    Delivery,
    Extend,
    Find,
    FindLease,
    Full,
    GiveBack,
    GoneError,
    Held,
    HoldOn,
    Join,
    Key,
    NeverFits,
    Operation,
    Page,
    Park,
    Parked,
    Put,
    PutAnswer,
    PutRefused,
    QueueRef,
    RawKey,
    Recall,
    Recalled,
    Reject,
    Release,
    Remaining,
    Settled,
    SettledAnswer,
    Settlement,
    StopWaiting,
    Sweep,
    Undo,
    Unpark,
    Wake,
    Want,
)
from .waiters import DRAINED, ROOM, Group, Waiter, Waiters

K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A")

SWEPT = 64  # items that one sweep does at most
_CLAIMED = 100  # items that one claim takes at most, all in all
_PASSED = 1000  # wake-ups that are sent on at a time
_RECALLED = 256  # names that are looked up again at each beat; the others are at later ones
_SHARE = 0.05  # of its length that a lease is over earlier here than in the store
_MOST = 0.5  # seconds, and no more than that
_LEAST = 16  # cancelled leases that are remembered whatever their time


class RemoteLease(Lease[K, V]):
    """A hold on an item in a store. Its deadline is counted from before the claim was sent."""

    __slots__ = ("_engine", "_outlasts", "_settling")

    def __init__(self, engine: Engine[K, V], key: K, value: V) -> None:
        super().__init__(engine.queue, key, value)
        self._engine = engine
        self._settling: Call[SettledAnswer] | None = None  # under way, and will end it
        self._outlasts = False  # in the store, for all that is known here


RemoteLease.__name__ = RemoteLease.__qualname__ = "Lease"
RemoteLease.__module__ = "leaseq"


class Timers(Protocol):
    """The timers of engines: deadlines of their leases, and beats for tasks that wait."""

    burst: Burst
    deadlines: Deadlines[RemoteLease[Any, Any]]

    def waits(self, engine: Engine[Any, Any]) -> None:
        """Note that a task waits for something of a queue."""


class Hub(Protocol):
    """The other queues of an engine's broker."""

    def keeps(self, engine: Engine[Any, Any]) -> bool:
        """Return True if a `run` keeps time for a queue: its own, or another that covers it."""

    def forget(self, engine: Engine[Any, Any]) -> None:
        """Note that a queue was deleted: its name is free for another one."""

    def read_letter(self, letter: DeadLetter[Key | RawKey, Body]) -> DeadLetter[Any, Any]:
        """Decode a dead letter, by the codec of the queue that it comes from."""


class Engine(Generic[K, V]):
    """The inside of a handle on a queue in a store.

    Args:
        ref: The queue in the store.
        codec: Turns its values into bytes, and back.
        made_with: The options that the queue was made with.
        handled_with: The options that this handle was asked for with.
        dispatcher: The way to the store.
        timers: The deadlines of leases, and the beat of waiters.
        hub: The other queues of the broker.
        made: The number by which a queue of the same name is told from this one; 0: not known.

    Attributes:
        queue: The handle.
        burst: The records of the broker's queues that belong to one step.
        next_due: The time at which the store has something to do, on the event loop's clock.
        runs: True while its own `run` runs.
        closed: True once the handle is closed.
        has_backoff: True if the retry policy has one.
    """

    queue: LeasedQueue[K, V]

    def __init__(
        self,
        ref: QueueRef,
        codec: Codec[V],
        made_with: BrokerQueueOptions,
        handled_with: BrokerQueueOptions,
        *,
        dispatcher: Dispatcher,
        timers: Timers,
        hub: Hub,
        made: int = 0,
    ) -> None:
        self.ref = ref
        self._made = made
        self.name = ref.name
        self.codec = codec
        self.made_with = made_with
        self.handled_with = handled_with
        self.dispatcher = dispatcher
        self.home = dispatcher.home
        self.next_due = inf
        self.runs = False
        self.closed = False
        self._timers = timers
        self._deadlines = timers.deadlines
        self.burst = timers.burst
        self._hub = hub
        self._lease_timeout = made_with.get("default_lease_timeout")
        self._any: ClaimRequest[K] = ClaimRequest(lease_timeout=self._lease_timeout)
        self._may_claim = False  # as the store has said
        self.has_backoff = rests(made_with.get("retry", Retry()))
        self._waiters: Waiters[K, RemoteLease[K, V]] = Waiters()
        self._putters: dict[Call[PutAnswer], int] = {}  # and the places that they wait for
        self._joiners: dict[Call[Remaining], None] = {}
        self._recallers: dict[str, dict[Call[Recalled], None]] = {}  # that wait, by name
        self._passing: set[Want] = set()  # wake-ups that are sent on
        self._keeps_all = True  # False: the store had no room for a value, and the log says so
        self._held: dict[int, RemoteLease[K, V]] = {}  # by token
        self._winding_up: dict[int, RemoteLease[K, V]] = {}  # cancelled, holders have not ended
        self._most_winding_up = _LEAST
        self._shut_down = False
        self._deleted = False
        self._complaint = ""  # what was said when something was last claimed in vain
        self._drained = False  # as far as is known; asked for once it is shut down, or closed

    @property
    def state(self) -> str:
        """The state of the handle, for its repr."""
        state = "closed" if self.closed else "shut down" if self._shut_down else "open"
        return f"{state}: {len(self._held)} leased here"

    @property
    def kept(self) -> bool:
        """True while a `run` keeps time for it."""
        return self._hub.keeps(self)

    # Calls

    async def perform(self, operation: Operation[A]) -> A:
        """Have an operation done on the queue, which must be there."""
        if (turn := self.turn()) is not None:  # or a loop of these could not be cancelled
            await turn
        self.dispatcher.check(operation)
        return await self._answer(Call(operation))

    async def change(self, operation: Operation[A]) -> A:
        """`perform` an operation that a handle refuses once it is closed."""
        if self.closed:
            await self.home.checkpoint()
        self.check_not_closed()
        return await self.perform(operation)

    def turn(self) -> Awaitable[object] | None:
        """Begin a call: return something to await before it, or None; see `Dispatcher.turn`.

        A handle that has ended may refuse the call, which then waits for nothing else.
        """
        if self._shut_down or self.closed:
            return self.home.checkpoint()
        return self.dispatcher.turn()

    async def all_pages(self, ask: Callable[[bytes | None], Operation[Page[A]]]) -> list[A]:
        """Ask for all pages of an answer, one after the other.

        Args:
            ask: Makes the question for the page that begins at a place; None: for the first.
        """
        members: list[A] = []
        after: bytes | None = None
        while True:
            page = await self.perform(ask(after))
            members += page.members
            after = page.after
            if after is None:
                return members

    def _answer(self, call: Call[A], *, withdraw: bool = False) -> Awaitable[A]:
        """Post a call, and return an awaitable of its answer."""
        self.dispatcher.post(call)
        return self._answer_to(call, withdraw=withdraw)

    async def _answer_to(self, call: Call[A], *, withdraw: bool = False) -> A:
        """Wait for the answer to a call that was posted."""
        try:
            return await self.dispatcher.answer(call, withdraw=withdraw)
        except GoneError:
            raise self.closed_error() from None

    # Puts

    def check_accepts(self) -> None:
        """Raise if this handle accepts no more items."""
        if self._shut_down or self.closed:
            raise self._refused_put()

    def check_takes(self, request: PutRequest) -> None:
        """Raise if a put with these options is refused, whatever the key."""
        self.check_accepts()
        if request.delay > 0 and not self.kept:
            raise put_needs_time(self.queue, request.delay)

    def _refused_put(self) -> QueueClosedError:
        if self._deleted:
            return self.closed_error()
        return takes_nothing_more(self.queue, "closed" if self.closed else "shut down")

    async def put(
        self, items: tuple[tuple[Key, bytes], ...], request: PutRequest
    ) -> tuple[PutOutcome, ...]:
        """Put items, and wait for room if need be: later puts wait behind."""
        given_up = False

        def receive(answer: PutAnswer) -> bool | None:
            if type(answer) is Full and given_up:
                if answer.stamp is not None:  # the task is gone, and its park with it
                    self._waiters.parked[ROOM] = answer.stamp
                    self._unpark(ROOM)
                return None
            if type(answer) is Full and call.error is None:
                if self._shut_down or self.closed:
                    call.fail(self._refused_put())
                    return False
                self._timers.waits(self)
                self._putters[call] = answer.places
                if answer.stamp is not None:
                    self._waiters.parked[ROOM] = answer.stamp
                if _is_behind(call) and next(iter(self._putters)) is call:
                    self._let_putter_in()  # the one before it is gone, and this is not parked
                return False
            if call in self._putters:
                del self._putters[call]
                self._let_putter_in()
            return None

        operation = Put(self.ref, items, request, bool(self._putters))
        self.dispatcher.check(operation)
        call = Call(operation, receive=receive)
        try:
            answer = await self._answer(call, withdraw=True)
            call.receive = None  # it refers to the call: without it there is no circle to collect
        except BaseException:
            given_up = True
            raise
        finally:
            if call in self._putters:
                del self._putters[call]
                self._let_putter_in()
            if not self._putters:
                self._unpark(ROOM)
        if isinstance(answer, tuple):
            return answer
        if isinstance(answer, PutRefused):
            raise put_refused(items[answer.index][0], request, answer.why, answer.tenant)
        assert isinstance(answer, NeverFits)
        raise never_fits(answer.new, self.made_with.get("max_size", inf))

    def _let_putter_in(self) -> None:
        """Let the first of the puts that wait for room try."""
        first = next(iter(self._putters), None)
        if first is not None and not first.posted and not first.sent:
            first.operation = replace(cast("Put", first.operation), behind=False)
            self.dispatcher.post(first)

    def _turn_putters_away(self) -> None:
        """Refuse all puts but those under way, which may have been done."""
        for putter in [*self._putters]:
            if not putter.sent:
                self.dispatcher.withdraw(putter)
                putter.fail(self._refused_put())
        self._putters.clear()

    # Claims

    def request(
        self, call: str, key: K | AnyKey, options: GetOptions | TakeOptions
    ) -> ClaimRequest[K]:
        """Make a claim's request of a caller's options."""
        if key is ANY_KEY and not options:
            return self._any
        options = {"lease_timeout": self._lease_timeout, **options}
        if key is not ANY_KEY:
            key = plain_key(key)
        request = ClaimRequest(key, call, **options)
        # What cannot be sent is refused before it waits with others.
        self.dispatcher.check(self._claim_for(request, 1))
        return request

    def _claim_for(self, request: ClaimRequest[K], count: int) -> Claim:
        return Claim(
            self.ref, (ClaimFor(cast("ClaimRequest[Key]", request), min(count, _CLAIMED)),)
        )

    async def lease(
        self,
        request: ClaimRequest[K],
        count: int,
        timeout: float | None = None,
        *,
        patient: bool = False,
    ) -> list[RemoteLease[K, V]]:
        """Lease some items, one at least, and wait for the first if need be."""
        self._check_open()
        if not self.kept and (request.timed or self.has_backoff):
            await checkpoint_if_cancelled()  # which may be what has ended the `run`
            raise claim_needs_time(self.queue, request.lease_timeout)
        if timeout == 0 or self._shut_down:
            leases = await self._claim(request, count)
            if leases:
                return leases
            self._check_open()
            if timeout == 0:
                raise timed_out(self.queue, request.key, timeout)
        if timeout is None:
            return await self.wait(self._join_line(request, count, patient=patient))
        with move_on_after(timeout):
            return await self.wait(self._join_line(request, count, patient=patient))
        raise timed_out(self.queue, request.key, timeout)

    async def lease_many(
        self, request: ClaimRequest[K], max_items: int, max_wait: float, timeout: float | None
    ) -> list[RemoteLease[K, V]]:
        """Lease one item at least, and more as they come."""
        batch: list[RemoteLease[K, V]] = []
        while not batch:  # again, if all were lost meanwhile
            batch = await self.lease(request, max_items, timeout)
            try:
                while len(batch) < max_items:
                    more = await self._claim(request, max_items - len(batch))
                    if not more:
                        break
                    batch += more
                until = self.home.time() + max_wait
                while len(batch) < max_items and self.home.time() < until and not self._shut_down:
                    with CancelScope(deadline=until):
                        batch += await self.lease(request, max_items - len(batch), patient=True)
            except QueueClosedError:
                pass  # what there is, there is
            except BaseException:
                self._undo(batch)
                raise
            if self.closed:
                raise self.closed_error()
            batch = self._still_held(batch)
        return batch

    def _join_line(
        self, request: ClaimRequest[K], count: int, *, patient: bool
    ) -> Waiter[K, RemoteLease[K, V]]:
        if not self._may_claim:
            self.dispatcher.check(self._claim_for(request, count))
            self._may_claim = True
        self._check_open()
        waiter: Waiter[K, RemoteLease[K, V]] = Waiter(request, count, patient=patient)
        if self._waiters.add(waiter):
            self.dispatcher.wake_leader()
        self._timers.waits(self)
        return waiter

    async def wait(self, waiter: Waiter[K, RemoteLease[K, V]]) -> list[RemoteLease[K, V]]:
        """Wait for the leases of a consumer in line; one at least."""
        while True:
            try:
                await self.dispatcher.wait(waiter)
            except BaseException:
                self.leave_line(waiter)
                raise
            if not waiter.leases:
                raise self.closed_error()
            leases = self._still_held(waiter.leases)
            if leases:
                return leases
            waiter = self._join_line(waiter.request, waiter.count, patient=waiter.patient)

    def leave_line(self, waiter: Waiter[K, RemoteLease[K, V]]) -> None:
        """Take a consumer out of the line; items that it was handed go back."""
        if not self._waiters.drop(waiter):
            self._undo(waiter.leases)
        self.dispatcher.wake_leader()

    def claim_early(self, request: ClaimRequest[K]) -> EarlyClaim[K, V] | None:
        """Put a consumer in line whose task will wait later; None: it has to ask directly."""
        timed = request.timed or self.has_backoff
        if self._shut_down or self.closed or (timed and not self.kept):
            return None
        return EarlyClaim(self, self._join_line(request, 1, patient=False))

    def _still_held(self, leases: Sequence[RemoteLease[K, V]]) -> list[RemoteLease[K, V]]:
        """Return the leases that hold their items; no consumer will see the others."""
        now = self.home.time()
        for lease in leases:
            if lease.ended == "cancelled":
                self.wind_up(lease)
        return [lease for lease in leases if lease.ended is None and lease.deadline > now]

    async def _claim(self, request: ClaimRequest[K], count: int) -> list[RemoteLease[K, V]]:
        """Lease ready items, and do not wait."""
        leases: list[RemoteLease[K, V]] = []
        handed_out = True
        given_up = False

        def receive(answer: Claimed) -> None:
            nonlocal handed_out
            [batch] = answer.batches
            self._drained = self._shut_down and not answer.left
            handed_out = bool(batch) or answer.cut
            leases.extend(self._received(batch, request))
            if given_up:
                self._undo(leases)

        operation = self._claim_for(request, count)
        self.dispatcher.check(operation)
        while not leases and handed_out:  # again, if what came could not be read
            call = Call(operation, receive=receive)
            try:
                await self._answer(call, withdraw=True)
            except BaseException:
                given_up = True
                self._undo(leases)
                raise
        return self._still_held(leases)

    def claims(self) -> Iterator[Call[Any]]:
        """Make the calls that are to be sent on behalf of waiters."""
        for parks in in_lots(self._waiters.stale()):
            yield Call(Unpark(self.ref, parks))
        runs: list[tuple[Group[K, RemoteLease[K, V]], int]] = []
        names = 0
        for group, count in self._waiters.hungry(_CLAIMED):
            more = len(group.wants)
            if runs and names + more > MOST_NAMES:
                yield self._claim_of(runs)
                runs, names = [], 0
            runs.append((group, count))
            names += more
        if runs:
            yield self._claim_of(runs)

    def _claim_of(self, runs: list[tuple[Group[K, RemoteLease[K, V]], int]]) -> Call[Claimed]:
        """Make a claim for some groups of waiters, with a number of items for each."""
        parked = self._waiters.parked
        wants = {want: None for group, _ in runs for want in group.wants}
        held = tuple([Park(want, parked[want]) for want in wants if want in parked])
        claims = [
            ClaimFor(cast("ClaimRequest[Key]", group.request), count, group.patient)
            for group, count in runs
        ]

        def receive(answer: Claimed) -> None:
            self._serve([group for group, _ in runs], answer)

        operation = Claim(self.ref, tuple(claims), True, held)
        call = Call(operation, receive=receive, refuse=self._not_served)
        call.lapses = True  # the groups stay hungry
        return call

    def _serve(self, groups: list[Group[K, RemoteLease[K, V]]], answer: Claimed) -> None:
        self._complaint = ""
        for want, stamp in answer.parks:
            self._waiters.park(want, stamp)
        self.dispatcher.wake_leader()  # some of these may not be wanted any more
        for group, batch in zip(groups, answer.batches, strict=True):
            leases = self._received(batch, group.request)
            self._undo(self._waiters.give(group, leases, more=bool(batch) or answer.cut))
        if self._shut_down and not answer.left:
            self.note_drained()

    def _not_served(self, error: Exception) -> None:
        """Let waiters rest until the next beat, and say why, but not again and again."""
        self._waiters.rest()
        why = failure_text(error)
        if why != self._complaint and not self.closed:
            self._complaint = why
            log(logging.ERROR, "queue %r: nothing can be claimed: %s", self.name, why)

    def _received(
        self, batch: Sequence[Delivery], request: ClaimRequest[K]
    ) -> list[RemoteLease[K, V]]:
        """Hold the items that a claim has brought; an unreadable one is a dead letter."""
        if not batch:
            return []
        leases: list[RemoteLease[K, V]] = []
        now = self.home.time()
        deadline = self._deadline(self.dispatcher.sent_at, request.lease_timeout)
        for number, delivery in enumerate(batch):
            try:
                lease = self._read(delivery)
            except BaseException:  # a signal, while a codec ran
                for key, _, token, *_ in reversed(batch[number:]):
                    self.dispatcher.post(Call(Undo(self.ref, key, token)), first=True)
                self._undo(leases)
                raise
            if lease is not None:
                lease._since = now
                lease._deadline = deadline
                self._hold(lease)
                leases.append(lease)
        if self.dispatcher.was_in_doubt:  # a hint of a cancellation may have come before the lease
            for lease in leases:
                self.doubt_lease(lease.token)
        return leases

    @staticmethod
    def _deadline(sent_at: float, timeout: float) -> float:
        """Return the time at which a lease is over here: a little earlier than in the store.

        So its body has ended before another consumer can have the item.
        """
        if timeout == inf:
            return inf
        return sent_at + timeout - min(timeout * _SHARE, _MOST)

    def _read(self, delivery: Delivery) -> RemoteLease[K, V] | None:
        key, body, token, priority, tenant, deliveries, cancellations = delivery
        try:
            check_readable(key)
            value = self.decode(body)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever a codec raises: the item is not to be lost
            reject = Reject(self.ref, key, token, UNDECODABLE, failure_text(error), unread=True)
            self.dispatcher.post(Call(reject))
            what = (self.name, key, token, type(error).__name__)
            log(logging.ERROR, "queue %r: %r, token %d, cannot be read: %s", *what)
            return None
        lease = RemoteLease(self, cast("K", key), value)
        lease._token = token
        lease._priority = priority
        lease._tenant = tenant
        lease._deliveries = deliveries
        lease._cancellations = cancellations
        return lease

    def encode(self, value: V) -> bytes:
        """Encode a value. Raises `CodecError`, whatever the codec raises."""
        return encode_with(self.codec, value, self.name)

    def decode(self, body: Body) -> V:
        """Decode a body, which may be a dead letter. Raises `CodecError`, as `encode` does."""
        if isinstance(body, DeadLetter):
            return cast("V", self._hub.read_letter(body))
        return decode_with(self.codec, body, self.name)

    def _undo(self, leases: Sequence[RemoteLease[K, V]]) -> None:
        """Take back hand-outs that their consumers never saw, before anything else is asked."""
        for lease in reversed(leases):
            if lease.ended == "cancelled":
                self.wind_up(lease)
            elif lease.ended is None:
                self.let_go(lease)
                lease._ended = "released"
                call = Call(Undo(self.ref, cast("Key", lease.key), lease.token))
                self.dispatcher.post(call, first=True)

    # What is leased here

    def _hold(self, lease: RemoteLease[K, V]) -> None:
        self._held[lease.token] = lease
        if lease.deadline != inf:
            self._deadlines.add(lease.deadline, lease)
            self.dispatcher.expire_at(lease.deadline)

    def _set_deadline(self, lease: RemoteLease[K, V], deadline: float) -> None:
        self.let_go(lease)
        lease._deadline = deadline
        self._hold(lease)

    def let_go(self, lease: RemoteLease[K, V]) -> None:
        """Stop holding a lease: it has ended, or is about to have another deadline."""
        if self._held.pop(lease.token, None) is not None and lease.deadline != inf:
            self._deadlines.drop(lease)

    def lose(self, lease: RemoteLease[K, V], cause: LostBy | None = None) -> None:
        """End a lease that is lost, and with it its body.

        Args:
            lease: The lease.
            cause: The cause; None: the store has ended it, which it does later than this side if
                it expires.
        """
        self.let_go(lease)
        is_due = lease.deadline <= self.home.time()
        lease._ended = "lost"
        lease._lose(cause or ("expired" if is_due else "revoked"))

    def cancel_lease(
        self, lease: RemoteLease[K, V], cause: Cancellation, *, is_free: bool = False
    ) -> None:
        """End a lease that the store has cancelled, and cancel its body.

        Args:
            lease: The lease.
            cause: The cancellation.
            is_free: True: the store has freed the key; False: it will when the holder has ended.
        """
        if lease.ended is None:
            self.let_go(lease)
            lease._ended = "cancelled"
            if not is_free:
                self._forget_overdue()
                self._winding_up[lease.token] = lease
            lease._lose(cause)
        elif is_free:
            self._winding_up.pop(lease.token, None)

    def _forget_overdue(self) -> None:
        """Forget cancelled leases whose time is over: the store has freed their keys.

        O(cancelled leases), but amortised O(1).
        """
        winding_up = self._winding_up
        if len(winding_up) >= self._most_winding_up:
            now = self.home.time()
            for token, lease in [*winding_up.items()]:
                if lease.deadline <= now:
                    del winding_up[token]
            self._most_winding_up = 2 * len(winding_up) + _LEAST

    def wind_up(self, lease: RemoteLease[K, V]) -> Awaitable[object] | None:
        """Begin to free the key of a cancelled item, whose holder has ended.

        Returns an awaitable of the end, which raises no error of the queue; None: it has ended.
        """
        if self._winding_up.pop(lease.token, None) is None or self.closed:
            return None

        def receive(answer: SettledAnswer) -> None:
            self._winding_up.pop(lease.token, None)  # the store may do it after all

        def refuse(error: Exception) -> None:
            if not (self.closed or isinstance(error, GoneError)):
                self._winding_up[lease.token] = lease  # for another try, or the end of the handle

        operation = GiveBack(self.ref, cast("Key", lease.key), lease.token)
        call = Call(operation, receive=receive, refuse=refuse)
        self.dispatcher.post(call, first=True)
        return Later(lambda: self._wound_up(call))

    async def _wound_up(self, call: Call[SettledAnswer]) -> None:
        with suppress(LeaseqError):  # then the key is free when the time of the lease is over
            await self._answer_to(call)

    def hold_on(self, lease: RemoteLease[K, V], seconds: float) -> Awaitable[object]:
        """Begin to put off the time at which the key of a cancelled item is free.

        Returns an awaitable of the end, which raises nothing of the queue's.
        """

        def receive(answer: SettledAnswer) -> None:
            if answer is not Settled.NOT_HELD:
                lease._deadline = self._deadline(self.dispatcher.sent_at, seconds)

        operation = HoldOn(self.ref, cast("Key", lease.key), lease.token, seconds)
        call = Call(operation, receive=receive)
        self.dispatcher.post(call)
        return Later(lambda: self._wound_up(call))

    def expire(self, lease: RemoteLease[K, V]) -> None:
        """Lose a lease that has just been taken out of the deadlines, being due."""
        del self._held[lease.token]
        lease._ended = "lost"
        lease._lose("expired")
        if lease._outlasts:
            self._give_back(lease)

    def _give_back(self, lease: RemoteLease[K, V]) -> None:
        """Release a lease that is lost here, and for all that is known has no end in the store."""
        key = cast("Key", lease.key)
        self.dispatcher.post(Call(Release(self.ref, key, lease.token)), first=True)

    def lose_token(self, token: int, cause: LostBy | Cancellation | None = None) -> None:
        """Lose the lease of a token, which the store has ended; see `lose` and `cancel_lease`."""
        lease = self._held.get(token)
        if lease is None:
            return
        if isinstance(cause, Cancellation):
            self.cancel_lease(lease, cause)
        else:
            self.lose(lease, cause)

    def mine(self, lease: Lease[K, V]) -> RemoteLease[K, V]:
        """Return the lease, if it is one of this queue's and may be held."""
        check_lease(lease)
        if not isinstance(lease, RemoteLease) or lease.queue is not self.queue:
            raise not_of_queue(lease)
        if self.closed:
            raise leases_lost(self.queue, drained=self._drained)
        self.home.check()
        return lease

    def settle(
        self,
        lease: RemoteLease[K, V],
        ended: Ended,
        make: Callable[..., Settlement],
        *how: object,
    ) -> Awaitable[SettledAnswer]:
        """Ask to end a lease by an operation of this kind, and return an awaitable of the answer.

        It takes effect even if cancelled.
        """
        if lease._settling is not None:
            return Later(lambda: self._settle_later(lease, ended, make, *how))
        if lease.ended == "cancelled" and (ending := self.wind_up(lease)) is not None:
            return Later(lambda: self._refused(lease, ending))
        check_held(lease, self.home.time())

        def receive(answer: SettledAnswer) -> None:
            lease._settling = None
            if isinstance(answer, Cancellation):
                self.cancel_lease(lease, answer, is_free=True)
            elif answer is not Settled.NOT_HELD:
                self.let_go(lease)
                lease._ended = ended
                if keeps:
                    self._note_kept(kept=answer is not Settled.NOT_KEPT)
            elif lease.ended is None:
                self.lose(lease)

        def refuse(error: Exception) -> None:
            lease._settling = None

        operation = make(self.ref, lease.key, lease.token, *how)
        keeps = isinstance(operation, (Ack, Reject)) and operation.keep
        self.dispatcher.check(operation)
        lease._settling = call = Call(operation, receive=receive, refuse=refuse)
        self.dispatcher.post(call)
        return Later(lambda: self._settled(lease, call))

    async def _settled(self, lease: RemoteLease[K, V], call: Call[SettledAnswer]) -> SettledAnswer:
        answer = await self._answer_to(call)
        if answer is Settled.NOT_HELD or isinstance(answer, Cancellation):
            check_held(lease, self.home.time())
        return answer

    async def _refused(self, lease: RemoteLease[K, V], ending: Awaitable[object]) -> SettledAnswer:
        """Wait until the key of a cancelled item is free, and raise the error of settling it."""
        await ending
        check_held(lease, self.home.time())
        raise AssertionError("it was cancelled")

    async def _settle_later(
        self,
        lease: RemoteLease[K, V],
        ended: Ended,
        make: Callable[..., Settlement],
        *how: object,
    ) -> SettledAnswer:
        """Settle a lease that another task settles, once that is over: it may not succeed."""
        while lease._settling is not None:
            await self._answer_to(lease._settling)
        return await self.settle(lease, ended, make, *how)

    def check_release(
        self, requeue_front: bool, delay: float | None, counted: bool
    ) -> float | None:
        """Return the delay of a release as a float; raise if the options are invalid."""
        timed = delay is None or self.kept
        return check_release(self.queue, requeue_front, delay, counted, timed=timed)

    def extend(self, lease: RemoteLease[K, V], timeout: float | None) -> Awaitable[None]:
        """Ask for a new deadline of a lease, and return an awaitable of the answer.

        What a thread works on is extended without a `run` as well, which may be over before it.
        """
        seconds = lease_seconds("timeout", timeout)
        if seconds != inf and not self.kept and lease not in kept_leases:
            raise claim_needs_time(self.queue, seconds)
        now = self.home.time()
        check_held(lease, now)
        key = cast("Key", lease.key)
        before = lease.deadline
        asked = min(before, self._deadline(now, seconds))

        def receive(answer: SettledAnswer) -> None:
            if isinstance(answer, Cancellation):
                self.cancel_lease(lease, answer)
                return
            is_held = answer is not Settled.NOT_HELD
            if lease.ended == "lost" and is_held:  # too late: others may have the item
                self._give_back(lease)
            elif lease.ended is not None:
                pass
            elif not is_held:
                self.lose(lease)
            elif lease.deadline >= asked:  # no later call has asked for an earlier one
                lease._outlasts = False
                self._set_deadline(lease, self._deadline(self.dispatcher.sent_at, seconds))

        def refuse(error: Exception) -> None:
            in_doubt = isinstance(error, ServerUnavailableError) and error.in_doubt
            if lease.ended == "lost":
                self._give_back(lease)
            elif lease.ended is None and in_doubt:
                lease._outlasts = asked < before
            elif lease.ended is None and lease.deadline == asked:
                self._set_deadline(lease, before)  # that which it had

        operation = Extend(self.ref, key, lease.token, seconds)
        self.dispatcher.check(operation)
        if asked < before:  # it may hold long before the answer comes
            self._set_deadline(lease, asked)
        call = Call(operation, receive=receive, refuse=refuse)
        self.dispatcher.post(call)
        return Later(lambda: self._extended(lease, call))

    async def _extended(self, lease: RemoteLease[K, V], call: Call[SettledAnswer]) -> None:
        await self._answer_to(call)
        check_held(lease, self.home.time())

    async def lease_of(self, receipt: str) -> RemoteLease[K, V]:
        """Hold the lease that a receipt was written for."""
        name, key, token = read_receipt(receipt)
        if name != self.name:
            raise other_receipt(self.name, name)
        started = self.home.time()
        answer = await self.change(FindLease(self.ref, cast("Key", key), token))
        if answer is None:
            raise lease_ended(key, token)
        if isinstance(answer, Cancellation):
            raise lease_cancelled(key, token, answer)
        held = self._held.get(token)
        if held is not None:
            check_held(held, self.home.time())
            return held
        lease = self._read(answer.delivery)
        if lease is None:
            raise lease_ended(key, token)
        lease._deadline = self._deadline(started, answer.left)
        lease._since = self.home.time()
        self._hold(lease)
        check_held(lease, self.home.time())
        return lease

    # Kept values

    def _note_kept(self, *, kept: bool) -> None:
        """Log once that the store has no room for values, until it has some again."""
        if self._keeps_all and not kept:
            what = "the store has no room: results and shared values of tasks are not kept"
            log(logging.WARNING, "queue %r: %s", self.name, what)
        self._keeps_all = kept

    async def recall(self, name: str, timeout: float | None) -> bytes:
        """Wait for the value that is kept under a name.

        The store tells this process once there is one; until then the call is among `_recallers`.
        A telling may be lost, so they also ask at each beat.
        """
        self.check_not_closed()
        given_up = False
        waits = timeout != 0

        def receive(answer: Recalled) -> bool | None:
            if answer.body is not None:
                self._stop_waiting(name, call, told=True)
                self.value_kept(name)  # others may wait for the same one
            elif self.closed:  # the answer may be about the next queue of its name
                call.fail(self.closed_error())
            elif answer.is_there and not given_up:
                self.dispatcher.post(call)
                return False
            elif waits:  # and the store has noted it
                self._recallers.setdefault(name, {})[call] = None
                self._timers.waits(self)
                if not given_up and call.error is None:
                    return False
                self._stop_waiting(name, call)
            return None

        call = Call(Recall(self.ref, name, waits), receive=receive)
        self.dispatcher.check(call.operation)
        answer = None
        try:
            with fail_after(timeout if waits else None):
                answer = await self._answer(call, withdraw=True)
        finally:
            given_up = True
            self._stop_waiting(name, call, told=answer is not None)
        call.receive = None  # it refers to the call: without it there is no circle to collect
        if answer.body is None:
            raise TimeoutError
        return answer.body

    def _stop_waiting(self, name: str, call: Call[Recalled], *, told: bool = False) -> None:
        """Note that a task no longer waits for the value of a name."""
        calls = self._recallers.get(name, {})
        if call in calls:
            del calls[call]
            if not calls:
                del self._recallers[name]
                if not told and not self.closed:
                    self.dispatcher.post(Call(StopWaiting(self.ref, (name,))))

    def value_kept(self, name: str) -> None:
        """Have the tasks that wait for the value of a name ask: it may be there. O(tasks)."""
        calls = self._recallers.pop(name, None)
        if calls is not None:
            self._recallers[name] = calls  # at the end: the next beat asks for the others first
            for call in calls:
                if not (call.posted or call.sent):
                    self.dispatcher.post(call)

    # Events

    def woken(self, want: Want) -> None:
        """Take a wake-up of the store's for this want. O(groups)."""
        if want == DRAINED:
            if self._waiters.parked.pop(want, None) is None:
                return  # it is being asked for
            self._ask_again_whether_drained()
            if self._shut_down and not self._waiters.total:
                self._park_until_drained()
        elif not self._seek(want):
            self.pass_on(want)

    def pass_on(self, want: Want) -> None:
        """Send a wake-up on that no task here wants: another process may. O(1).

        One is on its way at a time, for each want, and so many in all: whoever can publish may send
        any number. What is not passed on is found later, by a look.
        """
        passing = self._passing
        if want.kind == "drained" or want in passing or len(passing) >= _PASSED:
            return
        passing.add(want)

        def over(_: object) -> None:
            passing.discard(want)

        self.dispatcher.post(Call(Wake(self.ref, want), receive=over, refuse=over))

    def _seek(self, want: Want) -> bool:
        """Have the tasks here that want this try; False: there is none any more. O(groups)."""
        known = self._waiters.woken(want)
        if want == ROOM and self._putters:
            self._let_putter_in()
            known = True
        if want == DRAINED:
            self._ask_again_whether_drained()
        self.dispatcher.wake_leader()
        return known

    def doubt_lease(self, token: int) -> None:
        """Ask whether a lease has ended, as was said."""
        lease = self._held.get(token)
        if lease is None:
            return

        def receive(is_held: bool | Cancellation) -> None:
            if is_held is not True:
                self.lose_token(token, is_held or None)

        self.dispatcher.post(Call(Held(self.ref, cast("Key", lease.key), token), receive=receive))

    def doubt_queue(self) -> None:
        """Ask whether the queue was deleted, as was said: an answer that it is gone closes this."""

        def receive(found: Declared) -> None:
            if found.made != self._made and self._made and not self.closed:
                self.note_deleted()  # it is another one of the same name

        self.dispatcher.post(Call(Find(QueueRef(self.name)), receive=receive))

    def look_again(self) -> None:
        """Ask which parks are gone: a wake-up may have been lost."""
        self._waiters.look_again()
        parks = [Park(*pair) for pair in self._waiters.parked.items()]

        def receive(gone: tuple[Want, ...]) -> None:
            for want in gone:
                self._seek(want)

        places = next(iter(self._putters.values()), 0)
        for lot in in_lots(parks) or [()] * bool(places):
            self.dispatcher.post(Call(Parked(self.ref, lot, places), receive=receive))
        for name in [*islice(self._recallers, _RECALLED)]:
            self.value_kept(name)

    def _unpark(self, want: Want) -> None:
        """Take a park away that no task here wants any more."""
        stamp = self._waiters.parked.pop(want, None)
        if stamp is not None and not self.closed:
            self.dispatcher.post(Call(Unpark(self.ref, (Park(want, stamp),))))

    @property
    def awaited(self) -> bool:
        """True while a task waits for anything here."""
        return bool(self._waiters.total or self._putters or self._joiners or self._recallers)

    @property
    def waiting(self) -> tuple[int, int, int]:
        """The numbers of tasks that wait: for any item, for one key, and for room."""
        waiters = self._waiters
        return waiters.total - waiters.takers, waiters.takers, len(self._putters)

    # Time

    def sweep(self) -> None:
        """Have the store do its work that is due."""
        self.next_due = inf
        if not self.closed and self.kept:
            self.dispatcher.post(Call(Sweep(self.ref, SWEPT)))

    async def run(self, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Keep time until the handle is closed, or shut down and drained."""
        if self.runs:
            raise BusyResourceError(RUN_TWICE)
        self.home.check()
        self.runs = True
        try:
            await self.dispatcher.run(self._is_over, task_status)
        finally:
            self.runs = False

    def _is_over(self) -> bool:
        return self.closed or (self._shut_down and self._drained)

    # The end

    async def shutdown(self) -> None:
        """Accept no more items through this handle."""
        self.home.check()
        if self._shut_down or self.closed:
            return
        self._shut_down = True
        self._drained = False
        self._turn_away(self._waiters.drop_patient())
        self._turn_putters_away()
        self._park_until_drained()
        await self.perform(Sweep(self.ref, SWEPT))  # after what was posted just now

    async def join(self) -> None:
        """Wait until the queue is drained."""
        if self.closed:
            if self._drained:
                return
            raise self.closed_error()

        given_up = False

        def receive(answer: Remaining) -> bool | None:
            is_left = self._is_left(answer)
            if is_left and self.closed:  # the answer may be about the next queue of its name
                call.fail(self.closed_error())
            elif is_left and call.error is None and not given_up:
                self._joiners[call] = None
                self._timers.waits(self)
                return False
            self._joiners.pop(call, None)
            return None

        call = Call(self._join_operation(), receive=receive)
        try:
            await self._answer(call, withdraw=True)
        except BaseException:
            given_up = True
            raise
        finally:
            self._joiners.pop(call, None)
            if not self._joiners and not self._shut_down:
                self._unpark(DRAINED)

    def _join_operation(self) -> Join:
        """Ask whether the queue is drained, and park to be told when it is."""
        return Join(self.ref, self._waiters.parked.get(DRAINED, 0))

    def _is_left(self, answer: Remaining) -> bool:
        """Read the answer to a join. True: something is left, and this process will be told."""
        if answer.left:
            self._waiters.parked[DRAINED] = answer.stamp
        else:
            self.note_drained()
        return bool(answer.left)

    def _ask_again_whether_drained(self) -> None:
        joiners, self._joiners = [*self._joiners], {}
        for joiner in joiners:
            self.dispatcher.post(joiner)
        if self._shut_down and self._waiters.total:
            self._park_until_drained()

    def _park_until_drained(self) -> None:
        def receive(answer: Remaining) -> None:
            self._is_left(answer)

        self.dispatcher.post(Call(self._join_operation(), receive=receive))

    def note_drained(self) -> None:
        """Note that the queue was drained just now: tasks that join have waited for that."""
        self._drained = self._shut_down
        joiners, self._joiners = [*self._joiners], {}
        for joiner in joiners:
            joiner.accept(Remaining(0))
        if self._shut_down:
            self._turn_away(self._waiters.drop_all())
        self.dispatcher.wake_all()

    def note_deleted(self) -> None:
        """Note that the queue was deleted: this handle is closed."""
        self.closed = self._deleted = True
        self._hub.forget(self)
        self._abandon_all()

    def _abandon_all(self) -> None:
        for lease in [*self._held.values()]:
            self.lose(lease, "closed")
        self._winding_up.clear()
        self._turn_away(self._waiters.drop_all())
        self._turn_putters_away()
        for joiner in self._joiners:
            joiner.fail(self.closed_error())
        self._joiners.clear()
        recallers, self._recallers = self._recallers, {}
        for call in [call for calls in recallers.values() for call in calls]:
            call.fail(self.closed_error())
        self.dispatcher.wake_all()

    @staticmethod
    def _turn_away(waiters: Iterable[Waiter[K, RemoteLease[K, V]]]) -> None:
        for waiter in waiters:
            waiter.end()

    async def close(self) -> None:
        """Close the handle: its leases go back."""
        if not self.closed:
            await self.dispatcher.finish([self.start_to_close()])

    def start_to_close(self) -> Call[Remaining]:
        """Close the handle, and return the call that gives its leases back.

        Those that a thread works on expire in their time.
        """
        self.closed = self._shut_down = True
        leases: list[tuple[Key, int]] = []
        for lease in [*self._held.values(), *self._winding_up.values()]:
            if lease not in kept_leases:
                leases.append((cast("Key", lease.key), lease.token))
            if lease.ended is None:
                self.lose(lease, "closed")
        self._winding_up.clear()

        def receive(answer: Remaining) -> None:
            self._drained = not answer.left
            self._abandon_all()

        def refuse(error: Exception) -> None:
            self._drained = isinstance(error, GoneError)
            self._abandon_all()

        parks = [Park(*pair) for pair in self._waiters.parked.items()]
        for gone in in_lots(parks):
            self.dispatcher.post(Call(Unpark(self.ref, gone)))
        *lots, last = in_lots(leases) or [()]
        for lot in lots:
            self.dispatcher.post(Call(Close(self.ref, lot)))
        call = Call(Close(self.ref, last), receive=receive, refuse=refuse)
        self.dispatcher.post(call)
        return call

    def check_not_closed(self) -> None:
        """Raise if the handle is closed."""
        if self.closed:
            raise self.closed_error()

    def _check_open(self) -> None:
        """Raise if no more items can come."""
        if self._is_over():
            raise self.closed_error()

    def closed_error(self) -> QueueClosedError:
        """Make the error for using the handle after its end."""
        if self._deleted:
            why = f"{self.queue!r}: it was deleted, or the store has lost it"
            return QueueClosedError(why, drained=self._drained)
        return drained(self.queue) if self._drained else closed_with_work_left(self.queue)


def in_lots(members: Sequence[A], size: int = 100) -> list[tuple[A, ...]]:
    """Split what is asked for together, so that no part of it holds up others."""
    return [tuple(members[at : at + size]) for at in range(0, len(members), size)]


def _is_behind(call: Call[PutAnswer]) -> bool:
    return isinstance(call.operation, Put) and call.operation.behind


class EarlyClaim(Generic[K, V]):
    """A consumer in line whose task does not wait yet."""

    __slots__ = ("_engine", "_waiter")

    def __init__(self, engine: Engine[K, V], waiter: Waiter[K, RemoteLease[K, V]]) -> None:
        self._engine = engine
        self._waiter = waiter

    async def lease(self) -> RemoteLease[K, V]:
        """Wait for the lease."""
        try:
            await checkpoint_if_cancelled()  # it may be there already
        except BaseException:
            self.give_up()
            raise
        [lease] = await self._engine.wait(self._waiter)
        return lease

    def give_up(self) -> None:
        """Leave the line; an item that was handed out meanwhile goes back."""
        self._engine.leave_line(self._waiter)


def check_readable(key: Key | RawKey) -> None:
    """Raise `ValueError` if a key is not one of this library's."""
    if type(key) is RawKey:
        raise ValueError(f"not a key: {shown(bytes(key))}")


def put_refused(key: object, request: PutRequest, why: str, tenant: str | None) -> Exception:
    """Make the error for a put that the store refused."""
    if why == "size":
        return ValueError(
            "the values that are there under these keys are too much to be replaced by one call: "
            "put fewer items at a time"
        )
    if why == "in_flight":
        return key_in_flight(key)
    return tenant_mismatch(key, tenant, request.tenant)
