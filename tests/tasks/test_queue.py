"""Queues of tasks: pushing, taking by hand, results, and where they are."""

import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import Event, create_task_group, sleep, sleep_forever
from anyio.lowlevel import checkpoint

from leaseq import (
    Broker,
    LeaseCancelledError,
    LeasedKeyQueue,
    Priority,
    Reject,
    Tenant,
    TransactionError,
    connect,
)
from leaseq.tasks import (
    Task,
    TaskCancelledError,
    TaskDataError,
    TaskFailedError,
    TaskQueue,
)
from leaseq.tasks._results import result_name, value_kept
from leaseq.testing import Operation, cancel_sweep

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
time_passes = pytest.mark.time_passes

Any_ = Callable[..., Any]


def register(tasks: TaskQueue) -> Any:
    @tasks.task(result_ttl=60.0)
    async def double(number: int) -> int:
        return number * 2

    return double


# Pushing


async def test_a_pushed_task_can_be_looked_at(tasks: TaskQueue) -> None:
    double = register(tasks)
    pushed = await tasks.push(double.task(4), tenant="user:1", priority=Priority.CRITICAL)
    assert (pushed.tenant, pushed.priority, pushed.workflow) == ("user:1", 6, pushed.id)
    assert await tasks.get(pushed.id) == pushed
    assert await tasks.get("nobody") is None


async def test_a_task_that_is_pushed_again_is_still_one(tasks: TaskQueue) -> None:
    task = register(tasks).task(4)
    await tasks.push(task)
    await tasks.push(task)
    assert (await tasks.stats()).ready == 1


@time_passes
async def test_a_task_can_be_pushed_for_later(tasks: TaskQueue, advance: Any_) -> None:
    await tasks.push(register(tasks).task(4), delay=10.0)
    assert await tasks.pop() is None
    await advance(10.1)
    assert await tasks.pop() is not None


@time_passes
async def test_a_task_that_is_not_started_in_its_time_is_a_dead_letter(
    tasks: TaskQueue, letter: Any_, advance: Any_
) -> None:
    @tasks.task(ttl=5.0)
    async def nothing() -> None: ...

    await tasks.push(nothing.task(), ttl=10.0)
    await tasks.push(nothing.task())
    await advance(5.1)
    assert (await letter()).reason == "expired"
    await advance(5.1)
    assert (await letter()).reason == "expired"


async def test_tasks_are_pushed_in_one_step(tasks: TaskQueue) -> None:
    double = register(tasks)
    alike = await tasks.push_many([double.task(1), double.task(2)], tenant="user:1")
    mixed = await tasks.push_many(
        [Task.create("user:2", payload=3), Task.create("user:3", Priority.HIGH, 4)]
    )
    assert await tasks.push_many([]) == []
    assert (await tasks.stats()).ready == 4
    for task in (*alike, *mixed):
        assert await tasks.get(task.id) == task


async def test_tasks_that_do_not_all_fit_are_not_pushed() -> None:
    tasks = TaskQueue(LeasedKeyQueue(max_size=2))
    tasks_of_one = [Task.create("user:1", payload=number) for number in range(3)]
    with pytest.raises(ValueError, match="3 new items never fit"):
        await tasks.push_many(tasks_of_one)
    assert (await tasks.stats()).ready == 0


async def test_a_task_of_another_queue_is_refused(tasks: TaskQueue) -> None:
    others = TaskQueue()
    with pytest.raises(ValueError, match="is not of a function of <TaskQueue 'tasks'"):
        await tasks.push(register(others).task(1))
    register(tasks)
    with pytest.raises(ValueError, match="push it to the TaskQueue that its function was"):
        await tasks.push_many([register(TaskQueue()).task(1)])


async def test_what_is_not_a_task_is_refused(tasks: TaskQueue) -> None:
    task = Task.create(payload=1)
    with pytest.raises(TypeError, match="tenant must be a string or None, not 5"):
        await tasks.push(task, tenant=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="priority must be a Priority or another int, not 'high'"):
        await tasks.push(task, priority="high")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a task is made by function.task\(...\).*, not 5"):
        await tasks.push(5)  # type: ignore[arg-type]


# Taking by hand


