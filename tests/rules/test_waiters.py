from collections.abc import Collection
from typing import Any

import pytest

from leaseq import LeasedKeyQueue, Tenant
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Ledger
from leaseq._rules.waiters import Waiter, Waiters
from leaseq.abc._lease import Lease

StrWaiter = Waiter[str, str]
OF_THE_QUEUE = {"_queue", "_lost_by"}


class Desk:
    """A ledger, and those who wait for what is in it."""

    def __init__(self, **tenants: Tenant) -> None:
        self.ledger: Ledger[str, str] = Ledger(
            Item,
            LeasedKeyQueue(),
            first_token=0,
            bury=lambda _: Burial("dead"),
            tenants=tenants or None,
        )
        self.waiters: Waiters[str, str] = Waiters(self.ledger)
        self.now = 0.0

    def wait(
        self,
        *keys: str,
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
        patient: bool = False,
        **options: Any,
    ) -> StrWaiter:
        request = ClaimRequest(*keys, tenants=tenants, steal_from=steal_from, **options)
        waiter: StrWaiter = Waiter(request, patient=patient)
        self.waiters.add(waiter)
        return waiter

    def put(
        self, *keys: str, tenant: str | None = None, priority: int | None = None, delay: float = 0
    ) -> None:
        for key in keys:
            terms = PutRequest(tenant=tenant, priority=priority, delay=delay)
            self.ledger.put(key, f"{key}1", self.now, terms)

    def claim(self, key: str) -> Item[str, str]:
        item = self.ledger.claim(ClaimRequest(key), self.now)
        assert item is not None
        return item

    def serve(self, *keys: str) -> list[StrWaiter]:
        return list(self.waiters.serve(keys, self.now))

    def serve_tenant(self, tenant: str | None) -> list[StrWaiter]:
        return list(self.waiters.serve_tenant(tenant, self.now))

    def come(self, *keys: str, tenant: str | None = None) -> list[StrWaiter]:
        """Items come: who gets them?"""
        self.put(*keys, tenant=tenant)
        return self.serve(*keys)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def key_of(waiter: StrWaiter) -> str | None:
    return None if waiter.item is None else waiter.item.key


def test_nobody_waits_at_first(desk: Desk) -> None:
    assert (desk.waiters.total, desk.waiters.takers) == (0, 0)
    assert desk.come("a") == []
    assert list(desk.ledger.ready) == ["a"]


# Whose turn it is


def test_who_waits_is_handed_what_comes(desk: Desk) -> None:
    waiter = desk.wait()
    assert desk.come("a") == [waiter]
    assert waiter.item is desk.ledger.leased["a"]
    assert desk.waiters.total == 0


def test_those_who_take_anything_are_served_first_come_first_served(desk: Desk) -> None:
    waiters = [desk.wait() for _ in range(3)]
    assert desk.come("a", "b", "c", "d") == waiters
    assert list(map(key_of, waiters)) == ["a", "b", "c"]


def test_those_who_want_one_key_are_served_first_come_first_served(desk: Desk) -> None:
    first, second = desk.wait("a"), desk.wait("a")
    assert desk.come("a") == [first]
    desk.ledger.release(desk.ledger.leased["a"], 0)
    assert desk.serve("a") == [second]


def test_one_who_wants_just_that_key_comes_before_an_older_one_who_takes_any(desk: Desk) -> None:
    getter, taker = desk.wait(), desk.wait("b")
    assert desk.come("a", "b") == [taker, getter]
    assert (key_of(getter), key_of(taker)) == ("a", "b")


def test_one_who_wants_another_key_is_left_waiting(desk: Desk) -> None:
    desk.wait("other")
    assert desk.come("a") == []
    assert desk.waiters.total == 1


def test_one_whose_tenant_it_is_and_one_who_takes_any_are_served_as_they_came(desk: Desk) -> None:
    own, anybody, own_too = desk.wait(tenants=["x"]), desk.wait(), desk.wait(tenants=["x"])
    assert desk.come("a", "b", "c", tenant="x") == [own, anybody, own_too]


