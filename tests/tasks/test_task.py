"""Tasks: what they carry, and what they do when they are called."""

import dataclasses
from datetime import date
from typing import Any

import msgspec
import pytest

from leaseq import LeasedKeyQueue, Priority
from leaseq.tasks import Task, TaskDataError, TaskQueue, current_task
from leaseq.tasks._task import decode_task, encode_task

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Order:
    number: int
    lines: list[str]


class Point(msgspec.Struct):
    x: int


@pytest.fixture
def tasks() -> TaskQueue:
    """No broker: what is tested here needs none."""
    return TaskQueue()


def test_a_decorated_function_is_still_called_as_itself(tasks: TaskQueue) -> None:
    @tasks.task
    def double(number: int) -> int:
        """Twice as much."""
        return number * 2

    assert double(4) == 8
    assert double.__doc__ == "Twice as much."
    assert double.name == "double"
    assert repr(double) == "<TaskFunction 'double'>"


async def test_a_decorated_async_function_is_still_called_as_itself(tasks: TaskQueue) -> None:
    @tasks.task(priority=Priority.HIGH)
    async def double(number: int) -> int:
        return number * 2

    assert await double(number=4) == 8


def test_a_task_has_what_its_function_was_decorated_with(tasks: TaskQueue) -> None:
    @tasks.task(name="doubling", priority=Priority.HIGH, max_retries=7)
    def double(number: int) -> int:
        return number * 2

    task = double.task(4)
    assert (task.name, task.arguments, task.priority) == ("doubling", {"number": 4}, Priority.HIGH)
    assert (task.max_retries, task.tenant, task.workflow) == (7, None, None)
    assert task.function is double
    assert repr(task) == f"<Task {task.id} name='doubling' tenant=None priority=4>"


def test_a_task_takes_its_retries_from_the_queue_where_nothing_else_says_so() -> None:
    tasks = TaskQueue(max_retries=9)

    @tasks.task
    def nothing() -> None: ...

    assert nothing.task().max_retries == 9


def test_two_tasks_of_one_call_are_two(tasks: TaskQueue) -> None:
    @tasks.task
    def nothing() -> None: ...

    first, second = nothing.task(), nothing.task()
    assert first != second
    assert len({first, second}) == 2
    assert first != "something else"


def test_a_task_is_equal_to_what_comes_back_of_it(tasks: TaskQueue) -> None:
    @tasks.task
    def nothing() -> None: ...

    task = nothing.task()
    back = decode_task(task.id, encode_task(task), tasks.functions)
    assert task == back
    assert (task != back) is False
    assert hash(task) == hash(back)
    assert task != decode_task("other", encode_task(task), tasks.functions)
    assert task != task.id


def test_a_task_does_not_change(tasks: TaskQueue) -> None:
    @tasks.task
    def nothing() -> None: ...

    with pytest.raises(AttributeError):
        nothing.task().priority = 6  # type: ignore[misc]


def test_a_task_is_a_snapshot_of_its_arguments(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: Order) -> None: ...

    order = Order(1, ["pen"])
    task = pack.task(order)
    order.lines.append("ink")
    assert task.arguments == {"order": {"number": 1, "lines": ["pen"]}}


def test_a_task_goes_over_the_wire_and_comes_back_as_it_was(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: Order, *, when: date | None = None) -> None: ...

    task = pack.task(Order(1, []), when=date(2024, 2, 29))
    wire = msgspec.json.decode(msgspec.json.encode(encode_task(task)))
    assert wire == encode_task(task)
    assert decode_task(task.id, wire, tasks.functions) == task


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (None, "Expected `object`, got `null`"),
        ({"name": "nothing"}, "missing required field `made_at`"),
        ({"made_at": 1.0, "priority": "high"}, "Expected `int`, got `str` - at `$.priority`"),
    ],
)
def test_what_is_not_a_task_is_refused_with_the_path(wire: object, reason: str) -> None:
    with pytest.raises(TaskDataError, match=r"the value of key 'key' is not a task: ") as caught:
        decode_task("key", wire, {})
    assert reason in str(caught.value)


# Payloads


def test_a_task_without_a_function_has_a_payload() -> None:
    task = Task.create("user:1", Priority.HIGH, {"action": "process", "ids": (1, 2)})
    assert (task.tenant, task.priority) == ("user:1", 4)
    assert task.payload == {"action": "process", "ids": [1, 2]}
    assert task.name is None
    assert repr(task) == f"<Task {task.id} payload={task.payload!r} tenant='user:1' priority=4>"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": "high"}, "priority must be a Priority or another int, not 'high'"),
        ({"tenant": 5}, "tenant must be a string or None, not 5"),
    ],
)
def test_what_a_task_cannot_have_is_refused_at_once(options: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        Task.create(**options)


def test_the_text_of_a_task_is_short_whatever_is_in_it() -> None:
    long = "x" * 10_000
    assert len(repr(Task.create(long, payload=[long]))) < 400
    wire = {"made_at": 1.0, "name": long}
    with pytest.raises(TypeError, match="which is not registered") as caught:
        decode_task("id", wire, {}).__call__().send(None)
    assert len(str(caught.value)) < 300


def test_a_payload_that_cannot_be_json_is_refused_at_once() -> None:
    with pytest.raises(TaskDataError, match="the payload cannot be written as JSON"):
        Task.create(payload=object())


# Running here


async def test_a_task_can_be_run_here(tasks: TaskQueue) -> None:
    @tasks.task
    async def double(number: int) -> int:
        return number * 2

    @tasks.task
    def half(number: int) -> float:
        return number / 2

    assert await double.task(4)() == 8
    assert await half.task(4)() == 2


async def test_what_a_function_returns_is_awaited_if_it_can_be(tasks: TaskQueue) -> None:
    async def double(number: int) -> int:
        return number * 2

    def lazily(number: int) -> Any:
        return double(number)

    assert await tasks.task(lazily).task(4)() == 8


async def test_a_task_that_runs_here_is_the_current_one(tasks: TaskQueue) -> None:
    @tasks.task
    async def outer() -> tuple[str, str]:
        inside = inner.task()
        assert await inside() == inside.id
        return current_task().id, inside.id

    @tasks.task
    def inner() -> str:
        return current_task().id

    task = outer.task()
    assert (await task())[0] == task.id
    with pytest.raises(RuntimeError, match=r"current_task\(\) works only inside of a task"):
        current_task()


async def test_a_task_without_a_function_cannot_be_run_here(tasks: TaskQueue) -> None:
    with pytest.raises(TypeError, match="cannot be called: it is a payload"):
        await Task.create(payload=1)()
    unknown = decode_task("key", {"made_at": 1.0, "name": "gone"}, tasks.functions)
    with pytest.raises(TypeError, match="cannot be called: it is 'gone', which is not registered"):
        await unknown()


async def test_an_error_of_a_task_that_runs_here_comes_out(tasks: TaskQueue) -> None:
    @tasks.task
    async def fail() -> None:
        raise KeyError("nothing")

    with pytest.raises(KeyError):
        await fail.task()()


def test_a_queue_says_what_it_is() -> None:
    assert repr(TaskQueue(LeasedKeyQueue(), name="mail")) == "<TaskQueue 'mail': 0 functions>"