async def test_a_task_is_popped_and_then_deleted(tasks: TaskQueue) -> None:
    await tasks.push(Task.create("user:1", Priority.HIGH, {"action": "process_data"}))
    task = await tasks.pop()
    assert task is not None
    assert (task.tenant, task.payload) == ("user:1", {"action": "process_data"})
    assert (await tasks.stats()).leased == 1
    assert await tasks.delete(task)
    assert not await tasks.delete(task.id)
    assert (await tasks.stats()).acked == 1


async def test_a_task_that_was_popped_and_then_cancelled_is_gone_once_it_is_deleted(
    tasks: TaskQueue,
) -> None:
    pushed = await tasks.push(Task.create(payload=1))
    assert await tasks.pop() == pushed
    queue = await tasks.open()
    assert await queue.cancel(pushed.id)
    assert await tasks.pop() is None
    assert await queue.state(pushed.id) == "leased"
    with pytest.raises(LeaseCancelledError):
        await tasks.delete(pushed)
    assert await queue.state(pushed.id) == "absent"
    assert not await tasks.delete(pushed)


@time_passes
async def test_a_task_that_was_popped_and_not_deleted_comes_back(
    tasks: TaskQueue, advance: Any_
) -> None:
    pushed = await tasks.push(Task.create(payload=1))
    assert await tasks.pop() == pushed
    await advance(30.1)
    assert await tasks.pop(timeout=1.0) == pushed
    assert await tasks.delete(pushed.id)


async def test_a_waiting_task_is_deleted_and_one_in_other_hands_is_not(tasks: TaskQueue) -> None:
    first = await tasks.push(Task.create(payload=1))
    second = await tasks.push(Task.create(payload=2))
    queue = await tasks.open()
    await queue.take(first.id)
    assert await tasks.delete(second)
    assert not await tasks.delete(first)


async def test_tasks_are_popped_for_some_tenants(tasks: TaskQueue) -> None:
    for tenant in ("user:1", "user:2"):
        await tasks.push(Task.create(tenant, payload=tenant))
    first = await tasks.pop(tenants=["user:2"])
    stolen = await tasks.pop(tenants=["user:2"], steal_from=["user:1"])
    assert first is not None
    assert stolen is not None
    assert (first.payload, stolen.payload) == ("user:2", "user:1")


async def test_what_is_popped_and_is_no_task_is_a_dead_letter(
    tasks: TaskQueue, letter: Any_
) -> None:
    queue = await tasks.open()
    await queue.put("strange", [1, 2])
    assert await tasks.pop() is None
    assert "is not a task: Expected `object`, got `array`" in (await letter()).reason


async def test_counts_are_told_for_each_tenant(tasks: TaskQueue) -> None:
    await tasks.push(Task.create("user:1", payload=1))
    statistics = await tasks.stats(tenants=True)
    assert statistics.tenants is not None
    assert statistics.tenants["user:1"].ready == 1


# Results


@time_passes
async def test_a_result_is_waited_for_and_typed(tasks: TaskQueue, working: Any_) -> None:
    @tasks.task(result_ttl=60.0)
    async def collect(number: int) -> set[int]:
        await sleep(5.0)
        return {number}

    async with working(tasks):
        task = await tasks.push(collect.task(4))
        assert await tasks.result(task) == {4}
        assert await tasks.result(task.id) == [4]


@time_passes
async def test_everybody_who_waits_for_a_result_gets_it(tasks: TaskQueue, working: Any_) -> None:
    task = await tasks.push(register(tasks).task(4), delay=3.0)
    results: list[int] = []

    async def wait() -> None:
        results.append(await tasks.result(task))

    async with working(tasks), create_task_group() as tg:
        for _ in range(5):
            tg.start_soon(wait)
    assert results == [8] * 5
    assert await tasks.result(task, timeout=0) == 8


@time_passes
async def test_a_result_is_kept_for_its_time_and_no_longer(
    tasks: TaskQueue, do_all: Any_, advance: Any_
) -> None:
    task = await tasks.push(register(tasks).task(4))
    await do_all(tasks)
    await advance(59.0)
    assert await tasks.result(task) == 8
    await advance(1.1)
    with pytest.raises(TimeoutError, match=f"no result of task '{task.id}' within 0 s"):
        await tasks.result(task, timeout=0)


