"""A store in this process, over ledgers: what the client needs of one, and no more.

It is for tests alone. A `LedgerBackend` is the place that processes share; each has a `LedgerStore`
of its own on it. What an operation does is the ledger's to say. What is here is the rest of what
each store has to do: know batches again, keep what is to be known of a queue besides its items,
park processes, and wake them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from typing import Any, TypeAlias, cast

import anyio
from anyio.lowlevel import checkpoint

from leaseq._core.errors import (
    KeyAlreadyInFlightError,
    ServerError,
    ServerUnavailableError,
)
from leaseq._core.kept import Kept
from leaseq._core.messages import Cancellation
from leaseq._core.options import ANY_KEY, BrokerQueueOptions
from leaseq._core.policies import Retry
from leaseq._core.reports import (
    DeadLetter,
    HistoryEntry,
    LeaseInfo,
    QueueInfo,
    Statistics,
    TenantStatistics,
)
from leaseq._core.requests import PutRequest
from leaseq._core.validation import check_key
from leaseq._remote import protocol as p
from leaseq._remote.protocol import Key, Park, Want
from leaseq._rules.item import Item
from leaseq._rules.kept import KeptValues
from leaseq._rules.ledger import Burial, Death, Ledger
from leaseq._rules.moves import Fate
from leaseq._rules.plan import Plan, plan_for

__all__ = ["LedgerBackend", "LedgerStore"]

Held: TypeAlias = "Item[Key, p.Body]"
Letter: TypeAlias = "DeadLetter[Key | p.RawKey, p.Body]"

_SWEPT = 64  # of what is due a claim does first
_PAGE = 4  # members
_LOOKED_AT = 3  # letters, in one step of a redrive: so few, that most take several
_OVERLOOKED = 0.5  # seconds after which whoever was woken for an item does not come
_STALE = 60.0  # seconds after which a process that was not heard of does not wait any more


class LedgerBackend:
    """The place that processes share: queues, and what each process was told last.

    Args:
        clock: Gives the time, in seconds.
        wall: Gives the time since the epoch.
        most: How many operations of a batch it does; None: all.
        remembers: Whether it knows a batch again, as each store must.
        refuse: Says why an operation is to fail that could be done; None: it is not.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = anyio.current_time,
        wall: Callable[[], float] = time.time,
        remembers: bool = True,
        most: int | None = None,
        refuse: Callable[[p.Operation[Any]], Exception | None] = lambda _: None,
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.most = most
        self.made = 0  # queues
        self.queues: dict[str, _Queue] = {}
        self.listening: dict[str, p.OnEvent] = {}  # by process
        self.heard: dict[str, float] = {}  # when it was, by process
        self.events: list[p.ItemDied | p.LeaseEnded] = []  # of the batch that is being done
        self._remembers = remembers
        self._refuse = refuse
        self._last: dict[str, _Call] = {}  # by process

    async def open(self, process: str, on_event: p.OnEvent) -> LedgerStore:
        """Open a store for a process: an `OpenStore`."""
        return LedgerStore(self, process, on_event)

    def tell(self, process: str, event: p.Event) -> bool:
        """Tell a process something; False: nobody listens."""
        on_event = self.listening.get(process)
        if on_event is None:
            return False
        on_event(event)
        return True

    def do(self, process: str, batch: p.Batch) -> p.Reply:
        """Do a batch, unless it is the one that this process has had done last."""
        self.heard[process] = self.clock()
        last = self._last.get(process)
        changes = batch.operations[0].family != "queries" and self._remembers
        if changes and last is not None and batch.number < last.number:
            raise ServerError("a later batch was done before this one", code="OLD")
        if changes and last is not None and batch.number == last.number:
            pairs = zip(batch.operations, last.answers, strict=True)
            answers = [self._again(operation, answer) for operation, answer in pairs]
        else:
            self.events = []
            answers = [self._do_one(process, each) for each in batch.operations[: self.most]]
            answers += [p.LATER] * (len(batch.operations) - len(answers))
            last = _Call(batch.number, answers, self.events)
            if changes:
                self._last[process] = last
        return p.Reply(answers, self._due(batch), last.events)

    def _again(self, operation: p.Operation[Any], answer: object) -> object:
        """An answer, once more; leases that are held no more are left out."""
        if not isinstance(answer, p.Claimed):
            return answer
        queue = self.queues.get(operation.queue.name)
        if queue is None:
            return p.GoneError()
        now = self.clock()
        batches = tuple(
            tuple(each for each in batch if queue.is_leased(each.key, each.token, now))
            for batch in answer.batches
        )
        return replace(answer, batches=batches, left=queue.total)

    def _do_one(self, process: str, operation: p.Operation[Any]) -> object:
        error = self._refuse(operation)
        if error is not None:
            return error
        awaited = [(queue, _Before(queue)) for queue in self.queues.values() if queue.parks]
        answer = self._answer(process, operation)
        for queue, before in awaited:
            went_in = isinstance(operation, p.Put) and isinstance(answer, tuple)
            was_done = isinstance(operation, p.Transact) and answer == ()
            queue.wake_all(before, has_put=went_in or was_done)
        if isinstance(answer, p.Claimed):
            self.queues[operation.queue.name].wake_next()  # this one may have been woken in vain
        return answer

    def _answer(self, process: str, operation: p.Operation[Any]) -> object:
        name = operation.queue.name
        match operation:
            case p.Transact():
                return self._transact(operation)
            case p.Abandon():
                last = self._last.get(process)
                if last is None or last.number < operation.number:
                    return False
                for answer in last.answers:
                    for delivery in claimed_by(answer):
                        for each in self.queues.values():
                            item = each.leased(delivery.key, delivery.token)
                            if item is not None:
                                each.ledger.undo(item, self.clock())
                return True
            case p.ListQueues():
                listed = [
                    p.Listed(number, each.name, each.letters_name)
                    for number, each in enumerate(self.queues.values())
                ]
                return page_of(listed, operation.after)
            case p.Declare():
                letters = operation.options.get("dead_letters")
                group = operation.options.get("group")
                if name not in self.queues:
                    there = self.queues.get(letters or "")
                    if there is not None and there.declared().options.get("group") != group:
                        return None
                    self.queues[name] = _Queue(self, name, operation.options)
                has = self.queues[name].declared()
                same = (has.letters, has.options.get("group")) == (letters, group)
                if letters and same and letters not in self.queues:
                    self.queues[letters] = _Queue(self, letters, {"group": group} if group else {})
                return has
        queue = self.queues.get(name)
        if queue is None:
            return p.GoneError()
        match operation:
            case p.Delete():
                del self.queues[name]
                waiting = [each for names in queue.waiting_for.values() for each in names]
                for told in dict.fromkeys([*queue.parks.processes(), *waiting]):
                    self.tell(told, p.QueueDeleted(name))
                return None
            case p.Find():
                return queue.declared()
            case _:
                return queue.do(process, operation)

    def _due(self, batch: p.Batch) -> dict[str, float]:
        due: dict[str, float] = {}
        for operation in batch.operations:
            steps = operation.steps if isinstance(operation, p.Transact) else (operation,)
            for ref in [step.queue for step in steps if step is not None]:
                for name in (ref.name, None if ref.letters is None else ref.letters.name):
                    if name is not None:
                        queue = self.queues.get(name)
                        due[name] = inf if queue is None else queue.due
        return due

    # Transactions

    def _transact(self, transaction: p.Transact) -> object:
        now = self.clock()
        failures: list[p.StepRefused] = []
        plans: dict[_Queue, Plan] = {}
        last: dict[_Queue, int] = {}
        for number, step in enumerate(transaction.steps):
            queue = None if step is None else self.queues.get(step.queue.name)
            if step is None or queue is None:
                failures.append(p.StepRefused(number, "not held" if step is None else "gone"))
                continue
            plan = plans.setdefault(queue, plan_for(queue.ledger, now))
            last[queue] = number
            refused = queue.plan(plan, step)
            if refused is not None:
                why, what = refused
                reason = (what or "") if why == "cancelled" else ""
                tenant = None if why == "cancelled" else what
                failures.append(p.StepRefused(number, why, tenant=tenant, reason=reason))
        for queue, plan in plans.items():
            if plan.places and queue.ledger.waiting + plan.places > queue.max_size:
                failures.append(p.StepRefused(last[queue], "full", places=plan.places))
        if failures:
            return tuple(failures)
        for step in transaction.steps:
            assert step is not None
            self.queues[step.queue.name].take_step(step)
        return ()


