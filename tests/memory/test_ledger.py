import gc
import random
import sys
import weakref
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any

import pytest

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
from leaseq.values import ANY_KEY, AnyKey

StrLedger = Ledger[str, str]
StrItem = Item[str, str]


def make_ledger(keys: str = "", *, first_token: int = 0) -> StrLedger:
    """A ledger with an item for each letter."""
    ledger: StrLedger = Ledger(Item, LeasedKeyQueue(), first_token=first_token)
    for key in keys:
        ledger.put(key, f"{key}1")
    return ledger


def claim(ledger: StrLedger, key: str | AnyKey = ANY_KEY, deadline: float = inf) -> StrItem:
    item = ledger.claim(key, deadline)
    assert item is not None
    return item


def claim_all(ledger: StrLedger, deadline: float = inf) -> list[StrItem]:
    return [claim(ledger, deadline=deadline) for _ in range(len(ledger.ready))]


def line(ledger: StrLedger) -> str:
    return "".join(ledger.ready)


def leased(ledger: StrLedger) -> str:
    return "".join(ledger.leased)


def state(ledger: StrLedger) -> object:
    """All there is to see from outside."""
    return (
        [(key, item.value) for key, item in ledger.ready.items()],
        [(key, item.token, item.deadline, item.ended) for key, item in ledger.leased.items()],
        [ledger.peek(key) for key in "abc"],
        (ledger.added, ledger.delivered, ledger.buffered, ledger.acked, ledger.released),
        (ledger.expired, ledger.cancelled, ledger.superseded, ledger.dropped),
        ledger.next_deadline(),
    )


# The ways in which a lease can end. A timed one has the deadline 10.


def expire(ledger: StrLedger, item: StrItem) -> None:
    assert item in list(ledger.expire(10))


def expire_the_second_time(ledger: StrLedger, item: StrItem) -> None:
    item.extra = type(item.extra)(expiries=1)
    expire(ledger, item)


def give_back_the_second_time(ledger: StrLedger, item: StrItem) -> None:
    item.cancellations = 1
    ledger.give_back(item)


ENDS: dict[str, Callable[[StrLedger, StrItem], object]] = {
    "ack": lambda ledger, item: ledger.ack(item),
    "release": lambda ledger, item: ledger.release(item),
    "release to the front": lambda ledger, item: ledger.release(item, front=True),
    "release uncounted": lambda ledger, item: ledger.release(item, counted=False),
    "give back": lambda ledger, item: ledger.give_back(item),
    "give back again": give_back_the_second_time,
    "expire": expire,
    "expire again": expire_the_second_time,
    "undo": lambda ledger, item: ledger.undo(item),
    "close": lambda ledger, item: ledger.close(),
}
RETURNS = [name for name in ENDS if name != "ack"]

SETTLE: dict[str, Callable[[StrLedger, StrItem, float], object]] = {
    "ack": lambda ledger, item, now: ledger.ack(item, now),
    "release": lambda ledger, item, now: ledger.release(item, now),
    "give back": lambda ledger, item, now: ledger.give_back(item, now),
    "extend": lambda ledger, item, now: ledger.extend(item, now, now + 10),
}


# Putting


def test_a_new_key_joins_the_back_of_the_line() -> None:
    ledger = make_ledger("ab")
    assert ledger.put("c", "c1") is Put.ADDED
    assert line(ledger) == "abc"


def test_a_key_that_is_ready_keeps_its_place_and_gets_the_new_value() -> None:
    ledger = make_ledger("abc")
    assert ledger.put("b", "b2") is Put.REPLACED
    assert line(ledger) == "abc"
    assert claim(ledger, "b").value == "b2"


@pytest.mark.parametrize("policy", ["update", "reject", "buffer"])
def test_the_policy_is_of_no_matter_for_a_key_that_is_not_leased(policy: Any) -> None:
    ledger = make_ledger("a")
    assert ledger.put("a", "a2", if_in_flight=policy) is Put.REPLACED
    assert ledger.put("b", "b1", if_in_flight=policy) is Put.ADDED
    assert ledger.buffered == 0


