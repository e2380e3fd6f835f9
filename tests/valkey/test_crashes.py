"""Processes and servers that are killed: nothing is lost, and nothing is in two hands."""

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.servers import Server
from tests.valkey.conftest import MakeServer, start
from tests.valkey.processes import LEASE

import leaseq
from leaseq import LeaseCancelledError

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_what_a_killed_process_held_is_done_by_another(
    own_server: Server, anyio_backend_name: str
) -> None:
    keys = [f"item-{number}" for number in range(100)]
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=LEASE)
        await queue.put_many([(key, None) for key in keys])
        async with start("hold", own_server.url, "--backend", anyio_backend_name) as holder:
            await holder.until(lambda lines: ["holding"] in lines)
            held = dict(holder.lines[:100])
            assert held.keys() == set(keys)
            assert await queue.inflight_size() == 100
            holder.kill()
            async with start(
                "consume", own_server.url, "--backend", anyio_backend_name
            ) as consumer:
                with fail_after(LEASE + 10):
                    await queue.join()
                await consumer.until(lambda lines: len(lines) == 101)
        done = dict(line for line in consumer.lines if len(line) == 2)
        assert done.keys() == held.keys()
        assert all(done[key] > held[key] for key in keys)
        statistics = await queue.statistics()
        assert (statistics.acked, statistics.expired, statistics.leased) == (100, 100, 0)
        tg.cancel_scope.cancel()


async def test_what_is_cancelled_stays_cancelled_when_its_holder_is_killed(
    own_server: Server, anyio_backend_name: str
) -> None:
    keys = [f"item-{number}" for number in range(100)]
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=LEASE)
        await queue.put_many([(key, None) for key in keys])
        async with start("hold", own_server.url, "--backend", anyio_backend_name) as holder:
            await holder.until(lambda lines: ["holding"] in lines)
            assert all([await queue.cancel(key) for key in keys[:50]])
            holder.kill()
            with fail_after(LEASE + 10):
                while await queue.inflight_size():  # noqa: ASYNC110 - of another process
                    await anyio.sleep(0.1)
        statistics = await queue.statistics()
        assert (statistics.cancelled, statistics.expired, statistics.ready) == (50, 50, 50)
        assert await queue.available_keys() == {*keys[50:]}
        tg.cancel_scope.cancel()


async def test_a_process_that_is_killed_while_it_cancels_has_cancelled_each_key_or_not(
    own_server: Server, anyio_backend_name: str
) -> None:
    keys = [f"item-{number}" for number in range(100)]
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=LEASE)
        await queue.put_many([(key, None) for key in keys])
        leases = [(await queue.take(key, lease_timeout=60))[2] for key in keys]
        async with start("cancel", own_server.url, "--backend", anyio_backend_name) as caller:
            await caller.until(lambda lines: len(lines) > 20)
            caller.kill()
            await caller.ended()
            done = {line[0] for line in caller.lines if line != ["ready"]}
        cancelled = set()
        for lease in leases:
            try:
                await lease.ack()
            except LeaseCancelledError:
                cancelled.add(lease.key)
        assert done <= cancelled
        assert len(cancelled) <= len(done) + 1
        statistics = await queue.statistics()
        assert (statistics.cancelled, statistics.acked) == (len(cancelled), 100 - len(cancelled))
        assert statistics.leased == statistics.ready == 0
        tg.cancel_scope.cancel()


async def test_a_killed_server_loses_nothing_that_was_acknowledged(
    make_server: MakeServer, anyio_backend_name: str
) -> None:
    server = make_server(durable=True)
    here = (server.url, "--backend", anyio_backend_name)
    async with (
        start("produce", *here, "--name", "a") as one,
        start("produce", *here, "--name", "b") as two,
        start("consume", *here) as consumer,
    ):
        everybody = (one, two, consumer)
        for each in everybody:
            await each.say_more()
        for _ in range(2):
            server.kill()
            server.start()
            with fail_after(3):  # all go on by themselves
                for each in everybody:
                    await each.say_more()
        one.kill()
        two.kill()
        async with leaseq.connect(server.url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            with fail_after(30):
                await queue.join()
            acked = (await queue.statistics()).acked
            tg.cancel_scope.cancel()
        await consumer.until(lambda lines: len(lines) == acked + 1)
    put = {key for each in (one, two) for [key] in each.lines}
    done = [line[0] for line in consumer.lines if len(line) == 2]
    assert len(done) == len(set(done))
    # A producer may have been killed between its put and its saying so.
    assert put <= set(done)
    assert len(done) <= len(put) + 2
