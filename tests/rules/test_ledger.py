from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from leaseq import (
    Backoff,
    InvalidLeaseError,
    LeaseAlreadyAcknowledgedError,
    LeasedKeyQueue,
    LeaseLostError,
    PutOutcome,
    Retry,
)
from leaseq._core.options import ANY_KEY, AnyKey
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Bury, Death, Ledger
from leaseq._rules.moves import Fate

StrLedger = Ledger[str, str]
StrItem = Item[str, str]


class Graveyard:
    """Where the dead go, as long as it takes them."""

    def __init__(self, fate: Fate = "dead") -> None:
        self.fate = fate
        self.letters: list[tuple[str, str, str, str | None]] = []

    def __call__(self, death: Death[str, str]) -> Burial:
        letter = (death.item.key, death.value, death.reason, death.error)
        return Burial(self.fate, lambda: self.letters.append(letter))


def make_ledger(
    keys: str = "", *, first_token: int = 0, bury: Bury[str, str] | None = None, **options: Any
) -> StrLedger:
    """A ledger with an item for each letter."""
    ledger: StrLedger = Ledger(
        Item, LeasedKeyQueue(), first_token=first_token, bury=bury or Graveyard(), **options
    )
    for key in keys:
        put(ledger, key, f"{key}1")
    return ledger


def put(
    ledger: Ledger[Any, Any], key: Any, value: Any, now: float = 0, **options: Any
) -> PutOutcome:
    return ledger.put(key, value, now, PutRequest(**options))


def try_claim(
    ledger: Ledger[Any, Any],
    key: Any = ANY_KEY,
    deadline: float = inf,
    now: float = 0,
    **options: Any,
) -> Item[Any, Any] | None:
    timeout = None if deadline == inf else deadline - now
    return ledger.claim(ClaimRequest(key, lease_timeout=timeout, **options), now)


def claim(
    ledger: StrLedger,
    key: str | AnyKey = ANY_KEY,
    deadline: float = inf,
    now: float = 0,
    **options: Any,
) -> StrItem:
    item = try_claim(ledger, key, deadline, now, **options)
    assert item is not None
    return item


def claim_all(ledger: StrLedger, deadline: float = inf) -> list[StrItem]:
    return [claim(ledger, deadline=deadline) for _ in range(len(ledger.ready))]


def line(ledger: StrLedger) -> str:
    """The keys that are ready, as they would be handed out."""
    return "".join(item.key for item in ledger.items("ready"))


def leased(ledger: StrLedger) -> str:
    return "".join(ledger.leased)


def state(ledger: StrLedger) -> object:
    """All there is to see from outside."""
    return (
        [(item.key, item.value) for item in ledger.items("ready")],
        [(item.key, item.value, item.deadline) for item in ledger.items("delayed")],
        [(key, item.token, item.deadline, item.ended) for key, item in ledger.leased.items()],
        [ledger.look(key)[1] for key in "abc"],
        (ledger.added, ledger.delivered, ledger.buffered, ledger.acked, ledger.released),
        (ledger.expired, ledger.given_back, ledger.superseded, ledger.dropped, ledger.dead),
        ledger.next_deadline(),
    )


# The ways in which a lease can end. A timed one has the deadline 10.


def expire(ledger: StrLedger, item: StrItem) -> None:
    assert item in list(ledger.tick(10))


def expire_the_second_time(ledger: StrLedger, item: StrItem) -> None:
    ledger._timers_of(item).expiries = 1
    expire(ledger, item)


def give_back_the_second_time(ledger: StrLedger, item: StrItem) -> None:
    item._cancellations = 1
    ledger.give_back(item, 0)


ENDS: dict[str, Callable[[StrLedger, StrItem], object]] = {
    "ack": lambda ledger, item: ledger.ack(item),
    "release": lambda ledger, item: ledger.release(item, 0),
    "release to the front": lambda ledger, item: ledger.release(item, 0, front=True),
    "release uncounted": lambda ledger, item: ledger.release(item, 0, counted=False),
    "give back": lambda ledger, item: ledger.give_back(item, 0),
    "give back again": give_back_the_second_time,
    "expire": expire,
    "expire again": expire_the_second_time,
    "undo": lambda ledger, item: ledger.undo(item, 0),
    "close": lambda ledger, item: ledger.close(0),
}
RETURNS = [name for name in ENDS if name != "ack"]

