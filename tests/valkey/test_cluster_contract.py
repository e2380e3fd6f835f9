"""The Valkey engine on a cluster, held to the contract.

Each test has a prefix of its own, and with it a slot, so that all three primaries have some: a key
that is in another slot than the rest, or that a script was not told of, does not go unnoticed.
"""

from collections.abc import AsyncIterator

import pytest
from tests.servers import Cluster
from tests.valkey.engine import Valkey

from leaseq.testing import contract


@pytest.fixture(params=["cluster"])
def url(shared_cluster: Cluster) -> str:
    return shared_cluster.url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Valkey]:
    made = Valkey(url)
    yield made
    await made.close()


class TestQueues(contract.SharedContract):
    pass


class TestBrokers(contract.SharedBrokerContract):
    pass
