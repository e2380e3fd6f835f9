from typing import Any

import pytest

from leaseq import Backoff, Priority, Retry, Tenant

WEIGHT = "a number from 0.000001 to 1,000,000"


def test_the_priorities_have_the_numbers_one_to_six() -> None:
    names = ("VERY_LOW", "LOW", "NORMAL", "HIGH", "VERY_HIGH", "CRITICAL")
    assert [Priority[name] for name in names] == [1, 2, 3, 4, 5, 6]


# Retry


def test_without_a_limit_no_delivery_is_the_last() -> None:
    assert not Retry().exhausted(10**9)


def test_the_last_delivery_is_the_one_that_reaches_the_limit() -> None:
    retry = Retry(max_deliveries=3)
    assert [retry.exhausted(deliveries) for deliveries in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]


def test_without_a_backoff_there_is_no_rest() -> None:
    assert Retry().delay(10) == 0.0


def test_with_a_backoff_the_rest_is_the_backoff_s() -> None:
    retry, same = (Backoff(1.0, seed=7) for _ in range(2))
    assert Retry(backoff=retry).delay(4) == same.delay(4)


# Backoff


def longest_of(backoff: Backoff, deliveries: int, draws: int = 500) -> float:
    return max(backoff.delay(deliveries) for _ in range(draws))


def test_the_longest_rest_grows_with_each_delivery_up_to_the_ceiling() -> None:
    backoff = Backoff(1.0, factor=3.0, ceiling=10.0, seed=1)
    for deliveries, longest in [(1, 1.0), (2, 3.0), (3, 9.0), (4, 10.0), (50, 10.0)]:
        assert 0.95 * longest < longest_of(backoff, deliveries) <= longest


def test_the_rests_are_spread_evenly_down_to_none() -> None:
    backoff = Backoff(8.0, seed=1)
    draws = [backoff.delay(1) for _ in range(2000)]
    assert min(draws) < 0.1
    assert 3.8 < sum(draws) / len(draws) < 4.2


def test_the_same_seed_gives_the_same_rests() -> None:
    one, same, other = Backoff(1.0, seed=1), Backoff(1.0, seed=1), Backoff(1.0, seed=2)
    draws = [[each.delay(5) for _ in range(5)] for each in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]


def test_backoffs_are_equal_by_what_they_were_told() -> None:
    used = Backoff(1.0, seed=1)
    used.delay(1)
    assert used == Backoff(1.0, seed=1)
    assert used != Backoff(2.0, seed=1)
    assert repr(used) == "Backoff(base=1.0, factor=2.0, ceiling=300.0, seed=1)"


def test_after_any_number_of_deliveries_the_rest_is_at_most_the_ceiling() -> None:
    assert 0 <= longest_of(Backoff(1.0, ceiling=5.0), 10**6) <= 5.0


def test_a_backoff_of_nothing_stays_nothing_after_any_number_of_deliveries() -> None:
    assert longest_of(Backoff(0.0), 10**6) == 0.0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Retry, {"max_deliveries": 0}, "max_deliveries must be 1 or more, or None for ever, not 0"),
        (Backoff, {"base": -1}, "base must be 0 seconds or more, not -1"),
        (Backoff, {"base": float("nan")}, "base must be 0 seconds or more, not nan"),
        (Backoff, {"base": 1, "ceiling": -2}, "ceiling must be 0 seconds or more, not -2"),
        (Backoff, {"base": 1, "factor": 0.5}, "factor must be a number of 1 or more, not 0.5"),
        (
            Backoff,
            {"base": 1, "factor": float("inf")},
            "factor must be a number of 1 or more, not inf",
        ),
        (Tenant, {"weight": 0}, f"weight must be {WEIGHT}, not 0"),
        (Tenant, {"weight": float("nan")}, f"weight must be {WEIGHT}, not nan"),
        (Tenant, {"weight": float("inf")}, f"weight must be {WEIGHT}, not inf"),
        (Tenant, {"max_in_flight": 0}, "max_in_flight must be 1 or more, or None for any, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make(**options)
    assert str(caught.value) == message