SETTLE: dict[str, Callable[[StrLedger, StrItem, float], object]] = {
    "ack": lambda ledger, item, now: ledger.ack(item, now),
    "release": lambda ledger, item, now: ledger.release(item, now),
    "give back": lambda ledger, item, now: ledger.give_back(item, now),
    "extend": lambda ledger, item, now: ledger.extend(item, now, now + 10),
}


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
    assert try_claim(make_ledger()) is None


@pytest.mark.parametrize("key", ["a", "c"], ids=["leased", "absent"])
def test_a_key_that_is_not_ready_is_not_handed_out(key: str) -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    before = state(ledger)
    assert try_claim(ledger, key, 10) is None
    assert state(ledger) == before


def test_the_first_token_follows_the_one_that_the_ledger_starts_from() -> None:
    assert claim(make_ledger("a", first_token=1000)).token == 1001


@pytest.mark.parametrize("how", ENDS)
def test_a_later_token_of_a_key_is_greater_however_the_lease_before_it_ended(how: str) -> None:
    ledger = make_ledger("a")
    first = claim(ledger, deadline=10)
    ENDS[how](ledger, first)
    put(ledger, "a", "a2")
    assert claim(ledger).token == first.token + 1


def test_a_lease_has_the_item_and_how_often_it_was_delivered() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert (item.key, item.value, item.deliveries, item.cancellations) == ("a", "a1", 1, 0)
    assert item.ended is None
    ledger.release(item, 0)
    assert claim(ledger).deliveries == 2


def test_a_lease_without_a_deadline_never_expires() -> None:
    ledger = make_ledger("a")
    assert claim(ledger).deadline == inf
    assert ledger.next_deadline() == inf
    assert list(ledger.tick(1e12)) == []


def test_a_timed_lease_has_its_deadline() -> None:
    ledger = make_ledger("ab")
    assert claim(ledger, deadline=7).deadline == 7
    assert claim(ledger, deadline=5).deadline == 5
    assert ledger.next_deadline() == 5


def test_peek_tells_the_newest_value_and_none_of_an_absent_key() -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    assert [ledger.look(key)[1] for key in "abc"] == ["a1", "b1", None]


# Done


def test_an_acknowledged_key_is_absent() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert ledger.ack(item) is False
    assert item.ended == "acked"
    assert (line(ledger), leased(ledger), ledger.look("a")[1]) == ("", "", None)


def test_an_ack_drops_an_update_in_flight_and_says_so() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2")
    assert ledger.ack(item) is True
    assert ledger.look("a")[1] is None


def test_an_ack_lets_a_buffered_put_follow_and_drops_nothing() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight="buffer")
    assert ledger.ack(item) is False
    assert line(ledger) == "ba"


def test_a_key_that_was_acknowledged_can_be_put_again_with_fresh_counts() -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger), 0)
    ledger.ack(claim(ledger))
    assert put(ledger, "a", "a2") is PutOutcome.ADDED
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
        put(ledger, key, "1")
    ledger.undo(earlier, 0)
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
    "close": (3, 0),
}


@pytest.mark.parametrize("how", RETURNS)
def test_what_an_item_counts_when_its_lease_ends(how: str) -> None:
    ledger = make_ledger("a")
    for _ in range(2):
        ledger.release(claim(ledger), 0)
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
    put(ledger, "a", "a2")
    ledger.ack(claim(ledger))
    assert (item.value, item.ended, item.token, item.deadline) == ("a1", ended, 1, 10)
    assert (item.deliveries, item.cancellations) == (deliveries, cancellations)


@pytest.mark.parametrize("how", RETURNS)
def test_an_update_in_flight_returns_in_its_item_s_place(how: str) -> None:
    ledger = make_ledger("xbc")
    earlier, item, _ = (claim(ledger, deadline=when) for when in (inf, 10, inf))
    for key in "YZ":
        put(ledger, key, "1")
    ledger.undo(earlier, 0)
    put(ledger, "b", "b2")
    ENDS[how](ledger, item)
    assert line(ledger) == PLACES[how]
    assert claim(ledger, "b").value == "b2"
    assert ledger.superseded == 0