@pytest.mark.parametrize("tenants", [["x"], None])
def test_a_stealer_comes_after_younger_ones_who_need_not_steal(
    desk: Desk, tenants: list[str] | None
) -> None:
    stealer = desk.wait(tenants=["y"], steal_from=["x"])
    own = desk.wait(tenants=tenants)
    assert desk.come("a", "b", tenant="x") == [own, stealer]


def test_those_who_have_something_already_come_last(desk: Desk) -> None:
    steals = desk.wait(tenants=["y"], steal_from=["x"], patient=True)
    anybody = desk.wait(patient=True)
    own = desk.wait(tenants=["x"], patient=True)
    hungry = desk.wait(tenants=["y"], steal_from=["x"])
    assert desk.come(*"abcd", tenant="x") == [hungry, anybody, own, steals]


def test_an_item_of_a_tenant_that_nobody_serves_wakes_nobody(desk: Desk) -> None:
    desk.wait(tenants=["x", "z"], steal_from=["w"])
    assert desk.come("a", tenant="y") == []
    assert desk.come("b") == []


def test_a_waiter_that_serves_several_tenants_is_served_once(desk: Desk) -> None:
    waiter = desk.wait(tenants=["x", "y"], steal_from=["z"])
    desk.put("a", tenant="y")
    desk.put("b", tenant="x")
    assert desk.serve("a", "b") == [waiter]
    assert desk.waiters.total == 0
    assert desk.come("c", tenant="z") == []


@pytest.mark.parametrize("restricted", [True, False])
def test_what_falls_due_at_once_goes_to_as_many_as_wait(desk: Desk, restricted: bool) -> None:
    """The first gets the item of the highest priority, whichever key was looked at for it."""
    waiters = [desk.wait(tenants=[None] if restricted else None) for _ in range(2)]
    desk.put("low", priority=1, delay=1)
    desk.put("high", priority=5, delay=1)
    keys = [item.key for item in desk.ledger.tick(1)]
    assert desk.serve(*keys) == waiters
    assert list(map(key_of, waiters)) == ["high", "low"]


def test_of_several_tenants_items_the_stealer_takes_what_others_leave(desk: Desk) -> None:
    stealer = desk.wait(tenants=["z"], steal_from=["x", "y"])
    own = desk.wait(tenants=["y"])
    desk.put("a", tenant="y")
    desk.put("b", tenant="x")
    assert desk.serve("b", "a") == [own, stealer]
    assert (key_of(own), key_of(stealer)) == ("a", "b")


def test_one_whose_item_turned_out_dead_waits_on_where_it_was(desk: Desk) -> None:
    taker, getter = desk.wait("a"), desk.wait()
    second = desk.wait()
    desk.ledger.put("a", "a1", 0, PutRequest(ttl=1))
    desk.now = 1.0
    assert desk.serve("a") == []
    assert desk.waiters.total == 3
    assert desk.come("a") == [taker]
    assert desk.come("b", "c") == [getter, second]


def test_those_whose_items_turn_out_dead_wait_on_in_their_order(desk: Desk) -> None:
    waiters = [desk.wait(), desk.wait(tenants=[None])]
    for key in "ab":
        desk.ledger.put(key, "1", 0, PutRequest(ttl=1))
    desk.now = 1.0
    assert desk.serve("a", "b") == []
    assert desk.ledger.dead == 2
    assert desk.come("c", "d") == waiters


def test_one_who_comes_back_is_first_in_line(desk: Desk) -> None:
    first, second = desk.wait(), desk.wait()
    assert desk.come("a") == [first]
    desk.waiters.add(first)
    assert first.item is None
    assert desk.come("b") == [first]
    assert desk.come("c") == [second]


# Caps


def test_a_capped_tenant_s_items_wake_nobody() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", tenant="x")
    desk.claim("a")
    desk.wait()
    assert desk.come("b", tenant="x") == []
    assert desk.serve_tenant("x") == []


