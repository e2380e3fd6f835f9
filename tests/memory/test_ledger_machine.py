"""The ledger does what a model of it does that is too simple to be wrong.

The model keeps plain lists. Each put that makes an item gets a number, its ticket, by which the
model knows at the end of each step where everything that was ever put has gone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leaseq import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeasedKeyQueue,
    LeaseLostError,
    Put,
)
from leaseq.memory.item import Item
from leaseq.memory.ledger import Ledger
from leaseq.values import ANY_KEY, AnyKey, InFlightPolicy

KEYS = "abcde"


@dataclass(eq=False)
class Job:
    """An item, wherever it is."""

    ticket: int
    key: str
    value: int
    deliveries: int = 0
    cancellations: int = 0
    expiries: int = 0
    handed_out: int = 0
    """The number of the hand-out from which it is back at the front; 0: it is not."""

    @property
    def seen(self) -> tuple[object, ...]:
        """What the ledger should show of it in the line."""
        return self.key, self.value, self.deliveries, self.cancellations, self.expiries


@dataclass(eq=False)
class Hold:
    """A job in a consumer's hands."""

    job: Job
    token: int
    deadline: float
    update: int | None = None
    successor: Job | None = None

    @property
    def seen(self) -> tuple[object, ...]:
        """What the ledger should show of its lease."""
        job = self.job
        return job.key, job.value, self.token, self.deadline, job.deliveries, job.cancellations


@dataclass
class Model:
    """Where every job is: each is in one of these lists, and in one place of it."""

    token: int
    line: list[Job] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    acked: list[Job] = field(default_factory=list)
    superseded: list[Job] = field(default_factory=list)
    dropped: list[Job] = field(default_factory=list)
    put_so_far: int = 0
    events: list[str] = field(default_factory=list)
    """Each hand-out, and each end of a lease that is not an ack."""

    @property
    def successors(self) -> list[Job]:
        return [hold.successor for hold in self.holds if hold.successor is not None]

    @property
    def whereabouts(self) -> list[list[Job]]:
        held = [hold.job for hold in self.holds]
        return [self.line, held, self.successors, self.acked, self.superseded, self.dropped]

    def waiting(self, key: str | AnyKey) -> Job | None:
        return next((job for job in self.line if key is ANY_KEY or job.key == key), None)

    def hold_on(self, key: str) -> Hold | None:
        return next((hold for hold in self.holds if hold.job.key == key), None)

    def newest_value(self, key: str) -> int | None:
        if (job := self.waiting(key)) is not None:
            return job.value
        if (hold := self.hold_on(key)) is None:
            return None
        if hold.successor is not None:
            return hold.successor.value
        return hold.job.value if hold.update is None else hold.update

    # The moves

    def new_job(self, key: str, value: int) -> Job:
        self.put_so_far += 1
        return Job(self.put_so_far, key, value)

    def put(self, key: str, value: int, policy: InFlightPolicy) -> Put | None:
        """What the put does; None: it is refused."""
        if (job := self.waiting(key)) is not None:
            job.value = value
            return Put.REPLACED
        hold = self.hold_on(key)
        if hold is None:
            self.line.append(self.new_job(key, value))
            return Put.ADDED
        if policy == "reject":
            return None
        if hold.successor is not None:
            hold.successor.value = value
            return Put.BUFFERED
        if policy == "buffer":
            hold.successor = self.new_job(key, value)
            return Put.BUFFERED
        hold.update = value
        return Put.UPDATED_IN_FLIGHT

    def claim(self, key: str | AnyKey, deadline: float) -> Hold | None:
        job = self.waiting(key)
        if job is None:
            return None
        self.line.remove(job)
        self.events.append("handed out")
        self.token += 1
        job.deliveries += 1
        hold = Hold(job, self.token, deadline)
        self.holds.append(hold)
        return hold

    def ack(self, hold: Hold) -> bool:
        self.holds.remove(hold)
        self.acked.append(hold.job)
        if hold.successor is None:
            return hold.update is not None
        self.line.append(hold.successor)
        return False

    def release(self, hold: Hold, *, front: bool, counted: bool) -> None:
        self.events.append("released")
        hold.job.cancellations = 0
        if not counted:
            self.uncount(hold)
        self.put_back(hold, self.to_the_front if front else self.to_the_back)

    def give_back(self, hold: Hold) -> None:
        self.events.append("cancelled")
        self.uncount(hold)
        hold.job.cancellations += 1
        again = hold.job.cancellations > 1
        self.put_back(hold, self.to_the_back if again else self.to_its_old_place)

    def undo(self, hold: Hold) -> None:
        self.uncount(hold)
        self.put_back(hold, self.to_its_old_place)

    def expire(self, hold: Hold) -> None:
        self.events.append("expired")
        hold.job.cancellations = 0
        hold.job.expiries += 1
        again = hold.job.expiries > 1
        self.put_back(hold, self.to_the_back if again else self.to_its_old_place)

    def close(self) -> list[Hold]:
        lost = self.holds.copy()
        for hold in reversed(lost):
            self.put_back(hold, self.to_its_old_place)
        return lost

    def drain(self) -> list[Job]:
        drained, self.line = self.line, []
        self.dropped += drained
        return drained

    # How a job leaves its lease

    def uncount(self, hold: Hold) -> None:
        self.events.remove("handed out")
        hold.job.deliveries -= 1

    def put_back(self, hold: Hold, place: Callable[[Hold], None]) -> None:
        self.holds.remove(hold)
        if hold.successor is not None:
            self.superseded.append(hold.job)
            self.line.append(hold.successor)
            return
        if hold.update is not None:
            hold.job.value = hold.update
        place(hold)

    def to_the_back(self, hold: Hold) -> None:
        hold.job.handed_out = 0
        self.line.append(hold.job)

    def to_the_front(self, hold: Hold) -> None:
        hold.job.handed_out = hold.token
        self.line.insert(0, hold.job)

    def to_its_old_place(self, hold: Hold) -> None:
        hold.job.handed_out = hold.token
        place = 0
        while place < len(self.line) and 0 < self.line[place].handed_out < hold.token:
            place += 1
        self.line.insert(place, hold.job)


