"""How the queue in this process lets items fall due, and what it keeps of them."""

import gc
import math
import weakref
from typing import Any

import anyio
import pytest
from anyio import WouldBlock, create_task_group, current_time
from tests.contract.helpers import Waiting, in_line, until
from tests.support.stalls import block

from leaseq import Backoff, DeadLetter, LeasedKeyQueue, Retry, Tenant, TimekeeperNotRunningError
from leaseq._memory.engine import Engine
from leaseq._rules.moves import UNDECIDED
from leaseq.testing import advance

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Queue = LeasedKeyQueue[str, object]

HOUR = 3600.0


class WatchedEngine(Engine[str, object]):
    """An engine that keeps the times at which its timekeeper looks for what is due."""

    def __init__(self, queue: LeasedKeyQueue[str, object], **options: Any) -> None:
        super().__init__(queue, **options)
        self.looks: list[float] = []

    def tick(self, now: float) -> None:
        self.looks.append(current_time())
        super().tick(now)


class WatchedQueue(LeasedKeyQueue[str, object]):
    """A queue on such an engine."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = WatchedEngine(self)
        self.looks = self._engine.looks


# When the timekeeper wakes


async def test_an_idle_queue_with_delayed_items_makes_no_wake_ups() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many(((str(number), number) for number in range(100)), delay=HOUR)
        await queue.put("b", 1, ttl=2 * HOUR)
        await advance(0)
        queue.looks.clear()
        await advance(HOUR - 1)
        assert queue.looks == []
        await advance(2)
        assert queue.looks == [HOUR]
        await advance(100 * HOUR)
        assert queue.looks == [HOUR, 2 * HOUR]
        tg.cancel_scope.cancel()


async def test_the_earliest_deadline_of_any_kind_wakes_the_timekeeper() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("delayed", 1, delay=30)
        await queue.put("leased", 1)
        await queue.get(lease_timeout=20)
        await queue.put("perishing", 1, ttl=10)
        await advance(0)
        queue.looks.clear()
        await advance(100)
        assert queue.looks == [10, 20, 30]
        tg.cancel_scope.cancel()


async def test_delays_that_are_cut_short_make_one_wake_up_for_many() -> None:
    queue = WatchedQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many(((str(number), number) for number in range(100)), delay=HOUR)
        await queue.put_many((str(number), number) for number in range(100))
        await advance(0)
        queue.looks.clear()
        await advance(100 * HOUR)
        assert len(queue.looks) <= 1
        tg.cancel_scope.cancel()


# Before the timekeeper has looked


async def test_a_join_ends_when_a_consumer_finds_the_last_item_perished() -> None:
    queue: Queue = LeasedKeyQueue()
    await queue.put("a", 1, ttl=10)
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await advance(11)
        with pytest.raises(WouldBlock):
            queue.get_nowait()


async def test_a_producer_gets_the_place_of_an_item_that_a_consumer_finds_perished() -> None:
    queue: Queue = LeasedKeyQueue(max_size=1)
    await queue.put("a", 1, ttl=10)
    async with create_task_group() as tg:
        await Waiting(tg, queue).put("b")
        await advance(11)
        with pytest.raises(WouldBlock):
            queue.get_nowait()
    assert await in_line(queue) == ["b"]


async def test_an_item_that_a_consumer_finds_perished_and_nobody_buries_is_tried_again() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, object]] = LeasedKeyQueue()
    queue: Queue = LeasedKeyQueue(dead_letters=letters)
    await letters.close()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put("a", 1, ttl=10)
        await advance(0)
        block(11)
        with pytest.raises(WouldBlock):
            queue.get_nowait()
        assert (await queue.statistics()).delayed == 1
        await advance(HOUR)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_the_last_item_of_a_queue_that_was_shut_down_may_be_found_perished() -> None:
    queue: Queue = LeasedKeyQueue()
    await queue.put("a", 1, ttl=10)
    await queue.shutdown()
    await advance(11)
    assert [lease async for lease in queue] == []


# Without a timekeeper


async def test_without_a_timekeeper_nothing_can_be_put_off() -> None:
    queue: Queue = LeasedKeyQueue(name="pages")
    message = r"(?s)a delay of 10 s needs a timekeeper.*'pages'.*await tg\.start\(queue\.run\)"
    with pytest.raises(TimekeeperNotRunningError, match=message):
        queue.put_nowait("a", 1, delay=10)
    with pytest.raises(TimekeeperNotRunningError, match=message):
        queue.put_many_nowait({"a": 1}, delay=10)
    queue.put_nowait("a", 1)
    _, _, lease = queue.get_nowait()
    with pytest.raises(TimekeeperNotRunningError, match=message):
        queue.release_nowait(lease, delay=10)
    queue.release_nowait(lease, delay=0)


async def test_without_a_timekeeper_nothing_can_be_leased_that_may_have_to_rest() -> None:
    queue: Queue = LeasedKeyQueue(retry=Retry(backoff=Backoff(10)))
    queue.put_nowait("a", 1)
    for call in (queue.get_nowait, lambda: queue.take_nowait("a")):
        with pytest.raises(TimekeeperNotRunningError, match="a backoff needs a timekeeper"):
            call()
    assert await queue.available_keys() == {"a"}


async def test_without_a_timekeeper_an_item_can_have_a_time_to_live() -> None:
    queue: Queue = LeasedKeyQueue()
    queue.put_nowait("a", 1, ttl=10)
    queue.put_nowait("b", 1)
    await advance(11)
    key, _, _ = queue.get_nowait()
    assert key == "b"


async def test_a_delayed_item_waits_for_the_timekeeper_to_come_back() -> None:
    queue: Queue = LeasedKeyQueue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        queue.put_nowait("a", 1, delay=10)
        tg.cancel_scope.cancel()
    await advance(11)
    with pytest.raises(WouldBlock):
        queue.get_nowait()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await advance(0)
        assert await in_line(queue) == ["a"]
        tg.cancel_scope.cancel()


# What is left


class Value:
    """Something that can be seen to be gone."""


async def test_a_queue_that_has_seen_all_kinds_of_items_keeps_none() -> None:
    values: list[weakref.ref[Value]] = []
    letters: LeasedKeyQueue[str, DeadLetter[str, object]] = LeasedKeyQueue()
    queue: Queue = LeasedKeyQueue(
        dead_letters=letters,
        max_size=100,
        retry=Retry(max_deliveries=3, backoff=Backoff(10)),
        tenants={"0": Tenant(max_in_flight=2)},
        default_lease_timeout=60,
    )

    def value() -> Value:
        made = Value()
        values.append(weakref.ref(made))
        return made

    async def work() -> None:
        async for lease in queue:
            if lease.key.endswith("1"):
                await lease.reject("unreadable")
            elif lease.key.endswith("2"):
                await lease.release()
            elif lease.key.endswith("3"):
                await anyio.sleep(61)
            else:
                await lease.ack()

    async def read() -> None:
        async for lease in letters:
            await lease.ack()

    async with create_task_group() as tg:
        await tg.start(queue.run)
        for _ in range(5):
            tg.start_soon(work)
        tg.start_soon(read)
        for number in range(50):
            tenant, priority = str(number % 7), number % 4
            await queue.put(str(number), value(), tenant=tenant, priority=priority)
            await queue.put(str(number), value(), if_in_flight="buffer", delay=number % 5)
            await queue.put(f"late {number}", value(), delay=30, ttl=HOUR)
            await queue.put(f"debounced {number}", value(), delay=30, ttl=60)
            await queue.put(f"debounced {number}", value(), delay=90, reschedule="latest")
        with pytest.raises(TimeoutError):
            await queue.get(0, tenants=["nobody"], steal_from=["nobody else"])
        await queue.shutdown()
        await queue.join()
        await letters.join()
        await letters.shutdown()
    gc.collect()
    assert [made for made in values if made() is not None] == []
    assert queue._engine.ledger.next_deadline() == math.inf
    assert queue._engine.waiters._lines == {}
    assert queue._engine.capacity is not None
    assert (queue._engine.capacity._reserved, queue._engine.capacity.putters) == (0, 0)
    assert queue._engine.ledger.buffered == 0


async def test_waiters_that_gave_up_leave_nothing_behind() -> None:
    queue: Queue = LeasedKeyQueue(max_size=1, tenants={"ann": Tenant(max_in_flight=1)})
    queue.put_nowait("a", 1, tenant="ann")
    queue.get_nowait()
    queue.put_nowait("b", 1, tenant="ann")
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "b")
        await waiting.take("taker of what is absent", "z")
        await waiting.get("ann's", tenants=["ann"])
        await waiting.get("bob's", tenants=["bob"], steal_from=["ann"])
        await waiting.get("anybody's")
        await waiting.put("c")
        tg.cancel_scope.cancel()
    await until(queue, getters=0, takers=0, putters=0)
    assert queue._engine.waiters._lines == {}
    assert queue._engine.waiters.total == queue._engine.waiters.takers == 0
    assert queue._engine.capacity is not None
    assert queue._engine.capacity._reserved == 0


# What raises while items fall due


class Refusing(Retry):
    """A policy that raises when it is asked for a rest."""

    def delay(self, deliveries: int) -> float:
        raise ArithmeticError("no rest today")


async def test_a_policy_that_raises_when_a_lease_expires_ends_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: Queue = LeasedKeyQueue(retry=Refusing(), default_lease_timeout=1)
    async with create_task_group() as tg, queue:
        await tg.start(queue.run)
        queue.put_nowait("b", 1)
        queue.get_nowait()
        await advance(1)
        queue.put_nowait("a", 1)
        queue.take_nowait("a")
        queue.take_nowait("b")  # its second lease: once that expires, the policy is asked
        waiting = Waiting(tg, queue)
        await waiting.get("waiter")
        await advance(1)
        assert waiting.got == {"waiter": "a"}
        assert await queue.state("b") == "delayed"
        (record,) = (each for each in caplog.records if each.exc_info)
        message = record.getMessage()
        assert message.startswith("an unnamed queue: the retry policy raised for 'b', token ")
        assert "no rest today" in caplog.text
        await advance(UNDECIDED)
        assert await queue.state("b") == "ready"
        tg.cancel_scope.cancel()
