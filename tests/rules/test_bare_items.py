"""Items that wait are bare, nobody can tell, and no key or value is taken for another one."""

import gc
from enum import StrEnum
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaseq import InvalidLeaseError, Lease, LeasedKeyQueue, PutOutcome, Tenant
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Ledger

AnyLedger = Ledger[Any, Any]


def make_ledger() -> AnyLedger:
    return Ledger(Item, LeasedKeyQueue(), first_token=0, bury=lambda _: Burial("dropped"))


def put(ledger: AnyLedger, key: Any, value: Any, now: float = 0, **options: Any) -> PutOutcome:
    return ledger.put(key, value, now, PutRequest(**options))


def claim(ledger: AnyLedger, key: Any = ANY_KEY, now: float = 0) -> Item[Any, Any] | None:
    return ledger.claim(ClaimRequest(key), now)


def claim_shortly(ledger: AnyLedger) -> Item[Any, Any] | None:
    """As the queue does it: the short way, and if there is none, the other one."""
    return ledger.claim_next(0) or claim(ledger)


def all_claimed(ledger: AnyLedger) -> list[tuple[Any, Any]]:
    pairs = []
    while (item := claim_shortly(ledger)) is not None:
        pairs.append((item.key, item.value))
    return pairs


# What it is for


def tracked_by_the_collector(ledger: AnyLedger, **options: Any) -> int:
    """How many more objects the collector has to follow when 10,000 items wait."""
    gc.collect()
    before = len(gc.get_objects())
    for key in range(10_000):
        if options:
            put(ledger, key, "value", **options)
        else:
            ledger.add(key, "value", 0.0)
    gc.collect()
    return len(gc.get_objects()) - before


@pytest.mark.parametrize("options", [{}, {"delay": 5.0}, {"if_in_flight": "buffer"}], ids=str)
def test_items_that_wait_are_nothing_to_the_garbage_collector(options: dict[str, Any]) -> None:
    assert tracked_by_the_collector(make_ledger(), **options) < 100


def test_items_that_were_put_again_or_have_fallen_due_are_nothing_to_it_either() -> None:
    ledger = make_ledger()
    terms = PutRequest(delay=5.0, reschedule="latest")
    gc.collect()
    before = len(gc.get_objects())
    for now in range(3):
        for key in range(10_000):
            ledger.put(key, "value", now, terms)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert len(list(ledger.tick(7.0))) == len(ledger.ready) == 10_000
    for key in range(10_000):
        put(ledger, key, "another value", 7.0)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert all_claimed(ledger) == [(key, "another value") for key in range(10_000)]


def test_a_delayed_item_that_is_put_again_and_again_leaves_little_behind() -> None:
    ledger = make_ledger()
    put(ledger, "first", "value", delay=10**6)
    for now in range(10_000):
        put(ledger, "a", now, now, delay=5.0, reschedule="latest")
    assert len(ledger._deadlines) == 2
    assert len(ledger._deadlines._entries) <= 64
    assert ledger.next_deadline() == 10_004


@pytest.mark.parametrize("clock", [0.0, None], ids=["a clock", "no clock any more"])
def test_the_times_of_items_that_have_left_are_forgotten(clock: float | None) -> None:
    ledger = make_ledger()
    ledger.add("first", 1, 0.0)
    for key in range(10_000):
        ledger.add(key, 1, clock)
        item = ledger.claim_next(clock)
        assert item is not None
        ledger.ack(item, 0.0)
    assert ledger.line is not None
    assert len(ledger.line.times) < 2_000


def test_a_queue_that_was_long_gives_back_what_that_has_taken() -> None:
    ledger = make_ledger()
    for key in range(50_000):
        ledger.add(key, key, 0.0)
    ledger.add(object(), "last", 0.0)
    size = ledger.ready.__sizeof__()
    while len(ledger.ready) > 10:
        assert ledger.claim_next(0.0) is not None
    assert ledger.ready.__sizeof__() < size / 10
    assert ledger.line is not None
    assert len(ledger.line.times) < 2_000
    assert [value for _, value in all_claimed(ledger)] == [*range(49_991, 50_000), "last"]


# Values


def lease() -> Lease[str, str]:
    return Item(LeasedKeyQueue(), "key of the value", "value of the value")


