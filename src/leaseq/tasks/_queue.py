"""A queue of tasks, with the functions that they call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from msgspec import structs

from .._core.options import PutOptions
from .._core.policies import Priority
from .._core.queue_options import check_name
from .._core.reports import Statistics
from .._core.texts import shown
from .._core.validation import (
    check_known,
    check_priority,
    check_text,
    check_text_or_none,
    lease_seconds,
    whole_number,
)
from ..abc import Broker, LeasedQueue
from ..abc._lease import Lease
from ._backend import Backend, TaskQueueOptions
from ._config import QueueSettings
from ._context import current_run
from ._errors import TaskDataError, TaskFailedError
from ._execution import run_here
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

P = ParamSpec("P")
T = TypeVar("T")

_VALUE_LIMIT = 1_000_000
_XCOM_TTL = 3600.0


class TaskQueue:
    """A queue of tasks, fair between tenants, with a registry of its own.

    Made beside the functions, often as a global of a module: making it has no effect elsewhere.
    The queue in the broker is made on first use.

    Args:
        source: A `Broker`; or a `LeasedQueue`, which keeps neither results nor XCom values; or
            None: `bind` gives it later.
        name: Name of the queue in the broker. Dead letters are in ``<name>.dead``, results in
            ``<name>.results``, XCom values in ``<name>.xcom``.
        max_retries: Retries of a failed task whose function does not set them.
        xcom_ttl: Seconds for which an XCom value is kept, unless the push sets them.
        value_limit: Bytes that one result or XCom value may have as JSON.
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
        **options: Unpack[TaskQueueOptions],
    ) -> None:
        own = TaskQueue.__init__.__kwdefaults__ or ()
        check_known("TaskQueue", options, (*own, *TaskQueueOptions.__annotations__))
        check_text("name", name)
        check_name(name)
        max_retries = whole_number("max_retries", max_retries, 0, "0 or more")
        xcom_ttl = lease_seconds("xcom_ttl", xcom_ttl)
        value_limit = whole_number("value_limit", value_limit, 1, "1 byte or more")
        self._backend = Backend(name, xcom_ttl, value_limit, options)
        self._registry = Registry(max_retries, partial(run_here, self._backend))
        self._popped: dict[str, Lease[str, Any]] = {}
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
        **unknown: object,
    ) -> Any:
        """Register a function: ``@tasks.task`` or ``@tasks.task(priority=Priority.HIGH)``.

        The function can still be called as itself; ``function.task(...)`` makes a `Task` of a
        call.

        Args:
            function: An ``async def``, or an ordinary function, which runs in a worker thread.
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
        terms = TaskTerms(priority, max_retries, lease_timeout, ttl, result_ttl, xcom_key)

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
                function is to be kept, and the source is not a broker.

        O(functions).
        """
        self._backend.bind(source)
        try:
            for function in self._registry.functions.values():
                self._check_keeps(function)
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

        For calls that this class does not have: `LeasedQueue.redrive`, `LeasedQueue.set_tenant`,
        and so on.

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
        self._popped = {id_: lease for id_, lease in self._popped.items() if lease.ended is None}
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

        If cancelled, the task was not removed. O(1).
        """
        task_id = _id_of("delete", task)
        queue = await self._backend.open()
        lease = self._popped.pop(task_id, None)
        if lease is None or lease.ended is not None:
            return await queue.discard(task_id)
        await lease.ack()
        return True

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
            ValueError: Its function does not keep its result, or there is no broker.
            RuntimeError: There is no broker yet.
            TimekeeperNotRunningError: The call has to wait, and the broker's `run` was not
                started.

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
        results = await self._backend.results(f"the result of {shown(task_id)}")
        try:
            outcome = await results.wait(task_id, timeout)
        except TimeoutError:
            raise TimeoutError(f"no result of task {shown(task_id)} within {timeout} s") from None
        if "failed" in outcome:
            raise TaskFailedError(task_id, outcome["failed"])
        result = outcome["result"]
        return result if definition is None else definition.signature.typed_result(result)


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
    if delay != 0:
        options["delay"] = delay
    if ttl is None and task.function is not None:
        ttl = task.function._definition.terms.ttl
    if ttl is not None:
        options["ttl"] = ttl
    return options
