"""Nobody waits for what is there: random plans, with all who may wait at a queue."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import BrokerEngine
from tests.contract.wake_ups import World

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers", "advance")]


async def sweep(engine: BrokerEngine, seeds: range) -> None:
    for seed in seeds:
        async with create_task_group() as tg:
            world = World(engine, tg, seed)
            await world.open()
            await world.live(20)
            tg.cancel_scope.cancel()


async def test_nobody_waits_for_what_is_there(engine: BrokerEngine) -> None:
    await sweep(engine, range(600))
