"""Two handles on one queue, as two processes have them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from anyio import Event, create_task_group, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import (
    TIMEOUT,
    Handles,
    Queue,
    SharedEngine,
    StartBoth,
    Waiting,
    each_way,
    fill,
    in_line,
    others_run,
    until,
)

from leaseq import InvalidLeaseError, Lease, LeaseLostError, PutOutcome, Tenant

pytestmark = [pytest.mark.anyio, pytest.mark.needs("handles")]


async def settle_by(queue: Queue, lease: Lease[str, object], how: str) -> None:
    """Settle or extend a lease through a handle that may not be its own."""
    if how == "ack":
        await queue.ack(lease)
    elif how == "release":
        await queue.release(lease)
    elif how == "extend":
        await queue.extend(lease, None)
    elif how == "reject":
        await queue.reject(lease, "unreadable")
    elif how == "fail":
        await queue._fail(lease, KeyError())
    else:
        await queue._give_back(lease)


async def test_what_one_puts_the_other_gets(both: Handles) -> None:
    one, other = both
    assert await one.put("a", {"page": 1}) is PutOutcome.ADDED
    key, value, lease = await other.get()
    assert (key, value) == ("a", {"page": 1})
    assert lease.queue is other


async def test_what_both_put_is_in_one_line(both: Handles) -> None:
    one, other = both
    for handle, key in ((one, "c"), (other, "a"), (one, "b")):
        await handle.put(key, 1)
    assert await in_line(other) == ["c", "a", "b"]


async def test_what_the_one_holds_is_not_the_others(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    await one.get()
    with pytest.raises(TimeoutError):
        await other.get(timeout=0)
    with pytest.raises(TimeoutError):
        await other.take("a", timeout=0)


async def test_a_key_of_the_one_is_there_for_the_other(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    assert await other.put("a", 2) is PutOutcome.REPLACED
    _, value, lease = await one.get()
    assert await other.put("a", 3) is PutOutcome.UPDATED_IN_FLIGHT
    assert (value, await one._look("a")) == (2, ("leased", 3))
    assert await one.ack(lease) is True


async def test_both_tell_the_same(both: Handles) -> None:
    one, other = both
    await one.put_many([("a", 1), ("b", 1), ("c", 1)])
    await one.get(consumer="worker-1")
    _, _, lease = await other.get(consumer="worker-2")
    await other.ack(lease)
    for handle in both:
        statistics = await handle.statistics()
        assert (statistics.ready, statistics.leased, statistics.acked) == (1, 1, 1)
        assert await handle.available_keys() == {"c"}
        [held] = await handle.inflight()
        assert (held.key, held.consumer) == ("a", "worker-1")


async def test_tokens_grow_whoever_has_the_lease(both: Handles) -> None:
    one, other = both
    tokens: list[int] = []
    await one.put("a", 1)
    for handle in (one, other, one):
        _, _, lease = await handle.get()
        tokens.append(lease.token)
        await lease.release()
    assert tokens[0] < tokens[1] < tokens[2]


async def test_a_failure_at_the_one_counts_for_the_other(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    with suppress(KeyError):
        async with one.lease():
            raise KeyError
    _, _, lease = await other.get()
    assert lease.deliveries == 2


async def test_the_dead_of_the_one_are_brought_back_by_the_other(
    start_both: StartBoth, letters: Queue
) -> None:
    one, other = await start_both(dead_letters=letters, name="pages")
    await one.put("a", 1)
    _, _, lease = await one.get()
    await lease.reject("unreadable")
    assert (await other.redrive()).keys == ("a",)
    assert await in_line(one) == ["a"]


# Waiting


async def test_a_getter_of_the_one_is_woken_by_a_put_of_the_other(both: Handles) -> None:
    one, other = both
    async with create_task_group() as tg:
        waiting = Waiting(tg, one)
        await waiting.get("getter")
        await other.put("a", 1)
    assert waiting.got == {"getter": "a"}


async def test_a_taker_of_the_one_is_woken_by_a_put_of_the_other(both: Handles) -> None:
    one, other = both
    async with create_task_group() as tg:
        waiting = Waiting(tg, one)
        await waiting.take("taker", "a")
        await other.put_many([("b", 1), ("a", 1)])
    assert waiting.got == {"taker": "a"}
    assert await other.available_keys() == {"b"}


async def test_a_consumer_for_a_tenant_is_woken_by_a_put_of_the_other(both: Handles) -> None:
    one, other = both
    async with create_task_group() as tg:
        waiting = Waiting(tg, one)
        await waiting.get("ann's", tenants=["ann"])
        await fill(other, {"bob": 1, "ann": 1})
    assert waiting.got == {"ann's": "ann0"}


async def test_a_getter_of_the_one_is_woken_by_a_release_of_the_other(both: Handles) -> None:
    one, other = both
    await other.put("a", 1)
    _, _, lease = await other.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, one)
        await waiting.get("getter")
        await lease.release()
    assert waiting.got == {"getter": "a"}


async def test_each_of_two_items_wakes_one_of_two_who_wait(both: Handles) -> None:
    async with create_task_group() as tg:
        waiting = [Waiting(tg, handle) for handle in both]
        for each in waiting:
            await each.get("getter")
        await both[0].put("a", 1)
        await until(both[0], ready=0, leased=1)
        await both[0].put("b", 1)
    assert sorted(each.got["getter"] for each in waiting) == ["a", "b"]


async def test_a_getter_that_gave_up_leaves_its_turn_to_the_other(both: Handles) -> None:
    one, other = both
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        async with create_task_group() as impatient:
            await Waiting(impatient, one).get("impatient")
            await waiting.get("patient")
            impatient.cancel_scope.cancel()
        await until(one, getters=0)
        await one.put("a", 1)
    assert waiting.got == {"patient": "a"}


async def test_consumers_of_both_share_the_items(both: Handles) -> None:
    keys: list[str] = []

    async def consume(handle: Queue) -> None:
        async for lease in handle:
            async with lease:
                await checkpoint()
                keys.append(lease.key)

    await both[0].put_many((str(number), number) for number in range(20))
    async with create_task_group() as tg:
        for handle in both:
            await handle.shutdown()
            for _ in range(2):
                tg.start_soon(consume, handle)
    assert sorted(keys, key=int) == [str(number) for number in range(20)]


# Whose lease it is


@each_way
async def test_a_lease_of_the_one_is_not_settled_by_the_other(both: Handles, how: str) -> None:
    one, other = both
    await one.put("a", 1)
    _, _, lease = await one.get()
    with pytest.raises(InvalidLeaseError):
        await settle_by(other, lease, how)
    assert lease.ended is None
    assert await other.inflight_keys() == {"a"}
    await lease.ack()


async def test_a_lease_of_the_one_is_settled_by_the_other_with_its_receipt(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    _, _, lease = await one.get()
    found = await other.lease_of(lease.receipt)
    assert (found.key, found.value, found.token) == ("a", 1, lease.token)
    assert found.queue is other
    await found.ack()
    assert await one.state("a") == "absent"
    with pytest.raises(InvalidLeaseError):
        await lease.ack()


async def test_a_body_of_the_one_is_cancelled_when_the_other_takes_its_leases(
    both: Handles,
) -> None:
    one, other = both
    await one.put("a", 1)
    entered = Event()

    async def work() -> None:
        with pytest.raises(LeaseLostError):
            async with one.lease(consumer="worker-1"):
                entered.set()
                await sleep_forever()

    async with create_task_group() as tg:
        tg.start_soon(work)
        await entered.wait()  # who has not seen its lease yet would get another one
        assert await other.release_all(consumer="worker-1") == 1
    assert await in_line(other) == ["a"]


# Limits


async def test_a_full_queue_is_full_for_both(start_both: StartBoth) -> None:
    one, other = await start_both(max_size=1)
    await one.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.put("b")
        await others_run()
        assert await one.qsize() == 1
        tg.cancel_scope.cancel()
    assert waiting.got == {}


async def test_room_that_the_one_makes_lets_a_producer_of_the_other_in(
    start_both: StartBoth,
) -> None:
    one, other = await start_both(max_size=1)
    await one.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.put("b")
        await one.get()
    assert waiting.got == {"b": "put"}
    assert await in_line(one) == ["b"]


async def test_a_cap_counts_the_leases_of_both(start_both: StartBoth) -> None:
    one, other = await start_both(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(one, {"ann": 2})
    _, _, lease = await one.get()
    assert await in_line(other) == []
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.get("getter")
        await lease.ack()
    assert waiting.got == {"getter": "ann1"}


async def test_a_cap_that_the_one_sets_holds_for_the_other(both: Handles) -> None:
    one, other = both
    await fill(one, {"ann": 3})
    await one.set_tenant("ann", Tenant(max_in_flight=2))
    assert await in_line(other) == ["ann0", "ann1"]


# Time, as both have it


@pytest.mark.needs("advance")
async def test_an_expired_lease_of_the_one_is_the_others(
    engine: SharedEngine, both: Handles
) -> None:
    one, other = both
    await one.put("a", 1)
    _, _, lost = await one.get(lease_timeout=TIMEOUT)
    await engine.advance(TIMEOUT + 1)
    _, _, lease = await other.get(timeout=0)
    assert (lease.key, lease.deliveries) == ("a", 2)
    with pytest.raises(LeaseLostError):
        await lost.ack()
    await lease.ack()


@pytest.mark.needs("advance")
async def test_an_expired_lease_of_the_one_wakes_a_getter_of_the_other(
    engine: SharedEngine, both: Handles
) -> None:
    one, other = both
    await one.put("a", 1)
    await one.get(lease_timeout=TIMEOUT)
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.get("getter")
        await engine.advance(TIMEOUT + 1)
        await until(other, getters=0)
    assert waiting.got == {"getter": "a"}


@pytest.mark.needs("advance")
async def test_what_is_left_by_one_that_is_gone_is_the_others(engine: SharedEngine) -> None:
    one, other = await engine.handles()
    async with create_task_group() as gone:
        await gone.start(one.run)
        await one.put("a", 1)
        await one.get(lease_timeout=TIMEOUT)
        await one.put("b", 1, delay=TIMEOUT + 10)
        gone.cancel_scope.cancel()
    async with create_task_group() as tg:
        await tg.start(other.run)
        waiting = Waiting(tg, other)
        for name in ("first", "second"):
            await waiting.get(name)
        await engine.advance(TIMEOUT + 1)
        await until(other, getters=1)
        await engine.advance(10)
        await until(other, getters=0)
        tg.cancel_scope.cancel()
    assert waiting.got == {"first": "a", "second": "b"}


@pytest.mark.needs("advance")
async def test_a_lease_that_is_extended_is_not_the_others(
    engine: SharedEngine, both: Handles
) -> None:
    one, other = both
    await one.put("a", 1)
    _, _, lease = await one.get(lease_timeout=TIMEOUT)
    await engine.advance(TIMEOUT - 1)
    await lease.extend(TIMEOUT)
    await engine.advance(TIMEOUT - 1)
    assert await in_line(other) == []
    await lease.ack()


@pytest.mark.needs("advance")
async def test_a_time_to_live_runs_for_both(
    engine: SharedEngine, start_both: StartBoth, letters: Queue
) -> None:
    one, other = await start_both(dead_letters=letters, name="pages")
    await one.put("a", 1, ttl=10)
    await engine.advance(11)
    assert await in_line(other) == []
    assert (await letters.statistics()).ready == 1
