import random
from collections import deque
from collections.abc import Iterable
from itertools import islice
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from leaseq._core.heap import Deadlines


class Thing:
    __slots__ = ("_deadline", "_ended")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._ended: str | None = None


def remember(deadlines: Deadlines[Thing], *times: float) -> list[Thing]:
    things = [Thing(time) for time in times]
    for thing in things:
        deadlines.add(thing._deadline, thing)
    return things


def end(deadlines: Deadlines[Thing], things: Iterable[Thing]) -> None:
    for thing in things:
        thing._ended = "over"
        deadlines.drop(thing)


def move(deadlines: Deadlines[Thing], thing: Thing, deadline: float) -> None:
    deadlines.drop(thing)
    thing._deadline = deadline
    deadlines.add(thing._deadline, thing)


def due(deadlines: Deadlines[Thing], now: float) -> list[Thing]:
    """What is due, each ended as it is given."""
    given = []
    for thing in deadlines.pop_due(now):
        thing._ended = "over"
        given.append(thing)
    return given


def kept(deadlines: Deadlines[Thing]) -> int:
    return len(deadlines._entries)


@pytest.fixture
def deadlines() -> Deadlines[Thing]:
    return Deadlines()


# What is due


def test_with_nothing_remembered_nothing_ever_falls_due(deadlines: Deadlines[Thing]) -> None:
    assert deadlines.next() == inf
    assert due(deadlines, 1e9) == []
    assert len(deadlines) == 0


def test_the_next_deadline_is_the_earliest(deadlines: Deadlines[Thing]) -> None:
    remember(deadlines, 3, 1, 2)
    assert deadlines.next() == 1


def test_what_is_due_is_given_earliest_first(deadlines: Deadlines[Thing]) -> None:
    three, one, two = remember(deadlines, 3, 1, 2)
    assert due(deadlines, 3) == [one, two, three]


def test_equal_deadlines_are_given_in_the_order_of_their_adding(
    deadlines: Deadlines[Thing],
) -> None:
    things = remember(deadlines, 1, 1, 1)
    assert due(deadlines, 1) == things


def test_a_deadline_is_due_at_its_very_time(deadlines: Deadlines[Thing]) -> None:
    things = remember(deadlines, 5.0)
    assert due(deadlines, 4.999) == []
    assert due(deadlines, 5.0) == things


def test_what_is_due_later_stays(deadlines: Deadlines[Thing]) -> None:
    _, later = remember(deadlines, 1, 2)
    due(deadlines, 1)
    assert len(deadlines) == 1
    assert due(deadlines, 2) == [later]


def test_what_was_given_is_forgotten(deadlines: Deadlines[Thing]) -> None:
    remember(deadlines, 1)
    due(deadlines, 1)
    assert due(deadlines, 1) == []
    assert len(deadlines) == kept(deadlines) == 0


def test_what_is_due_can_be_taken_a_slice_at_a_time(deadlines: Deadlines[Thing]) -> None:
    things = remember(deadlines, *range(5))
    for thing in islice(deadlines.pop_due(9), 2):
        thing._ended = "over"
    assert len(deadlines) == 3
    assert due(deadlines, 9) == things[2:]


# What is dropped


@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_was_dropped_is_never_given(deadlines: Deadlines[Thing], index: int) -> None:
    things = remember(deadlines, 1, 2, 3)
    end(deadlines, [things.pop(index)])
    assert len(deadlines) == 2
    assert deadlines.next() == things[0]._deadline
    assert due(deadlines, 9) == things


def test_a_new_deadline_takes_the_place_of_the_old_one(deadlines: Deadlines[Thing]) -> None:
    first, second = remember(deadlines, 1, 2)
    move(deadlines, first, 3)
    assert len(deadlines) == 2
    assert deadlines.next() == 2
    assert due(deadlines, 9) == [second, first]


def test_a_new_deadline_can_be_earlier(deadlines: Deadlines[Thing]) -> None:
    first, second, _ = remember(deadlines, 1, 3, 4)
    move(deadlines, second, 0)
    assert due(deadlines, 1) == [second, first]


def test_a_thing_that_gets_the_same_deadline_again_is_given_once(
    deadlines: Deadlines[Thing],
) -> None:
    thing, other = remember(deadlines, 1, 2)
    move(deadlines, thing, 1)
    assert len(deadlines) == 2
    assert due(deadlines, 9) == [thing, other]
    assert len(deadlines) == kept(deadlines) == 0


def test_a_thing_that_gets_an_old_deadline_back_is_given_once(
    deadlines: Deadlines[Thing],
) -> None:
    thing, other = remember(deadlines, 1, 2)
    move(deadlines, thing, 5)
    move(deadlines, thing, 1)
    assert len(deadlines) == 2
    assert due(deadlines, 9) == [thing, other]