@pytest.mark.parametrize("how", ENDS)
def test_a_buffered_successor_is_a_new_item_at_the_back_however_the_lease_ended(how: str) -> None:
    ledger = make_ledger("ab")
    item = claim(ledger, deadline=10)
    put(ledger, "a", "a2", if_in_flight="buffer")
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
    put(ledger, "a", "a2", if_in_flight="buffer")
    ENDS[how](ledger, item)
    put(ledger, "b", "b1")
    ENDS[how](ledger, claim(ledger, "a", deadline=10))
    assert line(ledger) == "ab"


def test_an_item_that_expires_again_goes_to_the_back_also_after_a_release() -> None:
    ledger = make_ledger("ab")
    expire(ledger, claim(ledger, "a", deadline=10))
    ledger.release(claim(ledger, "a"), 0, front=True)
    expire(ledger, claim(ledger, "a", deadline=10))
    assert line(ledger) == "ba"


@pytest.mark.parametrize("how", ["release", "release to the front", "expire"])
def test_only_cancellations_in_a_row_send_an_item_to_the_back(how: str) -> None:
    ledger = make_ledger("ab")
    ledger.give_back(claim(ledger, "a"), 0)
    ENDS[how](ledger, claim(ledger, "a", deadline=10))
    ledger.give_back(claim(ledger, "a"), 0)
    assert line(ledger) == "ab"


@pytest.mark.parametrize("how", ["undo", "close"])
def test_an_end_that_is_nobody_s_fault_is_no_break_between_cancellations(how: str) -> None:
    ledger = make_ledger("ab")
    ledger.give_back(claim(ledger, "a"), 0)
    ENDS[how](ledger, claim(ledger, "a"))
    ledger.give_back(claim(ledger, "a"), 0)
    assert line(ledger) == "ba"


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_items_at_their_old_places_are_in_the_order_of_their_hand_outs(order: str) -> None:
    ledger = make_ledger("abcd")
    items = {key: claim(ledger, key) for key in "abc"}
    for key in order:
        ledger.undo(items[key], 0)
    assert line(ledger) == "abcd"


def test_an_item_at_its_old_place_goes_before_those_that_were_never_handed_out() -> None:
    ledger = make_ledger("abc")
    ledger.undo(claim(ledger, "c"), 0)
    assert line(ledger) == "cab"


def test_what_is_released_to_the_front_is_before_what_is_at_its_old_place() -> None:
    ledger = make_ledger("abc")
    first, second = claim(ledger), claim(ledger)
    ledger.undo(first, 0)
    ledger.release(second, 0, front=True)
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
    assert (
        str(caught.value) == "<Lease 'a' token=1 released> was released before: settle a lease once"
    )
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
    cause = "it expired 1 s ago. " if now == 11 else "it no longer holds its item"
    assert str(caught.value).startswith(f"<Lease 'a' token=1 lost> was lost: {cause}")
    assert state(ledger) == before


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize(
    ("now", "late"), [(10, "just now"), (10.25, "0.25 s ago"), (3610, "3600 s ago")]
)
def test_a_lease_is_lost_from_its_deadline_on_before_anybody_has_looked(
    settle: str, now: float, late: str
) -> None:
    ledger = make_ledger("a")
    item = claim(ledger, deadline=10)
    before = state(ledger)
    with pytest.raises(LeaseLostError) as caught:
        SETTLE[settle](ledger, item, now)
    assert str(caught.value) == (
        f"<Lease 'a' token=1 held> was lost: it expired {late}. Take a longer lease_timeout, "
        "or extend it in time: a pool does so with heartbeat=True"
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
    put(ledger, "a", "a2")
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
    assert list(ledger.tick(19)) == []
    assert list(ledger.tick(20)) == [item]


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
    assert list(ledger.tick(15)) == [item]


def test_a_lease_that_was_extended_back_and_forth_expires_once() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger, deadline=10)
    claim(ledger, deadline=50)
    for deadline in (20, 10, 20, 10):
        ledger.extend(item, 0, deadline)
    assert list(ledger.tick(30)) == [item]
    assert ledger.expired == 1


def test_leases_expire_in_the_order_of_their_deadlines() -> None:
    ledger = make_ledger("abc")
    three, one, two = (claim(ledger, deadline=when) for when in (3, 1, 2))
    assert list(ledger.tick(9)) == [one, two, three]
    assert leased(ledger) == ""


def test_what_expires_at_once_returns_in_the_order_of_the_hand_outs() -> None:
    ledger = make_ledger("abcd")
    for when in (3, 1, 2):
        claim(ledger, deadline=when)
    list(ledger.tick(9))
    assert line(ledger) == "abcd"