def test_a_replaced_value_leaves_the_counts_of_its_item() -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger))
    ledger.give_back(claim(ledger))
    ledger.put("a", "a2")
    item = claim(ledger)
    assert (item.value, item.deliveries, item.cancellations) == ("a2", 2, 1)


def test_a_replaced_value_leaves_an_item_at_its_old_place() -> None:
    ledger = make_ledger("abc")
    for item in claim_all(ledger)[:2]:
        ledger.give_back(item)
    ledger.put("a", "a2")
    assert line(ledger) == "ab"


def test_an_update_in_flight_leaves_the_value_that_was_handed_out() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert ledger.put("a", "a2") is Put.UPDATED_IN_FLIGHT
    assert item.value == "a1"
    assert ledger.peek("a") == "a2"
    assert ledger.buffered == 0


def test_the_latest_update_in_flight_wins() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.put("a", "a2")
    assert ledger.put("a", "a3") is Put.UPDATED_IN_FLIGHT
    ledger.release(item)
    assert claim(ledger).value == "a3"


def test_a_buffered_put_waits_for_the_end_of_the_lease() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert ledger.put("a", "a2", if_in_flight="buffer") is Put.BUFFERED
    assert item.value == "a1"
    assert ledger.peek("a") == "a2"
    assert ledger.claim("a") is None
    assert ledger.buffered == 1


@pytest.mark.parametrize("policy", ["update", "buffer"])
def test_a_key_has_one_successor_the_latest(policy: Any) -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.put("a", "a2", if_in_flight="buffer")
    assert ledger.put("a", "a3", if_in_flight=policy) is Put.BUFFERED
    assert ledger.buffered == 1
    ledger.ack(item)
    assert [item.value for item in ledger.ready.values()] == ["a3"]


def test_a_buffered_put_takes_the_place_of_an_update() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.put("a", "a2")
    assert ledger.put("a", "a3", if_in_flight="buffer") is Put.BUFFERED
    assert ledger.buffered == 1
    assert ledger.ack(item) is False
    assert claim(ledger).value == "a3"


@pytest.mark.parametrize("policy", [None, "update", "buffer"])
def test_a_put_that_rejects_is_refused_while_its_key_is_leased(policy: Any) -> None:
    ledger = make_ledger("a")
    claim(ledger)
    if policy is not None:
        ledger.put("a", "a2", if_in_flight=policy)
    before = state(ledger)
    with pytest.raises(KeyAlreadyInFlightError) as caught:
        ledger.put("a", "a3", if_in_flight="reject")
    assert str(caught.value) == (
        "key 'a' is leased: wait until it is settled, or put it with if_in_flight=\"buffer\""
    )
    assert state(ledger) == before


@pytest.mark.parametrize("key", ["a", "b", "c"], ids=["ready", "leased", "absent"])
def test_an_unknown_policy_is_refused_with_the_choices(key: str) -> None:
    ledger = make_ledger("ba")
    claim(ledger)
    before = state(ledger)
    with pytest.raises(ValueError, match="if_in_flight") as caught:
        ledger.put(key, "2", if_in_flight="replace")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "if_in_flight must be one of 'update', 'reject', 'buffer', not 'replace'"
    )
    assert state(ledger) == before


@pytest.mark.parametrize("call", [("put", "value"), ("add", "value"), ("claim", 10)])
def test_a_key_that_is_not_hashable_is_refused(call: tuple[str, Any]) -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    method, argument = call
    with pytest.raises(TypeError) as caught:
        getattr(ledger, method)(["a"], argument)
    assert str(caught.value) == "a key must be hashable, and 'list' is not: ['a']"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert state(ledger) == before


