"""Leases that run out: deadlines, and what becomes of an item whose lease passes its own."""

from __future__ import annotations

import pytest
from anyio import create_task_group, current_time
from tests.contract.helpers import TIMEOUT, Engine, Queue, each_way, in_line, settle, until

from leaseq import InvalidLeaseError, Lease, LeaseLostError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("advance")]


async def test_a_lease_has_the_queues_timeout(timed: Queue) -> None:
    await timed.put("a", 1)
    before = current_time()
    _, _, lease = await timed.get()
    assert before < lease.deadline <= current_time() + TIMEOUT


async def test_an_item_comes_back_when_its_lease_expires(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get()
    await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == ["a"]


async def test_an_item_does_not_come_back_before(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get()
    await engine.advance(TIMEOUT - 1)
    assert await in_line(timed) == []


async def test_a_consumer_can_ask_for_a_longer_lease(engine: Engine, timed: Queue) -> None:
    await timed.put_many([("a", 1), ("b", 1)])
    await timed.get(lease_timeout=TIMEOUT + 10)
    await timed.take("b", lease_timeout=TIMEOUT + 10)
    await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == []


async def test_a_consumer_can_ask_for_a_shorter_lease(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get()
    await timed.put("b", 1)
    await timed.get(lease_timeout=1)
    await engine.advance(2)
    assert await in_line(timed) == ["b"]


async def test_a_consumer_can_ask_for_a_lease_without_end(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get(lease_timeout=None)
    await engine.advance(100 * TIMEOUT)
    assert await in_line(timed) == []


async def test_a_body_can_ask_for_a_lease_without_end(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    async with timed.lease(lease_timeout=None) as lease:
        await engine.advance(100 * TIMEOUT)
    assert lease.ended == "acked"


async def test_a_lease_without_end_can_be_given_one(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.extend(lease, 1)
    await engine.advance(2)
    assert await in_line(queue) == ["a"]


async def test_an_extended_lease_lasts_longer(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await engine.advance(TIMEOUT - 1)
    await timed.extend(lease, TIMEOUT)
    await engine.advance(TIMEOUT - 1)
    await timed.ack(lease)
    assert lease.ended == "acked"


async def test_an_extended_lease_expires_too(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await engine.advance(TIMEOUT - 1)
    await timed.extend(lease, TIMEOUT)
    await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == ["a"]


async def test_a_lease_can_be_extended_to_less_than_it_had(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await timed.extend(lease, 1)
    await engine.advance(2)
    assert await in_line(timed) == ["a"]


async def test_a_lease_can_be_extended_for_ever(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await timed.extend(lease, None)
    await engine.advance(100 * TIMEOUT)
    await timed.ack(lease)
    assert lease.ended == "acked"


# What becomes of the item


async def test_an_expired_item_comes_back_to_the_front_the_first_time(
    engine: Engine, timed: Queue
) -> None:
    await timed.put_many([("a", 1), ("b", 1)])
    await timed.get()
    await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == ["a", "b"]


async def test_an_expired_item_comes_back_to_the_back_from_the_second_time_on(
    engine: Engine, timed: Queue
) -> None:
    await timed.put_many([("a", 1), ("b", 1)])
    for _ in range(2):
        await timed.take("a")
        await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == ["b", "a"]


async def test_items_that_expire_together_keep_their_order(engine: Engine, timed: Queue) -> None:
    await timed.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    for seconds in (30, 10, 20):
        await timed.get(lease_timeout=seconds)
    await engine.advance(31)
    assert await in_line(timed) == ["a", "b", "c", "d"]


async def test_an_expired_lease_counts_as_a_delivery(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lost = await timed.get()
    await engine.advance(TIMEOUT + 1)
    _, _, lease = await timed.get()
    assert lease.deliveries == 2
    assert lease.token > lost.token
    assert (await timed.statistics()).expired == 1


async def test_an_update_in_flight_comes_back_with_an_expiry(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get()
    await timed.put("a", 2)
    await engine.advance(TIMEOUT + 1)
    _, value, lease = await timed.get()
    assert (value, lease.deliveries) == (2, 2)


async def test_a_buffered_item_supersedes_an_expired_one(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await timed.get()
    await timed.put("a", 2, if_in_flight="buffer")
    await engine.advance(TIMEOUT + 1)
    _, value, lease = await timed.get()
    assert (value, lease.deliveries) == (2, 1)
    assert (await timed.statistics()).superseded == 1


async def test_an_expired_item_goes_to_the_getter_that_waits(engine: Engine, timed: Queue) -> None:
    got: list[str] = []
    await timed.put("a", 1)
    await timed.get()

    async def consume() -> None:
        key, _, _ = await timed.get()
        got.append(key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(timed, getters=1)
        await engine.advance(TIMEOUT + 1)
        await until(timed, getters=0)
    assert got == ["a"]


async def test_items_that_expire_together_go_to_those_who_wait_for_them(
    engine: Engine, timed: Queue
) -> None:
    got: dict[str, str] = {}
    await timed.put_many([("a", 1), ("b", 1)])
    await timed.take("a", lease_timeout=2)
    await timed.take("b", lease_timeout=1)

    async def get() -> None:
        key, _, _ = await timed.get(lease_timeout=None)
        got["getter"] = key

    async def take() -> None:
        key, _, _ = await timed.take("a", lease_timeout=None)
        got["taker"] = key

    async with create_task_group() as tg:
        tg.start_soon(get)
        await until(timed, getters=1)
        tg.start_soon(take)
        await until(timed, takers=1)
        await engine.advance(3)
    assert got == {"taker": "a", "getter": "b"}


# What becomes of the lease


@each_way
async def test_an_expired_lease_is_lost(engine: Engine, timed: Queue, how: str) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await engine.advance(TIMEOUT + 1)
    with pytest.raises(LeaseLostError, match="'a'") as caught:
        await settle(lease, how)
    assert isinstance(caught.value, InvalidLeaseError)


@each_way
async def test_a_lease_past_its_deadline_is_lost_before_anybody_has_looked(
    engine: Engine, how: str
) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        _, _, lease = await queue.get(lease_timeout=TIMEOUT)
        tg.cancel_scope.cancel()
    await engine.advance(TIMEOUT + 1)
    with pytest.raises(LeaseLostError, match="expired"):
        await settle(lease, how)


@each_way
async def test_an_expired_lease_cannot_touch_an_item_that_another_holds(
    engine: Engine, timed: Queue, how: str
) -> None:
    await timed.put("a", 1)
    _, _, lost = await timed.get()
    await engine.advance(TIMEOUT + 1)
    _, _, lease = await timed.get()
    with pytest.raises(LeaseLostError):
        await settle(lost, how)
    assert await timed.inflight_keys() == {"a"}
    await timed.ack(lease)
    assert lease.ended == "acked"


@pytest.mark.parametrize("how", ["ack", "release", "give back"])
async def test_a_settled_lease_does_not_expire(engine: Engine, timed: Queue, how: str) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await settle(lease, how)
    await engine.advance(TIMEOUT + 1)
    assert (await timed.statistics()).expired == 0


# The timekeeper


async def test_a_timekeeper_that_is_started_again_makes_up_for_what_it_missed(
    engine: Engine,
) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1)
        await queue.get(lease_timeout=TIMEOUT)
        tg.cancel_scope.cancel()
    await engine.advance(TIMEOUT + 1)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await engine.advance(1)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_many_leases_that_expire_in_one_step_are_one_record(
    engine: Engine, timed: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"k{number}" for number in range(300)]  # more than a timekeeper does in one go
    await timed.put_many([(key, 1) for key in keys])
    leases: list[Lease[str, object]] = []
    while len(leases) < len(keys):
        leases += await timed.get_batch(len(keys) - len(leases))
    await engine.advance(TIMEOUT + 1)
    assert all(lease.ended == "lost" for lease in leases)
    told = [message for message in caplog.messages if " expired" in message]
    assert len(told) == 1
    assert told[0].endswith(", and 299 more like it")
