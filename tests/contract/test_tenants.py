"""``tenant=``, weights and caps: the shares that tenants have of a queue."""

from __future__ import annotations

from collections import Counter

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, Start, Waiting, fill, in_line, until

from leaseq import Priority, Tenant, TenantMismatchError

pytestmark = pytest.mark.anyio


async def turns(queue: Queue, count: int) -> list[str | None]:
    """Lease so many items and settle them at once: whose they are."""
    tenants: list[str | None] = []
    for _ in range(count):
        _, _, lease = await queue.get(timeout=0)
        tenants.append(lease.tenant)
        await lease.ack()
    return tenants


async def test_tenants_of_equal_weight_take_turns(queue: Queue) -> None:
    await fill(queue, {"ann": 4, "bob": 4, "eve": 4})
    given = await turns(queue, 12)
    for start in range(0, 12, 3):
        assert sorted(map(str, given[start : start + 3])) == ["ann", "bob", "eve"]


async def test_a_tenants_items_come_in_the_order_of_their_puts(queue: Queue) -> None:
    await fill(queue, {"ann": 3})
    await queue.put("bob0", 1, tenant="bob")
    keys = await in_line(queue)
    assert [key for key in keys if key != "bob0"] == ["ann0", "ann1", "ann2"]
    assert keys.index("bob0") <= 1


async def test_a_tenants_items_come_by_their_priority(queue: Queue) -> None:
    await queue.put("low", 1, tenant="ann", priority=Priority.LOW)
    await queue.put("high", 1, tenant="ann", priority=Priority.HIGH)
    assert await in_line(queue) == ["high", "low"]


async def test_no_priority_goes_before_another_tenants_turn(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)], tenant="ann", priority=Priority.CRITICAL)
    await queue.put_many([("c", 1), ("d", 1)], tenant="bob", priority=Priority.VERY_LOW)
    given = await turns(queue, 4)
    assert sorted(map(str, given[:2])) == ["ann", "bob"]


async def test_tenants_have_their_turns_by_their_weights(start: Start) -> None:
    weights = {"ann": Tenant(1), "bob": Tenant(2), "eve": Tenant(4)}
    queue = await start(tenants=weights)
    await fill(queue, {"ann": 70, "bob": 70, "eve": 70})
    given = Counter(await turns(queue, 70))
    for name, share in (("ann", 10), ("bob", 20), ("eve", 40)):
        assert abs(given[name] - share) <= 1


async def test_one_tenants_backlog_delays_anothers_item_by_one_turn(queue: Queue) -> None:
    await fill(queue, {"ann": 100})
    await turns(queue, 50)
    await fill(queue, {"bob": 1})
    assert "bob" in await turns(queue, 2)


async def test_a_tenant_has_no_credit_for_having_idled(queue: Queue) -> None:
    await fill(queue, {"ann": 20})
    await turns(queue, 10)
    await fill(queue, {"bob": 10})
    assert 4 <= (await turns(queue, 10)).count("bob") <= 6


