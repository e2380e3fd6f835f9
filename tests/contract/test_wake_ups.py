"""Nobody waits for what is there: random plans, with all who may wait at a queue."""

from __future__ import annotations

import pytest
from tests.contract.helpers import BrokerEngine
from tests.contract.wake_ups import sweep

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers", "advance", "owned")]


async def test_nobody_waits_for_what_is_there(engine: BrokerEngine) -> None:
    await sweep(engine, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 10_100, 1000))
async def test_nobody_waits_for_what_is_there_in_ten_thousand_plans(
    engine: BrokerEngine, first: int
) -> None:
    await sweep(engine, range(first, first + 1000))
