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


class Line:
    """A line of items, and of plain keys that stand for some."""

    def __init__(self, keys: str = "", ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.line: ReadyList[Item[str, None] | str] = ReadyList(self.ranks)
        for key in keys:
            self.join(item(key), "back")

    def join(self, item: Item[str, None], place: Place) -> None:
        self.ranks.give(item, place)
        self.line.insert(item, item._token)

    def leave(self, thing: Item[str, None] | str) -> None:
        self.line.leave(thing, 0 if isinstance(thing, str) else thing._token)

    def order(self) -> list[str]:
        return [key_of(thing) for thing in self.line]

    def leave_all(self) -> list[str]:
        """Take out the first until nothing is left."""
        keys = []
        while self.line:
            first = self.line.first()
            self.leave(first)
            keys.append(key_of(first))
        return keys


def key_of(thing: Item[str, None] | str) -> str:
    return thing if isinstance(thing, str) else thing.key


def test_who_joins_at_the_back_is_last() -> None:
    line = Line("abc")
    assert line.order() == line.leave_all() == ["a", "b", "c"]


def test_who_joins_at_the_front_is_first() -> None:
    line = Line("ab")
    for key in "xy":
        line.join(item(key), "front")
    assert line.order() == line.leave_all() == ["y", "x", "a", "b"]


@pytest.mark.parametrize("tokens", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_those_at_their_old_places_are_in_the_order_of_their_tokens(tokens: tuple[int]) -> None:
    line = Line("a")
    for token in tokens:
        line.join(item(str(token), token), "old")
    assert line.order() == line.leave_all() == ["1", "2", "3", "a"]


def test_the_front_is_before_the_old_places() -> None:
    line = Line("a")
    line.join(item("o", 5), "old")
    line.join(item("f", 6), "front")
    line.join(item("p", 3), "old")
    assert line.order() == line.leave_all() == ["f", "p", "o", "a"]


def test_who_comes_from_the_front_of_another_line_stays_before_its_old_places_only() -> None:
    line = Line("a")
    other = Line(ranks=line.ranks)
    front = item("f")
    other.join(front, "front")
    line.join(front, "old")
    line.join(item("o", 5), "old")
    line.join(item("g"), "front")
    assert line.order() == line.leave_all() == ["g", "f", "o", "a"]


def test_anybody_can_leave() -> None:
    line = Line("a")
    middle, front, back = item("o", 5), item("f"), item("b")
    line.join(middle, "old")
    line.join(front, "front")
    line.join(back, "back")
    line.join(item("c"), "back")
    line.leave(middle)
    line.leave(back)
    assert line.order() == line.leave_all() == ["f", "a", "c"]


def test_a_line_is_special_as_long_as_somebody_is_not_at_the_back() -> None:
    line = Line("a")
    assert not line.line.special
    for key in "xy":
        line.join(item(key), "front")
    line.leave(line.line.first())
    assert line.line.special
    line.leave(line.line.first())
    assert not line.line.special


def test_those_who_join_and_leave_again_and_again_leave_little_behind() -> None:
    line: ReadyList[str] = ReadyList(Ranks())
    for now, key in enumerate(["first", *"abc" * 10_000]):
        if key != "first" and now > 3:
            line.leave(key)
        line.insert(key, 0, now)
    assert [*line] == ["first", *"abc"]
    assert len(line.order) < 200
    assert len(line.times) < 600
    assert len(line._gone) <= 3


def test_those_who_come_and_go_in_turn_leave_little_behind() -> None:
    line: ReadyList[str] = ReadyList(Ranks())
    line.insert("first", 0, 0)
    for now in range(10_000):
        line.insert(str(now), 0, now)
        line.leave(line.first())
    assert len(line) == len(line.order) == 1
    assert len(line.times) < 200


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(get_args(Place)), st.integers(0, 50)), max_size=100))
def test_whatever_is_done_the_line_is_that_of_a_list(steps: list[Place | int]) -> None:
    line = Line()
    there: list[tuple[int, int, str, Item[str, None] | str]] = []
    for number, step in enumerate(steps, 1):
        key = str(number)
        made = item(key, number * 37 % 101)
        if step == "front":
            there.append((0, -number, key, made))
            line.join(made, "front")
        elif step == "old":
            there.append((1, made.token, key, made))
            line.join(made, "old")
        elif step == "back":
            thing = made if number % 3 else f"plain {number % 5}"  # of which others may be gone
            if thing in [gone[3] for gone in there]:
                continue
            there.append((2, number, key_of(thing), thing))
            made._since = number if number % 2 else None
            line.line.insert(_at_the_back(thing), 0, made._since)
        elif there:
            line.leave(there.pop(int(step) % len(there))[3])
        there.sort(key=lambda each: each[:2])
        assert line.order() == [key for _, _, key, _ in there]
        assert len(line.line) == len(there)
        times = [number if place == 2 and number % 2 else None for place, number, *_ in there]
        assert [time for _, time in line.line.with_times()] == times
        back = [number for place, number, *_ in there if place == 2]
        assert line.line.oldest() == (back[0] if back and back[0] % 2 else None)
        if there:
            assert key_of(line.line.first()) == there[0][2]


def _at_the_back(thing: Item[str, None] | str) -> Item[str, None] | str:
    if not isinstance(thing, str):
        thing._token = 0
    return thing
