"""The run of a task, and the values that are kept when it ends."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec

from .._core.functions import check_has_run, run_in_thread
from .._core.kept import Kept
from .._core.process_pool import Processes
from .._core.texts import shown
from ..abc._lease import Lease
from ._backend import Backend
from ._context import Run, current_run, enter_run, leave_run
from ._results import failure_kept, result_name, value_kept
from ._task import Task
from ._task_in_process import execute_elsewhere

T = TypeVar("T")


async def run_here(backend: Backend, task: Task[T]) -> T:
    """Run a task in this process without a queue; inside of its own run, as a part of that."""
    run = current_run()
    if run is not None and run.task.id == task.id:  # called by a handler, for its own task
        return await execute(run)  # type: ignore[no-any-return]
    if run is not None and run.backend is backend and task.workflow is None:
        task = msgspec.structs.replace(task, workflow=run.workflow)
    run = Run(task, backend)
    token = enter_run(run)
    try:
        result: T = await execute(run)
    finally:
        leave_run(token)
    values = values_of(run, result, queued=False)
    if values:
        queue = await backend.open()
        await queue._keep(values)
    return result


async def execute(run: Run) -> Any:
    """Call the function of a task with its arguments, and return its result."""
    definition = run.definition
    assert definition is not None
    function = definition.function
    if definition.terms.run_in == "process":
        if run.processes is not None:
            return await execute_elsewhere(run, definition, run.processes)
        async with Processes() as processes:
            return await execute_elsewhere(run, definition, processes)
    args, kwargs = definition.signature.unbind(run.task.arguments)
    if not definition.is_async:
        return await run_in_thread(partial(function, **kwargs), *args, limiter=run.threads)
    result = await function(*args, **kwargs)
    await check_has_run(result)
    return result


def values_of(run: Run, result: object, *, queued: bool = True) -> list[Kept]:
    """Return the values to keep now that a task has succeeded: its result, and what it has pushed.

    Args:
        run: The run.
        result: The value that its function has returned.
        queued: False: it did not come from a queue, and keeps no result.

    Raises:
        TaskDataError: The result cannot be kept.
    """
    definition = run.definition
    values: list[Kept] = []
    if definition is not None:
        ttl, xcom_key = definition.terms.result_ttl, definition.terms.xcom_key
        if ttl is not None or xcom_key is not None:
            data = definition.signature.json_result(result)
            if len(data) > run.backend.value_limit:
                run.backend.check_size(len(data), f"the result of task {shown(definition.name)}")
            if xcom_key is not None:
                run.keep(xcom_key, data, None)
            if ttl is not None and queued:
                values.append(value_kept(result_name(run.task.id), data, ttl))
    if run.pushes is not None:
        values += [value_kept(name, data, ttl) for name, (data, ttl) in run.pushes.items()]
    return values


async def give_up(run: Run, lease: Lease[str, Any], reason: str) -> None:
    """Make a task a dead letter, and tell waiters for its result in the same step."""
    if run.result_ttl is None:
        await lease.reject(reason)
        return
    failure = failure_kept(run.task.id, reason, run.result_ttl)
    await lease.queue._reject_and_keep(lease, reason, [failure])
