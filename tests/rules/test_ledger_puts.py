from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from leaseq import KeyAlreadyInFlightError, LeasedKeyQueue, PutOutcome, Tenant
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


def check_put(ledger: StrLedger, key: Any, **options: Any) -> None:
    ledger.check_put(key, PutRequest(**options))


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


# Putting


def test_a_new_key_joins_the_back_of_the_line() -> None:
    ledger = make_ledger("ab")
    assert put(ledger, "c", "c1") is PutOutcome.ADDED
    assert line(ledger) == "abc"


def test_a_key_that_is_ready_keeps_its_place_and_gets_the_new_value() -> None:
    ledger = make_ledger("abc")
    assert put(ledger, "b", "b2") is PutOutcome.REPLACED
    assert line(ledger) == "abc"
    assert claim(ledger, "b").value == "b2"


@pytest.mark.parametrize("policy", ["update", "reject", "buffer"])
def test_the_policy_is_of_no_matter_for_a_key_that_is_not_leased(policy: Any) -> None:
    ledger = make_ledger("a")
    assert put(ledger, "a", "a2", if_in_flight=policy) is PutOutcome.REPLACED
    assert put(ledger, "b", "b1", if_in_flight=policy) is PutOutcome.ADDED
    assert ledger.buffered == 0


def test_a_replaced_value_leaves_the_counts_of_its_item() -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger), 0)
    ledger.give_back(claim(ledger), 0)
    put(ledger, "a", "a2")
    item = claim(ledger)
    assert (item.value, item.deliveries, item.cancellations) == ("a2", 2, 1)


def test_a_replaced_value_leaves_an_item_at_its_old_place() -> None:
    ledger = make_ledger("abc")
    for item in claim_all(ledger)[:2]:
        ledger.give_back(item, 0)
    put(ledger, "a", "a2")
    assert line(ledger) == "ab"


def test_an_update_in_flight_leaves_the_value_that_was_handed_out() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert put(ledger, "a", "a2") is PutOutcome.UPDATED_IN_FLIGHT
    assert item.value == "a1"
    assert ledger.look("a")[1] == "a2"
    assert ledger.buffered == 0


def test_the_latest_update_in_flight_wins() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2")
    assert put(ledger, "a", "a3") is PutOutcome.UPDATED_IN_FLIGHT
    ledger.release(item, 0)
    assert claim(ledger).value == "a3"


def test_a_buffered_put_waits_for_the_end_of_the_lease() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    assert put(ledger, "a", "a2", if_in_flight="buffer") is PutOutcome.BUFFERED
    assert item.value == "a1"
    assert ledger.look("a")[1] == "a2"
    assert try_claim(ledger, "a") is None
    assert ledger.buffered == 1


@pytest.mark.parametrize("policy", ["update", "buffer"])
def test_a_key_has_one_successor_the_latest(policy: Any) -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight="buffer")
    assert put(ledger, "a", "a3", if_in_flight=policy) is PutOutcome.BUFFERED
    assert ledger.buffered == 1
    ledger.ack(item)
    assert [item.value for item in ledger.items("ready")] == ["a3"]


def test_a_buffered_put_takes_the_place_of_an_update() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2")
    assert put(ledger, "a", "a3", if_in_flight="buffer") is PutOutcome.BUFFERED
    assert ledger.buffered == 1
    assert ledger.ack(item) is False
    assert claim(ledger).value == "a3"


@pytest.mark.parametrize("policy", [None, "update", "buffer"])
def test_a_put_that_rejects_is_refused_while_its_key_is_leased(policy: Any) -> None:
    ledger = make_ledger("a")
    claim(ledger)
    if policy is not None:
        put(ledger, "a", "a2", if_in_flight=policy)
    before = state(ledger)
    with pytest.raises(KeyAlreadyInFlightError) as caught:
        put(ledger, "a", "a3", if_in_flight="reject")
    assert str(caught.value) == (
        "key 'a' is leased: wait until it is settled, or put it with if_in_flight=\"buffer\""
    )
    assert state(ledger) == before


