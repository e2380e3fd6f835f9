"""Fair between users, from the push to the function."""

from collections import Counter
from typing import Any

import pytest
from anyio import create_task_group, sleep

from leaseq.tasks import Task, TaskHandler, TaskQueue, TaskWorker, current_task

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
time_passes = pytest.mark.time_passes


@pytest.fixture
def done(tasks: TaskQueue) -> list[str | None]:
    """Whose tasks were done, in this order."""
    done: list[str | None] = []

    @tasks.task
    async def work() -> None:
        done.append(current_task().tenant)
        await sleep(0.01)

    return done


async def push(tasks: TaskQueue, numbers: dict[str, int]) -> None:
    work = tasks.functions["work"]
    for tenant, number in numbers.items():
        for lot in range(0, number, 100):
            count = min(100, number - lot)
            await tasks.push_many([work.task() for _ in range(count)], tenant=tenant)


class Noting(TaskHandler):
    """A handler that notes whose tasks its worker was given, in this order."""

    def __init__(self) -> None:
        self.tenants: list[str | None] = []

    def on_task_start(self, task: Task[Any]) -> None:
        self.tenants.append(task.tenant)


@time_passes
@pytest.mark.parametrize("busy", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_a_single_task_is_done_within_the_first_handful(
    tasks: TaskQueue, done: list[str | None], busy: int
) -> None:
    numbers = {"busy": busy, "middle": 100, "small": 1}
    await push(tasks, numbers)
    own = Noting()
    first = TaskWorker(tasks, id="1", tenants=["busy", "small"], steal_from=["middle"])
    second = TaskWorker(tasks, own, id="2", tenants=["middle"], steal_from=["busy", "small"])
    async with create_task_group() as tg:
        await tg.start(first.run)
        await tg.start(second.run)
        await tasks.join()
        tg.cancel_scope.cancel()
    assert "small" in done[:10]  # so many begin at once, in whatever order
    # Nobody but the second did those of "middle", and it did them first, however fast it was.
    assert {*own.tenants[:90]} == {"middle"}
    assert Counter(own.tenants[:110])["middle"] == 100
    assert Counter(done) == numbers
    assert (await tasks.stats()).expired == 0


@time_passes
async def test_tasks_that_only_a_dead_worker_did_are_stolen(
    tasks: TaskQueue, done: list[str | None]
) -> None:
    await push(tasks, {"dead worker's": 50, "own": 50})
    queue = await tasks.open()
    for _ in range(3):  # what the dead worker had in its hands
        await queue.get(tenants=["dead worker's"], consumer="dead")
    worker = TaskWorker(tasks, tenants=["own"], steal_from=["dead worker's"], concurrency=1)
    async with create_task_group() as tg:
        await tg.start(worker.run)
        await tasks.join()
        tg.cancel_scope.cancel()
    assert done[:50] == ["own"] * 50
    assert Counter(done) == {"own": 50, "dead worker's": 50}


async def test_two_workers_of_the_same_users_share_their_tasks(
    tasks: TaskQueue, done: list[str | None]
) -> None:
    await push(tasks, {"a": 30, "b": 30})
    async with create_task_group() as tg:
        for number in range(2):
            worker = TaskWorker(tasks, id=str(number), tenants=["a", "b"], concurrency=2)
            await tg.start(worker.run)
        await tasks.join()
        tg.cancel_scope.cancel()
    for part in (done[:20], done[20:40], done[40:]):
        assert abs(Counter(part)["a"] - 10) <= 2
