"""``priority=``: the higher the sooner, and first in first out within each."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, Waiting, in_line, until

from leaseq import Priority, PutOutcome

pytestmark = pytest.mark.anyio


async def test_items_come_by_their_priority(queue: Queue) -> None:
    for priority in (Priority.NORMAL, Priority.VERY_LOW, Priority.CRITICAL, Priority.HIGH):
        await queue.put(priority.name, 1, priority=priority)
    assert await in_line(queue) == ["CRITICAL", "HIGH", "NORMAL", "VERY_LOW"]


async def test_items_of_one_priority_come_in_the_order_of_their_puts(queue: Queue) -> None:
    for key, priority in (("a", 2), ("b", 4), ("c", 2), ("d", 4)):
        await queue.put(key, 1, priority=priority)
    assert await in_line(queue) == ["b", "d", "a", "c"]


async def test_an_item_without_a_priority_has_the_normal_one(queue: Queue) -> None:
    await queue.put("a", 1, priority=Priority.LOW)
    await queue.put("b", 1)
    await queue.put("c", 1, priority=Priority.HIGH)
    await queue.put("d", 1, priority=Priority.NORMAL)
    assert await in_line(queue) == ["c", "b", "d", "a"]


async def test_any_number_is_a_priority(queue: Queue) -> None:
    for priority in (0, 1000, -5, 7):
        await queue.put(str(priority), 1, priority=priority)
    assert await in_line(queue) == ["1000", "7", "0", "-5"]


async def test_a_lease_tells_its_items_priority(queue: Queue) -> None:
    await queue.put("a", 1, priority=Priority.HIGH)
    await queue.put("b", 1)
    _, _, lease = await queue.get()
    assert lease.priority == Priority.HIGH
    _, _, lease = await queue.get()
    assert lease.priority == Priority.NORMAL


async def test_the_first_priority_leaves_those_in_line_in_their_order(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    _, _, lease = await queue.get()
    await queue._give_back(lease)
    await queue.put("d", 1, priority=Priority.HIGH)
    assert await in_line(queue) == ["d", "a", "b", "c"]


async def test_many_items_have_one_priority(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.put_many([("b", 1), ("c", 1)], priority=Priority.HIGH)
    assert await in_line(queue) == ["b", "c", "a"]


# A key that is there


async def test_a_higher_priority_joins_the_back_of_its_line(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.put("b", 1)
    await queue.put("c", 1, priority=Priority.HIGH)
    assert await queue.put("b", 2, priority=Priority.HIGH) is PutOutcome.REPLACED
    assert await in_line(queue) == ["c", "b", "a"]


@pytest.mark.parametrize("priority", [None, Priority.LOW, Priority.HIGH])
async def test_no_priority_or_a_lower_one_changes_nothing(
    queue: Queue, priority: int | None
) -> None:
    await queue.put_many([("a", 1), ("b", 1)], priority=Priority.HIGH)
    await queue.put("a", 2, priority=priority)
    assert await in_line(queue) == ["a", "b"]


async def test_a_higher_priority_in_flight_comes_back_with_a_release(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.put("a", 2, priority=Priority.HIGH)
    await queue.release(lease)
    assert await in_line(queue) == ["a", "b"]


async def test_a_lower_priority_in_flight_changes_nothing(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)], priority=Priority.HIGH)
    await queue.put("c", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, priority=Priority.LOW)
    await queue.release(lease)
    assert await in_line(queue) == ["b", "a", "c"]


async def test_a_buffered_item_has_a_higher_priority_of_its_own(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer", priority=Priority.HIGH)
    await queue.ack(lease)
    assert await in_line(queue) == ["a", "b"]


# Coming back


async def test_a_release_goes_to_the_back_of_its_priority(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)], priority=Priority.HIGH)
    await queue.put("c", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    assert await in_line(queue) == ["b", "a", "c"]


async def test_the_front_is_that_of_its_own_priority(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.put("c", 1, priority=Priority.HIGH)
    _, _, lease = await queue.take("b")
    await queue.release(lease, requeue_front=True)
    assert await in_line(queue) == ["c", "b", "a"]


async def test_what_is_given_back_has_its_old_place_in_its_priority(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.put("c", 1, priority=Priority.HIGH)
    await queue._give_back(lease)
    assert await in_line(queue) == ["c", "a", "b"]


async def test_a_getter_that_waits_gets_the_first_that_comes(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("first")
        await waiting.get("second")
        await queue.put("a", 1, priority=Priority.LOW)
        await until(queue, getters=1)
        await queue.put("b", 1, priority=Priority.HIGH)
    assert waiting.got == {"first": "a", "second": "b"}
