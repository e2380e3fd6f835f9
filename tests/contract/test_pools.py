"""Pools: the length of a lease while its handler runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from anyio import create_task_group, current_time, sleep_forever
from tests.contract.helpers import TIMEOUT, Engine, Queue, in_line

from leaseq import Lease, LeaseBatch, TimekeeperNotRunningError, serve, serve_batches

pytestmark = [pytest.mark.anyio, pytest.mark.needs("advance")]

Work = Callable[[Lease[str, object]], Coroutine[Any, Any, None]]
Pool = Callable[..., Coroutine[Any, Any, None]]


async def one_by_one(queue: Queue, work: Work, **options: Any) -> None:
    await serve(queue, work, **options)


async def in_batches(queue: Queue, work: Work, **options: Any) -> None:
    async def handle(batch: LeaseBatch[str, object]) -> None:
        for lease in batch:
            await work(lease)

    await serve_batches(queue, handle, 2, **options)


each_pool = pytest.mark.parametrize("pool", [one_by_one, in_batches])


@each_pool
async def test_a_heartbeat_does_nothing_for_a_lease_that_never_expires(
    engine: Engine, queue: Queue, pool: Pool
) -> None:
    await queue.put("a", 1)
    await queue.shutdown()
    deadlines: list[float] = []

    async def work(lease: Lease[str, object]) -> None:
        await engine.advance(10 * TIMEOUT)
        deadlines.append(lease.deadline)

    await pool(queue, work, heartbeat=True)
    assert deadlines == [float("inf")]
    assert (await queue.statistics()).acked == 1


@each_pool
@pytest.mark.parametrize("lease_timeout", [None, TIMEOUT])
async def test_a_runtime_bounds_a_handler_whatever_its_lease(
    engine: Engine, queue: Queue, pool: Pool, lease_timeout: float | None
) -> None:
    await queue.put("a", 1)
    await queue.shutdown()
    hung: list[str] = []

    async def work(lease: Lease[str, object]) -> None:
        if lease.deliveries == 1:
            assert lease.deadline <= current_time() + 2 * TIMEOUT
            hung.append(lease.key)
            tg.start_soon(pass_time)
            await sleep_forever()

    async def pass_time() -> None:
        while (await queue.statistics()).acked == 0:
            await engine.advance(TIMEOUT / 2)

    async with create_task_group() as tg:
        options = {"heartbeat": True, "max_runtime": 2 * TIMEOUT, "lease_timeout": lease_timeout}
        await pool(queue, work, **options)
    counts = await queue.statistics()
    assert (hung, counts.expired, counts.acked) == (["a"], 1, 1)


@each_pool
async def test_a_runtime_needs_a_timekeeper_as_a_lease_with_a_timeout_does(
    engine: Engine, pool: Pool
) -> None:
    queue = await engine.queue()
    await queue.put_many([("a", 1), ("b", 2)])

    async def work(lease: Lease[str, object]) -> None:
        raise AssertionError("its runtime has no bound")

    with pytest.raises(TimekeeperNotRunningError, match=r"a lease of 10 s needs a timekeeper"):
        await pool(queue, work, heartbeat=True, max_runtime=10)
    assert await in_line(queue) == ["a", "b"]
    assert (await queue.statistics()).released == 0


async def test_a_lease_that_on_start_makes_endless_is_bounded_too(
    engine: Engine, queue: Queue
) -> None:
    await queue.put("a", 1)
    await queue.shutdown()
    deadlines: list[float] = []

    async def on_start(lease: Lease[str, object]) -> None:
        await lease.extend(None)

    async def work(lease: Lease[str, object]) -> None:
        deadlines.append(lease.deadline)

    options: Any = {"heartbeat": True, "max_runtime": TIMEOUT, "lease_timeout": TIMEOUT}
    await serve(queue, work, on_start=on_start, **options)
    assert deadlines[0] <= current_time() + TIMEOUT
