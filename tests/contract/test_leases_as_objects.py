"""Leases and what hands them out, as objects: frozen, of one kind, entered once, and no other's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import BrokerEngine, Engine, Queue, in_line, lease_of, until

from leaseq import InvalidLeaseError, Lease, LeaseBatch

pytestmark = pytest.mark.anyio

NAMES = (
    *("queue", "key", "value", "priority", "tenant", "token", "deadline", "since"),
    *("deliveries", "cancellations", "ended", "receipt"),
)
NO_LEASES = ["a", 5, None, object(), ["a"], ("a", 1), Lease]

no_leases = pytest.mark.parametrize("lease", NO_LEASES, ids=range(len(NO_LEASES)))


# Frozen


@pytest.mark.parametrize("name", NAMES)
async def test_a_lease_cannot_be_changed(queue: Queue, name: str) -> None:
    lease = await lease_of(queue, "a", 1)
    before = getattr(lease, name)
    with pytest.raises(AttributeError, match=f"{name}.*Lease"):
        setattr(lease, name, 9)
    with pytest.raises(AttributeError, match=f"{name}.*Lease"):
        delattr(lease, name)
    assert getattr(lease, name) == before
    await lease.release()
    assert await queue.peek("a") == 1


async def test_a_lease_has_no_other_attributes(queue: Queue) -> None:
    lease: Any = await lease_of(queue, "a", 1)
    with pytest.raises(AttributeError, match="Lease"):
        lease.note = "mine"


# Of one kind

again = pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])


@again
async def test_what_a_queue_gives_is_neither_copied_nor_pickled(
    queue: Queue, again: Callable[[object], object]
) -> None:
    lease = await lease_of(queue, "a", 1)
    batch = LeaseBatch([lease])
    for each in (queue, lease, batch, queue.lease(), queue.lease_batch(2)):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            again(each)
    assert await lease.ack() is False


@pytest.mark.needs("brokers")
@again
async def test_a_broker_and_its_transactions_are_neither_copied_nor_pickled(
    engine: BrokerEngine, again: Callable[[object], object]
) -> None:
    async with await engine.broker() as broker:
        for each in (broker, broker.transaction()):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                again(each)


async def test_a_class_shows_public_names_alone(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    for each in (queue, lease, LeaseBatch([lease]), queue.lease(), queue.lease_batch(2)):
        assert [kind for kind in type(each).__mro__ if "._" in repr(kind)] == []


@pytest.mark.needs("brokers")
async def test_the_class_of_a_broker_shows_public_names_alone(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        assert [kind for kind in type(broker).__mro__[:-1] if "._" in repr(kind)] == []


# Entered once


async def test_a_lease_is_entered_by_one_task(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    async with lease:
        with pytest.raises(RuntimeError, match="is entered already: one body for one lease"):
            await lease.__aenter__()
        assert lease.ended is None
    assert lease.ended == "acked"


@pytest.mark.parametrize("call", ["lease", "lease_batch"])
async def test_a_context_leases_once(queue: Queue, call: str) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    context: Any = queue.lease() if call == "lease" else queue.lease_batch(1)
    async with context:
        with pytest.raises(RuntimeError, match=rf"^{call}\(\) is for one block, .* call it again"):
            await context.__aenter__()
    with pytest.raises(RuntimeError, match="is for one block"):
        await context.__aenter__()
    assert await queue.inflight_keys() == set()
    assert await in_line(queue) == ["b"]


async def test_a_context_that_waits_in_one_task_is_not_entered_by_another(queue: Queue) -> None:
    context = queue.lease()

    async def work() -> None:
        async with context as lease:
            assert lease.key == "a"

    async with create_task_group() as tg:
        tg.start_soon(work)
        await until(queue, getters=1)
        with pytest.raises(RuntimeError, match="is for one block"):
            await context.__aenter__()
        await queue.put("a", 1)
    assert await queue.state("a") == "absent"


async def test_a_context_that_leased_nothing_may_be_entered_again(queue: Queue) -> None:
    context, batch = queue.lease(timeout=0), queue.lease_batch(1, timeout=0)
    for each in (context, batch):
        with pytest.raises(TimeoutError):
            await each.__aenter__()
    await queue.put("a", 1)
    async with context as lease:
        assert lease.key == "a"


@pytest.mark.needs("brokers")
async def test_a_transaction_is_for_one_block(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        transaction = broker.transaction()
        async with transaction:
            with pytest.raises(RuntimeError, match="for one block"):
                await transaction.__aenter__()
        with pytest.raises(RuntimeError, match="for one block"):
            await transaction.__aenter__()


# No lease, or no lease of this queue

Settle = Callable[[Any, Any], Awaitable[object]]
SETTLE: dict[str, Settle] = {
    "ack": lambda queue, lease: queue.ack(lease),
    "release": lambda queue, lease: queue.release(lease),
    "reject": lambda queue, lease: queue.reject(lease, "no"),
}
each_settlement = pytest.mark.parametrize("how", SETTLE)


@no_leases
@pytest.mark.parametrize("how", [*SETTLE, "extend"])
async def test_what_is_no_lease_cannot_be_settled(queue: Queue, lease: object, how: str) -> None:
    settle: Settle = SETTLE.get(how, lambda queue, lease: queue.extend(lease, None))
    with pytest.raises(InvalidLeaseError, match="is not a lease: use the one that"):
        await settle(queue, lease)


@each_settlement
async def test_a_context_is_no_lease(queue: Queue, how: str) -> None:
    with pytest.raises(InvalidLeaseError, match="is not a lease"):
        await SETTLE[how](queue, queue.lease())


@each_settlement
async def test_a_lease_of_another_queue_is_settled_there(
    engine: Engine, queue: Queue, how: str
) -> None:
    lease = await lease_of(await engine.queue(), "a", 1)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await SETTLE[how](queue, lease)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await queue.extend(lease, None)
    assert lease.ended is None


@each_settlement
async def test_a_batch_settles_its_own_leases_alone(engine: Engine, queue: Queue, how: str) -> None:
    await queue.put("a", 1)
    other = await lease_of(await engine.queue(), "a", 1)
    async with queue.lease_batch(1) as batch:
        mine = [*batch]
        for each in NO_LEASES:
            with pytest.raises(InvalidLeaseError, match="is not a lease"):
                await SETTLE[how](batch, each)
        with pytest.raises(InvalidLeaseError, match="belongs to another batch"):
            await SETTLE[how](batch, other)
        assert [*batch] == mine
    assert other.ended is None


@pytest.mark.needs("brokers")
@no_leases
async def test_what_is_no_lease_is_no_step_of_a_transaction(
    engine: BrokerEngine, lease: Any
) -> None:
    async with await engine.broker() as broker, broker.transaction() as tx:
        for step in (tx.ack, tx.release, lambda it: tx.reject(it, "no")):
            with pytest.raises(InvalidLeaseError, match="is not a lease"):
                step(lease)


@pytest.mark.needs("brokers")
async def test_a_lease_of_another_broker_is_no_step_of_a_transaction(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker, await engine.broker() as other:
        lease = await lease_of(await other.queue("q"), "a", 1)
        async with broker.transaction() as tx:
            for step in (tx.ack, tx.release, lambda it: tx.reject(it, "no")):
                with pytest.raises(InvalidLeaseError, match="settle it there"):
                    step(lease)
        assert lease.ended is None


# Left by an async generator


async def test_leaving_a_generator_over_leases_is_no_failure(queue: Queue) -> None:
    async def leases() -> AsyncIterator[Lease[str, object]]:
        while True:
            async with queue.lease() as lease:
                yield lease

    await queue.put_many([("a", 1), ("b", 2)])
    async with aclosing(leases()) as generator:  # type: ignore[type-var]
        async for lease in generator:
            assert lease.key == "a"
            break
    _, _, lease = await queue.get()
    assert (lease.key, lease.deliveries, lease.cancellations) == ("a", 1, 1)