@dataclass
class _Call:
    """A batch that was done."""

    number: int
    answers: list[object]
    events: list[p.ItemDied | p.LeaseEnded]


class LedgerStore:
    """A process's way to the place: a `Store`.

    Each exchange takes two steps of the event loop, the way there and the way back.
    """

    def __init__(self, backend: LedgerBackend, process: str, on_event: p.OnEvent) -> None:
        self._backend = backend
        self._process = process
        self._closed = False
        backend.listening[process] = on_event

    async def exchange(self, batch: p.Batch) -> p.Reply:
        if self._closed:
            raise ServerUnavailableError("the store is closed", in_doubt=False)
        await checkpoint()
        reply = self._backend.do(self._process, batch)
        await checkpoint()
        if self._closed:
            raise ServerUnavailableError("the store was closed", in_doubt=True)
        return reply

    def check(self, operation: p.Operation[Any]) -> None:
        match operation:
            case p.Transact():
                for step in operation.steps:
                    if step is not None:
                        self.check(step)
            case p.Put():
                for key, _ in operation.items:
                    _check_key(key)
                _check_name(operation.request.tenant)
            case p.Claim():
                for part in operation.claims:
                    request = part.request
                    if request.key is not ANY_KEY:
                        _check_key(request.key)
                    for name in (request.consumer, *(request.tenants or ()), *request.steal_from):
                        _check_name(name)
            case p.Look() | p.Discard() | p.FindLease():
                _check_key(operation.key)
            case p.Redrive():
                for key in operation.keys or ():
                    _check_key(key)
            case p.SetTenant():
                _check_name(operation.name)
            case p.Pause() | p.Resume():
                _check_name(operation.tenant)
            case p.ReleaseAll():
                _check_name(operation.consumer)

    async def listen(self) -> None:
        await anyio.sleep_forever()  # it tells what it has to tell there and then

    async def close(self) -> None:
        self._closed = True
        self._backend.listening.pop(self._process, None)


