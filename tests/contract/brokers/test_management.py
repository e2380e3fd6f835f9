"""`info`, `list_queues`, `delete_queue`, `purge` and `process_expired`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError
from typing import Any, TypeAlias

import pytest
from anyio import create_task_group
from tests.contract.helpers import BrokerEngine, in_line, lease_of, until

from leaseq import Broker, Lease, LeasedQueue, LeaseLostError, QueueClosedError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]


async def closed(call: Callable[..., Awaitable[object]], *args: object) -> None:
    """See that a call ends because the queue is closed."""
    with pytest.raises(QueueClosedError):
        await call(*args)


class _Leaving:
    """The ways of a dead letter that was leased out of its queue but the lease's own."""

    def __init__(self, broker: Broker, lost: LeasedQueue[str, Any]) -> None:
        self._broker = broker
        self._lost = lost

    async def purge(self, letter: Lease[str, Any]) -> None:
        """It is dropped, as the first of what waits; the other one is leased meanwhile."""
        await letter.release(requeue_front=True)
        _, _, first = await self._lost.get(lease_timeout=None)
        _, _, other = await self._lost.get(lease_timeout=None)
        await first.release()
        await self._broker.purge("lost")
        await other.release()

    async def replace(self, letter: Lease[str, Any]) -> None:
        """Something else is put in its place."""
        await letter.release()
        await self._lost.put(letter.key, "something else")

    async def update(self, letter: Lease[str, Any]) -> None:
        """Something else is put while it is leased, and released with it."""
        await self._lost.put(letter.key, "something else")
        await letter.release()

    async def succeed(self, letter: Lease[str, Any]) -> None:
        """Something else comes after it."""
        await self._lost.put(letter.key, "something else", if_in_flight="buffer")
        await letter.release()


Leave: TypeAlias = Callable[[_Leaving, Lease[str, Any]], Awaitable[object]]


async def test_a_queue_tells_how_full_it_is(broker: Broker) -> None:
    queue, _ = await broker.create_queue_pair("orders")
    for key in "abc":
        await queue.put(key, 1)
    await queue.put("d", 1, delay=60)
    await (await lease_of(queue, "e")).reject("no")
    await queue.get()
    info = await queue.info()
    assert (info.name, info.ready, info.delayed) == ("orders", 2, 1)
    assert (info.leased, info.dead) == (1, 1)


async def test_a_queue_tells_since_when_it_is_there(broker: Broker) -> None:
    info = await (await broker.queue("orders")).info()
    assert info.created_at == pytest.approx(time.time(), abs=60)


async def test_a_queue_tells_whose_dead_letters_it_has(broker: Broker) -> None:
    orders = await broker.queue("orders", dead_letters="lost")
    await broker.queue("invoices", dead_letters="lost")
    assert (await orders.info()).dead_letters_of == ()
    assert (await (await broker.queue("lost")).info()).dead_letters_of == ("orders", "invoices")


async def test_a_queue_counts_its_own_dead_letters_alone(broker: Broker) -> None:
    orders = await broker.queue("orders", dead_letters="lost")
    invoices = await broker.queue("invoices", dead_letters="lost")
    lost = await broker.queue("lost")
    for key in "ab":
        await (await lease_of(orders, key)).reject("no")
    await (await lease_of(invoices, "a")).reject("no")
    await lost.put("by hand", "not a letter")
    await lost.get()  # a letter in somebody's hands is one still
    assert ((await orders.info()).dead, (await invoices.info()).dead) == (2, 1)


async def test_a_dead_letter_that_comes_back_from_the_dead_counts_again(broker: Broker) -> None:
    lost = await broker.queue("lost", dead_letters="lost.dead")
    orders = await broker.queue("orders", dead_letters="lost")
    await (await lease_of(orders, "a")).reject("no")
    _, _, letter = await lost.get(lease_timeout=None)
    await letter.reject("no")
    assert ((await orders.info()).dead, (await lost.info()).dead) == (0, 1)
    await lost.redrive()
    assert ((await orders.info()).dead, (await lost.info()).dead) == (1, 0)
    assert (await orders.redrive()).keys == ("a",)
    assert ((await orders.info()).dead, (await lost.info()).dead) == (0, 0)