def test_an_absent_key_can_be_added() -> None:
    ledger = make_ledger("a")
    assert ledger.add("b", "b1") is True
    assert line(ledger) == "ab"


@pytest.mark.parametrize("key", ["a", "b"], ids=["leased", "ready"])
def test_a_key_that_is_there_cannot_be_added(key: str) -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    before = state(ledger)
    assert ledger.add(key, "2") is False
    assert state(ledger) == before


@pytest.mark.parametrize(
    ("key", "policy", "error"),
    [
        ("a", "reject", KeyAlreadyInFlightError),
        ("a", "replace", ValueError),
        (["a"], "update", TypeError),
    ],
)
def test_a_put_can_be_checked_before_it_is_made(key: Any, policy: Any, error: type) -> None:
    ledger = make_ledger("a")
    claim(ledger)
    with pytest.raises(error) as checked:
        ledger.check_put(key, if_in_flight=policy)
    with pytest.raises(error) as made:
        ledger.put(key, "2", if_in_flight=policy)
    assert str(checked.value) == str(made.value)


def test_a_put_that_was_only_checked_was_not_made() -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    ledger.check_put("b")
    ledger.check_put("a")
    assert state(ledger) == before


# Handing out


def test_the_first_of_the_line_is_handed_out_first() -> None:
    ledger = make_ledger("abc")
    assert [claim(ledger).key for _ in range(3)] == ["a", "b", "c"]


def test_a_key_can_be_claimed_out_of_the_middle_of_the_line() -> None:
    ledger = make_ledger("abc")
    assert claim(ledger, "b").key == "b"
    assert line(ledger) == "ac"
    assert leased(ledger) == "b"


def test_an_empty_line_hands_out_nothing() -> None:
    assert make_ledger().claim() is None


@pytest.mark.parametrize("key", ["a", "c"], ids=["leased", "absent"])
def test_a_key_that_is_not_ready_is_not_handed_out(key: str) -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    before = state(ledger)
    assert ledger.claim(key, 10) is None
    assert state(ledger) == before


def test_the_first_token_follows_the_one_that_the_ledger_starts_from() -> None:
    assert claim(make_ledger("a", first_token=1000)).token == 1001


@pytest.mark.parametrize("how", ENDS)
def test_a_later_token_of_a_key_is_greater_however_the_lease_before_it_ended(how: str) -> None:
    ledger = make_ledger("a")
    first = claim(ledger, deadline=10)
    ENDS[how](ledger, first)
    ledger.put("a", "a2")
    assert claim(ledger).token == first.token + 1


def test_a_lease_has_the_item_and_how_often_it_was_delivered() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert (item.key, item.value, item.deliveries, item.cancellations) == ("a", "a1", 1, 0)
    assert item.ended is None
    ledger.release(item)
    assert claim(ledger).deliveries == 2


def test_a_lease_without_a_deadline_never_expires() -> None:
    ledger = make_ledger("a")
    assert claim(ledger).deadline == inf
    assert ledger.next_deadline() == inf
    assert list(ledger.expire(1e12)) == []


def test_a_timed_lease_has_its_deadline() -> None:
    ledger = make_ledger("ab")
    assert claim(ledger, deadline=7).deadline == 7
    assert claim(ledger, deadline=5).deadline == 5
    assert ledger.next_deadline() == 5


def test_peek_tells_the_newest_value_and_none_of_an_absent_key() -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    assert [ledger.peek(key) for key in "abc"] == ["a1", "b1", None]


# Done


def test_an_acknowledged_key_is_absent() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert ledger.ack(item) is False
    assert item.ended == "acked"
    assert (line(ledger), leased(ledger), ledger.peek("a")) == ("", "", None)


def test_an_ack_drops_an_update_in_flight_and_says_so() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.put("a", "a2")
    assert ledger.ack(item) is True
    assert ledger.peek("a") is None


def test_an_ack_lets_a_buffered_put_follow_and_drops_nothing() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    ledger.put("a", "a2", if_in_flight="buffer")
    assert ledger.ack(item) is False
    assert line(ledger) == "ba"