@pytest.mark.parametrize("value", [None, 0, "", False, NotImplemented, Ellipsis, lease(), Item])
@pytest.mark.parametrize("options", [{}, {"delay": 5.0}, {"priority": 5}, {"ttl": 9.0}], ids=str)
def test_a_value_can_be_anything_a_lease_too(value: object, options: dict[str, Any]) -> None:
    ledger = make_ledger()
    put(ledger, "a", "x", **options)
    assert put(ledger, "a", value, **options) is PutOutcome.REPLACED
    put(ledger, "b", value, **options)
    ledger.add("c", value, 0.0)
    assert [ledger.look(key)[1] for key in "abc"] == [value] * 3
    assert list(ledger.values()) == [value] * 3
    list(ledger.tick(5.0))
    assert sorted(all_claimed(ledger), key=lambda pair: pair[0]) == [(key, value) for key in "abc"]
    assert sorted(ledger.leased) == ["a", "b", "c"]
    assert all(item.value is value for item in ledger.leased.values())


def test_a_lease_as_a_value_can_be_replaced_by_another_value_and_the_other_way_round() -> None:
    ledger = make_ledger()
    first, second = lease(), lease()
    for value in (first, "x", second, "y", first):
        put(ledger, "a", value)
        assert ledger.look("a") == ("ready", value)
    assert all_claimed(ledger) == [("a", first)]


def test_a_lease_can_be_a_key() -> None:
    ledger = make_ledger()
    key = lease()
    ledger.add(key, "x", 0.0)
    ledger.add("a", "y", 0.0)
    assert not ledger.add(key, "z", 0.0)
    assert all_claimed(ledger) == [(key, "x"), ("a", "y")]


# Keys that are equal to plain ones


class Colour(StrEnum):
    RED = "red"


EQUALS: list[tuple[Any, Any]] = [(1, True), (1, 1.0), ("red", Colour.RED), (b"x", memoryview(b"x"))]


@pytest.mark.parametrize("delay", [0.0, 5.0])
@pytest.mark.parametrize(("plain", "equal"), [*EQUALS, *((b, a) for a, b in EQUALS)])
def test_a_key_that_is_equal_to_a_plain_one_is_the_same_key(
    plain: Any, equal: Any, delay: float
) -> None:
    ledger = make_ledger()
    put(ledger, "before", 1, delay=delay)
    put(ledger, plain, 2, delay=delay)
    put(ledger, "after", 3, delay=delay)
    assert put(ledger, equal, 4, delay=delay) is PutOutcome.REPLACED
    assert put(ledger, equal, 5, priority=1, ttl=9.0, delay=delay) is PutOutcome.REPLACED
    assert ledger.look(equal)[1] == ledger.look(plain)[1] == 5
    assert ledger.waiting == 3
    list(ledger.tick(5.0))
    item = claim(ledger, equal, 5.0)
    assert item is not None
    assert item.value == 5
    assert ledger.waiting == 2
    ledger.ack(item, 5.0)
    assert not ledger.add("after", 6, 5.0)
    assert all_claimed(ledger) == [("before", 1), ("after", 3)]
    assert put(ledger, plain, 7, delay=delay) is PutOutcome.ADDED
    dropped = ledger.discard(equal)
    assert dropped is not None
    assert ledger.drained is False
    assert ledger.waiting == 0