@pytest.mark.parametrize(
    "leave",
    [
        lambda _, letter: letter.ack(),
        lambda _, letter: letter.reject("no"),
        _Leaving.purge,
        _Leaving.replace,
        _Leaving.update,
        _Leaving.succeed,
    ],
    ids=["acked", "rejected", "purged", "replaced", "updated", "succeeded"],
)
async def test_a_dead_letter_counts_until_it_leaves(broker: Broker, leave: Leave) -> None:
    orders = await broker.queue("orders", dead_letters="lost")
    lost = await broker.queue("lost")
    for key in "ab":
        await (await lease_of(orders, key)).reject("no")
    _, _, letter = await lost.get(lease_timeout=None)
    assert (await orders.info()).dead == 2
    await leave(_Leaving(broker, lost), letter)
    assert (await orders.info()).dead == 1
    assert (await orders.redrive()).keys == ("b",)
    assert (await orders.info()).dead == 0


async def test_what_a_queue_tells_is_frozen(broker: Broker) -> None:
    info = await (await broker.queue("orders")).info()
    with pytest.raises(FrozenInstanceError):
        info.ready = 1  # type: ignore[misc]


async def test_queues_are_listed_as_they_were_made(broker: Broker) -> None:
    assert await broker.list_queues() == []
    for name in ("b", "c", "a"):
        await broker.queue(name)
    await (await broker.queue("c")).put("key", 1)
    queues = await broker.list_queues()
    assert [(info.name, info.ready) for info in queues] == [("b", 0), ("c", 1), ("a", 0)]


# Deleting


async def test_a_deleted_queue_is_gone(broker: Broker) -> None:
    queue = await broker.queue("orders")
    await queue.put("a", 1)
    await broker.delete_queue("orders")
    assert await broker.list_queues() == []
    assert queue.closed


async def test_its_name_is_free_for_a_new_one(broker: Broker) -> None:
    await (await broker.queue("orders", history=3)).put("a", 1)
    await broker.delete_queue("orders")
    assert await in_line(await broker.queue("orders", history=4)) == []


async def test_those_who_wait_for_an_item_are_told(broker: Broker) -> None:
    queue = await broker.queue("orders")
    await lease_of(queue, "leased")
    async with create_task_group() as tg:
        tg.start_soon(closed, queue.get)
        tg.start_soon(closed, queue.take, "leased")
        tg.start_soon(closed, queue.join)
        await until(queue, getters=1, takers=1)
        await broker.delete_queue("orders")


