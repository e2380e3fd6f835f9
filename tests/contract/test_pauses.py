"""`pause` and `resume`: nothing more is claimed from a queue, or from a tenant."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.contract.helpers import (
    TIMEOUT,
    Engine,
    Handles,
    Queue,
    Start,
    Waiting,
    each_way,
    fill,
    in_line,
    lease_of,
    left_in,
    letters_in,
    others_run,
    settle,
    sweep,
    until,
)

from leaseq import Paused, QueueClosedError, Tenant, TenantStatistics
from leaseq.testing import Operation, Scenario

pytestmark = pytest.mark.anyio


async def nothing_comes(queue: Queue, key: str | None = None, **options: list[str | None]) -> None:
    """Check that nothing is claimed."""
    with pytest.raises(TimeoutError):
        if key is None:
            await queue.get(timeout=0, **options)  # type: ignore[arg-type]
        else:
            await queue.take(key, timeout=0)


# A whole queue


async def test_nothing_is_claimed_from_a_paused_queue(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    await queue.pause()
    await nothing_comes(queue)
    await nothing_comes(queue, "a")
    await nothing_comes(queue, tenants=[None])
    with pytest.raises(TimeoutError):
        await queue.get_batch(2, timeout=0)
    assert await queue.available_keys() == {"a", "b"}
    assert await queue.state("a") == "ready"


async def test_a_queue_goes_on_in_its_order_once_it_is_resumed(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    await queue.pause()
    await queue.put("c", 3)
    await queue.put("b", 4)
    assert await queue.resume() is True
    assert await queue.peek("b") == 4
    assert await in_line(queue) == ["a", "b", "c"]


async def test_resume_says_whether_it_was_paused(queue: Queue) -> None:
    assert await queue.resume() is False
    assert await queue.resume("ann") is False
    await queue.pause()
    assert await queue.resume("ann") is False
    assert [await queue.resume(), await queue.resume()] == [True, False]
    await queue.pause("ann")
    assert await queue.resume() is False
    assert [await queue.resume("ann"), await queue.resume("ann")] == [True, False]


async def test_consumers_of_every_kind_wait_until_the_queue_is_resumed(queue: Queue) -> None:
    await queue.pause()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("any")
        await waiting.take("a taker", "c")
        await waiting.get("ann's", tenants=["ann"])
        await waiting.get("a thief", tenants=["bob"], steal_from=["ann"])
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)], tenant="ann")
        await queue.put("d", 1, tenant="ann")
        await others_run()
        counts = await queue.statistics()
        assert (waiting.got, counts.getters, counts.takers) == ({}, 3, 1)
        await queue.resume()
    assert waiting.got == {"any": "a", "a taker": "c", "ann's": "b", "a thief": "d"}


async def test_waiters_get_nothing_from_a_queue_that_is_paused_until_it_is_resumed(
    queue: Queue,
) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("first")
        await waiting.take("taker", "b")
        await waiting.get("second")
        await queue.pause()
        await queue.put_many([("a", 1), ("b", 1)])
        await queue.put("c", 1)
        await others_run()
        assert (await queue.statistics()).ready == 3
        assert waiting.got == {}
        await queue.resume()
    assert waiting.got == {"first": "a", "taker": "b", "second": "c"}


async def test_one_item_serves_one_waiter_once_the_queue_is_resumed(queue: Queue) -> None:
    await queue.pause()
    await queue.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("first")
        await waiting.get("second")
        await queue.resume()
        await until(queue, getters=1)
        await others_run()
        assert waiting.got == {"first": "a"}
        await queue.put("b", 1)
    assert waiting.got == {"first": "a", "second": "b"}


async def test_a_taker_that_waits_for_a_ready_key_gets_it_once_the_queue_is_resumed(
    queue: Queue,
) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.pause()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "b")
        await queue.resume()
    assert waiting.got == {"taker": "b"}
    assert await in_line(queue) == ["a"]


async def test_a_taker_leaves_while_the_queue_is_paused(queue: Queue) -> None:
    await queue.pause()
    await queue.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "a")
        await waiting.get("getter")
        tg.cancel_scope.cancel()
    await until(queue, takers=0, getters=0)
    await queue.resume()
    assert await in_line(queue) == ["a"]


async def test_a_consumer_that_collects_gets_no_more_once_it_is_paused(queue: Queue) -> None:
    got: list[str] = []
    await queue.put("a", 1)

    async def collect() -> None:
        got.extend(lease.key for lease in await queue.get_batch(3, max_wait=3600.0))

    async with create_task_group() as tg:
        tg.start_soon(collect)
        await until(queue, leased=1, getters=1)
        await queue.pause()
        await queue.put_many([("b", 1), ("c", 1)])
        await others_run()
        counts = await queue.statistics()
        assert (counts.leased, counts.ready, counts.getters) == (1, 2, 1)
        await queue.resume()
    assert got == ["a", "b", "c"]


async def test_a_timeout_runs_out_while_a_queue_is_paused(queue: Queue) -> None:
    await queue.pause()
    await queue.put("a", 1)
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        await queue.take("a", timeout=0.01)


@each_way
async def test_leases_that_were_handed_out_before_go_on(pages: Queue, how: str) -> None:
    lease = await lease_of(pages, "a", 1)
    await pages.pause()
    assert (await pages.lease_of(lease.receipt)).key == "a"
    await settle(lease, how)
    await nothing_comes(pages)
    await pages.resume()
    back = how in ("release", "fail", "give back")
    assert await in_line(pages) == (["a"] if back else [])


async def test_a_body_goes_on_and_ends_while_the_queue_is_paused(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    async with queue.lease():
        await queue.pause()
    assert await queue.state("a") == "absent"
    await nothing_comes(queue)


async def test_items_are_looked_at_and_dropped_while_a_queue_is_paused(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    await queue.pause()
    assert (await queue.peek("b"), await queue.contains("a")) == (2, True)
    assert await queue.discard("a") is True
    assert await queue.qsize() == 1


async def test_a_full_queue_that_is_paused_has_no_room(start: Start) -> None:
    queue = await start(max_size=1)
    await queue.put("a", 1)
    await queue.pause()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.put("b")
        await others_run()
        assert waiting.got == {}
        await queue.discard("a")
        await until(queue, putters=0)
    assert waiting.got == {"b": "put"}
    assert (await queue.statistics()).ready == 1


async def test_dead_letters_come_and_go_while_both_queues_are_paused(
    pages: Queue, letters: Queue
) -> None:
    lease = await lease_of(pages, "a", 1)
    await pages.pause()
    await letters.pause()
    await lease.reject("no")
    await nothing_comes(letters)
    assert (await pages.redrive()).keys == ("a",)
    assert (await letters.statistics()).ready == 0
    await letters.resume()
    assert await letters_in(letters) == []
    await pages.resume()
    assert await in_line(pages) == ["a"]


@pytest.mark.needs("queues", "advance")
async def test_time_goes_on_while_a_queue_is_paused(
    engine: Engine, timed: Queue, letters: Queue
) -> None:
    await timed.put("held", 1)
    _, _, lease = await timed.get()
    await timed.put("later", 1, delay=5.0)
    await timed.put("mortal", 1, ttl=5.0)
    await timed.pause()
    await engine.advance(6.0)
    counts = await timed.statistics()
    assert (counts.ready, counts.delayed, counts.dropped) == (1, 0, 1)
    await engine.advance(TIMEOUT)
    assert lease.ended == "lost"
    assert (await timed.statistics()).ready == 2
    await nothing_comes(timed)
    await timed.resume()
    assert await in_line(timed) == ["held", "later"]


# A tenant


async def test_nothing_of_a_paused_tenant_is_claimed_and_others_go_on(queue: Queue) -> None:
    await fill(queue, {"ann": 2, "bob": 2})
    await queue.put("no tenant's", 1)
    await queue.pause("ann")
    await nothing_comes(queue, "ann0")
    await nothing_comes(queue, tenants=["ann"])
    assert sorted(await in_line(queue)) == ["bob0", "bob1", "no tenant's"]
    assert await queue.resume("ann") is True
    assert await in_line(queue) == ["ann0", "ann1"]


async def test_a_tenant_is_paused_before_it_has_anything(queue: Queue) -> None:
    await queue.put("no tenant's", 1)
    await queue.pause("ann")
    await fill(queue, {"ann": 1})
    assert await in_line(queue) == ["no tenant's"]
    await queue.resume("ann")
    assert await in_line(queue) == ["ann0"]


async def test_a_tenant_that_comes_back_to_nothing_is_paused_still(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1})
    await queue.pause("ann")
    await queue.discard("ann0")
    for number in range(3):
        await queue.put(f"bob{number}", 1, tenant="bob")
        await (await queue.get())[2].ack()
    await fill(queue, {"ann": 1})
    assert await in_line(queue) == []
    await queue.resume("ann")
    assert await in_line(queue) == ["ann0"]


async def test_waiters_for_a_paused_tenant_are_served_once_it_is_resumed(
    queue: Queue,
) -> None:
    await queue.pause("ann")
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("any")
        await waiting.take("taker", "ann2")
        await waiting.get("ann's", tenants=["ann"])
        await waiting.get("a thief", tenants=["eve"], steal_from=["ann"])
        await fill(queue, {"ann": 4})
        await others_run()
        assert waiting.got == {}
        await queue.put("no tenant's", 1)
        await until(queue, getters=2)
        await others_run()
        assert waiting.got == {"any": "no tenant's"}
        await queue.resume("ann")
    assert waiting.got == {
        "any": "no tenant's",
        "taker": "ann2",
        "ann's": "ann0",
        "a thief": "ann1",
    }
    assert await in_line(queue) == ["ann3"]


async def test_a_consumer_steals_while_its_own_tenant_is_paused(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1})
    await queue.pause("ann")
    key, _, _ = await queue.get(0, tenants=["ann"], steal_from=["bob"])
    assert key == "bob0"


async def test_a_paused_tenant_that_goes_on_is_under_its_cap_as_before(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=2)})
    await fill(queue, {"ann": 4})
    await queue.get()
    await queue.pause("ann")
    await queue.set_tenant("ann", Tenant(max_in_flight=3))
    assert await in_line(queue) == []
    await queue.resume("ann")
    assert await in_line(queue) == ["ann1", "ann2"]


async def test_a_queue_and_its_tenants_are_paused_apart(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1})
    await queue.pause()
    await queue.pause("ann")
    await queue.resume()
    assert await in_line(queue) == ["bob0"]
    await queue.pause()
    await queue.resume("ann")
    assert await in_line(queue) == []
    await queue.resume()
    assert await in_line(queue) == ["ann0"]


# What is told of it


async def test_a_pause_is_told_with_its_reason_and_since_when(queue: Queue) -> None:
    info = await queue.info()
    assert (info.paused, dict(info.paused_tenants)) == (None, {})
    before = time.time() - 1.0
    await queue.pause(reason="the disk is full")
    await queue.pause("ann", reason="has not paid")
    await queue.pause("bob")
    info = await queue.info()
    assert isinstance(info.paused, Paused)
    assert info.paused.reason == "the disk is full"
    assert before < info.paused.since < time.time() + 1.0
    assert {name: pause.reason for name, pause in info.paused_tenants.items()} == {
        "ann": "has not paid",
        "bob": "",
    }
    await queue.resume()
    await queue.resume("ann")
    info = await queue.info()
    assert (info.paused, [*info.paused_tenants]) == (None, ["bob"])


async def test_another_pause_replaces_the_reason_and_keeps_the_time(queue: Queue) -> None:
    pauses = []
    for reason in ("one", "another", ""):
        await queue.pause(reason=reason)
        await queue.pause("ann", reason=reason)
        info = await queue.info()
        assert info.paused is not None
        assert (info.paused.reason, info.paused_tenants["ann"].reason) == (reason, reason)
        pauses.append((info.paused.since, info.paused_tenants["ann"].since))
    assert len({*pauses}) == 1
    assert await queue.resume() is True
    assert (await queue.info()).paused is None


async def test_statistics_say_what_is_paused(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1})
    assert not (await queue.statistics()).paused
    await queue.pause("ann")
    await queue.pause("eve")
    counts = await queue.statistics(tenants=True)
    assert counts.tenants is not None
    assert not counts.paused
    assert counts.tenants["ann"] == TenantStatistics(1, 0, paused=True)
    assert counts.tenants["bob"] == TenantStatistics(1, 0)
    assert counts.tenants["eve"] == TenantStatistics(0, 0, paused=True)
    await queue.pause()
    counts = await queue.statistics(tenants=True)
    assert counts.tenants is not None
    assert counts.paused
    assert not counts.tenants["bob"].paused


@pytest.mark.parametrize("reason", ["", "ünïcode ☃", "two\nlines\0", "r" * 5000])
async def test_any_text_is_a_reason_as_far_as_it_goes(queue: Queue, reason: str) -> None:
    await queue.pause(reason=reason)
    await queue.pause("ann", reason=reason)
    info = await queue.info()
    assert info.paused is not None
    assert (info.paused.reason, info.paused_tenants["ann"].reason) == (reason[:4096],) * 2


async def test_a_thousand_tenants_are_paused_and_no_more(queue: Queue) -> None:
    async with create_task_group() as tg:
        for number in range(1000):
            tg.start_soon(queue.pause, f"t{number}")
    with pytest.raises(ValueError, match=r"1,000 tenants of the queue are paused, .* 'one more'"):
        await queue.pause("one more")
    await queue.pause("t7", reason="another reason")
    await queue.pause()
    paused = (await queue.info()).paused_tenants
    assert (len(paused), paused["t7"].reason) == (1000, "another reason")
    await queue.resume("t8")
    await queue.pause("one more")
    assert paused.keys() - (await queue.info()).paused_tenants.keys() == {"t8"}


# The end


async def test_a_paused_queue_that_is_shut_down_is_drained_once_it_is_resumed(
    queue: Queue,
) -> None:
    done: list[str] = []

    async def work() -> None:
        async for lease in queue:
            async with lease:
                done.append(lease.key)

    await queue.put_many([("a", 1), ("b", 1)])
    await queue.pause()
    await queue.shutdown()
    async with create_task_group() as tg:
        tg.start_soon(work)
        tg.start_soon(queue.join)
        await until(queue, getters=1)
        await others_run()
        assert done == []
        await queue.resume()
    assert done == ["a", "b"]


async def test_waiters_of_a_paused_queue_are_turned_away_as_it_closes(
    queue: Queue,
) -> None:
    await queue.put("a", 1)
    await queue.pause()

    async def wait() -> None:
        with pytest.raises(QueueClosedError):
            await queue.get()

    async with create_task_group() as tg:
        tg.start_soon(wait)
        await until(queue, getters=1)
        await queue.close()
    for call in (queue.pause, queue.resume):
        with pytest.raises(QueueClosedError):
            await call()


# Other handles


@pytest.mark.needs("handles")
async def test_all_handles_see_a_pause(both: Handles) -> None:
    one, other = both
    await one.put("a", 1)
    await one.pause(reason="a reason")
    await nothing_comes(other)
    assert (await other.info()).paused == (await one.info()).paused
    assert await other.resume() is True
    assert await one.resume() is False
    assert await in_line(one) == ["a"]


@pytest.mark.needs("handles")
async def test_waiters_of_another_handle_are_served_once_the_queue_is_resumed(
    both: Handles,
) -> None:
    one, other = both
    await one.pause()
    await one.pause("ann")
    async with create_task_group() as tg:
        waiting = Waiting(tg, other)
        await waiting.take("taker", "ann2")
        await waiting.get("getter")
        await waiting.get("ann's", tenants=["ann"])
        await fill(one, {"ann": 3})
        await one.put("a", 1)
        await others_run()
        assert waiting.got == {}
        await one.resume()
        await until(other, getters=1)
        await others_run()
        assert waiting.got == {"getter": "a"}
        await one.resume("ann")
    assert waiting.got == {"getter": "a", "taker": "ann2", "ann's": "ann0"}
    assert await in_line(one) == ["ann1"]


# Cancellation


Consume = Callable[[Queue], Awaitable[tuple[object, ...]]]
CONSUMERS: dict[str, Consume] = {
    "get": lambda queue: queue.get(),
    "get of a tenant": lambda queue: queue.get(tenants=["ann"]),
    "take": lambda queue: queue.take("a"),
}


@pytest.mark.parametrize("name", CONSUMERS)
@pytest.mark.parametrize("tenant", [None, "ann"])
async def test_a_consumer_that_is_cancelled_around_a_pause_loses_nothing(
    engine: Engine, name: str, tenant: str | None
) -> None:
    await sweep(consumer(engine, CONSUMERS[name], tenant))


def consumer(engine: Engine, consume: Consume, tenant: str | None) -> Scenario:
    """One item that comes while its queue, or its tenant, is paused, and a consumer waits."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        done: list[object] = []
        queue = await engine.queue()
        await queue.pause(tenant)

        async def produce() -> None:
            for _ in range(3):
                await checkpoint()
            await queue.put("a", 1, tenant="ann")
            for _ in range(2):
                await checkpoint()
            await queue.resume(tenant)

        async def work() -> None:
            key, _, lease = await consume(queue)
            done.append(key)
            await lease.ack()  # type: ignore[attr-defined]

        async with create_task_group() as tg:
            await tg.start(queue.run)
            async with create_task_group() as producers:
                producers.start_soon(produce)
                yield work
            assert done + await left_in(queue) == ["a"]
            tg.cancel_scope.cancel()

    def fresh() -> AbstractAsyncContextManager[Operation]:
        return scenario()

    return fresh
