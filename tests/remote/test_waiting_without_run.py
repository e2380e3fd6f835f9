"""Tasks of a broker without a `run`, which lead in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep
from tests.remote.ledger_store import LedgerBackend

from leaseq._remote.broker import RemoteBroker

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@asynccontextmanager
async def two_handles() -> AsyncIterator[tuple[Any, Any]]:
    """A full queue, here without a `run`, and as another process has it."""
    backend = LedgerBackend()
    here = RemoteBroker(backend.open, place="here")
    there = RemoteBroker(backend.open, place="there")
    with fail_after(600):
        async with here, there:
            queue = await here.queue("work", max_size=1)
            await queue.put("first", 1)
            yield queue, await there.queue("work")


async def test_a_producer_gets_its_room_though_the_one_that_led_has_left() -> None:
    async with two_handles() as (here, there), create_task_group() as tg:
        scope = CancelScope()

        async def leave() -> None:
            with scope:
                await here.put("second", 2)

        tg.start_soon(leave)
        await sleep(1)
        tg.start_soon(here.put, "third", 3)
        await sleep(1)
        scope.cancel()
        await sleep(1)
        _, _, lease = await there.get()
        await lease.ack()
        assert (await there.get())[0] == "third"


async def test_who_joins_sees_the_end_though_the_one_that_led_has_left() -> None:
    async with two_handles() as (here, there), create_task_group() as tg:
        scope = CancelScope()

        async def leave() -> None:
            with scope:
                await here.join()

        tg.start_soon(leave)
        await sleep(1)
        tg.start_soon(here.join)
        await sleep(1)
        scope.cancel()
        await sleep(1)
        _, _, lease = await there.get()
        await lease.ack()
