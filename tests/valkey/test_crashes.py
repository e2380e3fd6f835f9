"""Processes and servers that are killed: nothing is lost, and nothing is in two hands."""

import pytest
from anyio import create_task_group, fail_after
from tests.servers import Server
from tests.valkey.conftest import MakeServer, start
from tests.valkey.processes import LEASE

import leaseq

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
