"""Arguments: bound, written as JSON, and read again by the annotations."""

import dataclasses
from datetime import date
from typing import Any

import msgspec
import pytest

from leaseq.tasks import Task, TaskDataError, TaskQueue


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


def call_of(tasks: TaskQueue, task: Task[Any]) -> Any:
    assert task.function is not None
    args, kwargs = task.function._definition.signature.unbind(task.arguments)
    return task.function(*args, **kwargs)


def test_arguments_come_back_as_the_annotations_say(tasks: TaskQueue) -> None:
    @tasks.task
    def collect(order: Order, point: Point, days: set[date], prices: dict[int, float]) -> object:
        return order, point, days, prices

    given = Order(1, ["pen"]), Point(2), {date(2024, 2, 29)}, {3: 4.5}
    assert call_of(tasks, collect.task(*given)) == given


def test_every_kind_of_parameter_takes_its_arguments(tasks: TaskQueue) -> None:
    @tasks.task
    def collect(a: int, /, b: int = 2, *rest: Point, c: int = 3, **others: Point) -> object:
        return a, b, rest, c, others

    assert call_of(tasks, collect.task(1)) == (1, 2, (), 3, {})
    assert call_of(tasks, collect.task(1, c=5)) == (1, 2, (), 5, {})
    full = collect.task(1, 4, Point(5), Point(6), c=7, d=Point(8))
    assert call_of(tasks, full) == (1, 4, (Point(5), Point(6)), 7, {"d": Point(8)})


def test_arguments_without_annotations_come_back_as_json_has_them(tasks: TaskQueue) -> None:
    @tasks.task
    def collect(*things):  # type: ignore[no-untyped-def]
        return things

    assert call_of(tasks, collect.task((1, 2), {3: Point(4)})) == ([1, 2], {"3": {"x": 4}})


def test_a_function_cannot_change_what_its_task_has(tasks: TaskQueue) -> None:
    @tasks.task
    def pop(things: Any) -> None:
        things["list"].pop()

    task = pop.task({"list": [1]})
    call_of(tasks, task)
    call_of(tasks, task)
    assert task.arguments == {"things": {"list": [1]}}


def test_arguments_that_the_function_does_not_take_are_refused_at_once(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: int) -> None: ...

    with pytest.raises(TypeError, match="task 'pack': missing a required argument: 'order'"):
        pack.task()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="task 'pack': got an unexpected keyword argument 'colour'"):
        pack.task(1, colour="red")  # type: ignore[call-arg]


def test_an_argument_of_another_type_is_refused_at_once_with_its_path(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: Order) -> None: ...

    with pytest.raises(
        TaskDataError, match=r"task 'pack': Expected `str`, .*`\$.order.lines\[0\]`"
    ):
        pack.task(Order(1, [2]))  # type: ignore[list-item]


def test_an_argument_that_cannot_be_json_is_refused_at_once_by_its_name(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: object, box: object) -> None: ...

    with pytest.raises(
        TaskDataError, match="task 'pack': argument 'box' cannot be written as JSON"
    ):
        pack.task(1, tasks)


def test_a_result_that_cannot_be_json_is_refused_by_the_name_of_its_task(tasks: TaskQueue) -> None:
    @tasks.task
    def pack() -> object: ...

    assert pack._definition.signature.json_result({"box": 1}) == b'{"box":1}'
    for result in (tasks, {"box": object()}, {1.5: 1j}):
        with pytest.raises(TaskDataError, match="'pack': its result cannot be written as JSON: "):
            pack._definition.signature.json_result(result)


def test_a_plain_value_that_is_none_is_refused_by_the_name_of_its_task(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: object) -> object: ...

    signature = pack._definition.signature
    with pytest.raises(TaskDataError, match="task 'pack': "):
        signature.unbind({"order": tasks})
    with pytest.raises(TaskDataError, match="task 'pack': its result: "):
        signature.typed_result(tasks)


def test_an_annotation_that_json_cannot_fill_is_refused(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: "int | TaskQueue") -> None: ...

    with pytest.raises(TaskDataError, match="task 'pack': its annotation cannot be read from JSON"):
        pack.task(1)


def test_an_annotation_that_cannot_be_resolved_is_refused(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TaskDataError, match="an annotation cannot be resolved: name 'Nowhere'"):
        pack.task(1)


def test_arguments_of_an_older_or_newer_function_are_refused(tasks: TaskQueue) -> None:
    @tasks.task
    def pack(order: int) -> None: ...

    with pytest.raises(TaskDataError, match="task 'pack' has no parameter 'box', 'colour'"):
        pack._definition.signature.unbind({"order": 1, "box": 2, "colour": 3})
    with pytest.raises(TaskDataError, match="task 'pack' needs a value for its parameter 'order'"):
        pack._definition.signature.unbind({})
