"""The store in a file against the store over ledgers: whatever is asked, both answer the same.

A state machine asks both for the same, as several processes that park and are woken. What
they answer is compared, and whom they wake; after each step also all that can be looked at.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
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
from tests.remote.test_stores import Ledgers
from tests.sqlite.place import QUEUE, Place

from leaseq import Backoff, Retry, Tenant
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol as p

KEYS = "abcdef"
LETTERS = p.QueueRef("lost")
keys = st.sampled_from(KEYS)
tenants = st.sampled_from(["x", "y", None])
units = st.sampled_from([1.0, 2.0, 3.0])
terms = st.builds(
    lambda delay, ttl, **rest: PutRequest(delay=delay, ttl=ttl and delay + ttl, **rest),
    delay=st.sampled_from([0.0, 0.0, 1.0, 3.0]),
    ttl=st.sampled_from([None, None, 1.0, 3.0]),
    if_in_flight=st.sampled_from(["update", "buffer", "reject"]),
    priority=st.sampled_from([None, None, 1, 5]),
    tenant=st.sampled_from([None, None, "x", "y"]),
    reschedule=st.sampled_from(["earliest", "latest"]),
)
requests = st.one_of(
    st.builds(ClaimRequest, lease_timeout=st.none() | units),
    st.builds(lambda key, timeout: ClaimRequest(key, lease_timeout=timeout), keys, units),
    st.builds(
        ClaimRequest,
        tenants=st.lists(tenants, min_size=1, max_size=2),
        steal_from=st.lists(tenants, max_size=2),
        consumer=st.just("somebody"),
        lease_timeout=st.none() | units,
    ),
)
processes = st.sampled_from("abc")


class BothStores(RuleBasedStateMachine):
    """Both stores, and the leases that both have handed out."""

    @initialize(
        retry=st.sampled_from(
            [Retry(), Retry(max_deliveries=2), Retry(backoff=Backoff(1.0, ceiling=0.0))]
        ),
        tenants=st.sampled_from([None, None, {"x": Tenant(2.0, 1), "y": Tenant(1.0, 2)}]),
        max_size=st.sampled_from([None, None, 3]),
        dedupe_for=st.sampled_from([None, 2.0]),
    )
    def begin(self, **options: Any) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledgers = Ledgers()
        self.file = Place(Path(self.folder.name) / "q.db")
        given = {name: value for name, value in options.items() if value is not None}
        for place in (self.ledgers, self.file):
            for process in "abc":
                place.do(process, p.ListQueues(QUEUE))
            place.declare(history=3, **given)
        self.leases: list[tuple[str, int, int]] = []  # a key, and its tokens in both
        self.parks: dict[tuple[str, p.Want], tuple[int, int]] = {}
        self.value = 0

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            self.folder.cleanup()

    def ask(self, process: str, there: p.Operation[Any], here: Any = None) -> tuple[Any, Any]:
        """Have an operation done by both, and return both answers."""
        answers = self.ledgers.do(process, there), self.file.do(process, here or there)
        told = [[(whom, shown(what)) for whom, what in place.told] for place in self.both]
        assert sorted(told[0]) == sorted(told[1]), (there, told)
        for whom, what in self.file.told:
            if isinstance(what, p.Woken):
                self.parks.pop((whom, what.want), None)
        for place in self.both:
            place.told.clear()
        return answers

    @property
    def both(self) -> tuple[Any, Any]:
        return self.ledgers, self.file

    def same(self, process: str, operation: p.Operation[Any]) -> Any:
        there, here = self.ask(process, operation)
        assert here == there, (operation, there, here)
        return here

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]), limit=st.sampled_from([1, 64]))
    def time_passes(self, seconds: float, limit: int) -> None:
        for place in self.both:
            place.now += seconds
        self.same("a", p.Sweep(QUEUE, limit))

    @rule(process=processes, keys=st.lists(keys, min_size=1, max_size=3), terms=terms)
    def put(self, process: str, keys: list[str], terms: PutRequest) -> None:
        self.value += 1
        put = p.Put(QUEUE, tuple((key, b"%d" % self.value) for key in keys), terms)
        there, here = self.ask(process, put)
        if isinstance(there, p.Full):
            assert here.places == there.places
            self.parks[process, p.Want("room")] = there.stamp, here.stamp
        else:
            assert here == there, (put, there, here)

    @rule(process=processes, request=requests, count=st.integers(1, 3), patient=st.booleans())
    def claim(self, process: str, request: Any, count: int, patient: bool) -> None:
        held = [(want, stamps) for (whom, want), stamps in self.parks.items() if whom == process]
        part = (p.ClaimFor(request, count, patient),)
        asked = [
            p.Claim(QUEUE, part, True, tuple(p.Park(want, stamps[n]) for want, stamps in held))
            for n in (0, 1)
        ]
        there, here = self.ask(process, *asked)
        assert here.left == there.left
        [mine], [theirs] = here.batches, there.batches
        assert [each._replace(token=0) for each in mine] == [
            each._replace(token=0) for each in theirs
        ], (request, theirs, mine)
        for one, other in zip(theirs, mine, strict=True):
            self.leases.append((str(one.key), one.token, other.token))
        assert [park.want for park in here.parks] == [park.want for park in there.parks]
        for one, other in zip(there.parks, here.parks, strict=True):
            self.parks[process, one.want] = one.stamp, other.stamp
        if request.key is ANY_KEY and len(mine) < count:
            assert any(whom == process for whom, _ in self.parks)

    @precondition(lambda self: self.leases)
    @rule(
        number=st.integers(0, 9),
        kind=st.sampled_from([p.Ack, p.Ack, p.Reject, p.GiveBack, p.Undo, p.Extend, p.Release]),
        front=st.booleans(),
        delay=st.sampled_from([None, None, 2.0]),
        counted=st.booleans(),
    )
    def settle(
        self, number: int, kind: Any, front: bool, delay: float | None, counted: bool
    ) -> None:
        key, *tokens = self.leases[-1 - number % len(self.leases)]
        how: tuple[Any, ...] = {
            p.Reject: ("bad",),
            p.Extend: (2.0,),
            p.Release: (front and delay is None, delay, counted, "broken"),
        }.get(kind, ())
        there, here = self.ask("a", *[kind(QUEUE, key, token, *how) for token in tokens])
        assert here == there, (kind, key, how, there, here)

    @precondition(lambda self: len(self.leases) > 1)
    @rule(key=keys, terms=terms)
    def transact(self, key: str, terms: PutRequest) -> None:
        first, second = self.leases[-1], self.leases[-2]
        asked = [
            p.Transact(
                QUEUE,
                (
                    p.Ack(QUEUE, first[0], first[n]),
                    p.Put(QUEUE, ((key, b"0"),), terms),
                    p.Release(QUEUE, second[0], second[n]),
                ),
            )
            for n in (1, 2)
        ]
        there, here = self.ask("b", *asked)
        assert here == there, (terms, there, here)

    @rule(key=keys)
    def discard(self, key: str) -> None:
        self.same("a", p.Discard(QUEUE, key))

    @rule(tenant=tenants, weight=st.sampled_from([0.5, 4.0]), cap=st.sampled_from([None, 1, 2]))
    def set_tenant(self, tenant: Any, weight: float, cap: int | None) -> None:
        self.same("a", p.SetTenant(QUEUE, tenant, Tenant(weight, cap)))

    @rule(tenant=st.sampled_from(["x", "y", None]), reason=st.sampled_from(["", "a reason"]))
    def pause(self, tenant: str | None, reason: str) -> None:
        self.same("a", p.Pause(QUEUE, tenant, reason))

    @rule(tenant=st.sampled_from(["x", "y", None, None]))
    def resume(self, tenant: str | None) -> None:
        self.same("a", p.Resume(QUEUE, tenant))

    @rule()
    def release_all(self) -> None:
        self.same("a", p.ReleaseAll(QUEUE, "somebody"))

    @rule()
    def purge(self) -> None:
        self.same("a", p.Purge(QUEUE))

    @rule(limit=st.sampled_from([None, 1]))
    def redrive(self, limit: int | None) -> None:
        """In one step; of the ledgers, in as many as they need."""
        redrive = p.Redrive(QUEUE, None, limit)
        here = self.file.do("a", redrive)
        back: list[Any] = []
        while True:
            step = self.ledgers.do("a", redrive)
            back += step.keys
            if step.after is None or (limit is not None and len(back) >= limit):
                break
            redrive = replace(redrive, after=step.after)
        assert [*here.keys] == back
        for place in self.both:
            place.told.clear()
        self.parks.clear()  # whom this woke is not compared
        for process in "abc":
            for want in ("any", "any more", "room", "drained"):
                self.forget(process, p.Want(want))  # type: ignore[arg-type]

    def forget(self, process: str, want: p.Want) -> None:
        self.parks.pop((process, want), None)

    @invariant()
    def all_that_can_be_looked_at_is_the_same(self) -> None:
        if not hasattr(self, "file"):
            return
        there, here = [place.do("c", p.Counts(QUEUE)) for place in self.both]
        assert replace(here, oldest_ready_age=None) == replace(there, oldest_ready_age=None)
        there, here = [pauses_of(place) for place in self.both]
        assert here == there
        there, here = [leases_of(place) for place in self.both]
        assert here == there
        for key in KEYS:
            looks = [place.do("c", p.Look(QUEUE, key)) for place in self.both]
            assert looks[0] == looks[1], (key, looks)
        letters = [place.do("c", p.Counts(LETTERS)).ready for place in self.both]
        assert letters[0] == letters[1]
        for place in self.both:
            place.told.clear()


def pauses_of(place: Any) -> list[Any]:
    """What is paused, and the reasons."""
    info = place.do("c", p.Info(QUEUE))
    tenants = [(name, pause.reason) for name, pause in info.paused_tenants.items()]
    return [info.paused and info.paused.reason, *tenants]


def leases_of(place: Any) -> list[Any]:
    """All pages of the leases, without the tokens, which are others in each store."""
    leases: list[Any] = []
    after: bytes | None = None
    while True:
        page = place.do("c", p.InFlight(QUEUE, after))
        leases += [replace(each, token=0) for each in page.members]
        after = page.after
        if after is None:
            return leases


def shown(event: p.Event) -> str:
    """An event without the token, which is another one in each store."""
    if isinstance(event, p.LeaseEnded):
        return "a lease has ended"
    return repr(event)


@pytest.mark.parametrize("examples", [15, pytest.param(40, marks=pytest.mark.slow)])
def test_a_file_answers_as_ledgers_do(examples: int) -> None:
    run_state_machine_as_test(
        BothStores,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, derandomize=True
        ),
    )
