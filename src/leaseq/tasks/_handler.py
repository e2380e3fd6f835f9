"""What a worker does with a task, and tells of it."""

from __future__ import annotations

from typing import Any

from ._errors import TaskDataError
from ._task import Task

__all__ = ["TaskHandler"]


class TaskHandler:
    """What a `TaskWorker` does with its tasks: subclass it, and override what is to be different.

    The hooks may be ``async def`` or ``def``; the latter run in the event loop, and must not block
    it. What a hook raises is logged, and changes nothing.
    """

    async def process_task(self, task: Task[Any]) -> object:
        """Do a task: here, have its function called.

        Override it for tasks with a payload, and leave the others to
        ``await super().process_task(task)``.

        Args:
            task: What is to be done.

        Returns:
            What its function returned.

        Raises:
            Exception: the task has failed, and is tried again, or is a dead letter after its last
                retry.
            Reject: it is a dead letter at once.
            TaskDataError: so it is; here: it has no function.

        Cancelled when its lease is lost, or when the worker ends before it.
        """
        if task.function is None:
            raise TaskDataError(
                "the task has a payload and no function: give the worker a TaskHandler whose "
                "process_task does it"
            )
        return await task()

    def on_task_start(self, task: Task[Any]) -> object:
        """Called before a task is done."""

    def on_task_success(self, task: Task[Any], duration: float) -> object:
        """Called once a task is done and out of the queue.

        Args:
            task: The task.
            duration: Seconds it took.
        """

    def on_task_failure(self, task: Task[Any], error: BaseException, duration: float) -> object:
        """Called when a task has raised, each time; not when it has lost its lease.

        Args:
            task: The task.
            error: What it raised.
            duration: Seconds it took.
        """
