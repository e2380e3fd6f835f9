from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

import pytest

from leaseq import LeasedKeyQueue, Tenant
from leaseq._rules.item import Item
from leaseq._rules.schedule import Schedule

Sched = Schedule[int, None]
QUEUE: LeasedKeyQueue[int, None] = LeasedKeyQueue()


def item(key: int, tenant: str | None = None, priority: int = 3) -> Item[int, None]:
    made: Item[int, None] = Item(QUEUE, key, None)
    made._tenant = tenant
    made._priority = priority
    return made


class Counted:
    """A schedule with items, numbered as they come, and its hand-outs."""

    def __init__(self, **tenants: Tenant) -> None:
        self.schedule: Sched = Schedule(tenants)
        self.keys = 0
        self.leased: dict[str | None, list[Item[int, None]]] = {}

    def push(self, tenant: str | None, items: int = 1, priority: int = 3) -> list[Item[int, None]]:
        pushed = []
        for _ in range(items):
            self.keys += 1
            pushed.append(item(self.keys, tenant, priority))
            self.schedule.push(pushed[-1], "back")
        return pushed

    def hand_out(self, tenants: Iterable[str | None] | None = None) -> Item[int, None]:
        turn = self.schedule.next() if tenants is None else self.schedule.next_of(tenants)
        assert turn is not None
        self.schedule.hand_out(turn, restricted=tenants is not None)
        self.leased.setdefault(turn.tenant, []).append(turn)
        return turn

    def hand_out_all(self, items: int) -> list[str | None]:
        return [self.hand_out().tenant for _ in range(items)]

    def end(self, tenant: str | None) -> None:
        self.schedule.end(self.leased[tenant].pop())

    def work(self, items: int) -> list[str | None]:
        """Hand out and settle so many, one at a time, and say whose they were."""
        done = []
        for _ in range(items):
            tenant = self.hand_out().tenant
            self.end(tenant)
            done.append(tenant)
        return done


def shares(weights: dict[str, float], items: int) -> list[dict[str, float]]:
    """The ideal share of each after each hand-out, all of them backlogged."""
    whole = sum(weights.values())
    return [
        {name: done * weight / whole for name, weight in weights.items()}
        for done in range(1, items + 1)
    ]


def most_ahead(name: str, done: list[str | None], share: float) -> float:
    """How many more than its share of these hand-outs a tenant had, at most, at any time."""
    so_far = accumulate(each == name for each in done)
    return max(mine - number * share for number, mine in enumerate(so_far, 1))


def furthest_from_ideal(weights: dict[str, float], items: int) -> float:
    """How far any tenant's hand-outs are from its share, at most, at any time."""
    counted = Counted(**{name: Tenant(weight) for name, weight in weights.items()})
    whole = sum(weights.values())
    for name, weight in weights.items():
        counted.push(name, int(items * weight / whole) + 2)
    done: Counter[str | None] = Counter()
    worst = 0.0
    for ideal in shares(weights, items):
        done[counted.hand_out().tenant] += 1
        worst = max(worst, *(abs(done[name] - share) for name, share in ideal.items()))
    return worst


# One tenant


def test_with_nothing_ready_nobody_has_a_turn() -> None:
    schedule: Sched = Schedule()
    assert schedule.next() is None
    assert schedule.next_of(["x", None]) is None
    assert not schedule.claimable("x")