@pytest.mark.parametrize("call", [put, check_put, Ledger.add], ids=["put", "check", "add"])
def test_a_key_that_is_not_hashable_is_refused(call: Callable[..., object]) -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    with pytest.raises(TypeError) as caught:
        call(ledger, ["a"], *(() if call is check_put else ("a1",)))
    assert str(caught.value) == "a key must be hashable, and 'list' is not: ['a']"
    assert state(ledger) == before


class Odd:
    """A key that can be hashed, and not compared."""

    def __hash__(self) -> int:
        return hash("a")

    def __eq__(self, other: object) -> bool:
        raise TypeError("odd")


def test_an_error_of_the_key_s_own_goes_on() -> None:
    with pytest.raises(TypeError, match="odd"):
        make_ledger("a").add(Odd(), "a1")  # type: ignore[arg-type]


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
        check_put(ledger, key, if_in_flight=policy)
    with pytest.raises(error) as made:
        put(ledger, key, "2", if_in_flight=policy)
    assert str(checked.value) == str(made.value)


def test_a_put_that_was_only_checked_was_not_made() -> None:
    ledger = make_ledger("a")
    before = state(ledger)
    check_put(ledger, "b")
    check_put(ledger, "a")
    assert state(ledger) == before


def test_a_key_can_be_added_with_a_tenant_and_a_priority() -> None:
    ledger = make_ledger("a")
    assert ledger.add("b", "b1", 0, priority=5)
    assert ledger.add("c", "c1", 0, tenant="x", priority=3)
    assert not ledger.add("c", "c2", 0, tenant="y")
    assert ledger.add("d", "d1", 0, tenant="x")
    items = {item.key: item for item in (claim(ledger) for _ in "abcd")}
    assert [(items[key].tenant, items[key].priority) for key in "abcd"] == [
        (None, 3),
        (None, 5),
        ("x", 3),
        ("x", 3),
    ]
    assert list(items).index("b") < list(items).index("a")


@pytest.mark.parametrize("priority", [3, None])
def test_a_key_that_is_added_with_what_is_usual_makes_no_schedule(priority: int | None) -> None:
    ledger = make_ledger()
    assert ledger.add("a", "a1", 0, priority=priority)
    assert ledger.schedule is None


# Delay


def due(ledger: StrLedger, now: float) -> str:
    """The keys to which something is done now."""
    return "".join(item.key for item in ledger.tick(now))


def test_a_delayed_key_is_there_but_nobody_gets_it() -> None:
    ledger = make_ledger()
    assert put(ledger, "a", "a1", delay=5) is PutOutcome.ADDED
    assert try_claim(ledger, now=4.9) is None
    assert try_claim(ledger, "a", now=4.9) is None
    assert "a" in ledger
    assert not ledger.claimable("a")
    assert not ledger.drained
    assert (ledger.look("a")[1], ledger.waiting, list(ledger.delayed)) == ("a1", 1, ["a"])


def test_a_delayed_key_is_ready_at_the_back_when_it_is_due() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=5)
    put(ledger, "b", "b1", now=1)
    assert ledger.next_deadline() == 5
    assert due(ledger, 4.9) == ""
    assert due(ledger, 5) == "a"
    assert line(ledger) == "ba"
    assert ledger.next_deadline() == inf


def test_delayed_keys_become_ready_in_the_order_in_which_they_are_due() -> None:
    ledger = make_ledger()
    for key, delay in zip("abc", (3, 1, 2), strict=True):
        put(ledger, key, "1", delay=delay)
    assert due(ledger, 9) == line(ledger) == "bca"


def test_a_delayed_key_cannot_be_added() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=5)
    assert ledger.add("a", "a2") is False


@pytest.mark.parametrize(
    ("reschedule", "delay", "when"),
    [("earliest", 9, 5), ("earliest", 1, 3), ("latest", 9, 11), ("latest", 1, 3)],
)
def test_when_a_delayed_key_that_is_put_again_is_due(
    reschedule: Any, delay: float, when: float
) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=5)
    assert put(ledger, "a", "a2", now=2, delay=delay, reschedule=reschedule) is PutOutcome.REPLACED
    assert ledger.next_deadline() == when
    assert due(ledger, when) == "a"
    assert claim(ledger).value == "a2"


