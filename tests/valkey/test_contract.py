"""The Valkey engine, held to the contract."""

from collections.abc import AsyncIterator

import pytest
from tests.servers import Server
from tests.valkey.engine import Valkey

from leaseq.testing import contract


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(server.url)
    yield made
    await made.close()


class TestQueues(contract.SharedContract):
    pass


class TestBrokers(contract.SharedBrokerContract):
    pass
