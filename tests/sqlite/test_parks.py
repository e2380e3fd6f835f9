"""Parked processes: which one is woken, who is next if it does not come, and who was overlooked."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

from leaseq import Tenant
from leaseq._remote import protocol as p
from leaseq._remote.protocol import Park, Want

CAPPED = {"tenants": {"x": Tenant(max_in_flight=1)}}

WAITS = {
    "any": claim(parks=True),
    "any more": claim(parks=True, patient=True),
    "key": claim(parks=True, key="item"),
    "own": claim(parks=True, tenants=["x"]),
    "own more": claim(parks=True, patient=True, tenants=["x"]),
    "steal": claim(parks=True, tenants=["y"], steal_from=["x"]),
    "steal more": claim(parks=True, patient=True, tenants=["y"], steal_from=["x"]),
}
"""Claims by the wants under which they park, and which an item of tenant x serves."""


def park(place: Place, process: str, operation: p.Operation[Any]) -> tuple[Park, ...]:
    """Have a process wait, and return its parks."""
    answer = place.do(process, operation)
    assert claimed(answer) == []
    parks: tuple[Park, ...] = answer.parks
    return parks


def gone(place: Place, process: str, parks: tuple[Park, ...], places: int = 0) -> set[Want]:
    """The wants for which a process that asks is to look again."""
    return set(place.do(process, p.Parked(QUEUE, parks, places)))


def served_by(kind: str, parks: tuple[Park, ...]) -> set[Want]:
    return {park.want for park in parks if park.want.kind == kind}


# Items that no process comes for


@pytest.mark.parametrize("kind", WAITS)
def test_a_process_looks_for_itself_if_the_one_that_was_woken_does_not_come(
    place: Place, kind: str
) -> None:
    place.declare(**CAPPED)
    park(place, "b", WAITS[kind])
    parks = park(place, "c", WAITS[kind])
    place.do("a", put("item", tenant="x"))
    assert place.woken() == ["b"]
    place.now += 0.4
    assert gone(place, "c", parks) == set()
    place.now += 0.2
    assert gone(place, "c", parks) == served_by(kind, parks) != set()
    assert place.woken() == []  # it has its answer
    assert claimed(place.do("c", WAITS[kind]))


@pytest.mark.parametrize("kind", sorted({*WAITS} - {"key"}))
def test_a_process_does_not_look_for_what_it_cannot_have(place: Place, kind: str) -> None:
    place.declare(**CAPPED)
    place.do("a", put("first", tenant="x"))
    assert claimed(place.do("a", claim()))
    parks = park(place, "b", WAITS[kind])
    place.do("a", put("item", tenant="x"))  # whose tenant is at its cap
    place.now += 10
    assert gone(place, "b", parks) == set()
    assert place.woken() == []


def test_a_key_that_is_not_ready_is_not_overlooked(place: Place) -> None:
    place.declare()
    parks = park(place, "b", claim(parks=True, key="item"))
    place.do("a", put("item", delay=60))
    place.now += 10
    assert gone(place, "b", parks) == set()


def test_a_cap_is_not_overlooked_but_its_key_is(place: Place) -> None:
    place.declare(**CAPPED)
    place.do("a", put("first", "item", tenant="x"))
    [(first, token)] = claimed(place.do("a", claim()))
    parks = park(place, "b", claim(parks=True, key="item"))
    assert [each.want for each in parks] == [Want("key", "item"), Want("cap", "x")]
    place.now += 10
    assert gone(place, "b", parks) == set()
    place.do("a", p.Ack(QUEUE, first, token))
    assert place.woken() == ["b"]
    assert gone(place, "b", parks) == {Want("key", "item"), Want("cap", "x")}


def test_room_is_seen_by_a_producer_that_was_overlooked(place: Place) -> None:
    place.declare(max_size=2)
    place.do("a", put("one", "two"))
    full = [place.do(process, put("more", "most")) for process in "bc"]
    parks = (Park(Want("room"), full[1].stamp),)
    place.do("a", claim())
    assert place.woken() == ["b"]
    assert gone(place, "c", parks, places=2) == set()
    assert gone(place, "c", parks, places=1) == {Want("room")}
    assert gone(place, "c", parks, places=1) == {Want("room")}  # its park was taken away


def test_a_queue_that_is_left_is_told_to_all_who_wait_for_it(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    parks = {
        process: (Park(Want("drained"), place.do(process, p.Join(QUEUE)).stamp),)
        for process in "bc"
    }
    place.now += 10
    assert gone(place, "b", parks["b"]) == set()
    [(key, token)] = claimed(place.do("a", claim()))
    place.do("a", p.Ack(QUEUE, key, token))
    assert place.woken() == ["b", "c"]
    assert gone(place, "c", parks["c"]) == {Want("drained")}


# Wake-ups that are passed on


@pytest.mark.parametrize("kind", WAITS)
def test_a_wake_up_that_is_not_wanted_goes_to_the_next_process(place: Place, kind: str) -> None:
    place.declare(**CAPPED)
    parks = park(place, "b", WAITS[kind])
    park(place, "c", WAITS[kind])
    place.do("a", put("item", tenant="x"))
    assert place.woken() == ["b"]
    [want] = served_by(kind, parks)
    place.do("b", p.Wake(QUEUE, want))
    assert place.woken() == ["c"]
    place.do("c", p.Wake(QUEUE, want))
    assert place.woken() == []


@pytest.mark.parametrize("kind", WAITS)
def test_a_wake_up_for_what_is_gone_goes_to_no_process(place: Place, kind: str) -> None:
    place.declare(**CAPPED)
    parks = park(place, "b", WAITS[kind])
    park(place, "c", WAITS[kind])
    place.do("a", put("item", tenant="x"))
    assert claimed(place.do("a", claim()))
    place.woken()
    [want] = served_by(kind, parks)
    place.do("b", p.Wake(QUEUE, want))
    assert place.woken() == []


def test_a_wake_up_for_room_goes_to_the_next_producer_while_there_is_room(place: Place) -> None:
    place.declare(max_size=1)
    place.do("a", put("one"))
    for process in "bcd":
        place.do(process, put("more"))
    place.do("a", claim())
    assert place.woken() == ["b"]
    place.do("b", p.Wake(QUEUE, Want("room")))
    assert place.woken() == ["c"]
    place.do("a", put("two"))
    place.woken()
    place.do("c", p.Wake(QUEUE, Want("room")))
    assert place.woken() == []


def test_a_free_slot_goes_to_the_next_process_that_waits_for_it(place: Place) -> None:
    place.declare(**CAPPED)
    place.do("a", put("first", "one", "two", tenant="x"))
    [(first, token)] = claimed(place.do("a", claim()))
    for process, key in (("b", "one"), ("c", "two")):
        park(place, process, claim(parks=True, key=key))
    place.do("a", p.Ack(QUEUE, first, token))
    assert place.woken() == ["b"]
    place.do("b", p.Wake(QUEUE, Want("cap", "x")))
    assert place.woken() == ["c"]


def test_the_end_of_all_items_is_passed_on_to_no_process(place: Place) -> None:
    place.declare()
    park(place, "b", claim(parks=True))
    place.do("a", p.Wake(QUEUE, Want("drained")))
    assert place.woken() == []


# Several tenants


def test_a_process_of_another_tenant_is_woken_if_none_wants_the_next_item(place: Place) -> None:
    place.declare(tenants={name: Tenant() for name in "wxy"})
    for process in "bc":
        park(place, process, claim(parks=True, tenants=["y"]))
    for tenant in "wxy":
        place.do("a", put(f"of-{tenant}", tenant=tenant))
    assert place.woken() == ["b"]
    [(key, _)] = claimed(place.do("a", claim()))
    assert key == "of-w"
    assert place.woken() == ["c"]  # as it is the turn of x


def test_no_process_is_woken_for_a_tenant_that_has_nothing(place: Place) -> None:
    place.declare(tenants={"x": Tenant(1.0), "y": Tenant(1.0)})
    park(place, "b", claim(parks=True, tenants=["y"]))
    place.do("a", put("one", "two", tenant="x"))
    assert claimed(place.do("a", claim()))
    assert place.woken() == []


def test_a_new_cap_frees_slots_for_those_who_wait(place: Place) -> None:
    place.declare(**CAPPED)
    place.do("a", put("first", "second", tenant="x"))
    assert claimed(place.do("a", claim()))
    park(place, "b", claim(parks=True))
    place.do("a", p.SetTenant(QUEUE, "x", Tenant(max_in_flight=2)))
    assert place.woken() == ["b"]


# Processes that are gone


def test_what_a_process_that_is_gone_would_get_goes_to_the_next(place: Place) -> None:
    place.declare()
    for process in "bc":
        park(place, process, claim(parks=True))
    place.leave("b")
    place.do("a", put("item"))
    assert place.woken() == ["c"]
    assert place.rows("SELECT count(*) FROM leaseq_parks") == [(0,)]
