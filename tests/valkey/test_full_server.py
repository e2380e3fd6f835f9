"""A server without memory for more: nothing new is taken, and what is there comes to its end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import valkey
from anyio import create_task_group, fail_after, sleep
from tests.servers import Server
from tests.valkey.test_faults import Outcomes

from leaseq import Backoff, Broker, ServerError, TransactionError, connect
from leaseq._core.kept import Kept
from leaseq.tasks import (
    ResultLostError,
    TaskFailedError,
    TaskQueue,
    TaskWorker,
    xcom_pull,
    xcom_push,
)
from leaseq.tasks._queue import source_of

pytestmark = pytest.mark.anyio


class Memory:
    """The memory that a server may use."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def is_full(self) -> None:
        self._server.command("CONFIG", "SET", "maxmemory", "1")

    def is_bounded(self, size: int) -> None:
        self._server.command("CONFIG", "SET", "maxmemory", str(size))

    def used(self) -> int:
        """Bytes that are used."""
        with valkey.Valkey(port=self._server.port) as client:
            return int(client.info("memory")["used_memory"])

    def is_free(self) -> None:
        self._server.command("CONFIG", "SET", "maxmemory", "0")


@pytest.fixture
def memory(server: Server) -> Iterator[Memory]:
    memory = Memory(server)
    yield memory
    memory.is_free()


@pytest.fixture
async def tasks(server: Server, memory: Memory) -> AsyncIterator[TaskQueue]:
    with fail_after(60):
        async with create_task_group() as tg, connect(server.url) as broker:
            await tg.start(broker.run)
            yield TaskQueue(broker, backoff=Backoff(0.0))
            memory.is_free()
            tg.cancel_scope.cancel()


@asynccontextmanager
async def working(tasks: TaskQueue) -> AsyncIterator[None]:
    worker = TaskWorker(tasks, concurrency=4)
    async with create_task_group() as tg:
        await tg.start(worker.run)
        yield
        worker.stop()


