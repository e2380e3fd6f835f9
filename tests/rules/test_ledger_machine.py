"""The ledger does what a model of it does that is too simple to be wrong.

The model is in `naive_ledger`, for all engines.

Consumers that wait are there as well, and are served at each change as the queue does it.
"""

from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from itertools import islice
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from naive_ledger import KEYS, TENANTS, Hold, Job, Model

from leaseq import (
    Backoff,
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseCancelledError,
    LeasedKeyQueue,
    LeaseLostError,
    Paused,
    PutOutcome,
    Retry,
    Tenant,
)
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Death, Ledger
from leaseq._rules.moves import Fate
from leaseq._rules.waiters import Waiter, Waiters


class Followed(Ledger[str, int]):
    """A ledger whose hand-outs somebody follows, each as it is made."""

    claimed: Callable[[ClaimRequest[str], Item[str, int] | None], None]

    def claim(self, request: ClaimRequest[str], now: float) -> Item[str, int] | None:
        item = super().claim(request, now)
        self.claimed(request, item)
        return item


def level(waiter: Waiter[str, int], job: Job) -> int | None:
    """How early somebody who waits is asked whether this job will do; None: it will not."""
    request = waiter.request
    if request.key is not ANY_KEY:
        return 0 if request.key == job.key else None
    if not request.serves(job.tenant):
        return None
    steals = request.tenants is not None and job.tenant not in request.tenants
    patient = waiter.lines[0][0].startswith("patient")
    return 1 + steals + 2 * patient


RETRIES = [
    Retry(),
    Retry(max_deliveries=2),
    Retry(max_deliveries=3, backoff=Backoff(2.0, ceiling=4.0, seed=1)),
    Retry(backoff=Backoff(1.0, factor=1.0, ceiling=0.0, seed=2)),
]
DECLARED: list[dict[str, Tenant] | None] = [
    None,
    None,
    {"x": Tenant(2.0, max_in_flight=1), "y": Tenant(max_in_flight=2)},
]


