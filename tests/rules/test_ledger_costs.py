"""What the ledger costs, in calls and never in time, and what it keeps."""

import gc
import random
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any

import pytest

from leaseq import LeasedKeyQueue
from leaseq._core.options import ANY_KEY, AnyKey
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Ledger

AnyLedger = Ledger[Any, Any]
AnyItem = Item[Any, Any]


def make_ledger(keys: str = "") -> AnyLedger:
    ledger: AnyLedger = Ledger(
        Item, LeasedKeyQueue(), first_token=0, bury=lambda _: Burial("dropped")
    )
    for key in keys:
        put(ledger, key, f"{key}1")
    return ledger


def put(ledger: AnyLedger, key: Any, value: Any) -> None:
    ledger.put(key, value, 0, PutRequest())


def try_claim(ledger: AnyLedger, key: Any = ANY_KEY, deadline: float = inf) -> AnyItem | None:
    return ledger.claim(ClaimRequest(key, lease_timeout=None if deadline == inf else deadline), 0)


# The ways in which a lease can end. A timed one has the deadline 10.


def expire(ledger: AnyLedger, item: AnyItem) -> None:
    assert item in list(ledger.tick(10))


def expire_the_second_time(ledger: AnyLedger, item: AnyItem) -> None:
    ledger._timers_of(item).expiries = 1
    expire(ledger, item)


def give_back_the_second_time(ledger: AnyLedger, item: AnyItem) -> None:
    item._cancellations = 1
    ledger.give_back(item, 0)


ENDS: dict[str, Callable[[AnyLedger, AnyItem], object]] = {
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
# What it costs


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
    ledger = make_ledger()
    for key in range(2 * many):
        put(ledger, key, "1")
    item = try_claim(ledger, deadline=10)
    for _ in range(many - 1):
        try_claim(ledger, deadline=20)
    end: Any = ENDS[how]
    return calls(lambda: end(ledger, item))


@pytest.mark.parametrize("how", [name for name in ENDS if name != "close"])
def test_the_end_of_a_lease_costs_the_same_however_much_there_is(how: str) -> None:
    assert one_of_many(how, 1000) <= one_of_many(how, 10)


@pytest.mark.parametrize("key", [ANY_KEY, 5])
def test_a_put_and_a_claim_cost_the_same_however_much_there_is(key: int | AnyKey) -> None:
    def cost(many: int) -> int:
        ledger = make_ledger()
        for number in range(many):
            put(ledger, number, "1")
        return calls(lambda: (put(ledger, many, "1"), try_claim(ledger, key, 10)))

    assert cost(1000) == cost(10)


def test_expiries_cost_the_same_each_however_many_there_are() -> None:
    def cost_of_each(many: int) -> float:
        ledger = make_ledger()
        for key in range(many):
            put(ledger, key, "1")
            ledger.claim_next(0, 10)
        return calls(lambda: list(ledger.tick(10))) / many

    assert cost_of_each(20_000) < 1.2 * cost_of_each(100)


def delayed(many: int) -> Ledger[int, str]:
    ledger: Ledger[int, str] = make_ledger()
    terms = PutRequest(delay=3600)
    for key in range(many):
        ledger.put(key, "1", key / many, terms)
    return ledger


def test_what_is_delayed_costs_nothing_until_it_is_due() -> None:
    def cost(many: int) -> int:
        ledger = delayed(many)

        def work() -> None:
            ledger.put(-1, "1", 10, PutRequest())
            item = ledger.claim(ClaimRequest(lease_timeout=10), 10)
            assert item is not None
            ledger.ack(item, 11)
            assert list(ledger.tick(20)) == []
            assert ledger.next_deadline() == 3600

        return calls(work)

    assert cost(100_000) <= cost(10)


def test_what_is_delayed_can_be_changed_at_the_same_cost_however_much_there_is() -> None:
    def cost(many: int) -> int:
        ledger = delayed(many)
        return calls(
            lambda: ledger.put(many // 2, "2", 10, PutRequest(reschedule="latest", delay=9))
        )

    assert cost(100_000) <= cost(10)


def test_dropping_what_is_delayed_costs_the_same_each_however_much_there_is() -> None:
    def cost_of_each(many: int) -> float:
        ledger = delayed(many)
        return calls(ledger.drain) / many

    assert cost_of_each(50_000) < 1.2 * cost_of_each(1000)


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
        put(ledger, now, value)
        item = try_claim(ledger, deadline=now + 3600)
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
    ledger = make_ledger()
    alive = work_through(ledger, 200_000)
    assert ledger.acked == 200_000
    assert len(alive) <= 64  # what is not worth sweeping yet
    assert ledger.next_deadline() == inf
    assert len(alive) == 0


def test_a_lease_that_is_extended_again_and_again_has_one_deadline_to_remember() -> None:
    ledger = make_ledger("ab")
    item, _ = (try_claim(ledger, deadline=10**6) for _ in "ab")
    assert item is not None
    for now in range(10_000):
        ledger.extend(item, now, now + 10)
    assert len(ledger._deadlines) == 2
    assert len(ledger._deadlines._entries) <= 64


@pytest.mark.parametrize("how", ENDS)
def test_an_ended_lease_keeps_nothing_alive(how: str) -> None:
    ledger = make_ledger()
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    end: Any = ENDS[how]
    for _ in range(1000):
        value = Value()
        alive.add(value)
        put(ledger, "a", value)
        item = try_claim(ledger, deadline=10)
        end(ledger, item)
        ledger.drain()
        del value, item
    assert len(alive) <= 64
    assert ledger.next_deadline() == inf
    assert len(alive) == 0


# Priorities that are all different: points in time, for instance


def bytes_an_item(priorities: list[int | None]) -> float:
    """What items take in memory, with their keys and priorities."""
    queue: LeasedKeyQueue[str, None] = LeasedKeyQueue()
    gc.collect()
    tracemalloc.start()
    try:
        for number, priority in enumerate(priorities):
            own = None if priority is None else priority + 10**12  # an object of its own
            queue.put_nowait(f"key-{number}", None, priority=own)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / len(priorities)
    finally:
        tracemalloc.stop()


def test_an_item_of_a_priority_of_its_own_takes_little_more_memory() -> None:
    same = bytes_an_item([7] * 20_000)
    for priorities in (range(20_000), range(20_000, 0, -1)):
        assert bytes_an_item([*priorities]) < 1.4 * same


def test_priorities_that_are_all_different_are_handed_out_from_the_highest_down() -> None:
    ledger = make_ledger()
    priorities = random.Random(1).sample(range(-500, 500), 1000)
    for priority in priorities:
        ledger.put(priority, None, 0, PutRequest(priority=priority))
    ledger.put(priorities[0] + 1, None, 0, PutRequest(priority=2000))
    items = [try_claim(ledger) for _ in priorities]
    keys = [item.key for item in items if item is not None]
    assert keys == [priorities[0] + 1, *(p for p in range(499, -501, -1) if p != priorities[0] + 1)]


def test_priorities_that_come_and_go_behind_a_higher_one_leave_nothing_behind() -> None:
    ledger = make_ledger()
    ledger.put("first", None, 0, PutRequest(priority=10**6))
    for priority in range(10_000):
        ledger.put("later", None, 0, PutRequest(priority=priority))
        ledger.discard("later")
    assert ledger.schedule is not None
    assert len(ledger.schedule._accounts[None].priorities) <= 64
