"""Worker processes that are killed, that hang, and that are told to end."""

import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests import children
from tests.children import Child
from tests.servers import Server
from tests.tasks import jobs
from tests.tasks.jobs import LEASE, tasks

import leaseq
from leaseq import Broker
from leaseq.tasks import TaskFailedError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them"),
]

PATIENCE = LEASE + 30.0

Work = Callable[..., AbstractAsyncContextManager[Child]]


@pytest.fixture
async def broker(server: Server) -> AsyncIterator[Broker]:
    """A broker with nothing in it, for this process and others; the tasks are in it."""
    server.command("FLUSHALL")
    async with create_task_group() as tg, leaseq.connect(server.url) as broker:
        await tg.start(broker.run)
        with tasks.bind(broker):
            yield broker


@pytest.fixture
def work(server: Server, tmp_path: Path, anyio_backend_name: str) -> Work:
    """Starts a worker process: one of the configuration's."""
    config = tmp_path / "workers.yaml"
    config.write_text(jobs.WORKERS)

    def work(name: str = "anybody's") -> AbstractAsyncContextManager[Child]:
        command = ("-m", "leaseq", "worker", "tests.tasks.jobs:tasks", "--worker", name)
        place = ("--config", str(config), "--url", server.url)
        return children.start(*command, *place, "--backend", anyio_backend_name)

    return work


def done(*workers: Child) -> Counter[Any]:
    """How many tasks of each tenant were done."""
    lines = [line for worker in workers for line in worker.lines]
    return Counter(line[1] for line in lines if line[0] == "done")


async def test_the_task_of_a_killed_worker_is_done_by_another(
    broker: Broker, work: Work, tmp_path: Path
) -> None:
    task = await tasks.push(jobs.hang_once.task(str(tmp_path / "mark")))
    async with work("one at a time") as killed:
        await killed.until(lambda lines: ["begun"] in lines)
        async with work("one at a time") as other:
            killed.kill()
            with fail_after(PATIENCE):
                await tasks.result(task)
        assert other.lines == [["begun"], ["done"]]
    statistics = await tasks.stats()
    assert (statistics.acked, statistics.expired, statistics.leased) == (1, 1, 0)


async def test_a_task_that_hangs_does_not_hold_up_others_and_is_given_up(
    broker: Broker, work: Work
) -> None:
    hanging = await tasks.push(jobs.hang.task())
    notes = await tasks.push_many([jobs.note.task(number) for number in range(20)])
    async with work() as worker:
        with fail_after(PATIENCE):
            for task in notes:
                await tasks.result(task)
            with pytest.raises(TaskFailedError, match="its lease was lost at delivery 2"):
                await tasks.result(hanging)
        assert worker.lines.count(["begun"]) == 2
        worker.terminate()
        assert await worker.ended() == 0


async def test_a_task_that_kills_its_worker_each_time_is_given_up_and_others_go_on(
    broker: Broker, work: Work
) -> None:
    deadly = await tasks.push(jobs.die.task())
    notes = await tasks.push_many([jobs.note.task(number) for number in range(20)])
    begun = 0
    for _ in range(3):
        async with work() as worker:
            assert await worker.ended() != 0
            begun += worker.lines.count(["begun"])
    async with work() as worker:
        with fail_after(PATIENCE):
            with pytest.raises(TaskFailedError, match="its lease was lost at delivery 3"):
                await tasks.result(deadly)
            for task in notes:
                await tasks.result(task)
            await tasks.join()
        assert ["begun"] not in worker.lines
    assert begun == 3
    letters = await broker.dead_letters("jobs")
    assert await letters.qsize() == 1


async def test_a_worker_that_is_told_to_end_finishes_what_it_does_and_takes_no_more(
    broker: Broker, work: Work
) -> None:
    lingering = await tasks.push(jobs.linger.task(1.0))
    async with work("one at a time") as worker:
        await worker.until(lambda lines: ["begun"] in lines)
        await tasks.push(jobs.note.task())
        worker.terminate()
        assert await worker.ended() == 0
        assert worker.lines == [["begun"], ["done"]]
        await tasks.result(lingering, timeout=0)
    statistics = await tasks.stats()
    assert (statistics.acked, statistics.ready, statistics.leased) == (1, 1, 0)


