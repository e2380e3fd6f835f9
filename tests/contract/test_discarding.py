"""`discard`: one waiting item leaves the queue."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import Engine, Queue, Start, Waiting, in_line, lease_of, until

from leaseq import PutOutcome, QueueClosedError

pytestmark = pytest.mark.anyio


async def test_a_ready_item_is_dropped(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2), ("c", 3)])
    assert await queue.discard("b") is True
    assert await queue.state("b") == "absent"
    assert await in_line(queue) == ["a", "c"]


async def test_a_delayed_item_is_dropped(queue: Queue) -> None:
    await queue.put("a", 1, delay=60)
    assert await queue.discard("a") is True
    assert (await queue.state("a"), await queue.qsize()) == ("absent", 0)


async def test_an_absent_key_is_not_there_to_be_dropped(queue: Queue) -> None:
    assert await queue.discard("a") is False
    await queue.put("a", 1)
    assert [await queue.discard("a"), await queue.discard("a")] == [True, False]


async def test_a_leased_item_is_left_alone(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    assert await queue.discard("a") is False
    assert lease.ended is None
    await lease.release()
    assert await in_line(queue) == ["a"]


async def test_a_buffered_successor_is_left_alone_while_its_key_is_leased(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.discard("a") is False
    await lease.ack()
    assert await queue.peek("a") == 2
    assert await queue.discard("a") is True


async def test_a_dropped_item_is_counted_as_one(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    await queue.discard("a")
    await queue.discard("absent")
    counts = await queue.statistics()
    assert (counts.put, counts.ready, counts.dropped, counts.dead) == (2, 1, 1, 0)


async def test_a_dropped_item_is_no_dead_letter(pages: Queue, letters: Queue) -> None:
    await pages.put("a", 1, ttl=60)
    await pages.discard("a")
    assert await letters.qsize() == 0


async def test_a_dead_letter_can_be_dropped(pages: Queue, letters: Queue) -> None:
    await (await lease_of(pages, "a", 1)).reject("no good")
    [letter] = await letters.available_keys()
    assert await letters.discard(letter) is True
    assert ((await pages.info()).dead, (await pages.redrive()).keys) == (0, ())


async def test_a_tenants_item_is_dropped_and_the_turns_go_on(queue: Queue) -> None:
    for key in ("x1", "y1", "x2", "y2"):
        await queue.put(key, 1, tenant=key[0])
    assert await queue.discard("x1") is True
    assert sorted(await in_line(queue)) == ["x2", "y1", "y2"]


async def test_the_key_starts_anew(queue: Queue) -> None:
    await queue.put("a", 1, priority=5, delay=60)
    await queue.discard("a")
    assert await queue.put("a", 2) is PutOutcome.ADDED
    assert await queue.peek("a") == 2


async def test_a_waiting_producer_gets_the_room(start: Start) -> None:
    full = await start(max_size=1)
    await full.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("b")
        await full.discard("a")
    assert await full.available_keys() == {"b"}


async def test_the_last_item_drains_the_queue(queue: Queue) -> None:
    await queue.put("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await queue.discard("a")


async def test_a_shut_down_queue_without_its_last_item_ends(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1, delay=60)
        tg.start_soon(_gets_nothing, queue)
        await until(queue, getters=1)
        await queue.shutdown()
        assert await queue.discard("a") is True


async def _gets_nothing(queue: Queue) -> None:
    with pytest.raises(QueueClosedError):
        await queue.get()


async def test_a_closed_queue_drops_nothing(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.close()
    with pytest.raises(QueueClosedError):
        await queue.discard("a")
