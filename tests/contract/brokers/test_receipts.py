"""Consumers and what they hold: `inflight`, `release_all`, receipts, `lease_of` and `history`."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.contract.helpers import TIMEOUT, BrokerEngine, in_line, lease_of

from leaseq import Broker, InvalidLeaseError, LeasedQueue, LeaseLostError, QueueClosedError, Retry

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]


# Consumers


async def test_a_consumer_is_told_by_what_it_holds(queue: LeasedQueue[str, Any]) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    for consumer in ("worker-1", "worker-2", "worker-1", None):
        await queue.get(consumer=consumer)
    mine = await queue.inflight(consumer="worker-1")
    assert [(each.key, each.consumer) for each in mine] == [
        ("a", "worker-1"),
        ("c", "worker-1"),
    ]
    assert [each.key for each in await queue.inflight()] == ["a", "b", "c", "d"]
    assert await queue.inflight(consumer="worker-3") == []


async def test_a_consumer_is_told_however_it_leases(queue: LeasedQueue[str, Any]) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.take("b", consumer="worker-1")
    await queue.get_batch(1, consumer="worker-1")
    async with queue.lease(consumer="worker-1"):
        mine = await queue.inflight(consumer="worker-1")
    assert [each.key for each in mine] == ["b", "a", "c"]


async def test_what_a_consumer_held_that_is_gone_is_for_others(
    queue: LeasedQueue[str, Any],
) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    for consumer in ("worker-1", "worker-2", "worker-1"):
        await queue.get(consumer=consumer)
    assert await queue.release_all(consumer="worker-1") == 2
    assert await queue.inflight_keys() == {"b"}
    assert await in_line(queue) == ["a", "c", "d"]


async def test_the_leases_of_a_consumer_that_is_gone_are_lost(queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a", consumer="worker-1")
    await queue.release_all(consumer="worker-1")
    assert lease.ended == "lost"
    with pytest.raises(LeaseLostError):
        await lease.ack()
    assert await in_line(queue) == ["a"]


async def test_a_body_of_its_own_is_cancelled(broker: Broker, queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a", consumer="worker-1")
    with pytest.raises(LeaseLostError):
        async with lease:
            await queue.release_all(consumer="worker-1")
            await (await broker.queue("empty")).get()


async def test_a_hand_out_to_a_consumer_that_is_gone_counts(broker: Broker) -> None:
    queue, letters = await broker.create_queue_pair("few", retry=Retry(max_deliveries=2))
    for number in range(2):
        lease = await lease_of(queue, "a", consumer="worker-1")
        assert lease.deliveries == number + 1
        assert await queue.release_all(consumer="worker-1") == 1
    assert await queue.qsize() == 0
    assert await letters.qsize() == 1


async def test_a_consumer_that_holds_nothing_loses_nothing(queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a")
    assert await queue.release_all(consumer="worker-1") == 0
    assert lease.ended is None


async def test_a_closed_queue_has_nothing_to_release(queue: LeasedQueue[str, Any]) -> None:
    await queue.close()
    with pytest.raises(QueueClosedError):
        await queue.release_all(consumer="worker-1")


# Receipts


async def test_a_lease_is_settled_by_its_receipt(
    broker: Broker, queue: LeasedQueue[str, Any]
) -> None:
    receipt = (await lease_of(queue, "a", 1)).receipt
    assert isinstance(receipt, str)
    lease = await (await broker.queue("orders")).lease_of(receipt)
    assert (lease.key, lease.value, lease.deliveries) == ("a", 1, 1)
    await lease.ack()
    assert await queue.state("a") == "absent"


async def test_it_is_the_same_lease(queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a")
    again = await queue.lease_of(lease.receipt)
    assert (again.token, again.receipt) == (lease.token, lease.receipt)
    await again.release()
    with pytest.raises(InvalidLeaseError):
        await lease.ack()
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize("key", ["a", "", "ä\n'\"{", "[1]"])
async def test_a_receipt_is_for_any_key(queue: LeasedQueue[str, Any], key: str) -> None:
    receipt = (await lease_of(queue, key)).receipt
    assert (await queue.lease_of(receipt)).key == key


async def test_a_receipt_is_good_for_as_long_as_its_lease(queue: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(queue, "a")
    await lease.release()
    await queue.get()  # somebody else has it
    with pytest.raises(LeaseLostError, match="'a'"):
        await queue.lease_of(lease.receipt)
    lease = await lease_of(queue, "b")
    await lease.ack()
    with pytest.raises(LeaseLostError, match="'b'"):
        await queue.lease_of(lease.receipt)


async def test_a_receipt_is_for_one_queue(broker: Broker, queue: LeasedQueue[str, Any]) -> None:
    another = await broker.queue("invoices")
    receipt = (await lease_of(queue, "a")).receipt
    await lease_of(another, "a")
    with pytest.raises(InvalidLeaseError, match=r"'orders' .* 'invoices'"):
        await another.lease_of(receipt)


@pytest.mark.parametrize("receipt", ["", "a", "1", "{}", "[1, 2, 3]", '["orders", "a"]'])
async def test_what_is_no_receipt_is_refused(queue: LeasedQueue[str, Any], receipt: str) -> None:
    with pytest.raises(InvalidLeaseError, match="not a receipt"):
        await queue.lease_of(receipt)


async def test_a_closed_queue_returns_no_lease_of_a_receipt(queue: LeasedQueue[str, Any]) -> None:
    receipt = (await lease_of(queue, "a")).receipt
    await queue.close()
    with pytest.raises(QueueClosedError):
        await queue.lease_of(receipt)


# History


async def test_a_queue_remembers_what_was_done_last(queue: LeasedQueue[str, Any]) -> None:
    for key in "abc":
        await (await lease_of(queue, key, key * 2)).ack()
    await (await lease_of(queue, "d")).reject("no")
    done = await queue.history()
    assert [(each.key, each.value, each.deliveries) for each in done] == [
        ("b", "bb", 1),
        ("c", "cc", 1),
    ]
    assert done[0].token < done[1].token
    assert done[1].ended_at == pytest.approx(time.time(), abs=60)


async def test_a_queue_remembers_nothing_unless_it_was_told(broker: Broker) -> None:
    queue = await broker.queue("letters")
    await (await lease_of(queue, "a")).ack()
    assert await queue.history() == []


@pytest.mark.needs("advance")
async def test_a_receipt_of_a_lease_that_expired_is_worth_nothing(
    engine: BrokerEngine, broker: Broker
) -> None:
    queue = await broker.queue("orders")
    await queue.put("a", 1)
    _, _, lease = await queue.get(lease_timeout=TIMEOUT)
    await engine.advance(TIMEOUT - 1)
    assert (await queue.lease_of(lease.receipt)).key == "a"
    await engine.advance(2)
    with pytest.raises(LeaseLostError):
        await queue.lease_of(lease.receipt)
