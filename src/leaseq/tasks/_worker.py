"""Workers: tasks done, tried again, and given up."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from inspect import isawaitable, iscoroutinefunction
from math import inf
from typing import Any, Final

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CapacityLimiter, Event
from anyio.abc import TaskStatus

from .._core.lease import Lease
from .._core.loop import Home
from .._core.validation import lease_seconds, wait_seconds
from .._pool import Reject, ServeOptions, is_mere_failure, serve
from ._config import WorkerConfig
from ._context import Run, enter, leave
from ._errors import TaskDataError
from ._execution import execute, finish, give_up
from ._handler import TaskHandler
from ._queue import TaskQueue
from ._task import Task

__all__ = ["TaskWorker", "WorkerHealth"]

logger = logging.getLogger("leaseq")

_LONGEST_TRACEBACK: Final = 10_000


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """How a worker is, for readiness probes."""

    id: str
    running: bool
    """Whether its `run` is at work."""
    last_claim: float | None
    """Seconds since it last took a task; None: it never has."""
    tasks: int
    """How many it is doing."""
    oldest: float | None
    """Seconds for which it has been doing the one that it began first; None: it is doing none."""


class TaskWorker:
    """Does the tasks of a queue: ``await tg.start(worker.run)``.

    Its own tenants come first, in fair turn by their weights; then those it may steal from. Within
    a tenant, critical tasks come before normal ones. Leases are extended while their tasks run. A
    task that fails is tried again, after the queue's backoff, as often as it says; then it is a
    dead letter, with the traceback.

    Args:
        tasks: The queue, with the functions.
        handler: What is done with tasks, and told of them; None: their functions are called.
        id: What it is called, in `LeasedQueue.inflight` and in logs.
        tenants: Whose tasks it does; None: anybody's.
        steal_from: With ``tenants``: whose tasks it does when those have none.
        concurrency: How many tasks it does at a time.
        max_runtime: Seconds for one task, after which its lease is let go: it is cancelled, and
            tried again. None: no bound. Nothing can stop a function in a thread.
        stop: Once it is set the worker takes nothing more, and ends; None: it has one of its own,
            which `stop` sets.
        grace: With a stop: seconds for the tasks that run then; those that take longer are
            cancelled, and go back uncounted. `math.inf`: as long as they take.

    Raises:
        TypeError: the handler is not a `TaskHandler`, or its `process_task` no ``async def``; the
            tenants are one string.
        ValueError: a number is one that cannot be; there are no tenants in the list; there are
            some to steal from, and none of its own.
    """

    def __init__(
        self,
        tasks: TaskQueue,
        handler: TaskHandler | None = None,
        *,
        id: str = "worker",
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
        concurrency: int = 10,
        max_runtime: float | None = None,
        stop: Event | None = None,
        grace: float = inf,
    ) -> None:
        if handler is not None and not isinstance(handler, TaskHandler):
            raise TypeError(f"handler must be a TaskHandler, not {handler!r}: subclass that")
        if handler is not None and not iscoroutinefunction(handler.process_task):
            raise TypeError(
                f"{type(handler).__name__}.process_task must be an async def; what blocks in it "
                "goes into `await anyio.to_thread.run_sync(...)`"
            )
        if isinstance(tenants, str) or isinstance(steal_from, str):
            raise TypeError("tenants and steal_from are lists of names, not one name")
        if tenants is not None and not tenants:
            raise ValueError("tenants must name one at least, or be None for anybody")
        if steal_from and tenants is None:
            raise ValueError(
                f"steal_from={list(steal_from)!r} is for a worker with tenants of its own: "
                "give it tenants, or leave it to do anybody's tasks"
            )
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 task or more, not {concurrency!r}")
        lease_seconds("max_runtime", max_runtime)
        wait_seconds("grace", grace)
        self.id = id
        self.concurrency = concurrency
        self._tasks = tasks
        self._handler = handler or TaskHandler()
        kind = type(self._handler)
        self._processes = kind.process_task is not TaskHandler.process_task
        self._tells_start = kind.on_task_start is not TaskHandler.on_task_start
        self._tells_success = kind.on_task_success is not TaskHandler.on_task_success
        self._stop = stop
        self._stopped = False
        self._stopping: Event | None = None
        self._options: ServeOptions = {
            "consumer": id,
            "heartbeat": True,
            "max_runtime": max_runtime,
            "grace": grace,
        }
        if tenants is not None:
            self._options["tenants"] = tuple(tenants)
        if steal_from:
            self._options["steal_from"] = tuple(steal_from)
        self._max_runtime = max_runtime
        self._threads = CapacityLimiter(concurrency)
        self._home = Home()
        self._at_work = False
        self._last_claim: float | None = None
        self._since: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<TaskWorker {self.id!r} of {self._tasks.name!r}>"

    @classmethod
    def from_config(
        cls,
        tasks: TaskQueue,
        config: WorkerConfig,
        id: str | None = None,
        handler: TaskHandler | None = None,
        *,
        stop: Event | None = None,
    ) -> TaskWorker:
        """The worker that a configuration describes; the queue gets its defaults from there.

        Args:
            tasks: The queue, with the functions.
            config: The configuration.
            id: Which of its workers; None: the only one.
            handler: What is done with tasks; None: their functions are called.
            stop: As for `TaskWorker`.

        Raises:
            LookupError: there is no such worker, or more than one to choose from.
            TypeError, ValueError: as for `TaskWorker`.
        """
        settings = config.worker(id)
        config.queue.apply(tasks)
        return cls(
            tasks,
            handler,
            id=settings.id,
            tenants=settings.assigned_users or None,
            steal_from=settings.steal_targets if settings.assigned_users else (),
            concurrency=settings.max_concurrent_tasks,
            max_runtime=settings.task_timeout_seconds,
            stop=stop,
            grace=settings.graceful_shutdown_timeout,
        )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Do tasks, until it is stopped, or the queue is shut down and drained.

        The queue's timekeeper has to run: ``await tg.start(broker.run)``.

        Args:
            task_status: For ``tg.start``: it takes tasks.

        Raises:
            BusyResourceError: it is running already.
            RuntimeError: the tasks have no broker yet.
            TaskDataError: an annotation of a registered function cannot be resolved.
            QueueClosedError: the queue was closed with work left.
            TimekeeperNotRunningError: as `LeasedQueue.get` does.

        If cancelled, so are its tasks, and they go back uncounted.
        """
        if self._at_work:
            raise BusyResourceError("running")
        queue = await self._tasks.open()
        functions = self._tasks.functions.values()
        for function in functions:
            function.signature.resolve()
        timed = self._max_runtime is not None or any(
            function.terms.lease_timeout is not None for function in functions
        )
        # One of its own belongs to the event loop that it runs in.
        self._stopping = Event() if self._stop is None else self._stop
        options: ServeOptions = {**self._options, "stop": self._stopping}
        if self._stopped:
            self._stopping.set()
        self._at_work = True
        try:
            await serve(
                queue,
                self._handle,
                self.concurrency,
                on_start=self._set_length if timed else None,
                on_success=self._tell_success if self._tells_success else None,
                task_status=task_status,
                **options,
            )
        finally:
            self._at_work = False
            self._since.clear()

    def stop(self) -> None:
        """Take nothing more, for good; `run` returns when what runs has ended, or grace is over."""
        self._stopped = True
        if self._stopping is not None:
            self._stopping.set()

    def health(self) -> WorkerHealth:
        """How it is, now. From within the event loop. O(running tasks)."""
        now = self._home.time()
        return WorkerHealth(
            self.id,
            running=self._at_work,
            last_claim=None if self._last_claim is None else now - self._last_claim,
            tasks=len(self._since),
            oldest=now - min(self._since.values()) if self._since else None,
        )

    async def _set_length(self, lease: Lease[str, Any]) -> None:
        """Give a lease the length that its task's function asks for, or less, if less will do."""
        name = lease.value.get("name") if isinstance(lease.value, dict) else None
        function = self._tasks.functions.get(name) if isinstance(name, str) else None
        asked = None if function is None else function.terms.lease_timeout
        left = lease.deadline - self._home.time() if asked is None else asked
        if self._max_runtime is not None and left > self._max_runtime:
            await lease.extend(self._max_runtime)
        elif asked is not None:
            await lease.extend(asked)

    async def _handle(self, lease: Lease[str, Any]) -> tuple[Task[Any], float] | None:
        """Do the task that a lease holds; what is returned is for `_tell_success`."""
        since = self._last_claim = self._since[lease.key] = self._home.time()
        try:
            return await self._do(lease, since)
        finally:
            self._since.pop(lease.key, None)

    async def _do(self, lease: Lease[str, Any], since: float) -> tuple[Task[Any], float] | None:
        try:
            task = self._tasks.read(lease)
        except TaskDataError as error:
            await lease.reject(str(error))
            return None
        run = Run(task, self._tasks, self._threads)
        if lease.deliveries > task.max_retries + 1:
            await give_up(run, lease, _expired(lease))
            return None
        if task.name is not None and task.function is None:
            await give_up(run, lease, self._unknown(task))
            return None
        token = enter(run)
        try:
            if self._tells_start:
                await _call(self._handler.on_task_start, task)
            if self._processes or task.function is None:
                result = await self._handler.process_task(task)
            else:
                result = await execute(run)  # as `process_task` would, and directly
            if run.leaves_something:
                await finish(run, result, lease)
        except BaseException as error:
            if not is_mere_failure(error):
                raise
            final = await self._fail(run, lease, error)
            await _call(self._handler.on_task_failure, task, error, self._home.time() - since)
            if final:
                return None
            raise
        finally:
            leave(token)
        return (task, self._home.time() - since) if self._tells_success else None

    def _unknown(self, task: Task[Any]) -> str:
        return f"unknown task {task.name!r}: {self._tasks!r} of the worker has no such function"

    async def _fail(self, run: Run, lease: Lease[str, Any], error: BaseException) -> bool:
        """Give a task up if no try is left; whether no try would have helped."""
        if lease.ended is not None:
            return False
        if isinstance(error, Reject):
            await give_up(run, lease, error.reason)
            return True
        if isinstance(error, TaskDataError):
            await give_up(run, lease, str(error))
            return True
        if lease.deliveries > run.task.max_retries:
            await give_up(run, lease, _failed(lease, error))
        return False

    async def _tell_success(
        self, lease: Lease[str, Any], done: tuple[Task[Any], float] | None
    ) -> None:
        if done is not None:
            await _call(self._handler.on_task_success, *done)


async def _call(hook: Any, *arguments: Any) -> None:
    """Call a hook; what it raises is logged."""
    try:
        result = hook(*arguments)
        if isawaitable(result):
            await result
    except Exception:
        logger.exception("the hook %s failed for %r", hook.__name__, arguments[0])


def _failed(lease: Lease[str, Any], error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    if len(text) > _LONGEST_TRACEBACK:
        text = f"...{text[-_LONGEST_TRACEBACK:]}"
    summary = traceback.format_exception_only(error)[-1].strip()
    return f"failed at delivery {lease.deliveries}, its last: {summary}\n{text}"


def _expired(lease: Lease[str, Any]) -> str:
    return (
        f"its lease was lost at delivery {lease.deliveries - 1}, its last: the worker died, or the "
        "task took longer than max_runtime"
    )
