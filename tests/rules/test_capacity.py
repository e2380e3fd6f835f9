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
    room.wait("putter", ["putter0"])
    assert list(room.admit(3)) == []
    assert list(room.admit(2)) == ["putter"]
    assert room.putters == 0


def test_those_who_wait_are_let_in_first_come_first_served(room: Capacity[str]) -> None:
    for name in ("first", "second", "third"):
        room.wait(name, [name])
    assert list(room.admit(1)) == ["first", "second"]
    assert room.putters == 1


def test_who_waits_for_more_than_there_is_keeps_those_behind_waiting(room: Capacity[str]) -> None:
    room.wait("many", ["many0", "many1", "many2"])
    room.wait("one", ["one0"])
    assert list(room.admit(1)) == []
    assert list(room.admit(0)) == ["many"]


def test_nobody_passes_those_who_wait(room: Capacity[str]) -> None:
    room.wait("many", ["many0", "many1", "many2"])
    assert not room.free(0)


def test_a_reserved_place_is_not_free(room: Capacity[str]) -> None:
    room.wait("putter", ["putter0", "putter1"])
    assert list(room.admit(0)) == ["putter"]
    assert room.free(0)
    assert not room.free(1)


def test_a_place_that_is_given_back_is_free(room: Capacity[str]) -> None:
    room.wait("putter", ["putter0", "putter1"])
    assert list(room.admit(0)) == ["putter"]
    room.leave("putter")
    assert room.free(2)


def test_a_place_that_is_given_back_goes_to_the_next(room: Capacity[str]) -> None:
    room.wait("first", ["first0", "first1"])
    room.wait("second", ["second0", "second1"])
    assert list(room.admit(0)) == ["first"]
    room.leave("first")
    assert list(room.admit(0)) == ["second"]


def test_who_leaves_is_not_let_in(room: Capacity[str]) -> None:
    room.wait("first", ["first0"])
    room.wait("second", ["second0"])
    assert room.leave("first") == 0
    assert list(room.admit(0)) == ["second"]


def test_who_leaves_gives_back_the_places_reserved_for_it(room: Capacity[str]) -> None:
    room.wait("putter", ["a", "b"])
    assert list(room.admit(0)) == ["putter"]
    assert room.leave("putter") == 2
    assert room.leave("putter") == 0
    assert room.free(0, 3)


def test_who_waits_for_a_key_that_has_come_needs_no_place(room: Capacity[str]) -> None:
    room.wait("other", ["z"])
    room.wait("one", ["a"])
    room.wait("two", ["a", "b"])
    assert list(room.came("a")) == ["one"]
    assert room.leave("one") == 0
    assert list(room.came("b")) == ["two"]
    assert list(room.admit(3)) == []
    assert room.putters == 1


def test_who_waits_for_more_than_one_key_needs_a_place_for_those_that_have_not_come(
    room: Capacity[str],
) -> None:
    room.wait("two", ["a", "b"])
    assert list(room.came("a")) == []
    assert list(room.came("a")) == []
    assert list(room.admit(2)) == ["two"]
    assert room.leave("two") == 1


def test_who_comes_back_can_be_first(room: Capacity[str]) -> None:
    room.wait("second", ["second0"])
    room.wait("first", ["first0"], first=True)
    assert list(room.admit(2)) == ["first"]


def test_all_can_be_let_go(room: Capacity[str]) -> None:
    room.wait("first", ["first0", "first1", "first2"])
    room.wait("second", ["second0"])
    assert room.clear() == ["first", "second"]
    assert room.putters == 0
    assert room.free(2)
    assert room.clear() == []