async def test_a_single_task_is_among_the_first_and_the_work_of_a_killed_worker_is_stolen(
    broker: Broker, work: Work
) -> None:
    numbers = {"busy": 1_000, "middle": 100, "small": 1}
    for tenant, number in numbers.items():
        notes = [jobs.note.task(each) for each in range(number)]
        for first in range(0, number, 500):
            await tasks.push_many(notes[first : first + 500], tenant=tenant)
    async with work("the first") as first:
        await first.until(lambda lines: len(lines) > 100)
        first.kill()
        await first.ended()
        assert ["done", "small", 0] in first.lines[:3]
        assert done(first).keys() == {"busy", "small"}
        async with work("the second") as second:
            with fail_after(PATIENCE):
                await tasks.join()
            await second.until(lambda lines: done(first, second).total() >= 1_101)
            assert done(second).keys() == {"busy", "middle"}
            assert second.lines[:100] == [["done", "middle", each] for each in range(100)]
    statistics = await tasks.stats()
    assert statistics.acked == 1_101
    assert statistics.expired <= 1  # what the killed one had in its hands


# Threads, and the second signal


async def test_a_task_in_a_thread_over_its_max_runtime_is_in_one_hand_at_a_time(
    broker: Broker, work: Work
) -> None:
    toiling = await tasks.push(jobs.toil.task(LEASE * 2))  # of which it may take one second
    async with work() as worker, work() as other:
        with fail_after(PATIENCE), pytest.raises(TaskFailedError, match="longer than max_runtime"):
            await tasks.result(toiling)
        lines = sorted([*worker.lines, *other.lines], key=str)
        assert len(lines) == 8  # its retries too
        for each in (worker, other):
            assert [line[0] for line in each.lines] == ["begun", "ended"] * (len(each.lines) // 2)
    statistics = await tasks.stats()
    assert (statistics.expired, statistics.released) == (0, 3)


@pytest.mark.parametrize("signals", ["interrupt", "terminate"])
async def test_the_second_signal_ends_a_worker_and_the_threads_in_it(
    broker: Broker, work: Work, signals: str
) -> None:
    toiling = await tasks.push(jobs.toil.task(LEASE * 3))
    lingering = await tasks.push(jobs.linger.task(LEASE * 3))
    async with work("two at a time") as worker:
        await worker.until(lambda lines: len(lines) == 2)
        began = anyio.current_time()
        getattr(worker, signals)()
        await anyio.sleep(0.3)
        getattr(worker, signals)()
        code = await worker.ended()
        assert anyio.current_time() - began < LEASE
        assert code == (130 if signals == "interrupt" else -signal.SIGTERM)
    flying = await (await tasks.open()).inflight_keys()
    if signals == "interrupt":  # the other one was given back
        assert flying == {toiling.id}
        assert (await tasks.stats()).given_back == 1
    else:
        assert flying == {toiling.id, lingering.id}
    async with work("two at a time"):
        with fail_after(PATIENCE):
            await tasks.result(toiling)
            await tasks.result(lingering)
    assert (await tasks.stats()).expired == len(flying)


@pytest.mark.parametrize(
    "task",
    [
        jobs.leave,
        jobs.leave_here,
        jobs.leave_in_a_task_of_its_own,
        jobs.leave_as_if_closed,
        jobs.leave_by_a_cancellation,
    ],
    ids=["thread", "here", "child", "closed", "cancelled"],
)
async def test_a_task_that_exits_fails_and_ends_no_worker(
    broker: Broker, work: Work, task: Any
) -> None:
    leaving = await tasks.push(task.task())
    note = await tasks.push(jobs.note.task(), delay=0.5)
    async with work("one at a time") as worker:
        with fail_after(PATIENCE):
            with pytest.raises(
                TaskFailedError, match=r"failed at delivery 4, .*(Exit: 3|GeneratorExit|Cancelled)"
            ):
                await tasks.result(leaving)
            await tasks.result(note)
        assert worker.lines.count(["left"]) == 4
        worker.terminate()
        assert await worker.ended() == 0