async def test_a_task_whose_result_finds_no_room_is_not_run_again(
    tasks: TaskQueue, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @tasks.task(result_ttl=60.0, xcom_key="total")
    async def count(number: int) -> int:
        runs.append(number)
        xcom_push("more", number)
        return number

    pushed = await tasks.push_many([count.task(number) for number in range(10)], workflow="w")
    outcomes = Outcomes()
    with caplog.at_level(logging.WARNING, "leaseq"):
        async with create_task_group() as waiting:
            waiting.start_soon(outcomes.of, "waiting", tasks.result(pushed[0]))
            memory.is_full()
            async with working(tasks):
                await tasks.join()
    assert isinstance(outcomes["waiting"], ResultLostError)
    for task in pushed:
        with pytest.raises(ResultLostError, match="has succeeded, but its result is lost"):
            await tasks.result(task)
    assert sorted(runs) == list(range(10))
    queue = await tasks.open()
    assert (await queue.info()).dead == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert "has no room: results and shared values of tasks are not kept" in said

    memory.is_free()
    seen: list[object] = []

    @tasks.task
    async def look() -> None:
        seen.append(await xcom_pull("more", default="lost"))
        with pytest.raises(LookupError, match="is lost: the store was full"):
            await xcom_pull("total")

    await tasks.push(look.task(), workflow="w")
    again = await tasks.push(count.task(11))
    async with working(tasks):
        await tasks.join()
    assert seen == ["lost"]
    assert await tasks.result(again) == 11


async def test_a_task_is_given_up_on_a_full_server(tasks: TaskQueue, memory: Memory) -> None:
    runs: list[int] = []

    @tasks.task(result_ttl=60.0, max_retries=2)
    async def fail() -> int:
        runs.append(1)
        raise ValueError("no " * 1000)

    task = await tasks.push(fail.task())
    memory.is_full()
    async with working(tasks):
        await tasks.join()
    assert len(runs) == 3
    queue = await tasks.open()
    assert (await queue.info()).dead == 1
    with pytest.raises(TaskFailedError) as caught:
        await tasks.result(task)
    assert caught.value.reason.startswith("failed at delivery 3, its last: ValueError: no no")
    assert len(caught.value.reason) < 400


async def test_what_adds_is_refused_beside_what_settles(tasks: TaskQueue, memory: Memory) -> None:
    queue = await tasks.open()
    await queue.put_many([(str(number), 1) for number in range(8)])
    leases = await queue.get_batch(6)
    broker = source_of(tasks)
    assert isinstance(broker, Broker)
    memory.is_full()
    outcomes = Outcomes()

    async def put_and_ack() -> None:
        async with broker.transaction() as transaction:
            transaction.put(queue, "more", 1)
            transaction.ack(leases[5])

    async with create_task_group() as together:
        together.start_soon(outcomes.of, "ack", queue.ack(leases[0]))
        together.start_soon(outcomes.of, "put", queue.put("more", 1))
        together.start_soon(outcomes.of, "release", queue.release(leases[1]))
        together.start_soon(outcomes.of, "replace", queue.put("7", 2))
        together.start_soon(outcomes.of, "extend", queue.extend(leases[2], 60.0))
        together.start_soon(outcomes.of, "keep", queue._keep([Kept("x", b"1", 60.0, b"-")]))
        together.start_soon(outcomes.of, "reject", queue.reject(leases[3], "bad"))
        together.start_soon(outcomes.of, "transaction", put_and_ack())
        together.start_soon(outcomes.of, "get", queue.get(0))
    for name in ("put", "replace", "keep", "transaction"):
        refused = outcomes.pop(name)
        assert isinstance(refused, ServerError), (name, refused)
        assert not isinstance(refused, TransactionError)
        assert refused.code == "OOM"
    assert isinstance(outcomes.pop("get"), tuple)
    assert outcomes == {"ack": False, "release": None, "extend": None, "reject": None}
    await queue.ack(leases[5])


async def test_a_full_server_is_paused_and_goes_on(tasks: TaskQueue, memory: Memory) -> None:
    queue = await tasks.open()
    await queue.put_many({"a": 1, "b": 1})
    memory.is_full()
    await queue.pause(reason="it is full")
    with pytest.raises(TimeoutError):
        await queue.get(0)
    assert (await queue.statistics()).paused
    assert await queue.resume() is True
    assert (await queue.info()).paused is None
    assert (await queue.get(0))[0] == "a"


async def test_tasks_whose_results_fill_a_server_are_all_done_once(
    tasks: TaskQueue, server: Server, memory: Memory
) -> None:
    runs: list[int] = []
    outcomes: list[str] = []

    @tasks.task(result_ttl=600.0)
    async def large(number: int) -> str:
        runs.append(number)
        return "x" * 100_000

    pushed = await tasks.push_many([large.task(number) for number in range(400)])
    before = memory.used()
    memory.is_bounded(before + 5_000_000)
    async with working(tasks):
        await tasks.join()
    for task in pushed:
        try:
            outcomes.append(await tasks.result(task, timeout=0))
        except ResultLostError:
            outcomes.append("lost")
    assert sorted(runs) == list(range(400))
    kept = [each for each in outcomes if each != "lost"]
    assert 10 < len(kept) < 390
    assert set(kept) == {"x" * 100_000}
    assert memory.used() < before + 10_000_000


async def test_a_task_that_is_not_known_is_left_uncounted(
    tasks: TaskQueue, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    wire = {"name": "unpack", "arguments": {}, "made_at": 1.0, "max_retries": 0}
    queue = await tasks.open()
    await queue.put_many({"a": wire, "b": {**wire, "name": "pack"}})
    memory.is_full()
    with caplog.at_level(logging.WARNING, "leaseq"):
        async with working(tasks):
            while (await tasks.stats()).released < 3:  # noqa: ASYNC110
                await sleep(0.05)
    statistics = await tasks.stats()
    assert (statistics.dead, statistics.ready + statistics.delayed) == (0, 2)
    said = [record.getMessage() for record in caplog.records]
    assert sum("could not note an unknown task" in each for each in said) == 1