class LedgerAgainstModel(RuleBasedStateMachine):
    """Whatever is done with the ledger in whatever order, the model says the same."""

    keys = st.sampled_from(KEYS)
    keys_or_any = st.one_of(st.just(ANY_KEY), keys)
    timeouts = st.sampled_from([1, 2, 3, 5, 10, inf])
    numbers = st.integers(0, 1000)

    @initialize(
        first_token=st.sampled_from([0, 1_700_000_000_000_000]),
        put=st.permutations(KEYS),
        timeouts=st.lists(timeouts, max_size=len(KEYS)),
    )
    def begin(self, first_token: int, put: list[str], timeouts: list[float]) -> None:
        self.now = 0.0
        self.value = 0
        self.first_token = first_token
        self.last_tokens = dict.fromkeys(KEYS, first_token)
        self.model = Model(token=first_token)
        self.ledger: Ledger[str, int] = Ledger(Item, LeasedKeyQueue(), first_token=first_token)
        self.items: dict[int, Item[str, int]] = {}
        self.ended: list[tuple[Item[str, int], str, object]] = []
        for key in put:
            self.put(key, "update")
        for timeout in timeouts:
            self.claim(ANY_KEY, timeout)

    def pick(self, number: int) -> tuple[Hold, Item[str, int]]:
        """One of the leases that hold their items."""
        hold = self.model.holds[number % len(self.model.holds)]
        return hold, self.items[hold.token]

    def has_ended(self, hold: Hold, item: Item[str, int], how: str) -> None:
        assert item is self.items.pop(hold.token)
        self.ended.append((item, how, _seen_leased(item)))

    def overdue(self, hold: Hold, settle: Callable[[], object]) -> bool:
        """Whether the lease is past its deadline; then to settle it is refused."""
        if hold.deadline > self.now:
            return False
        with pytest.raises(LeaseLostError):
            settle()
        return True

    # The rules

    @rule(seconds=st.sampled_from([0.5, 1, 2, 4]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.ledger.next_deadline() < inf)
    @rule()
    def a_lease_falls_due(self) -> None:
        self.now = max(self.now, self.ledger.next_deadline())

    @rule(key=keys, policy=st.sampled_from(["update", "reject", "buffer"]))
    def put(self, key: str, policy: InFlightPolicy) -> None:
        self.value += 1
        expected = self.model.put(key, self.value, policy)
        if expected is None:
            with pytest.raises(KeyAlreadyInFlightError):
                self.ledger.put(key, self.value, if_in_flight=policy)
        else:
            assert self.ledger.put(key, self.value, if_in_flight=policy) is expected

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, policy=st.sampled_from(["update", "buffer"]))
    def put_what_is_leased(self, number: int, policy: InFlightPolicy) -> None:
        hold, _ = self.pick(number)
        self.put(hold.job.key, policy)

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.value += 1
        absent = self.model.newest_value(key) is None
        if absent:
            self.model.put(key, self.value, "reject")
        assert self.ledger.add(key, self.value) is absent

    @rule(key=keys_or_any, timeout=timeouts)
    def claim(self, key: str | AnyKey, timeout: float) -> None:
        deadline = self.now + timeout
        hold = self.model.claim(key, deadline)
        item = self.ledger.claim(key, deadline)
        if hold is None:
            assert item is None
            return
        assert item is not None
        assert item.token > self.last_tokens[item.key]
        self.last_tokens[item.key] = item.token
        self.items[hold.token] = item

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def ack(self, number: int) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.ack(item, self.now)):
            assert self.ledger.ack(item, self.now) is self.model.ack(hold)
            self.has_ended(hold, item, "acked")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, front=st.booleans(), counted=st.booleans())
    def release(self, number: int, front: bool, counted: bool) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.release(item, self.now)):
            self.ledger.release(item, self.now, front=front, counted=counted)
            self.model.release(hold, front=front, counted=counted)
            self.has_ended(hold, item, "released")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def give_back(self, number: int) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.give_back(item, self.now)):
            self.ledger.give_back(item, self.now)
            self.model.give_back(hold)
            self.has_ended(hold, item, "released")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, timeout=timeouts)
    def extend(self, number: int, timeout: float) -> None:
        hold, item = self.pick(number)
        deadline = self.now + timeout
        if not self.overdue(hold, lambda: self.ledger.extend(item, self.now, deadline)):
            self.ledger.extend(item, self.now, deadline)
            hold.deadline = deadline

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def undo(self, number: int) -> None:
        hold, item = self.pick(number)
        self.ledger.undo(item)
        self.model.undo(hold)
        self.has_ended(hold, item, "released")

    @rule(most=st.sampled_from([1, 2, 100]))
    def expire(self, most: int) -> None:
        due = sorted(hold.deadline for hold in self.model.holds if hold.deadline <= self.now)
        deadlines = []
        for item in islice(self.ledger.expire(self.now), most):
            hold = self.model.hold_on(item.key)
            assert hold is not None
            deadlines.append(hold.deadline)
            self.model.expire(hold)
            self.has_ended(hold, item, "lost")
        assert deadlines == due[:most]  # whichever comes first of those that are due together

    @precondition(lambda self: len(self.model.holds) > 3)
    @rule()
    def close(self) -> None:
        lost = self.model.close()
        assert self.ledger.close() == [self.items[hold.token] for hold in lost]
        for hold in lost:
            self.has_ended(hold, self.items[hold.token], "lost")

    @precondition(lambda self: len(self.model.line) > 3)
    @rule()
    def drain(self) -> None:
        assert self.ledger.drain() == [(job.key, job.value) for job in self.model.drain()]

    @precondition(lambda self: self.ended)
    @rule(number=numbers, settle=st.sampled_from(["ack", "release", "give_back", "extend"]))
    def settle_what_has_ended(self, number: int, settle: str) -> None:
        item, how, _ = self.ended[number % len(self.ended)]
        arguments: tuple[Any, ...] = (self.now, inf) if settle == "extend" else (self.now,)
        with pytest.raises(InvalidLeaseError) as caught:
            getattr(self.ledger, settle)(item, *arguments)
        assert (
            type(caught.value)
            is {
                "acked": LeaseAlreadyAcknowledgedError,
                "released": InvalidLeaseError,
                "lost": LeaseLostError,
            }[how]
        )

    # What holds after each

    @invariant()
    def the_line_is_the_model_s(self) -> None:
        ready = self.ledger.ready
        assert [_seen_ready(item) for item in ready.values()] == [
            job.seen for job in self.model.line
        ]
        assert list(ready) == [item.key for item in ready.values()]

    @invariant()
    def the_leases_are_the_model_s(self) -> None:
        leased = self.ledger.leased
        assert [_seen_leased(item) for item in leased.values()] == [
            hold.seen for hold in self.model.holds
        ]
        assert list(leased) == [item.key for item in leased.values()]
        assert [item.ended for item in leased.values()] == [None] * len(leased)

    @invariant()
    def each_key_is_in_one_state(self) -> None:
        assert self.ledger.ready.keys().isdisjoint(self.ledger.leased)

    @invariant()
    def each_key_shows_its_newest_value(self) -> None:
        for key in KEYS:
            assert self.ledger.peek(key) == self.model.newest_value(key)

    @invariant()
    def the_next_deadline_is_the_earliest_of_the_leases(self) -> None:
        earliest = min((hold.deadline for hold in self.model.holds), default=inf)
        assert self.ledger.next_deadline() == earliest

    @invariant()
    def only_timed_leases_have_a_deadline_to_remember(self) -> None:
        timed = [hold for hold in self.model.holds if hold.deadline < inf]
        assert len(self.ledger._deadlines) == len(timed)

    @invariant()
    def the_counters_are_the_model_s(self) -> None:
        ledger, model = self.ledger, self.model
        assert ledger.added == model.put_so_far
        assert ledger.buffered == len(model.successors)
        assert ledger.acked == len(model.acked)
        assert ledger.superseded == len(model.superseded)
        assert ledger.dropped == len(model.dropped)
        assert ledger.delivered == model.events.count("handed out")
        assert ledger.released == model.events.count("released")
        assert ledger.expired == model.events.count("expired")
        assert ledger.cancelled == model.events.count("cancelled")
        assert ledger.drained == (not model.line and not model.holds)

    @invariant()
    def all_that_was_put_is_in_one_place(self) -> None:
        tickets = [job.ticket for place in self.model.whereabouts for job in place]
        assert sorted(tickets) == list(range(1, self.model.put_so_far + 1))

    @invariant()
    def what_has_ended_stays_as_it_ended(self) -> None:
        for item, how, seen in self.ended:
            assert item.ended == how
            assert _seen_leased(item) == seen


def _seen_ready(item: Item[str, int]) -> tuple[object, ...]:
    return item.key, item.value, item.deliveries, item.cancellations, item.extra.expiries


def _seen_leased(item: Item[str, int]) -> tuple[object, ...]:
    return item.key, item.value, item.token, item.deadline, item.deliveries, item.cancellations


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(
    max_examples=300, stateful_step_count=80, deadline=None, derandomize=True
)
