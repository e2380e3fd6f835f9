"""Errors of tasks."""

from __future__ import annotations

from .._core.errors import LeaseqError
from .._core.texts import shown


class TaskDataError(LeaseqError, ValueError):
    """The data of a task does not fit; a retry would not help, so the task is a dead letter.

    Raised when no function is registered under the task's name, when an argument or a result does
    not match the function's annotations (the message has the path of the field), and when a value
    to be kept cannot be written as JSON.
    """


class ValueTooLargeError(TaskDataError):
    """A result or an XCom value is larger than the ``value_limit`` of its `TaskQueue`."""


class ResultLostError(LeaseqError):
    """The task has succeeded, and the store had no room for its result. It is not run again.

    Attributes:
        task_id: The id of the task.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"task {shown(task_id)} has succeeded, but its result is lost: the store was full; "
            "once it has room, push the task again if the result is needed"
        )
        self.task_id = task_id


class TaskCancelledError(LeaseqError):
    """The task whose result was asked for was cancelled, by `TaskQueue.cancel`.

    Attributes:
        task_id: The id of the task.
        reason: The reason that was given; ``""``: there was none.
    """

    def __init__(self, task_id: str, reason: str = "") -> None:
        because = f": {reason}" if reason else ""
        super().__init__(f"task {shown(task_id)} was cancelled{because}")
        self.task_id = task_id
        self.reason = reason


class TaskFailedError(LeaseqError):
    """The task whose result was asked for was given up.

    Attributes:
        task_id: The id of the task.
        reason: The reason in its dead letter.
    """

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"task {shown(task_id)} was given up: {reason}")
        self.task_id = task_id
        self.reason = reason
