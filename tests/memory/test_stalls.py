"""A stall of the event loop: a function that blocked it, or a pause of the garbage collector."""

from __future__ import annotations

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep_forever
from tests.contract.helpers import each_way, in_line, settle
from tests.support.stalls import block

from leaseq import Lease, LeasedKeyQueue, LeaseLostError, serve
from leaseq.testing import advance

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Queue = LeasedKeyQueue[str, object]


@pytest.fixture
def queue() -> Queue:
    return LeasedKeyQueue(default_lease_timeout=10)


async def test_a_body_that_blocked_the_loop_for_longer_than_its_lease_is_done(queue: Queue) -> None:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        async with queue.lease() as lease:
            await advance(1)
            block(30)
        assert lease.ended == "acked"
        await advance(10)
        statistics = await queue.statistics()
        assert (statistics.acked, statistics.expired) == (1, 0)
        tg.cancel_scope.cancel()


@each_way
@pytest.mark.parametrize("first", ["timekeeper", "consumer"])
async def test_a_lease_is_settled_by_a_task_that_was_to_run_in_time(
    first: str, how: str, queue: Queue
) -> None:
    async def consume(lease: Lease[str, object]) -> None:
        await anyio.sleep_until(9)
        await settle(lease, how)

    async with create_task_group() as tg:
        await queue.put("a", 1)
        await tg.start(queue.run)
        if first == "consumer":
            _, _, lease = await queue.get()
            tg.start_soon(consume, lease)
            await advance(1)
        else:
            _, _, lease = await queue.get()
            await advance(1)
            tg.start_soon(consume, lease)
        block(30)
        await advance(1)
        assert (await queue.statistics()).expired == 0
        assert lease.ended != "lost"
        tg.cancel_scope.cancel()


async def test_a_heartbeat_beats_before_its_lease_expires(queue: Queue) -> None:
    done: list[str] = []

    async def handle(lease: Lease[str, object]) -> None:
        await anyio.sleep(1)
        if lease.key == "a":
            block(30)
        await anyio.sleep(5)
        done.append(lease.key)

    with fail_after(1000):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put_many({"a": 1, "b": 1, "c": 1})
            await queue.shutdown()
            await serve(queue, handle, 3, heartbeat=True)
    assert sorted(done) == ["a", "b", "c"]
    assert (await queue.statistics()).expired == 0


async def test_a_lease_that_nobody_settles_after_a_stall_expires(queue: Queue) -> None:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)

        async def hold() -> None:
            with pytest.raises(LeaseLostError):
                async with queue.lease():
                    await sleep_forever()

        tg.start_soon(hold)
        await advance(1)
        block(30)
        await advance(0)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_what_was_due_during_a_stall_is_handed_out_after_it(queue: Queue) -> None:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1, delay=5)
        await queue.put("b", 1, ttl=5)
        await advance(1)
        block(30)
        await advance(0)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_without_a_timekeeper_a_stall_is_no_excuse(queue: Queue) -> None:
    async with create_task_group() as tg:
        await queue.put("a", 1)
        with CancelScope() as scope:
            await tg.start(queue.run)
            _, _, lease = await queue.get()
            scope.cancel()
        tg.cancel_scope.cancel()
    block(30)
    with pytest.raises(LeaseLostError, match="expired 20 s ago"):
        await lease.ack()
