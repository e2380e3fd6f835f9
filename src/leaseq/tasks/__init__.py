"""Tasks: functions as work, fair between tenants. Needs the extra ``leaseq[tasks]``."""

try:
    import msgspec as _msgspec  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "leaseq.tasks needs msgspec, which is not installed: pip install 'leaseq[tasks]'",
        name="msgspec",
    ) from error

from .._core.exports import adopt as _adopt
from ._backend import TaskQueueOptions
from ._config import QueueSettings, RedisSettings, WorkerConfig, WorkerSettings
from ._context import current_task, xcom_pull, xcom_pull_sync, xcom_push
from ._errors import (
    ResultLostError,
    TaskCancelledError,
    TaskDataError,
    TaskFailedError,
    ValueTooLargeError,
)
from ._handler import TaskHandler
from ._queue import TaskQueue, TaskState
from ._schedules import Schedule
from ._task import Task, TaskDecorator, TaskFunction
from ._worker import TaskWorker, WorkerHealth

__all__ = [
    "QueueSettings",
    "RedisSettings",
    "ResultLostError",
    "Schedule",
    "Task",
    "TaskCancelledError",
    "TaskDataError",
    "TaskDecorator",
    "TaskFailedError",
    "TaskFunction",
    "TaskHandler",
    "TaskQueue",
    "TaskQueueOptions",
    "TaskState",
    "TaskWorker",
    "ValueTooLargeError",
    "WorkerConfig",
    "WorkerHealth",
    "WorkerSettings",
    "current_task",
    "xcom_pull",
    "xcom_pull_sync",
    "xcom_push",
]

_adopt(__name__, globals())