class Counted(str):
    """A string that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_key_that_is_equal_to_a_plain_one_is_found_without_a_search(delay: float) -> None:
    ledger = make_ledger()
    for number in range(1000):
        put(ledger, str(number), number, delay=delay)
    Counted.compared = 0
    dropped = ledger.discard(Counted("999"))
    assert dropped is not None
    assert dropped.value == 999
    assert Counted.compared < 20


class Page:
    """A key that gets in the way of a plain one: by its hash, and then by its equality."""

    def __init__(self, other: object) -> None:
        self.takes_the_place_of(other)
        self.says = "nothing"

    def takes_the_place_of(self, other: object) -> None:
        self._hash = hash(other)

    def __hash__(self) -> int:
        if self.says == "no hash":
            raise RuntimeError("cannot be hashed")
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self.says == "raise":
            raise RuntimeError("cannot be compared")
        return self is other or self.says == "equal"


@pytest.mark.parametrize("says", ["raise", "equal"])
@pytest.mark.parametrize("delay", [0.0, 5.0])
@pytest.mark.parametrize("how", [claim_shortly, claim, "drain", "schedule", "look"])
def test_a_key_that_gets_in_the_way_of_a_plain_one_loses_nothing(
    how: Any, says: str, delay: float
) -> None:
    ledger, page = make_ledger(), Page("a")
    for value, key in enumerate([page, "a", "b"], 1):  # so that the page is found first
        put(ledger, key, value, delay=delay)
    page.says = says
    if delay and how != "drain":
        assert len(list(ledger.tick(5.0))) == 3
    if how == "look":
        assert sorted(item.value for item in ledger.items("ready")) == [1, 2, 3]
        assert sorted(ledger.values()) == [1, 2, 3]
        how = claim_shortly
    if how == "drain":
        values = [item.value for item in ledger.drain()]
    else:
        if how == "schedule":
            put(ledger, "c", 4, 5.0, priority=1)
            how = claim_shortly
        values = []
        while (item := how(ledger)) is not None:
            values.append(item.value)
            ledger.ack(item, 5.0)
    assert sorted(values) in ([1, 2, 3], [1, 2, 3, 4])
    assert ledger.drained
    assert ledger.added == len(values) == ledger.acked + ledger.dropped
    assert ledger.next_deadline() == inf


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_key_that_is_equal_to_all_is_that_of_its_hash(delay: float) -> None:
    ledger, page = make_ledger(), Page("b")
    page.says = "equal"
    for key in "abc":
        put(ledger, key, f"value of {key}", delay=delay)
    dropped = ledger.discard(page)
    assert dropped is not None
    assert dropped.value == "value of b"
    list(ledger.tick(5.0))
    assert all_claimed(ledger) == [("a", "value of a"), ("c", "value of c")]


@pytest.mark.parametrize("says", ["raise", "equal"])
def test_a_plain_key_has_one_item_whatever_was_in_its_way(says: str) -> None:
    ledger, page = make_ledger(), Page("a")
    ledger.add(page, "page", 0.0)
    ledger.add("a", lease(), 0.0)
    page.says = says
    first = put(ledger, "b", "value", priority=1)  # all go into another table
    page.says = "nothing"
    assert first is PutOutcome.ADDED
    assert not ledger.add("a", "another one", 0.0)
    item = claim(ledger, "a")
    assert item is not None
    assert isinstance(item.value, Lease)
    assert claim(ledger, "a") is None
    assert ledger.waiting == 2


def test_a_key_that_was_done_and_cannot_be_compared_loses_no_successor() -> None:
    ledger = Ledger[Any, Any](
        Item, LeasedKeyQueue(), first_token=0, bury=lambda _: Burial("dropped"), dedupe_for=1.0
    )
    page = Page("a")
    for key in ("a", page, "a", "z"):
        assert ledger.add(key, "value", 0.0)
        item = claim(ledger, key)
        assert item is not None
        if key == "z":
            put(ledger, "z", "successor", if_in_flight="buffer")
            page.says = "raise"
        ledger.ack(item, 0.0)
    assert ledger.buffered == 0
    assert all_claimed(ledger) == [("z", "successor")]
    assert ledger.was_done("z", 0.5)


# Anything may be done while keys change

PLAIN_KEYS: list[Any] = ["a", "b", 1, b"x"]
PAGES = 5
CALLS = ["add", "put", "put", "claim", "short", "take", "ack", "release", "give back", "undo"]
CALLS += ["extend", "tick", "discard", "drain", "schedule", "look"]

changes = st.tuples(
    st.just("change"),
    st.integers(0, PAGES - 1),
    st.integers(0, len(PLAIN_KEYS) - 1),
    st.sampled_from(["nothing", "nothing", "equal", "raise", "no hash"]),
)
terms = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.sampled_from([1.0, 3.0]),
        "ttl": st.just(4.0),
        "priority": st.sampled_from([1, 5]),
        "if_in_flight": st.just("buffer"),
        "reschedule": st.just("latest"),
    },
)
calls = st.tuples(
    st.sampled_from(CALLS),
    st.integers(0, len(PLAIN_KEYS) + PAGES - 1),
    st.sampled_from([0, 0, 1]),
    terms,
)


class Changing:
    """A ledger, keys that change, and the leases that are held."""

    def __init__(self) -> None:
        self.ledger = make_ledger()
        self.pages = [Page(PLAIN_KEYS[number % len(PLAIN_KEYS)]) for number in range(PAGES)]
        self.keys = [*PLAIN_KEYS, *self.pages]
        self.held: list[Item[Any, Any]] = []
        self.now = 0.0

    def change(self, page: int, plain: int, says: str) -> None:
        self.pages[page].takes_the_place_of(PLAIN_KEYS[plain])
        self.pages[page].says = says

    def call(self, how: str, number: int, variant: int, terms: dict[str, Any]) -> None:
        """Call the ledger. If a key raises, that is told to the caller that has given a key."""
        ledger, key, now = self.ledger, self.keys[number], self.now
        value = lease() if variant else number
        item = None
        if how == "add":
            ledger.add(key, value, now)
        elif how == "put":
            put(ledger, key, value, now, **terms)
        elif how == "take":
            item = claim(ledger, key, now)
        elif how == "discard":
            ledger.discard(key)
        elif how == "claim":
            item = ledger.claim(ClaimRequest(lease_timeout=2.0 if variant else None), now)
        elif how == "short":
            item = ledger.claim_next(now, now + 2.0 if variant else inf)
        elif how == "tick":
            self.now += 2.0 if variant else 0.5
            list(ledger.tick(self.now))
        elif how == "drain":
            ledger.drain()
        elif how == "schedule":
            ledger.set_tenant("tenant", Tenant(2.0))
        elif how == "look":
            assert len(ledger.items("ready")) + len(ledger.items("delayed")) == ledger.waiting
            assert len([*ledger.values()]) == ledger.waiting + len(ledger.leased)
        elif self.held:
            self.settle(how, self.held[number % len(self.held)], counted=not variant)
        if item is not None:
            assert all(item is not other for other in self.held)
            self.held.append(item)

    def settle(self, how: str, item: Item[Any, Any], *, counted: bool) -> None:
        ledger, now = self.ledger, self.now
        if how == "ack":
            ledger.ack(item, now)
        elif how == "release":
            ledger.release(item, now, front=not counted)
        elif how == "give back":
            ledger.give_back(item, now)
        elif how == "undo":
            ledger.undo(item, now)
        else:
            ledger.extend(item, now, now + 3.0 if counted else inf)

    def check(self) -> None:
        ledger = self.ledger
        self.held = [item for item in self.held if item.ended is None]
        assert {*map(id, self.held)} == {*map(id, dict.values(ledger.leased))}
        assert ledger.line is None or len(ledger.line) == len(ledger.ready)
        own = [
            found._key if type(found) is Item else key
            for table in (ledger.ready, ledger.delayed, ledger.leased)
            for key, found in dict.items(table)
        ]
        plain = [key for key in own if type(key) is not Page]
        assert len(plain) == len(set(plain))

    def end(self) -> None:
        """Everything comes out, and is accounted for."""
        ledger = self.ledger
        for item in [each for each in self.held if each.deadline > self.now]:
            ledger.ack(item, self.now)
        self.now += 100.0
        list(ledger.tick(self.now))
        while (item := ledger.claim_next(self.now) or claim(ledger, now=self.now)) is not None:
            ledger.ack(item, self.now)
        assert ledger.drained
        assert ledger.next_deadline() == inf
        assert not ledger._bare
        assert not ledger.buffered
        assert ledger.added == ledger.acked + ledger.dropped + ledger.superseded


OF_A_KEY = ("add", "put", "take", "discard")


@settings(deadline=None)
@given(st.lists(changes | calls | calls, max_size=60))
def test_keys_that_change_lose_nothing_and_make_no_two_items_of_a_key(
    plan: list[tuple[Any, ...]],
) -> None:
    changing = Changing()
    for what, *args in plan:
        if what == "change":
            changing.change(*args)
            continue
        try:
            changing.call(what, *args)
        except InvalidLeaseError:
            assert what in CALLS[6:11]
        except RuntimeError:
            assert what in OF_A_KEY
        changing.check()
    changing.end()
