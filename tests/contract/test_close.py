"""`close`, the end at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from anyio import create_task_group, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import Queue, Start, until

from leaseq import LeaseLostError, QueueClosedError, Tenant, serve, serve_batches

pytestmark = pytest.mark.anyio


async def test_a_closed_queue_says_so(queue: Queue) -> None:
    assert not queue.closed
    await queue.close()
    assert queue.closed


async def test_leaving_the_queues_context_closes_it(start: Start) -> None:
    async with await start() as queue:
        await queue.put("a", 1)
    assert queue.closed


async def test_an_error_closes_the_queue_on_its_way_out(start: Start) -> None:
    with pytest.raises(KeyError):
        async with await start() as queue:
            raise KeyError
    assert queue.closed


async def test_a_second_closing_does_nothing(queue: Queue) -> None:
    await queue.close()
    await queue.close()
    assert queue.closed


async def test_nothing_is_put_into_a_closed_queue(queue: Queue) -> None:
    await queue.close()
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.put("a", 1)
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.put_many([("a", 1)])
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.add(1)


async def test_nothing_is_got_from_a_closed_queue(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.close()
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.get()
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.take("a")
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.get(timeout=0)


async def test_leases_are_lost_with_their_queue(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.close()
    assert lease.ended == "lost"
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue.ack(lease)
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue.release(lease)
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue._give_back(lease)
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue.extend(lease, None)
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue.reject(lease, "unreadable")
    with pytest.raises(QueueClosedError, match="its leases are lost"):
        await queue._fail(lease, KeyError())


async def test_closing_wakes_all_who_wait(queue: Queue) -> None:
    woken: list[str] = []

    async def get() -> None:
        with pytest.raises(QueueClosedError, match="closed"):
            await queue.get()
        woken.append("getter")

    async def take() -> None:
        with pytest.raises(QueueClosedError, match="closed"):
            await queue.take("a")
        woken.append("taker")

    async with create_task_group() as tg:
        for consume in (get, take):
            tg.start_soon(consume)
        await until(queue, getters=1, takers=1)
        await queue.close()
    assert sorted(woken) == ["getter", "taker"]


async def test_closing_cancels_the_bodies_of_others(queue: Queue) -> None:
    lost: list[str] = []
    await queue.put_many([("a", 1), ("b", 1)])

    async def consume() -> None:
        with pytest.raises(LeaseLostError):
            async with queue.lease() as lease:
                while True:
                    await checkpoint()
        lost.append(lease.key)

    async with create_task_group() as tg:
        for _ in range(2):
            tg.start_soon(consume)
        await until(queue, leased=2)
        await queue.close()
    assert sorted(lost) == ["a", "b"]


async def loop_of_ones_own(queue: Queue) -> None:
    async for lease in queue:
        async with lease:
            await sleep_forever()


async def handle(lease: object) -> None:
    await sleep_forever()


WORKERS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "loop": loop_of_ones_own,
    "serve": lambda queue: serve(queue, handle, 2),
    "serve_batches": lambda queue: serve_batches(queue, handle, 2),
}


@pytest.mark.parametrize("left", ["nothing", "a delayed item", "one at work", "all at work"])
@pytest.mark.parametrize("worker", WORKERS)
async def test_whoever_works_when_a_queue_is_left_has_one_end(
    start: Start, worker: str, left: str
) -> None:
    ends: list[bool] = []

    async def work(queue: Queue) -> None:
        try:
            await WORKERS[worker](queue)
        except QueueClosedError as error:
            ends.append(error.drained)
        else:
            ends.append(True)

    async with create_task_group() as tg, await start() as queue:
        for _ in range(2):
            tg.start_soon(work, queue)
        waiting = 4 if worker == "serve" else 2
        await until(queue, getters=waiting)
        if left == "a delayed item":
            await queue.put("later", 1, delay=3600.0)
        elif left != "nothing":
            for number in range(1 if left == "one at work" else waiting):
                await queue.put(f"{number}", 1)
                await until(queue, leased=number + 1)
    assert ends == [left == "nothing"] * 2


async def test_nothing_is_told_of_a_tenant_to_a_closed_queue(queue: Queue) -> None:
    await queue.close()
    with pytest.raises(QueueClosedError, match="closed"):
        await queue.set_tenant("ann", Tenant(2))
