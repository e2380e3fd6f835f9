"""The memory engine's broker, held to the contract."""

import pytest

from leaseq import MemoryBroker
from leaseq.testing import advance, contract


class Memory:
    async def broker(self) -> MemoryBroker:
        return MemoryBroker()

    async def advance(self, seconds: float) -> None:
        await advance(seconds)


@pytest.fixture
def engine() -> contract.BrokerEngine:
    return Memory()


class TestInRealTime(contract.TimelessBroker):
    pass


@pytest.mark.virtual_time
class TestInVirtualTime(contract.BrokerContract):
    pass
