"""`Retry` and `Backoff`: how often an item is delivered, and when it is tried again."""

from __future__ import annotations

import math
from contextlib import suppress

import anyio
import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import (
    TIMEOUT,
    Engine,
    Queue,
    Start,
    Waiting,
    in_line,
    others_run,
    until,
)

from leaseq import Backoff, Retry

pytestmark = pytest.mark.anyio

LONG = Backoff(1e6, ceiling=1e6)


async def test_a_queue_that_was_told_nothing_tries_for_ever(queue: Queue) -> None:
    await queue.put("a", 1)
    for deliveries in range(1, 50):
        _, _, lease = await queue.get(timeout=0)
        assert lease.deliveries == deliveries
        await queue.release(lease)


async def test_an_item_is_given_up_at_its_last_delivery(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=3))
    await queue.put("a", 1)
    for deliveries in range(1, 4):
        _, _, lease = await queue.get(timeout=0)
        assert lease.deliveries == deliveries
        await queue.release(lease)
    assert await queue.state("a") == "absent"
    assert (await queue.statistics()).dropped == 1


async def test_an_item_can_be_done_at_its_last_delivery(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    async with queue.lease():
        pass
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.dropped) == (1, 0)


@pytest.mark.parametrize("how", ["to the front", "to the back", "failed"])
async def test_a_counted_release_at_the_last_delivery_is_a_death(start: Start, how: str) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    if how == "failed":
        await queue._fail(lease, KeyError())
    else:
        await queue.release(lease, requeue_front=how == "to the front")
    assert lease.ended == "released"
    assert await queue.state("a") == "absent"


async def test_an_error_in_a_body_counts(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=2))
    await queue.put("a", 1)
    for _ in range(2):
        with suppress(KeyError):
            async with queue.lease():
                raise KeyError
    assert await queue.state("a") == "absent"


