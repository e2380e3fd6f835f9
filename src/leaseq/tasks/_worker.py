"""Workers: they run tasks, and decide when to retry and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from logging import ERROR, WARNING
from math import inf
from typing import Any, Final, Never

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CapacityLimiter, Event
from anyio.abc import TaskStatus

from .._core.errors import LeaseCancelledError, LeaseLostError, rejection
from .._core.functions import check_function, check_has_run, is_async, result_of
from .._core.log import log
from .._core.loop import Home, is_mere_failure
from .._core.process_pool import Processes
from .._core.requests import ClaimRequest
from .._core.texts import failure_text, is_a, shown, traceback_text
from .._core.validation import (
    check_known,
    check_text,
    lease_seconds,
    wait_seconds,
    whole_number,
)
from .._pool import ServeOptions, check_event, serve
from ..abc._lease import Lease
from ._config import WorkerConfig
from ._context import Run, enter_run, leave_run
from ._errors import TaskDataError
from ._execution import execute, give_up, values_of
from ._handler import TaskHandler
from ._queue import TaskQueue
from ._task import Task, decode_task, refusal_of
from ._timetable import beside

_LONGEST_REST: Final = 60.0  # seconds between two tries of a task that workers do not know
_NOTE_EVERY: Final = 60.0  # seconds between two notes on unknown tasks of one name
_MOST_NOTES: Final = 1_000  # names in that time
_NEARLY: Final = 0.9  # of max_runtime: a lease in a store is over a little earlier here
_CALLS: Final = {
    "process_task": ("a task",),
    "on_task_start": ("a task",),
    "on_task_success": ("a task", "its duration"),
    "on_task_failure": ("a task", "an error", "its duration"),
    "on_task_cancelled": ("a task", "a reason"),
    "on_task_timeout": ("a task", "its duration"),
}
"""The methods of a handler, and what they are called with."""


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """State of a worker, for readiness probes."""

    id: str
    """Name of the worker."""
    running: bool
    """True while its `run` is running."""
    last_claim: float | None
    """Seconds since it last claimed a task; None: it never has."""
    tasks: int
    """Number of tasks that it is running."""
    oldest: float | None
    """Seconds since the oldest of them was started; None: it is running no task."""


class TaskWorker:
    """Runs the tasks of a queue: ``await tg.start(worker.run)``.

    Its own tenants come first, in fair turn by their weights; then those it may steal from. Within
    a tenant the higher priority comes first. Leases are extended while their tasks run. A failed
    task is tried again after the queue's backoff, up to its ``max_retries``; then it is a dead
    letter, with the traceback.

    Args:
        tasks: The queue, with the functions.
        handler: Runs the tasks and is notified of them; None: their functions are called.
        id: Name of the worker, in `LeasedQueue.inflight` and in logs.
        tenants: Tenants whose tasks it runs; None: all tenants.
        steal_from: With ``tenants``: tenants whose tasks it runs when those have none.
        concurrency: Tasks that it runs at a time.
        max_runtime: Longest run of one task, in seconds: then its lease is let go, so that it is
            cancelled and tried again. None: no bound. A function in a thread cannot be stopped.
        stop: Event that stops the worker: it claims no more tasks, and ends. None: only `stop`
            does.
        grace: Seconds that running tasks get after a stop; those that take longer are cancelled,
            and go back uncounted. `math.inf` (the default): no limit.
        **unknown: There are no other options.

    Raises:
        TypeError: An option is unknown or has the wrong type; the ``process_task`` of the handler
            is not an ``async def``, or another method of it cannot be called as it has to be.
        ValueError: A number is out of range; ``tenants`` is empty; there is ``steal_from`` without
            ``tenants``.
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
        **unknown: Never,
    ) -> None:
        if unknown:
            check_known("TaskWorker", unknown, TaskWorker.__init__.__kwdefaults__ or ())
        _check_tasks(tasks)
        if handler is not None and not isinstance(handler, TaskHandler):
            raise TypeError(f"handler must be a TaskHandler, not {shown(handler)}: subclass that")
        if handler is not None:
            for name, arguments in _CALLS.items():
                method = getattr(handler, name)
                check_function(f"{type(handler).__name__}.{name}", method, *arguments)
            if not is_async(handler.process_task):
                raise TypeError(
                    f"{type(handler).__name__}.process_task must be an async def; code that "
                    "blocks goes into `await anyio.to_thread.run_sync(...)`"
                )
        check_text("id", id)
        claim = ClaimRequest[str](tenants=tenants, steal_from=steal_from)
        self.concurrency = whole_number("concurrency", concurrency, 1, "1 task or more")
        if max_runtime is not None:
            max_runtime = lease_seconds("max_runtime", max_runtime)
        grace = wait_seconds("grace", grace)
        if stop is not None:
            check_event(stop)
        self.id = id
        self._tasks = tasks
        self._backend = tasks._backend
        self._functions = tasks._registry.functions
        self._handler = handler or TaskHandler()
        kind = type(self._handler)
        self._has_process_task = kind.process_task is not TaskHandler.process_task
        self._has_start_hook = kind.on_task_start is not TaskHandler.on_task_start
        self._has_success_hook = kind.on_task_success is not TaskHandler.on_task_success
        self._has_loss_hook = (
            kind.on_task_cancelled is not TaskHandler.on_task_cancelled
            or kind.on_task_timeout is not TaskHandler.on_task_timeout
        )
        self._stop = stop
        self._stopped = False
        self._stopping: Event | None = None
        self._options: ServeOptions = {
            "consumer": id,
            "heartbeat": True,
            "max_runtime": max_runtime,
            "grace": grace,
        }
        if claim.tenants is not None:
            self._options["tenants"] = claim.tenants
            self._options["steal_from"] = claim.steal_from
        self._max_runtime = max_runtime
        self._threads = CapacityLimiter(self.concurrency)
        self._processes = Processes()
        self._home = Home()
        self._is_running = False
        self._last_claim: float | None = None
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}  # unknown functions, and when they may be told again
        self._has_failed_to_note = False
        self._has_noted = False

    def __repr__(self) -> str:
        return f"<TaskWorker {shown(self.id)} of {self._tasks.name!r}>"

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
        """Make a worker from a configuration, and set the defaults of the queue from there.

        Args:
            tasks: The queue, with the functions.
            config: The configuration.
            id: Id of one of its workers; None: the only one.
            handler: Runs the tasks and is notified of them; None: their functions are called.
            stop: As for `TaskWorker`.

        Raises:
            LookupError: There is no such worker, or there are several to choose from.
            TypeError, ValueError: As for `TaskWorker`.

        O(workers of the configuration).
        """
        if not isinstance(config, WorkerConfig):
            raise TypeError(f"config must be a WorkerConfig, not {shown(config)}")
        _check_tasks(tasks)
        settings = config.worker(id)
        tasks._apply(config.queue)
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
        """Run tasks until the worker is stopped, or the queue is shut down and drained.

        The queue's timekeeper has to run: ``await tg.start(broker.run)``.

        Args:
            task_status: Reports to ``tg.start`` that the worker takes tasks.

        Raises:
            BusyResourceError: The worker is running already.
            RuntimeError: There is no broker yet.
            TaskDataError: An annotation of a registered function cannot be resolved.
            QueueClosedError: The queue was closed with tasks left.
            TimekeeperNotRunningError: The broker's `run` was not started.

        If cancelled, its tasks are cancelled and go back uncounted. A task costs what its claim and
        its settlement cost; each extension of leases costs O(concurrency).
        """
        if self._is_running:
            raise BusyResourceError("running")
        self._is_running = True
        try:
            queue = await self._tasks.open()
            definitions = [each._definition for each in self._functions.values()]
            for definition in definitions:
                definition.signature.resolve()
            timed = self._max_runtime is not None or any(
                definition.terms.lease_timeout is not None for definition in definitions
            )
            # An event of its own belongs to the event loop that it runs in.
            self._stopping = Event() if self._stop is None else self._stop
            options: ServeOptions = {**self._options, "stop": self._stopping}
            if self._stopped:
                self._stopping.set()
            await self._backend.mind_notes()
            await self._tasks._store_declared()

            async def run_tasks() -> None:
                async with self._processes:
                    await serve(
                        queue,
                        self._handle,
                        self.concurrency,
                        on_start=self._adjust_lease if timed else None,
                        on_success=self._report_success if self._has_success_hook else None,
                        on_lost=self._report_loss if self._has_loss_hook else None,
                        task_status=task_status,
                        **options,
                    )

            await beside(run_tasks, partial(self._backend.run_schedules, self.id))
            if self._has_noted:
                await self._backend.mind_notes(self.id, [*self._told])
        finally:
            self._is_running = False
            self._since.clear()

    def stop(self) -> None:
        """Claim no more tasks, for good: `run` returns when the running ones end or grace is over.

        Takes effect without suspending. O(1).
        """
        self._stopped = True
        if self._stopping is not None:
            self._stopping.set()

    def health(self) -> WorkerHealth:
        """Return the present state of the worker. Call it in the event loop. O(running tasks)."""
        now = self._home.time()
        return WorkerHealth(
            self.id,
            running=self._is_running,
            last_claim=None if self._last_claim is None else now - self._last_claim,
            tasks=len(self._since),
            oldest=now - min(self._since.values()) if self._since else None,
        )

    async def _adjust_lease(self, lease: Lease[str, Any]) -> None:
        """Set the lease timeout of the task's function, at most ``max_runtime``."""
        name = lease.value.get("name") if isinstance(lease.value, dict) else None
        function = self._functions.get(name) if isinstance(name, str) else None
        asked = None if function is None else function._definition.terms.lease_timeout
        left = lease.deadline - self._home.time() if asked is None else asked
        if self._max_runtime is not None and left > self._max_runtime:
            await lease.extend(self._max_runtime)
        elif asked is not None:
            await lease.extend(asked)

    async def _handle(self, lease: Lease[str, Any]) -> tuple[Task[Any], float] | None:
        """Run the task of a lease; return the arguments of its success hook, if it has one."""
        since = self._last_claim = self._since[lease.key] = self._home.time()
        try:
            return await self._run_task(lease, since)
        finally:
            self._since.pop(lease.key, None)

    async def _run_task(
        self, lease: Lease[str, Any], since: float
    ) -> tuple[Task[Any], float] | None:
        try:
            task = decode_task(lease.key, lease.value, self._functions)
        except TaskDataError as error:
            await lease.reject(str(error))
            return None
        run = Run(task, self._backend, self._threads, self._processes)
        if lease.deliveries > task.max_retries + 1:
            await give_up(run, lease, _expiry_reason(lease))
            return None
        refusal = refusal_of(task)
        if refusal is not None:
            await self._leave(run, lease, refusal)
            return None
        token = enter_run(run)
        try:
            if self._has_start_hook:
                await _call(self._handler.on_task_start, task)
            if self._has_process_task or task.function is None:
                result = await self._handler.process_task(task)
                await check_has_run(result)
            else:
                result = await execute(run)  # as `process_task` does, but directly
            if values := values_of(run, result):
                # Kept by the ack, which goes with the next claim.
                lease._pledge = lambda lease: lease.queue._ack_and_keep(lease, values)
        except BaseException as error:
            if not is_mere_failure(error):
                raise
            final = await self._fail(run, lease, error)
            duration = self._home.time() - since
            if is_a(error, TimeoutError) and self._is_too_long(duration):
                await _call(self._handler.on_task_timeout, task, duration)
            await _call(self._handler.on_task_failure, task, error, duration)
            if final:
                return None
            raise
        finally:
            leave_run(token)
        return (task, self._home.time() - since) if self._has_success_hook else None

    async def _leave(self, run: Run, lease: Lease[str, Any], refusal: str) -> None:
        """Leave a task to a worker that knows it: a deploy may be under way.

        It rests for a second and then more and more. The time at which it was first left travels
        with it, beside what other versions of the code have written there.
        """
        now = time.time()
        since, times = _left_before(lease.value, now)
        if now - since >= self._backend.unknown_for:
            unknown_for = self._backend.unknown_for
            await give_up(
                run, lease, f"{refusal}, and no worker has known it for {unknown_for:g} s"
            )
            return
        what = str(run.task.name)
        if self._is_to_tell(what):
            log(WARNING, "%r leaves %r to other workers: %s", self, lease.key, refusal)
            await self._note(what, {"reason": refusal, "worker": self.id, "at": now})
        rest = min(2.0**times, _LONGEST_REST)
        try:
            # In one step: a put after the end of the lease would bring back what has been done.
            async with lease.queue._transaction() as step:
                step.put(lease.queue, lease.key, {**lease.value, "left": [since, times + 1]})
                step.release(lease, counted=False, delay=rest)
        except Exception:  # no room, too large, shut down, no right to: then the time starts anew
            await lease.release(counted=False, delay=rest)

    def _is_to_tell(self, what: str) -> bool:
        """Return True if an unknown function was not told of for a while, and note that it is now.

        Names come from the queue: of too many at a time the rest is not told of.
        """
        now, told = self._home.time(), self._told
        while told and now >= told[first := next(iter(told))]:
            del told[first]
        if what in told or len(told) >= _MOST_NOTES:
            return False
        told[what] = now + _NOTE_EVERY
        return True

    async def _note(self, what: str, note: dict[str, Any]) -> None:
        """Keep a note for operators; that it cannot be kept is no failure of the task."""
        try:
            await self._backend.note_unknown(what, note)
            self._has_noted = True
        except Exception as error:  # no right to, no room, a name that is too long
            if not self._has_failed_to_note:
                self._has_failed_to_note = True
                log(WARNING, "%r could not note an unknown task: %s", self, failure_text(error))

    async def _fail(self, run: Run, lease: Lease[str, Any], error: BaseException) -> bool:
        """Give a task up if it has no retry left; return True if a retry would not have helped."""
        if lease.ended is not None:
            return False
        reason = rejection(error)
        if is_a(error, TaskDataError):
            reason = failure_text(error).removeprefix(f"{type(error).__name__}: ")
        if reason is not None:
            await give_up(run, lease, reason)
            return True
        if lease.deliveries > run.task.max_retries:
            await give_up(run, lease, _failure_reason(lease, error))
        return False

    def _is_too_long(self, duration: float) -> bool:
        """Return True if a task has taken longer than it may."""
        return self._max_runtime is not None and duration >= self._max_runtime * _NEARLY

    async def _report_loss(self, lease: Lease[str, Any], lost: LeaseLostError) -> None:
        try:
            task = decode_task(lease.key, lease.value, self._functions)
        except TaskDataError:  # it was about to be given up
            return
        duration = 0.0 if lease.since is None else self._home.time() - lease.since
        if isinstance(lost, LeaseCancelledError):
            await _call(self._handler.on_task_cancelled, task, lost.reason)
        elif self._is_too_long(duration):
            await _call(self._handler.on_task_timeout, task, duration)

    async def _report_success(
        self, lease: Lease[str, Any], done: tuple[Task[Any], float] | None
    ) -> None:
        if done is not None:
            await _call(self._handler.on_task_success, *done)


def _check_tasks(tasks: object) -> None:
    if not isinstance(tasks, TaskQueue):
        raise TypeError(f"tasks must be a TaskQueue, not {shown(tasks)}")


async def _call(hook: Callable[..., object], task: Task[Any], *others: object) -> None:
    """Call a hook; log its error."""
    try:
        await result_of(hook(task, *others))
    except BaseException as error:
        if not is_mere_failure(error):
            raise
        name = getattr(hook, "__name__", hook)
        log(ERROR, "the hook %s failed for %r", name, task, error=error)


def _left_before(wire: Mapping[str, Any], now: float) -> tuple[float, int]:
    """Return since when a task was left by workers that do not know it, and how often."""
    match wire.get("left"):
        case [float() | int() as since, int() as times]:
            return float(since), min(max(times, 0), 100)
    return now, 0


def _failure_reason(lease: Lease[str, Any], error: BaseException) -> str:
    what = f"failed at delivery {lease.deliveries}, its last: {failure_text(error)}"
    return f"{what}\n{traceback_text(error)}"


def _expiry_reason(lease: Lease[str, Any]) -> str:
    return (
        f"its lease was lost at delivery {lease.deliveries - 1}, its last: the worker died, or the "
        "task took longer than max_runtime"
    )
