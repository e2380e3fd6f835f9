from math import inf
from typing import Any

import pytest

from leaseq import Priority
from leaseq._core.requests import PutRequest


def test_a_put_without_options_is_not_timed() -> None:
    terms = PutRequest()
    assert (terms.if_in_flight, terms.reschedule) == ("update", "earliest")
    assert (terms.priority, terms.tenant, terms.delay, terms.ttl) == (None, None, 0.0, inf)
    assert not terms.timed


@pytest.mark.parametrize("options", [{"delay": 1}, {"ttl": 1}])
def test_a_delay_or_a_time_to_live_needs_time_to_pass(options: dict[str, Any]) -> None:
    assert PutRequest(**options).timed


@pytest.mark.parametrize("priority", [Priority.HIGH, 4, 17, 0, -3])
def test_a_priority_is_a_plain_number(priority: int) -> None:
    terms = PutRequest(priority=priority)
    assert terms.priority == priority
    assert type(terms.priority) is int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"if_in_flight": "replace"},
            "if_in_flight must be one of 'update', 'reject', 'buffer', not 'replace'",
        ),
        (
            {"reschedule": "never"},
            "reschedule must be one of 'earliest', 'latest', not 'never'",
        ),
        ({"delay": -1}, "delay must be 0 seconds or more, and finite, not -1"),
        ({"delay": float("nan")}, "delay must be 0 seconds or more, and finite, not nan"),
        ({"delay": float("inf")}, "delay must be 0 seconds or more, and finite, not inf"),
        ({"ttl": 0}, "ttl must be more than the delay of 0.0 s, not 0"),
        ({"ttl": 2, "delay": 2}, "ttl must be more than the delay of 2 s, not 2"),
        ({"ttl": float("nan")}, "ttl must be more than the delay of 0.0 s, not nan"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        PutRequest(**options)
    assert str(caught.value) == message
