"""Handles on queues: what they say of the queue is so, and what they are told they see to."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, move_on_after
from tests.contract.helpers import in_line, until
from tests.remote.mishaps import (
    Gate,
    broker_of,
    eventually,
    exchanges_go_through,
    rule_out_beats,
)
from tests.servers import Server
from tests.valkey.engine import Valkey

from leaseq import Lease, PutOutcome, QueueClosedError, Tenant, connect, serve
from leaseq._core.errors import LeaseqError
from leaseq._remote.protocol import Batch, Put

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(anyio_backend: object, shared_server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(shared_server.url)
    yield made
    await made.close()


@pytest.mark.parametrize("how", ["join", "get"])
async def test_a_queue_that_was_empty_once_is_not_drained_when_it_is_shut_down(
    engine: Valkey, how: str
) -> None:
    queue = await engine.queue()
    got: list[str] = []
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            if how == "join":
                await queue.put("first", 0)
                _, _, first = await queue.get()
                async with create_task_group() as joining:
                    joining.start_soon(queue.join)
                    await eventually(lambda: bool(queue._engine._joiners))
                    await queue.ack(first)
            else:
                with pytest.raises(TimeoutError):
                    await queue.get(timeout=0)
            await queue.put_many([("a", 1), ("b", 2)])
            await queue.shutdown()
            async for lease in queue:
                async with lease:
                    got.append(lease.key)
            assert got == ["a", "b"]
            tg.cancel_scope.cancel()


async def test_two_brokers_that_see_to_one_queue_of_dead_letters_agree_on_what_is_there(
    engine: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await engine.broker()
    operator = await engine.another_broker()
    queue = await broker.queue("work", dead_letters="dead")
    dead = await operator.queue("dead")
    with fail_after(20), caplog.at_level(logging.CRITICAL):
        for turn in range(5):
            await queue.put_many([(f"{turn}-{number}", 1) for number in range(3)], ttl=0.005)
            await anyio.sleep(0.01)
            async with create_task_group() as tg:
                tg.start_soon(operator.process_expired)
                for number in range(6):
                    tg.start_soon(dead.put, f"n-{turn}-{number}", 1)
        await operator.process_expired()
        assert (await dead.statistics()).ready == 5 * (3 + 6)


@pytest.mark.parametrize("end", ["shutdown", "close"])
async def test_a_put_that_raises_because_of_the_end_is_not_done(engine: Valkey, end: str) -> None:
    queue = await engine.queue(max_size=1)
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("full", 1)
    outcomes: list[object] = []

    async def put() -> None:
        try:
            outcomes.append(await queue.put("late", 2))
        except QueueClosedError as error:
            outcomes.append(error)

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            tg.start_soon(put)
            await eventually(lambda: bool(queue._engine._putters))
            with Gate(queue, replies=True).closed() as gate:
                _, _, lease = await other.get()  # so there is room
                await gate.reached.wait()
                async with create_task_group() as ending:
                    ending.start_soon(getattr(queue, end))
                    await anyio.sleep(0.01)
                    gate.open()
            await eventually(lambda: bool(outcomes))
            await other.ack(lease)
            assert await other.contains("late") is (outcomes[0] is PutOutcome.ADDED)
            assert not queue._engine._putters
            tg.cancel_scope.cancel()


async def test_a_put_that_found_no_room_before_the_end_is_not_done_later(engine: Valkey) -> None:
    queue = await engine.queue(max_size=1)
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("full", 1)
    errors: list[QueueClosedError] = []

    async def put() -> None:
        with pytest.raises(QueueClosedError) as caught:
            await queue.put("late", 2)
        errors.append(caught.value)

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            tg.start_soon(put)
            await eventually(lambda: bool(queue._engine._putters))
            with Gate(queue, replies=True).closed() as gate:
                queue._engine.look_again()
                await gate.reached.wait()
                async with create_task_group() as ending:
                    ending.start_soon(queue.shutdown)
                    await anyio.sleep(0.01)
                    gate.open()
            await eventually(lambda: bool(errors))
            assert not queue._engine._putters
            _, _, lease = await other.get()
            await other.ack(lease)
            await queue.qsize()
            assert await other.state("late") == "absent"
            tg.cancel_scope.cancel()


async def test_a_queue_that_another_broker_deleted_can_be_made_again(engine: Valkey) -> None:
    broker = await engine.broker()
    other = await engine.another_broker()
    queue = await broker.queue("work")
    with fail_after(20):
        await other.delete_queue("work")
        with suppress(LeaseqError):
            await queue.put("a", 1)
        again = await broker.queue("work")
        assert await again.put("a", 1) is PutOutcome.ADDED
        await again.close()
        assert await in_line(await broker.queue("work")) == ["a"]


async def test_what_cannot_be_read_keeps_nobody_from_what_can(
    engine: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await engine.broker()
    other = await (await engine.another_broker()).queue(
        "work", dead_letters="dead", default_lease_timeout=None
    )
    queue = await broker.queue("work", type=int)
    with fail_after(20), caplog.at_level(logging.CRITICAL):
        await other.put_many([("bad", "x"), ("good", 1)])
        key, _, _ = await queue.get(timeout=0)
        assert key == "good"
        await other.put_many([("bad", "x"), ("good", 1), ("better", 2)], if_in_flight="buffer")
        [lease] = await queue.get_batch(5)
        assert lease.key == "better"
        await other.put("bad", "x")
        with pytest.raises(TimeoutError):
            await queue.get(timeout=0)
        assert await other.inflight_keys() == {"good", "better"}


async def test_a_batch_that_nobody_completes_is_what_there_is(engine: Valkey) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    with fail_after(20):
        [lease] = await queue.get_batch(2, max_wait=0.05)
        await queue.ack(lease)
        assert (await queue.statistics()).leased == 0


async def test_a_batch_that_is_cancelled_goes_back_though_no_run_runs(engine: Valkey) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("a", 1)
    with fail_after(20):
        with move_on_after(0.05):
            await queue.get_batch(2, max_wait=3600)
        await queue.qsize()
        assert await in_line(other) == ["a"]


async def test_a_lease_that_is_over_is_given_to_nobody(engine: Valkey) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            with Gate(queue, replies=True).closed() as gate:

                async def get() -> None:
                    with pytest.raises(TimeoutError):
                        await queue.get(timeout=0, lease_timeout=0.05)

                async with create_task_group() as getting:
                    getting.start_soon(get)
                    await gate.reached.wait()
                    await anyio.sleep(0.06)
                    gate.open()
            await until(queue, leased=0)
            assert await in_line(queue) == ["a"]
            tg.cancel_scope.cancel()


async def test_nothing_is_left_of_those_who_waited_for_a_tenant(engine: Valkey) -> None:
    queue = await engine.queue()
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            for number in range(20):
                with suppress(TimeoutError):
                    await queue.get(timeout=0.005, tenants=[f"tenant-{number}"])
            await eventually(lambda: not queue._engine._waiters.parked)
            tg.cancel_scope.cancel()


async def test_room_is_not_kept_from_one_broker_by_a_cancelled_put_of_another(
    engine: Valkey,
) -> None:
    one = await engine.queue(max_size=1)
    broker = await engine.another_broker()
    other = await broker.queue(one.name)
    await one.put("full", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, one).run)
            await tg.start(broker.run)
            with move_on_after(0.03):
                await one.put("never", 1)
            tg.start_soon(other.put, "late", 1)
            await eventually(lambda: bool(other._engine._putters))
            rule_out_beats(broker, broker_of(engine, one))  # by a wake-up, or never
            _, _, lease = await one.get()
            await one.ack(lease)
            await eventually(lambda: not other._engine._putters)
            assert await one.contains("late")
            tg.cancel_scope.cancel()


async def test_a_slot_of_a_tenant_is_not_kept_from_one_broker_by_takers_of_another(
    engine: Valkey,
) -> None:
    one = await engine.queue(tenants={"t": Tenant(max_in_flight=1)})
    broker = await engine.another_broker()
    other = await broker.queue(one.name)
    got: list[str] = []

    async def take() -> None:
        got.append((await other.take("y"))[0])

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, one).run)
            await tg.start(broker.run)
            tg.start_soon(one.take, "absent")
            await one.put_many([("x", 1), ("y", 1)], tenant="t")
            _, _, lease = await one.take("x")
            with move_on_after(0.03):
                await one.take("y")
            tg.start_soon(take)
            await eventually(lambda: bool(other._engine._waiters.parked))
            rule_out_beats(broker, broker_of(engine, one))
            await one.ack(lease)
            await eventually(lambda: got == ["y"])
            tg.cancel_scope.cancel()


async def test_what_has_outlived_its_time_is_buried_though_a_handle_here_is_closed(
    engine: Valkey,
) -> None:
    queue = await engine.queue()
    await queue.put("a", 1, ttl=60)
    await queue.close()
    await engine.advance(61)
    assert await broker_of(engine, queue).process_expired() == 1


async def test_queues_that_others_have_deleted_are_forgotten(engine: Valkey) -> None:
    one, other = await engine.another_broker(), await engine.another_broker()
    for number in range(20):
        await other.queue(f"queue-{number}")
    assert len(await one.list_queues()) == 20
    for number in range(20):
        await other.delete_queue(f"queue-{number}")
    assert await one.list_queues() == []
    assert not one._handles.by_name


@pytest.mark.only("trio")
async def test_many_letters_are_brought_back_a_lot_at_a_time(engine: Valkey) -> None:
    many = [f"{number:04}" for number in range(2100)]
    broker = await engine.broker()
    async with create_task_group() as tg:
        await tg.start(broker.run)
        queue, letters = await broker.create_queue_pair("work", default_lease_timeout=60)
        for first in range(0, len(many), 350):
            await queue.put_many([(key, 1) for key in many[first : first + 350]])
        died = 0
        while died < len(many):
            async with create_task_group() as burying:
                for lease in await queue.get_batch(100):
                    burying.start_soon(lease.reject, "no good")
                    died += 1
        order = (await queue.redrive(limit=1100)).keys
        assert len(order) == len(set(order)) == 1100
        assert (await queue.info()).dead == await letters.qsize() == 1000
        last = [key for key in many if key not in order][-1]
        assert (await queue.redrive([last, order[0], "unknown"])).keys == (last,)
        back = await queue.redrive()
        assert {*order, last, *back.keys} == {*many}
        assert not back.conflicts
        assert (await queue.statistics()).ready == len(many)
        tg.cancel_scope.cancel()


@pytest.mark.only("trio")
@pytest.mark.usefixtures("skipping")
async def test_who_waits_for_more_room_than_there_is_is_not_asked_again_and_again(
    engine: Valkey,
) -> None:
    puts = 0
    queue = await engine.queue(max_size=3)
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            tg.start_soon(queue.put_many, [(str(number), 1) for number in range(3)])
            await eventually(lambda: bool(queue._engine._putters))

            def way(call: Any) -> Any:
                async def counted(batch: Batch) -> Any:
                    nonlocal puts
                    puts += sum(isinstance(operation, Put) for operation in batch.operations)
                    return await call(batch)

                return counted

            with exchanges_go_through(queue, way):
                await anyio.sleep(5)
                assert puts == 0
                await (await queue.get())[2].ack()
                await eventually(lambda: not queue._engine._putters)
            assert await queue.qsize() == 3
            tg.cancel_scope.cancel()


@pytest.mark.only("trio")
async def test_what_dies_is_named_in_the_log_as_it_is_called(
    engine: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await engine.broker()
    async with create_task_group() as tg:
        await tg.start(broker.run)
        queue, _ = await broker.create_queue_pair("work")
        alone = await broker.queue("alone")
        for where, key in ((queue, 42), (alone, "a")):
            await where.put(key, 1)
            _, _, lease = await where.get()
            await lease.reject("no good")
        await queue.put(b"b", 1, ttl=1)
        await engine.advance(2)
        said = [record.getMessage() for record in caplog.records]
        assert [re.sub(r"\d{10,}", "N", each) for each in said] == [
            "queue 'work': 42, token N, is a dead letter ('no good')",
            "queue 'alone': 'a', token N, is dead ('no good') and dropped",
            "queue 'work': b'b', not leased, is a dead letter ('expired')",
        ]
        tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
async def test_a_server_that_does_not_answer_is_complained_of_once(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{own_server.url}?request_timeout=0.3"
    async with connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        own_server.kill()
        tg.start_soon(broker.list_queues)
        await eventually(lambda: "tried again and again" in caplog.text)
        await anyio.sleep(1)
        own_server.start()
        await eventually(lambda: "the store answers again, after " in caplog.text)
        tg.cancel_scope.cancel()
    said = [record.getMessage() for record in caplog.records]
    assert sum("tried again and again" in each for each in said) == 1
    assert sum("answers again" in each for each in said) == 1


async def test_a_handle_that_is_closed_leaves_what_a_thread_works_on_to_the_leases_time(
    engine: Valkey,
) -> None:
    """Given back, the item would be in two hands: nothing can stop the thread."""
    broker, operator = await engine.broker(), await engine.another_broker()
    queue = await broker.queue("work", default_lease_timeout=30.0)
    await queue.put_many({"in a thread": 1, "here": 2})
    begun, go_on = threading.Event(), threading.Event()
    states: list[str] = []

    def handle(lease: Lease[str, int]) -> None:
        begun.set()
        go_on.wait(10)

    async def close() -> None:
        await anyio.to_thread.run_sync(begun.wait, 10)
        await broker.close()
        there = await operator.queue("work")
        states.extend([await there.state("in a thread"), await there.state("here")])
        go_on.set()

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            _, _, lease = await queue.take("here")
            tg.start_soon(close)
            with pytest.raises(QueueClosedError):
                await serve(queue, handle)
            assert lease.ended == "lost"
    assert states == ["leased", "ready"]


async def test_a_pause_outlives_the_broker_that_made_it(shared_server: Server) -> None:
    shared_server.command("FLUSHALL")
    async with connect(shared_server.url) as one:
        queue = await one.queue("work")
        await queue.put("a", 1, tenant="ann")
        await queue.pause(reason="a reason")
        await queue.pause("ann", reason="another")
        before = await queue.info()
    async with connect(shared_server.url) as another:
        queue = await another.queue("work")
        assert await queue.info() == before
        with pytest.raises(TimeoutError):
            await queue.get(timeout=0)
        assert [await queue.resume("ann"), await queue.resume()] == [True, True]
        assert (await queue.get(timeout=0))[0] == "a"
