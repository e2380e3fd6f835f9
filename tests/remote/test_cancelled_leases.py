"""A lease that another process cancels: how its holder hears of it, whatever gets lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio import create_task_group, fail_after, sleep, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import lease_of, until
from tests.remote.engine import Ledgers
from tests.remote.mishaps import Call, exchanges_go_through

from leaseq import LeaseCancelledError, serve
from leaseq._core.errors import ServerUnavailableError
from leaseq._remote.protocol import Batch, Claim

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


def deafen(queue: Any) -> None:
    """Have a handle miss every hint about its leases."""
    queue._engine.doubt_lease = lambda token: None


async def test_a_worker_that_misses_the_hint_hears_with_its_next_heartbeat(
    engine: Ledgers,
) -> None:
    here, there = await engine.handles()
    deafen(here)
    ended: list[float] = []

    async def hang(lease: object) -> None:
        try:
            await sleep_forever()
        finally:
            ended.append(engine._backend.clock())

    async with create_task_group() as tg:
        await tg.start(here.run)
        await tg.start(
            lambda task_status: serve(
                here, hang, 1, heartbeat=True, lease_timeout=30, task_status=task_status
            )
        )
        await here.put("a", 1)
        await until(there, leased=1)
        began = engine._backend.clock()
        await there.cancel("a")
        with fail_after(30):
            while await there.state("a") != "absent":  # noqa: ASYNC110 - another process
                await sleep(0.5)
        tg.cancel_scope.cancel()
    assert ended[0] - began <= 11


async def test_a_holder_without_a_heartbeat_hears_when_it_settles(engine: Ledgers) -> None:
    here, there = await engine.handles()
    deafen(here)
    async with create_task_group() as tg:
        await tg.start(here.run)
        with pytest.raises(LeaseCancelledError, match="late"):
            async with await lease_of(here, "a", 1):
                assert await there.cancel("a", reason="late")
        assert await there.state("a") == "absent"
        tg.cancel_scope.cancel()


async def test_an_item_that_is_cancelled_before_its_claim_is_answered_is_worked_on_by_nobody(
    engine: Ledgers,
) -> None:
    here, there = await engine.handles()
    lost = False

    def way(call: Call) -> Call:
        async def exchange(batch: Batch) -> Any:
            nonlocal lost
            answer = await call(batch)
            if not lost and any(isinstance(each, Claim) for each in batch.operations):
                lost = True
                assert await there.cancel("a", reason="nobody has seen it")
                raise ServerUnavailableError("lost", in_doubt=True)
            return answer

        return exchange

    async with create_task_group() as tg:
        await tg.start(here.run)
        await here.put("a", 1)
        with exchanges_go_through(here, way), pytest.raises(LeaseCancelledError):
            async with here.lease():
                await sleep_forever()
        assert lost
        assert await there.state("a") == "absent"
        tg.cancel_scope.cancel()


async def test_leases_that_are_cancelled_and_forgotten_by_their_holders_are_not_kept_for_ever(
    engine: Ledgers,
) -> None:
    here, there = await engine.handles()
    async with create_task_group() as tg:
        await tg.start(here.run)
        for number in range(200):
            await here.put(f"k{number}", 1)
            await here.get(lease_timeout=10)
            await there.cancel(f"k{number}")
            await sleep(1)
        while (await here.statistics()).leased > 20:
            await checkpoint()
        assert len(here._engine._winding_up) < 100
        tg.cancel_scope.cancel()


def unreachable(_: Call) -> Call:
    """No exchange gets as far as the store."""

    async def exchange(batch: Batch) -> Any:
        raise ServerUnavailableError("away", in_doubt=False)

    return exchange


@pytest.mark.parametrize("then", ["settles again", "closes"])
async def test_a_key_that_could_not_be_freed_is_freed_later(engine: Ledgers, then: str) -> None:
    here, there = await engine.handles()
    lease = await lease_of(here, "a", 1)
    await there.cancel("a")
    with pytest.raises(LeaseCancelledError):
        await lease.extend(None)
    with exchanges_go_through(here, unreachable), pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert await there.state("a") == "leased"
    if then == "closes":
        await here.close()
    else:
        with pytest.raises(LeaseCancelledError):
            await lease.ack()
        assert not here._engine._winding_up
    assert await there.state("a") == "absent"