@pytest.mark.parametrize("reschedule", ["earliest", "latest"])
def test_a_delayed_key_that_is_put_without_a_delay_is_ready(reschedule: Any) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=5)
    put(ledger, "a", "a2", now=1, reschedule=reschedule)
    assert line(ledger) == "a"
    assert ledger.next_deadline() == inf


def test_a_key_that_was_brought_forward_stays_ready_when_it_is_put_again() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=100)
    put(ledger, "a", "a2", now=1)
    put(ledger, "a", "a3", now=2)
    assert line(ledger) == "a"


def test_a_ready_key_that_is_put_with_a_delay_stays_ready() -> None:
    ledger = make_ledger("ab")
    put(ledger, "a", "a2", delay=5)
    assert line(ledger) == "ab"


def test_a_ready_key_can_be_put_off() -> None:
    ledger = make_ledger("ab")
    put(ledger, "a", "a2", delay=5, reschedule="latest")
    assert line(ledger) == "b"
    assert due(ledger, 5) == "a"
    assert line(ledger) == "ba"


def test_a_key_that_is_put_off_for_ever_is_never_due() -> None:
    ledger = make_ledger("a")
    for now in range(100):
        put(ledger, "a", str(now), now=now, delay=5, reschedule="latest")
    assert ledger.next_deadline() == 104


@pytest.mark.parametrize("reschedule", ["earliest", "latest"])
@pytest.mark.parametrize("delay", [0, 1])
def test_no_put_makes_a_key_due_before_its_rest_is_over(reschedule: Any, delay: float) -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger), 0, delay=10)
    put(ledger, "a", "a2", now=1, delay=delay, reschedule=reschedule)
    assert ledger.next_deadline() == 10
    assert due(ledger, 10) == "a"
    assert claim(ledger, now=10).value == "a2"


def test_a_debounce_can_put_a_key_off_beyond_its_rest() -> None:
    ledger = make_ledger("a")
    ledger.release(claim(ledger), 0, delay=10)
    put(ledger, "a", "a2", now=1, delay=20, reschedule="latest")
    assert ledger.next_deadline() == 21


# Time to live


@pytest.mark.parametrize("delay", [0, 2])
def test_an_item_that_has_lived_too_long_is_a_dead_letter_at_the_next_tick(delay: float) -> None:
    graveyard = Graveyard()
    ledger = make_ledger("b", bury=graveyard)
    put(ledger, "a", "a1", delay=delay, ttl=3)
    due(ledger, 2.9)
    assert line(ledger) == "ba"
    assert due(ledger, 3) == "a"
    assert line(ledger) == "b"
    assert graveyard.letters == [("a", "a1", "expired", None)]
    assert (ledger.dead, ledger.expired, ledger.added) == (1, 0, 2)


def test_an_item_whose_tick_is_late_is_dead_and_never_ready() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", delay=2, ttl=3)
    assert due(ledger, 9) == "a"
    assert ledger.drained
    assert ledger.dead == 1


@pytest.mark.parametrize("key", [ANY_KEY, "a"])
def test_an_item_that_has_lived_too_long_is_not_handed_out_before_the_tick(key: Any) -> None:
    graveyard = Graveyard()
    ledger = make_ledger(bury=graveyard)
    put(ledger, "a", "a1", ttl=3)
    assert ledger.claim_next() is None
    assert try_claim(ledger, key, now=3) is None
    assert graveyard.letters == [("a", "a1", "expired", None)]
    assert ledger.next_deadline() == inf


def test_those_that_have_lived_too_long_are_passed_over_at_the_claim() -> None:
    ledger = make_ledger()
    for key in "ab":
        put(ledger, key, "1", ttl=3)
    put(ledger, "c", "1")
    assert claim(ledger, now=3).key == "c"
    assert ledger.dead == 2


def test_an_item_that_was_leased_in_time_lives_on() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", ttl=3)
    item = claim(ledger, now=2.9)
    assert ledger.next_deadline() == inf
    ledger.release(item, 5)
    assert due(ledger, 99) == ""
    assert line(ledger) == "a"


def test_an_item_whose_hand_out_was_undone_lives_no_longer_for_it() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", ttl=3)
    ledger.undo(claim(ledger, now=2), 2)
    assert ledger.next_deadline() == 3
    assert due(ledger, 3) == "a"
    assert ledger.dead == 1


