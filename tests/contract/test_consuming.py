"""Consumers: `get` and `take`, whose turn it is, and what they wait for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, in_line, until

pytestmark = pytest.mark.anyio


async def test_items_come_in_the_order_in_which_they_were_put(queue: Queue) -> None:
    for key in ("c", "a", "b"):
        await queue.put(key, 1)
    assert await in_line(queue) == ["c", "a", "b"]


async def test_a_consumer_gets_key_value_and_lease(queue: Queue) -> None:
    await queue.put("a", {"page": 1})
    key, value, lease = await queue.get()
    assert (key, value) == (lease.key, lease.value) == ("a", {"page": 1})
    assert lease.queue is queue


async def test_a_fresh_lease_is_the_first_delivery(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    assert (lease.deliveries, lease.cancellations, lease.ended) == (1, 0, None)


async def test_a_lease_has_no_deadline_unless_it_is_asked_for(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    assert lease.deadline == math.inf


async def test_a_leased_item_is_nobody_elses(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.get()
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)
    with pytest.raises(TimeoutError):
        await queue.take("a", timeout=0)


class Two:
    """A whole number of another library, which can only index."""

    def __index__(self) -> int:
        return 2


async def test_a_number_that_can_only_index_is_a_number_of_items(queue: Queue) -> None:
    two: Any = Two()
    await queue.put_many({"a": 1, "b": 2, "c": 3})
    assert [lease.key for lease in await queue.get_batch(two)] == ["a", "b"]
    async with queue.lease_batch(two) as batch:
        assert [lease.key for lease in batch] == ["c"]


async def test_tokens_grow_from_one_hand_out_of_a_key_to_the_next(queue: Queue) -> None:
    tokens: list[int] = []
    await queue.put("a", 1)
    for _ in range(3):
        _, _, lease = await queue.get()
        tokens.append(lease.token)
        await queue.release(lease)
    assert 0 < tokens[0] < tokens[1] < tokens[2]


async def test_tokens_grow_from_one_put_of_a_key_to_the_next(queue: Queue) -> None:
    tokens: list[int] = []
    for value in range(3):
        await queue.put("a", value)
        _, _, lease = await queue.get()
        tokens.append(lease.token)
        await queue.ack(lease)
    assert 0 < tokens[0] < tokens[1] < tokens[2]


# Waiting


async def test_a_getter_waits_for_a_put(queue: Queue) -> None:
    got: list[tuple[str, object]] = []

    async def consume() -> None:
        key, value, _ = await queue.get()
        got.append((key, value))

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.put("a", 1)
    assert got == [("a", 1)]


async def test_a_getter_waits_for_a_release(queue: Queue) -> None:
    got: list[str] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def consume() -> None:
        key, _, _ = await queue.get()
        got.append(key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.release(lease)
    assert got == ["a"]


async def test_getters_are_served_in_the_order_in_which_they_came(queue: Queue) -> None:
    got: dict[str, str] = {}

    async def consume(name: str) -> None:
        key, _, _ = await queue.get()
        got[name] = key

    async with create_task_group() as tg:
        tg.start_soon(consume, "first")
        await until(queue, getters=1)
        tg.start_soon(consume, "second")
        await until(queue, getters=2)
        await queue.put("a", 1)
        await queue.put("b", 1)
    assert got == {"first": "a", "second": "b"}


async def test_one_item_wakes_one_getter(queue: Queue) -> None:
    got: list[str] = []

    async def consume() -> None:
        key, _, _ = await queue.get()
        got.append(key)

    async with create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(consume)
        await until(queue, getters=3)
        await queue.put("a", 1)
        await until(queue, getters=2)
        tg.cancel_scope.cancel()
    assert len(got) <= 1
    statistics = await queue.statistics()
    assert statistics.leased + statistics.ready == 1


async def test_a_cancelled_getter_leaves_its_turn_to_the_next(queue: Queue) -> None:
    got: list[str] = []

    async def consume() -> None:
        key, _, _ = await queue.get()
        got.append(key)

    async with create_task_group() as tg:
        async with create_task_group() as impatient:
            impatient.start_soon(queue.get)
            await until(queue, getters=1)
            tg.start_soon(consume)
            await until(queue, getters=2)
            impatient.cancel_scope.cancel()
        await until(queue, getters=1)
        await queue.put("a", 1)
    assert got == ["a"]


# Timeouts


async def test_a_get_that_must_not_wait_gets_what_is_ready(queue: Queue) -> None:
    await queue.put("a", 1)
    key, _, _ = await queue.get(timeout=0)
    assert key == "a"


@pytest.mark.parametrize("timeout", [0, 0.001])
async def test_a_get_gives_up_after_its_timeout(queue: Queue, timeout: float) -> None:
    with pytest.raises(TimeoutError):
        await queue.get(timeout)
    assert (await queue.statistics()).getters == 0


@pytest.mark.parametrize("timeout", [0, 0.001])
async def test_a_take_gives_up_after_its_timeout(queue: Queue, timeout: float) -> None:
    await queue.put("b", 1)
    with pytest.raises(TimeoutError):
        await queue.take("a", timeout)
    assert (await queue.statistics()).takers == 0


async def test_an_item_that_comes_in_time_is_got(queue: Queue) -> None:
    got: list[str] = []

    async def consume() -> None:
        key, _, _ = await queue.get(timeout=3600)
        got.append(key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.put("a", 1)
    assert got == ["a"]


async def test_an_item_that_comes_after_a_timeout_stays_in_line(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)
    await queue.put("a", 1)
    assert await in_line(queue) == ["a"]


# One key


async def test_a_key_can_be_taken_out_of_turn(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2), ("c", 3)])
    key, value, lease = await queue.take("b")
    assert (key, value, lease.key) == ("b", 2, "b")
    assert await in_line(queue) == ["a", "c"]


async def test_a_taker_waits_for_its_key(queue: Queue) -> None:
    got: list[object] = []

    async def consume() -> None:
        _, value, _ = await queue.take("a")
        got.append(value)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.put("b", 1)
        await queue.put("a", 2)
    assert got == [2]
    assert await queue.available_keys() == {"b"}


async def test_a_taker_waits_for_the_end_of_a_lease(queue: Queue) -> None:
    got: list[str] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def consume() -> None:
        key, _, _ = await queue.take("a")
        got.append(key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.release(lease)
    assert got == ["a"]


async def test_a_taker_whose_key_was_acked_waits_for_the_next_put(queue: Queue) -> None:
    got: list[object] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()

    async def consume() -> None:
        _, value, _ = await queue.take("a")
        got.append(value)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.ack(lease)
        assert (await queue.statistics()).takers == 1
        await queue.put("a", 2)
    assert got == [2]


async def test_a_taker_waits_on_when_an_update_of_its_key_was_dropped(queue: Queue) -> None:
    got: list[object] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)

    async def consume() -> None:
        _, value, _ = await queue.take("a")
        got.append(value)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, takers=1)
        await queue.ack(lease)
        await queue.put("a", 3)
    assert got == [3]


async def test_takers_of_a_key_are_served_in_the_order_in_which_they_came(queue: Queue) -> None:
    got: list[str] = []

    async def consume(name: str) -> None:
        async with queue.lease(key="a") as lease:
            got.append(name)
            await lease.release()

    async with create_task_group() as tg:
        tg.start_soon(consume, "first")
        await until(queue, takers=1)
        tg.start_soon(consume, "second")
        await until(queue, takers=2)
        await queue.put("a", 1)
    assert got == ["first", "second"]


async def test_a_taker_comes_before_a_getter_that_waits_longer(queue: Queue) -> None:
    got: dict[str, str] = {}

    async def get() -> None:
        key, _, _ = await queue.get()
        got["getter"] = key

    async def take() -> None:
        key, _, _ = await queue.take("a")
        got["taker"] = key

    async with create_task_group() as tg:
        tg.start_soon(get)
        await until(queue, getters=1)
        tg.start_soon(take)
        await until(queue, takers=1)
        await queue.put("a", 1)
        await queue.put("b", 1)
    assert got == {"taker": "a", "getter": "b"}