async def test_those_who_wait_for_room_are_told(broker: Broker) -> None:
    queue = await broker.queue("orders", max_size=1)
    await queue.put("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(closed, queue.put, "b", 1)
        await until(queue, putters=1)
        await broker.delete_queue("orders")


async def test_the_leases_of_a_deleted_queue_are_lost(broker: Broker) -> None:
    queue = await broker.queue("orders")
    lease = await lease_of(queue, "a")
    await broker.delete_queue("orders")
    assert lease.ended == "lost"
    with pytest.raises(QueueClosedError):
        await lease.ack()


async def test_a_body_under_one_of_its_leases_is_cancelled(broker: Broker) -> None:
    queue = await broker.queue("orders")
    lease = await lease_of(queue, "a")
    with pytest.raises(LeaseLostError):
        async with lease:
            await broker.delete_queue("orders")
            await (await broker.queue("invoices")).get()


async def test_its_dead_letters_are_gone_too(broker: Broker) -> None:
    _, letters = await broker.create_queue_pair("orders")
    await broker.delete_queue("orders")
    assert letters.closed
    assert await broker.list_queues() == []


async def test_its_dead_letters_can_be_kept(broker: Broker) -> None:
    queue, letters = await broker.create_queue_pair("orders")
    await (await lease_of(queue, "a")).reject("no")
    await broker.delete_queue("orders", dead_letters=False)
    [info] = await broker.list_queues()
    assert (info.name, info.ready, info.dead_letters_of) == ("orders.dead", 1, ())
    assert not letters.closed


async def test_shared_dead_letters_stay_until_the_last_queue_goes(broker: Broker) -> None:
    await broker.queue("orders", dead_letters="lost")
    await broker.queue("invoices", dead_letters="lost")
    await broker.delete_queue("orders")
    [info] = [each for each in await broker.list_queues() if each.name == "lost"]
    assert info.dead_letters_of == ("invoices",)
    await broker.delete_queue("invoices")
    assert await broker.list_queues() == []


async def test_dead_letters_are_not_deleted_under_their_queue(broker: Broker) -> None:
    _, letters = await broker.create_queue_pair("orders")
    with pytest.raises(ValueError, match="holds the dead letters of 'orders'"):
        await broker.delete_queue("orders.dead")
    assert not letters.closed


async def test_a_queue_that_there_is_not_cannot_be_deleted(broker: Broker) -> None:
    with pytest.raises(LookupError, match="there is no queue 'orders'"):
        await broker.delete_queue("orders")


# Purging


async def test_a_purge_drops_what_waits_and_says_how_much(broker: Broker) -> None:
    queue = await broker.queue("orders")
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.put("c", 1, delay=60)
    assert await broker.purge("orders") == 3
    assert await queue.qsize() == 0
    assert await broker.purge("orders") == 0


async def test_a_purge_leaves_alone_what_is_leased(broker: Broker) -> None:
    queue = await broker.queue("orders")
    lease = await lease_of(queue, "a")
    assert await broker.purge("orders") == 0
    await lease.release()
    assert await in_line(queue) == ["a"]


async def test_a_purge_makes_room(broker: Broker) -> None:
    queue = await broker.queue("orders", max_size=1)
    await queue.put("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(queue.put, "b", 1)
        await until(queue, putters=1)
        await broker.purge("orders")
    assert await in_line(queue) == ["b"]


async def test_a_queue_that_there_is_not_cannot_be_purged(broker: Broker) -> None:
    with pytest.raises(LookupError, match="there is no queue 'orders'"):
        await broker.purge("orders")


# Processing what expired


@pytest.mark.needs("advance")
async def test_what_has_outlived_its_time_is_buried_on_demand(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:  # and no timekeeper
        orders, _ = await broker.create_queue_pair("orders")
        invoices, _ = await broker.create_queue_pair("invoices")
        await orders.put("a", 1, ttl=60)
        await orders.put("b", 1, ttl=90)
        await invoices.put("a", 1, ttl=60)
        assert await broker.process_expired() == 0
        await engine.advance(61)
        assert await broker.process_expired() == 2
        assert await broker.process_expired() == 0
        assert await in_line(orders) == ["b"]
        _, letter, _ = await (await broker.dead_letters("orders")).get()
        assert (letter.key, letter.reason) == ("a", "expired")


async def test_the_pauses_of_a_queue_go_with_it(broker: Broker) -> None:
    queue = await broker.queue("orders")
    await queue.pause(reason="a reason")
    await queue.pause("ann")
    await broker.delete_queue("orders")
    info = await (await broker.queue("orders")).info()
    assert (info.paused, dict(info.paused_tenants)) == (None, {})


async def test_a_queue_that_is_asked_for_again_is_paused_still(broker: Broker) -> None:
    await (await broker.queue("orders")).pause(reason="a reason")
    again = await broker.queue("orders")
    await again.put("a", 1)
    with pytest.raises(TimeoutError):
        await again.get(timeout=0)
    assert await broker.purge("orders") == 1
    assert await again.resume() is True


async def test_transactions_go_on_while_a_queue_is_paused(broker: Broker) -> None:
    queue = await broker.queue("orders")
    lease = await lease_of(queue, "a", 1)
    await queue.pause()
    async with broker.transaction() as transaction:
        transaction.ack(lease)
        transaction.put(queue, "b", 1)
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)
    await queue.resume()
    assert await in_line(queue) == ["b"]
