"""A queue's options, as a store keeps them."""

from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest

from leaseq import Backoff, Retry, Tenant
from leaseq._core.options import BrokerQueueOptions
from leaseq._remote.stored_options import check_options, read_options, write_options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"default_lease_timeout": None, "max_size": inf, "dead_letters": None, "tenants": None},
        {"default_lease_timeout": 1.5, "max_size": 3, "dead_letters": "dead", "history": 7},
        {"retry": Retry(max_deliveries=3)},
        {"retry": Retry(backoff=Backoff(inf, ceiling=inf))},
        {"dedupe_for": inf, "default_lease_timeout": 30.0},
        {"dedupe_for": 3.0},
        {"retry": Retry(backoff=Backoff(1.0, factor=3.0, ceiling=60.0, seed=5))},
        {"group": "shop"},
        {"tenants": {"a": Tenant(), "b": Tenant(weight=2.0, max_in_flight=1)}},
    ],
)
def test_options_come_back_as_they_were(options: BrokerQueueOptions) -> None:
    assert read_options(write_options(options)) == options
    check_options(options)


def test_weights_that_an_older_version_has_kept_are_read_as_the_nearest_that_there_are() -> None:
    stored = b'{"tenants":{"a":[1e308,null],"b":[1e-300,2]}}'
    assert read_options(stored) == {"tenants": {"a": Tenant(1e6), "b": Tenant(1e-6, 2)}}


@pytest.mark.parametrize("value", [timedelta(seconds=1), nan, -inf, b"bytes"])
def test_options_that_cannot_be_kept_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="these options cannot be kept: "):
        check_options({"history": 3, "dedupe_for": value})


def test_options_that_would_come_back_as_others_are_refused_by_their_names() -> None:
    options: Any = {"group": ("shop",), "history": 7, "dead_letters": ("lost",)}
    with pytest.raises(ValueError, match=r"would be kept as others: group, dead_letters$"):
        check_options(options)