@time_passes
async def test_a_result_that_was_waited_for_is_kept_no_longer_either(
    tasks: TaskQueue, working: Any_, broker: Broker, advance: Any_
) -> None:
    async with working(tasks):
        task = await tasks.push(register(tasks).task(4), delay=1.0)
        assert await tasks.result(task) == 8
    await advance(60.1)
    with pytest.raises(TimeoutError):
        await tasks.result(task, timeout=1.0)
    left = await broker.queue("tasks.results")
    assert (await left.qsize(), await left.inflight_size()) == (0, 0)


@time_passes
async def test_a_result_that_does_not_come_in_time_may_come_later(
    tasks: TaskQueue, working: Any_
) -> None:
    task = await tasks.push(register(tasks).task(4), delay=5.0)
    async with working(tasks):
        with pytest.raises(TimeoutError, match=r"within 2 s"):
            await tasks.result(task, timeout=2)
        assert await tasks.result(task, timeout=4.0) == 8


async def test_who_asks_for_the_result_of_a_dead_task_is_told_why(
    tasks: TaskQueue, do_all: Any_
) -> None:
    @tasks.task(result_ttl=60.0, max_retries=0)
    async def fail() -> int:
        raise KeyError("nothing there")

    task = await tasks.push(fail.task())
    await do_all(tasks)
    with pytest.raises(
        TaskFailedError, match=r"was given up: failed at delivery 1.*KeyError"
    ) as it:
        await tasks.result(task)
    assert it.value.task_id == task.id
    assert "Traceback" in it.value.reason


async def test_a_result_that_is_not_kept_cannot_be_asked_for(tasks: TaskQueue) -> None:
    @tasks.task
    async def nothing() -> None: ...

    task = await tasks.push(nothing.task())
    with pytest.raises(ValueError, match="does not keep its result: decorate its function with"):
        await tasks.result(task)


async def test_a_wait_that_cannot_be_is_refused_at_once(tasks: TaskQueue) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds, not nan"):
        await tasks.result("nobody", timeout=math.nan)


async def test_a_negative_timeout_asks_once(tasks: TaskQueue) -> None:
    with pytest.raises(TimeoutError, match="no result of task 'nobody'"):
        await tasks.result("nobody", timeout=-1)
    assert await tasks.pop(-1) is None


@pytest.mark.parametrize("call", ["result", "delete", "get"])
async def test_what_is_no_task_is_refused(tasks: TaskQueue, call: str) -> None:
    with pytest.raises(TypeError, match=rf"^{call}\(\) takes a task or its id, not 5"):
        await getattr(tasks, call)(5)


@time_passes
async def test_a_result_can_be_kept_for_ever(tasks: TaskQueue, do_all: Any_, advance: Any_) -> None:
    @tasks.task(result_ttl=math.inf)
    async def nothing() -> None: ...

    task = await tasks.push(nothing.task())
    await do_all(tasks)
    await advance(1e6)
    await tasks.result(task, timeout=0)


async def test_a_result_of_nothing_is_a_result(tasks: TaskQueue, do_all: Any_) -> None:
    @tasks.task(result_ttl=60.0)
    async def nothing() -> None: ...

    task = await tasks.push(nothing.task())
    await do_all(tasks)
    result: object = await tasks.result(task)
    assert result is None


@pytest.mark.slow_on("valkey")
async def test_a_cancelled_wait_leaves_the_result_to_others(url: str, native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        async with create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            tasks = TaskQueue(broker)
            double = register(tasks)
            task = await tasks.push(double.task(4))
            queue = await tasks.open()
            results: list[int] = []

            async def wait() -> None:
                results.append(await tasks.result(task))

            async def produce() -> None:
                for _ in range(8):
                    await checkpoint()
                await queue._keep([value_kept(result_name(task.id), b"8", 60.0)])

            async with create_task_group() as waiting:
                waiting.start_soon(wait)
                waiting.start_soon(produce)
                yield wait
                waiting.start_soon(wait)
            assert results in ([8, 8], [8, 8, 8])
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario, native=native) > 3


# Where the tasks are


