"""The scripts do what the model does that judges every engine.

A caller of the scripts stands for each consumer: it claims, parks if there is nothing, and claims
again when it is told to. Nobody may sleep while something is there that it may have: that is what
the wake-ups are held to. After each step all that is on the server is looked at.

Time is in microseconds, and stands still until a step moves it, by halves of one unit: so that many
things fall due at one time, whose order is the model's too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, isnan, nan
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
from naive_ledger import KEYS, TENANTS, Hold, Job, Model, Order
from script_calls import Ear, FrozenCaller, Operation, Reply, claim, declare, name, put, request
from script_dump import Dump, dump

from leaseq import Backoff, PutOutcome, Retry, Tenant
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.moves import Fate

UNIT = 1_000_000_000  # microseconds
UNBURIED = 60_000_000
OUTCOMES = {
    PutOutcome.ADDED: b"a",
    PutOutcome.REPLACED: b"r",
    PutOutcome.UPDATED_IN_FLIGHT: b"u",
    PutOutcome.DUPLICATE: b"d",
    PutOutcome.BUFFERED: b"b",
}
LETTERS = {"dead": 2, "dropped": 0, "kept": 3}
FATES = {"dead": b"dead", "dropped": b"dropped", "kept": b"kept"}


class Drawn(Retry):
    """A retry policy whose rests only the server knows."""

    def delay(self, deliveries: int) -> float:
        return 0.0 if self.backoff is None else nan


RETRIES = [
    Drawn(),
    Drawn(max_deliveries=2),
    Drawn(max_deliveries=3, backoff=Backoff(2.0 * UNIT, ceiling=4.0 * UNIT)),
    Drawn(backoff=Backoff(1.0 * UNIT, factor=1.0, ceiling=0.0)),
]
BACK = 2
"""Begins the order of a job that came to the back of its line."""

DECLARED: list[dict[str | None, tuple[float, int]]] = [
    {},
    {},
    {"x": (2.0, 1), "y": (1.0, 2)},
]


@dataclass
class Served(Model):
    """The model, told by the server what it drew."""

    seen: Callable[[], Dump] = field(kw_only=True)
    since: float | None = None
    tombs: list[tuple[str, int, str, str | None, Fate]] = field(default_factory=list)

    def go_back(
        self,
        hold: Hold,
        now: float,
        order: Order | None,
        delay: float = 0.0,
        dies_at: float = inf,
    ) -> None:
        if isnan(delay) and hold.successor is None:
            item = self.seen().items[hold.job.key]
            delay = item.rest - now if item.state == "delayed" else 0.0
            backoff = self.retry.backoff
            assert backoff is not None
            assert 0 <= delay <= backoff.ceiling
        super().go_back(hold, now, order, delay, dies_at)

    def die(self, job: Job, hold: Hold | None, now: float, reason: str, error: str | None) -> None:
        super().die(job, hold, now, reason, error)
        key, value, *_ = self.letters[-1]
        self.tombs.append((str(key), int(str(value)), reason, error, self.fate))

    def wait(self, job: Job, now: float, due: float, order: Order | None = None) -> None:
        """What time brings is ready since it was due, not since somebody noticed.

        But not for longer than those before it in the line to whose back it comes.
        """
        super().wait(job, now, due, order)
        if self.since is None or job not in self.ready:
            return
        job.ready_since = self.since
        if job.order[0] == BACK:
            line = (job.tenant, job.priority, BACK)
            before = (
                other.ready_since
                for other in self.ready
                if (other.tenant, other.priority, other.order[0]) == line
            )
            job.ready_since = max(before)  # its own is among them

    def sweep(self, now: float, most: int) -> list[str]:
        """What time does first, the earliest first; the keys of the leases that have expired."""
        expired = []
        for _ in range(most):
            due = self.next_due(now)
            if due is None:
                break
            if isinstance(due, Hold):
                self.since = None if due.successor else due.deadline
                self.expire(due, now)
                expired.append(due.job.key)
            else:
                self.since = due.due if due.dies_at > now else None
                self.fall_due(due, now)
            self.since = None
        return expired


@dataclass(eq=False)
class Consumer:
    """A process that waits for one thing."""

    process: str
    request: ClaimRequest[str]
    lease: int
    patient: bool
    parks: dict[bytes, int] = field(default_factory=dict)


class ServerAgainstModel(RuleBasedStateMachine):
    """Whatever the scripts are asked for in whatever order, the model says the same."""

    server: tuple[str, int]

    keys = st.sampled_from(KEYS)
    leases = st.sampled_from([1 * UNIT, 2 * UNIT, 3 * UNIT, 5 * UNIT, 10 * UNIT, -1])
    numbers = st.integers(0, 1000)
    tenants = st.sampled_from(TENANTS)
    terms = st.builds(
        lambda delay, ttl, **rest: PutRequest(delay=delay, ttl=ttl and delay + ttl, **rest),
        delay=st.sampled_from([0, 0, 0, 1 * UNIT, 3 * UNIT]),
        ttl=st.sampled_from([None, None, None, 1 * UNIT, 3 * UNIT]),
        if_in_flight=st.sampled_from(["update", "buffer", "buffer", "reject"]),
        priority=st.sampled_from([None, None, None, 1, 3, 5]),
        tenant=st.sampled_from([None, None, None, *TENANTS]),
        reschedule=st.sampled_from(["earliest", "latest"]),
    )
    plain_terms = st.builds(PutRequest, if_in_flight=st.sampled_from(["update", "buffer"]))
    requests = st.one_of(
        st.builds(ClaimRequest),
        st.builds(ClaimRequest, keys),
        st.builds(
            ClaimRequest,
            tenants=st.lists(tenants, min_size=1, max_size=2),
            steal_from=st.lists(tenants, max_size=2),
            consumer=st.just("somebody"),
        ),
    )

    @initialize(
        retry=st.sampled_from(RETRIES),
        declared=st.sampled_from(DECLARED),
        put=st.lists(keys, max_size=4, unique=True),
        requests=st.lists(st.tuples(requests, leases), max_size=4),
    )
    def begin(
        self,
        retry: Retry,
        declared: dict[str | None, tuple[float, int]],
        put: list[str],
        requests: list[tuple[ClaimRequest[str], int]],
    ) -> None:
        self.caller = FrozenCaller(self.server)
        self.caller.offset = 10 * UNIT
        self.caller.client.flushdb()
        self.ear = Ear(self.caller)
        backoff = retry.backoff
        self.caller.call(
            "manage",
            declare(
                1,
                "q",
                letters="d",
                max_deliveries=retry.max_deliveries or -1,
                backoff=(-1, 0, 0)
                if backoff is None
                else (backoff.base, backoff.factor, backoff.ceiling),
                tenants=declared,
            ),
            declare(2, "d"),
        )
        self.model = Served(0, retry, {}, unburied=UNBURIED, seen=self.see)
        for tenant, (weight, cap) in declared.items():
            self.model.set_tenant(tenant, Tenant(weight, cap))
        self.value = 0
        self.last_tokens = dict.fromkeys(KEYS, 0)
        self.letters = 0
        self.waiting: dict[str, Consumer] = {}
        self.processes = 0
        self.ended: list[tuple[str, int]] = []
        self.dumped: Dump | None = None
        self.redriven = 0
        for key in put:
            self.put(key, PutRequest())
        self.consumers_come(requests, patient=False)

    def teardown(self) -> None:
        if hasattr(self, "ear"):
            self.ear.close()
            self.caller.client.close()

    # What the server did

    def see(self) -> Dump:
        if self.dumped is None:
            self.dumped = dump(self.caller)
        return self.dumped

    def turn(self, operation: Operation, script: str = "turn", process: str = "p") -> Reply:
        letters = LETTERS[self.model.fate]
        reply = self.caller.call(script, operation, process=process, letters=letters)
        self.dumped = None
        self.events = reply.events
        return reply

    def settled(
        self, expired: Sequence[tuple[str, int]] = (), heard: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """What the model did is what the server said, and those who were woken claim."""
        tombs = self.model.tombs[self.letters :]
        self.letters = len(self.model.tombs)
        dead = [(key, reason, FATES[fate]) for key, _, reason, _, fate in tombs]
        said = [(e[2][1:].decode(), e[4].decode(), e[5]) for e in self.events if e[1] == b"dead"]
        assert said == dead, (said, dead)
        over = [(e[2][1:].decode(), e[3]) for e in self.events if e[1] == b"expired"]
        assert over == [*expired]
        self.events = []
        self.those_who_are_woken_claim(heard)

    def those_who_are_woken_claim(self, heard: Sequence[tuple[str, bytes]] = ()) -> None:
        while heard := [*heard, *self.ear.heard()]:
            first, heard = heard, []
            for process, want in first:
                consumer = self.waiting.get(process)
                if consumer is None:
                    self.caller.one("wake", 1, want)
                elif want in consumer.parks:
                    del consumer.parks[want]
                    self.claim(consumer)

    def swept(self, now: int, most: int = 64) -> list[tuple[str, int]]:
        """What the model loses when the server sweeps."""
        tokens = {hold.job.key: hold.token for hold in self.model.holds}
        expired = [(key, tokens[key]) for key in self.model.sweep(now, most)]
        self.ended += expired
        return expired

    def claim(self, consumer: Consumer) -> bool:
        """Claim, and wait if there is nothing."""
        asked = consumer.request
        kind = "any" if asked.tenants is None else "tenants"
        if asked.key is not ANY_KEY:
            kind = "key"
        one = request(
            kind,
            str(asked.key),
            asked.tenants or (),
            asked.steal_from,
            lease=consumer.lease,
            consumer=asked.consumer or "",
            patient=consumer.patient,
        )
        reply = self.turn(claim(1, one, park=True, held=consumer.parks), process=consumer.process)
        expired = self.swept(reply.now)
        word, there, parks, leases = reply.results[0]
        assert word == b"ok"
        allowed = self.model.may_be_next(asked)
        self.model.look(asked)
        if leases:
            (lease,) = leases
            assert not parks
            self.is_leased(lease, allowed, consumer, reply.now)
            self.waiting.pop(consumer.process, None)
            for want, stamp in consumer.parks.items():
                self.caller.one("unpark", 1, 1, want, stamp)
        else:
            assert not allowed
            consumer.parks |= dict(zip(parks[::2], parks[1::2], strict=True))
            self.waiting[consumer.process] = consumer
        assert there == sum(map(len, self.model.whereabouts[:4]))
        self.settled(expired)
        return bool(leases)

    def is_leased(self, lease: list[Any], allowed: list[Job], consumer: Consumer, now: int) -> None:
        key, body, token, priority, tenant, deliveries, cancellations, letter = lease
        (job,) = (job for job in allowed if f"s{job.key}".encode() == key)
        assert int(token) > self.last_tokens[job.key]
        self.last_tokens[job.key] = int(token)
        self.model.token = int(token) - 1
        lease_for = inf if consumer.lease < 0 else consumer.lease
        self.model.hand_out(job, now, lease_for, restricted=consumer.request.restricted)
        shown = (int(body), priority, tenant.decode(), deliveries, cancellations, letter)
        counts = (job.deliveries, job.cancellations, 0)
        assert shown == (job.value, job.priority, name(job.tenant), *counts)
        kept = self.see().items[job.key]
        assert kept.process.decode() == consumer.process
        assert kept.consumer.decode() == (consumer.request.consumer or "")

    def pick(self, number: int) -> Hold:
        return self.model.holds[number % len(self.model.holds)]

    def is_refused(self, hold: Hold, reply: Reply, word: str) -> None:
        """Follow the settlement of a cancelled lease: it is refused, and an end frees the key."""
        assert reply.results == [[b"cancelled", b"why"]]
        if word != "extend":
            self.model.wind_up(hold, reply.now)
            self.ended.append((hold.job.key, hold.token))
            self.settled()

    def settle(self, hold: Hold, act: Callable[[int], object], word: str, *how: Any) -> None:
        """Settle a lease, or be refused if it is past its deadline."""
        reply = self.turn([word, 1, f"s{hold.job.key}", hold.token, *how])
        (result,) = reply.results
        if hold.cancelled:
            self.is_refused(hold, reply, word)
            return
        if hold.deadline <= reply.now and word != "undo":
            assert result == [b"no"]
            return
        assert result == [b"ok"]
        act(reply.now)
        if word != "extend":
            self.ended.append((hold.job.key, hold.token))
        self.settled()

    # Producers

    @rule(units=st.sampled_from([0.5, 1, 2, 4]))
    def time_passes(self, units: float) -> None:
        self.caller.offset += int(units * UNIT)

    @precondition(lambda self: self.model.deadlines)
    @rule()
    def something_falls_due(self) -> None:
        left = min(self.model.deadlines) - self.caller.call("look").now
        self.caller.offset += max(0, ceil(left / UNIT * 2) * UNIT // 2)

    @rule(key=keys, terms=terms)
    def put(self, key: str, terms: PutRequest) -> None:
        self.put_many([key], terms)

    @rule(keys=st.lists(keys, min_size=2, max_size=4), terms=terms)
    def put_many(self, keys: list[str], terms: PutRequest) -> None:
        values = range(self.value + 1, self.value + 1 + len(keys))
        self.value += len(keys)
        reply = self.turn(
            put(
                1,
                *zip(keys, values, strict=True),
                if_in_flight=terms.if_in_flight,
                priority=terms.priority,
                tenant=terms.tenant,
                delay=int(terms.delay),
                ttl=-1 if terms.ttl == inf else int(terms.ttl),
                reschedule=terms.reschedule,
            )
        )
        (result,) = reply.results
        if result[0] == b"error":
            _, kind, index, *tenant = result
            key = keys[index - 1]
            hold = self.model.hold_on(key)
            there = self.model.waiting(key) or (hold and hold.job)
            assert there
            if kind == b"in_flight":
                assert hold
                assert terms.if_in_flight == "reject"
            else:
                assert kind == b"tenant"
                assert terms.tenant not in (None, there.tenant)
                assert tenant == [name(there.tenant).encode()]
            return
        expected = [
            self.model.put(key, value, reply.now, terms)
            for key, value in zip(keys, values, strict=True)
        ]
        assert result == [b"ok", *(OUTCOMES.get(one) for one in expected)]  # type: ignore[call-overload]
        self.settled()

    @rule(
        keys=st.lists(keys, min_size=2, unique=True),
        priorities=st.lists(st.sampled_from([1, 3, 5]), min_size=6, max_size=6),
        tenants=st.lists(tenants, min_size=6, max_size=6),
    )
    def put_several_for_the_same_time(
        self, keys: list[str], priorities: list[int], tenants: list[str | None]
    ) -> None:
        for key, priority, tenant in zip(keys, priorities, tenants, strict=False):
            self.put(key, PutRequest(priority=priority, tenant=tenant, delay=UNIT))
        self.caller.offset += UNIT
        self.sweep(100)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, terms=st.one_of(terms, plain_terms))
    def put_what_is_leased(self, number: int, terms: PutRequest) -> None:
        self.put(self.pick(number).job.key, terms)

    @rule(fate=st.sampled_from(["dead", "dead", "dropped", "kept"]))
    def bury_from_now_on(self, fate: Fate) -> None:
        self.model.fate = fate

    @rule(
        tenant=tenants,
        cap=st.sampled_from([None, 1, 2, 3]),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
    )
    def set_tenant(self, tenant: str | None, cap: int | None, weight: float) -> None:
        self.model.set_tenant(tenant, Tenant(weight, cap))
        self.turn(["set_tenant", 1, name(tenant), weight, cap or -1], "manage")
        self.settled()

    @rule(tenant=tenants)
    def pause(self, tenant: str | None) -> None:
        self.model.pause(tenant)
        reply = self.turn(["pause", 1, name(tenant), "a reason"], "manage")
        assert reply.results == [[b"ok"]]
        self.settled()

    @rule(tenant=tenants)
    def resume(self, tenant: str | None) -> None:
        was = self.model.resume(tenant)
        reply = self.turn(["resume", 1, name(tenant)], "manage")
        assert reply.results == [[b"ok", int(was)]]
        self.settled()

    # Consumers

    @rule(
        requests=st.lists(st.tuples(requests, leases), min_size=1, max_size=3),
        patient=st.booleans(),
    )
    def consumers_come(self, requests: list[tuple[ClaimRequest[str], int]], patient: bool) -> None:
        for asked, lease in requests:
            self.processes += 1
            consumer = Consumer(f"c{self.processes}", asked, lease, patient)
            self.caller.one("hello", 0, script="hello", process=consumer.process)
            self.claim(consumer)

    @rule(count=st.integers(2, 4), lease=leases)
    def a_batch_is_claimed(self, count: int, lease: int) -> None:
        """Several leases with one deadline."""
        self.processes += 1
        process = f"c{self.processes}"
        reply = self.turn(claim(1, request(count=count, lease=lease)), process=process)
        expired = self.swept(reply.now)
        _, _, _, leases = reply.results[0]
        consumer = Consumer(process, ClaimRequest(), lease, patient=False)
        for each in leases:
            self.model.look(consumer.request)
            allowed = self.model.may_be_next(consumer.request)
            self.is_leased(each, allowed, consumer, reply.now)
        if len(leases) < count:
            assert not self.model.may_be_next(consumer.request)
        self.settled(expired)

    @rule(
        requests=st.lists(st.tuples(requests, leases), min_size=2, max_size=6),
        patient=st.integers(0, 6),
    )
    def consumers_come_when_nothing_waits(
        self, requests: list[tuple[ClaimRequest[str], int]], patient: int
    ) -> None:
        self.purge()
        self.consumers_come(requests[:patient], patient=False)
        self.consumers_come(requests[patient:], patient=True)

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def consumer_claims_again(self, number: int) -> None:
        self.claim([*self.waiting.values()][number % len(self.waiting)])

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def consumer_leaves(self, number: int) -> None:
        process = [*self.waiting][number % len(self.waiting)]
        parks = self.waiting.pop(process).parks
        waits = [part for pair in parks.items() for part in pair]
        self.caller.one("unpark", 1, len(parks), *waits, process=process)

    # Settling

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def ack(self, number: int) -> None:
        hold = self.pick(number)
        reply = self.turn(["ack", 1, f"s{hold.job.key}", hold.token, 0])
        if hold.cancelled:
            self.is_refused(hold, reply, "ack")
            return
        if hold.deadline <= reply.now:
            assert reply.results == [[b"no"]]
            return
        assert reply.results == [[b"dropped" if self.model.ack(hold, reply.now) else b"ok"]]
        self.ended.append((hold.job.key, hold.token))
        self.settled()

    @precondition(lambda self: self.model.holds)
    @rule(
        number=numbers,
        front=st.booleans(),
        delay=st.sampled_from([None, None, 0, 2 * UNIT]),
        counted=st.booleans(),
    )
    def release(self, number: int, front: bool, delay: int | None, counted: bool) -> None:
        hold = self.pick(number)
        front = front and not delay
        how = [int(front), -1 if delay is None else delay, int(counted), "broken"]

        def act(now: int) -> None:
            self.model.release(hold, now, front=front, delay=delay, counted=counted)

        self.settle(hold, act, "release", *how)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def give_back(self, number: int) -> None:
        hold = self.pick(number)
        self.settle(hold, lambda now: self.model.give_back(hold, now), "give_back")

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def reject(self, number: int) -> None:
        hold = self.pick(number)
        self.settle(hold, lambda now: self.model.reject(hold, now), "reject", "bad", "", 0)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, lease=leases)
    def extend(self, number: int, lease: int) -> None:
        hold = self.pick(number)

        def act(now: int) -> None:
            hold.deadline = inf if lease < 0 else now + lease

        self.settle(hold, act, "extend", lease)

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers)
    def undo(self, number: int) -> None:
        hold = self.pick(number)
        self.settle(hold, lambda now: self.model.undo(hold, now), "undo")

    @precondition(lambda self: self.ended)
    @rule(
        number=numbers,
        settle=st.sampled_from(
            [
                ["ack", 0],
                ["release", 0, -1, 1, ""],
                ["give_back"],
                ["extend", 1],
                ["reject", "bad", "", 0],
                ["undo"],
            ]
        ),
    )
    def settle_what_has_ended(self, number: int, settle: list[Any]) -> None:
        key, token = self.ended[number % len(self.ended)]
        word, *how = settle
        assert self.turn([word, 1, f"s{key}", token, *how]).results == [[b"no"]]

    # What happens by itself, and the end

    @rule(most=st.sampled_from([1, 2, 100]))
    def sweep(self, most: int) -> None:
        reply = self.turn(["sweep", 1, most])
        expired = self.swept(reply.now, most)
        ((word, more, _),) = reply.results
        assert word == b"ok"
        assert more or len(expired) < most
        self.settled(expired)

    @precondition(lambda self: len(self.model.holds) > 3)
    @rule()
    def close(self) -> None:
        lost = [*self.model.holds]
        pairs = [part for hold in lost for part in (f"s{hold.job.key}", hold.token)]
        reply = self.turn(["close", 1, len(lost), *pairs])
        self.model.close(reply.now)
        self.ended += [(hold.job.key, hold.token) for hold in lost]
        assert reply.results == [[b"ok", sum(map(len, self.model.whereabouts[:4]))]]
        self.settled()

    @precondition(lambda self: self.model.holds)
    @rule(stranger=st.booleans())
    def release_all(self, stranger: bool) -> None:
        reply = self.turn(["release_all", 1, "" if stranger else "somebody", ""], "manage")
        items = {hold.job.key: hold for hold in self.model.holds}
        lost = [e[2][1:].decode() for e in reply.events if e[1] == b"lost"]
        assert reply.results == [[b"ok", len(lost), b""]]
        heard = self.ear.heard()
        told = [what for _, what in heard if what.startswith(b"l")]
        assert told == [f"ls{key}\0{items[key].token}".encode() for key in lost]
        for key in lost:
            self.model.revoke(items[key], reply.now)
            self.ended.append((key, items[key].token))
        self.settled(heard=[each for each in heard if each[1] not in told])

    @precondition(lambda self: len(self.model.ready) > 2)
    @rule()
    def purge(self) -> None:
        reply = self.turn(["purge", 1], "manage")
        count = len(self.model.ready) + len(self.model.delayed)
        assert reply.results == [[b"ok", count, count]]
        self.model.drop_all()
        self.settled()

    @rule(key=keys)
    def discard(self, key: str) -> None:
        waiting = self.model.waiting(key)
        if waiting is not None:
            self.model.drop(waiting)
        reply = self.turn(["discard", 1, f"s{key}"])
        assert reply.results == [[b"ok", int(waiting is not None)]]
        self.settled()

    @rule(key=keys, keep_successor=st.booleans())
    def cancel(self, key: str, keep_successor: bool) -> None:
        hold = self.model.hold_on(key)
        was_held = hold is not None and not hold.cancelled
        expected = self.model.cancel(key, keep_successor=keep_successor)
        reply = self.turn(["cancel", 1, f"s{key}", "why", int(keep_successor), 0])
        assert reply.results == [[b"ok", int(expected)]]
        heard = self.ear.heard()
        told = [what for _, what in heard if what.startswith(b"l")]
        if was_held:
            assert hold is not None
            assert told == [f"ls{key}\0{hold.token}".encode()]
        self.settled(heard=[each for each in heard if each[1] not in told])

    @precondition(lambda self: self.model.holds)
    @rule(number=numbers, keep_successor=st.booleans())
    def cancel_what_is_leased(self, number: int, keep_successor: bool) -> None:
        self.cancel(self.pick(number).job.key, keep_successor)

    # What holds after each

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.items_are_the_model_s()
        self.the_line_is_in_the_model_s_order()
        self.the_leases_are_the_model_s()
        self.each_key_shows_its_newest_value()
        self.the_counters_are_the_model_s()
        self.the_letters_are_the_model_s()
        self.nobody_sleeps_who_could_have_something()

    def items_are_the_model_s(self) -> None:
        shown = {
            (one.state, *_counts(one), one.since if one.state == "ready" else one.due, one.deadline)
            for one in self.see().items.values()
            if one.state != "leased"
        }
        model = self.model
        ready = {("ready", *job.seen, job.ready_since, job.dies_at) for job in model.ready}
        due = [(job, min(job.due, job.dies_at)) for job in model.delayed]
        delayed = {("delayed", *job.seen, job.due, deadline) for job, deadline in due}
        assert shown == ready | delayed, shown ^ (ready | delayed)

    def the_line_is_in_the_model_s_order(self) -> None:
        for tenant in TENANTS:
            mine = [job for job in self.model.ready if job.tenant == tenant]
            mine.sort(key=lambda job: (-job.priority, job.order))
            items = self.see().items
            line = [key for key in self.see().line if items[key].tenant == tenant]
            assert line == [job.key for job in mine]

    def the_leases_are_the_model_s(self) -> None:
        leased = self.see().of("leased")
        assert {(*_counts(one), one.rank, one.deadline) for one in leased} == {
            (*hold.job.seen, hold.token, hold.deadline) for hold in self.model.holds
        }

    def each_key_shows_its_newest_value(self) -> None:
        for key, one in self.see().items.items():
            newest = one.body if one.after is None else one.after.body
            assert int(newest) == self.model.newest_value(key)

    def the_counters_are_the_model_s(self) -> None:
        word, *counts, paused = self.caller.look("counts", 1)
        model = self.model
        assert (word, paused) == (b"ok", int(None in model.paused))
        shown = self.caller.look("info", 1)[9:]
        assert {*shown[::3]} == {name(tenant).encode() for tenant in model.paused - {None}}
        assert counts[:-1] == [
            len(model.ready),
            len(model.delayed),
            len(model.holds),
            len(model.successors),
            model.put_so_far,
            *map(model.events.count, ("handed out",)),
            len(model.acked),
            *map(model.events.count, ("released", "expired", "given back")),
            len(model.dead),
            len(model.dropped),
            len(model.superseded),
            len(model.cancelled),
        ]
        since = min((job.ready_since for job in model.ready), default=None)
        assert (counts[-1] == -1) == (since is None)
        if since is not None:
            now = self.caller.call("look").now
            assert now - UNIT // 100 <= since + counts[-1] <= now, (now, since, counts)

    def the_letters_are_the_model_s(self) -> None:
        expected = [
            (key, value, reason, error or "")
            for key, value, reason, error, fate in self.model.tombs
            if fate == "dead"
        ]
        (_, _, *keys) = self.caller.look("ready", 2, "")
        assert len(keys) == len(expected)
        if keys:
            state, letter, flag = self.caller.look("look", 2, keys[-1], 1)[1:]
            assert (state, flag) == (b"ready", 1)
            queue, key, body, inner, _, reason, error, *_ = letter
            assert (queue, inner) == (b"q", 0)
            said = (key[1:].decode(), int(body), reason.decode(), error.decode())
            assert said == expected[-1], (said, expected[-3:], keys[-3:])

    def nobody_sleeps_who_could_have_something(self) -> None:
        for consumer in self.waiting.values():
            assert consumer.parks
            assert not self.model.may_be_next(consumer.request)


def _counts(one: Any) -> tuple[object, ...]:
    counts = (one.deliveries, one.cancellations, one.expiries)
    return one.key, int(one.body), one.tenant, one.priority, *counts


@pytest.mark.parametrize("examples", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_the_scripts_do_what_the_model_does(address: tuple[str, int], examples: int) -> None:
    class Machine(ServerAgainstModel):
        pass

    Machine.server = address
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=60, deadline=None, derandomize=True
        ),
    )