def test_items_of_one_priority_are_handed_out_first_in_first_out() -> None:
    counted = Counted()
    counted.push(None, 5)
    assert [counted.hand_out().key for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_higher_priority_goes_first() -> None:
    counted = Counted()
    for priority in (3, -7, 6, 1000, 1):
        counted.push(None, 1, priority)
    assert [counted.hand_out().priority for _ in range(5)] == [1000, 6, 3, 1, -7]


def test_items_at_the_front_are_at_the_front_of_their_own_priority() -> None:
    counted = Counted()
    counted.push(None, 1, priority=5)
    counted.push(None, 1, priority=3)
    counted.schedule.push(item(9, None, 3), "front")
    assert [counted.hand_out().key for _ in range(3)] == [1, 9, 2]


def test_an_item_can_be_taken_out_of_the_middle() -> None:
    counted = Counted()
    _, second, _ = counted.push("x", 3)
    counted.schedule.remove(second)
    assert [counted.hand_out().key for _ in range(2)] == [1, 3]
    assert counted.schedule.next() is None


# Between tenants


def test_tenants_of_the_same_weight_take_turns() -> None:
    counted = Counted()
    for tenant in "xyz":
        counted.push(tenant, 4)
    done = counted.work(12)
    rounds = [done[start : start + 3] for start in range(0, 12, 3)]
    assert [sorted(map(str, each)) for each in rounds] == [["x", "y", "z"]] * 4


def test_nobody_s_items_are_one_more_tenant_s() -> None:
    counted = Counted()
    counted.push(None, 3)
    counted.push("x", 3)
    assert Counter(counted.hand_out_all(4)) == {None: 2, "x": 2}


def test_priorities_are_within_a_tenant() -> None:
    counted = Counted()
    counted.push("x", 3, priority=6)
    counted.push("y", 3, priority=1)
    done = counted.work(6)
    assert [{*done[start : start + 2]} for start in (0, 2, 4)] == [{"x", "y"}] * 3


@pytest.mark.parametrize(
    "weights",
    [
        {"x": 1, "y": 2, "z": 4},
        {"x": 1, "y": 1},
        {"x": 0.5, "y": 0.3, "z": 7.7},
        {"x": 1, "y": 100},
        {f"t{number}": 1 + number % 7 for number in range(40)},
    ],
    ids=["1:2:4", "1:1", "fractions", "1:100", "forty"],
)
def test_nobody_is_ever_more_than_one_item_from_its_share(weights: dict[str, float]) -> None:
    assert furthest_from_ideal(weights, 7000) <= 1


def test_one_of_weight_1000_among_a_thousand_of_weight_1_is_never_more_than_one_item_off() -> None:
    weights: dict[str, float] = {f"t{number}": 1 for number in range(1000)} | {"big": 1000}
    items = 4000
    counted = Counted(big=Tenant(1000))
    for name in weights:
        counted.push(name, items if name == "big" else 3)
    handed_out = counted.hand_out_all(items)
    big = 0
    for done, name in enumerate(handed_out, 1):
        big += name == "big"
        assert abs(big - done / 2) <= 1
    # The small ones have one item each in 2,000: so no more than twice in 4,000, and not so soon.
    when: dict[str | None, list[int]] = {}
    for done, name in enumerate(handed_out, 1):
        when.setdefault(name, []).append(done)
    for name, times in when.items():
        if name != "big":
            for nth, done in enumerate(times, 1):
                assert abs(nth - done / 2000) <= 1
                assert abs(nth - 1 - (done - 1) / 2000) <= 1
    assert len(when) == 1001


def test_the_heavy_one_s_items_are_spread_between_the_others() -> None:
    counted = Counted(x=Tenant(4))
    counted.push("x", 40)
    for tenant in "abcd":
        counted.push(tenant, 10)
    done = counted.work(40)
    assert max(most_ahead(name, done, 1 / 8) for name in "abcd") <= 1
    assert most_ahead("x", done, 1 / 2) <= 1


@pytest.mark.parametrize("done_before", [0, 1, 7, 5000])
def test_100_000_items_of_one_delay_another_s_single_item_by_one_hand_out(
    done_before: int,
) -> None:
    counted = Counted()
    counted.push("crowd", 100_000)
    counted.hand_out_all(done_before)
    counted.push("single")
    assert "single" in counted.hand_out_all(2)


def test_one_who_returns_from_idling_gets_no_burst() -> None:
    counted = Counted()
    counted.push("busy", 1000)
    counted.push("idle", 1)
    counted.work(500)
    counted.push("idle", 100)
    assert most_ahead("idle", counted.work(100), 1 / 2) <= 1


def test_one_who_returns_from_its_cap_gets_no_burst() -> None:
    counted = Counted(capped=Tenant(max_in_flight=1))
    counted.push("busy", 1000)
    counted.push("capped", 100)
    counted.hand_out_all(500)
    counted.schedule.set("capped", Tenant())
    handed_out = counted.hand_out_all(100)
    assert most_ahead("capped", handed_out, 1 / 2) <= 1
    assert handed_out.count("capped") in (49, 50, 51)


def test_a_restricted_consumer_does_not_make_a_newcomer_wait() -> None:
    counted = Counted()
    counted.push("x", 1000)
    for _ in range(500):
        counted.hand_out(["x"])
    counted.push("new", 10)
    assert counted.hand_out().tenant == "new"


def test_what_a_restricted_consumer_takes_is_charged() -> None:
    counted = Counted()
    counted.push("x", 10)
    counted.push("y", 10)
    for _ in range(3):
        counted.hand_out(["x"])
    assert counted.work(4) == ["y", "y", "y", "x"]


def test_a_restricted_consumer_gets_fair_turns_between_its_tenants() -> None:
    counted = Counted(y=Tenant(2))
    for tenant in "xyz":
        counted.push(tenant, 100)
    done = Counter(counted.hand_out("xy").tenant for _ in range(60))
    assert done == {"x": 20, "y": 40}


# Caps


def test_a_capped_tenant_has_no_turn_until_a_lease_ends() -> None:
    counted = Counted(x=Tenant(max_in_flight=2))
    counted.push("x", 3)
    counted.hand_out_all(2)
    assert counted.schedule.next() is None
    assert counted.schedule.next_of(["x"]) is None
    assert not counted.schedule.claimable("x")
    counted.end("x")
    assert counted.schedule.claimable("x")
    assert counted.hand_out().tenant == "x"


def test_what_a_restricted_consumer_holds_counts_for_the_cap() -> None:
    counted = Counted(x=Tenant(max_in_flight=1))
    counted.push("x", 2)
    counted.hand_out(["x"])
    assert counted.schedule.next() is None


def test_what_was_leased_before_there_was_a_schedule_counts_for_the_cap() -> None:
    counted = Counted(x=Tenant(max_in_flight=1))
    adopted = item(0, "x")
    counted.schedule.adopt(adopted)
    counted.push("x")
    assert counted.schedule.next() is None
    counted.schedule.end(adopted)
    assert counted.hand_out().tenant == "x"


def test_others_go_on_while_one_is_capped() -> None:
    counted = Counted(x=Tenant(max_in_flight=1))
    counted.push("x", 10)
    counted.push("y", 10)
    assert counted.hand_out_all(6) == ["x", "y", "y", "y", "y", "y"]


@pytest.mark.parametrize("eligible", [True, False])
def test_a_tenant_can_be_capped_while_it_has_something_ready(eligible: bool) -> None:
    counted = Counted()
    counted.push("x", 10)
    counted.push("y", 10)
    if not eligible:
        for _ in range(3):
            counted.hand_out(["x"])
    else:
        counted.hand_out(["x"])
        counted.end("x")
        counted.work(4)
    counted.schedule.set("x", Tenant(max_in_flight=len(counted.leased["x"]) or None))
    if not eligible:
        assert set(counted.hand_out_all(5)) == {"y"}
    else:
        assert counted.schedule.claimable("x")


# Changing weights


def test_a_new_weight_holds_from_the_next_hand_out_on() -> None:
    counted = Counted()
    counted.push("x", 1000)
    counted.push("y", 1000)
    assert counted.hand_out_all(100).count("x") == 50
    counted.schedule.set("x", Tenant(3))
    assert counted.hand_out_all(100).count("x") in (74, 75, 76)
    counted.schedule.set("x", Tenant(1))
    assert counted.hand_out_all(100).count("x") in (49, 50, 51)


def test_a_weight_set_again_and_again_wins_nothing() -> None:
    counted = Counted()
    counted.push("x", 1000)
    counted.push("y", 1000)
    handed_out = []
    for _ in range(200):
        counted.schedule.set("x", Tenant())
        handed_out += counted.hand_out_all(1)
    assert handed_out.count("x") == 100


def test_a_tenant_that_is_not_there_can_be_told_its_weight() -> None:
    counted = Counted()
    counted.schedule.set("x", Tenant(2, max_in_flight=3))
    assert counted.schedule.tenant("x") == Tenant(2, max_in_flight=3)
    assert counted.schedule.tenant("y") == Tenant()
    counted.push("x", 5)
    counted.hand_out_all(3)
    assert counted.schedule.next() is None


def test_the_smallest_and_the_largest_weights_are_weights() -> None:
    counted = Counted(least=Tenant(1e-6), most=Tenant(1e6))
    counted.push("least", 3)
    counted.push("most", 50)
    assert counted.hand_out_all(53).count("least") == 3


# What is kept


def kept(schedule: Sched) -> int:
    return len(list(schedule))


def entries(schedule: Sched) -> int:
    heaps = (schedule._eligible, schedule._early, schedule._idle)
    return sum(len(heap._entries) for heap in heaps)


def test_each_tenant_that_has_something_is_listed_with_it() -> None:
    counted = Counted()
    counted.push("x", 3)
    counted.push(None, 1)
    counted.hand_out(["x"])
    assert {*counted.schedule} == {(None, 1, 0), ("x", 2, 1)}


@pytest.mark.parametrize("tenants", [None, "own"])
def test_many_one_off_tenants_leave_nothing_behind(tenants: str | None) -> None:
    counted = Counted()
    most = 0
    for number in range(100_000):
        name = f"t{number}"
        counted.push(name)
        counted.hand_out(None if tenants is None else [name])
        counted.end(name)
        counted.leased.clear()
        if number % 1000 == 0:
            most = max(most, kept(counted.schedule), entries(counted.schedule))
    assert most <= (2 if tenants is None else 2100)
    # Those who were served out of turn are remembered, up to a number; time makes up for it.
    counted.push("last", 1)
    counted.work(1)
    assert kept(counted.schedule) <= (0 if tenants is None else 1025)


def test_one_off_tenants_whose_items_are_taken_out_leave_nothing_behind() -> None:
    counted = Counted()
    for number in range(10_000):
        (pushed,) = counted.push(f"t{number}")
        counted.schedule.remove(pushed)
    assert kept(counted.schedule) == 0
    assert entries(counted.schedule) <= 64


def test_one_that_is_ahead_is_remembered_while_it_idles() -> None:
    counted = Counted()
    counted.push("x", 4)
    counted.push("y", 10)
    for _ in range(3):
        counted.hand_out(["x"])
        counted.end("x")
    counted.hand_out(["x"])
    counted.end("x")
    assert ("x", 0, 0) in [*counted.schedule]
    counted.push("x", 5)
    assert counted.work(3) == ["y", "y", "y"]


def test_one_that_idles_again_as_it_was_is_forgotten_once() -> None:
    counted = Counted()
    counted.push("busy", 10)
    for ahead, name in enumerate("xyz", 1):
        counted.push(name, ahead)
        for _ in range(ahead):
            counted.hand_out([name])
            counted.end(name)
    (pushed,) = counted.push("y")
    counted.schedule.remove(pushed)
    counted.work(10)
    assert kept(counted.schedule) == 0


def test_a_schedule_of_ten_thousand_tenants_is_empty_in_the_end() -> None:
    counted = Counted()
    for number in range(10_000):
        counted.push(f"t{number}", 2)
    counted.work(20_000)
    assert kept(counted.schedule) == 0
    assert entries(counted.schedule) <= 64


# What it costs


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often something was put into a heap, or taken out, since the last call."""
    from leaseq._core import heap

    count = 0
    for name in ("heappush", "heappop"):
        original = getattr(heap, name)

        def counted(*arguments: object, original: Callable[..., object] = original) -> object:
            nonlocal count
            count += 1
            return original(*arguments)

        monkeypatch.setattr(heap, name, counted)

    def so_far() -> int:
        nonlocal count
        since, count = count, 0
        return since

    return so_far


@pytest.mark.parametrize("others", ["capped", "idle"])
def test_those_who_do_not_compete_cost_the_others_nothing(
    others: str, pushes: Callable[[], int]
) -> None:
    def cost(tenants: int) -> int:
        counted = Counted()
        counted.push("x", 101)
        for number in range(tenants):
            name = f"t{number}"
            if others == "capped":
                counted.schedule.set(name, Tenant(max_in_flight=1))
                counted.push(name, 2)
            else:
                counted.push(name, 1)
            counted.hand_out([name])
            if others == "idle":
                counted.end(name)
        counted.work(1)
        pushes()
        counted.work(100)
        return pushes()

    assert cost(1000) <= cost(10)


def test_a_hand_out_costs_a_few_heap_operations_whatever_the_number_of_tenants(
    pushes: Callable[[], int],
) -> None:
    counted = Counted()
    for number in range(5000):
        counted.push(f"t{number}", 3)
    pushes()
    counted.work(10_000)
    assert pushes() <= 4 * 10_000
