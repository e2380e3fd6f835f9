"""The rules themselves: what holds of every move, and that turns are taken as the schedule does."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaseq import Backoff, LeasedKeyQueue, Tenant
from leaseq._core.policies import longest_rest
from leaseq._core.requests import PutRequest
from leaseq._rules import moves
from leaseq._rules.item import Item
from leaseq._rules.moves import MOVES, ItemRecord, Moved, Successor, Turns
from leaseq._rules.schedule import Schedule

NOW = 10.0
QUEUE: LeasedKeyQueue[str, None] = LeasedKeyQueue()

successors = st.builds(
    Successor,
    st.just(2),
    st.sampled_from([1, 3, 5]),
    buffered=st.booleans(),
    due=st.sampled_from([-inf, 9.0, 12.0]),
    expires=st.sampled_from([inf, 15.0]),
)
leased = st.builds(
    ItemRecord,
    st.just("leased"),
    st.just(1),
    priority=st.sampled_from([1, 3, 5]),
    tenant=st.sampled_from([None, "x"]),
    deliveries=st.integers(1, 3),
    cancellations=st.integers(0, 2),
    expiries=st.integers(0, 2),
    expires=st.sampled_from([inf, 12.0]),
    after=st.none() | successors,
)
rests = st.sampled_from([0.0, 4.0])
unhurried = settings(deadline=None, derandomize=True)


def ends(item: ItemRecord[int], rest: float) -> list[Moved[int]]:
    """Whatever can end a lease without an ack or a death."""
    return [
        moves.after_release(item, NOW, rest=rest),
        moves.after_release(item, NOW, delay=rest),
        moves.after_release(item, NOW, front=True),
        moves.after_release(item, NOW, counted=False),
        moves.after_expiry(item, NOW, rest),
        moves.after_revocation(item, NOW, rest),
        moves.after_give_back(item, NOW),
        moves.after_undo(item, NOW),
        moves.after_close(item, NOW),
    ]


def test_every_move_has_a_name_of_its_own() -> None:
    assert [move.name for move in MOVES.values()] == [*MOVES]


@unhurried
@given(leased, rests)
def test_whatever_ends_a_lease_the_item_or_its_successor_waits(
    item: ItemRecord[int], rest: float
) -> None:
    after = item.after
    for moved in ends(item, rest):
        again = moved.item
        assert again is not None
        assert again.state == ("delayed" if again.due > NOW else "ready")
        assert again.after is None
        assert again.tenant == item.tenant
        assert (moved.place is None) == (again.state == "delayed")
        assert moved.ended == moved.move.ended
        if after is not None and after.buffered:
            assert (again.value, again.deliveries, again.priority) == (2, 0, after.priority)
            assert moved.counts == (*moved.move.counts, "superseded")
            continue
        assert again.value == (1 if after is None else after.value)
        assert again.deliveries == item.deliveries - (not moved.move.counted)
        assert again.priority == max(item.priority, after.priority if after else 0)
        assert moved.counts == moved.move.counts


@unhurried
@given(leased, st.sampled_from(["dead", "dropped", "kept"]), rests)
def test_an_item_that_dies_is_gone_or_rests(
    item: ItemRecord[int], fate: moves.Fate, rest: float
) -> None:
    moved = moves.after_death(MOVES["expire"], item, NOW, fate, rest)
    after = item.after
    assert moved.ended == "lost"
    assert moved.counts[0] == "expired"
    if after is not None and after.buffered:
        assert moved.item == moves.after_buffer(item, after, NOW)
    elif fate == "kept":
        assert moved.item is not None
        assert moved.item.deliveries == item.deliveries
        assert moved.item.state == ("delayed" if rest else "ready")
    else:
        assert moved.item is None
        assert moved.counts == ("expired", fate)


@unhurried
@given(
    st.builds(
        ItemRecord,
        st.just("delayed"),
        st.just(1),
        due=st.sampled_from([11.0, 14.0]),
        not_before=st.sampled_from([-inf, 13.0]),
    ),
    st.builds(
        lambda delay, **rest: PutRequest(delay=delay, **rest),
        delay=st.sampled_from([0.0, 2.0, 6.0]),
        reschedule=st.sampled_from(["earliest", "latest"]),
    ),
)
def test_a_put_never_ends_a_rest(item: ItemRecord[int], terms: PutRequest) -> None:
    moved = moves.put_on_waiting(item, 9, terms, NOW)
    assert moved.item is not None
    assert moved.item.due >= item.not_before
    assert moved.item.state == ("delayed" if moved.item.due > NOW else "ready")


@pytest.mark.parametrize("deliveries", [1, 2, 5, 2000])
def test_a_backoff_draws_no_longer_rest_than_the_longest(deliveries: int) -> None:
    backoff = Backoff(2.0, factor=3.0, ceiling=50.0, seed=1)
    longest = longest_rest(backoff, deliveries)
    drawn = [backoff.delay(deliveries) for _ in range(1000)]
    assert 0.95 * longest < max(drawn) <= longest


# Turns


class Both:
    """The schedule, and the turns as they are in a few lines."""

    def __init__(self) -> None:
        # Of the first tenant on they are to be the same.
        self.schedule: Schedule[str, None] = Schedule({"w": Tenant()})
        self.turns = Turns()
        self.ready: list[Item[str, None]] = []
        self.leased: list[Item[str, None]] = []

    def put(self, key: str, tenant: str, priority: int) -> None:
        item: Item[str, None] = Item(QUEUE, key, None)
        item._tenant, item._priority = tenant, priority  # type: ignore[assignment]
        self.push(item, "back")

    def push(self, item: Item[str, None], place: moves.Place) -> None:
        self.schedule.push(item, place)
        self.turns = moves.arrived(self.turns, item.tenant)
        self.ready.append(item)

    def claim(self, tenants: list[str | None] | None) -> None:
        expected = self.expected(tenants)
        schedule = self.schedule
        item = schedule.next() if tenants is None else schedule.next_of(tenants)
        assert item is expected
        if item is not None:
            restricted = tenants is not None
            schedule.hand_out(item, restricted=restricted)
            self.turns = moves.handed_out(self.turns, item.tenant, restricted=restricted)
            self.ready.remove(item)
            item._token = 1000 + len(self.leased)
            self.leased.append(item)

    def expected(self, tenants: list[str | None] | None) -> Item[str, None] | None:
        firsts: dict[str | None, Item[str, None]] = {}
        for item in sorted(self.ready, key=lambda item: (-item.priority, item.token)):
            firsts.setdefault(item.tenant, item)
        ranks = {
            tenant: item.token
            for tenant, item in firsts.items()
            if self.turns.of(tenant).competing and (tenants is None or tenant in tenants)
        }
        return firsts[moves.next_tenant(self.turns, ranks, tenants)] if ranks else None

    def end(self, number: int, place: moves.Place | None) -> None:
        if self.leased:
            item = self.leased.pop(number % len(self.leased))
            self.schedule.end(item)
            self.turns = moves.ended(self.turns, item.tenant)
            if place is not None:
                self.push(item, place)

    def take_out(self, number: int) -> None:
        if self.ready:
            item = self.ready.pop(number % len(self.ready))
            self.schedule.remove(item)
            self.turns = moves.left(self.turns, item.tenant)

    def set(self, tenant: str, policy: Tenant) -> None:
        self.schedule.set(tenant, policy)
        self.turns = moves.reweighed(self.turns, tenant, policy)


names = st.sampled_from("wxyz")
steps = st.one_of(
    st.tuples(st.just("put"), names, st.sampled_from([3, 3, 3, 5])),
    st.tuples(st.just("claim"), st.none() | st.none() | st.lists(names, min_size=1, max_size=2)),
    st.tuples(st.just("claim"), st.none()),
    st.tuples(
        st.just("end"), st.integers(0, 9), st.sampled_from([None, None, "front", "back", "old"])
    ),
    st.tuples(st.just("take_out"), st.integers(0, 9)),
    st.tuples(
        st.just("set"),
        names,
        st.builds(
            Tenant, st.sampled_from([0.5, 1.0, 1.0, 3.0]), st.sampled_from([None, None, 1, 2])
        ),
    ),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(steps, max_size=60))
def test_the_schedule_takes_turns_as_the_rules_say(plan: list[tuple[object, ...]]) -> None:
    both = Both()
    for number, (verb, *arguments) in enumerate(plan):
        if verb == "put":
            arguments.insert(0, str(number))
        getattr(both, str(verb))(*arguments)


def test_a_record_is_never_changed() -> None:
    item = ItemRecord("leased", 1, deliveries=2)
    before = replace(item)
    ends(item, 4.0)
    assert item == before
