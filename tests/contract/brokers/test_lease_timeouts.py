"""How long leases are where nobody has said it: not for ever, where a process may be killed."""

import pytest
from anyio import create_task_group, current_time
from tests.contract.helpers import BrokerEngine

from leaseq import Broker, MemoryBroker

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers"), pytest.mark.usual_leases]


async def lease_length(broker: Broker, name: str) -> float:
    queue = await broker.queue(name)
    await queue.put("a", 1)
    _, _, lease = await queue.get(timeout=0)
    left = lease.deadline - current_time()
    await lease.ack()
    return left


async def letter_length(broker: Broker, name: str) -> float:
    queue = await broker.queue(name)
    await queue.put("dead", 1)
    _, _, lease = await queue.get(timeout=0)
    await lease.reject("no good")
    letters = await broker.dead_letters(name)
    _, _, letter = await letters.get(timeout=0)
    left = letter.deadline - current_time()
    await letter.ack()
    return left


async def test_leases_end_after_a_minute_where_processes_share_the_queue(
    engine: BrokerEngine,
) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        await tg.start(broker.run)
        await broker.create_queue_pair("pair")
        usual = float("inf") if isinstance(broker, MemoryBroker) else 60.0
        for length in (
            await lease_length(broker, "plain"),
            await lease_length(broker, "pair"),
            await letter_length(broker, "pair"),
        ):
            assert length == pytest.approx(usual, abs=2)
        tg.cancel_scope.cancel()


@pytest.mark.parametrize(("timeout", "length"), [(7.0, 7.0), (None, float("inf"))])
async def test_a_queue_of_dead_letters_has_the_timeout_of_the_queue_that_it_was_made_with(
    engine: BrokerEngine, timeout: float | None, length: float
) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        await tg.start(broker.run)
        await broker.create_queue_pair("pair", default_lease_timeout=timeout)
        await broker.queue("work", dead_letters="lost", default_lease_timeout=timeout)
        for name in ("pair", "work"):
            assert await lease_length(broker, name) == pytest.approx(length, abs=1.5)
            assert await letter_length(broker, name) == pytest.approx(length, abs=1.5)
        tg.cancel_scope.cancel()


async def test_a_queue_of_dead_letters_that_was_there_keeps_its_own_timeout(
    engine: BrokerEngine,
) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        await tg.start(broker.run)
        await broker.queue("lost", default_lease_timeout=20.0)
        await broker.queue("work", dead_letters="lost", default_lease_timeout=7.0)
        assert await letter_length(broker, "work") == pytest.approx(20.0, abs=1.5)
        tg.cancel_scope.cancel()


async def test_the_usual_timeout_can_be_asked_for(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        usual = None if isinstance(broker, MemoryBroker) else 60.0
        await broker.queue("work")
        await broker.queue("work", default_lease_timeout=usual)
        with pytest.raises(ValueError, match="was asked for with default_lease_timeout=5"):
            await broker.queue("work", default_lease_timeout=5.0)
