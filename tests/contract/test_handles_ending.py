"""`shutdown`, `join` and `close` of one of two handles: each ends by itself."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import Handles, SharedEngine, Waiting, in_line, others_run, until

from leaseq import PutOutcome, QueueClosedError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("handles")]


async def test_a_join_waits_for_what_others_hold(both: Handles) -> None:
    one, other = both
    happened: list[str] = []

    async def join() -> None:
        await one.join()
        happened.append("joined")

    await other.put("a", 1)
    _, _, lease = await other.get()
    async with create_task_group() as tg:
        tg.start_soon(join)
        await others_run()
        happened.append("done")
        await lease.ack()
    assert happened == ["done", "joined"]


async def test_a_shutdown_of_the_one_leaves_the_others_puts(both: Handles) -> None:
    one, other = both
    await one.shutdown()
    with pytest.raises(QueueClosedError):
        await one.put("a", 1)
    assert await other.put("a", 1) is PutOutcome.ADDED
    assert await in_line(other) == ["a"]


async def test_a_shutdown_of_the_one_leaves_the_others_consumers_waiting(both: Handles) -> None:
    one, other = both
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.get("getter")
        await one.shutdown()
        await others_run()
        await other.put("a", 1)
    assert waiting.got == {"getter": "a"}


async def test_who_is_shut_down_consumes_until_the_whole_queue_is_drained(both: Handles) -> None:
    one, other = both
    await other.put_many([("a", 1), ("b", 1)])
    await one.shutdown()
    _, _, lease = await one.get()
    await lease.ack()
    _, _, lease = await other.get()

    async def consume() -> None:
        with pytest.raises(QueueClosedError) as caught:
            await one.get()
        assert caught.value.drained

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(one, getters=1)
        await lease.ack()


async def test_closing_the_one_leaves_the_queue_open(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    await one.close()
    assert (one.closed, other.closed) == (True, False)
    with pytest.raises(QueueClosedError):
        await one.put("b", 1)
    await other.put("b", 1)
    assert await in_line(other) == ["a", "b"]


async def test_closing_the_one_gives_its_leases_to_the_other(both: Handles) -> None:
    one, other = both
    await one.put_many([("a", 1), ("b", 1)])
    _, _, lost = await one.get()
    await one.close()
    assert lost.ended == "lost"
    _, _, lease = await other.get(timeout=0)
    assert (lease.key, lease.deliveries) == ("a", 1)


async def test_closing_the_one_wakes_the_others_consumers_for_its_items(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    await one.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.get("getter")
        await one.close()
    assert waiting.got == {"getter": "a"}


async def test_closing_the_one_leaves_the_others_leases(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    async with other.lease() as lease:
        await one.close()
        await checkpoint()
    assert lease.ended == "acked"


async def test_who_waits_without_a_timekeeper_is_woken_by_the_other(engine: SharedEngine) -> None:
    one, other = await engine.handles()
    async with create_task_group() as tg:
        waiting = Waiting(tg, one)
        await waiting.get("getter")
        await waiting.take("taker", "b")
        await other.put("a", 1)
        await other.put("b", 1)
    assert waiting.got == {"getter": "a", "taker": "b"}
