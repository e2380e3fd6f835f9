"""Operations in a file that are rare: answers once more, long lists, and queues that are gone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

from leaseq import PutOutcome, Retry, ServerError, Tenant
from leaseq._core.kept import Kept
from leaseq._remote import protocol as p
from leaseq._remote.protocol import QueueRef, Settled
from leaseq._sqlite import operations

LOST = QueueRef("lost")


# Batches that are exchanged once more


def test_a_claim_is_answered_again_without_the_leases_that_have_ended(place: Place) -> None:
    place.declare()
    place.do("a", put("one", "two"))
    batch = place.batch(claim(2))
    first, second = claimed(place.exchange("a", batch).answers[0])
    place.do("b", p.Ack(QUEUE, *first))
    [again] = place.exchange("a", batch).answers
    assert claimed(again) == [second]
    assert again.left == 1


def test_answers_of_a_queue_that_was_deleted_since_say_so(place: Place) -> None:
    place.declare()
    place.do("a", put("one"))
    batch = place.batch(claim(), put("two"))
    place.exchange("a", batch)
    place.do("b", p.Delete(QUEUE))
    gone, done = place.exchange("a", batch).answers
    assert isinstance(gone, p.GoneError)
    assert done == (PutOutcome.ADDED,)


def test_a_value_is_recalled_again_as_it_is_now(place: Place) -> None:
    place.declare()
    batch = place.batch(p.Recall(QUEUE, "result", waits=True))
    assert place.exchange("a", batch).answers == [p.Recalled(None, False)]
    place.do("b", p.KeepValues(QUEUE, (Kept("result", b"new", 60.0, b""),)))
    assert place.exchange("a", batch).answers == [p.Recalled(b"new", True)]


def test_a_batch_that_is_given_up_was_done_for_all_the_file_knows(place: Place) -> None:
    place.declare()
    batch = place.batch(put("one"))
    place.exchange("a", batch)
    assert place.do("a", p.Abandon(QUEUE, batch.number, (QUEUE,))) is True


def test_several_operations_of_a_queue_that_is_not_there_say_so_each(place: Place) -> None:
    place.declare()
    place.do("a", p.Delete(QUEUE))
    for pair in ((put("one"), put("two")), (p.Ack(QUEUE, "one", 1), p.Ack(QUEUE, "two", 2))):
        for answer in place.exchange("a", place.batch(*pair)).answers:
            assert isinstance(answer, p.GoneError)


# Disks that are nearly full


def test_puts_are_refused_together_where_little_is_free_and_the_rest_is_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.declare()
    place.do("a", put("there"))
    [(key, token)] = claimed(place.do("a", claim()))
    monkeypatch.setattr(place.file("a"), "_has_room", lambda: False)
    *refused, acked = place.exchange(
        "a", place.batch(put("one"), put("two"), p.Ack(QUEUE, key, token))
    ).answers
    assert [each.code for each in refused if isinstance(each, ServerError)] == ["OOM"] * 2
    assert acked is Settled.DONE
    assert place.do("a", p.Counts(QUEUE)).ready == 0


# Leases


@pytest.mark.parametrize(
    "settlement",
    [
        lambda lease: p.Ack(QUEUE, *lease),
        lambda lease: p.Release(QUEUE, *lease),
        lambda lease: p.Reject(QUEUE, *lease, "bad"),
        lambda lease: p.GiveBack(QUEUE, *lease),
        lambda lease: p.Undo(QUEUE, *lease),
        lambda lease: p.Extend(QUEUE, *lease, 10.0),
        lambda lease: p.HoldOn(QUEUE, *lease, 10.0),
    ],
)
def test_a_lease_that_has_ended_is_held_no_more(place: Place, settlement: Any) -> None:
    place.declare()
    place.do("a", put("item"))
    [lease] = claimed(place.do("a", claim()))
    place.do("a", p.Release(QUEUE, *lease))
    [other] = claimed(place.do("b", claim()))
    assert place.do("a", settlement(lease)) is Settled.NOT_HELD
    assert place.do("a", settlement(("none", 1))) is Settled.NOT_HELD
    assert place.do("b", p.Held(QUEUE, *other)) is True


def test_a_want_of_several_requests_is_parked_once(place: Place) -> None:
    place.declare(tenants={"x": Tenant()})
    request = claim(tenants=["x"]).claims[0]
    answer = place.do("a", p.Claim(QUEUE, (request, request), parks=True))
    assert [park.want for park in answer.parks] == [p.Want("own", "x")]
    held = p.Claim(QUEUE, (request, request), parks=True, held=answer.parks)
    assert place.do("a", held).parks == ()


def test_a_consumer_for_tenants_is_given_nothing_of_a_queue_that_has_none(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    assert claimed(place.do("a", claim(tenants=["x"]))) == []
    assert len(claimed(place.do("a", claim(tenants=["x"], steal_from=[None])))) == 1


@pytest.mark.parametrize("wanted", [{"key": "old"}, {"tenants": ["x"]}, {}])
def test_what_has_outlived_its_time_is_not_handed_out(
    place: Place, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "SWEPT", 0)  # more has fallen due than is swept at once
    place.declare(tenants={"x": Tenant()})
    place.do("a", put("old", tenant="x", ttl=1.0))
    place.do("a", put("new", tenant="x"))
    place.now += 2
    keys = [key for key, _ in claimed(place.do("a", claim(2, **wanted)))]
    assert keys == ([] if "key" in wanted else ["new"])
    assert place.do("a", p.Info(QUEUE)).dead == 1


def test_what_came_after_a_lost_lease_and_has_outlived_its_time_ends_in_the_same_sweep(
    place: Place,
) -> None:
    place.declare(retry=Retry(max_deliveries=1))
    place.do("a", put("one", "two"))
    assert len(claimed(place.do("a", claim(2, lease_timeout=2.0)))) == 2
    place.do("a", put("one", if_in_flight="buffer", ttl=1.0))
    place.now += 3
    swept = place.do("a", p.Sweep(QUEUE, 10))
    assert (swept.more, swept.outlived) == (False, 1)
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.expired, counts.dead, counts.leased, counts.ready) == (2, 3, 0, 0)


def test_what_is_put_and_dropped_in_one_batch_leaves_nothing(place: Place) -> None:
    place.declare(tenants={"x": Tenant()})
    batch = place.batch(put("item", tenant="x"), p.Discard(QUEUE, "item"), put("item", tenant="y"))
    assert place.exchange("a", batch).answers == [
        (PutOutcome.ADDED,),
        True,
        (PutOutcome.ADDED,),
    ]
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.ready, counts.put, counts.dropped) == (1, 2, 1)


# Long lists


def test_a_redrive_goes_on_from_where_a_step_of_it_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_LOT", 2)
    place.declare()
    names = [f"item-{number}" for number in range(5)]
    place.do("a", put(*names))
    for lease in claimed(place.do("a", claim(5))):
        place.do("a", p.Reject(QUEUE, *lease, "bad"))
    place.do("a", put("other", queue=LOST))
    keys: list[str] = []
    after, steps = None, 0
    while steps == 0 or after is not None:
        redriven = place.do("a", p.Redrive(QUEUE, None, None, after))
        keys += redriven.keys
        after, steps = redriven.after, steps + 1
    assert (sorted(keys), steps) == (names, 4)
    assert place.do("a", p.Counts(LOST)).ready == 1  # which was no letter


def test_a_queue_whose_letters_are_gone_has_nothing_to_redrive(place: Place) -> None:
    place.declare()
    place.do("a", p.Delete(LOST))
    assert isinstance(place.do("a", p.Redrive(QUEUE, None, None)), p.GoneError)
    place.declare(dead_letters=None)
    assert isinstance(place.do("a", p.Redrive(QUEUE, None, None)), p.GoneError)


def test_the_oldest_item_is_looked_for_in_so_many_lines_and_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_LOT", 2)
    place.declare()
    assert place.do("a", p.Counts(QUEUE)).oldest_ready_age is None
    for priority in (3, 2, 1):
        place.do("a", put(f"of {priority}", priority=priority))
        place.now += 10
    assert place.do("a", p.Counts(QUEUE)).oldest_ready_age == pytest.approx(30)
    place.do("a", p.Discard(QUEUE, "of 3"))
    assert place.do("a", p.Counts(QUEUE)).oldest_ready_age == pytest.approx(20)


# Whole queues


def test_a_queue_is_of_the_group_of_its_letters_or_is_not_made(place: Place) -> None:
    letters = {"dead_letters": "lost", "group": "shop"}
    assert place.do("a", p.Declare(LOST, {}))
    assert place.do("a", p.Declare(QUEUE, letters)) is None  # type: ignore[arg-type]
    assert isinstance(place.do("a", p.Find(QUEUE)), p.GoneError)


def test_a_queue_without_items_is_purged_of_none(place: Place) -> None:
    place.declare()
    assert place.do("a", p.Purge(QUEUE)) == p.Purged(0, 0)


def test_a_queue_whose_items_have_come_before_its_tenants_counts_them(place: Place) -> None:
    place.declare()
    place.do("a", put("one", "two"))
    assert claimed(place.do("a", claim(2)))
    place.do("a", put("of-x", tenant="x"))  # only leased items have no tenant now
    tenants = dict(place.do("a", p.CountTenants(QUEUE)).members)
    assert (tenants[None].ready, tenants[None].leased) == (0, 2)
    assert (tenants["x"].ready, tenants["x"].leased) == (1, 0)


# Transactions


@pytest.mark.parametrize("lease", [("item", 1), ("none", 1)])
def test_a_transaction_of_a_lease_that_is_not_held_does_nothing(
    place: Place, lease: tuple[str, int]
) -> None:
    place.declare()
    place.do("a", put("item"))
    assert claimed(place.do("a", claim()))
    refused = place.do("a", p.Transact(QUEUE, (put("next"), p.Ack(QUEUE, *lease))))
    assert refused == (p.StepRefused(1, "not held"),)
    assert place.do("a", p.Counts(QUEUE)).ready == 0
