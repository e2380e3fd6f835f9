"""`peek`, `contains`, `state`, the sets of keys, the counts, `inflight` and `statistics`."""

from __future__ import annotations

import time

import pytest
from anyio import create_task_group, current_time
from tests.contract.helpers import Engine, Queue, Start, Waiting, in_line

from leaseq import Backoff, Retry, TenantStatistics

pytestmark = pytest.mark.anyio


async def test_a_peek_shows_the_value_of_a_key_in_line(queue: Queue) -> None:
    await queue.put("a", 1)
    assert await queue.peek("a") == 1
    assert await in_line(queue) == ["a"]


async def test_a_peek_at_an_absent_key_shows_nothing(queue: Queue) -> None:
    assert await queue.peek("a") is None


@pytest.mark.parametrize("if_in_flight", ["update", "buffer"])
async def test_a_leased_key_is_not_to_be_peeked_at_until_it_is_back(
    queue: Queue, if_in_flight: str
) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    assert (await queue.peek("a"), await queue.contains("a")) == (None, False)
    await queue.put("a", 2, if_in_flight=if_in_flight)  # type: ignore[arg-type]
    assert (await queue.peek("a"), await queue.contains("a")) == (None, False)
    await queue.release(lease)
    assert (await queue.peek("a"), await queue.contains("a")) == (2, True)


async def test_a_delayed_key_is_not_available(queue: Queue) -> None:
    await queue.put("a", 1, delay=60)
    assert (await queue.peek("a"), await queue.contains("a")) == (None, False)


async def test_a_key_is_in_one_state(queue: Queue) -> None:
    assert await queue.state("a") == "absent"
    await queue.put("a", 1)
    assert await queue.state("a") == "ready"
    _, _, lease = await queue.get()
    assert await queue.state("a") == "leased"
    await queue.put("a", 2, if_in_flight="buffer", delay=60)
    assert await queue.state("a") == "leased"
    await queue.ack(lease)
    assert await queue.state("a") == "delayed"
    await queue.put("a", 3, reschedule="latest")
    assert await queue.state("a") == "ready"
    await (await queue.get())[2].ack()
    assert await queue.state("a") == "absent"