def test_a_lease_whose_deadline_is_to_come_does_not_expire() -> None:
    ledger = make_ledger("ab")
    due, _ = claim(ledger, deadline=1), claim(ledger, deadline=2)
    assert list(ledger.tick(1.5)) == [due]
    assert leased(ledger) == "b"
    assert ledger.next_deadline() == 2


def test_expiries_can_be_handled_one_at_a_time() -> None:
    ledger = make_ledger("abc")
    claim_all(ledger, deadline=1)
    first = next(ledger.tick(1))
    assert (first.key, first.ended) == ("a", "lost")
    assert (line(ledger), leased(ledger), ledger.expired) == ("a", "bc", 1)
    assert ledger.next_deadline() == 1
    assert [item.key for item in ledger.tick(1)] == ["b", "c"]


@pytest.mark.parametrize("how", [name for name in ENDS if "expire" not in name])
def test_a_lease_that_has_ended_does_not_expire(how: str) -> None:
    ledger = make_ledger("ab")
    item, other = claim(ledger, deadline=10), claim(ledger, deadline=20)
    ENDS[how](ledger, item)
    assert item not in list(ledger.tick(15))
    assert ledger.expired == 0
    assert ledger.next_deadline() == (inf if other.ended else 20)


# The end


def test_close_ends_every_lease_and_tells_which() -> None:
    ledger = make_ledger("abc")
    items = [claim(ledger), claim(ledger, deadline=10)]
    assert ledger.close(0) == items
    assert [item.ended for item in items] == ["lost", "lost"]
    assert (leased(ledger), ledger.next_deadline()) == ("", inf)


def test_close_leaves_all_that_is_left_in_its_old_order() -> None:
    ledger = make_ledger("abcdef")
    items = [claim(ledger) for _ in range(4)]
    ledger.undo(items[1], 0)
    ledger.close(0)
    assert line(ledger) == "abcdef"


def test_close_of_an_idle_ledger_does_nothing() -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    assert ledger.close(0) == []
    assert state(ledger) == before


def test_drain_gives_what_is_ready_in_the_order_of_the_line() -> None:
    ledger = make_ledger("abc")
    claim(ledger)
    put(ledger, "c", "c2")
    assert [(item.key, item.value) for item in ledger.drain()] == [("b", "b1"), ("c", "c2")]
    assert (line(ledger), leased(ledger), ledger.dropped) == ("", "a", 2)
    assert ledger.drain() == []


def test_a_lease_goes_on_after_a_drain() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    ledger.drain()
    ledger.release(item, 0)
    assert line(ledger) == "a"


def test_a_ledger_is_drained_when_nothing_is_ready_or_leased() -> None:
    ledger = make_ledger()
    assert ledger.drained
    put(ledger, "a", "a1")
    assert not ledger.drained
    item = claim(ledger)
    assert not ledger.drained
    put(ledger, "a", "a2", if_in_flight="buffer")
    ledger.ack(item)
    assert not ledger.drained
    ledger.ack(claim(ledger))
    assert ledger.drained


# The counters

COUNTERS = ("delivered", "acked", "released", "expired", "given_back")


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        ("ack", {"delivered": 1, "acked": 1}),
        ("release", {"delivered": 1, "released": 1}),
        ("release to the front", {"delivered": 1, "released": 1}),
        ("release uncounted", {"released": 1}),
        ("give back", {"given_back": 1}),
        ("give back again", {"given_back": 1}),
        ("expire", {"delivered": 1, "expired": 1}),
        ("expire again", {"delivered": 1, "expired": 1}),
        ("undo", {}),
        ("close", {"delivered": 0}),
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
    put(ledger, "b", "b2")
    put(ledger, "a", "a2")
    assert ledger.added == 2
    put(ledger, "a", "a3", if_in_flight="buffer")
    put(ledger, "a", "a4", if_in_flight="buffer")
    assert ledger.added == 3


# The retry policy


def rest() -> float:
    """What the first draw from the backoff is."""
    return Backoff(8.0, factor=1.0, seed=3).delay(1)


def with_backoff(keys: str, **options: Any) -> StrLedger:
    retry = Retry(backoff=Backoff(8.0, factor=1.0, seed=3), **options)
    return make_ledger(keys, retry=retry)


