from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaseq._core.heap import Heap


class Thing:
    """Something with a number, or, once it is of no interest, with none."""

    def __init__(self, number: float) -> None:
        self.number: float | None = number


def make_heap(*things: Thing) -> Heap[Thing]:
    heap: Heap[Thing] = Heap(lambda number, thing: thing.number == number)
    for thing in things:
        add(heap, thing)
    return heap


def add(heap: Heap[Thing], thing: Thing) -> None:
    assert thing.number is not None
    heap.add(thing.number, thing)


def drop(heap: Heap[Thing], thing: Thing) -> None:
    heap.drop(thing)
    thing.number = None


def pop_all(heap: Heap[Thing]) -> Iterator[Thing]:
    while (first := heap.first()) is not None:
        popped = heap.pop()
        assert popped is first[1]
        popped.number = None
        yield popped


def test_an_empty_heap_has_no_first() -> None:
    heap = make_heap()
    assert heap.first() is None
    assert len(heap) == 0


def test_the_first_is_the_one_with_the_smallest_number() -> None:
    things = [Thing(number) for number in (3, 1, 2)]
    heap = make_heap(*things)
    assert heap.first() == (1, things[1])
    assert heap.first() == (1, things[1])
    assert len(heap) == 3


def test_things_come_out_in_the_order_of_their_numbers() -> None:
    three, one, two = (Thing(number) for number in (3, 1, 2))
    assert list(pop_all(make_heap(three, one, two))) == [one, two, three]


def test_of_equal_numbers_the_one_that_was_added_first_comes_first() -> None:
    things = [Thing(1) for _ in range(5)]
    assert list(pop_all(make_heap(*things))) == things


@pytest.mark.parametrize("index", range(5))
def test_what_was_dropped_does_not_come(index: int) -> None:
    things = [Thing(number) for number in (1, 2, 3, 4, 5)]
    heap = make_heap(*things)
    drop(heap, things.pop(index))
    assert len(heap) == 4
    assert list(pop_all(heap)) == things


def test_a_thing_with_a_new_number_comes_once_in_its_new_place() -> None:
    things = [Thing(number) for number in (1, 2, 3, 4, 5)]
    heap = make_heap(*things)
    moved = things[2]
    drop(heap, moved)
    moved.number = 9
    add(heap, moved)
    assert len(heap) == 5
    assert [thing.number for thing in things] == [1, 2, 9, 4, 5]
    assert list(pop_all(heap)) == [*things[:2], *things[3:], moved]


@pytest.mark.parametrize(
    "which", [slice(None), slice(None, None, -1), slice(1, -1)], ids=["all", "backwards", "inner"]
)
def test_what_was_dropped_is_swept_before_there_is_more_of_it_than_of_the_rest(
    which: slice,
) -> None:
    things = [Thing(number) for number in range(1000)]
    heap = make_heap(*things)
    for thing in things[which]:
        drop(heap, thing)
        assert len(heap._entries) <= 2 * len(heap) + 64


def test_what_was_dropped_is_swept_also_when_the_living_are_taken_out() -> None:
    things = [Thing(number) for number in range(1000)]
    heap = make_heap(*things)
    for thing in things[501:-1]:
        drop(heap, thing)
    taken = pop_all(heap)
    for _ in range(400):
        next(taken)
        assert len(heap._entries) <= 2 * len(heap) + 64


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "drop", "move", "pop"]), st.integers(0, 99)),
        max_size=150,
    )
)
def test_whatever_is_done_the_first_is_the_smallest_of_those_that_are_there(
    steps: list[tuple[str, int]],
) -> None:
    heap = make_heap()
    there: list[Thing] = []
    for step, number in steps:
        if step == "add":
            there.append(Thing(number % 10))
            add(heap, there[-1])
        elif not there:
            continue
        elif step == "drop":
            drop(heap, there.pop(number % len(there)))
        elif step == "move":
            thing = there[number % len(there)]
            drop(heap, thing)
            thing.number = number % 10
            add(heap, thing)
        else:
            first = heap.first()
            assert first is not None
            assert first[0] == min(thing.number or 0 for thing in there)
            there.remove(first[1])
            assert heap.pop() is first[1]
            first[1].number = None
        assert len(heap) == len(there)
    assert len(list(pop_all(heap))) == len(there)