@pytest.mark.parametrize("delay", [0, 1])
def test_a_time_to_live_starts_anew_if_it_is_given_again(delay: float) -> None:
    ledger = make_ledger("b")
    put(ledger, "a", "a1", delay=delay, ttl=3)
    due(ledger, 1)
    put(ledger, "a", "a2", now=2, ttl=3)
    assert line(ledger) == "ba"
    assert ledger.next_deadline() == 5


def test_a_time_to_live_stays_if_it_is_not_given_again() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", ttl=3)
    put(ledger, "a", "a2", now=2)
    assert ledger.next_deadline() == 3


def test_a_key_that_is_put_off_keeps_its_time_to_live() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", ttl=3)
    put(ledger, "a", "a2", now=1, delay=9, reschedule="latest")
    assert due(ledger, 3) == "a"
    assert ledger.dead == 1


# Priorities and tenants


def order(ledger: StrLedger) -> str:
    """The keys in the order in which they are handed out, until none is ready."""
    keys = ""
    while (item := try_claim(ledger)) is not None:
        keys += item.key
    return keys


def test_a_higher_priority_is_handed_out_first() -> None:
    ledger = make_ledger("ab")
    for key, priority in zip("cdef", (1, 5, 4, 5), strict=True):
        put(ledger, key, "1", priority=priority)
    assert order(ledger) == "dfeabc"


def test_a_higher_priority_moves_a_ready_key_to_the_back_of_that_one_s_line() -> None:
    ledger = make_ledger("ab")
    put(ledger, "c", "c1", priority=5)
    put(ledger, "a", "a2", priority=5)
    assert order(ledger) == "cab"


@pytest.mark.parametrize("priority", [None, 1, 3])
def test_a_lower_priority_or_none_changes_nothing(priority: int | None) -> None:
    ledger = make_ledger("ab")
    put(ledger, "a", "a2", priority=priority)
    put(ledger, "c", "c1", priority=2)
    assert order(ledger) == "abc"


def test_a_delayed_key_gets_a_higher_priority_when_it_is_due() -> None:
    ledger = make_ledger("ab")
    put(ledger, "c", "c1", delay=5)
    put(ledger, "c", "c2", delay=5, priority=4)
    due(ledger, 5)
    assert order(ledger) == "cab"


def test_a_line_that_becomes_one_of_several_keeps_its_order() -> None:
    ledger = make_ledger("abcd")
    first, second, third = (claim(ledger) for _ in range(3))
    ledger.release(second, 0, front=True)
    ledger.undo(first, 0)
    put(ledger, "e", "e1", priority=1)
    ledger.undo(third, 0)
    assert order(ledger) == "bacde"


@pytest.mark.parametrize("policy", ["update", "buffer"])
def test_a_higher_priority_given_while_a_key_is_leased_holds_when_it_is_ready_again(
    policy: Any,
) -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    put(ledger, "a", "a2", if_in_flight=policy, priority=5)
    put(ledger, "a", "a3", if_in_flight=policy, priority=1)
    assert item.priority == 3
    ledger.release(item, 0)
    again = claim(ledger)
    assert (again.key, again.value, again.priority) == ("a", "a3", 5)


@pytest.mark.parametrize("where", ["ready", "delayed", "leased"])
@pytest.mark.parametrize("there", ["x", None])
def test_another_tenant_is_refused_for_a_key_that_is_there(where: str, there: str | None) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", tenant=there, delay=5 if where == "delayed" else 0)
    if where == "leased":
        claim(ledger)
    before = state(ledger)
    with pytest.raises(ValueError, match="tenant") as caught:
        put(ledger, "a", "a2", tenant="y")
    assert str(caught.value) == (
        f"key 'a' belongs to the tenant {there!r}: leave tenant= out, "
        "or put the item for 'y' under another key"
    )
    assert state(ledger) == before


@pytest.mark.parametrize("tenant", [None, "x"])
def test_a_key_that_is_there_keeps_its_tenant(tenant: str | None) -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", tenant="x")
    assert put(ledger, "a", "a2", tenant=tenant) is PutOutcome.REPLACED
    assert claim(ledger).tenant == "x"


