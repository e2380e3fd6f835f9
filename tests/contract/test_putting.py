"""Producers: `put`, `add` and `put_many`, and what they do to a key that is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anyio import CancelScope, create_task_group
from tests.contract.helpers import Queue, in_line, until

from leaseq import KeyAlreadyInFlightError, PutOutcome

pytestmark = pytest.mark.anyio


async def test_a_new_key_is_added(queue: Queue) -> None:
    assert await queue.put("a", 1) is PutOutcome.ADDED
    assert await queue.qsize() == 1


async def test_an_acked_key_is_new_again(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    assert await queue.put("a", 2) is PutOutcome.ADDED


async def test_a_put_on_a_key_in_line_replaces_its_value(queue: Queue) -> None:
    await queue.put("a", 1)
    assert await queue.put("a", 2) is PutOutcome.REPLACED
    _, value, _ = await queue.get()
    assert value == 2


async def test_a_key_whose_value_was_replaced_keeps_its_place(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.put("b", 1)
    await queue.put("a", 2)
    assert await in_line(queue) == ["a", "b"]


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", [1, "two"], {"a": [None]}])
async def test_a_value_comes_out_as_it_went_in(queue: Queue, value: object) -> None:
    await queue.put("a", value)
    _, got, _ = await queue.get()
    assert got == value


async def test_a_cancelled_put_has_put_nothing(queue: Queue) -> None:
    with CancelScope() as scope:
        scope.cancel()
        await queue.put("a", 1)
    assert scope.cancelled_caught
    assert await queue.state("a") == "absent"


# A key that is leased: "update"


async def test_an_update_in_flight_leaves_the_snapshot_alone(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    assert await queue.put("a", 2) is PutOutcome.UPDATED_IN_FLIGHT
    assert lease.value == 1


async def test_an_update_in_flight_comes_back_with_a_release(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    await queue.release(lease)
    _, value, again = await queue.get()
    assert (value, again.deliveries) == (2, 2)


async def test_the_last_of_many_updates_in_flight_comes_back(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    await queue.put("a", 3)
    await queue.release(lease)
    _, value, _ = await queue.get()
    assert value == 3


async def test_an_ack_drops_an_update_in_flight_and_says_so(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    assert await queue.ack(lease) is True
    assert await queue.state("a") == "absent"


async def test_an_ack_without_an_update_says_so(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    assert await queue.ack(lease) is False


async def test_an_update_that_the_next_consumer_saw_is_not_dropped(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    await queue.release(lease)
    _, _, again = await queue.get()
    assert await queue.ack(again) is False


# "reject"


async def test_a_put_can_refuse_to_touch_a_leased_key(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(KeyAlreadyInFlightError, match="key 'a' is leased"):
        await queue.put("a", 2, if_in_flight="reject")
    assert await queue.ack(lease) is False


async def test_a_refusing_put_replaces_a_value_in_line(queue: Queue) -> None:
    await queue.put("a", 1)
    assert await queue.put("a", 2, if_in_flight="reject") is PutOutcome.REPLACED


# "buffer"


async def test_a_buffered_item_is_in_nobody_elses_hands(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.get()
    assert await queue.put("a", 2, if_in_flight="buffer") is PutOutcome.BUFFERED
    with pytest.raises(TimeoutError):
        await queue.take("a", timeout=0)
    assert await in_line(queue) == []


async def test_a_buffered_item_counts_as_waiting(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.qsize() == 1
    assert await queue.available_keys() == set()


async def test_the_last_of_many_buffered_values_wins(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.put("a", 3, if_in_flight="buffer") is PutOutcome.BUFFERED
    await queue.ack(lease)
    _, value, _ = await queue.get()
    assert value == 3
    assert await in_line(queue) == []


async def test_a_buffered_item_outlives_an_ack_with_fresh_counts(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.ack(lease) is False
    _, value, successor = await queue.get()
    assert (value, successor.deliveries) == (2, 1)


async def test_a_buffered_item_supersedes_a_release(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.release(lease)
    _, value, successor = await queue.get()
    assert (value, successor.deliveries) == (2, 1)
    assert (await queue.statistics()).superseded == 1


async def test_a_buffered_item_joins_the_back_of_the_line(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.put("b", 1)
    await queue.release(lease, requeue_front=True)
    assert await in_line(queue) == ["b", "a"]


async def test_a_buffered_item_goes_to_the_getter_that_waits(queue: Queue) -> None:
    values: list[object] = []
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")

    async def consume() -> None:
        _, value, _ = await queue.get()
        values.append(value)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.ack(lease)
    assert values == [2]


# Keys of the queue's making


async def test_an_item_can_be_put_without_a_key(queue: Queue) -> None:
    key = await queue.add(1)
    got, value, _ = await queue.get()
    assert (got, value) == (key, 1)


async def test_keys_of_the_queues_making_differ(queue: Queue) -> None:
    keys = {await queue.add(value) for value in range(10)}
    assert len(keys) == await queue.qsize() == 10


# Many at once


async def test_many_items_are_put_in_their_order(queue: Queue) -> None:
    outcomes = await queue.put_many([("b", 1), ("a", 2)])
    assert outcomes == [PutOutcome.ADDED, PutOutcome.ADDED]
    assert await in_line(queue) == ["b", "a"]


async def test_many_items_can_come_as_a_mapping(queue: Queue) -> None:
    await queue.put_many({"b": 1, "a": 2})
    assert await in_line(queue) == ["b", "a"]


async def test_many_items_can_come_from_an_iterator(queue: Queue) -> None:
    def pairs() -> Iterator[tuple[str, object]]:
        yield "a", 1
        yield "b", 2

    await queue.put_many(pairs())
    assert await in_line(queue) == ["a", "b"]


async def test_putting_no_items_does_nothing(queue: Queue) -> None:
    assert await queue.put_many([]) == []


async def test_each_of_many_items_has_its_own_outcome(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.get()
    await queue.put("b", 1)
    outcomes = await queue.put_many([("a", 2), ("b", 2), ("c", 2)], if_in_flight="buffer")
    assert outcomes == [PutOutcome.BUFFERED, PutOutcome.REPLACED, PutOutcome.ADDED]


async def test_a_key_that_comes_twice_among_many_has_its_last_value(queue: Queue) -> None:
    assert await queue.put_many([("a", 1), ("a", 2)]) == [PutOutcome.ADDED, PutOutcome.REPLACED]
    _, value, _ = await queue.get()
    assert value == 2


async def test_if_one_of_many_items_is_refused_none_is_put(queue: Queue) -> None:
    await queue.put("b", 1)
    await queue.get()
    with pytest.raises(KeyAlreadyInFlightError, match="key 'b' is leased"):
        await queue.put_many([("a", 1), ("b", 2), ("c", 1)], if_in_flight="reject")
    assert await queue.qsize() == 0


async def test_a_key_that_comes_twice_is_not_in_flight_in_between(queue: Queue) -> None:
    outcomes: list[PutOutcome] = []
    async with create_task_group() as tg:
        tg.start_soon(queue.get)
        await until(queue, getters=1)
        outcomes += await queue.put_many([("a", 1), ("a", 2)], if_in_flight="reject")
    assert outcomes == [PutOutcome.ADDED, PutOutcome.REPLACED]
    assert await queue._look("a") == ("leased", 2)


async def test_many_items_go_to_as_many_getters_in_order(queue: Queue) -> None:
    got: dict[str, str] = {}

    async def consume(name: str) -> None:
        key, _, _ = await queue.get()
        got[name] = key

    async with create_task_group() as tg:
        tg.start_soon(consume, "first")
        await until(queue, getters=1)
        tg.start_soon(consume, "second")
        await until(queue, getters=2)
        await queue.put_many([("a", 1), ("b", 2), ("c", 3)])
    assert got == {"first": "a", "second": "b"}
    assert await queue.available_keys() == {"c"}


async def test_cancelled_many_items_are_not_put(queue: Queue) -> None:
    with CancelScope() as scope:
        scope.cancel()
        await queue.put_many([("a", 1), ("b", 2)])
    assert scope.cancelled_caught
    assert await queue.qsize() == 0