def _check_key(key: object) -> None:
    if not isinstance(key, (str, bytes, int)) or isinstance(key, bool):
        check_key(key)
        raise TypeError(f"a key must be str, bytes or int on this engine, not {key!r}")


def _check_name(name: object) -> None:
    if not isinstance(name, str | None):
        raise TypeError(
            f"a tenant or a consumer must be a str or None on this engine, not {name!r}"
        )


class _Parks:
    """Processes that wait for something, by what it is, each in the order in which they came."""

    def __init__(self) -> None:
        self._by_want: dict[Want, dict[int, str]] = {}
        self._stamp = 0

    def __bool__(self) -> bool:
        return bool(self._by_want)

    def wants(self) -> list[Want]:
        return [*self._by_want]

    def processes(self) -> Iterator[str]:
        for parked in self._by_want.values():
            yield from parked.values()

    def add(self, want: Want, process: str) -> Park:
        self._stamp += 1
        self._by_want.setdefault(want, {})[self._stamp] = process
        return Park(want, self._stamp)

    def has(self, park: Park, process: str) -> bool:
        return self._by_want.get(park.want, {}).get(park.stamp) == process

    def first(self, want: Want) -> int | None:
        """The stamp of the one that has been parked for longest."""
        return next(iter(self._by_want.get(want, ())), None)

    def pop(self, park: Park) -> str:
        parked = self._by_want[park.want]
        process = parked.pop(park.stamp)
        if not parked:
            del self._by_want[park.want]
        return process

    def drop(self, processes: set[str]) -> None:
        for want, parked in [*self._by_want.items()]:
            for stamp, process in [*parked.items()]:
                if process in processes:
                    self.pop(Park(want, stamp))


class _Before:
    """What was in a queue before an operation, to find out what it has done."""

    def __init__(self, queue: _Queue) -> None:
        ledger = queue.ledger
        # Once it is paused no more, all that is ready has come.
        self.ready = {*ledger.ready} if ledger.paused is None else set()
        self.slots = queue.slots()
        self.waiting = ledger.waiting
        self.drained = ledger.drained