async def test_a_cancellation_does_not_count(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    for _ in range(3):
        with CancelScope() as scope:
            async with queue.lease() as lease:
                scope.cancel()
                await checkpoint()
        assert lease.deliveries == 1
    assert await queue.contains("a")


async def test_an_uncounted_release_does_not_count(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    for _ in range(3):
        _, _, lease = await queue.get(timeout=0)
        assert lease.deliveries == 1
        await queue.release(lease, counted=False)


async def test_a_put_on_a_key_that_waits_leaves_its_deliveries(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=2))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    await queue.put("a", 2)
    _, _, lease = await queue.get()
    assert lease.deliveries == 2


async def test_a_buffered_item_outlives_the_last_delivery(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.release(lease)
    _, value, lease = await queue.get()
    assert (value, lease.deliveries) == (2, 1)
    statistics = await queue.statistics()
    assert (statistics.dropped, statistics.superseded) == (1, 0)


async def test_a_taker_waits_on_when_its_key_is_given_up(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "a")
        await queue.release(lease)
        assert (await queue.statistics()).takers == 1
        await queue.put("a", 2)
    assert waiting.got == {"taker": "a"}


async def test_a_join_ends_when_the_last_item_is_given_up(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await others_run()
        await queue.release(lease)


# Misuse


def test_no_delivery_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_deliveries must be 1 or more, .*, not 0"):
        Retry(max_deliveries=0)


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_backoff_of_no_length_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"base must be 0 seconds or more, not {seconds}"):
        Backoff(seconds)
    with pytest.raises(ValueError, match=f"ceiling must be 0 seconds or more, not {seconds}"):
        Backoff(1, ceiling=seconds)


@pytest.mark.parametrize("factor", [0.5, math.nan, math.inf])
def test_a_backoff_that_shrinks_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"factor must be a number of 1 or more, not {factor}"):
        Backoff(1, factor)


async def test_a_release_at_once_and_later_is_refused(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(ValueError, match="requeue_front=True excludes a delay, and delay=10:"):
        await queue.release(lease, requeue_front=True, delay=10)
    assert lease.ended is None


# Backoff, `release(delay=)`, and expiries


@pytest.mark.needs("advance")
async def test_a_release_can_say_how_long_an_item_rests(engine: Engine, queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.release(lease, delay=10)
    assert (await queue.statistics()).delayed == 1
    await engine.advance(9)
    assert await in_line(queue) == ["b"]
    await engine.advance(2)
    _, _, lease = await queue.get(timeout=0)
    assert (lease.key, lease.deliveries) == ("a", 2)


@pytest.mark.needs("advance")
async def test_a_lease_can_say_how_long_its_item_rests(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    async with queue.lease() as lease:
        await lease.release(delay=10)
    assert await in_line(queue) == []
    await engine.advance(11)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_an_item_rests_after_a_failure(engine: Engine, start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put("a", 1)
    with suppress(KeyError):
        async with queue.lease():
            raise KeyError
    await engine.advance(1)
    assert await in_line(queue) == []
    await engine.advance(1e6)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_an_item_rests_no_longer_than_the_ceiling(engine: Engine, start: Start) -> None:
    queue = await start(retry=Retry(backoff=Backoff(10, 10, ceiling=20)))
    await queue.put("a", 1)
    for _ in range(10):
        _, _, lease = await queue.get(timeout=0)
        await queue.release(lease)
        await engine.advance(21)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_a_release_that_names_a_delay_needs_no_rest(start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease, delay=0)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_a_release_to_the_front_needs_no_rest(start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease, requeue_front=True)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_what_does_not_count_needs_no_rest(start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease, counted=False)
    _, _, lease = await queue.get(timeout=0)
    await queue._give_back(lease)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_an_item_that_rests_keeps_nobody_from_their_turn(start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put_many([("a", 1), ("b", 1)])
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        _, _, lease = await queue.get()
        _, _, other = await queue.get()
        await waiting.get("getter")
        await queue.release(lease)
        await queue.release(other, delay=0)
    assert waiting.got == {"getter": "b"}


@pytest.mark.needs("advance")
async def test_an_item_that_has_rested_goes_to_who_waits(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "a")
        await queue.release(lease, delay=10)
        await engine.advance(9)
        assert waiting.got == {}
        await engine.advance(2)
        await until(queue, takers=0)
    assert waiting.got == {"taker": "a"}


@pytest.mark.needs("advance")
async def test_the_first_expiry_needs_no_rest_and_the_second_one_does(
    engine: Engine, start: Start
) -> None:
    queue = await start(retry=Retry(backoff=LONG), default_lease_timeout=TIMEOUT)
    await queue.put("a", 1)
    await queue.get()
    await engine.advance(TIMEOUT + 1)
    await queue.get(timeout=0)
    await engine.advance(TIMEOUT + 1)
    assert await in_line(queue) == []
    await engine.advance(1e6)
    assert await in_line(queue) == ["a"]


@pytest.mark.needs("advance")
async def test_an_expiry_at_the_last_delivery_is_a_death(engine: Engine, start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=1), default_lease_timeout=TIMEOUT)
    await queue.put("a", 1)
    await queue.get()
    await engine.advance(TIMEOUT + 1)
    assert await queue.state("a") == "absent"
    statistics = await queue.statistics()
    assert (statistics.expired, statistics.dropped) == (1, 1)


@pytest.mark.needs("advance")
async def test_a_buffered_item_needs_no_rest(start: Start) -> None:
    queue = await start(retry=Retry(backoff=LONG))
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    await queue.release(lease)
    _, value, _ = await queue.get(timeout=0)
    assert value == 2


@pytest.mark.needs("advance")
async def test_a_shut_down_queue_waits_for_what_rests(engine: Engine, queue: Queue) -> None:
    deliveries: list[int] = []

    async def consume() -> None:
        async for lease in queue:
            async with lease:
                deliveries.append(lease.deliveries)
                if lease.deliveries < 3:
                    await lease.release(delay=10)

    await queue.put("a", 1)
    await queue.shutdown()
    with anyio.fail_after(3600):
        async with create_task_group() as tg:
            tg.start_soon(consume)
            for released in (1, 2):
                await until(queue, delayed=1, released=released)
                await engine.advance(11)
    assert deliveries == [1, 2, 3]


# The backoff of a pool


async def test_a_backoff_of_the_consumer_counts_where_the_policy_has_none(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=2))
    await queue.put("a", 1)
    _, _, lease = await queue.get(timeout=0)
    await queue._fail(lease, KeyError(), LONG)
    assert await queue.state("a") == "delayed"
    await queue.put("b", 1)
    for _ in range(2):
        _, _, lease = await queue.take("b", timeout=0)
        await queue._fail(lease, KeyError(), Backoff(0))
    assert await queue.state("b") == "absent"


async def test_the_backoff_of_the_policy_comes_before_that_of_a_consumer(start: Start) -> None:
    queue = await start(retry=Retry(backoff=Backoff(0)))
    await queue.put("a", 1)
    _, _, lease = await queue.get(timeout=0)
    await queue._fail(lease, KeyError(), LONG)
    assert await queue.state("a") == "ready"


async def test_without_a_timekeeper_no_backoff_of_a_consumer_counts(engine: Engine) -> None:
    queue = await engine.queue()
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get(timeout=0)
    await queue._fail(lease, KeyError(), LONG)
    assert await in_line(queue) == ["b", "a"]
