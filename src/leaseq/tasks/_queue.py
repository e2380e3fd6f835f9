"""A queue of tasks, with the functions that they stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, Unpack, overload

from .._core.lease import Lease
from .._core.options import PutOptions
from .._core.reports import Statistics
from .._core.validation import lease_seconds
from ..abc import Broker, LeasedQueue
from ._backend import Place, TaskQueueOptions, queue_options
from ._context import current_run
from ._errors import TaskDataError, TaskFailedError, ValueTooLargeError
from ._execution import run_here
from ._function import TaskFunction
from ._registry import TaskRegistry
from ._task import DEFAULT_MAX_RETRIES, Task, check_priority, check_retries, check_tenant

__all__ = ["TaskQueue"]

T = TypeVar("T")

_VALUE_LIMIT = 1_000_000
_XCOM_TTL = 3600.0


class TaskQueue(TaskRegistry):
    """A queue of tasks, fair between tenants, with a registry of its own.

    Made where the functions are, often as a module's global: it does nothing by itself. Its queue
    is made in the broker when it is first needed.

    Args:
        source: A `Broker`; or a `LeasedQueue`, which keeps neither results nor XCom; or None:
            `bind` says it later.
        name: What its queue is called in the broker. Dead letters are in ``<name>.dead``, results
            in ``<name>.results``, XCom in ``<name>.xcom``.
        max_retries: How often a task is tried again when it has failed, where it says nothing.
        xcom_ttl: Seconds for which XCom values are kept, where a push says nothing.
        value_limit: Bytes that one result or XCom value may have as JSON.
        **options: As `TaskQueueOptions` has them.

    Raises:
        TypeError: the source is none; there is no such option.
        ValueError: an option has a value that it cannot have; or it is for a queue that is made
            already.
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
        super().__init__()
        if value_limit < 1:
            raise ValueError(f"value_limit must be 1 byte or more, not {value_limit!r}")
        lease_seconds("xcom_ttl", xcom_ttl)
        self.name = name
        self.max_retries = check_retries(max_retries)
        self.xcom_ttl = xcom_ttl
        self.value_limit = value_limit
        queue_options(options)
        self._options = options
        self._place = None if source is None else Place(source, name, **options)
        self._popped: dict[str, Lease[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<TaskQueue {self.name!r}: {len(self._functions)} functions>"

    # Where it is

    @contextmanager
    def bind(self, source: Broker | LeasedQueue[str, Any]) -> Iterator[None]:
        """Say where the tasks go, for a ``with`` block.

        Raises:
            RuntimeError: that is said already.
            TypeError, ValueError: as for the ``source`` of a `TaskQueue`; or a function's results
                are to be kept, and it is not a broker.
        """
        if self._place is not None:
            raise RuntimeError(f"{self!r} has a place for its tasks already: bind it once")
        place = self._place = Place(source, self.name, **self._options)
        try:
            for function in self._functions.values():
                self.check_keeps(function)
            yield
        finally:
            assert self._place is place
            self._place = None
            self._popped.clear()

    @property
    def bound(self) -> bool:
        """Whether there is a place for its tasks."""
        return self._place is not None

    @property
    def place(self) -> Place:
        """Where the tasks are.

        Raises:
            RuntimeError: nothing has said so.
        """
        if self._place is None:
            raise RuntimeError(
                f"{self!r} has no broker yet: write TaskQueue(leaseq.connect(url)), or "
                "`with tasks.bind(broker):` around what uses it"
            )
        return self._place

    async def open(self) -> LeasedQueue[str, Any]:
        """The queue that holds the tasks, under their ids; made if it is not there.

        For all that this class has no call for: `LeasedQueue.redrive`, `LeasedQueue.set_tenant`,
        and so on.

        Raises:
            RuntimeError: there is no broker yet.
            QueueClosedError, ValueError: as `Broker.queue` does.

        If cancelled, nothing was made. O(1).
        """
        return await self.place.open()

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
        """Queue a task, for a worker to do.

        A task that is pushed again while it waits or runs is still one task.

        Args:
            task: What is to be done.
            tenant: Whose work it is. None: what the task says; or, inside a task, whose that is.
            priority: One of `Priority`, or any int; None: what the task says.
            workflow: What its XCom values are found under. None: inside a task, that one's; else
                the task is a workflow of its own.
            delay: Seconds until it may be done.
            ttl: Seconds in which it must have been started for the first time, or it is a dead
                letter; None: what its function says.

        Returns:
            The task as it was queued: with its tenant, priority and workflow.

        Raises:
            TypeError: it is not a task; the tenant is not a string, or the priority not an int.
            ValueError: its function is another `TaskQueue`'s; or as `LeasedQueue.put` does.
            RuntimeError: there is no broker yet.
            QueueClosedError, TimekeeperNotRunningError: as `LeasedQueue.put` does.

        Waits while the queue is full. If cancelled, nothing was queued. O(size of the task).
        """
        task = self._as_queued(task, tenant, priority, workflow)
        options = _put_options(task, delay, ttl)
        queue = await self.open()
        await queue.put(task.id, task.to_wire(), **options)
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
        """Queue tasks in one step: all or none. Arguments and errors are those of `push`.

        Where they are not all alike in tenant, priority and time to live, that takes a transaction
        of the broker, which does not wait for room.

        Raises:
            TransactionError: they are not alike, and there is no room for all.
            ValueError: they are not alike, and there is no broker.

        If cancelled, nothing was queued. O(size of the tasks).
        """
        queued = [self._as_queued(task, tenant, priority, workflow) for task in tasks]
        options = [_put_options(task, delay, ttl) for task in queued]
        queue = await self.open()
        if not queued:
            return []
        if all(each == options[0] for each in options):
            await queue.put_many([(task.id, task.to_wire()) for task in queued], **options[0])
            return queued
        what = "pushing tasks with different tenants or priorities in one step"
        async with self.place.transaction(what) as transaction:
            for task, each in zip(queued, options, strict=True):
                transaction.put(queue, task.id, task.to_wire(), **each)
        return queued

    def _as_queued(
        self, task: Task[T], tenant: str | None, priority: int | None, workflow: str | None
    ) -> Task[T]:
        if not isinstance(task, Task):
            raise TypeError(
                f"a task is made by function.task(...) or Task.create(...): {task!r} is none"
            )
        function = task.function
        if task.name is not None and self._functions.get(task.name) is not function:
            raise ValueError(
                f"{task!r} is not of a function of {self!r}: no worker of it would know it; push "
                "it to the TaskQueue that its function was decorated with"
            )
        run = current_run()
        if run is not None and run.tasks is self:
            tenant = tenant or task.tenant or run.task.tenant
            workflow = workflow or task.workflow or run.workflow
        return Task(
            task.id,
            task.name,
            task.arguments,
            task.payload,
            task.priority if priority is None else check_priority(priority),
            task.tenant if tenant is None else check_tenant(tenant),
            task.max_retries,
            workflow or task.workflow or task.id,
            task.made_at,
            function,
        )

    # Consumers by hand

    async def pop(
        self,
        timeout: float | None = 0.0,
        *,
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
    ) -> Task[Any] | None:
        """Lease the next task, to be done by hand, and to be deleted when it is done.

        A task that is not deleted before its lease is over goes to somebody else. A `TaskWorker`
        does all of it.

        Args:
            timeout: Seconds to wait for one; 0 (the default): do not wait; None: without end.
            tenants: Whose tasks alone will do, in fair turn; None: anybody's.
            steal_from: With ``tenants``: whose will do too when those have none.

        Returns:
            The task; None: there was none in time.

        Raises:
            QueueClosedError, TimekeeperNotRunningError, ValueError: as `LeasedQueue.get` does.

        If cancelled, nothing was taken. O(log tenants), plus the tasks popped here and not yet
        deleted.
        """
        queue = await self.open()
        self._popped = {id_: lease for id_, lease in self._popped.items() if lease.ended is None}
        while True:
            try:
                _, _, lease = await queue.get(timeout, tenants=tenants, steal_from=steal_from)
            except TimeoutError:
                return None
            try:
                task = self.read(lease)
            except TaskDataError as error:
                await lease.reject(str(error))
                continue
            self._popped[task.id] = lease
            return task

    async def get(self, task_id: str) -> Task[Any] | None:
        """The task of an id that waits or runs; None: there is none. It is only looked at. O(1)."""
        queue = await self.open()
        wire = await queue.peek(task_id)
        return None if wire is None else Task.from_wire(task_id, wire, self._functions)

    async def delete(self, task: Task[Any] | str) -> bool:
        """Take out a task that was popped here and is done, or one that waits.

        Args:
            task: The task, or its id.

        Returns:
            Whether it is gone by this call. False: it was not there; or it is in other hands, or
            delayed, and stays.

        If cancelled, nothing was deleted. O(1).
        """
        task_id = task if isinstance(task, str) else task.id
        queue = await self.open()
        lease = self._popped.pop(task_id, None)
        if lease is None or lease.ended is not None:
            try:
                _, _, lease = await queue.take(task_id, timeout=0)
            except TimeoutError:
                return False
        await lease.ack()
        return True

    async def stats(self, *, tenants: bool = False) -> Statistics:
        """Counts of what waits and runs, and of what has happened: `LeasedQueue.statistics`.

        Args:
            tenants: Whether to tell it for each tenant, too.

        O(1); with tenants O(tenants).
        """
        queue = await self.open()
        return await queue.statistics(tenants=tenants)

    async def shutdown(self) -> None:
        """Say that nothing more is coming: workers end when all is done. `LeasedQueue.shutdown`."""
        queue = await self.open()
        await queue.shutdown()

    async def join(self) -> None:
        """Wait until all tasks are done or given up. If cancelled, nothing has changed."""
        queue = await self.open()
        await queue.join()

    # Results

    @overload
    async def result(self, task: Task[T], timeout: float | None = None) -> T: ...

    @overload
    async def result(self, task: str, timeout: float | None = None) -> Any: ...

    async def result(self, task: Task[Any] | str, timeout: float | None = None) -> Any:
        """What a task has returned, as soon as it has.

        Its function has to keep it: ``@tasks.task(result_ttl=3600)``. It can be asked for again,
        and by others, until that time is over.

        Args:
            task: The task; or its id, and the result is as JSON has it.
            timeout: Seconds to wait for it, None: without end; 0: do not wait. A task that is
                never started, because its time to live was over, has no result.

        Raises:
            TimeoutError: it did not come in time.
            TaskFailedError: the task was given up.
            ValueError: its function does not keep its result; there is no broker that has it.
            TimekeeperNotRunningError: it is to be waited for, and the broker's `run` was not
                started.

        If cancelled, nothing has changed. O(size of the result).
        """
        task_id = task if isinstance(task, str) else task.id
        function = None if isinstance(task, str) else task.function
        if not isinstance(task, str) and (function is None or function.terms.result_ttl is None):
            raise ValueError(
                f"{task!r} does not keep its result: decorate its function with "
                "@tasks.task(result_ttl=3600)"
            )
        store = await self.place.store("results", f"the result of {task_id!r}")
        try:
            outcome = await store.wait(task_id, timeout)
        except TimeoutError:
            raise TimeoutError(f"no result of task {task_id!r} within {timeout} s") from None
        if "failed" in outcome:
            raise TaskFailedError(task_id, outcome["failed"])
        result = outcome["result"]
        return result if function is None else function.signature.typed_result(result)

    # For workers, and for `await task()`

    def read(self, lease: Lease[str, Any]) -> Task[Any]:
        """The task that a lease holds.

        Raises:
            TaskDataError: it holds something else.
        """
        return Task.from_wire(lease.key, lease.value, self._functions)

    def check_keeps(self, function: TaskFunction[..., Any, Any]) -> None:
        """See that what a function returns can be kept, if it is to be.

        Raises:
            ValueError: there is no broker.
        """
        if self._place is not None and function.terms.keeps_something:
            self._place.check_keeps(f"what task {function.name!r} returns")

    def within_limit(self, plain: T, size: int, what: str) -> T:
        """A plain value, if it is not too large to be kept.

        Raises:
            ValueTooLargeError: it is.
        """
        if size > self.value_limit:
            raise ValueTooLargeError(
                f"{what} has {size} bytes as JSON, and value_limit is {self.value_limit}: store "
                "it elsewhere, and keep where"
            )
        return plain

    async def run_here(self, task: Task[T]) -> T:
        """Do a task here and now: `Task.__call__`."""
        return await run_here(self, task)


def _put_options(task: Task[Any], delay: float, ttl: float | None) -> PutOptions:
    options: PutOptions = {"priority": task.priority}
    if task.tenant is not None:
        options["tenant"] = task.tenant
    if delay:
        options["delay"] = delay
    if ttl is None and task.function is not None:
        ttl = task.function.terms.ttl
    if ttl is not None:
        options["ttl"] = ttl
    return options
