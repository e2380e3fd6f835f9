"""``async for lease in queue``."""

from __future__ import annotations

from contextlib import suppress

import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import Engine, Queue, in_line, until

from leaseq import QueueClosedError

pytestmark = pytest.mark.anyio


async def test_an_iteration_gives_leases_in_the_order_of_the_line(queue: Queue) -> None:
    keys: list[str] = []
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.shutdown()
    async for lease in queue:
        keys.append(lease.key)
        await lease.ack()
    assert keys == ["a", "b", "c"]


async def test_an_iteration_waits_for_more_to_come(queue: Queue) -> None:
    keys: list[str] = []

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                keys.append(lease.key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        for key in ("a", "b"):
            await until(queue, getters=1)
            await queue.put(key, 1)
        await queue.join()
        await queue.shutdown()
    assert keys == ["a", "b"]


async def test_an_iteration_gives_what_was_tried_and_failed_again(queue: Queue) -> None:
    deliveries: list[int] = []
    await queue.put("a", 1)
    await queue.shutdown()
    async for lease in queue:
        with suppress(KeyError):
            async with lease:
                deliveries.append(lease.deliveries)
                if lease.deliveries < 3:
                    raise KeyError
    assert deliveries == [1, 2, 3]


async def test_an_iteration_waits_for_what_others_may_release(queue: Queue) -> None:
    keys: list[str] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.shutdown()

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                keys.append(lease.key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.release(lease)
    assert keys == ["a"]


async def test_an_iteration_of_a_drained_queue_is_empty(queue: Queue) -> None:
    await queue.shutdown()
    assert [lease async for lease in queue] == []


async def test_an_iteration_can_be_broken_off_and_gone_on_with(queue: Queue) -> None:
    keys: list[str] = []
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.shutdown()
    leases = aiter(queue)
    async for lease in leases:
        async with lease:
            keys.append(lease.key)
        break
    async for lease in leases:
        async with lease:
            keys.append(lease.key)
    assert keys == ["a", "b", "c"]


async def test_many_iterations_share_the_items(queue: Queue) -> None:
    keys: list[str] = []

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                await checkpoint()
                keys.append(lease.key)

    await queue.put_many((str(number), number) for number in range(20))
    async with create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(consume)
        await queue.shutdown()
    assert sorted(keys, key=int) == [str(number) for number in range(20)]


async def test_an_iteration_ends_well_if_the_queue_is_closed_when_all_is_done(
    engine: Engine,
) -> None:
    keys: list[str] = []
    queue = await engine.queue()

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                keys.append(lease.key)

    async with create_task_group() as tg, queue:
        await tg.start(queue.run)
        for _ in range(2):
            tg.start_soon(consume)
        await until(queue, getters=2)
        await queue.put("a", 1)
        await queue.shutdown()
        await queue.join()
    assert keys == ["a"]


async def test_an_iteration_of_a_queue_closed_with_work_left_is_an_error(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(QueueClosedError):
        async for _ in queue:
            await queue.close()


async def test_a_cancelled_iteration_has_taken_nothing(queue: Queue) -> None:
    await queue.put("a", 1)
    with CancelScope() as scope:
        scope.cancel()
        await anext(aiter(queue))
    assert await in_line(queue) == ["a"]
