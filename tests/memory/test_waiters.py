import pytest

from leaseq.memory.waiters import Waiters
from leaseq.values import ANY_KEY


@pytest.fixture
def waiters() -> Waiters[str, str]:
    return Waiters()


def test_nobody_waits_at_first(waiters: Waiters[str, str]) -> None:
    assert (waiters.total, waiters.getters, waiters.takers) == (0, 0, 0)
    assert waiters.pop("key") is None


def test_those_who_take_any_key_are_served_first_come_first_served(
    waiters: Waiters[str, str],
) -> None:
    for name in ("first", "second", "third"):
        waiters.add(name, ANY_KEY)
    assert [waiters.pop(key) for key in "abcd"] == ["first", "second", "third", None]


def test_those_who_want_one_key_are_served_first_come_first_served(
    waiters: Waiters[str, str],
) -> None:
    waiters.add("first", "key")
    waiters.add("second", "key")
    assert [waiters.pop("key") for _ in range(3)] == ["first", "second", None]


def test_one_who_wants_just_that_key_comes_before_an_older_one_who_takes_any(
    waiters: Waiters[str, str],
) -> None:
    waiters.add("getter", ANY_KEY)
    waiters.add("taker", "key")
    assert [waiters.pop("key") for _ in range(3)] == ["taker", "getter", None]


def test_one_who_wants_another_key_is_left_waiting(waiters: Waiters[str, str]) -> None:
    waiters.add("taker", "other")
    assert waiters.pop("key") is None
    assert waiters.total == 1


def test_one_who_comes_back_can_be_first_in_line(waiters: Waiters[str, str]) -> None:
    waiters.add("second", ANY_KEY)
    waiters.add("first", ANY_KEY, first=True)
    assert [waiters.pop("key") for _ in range(2)] == ["first", "second"]


def test_one_who_is_dropped_is_not_served(waiters: Waiters[str, str]) -> None:
    for name in ("first", "second", "third"):
        waiters.add(name, "key")
    waiters.drop("second", "key")
    assert [waiters.pop("key") for _ in range(3)] == ["first", "third", None]


@pytest.mark.parametrize("key", ["key", "other"])
def test_to_drop_one_who_does_not_wait_does_nothing(waiters: Waiters[str, str], key: str) -> None:
    waiters.add("taker", "key")
    waiters.drop("stranger", key)
    assert waiters.total == 1
    assert waiters.pop("key") == "taker"


def test_those_who_wait_are_counted_by_what_they_wait_for(waiters: Waiters[str, str]) -> None:
    waiters.add("getter", ANY_KEY)
    for name, key in [("one", "a"), ("two", "a"), ("three", "b")]:
        waiters.add(name, key)
    assert (waiters.total, waiters.getters, waiters.takers) == (4, 1, 3)
    waiters.pop("a")
    waiters.drop("getter", ANY_KEY)
    assert (waiters.total, waiters.getters, waiters.takers) == (2, 0, 2)


def test_all_who_wait_for_one_key_can_be_taken_out_at_once(waiters: Waiters[str, str]) -> None:
    for name, key in [("one", "a"), ("two", "b"), ("three", "a")]:
        waiters.add(name, key)
    waiters.add("getter", ANY_KEY)
    assert waiters.pop_all("a") == ["one", "three"]
    assert waiters.pop_all("a") == []
    assert (waiters.total, waiters.getters, waiters.takers) == (2, 1, 1)
    assert waiters.clear() == ["two", "getter"]


def test_clear_takes_out_everybody(waiters: Waiters[str, str]) -> None:
    waiters.add("getter", ANY_KEY)
    waiters.add("taker", "key")
    assert sorted(waiters.clear()) == ["getter", "taker"]
    assert waiters.clear() == []
    assert (waiters.total, waiters.getters, waiters.takers) == (0, 0, 0)


def test_the_keys_that_are_waited_for_leave_out_any(waiters: Waiters[str, str]) -> None:
    waiters.add("getter", ANY_KEY)
    for name, key in [("one", "a"), ("two", "b"), ("three", "b")]:
        waiters.add(name, key)
    assert waiters.waited_for() == ["a", "b"]


def test_nothing_is_kept_for_a_key_that_nobody_waits_for_any_more(
    waiters: Waiters[str, str],
) -> None:
    for key in ("popped", "dropped", "popped with all"):
        waiters.add("waiter", key)
    waiters.pop("popped")
    waiters.drop("waiter", "dropped")
    waiters.pop_all("popped with all")
    assert waiters.waited_for() == []
