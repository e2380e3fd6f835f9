"""Handlers: the code that runs tasks and is notified of their ends."""

from __future__ import annotations

from typing import Any

from ._errors import TaskDataError
from ._task import Task


class TaskHandler:
    """Runs the tasks of a `TaskWorker`, and is notified of them. To be subclassed.

    The hooks may be ``async def`` or ``def``; the latter run in the event loop and must not block
    it. An error of a hook is logged and has no other effect.
    """

    async def process_task(self, task: Task[Any]) -> object:
        """Run a task. This one calls the task's function.

        Override it for tasks with a payload, and pass the others to
        ``await super().process_task(task)``.

        Args:
            task: The task.

        Returns:
            The result of its function.

        Raises:
            Exception: The task has failed: it is tried again, or becomes a dead letter after its
                last retry.
            Reject: The task becomes a dead letter without a retry.
            TaskDataError: The same. Raised here for a task without a function.

        Cancelled when the lease is lost, or when the worker ends before the task. The cost is that
        of the function.
        """
        if task.function is None:
            raise TaskDataError(
                "the task has a payload and no function: give the worker a TaskHandler with a "
                "process_task for it"
            )
        return await task()

    def on_task_start(self, task: Task[Any]) -> object:
        """Called before a task is run.

        Args:
            task: The task.
        """

    def on_task_success(self, task: Task[Any], duration: float) -> object:
        """Called when a task is done and has left the queue.

        Args:
            task: The task.
            duration: Seconds that it took.
        """

    def on_task_failure(self, task: Task[Any], error: BaseException, duration: float) -> object:
        """Called each time that a task has raised an error, but not when it has lost its lease.

        Args:
            task: The task.
            error: The error.
            duration: Seconds that it took.
        """

    def on_task_cancelled(self, task: Task[Any], reason: str) -> object:
        """Called when a task was cancelled by `TaskQueue.cancel`, and has cleaned up.

        Args:
            task: The task.
            reason: The reason that was given; ``""``: there was none.
        """

    def on_task_timeout(self, task: Task[Any], duration: float) -> object:
        """Called when a task has taken longer than the ``max_runtime`` of the worker.

        It was cancelled, and is tried again. A function in a thread has run to its end and has
        failed: for that `on_task_failure` is called too, with a `TimeoutError`.

        Args:
            task: The task.
            duration: Seconds that it took.
        """