class LedgerAgainstModel(RuleBasedStateMachine):
    """Whatever is done with the ledger in whatever order, the model says the same."""

    keys = st.sampled_from(KEYS)
    timeouts = st.sampled_from([1, 2, 3, 5, 10, None])
    numbers = st.integers(0, 1000)
    tenants = st.sampled_from(TENANTS)
    terms = st.builds(
        lambda delay, ttl, **rest: PutRequest(delay=delay, ttl=ttl and delay + ttl, **rest),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 3.0]),
        ttl=st.sampled_from([None, None, None, 1.0, 3.0]),
        if_in_flight=st.sampled_from(["update", "buffer", "buffer", "reject"]),
        priority=st.sampled_from([None, None, None, 1, 3, 5]),
        tenant=st.sampled_from([None, None, None, *TENANTS]),
        reschedule=st.sampled_from(["earliest", "latest"]),
    )
    plain_terms = st.builds(PutRequest, if_in_flight=st.sampled_from(["update", "buffer"]))
    requests = st.one_of(
        st.builds(ClaimRequest, lease_timeout=timeouts),
        st.builds(ClaimRequest, keys, lease_timeout=timeouts),
        st.builds(
            ClaimRequest,
            lease_timeout=timeouts,
            tenants=st.lists(tenants, min_size=1, max_size=2),
            steal_from=st.lists(tenants, max_size=2),
            consumer=st.just("somebody"),
        ),
    )

    @initialize(
        first_token=st.sampled_from([0, 1_700_000_000_000_000]),
        retry=st.sampled_from(RETRIES),
        declared=st.sampled_from(DECLARED),
        put=st.lists(keys, max_size=4, unique=True),
        requests=st.lists(requests, max_size=4),
    )
    def begin(
        self,
        first_token: int,
        retry: Retry,
        declared: dict[str, Tenant] | None,
        put: list[str],
        requests: list[ClaimRequest[str]],
    ) -> None:
        self.now = 0.0
        self.value = 0
        self.strict = True
        self.last_tokens = dict.fromkeys(KEYS, first_token)
        self.model = Model(first_token, deepcopy(retry), {})
        for name, tenant in (declared or {}).items():
            self.model.set_tenant(name, tenant)
        self.ledger = Followed(
            Item,
            LeasedKeyQueue(),
            first_token=first_token,
            retry=deepcopy(retry),
            bury=self.bury,
            tenants=declared,
        )
        self.ledger.claimed = self.claimed
        self.waiters: Waiters[str, int] = Waiters(self.ledger)
        self.waiting: list[Waiter[str, int]] = []
        self.pauses: dict[str | None, Paused] = {}
        self.came_back: set[Waiter[str, int]] = set()
        self.served: dict[int, Waiter[str, int]] = {}
        self.letters: list[tuple[object, ...]] = []
        self.items: dict[int, Item[str, int]] = {}
        self.ended: list[tuple[Item[str, int], str, object]] = []
        for key in put:
            self.put(key, PutRequest())
        self.consumers_come(requests, patient=False)

    def bury(self, death: Death[str, int]) -> Burial:
        letter = (death.item.key, death.value, death.reason, death.error)
        return Burial(self.model.fate, lambda: self.letters.append(letter))

    def pick(self, number: int) -> tuple[Hold, Item[str, int]]:
        """One of the leases that hold their items."""
        hold = self.model.holds[number % len(self.model.holds)]
        return hold, self.items[hold.token]

    def overdue(self, hold: Hold, settle: Callable[[], object]) -> bool:
        """Whether the lease is past its deadline, or cancelled; then to settle it is refused."""
        if hold.cancelled:
            with pytest.raises(LeaseCancelledError):
                settle()
            return True
        if hold.deadline > self.now:
            return False
        with pytest.raises(LeaseLostError):
            settle()
        return True

    def claimed(self, request: ClaimRequest[str], item: Item[str, int] | None) -> None:
        """Follow what a claim did: some may have turned out dead, before one was handed out."""
        for key, *_ in self.letters[len(self.model.letters) :]:
            self.model.look(request)
            (job,) = (job for job in self.model.may_be_next(request) if job.key == key)
            assert job.dies_at <= self.now
            self.model.fall_due(job, self.now)
        self.model.look(request)
        allowed = self.model.may_be_next(request)
        if item is None:
            assert not allowed
            return
        (job,) = (job for job in allowed if job.key == item.key)
        assert job.dies_at > self.now
        assert item.token > self.last_tokens[item.key]
        self.last_tokens[item.key] = item.token
        self.model.hand_out(job, self.now, request.lease_timeout, restricted=request.restricted)
        self.items[item.token] = item
        assert item.since == self.now
        if request.consumer is not None:
            assert item._timers is not None
            assert item._timers.consumer == request.consumer

    def serve(self, keys: Collection[str], tenants: Iterable[str | None] = ()) -> None:
        """Hand over to those who wait, as the queue does after each change."""
        self.follow(self.waiters.serve(keys, self.now))
        for tenant in tenants:
            self.follow(self.waiters.serve_tenant(tenant, self.now))

    def follow(self, served: Iterable[Waiter[str, int]]) -> None:
        for waiter in served:
            self.waiting.remove(waiter)
            item = waiter.item
            assert item is not None
            self.served[item.token] = waiter
            if self.strict:
                self.nobody_else_was_first(waiter, self.hold_of(item))

    def hold_of(self, item: Item[str, int]) -> Hold:
        (hold,) = (hold for hold in self.model.holds if hold.token == item.token)
        return hold

    def nobody_else_was_first(self, waiter: Waiter[str, int], hold: Hold) -> None:
        own = level(waiter, hold.job)
        assert own is not None
        for other in self.waiting:
            theirs = level(other, hold.job)
            assert theirs is None or theirs >= own
            if theirs == own and not {waiter, other} & self.came_back:
                assert waiter.number < other.number

    def has_ended(self, hold: Hold, item: Item[str, int], how: str) -> None:
        assert item is self.items.pop(hold.token)
        self.ended.append((item, how, _seen_leased(item)))
        self.serve([item.key], [item.tenant])

    # Producers

    @rule(seconds=st.sampled_from([0.5, 1, 2, 4]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.ledger.next_deadline() < inf)
    @rule()
    def something_falls_due(self) -> None:
        self.now = max(self.now, self.ledger.next_deadline())

    @rule(key=keys, terms=terms)
    def put(self, key: str, terms: PutRequest) -> None:
        self.value += 1
        expected = self.model.put(key, self.value, self.now, terms)
        if isinstance(expected, PutOutcome):
            assert self.ledger.put(key, self.value, self.now, terms) is expected
            self.serve([key])
        else:
            with pytest.raises(expected):
                self.ledger.put(key, self.value, self.now, terms)

    @rule(keys=st.lists(keys, min_size=2, max_size=4), terms=terms)
    def put_many(self, keys: list[str], terms: PutRequest) -> None:
        try:
            for key in keys:
                self.ledger.check_put(key, terms)
        except (KeyAlreadyInFlightError, ValueError):
            return
        for key in keys:
            self.value += 1
            expected = self.model.put(key, self.value, self.now, terms)
            assert self.ledger.put(key, self.value, self.now, terms) is expected
        self.strict = False
        self.serve(keys)
        self.strict = True

    @rule(
        keys=st.lists(keys, min_size=2, unique=True),
        priorities=st.lists(st.sampled_from([1, 3, 5]), min_size=6, max_size=6),
        tenants=st.lists(tenants, min_size=6, max_size=6),
    )
    def put_several_for_the_same_time(
        self, keys: list[str], priorities: list[int], tenants: list[str | None]
    ) -> None:
        for key, priority, tenant in zip(keys, priorities, tenants, strict=False):
            self.put(key, PutRequest(priority=priority, tenant=tenant, delay=1.0))
        self.now += 1.0
        self.tick(100)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, terms=st.one_of(terms, plain_terms))
    def put_what_is_leased(self, number: int, terms: PutRequest) -> None:
        hold, _ = self.pick(number)
        self.put(hold.job.key, terms)

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.value += 1
        absent = self.model.newest_value(key) is None
        if absent:
            self.model.put(key, self.value, self.now, PutRequest())
        assert self.ledger.add(key, self.value, self.now) is absent
        if absent:
            self.serve([key])

    @rule(fate=st.sampled_from(["dead", "dead", "dropped", "kept"]))
    def bury_from_now_on(self, fate: Fate) -> None:
        self.model.fate = fate

    @rule(
        tenant=tenants,
        cap=st.sampled_from([None, 1, 2, 3]),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
    )
    def set_tenant(self, tenant: str | None, cap: int | None, weight: float) -> None:
        self.model.set_tenant(tenant, Tenant(weight, cap))  # type: ignore[arg-type]
        self.ledger.set_tenant(tenant, Tenant(weight, cap))  # type: ignore[arg-type]
        self.follow(self.waiters.serve_tenant(tenant, self.now))

    @rule(tenant=tenants, reason=st.sampled_from(["", "a reason"]), since=st.sampled_from([1, 2]))
    def pause(self, tenant: str | None, reason: str, since: float) -> None:
        since = self.pauses.get(tenant, Paused("", since)).since
        self.pauses[tenant] = Paused(reason, since)
        self.model.pause(tenant)
        self.ledger.pause(tenant, reason, since)

    @precondition(lambda self: self.pauses)
    @rule(tenant=tenants)
    def resume(self, tenant: str | None) -> None:
        self.pauses.pop(tenant, None)
        assert self.ledger.resume(tenant) is self.model.resume(tenant)
        if tenant is None:
            self.strict = False
            self.follow(self.waiters.serve_all(self.now))
            self.strict = True
        else:
            self.follow(self.waiters.serve_tenant(tenant, self.now))

    # Consumers

    @rule(requests=st.lists(requests, min_size=1, max_size=3), patient=st.booleans())
    def consumers_come(self, requests: list[ClaimRequest[str]], patient: bool) -> None:
        for request in requests:
            if self.ledger.claim(request, self.now) is None:
                waiter: Waiter[str, int] = Waiter(request, patient=patient)
                self.waiters.add(waiter)
                self.waiting.append(waiter)

    @rule(requests=st.lists(requests, min_size=2, max_size=6), patient=st.integers(0, 6))
    def consumers_come_when_nothing_waits(
        self, requests: list[ClaimRequest[str]], patient: int
    ) -> None:
        self.drain()
        self.consumers_come(requests[:patient], patient=False)
        self.consumers_come(requests[patient:], patient=True)

    @precondition(lambda self: None not in self.pauses)
    @rule(timeout=timeouts)
    def claim_the_short_way(self, timeout: float | None) -> None:
        request: ClaimRequest[str] = ClaimRequest(lease_timeout=timeout)
        item = self.ledger.claim_next(self.now, self.now + request.lease_timeout)
        if item is not None:
            self.claimed(request, item)
        elif self.model.fair:
            self.model.look(request)

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def consumer_leaves(self, number: int) -> None:
        self.waiters.drop(self.waiting.pop(number % len(self.waiting)))

    @precondition(lambda self: self.waiting)
    @rule()
    def consumers_of_a_key_leave(self) -> None:
        key = next((each.request.key for each in self.waiting if each.lines[0][0] == "key"), "a")
        assert isinstance(key, str)
        left = self.waiters.drop_takers(key)
        assert {*left} == {each for each in self.waiting if each.request.key == key}
        self.waiting = [each for each in self.waiting if each not in left]

    @precondition(lambda self: self.waiting)
    @rule()
    def patient_consumers_leave(self) -> None:
        left = self.waiters.drop_patient()
        assert {*left} == {each for each in self.waiting if "patient" in each.lines[0][0]}
        self.waiting = [each for each in self.waiting if each not in left]

    @precondition(lambda self: self.served)
    @rule(number=numbers)
    def consumer_waits_again(self, number: int) -> None:
        """One whose lease was lost before it could run."""
        token = sorted(self.served)[number % len(self.served)]
        waiter = self.served.pop(token)
        if token in self.items:
            return
        if self.ledger.claim(waiter.request, self.now) is None:
            self.waiters.add(waiter)
            self.waiting.append(waiter)
            self.came_back.add(waiter)

    # Settling

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def ack(self, number: int) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.ack(item, self.now)):
            assert self.ledger.ack(item, self.now) is self.model.ack(hold, self.now)
            self.has_ended(hold, item, "acked")

    @precondition(lambda self: self.model.holds)
    @rule(
        number=numbers,
        front=st.booleans(),
        delay=st.sampled_from([None, None, 0.0, 2.0]),
        counted=st.booleans(),
    )
    def release(self, number: int, front: bool, delay: float | None, counted: bool) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.release(item, self.now)):
            front = front and not delay
            self.ledger.release(
                item, self.now, front=front, delay=delay, counted=counted, error="broken"
            )
            self.model.release(hold, self.now, front=front, delay=delay, counted=counted)
            self.has_ended(hold, item, "released")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def give_back(self, number: int) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.give_back(item, self.now)):
            self.ledger.give_back(item, self.now)
            self.model.give_back(hold, self.now)
            self.has_ended(hold, item, "released")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def reject(self, number: int) -> None:
        hold, item = self.pick(number)
        if not self.overdue(hold, lambda: self.ledger.reject(item, self.now, "bad")):
            self.ledger.reject(item, self.now, "bad")
            self.model.reject(hold, self.now)
            self.has_ended(hold, item, "rejected")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, timeout=timeouts)
    def extend(self, number: int, timeout: float | None) -> None:
        hold, item = self.pick(number)
        deadline = inf if timeout is None else self.now + timeout
        if not self.overdue(hold, lambda: self.ledger.extend(item, self.now, deadline)):
            self.ledger.extend(item, self.now, deadline)
            hold.deadline = deadline

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def undo(self, number: int) -> None:
        hold, item = self.pick(number)
        self.ledger.undo(item, self.now)
        self.model.undo(hold, self.now)
        self.has_ended(hold, item, "cancelled" if hold.cancelled else "released")

    @precondition(lambda self: self.ended)
    @rule(
        number=numbers, settle=st.sampled_from(["ack", "release", "give_back", "extend", "reject"])
    )
    def settle_what_has_ended(self, number: int, settle: str) -> None:
        item, how, _ = self.ended[number % len(self.ended)]
        more: dict[str, list[Any]] = {"extend": [inf], "reject": ["bad"]}
        with pytest.raises(InvalidLeaseError) as caught:
            getattr(self.ledger, settle)(item, self.now, *more.get(settle, []))
        errors = {
            "acked": LeaseAlreadyAcknowledgedError,
            "lost": LeaseLostError,
            "cancelled": LeaseCancelledError,
        }
        assert type(caught.value) is errors.get(how, InvalidLeaseError)

    # What happens by itself, and the end

    @rule(most=st.sampled_from([1, 2, 100]))
    def tick(self, most: int) -> None:
        ended = []
        earliest = min(self.model.deadlines, default=inf)
        for item in islice(self.ledger.tick(self.now), most):
            due = self.model.next_due(self.now)
            assert due is not None
            if isinstance(due, Job):
                assert item.key == due.key
                self.model.fall_due(due, self.now)
            else:
                assert item is self.items.pop(due.token)
                self.model.expire(due, self.now)
                how = "cancelled" if due.cancelled else "lost"
                self.ended.append((item, how, _seen_leased(item)))
            earliest = min(self.model.deadlines, default=inf)
            ended.append(item)
        assert len(ended) == most or earliest > self.now
        self.strict = len(ended) == 1
        self.serve([item.key for item in ended], [item.tenant for item in ended])
        self.strict = True

    @precondition(lambda self: self.model.holds)
    @rule()
    def release_all(self) -> None:
        theirs = []
        for hold in self.model.holds:
            extra = self.items[hold.token]._timers
            if extra is not None and extra.consumer == "somebody":
                theirs.append(hold)
        items = [self.items.pop(hold.token) for hold in theirs]
        assert self.ledger.revoke("somebody", self.now) == items
        for hold, item in zip(theirs, items, strict=True):
            self.model.revoke(hold, self.now)
            how = "cancelled" if hold.cancelled else "lost"
            self.ended.append((item, how, _seen_leased(item)))
        self.strict = False
        self.serve([item.key for item in items], [item.tenant for item in items])
        self.strict = True

    @precondition(lambda self: len(self.model.holds) > 3)
    @rule()
    def close(self) -> None:
        assert {*self.waiters.drop_all()} == {*self.waiting}
        self.waiting.clear()
        lost = self.model.close(self.now)
        assert self.ledger.close(self.now) == [self.items[hold.token] for hold in lost]
        for hold in lost:
            how = "cancelled" if hold.cancelled else "lost"
            self.has_ended(hold, self.items[hold.token], how)

    @precondition(lambda self: len(self.model.ready) > 2)
    @rule()
    def drain(self) -> None:
        ready = sorted(self.model.ready, key=lambda job: job.order)
        delayed = sorted(self.model.delayed, key=lambda job: job.due)
        drained = self.ledger.drain()
        assert [item.key for item in drained[len(ready) :]] == [job.key for job in delayed]
        if self.ledger.schedule is None:
            assert [item.key for item in drained[: len(ready)]] == [job.key for job in ready]
        else:
            assert {item.key for item in drained[: len(ready)]} == {job.key for job in ready}
        self.model.drop_all()

    @rule(key=keys)
    def discard(self, key: str) -> None:
        waiting = self.model.waiting(key)
        if waiting is not None:
            self.model.drop(waiting)
        item = self.ledger.discard(key)
        assert (item and _seen_waiting(item)) == (waiting and waiting.seen)

    @rule(key=keys, keep_successor=st.booleans())
    def cancel(self, key: str, keep_successor: bool) -> None:
        expected = self.model.cancel(key, keep_successor=keep_successor)
        item = self.ledger.cancel(key, keep_successor=keep_successor)
        assert (item is not None) == expected

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, keep_successor=st.booleans())
    def cancel_what_is_leased(self, number: int, keep_successor: bool) -> None:
        hold, _ = self.pick(number)
        self.cancel(hold.job.key, keep_successor)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def holder_ends(self, number: int) -> None:
        hold, item = self.pick(number)
        assert self.ledger.wind_up(item, self.now) is self.model.wind_up(hold, self.now)
        if hold.cancelled:
            self.has_ended(hold, item, "cancelled")
            assert not self.ledger.wind_up(item, self.now)

    @precondition(lambda self: self.model.ready)
    @rule(number=numbers)
    def take_out(self, number: int) -> None:
        job = self.model.ready[number % len(self.model.ready)]
        self.model.lose_ready(job)
        assert _seen_waiting(self.ledger.take_out(job.key)) == job.seen
        self.model.acked.append(job)

    # What holds after each

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.what_is_ready_is_the_model_s()
        self.the_line_is_in_the_model_s_order()
        self.what_is_delayed_is_the_model_s()
        self.the_leases_are_the_model_s()
        self.each_key_is_in_one_state()
        self.each_key_shows_its_state_and_newest_value()
        self.the_next_deadline_is_the_earliest_of_all()
        self.the_oldest_of_the_ready_is_known()
        self.the_tenants_have_what_the_model_says()
        self.what_can_be_claimed_is_known()
        self.no_consumer_waits_while_an_item_it_may_claim_is_ready()
        self.those_who_wait_are_counted()
        self.the_counters_are_the_model_s()
        self.all_that_was_put_is_in_one_place()
        self.what_has_ended_stays_as_it_ended()
        self.what_is_paused_is_known()

    def what_is_ready_is_the_model_s(self) -> None:
        ready = {
            item.key: (*_seen_waiting(item), item.deadline) for item in self.ledger.items("ready")
        }
        assert ready == {job.key: (*job.seen, job.dies_at) for job in self.model.ready}

    def the_line_is_in_the_model_s_order(self) -> None:
        if self.ledger.line is not None:
            line = sorted(self.model.ready, key=lambda job: job.order)
            keys = [item.key for item in self.ledger.items("ready")]
            assert keys == [job.key for job in line]

    def what_is_delayed_is_the_model_s(self) -> None:
        assert {
            item.key: (*_seen_waiting(item), item._timers and item._timers.due, item.deadline)
            for item in self.ledger.items("delayed")
        } == {
            job.key: (*job.seen, job.due, min(job.due, job.dies_at)) for job in self.model.delayed
        }

    def the_leases_are_the_model_s(self) -> None:
        leased = self.ledger.leased
        assert [_seen_leased(item) for item in leased.values()] == [
            hold.seen for hold in self.model.holds
        ]
        assert list(leased) == [item.key for item in leased.values()]
        assert [item.ended for item in leased.values()] == [
            "cancelled" if hold.cancelled else None for hold in self.model.holds
        ]

    def each_key_is_in_one_state(self) -> None:
        ledger = self.ledger
        keys = [*ledger.ready, *ledger.delayed, *ledger.leased]
        assert len(keys) == len({*keys})
        assert [key in ledger for key in KEYS] == [key in keys for key in KEYS]

    def each_key_shows_its_state_and_newest_value(self) -> None:
        for key in KEYS:
            seen = self.model.state(key), self.model.newest_value(key)
            assert self.ledger.look(key) == seen

    def the_next_deadline_is_the_earliest_of_all(self) -> None:
        assert self.ledger.next_deadline() == min(self.model.deadlines, default=inf)
        assert len(self.ledger._deadlines) == len(self.model.deadlines)

    def the_oldest_of_the_ready_is_known(self) -> None:
        oldest = min((job.ready_since for job in self.model.ready), default=None)
        assert self.ledger.oldest_ready_since() == oldest

    def the_tenants_have_what_the_model_says(self) -> None:
        if self.ledger.schedule is None:
            assert {job.tenant for job in self.model.ready} <= {None}
            return
        there = {name: counts for name, *counts in self.ledger.schedule if counts != [0, 0]}
        expected = {
            tenant: [
                sum(job.tenant == tenant for job in self.model.ready),
                self.model.in_flight(tenant),
            ]
            for tenant in TENANTS
        }
        assert there == {name: counts for name, counts in expected.items() if counts != [0, 0]}

    def what_can_be_claimed_is_known(self) -> None:
        for key in KEYS:
            claimable = bool(self.model.may_be_next(ClaimRequest(key)))
            assert self.ledger.claimable(key) is claimable

    def no_consumer_waits_while_an_item_it_may_claim_is_ready(self) -> None:
        for waiter in self.waiting:
            assert not self.model.may_be_next(waiter.request)

    def what_is_paused_is_known(self) -> None:
        assert self.ledger.paused == self.pauses.get(None)
        assert {None: self.ledger.paused, **self.ledger.paused_tenants} == {
            None: None,
            **self.pauses,
        }

    def those_who_wait_are_counted(self) -> None:
        takers = [waiter for waiter in self.waiting if waiter.request.key is not ANY_KEY]
        assert (self.waiters.total, self.waiters.takers) == (len(self.waiting), len(takers))
        keys = {waiter.request.key for waiter in takers}
        assert {key for key in KEYS if ("key", key) in self.waiters._lines} == keys

    def the_counters_are_the_model_s(self) -> None:
        ledger, model = self.ledger, self.model
        assert ledger.added == model.put_so_far
        assert ledger.waiting == len(model.ready) + len(model.delayed)
        assert ledger.buffered == len(model.successors)
        assert ledger.acked == len(model.acked)
        assert ledger.dead == len(model.dead)
        assert ledger.dropped == len(model.dropped)
        assert ledger.superseded == len(model.superseded)
        assert ledger.cancelled == len(model.cancelled)
        assert ledger.delivered == model.events.count("handed out")
        assert ledger.released == model.events.count("released")
        assert ledger.expired == model.events.count("expired")
        assert ledger.given_back == model.events.count("given back")
        assert ledger.drained == (not model.ready and not model.delayed and not model.holds)
        assert self.letters == model.letters

    def all_that_was_put_is_in_one_place(self) -> None:
        tickets = [job.ticket for place in self.model.whereabouts for job in place]
        assert sorted(tickets) == list(range(1, self.model.put_so_far + 1))

    def what_has_ended_stays_as_it_ended(self) -> None:
        for item, how, seen in self.ended[-20:]:
            assert item.ended == how
            assert _seen_leased(item) == seen


def _seen_waiting(item: Item[str, int]) -> tuple[object, ...]:
    expiries = 0 if item._timers is None else item._timers.expiries
    counts = (item.deliveries, item.cancellations, expiries)
    return item.key, item.value, item.tenant, item.priority, *counts


def _seen_leased(item: Item[str, int]) -> tuple[object, ...]:
    counts = (item.deliveries, item.cancellations)
    lease = (item.token, item.deadline)
    return item.key, item.value, *lease, item.tenant, item.priority, *counts


@pytest.mark.parametrize("examples", [50, pytest.param(250, marks=pytest.mark.slow)])
def test_the_ledger_does_what_the_model_does(examples: int) -> None:
    run_state_machine_as_test(
        LedgerAgainstModel,
        settings=settings(
            max_examples=examples, stateful_step_count=60, deadline=None, derandomize=True
        ),
    )
