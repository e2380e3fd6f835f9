"""XCom: what tasks share with others of their workflow."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from anyio import sleep

from leaseq import Broker, LeasedKeyQueue
from leaseq.tasks import (
    TaskFailedError,
    TaskQueue,
    ValueTooLargeError,
    current_task,
    xcom_pull,
    xcom_pull_sync,
    xcom_push,
)

pytestmark = pytest.mark.anyio
virtual_time = pytest.mark.virtual_time
time_passes = pytest.mark.time_passes

Any_ = Callable[..., Any]


@pytest.fixture
def seen(tasks: TaskQueue) -> list[object]:
    """What the task ``look`` has found under a key."""
    seen: list[object] = []

    @tasks.task
    async def look(key: str, timeout: float = 0.0) -> None:
        seen.append(await xcom_pull(key, default="nothing", timeout=timeout))

    return seen


def look(tasks: TaskQueue, *args: Any) -> Any:
    return tasks.functions["look"].task(*args)


@virtual_time
async def test_what_a_task_pushed_is_seen_by_another_of_its_workflow(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task
    async def give() -> None:
        xcom_push("order", {"lines": (1, 2)})

    first = await tasks.push(give.task())
    await do_all(tasks)
    await tasks.push(look(tasks, "order"), workflow=first.workflow)
    await tasks.push(look(tasks, "order"))
    await do_all(tasks, concurrency=1)
    assert seen == [{"lines": [1, 2]}, "nothing"]


@virtual_time
async def test_tasks_that_are_pushed_from_inside_are_of_the_same_workflow_and_tenant(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task
    async def give() -> None:
        xcom_push("order", 1)
        child = await tasks.push(look(tasks, "order", 60.0))
        assert (child.workflow, child.tenant) == (current_task().workflow, "user:1")

    await tasks.push(give.task(), tenant="user:1", workflow="w/1")
    await do_all(tasks, tenants=["user:1"])
    assert seen == [1]


@virtual_time
async def test_a_task_that_failed_leaves_nothing_behind(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task(max_retries=0)
    async def fail() -> None:
        xcom_push("order", 1)
        raise ValueError

    task = await tasks.push(fail.task())
    await do_all(tasks)
    await tasks.push(look(tasks, "order"), workflow=task.workflow)
    await do_all(tasks)
    assert seen == ["nothing"]


@virtual_time
async def test_a_task_whose_lease_was_lost_leaves_nothing_behind(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task(max_retries=0)
    async def lose() -> None:
        xcom_push("order", 1)
        queue = await tasks.open()
        await queue.release_all(consumer="worker")

    task = await tasks.push(lose.task())
    await do_all(tasks)
    await tasks.push(look(tasks, "order"), workflow=task.workflow)
    await do_all(tasks)
    assert seen == ["nothing"]


@virtual_time
async def test_a_task_sees_what_it_has_pushed_itself(tasks: TaskQueue, do_all: Any_) -> None:
    @tasks.task(result_ttl=60.0)
    async def give() -> list[int]:
        xcom_push("order", [1])
        xcom_push("order", [2])
        (await xcom_pull("order")).append(3)
        return await xcom_pull("order")  # type: ignore[no-any-return]

    task = await tasks.push(give.task())
    await do_all(tasks)
    assert await tasks.result(task) == [2]


@time_passes
@virtual_time
async def test_a_value_is_kept_for_its_time(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task
    async def give() -> None:
        xcom_push("short", 1, ttl=10.0)
        xcom_push("usual", 2)

    task = await tasks.push(give.task())
    await do_all(tasks)
    for wait in (9.0, 2.0, 3590.0):
        await sleep(wait)
        for key in ("short", "usual"):
            await tasks.push(look(tasks, key), workflow=task.workflow)
        await do_all(tasks, concurrency=1)
    assert seen == [1, 2, "nothing", 2, "nothing", "nothing"]


@virtual_time
async def test_what_a_task_returns_is_pushed_by_itself(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task(xcom_key="data")
    async def extract(source: str) -> dict[str, object]:
        return {"source": source, "records": 1000}

    task = await tasks.push(extract.task("file"))
    await do_all(tasks)
    await tasks.push(look(tasks, "data"), workflow=task.workflow)
    await do_all(tasks)
    assert seen == [{"source": "file", "records": 1000}]


@time_passes
@virtual_time
async def test_a_later_push_replaces_an_earlier_one_and_wakes_who_waits(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task
    async def give(number: int) -> None:
        xcom_push("order", number, ttl=5.0)

    for delay, number in ((2.0, 1), (4.0, 2), (20.0, 3)):
        await tasks.push(give.task(number), workflow="w", delay=delay)
    for delay in (1.0, 3.0, 5.0, 15.0):
        await tasks.push(look(tasks, "order", 30.0), workflow="w", delay=delay)
    await do_all(tasks)
    assert seen == [1, 1, 2, 3]


@time_passes
@virtual_time
async def test_a_value_that_does_not_come_is_an_error_that_says_what_to_do(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    @tasks.task(max_retries=0)
    async def want(timeout: float) -> None:
        await xcom_pull("order", timeout=timeout)

    await tasks.push(want.task(0.0), workflow="w")
    await do_all(tasks)
    assert (
        "no value was pushed under 'order' in workflow 'w': a value is" in (await letter()).reason
    )
    await tasks.push(want.task(3.0), workflow="w")
    await do_all(tasks)
    assert "in workflow 'w' within 3.0 s" in (await letter()).reason


@virtual_time
async def test_a_value_that_is_too_large_is_refused_at_once(
    broker: Broker, do_all: Any_, letter: Any_
) -> None:
    tasks = TaskQueue(broker, value_limit=10)
    caught: list[str] = []

    @tasks.task
    async def give() -> None:
        with pytest.raises(ValueTooLargeError) as refused:
            xcom_push("order", "x" * 9)
        caught.append(str(refused.value))
        xcom_push("order", "x" * 8)

    @tasks.task(result_ttl=60.0)
    async def overdo() -> str:
        return "x" * 20

    await tasks.push(give.task())
    await do_all(tasks)
    assert caught == [
        "XCom value 'order' has 11 bytes as JSON, and value_limit is 10: store it elsewhere, and "
        "keep a reference to it"
    ]
    await tasks.push(overdo.task())
    await do_all(tasks)
    assert "the result of task 'overdo' has 22 bytes as JSON" in (await letter()).reason


async def test_outside_of_a_task_there_is_no_xcom(tasks: TaskQueue) -> None:
    @tasks.task
    async def give() -> None:
        xcom_push("order", 1)

    with pytest.raises(RuntimeError, match=r"xcom_push\(\) works only inside of a task.*\.task\("):
        await give()
    with pytest.raises(RuntimeError, match=r"xcom_pull\(\) works only inside of a task"):
        await xcom_pull("order")
    with pytest.raises(RuntimeError, match=r"xcom_pull_sync\(\) works only inside of a task"):
        xcom_pull_sync("order")


async def test_a_task_that_runs_here_shares_what_it_has_pushed(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task(xcom_key="result")
    async def give() -> int:
        xcom_push("order", 1)
        await look(tasks, "order")()
        return 2

    task = give.task()
    assert await task() == 2
    for key in ("order", "result"):
        await tasks.push(look(tasks, key), workflow=task.id)
    await do_all(tasks, concurrency=1)
    assert seen == ["nothing", 1, 2]


async def test_without_a_broker_there_is_no_xcom() -> None:
    tasks = TaskQueue(LeasedKeyQueue(name="alone"))

    @tasks.task
    async def give() -> None:
        xcom_push("order", 1)

    @tasks.task
    async def want() -> None:
        await xcom_pull("order")

    for function in (give, want):
        with pytest.raises(
            ValueError, match="XCom value 'order' needs a broker, and there is only"
        ):
            await function.task()()


# In threads


async def test_a_function_in_a_thread_pushes_and_pulls(
    tasks: TaskQueue, seen: list[object], do_all: Any_
) -> None:
    @tasks.task
    def give() -> None:
        xcom_push("order", 1)

    @tasks.task
    def want() -> None:
        seen.append(xcom_pull_sync("order", timeout=5.0))
        seen.append(xcom_pull_sync("nothing", default=current_task().name))

    task = await tasks.push(give.task())
    await tasks.push(want.task(), workflow=task.workflow)
    await do_all(tasks)
    assert seen == [1, "want"]


async def test_the_form_for_threads_is_refused_elsewhere(tasks: TaskQueue) -> None:
    @tasks.task
    async def want() -> None:
        xcom_pull_sync("order")

    with pytest.raises(RuntimeError, match=r"in an `async def` write `await xcom_pull"):
        await want.task()()


async def test_a_decorated_partial_is_a_task(tasks: TaskQueue, do_all: Any_) -> None:
    done: list[int] = []

    def note(number: int, times: int) -> None:
        done.extend([number] * times)

    twice = tasks.task(name="twice")(functools.partial(note, times=2))
    await tasks.push(twice.task(4))
    await do_all(tasks)
    assert done == [4, 4]


@virtual_time
async def test_a_key_of_any_length_is_pushed_or_refused(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    @tasks.task(result_ttl=60.0)
    async def give(key: str) -> object:
        xcom_push(key, 1)
        return await xcom_pull(key)

    short = await tasks.push(give.task("ö/\0" * 100))
    long = await tasks.push(give.task("x" * 1000))
    await do_all(tasks)
    assert await tasks.result(short) == 1
    with pytest.raises(TaskFailedError, match="too long: the two may have 994 bytes together"):
        await tasks.result(long)
    assert "too long" in (await letter()).reason
    with pytest.raises((TimeoutError, ValueError)):
        await tasks.result("x" * 100_000, timeout=0)
