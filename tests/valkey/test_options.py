"""A queue's options, as the server keeps them."""

from math import inf

import pytest

from leaseq import Backoff, Retry, Tenant
from leaseq._core.options import BrokerQueueOptions
from leaseq._valkey.options import read_options, write_options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"default_lease_timeout": None, "max_size": inf, "dead_letters": None, "tenants": None},
        {"default_lease_timeout": 1.5, "max_size": 3, "dead_letters": "dead", "history": 7},
        {"retry": Retry(max_deliveries=3)},
        {"retry": Retry(backoff=Backoff(1.0, factor=3.0, ceiling=60.0, seed=5))},
        {"tenants": {"a": Tenant(), "b": Tenant(weight=2.0, max_in_flight=1)}},
    ],
)
def test_options_come_back_as_they_were(options: BrokerQueueOptions) -> None:
    assert read_options(write_options(options)) == options