def test_a_key_that_was_acknowledged_can_be_put_again_with_fresh_counts() -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger))
    ledger.ack(claim(ledger))
    assert ledger.put("a", "a2") is Put.ADDED
    assert claim(ledger).deliveries == 1


def test_a_lease_can_be_settled_until_just_before_its_deadline() -> None:
    ledger = make_ledger("a")
    ledger.ack(claim(ledger, deadline=10), 9.999)
    assert ledger.acked == 1


# Tried again

# "x" was handed out before "b" and is back, "c" is still leased, "Y" and "Z" were never handed out.
PLACES = {
    "release": "xYZb",
    "release to the front": "bxYZ",
    "release uncounted": "xYZb",
    "give back": "xbYZ",
    "give back again": "xYZb",
    "expire": "xbYZ",
    "expire again": "xYZb",
    "undo": "xbYZ",
    "close": "xbcYZ",
}


@pytest.mark.parametrize("how", RETURNS)
def test_where_an_item_returns_to_when_its_lease_ends(how: str) -> None:
    ledger = make_ledger("xbc")
    earlier, item, _ = (claim(ledger, deadline=when) for when in (inf, 10, inf))
    for key in "YZ":
        ledger.put(key, "1")
    ledger.undo(earlier)
    assert line(ledger) == "xYZ"
    ENDS[how](ledger, item)
    assert line(ledger) == PLACES[how]


# The deliveries and cancellations of the next lease, where this one is the third delivery.
COUNTS = {
    "release": (4, 0),
    "release to the front": (4, 0),
    "release uncounted": (3, 0),
    "give back": (3, 1),
    "give back again": (3, 2),
    "expire": (4, 0),
    "expire again": (4, 0),
    "undo": (3, 0),
    "close": (4, 0),
}


@pytest.mark.parametrize("how", RETURNS)
def test_what_an_item_counts_when_its_lease_ends(how: str) -> None:
    ledger = make_ledger("a")
    for _ in range(2):
        ledger.release(claim(ledger))
    item = claim(ledger, deadline=10)
    ENDS[how](ledger, item)
    again = claim(ledger)
    assert (again.deliveries, again.cancellations) == COUNTS[how]


@pytest.mark.parametrize("how", RETURNS)
def test_an_old_lease_stays_what_it_was_while_its_key_goes_on(how: str) -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    ENDS[how](ledger, item)
    ended, deliveries, cancellations = item.ended, item.deliveries, item.cancellations
    assert ended == ("lost" if how in {"expire", "expire again", "close"} else "released")
    ledger.put("a", "a2")
    ledger.ack(claim(ledger))
    assert (item.value, item.ended, item.token, item.deadline) == ("a1", ended, 1, 10)
    assert (item.deliveries, item.cancellations) == (deliveries, cancellations)


@pytest.mark.parametrize("how", RETURNS)
def test_an_update_in_flight_returns_in_its_item_s_place(how: str) -> None:
    ledger = make_ledger("xbc")
    earlier, item, _ = (claim(ledger, deadline=when) for when in (inf, 10, inf))
    for key in "YZ":
        ledger.put(key, "1")
    ledger.undo(earlier)
    ledger.put("b", "b2")
    ENDS[how](ledger, item)
    assert line(ledger) == PLACES[how]
    assert claim(ledger, "b").value == "b2"
    assert ledger.superseded == 0


@pytest.mark.parametrize("how", ENDS)
def test_a_buffered_successor_is_a_new_item_at_the_back_however_the_lease_ended(how: str) -> None:
    ledger = make_ledger("ab")
    item = claim(ledger, deadline=10)
    ledger.put("a", "a2", if_in_flight="buffer")
    ENDS[how](ledger, item)
    assert line(ledger) == "ba"
    again = claim(ledger, "a")
    assert (again.value, again.deliveries, again.cancellations) == ("a2", 1, 0)
    assert ledger.buffered == 0
    assert ledger.superseded == (how != "ack")
    assert ledger.added == 3


