"""Transactions that cannot be done: nothing of them is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from anyio import CancelScope, sleep_forever
from tests.contract.helpers import TIMEOUT, BrokerEngine, in_line, lease_of

from leaseq import (
    Broker,
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeasedQueue,
    LeaseLostError,
    LeaseqError,
    QueueClosedError,
    Retry,
    TimekeeperNotRunningError,
    TransactionError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

AnyQueue = LeasedQueue[str, Any]


async def test_an_error_inside_does_nothing(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    with pytest.raises(KeyError):
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
            raise KeyError
    assert lease.ended is None
    assert await invoices.qsize() == 0


async def test_a_cancellation_inside_does_nothing(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    with CancelScope() as scope:
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
            scope.cancel()
            await sleep_forever()
    assert lease.ended is None
    assert await invoices.qsize() == 0


async def test_a_failure_is_told_and_nothing_done(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    done = await lease_of(orders, "done")
    held = await lease_of(orders, "held")
    await done.ack()
    with pytest.raises(TransactionError, match="nothing was done, because of 1") as caught:
        async with broker.transaction() as tx:
            tx.put(invoices, "a", 1)
            tx.ack(held)
            tx.ack(done)
            tx.put(invoices, "b", 1)
    [failure] = caught.value.failures
    assert isinstance(failure, LeaseAlreadyAcknowledgedError)
    assert held.ended is None
    assert await invoices.qsize() == 0


async def test_each_failure_is_told(broker: Broker, orders: AnyQueue, invoices: AnyQueue) -> None:
    released = await lease_of(orders, "released")
    await released.release()
    await lease_of(orders, "held")
    await invoices.shutdown()
    with pytest.raises(TransactionError, match="because of 3") as caught:
        async with broker.transaction() as tx:
            tx.reject(released, "no")
            tx.put(orders, "held", 2, if_in_flight="reject")
            tx.put(invoices, "a", 1)
    assert [type(failure) for failure in caught.value.failures] == [
        InvalidLeaseError,
        KeyAlreadyInFlightError,
        QueueClosedError,
    ]
    for failure in caught.value.failures:
        assert str(failure) in str(caught.value)


async def test_a_full_queue_is_a_failure(broker: Broker, orders: AnyQueue) -> None:
    small = await broker.queue("small", max_size=2)
    await small.put("a", 1)
    lease = await lease_of(orders, "a")
    with pytest.raises(TransactionError, match="no room for 2 more"):
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(small, "a", 2)  # is there
            tx.put(small, "b", 1)
            tx.put(small, "c", 1)
            tx.put(small, "c", 2)  # will be there
    assert await in_line(small) == ["a"]
    assert lease.ended is None


async def test_no_room_and_a_lost_lease_are_both_told(broker: Broker) -> None:
    small = await broker.queue("small", max_size=1)
    lease = await lease_of(small, "a")
    with pytest.raises(TransactionError, match="because of 2") as caught:
        async with broker.transaction() as tx:
            tx.put(small, "b", 1)
            tx.put(small, "c", 1)
            tx.ack(lease)
            await small.ack(lease)
    first, second = caught.value.failures
    assert type(first) is LeaseAlreadyAcknowledgedError
    assert type(second) is LeaseqError
    assert "no room for 2 more" in str(second)
    assert await small.qsize() == 0


async def test_what_fits_a_small_queue_is_put(broker: Broker) -> None:
    small = await broker.queue("small", max_size=2, retry=Retry(max_deliveries=1))
    await small.put("a", 1)
    lease = await lease_of(small, "b")
    async with broker.transaction() as tx:
        tx.put(small, "b", 2)  # is leased, and then dead
        tx.release(lease)
        tx.put(small, "b", 3)
    assert await in_line(small) == ["a", "b"]


async def test_a_lost_lease_is_a_failure(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a", consumer="worker-1")
    with pytest.raises(TransactionError, match="LeaseLostError"):
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
            await orders.release_all(consumer="worker-1")
    assert await invoices.qsize() == 0


async def test_a_lease_settled_twice_is_a_failure(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a")
    with pytest.raises(TransactionError, match=r"because of 1: .* settled twice"):
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.release(lease)
    assert lease.ended is None


async def test_of_two_transactions_on_a_lease_the_first_to_end_has_it(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    with pytest.raises(TransactionError, match="LeaseAlreadyAcknowledgedError"):
        async with broker.transaction() as second:
            second.ack(lease)
            second.put(invoices, "second", 1)
            async with broker.transaction() as first:
                first.ack(lease)
                first.put(invoices, "first", 1)
    assert await in_line(invoices) == ["first"]


@pytest.mark.parametrize("settle", ["leave", "release", "buffer"])
async def test_another_tenants_key_is_a_failure(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue, settle: str
) -> None:
    await orders.put("a", 1, tenant="ada")
    _, _, lease = await orders.get()
    if settle == "buffer":
        await orders.put("a", 2, if_in_flight="buffer")
    with pytest.raises(TransactionError, match=r"because of 1: TenantMismatchError: .* 'ada'"):
        async with broker.transaction() as tx:
            tx.put(invoices, "a", 1)
            if settle == "release":
                tx.release(lease)
            elif settle == "buffer":
                tx.ack(lease)
            tx.put(orders, "a", 1, tenant="bob")
    assert lease.ended is None
    assert await invoices.qsize() == 0


async def test_one_key_for_two_tenants_is_a_failure(broker: Broker, orders: AnyQueue) -> None:
    with pytest.raises(TransactionError, match="'ada'"):
        async with broker.transaction() as tx:
            tx.put(orders, "a", 1, tenant="ada")
            tx.put(orders, "a", 1)
            tx.put(orders, "a", 1, tenant="bob")
    assert await orders.qsize() == 0


async def test_a_queue_that_is_deleted_meanwhile_is_a_failure(
    broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    lease = await lease_of(orders, "a")
    with pytest.raises(TransactionError, match="because of 2") as caught:
        async with broker.transaction() as tx:
            tx.put(invoices, "a", 1)
            tx.put(orders, "b", 1)
            tx.ack(lease)
            await broker.delete_queue("orders")
    assert all(isinstance(failure, QueueClosedError) for failure in caught.value.failures)
    assert await invoices.qsize() == 0


async def test_a_delay_without_a_timekeeper_is_a_failure(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queue = await broker.queue("orders")
        lease = await lease_of(queue, "a")
        with pytest.raises(TransactionError, match="TimekeeperNotRunningError"):
            async with broker.transaction() as tx:
                tx.put(queue, "b", 1, delay=1)
        with pytest.raises(TimekeeperNotRunningError):
            async with broker.transaction() as tx:
                tx.release(lease, delay=1)
        assert lease.ended is None


async def test_a_closed_broker_is_a_failure(broker: Broker, orders: AnyQueue) -> None:
    with pytest.raises(TransactionError, match="QueueClosedError"):
        async with broker.transaction() as tx:
            tx.put(orders, "a", 1)
            await broker.close()


# Misuse, which is told at once


async def test_another_brokers_queue_is_refused(
    engine: BrokerEngine, broker: Broker, orders: AnyQueue
) -> None:
    async with await engine.broker() as other:
        theirs = await other.queue("orders")
        lease = await lease_of(theirs, "a")
        async with broker.transaction() as tx:
            for refused in (
                lambda: tx.put(theirs, "b", 1),
                lambda: tx.add(theirs, 1),
                lambda: tx.ack(lease),
                lambda: tx.release(lease),
                lambda: tx.reject(lease, "no"),
            ):
                with pytest.raises(ValueError, match="is not a queue of this broker"):
                    refused()
        assert lease.ended is None


async def test_a_step_is_on_a_queue_and_not_on_its_name(broker: Broker, orders: AnyQueue) -> None:
    name: Any = orders.name
    async with broker.transaction() as tx:
        for put in (lambda: tx.put(name, "b", 1), lambda: tx.add(name, 1)):
            with pytest.raises(ValueError, match="'orders' is a name: a step is on a queue itself"):
                put()


async def test_wrong_options_are_refused(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a")
    unhashable: str = []  # type: ignore[assignment]
    async with broker.transaction() as tx:
        with pytest.raises(ValueError, match="delay must be 0 seconds or more"):
            tx.put(orders, "b", 1, delay=-1)
        with pytest.raises(ValueError, match="if_in_flight must be one of"):
            tx.add(orders, 1, if_in_flight="drop")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="delay must be 0 seconds or more"):
            tx.release(lease, delay=-1)
        with pytest.raises(ValueError, match=re.escape("requeue_front=True excludes a delay")):
            tx.release(lease, requeue_front=True, delay=1)
        with pytest.raises(TypeError, match="a key must be hashable"):
            tx.put(orders, unhashable, 1)
    assert await orders.qsize() == 0
    assert lease.ended is None


async def test_a_transaction_is_used_inside_its_block(broker: Broker, orders: AnyQueue) -> None:
    lease = await lease_of(orders, "a")
    tx = broker.transaction()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="is not open"):
            tx.put(orders, "b", 1)
        with pytest.raises(RuntimeError, match="is not open"):
            tx.ack(lease)
        async with broker.transaction() as tx:
            pass
    await lease.ack()


async def test_a_transaction_is_for_one_block(broker: Broker) -> None:
    async with broker.transaction() as tx:
        pass
    with pytest.raises(RuntimeError, match="make another one"):
        async with tx:
            raise AssertionError("entered")


# Leases that run out


@pytest.mark.needs("advance")
async def test_an_expired_lease_is_a_failure(
    engine: BrokerEngine, broker: Broker, orders: AnyQueue, invoices: AnyQueue
) -> None:
    await orders.put("a", 1)
    _, _, lease = await orders.get(lease_timeout=TIMEOUT)
    with pytest.raises(TransactionError) as caught:
        async with broker.transaction() as tx:
            tx.ack(lease)
            tx.put(invoices, "a", 1)
            await engine.advance(TIMEOUT + 1)
    assert [type(failure) for failure in caught.value.failures] == [LeaseLostError]
    assert await invoices.qsize() == 0
    assert await in_line(orders) == ["a"]


@pytest.mark.needs("advance")
async def test_a_lease_whose_body_has_ended_may_expire_too(
    engine: BrokerEngine, broker: Broker, orders: AnyQueue
) -> None:
    await orders.put("a", 1)
    with pytest.raises(TransactionError, match="LeaseLostError"):
        async with broker.transaction() as tx:
            async with orders.lease(lease_timeout=TIMEOUT) as lease:
                tx.ack(lease)
            await engine.advance(TIMEOUT + 1)
    assert await in_line(orders) == ["a"]
