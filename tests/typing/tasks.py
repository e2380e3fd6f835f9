"""What a type checker makes of tasks."""

from collections.abc import Coroutine
from typing import Any, assert_type

from leaseq import Priority, connect
from leaseq.tasks import (
    Task,
    TaskFunction,
    TaskHandler,
    TaskQueue,
    TaskWorker,
    WorkerHealth,
    xcom_pull,
    xcom_push,
)

tasks = TaskQueue(connect("memory://"), lease_timeout=30.0)


@tasks.task(priority=Priority.HIGH, result_ttl=60.0)
async def double(number: int) -> int:
    return number * 2


@tasks.task
def half(number: int, *, down: bool = False) -> float:
    return number // 2 if down else number / 2


@tasks.task
async def share(key: str) -> None:
    assert_type(xcom_push(key, 1), None)
    assert_type(await xcom_pull(key), Any)


class Handler(TaskHandler):
    async def process_task(self, task: Task[Any]) -> object:
        return await super().process_task(task)

    async def on_task_start(self, task: Task[Any]) -> None: ...

    def on_task_failure(self, task: Task[Any], error: BaseException, duration: float) -> None: ...


async def calls() -> None:
    assert_type(await double(4), int)
    assert_type(half(4, down=True), float)
    await double("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    half(4, up=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def made_into_tasks() -> None:
    assert_type(double.task(4), Task[int])
    assert_type(half.task(4), Task[float])
    assert_type(await double.task(4)(), int)
    assert_type(await half.task(4)(), float)
    double.task("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(Task.create("user:1", Priority.LOW, {"a": 1}), Task[Any])


async def queued() -> None:
    task = await tasks.push(double.task(4), tenant="user:1")
    assert_type(task, Task[int])
    assert_type(await tasks.result(task), int)
    assert_type(await tasks.result(task.id), Any)
    assert_type(
        await tasks.push_many([double.task(number) for number in range(3)]), list[Task[int]]
    )
    assert_type(await tasks.pop(), Task[Any] | None)
    assert_type(await tasks.delete(task), bool)


def decorated() -> None:
    whole: TaskFunction[[int], Coroutine[Any, Any, int], int] = double
    assert_type(whole.name, str)


def worked(worker: TaskWorker) -> None:
    assert_type(worker.health(), WorkerHealth)
    TaskWorker(tasks, Handler(), tenants=["user:1"], steal_from=["user:2"], concurrency=3)