async def test_a_queue_alone_does_tasks_but_keeps_nothing(do_all: Any_) -> None:
    done: list[int] = []
    tasks = TaskQueue(LeasedKeyQueue(name="alone"))

    @tasks.task
    async def note(number: int) -> None:
        done.append(number)

    task = await tasks.push(note.task(4))
    await do_all(tasks)
    assert done == [4]
    with pytest.raises(ValueError, match=f"the result of '{task.id}' needs a broker, and there is"):
        await tasks.result(task.id)
    with pytest.raises(ValueError, match="keeping the result of task 'double' needs a broker"):
        register(tasks)
    with pytest.raises(ValueError, match="with different tenants or priorities in one step needs"):
        await tasks.push_many([Task.create("user:1"), Task.create("user:2")])


async def test_a_queue_of_tasks_is_bound_for_a_block(broker: Broker) -> None:
    tasks = TaskQueue()
    double = register(tasks)
    assert not tasks.bound
    with pytest.raises(RuntimeError, match="has no broker yet: write TaskQueue"):
        await tasks.push(double.task(1))
    with tasks.bind(broker):
        assert tasks.bound
        await tasks.push(double.task(1))
        with pytest.raises(RuntimeError, match=r"is bound to .* already: bind it once"):
            tasks.bind(broker).__enter__()
    assert not tasks.bound
    with pytest.raises(ValueError, match="needs a broker"), tasks.bind(LeasedKeyQueue()):
        pass
    assert not tasks.bound


async def test_options_are_those_of_the_queue_that_is_made(broker: Broker) -> None:
    tasks = TaskQueue(broker, name="mail", tenants={"user:1": Tenant(max_in_flight=1)})
    for number in range(2):
        await tasks.push(Task.create("user:1", payload=number))
    assert await tasks.pop() is not None
    assert await tasks.pop() is None
    assert {info.name for info in await broker.list_queues()} == {"mail", "mail.dead"}


