"""A broker's `run`, one timekeeper for all queues, and its `close`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from anyio import BusyResourceError, create_task_group
from tests.contract.helpers import TIMEOUT, BrokerEngine, in_line, lease_of, until

from leaseq import Broker, LeaseLostError, QueueClosedError, TimekeeperNotRunningError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

each_call = pytest.mark.parametrize(
    "call",
    [
        lambda broker: broker.queue("orders"),
        lambda broker: broker.create_queue_pair("orders"),
        lambda broker: broker.dead_letters("orders"),
        lambda broker: broker.list_queues(),
        lambda broker: broker.delete_queue("orders"),
        lambda broker: broker.purge("orders"),
        lambda broker: broker.process_expired(),
    ],
    ids=["queue", "pair", "dead letters", "list", "delete", "purge", "process expired"],
)


async def test_without_it_time_stands_still_in_every_queue(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        for name in ("orders", "invoices"):
            queue = await broker.queue(name)
            with pytest.raises(TimekeeperNotRunningError, match=r"tg\.start\(broker\.run\)"):
                await queue.get(lease_timeout=TIMEOUT)


async def test_a_queue_made_later_has_a_timekeeper_at_once(broker: Broker) -> None:
    queue = await broker.queue("orders", default_lease_timeout=TIMEOUT)
    await queue.put("a", 1)
    await queue.get()


async def test_a_cancelled_run_is_missed_in_every_queue(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queues = [await broker.queue("before")]
        async with create_task_group() as tg:
            await tg.start(broker.run)
            queues.append(await broker.queue("after"))
            tg.cancel_scope.cancel()
        for queue in queues:
            with pytest.raises(TimekeeperNotRunningError):
                await queue.get(lease_timeout=TIMEOUT)


async def test_it_can_run_again(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queue = await broker.queue("orders")
        for number in range(2):
            async with create_task_group() as tg:
                await tg.start(broker.run)
                await queue.put(str(number), 1)
                await queue.get(lease_timeout=TIMEOUT)
                tg.cancel_scope.cancel()


async def test_a_second_run_at_the_same_time_is_refused(broker: Broker) -> None:
    with pytest.raises(BusyResourceError):
        await broker.run()


async def test_it_returns_when_the_broker_is_closed(engine: BrokerEngine) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        await broker.queue("orders")
        await tg.start(broker.run)


async def test_it_returns_at_once_from_a_closed_broker(engine: BrokerEngine) -> None:
    broker = await engine.broker()
    await broker.close()
    async with create_task_group() as tg:
        await tg.start(broker.run)


async def test_it_goes_on_when_a_queue_is_drained_or_deleted(broker: Broker) -> None:
    await (await broker.queue("orders")).shutdown()
    await broker.queue("invoices")
    await broker.delete_queue("invoices")
    queue = await broker.queue("letters")
    await queue.put("a", 1)
    await queue.get(lease_timeout=TIMEOUT)


@pytest.mark.needs("advance")
async def test_leases_of_all_queues_expire(engine: BrokerEngine, broker: Broker) -> None:
    queues = [await broker.queue(name) for name in ("orders", "invoices")]
    for number, queue in enumerate(queues):
        await queue.put("a", 1)
        await queue.get(lease_timeout=TIMEOUT + number)
    await engine.advance(TIMEOUT + 2)
    for queue in queues:
        assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_time_passes_for_queues_made_later(engine: BrokerEngine, broker: Broker) -> None:
    await engine.advance(1)
    queue = await broker.queue("orders")
    await queue.put("a", 1, delay=TIMEOUT)
    await engine.advance(TIMEOUT + 1)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_what_outlives_its_time_is_buried_without_a_call(
    engine: BrokerEngine, broker: Broker
) -> None:
    queue, letters = await broker.create_queue_pair("orders")
    await queue.put("a", 1, ttl=TIMEOUT)
    await engine.advance(TIMEOUT + 1)
    assert await letters.qsize() == 1
    assert await broker.process_expired() == 0


# Queues that are closed, and that time leaves alone


@pytest.mark.needs("advance", "owned")
async def test_a_closed_queue_is_left_as_it_is(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queue = await broker.queue("orders")
        await queue.put("a", 1, ttl=60)
        await queue.close()
        await engine.advance(61)
        assert await broker.process_expired() == 0


@pytest.mark.needs("advance", "owned")
async def test_a_closed_queue_is_left_alone(engine: BrokerEngine, broker: Broker) -> None:
    queue, letters = await broker.create_queue_pair("orders")
    await queue.put("a", 1, ttl=TIMEOUT)
    await queue.close()
    await engine.advance(TIMEOUT + 1)
    assert await letters.qsize() == 0


# Closing


async def test_leaving_the_context_closes_the_queues(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queue, letters = await broker.create_queue_pair("orders")
    assert queue.closed
    assert letters.closed


async def test_those_who_wait_are_told(broker: Broker) -> None:
    queue = await broker.queue("orders")

    async def wait() -> None:
        with pytest.raises(QueueClosedError):
            await queue.get()

    async with create_task_group() as tg:
        tg.start_soon(wait)
        await until(queue, getters=1)
        await broker.close()


async def test_leases_are_lost(broker: Broker) -> None:
    queue = await broker.queue("orders")
    lease = await lease_of(queue, "a")
    with pytest.raises(LeaseLostError):
        async with lease:
            await broker.close()
    assert lease.ended == "lost"


async def test_closing_again_does_nothing(broker: Broker) -> None:
    await broker.close()
    await broker.close()


@each_call
async def test_a_closed_broker_is_of_no_more_use(
    broker: Broker, call: Callable[[Broker], Awaitable[object]]
) -> None:
    await broker.queue("orders")
    await broker.close()
    with pytest.raises(QueueClosedError):
        await call(broker)
