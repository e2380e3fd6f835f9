"""What can be wrong with a task."""

from __future__ import annotations

from .._core.errors import LeaseqError

__all__ = ["TaskDataError", "TaskFailedError", "ValueTooLargeError"]


class TaskDataError(LeaseqError, ValueError):
    """What is in a task does not fit, and no second try would help: it becomes a dead letter.

    There is no such task here; an argument or a result is not what the function's annotations
    say, with the path of the field; what is to be kept cannot be written as JSON.
    """


class ValueTooLargeError(TaskDataError):
    """A result, or what is pushed to XCom, is larger than the ``value_limit`` of its queue."""


class TaskFailedError(LeaseqError):
    """The task whose result is asked for was given up.

    Attributes:
        task_id: Which task.
        reason: Why, as its dead letter has it.
    """

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"task {task_id!r} was given up: {reason}")
        self.task_id = task_id
        self.reason = reason
