from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaseq import LeasedKeyQueue
from leaseq._rules.item import Item
from leaseq._rules.moves import Place
from leaseq._rules.ready_list import Ranks, ReadyList

QUEUE: LeasedKeyQueue[str, None] = LeasedKeyQueue()


def item(key: str, token: int = 0) -> Item[str, None]:
    made: Item[str, None] = Item(QUEUE, key, None)
    made._token = token
    return made


def make_line(keys: str) -> ReadyList[str, None]:
    line: ReadyList[str, None] = ReadyList(Ranks())
    for key in keys:
        line.join(item(key), "back")
    return line


def order(line: ReadyList[str, None]) -> str:
    return "".join(each.key for each in line)


def leave_all(line: ReadyList[str, None]) -> str:
    """Take out the first until nothing is left."""
    keys = ""
    while line.items:
        first = line.first()
        line.leave(first)
        keys += first.key
    return keys


def test_who_joins_at_the_back_is_last() -> None:
    line = make_line("abc")
    assert order(line) == leave_all(line) == "abc"


def test_who_joins_at_the_front_is_first() -> None:
    line = make_line("ab")
    for key in "xy":
        line.join(item(key), "front")
    assert order(line) == leave_all(line) == "yxab"


@pytest.mark.parametrize("tokens", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_those_at_their_old_places_are_in_the_order_of_their_tokens(tokens: tuple[int]) -> None:
    line = make_line("a")
    for token in tokens:
        line.join(item(str(token), token), "old")
    assert order(line) == leave_all(line) == "123a"


def test_the_front_is_before_the_old_places() -> None:
    line = make_line("a")
    line.join(item("o", 5), "old")
    line.join(item("f", 6), "front")
    line.join(item("p", 3), "old")
    assert order(line) == leave_all(line) == "fpoa"


def test_who_comes_from_the_front_of_another_line_stays_before_its_old_places_only() -> None:
    line = make_line("a")
    other = make_line("")
    other._ranks = line._ranks
    front = item("f")
    other.join(front, "front")
    line.join(front, "old")
    line.join(item("o", 5), "old")
    line.join(item("g"), "front")
    assert order(line) == leave_all(line) == "gfoa"


def test_anybody_can_leave() -> None:
    line = make_line("ab")
    middle, front = item("o", 5), item("f")
    line.join(middle, "old")
    line.join(front, "front")
    line.leave(middle)
    line.leave(line.items["a"])
    assert order(line) == leave_all(line) == "fb"


def test_a_line_is_special_as_long_as_somebody_is_not_at_the_back() -> None:
    line = make_line("a")
    assert not line.special
    for key in "xy":
        line.join(item(key), "front")
    line.leave(line.first())
    assert line.special
    line.leave(line.first())
    assert not line.special


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(get_args(Place)), st.integers(0, 50)), max_size=100))
def test_whatever_is_done_the_line_is_that_of_a_list(steps: list[Place | int]) -> None:
    line: ReadyList[str, None] = ReadyList(Ranks())
    there: list[tuple[int, int, str]] = []
    for number, step in enumerate(steps, 1):
        key = str(number)
        if step == "front":
            there.append((0, -number, key))
            line.join(item(key), "front")
        elif step == "old":
            token = number * 37 % 101
            there.append((1, token, key))
            line.join(item(key, token), "old")
        elif step == "back":
            there.append((2, number, key))
            line.join(item(key), "back")
        elif there:
            gone = there.pop(int(step) % len(there))
            line.leave(line.items[gone[2]])
        assert [each.key for each in line] == [key for *_, key in sorted(there)]
        if there:
            assert line.first().key == min(there)[2]
