"""`run`, the timekeeper."""

from __future__ import annotations

from functools import partial

import pytest
from anyio import BusyResourceError, CancelScope, create_task_group, fail_after, sleep_forever
from tests.contract.helpers import Engine, Queue, others_run, until

from leaseq import Retry, TimekeeperNotRunningError, serve

pytestmark = pytest.mark.anyio


async def test_a_queue_has_one_timekeeper(queue: Queue) -> None:
    with pytest.raises(BusyResourceError):
        await queue.run()


async def test_the_timekeeper_can_be_started_again_after_it_was_cancelled(engine: Engine) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    for _ in range(2):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            _, _, lease = await queue.get(lease_timeout=3600)
            await queue.release(lease)
            tg.cancel_scope.cancel()


async def test_the_timekeeper_returns_when_the_queue_is_closed(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        await queue.close()


async def test_the_timekeeper_returns_at_the_shutdown_of_an_empty_queue(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.shutdown()


async def test_the_timekeeper_returns_when_all_is_done_after_a_shutdown(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        await queue.shutdown()
        _, _, lease = await queue.get(lease_timeout=3600)
        await queue.ack(lease)


@pytest.mark.needs("advance")
@pytest.mark.parametrize("how", ["expires", "outlives", "hangs", "is revoked"])
async def test_the_timekeeper_returns_however_the_last_item_ends(how: str, engine: Engine) -> None:
    queue = await engine.queue(retry=Retry(max_deliveries=1))
    joined = False

    async def join() -> None:
        nonlocal joined
        await queue.join()
        joined = True

    async def hang(_: object) -> None:
        await sleep_forever()

    with fail_after(100):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            if how == "outlives":
                await queue.put("a", 1, ttl=10)
            else:
                await queue.put("a", 1)
            if how == "hangs":
                await tg.start(partial(serve, queue, hang, 2, lease_timeout=10))
                await until(queue, leased=1)
            elif how in {"expires", "is revoked"}:
                await queue.get(lease_timeout=10, consumer="c")
            tg.start_soon(join)
            await queue.shutdown()
            if how == "is revoked":
                await queue.release_all(consumer="c")
            else:
                await engine.advance(11)
    assert joined


async def test_the_timekeeper_goes_on_until_all_is_done_after_a_shutdown(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        await queue.shutdown()
        await others_run()
        with pytest.raises(BusyResourceError):
            await queue.run()
        tg.cancel_scope.cancel()


async def test_the_timekeeper_of_a_closed_queue_returns_at_once(engine: Engine) -> None:
    queue = await engine.queue()
    await queue.close()
    await queue.run()


async def test_the_timekeeper_can_run_without_a_task_group_of_anyios(engine: Engine) -> None:
    queue = await engine.queue()
    with CancelScope() as scope:
        scope.cancel()
        await queue.run()
    assert scope.cancelled_caught


# A consumer is woken by its own process


@pytest.mark.needs("owned")
async def test_waiting_for_what_falls_due_later_needs_a_timekeeper(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1, delay=10)
        tg.cancel_scope.cancel()
    with pytest.raises(TimekeeperNotRunningError, match="falls due later"):
        await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match="falls due later"):
        await queue.take("a")
