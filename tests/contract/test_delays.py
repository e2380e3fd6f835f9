"""``delay=`` and ``reschedule=``: items that fall due later."""

from __future__ import annotations

import math

import pytest
from anyio import create_task_group
from tests.contract.helpers import Engine, Queue, Start, Waiting, in_line, until

from leaseq import Backoff, PutOutcome, Retry

pytestmark = [pytest.mark.anyio, pytest.mark.needs("advance")]


async def test_a_delayed_item_is_taken_by_nobody(engine: Engine, queue: Queue) -> None:
    assert await queue.put("a", 1, delay=10) is PutOutcome.ADDED
    await engine.advance(9)
    assert await in_line(queue) == []
    with pytest.raises(TimeoutError):
        await queue.take("a", timeout=0)


async def test_a_delayed_item_is_ready_when_it_falls_due(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    await engine.advance(11)
    _, value, lease = await queue.get(timeout=0)
    assert (value, lease.deliveries) == (1, 1)


async def test_a_delayed_item_can_be_seen(queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    assert await queue.state("a") == "delayed"
    assert await queue.qsize() == 1
    assert await queue.available_keys() == set()
    statistics = await queue.statistics()
    assert (statistics.delayed, statistics.ready, statistics.put) == (1, 0, 1)


async def test_items_fall_due_in_the_order_of_their_delays(engine: Engine, queue: Queue) -> None:
    await queue.put("c", 1, delay=30)
    await queue.put("a", 1, delay=10)
    await queue.put("b", 1, delay=20)
    await queue.put("d", 1)
    await engine.advance(31)
    assert await in_line(queue) == ["d", "a", "b", "c"]


async def test_an_item_that_falls_due_joins_the_back_of_the_line(
    engine: Engine, queue: Queue
) -> None:
    await queue.put("a", 1, delay=10)
    await engine.advance(5)
    await queue.put("b", 1)
    await engine.advance(6)
    assert await in_line(queue) == ["b", "a"]


async def test_many_items_can_be_delayed_together(engine: Engine, queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)], delay=10)
    assert (await queue.statistics()).delayed == 2
    await engine.advance(11)
    assert await in_line(queue) == ["a", "b"]


async def test_a_getter_waits_until_an_item_falls_due(engine: Engine, queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await queue.put("a", 1, delay=10)
        await waiting.get("getter")
        await engine.advance(9)
        assert waiting.got == {}
        await engine.advance(2)
        await until(queue, getters=0)
    assert waiting.got == {"getter": "a"}


async def test_a_taker_of_a_delayed_key_waits_until_it_falls_due(
    engine: Engine, queue: Queue
) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await queue.put("a", 1, delay=10)
        await waiting.get("getter")
        await waiting.take("taker", "a")
        await engine.advance(11)
        await until(queue, takers=0)
        await queue.put("b", 1)
    assert waiting.got == {"taker": "a", "getter": "b"}


async def test_items_that_fall_due_together_go_to_as_many_getters(
    engine: Engine, queue: Queue
) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)], delay=10)
        await waiting.get("first")
        await waiting.get("second")
        await engine.advance(11)
        await until(queue, getters=0)
    assert waiting.got == {"first": "a", "second": "b"}
    assert await in_line(queue) == ["c"]


async def test_a_shut_down_queue_is_not_drained_while_an_item_is_delayed(
    engine: Engine, queue: Queue
) -> None:
    keys: list[str] = []

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                keys.append(lease.key)

    await queue.put("a", 1, delay=10)
    await queue.shutdown()
    async with create_task_group() as tg:
        tg.start_soon(consume)
        tg.start_soon(queue.join)
        await until(queue, getters=1)
        await engine.advance(11)
    assert keys == ["a"]


async def test_a_buffered_item_is_delayed_from_its_put_on(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer", delay=10)
    await engine.advance(6)
    await queue.ack(lease)
    assert (await queue.statistics()).delayed == 1
    await engine.advance(5)
    assert await in_line(queue) == ["a"]


async def test_a_buffered_item_that_is_due_is_ready_when_the_lease_ends(
    engine: Engine, queue: Queue
) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer", delay=10)
    await engine.advance(11)
    assert await in_line(queue) == []
    await queue.ack(lease)
    assert await in_line(queue) == ["a"]


# A put on a key that waits


async def test_a_delayed_item_can_be_replaced(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    assert await queue.put("a", 2, delay=20) is PutOutcome.REPLACED
    await engine.advance(11)
    _, value, _ = await queue.get(timeout=0)
    assert value == 2


async def test_a_put_with_a_shorter_delay_is_due_earlier(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1, delay=20)
    await queue.put("a", 2, delay=10)
    await engine.advance(11)
    assert await in_line(queue) == ["a"]


async def test_a_put_without_a_delay_is_due_at_once(queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    await queue.put("a", 2)
    assert await in_line(queue) == ["a"]


async def test_a_put_without_a_delay_goes_to_the_getter_that_waits(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await queue.put("a", 1, delay=10)
        await waiting.get("getter")
        await queue.put("a", 2)
    assert waiting.got == {"getter": "a"}


async def test_a_delay_leaves_an_item_that_is_ready_where_it_is(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.put("a", 2, delay=10)
    assert await in_line(queue) == ["a", "b"]


async def test_the_latest_put_can_say_when_an_item_is_due(engine: Engine, queue: Queue) -> None:
    for value in range(3):
        await queue.put("a", value, delay=10, reschedule="latest")
        await engine.advance(6)
    assert await in_line(queue) == []
    await engine.advance(5)
    _, last, _ = await queue.get(timeout=0)
    assert last == 2


async def test_the_latest_put_can_delay_an_item_that_is_ready(engine: Engine, queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.put("a", 2, delay=10, reschedule="latest")
    assert await in_line(queue) == ["b"]
    await engine.advance(11)
    assert await in_line(queue) == ["a"]


async def test_the_latest_put_of_a_buffered_item_says_when_it_is_due(
    engine: Engine, queue: Queue
) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.put("a", 3, if_in_flight="buffer", delay=10, reschedule="latest")
    await queue.ack(lease)
    assert await in_line(queue) == []
    await engine.advance(11)
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize("reschedule", ["earliest", "latest"])
async def test_no_put_ends_the_rest_after_a_failure(
    engine: Engine, start: Start, reschedule: str
) -> None:
    queue = await start(retry=Retry(backoff=Backoff(1e6, ceiling=1e6)))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    await queue.put("a", 2, reschedule=reschedule)  # type: ignore[arg-type]
    assert await in_line(queue) == []
    await engine.advance(1e6 + 1)
    _, value, again = await queue.get(timeout=0)
    assert (value, again.deliveries) == (2, 2)


# Misuse


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
async def test_a_delay_of_no_length_is_refused(queue: Queue, delay: float) -> None:
    message = f"delay must be 0 seconds or more, and finite, not {delay}"
    with pytest.raises(ValueError, match=message):
        await queue.put("a", 1, delay=delay)
    with pytest.raises(ValueError, match=message):
        await queue.put_many([("a", 1)], delay=delay)
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(ValueError, match=message):
        await queue.release(lease, delay=delay)
    assert lease.ended is None


async def test_an_unknown_reschedule_is_refused_with_the_choices(queue: Queue) -> None:
    message = "reschedule must be one of 'earliest', 'latest', not 'never'"
    with pytest.raises(ValueError, match=message):
        await queue.put("a", 1, reschedule="never")  # type: ignore[arg-type]
    assert await queue.qsize() == 0
