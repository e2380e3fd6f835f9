"""`run`, the timekeeper."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from anyio import BusyResourceError, CancelScope, create_task_group, fail_after, sleep_forever
from tests.contract.helpers import Engine, Queue, others_run, until

from leaseq import Backoff, Retry, TimekeeperNotRunningError, serve

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


NEEDS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "a delay of 5 s needs a timekeeper, or it would never be ready": lambda queue, lease: queue.put(
        "b", 1, delay=5
    ),
    "a lease of 5 s needs a timekeeper, or it would never expire": lambda queue, lease: queue.get(
        lease_timeout=5
    ),
    "a lease of 6 s needs a timekeeper, or it would never expire": lambda queue, lease: (
        queue.extend(lease, 6)
    ),
    "a delay of 5 s needs a timekeeper, or it would never end": lambda queue, lease: queue.release(
        lease, delay=5
    ),
}


@pytest.mark.parametrize(("text", "call"), NEEDS.items())
async def test_what_needs_a_timekeeper_says_so_in_the_same_words(
    engine: Engine, text: str, call: Callable[[Queue, object], Awaitable[object]]
) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match=f"^{text}, and none is running for <"):
        await call(queue, lease)
    assert lease.ended is None


async def test_a_backoff_that_needs_a_timekeeper_says_so(engine: Engine) -> None:
    queue = await engine.queue(retry=Retry(backoff=Backoff(1.0)))
    await queue.put("a", 1)
    text = "^a backoff needs a timekeeper, or it would never end, and none is running for <"
    with pytest.raises(TimekeeperNotRunningError, match=text):
        await queue.get()
