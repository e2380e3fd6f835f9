"""The task that runs here, and the values that it shares with its workflow."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Final

import msgspec
from anyio import CapacityLimiter, NoEventLoopError, from_thread

from .._core.process_pool import Processes
from .._core.texts import shown
from .._core.validation import lease_seconds
from ._backend import Backend
from ._results import LOST, xcom_name
from ._signature import as_json
from ._task import Definition, Task

_MISSING: Final = object()
_current: ContextVar[Run | None] = ContextVar("leaseq.tasks.run", default=None)


class Run:
    """A run of a task, with the XCom values to be stored when it succeeds.

    Args:
        task: The task.
        backend: The backend of its `TaskQueue`.
        threads: Limit on threads for functions that block; None: anyio's own.
        processes: Processes for functions that run there; None: one for this run.
    """

    __slots__ = ("backend", "definition", "processes", "pushes", "task", "threads")

    def __init__(
        self,
        task: Task[Any],
        backend: Backend,
        threads: CapacityLimiter | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes
        self.task = task
        self.backend = backend
        self.threads = threads
        function = task.function
        self.definition: Definition | None = None if function is None else function._definition
        self.pushes: dict[str, tuple[bytes, float]] | None = None  # as JSON, by name

    @property
    def workflow(self) -> str:
        """The namespace of its XCom values."""
        return self.task.workflow or self.task.id

    @property
    def is_elsewhere(self) -> bool:
        """True in a process that runs the task for a worker."""
        return self.backend.elsewhere_keeps is not None

    @property
    def result_ttl(self) -> float | None:
        """Seconds for which the task's result is kept; None: it is not."""
        return None if self.definition is None else self.definition.terms.result_ttl

    def push(self, key: str, value: object, ttl: float | None) -> None:
        """Check an XCom value, and store it when the task succeeds."""
        what = f"XCom value {shown(key)}"
        self.backend.check_keeps(what)
        data = as_json(value, what)
        self.backend.check_size(len(data), what)
        self.keep(key, data, ttl)

    def keep(self, key: str, data: bytes, ttl: float | None) -> None:
        """Store a value, given as JSON, when the task succeeds."""
        seconds = self.backend.xcom_ttl if ttl is None else lease_seconds("ttl", ttl)
        name = xcom_name(self.workflow, key)
        if self.pushes is None:
            self.pushes = {}
        self.pushes[name] = data, seconds

    async def pull(self, key: str, default: Any, timeout: float | None) -> Any:
        """Return the value that this task, or a successful one of its workflow, has pushed."""
        name = xcom_name(self.workflow, key)
        if self.pushes is not None and name in self.pushes:
            return msgspec.json.decode(self.pushes[name][0])
        try:
            document = await self.backend.recall(name, timeout, f"XCom value {shown(key)}")
        except TimeoutError:
            if default is not _MISSING:
                return default
            waited = "" if timeout == 0 else f" within {timeout} s"
            raise LookupError(
                f"no value was pushed under {shown(key)} in workflow {shown(self.workflow)}"
                f"{waited}: a value is seen by tasks of the same workflow, once the task that "
                "pushed it has succeeded; give a default or a timeout if it may be missing"
            ) from None
        if document != LOST:
            return document["value"]
        if default is not _MISSING:
            return default
        raise LookupError(
            f"the value that was pushed under {shown(key)} in workflow {shown(self.workflow)} is "
            "lost: the store was full; give a default if it may be missing"
        )


def current_run() -> Run | None:
    """Return the run in this context; None outside of a task."""
    return _current.get()


def enter_run(run: Run) -> Token[Run | None]:
    """Make a run the current one; `leave_run` ends that."""
    return _current.set(run)


def leave_run(token: Token[Run | None]) -> None:
    """Restore the run before `enter_run`."""
    _current.reset(token)


def _run_for(call: str) -> Run:
    run = _current.get()
    if run is None:
        raise RuntimeError(
            f"{call} works only inside of a task, and none runs here: push the task to a queue, "
            "or run it here with `await function.task(...)()`, not `function(...)`"
        )
    return run


def current_task() -> Task[Any]:
    """Return the task that runs here, in an ``async def`` or in a thread.

    Raises:
        RuntimeError: No task runs here.

    O(1).
    """
    return _run_for("current_task()").task


def xcom_push(key: str, value: object, ttl: float | None = None) -> None:
    """Share a value with the tasks of this workflow, once this task has succeeded.

    It is stored in one step with the end of the task: a task that fails leaves no values. The call
    does not suspend, so it is the same in an ``async def`` and in a ``def``.

    Args:
        key: The key of the value; a later push replaces it.
        value: Any value that can be written as JSON. A snapshot is kept.
        ttl: Seconds for which it is kept; None: the ``xcom_ttl`` of the `TaskQueue`, an hour by
            default.

    Raises:
        RuntimeError: No task runs here.
        TaskDataError: The value cannot be written as JSON; or the key and its workflow have more
            than about a thousand bytes together.
        TypeError: The time is not a number.
        ValueTooLargeError: It is larger than the ``value_limit`` of the `TaskQueue`.
        ValueError: There is no broker to keep it, or the time is not above 0.

    O(size of the value).
    """
    _run_for("xcom_push()").push(key, value, ttl)


async def xcom_pull(key: str, default: Any = _MISSING, timeout: float | None = 0.0) -> Any:
    """Return a value that a task of this workflow has pushed, as JSON has it.

    A ``def`` task, which runs in a thread, calls `xcom_pull_sync`.

    Args:
        key: The key of the value.
        default: The value to return if there is none; left out: that is an error.
        timeout: Seconds to wait for it. 0 (the default): do not wait; None: without end.

    Raises:
        LookupError: There is no value, or none came in time, or the server was full when it was
            pushed; and there is no default.
        RuntimeError: No task runs here.
        ValueError: There is no broker.

    If cancelled, nothing has changed. O(size of the value).
    """
    return await _run_for("xcom_pull()").pull(key, default, timeout)


def xcom_pull_sync(key: str, default: Any = _MISSING, timeout: float | None = 0.0) -> Any:
    """Return a value as `xcom_pull` does, in a ``def`` task, which runs in a worker thread.

    Args:
        key: The key of the value.
        default: The value to return if there is none; left out: that is an error.
        timeout: Seconds to wait for it. 0 (the default): do not wait; None: without end.

    Raises:
        RuntimeError: No task runs here, or this is not a worker thread.
        LookupError: There is no value, or none came in time, and there is no default.
        ValueError: There is no broker.

    Blocks the thread. O(size of the value).
    """
    run = _run_for("xcom_pull_sync()")
    try:
        return from_thread.run(run.pull, key, default, timeout)
    except NoEventLoopError:
        if run.is_elsewhere:
            raise RuntimeError(
                "xcom_pull_sync() is for tasks in threads: give a task in a process the value as "
                "an argument"
            ) from None
        raise RuntimeError(
            "xcom_pull_sync() is for `def` tasks, which run in a thread: in an `async def` "
            "write `await xcom_pull(...)`"
        ) from None
