"""A queue of tasks, with the functions that they call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Never, ParamSpec, TypeVar, Unpack, overload

from anyio import current_time
from msgspec import structs

from .._core.options import PutOptions
from .._core.policies import Priority
from .._core.queue_options import queue_name
from .._core.reports import Statistics
from .._core.requests import PutRequest
from .._core.texts import shown
from .._core.validation import (
    check_known,
    check_priority,
    check_text,
    check_text_or_none,
    delay_seconds,
    lease_seconds,
    reason_text,
    wait_seconds,
    whole_number,
)
from .._pool import RunIn
from ..abc import Broker, LeasedQueue
from ..abc._lease import Lease
from ._backend import Backend, TaskQueueOptions
from ._config import QueueSettings
from ._context import current_run
from ._errors import ResultLostError, TaskCancelledError, TaskDataError, TaskFailedError
from ._execution import run_here
from ._results import LOST, cancellation_kept, read_kept, result_name
from ._schedules import Schedule, Terms, make_rule, report, schedule_name
from ._slots import CatchUp, Overlap, Rule
from ._task import (
    DEFAULT_MAX_RETRIES,
    Registry,
    Task,
    TaskDecorator,
    TaskFunction,
    TaskTerms,
    decode_task,
    encode_task,
)

if TYPE_CHECKING:
    from ._timetable import Timetable

F = TypeVar("F", bound=TaskFunction[..., Any, Any])
P = ParamSpec("P")
T = TypeVar("T")

TaskState = Literal["ready", "delayed", "running", "done", "failed", "cancelled", "unknown"]
"""The state of a task, as `TaskQueue.state` tells it."""

_GRACE = 60.0
_VALUE_LIMIT = 1_000_000
_XCOM_TTL = 3600.0
_UNKNOWN_FOR = 86_400.0


class TaskQueue:
    """A queue of tasks, fair between tenants, with a registry of its own.

    Made beside the functions, often as a global of a module: making it has no effect elsewhere.
    The queue in the broker is made on first use.

    Args:
        source: A `Broker`; or a `LeasedQueue`, which keeps neither results nor XCom values; or
            None: `bind` gives it later.
        name: Name of the queue in the broker, which keeps results and XCom values too. Dead
            letters are in ``<name>.dead``.
        max_retries: Retries of a failed task whose function does not set them.
        xcom_ttl: Seconds for which an XCom value is kept, unless the push sets them.
        value_limit: Bytes that one result or XCom value may have as JSON.
        unknown_for: Seconds for which workers leave a task that they do not know to others: a day,
            so that a deploy may take its time. Then it is a dead letter.
        version: The version of the code, a number that grows with each deploy, for the schedules of
            `scheduled`: a worker of an older version leaves those of a newer one alone, and those
            that the newest no longer has are taken out. None: the worker that started last sets
            its own, and none are taken out.
        **options: See `TaskQueueOptions`.

    Raises:
        TypeError: The source is neither a broker nor a queue; an option is unknown or has the
            wrong type.
        ValueError: An option is out of range, or is for a queue that exists already.
    """

    def __init__(
        self,
        source: Broker | LeasedQueue[str, Any] | None = None,
        *,
        name: str = "tasks",
        max_retries: int = DEFAULT_MAX_RETRIES,
        xcom_ttl: float = _XCOM_TTL,
        value_limit: int = _VALUE_LIMIT,
        unknown_for: float = _UNKNOWN_FOR,
        version: int | None = None,
        **options: Unpack[TaskQueueOptions],
    ) -> None:
        own = TaskQueue.__init__.__kwdefaults__ or ()
        check_known("TaskQueue", options, (*own, *TaskQueueOptions.__annotations__))
        check_text("name", name)
        name = queue_name(name)
        max_retries = whole_number("max_retries", max_retries, 0, "0 or more")
        xcom_ttl = lease_seconds("xcom_ttl", xcom_ttl)
        value_limit = whole_number("value_limit", value_limit, 1, "1 byte or more")
        unknown_for = wait_seconds("unknown_for", unknown_for)
        self._backend = Backend(name, xcom_ttl, value_limit, unknown_for, options)
        self._registry = Registry(max_retries, partial(run_here, self._backend))
        self._popped: dict[str, Lease[str, Any]] = {}
        if version is not None:
            version = whole_number("version", version, 0, "0 or more")
        self._version = version
        self._declared: dict[str, Terms] = {}
        if source is not None:
            self._backend.bind(source)

    def __repr__(self) -> str:
        return f"<TaskQueue {self.name!r}: {len(self._registry.functions)} functions>"

    @property
    def name(self) -> str:
        """Name of the queue in the broker."""
        return self._backend.name

    @property
    def max_retries(self) -> int:
        """Retries of a failed task whose function does not set them."""
        return self._registry.max_retries

    @property
    def xcom_ttl(self) -> float:
        """Seconds for which an XCom value is kept, unless the push sets them."""
        return self._backend.xcom_ttl

    @property
    def value_limit(self) -> int:
        """Bytes that one result or XCom value may have as JSON."""
        return self._backend.value_limit

    @property
    def unknown_for(self) -> float:
        """Seconds for which workers leave a task that they do not know to others."""
        return self._backend.unknown_for

    @property
    def version(self) -> int | None:
        """The version of the code, for the schedules that it declares."""
        return self._version

    def _apply(self, settings: QueueSettings) -> None:
        """Take over the defaults of a configuration."""
        if settings.default_max_retries is not None:
            self._registry.max_retries = settings.default_max_retries
        if settings.xcom_ttl_seconds is not None:
            self._backend.xcom_ttl = settings.xcom_ttl_seconds

    # The functions

    @property
    def functions(self) -> Mapping[str, TaskFunction[..., Any, Any]]:
        """The registered functions by name; read-only."""
        return MappingProxyType(self._registry.functions)

    @overload
    def task(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, T], T]: ...

    @overload
    def task(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        priority: int = Priority.NORMAL,
        max_retries: int | None = None,
        lease_timeout: float | None = None,
        ttl: float | None = None,
        result_ttl: float | None = None,
        xcom_key: str | None = None,
        run_in: RunIn = "thread",
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        priority: int = Priority.NORMAL,
        max_retries: int | None = None,
        lease_timeout: float | None = None,
        ttl: float | None = None,
        result_ttl: float | None = None,
        xcom_key: str | None = None,
        run_in: RunIn = "thread",
        **unknown: object,
    ) -> Any:
        """Register a function: ``@tasks.task`` or ``@tasks.task(priority=Priority.HIGH)``.

        The function can still be called as itself; ``function.task(...)`` makes a `Task` of a
        call.

        Args:
            function: An ``async def``, or an ordinary function, which runs as ``run_in`` says.
            name: Name of the function in the queue; None: its own. Workers find the function by
                this name, so producers and workers have to agree on it.
            priority: Priority of its tasks: one of `Priority`, or any int, the higher the sooner.
            max_retries: Retries of a failed task of it; None: those of the `TaskQueue`.
            lease_timeout: Seconds after which a task of it goes to another worker when its own
                has died; None: those of the queue. A living worker extends its leases.
            ttl: Seconds in which a task has to be started for the first time; None: no limit.
            result_ttl: Seconds for which the result is kept for `TaskQueue.result`; None: it is
                not kept.
            xcom_key: XCom key under which the result is pushed; None: it is not pushed.
            run_in: The place of an ordinary function. ``"thread"`` (the default): a worker thread,
                which cannot be stopped. ``"process"``: a process, which is killed when the lease
                is lost, ``max_runtime`` is over, or the worker is cancelled. The function is found
                there by its name, so it must be at the top of a module.
            **unknown: There are no other options.

        Raises:
            TypeError: It is not a function, or it is a generator; an option is unknown or has the
                wrong type.
            ValueError: The name is taken; a number is out of range; a result is to be kept, and
                there is no broker.

        O(1).
        """
        if unknown:
            check_known("@tasks.task", unknown, ("name", *TaskTerms.__dataclass_fields__))
        terms = TaskTerms(priority, max_retries, lease_timeout, ttl, result_ttl, xcom_key, run_in)

        def register(function: Callable[..., Any]) -> TaskFunction[..., Any, Any]:
            made = self._registry.define(function, name, terms)
            self._check_keeps(made)
            self._registry.add(made)
            return made

        return register if function is None else register(function)

    def _check_keeps(self, function: TaskFunction[..., Any, Any]) -> None:
        """Raise `ValueError` if the result of a function is to be kept, and there is no broker."""
        if self._backend.is_bound and function._definition.terms.keeps_result:
            self._backend.check_keeps(f"keeping the result of task {shown(function.name)}")

    # The source

    @contextmanager
    def bind(self, source: Broker | LeasedQueue[str, Any]) -> Iterator[None]:
        """Put the tasks into a broker or a queue, for a ``with`` block.

        Args:
            source: As for a `TaskQueue`.

        Raises:
            RuntimeError: It is bound already.
            TypeError: The source is neither a broker nor a queue.
            ValueError: There are options for the queue, and it exists already; or the result of a
                function is to be kept, or there are schedules, and the source is not a broker.

        O(functions and schedules).
        """
        self._backend.bind(source)
        try:
            for function in self._registry.functions.values():
                self._check_keeps(function)
            for name in self._declared:
                self._backend.check_keeps(f"the schedule {shown(name)}")
            yield
        finally:
            self._backend.unbind()
            self._popped.clear()

    @property
    def bound(self) -> bool:
        """True while there is a broker or a queue for the tasks."""
        return self._backend.is_bound

    async def open(self) -> LeasedQueue[str, Any]:
        """Return the queue that holds the tasks by their ids; made if it does not exist.

        For calls that this class does not have: `LeasedQueue.pause`, `LeasedQueue.redrive`,
        `LeasedQueue.set_tenant`, and so on.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The broker is closed.
            ValueError: The queue exists with other options.

        If cancelled, no queue was made. O(1).
        """
        return await self._backend.open()

    # Producers

    async def push(
        self,
        task: Task[T],
        *,
        tenant: str | None = None,
        priority: int | None = None,
        workflow: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
    ) -> Task[T]:
        """Queue a task for a worker.

        A task that is pushed again while it waits or runs is still one task.

        Args:
            task: The task.
            tenant: The tenant that the work belongs to. None: the task's own; or, inside of a
                task, the tenant of that.
            priority: One of `Priority`, or any int, the higher the sooner; None: the task's own.
            workflow: Namespace of its XCom values. None: inside of a task, the workflow of that;
                elsewhere the task is a workflow of its own.
            delay: Seconds until it may be started.
            ttl: Seconds in which it has to be started for the first time, or it is a dead letter;
                None: those of its function.

        Returns:
            The task as it was queued: with its tenant, priority and workflow.

        Raises:
            TypeError: It is not a task; the tenant or the workflow is not a string, or the
                priority not an int.
            ValueError: Its function is registered with another `TaskQueue`; or an option is
                refused by `LeasedQueue.put`.
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed or shut down.
            TimekeeperNotRunningError: There is a delay, and the broker's `run` was not started.

        Waits while the queue is full. If cancelled, the task was not queued. O(size of the task).
        """
        task = self._as_queued(task, tenant, priority, workflow)
        options = _put_options(task, delay, ttl)
        queue = await self._backend.open()
        await queue.put(task.id, encode_task(task), **options)
        return task

    async def push_many(
        self,
        tasks: Iterable[Task[T]],
        *,
        tenant: str | None = None,
        priority: int | None = None,
        workflow: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
    ) -> list[Task[T]]:
        """Queue several tasks in one step: all or none.

        Tasks that differ in tenant, priority or time to live take a transaction of the broker,
        which does not wait for room.

        Args:
            tasks: The tasks.
            tenant: As for `push`, for each of them; so are the others.
            priority: One of `Priority`, or any int.
            workflow: Namespace of their XCom values.
            delay: Seconds until they may be started.
            ttl: Seconds in which each has to be started for the first time.

        Returns:
            The tasks as they were queued.

        Raises:
            TransactionError: They differ, and there is no room for all of them.
            ValueError: They differ, and there is no broker; or as `push` does.
            TypeError, RuntimeError, QueueClosedError, TimekeeperNotRunningError: As `push` does.

        If cancelled, no task was queued. O(size of the tasks).
        """
        queued = [self._as_queued(task, tenant, priority, workflow) for task in tasks]
        options = [_put_options(task, delay, ttl) for task in queued]
        queue = await self._backend.open()
        if not queued:
            return []
        if all(each == options[0] for each in options):
            await queue.put_many([(task.id, encode_task(task)) for task in queued], **options[0])
            return queued
        purpose = "pushing tasks with different tenants or priorities in one step"
        async with self._backend.transaction(purpose) as transaction:
            for task, each in zip(queued, options, strict=True):
                transaction.put(queue, task.id, encode_task(task), **each)
        return queued

    def _as_queued(
        self, task: Task[T], tenant: str | None, priority: int | None, workflow: str | None
    ) -> Task[T]:
        if not isinstance(task, Task):
            raise TypeError(
                f"a task is made by function.task(...) or Task.create(...), not {shown(task)}"
            )
        function = task.function
        if task.name is not None and self._registry.functions.get(task.name) is not function:
            raise ValueError(
                f"{shown(task)} is not of a function of {self!r}, so its workers do not know it: "
                "push it to the TaskQueue that its function was decorated with"
            )
        check_text_or_none("tenant", tenant)
        check_text_or_none("workflow", workflow)
        run = current_run()
        if run is not None and run.backend is self._backend:
            tenant = tenant or task.tenant or run.task.tenant
            workflow = workflow or task.workflow or run.workflow
        return structs.replace(
            task,
            priority=task.priority if priority is None else check_priority(priority),
            tenant=task.tenant if tenant is None else tenant,
            workflow=workflow or task.workflow or task.id,
        )

    # Consumers without a worker

    async def pop(
        self,
        timeout: float | None = 0.0,
        *,
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
    ) -> Task[Any] | None:
        """Lease the next task, to be run by the caller, and deleted when it is done.

        A task that is not deleted before its lease expires goes to another consumer. A
        `TaskWorker` takes care of all this.

        Args:
            timeout: Seconds to wait for a task. 0 (the default): do not wait; None: without end.
            tenants: Tenants whose tasks are taken, in fair turn; None: all tenants.
            steal_from: With ``tenants``: tenants whose tasks are taken when those have none.

        Returns:
            The task; None if there was none in time.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed, or shut down and drained.
            TimekeeperNotRunningError: The broker's `run` was not started.
            ValueError: An option is out of range.

        If cancelled, no task was taken. O(log tenants), plus the tasks popped here and not yet
        deleted.
        """
        queue = await self._backend.open()
        self._popped = {id_: lease for id_, lease in self._popped.items() if _is_mine(lease)}
        while True:
            try:
                _, _, lease = await queue.get(timeout, tenants=tenants, steal_from=steal_from)
            except TimeoutError:
                return None
            try:
                task = decode_task(lease.key, lease.value, self._registry.functions)
            except TaskDataError as error:
                await lease.reject(str(error))
                continue
            self._popped[task.id] = lease
            return task

    async def get(self, task_id: str) -> Task[Any] | None:
        """Return a task that waits or runs, and leave it where it is; None if there is none.

        Args:
            task_id: Id of the task.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.
            TaskDataError: The key's value is not a task.

        If cancelled, nothing has changed. O(1).
        """
        task_id = _id_of("get", task_id)
        queue = await self._backend.open()
        _, wire = await queue._look(task_id)
        return None if wire is None else decode_task(task_id, wire, self._registry.functions)

    async def delete(self, task: Task[Any] | str) -> bool:
        """Remove a task that was popped here and is done, or one that waits.

        Args:
            task: The task, or its id.

        Returns:
            True if this call has removed it. False: it is not there; or it is leased to another
            consumer, and stays.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.
            LeaseCancelledError: It was popped here, and was cancelled since.

        If cancelled, the task was not removed. O(1).
        """
        task_id = _id_of("delete", task)
        queue = await self._backend.open()
        lease = self._popped.pop(task_id, None)
        if lease is None or not _is_mine(lease):
            return await queue.discard(task_id)
        await lease.ack()
        return True

    async def cancel(self, task: Task[Any] | str, *, reason: str = "") -> bool:
        """Cancel a task, whatever state it is in: it is not done, nor tried again.

        One that waits is dropped. One that runs is cancelled where it runs, cleans up, and leaves
        the queue when it has ended; see `LeasedQueue.cancel`. If its function keeps its results,
        `result` raises `TaskCancelledError` for as long as it would have kept them.

        Args:
            task: The task, or its id.
            reason: The reason, for those that wait for its result, and for the log of its worker.

        Returns:
            True if there was something to cancel; False: the task is done, was given up or
            cancelled before, or is not known.

        Raises:
            TypeError: It is no task and no id, or the reason is no string.
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.

        If cancelled before it was sent to a server, nothing has changed. O(log tenants).
        """
        task_id = _id_of("cancel", task)
        check_text("reason", reason)
        queue = await self._backend.open()
        ttl = await self._result_ttl(task, queue)
        values = [] if ttl is None else [cancellation_kept(task_id, reason_text(reason), ttl)]
        return await queue._cancel_and_keep(task_id, reason, values)

    async def _result_ttl(
        self, task: Task[Any] | str, queue: LeasedQueue[str, Any]
    ) -> float | None:
        """Return the seconds for which the result of a task is kept; None: it is not."""
        if not self._backend.keeps:
            return None
        if isinstance(task, str):
            _, wire = await queue._look(task)
            if wire is None:
                return None
            try:
                task = decode_task(task, wire, self._registry.functions)
            except TaskDataError:  # its data fit no function here
                return None
        function = task.function
        return None if function is None else function._definition.terms.result_ttl

    async def state(self, task: Task[Any] | str) -> TaskState:
        """Return the state of a task.

        Args:
            task: The task, or its id.

        Returns:
            ``"ready"``, ``"delayed"`` or ``"running"``; then, for as long as its function keeps
            its results, ``"done"``, ``"failed"`` or ``"cancelled"``. ``"unknown"``: it is not in
            the queue, and there is no result of it. A cancelled task is ``"running"`` until it has
            cleaned up.

        Raises:
            TypeError: It is no task and no id.
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.

        If cancelled, nothing has changed. O(1).
        """
        task_id = _id_of("state", task)
        queue = await self._backend.open()
        state = await queue.state(task_id)
        if state == "leased":
            return "running"
        if state != "absent":
            return state
        if not self._backend.keeps:
            return "unknown"
        try:
            outcome = read_kept(await queue._recall(result_name(task_id), 0))
        except TimeoutError:
            return "unknown"
        if "failed" in outcome:
            return "failed"
        return "cancelled" if "cancelled" in outcome else "done"

    async def stats(self, *, tenants: bool = False) -> Statistics:
        """Return the counts of the queue, as `LeasedQueue.statistics` does.

        Args:
            tenants: True to include the counts of each tenant.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.

        If cancelled, nothing has changed. O(1); with tenants O(tenants).
        """
        queue = await self._backend.open()
        return await queue.statistics(tenants=tenants)

    async def shutdown(self) -> None:
        """Refuse new tasks; workers end when the queue is drained. See `LeasedQueue.shutdown`.

        Raises:
            RuntimeError: There is no broker yet.

        Takes effect even if cancelled. O(waiting consumers).
        """
        queue = await self._backend.open()
        await queue.shutdown()

    async def join(self) -> None:
        """Wait until all tasks are done or given up.

        Raises:
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.

        If cancelled, nothing has changed. O(1).
        """
        queue = await self._backend.open()
        await queue.join()

    # Results

    @overload
    async def result(self, task: Task[T], timeout: float | None = None) -> T: ...

    @overload
    async def result(self, task: str, timeout: float | None = None) -> Any: ...

    async def result(self, task: Task[Any] | str, timeout: float | None = None) -> Any:
        """Wait until a task is done, and return its result.

        Its function has to keep it: ``@tasks.task(result_ttl=3600)``. Until that time is over,
        the result can be read again, and by other callers.

        Args:
            task: The task; or its id, and the result is as JSON has it.
            timeout: Seconds to wait. None: without end; 0 or less: do not wait. A task that is
                never started, because its time to live is over, has no result.

        Raises:
            TimeoutError: There was no result in time.
            TaskFailedError: The task was given up.
            TaskCancelledError: It was cancelled.
            ResultLostError: The task has succeeded, and the store had no room for its result.
            ValueError: Its function does not keep its result, or there is no broker.
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.

        If cancelled, nothing has changed. O(size of the result).
        """
        task_id = _id_of("result", task)
        function = None if isinstance(task, str) else task.function
        definition = None if function is None else function._definition
        if not isinstance(task, str) and (
            definition is None or definition.terms.result_ttl is None
        ):
            raise ValueError(
                f"{shown(task)} does not keep its result: decorate its function with "
                "@tasks.task(result_ttl=3600)"
            )
        name, purpose = result_name(task_id), f"the result of {shown(task_id)}"
        try:
            outcome = await self._backend.recall(name, timeout, purpose)
        except TimeoutError:
            raise TimeoutError(f"no result of task {shown(task_id)} within {timeout} s") from None
        if "failed" in outcome:
            raise TaskFailedError(task_id, outcome["failed"])
        if "cancelled" in outcome:
            raise TaskCancelledError(task_id, outcome["cancelled"])
        if outcome == LOST:
            raise ResultLostError(task_id)
        result = outcome["value"]
        return result if definition is None else definition.signature.typed_result(result)

    # Schedules

    async def schedule(
        self,
        name: str,
        task: Task[Any],
        *,
        cron: str | None = None,
        every: float | None = None,
        tz: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: CatchUp = "latest",
        overlap: Overlap = "skip",
        grace: float = _GRACE,
        jitter: float = 0.0,
        tenant: str | None = None,
        priority: int | None = None,
        ttl: float | None = None,
        **unknown: Never,
    ) -> Schedule:
        """Have workers run a task again and again: ``cron="0 9 * * 1-5", tz="Europe/Berlin"``.

        The schedule is kept in the broker, until `unschedule` or its end; any worker of the queue
        runs what is due, and no other process is needed. A schedule of this name that is there gets
        these options and this task in one step, and goes on: only another ``cron``, ``every``,
        ``tz``, ``start`` or ``end`` has it begin anew, with the first slot from now on.

        Each slot is run once at most, and within ``grace`` while a worker lives. A run is a task
        like any other: it may be tried again. Its id is ``name@slot``, with the slot in UTC; it has
        both as `Task.schedule` and `Task.slot`, and is a workflow of its own.

        Args:
            name: The name: a string of 1 to 256 bytes in UTF-8.
            task: The task that each run is made of.
            cron: A cron expression of five fields, as Debian's cron has it, or of six, the first of
                which are seconds. See `CronSim <https://github.com/cuu508/cronsim>`_.
            every: In place of it: seconds between two slots, from 1 to a hundred years. The slots
                are multiples of it since ``start``; without that, since the epoch.
            tz: The time zone of the expression. When the clock is put forward, a slot at a fixed
                hour that does not come is run at the first moment after; when it is put back, one
                whose hour comes twice is run the first time. Expressions with ``*`` for the minute
                or the hour go by the time that passes.
            start: The time from which there are slots; one without a zone is one of ``tz``.
            end: The time up to which there are slots; then the schedule is gone.
            catch_up: The policy for slots that are late, because no worker was there.
                ``"latest"``: the latest of them is run, unless the next one has come too;
                ``"none"``: none; ``"all"``: each, in their order, but no more than the latest
                1,000. The log says which are left out.
            overlap: The policy for a slot while a run before it waits or runs. ``"skip"``: it is
                left out, and of several slots that are due at a time all but the last one are;
                ``"wait"``: it is run when that one is done; ``"allow"``: it is run.
            grace: Seconds after which a slot is late, from the end of the longest jitter on; 1 or
                more.
            jitter: Each slot is put off by up to so many seconds, always by the same for one name
                and slot. Their order stays the same.
            tenant: The tenant that the runs belong to; None: the task's own.
            priority: One of `Priority`, or any int, the higher the sooner; None: the task's own.
            ttl: Seconds in which each run has to be started for the first time; None: those of the
                function.
            **unknown: There are no other options.

        Returns:
            The schedule, with its next slot.

        Raises:
            TypeError: The name is not a string, or the task not one; an option is unknown or has
                the wrong type.
            ValueError: The expression is none, with the reason; the zone is unknown; there are both
                ``cron`` and ``every``, or neither; a number is out of range; ``catch_up="all"``
                goes with ``overlap="skip"``; there is no slot from now on; there is no broker.
            ModuleNotFoundError: There is an expression, and cronsim is not installed.
            RuntimeError: There is no broker yet.
            QueueClosedError: The queue is closed.
            TimekeeperNotRunningError: The broker's `run` was not started.

        If cancelled, the schedule is as it was. O(size of the task).
        """
        if unknown:
            check_known("schedule", unknown, TaskQueue.schedule.__kwdefaults__ or ())
        terms = self._terms(
            name,
            task,
            tenant=tenant,
            priority=priority,
            ttl=ttl,
            rule={
                "cron": cron,
                "every": every,
                "tz": tz,
                "start": start,
                "end": end,
                "catch_up": catch_up,
                "overlap": overlap,
                "grace": grace,
                "jitter": jitter,
            },
        )
        timetable = await self._backend.timetable(f"the schedule {shown(name)}")
        stored = await timetable.store(name, terms)
        if stored is None:
            raise ValueError(f"the schedule {shown(name)} has no slot from now on: end={end}")
        return report(name, stored, self._registry.functions)

    def scheduled(
        self,
        name: str | None = None,
        *,
        arguments: Mapping[str, object] | None = None,
        cron: str | None = None,
        every: float | None = None,
        tz: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: CatchUp = "latest",
        overlap: Overlap = "skip",
        grace: float = _GRACE,
        jitter: float = 0.0,
        tenant: str | None = None,
        priority: int | None = None,
        ttl: float | None = None,
        **unknown: Never,
    ) -> Callable[[F], F]:
        """Declare a schedule of a function: ``@tasks.scheduled(cron="0 3 * * *")``.

        It stands above ``@tasks.task``, as often as the function has schedules. A worker stores the
        schedules of its code when it starts, by the ``version`` of the `TaskQueue`. They are then
        as if `schedule` had been called; one by a call that has the same name is taken over.

        Args:
            name: The name; None: that of the function.
            arguments: The arguments of each call, by the names of the parameters; None: none.
            cron: As for `schedule`; so are the others.
            every: Seconds between two slots.
            tz: The time zone of the expression.
            start: The time from which there are slots.
            end: The time up to which there are slots.
            catch_up: The policy for slots that are late.
            overlap: The policy for a slot while a run before it waits or runs.
            grace: Seconds after which a slot is late.
            jitter: Seconds by which a slot is put off at most.
            tenant: The tenant that the runs belong to.
            priority: One of `Priority`, or any int.
            ttl: Seconds in which each run has to be started for the first time.
            **unknown: There are no other options.

        Raises:
            TypeError: As `schedule` does; it is not a function of this `TaskQueue`, or does not
                take these arguments.
            ValueError: As `schedule` does; there is a schedule of this name in the code already.
            TaskDataError: An argument does not match its annotation, or cannot be written as JSON.

        O(size of the arguments).
        """
        if unknown:
            check_known("scheduled", unknown, ("name", *(TaskQueue.scheduled.__kwdefaults__ or ())))
        rule = make_rule(
            cron=cron,
            every=every,
            tz=tz,
            start=start,
            end=end,
            catch_up=catch_up,
            overlap=overlap,
            grace=grace,
            jitter=jitter,
        )
        if name is not None:
            name = schedule_name(name)
        if not isinstance(arguments, Mapping | None):
            raise TypeError(
                "arguments must be a mapping of names of parameters to values, or None, not "
                f"{shown(arguments)}"
            )

        def declare(function: F) -> F:
            if not isinstance(function, TaskFunction):
                raise TypeError(
                    f"{shown(function)} is not a task: write @tasks.scheduled(...) above "
                    "@tasks.task"
                )
            own = schedule_name(function.name) if name is None else name
            if own in self._declared:
                raise ValueError(
                    f"there is a schedule {shown(own)} already: give one of the two another name"
                )
            task = function.task(**(arguments or {}))
            terms = self._terms(own, task, tenant=tenant, priority=priority, ttl=ttl, rule=rule)
            if self._backend.is_bound:
                self._backend.check_keeps(f"the schedule {shown(own)}")
            self._declared[own] = replace(terms, declared=True, version=self._version)
            return function

        return declare

    def _terms(
        self,
        name: str,
        task: Task[Any],
        *,
        tenant: str | None,
        priority: int | None,
        ttl: float | None,
        rule: Rule | dict[str, Any],
    ) -> Terms:
        """Return the checked terms of a schedule."""
        schedule_name(name)
        queued = self._as_queued(task, tenant, priority, None)
        put_options = _put_options(queued, 0.0, ttl)
        PutRequest("schedule", **put_options)
        if not isinstance(rule, Rule):
            rule = make_rule(**rule)
        wire = encode_task(structs.replace(queued, workflow=None, schedule=None, slot=None))
        seconds = put_options.get("ttl")
        return Terms(rule, wire, None if seconds is None else float(seconds))

    async def schedules(self) -> list[Schedule]:
        """Return all schedules of the queue, in the order of their names.

        Raises:
            RuntimeError: There is no broker yet.
            ValueError: There is no broker, but only a queue.
            QueueClosedError: The queue is closed.
            TaskDataError: A schedule was written by another version of the library, and cannot be
                read.

        If cancelled, nothing has changed. O(schedules): on a server a round trip for each.
        """
        timetable = await self._backend.find_timetable("schedules")
        found = {} if timetable is None else await timetable.all()
        return [report(name, stored, self._registry.functions) for name, stored in found.items()]

    async def unschedule(self, name: str) -> bool:
        """Take a schedule out: once this returns, no slot of it is run. What was run already stays.

        One of `scheduled` is back at the next start of a worker: take it out of the code too.

        Args:
            name: The name.

        Returns:
            True if there was one.

        Raises:
            TypeError, ValueError: The name is that of no schedule.
            RuntimeError, ValueError, QueueClosedError, TimekeeperNotRunningError: As `schedule`
                does.

        If cancelled, the schedule is as it was. O(1).
        """
        timetable, name = await self._find_timetable(name)
        return timetable is not None and await timetable.remove(name)

    async def pause_schedule(self, name: str, *, reason: str = "") -> None:
        """Have a schedule run no slots, until `resume_schedule`. Runs that wait or run go on.

        Pausing it again changes the reason.

        Args:
            name: The name.
            reason: The reason, for `schedules` and operators.

        Raises:
            LookupError: There is no such schedule.
            TypeError: The name or the reason is not a string.
            RuntimeError, ValueError, QueueClosedError, TimekeeperNotRunningError: As `schedule`
                does.

        If cancelled, the schedule is as it was. O(1).
        """
        reason = reason_text(reason)
        timetable, name = await self._find_timetable(name)
        if timetable is None or not await timetable.pause(name, reason):
            raise self._unknown_schedule(name)

    async def resume_schedule(self, name: str) -> None:
        """Have a paused schedule run its slots again, from now on. One that is not stays as it is.

        The slots of the pause are not run.

        Args:
            name: The name.

        Raises:
            LookupError: There is no such schedule.
            TypeError: The name is not a string.
            RuntimeError, ValueError, QueueClosedError, TimekeeperNotRunningError: As `schedule`
                does.

        If cancelled, the schedule is as it was. O(1).
        """
        timetable, name = await self._find_timetable(name)
        if timetable is None or not await timetable.resume(name):
            raise self._unknown_schedule(name)

    async def run_now(self, name: str) -> Task[Any]:
        """Run the task of a schedule once now, whatever its slots, a pause or an earlier run.

        Its slots are run as before; with ``overlap="skip"`` or ``"wait"`` they take this run into
        account.

        Args:
            name: The name.

        Returns:
            The task as it was queued.

        Raises:
            LookupError: There is no such schedule.
            TypeError: The name is not a string.
            RuntimeError, ValueError, QueueClosedError, TimekeeperNotRunningError: As `schedule`
                does.

        If cancelled, nothing was run. O(size of the task).
        """
        timetable, name = await self._find_timetable(name)
        run = None if timetable is None else await timetable.run_now(name)
        if run is None:
            raise self._unknown_schedule(name)
        return decode_task(*run, self._registry.functions)

    async def _find_timetable(self, name: str) -> tuple[Timetable | None, str]:
        name = schedule_name(name)
        return await self._backend.find_timetable(f"the schedule {shown(name)}"), name

    def _unknown_schedule(self, name: str) -> LookupError:
        return LookupError(f"{self!r} has no schedule {shown(name)}")

    async def _store_declared(self) -> None:
        """Store the schedules of the code, at the start of a worker."""
        if self._declared:
            timetable: Timetable | None = await self._backend.timetable("a schedule")
        elif self._backend.keeps:
            timetable = await self._backend.find_timetable("a schedule")
        else:
            return
        if timetable is not None:
            await timetable.reconcile(self._declared, self._version)


def _is_mine(lease: Lease[str, Any]) -> bool:
    """Return True if a task that was popped is still to be deleted, also one that was cancelled."""
    if lease.ended == "cancelled":
        return lease.deadline > current_time()
    return lease.ended is None


def _id_of(call: str, task: Task[Any] | str) -> str:
    if isinstance(task, str):
        return task
    if not isinstance(task, Task):
        raise TypeError(f"{call}() takes a task or its id, not {shown(task)}")
    return task.id


def source_of(tasks: TaskQueue) -> Broker | LeasedQueue[str, Any]:
    """Return the broker or the queue that the tasks are in.

    Raises:
        RuntimeError: There is none yet.
    """
    return tasks._backend.source


def _put_options(task: Task[Any], delay: float, ttl: float | None) -> PutOptions:
    options: PutOptions = {"priority": task.priority}
    if task.tenant is not None:
        options["tenant"] = task.tenant
    if delay := delay_seconds(delay):
        options["delay"] = delay
    if ttl is None and task.function is not None:
        ttl = task.function._definition.terms.ttl
    if ttl is not None:
        options["ttl"] = ttl
    return options
