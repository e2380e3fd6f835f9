"""Pauses of a queue in memory: the calls that do not wait, and the short ways there and back."""

from __future__ import annotations

import pytest
from anyio import WouldBlock, create_task_group

from leaseq import LeasedKeyQueue, QueueClosedError, Tenant

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]


@pytest.fixture
def queue() -> Queue:
    return LeasedKeyQueue(name="work")


async def test_a_claim_that_does_not_wait_says_that_the_queue_is_paused(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    await queue.pause(reason="the disk is full")
    for claim in (queue.get_nowait, lambda: queue.take_nowait("a")):
        with pytest.raises(WouldBlock, match=r"the queue is paused: 'the disk is full'$"):
            claim()
    await queue.pause()
    with pytest.raises(WouldBlock, match=r"the queue is paused$"):
        queue.get_nowait(tenants=[None])


async def test_a_claim_that_does_not_wait_says_that_the_tenant_is_paused(queue: Queue) -> None:
    queue.put_nowait("a", 1, tenant="ann")
    await queue.pause("ann", reason="has not paid")
    why = "the tenant 'ann' is paused: 'has not paid'$"
    for claim in (
        queue.get_nowait,
        lambda: queue.take_nowait("a"),
        lambda: queue.get_nowait(tenants=["ann"]),
        lambda: queue.get_nowait(tenants=["bob"], steal_from=["ann"]),
    ):
        with pytest.raises(WouldBlock, match=why):
            claim()


async def test_a_claim_that_waits_in_vain_says_what_is_paused(queue: Queue) -> None:
    queue.put_nowait("a", 1, tenant="ann")
    await queue.pause("ann", reason="has not paid")
    why = r"nothing was handed out within 0 s, as the tenant 'ann' is paused: 'has not paid'$"
    with pytest.raises(TimeoutError, match=why):
        await queue.get(timeout=0)
    with pytest.raises(TimeoutError, match=why):
        await queue.take("a", timeout=0)
    with pytest.raises(TimeoutError, match=r"no item was ready within 0 s$"):
        await queue.get(timeout=0, tenants=["bob"])
    await queue.pause()
    with pytest.raises(TimeoutError, match=r"within 0 s, as the queue is paused$"):
        await queue.get_batch(2, timeout=0)


async def test_a_claim_that_does_not_wait_blames_no_pause_that_has_nothing_to_do_with_it(
    queue: Queue,
) -> None:
    await queue.pause("ann")
    with pytest.raises(WouldBlock, match=r"no item is ready$"):
        queue.get_nowait()
    queue.put_nowait("a", 1, tenant="ann")
    with pytest.raises(WouldBlock, match=r"no item is ready$"):
        queue.get_nowait(tenants=["bob"])
    with pytest.raises(WouldBlock, match=r"key 'b' is not ready$"):
        queue.take_nowait("b")
    queue.put_nowait("b", 1)
    assert queue.get_nowait()[0] == "b"
    with pytest.raises(WouldBlock, match=r"key 'b' is not ready$"):
        queue.take_nowait("b")


async def test_the_short_ways_are_gone_while_a_queue_is_paused_and_back_once_it_is_resumed(
    queue: Queue,
) -> None:
    engine = queue._engine
    gates = engine.gated, engine.timeless
    await queue.pause()
    assert (engine.gated, engine.timeless) == (True, False)
    await queue.pause(reason="another")
    await queue.resume()
    assert (engine.gated, engine.timeless) == gates
    await queue.pause("ann")
    assert (engine.gated, engine.timeless) == gates


async def test_a_timekeeper_that_comes_or_goes_meanwhile_opens_no_short_way(queue: Queue) -> None:
    engine = queue._engine
    gates = engine.gated, engine.timeless
    await queue.pause()
    queue.put_nowait("a", 1)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        assert (engine.gated, engine.timeless) == (True, False)
        tg.cancel_scope.cancel()
    assert (engine.gated, engine.timeless) == (True, False)
    with pytest.raises(WouldBlock):
        queue.get_nowait()
    await queue.resume()
    assert (engine.gated, engine.timeless) == gates


async def test_a_queue_that_is_shut_down_takes_nothing_once_it_is_resumed(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    await queue.pause()
    await queue.shutdown()
    await queue.resume()
    with pytest.raises(QueueClosedError):
        queue.put_nowait("b", 1)
    assert queue.get_nowait()[0] == "a"


async def test_puts_of_every_kind_go_on_without_waiting(queue: Queue) -> None:
    await queue.pause()
    queue.put_nowait("a", 1)
    queue.put_many_nowait([("b", 1), ("c", 1)])
    queue.put_nowait("d", 1, tenant="ann", priority=5)
    assert await queue.available_keys() == {"a", "b", "c", "d"}
    with pytest.raises(WouldBlock):
        queue.get_nowait()
    await queue.resume()
    keys = [queue.get_nowait()[0] for _ in range(4)]
    assert sorted(keys) == ["a", "b", "c", "d"]


async def test_the_pause_of_a_tenant_makes_no_account(queue: Queue) -> None:
    await queue.set_tenant("ann", Tenant(2.0))
    for number in range(20):
        await queue.pause(f"t{number}")
        queue.put_nowait("a", 1, tenant=f"t{number}")
        await queue.discard("a")
    schedule = queue._engine.ledger.schedule
    assert schedule is not None
    assert len([*schedule]) <= 1
    assert len((await queue.info()).paused_tenants) == 20


async def test_all_that_is_left_is_drained_from_a_paused_queue(queue: Queue) -> None:
    await queue.pause()
    queue.put_nowait("a", 1)
    assert queue.drain_nowait() == [("a", 1)]
