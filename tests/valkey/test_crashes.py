"""Processes and servers that are killed: nothing is lost, and nothing is in two hands."""

import pytest
from anyio import create_task_group, fail_after
from tests.remote.killed import (
    check_cancels_are_whole_when_their_caller_is_killed,
    check_what_a_killed_process_held_is_done,
    check_what_is_cancelled_stays_cancelled,
)
from tests.servers import Server
from tests.valkey.conftest import MakeServer, start

import leaseq

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_what_a_killed_process_held_is_done_by_another(
    own_server: Server, anyio_backend_name: str
) -> None:
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        await check_what_a_killed_process_held_is_done(broker, own_server.url, anyio_backend_name)
        tg.cancel_scope.cancel()


async def test_what_is_cancelled_stays_cancelled_when_its_holder_is_killed(
    own_server: Server, anyio_backend_name: str
) -> None:
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        await check_what_is_cancelled_stays_cancelled(broker, own_server.url, anyio_backend_name)
        tg.cancel_scope.cancel()


async def test_a_process_that_is_killed_while_it_cancels_has_cancelled_each_key_or_not(
    own_server: Server, anyio_backend_name: str
) -> None:
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        await check_cancels_are_whole_when_their_caller_is_killed(
            broker, own_server.url, anyio_backend_name
        )
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
