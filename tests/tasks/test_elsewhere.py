"""Tasks in processes, on each engine."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests import elsewhere
from tests.elsewhere import Page

from leaseq import Backoff, Broker, ProcessError
from leaseq.tasks import TaskQueue, TaskWorker
from leaseq.tasks._results import xcom_name

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them"),
]


@pytest.fixture
async def tasks(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskQueue]:
    monkeypatch.setitem(elsewhere.tasks._backend._options, "default_lease_timeout", 2.0)
    monkeypatch.setitem(elsewhere.tasks._backend._options, "retry", _retry())
    with elsewhere.tasks.bind(broker):
        yield elsewhere.tasks


def _retry() -> Any:
    from leaseq import Retry

    return Retry(backoff=Backoff(0.0))


async def test_a_task_in_a_process_has_its_context_and_leaves_its_values(
    tasks: TaskQueue, engine_name: str
) -> None:
    with fail_after(60):
        async with create_task_group() as tg:
            worker = TaskWorker(tasks)
            await tg.start(worker.run)
            task = await tasks.push(elsewhere.add.task([1, 2], Page("http://a")), workflow="w")
            result = await tasks.result(task)
            pid = result.pop("pid")
            assert result == {"sum": 3, "url": "http://a", "id": task.id}
            assert pid != os.getpid()
            page = await tasks._backend.recall(xcom_name("w", "page"), 0, "it")
            assert page == {"value": {"url": "http://a"}}
            total = await tasks._backend.recall(xcom_name("w", "sum"), 0, "it")
            assert total["value"]["sum"] == 3
            worker.stop()
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_task_over_its_max_runtime_is_ended_and_has_failed(
    tasks: TaskQueue, broker: Broker, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with fail_after(60):
        async with create_task_group() as tg:
            worker = TaskWorker(tasks, max_runtime=4.0)
            await tg.start(worker.run)
            await tasks.push(elsewhere.spin_on.task(str(mark)))
            await tasks.join()
            worker.stop()
    _, letter, lease = await (await broker.dead_letters("elsewhere")).get(timeout=0)
    await lease.ack()
    assert letter.deliveries == 2
    assert "TimeoutError: it took longer than max_runtime" in letter.reason
    statistics = await tasks.stats()
    assert (statistics.expired, statistics.released) == (0, 1)
    if mark.exists():  # unless the machine was too busy for it to begin
        assert not _is_alive(int(mark.read_text()))


async def test_a_task_whose_process_dies_has_failed_and_others_go_on(
    tasks: TaskQueue, broker: Broker
) -> None:
    with fail_after(60):
        async with create_task_group() as tg:
            worker = TaskWorker(tasks, concurrency=1)
            await tg.start(worker.run)
            await tasks.push_many([elsewhere.die.task(), elsewhere.raise_it.task()])
            good = await tasks.push(elsewhere.add.task([1], Page("http://b")))
            await tasks.result(good)
            await tasks.join()
            worker.stop()
    letters = await broker.dead_letters("elsewhere")
    reasons = {}
    while await letters.qsize():
        _, letter, lease = await letters.get(timeout=0)
        await lease.ack()
        reasons[letter.value["name"]] = (letter.deliveries, letter.reason)
    assert reasons["die"][0] == 2
    assert "ProcessDiedError: its process was ended by SIGKILL" in reasons["die"][1]
    assert reasons["raise_it"][0] == 1
    assert "LookupError: no such order" in reasons["raise_it"][1]
    assert "in raise_it" in reasons["raise_it"][1]  # the traceback there


async def test_the_loop_goes_on_while_a_process_computes(tasks: TaskQueue, tmp_path: Path) -> None:
    with fail_after(60):
        async with create_task_group() as tg:
            worker = TaskWorker(tasks, concurrency=2)
            await tg.start(worker.run)
            marks = [tmp_path / str(number) for number in range(2)]
            await tasks.push_many([elsewhere.spin_on.task(str(mark)) for mark in marks])
            while not all(mark.exists() for mark in marks):  # noqa: ASYNC110 - other processes
                await anyio.sleep(0.02)
            for _ in range(10):
                await anyio.sleep(0.005)
            assert (await tasks.stats()).leased == 2
            tg.cancel_scope.cancel()
    statistics = await tasks.stats()
    assert (statistics.given_back, statistics.expired) == (2, 0)


async def test_a_task_in_a_process_is_called_here_in_one_too(tasks: TaskQueue) -> None:
    with fail_after(60):
        result = await elsewhere.add.task([5], Page("http://c"))()
        assert result["sum"] == 5
        assert result["pid"] != os.getpid()
        with pytest.raises(ProcessError, match="no such order"):
            await elsewhere.raise_it.task()()


async def test_a_task_in_a_process_cannot_pull(tasks: TaskQueue) -> None:
    with fail_after(60), pytest.raises(ProcessError, match="give a task in a process the value"):
        await elsewhere.pull.task()()


def test_a_function_that_no_process_can_find_is_refused() -> None:
    tasks = TaskQueue()
    with pytest.raises(TypeError, match="at the top of a module"):

        @tasks.task(run_in="process")
        def local() -> None: ...

    with pytest.raises(ValueError, match="run_in must be"):
        tasks.task(run_in="fork")  # type: ignore[call-overload]
