"""Transactions: all of it, in one step, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import CancelScope, create_task_group, sleep_forever
from tests.contract.helpers import TIMEOUT, in_line, lease_of, until

from leaseq import Broker, Lease, LeasedQueue, PutOutcome, Retry, TransactionError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

AnyQueue = LeasedQueue[str, Any]


async def test_nothing_happens_before_the_end_and_then_all_of_it(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    async with broker.transaction() as tx:
        tx.ack(lease)
        tx.put(invoices, "a", 1)
        message_id = tx.add(invoices, 2)
        assert await invoices.qsize() == 0
        assert await orders.inflight_keys() == {"a"}
    assert lease.ended == "acked"
    assert await orders.state("a") == "absent"
    assert await in_line(invoices) == ["a", message_id]


async def test_the_steps_are_done_in_their_order(broker: Broker, orders: AnyQueue) -> None:
    async with broker.transaction() as tx:
        for key in "abc":
            tx.put(orders, key, 1)
        tx.put(orders, "a", 2)
    assert await orders.peek("a") == 2
    assert await in_line(orders) == ["a", "b", "c"]


async def test_a_lease_is_settled_in_each_way(broker: Broker, orders: AnyQueue) -> None:
    leases = [await lease_of(orders, key) for key in "abcd"]
    async with broker.transaction() as tx:
        tx.ack(leases[0])
        tx.release(leases[1])
        tx.release(leases[2], requeue_front=True, counted=False)
        tx.reject(leases[3], "no such customer")
    assert [lease.ended for lease in leases] == ["acked", "released", "released", "rejected"]
    _, letter, _ = await (await broker.dead_letters("orders")).get()
    assert (letter.key, letter.reason) == ("d", "no such customer")
    _, _, first = await orders.get()
    _, _, second = await orders.get()
    assert (first.key, first.deliveries) == ("c", 1)
    assert (second.key, second.deliveries) == ("b", 2)


async def test_a_put_has_its_options(broker: Broker, orders: AnyQueue) -> None:
    async with broker.transaction() as tx:
        tx.put(orders, "a", 1, tenant="ada")
        tx.put(orders, "b", 1, priority=6, tenant="ada")
        tx.add(orders, 1, message_id="c", delay=TIMEOUT)
    _, _, lease = await orders.get()
    assert (lease.key, lease.priority, lease.tenant) == ("b", 6, "ada")
    assert (await orders.info()).delayed == 1


async def test_a_key_whose_lease_is_acked_is_put_as_a_new_item(
    broker: Broker, orders: AnyQueue
) -> None:
    lease = await lease_of(orders, "a", 1)
    async with broker.transaction() as tx:
        tx.ack(lease)
        tx.put(orders, "a", 2, tenant="ada", if_in_flight="reject")
    _, value, again = await orders.get()
    assert (value, again.deliveries, again.tenant) == (2, 1, "ada")
    assert again.token > lease.token


async def test_a_key_that_is_put_before_its_ack_is_not(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a", 1)
    async with broker.transaction() as tx:
        tx.put(orders, "a", 2)
        tx.ack(lease)
    assert await orders.state("a") == "absent"


async def test_a_key_whose_lease_is_released_is_replaced(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a", 1)
    async with broker.transaction() as tx:
        tx.release(lease)
        tx.put(orders, "a", 2)
    _, value, again = await orders.get()
    assert (value, again.deliveries) == (2, 2)


async def test_a_transaction_of_nothing_does_nothing(broker: Broker) -> None:
    async with broker.transaction():
        pass


async def test_one_that_waits_is_woken(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    seen: list[tuple[str, int]] = []

    async def wait(queue: AnyQueue, other: AnyQueue) -> None:
        key, _, _ = await queue.get()
        statistics = await other.statistics()
        seen.append((key, statistics.ready + statistics.leased))

    async with create_task_group() as tg:
        tg.start_soon(wait, orders, invoices)
        tg.start_soon(wait, invoices, orders)
        await until(orders, getters=1)
        await until(invoices, getters=1)
        async with broker.transaction() as tx:
            tx.put(orders, "a", 1)
            tx.put(invoices, "b", 1)
    assert sorted(seen) == [("a", 1), ("b", 1)]  # each saw what the other got


async def test_one_that_waits_for_what_is_delayed_is_woken(
    broker: Broker, orders: AnyQueue
) -> None:
    await orders.put("a", 1, delay=TIMEOUT)
    async with create_task_group() as tg:
        tg.start_soon(orders.get)
        await until(orders, getters=1)
        async with broker.transaction() as tx:
            tx.put(orders, "a", 2)  # now, and not later
    assert await orders.inflight_keys() == {"a"}


async def test_one_that_waits_for_a_released_key_is_woken(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a")
    async with create_task_group() as tg:
        tg.start_soon(orders.take, "a")
        await until(orders, takers=1)
        async with broker.transaction() as tx:
            tx.release(lease)


async def test_what_was_acked_is_remembered(broker: Broker) -> None:
    queue = await broker.queue("remembering", history=3, dedupe_for=TIMEOUT)
    lease = await lease_of(queue, "a")
    async with broker.transaction() as tx:
        tx.ack(lease)
        tx.put(queue, "a", 2)  # a duplicate
    assert [done.key for done in await queue.history()] == ["a"]
    assert await queue.state("a") == "absent"


@pytest.mark.parametrize("how", ["reject", "ack"])
@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_a_key_that_was_done_before_is_a_duplicate_once_its_item_is_gone(
    broker: Broker, how: str, tenant: str | None
) -> None:
    queue = await broker.queue("q", dedupe_for=TIMEOUT, max_size=1)
    lease = await lease_of(queue, "a")
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.ack(lease)
    _, _, lease = await queue.get()
    await queue.put("b", 1)
    async with broker.transaction() as tx:
        if how == "ack":
            tx.ack(lease)
        else:
            tx.reject(lease, "no")
        tx.put(queue, "a", 3, tenant=tenant)
        tx.put(queue, "a", 4)
    assert await queue.state("a") == "absent"
    assert await queue.put("a", 5) is PutOutcome.DUPLICATE


async def test_an_ack_may_drain_a_queue(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a")
    await orders.shutdown()
    async with create_task_group() as tg:
        tg.start_soon(orders.join)
        async with broker.transaction() as tx:
            tx.ack(lease)


# A transaction, and ``async with lease``, in both nestings


async def test_inside_a_body_the_transaction_settles(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    async with orders.lease() as lease, broker.transaction() as tx:
        tx.ack(lease)
        tx.put(invoices, "a", 1)
    assert lease.ended == "acked"
    assert await in_line(invoices) == ["a"]


async def test_a_body_goes_on_after_the_transaction(broker: Broker, orders: AnyQueue) -> None:
    await orders.put("a", 1)
    async with orders.lease() as lease:
        async with broker.transaction() as tx:
            tx.reject(lease, "no")
        assert lease.ended == "rejected"


async def test_a_failure_inside_a_body_is_one_of_the_body(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    await invoices.shutdown()
    with pytest.raises(TransactionError):
        async with orders.lease() as lease, broker.transaction() as tx:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
    _, _, again = await orders.get()
    assert (again.key, again.deliveries) == ("a", 2)


async def test_a_body_may_catch_the_failure_and_end_as_ever(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    await invoices.shutdown()
    async with orders.lease() as lease:
        with pytest.raises(TransactionError):
            async with broker.transaction() as tx:
                tx.ack(lease)
                tx.put(invoices, "a", 1)
    assert lease.ended == "acked"


async def test_around_a_body_the_transaction_settles_later(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put_many([("a", 1), ("b", 1)])
    async with broker.transaction() as tx:
        leases: list[Lease[str, Any]] = []
        for _ in range(2):
            async with orders.lease() as lease:
                tx.ack(lease)
                leases.append(lease)
            assert lease.ended is None
        tx.put(invoices, "both", 1)
    assert [lease.ended for lease in leases] == ["acked", "acked"]
    assert await in_line(invoices) == ["both"]


async def test_around_a_batch_the_transaction_settles_later(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put_many([("a", 1), ("b", 1), ("c", 1)])
    async with broker.transaction() as tx, orders.lease_batch(3) as batch:
        first, second, third = batch
        tx.ack(first)
        tx.reject(second, "no")
        tx.put(invoices, "all", 1)
    assert [lease.ended for lease in (first, second, third)] == ["acked", "rejected", "acked"]


async def test_around_a_body_a_failure_lets_the_item_be_tried_again(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    await invoices.shutdown()
    with pytest.raises(TransactionError):
        async with broker.transaction() as tx, orders.lease() as lease:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
    assert lease.ended == "released"
    _, _, again = await orders.get()
    assert (again.key, again.deliveries) == ("a", 2)


async def test_around_a_body_an_error_lets_the_item_be_tried_again(
    broker: Broker, orders: AnyQueue
) -> None:
    await orders.put("a", 1)
    with pytest.raises(KeyError):
        async with broker.transaction() as tx:
            async with orders.lease() as lease:
                tx.ack(lease)
            raise KeyError
    _, _, again = await orders.get()
    assert (again.key, again.deliveries) == ("a", 2)


async def test_around_a_body_a_cancellation_gives_the_item_back_uncounted(
    broker: Broker, orders: AnyQueue
) -> None:
    await orders.put_many([("a", 1), ("b", 1)])
    with CancelScope() as scope:
        async with broker.transaction() as tx:
            async with orders.lease() as lease:
                tx.ack(lease)
            scope.cancel()
            await sleep_forever()
    _, _, again = await orders.get()
    assert (again.key, again.deliveries, again.cancellations) == ("a", 1, 1)


async def test_a_body_that_raises_settles_by_itself(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    with pytest.raises(TransactionError, match="InvalidLeaseError"):
        async with broker.transaction() as tx:
            with pytest.raises(KeyError):
                async with orders.lease() as lease:
                    tx.ack(lease)
                    tx.put(invoices, "a", 1)
                    raise KeyError
            assert lease.ended == "released"
    assert await in_line(orders) == ["a"]
    assert await invoices.qsize() == 0


async def test_a_failed_transaction_leaves_alone_what_has_no_body(
    broker: Broker, orders: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    with pytest.raises(KeyError):
        async with broker.transaction() as tx:
            tx.ack(lease)
            raise KeyError
    await lease.ack()


async def test_an_inner_transaction_leaves_an_outer_ones_lease_to_it(
    broker: Broker, orders: AnyQueue
) -> None:
    await orders.put("a", 1)
    async with broker.transaction() as outer:
        async with orders.lease() as lease:
            with pytest.raises(KeyError):
                async with broker.transaction() as inner:
                    inner.ack(lease)
                    outer.ack(lease)
                    raise KeyError
        assert lease.ended is None
    assert lease.ended == "acked"


async def test_items_that_die_with_a_transaction_that_fails_are_one_record(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    retry = Retry(max_deliveries=1)
    queue, _ = await broker.create_queue_pair("brief", retry=retry)
    await queue.put_many([(f"k{number}", 1) for number in range(30)])
    with pytest.raises(ZeroDivisionError):
        async with broker.transaction() as tx:
            async with queue.lease_batch(30) as batch:
                for lease in batch:
                    tx.ack(lease)
            raise ZeroDivisionError
    assert (await queue.statistics()).dead == 30
    told = [message for message in caplog.messages if "is a dead letter" in message]
    assert len(told) == 1
    assert told[0].endswith(", and 29 more like it")


async def test_items_that_die_in_a_transaction_are_one_record(
    broker: Broker, orders: AnyQueue, caplog: pytest.LogCaptureFixture
) -> None:
    await orders.put_many([(f"k{number}", 1) for number in range(30)])
    leases = await orders.get_batch(30)
    async with broker.transaction() as tx:
        for lease in leases:
            tx.reject(lease, "no")
    told = [message for message in caplog.messages if "is a dead letter" in message]
    assert len(told) == 1
    assert told[0].endswith(", and 29 more like it")
