"""``message_id=`` and ``dedupe_for=``: producers that send twice."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.helpers import WINDOW, BrokerEngine, in_line, lease_of

from leaseq import Broker, LeasedQueue, MessageId, PutOutcome

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]


async def test_a_message_has_an_id_to_tell_it_from_others(queue: LeasedQueue[str, Any]) -> None:
    ids = [await queue.add(1), await queue.add(1)]
    assert isinstance(ids[0], MessageId)
    assert ids[0].outcome is PutOutcome.ADDED
    assert len(set(ids)) == 2
    assert await in_line(queue) == ids


async def test_an_id_that_is_given_is_the_key(queue: LeasedQueue[str, Any]) -> None:
    message_id = await queue.add(1, message_id="order-1", priority=5)
    assert message_id == "order-1"
    assert message_id.outcome is PutOutcome.ADDED
    key, value, lease = await queue.get()
    assert (key, value, lease.priority) == ("order-1", 1, 5)


async def test_a_message_that_waits_is_replaced(queue: LeasedQueue[str, Any]) -> None:
    await queue.add(1, message_id="a")
    assert (await queue.add(2, message_id="a")).outcome is PutOutcome.REPLACED
    assert await in_line(queue) == ["a"]


async def test_a_message_that_is_leased_is_put_as_ever(queue: LeasedQueue[str, Any]) -> None:
    await lease_of(queue, "a")
    assert (await queue.add(2, message_id="a")).outcome is PutOutcome.UPDATED_IN_FLIGHT
    again = await queue.add(2, message_id="a", if_in_flight="buffer")
    assert again.outcome is PutOutcome.BUFFERED


async def test_a_message_that_was_acked_lately_is_not_taken_again(
    queue: LeasedQueue[str, Any],
) -> None:
    await (await lease_of(queue, "a")).ack()
    assert (await queue.add(2, message_id="a")).outcome is PutOutcome.DUPLICATE
    assert await queue.put("a", 2) is PutOutcome.DUPLICATE
    assert await queue.put_many([("a", 2), ("b", 2)]) == [PutOutcome.DUPLICATE, PutOutcome.ADDED]
    assert await in_line(queue) == ["b"]


async def test_a_duplicate_needs_no_room(broker: Broker) -> None:
    queue = await broker.queue("small", max_size=1, dedupe_for=WINDOW)
    await (await lease_of(queue, "a")).ack()
    await queue.put("b", 1)
    assert await queue.put("a", 1) is PutOutcome.DUPLICATE


async def test_without_the_option_it_is_taken_at_once(broker: Broker) -> None:
    queue = await broker.queue("letters")
    await (await lease_of(queue, "a")).ack()
    assert (await queue.add(2, message_id="a")).outcome is PutOutcome.ADDED


async def test_for_no_time_at_all_it_is_taken_at_once(broker: Broker) -> None:
    queue = await broker.queue("letters", dedupe_for=0)
    await (await lease_of(queue, "a")).ack()
    assert (await queue.add(2, message_id="a")).outcome is PutOutcome.ADDED


async def test_a_message_is_not_done_before_it_is_acked(queue: LeasedQueue[str, Any]) -> None:
    await (await lease_of(queue, "a")).release()
    assert await queue.put("a", 2) is PutOutcome.REPLACED
    _, _, lease = await queue.get()
    await lease.reject("no")
    assert await queue.put("a", 3) is PutOutcome.ADDED


async def test_while_a_successor_is_there_it_is_put_as_ever(queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.put("a", 2, if_in_flight="buffer")
    await lease.ack()
    assert await queue.put("a", 3) is PutOutcome.REPLACED
    _, value, lease = await queue.get()
    assert value == 3
    await lease.ack()
    assert await queue.put("a", 4) is PutOutcome.DUPLICATE


async def test_a_dead_letter_is_no_duplicate(queue: LeasedQueue[str, Any]) -> None:
    await (await lease_of(queue, "a", 1)).reject("no")
    await (await lease_of(queue, "a", 2)).ack()
    assert (await queue.redrive()).keys == ("a",)
    assert await queue.peek("a") == 1


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
async def test_a_negative_time_is_refused(broker: Broker, seconds: float) -> None:
    with pytest.raises(ValueError, match="dedupe_for must be 0 seconds or more"):
        await broker.queue("invoices", dedupe_for=seconds)


# In the course of time


@pytest.mark.needs("advance")
async def test_after_its_time_a_message_is_taken_again(
    engine: BrokerEngine, broker: Broker
) -> None:
    queue = await broker.queue("orders", dedupe_for=WINDOW)
    await (await lease_of(queue, "a")).ack()
    await engine.advance(WINDOW - 1)
    assert await queue.put("a", 2) is PutOutcome.DUPLICATE
    await engine.advance(2)
    assert await queue.put("a", 2) is PutOutcome.ADDED


@pytest.mark.needs("advance")
async def test_each_ack_starts_the_time_anew(engine: BrokerEngine, broker: Broker) -> None:
    queue = await broker.queue("orders", dedupe_for=WINDOW)
    for _ in range(2):
        await (await lease_of(queue, "a")).ack()
        await (await lease_of(queue, str(_))).ack()
        await engine.advance(WINDOW + 1)
    await (await lease_of(queue, "a")).ack()
    assert await queue.put("a", 2) is PutOutcome.DUPLICATE
    assert await queue.put("1", 2) is PutOutcome.ADDED


async def test_a_key_that_was_dropped_is_no_duplicate(queue: LeasedQueue[str, Any]) -> None:
    await queue.put("a", 1)
    assert await queue.discard("a") is True
    assert await queue.put("a", 2) is PutOutcome.ADDED
