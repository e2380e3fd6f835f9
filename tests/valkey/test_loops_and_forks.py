"""Several event loops and several processes: each has its own broker, and is told so."""

import asyncio
import multiprocessing
import os
import threading
import uuid
from typing import Any

import anyio
import pytest
from tests.servers import Server

from leaseq import QueueClosedError, connect
from leaseq.tasks import TaskQueue

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def url(server: Server) -> str:
    return f"{server.url}?prefix={uuid.uuid4().hex}"


async def put_and_get(url: str) -> int:
    async with anyio.create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        queue = await broker.queue("work")
        await queue.put("a", 1)
        _, value, lease = await queue.get(timeout=5)
        await lease.ack()
        tg.cancel_scope.cancel()
    return int(value)


def test_a_loop_that_is_left_open_refuses_no_other(url: str) -> None:
    left_open = asyncio.new_event_loop()
    try:
        assert left_open.run_until_complete(put_and_get(url)) == 1
        assert anyio.run(put_and_get, url, backend="asyncio") == 1
        assert anyio.run(put_and_get, url, backend="trio") == 1
        assert left_open.run_until_complete(put_and_get(url)) == 1
    finally:
        left_open.close()


@BACKENDS
def test_brokers_in_several_loops_at_a_time_do_not_know_of_each_other(
    url: str, backend: str
) -> None:
    async def main() -> None:
        async with connect(url) as broker:
            queue = await broker.queue("others")
            await anyio.to_thread.run_sync(lambda: anyio.run(put_and_get, url, backend="asyncio"))
            await anyio.to_thread.run_sync(lambda: anyio.run(put_and_get, url, backend="trio"))
            assert await queue.qsize() == 0

    anyio.run(main, backend=backend)


@BACKENDS
@pytest.mark.parametrize("closes", [True, False])
def test_a_task_queue_with_a_broker_of_an_earlier_run_says_how_to_write_it(
    url: str, backend: str, closes: bool
) -> None:
    tasks = TaskQueue(connect(url))

    @tasks.task(result_ttl=60)
    async def work() -> None: ...

    async def push() -> None:
        broker: Any = tasks._backend.source
        try:
            await tasks.push(work.task())
            await tasks.stats()
        finally:
            if closes:
                await broker.close()
            else:
                with anyio.CancelScope(shield=True):
                    await broker._own.dispatcher.close()

    anyio.run(push, backend=backend)

    async def push_again() -> None:
        async with anyio.create_task_group():
            await tasks.push(work.task())

    kind = QueueClosedError if closes else RuntimeError
    with pytest.RaisesGroup(kind) as caught:
        anyio.run(push_again, backend=backend)
    text = str(caught.value.exceptions[0])
    assert ("the broker is closed" if closes else "an event loop that is over") in text
    assert "with tasks.bind(connect(url)):" in text
    assert "thread" not in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@BACKENDS
def test_a_forked_child_is_told_the_truth_and_opens_a_broker_of_its_own(
    url: str, backend: str
) -> None:
    unused = connect(url)
    reports: Any = multiprocessing.get_context("fork").SimpleQueue()

    async def main() -> None:
        async with connect(url) as broker:
            queue = await broker.queue("work")
            await queue.put("of the parent", 1)

            async def in_child() -> None:
                told = []
                for call in (queue.qsize(), broker.queue("work"), queue.put("b", 1)):
                    try:
                        await call
                    except RuntimeError as error:
                        told.append(str(error))
                await broker.close()  # as `async with` does, and it is not the child's
                async with unused:
                    told.append(str(await (await unused.queue("work")).qsize()))
                reports.put(told)

            def run_child() -> None:  # in a thread that has no event loop of the parent's
                thread = threading.Thread(target=lambda: anyio.run(in_child, backend=backend))
                thread.start()
                thread.join()

            child = multiprocessing.get_context("fork").Process(target=run_child)
            child.start()
            await anyio.to_thread.run_sync(child.join, 30)
            assert child.exitcode == 0
            assert await queue.qsize() == 1  # this one goes on
            _, value, lease = await queue.get(timeout=5, lease_timeout=None)
            assert value == 1
            await lease.ack()

    anyio.run(main, backend=backend)
    *told, size = reports.get()
    assert size == "1"
    assert len(told) == 3
    for text in told:
        assert text.startswith(f"this was made in process {os.getpid()}, which has forked this one")