def test_a_failed_item_rests_as_long_as_the_backoff_says() -> None:
    ledger = with_backoff("ab")
    ledger.release(claim(ledger), 1)
    assert line(ledger) == "b"
    assert ledger.next_deadline() == 1 + rest()
    assert [item.key for item in ledger.tick(1 + rest())] == ["a"]
    assert line(ledger) == "ba"


@pytest.mark.parametrize("options", [{"front": True}, {"counted": False}, {"delay": 0.0}])
def test_a_release_that_is_no_failure_needs_no_rest(options: dict[str, Any]) -> None:
    ledger = with_backoff("a")
    ledger.release(claim(ledger), 1, **options)
    assert line(ledger) == "a"


def test_a_release_can_say_how_long_to_rest() -> None:
    ledger = with_backoff("a")
    ledger.release(claim(ledger), 1, delay=50)
    assert ledger.next_deadline() == 51


def test_a_lease_that_expires_needs_a_rest_from_the_second_time_on() -> None:
    ledger = with_backoff("ab")
    expire(ledger, claim(ledger, deadline=10))
    assert line(ledger) == "ab"
    claim(ledger, deadline=20, now=10)
    assert [item.key for item in ledger.tick(20)] == ["a"]
    assert line(ledger) == "b"
    assert ledger.next_deadline() == 20 + rest()


def test_a_cancelled_consumer_s_item_needs_no_rest() -> None:
    ledger = with_backoff("a")
    for _ in range(3):
        ledger.give_back(claim(ledger), 1)
    assert line(ledger) == "a"


def test_an_update_in_flight_rests_with_its_item() -> None:
    ledger = with_backoff("a")
    item = claim(ledger)
    put(ledger, "a", "a2")
    ledger.release(item, 1)
    assert ledger.look("a")[1] == "a2"
    assert list(ledger.delayed) == ["a"]


def test_a_successor_does_not_rest_for_its_predecessor_s_failure() -> None:
    ledger = with_backoff("a")
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight="buffer")
    ledger.release(item, 1)
    assert line(ledger) == "a"
    assert ledger.superseded == 1


# The dead

LAST: dict[str, Callable[[StrLedger, StrItem], object]] = {
    "release": lambda ledger, item: ledger.release(item, 0),
    "release to the front": lambda ledger, item: ledger.release(item, 0, front=True),
    "release with a delay": lambda ledger, item: ledger.release(item, 0, delay=5),
    "expire": expire,
    "expire again": expire_the_second_time,
}


@pytest.mark.parametrize("how", LAST)
def test_an_item_dies_of_its_last_delivery(how: str) -> None:
    graveyard = Graveyard()
    ledger = make_ledger("a", bury=graveyard, retry=Retry(max_deliveries=2))
    ledger.release(claim(ledger), 0)
    LAST[how](ledger, claim(ledger, deadline=10))
    assert graveyard.letters == [("a", "a1", "max_deliveries", None)]
    assert (ledger.dead, ledger.drained) == (1, True)


@pytest.mark.parametrize("how", ["release uncounted", "give back", "give back again", "undo"])
def test_a_hand_out_that_does_not_count_is_nobody_s_last(how: str) -> None:
    ledger = make_ledger("a", retry=Retry(max_deliveries=1))
    ENDS[how](ledger, claim(ledger))
    assert line(ledger) == "a"


def test_close_kills_nobody() -> None:
    ledger = make_ledger("a", retry=Retry(max_deliveries=1))
    claim(ledger)
    ledger.close(0)
    assert line(ledger) == "a"


def test_a_rejected_item_is_dead_whatever_its_deliveries() -> None:
    graveyard = Graveyard()
    ledger = make_ledger("a", bury=graveyard)
    item = claim(ledger, deadline=10)
    ledger.reject(item, 0, "bad", "its error")
    assert item.ended == "rejected"
    assert graveyard.letters == [("a", "a1", "bad", "its error")]
    assert (ledger.dead, ledger.released, ledger.next_deadline()) == (1, 0, inf)


def test_a_failed_item_dies_with_its_error() -> None:
    graveyard = Graveyard()
    ledger = make_ledger("a", bury=graveyard, retry=Retry(max_deliveries=1))
    ledger.release(claim(ledger), 0, error="ValueError: no")
    assert graveyard.letters == [("a", "a1", "max_deliveries", "ValueError: no")]


