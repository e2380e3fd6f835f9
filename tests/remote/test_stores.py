"""Stores that need no server, operation by operation, without a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

import pytest
from tests.remote.ledger_store import LedgerBackend
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

from leaseq import KeyAlreadyInFlightError, PutOutcome, Retry, ServerError, Tenant
from leaseq._core.options import BrokerQueueOptions
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol as p
from leaseq._remote.protocol import Park, QueueRef, Want


class Ledgers:
    """The store over ledgers, the time there, and what its processes were told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[str, p.Event]] = []
        self.backend = LedgerBackend(clock=lambda: self.now, wall=lambda: 1e9 + self.now)
        self.numbers = 0
        for name in "abc":
            self.listen(name)

    def listen(self, process: str) -> None:
        self.backend.listening[process] = lambda event: self.told.append((process, event))

    def leave(self, process: str) -> None:
        """Let a process end without a word."""
        del self.backend.listening[process]

    def declare(self, **options: Unpack[BrokerQueueOptions]) -> None:
        """Make the queue, and that of its dead letters."""
        self.do("a", p.Declare(QUEUE, {"dead_letters": "lost", **options}))

    def batch(self, *operations: p.Operation[Any]) -> p.Batch:
        self.numbers += 1
        return p.Batch(self.numbers, operations)

    def exchange(self, process: str, batch: p.Batch) -> p.Reply:
        return self.backend.do(process, batch)

    def do(self, process: str, operation: p.Operation[Any]) -> Any:
        [answer] = self.exchange(process, self.batch(operation)).answers
        return answer

    def woken(self) -> list[str]:
        """The processes that were woken since the last look."""
        told, self.told = self.told, []
        return [process for process, event in told if isinstance(event, p.Woken)]

    def close(self) -> None:
        pass


Make = Callable[..., Any]


