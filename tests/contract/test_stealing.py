"""``tenants=`` and ``steal_from=``: consumers that are there for some tenants."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, Start, Waiting, fill, until

from leaseq import QueueClosedError, Tenant

pytestmark = pytest.mark.anyio


async def test_a_consumer_can_ask_for_the_items_of_some(queue: Queue) -> None:
    await fill(queue, {"ann": 2, "bob": 2, "eve": 2})
    keys = [(await queue.get(0, tenants=["bob", "eve"]))[0] for _ in range(4)]
    assert sorted(keys) == ["bob0", "bob1", "eve0", "eve1"]
    with pytest.raises(TimeoutError):
        await queue.get(0, tenants=["bob", "eve"])


async def test_the_tenants_that_a_consumer_asks_for_take_turns(queue: Queue) -> None:
    await fill(queue, {"ann": 3, "bob": 3})
    keys = [(await queue.get(0, tenants=["ann", "bob"]))[0] for _ in range(4)]
    assert sorted(keys) == ["ann0", "ann1", "bob0", "bob1"]


async def test_a_consumer_can_ask_for_items_of_nobody_in_particular(queue: Queue) -> None:
    await fill(queue, {"ann": 1})
    await queue.put("a", 1)
    key, _, _ = await queue.get(0, tenants=[None])
    assert key == "a"


async def test_a_consumer_steals_when_its_own_tenant_has_nothing(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1, "eve": 1})
    keys = [(await queue.get(0, tenants=["bob"], steal_from=["ann", "bob"]))[0] for _ in range(2)]
    assert keys == ["bob0", "ann0"]
    with pytest.raises(TimeoutError):
        await queue.get(0, tenants=["bob"], steal_from=["ann", "bob"])


async def test_a_consumer_steals_when_its_own_tenant_is_at_its_cap(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 2, "bob": 1})
    keys = [(await queue.get(0, tenants=["ann"], steal_from=["bob"]))[0] for _ in range(2)]
    assert keys == ["ann0", "bob0"]


async def test_a_consumer_waits_for_its_own_tenant(queue: Queue) -> None:
    await fill(queue, {"ann": 1})
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("bob's", tenants=["bob"])
        await fill(queue, {"bob": 1})
    assert waiting.got == {"bob's": "bob0"}


async def test_a_consumer_waits_for_what_it_may_steal(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("bob's", tenants=["bob"], steal_from=["ann"])
        await fill(queue, {"eve": 1})
        assert (await queue.statistics()).getters == 1
        await fill(queue, {"ann": 1})
    assert waiting.got == {"bob's": "ann0"}


async def test_an_item_that_no_waiter_serves_wakes_nobody(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("ann's", tenants=["ann"])
        await waiting.get("bob's", tenants=["bob"], steal_from=["ann"])
        await fill(queue, {"eve": 1})
        await queue.put("a", 1)
        statistics = await queue.statistics()
        assert (statistics.getters, statistics.ready) == (2, 2)
        await fill(queue, {"ann": 2})
    assert waiting.got == {"ann's": "ann0", "bob's": "ann1"}


async def test_who_comes_first_is_served_first_whatever_they_ask_for(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("anybody's", lease_timeout=None)
        await waiting.get("ann's", tenants=["ann"])
        await waiting.get("anybody's too")
        await fill(queue, {"ann": 3})
    assert waiting.got == {"anybody's": "ann0", "ann's": "ann1", "anybody's too": "ann2"}


async def test_a_waiter_whose_own_tenant_it_is_comes_before_an_older_one_that_would_steal(
    queue: Queue,
) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("bob's", tenants=["bob"], steal_from=["ann"])
        await waiting.get("ann's", tenants=["ann"])
        await fill(queue, {"ann": 1})
        await until(queue, getters=1)
        await queue.put("ann1", 1, tenant="ann")
    assert waiting.got == {"ann's": "ann0", "bob's": "ann1"}


async def test_a_waiter_for_anybody_comes_before_an_older_one_that_would_steal(
    queue: Queue,
) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("bob's", tenants=["bob"], steal_from=["ann"])
        await waiting.get("anybody's")
        await fill(queue, {"ann": 2})
    assert waiting.got == {"anybody's": "ann0", "bob's": "ann1"}


async def test_a_consumer_waits_for_room_under_its_tenants_cap(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 2})
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("ann's", tenants=["ann"])
        await queue.ack(lease)
    assert waiting.got == {"ann's": "ann1"}


async def test_a_released_item_goes_to_who_waits_for_its_tenant(queue: Queue) -> None:
    await fill(queue, {"ann": 1})
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("bob's", tenants=["bob"])
        await waiting.get("ann's", tenants=["ann"])
        await queue.release(lease)
        await until(queue, getters=1)
        await fill(queue, {"bob": 1})
    assert waiting.got == {"ann's": "ann0", "bob's": "bob0"}


async def test_a_cancelled_waiter_leaves_its_tenants_item_to_the_next(queue: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        async with create_task_group() as impatient:
            await Waiting(impatient, queue).get("first", tenants=["ann", "bob"])
            impatient.cancel_scope.cancel()
        await until(queue, getters=0)
        await waiting.get("second", tenants=["bob"])
        await fill(queue, {"ann": 1, "bob": 1})
    assert waiting.got == {"second": "bob0"}


async def test_a_consumer_for_some_tenants_ends_with_the_queue(queue: Queue) -> None:
    async def consume() -> None:
        with pytest.raises(QueueClosedError, match="drained"):
            await queue.get(tenants=["ann"], steal_from=["bob"])

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.shutdown()


async def test_a_body_can_be_for_some_tenants(queue: Queue) -> None:
    await fill(queue, {"ann": 1, "bob": 1})
    async with queue.lease(tenants=["bob"]) as lease:
        assert lease.key == "bob0"


# Misuse


async def test_stealing_without_tenants_of_ones_own_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match=r"steal_from=\['ann'\] needs tenants"):
        await queue.get(0, steal_from=["ann"])


async def test_asking_for_the_items_of_no_tenant_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match="tenants must name at least one tenant"):
        await queue.get(0, tenants=[])


async def test_a_name_is_no_collection_of_names(queue: Queue) -> None:
    with pytest.raises(TypeError, match=r"tenants must be a collection .* \['ann'\]"):
        await queue.get(0, tenants="ann")
    with pytest.raises(TypeError, match=r"steal_from must be a collection .* \['bob'\]"):
        await queue.get(0, tenants=["ann"], steal_from="bob")
