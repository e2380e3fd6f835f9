"""The end of a queue in good order: `shutdown` and `join`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import Queue, in_line, others_run, until

from leaseq import QueueClosedError

pytestmark = pytest.mark.anyio


async def test_nothing_is_put_after_a_shutdown(queue: Queue) -> None:
    await queue.shutdown()
    with pytest.raises(QueueClosedError, match="accepts no more items"):
        await queue.put("a", 1)
    with pytest.raises(QueueClosedError, match="accepts no more items"):
        await queue.put_many([("a", 1)])
    with pytest.raises(QueueClosedError, match="accepts no more items"):
        await queue.add(1)


CALLS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "put": lambda queue: queue.put("a", 1),
    "put_many": lambda queue: queue.put_many([("a", 1)]),
    "get": lambda queue: queue.get(),
    "take": lambda queue: queue.take("a"),
    "get_batch": lambda queue: queue.get_batch(2),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("end", ["shutdown", "close"])
async def test_calls_that_are_refused_give_others_a_turn(queue: Queue, call: str, end: str) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with create_task_group() as tg:
        await (queue.shutdown() if end == "shutdown" else queue.close())
        tg.start_soon(count_turns)
        for _ in range(100):
            with pytest.raises(QueueClosedError):
                await CALLS[call](queue)
        assert turns > 1
        tg.cancel_scope.cancel()


async def test_nothing_is_updated_after_a_shutdown(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.shutdown()
    with pytest.raises(QueueClosedError):
        await queue.put("a", 2)
    assert await queue.peek("a") == 1


async def test_a_second_shutdown_does_nothing(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.shutdown()
    await queue.shutdown()
    assert await in_line(queue) == ["a"]


async def test_a_shutdown_is_no_closing(queue: Queue) -> None:
    await queue.shutdown()
    assert not queue.closed


async def test_what_is_there_can_be_got_after_a_shutdown(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.shutdown()
    _, _, lease = await queue.get()
    await queue.ack(lease)
    _, _, lease = await queue.take("b")
    await queue.ack(lease)
    with pytest.raises(QueueClosedError, match="drained"):
        await queue.get()


async def test_leases_go_on_after_a_shutdown(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.shutdown()
    await queue.extend(lease, 3600)
    await queue.release(lease)
    _, _, again = await queue.get()
    assert await queue.ack(again) is False


async def test_a_shutdown_of_an_empty_queue_wakes_all_who_wait(queue: Queue) -> None:
    woken: list[str] = []

    async def get() -> None:
        with pytest.raises(QueueClosedError):
            await queue.get()
        woken.append("getter")

    async def take() -> None:
        with pytest.raises(QueueClosedError):
            await queue.take("a")
        woken.append("taker")

    async with create_task_group() as tg:
        for consume in (get, get, take):
            tg.start_soon(consume)
        await until(queue, getters=2, takers=1)
        await queue.shutdown()
    assert sorted(woken) == ["getter", "getter", "taker"]


async def test_the_last_ack_wakes_all_who_wait_after_a_shutdown(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def consume() -> None:
        with pytest.raises(QueueClosedError, match="drained"):
            await queue.get()

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.shutdown()
        assert (await queue.statistics()).getters == 1
        await queue.ack(lease)


async def test_a_taker_gets_its_key_after_a_shutdown_if_it_is_released(queue: Queue) -> None:
    got: list[str] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.shutdown()

    async def consume() -> None:
        async with queue.lease(key="a") as lease:
            got.append(lease.key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.release(lease)
    assert got == ["a"]


async def test_a_buffered_item_comes_after_a_shutdown(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.shutdown()
    await queue.ack(lease)
    _, value, _ = await queue.take("a")
    assert value == 2


# Join


async def test_joining_an_empty_queue_returns(queue: Queue) -> None:
    await queue.join()


async def test_a_join_waits_until_the_last_item_is_done(queue: Queue) -> None:
    happened: list[str] = []
    await queue.put_many([("a", 1), ("b", 1)])

    async def join() -> None:
        await queue.join()
        happened.append("joined")

    async with create_task_group() as tg:
        tg.start_soon(join)
        async with queue.lease():
            await checkpoint()
            happened.append("first")
        async with queue.lease():
            await checkpoint()
            happened.append("second")
    assert happened == ["first", "second", "joined"]


async def test_a_join_waits_for_what_is_released(queue: Queue) -> None:
    joined = False
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def join() -> None:
        nonlocal joined
        await queue.join()
        joined = True

    async with create_task_group() as tg:
        tg.start_soon(join)
        await others_run()
        await queue.release(lease)
        _, _, lease = await queue.get()
        assert not joined
        await queue.ack(lease)


async def test_a_join_waits_for_what_is_buffered(queue: Queue) -> None:
    joined = False
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")

    async def join() -> None:
        nonlocal joined
        await queue.join()
        joined = True

    async with create_task_group() as tg:
        tg.start_soon(join)
        await queue.ack(lease)
        _, _, lease = await queue.get()
        assert not joined
        await queue.ack(lease)


async def test_what_a_join_was_told_keeps_nobody_from_waiting(queue: Queue) -> None:
    got: list[object] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def consume() -> None:
        _, value, lease = await queue.take("a")
        got.append(value)
        await queue.ack(lease)  # a join that was not told before the put waits for this

    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.ack(lease)
        await queue.put("a", 2)
    assert got == [2]


async def test_a_queue_can_be_used_and_joined_again(queue: Queue) -> None:
    for value in range(2):
        await queue.put("a", value)
        async with create_task_group() as tg:
            tg.start_soon(queue.join)
            async with queue.lease():
                await checkpoint()
    assert await queue.qsize() == 0


async def test_many_can_join(queue: Queue) -> None:
    await queue.put("a", 1)
    async with create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(queue.join)
        async with queue.lease():
            await checkpoint()


async def test_a_join_can_be_cancelled(queue: Queue) -> None:
    await queue.put("a", 1)
    with CancelScope() as scope:
        async with create_task_group() as tg:
            tg.start_soon(queue.join)
            await checkpoint()
            scope.cancel()
    assert await in_line(queue) == ["a"]


async def test_closing_with_work_left_fails_those_who_join(queue: Queue) -> None:
    await queue.put("a", 1)

    async def join() -> None:
        with pytest.raises(QueueClosedError, match="work left"):
            await queue.join()

    async with create_task_group() as tg:
        tg.start_soon(join)
        await others_run()
        await queue.close()


async def test_a_queue_closed_with_work_left_cannot_be_joined(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.close()
    with pytest.raises(QueueClosedError, match="work left"):
        await queue.join()


# After a shutdown nothing can come where nobody else can put


@pytest.mark.needs("owned")
async def test_a_taker_of_an_absent_key_fails_at_a_shutdown(queue: Queue) -> None:
    await queue.put("b", 1)

    async def consume() -> None:
        with pytest.raises(QueueClosedError, match="'a' can no longer come in"):
            await queue.take("a")

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.shutdown()


@pytest.mark.needs("owned")
async def test_a_taker_of_an_absent_key_fails_after_a_shutdown(queue: Queue) -> None:
    await queue.put("b", 1)
    await queue.shutdown()
    with pytest.raises(QueueClosedError, match="'a' can no longer come in"):
        await queue.take("a")


@pytest.mark.needs("owned")
async def test_a_taker_fails_when_its_key_is_done_after_a_shutdown(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.shutdown()

    async def consume() -> None:
        with pytest.raises(QueueClosedError, match="'a' can no longer come in"):
            await queue.take("a")

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.ack(lease)
