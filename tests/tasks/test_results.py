"""Values that are kept for a time, and waited for."""

from collections.abc import Callable
from typing import Any

import pytest
from anyio import create_task_group, sleep

from leaseq import Broker, LeasedQueue
from leaseq.tasks._results import Results

Any_ = Callable[..., Any]

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
time_passes = pytest.mark.time_passes


@pytest.fixture
async def queue(broker: Broker) -> LeasedQueue[str, object]:
    return await broker.queue("values")


@pytest.fixture
def results(broker: Broker, queue: LeasedQueue[str, object]) -> Results:
    return Results(broker, queue)


async def keep(broker: Broker, results: Results, key: str, value: object, ttl: float) -> None:
    async with broker.transaction() as transaction:
        results.stage(transaction, key, value, ttl)


async def test_a_value_is_there_or_it_is_not(broker: Broker, results: Results) -> None:
    assert await results.read("a") == []
    await keep(broker, results, "a", None, 10.0)
    assert await results.read("a") == [None]
    assert await results.wait("a", 0) is None
    with pytest.raises(TimeoutError):
        await results.wait("b", 0)


@time_passes
async def test_a_bell_whose_value_is_gone_wakes_nobody_for_good(
    broker: Broker, results: Results, queue: LeasedQueue[str, object], advance: Any_
) -> None:
    async with create_task_group() as tg:
        tg.start_soon(results.wait, "a", None)
        await sleep(1.0)
        await keep(broker, results, "a", 1, 2.0)
    await advance(3.0)  # the value is gone, and the bell rings still
    with pytest.raises(TimeoutError):
        await results.wait("a", 5.0)
    assert (await queue.qsize(), await queue.inflight_size()) == (0, 0)


@time_passes
async def test_a_waiter_that_dies_with_the_bell_in_hand_holds_the_next_one_up_for_seconds(
    broker: Broker, results: Results, queue: LeasedQueue[str, object]
) -> None:
    async def die() -> None:
        await queue.take("bell:a", lease_timeout=10.0)

    async with create_task_group() as tg:
        tg.start_soon(die)
        await sleep(1.0)
        tg.start_soon(results.wait, "a", 20.0)
        await sleep(1.0)
        await keep(broker, results, "a", 1, 600.0)
        assert await results.wait("a", None) == 1  # who comes now has it at once


@time_passes
async def test_a_value_is_replaced_while_somebody_is_being_woken(
    broker: Broker, results: Results, queue: LeasedQueue[str, object], advance: Any_
) -> None:
    await keep(broker, results, "a", 1, 10.0)
    _, _, bell = await queue.take("bell:a")
    await keep(broker, results, "a", 2, 20.0)
    await bell.ack()
    assert await queue.peek("bell:a") is True
    await advance(15.0)
    assert await results.wait("a", None) == 2