def test_who_waits_is_served_when_a_tenant_comes_under_its_cap() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", "c", tenant="x")
    item = desk.claim("a")
    first, second = desk.wait(), desk.wait()
    desk.ledger.ack(item)
    assert desk.serve_tenant("x") == [first]
    desk.ledger.set_tenant("x", Tenant(max_in_flight=3))
    assert desk.serve_tenant("x") == [second]


def test_one_who_waits_for_a_key_waits_for_its_tenant_s_cap() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", tenant="x")
    item = desk.claim("a")
    taker = desk.wait("b")
    desk.ledger.ack(item)
    assert desk.serve("a") == []
    assert desk.serve_tenant("x") == [taker]


def test_those_who_wait_for_a_key_and_its_tenant_s_cap_are_served_as_they_came() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", tenant="x")
    item = desk.claim("a")
    first, second = desk.wait("b"), desk.wait("b")
    desk.ledger.ack(item)
    assert desk.serve_tenant("x") == [first]
    desk.ledger.release(desk.ledger.leased["b"], 0)
    assert desk.serve("b") == [second]


def test_one_whose_key_comes_while_its_tenant_is_at_its_cap_waits_for_that() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", tenant="x")
    item = desk.claim("a")
    taker = desk.wait("b")
    assert desk.come("b", tenant="x") == []
    desk.ledger.ack(item)
    assert desk.serve_tenant("x") == [taker]


def test_those_who_want_just_that_key_come_first_also_when_a_cap_is_lifted() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", tenant="x")
    item = desk.claim("a")
    desk.wait()
    taker = desk.wait("b")
    desk.ledger.release(item, 0)
    assert desk.serve("a") == [taker]


def test_one_whose_key_is_gone_does_not_keep_others_from_the_tenant() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", "c", tenant="x")
    item = desk.claim("a")
    taker, getter = desk.wait("b"), desk.wait()
    desk.ledger.take_out("b")
    desk.ledger.ack(item)
    assert desk.serve_tenant("x") == [getter]
    assert desk.come("b", tenant="y") == [taker]


def test_one_whose_key_is_another_tenant_s_by_now_waits_for_that_one_s_cap() -> None:
    desk = Desk(x=Tenant(max_in_flight=1), y=Tenant(max_in_flight=1))
    desk.put("a", "b", tenant="x")
    desk.put("c", tenant="y")
    desk.claim("a")
    item = desk.claim("c")
    taker = desk.wait("b")
    desk.ledger.take_out("b")
    assert desk.come("b", tenant="y") == []
    desk.ledger.ack(item)
    assert desk.serve_tenant("y") == [taker]
    assert desk.waiters._lines == {}


# The short way


def test_a_new_item_that_is_handed_over_directly_is_as_one_that_was_in_line() -> None:
    leases = []
    for short in (True, False):
        desk = Desk()
        waiter = desk.wait(lease_timeout=30.0, consumer="c")
        waiter_behind = desk.wait()
        if short:
            assert desk.waiters.hand_new("a", "a1", 5.0) is waiter
        else:
            desk.now = 5.0
            assert desk.come("a") == [waiter]
        item = waiter.item
        assert item is desk.ledger.leased["a"]
        assert item._timers is not None
        assert desk.come("b") == [waiter_behind]
        values = [getattr(item, name) for name in Lease.__slots__ if name not in OF_THE_QUEUE]
        leases.append([*values, item._timers.consumer, desk.ledger.next_deadline()])
        desk.ledger.undo(item, 6.0)
        assert (desk.ledger.delivered, desk.ledger.added) == (1, 2)
        assert list(desk.ledger.ready) == ["a"]
    assert leases[0] == leases[1]


def test_only_a_new_key_goes_the_short_way(desk: Desk) -> None:
    desk.put("leased", "leased too")
    desk.put("delayed", delay=60.0)
    desk.claim("leased")
    desk.claim("leased too")
    desk.wait()
    for key in ("leased", "delayed"):
        assert desk.waiters.hand_new(key, "x", 0.0) is None
    assert desk.waiters.hand_new("new", "x", 0.0) is not None