@pytest.fixture(params=["ledgers", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a store with the queue in it."""
    place: Any = Ledgers() if request.param == "ledgers" else Place(tmp_path / "queues.db")

    def make(**options: Unpack[BrokerQueueOptions]) -> Any:
        for process in "abc":
            place.do(process, p.ListQueues(QUEUE))
        place.declare(**options)
        return place

    yield make
    place.close()


@pytest.fixture
def place(make: Make) -> Any:
    return make()


def test_an_item_is_put_leased_and_acknowledged(place: Any) -> None:
    assert place.do("a", put("x", "y")) == (PutOutcome.ADDED, PutOutcome.ADDED)
    [(key, token)] = claimed(place.do("b", claim()))
    assert key == "x"
    assert place.do("b", p.Ack(QUEUE, key, token)) == p.Settled.DONE
    assert place.do("b", p.Ack(QUEUE, key, token)) == p.Settled.NOT_HELD
    summary = place.do("a", p.Counts(QUEUE))
    assert (summary.ready, summary.leased, summary.acked, summary.put) == (1, 0, 1, 2)


def test_a_batch_that_comes_again_is_not_done_again(place: Any) -> None:
    place.do("a", put("x", "y"))
    batch = place.batch(put("z"), claim())
    first = place.exchange("b", batch)
    again = place.exchange("b", batch)
    assert again.answers == first.answers
    assert place.do("a", p.Counts(QUEUE)).leased == 1


def test_a_claim_that_is_told_again_leaves_out_what_is_not_held_any_more(place: Any) -> None:
    place.do("a", put("x", "y"))
    batch = place.batch(claim(2, lease_timeout=5.0))
    [(_, token), kept] = claimed(place.exchange("b", batch).answers[0])
    place.do("a", p.Release(QUEUE, "x", token))
    assert claimed(place.exchange("b", batch).answers[0]) == [kept]
    place.now += 6.0
    assert claimed(place.exchange("b", batch).answers[0]) == []


def test_a_batch_that_comes_after_a_later_one_is_refused(place: Any) -> None:
    early, late = place.batch(put("x")), place.batch(put("y"))
    place.exchange("a", late)
    with pytest.raises(ServerError, match="later batch"):
        place.exchange("a", early)
    assert place.do("a", p.Look(QUEUE, "x")).state == "absent"


def test_an_item_wakes_the_process_that_has_waited_for_longest_and_no_other(place: Any) -> None:
    for process in "ba":
        place.do(process, claim(parks=True))
    place.do("c", put("x"))
    assert place.woken() == ["b"]


def test_a_wake_up_for_a_process_that_is_gone_goes_to_the_next(place: Any) -> None:
    for process in "ba":
        place.do(process, claim(parks=True))
    place.leave("b")
    place.do("c", put("x"))
    assert place.woken() == ["a"]


def test_who_wants_the_key_comes_first_and_the_patient_last(place: Any) -> None:
    place.do("a", claim(parks=True, patient=True))
    place.do("b", claim(parks=True))
    place.do("c", claim(parks=True, key="x"))
    for _ in range(3):
        place.do("a", put("x"))
        [(key, token)] = claimed(place.do("a", p.Claim(QUEUE, (p.ClaimFor(ClaimRequest(), 1),))))
        place.do("a", p.Ack(QUEUE, key, token))
    assert place.woken() == ["c", "b", "a"]


def test_a_wake_up_that_was_not_needed_is_passed_on(place: Any) -> None:
    for process in "ba":
        place.do(process, claim(parks=True))
    place.do("c", put("x"))
    place.do("b", p.Wake(QUEUE, Want("any")))
    assert place.woken() == ["b", "a"]


def test_a_free_place_under_a_cap_wakes_who_waits_for_the_tenant(make: Make) -> None:
    place = make(tenants={"t": Tenant(max_in_flight=1)})
    place.do("a", put("x", "y", tenant="t"))
    [(key, token)] = claimed(place.do("a", claim()))
    place.do("b", claim(parks=True, key="y"))
    assert place.woken() == []
    place.do("a", p.Ack(QUEUE, key, token))
    assert place.woken() == ["b"]


def test_a_process_learns_that_its_park_is_gone_or_was_overlooked(place: Any) -> None:
    [park] = place.do("a", claim(parks=True)).parks
    asked = p.Parked(QUEUE, (park, Park(Want("any"), 17)))
    assert place.do("a", asked) == (Want("any"),)
    place.do("b", put("x"))
    assert place.do("a", p.Parked(QUEUE, (park,))) == (Want("any"),)
    [(_, token)] = claimed(place.do("c", claim()))
    [park] = place.do("a", claim(parks=True)).parks
    place.do("b", claim(parks=True))
    place.leave("b")
    place.do("c", p.Release(QUEUE, "x", token))
    place.do("a", claim(key="nothing", parks=True))
    assert place.woken() == ["a", "a"]


def test_a_full_queue_parks_the_producer_and_wakes_it_for_room(make: Make) -> None:
    place = make(max_size=1)
    place.do("a", put("x"))
    assert place.do("b", put("y")).places == 1
    assert place.do("b", put("y", "z")) == p.NeverFits(2)
    [(key, token)] = claimed(place.do("a", claim()))
    assert place.woken() == ["b"]
    place.do("a", p.Ack(QUEUE, key, token))
    assert place.do("b", put("y", behind=True)) == p.Full(1)
    assert place.do("b", put("y")) == (PutOutcome.ADDED,)


def test_the_end_of_all_items_wakes_who_joins(place: Any) -> None:
    place.do("a", put("x"))
    joined = place.do("b", p.Join(QUEUE))
    assert joined.left == 1
    assert joined.stamp
    place.do("a", p.Purge(QUEUE))
    assert place.told == [("b", p.Woken("orders", Want("drained")))]
    assert place.do("b", p.Join(QUEUE, joined.stamp)).left == 0


def test_what_falls_due_is_told_and_done(make: Make) -> None:
    place = make(retry=Retry(max_deliveries=1))
    place.do("a", put("x"))
    reply = place.exchange("a", place.batch(claim(lease_timeout=5.0)))
    assert reply.due["orders"] == 5.0
    [(_, token)] = claimed(reply.answers[0])
    place.now += 5.0
    reply = place.exchange("b", place.batch(p.Sweep(QUEUE, 64)))
    assert reply.answers == [p.Swept(False, 0)]
    assert {*reply.events} == {
        p.ItemDied("orders", "x", token, "max_deliveries", "dead"),
        p.LeaseEnded("orders", token),
    }
    assert place.do("a", p.Info(QUEUE)).dead == 1


def test_dead_letters_come_back_in_several_steps(place: Any) -> None:
    keys = [f"k{n}" for n in range(7)]
    place.do("a", put(*keys))
    for key, token in claimed(place.do("a", claim(7))):
        place.do("a", p.Reject(QUEUE, key, token, "broken"))
    place.do("a", put("k1"))
    back: list[p.Key] = []
    conflicts: list[p.Key] = []
    step = place.do("a", p.Redrive(QUEUE, None, None))
    while True:
        back += step.keys
        conflicts += step.conflicts
        if step.after is None:
            break
        step = place.do("a", p.Redrive(QUEUE, None, None, step.after))
    assert back == ["k0", "k2", "k3", "k4", "k5", "k6"]
    assert conflicts == ["k1"]


def test_a_transaction_is_refused_for_all_its_reasons_and_does_nothing(place: Any) -> None:
    place.do("a", put("x", "y", tenant="t"))
    [(key, token)] = claimed(place.do("a", claim()))
    steps = (
        put("new"),
        p.Ack(QUEUE, key, token),
        p.Ack(QUEUE, key, token),
        None,
        put("y", tenant="u"),
        p.Put(QueueRef("nowhere"), (("x", b""),), PutRequest()),
    )
    failures = place.do("a", p.Transact(QUEUE, steps))
    assert [(each.step, each.why) for each in failures] == [
        (2, "twice"),
        (3, "not held"),
        (4, "tenant"),
        (5, "gone"),
    ]
    assert failures[2].tenant == "t"
    assert place.do("a", p.Look(QUEUE, "new")).state == "absent"
    assert place.do("a", p.Transact(QUEUE, steps[:2])) == ()


def test_a_consumer_that_is_gone_loses_its_leases_and_its_process_is_told(place: Any) -> None:
    place.do("a", put("x"))
    [(_, token)] = claimed(place.do("b", claim(consumer="worker")))
    assert place.do("c", p.ReleaseAll(QUEUE, "worker")) == p.Released(1, None)
    assert place.told == [("b", p.LeaseEnded("orders", token))]


def test_an_operation_that_is_refused_does_nothing() -> None:
    error = KeyAlreadyInFlightError("busy")
    backend = LedgerBackend(clock=lambda: 0.0, refuse=lambda _: error)
    answer = backend.do("a", p.Batch(1, (p.Declare(QUEUE, {}),))).answers
    assert answer == [error]
    assert not backend.queues