def test_a_dead_item_that_nobody_keeps_is_dropped() -> None:
    ledger = make_ledger("a", bury=Graveyard("dropped"))
    ledger.reject(claim(ledger), 0, "bad")
    assert (ledger.dead, ledger.dropped, ledger.drained) == (0, 1, True)


def test_an_item_dies_with_the_value_of_an_update_that_came_meanwhile() -> None:
    graveyard = Graveyard()
    ledger = make_ledger("a", bury=graveyard)
    item = claim(ledger)
    put(ledger, "a", "a2")
    ledger.reject(item, 0, "bad")
    assert graveyard.letters == [("a", "a2", "bad", None)]
    assert ledger.drained


def test_a_successor_outlives_the_dead() -> None:
    graveyard = Graveyard()
    ledger = make_ledger("a", bury=graveyard)
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight="buffer")
    ledger.reject(item, 0, "bad")
    assert graveyard.letters == [("a", "a1", "bad", None)]
    again = claim(ledger)
    assert (again.value, again.deliveries) == ("a2", 1)
    assert (ledger.dead, ledger.superseded, ledger.buffered) == (1, 0, 0)


@pytest.mark.parametrize(
    ("retry", "when"),
    [(Retry(1), 60.0), (Retry(1, Backoff(1.0, ceiling=7.0)), 7.0)],
    ids=["no backoff", "backoff"],
)
def test_an_item_that_nobody_buries_is_tried_again_later(retry: Retry, when: float) -> None:
    graveyard = Graveyard("kept")
    ledger = make_ledger("a", bury=graveyard, retry=retry)
    ledger.release(claim(ledger), 0)
    assert (ledger.dead, ledger.dropped, list(ledger.delayed)) == (0, 0, ["a"])
    assert [item.key for item in ledger.tick(when)] == ["a"]
    graveyard.fate = "dead"
    item = claim(ledger, now=when)
    assert item.deliveries == 2
    ledger.release(item, when)
    assert (ledger.dead, ledger.drained) == (1, True)


def test_an_item_past_its_time_to_live_that_nobody_buries_lives_on() -> None:
    ledger = make_ledger(bury=Graveyard("kept"))
    put(ledger, "a", "a1", ttl=3)
    list(ledger.tick(3))
    assert ledger.next_deadline() == 63
    list(ledger.tick(63))
    assert claim(ledger, now=99).key == "a"


def test_an_item_that_nobody_buries_gives_way_to_its_successor() -> None:
    ledger = make_ledger("a", bury=Graveyard("kept"))
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight="buffer")
    ledger.reject(item, 0, "bad")
    assert (line(ledger), ledger.look("a")[1], ledger.superseded) == ("a", "a2", 1)


# More of the end


def test_drain_gives_what_is_delayed_last_in_the_order_in_which_it_is_due() -> None:
    ledger = make_ledger("ab")
    for key, delay in zip("cde", (3, 1, 2), strict=True):
        put(ledger, key, "1", delay=delay)
    assert "".join(item.key for item in ledger.drain()) == "abdec"
    assert (ledger.dropped, ledger.drained, ledger.next_deadline()) == (5, True, inf)


def test_drain_leaves_nothing_of_any_tenant() -> None:
    ledger = make_ledger("a")
    put(ledger, "b", "b1", tenant="x")
    assert len(ledger.drain()) == 2
    assert ledger.schedule is not None
    assert [*ledger.schedule] == []


@pytest.mark.parametrize("tenant", [None, "x"])
def test_an_item_that_is_taken_out_is_done(tenant: str | None) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", tenant=tenant, ttl=5)
    assert ledger.take_out("a").value == "a1"
    assert (ledger.acked, ledger.drained, ledger.next_deadline()) == (1, True, inf)


def test_close_lets_successors_follow_in_the_order_of_the_hand_outs() -> None:
    ledger = make_ledger("abc")
    for item in (claim(ledger), claim(ledger)):
        put(ledger, item.key, "2", if_in_flight="buffer")
    ledger.close(0)
    assert line(ledger) == "cab"


# The short way


def test_the_short_way_hands_out_the_same_as_the_long_one() -> None:
    ledger = make_ledger("ab")
    put(ledger, "c", "c1", priority=5)
    item = ledger.claim_next(1, 4)
    assert item is not None
    assert (item.key, item.since, item.deadline, item.deliveries) == ("c", 1, 4, 1)
    assert ledger.next_deadline() == 4
    assert leased(ledger) == "c"


