"""The memory engine, held to the contract."""

from typing import Unpack

import pytest

from leaseq import LeasedKeyQueue
from leaseq.testing import advance, contract


class Memory:
    async def queue(self, **options: Unpack[contract.QueueOptions]) -> LeasedKeyQueue[str, object]:
        return LeasedKeyQueue(**options)

    async def advance(self, seconds: float) -> None:
        await advance(seconds)


@pytest.fixture
def engine() -> contract.Engine:
    return Memory()


class TestInRealTime(contract.Timeless):
    pass


@pytest.mark.virtual_time
class TestInVirtualTime(contract.Contract):
    pass