@pytest.mark.parametrize("how", ["expire", "give back"])
def test_a_buffered_successor_starts_anew_where_its_predecessor_stood_out(how: str) -> None:
    ledger = make_ledger("a")
    ENDS[how](ledger, claim(ledger, deadline=10))
    item = claim(ledger, deadline=10)
    ledger.put("a", "a2", if_in_flight="buffer")
    ENDS[how](ledger, item)
    ledger.put("b", "b1")
    ENDS[how](ledger, claim(ledger, "a", deadline=10))
    assert line(ledger) == "ab"


def test_an_item_that_expires_again_goes_to_the_back_also_after_a_release() -> None:
    ledger = make_ledger("ab")
    expire(ledger, claim(ledger, "a", deadline=10))
    ledger.release(claim(ledger, "a"), front=True)
    expire(ledger, claim(ledger, "a", deadline=10))
    assert line(ledger) == "ba"


@pytest.mark.parametrize("how", ["release", "release to the front", "expire"])
def test_only_cancellations_in_a_row_send_an_item_to_the_back(how: str) -> None:
    ledger = make_ledger("ab")
    ledger.give_back(claim(ledger, "a"))
    ENDS[how](ledger, claim(ledger, "a", deadline=10))
    ledger.give_back(claim(ledger, "a"))
    assert line(ledger) == "ab"


@pytest.mark.parametrize("how", ["undo", "close"])
def test_an_end_that_is_nobody_s_fault_is_no_break_between_cancellations(how: str) -> None:
    ledger = make_ledger("ab")
    ledger.give_back(claim(ledger, "a"))
    ENDS[how](ledger, claim(ledger, "a"))
    ledger.give_back(claim(ledger, "a"))
    assert line(ledger) == "ba"


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_items_at_their_old_places_are_in_the_order_of_their_hand_outs(order: str) -> None:
    ledger = make_ledger("abcd")
    items = {key: claim(ledger, key) for key in "abc"}
    for key in order:
        ledger.undo(items[key])
    assert line(ledger) == "abcd"


def test_an_item_at_its_old_place_goes_before_those_that_were_never_handed_out() -> None:
    ledger = make_ledger("abc")
    ledger.undo(claim(ledger, "c"))
    assert line(ledger) == "cab"


def test_what_is_released_to_the_front_is_before_what_is_at_its_old_place() -> None:
    ledger = make_ledger("abc")
    first, second = claim(ledger), claim(ledger)
    ledger.undo(first)
    ledger.release(second, front=True)
    assert line(ledger) == "bac"


# What cannot be settled


