"""Batches: each is one transaction, whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

from leaseq import PutOutcome
from leaseq._core.requests import PutRequest
from leaseq._remote import protocol as p
from leaseq._remote.protocol import QueueRef
from leaseq._sqlite.rows import INLINE


@pytest.fixture
def one_transaction(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    """Fail if operations are done in transactions of their own."""

    def fail(*_: Any) -> None:
        raise AssertionError("the transaction of the batch has failed")

    place.declare()
    monkeypatch.setattr(place.file("a"), "_write_each", fail)


def large(key: str) -> p.Put:
    return p.Put(QUEUE, ((key, b"x" * 2 * INLINE),), PutRequest())


@pytest.mark.usefixtures("one_transaction")
def test_puts_by_the_short_way_and_others_take_turns(place: Place) -> None:
    other = QueueRef("other")
    place.do("a", p.Declare(other, {}))
    batch = place.batch(
        large("one"), put("plain", queue=other), large("two"), put("more", queue=other)
    )
    assert place.exchange("a", batch).answers == [(PutOutcome.ADDED,)] * 4
    got = claimed(place.do("a", claim(2)))
    assert [key for key, _ in got] == ["one", "two"]


@pytest.mark.usefixtures("one_transaction")
@pytest.mark.parametrize("every", [1, 7])
def test_a_claim_brings_any_number_of_large_items(place: Place, every: int) -> None:
    count = 1500
    puts = [put(f"{n}") if n % every else large(f"{n}") for n in range(count)]
    place.exchange("a", place.batch(*puts))
    got = claimed(place.do("a", claim(count)))
    assert [key for key, _ in got] == [f"{n}" for n in range(count)]
    assert len({token for _, token in got}) == count


@pytest.mark.usefixtures("one_transaction")
def test_claims_get_past_any_number_of_items_that_have_outlived_their_time(place: Place) -> None:
    place.do("a", put(*(f"{n}" for n in range(3000)), ttl=5.0))
    place.do("a", put("fresh"))
    place.now += 10
    got: list[Any] = []
    claims = 0
    while not got:
        got = claimed(place.do("a", claim(1)))
        claims += 1
    assert [key for key, _ in got] == ["fresh"]
    assert claims <= 4
    assert place.do("a", p.Counts(QUEUE)).dead == 3000