def test_a_thing_that_got_an_old_deadline_back_can_be_dropped(
    deadlines: Deadlines[Thing],
) -> None:
    thing, other = remember(deadlines, 1, 2)
    move(deadlines, thing, 5)
    move(deadlines, thing, 1)
    end(deadlines, [thing])
    assert len(deadlines) == 1
    assert due(deadlines, 9) == [other]


def test_a_sweep_keeps_a_thing_that_got_an_old_deadline_back_once(
    deadlines: Deadlines[Thing],
) -> None:
    thing, *others = remember(deadlines, *range(200))
    move(deadlines, thing, 500)
    move(deadlines, thing, 0)
    end(deadlines, others[:150])
    assert len(deadlines) == 50
    assert due(deadlines, 999) == [thing, *others[150:]]


# What is kept


def test_a_million_deadlines_that_were_dropped_leave_nothing_behind(
    deadlines: Deadlines[Thing],
) -> None:
    most = 0
    waiting: deque[Thing] = deque()
    for time in range(1_000_000):
        thing = Thing(time + 3600.0)
        deadlines.add(thing._deadline, thing)
        waiting.append(thing)
        if len(waiting) == 100:
            first = waiting.popleft()
            first._ended = "over"
            deadlines.drop(first)
            most = max(most, len(deadlines._entries))
    end(deadlines, waiting)
    assert most <= 200
    assert len(deadlines) == 0
    assert kept(deadlines) <= 64


@pytest.mark.parametrize("order", ["first to last", "last to first", "both ends", "at random"])
def test_whatever_the_order_of_the_drops_little_more_is_kept_than_is_alive(
    deadlines: Deadlines[Thing], order: str
) -> None:
    things = remember(deadlines, *range(2000))
    if order == "last to first":
        things.reverse()
    elif order == "both ends":
        things[1000:] = reversed(things[1000:])
    elif order == "at random":
        random.Random(1).shuffle(things)
    for thing in things:
        end(deadlines, [thing])
        assert kept(deadlines) <= 2 * len(deadlines) + 64
    assert len(deadlines) == 0


def test_what_falls_due_takes_the_dropped_ones_behind_it_along(
    deadlines: Deadlines[Thing],
) -> None:
    remember(deadlines, *range(1000), 1500)
    later = remember(deadlines, *range(2000, 3000))
    end(deadlines, later)
    due(deadlines, 1000)
    assert len(deadlines) == 1
    assert kept(deadlines) <= 64


def test_moving_one_deadline_again_and_again_keeps_one(deadlines: Deadlines[Thing]) -> None:
    thing, _ = remember(deadlines, 0, 1_000_000)
    for time in range(10_000):
        move(deadlines, thing, time)
    assert len(deadlines) == 2
    assert kept(deadlines) <= 64


# All of it, against a list


class DeadlinesAgainstAList(RuleBasedStateMachine):
    """The things that are remembered, in any order: what is due is found by looking at all."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: Deadlines[Thing] = Deadlines()
        self.things: list[Thing] = []

    times = st.integers(0, 20)
    picks = st.lists(st.integers(0, 1000), max_size=40)

    def pick(self, numbers: list[int]) -> list[Thing]:
        chosen = {number % len(self.things) for number in numbers if self.things}
        return [self.things[index] for index in sorted(chosen)]

    @rule(times=st.lists(times, max_size=40))
    def add(self, times: list[int]) -> None:
        self.things += remember(self.deadlines, *times)

    @rule(numbers=picks, backwards=st.booleans())
    def drop(self, numbers: list[int], backwards: bool) -> None:
        gone = self.pick(numbers)
        end(self.deadlines, gone[::-1] if backwards else gone)
        self.things = [thing for thing in self.things if thing not in gone]

    @rule(numbers=picks, time=times)
    def move(self, numbers: list[int], time: int) -> None:
        for thing in self.pick(numbers):
            move(self.deadlines, thing, time)

    @rule(now=times, most=st.integers(0, 50))
    def give(self, now: int, most: int) -> None:
        expected = sorted(thing._deadline for thing in self.things if thing._deadline <= now)[:most]
        given = []
        for thing in islice(self.deadlines.pop_due(now), most):
            self.things.remove(thing)  # which raises if it is given twice
            thing._ended = "over"
            given.append(thing._deadline)
        assert given == expected

    @invariant()
    def as_many_are_remembered(self) -> None:
        assert len(self.deadlines) == len(self.things)

    @invariant()
    def the_next_is_the_earliest(self) -> None:
        assert self.deadlines.next() == min((thing._deadline for thing in self.things), default=inf)


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_deadlines_do_what_a_list_of_them_does(examples: int) -> None:
    run_state_machine_as_test(
        DeadlinesAgainstAList,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, derandomize=True
        ),
    )