@pytest.mark.parametrize("settle", SETTLE)
def test_a_lease_that_was_acknowledged_says_so(settle: str) -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.ack(item)
    before = state(ledger)
    with pytest.raises(LeaseAlreadyAcknowledgedError) as caught:
        SETTLE[settle](ledger, item, 0)
    assert str(caught.value) == "<Lease 'a' token=1 acked> was acknowledged before"
    assert state(ledger) == before


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize(
    "how", ["release", "release to the front", "release uncounted", "give back", "undo"]
)
def test_a_lease_that_was_released_says_so(settle: str, how: str) -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ENDS[how](ledger, item)
    before = state(ledger)
    with pytest.raises(InvalidLeaseError) as caught:
        SETTLE[settle](ledger, item, 0)
    assert type(caught.value) is InvalidLeaseError
    assert str(caught.value) == "<Lease 'a' token=1 released> was released before"
    assert state(ledger) == before


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize("how", ["expire", "close"])
@pytest.mark.parametrize("now", [0, 11])
def test_a_lease_that_was_lost_says_so(settle: str, how: str, now: float) -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    ENDS[how](ledger, item)
    before = state(ledger)
    with pytest.raises(LeaseLostError) as caught:
        SETTLE[settle](ledger, item, now)
    assert str(caught.value) == (
        "<Lease 'a' token=1 lost> was lost: its item is not held by it any more"
    )
    assert state(ledger) == before


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize(("now", "late"), [(10, "0"), (10.25, "0.25"), (3610, "3.6e+03")])
def test_a_lease_is_lost_from_its_deadline_on_before_anybody_has_looked(
    settle: str, now: float, late: str
) -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    before = state(ledger)
    with pytest.raises(LeaseLostError) as caught:
        SETTLE[settle](ledger, item, now)
    assert str(caught.value) == (
        f"<Lease 'a' token=1 held> expired {late} s ago: "
        "take a longer lease_timeout, or extend it in time"
    )
    assert state(ledger) == before


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize("how", ENDS)
def test_an_old_lease_has_no_effect_on_an_item_that_somebody_else_holds(
    settle: str, how: str
) -> None:
    ledger = make_ledger("a")
    old = claim(ledger, deadline=10)
    ENDS[how](ledger, old)
    ledger.put("a", "a2")
    held = claim(ledger, deadline=20)
    with pytest.raises(InvalidLeaseError):
        SETTLE[settle](ledger, old, 0)
    assert ledger.leased == {"a": held}
    assert (held.ended, held.deadline, ledger.next_deadline()) == (None, 20, 20)


# Deadlines


def test_an_extended_lease_expires_at_its_new_deadline() -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    ledger.extend(item, 5, 20)
    assert (item.deadline, ledger.next_deadline()) == (20, 20)
    assert list(ledger.expire(19)) == []
    assert list(ledger.expire(20)) == [item]


def test_a_lease_can_be_extended_to_an_earlier_deadline() -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    ledger.extend(item, 5, 6)
    assert ledger.next_deadline() == 6


def test_a_timed_lease_can_be_extended_for_ever() -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    ledger.extend(item, 5, inf)
    assert ledger.next_deadline() == inf
    ledger.ack(item, 1e9)


def test_a_lease_without_end_can_be_given_one() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    ledger.extend(item, 5, 15)
    assert ledger.next_deadline() == 15
    assert list(ledger.expire(15)) == [item]


def test_a_lease_that_was_extended_back_and_forth_expires_once() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger, deadline=10)
    claim(ledger, deadline=50)
    for deadline in (20, 10, 20, 10):
        ledger.extend(item, 0, deadline)
    assert list(ledger.expire(30)) == [item]
    assert ledger.expired == 1


def test_leases_expire_in_the_order_of_their_deadlines() -> None:
    ledger = make_ledger("abc")
    three, one, two = (claim(ledger, deadline=when) for when in (3, 1, 2))
    assert list(ledger.expire(9)) == [one, two, three]
    assert leased(ledger) == ""


def test_what_expires_at_once_returns_in_the_order_of_the_hand_outs() -> None:
    ledger = make_ledger("abcd")
    for when in (3, 1, 2):
        claim(ledger, deadline=when)
    list(ledger.expire(9))
    assert line(ledger) == "abcd"


def test_a_lease_whose_deadline_is_to_come_does_not_expire() -> None:
    ledger = make_ledger("ab")
    due, _ = claim(ledger, deadline=1), claim(ledger, deadline=2)
    assert list(ledger.expire(1.5)) == [due]
    assert leased(ledger) == "b"
    assert ledger.next_deadline() == 2


def test_expiries_can_be_handled_one_at_a_time() -> None:
    ledger = make_ledger("abc")
    claim_all(ledger, deadline=1)
    first = next(ledger.expire(1))
    assert (first.key, first.ended) == ("a", "lost")
    assert (line(ledger), leased(ledger), ledger.expired) == ("a", "bc", 1)
    assert ledger.next_deadline() == 1
    assert [item.key for item in ledger.expire(1)] == ["b", "c"]