async def test_options_that_cannot_be_are_refused_at_once(broker: Broker) -> None:
    with pytest.raises(TypeError, match="tasks go into a broker or a LeasedQueue, not 'str'"):
        TaskQueue("memory://")  # type: ignore[arg-type]
    every = "name, max_retries, xcom_ttl, value_limit, unknown_for, version"
    with pytest.raises(TypeError, match=rf"TaskQueue\(\) has no option 'colour': it has {every}"):
        TaskQueue(colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"lease_timeout: .* exists already"):
        TaskQueue(LeasedKeyQueue(), lease_timeout=1.0)
    with pytest.raises(ValueError, match="lease_timeout must be more than 0 seconds"):
        TaskQueue(broker, lease_timeout=0)
    with pytest.raises(ValueError, match="xcom_ttl must be more than 0 seconds"):
        TaskQueue(broker, xcom_ttl=-1)
    with pytest.raises(ValueError, match="value_limit must be 1 byte or more, not 0"):
        TaskQueue(broker, value_limit=0)
    with pytest.raises(ValueError, match="invalid queue name"):
        TaskQueue(broker, name="a b")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("name", 5, "name must be a string, not 5"),
        ("max_retries", 2.5, "max_retries must be a whole number of 0 or more, not 2.5"),
        ("xcom_ttl", "5", "xcom_ttl must be a number of seconds, or None for ever, not '5'"),
        ("value_limit", 1e6, "value_limit must be a whole number of 1 byte or more, not 1000000.0"),
        (
            "lease_timeout",
            "60",
            "lease_timeout must be a number of seconds, or None for ever, not '60'",
        ),
        ("backoff", 0.5, "backoff must be a Backoff or None, not 0.5"),
        (
            "tenants",
            ["user:1"],
            "tenants must be a mapping of names to Tenants, or None, not ['user:1']",
        ),
        ("tenants", {"user:1": 2.0}, "tenant 'user:1' must be a Tenant, not 2.0"),
        ("tenants", {1: Tenant()}, "a tenant's name must be a string, not 1"),
    ],
)
async def test_an_option_of_a_task_queue_with_the_wrong_type_is_refused(
    option: str, value: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        TaskQueue(**{option: value})


async def test_pushing_ends_with_a_shutdown(tasks: TaskQueue, do_all: Any_) -> None:
    await tasks.push(Task.create(payload=1))
    await tasks.shutdown()
    with pytest.raises(Exception, match=r"shut down|nothing more"):
        await tasks.push(Task.create(payload=2))


def test_what_does_not_fit_is_a_kind_of_value_error() -> None:
    assert issubclass(TaskDataError, ValueError)
    assert not issubclass(TransactionError, ValueError)


# Cancelling, and states


async def test_the_states_of_a_task(tasks: TaskQueue, working: Any_) -> None:
    started, go_on = Event(), Event()

    @tasks.task(result_ttl=600)
    async def wait(fails: bool) -> int:
        started.set()
        await go_on.wait()
        if fails:
            raise Reject("no good")
        return 1

    assert await tasks.state("no such task") == "unknown"
    later = await tasks.push(wait.task(fails=False), delay=60)
    assert await tasks.state(later) == "delayed"
    task = await tasks.push(wait.task(fails=False))
    assert await tasks.state(task) == "ready"
    async with working(tasks):
        await started.wait()
        assert await tasks.state(task.id) == "running"
        go_on.set()
        await tasks.result(task)
        bad = await tasks.push(wait.task(fails=True))
        with pytest.raises(TaskFailedError):
            await tasks.result(bad)
    assert [await tasks.state(each) for each in (task, bad)] == ["done", "failed"]


async def test_a_task_that_keeps_no_result_is_unknown_when_it_is_done(
    tasks: TaskQueue, working: Any_
) -> None:
    @tasks.task
    async def note() -> None: ...

    task = await tasks.push(note.task())
    async with working(tasks):
        await tasks.join()
    assert await tasks.state(task) == "unknown"


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_waiting_task_is_cancelled(tasks: TaskQueue, by_id: bool) -> None:
    @tasks.task(result_ttl=600)
    async def note() -> None: ...

    task = await tasks.push(note.task())
    assert await tasks.cancel(task.id if by_id else task, reason="not needed") is True
    assert await tasks.cancel(task) is False
    assert await tasks.state(task) == "cancelled"
    with pytest.raises(TaskCancelledError, match=r"was cancelled: not needed$") as caught:
        await tasks.result(task)
    assert (caught.value.task_id, caught.value.reason) == (task.id, "not needed")
    assert await tasks.pop() is None


async def test_a_running_task_is_cancelled_and_not_tried_again(
    tasks: TaskQueue, working: Any_
) -> None:
    started = Event()
    runs: list[str] = []

    @tasks.task(result_ttl=600, max_retries=3)
    async def hang() -> None:
        runs.append("began")
        started.set()
        try:
            await sleep_forever()
        finally:
            runs.append("cleaned up")

    async with working(tasks):
        task = await tasks.push(hang.task())
        await started.wait()
        assert await tasks.cancel(task)
        with pytest.raises(TaskCancelledError, match=r"was cancelled$"):
            await tasks.result(task)
        await tasks.join()
    assert runs == ["began", "cleaned up"]
    assert await tasks.state(task) == "cancelled"
    stats = await tasks.stats()
    assert (stats.cancelled, stats.dead, stats.leased) == (1, 0, 0)


async def test_a_done_task_is_not_cancelled_and_keeps_its_result(
    tasks: TaskQueue, working: Any_
) -> None:
    @tasks.task(result_ttl=600)
    async def double(x: int) -> int:
        return 2 * x

    task = await tasks.push(double.task(4))
    async with working(tasks):
        assert await tasks.result(task) == 8
        await tasks.join()
    assert await tasks.cancel(task) is False
    assert await tasks.result(task) == 8


async def test_a_task_that_is_unknown_here_can_be_cancelled(tasks: TaskQueue) -> None:
    queue = await tasks.open()
    await queue.put("strange", {"name": "no such function"})
    assert await tasks.cancel("strange") is True
    assert await tasks.state("strange") == "unknown"


async def test_what_is_no_task_cannot_be_cancelled(tasks: TaskQueue) -> None:
    with pytest.raises(TypeError, match="cancel"):
        await tasks.cancel(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reason"):
        await tasks.cancel("task", reason=5)  # type: ignore[arg-type]
