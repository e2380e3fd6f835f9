import pytest

from leaseq._rules.capacity import Capacity


@pytest.fixture
def room() -> Capacity[str]:
    return Capacity(3)


def test_there_is_room_up_to_the_size(room: Capacity[str]) -> None:
    assert [room.free(waiting) for waiting in range(5)] == [True, True, True, False, False]


def test_there_is_room_for_many_only_if_all_of_them_fit(room: Capacity[str]) -> None:
    assert room.free(1, 2)
    assert not room.free(2, 2)


def test_who_waits_is_let_in_as_soon_as_there_is_room(room: Capacity[str]) -> None:
    room.wait("putter", 1)
    assert list(room.admit(3)) == []
    assert list(room.admit(2)) == ["putter"]
    assert room.putters == 0


def test_those_who_wait_are_let_in_first_come_first_served(room: Capacity[str]) -> None:
    for name in ("first", "second", "third"):
        room.wait(name, 1)
    assert list(room.admit(1)) == ["first", "second"]
    assert room.putters == 1


def test_who_waits_for_more_than_there_is_keeps_those_behind_waiting(room: Capacity[str]) -> None:
    room.wait("many", 3)
    room.wait("one", 1)
    assert list(room.admit(1)) == []
    assert list(room.admit(0)) == ["many"]


def test_nobody_passes_those_who_wait(room: Capacity[str]) -> None:
    room.wait("many", 3)
    assert not room.free(0)


def test_a_reserved_place_is_not_free(room: Capacity[str]) -> None:
    room.wait("putter", 2)
    assert list(room.admit(0)) == ["putter"]
    assert room.free(0)
    assert not room.free(1)


def test_a_place_that_is_given_back_is_free(room: Capacity[str]) -> None:
    room.wait("putter", 2)
    assert list(room.admit(0)) == ["putter"]
    room.give_back(2)
    assert room.free(2)


def test_a_place_that_is_given_back_goes_to_the_next(room: Capacity[str]) -> None:
    room.wait("first", 2)
    room.wait("second", 2)
    assert list(room.admit(0)) == ["first"]
    room.give_back(2)
    assert list(room.admit(0)) == ["second"]


def test_who_leaves_is_not_let_in(room: Capacity[str]) -> None:
    room.wait("first", 1)
    room.wait("second", 1)
    assert room.leave("first")
    assert list(room.admit(0)) == ["second"]


def test_who_leaves_is_told_whether_places_are_reserved_for_it(room: Capacity[str]) -> None:
    room.wait("putter", 1)
    assert list(room.admit(0)) == ["putter"]
    assert not room.leave("putter")


def test_who_comes_back_can_be_first(room: Capacity[str]) -> None:
    room.wait("second", 1)
    room.wait("first", 1, first=True)
    assert list(room.admit(2)) == ["first"]


def test_all_can_be_let_go(room: Capacity[str]) -> None:
    room.wait("first", 3)
    room.wait("second", 1)
    assert room.clear() == ["first", "second"]
    assert room.putters == 0
    assert room.free(2)
    assert room.clear() == []