@pytest.mark.parametrize("how", [name for name in ENDS if "expire" not in name])
def test_a_lease_that_has_ended_does_not_expire(how: str) -> None:
    ledger = make_ledger("ab")
    item, other = claim(ledger, deadline=10), claim(ledger, deadline=20)
    ENDS[how](ledger, item)
    assert item not in list(ledger.expire(15))
    assert ledger.expired == 0
    assert ledger.next_deadline() == (inf if other.ended else 20)


# The end


def test_close_ends_every_lease_and_tells_which() -> None:
    ledger = make_ledger("abc")
    items = [claim(ledger), claim(ledger, deadline=10)]
    assert ledger.close() == items
    assert [item.ended for item in items] == ["lost", "lost"]
    assert (leased(ledger), ledger.next_deadline()) == ("", inf)


def test_close_leaves_all_that_is_left_in_its_old_order() -> None:
    ledger = make_ledger("abcdef")
    items = [claim(ledger) for _ in range(4)]
    ledger.undo(items[1])
    ledger.close()
    assert line(ledger) == "abcdef"


def test_close_of_an_idle_ledger_does_nothing() -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    assert ledger.close() == []
    assert state(ledger) == before


def test_drain_gives_what_is_ready_in_the_order_of_the_line() -> None:
    ledger = make_ledger("abc")
    claim(ledger)
    ledger.put("c", "c2")
    assert ledger.drain() == [("b", "b1"), ("c", "c2")]
    assert (line(ledger), leased(ledger), ledger.dropped) == ("", "a", 2)
    assert ledger.drain() == []


def test_a_lease_goes_on_after_a_drain() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    ledger.drain()
    ledger.release(item)
    assert line(ledger) == "a"


def test_a_ledger_is_drained_when_nothing_is_ready_or_leased() -> None:
    ledger = make_ledger()
    assert ledger.drained
    ledger.put("a", "a1")
    assert not ledger.drained
    item = claim(ledger)
    assert not ledger.drained
    ledger.put("a", "a2", if_in_flight="buffer")
    ledger.ack(item)
    assert not ledger.drained
    ledger.ack(claim(ledger))
    assert ledger.drained


# The counters

COUNTERS = ("delivered", "acked", "released", "expired", "cancelled")


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        ("ack", {"delivered": 1, "acked": 1}),
        ("release", {"delivered": 1, "released": 1}),
        ("release to the front", {"delivered": 1, "released": 1}),
        ("release uncounted", {"released": 1}),
        ("give back", {"cancelled": 1}),
        ("give back again", {"cancelled": 1}),
        ("expire", {"delivered": 1, "expired": 1}),
        ("expire again", {"delivered": 1, "expired": 1}),
        ("undo", {}),
        ("close", {"delivered": 1}),
    ],
)
@pytest.mark.parametrize("first_token", [0, 10**15])
def test_each_end_of_a_lease_is_counted(how: str, counts: dict[str, int], first_token: int) -> None:
    ledger = make_ledger("a", first_token=first_token)
    item = claim(ledger, deadline=10)
    assert ledger.delivered == 1
    ENDS[how](ledger, item)
    assert {name: getattr(ledger, name) for name in COUNTERS} == dict.fromkeys(COUNTERS, 0) | counts
    assert ledger.added == 1


def test_values_that_take_another_s_place_are_not_counted_as_items() -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    ledger.put("b", "b2")
    ledger.put("a", "a2")
    assert ledger.added == 2
    ledger.put("a", "a3", if_in_flight="buffer")
    ledger.put("a", "a4", if_in_flight="buffer")
    assert ledger.added == 3


# What it costs and what it keeps


