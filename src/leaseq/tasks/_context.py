"""The task that runs here, and what it shares with others of its workflow."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from anyio import CapacityLimiter, NoEventLoopError, from_thread

from .._core.validation import lease_seconds
from ._signature import as_plain

if TYPE_CHECKING:
    from ._queue import TaskQueue
    from ._task import Task

__all__ = ["Run", "current_run", "current_task", "xcom_pull", "xcom_pull_sync", "xcom_push"]

_MISSING: Final = object()
_current: ContextVar[Run | None] = ContextVar("leaseq.tasks.run", default=None)


class Run:
    """One run of one task: what it has pushed so far is stored when it succeeds."""

    __slots__ = ("pushes", "task", "tasks", "threads")

    def __init__(
        self, task: Task[Any], tasks: TaskQueue, threads: CapacityLimiter | None = None
    ) -> None:
        self.task = task
        self.tasks = tasks
        self.threads = threads
        self.pushes: dict[str, tuple[Any, float]] | None = None

    @property
    def workflow(self) -> str:
        """What its XCom values are found under."""
        return self.task.workflow or self.task.id

    @property
    def leaves_something(self) -> bool:
        """Whether there is anything to store when the task succeeds."""
        function = self.task.function
        return self.pushes is not None or (function is not None and function.terms.keeps_something)

    @property
    def result_ttl(self) -> float | None:
        """Seconds for which what the task returns is kept; None: it is not."""
        function = self.task.function
        return None if function is None else function.terms.result_ttl

    def push(self, key: str, value: object, ttl: float | None) -> None:
        """Have a value stored when the task succeeds."""
        what = f"XCom value {key!r}"
        self.tasks.place.check_keeps(what)
        plain, size = as_plain(value, what)
        self.keep(key, self.tasks.within_limit(plain, size, what), ttl)

    def keep(self, key: str, plain: object, ttl: float | None) -> None:
        """Have a plain value stored when the task succeeds."""
        seconds = self.tasks.xcom_ttl if ttl is None else lease_seconds("ttl", ttl)
        if self.pushes is None:
            self.pushes = {}
        self.pushes[self._full(key)] = plain, seconds

    async def pull(self, key: str, default: Any, timeout: float | None) -> Any:
        """What was pushed under a key, by this task or one of its workflow that has succeeded."""
        full = self._full(key)
        if self.pushes is not None and full in self.pushes:
            return as_plain(self.pushes[full][0], key)[0]
        store = await self.tasks.place.store("xcom", f"XCom value {key!r}")
        try:
            return await store.wait(full, timeout)
        except TimeoutError:
            if default is not _MISSING:
                return default
            waited = "" if timeout == 0 else f" within {timeout} s"
            raise LookupError(
                f"nothing was pushed under {key!r} in workflow {self.workflow!r}{waited}: a push "
                "is seen once its task has succeeded, by tasks of the same workflow; give a "
                "default or a timeout if it may be missing"
            ) from None

    def _full(self, key: str) -> str:
        return f"{quote(self.workflow, safe='')}/{key}"


def current_run() -> Run | None:
    """The run of the task that runs here."""
    return _current.get()


def enter(run: Run) -> Any:
    """Have a run be the one that runs here; returns what `leave` takes."""
    return _current.set(run)


def leave(token: Any) -> None:
    """End what `enter` began."""
    _current.reset(token)


def _inside(what: str) -> Run:
    run = _current.get()
    if run is None:
        raise RuntimeError(
            f"{what} is for the inside of a task, and none runs here: push the task to a queue, "
            "or run it here with `await function.task(...)()`, not `function(...)`"
        )
    return run


def current_task() -> Task[Any]:
    """The task that runs here, in an ``async def`` or in a thread.

    Raises:
        RuntimeError: none does.
    """
    return _inside("current_task()").task


def xcom_push(key: str, value: object, ttl: float | None = None) -> None:
    """Share a value with the tasks of this workflow, once this task has succeeded.

    It is stored in the same step in which the task is done: a task that fails leaves none behind.
    Nothing has to be waited for, so it is the same call in an ``async def`` and in a ``def``.

    Args:
        key: What it is found under; a later push replaces it.
        value: Anything that can be written as JSON. It is a snapshot.
        ttl: Seconds for which it is kept; None: the `TaskQueue`'s ``xcom_ttl``, an hour.

    Raises:
        RuntimeError: no task runs here.
        TaskDataError: the value cannot be written as JSON.
        ValueTooLargeError: it is larger than the `TaskQueue`'s ``value_limit``.
        ValueError: there is no broker to keep it; the time is not above 0.

    O(size of the value).
    """
    _inside("xcom_push()").push(key, value, ttl)


async def xcom_pull(key: str, default: Any = _MISSING, timeout: float | None = 0.0) -> Any:
    """What a task of this workflow has pushed, as JSON has it.

    In a ``def`` task, which runs in a thread, it is `xcom_pull_sync`.

    Args:
        key: What it was pushed under.
        default: What to return if it is not there; left out: that is an error.
        timeout: Seconds to wait for it; 0 (the default): do not wait; None: without end.

    Raises:
        LookupError: it is not there, or did not come in time, and there is no default.
        RuntimeError: no task runs here.
        ValueError: there is no broker that has it.

    If cancelled, nothing has changed. O(size of the value).
    """
    return await _inside("xcom_pull()").pull(key, default, timeout)


def xcom_pull_sync(key: str, default: Any = _MISSING, timeout: float | None = 0.0) -> Any:
    """`xcom_pull` for a ``def`` task, which runs in a worker thread.

    Args:
        key: What it was pushed under.
        default: What to return if it is not there; left out: that is an error.
        timeout: Seconds to wait for it; 0 (the default): do not wait; None: without end.

    Raises:
        RuntimeError: no task runs here, or this is not a worker thread.
        LookupError, ValueError: as `xcom_pull` does.
    """
    run = _inside("xcom_pull_sync()")
    try:
        return from_thread.run(run.pull, key, default, timeout)
    except NoEventLoopError:
        raise RuntimeError(
            "xcom_pull_sync() is for `def` tasks, which run in a thread: in an `async def` one "
            "write `await xcom_pull(...)`"
        ) from None