async def test_keys_are_available_or_in_flight(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.get()
    assert await queue.available_keys() == {"b", "c"}
    assert await queue.inflight_keys() == {"a"}


@pytest.mark.parametrize("ttl", [None, 90], ids=["for ever", "with a time to live"])
@pytest.mark.parametrize("tenant", [None, "ann"])
async def test_each_key_is_among_those_of_its_state(
    queue: Queue, ttl: float | None, tenant: str | None
) -> None:
    await queue.put_many([("held", 1), ("freed", 1), ("over", 1), ("pushed", 1)], tenant=tenant)
    held, freed, over = [(await queue.get())[2] for _ in range(3)]
    await queue.put("held", 2, if_in_flight="buffer", delay=60)
    await queue.put("over", 2, if_in_flight="buffer", delay=60, ttl=ttl)
    await over.ack()
    await freed.release(delay=60)
    await queue.put("pushed", 2, delay=60, reschedule="latest", ttl=ttl)
    await queue.put("pulled", 1, delay=60, ttl=ttl)
    await queue.put("pulled", 2)
    await queue.put_many({f"later{n}": n for n in range(30)}, delay=60, ttl=ttl, tenant=tenant)
    await queue.put_many({f"now{n}": n for n in range(30)}, ttl=ttl, tenant=tenant)
    sets = {
        "ready": await queue.available_keys(),
        "delayed": await queue.delayed_keys(),
        "leased": await queue.inflight_keys(),
    }
    assert sets == {
        "ready": {"pulled", *(f"now{n}" for n in range(30))},
        "delayed": {"freed", "over", "pushed", *(f"later{n}" for n in range(30))},
        "leased": {held.key},
    }
    for state, keys in sets.items():
        assert {await queue.state(key) for key in keys} == {state}
    statistics = await queue.statistics()
    assert statistics.delayed == len(sets["delayed"])


async def test_an_item_that_rests_is_delayed(start: Start) -> None:
    queue = await start(retry=Retry(5, Backoff(base=60, ceiling=60)))
    await queue.put("a", 1)
    while await queue.delayed_keys() != {"a"}:  # a rest is a random part of the backoff
        assert await queue.delayed_keys() == set()
        _, _, lease = await queue.get(timeout=0)
        await queue._fail(lease, KeyError())
    assert await queue.state("a") == "delayed"


@pytest.mark.needs("advance")
async def test_what_falls_due_is_delayed_no_more(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    await queue.put("b", 1, delay=30)
    await engine.advance(9)
    assert (await queue.available_keys(), await queue.delayed_keys()) == (set(), {"a", "b"})
    await engine.advance(2)
    assert (await queue.available_keys(), await queue.delayed_keys()) == ({"a"}, {"b"})
    await queue.discard("b")
    assert await queue.delayed_keys() == set()


async def test_a_set_of_keys_is_the_callers_own(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    await queue.put("c", 1, delay=60)
    await queue.get()
    (await queue.available_keys()).clear()
    (await queue.delayed_keys()).clear()
    (await queue.inflight_keys()).clear()
    assert await queue.available_keys() == {"b"}
    assert await queue.delayed_keys() == {"c"}
    assert await queue.inflight_keys() == {"a"}


async def test_sizes_are_of_what_waits_and_of_what_is_leased(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.get()
    assert await queue.qsize() == 2
    assert await queue.inflight_size() == 1


async def test_statistics_begin_at_zero(queue: Queue) -> None:
    statistics = await queue.statistics()
    assert (statistics.ready, statistics.leased, statistics.buffered) == (0, 0, 0)
    assert (statistics.put, statistics.delivered, statistics.acked) == (0, 0, 0)


async def test_statistics_count_what_is_there(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.get()
    await queue.put("a", 2, if_in_flight="buffer")
    statistics = await queue.statistics()
    assert (statistics.ready, statistics.leased, statistics.buffered) == (2, 1, 1)


async def test_statistics_count_what_has_happened(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    await queue.put("d", 2)
    leases = [(await queue.get())[2] for _ in range(4)]
    await queue.put("c", 2, if_in_flight="buffer")
    await queue.ack(leases[0])
    await queue.release(leases[1])
    await queue.release(leases[2])
    await queue._give_back(leases[3])
    statistics = await queue.statistics()
    assert statistics.put == 5
    assert statistics.delivered == 3
    assert statistics.acked == 1
    assert statistics.released == 2
    assert statistics.superseded == 1
    assert statistics.given_back == 1
    assert (statistics.expired, statistics.dropped) == (0, 0)


async def test_an_uncounted_release_is_no_delivery(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease, counted=False)
    assert (await queue.statistics()).delivered == 0


async def test_nothing_is_in_flight_in_a_new_queue(queue: Queue) -> None:
    assert await queue.inflight() == []


async def test_what_is_in_flight_is_told_in_the_order_of_the_hand_outs(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.take("c")
    await queue.take("a")
    assert [each.key for each in await queue.inflight()] == ["c", "a"]


async def test_what_is_in_flight_is_told_with_its_lease(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    _, _, lease = await queue.get(lease_timeout=3600)
    [one] = await queue.inflight()
    assert (one.key, one.token, one.deliveries) == ("a", lease.token, 2)
    assert one.deadline == pytest.approx(lease.deadline, abs=1)


async def test_what_is_in_flight_is_told_with_who_has_it(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)], tenant="ann", priority=4)
    await queue.get(consumer="worker-1")
    await queue.take("c", consumer="worker-2")
    await queue.get()
    told = await queue.inflight()
    assert [(one.key, one.consumer) for one in told] == [
        ("a", "worker-1"),
        ("c", "worker-2"),
        ("b", None),
    ]
    assert {(one.tenant, one.priority) for one in told} == {("ann", 4)}


async def test_who_had_an_item_before_is_forgotten(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get(consumer="worker-1")
    await queue.release(lease)
    await queue.get()
    [one] = await queue.inflight()
    assert one.consumer is None


# Statistics


async def test_statistics_count_those_who_wait(start: Start) -> None:
    queue = await start(max_size=1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "z")
        await waiting.get("tenant's getter", tenants=["ann"])
        await queue.put("a", 1)
        await waiting.put("b")
        statistics = await queue.statistics()
        assert (statistics.getters, statistics.takers, statistics.putters) == (1, 1, 1)
        tg.cancel_scope.cancel()
    statistics = await queue.statistics()
    assert (statistics.getters, statistics.takers, statistics.putters) == (0, 0, 0)


async def test_statistics_tell_of_tenants_if_asked(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)], tenant="ann")
    await queue.put("d", 1, tenant="bob")
    await queue.put("e", 1)
    await queue.take("a")
    await queue.take("d")
    assert (await queue.statistics()).tenants is None
    tenants = (await queue.statistics(tenants=True)).tenants
    assert tenants is not None
    assert tenants["ann"] == TenantStatistics(ready=2, leased=1)
    assert tenants["bob"] == TenantStatistics(ready=0, leased=1)
    assert tenants[None] == TenantStatistics(ready=1, leased=0)


async def test_without_tenants_all_is_of_nobody_in_particular(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
    await queue.get()
    tenants = (await queue.statistics(tenants=True)).tenants
    assert tenants == {None: TenantStatistics(ready=2, leased=1)}


async def test_nothing_ready_has_no_age(queue: Queue) -> None:
    assert (await queue.statistics()).oldest_ready_age is None
    await queue.put("a", 1)
    await queue.get()
    assert (await queue.statistics()).oldest_ready_age is None


# History


async def test_a_queue_remembers_nothing_unless_it_is_told_to(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    assert await queue.history() == []


async def test_a_queue_remembers_the_last_items_that_were_done(start: Start) -> None:
    queue = await start(history=2)
    for key in ("a", "b", "c"):
        await queue.put(key, key.upper())
        async with queue.lease():
            pass
    done = await queue.history()
    assert [(each.key, each.value) for each in done] == [("b", "B"), ("c", "C")]


async def test_an_item_that_was_done_is_remembered_with_its_lease(start: Start) -> None:
    queue = await start(history=5)
    before = time.time()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    await queue.ack(lease)
    [done] = await queue.history()
    assert (done.value, done.token, done.deliveries) == (1, lease.token, 2)
    assert before - 1 <= done.ended_at <= time.time() + 1


async def test_only_what_was_done_is_remembered(start: Start) -> None:
    queue = await start(history=5)
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.release(lease)
    _, _, lease = await queue.take("b")
    await queue.reject(lease, "unreadable")
    assert await queue.history() == []


async def test_a_memory_of_less_than_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="history must be 0 or more items, not -1"):
        await engine.queue(history=-1)


# The statistics of time


@pytest.mark.needs("advance")
async def test_the_oldest_ready_item_has_an_age(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    await engine.advance(10)
    await queue.put("b", 1)
    await engine.advance(10)
    assert (await queue.statistics()).oldest_ready_age == pytest.approx(20, abs=1)
    await queue.get()
    assert (await queue.statistics()).oldest_ready_age == pytest.approx(10, abs=1)


@pytest.mark.needs("advance")
async def test_an_update_makes_no_item_younger(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    await engine.advance(10)
    await queue.put("a", 2)
    assert (await queue.statistics()).oldest_ready_age == pytest.approx(10, abs=1)


@pytest.mark.needs("advance")
async def test_a_delayed_item_ages_from_when_it_is_due(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1, delay=10)
    await engine.advance(5)
    assert (await queue.statistics()).oldest_ready_age is None
    await engine.advance(10)
    assert (await queue.statistics()).oldest_ready_age == pytest.approx(5, abs=1)


@pytest.mark.needs("advance")
async def test_an_item_that_is_back_ages_anew(engine: Engine, queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await engine.advance(10)
    await queue._give_back(lease)
    await engine.advance(5)
    assert (await queue.statistics()).oldest_ready_age == pytest.approx(5, abs=1)


@pytest.mark.needs("advance")
async def test_what_is_in_flight_is_told_with_since_when(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    await engine.advance(10)
    before = current_time()
    await timed.get()
    [one] = await timed.inflight()
    assert one.since is not None
    assert before - 1 <= one.since <= current_time() + 1
