"""The registry: functions that are tasks, and the public names of what is made of them."""

import re
from typing import Any

import pytest

from leaseq.tasks import Task, TaskFunction, TaskHandler, TaskQueue, TaskWorker


@pytest.fixture
def tasks() -> TaskQueue:
    """No broker: what is tested here needs none."""
    return TaskQueue()


def test_a_name_is_taken_once(tasks: TaskQueue) -> None:
    def nothing() -> None: ...

    tasks.task(nothing)
    with pytest.raises(ValueError, match=r"there is a task 'nothing' already, .*with name="):
        tasks.task(nothing)
    tasks.task(name="other")(nothing)
    assert list(tasks.functions) == ["nothing", "other"]


def test_two_queues_know_their_own_functions() -> None:
    tasks, others = TaskQueue(), TaskQueue()

    @tasks.task
    def nothing() -> None: ...

    assert "nothing" in tasks.functions
    assert not others.functions


def test_what_is_not_a_function_cannot_be_registered(tasks: TaskQueue) -> None:
    class Nameless:
        def __call__(self) -> None: ...

    with pytest.raises(TypeError, match=r"a task is a function, not 'nothing': write @tasks.task"):
        tasks.task("nothing")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="has no name of its own"):
        tasks.task(Nameless())
    with pytest.raises(TypeError, match="task 'numbers' cannot be a generator"):

        @tasks.task
        def numbers() -> Any:
            yield 1


@pytest.mark.parametrize("option", ["lease_timeout", "ttl", "result_ttl"])
def test_a_time_that_cannot_be_is_refused_by_the_decorator(tasks: TaskQueue, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be more than 0 seconds.* not 0"):
        tasks.task(**{option: 0})  # type: ignore[call-overload]


def test_what_is_no_name_or_priority_is_refused_by_the_decorator(tasks: TaskQueue) -> None:
    with pytest.raises(TypeError, match="priority must be a Priority or another int, not 'high'"):
        tasks.task(priority="high")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a task's name is a string, not 5"):
        tasks.task(name=5)(print)  # type: ignore[call-overload]


def test_retries_cannot_be_negative(tasks: TaskQueue) -> None:
    with pytest.raises(ValueError, match="max_retries must be 0 or more, not -1"):
        tasks.task(max_retries=-1)
    with pytest.raises(ValueError, match="max_retries must be 0 or more, not -1"):
        TaskQueue(max_retries=-1)
    with pytest.raises(ValueError, match="max_retries must be 0 or more, not -1"):
        Task.create("user:1", max_retries=-1)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_retries", 2.5, "max_retries must be a whole number of 0 or more, not 2.5"),
        ("result_ttl", "60", "result_ttl must be a number of seconds, or None for ever, not '60'"),
        ("xcom_key", 5, "xcom_key must be a string or None, not 5"),
        (
            "priorty",
            6,
            "@tasks.task() has no option 'priorty': it has name, priority, max_retries, "
            "lease_timeout, ttl, result_ttl, xcom_key",
        ),
    ],
)
def test_an_option_of_a_function_with_the_wrong_type_is_refused(
    tasks: TaskQueue, option: str, value: Any, message: str
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(TypeError, match=re.escape(message)):
        tasks.task(**options)


@pytest.mark.parametrize("public", [Task, TaskFunction, TaskHandler, TaskQueue, TaskWorker])
def test_public_objects_have_the_documented_names_alone(public: type) -> None:
    documented = {
        Task: {"create", *Task.__struct_fields__},
        TaskFunction: {"task"},
        TaskHandler: {
            "process_task",
            "on_task_start",
            "on_task_success",
            "on_task_failure",
            "on_task_cancelled",
            "on_task_timeout",
        },
        TaskQueue: {
            *("task", "functions", "bind", "bound", "open", "push", "push_many", "pop", "get"),
            *("delete", "cancel", "state", "result", "stats", "shutdown", "join"),
            *("name", "max_retries", "xcom_ttl", "value_limit", "unknown_for", "version"),
            *("schedule", "scheduled", "schedules", "unschedule", "run_now"),
            *("pause_schedule", "resume_schedule"),
        },
        TaskWorker: {"from_config", "run", "stop", "health"},
    }
    assert {name for name in dir(public) if not name.startswith("_")} == documented[public]


def test_instances_have_no_more_public_names_than_documented(tasks: TaskQueue) -> None:
    @tasks.task
    def nothing() -> None: ...

    worker = TaskWorker(tasks)
    assert {name for name in vars(worker) if not name.startswith("_")} == {"id", "concurrency"}
    assert {name for name in vars(nothing) if not name.startswith("_")} == {"name"}
    assert {name for name in vars(tasks) if not name.startswith("_")} == set()