def test_a_key_that_is_gone_can_be_another_tenant_s() -> None:
    ledger = make_ledger()
    put(ledger, "a", "a1", tenant="x")
    ledger.ack(claim(ledger))
    put(ledger, "a", "a2", tenant="y")
    assert claim(ledger).tenant == "y"


def test_a_tenant_can_be_given_a_cap_before_there_are_any() -> None:
    ledger = make_ledger("ab")
    claim(ledger)
    ledger.set_tenant("x", Tenant(max_in_flight=1))
    for key in "cd":
        put(ledger, key, "1", tenant="x")
    assert order(ledger) in ("bc", "cb")
    assert not ledger.claimable("d")


@pytest.mark.parametrize("tenant", [None, "x"])
def test_a_consumer_of_some_tenants_gets_theirs_only(tenant: str | None) -> None:
    ledger = make_ledger("a")
    assert try_claim(ledger, tenants=["x"]) is None
    put(ledger, "b", "b1", tenant="x")
    item = claim(ledger, tenants=[tenant])
    assert item.tenant == tenant
    assert try_claim(ledger, tenants=[tenant]) is None


def test_a_consumer_of_nobody_s_items_gets_them_while_there_are_no_tenants() -> None:
    assert claim(make_ledger("a"), tenants=[None]).key == "a"


def test_a_consumer_steals_when_its_own_tenants_have_nothing_to_claim() -> None:
    ledger = make_ledger(tenants={"x": Tenant(max_in_flight=1)})
    for key, tenant in zip("abc", "yxx", strict=True):
        put(ledger, key, "1", tenant=tenant)
    options = {"tenants": ["x"], "steal_from": ["y"]}
    assert [claim(ledger, **options).key for _ in range(2)] == ["b", "a"]
    assert try_claim(ledger, **options) is None


# Successors


def test_a_successor_s_delay_runs_from_its_put() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2", now=1, if_in_flight="buffer", delay=5)
    ledger.ack(item, 2)
    assert list(ledger.delayed) == ["a"]
    assert due(ledger, 6) == "a"
    assert line(ledger) == "a"


@pytest.mark.parametrize(("reschedule", "when"), [("earliest", 6), ("latest", 12)])
def test_when_a_successor_that_is_put_again_is_due(reschedule: Any, when: float) -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2", now=1, if_in_flight="buffer", delay=5)
    put(ledger, "a", "a3", now=2, delay=10, reschedule=reschedule)
    ledger.ack(item, 3)
    assert ledger.next_deadline() == when


def test_a_successor_that_is_overdue_is_ready_at_once() -> None:
    ledger = make_ledger("ab")
    item = claim(ledger)
    put(ledger, "a", "a2", now=1, if_in_flight="buffer", delay=5)
    ledger.ack(item, 7)
    assert line(ledger) == "ba"


def test_a_successor_s_time_to_live_runs_from_its_put() -> None:
    ledger = make_ledger("a")
    item = claim(ledger)
    put(ledger, "a", "a2", now=1, if_in_flight="buffer", ttl=5)
    ledger.ack(item, 2)
    assert ledger.next_deadline() == 6
    assert try_claim(ledger, now=6) is None
    assert ledger.dead == 1


# How long they have been ready


def test_the_oldest_of_the_ready_is_the_one_that_has_been_ready_for_longest() -> None:
    ledger = make_ledger()
    assert ledger.oldest_ready_since() is None
    put(ledger, "a", "a1", now=1)
    put(ledger, "b", "b1", now=2)
    assert ledger.oldest_ready_since() == 1
    ledger.undo(claim(ledger, now=3), 3)
    assert ledger.oldest_ready_since() == 2


def test_the_oldest_of_the_ready_is_known_also_after_there_are_tenants() -> None:
    ledger = make_ledger("ab")
    ledger.undo(claim(ledger), 5)
    put(ledger, "c", "c1", now=6, tenant="x")
    assert ledger.oldest_ready_since() == 0


def test_nobody_knows_since_when_an_item_is_ready_that_was_added_without_the_time() -> None:
    ledger = make_ledger()
    ledger.add("a", "a1")
    assert ledger.oldest_ready_since() is None