def test_the_short_way_leaves_out_what_needs_a_look_at_the_clock() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", ttl=5)
    put(ledger, "b", "b1")
    before = state(ledger)
    assert ledger.claim_next(1) is None
    assert state(ledger) == before
    put(ledger, "a", "a2", tenant=None, priority=5)
    assert ledger.claim_next(1) is None
    assert claim(ledger, now=1).key == "a"


def test_the_short_way_leaves_out_those_that_came_back() -> None:
    ledger = make_ledger("ab")
    ledger.undo(claim(ledger, "b"), 0)
    assert ledger.claim_next() is None
    assert claim(ledger).key == "b"


@pytest.mark.parametrize("tenant", [None, "x"])
def test_the_short_way_from_an_empty_line_leads_nowhere(tenant: str | None) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", tenant=tenant)
    ledger.ack(claim(ledger))
    assert ledger.claim_next() is None


def test_a_lease_without_a_timekeeper_does_not_say_since_when_it_is_held() -> None:
    ledger = make_ledger("a")
    item = ledger.claim_next()
    assert item is not None
    assert item.since is None


def test_a_lease_says_who_has_it() -> None:
    ledger = make_ledger("a")
    item = claim(ledger, consumer="worker 1")
    assert item._timers is not None
    assert item._timers.consumer == "worker 1"
    ledger.release(item, 0)
    assert claim(ledger)._timers is None


# Nobody starves


def hand_outs(ledger: StrLedger, work: Callable[[StrItem, float], object], items: int) -> list[str]:
    """The keys of so many hand-outs, one a second, each worked on at once."""
    keys = []
    for now in range(items):
        list(ledger.tick(now))
        item = try_claim(ledger, now=now)
        if item is not None:
            keys.append(item.key)
            work(item, now)
    return keys


@pytest.mark.parametrize("backoff", [None, Backoff(4.0, factor=1.0, seed=1)])
def test_what_fails_for_ever_does_not_keep_others_from_their_turn(backoff: Backoff | None) -> None:
    ledger = make_ledger("ab", retry=Retry(backoff=backoff))

    def fail(item: StrItem, now: float) -> None:
        ledger.release(item, now)
        put(ledger, f"new{now}", "1", now=now)

    keys = hand_outs(ledger, fail, 60)
    assert {"a", "b"} <= {*keys}
    assert len({*keys}) >= 20
    assert max(keys.count(key) for key in keys) <= 20


def test_what_fails_gets_its_turn_among_ever_more_that_is_fresh() -> None:
    ledger = make_ledger("a", retry=Retry(backoff=Backoff(4.0, factor=1.0, seed=1)))

    def work(item: StrItem, now: float) -> None:
        ledger.release(item, now) if item.key == "a" else ledger.ack(item, now)
        put(ledger, f"new{now}", "1", now=now)

    assert hand_outs(ledger, work, 100).count("a") >= 10


def test_what_expires_for_ever_is_at_the_head_of_the_line_once() -> None:
    ledger = make_ledger("abcd")
    keys = []
    for now in range(8):
        item = claim(ledger, deadline=now + 1, now=now)
        keys.append(item.key)
        if item.key != "a":
            ledger.ack(item, now)
        list(ledger.tick(now + 1))
    assert keys == ["a", "a", "b", "c", "d", "a", "a", "a"]


def test_what_falls_due_does_not_pass_what_is_ready() -> None:
    ledger = make_ledger("a")
    for number in range(10):
        put(ledger, str(number), "1", delay=number)
    assert "".join(hand_outs(ledger, ledger.ack, 20)) == "a0123456789"


def test_a_key_that_is_updated_for_ever_is_delivered() -> None:
    ledger = make_ledger("abc")
    keys = []
    for now in range(6):
        put(ledger, "b", str(now), now=now, delay=5)
        if (item := try_claim(ledger, now=now)) is not None:
            keys.append(item.key)
            ledger.ack(item, now)
    assert keys[:3] == ["a", "b", "c"]


def test_a_delayed_key_that_is_updated_for_ever_is_delivered_when_it_was_first_due() -> None:
    ledger = make_ledger()
    for now in range(10):
        put(ledger, "a", str(now), now=now, delay=5)
        list(ledger.tick(now))
        if ledger.ready:
            break
    assert claim(ledger, now=now).value == "5"