def calls(function: Callable[[], object]) -> int:
    """How many functions are called, those of the interpreter included."""
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.disable()  # what the collector calls is not the function's doing
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def one_of_many(how: str, many: int) -> int:
    """What the end of one lease costs where so many are ready and so many leased."""
    ledger: Ledger[int, str] = Ledger(Item, LeasedKeyQueue(), first_token=0)
    for key in range(2 * many):
        ledger.put(key, "1")
    item = ledger.claim(deadline=10)
    for _ in range(many - 1):
        ledger.claim(deadline=20)
    end: Any = ENDS[how]
    return calls(lambda: end(ledger, item))


@pytest.mark.parametrize("how", [name for name in ENDS if name != "close"])
def test_the_end_of_a_lease_costs_the_same_however_much_there_is(how: str) -> None:
    assert one_of_many(how, 1000) <= one_of_many(how, 10)


@pytest.mark.parametrize("key", [ANY_KEY, 5])
def test_a_put_and_a_claim_cost_the_same_however_much_there_is(key: int | AnyKey) -> None:
    def cost(many: int) -> int:
        ledger: Ledger[int, str] = Ledger(Item, LeasedKeyQueue(), first_token=0)
        for number in range(many):
            ledger.put(number, "1")
        return calls(lambda: (ledger.put(many, "1"), ledger.claim(key, 10)))

    assert cost(1000) == cost(10)


@pytest.mark.xfail(
    strict=True, reason="each expiry moves all that have returned to their old places before it"
)
def test_expiries_cost_the_same_each_however_many_there_are() -> None:
    def cost_of_each(many: int) -> float:
        ledger: Ledger[int, str] = Ledger(Item, LeasedKeyQueue(), first_token=0)
        for key in range(many):
            ledger.put(key, "1")
            ledger.claim(deadline=10)
        return calls(lambda: list(ledger.expire(10))) / many

    assert cost_of_each(1000) < 2 * cost_of_each(100)


class Value:
    """Something whose end can be seen."""

    __slots__ = ("__weakref__",)


def work_through(ledger: Ledger[int, Value], values: int) -> "weakref.WeakSet[Value]":
    """Put and end so many, 100 at a time in somebody's hands, for an hour if need be."""
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    chance = random.Random(1)
    held: list[Item[int, Value]] = []
    for now in range(values):
        value = Value()
        alive.add(value)
        ledger.put(now, value)
        item = ledger.claim(deadline=now + 3600)
        assert item is not None
        if now % 10 == 0:
            ledger.extend(item, now, now + 7200)
        held.append(item)
        if len(held) > 100:
            index = chance.randrange(100)
            held[index], last = held[-1], held[index]
            held.pop()
            ledger.ack(last, now)
    for item in held:
        ledger.ack(item, values)
    return alive


def test_acknowledged_leases_leave_nothing_behind_long_before_their_deadlines() -> None:
    ledger: Ledger[int, Value] = Ledger(Item, LeasedKeyQueue(), first_token=0)
    alive = work_through(ledger, 200_000)
    assert ledger.acked == 200_000
    assert len(alive) <= 64  # what is not worth sweeping yet
    assert ledger.next_deadline() == inf
    assert len(alive) == 0


def test_a_lease_that_is_extended_again_and_again_has_one_deadline_to_remember() -> None:
    ledger = make_ledger("ab")
    item, _ = claim_all(ledger, deadline=10**6)
    for now in range(10_000):
        ledger.extend(item, now, now + 10)
    assert len(ledger._deadlines) == 2
    assert len(ledger._deadlines._heap) <= 64


@pytest.mark.parametrize("how", ENDS)
def test_an_ended_lease_keeps_nothing_alive(how: str) -> None:
    ledger: Ledger[str, Value] = Ledger(Item, LeasedKeyQueue(), first_token=0)
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    end: Any = ENDS[how]
    for _ in range(1000):
        value = Value()
        alive.add(value)
        ledger.put("a", value)
        item = ledger.claim(deadline=10)
        end(ledger, item)
        ledger.drain()
        del value, item
    assert len(alive) <= 64
    assert ledger.next_deadline() == inf
    assert len(alive) == 0