async def test_items_of_nobody_in_particular_are_one_tenants(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await fill(queue, {"ann": 2})
    given = await turns(queue, 4)
    assert given.count(None) == given.count("ann") == 2


async def test_a_lease_tells_whose_its_item_is(queue: Queue) -> None:
    await queue.put("a", 1, tenant="ann")
    _, _, lease = await queue.get()
    assert lease.tenant == "ann"
    await lease.release()
    _, _, lease = await queue.get()
    assert lease.tenant == "ann"


async def test_a_weight_can_be_changed_while_the_queue_runs(queue: Queue) -> None:
    await fill(queue, {"ann": 40, "bob": 40})
    await turns(queue, 10)
    await queue.set_tenant("bob", Tenant(3))
    assert abs((await turns(queue, 20)).count("bob") - 15) <= 2


# A key that is there


async def test_a_put_without_a_tenant_leaves_the_item_whose_it_is(queue: Queue) -> None:
    await queue.put("a", 1, tenant="ann")
    await queue.put("a", 2)
    _, value, lease = await queue.get()
    assert (value, lease.tenant) == (2, "ann")


async def test_a_put_for_another_tenant_is_refused(queue: Queue) -> None:
    await queue.put("a", 1, tenant="ann")
    await queue.put("b", 1)
    message = "key 'a' belongs to the tenant 'ann'"
    with pytest.raises(TenantMismatchError, match=message) as caught:
        await queue.put("a", 2, tenant="bob")
    assert caught.value.tenant == "ann"
    with pytest.raises(TenantMismatchError, match=message):
        await queue.put_many([("c", 2), ("a", 2)], tenant="bob")
    with pytest.raises(TenantMismatchError, match="key 'b' belongs to the tenant None") as caught:
        await queue.put("b", 2, tenant="bob")
    assert caught.value.tenant is None
    await queue.take("a")
    for if_in_flight in ("update", "buffer"):
        with pytest.raises(TenantMismatchError, match=message):
            await queue.put("a", 2, tenant="bob", if_in_flight=if_in_flight)
    assert await queue._look("a") == ("leased", 1)
    assert await queue.state("c") == "absent"


async def test_a_key_that_is_done_can_be_put_for_another_tenant(queue: Queue) -> None:
    await queue.put("a", 1, tenant="ann")
    _, _, lease = await queue.get()
    await queue.ack(lease)
    await queue.put("a", 2, tenant="bob")
    _, _, lease = await queue.get()
    assert lease.tenant == "bob"


# Caps


async def test_a_tenant_at_its_cap_is_passed_over(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 3, "bob": 2})
    assert sorted(await in_line(queue)) == ["ann0", "bob0", "bob1"]


async def test_the_end_of_a_lease_makes_room_under_a_cap(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 2})
    _, _, lease = await queue.get()
    assert await in_line(queue) == []
    await queue.ack(lease)
    assert await in_line(queue) == ["ann1"]


@pytest.mark.parametrize("how", ["ack", "release", "reject"])
async def test_a_getter_waits_for_room_under_a_cap(start: Start, how: str) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 2})
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("getter")
        if how == "ack":
            await lease.ack()
        elif how == "release":
            await lease.release()
        else:
            await lease.reject("unreadable")
    assert waiting.got == {"getter": "ann1"}


async def test_a_taker_waits_for_room_under_a_cap(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 3})
    _, _, lease = await queue.get()
    with pytest.raises(TimeoutError):
        await queue.take("ann2", timeout=0)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("getter")
        await waiting.take("taker", "ann2")
        await queue.ack(lease)
        await until(queue, takers=0)
        assert await queue.inflight_keys() == {"ann2"}
        await queue.set_tenant("ann", Tenant(max_in_flight=2))
    assert waiting.got == {"taker": "ann2", "getter": "ann1"}


async def test_a_higher_cap_lets_those_have_items_who_wait(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 4})
    await queue.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("first")
        await waiting.get("second")
        await queue.set_tenant("ann", Tenant(max_in_flight=3))
    assert waiting.got == {"first": "ann1", "second": "ann2"}
    assert await in_line(queue) == []


async def test_a_lower_cap_leaves_leases_alone(queue: Queue) -> None:
    await fill(queue, {"ann": 4})
    leases = [(await queue.get())[2] for _ in range(3)]
    await queue.set_tenant("ann", Tenant(max_in_flight=2))
    await leases[0].ack()
    assert await in_line(queue) == []
    await leases[1].ack()
    assert await in_line(queue) == ["ann3"]


async def test_a_key_in_a_priority_of_its_own_counts_for_its_tenants_cap(start: Start) -> None:
    queue = await start(tenants={"ann": Tenant(max_in_flight=1)})
    await fill(queue, {"ann": 1})
    await queue.put("urgent", 1, tenant="ann", priority=Priority.CRITICAL)
    assert await in_line(queue) == ["urgent"]


# Misuse


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(
        ValueError, match=f"weight must be a number from 0.000001 to 1,000,000, not {weight}"
    ):
        Tenant(weight)


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_in_flight must be 1 or more, .*, not 0"):
        Tenant(max_in_flight=0)
