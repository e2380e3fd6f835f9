"""Transactions on the server: all steps or none."""

from collections.abc import Iterator

import pytest
from script_calls import Caller, Operation, claim, declare, put, request
from script_dump import dump


@pytest.fixture
def caller(address: tuple[str, int]) -> Iterator[Caller]:
    caller = Caller(address)
    caller.client.flushdb()
    caller.call("manage", declare(1, "q", letters="d", max_size=3, max_deliveries=1))
    caller.call("manage", declare(2, "d"))
    yield caller
    caller.client.close()


def lease(caller: Caller, key: str, queue: int = 1) -> list[str | bytes | int]:
    caller.turn(put(queue, (key, 1)))
    result = caller.turn(claim(queue, request("key", key))).results[0]
    return [queue, f"s{key}", result[3][0][2]]


def transact(caller: Caller, *steps: Operation) -> list[object]:
    parts = [part for step in steps for part in step]
    return caller.one("transact", len(steps), *parts)


def test_all_steps_are_taken(caller: Caller) -> None:
    one, two, three = lease(caller, "a"), lease(caller, "b"), lease(caller, "c")
    result = transact(
        caller,
        ["ack", *one, 0],
        put(2, ("next", 1)),
        ["release", *two, 1, -1, 0, ""],
        ["reject", *three, "bad", "", 0],
    )
    assert result == [b"ok"]
    assert dump(caller).line == ["b"]
    assert len(caller.look("ready", 2, "")) == 4


def test_no_step_is_taken_if_one_fails_and_all_failures_are_told(caller: Caller) -> None:
    one, two = lease(caller, "a"), lease(caller, "b")
    caller.turn(put(1, ("t", 1), tenant="x"))
    before = dump(caller)
    result = transact(
        caller,
        ["ack", *one, 0],
        ["ack", *one, 0],
        ["ack", 1, "sb", 1, 0],
        put(1, ("b", 2), if_in_flight="reject"),
        put(1, ("t", 2), tenant="y"),
        put(1, ("t", 2), tenant="x"),
        put(3, ("t", 2)),
        ["release", *two, 0, -1, 0, ""],
        put(1, ("d", 1)),
        put(1, ("e", 1)),
    )
    told = [[2, b"twice", b""], [3, b"no", b""], [4, b"in_flight", b""], [5, b"tenant", b"=x"]]
    told += [[7, b"gone", b""], [10, b"full", b"3"]]
    assert result == [b"failed", *(part for each in told for part in each)]
    assert dump(caller) == before


def test_a_key_can_be_put_again_once_its_lease_is_settled(caller: Caller) -> None:
    one = lease(caller, "a")
    result = transact(caller, ["ack", *one, 0], put(1, ("a", 2), if_in_flight="reject"))
    assert result == [b"ok"]
    assert dump(caller).items["a"].body == b"2"


def test_an_item_that_dies_makes_no_room_and_takes_none(caller: Caller) -> None:
    one = lease(caller, "a")
    steps = [["release", *one, 0, -1, 1, ""], put(1, ("b", 1), ("c", 1), ("d", 1))]
    assert transact(caller, *steps) == [b"ok"]
    assert dump(caller).line == ["b", "c", "d"]


def test_what_is_put_on_a_leased_key_is_there_when_the_lease_is_settled(caller: Caller) -> None:
    one = lease(caller, "a")
    steps = [put(1, ("a", 2), if_in_flight="buffer"), ["ack", *one, 0], put(1, ("a", 3))]
    assert transact(caller, *steps) == [b"ok"]
    assert dump(caller).items["a"].body == b"3"