class _Queue:
    """A queue: its items, who waits for them, and what else there is to know of it."""

    def __init__(self, backend: LedgerBackend, name: str, options: BrokerQueueOptions) -> None:
        self.name = name
        self.letters_name = options.get("dead_letters") or ""
        self.max_size = options.get("max_size", inf)
        self.parks = _Parks()
        self.kept = KeptValues()
        backend.made += 1
        self._number = backend.made
        self.waiting_for: dict[str, dict[str, None]] = {}  # processes, by the name of a value
        self._backend = backend
        self._options = options
        self._made_at = backend.wall()
        self._letter = 0  # the number of the last one that came here
        self._unread = False  # of the item that is being rejected
        self.history: deque[HistoryEntry[Key, p.Body]] = deque(maxlen=options.get("history", 0))
        self._holders: dict[Key, str] = {}  # the process of each key's last lease
        self._reasons: dict[int, str] = {}  # of cancellations, by token
        self.ledger: Ledger[Key, p.Body] = Ledger(
            Item,
            cast("Any", self),
            first_token=round(self._made_at * 1e6),
            retry=options.get("retry", Retry()),
            bury=self._bury,
            tenants=options.get("tenants"),
            dedupe_for=options.get("dedupe_for"),
        )

    @property
    def now(self) -> float:
        return self._backend.clock()

    @property
    def total(self) -> int:
        ledger = self.ledger
        return ledger.waiting + len(ledger.leased) + ledger.buffered

    @property
    def due(self) -> float:
        """Seconds until something happens by itself."""
        return max(0.0, self.ledger.next_deadline() - self.now)

    def declared(self) -> p.Declared:
        return p.Declared(self.letters_name, self._options, made=self._number)

    def leased(self, key: Key | p.RawKey, token: int) -> Held | None:
        """The item that a lease holds, past its deadline or not."""
        item = self.ledger.leased.get(key)
        return item if item is not None and item.token == token else None

    def is_leased(self, key: Key | p.RawKey, token: int, now: float) -> bool:
        """Whether a lease still has its item: it holds it, or was cancelled."""
        item = self.leased(key, token)
        return item is not None and item.deadline > now

    def held(self, key: Key | p.RawKey, token: int, now: float) -> Held | None:
        """The same; past its deadline a lease holds nothing."""
        item = self.leased(key, token)
        is_held = item is not None and item.deadline > now and item.ended is None
        return item if is_held else None

    def do(self, process: str, operation: p.Operation[Any]) -> object:
        """Do an operation that is about this queue alone."""
        match operation:
            case p.Put():
                return self._put(process, operation)
            case p.Claim():
                return self._claim(process, operation)
            case p.Settlement():
                return self._settle(operation)
            case p.Discard():
                return self.ledger.discard(operation.key) is not None
            case p.Cancel():
                return self._cancel(process, operation)
            case p.Close():
                return self._close(operation)
            case p.Sweep():
                outlived = self.ledger.outlived
                done = self._sweep(operation.limit)
                return p.Swept(done == operation.limit, self.ledger.outlived - outlived)
            case p.Wake() | p.Unpark() | p.Parked() | p.Join():
                return self._wait(process, operation)
            case p.KeepValues():
                self._keep(operation.values)
                return None
            case p.Recall():
                return self._recall(process, operation)
            case p.StopWaiting():
                for name in operation.names:
                    self.waiting_for.get(name, {}).pop(process, None)
                return None
            case p.Purge():
                waited = self.ledger.waiting
                return p.Purged(len(self.ledger.drain()), waited)
            case p.Redrive():
                return self._redrive(operation)
            case p.SetTenant():
                self.ledger.set_tenant(operation.name, operation.tenant)
                return None
            case p.Pause():
                try:
                    self.ledger.pause(operation.tenant, operation.reason, self._backend.wall())
                except ValueError:
                    return False
                return True
            case p.Resume():
                return self.ledger.resume(operation.tenant)
            case p.ReleaseAll():
                return self._release_all(process, operation)
            case _:
                return self._look(operation)

    # Producers

    def _put(self, process: str, put: p.Put) -> object:
        now, ledger = self.now, self.ledger
        terms = put.request
        fresh: set[Key] = set()
        for index, (key, _) in enumerate(put.items):
            why = self._refusal(key, terms)
            if why is not None:
                item = ledger.item(key)
                return p.PutRefused(index, why, None if item is None else item.tenant)
            if key not in ledger and not ledger.is_duplicate(key, now):
                fresh.add(key)
        places = len(fresh)
        if places > self.max_size:
            return p.NeverFits(places)
        if places and ledger.waiting + places > self.max_size:
            stamp = None if put.behind else self._park(Want("room"), process).stamp
            return p.Full(places, stamp)
        if places and put.behind and self.max_size != inf:
            return p.Full(places)
        return tuple(ledger.put(key, body, now, terms) for key, body in put.items)

    def _refusal(self, key: Key, terms: PutRequest) -> Any:
        """Why a key cannot be put like that; None: it can."""
        try:
            self.ledger.check_put(key, terms)
        except KeyAlreadyInFlightError:
            return "in_flight"
        except ValueError:
            return "tenant"
        return None

    # Consumers

    def _claim(self, process: str, claim: p.Claim) -> p.Claimed:
        now = self.now
        if self.due <= 0:
            self._sweep(_SWEPT)
        held = {park.want: park for park in claim.held}
        parks: dict[Want, Park | None] = {}  # None: there was one
        batches: list[tuple[p.Delivery, ...]] = []
        for part in claim.claims:
            batch: list[p.Delivery] = []
            while len(batch) < part.count:
                item = self.ledger.claim(part.request, now)
                if item is None:
                    break
                self._holders[item.key] = process
                batch.append(_delivery(item))
            batches.append(tuple(batch))
            if len(batch) < part.count and claim.parks:
                for want in self._wants(part):
                    if want not in parks:
                        there = want in held and self.parks.has(held[want], process)
                        parks[want] = None if there else self._park(want, process)
        new = tuple(park for park in parks.values() if park is not None)
        return p.Claimed(tuple(batches), self.total, new)

    def _wants(self, part: p.ClaimFor) -> list[Want]:
        """What a request that was not served waits for."""
        request = part.request
        if request.key is not ANY_KEY:
            item = self._ready(request.key)
            capped = [] if item is None else [Want("cap", item.tenant)]
            return [Want("key", request.key), *capped]
        if request.tenants is None:
            return [Want("any more" if part.patient else "any")]
        return [
            *(Want("own more" if part.patient else "own", name) for name in request.tenants),
            *(Want("steal more" if part.patient else "steal", name) for name in request.steal_from),
        ]

    def _cancel(self, process: str, cancel: p.Cancel) -> bool:
        held = self.ledger.leased.get(cancel.key)
        was_held = held is not None and held.ended is None
        item = self.ledger.cancel(cancel.key, keep_successor=cancel.keep_successor)
        if was_held and item is not None:
            self._reasons[item.token] = cancel.reason
            entry = item.key, item.value, item.token, item.deliveries, self._backend.wall()
            self.history.append(HistoryEntry(*entry, "cancelled"))
            if self._holders[item.key] == process:
                cause = Cancellation(cancel.reason)
                self._backend.events.append(p.LeaseEnded(self.name, item.token, cause))
            else:
                self._backend.tell(self._holders[item.key], p.LeaseEnded(self.name, item.token))
        if item is not None:
            self._keep(cancel.keep)
        return item is not None

    def cancellation(self, key: Key | p.RawKey, token: int) -> Cancellation | None:
        """How a lease was cancelled whose item is still leased; None: it was not."""
        item = self.leased(key, token)
        if item is None or item.ended != "cancelled":
            return None
        return Cancellation(self._reasons[token])

    def _settle(self, settlement: p.Settlement) -> p.SettledAnswer:
        now, ledger = self.now, self.ledger
        cause = self.cancellation(settlement.key, settlement.token)
        if cause is not None:
            if isinstance(settlement, p.HoldOn):
                ledger.hold_on(ledger.leased[settlement.key], now + settlement.timeout)
            elif not isinstance(settlement, p.Extend):
                ledger.wind_up(ledger.leased[settlement.key], now)
            return cause
        if isinstance(settlement, p.Undo):
            item = self.leased(settlement.key, settlement.token)
            if item is None:
                return p.Settled.NOT_HELD
            ledger.undo(item, now)
            return p.Settled.DONE
        item = self.held(settlement.key, settlement.token, now)
        if item is None:
            return p.Settled.NOT_HELD
        match settlement:
            case p.Ack():
                dropped = self._ack(item)
                self._keep(settlement.keep)
                return p.Settled.UPDATE_DROPPED if dropped else p.Settled.DONE
            case p.Release():
                ledger.release(
                    item,
                    now,
                    front=settlement.front,
                    delay=settlement.delay,
                    counted=settlement.counted,
                    error=settlement.error,
                )
            case p.Reject():
                self._unread = settlement.unread
                ledger.reject(item, now, settlement.reason, settlement.error)
                self._unread = False
                self._keep(settlement.keep)
            case p.GiveBack():
                ledger.give_back(item, now)
            case p.Extend() | p.HoldOn():
                ledger.extend(item, now, now + settlement.timeout)
            case _:
                raise AssertionError(settlement)
        return p.Settled.DONE

    def _ack(self, item: Held) -> bool:
        now = self.now
        update_dropped = self.ledger.ack(item, now)
        self.history.append(
            HistoryEntry(item.key, item.value, item.token, item.deliveries, self._backend.wall())
        )
        return update_dropped

    def _close(self, close: p.Close) -> p.Remaining:
        for key, token in close.leases:
            item = self.leased(key, token)
            if item is not None:
                if item._timers is not None:
                    item._timers.expires = inf  # unlike an undo: it was handed out
                self.ledger.undo(item, self.now)
        return p.Remaining(self.total)

    # Kept values

    def _keep(self, values: tuple[Kept, ...]) -> None:
        self.kept.keep(values, self.now)
        for value in values:
            for process in self.waiting_for.pop(value.name, {}):
                self._backend.tell(process, p.ValueKept(self.name, value.name))

    def _recall(self, process: str, recall: p.Recall) -> p.Recalled:
        body = self.kept.read(recall.name, self.now)
        if body is None and recall.waits:
            self.waiting_for.setdefault(recall.name, {})[process] = None
        return p.Recalled(body, body is not None)

    # Transactions

    def plan(
        self, plan: Plan, step: p.Put | p.Ack | p.Release | p.Reject
    ) -> tuple[p.WhyNot, str | None] | None:
        """Plan a step; return the reason, if it cannot be taken."""
        if isinstance(step, p.Put):
            refusals = (plan.put(key, step.request) for key, _ in step.items)
            return next(filter(None, refusals), None)
        cause = self.cancellation(step.key, step.token)
        if cause is not None:
            return "cancelled", cause.reason
        item = self.held(step.key, step.token, self.now)
        if item is None:
            return "not held", None
        letters = self._backend.queues.get(self.letters_name)
        buried = not self.letters_name or letters is not None
        match step:
            case p.Ack():
                ends = plan.ack(item.key)
            case p.Release():
                dies = step.counted and self.ledger.verdict(item, rests=False) is None
                ends = plan.release(item.key, leaves=dies and buried)
            case p.Reject():
                kept = step.unread and not self.letters_name
                ends = plan.release(item.key, leaves=buried and not kept)
        return None if ends else ("twice", None)

    def take_step(self, step: p.Put | p.Ack | p.Release | p.Reject) -> None:
        """Take a step that was planned."""
        if isinstance(step, p.Put):
            for key, body in step.items:
                self.ledger.put(key, body, self.now, step.request)
        else:
            self._settle(step)

    # What happens by itself

    def _sweep(self, limit: int) -> int:
        """Do what is due, so many items at most, and say how many those were."""
        done = 0
        for item in islice(self.ledger.tick(self.now), limit):
            done += 1
            if item.ended == "lost":
                self._backend.events.append(p.LeaseEnded(self.name, item.token))
        return done

    def _bury(self, death: Death[Key, p.Body]) -> Burial:
        item, token, reason = death.item, death.token, death.reason
        letters = self._backend.queues.get(self.letters_name)
        fate: Fate = "kept"
        if letters is not None:
            fate = "dead"
        elif not self.letters_name and not self._unread:
            fate = "dropped"
        letter: Letter = DeadLetter(
            queue=self.name,
            key=item.key,
            value=death.value,
            token=token,
            reason=reason,
            error=death.error,
            deliveries=item.deliveries,
            tenant=item.tenant,
            priority=item.priority,
            died_at=self._backend.wall(),
        )

        def finish() -> None:
            if letters is not None:
                letters.receive(letter)
            self._backend.events.append(p.ItemDied(self.name, item.key, token, reason, fate))

        return Burial(fate, finish)

    def receive(self, letter: Letter) -> None:
        """Take a dead letter in."""
        self._letter = max(self._letter + 1, round(self._backend.wall() * 1e6))
        self.ledger.put(f"{self._letter:032x}", letter, self.now, PutRequest())

    # Administration

    def _redrive(self, redrive: p.Redrive) -> object:
        letters = self._backend.queues.get(self.letters_name)
        if letters is None:
            return p.GoneError()
        order = letters.ledger.items("ready")
        skipped = int(redrive.after or b"0")
        lot = order[skipped : skipped + _LOOKED_AT]
        back: list[Key] = []
        conflicts: list[Key] = []
        for item in lot:
            if redrive.limit is not None and len(back) >= redrive.limit:
                break
            letter = item.value
            if not isinstance(letter, DeadLetter) or letter.queue != self.name:
                continue
            if redrive.keys is None or letter.key in redrive.keys:
                if letter.key in self.ledger:
                    conflicts.append(letter.key)
                    continue
                letters.ledger.take_out(item.key)
                self.ledger.forget_done(letter.key)
                terms = PutRequest(priority=letter.priority, tenant=letter.tenant)
                self.ledger.put(letter.key, letter.value, self.now, terms)
                back.append(letter.key)
        after = b"%d" % (skipped + len(lot) - len(back)) if len(lot) == _LOOKED_AT else None
        return p.Redriven(tuple(back), tuple(conflicts), len(order), len(lot), after)

    def _release_all(self, process: str, release: p.ReleaseAll) -> p.Released:
        ended = self.ledger.revoke(release.consumer, self.now)
        for item in ended:
            event = p.LeaseEnded(self.name, item.token)
            self._backend.events.append(event)
            if self._holders[item.key] != process:
                self._backend.tell(self._holders[item.key], event)
        return p.Released(len(ended), None)

    # Questions

    def _look(self, query: p.Operation[Any]) -> object:
        now, ledger = self.now, self.ledger
        match query:
            case p.Look():
                state, body = ledger.look(query.key)
                return p.Looked(state, body if query.value else None)
            case p.AvailableKeys():
                return page_of(ledger.ready, query.after)
            case p.DelayedKeys():
                return page_of(ledger.delayed, query.after)
            case p.LeasedKeys():
                return page_of(ledger.leased, query.after)
            case p.Counts():
                return self._statistics()
            case p.CountTenants():
                return page_of(self._tenants(), query.after)
            case p.InFlight():
                return page_of(map(self._lease_info, ledger.leased.values()), query.after)
            case p.Info():
                return self._info()
            case p.ReadHistory():
                return page_of(self.history, query.after)
            case p.Held():
                cause = self.cancellation(query.key, query.token)
                return cause or self.held(query.key, query.token, now) is not None
            case p.FindLease():
                cause = self.cancellation(query.key, query.token)
                if cause is not None:
                    return cause
                item = self.held(query.key, query.token, now)
                if item is None:
                    return None
                return p.FoundLease(_delivery(item), item.deadline - now)
            case _:
                raise AssertionError(query)

    def _lease_info(self, item: Held) -> LeaseInfo[Key]:
        assert item.since is not None
        return LeaseInfo(
            key=item.key,
            token=item.token,
            consumer=None if item._timers is None else item._timers.consumer,
            since=item.since - self.now,
            deadline=max(0.0, item.deadline - self.now),
            deliveries=item.deliveries,
            tenant=item.tenant,
            priority=item.priority,
            cancelled=item.ended == "cancelled",
        )

    def _info(self) -> QueueInfo:
        letters = self._backend.queues.get(self.letters_name)
        there = [] if letters is None else list(letters.letters())
        return QueueInfo(
            name=self.name,
            ready=len(self.ledger.ready),
            delayed=len(self.ledger.delayed),
            leased=len(self.ledger.leased),
            dead=sum(letter.queue == self.name for letter in there),
            created_at=self._made_at,
            dead_letters_of=(),
            paused=self.ledger.paused,
            paused_tenants=dict(self.ledger.paused_tenants),
        )

    def letters(self) -> Iterator[Letter]:
        """The letters that are here, in whatever state."""
        for value in self.ledger.values():
            if isinstance(value, DeadLetter):
                yield value

    def _statistics(self) -> Statistics:
        ledger = self.ledger
        since = ledger.oldest_ready_since()
        return Statistics(
            getters=0,
            takers=0,
            putters=0,
            ready=len(ledger.ready),
            delayed=len(ledger.delayed),
            leased=len(ledger.leased),
            buffered=ledger.buffered,
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
            oldest_ready_age=None if since is None else self.now - since,
            tenants=None,
            paused=ledger.paused is not None,
        )

    def _tenants(self) -> Iterator[tuple[str | None, TenantStatistics]]:
        ledger = self.ledger
        counts = ledger.schedule or [(None, len(ledger.ready), len(ledger.leased))]
        for tenant, ready, leased in counts:
            yield tenant, TenantStatistics(ready, leased)

    # Waiting

    def _wait(self, process: str, operation: p.Operation[Any]) -> object:
        match operation:
            case p.Wake():
                self._pass_on(operation.want)
                return None
            case p.Unpark():
                for park in operation.parks:
                    if self.parks.has(park, process):
                        self.parks.pop(park)
                return None
            case p.Parked():
                gone: list[Want] = []
                for park in operation.parks:
                    stands = self.parks.has(park, process)
                    if stands and self._is_overlooked(park.want, operation.places):
                        self.parks.pop(park)
                        stands = False
                    if not stands:
                        gone.append(park.want)
                return tuple(gone)
            case p.Join():
                park = Park(Want("drained"), operation.stamp)
                if self.total and not self.parks.has(park, process):
                    park = self._park(Want("drained"), process)
                return p.Remaining(self.total, park.stamp)
            case _:
                raise AssertionError(operation)

    def _park(self, want: Want, process: str) -> Park:
        heard, silent = self._backend.heard, self.now - _STALE
        self.parks.drop({each for each in self.parks.processes() if heard[each] < silent})
        return self.parks.add(want, process)

    def _is_overlooked(self, want: Want, places: int) -> bool:
        """Whether there has been for long what somebody waits for."""
        ledger = self.ledger
        if want.kind == "room":
            return ledger.waiting + places <= self.max_size
        kind = want.kind.split()[0]
        item = None
        if kind == "any":
            item = self._next()
        elif kind == "key" and ledger.claimable(cast("Key", want.name)):
            item = self._ready(cast("Key", want.name))
        elif kind in ("own", "steal"):
            item = self._next_of(want.name)
        return item is not None and (item.since or 0.0) < self.now - _OVERLOOKED

    def _next(self) -> Held | None:
        if self.ledger.paused is not None:
            return None
        schedule = self.ledger.schedule
        if schedule is not None:  # a look that moves no virtual time, mostly at the next one
            return schedule.next_of([tenant for tenant, _, _ in schedule])
        return next(iter(self.ledger.items("ready")), None)

    def _ready(self, key: Key) -> Held | None:
        return next((item for item in self.ledger.items("ready") if item.key == key), None)

    def _next_of(self, tenant: Any) -> Held | None:
        if self.ledger.paused is not None:
            return None
        if self.ledger.schedule is not None:
            return self.ledger.schedule.next_of((tenant,))
        return self._next() if tenant is None else None

    def slots(self) -> dict[str | None, int]:
        """How many items of each tenant can be claimed."""
        schedule = self.ledger.schedule
        if self.ledger.paused is not None:
            return {}
        if schedule is None:
            return {None: len(self.ledger.ready)}
        slots: dict[str | None, int] = {}
        for tenant, ready, leased in schedule:
            cap = schedule.tenant(tenant).max_in_flight
            if tenant in self.ledger.paused_tenants:
                cap = 0
            slots[tenant] = ready if cap is None else max(0, min(ready, cap - leased))
        return slots

    # Waking

    def wake_all(self, before: _Before, *, has_put: bool) -> None:
        """Wake all who are to be woken for what an operation has done."""
        ledger = self.ledger
        came = [item for item in ledger.items("ready") if item.key not in before.ready]
        for item in came:
            self._wake_for(item)
        for tenant, slots in self.slots().items():
            more = slots - before.slots.get(tenant, 0)
            served = sum(item.tenant == tenant for item in came)
            for _ in range(max(more - served, min(more, len(self._waiting_for_cap(tenant))))):
                self._wake_for_slot(tenant)
        if ledger.waiting < before.waiting or has_put:
            self._wake_for_room()
        if ledger.drained and not before.drained:
            while self._wake_one(Want("drained")):
                pass

    def _waiting_for_cap(self, tenant: str | None) -> list[Want]:
        want = Want("cap", tenant)
        return [want] if self.parks.first(want) is not None else []

    def _wake_for(self, item: Held) -> bool:
        """Wake who may have an item that is ready."""
        if self.ledger.paused is not None:
            return False
        if self._wake_one(Want("key", item.key)):
            return True
        return self._next_of(item.tenant) is not None and self._wake_for_tenant(item.tenant)

    def _wake_for_tenant(self, tenant: str | None) -> bool:
        return (
            self._wake_one(Want("any"), Want("own", tenant))
            or self._wake_one(Want("steal", tenant))
            or self._wake_one(Want("any more"), Want("own more", tenant))
            or self._wake_one(Want("steal more", tenant))
        )

    def _wake_for_slot(self, tenant: str | None) -> bool:
        """A tenant may have come under its cap."""
        item = self._next_of(tenant)
        return item is not None and (self._wake_one(Want("cap", tenant)) or self._wake_for(item))

    def _wake_for_room(self) -> None:
        if self.ledger.waiting < self.max_size:
            self._wake_one(Want("room"))

    def wake_next(self) -> None:
        """Wake somebody for what is left; for another item, if nobody waits for the next one."""
        item = self._next()
        if item is None or self._wake_for(item) or self.ledger.schedule is None:
            return
        for want in self.parks.wants():
            named = want.kind.split()[0] in ("own", "steal")
            if named and self._next_of(want.name) and self._wake_for_tenant(cast("Any", want.name)):
                return

    def _pass_on(self, want: Want) -> None:
        """Wake somebody else for what one was woken for who does not want it any more."""
        match want.kind:
            case "any" | "any more":
                self.wake_next()
            case "key":
                item = self._ready(cast("Key", want.name))
                if item is not None:
                    self._wake_for(item)
            case "room":
                self._wake_for_room()
            case "drained":
                pass
            case _:
                self._wake_for_slot(cast("Any", want.name))

    def _wake_one(self, *wants: Want) -> bool:
        """Wake who has been parked for longest under one of these; False: nobody hears it."""
        while True:
            firsts = [(self.parks.first(want), want) for want in wants]
            parks = [Park(want, stamp) for stamp, want in firsts if stamp is not None]
            if not parks:
                return False
            first = min(parks, key=lambda park: park.stamp)
            if self._backend.tell(self.parks.pop(first), p.Woken(self.name, first.want)):
                return True


def claimed_by(answer: object) -> list[p.Delivery]:
    """What a claim has brought; nothing, if it is the answer to something else."""
    batches = answer.batches if isinstance(answer, p.Claimed) else ()
    return [delivery for batch in batches for delivery in batch]


def page_of(members: Iterable[Any], after: bytes | None) -> p.Page[Any]:
    """A page of so few that most answers take several."""
    start = int(after or b"0")
    all_members = [*members]
    end = start + _PAGE
    return p.Page(tuple(all_members[start:end]), b"%d" % end if end < len(all_members) else None)


def _delivery(item: Held) -> p.Delivery:
    return p.Delivery(
        key=item.key,
        body=item.value,
        token=item.token,
        priority=item.priority,
        tenant=item.tenant,
        deliveries=item.deliveries,
        cancellations=item.cancellations,
    )