@pytest.mark.parametrize("options", [{"tenants": ["x"]}, {"patient": True}])
def test_where_others_wait_too_nothing_goes_the_short_way(
    desk: Desk, options: dict[str, Any]
) -> None:
    desk.wait()
    desk.wait(**options)
    assert desk.waiters.hand_new("a", "x", 0.0) is None


def test_where_there_are_tenants_nothing_goes_the_short_way() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.wait()
    assert desk.waiters.hand_new("a", "x", 0.0) is None


# Leaving


def test_one_who_is_dropped_is_not_served(desk: Desk) -> None:
    first, second, third = (desk.wait() for _ in range(3))
    desk.waiters.drop(second)
    assert desk.come("a", "b", "c") == [first, third]


def test_those_who_wait_are_counted_by_what_they_wait_for(desk: Desk) -> None:
    getter = desk.wait()
    desk.wait(tenants=["x", "y"])
    for key in "aab":
        desk.wait(key)
    assert (desk.waiters.total, desk.waiters.takers) == (5, 3)
    desk.come("a")
    desk.waiters.drop(getter)
    assert (desk.waiters.total, desk.waiters.takers) == (3, 2)


def test_all_who_wait_for_one_key_can_be_dropped_at_once(desk: Desk) -> None:
    one, two, three = desk.wait("a"), desk.wait("b"), desk.wait("a")
    assert desk.waiters.drop_takers("a") == [one, three]
    assert desk.waiters.drop_takers("a") == []
    assert desk.waiters.total == desk.waiters.takers == 1
    assert desk.come("b") == [two]


def test_all_who_wait_for_more_can_be_dropped_at_once(desk: Desk) -> None:
    hungry = desk.wait()
    patient = [desk.wait(patient=True), desk.wait(tenants=["x", "y"], patient=True)]
    assert sorted(desk.waiters.drop_patient(), key=lambda each: each.number) == patient
    assert desk.waiters.drop_patient() == []
    assert desk.waiters.drop_all() == [hungry]


def test_everybody_can_be_dropped_at_once() -> None:
    desk = Desk(x=Tenant(max_in_flight=1))
    desk.put("a", "b", tenant="x")
    desk.claim("a")
    everybody = {
        desk.wait("b"),
        desk.wait(),
        desk.wait(tenants=["y", "z"], steal_from=["w"]),
        desk.wait(patient=True),
    }
    assert {*desk.waiters.drop_all()} == everybody
    assert desk.waiters.drop_all() == []
    assert (desk.waiters.total, desk.waiters.takers) == (0, 0)
    assert desk.waiters._lines == {}


def test_waiters_for_keys_that_are_not_here_can_be_dropped_at_once(desk: Desk) -> None:
    desk.wait()
    desk.wait(tenants=["x"])
    desk.put("c", "d")
    desk.claim("d")
    here, absent = [desk.wait(key) for key in "dd"], [desk.wait(key) for key in "abb"]
    assert [("key", key) in desk.waiters._lines for key in "abcd"] == [True, True, False, True]
    assert desk.waiters.drop_takers_of_absent() == absent
    assert desk.waiters.drop_takers("d") == here
    assert desk.waiters.total == 2


def test_nothing_is_kept_for_what_nobody_waits_for_any_more(desk: Desk) -> None:
    desk.wait("a")
    dropped = desk.wait("b")
    desk.wait("c")
    desk.wait(tenants=["x", "y"], steal_from=["z"])
    desk.come("a")
    desk.waiters.drop(dropped)
    desk.waiters.drop_takers("c")
    desk.come("d", tenant="z")
    assert desk.waiters._lines == {}


# What it costs


def test_the_one_who_can_serve_is_found_without_a_walk(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        desk.wait(tenants=[f"t{number}"])
        desk.wait(f"k{number}")
    found = desk.wait(tenants=["x"])
    looked_at = 0
    first = Waiters._first

    def counted(self: Waiters[str, str], name: object) -> StrWaiter | None:
        nonlocal looked_at
        looked_at += 1
        return first(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(Waiters, "_first", counted)
    assert desk.come("a", tenant="x") == [found]
    assert looked_at <= 10
