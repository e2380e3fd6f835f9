"""The run of a task, and the values that are stored when it ends."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec

from .._core.functions import check_has_run, run_in_thread
from .._core.texts import shown
from ..abc._lease import Lease
from ._backend import Backend
from ._context import Run, current_run, enter_run, leave_run
from ._task import Task

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
    await finish(run, result, None)
    return result


async def execute(run: Run) -> Any:
    """Call the function of a task with its arguments, and return its result."""
    definition = run.definition
    assert definition is not None
    function = definition.function
    args, kwargs = definition.signature.unbind(run.task.arguments)
    if not definition.is_async:
        return await run_in_thread(partial(function, **kwargs), *args, limiter=run.threads)
    result = await function(*args, **kwargs)
    await check_has_run(result)
    return result


async def finish(run: Run, result: object, lease: Lease[str, Any] | None) -> None:
    """Store the result and the XCom values of a task, in one step with the ack of its lease.

    With no value to store nothing happens: the lease's holder settles it.

    Raises:
        TaskDataError: The result cannot be kept.
        TransactionError: The lease is lost; nothing was stored.

    If cancelled, nothing was stored.
    """
    outcome = _outcome(run, result, kept=lease is not None)
    if outcome is None and run.pushes is None:
        return
    backend = run.backend
    purpose = f"storing the values of task {shown(run.task.name or run.task.id)}"
    results = await backend.results(purpose) if outcome is not None else None
    xcom = await backend.xcom(purpose) if run.pushes is not None else None
    async with backend.transaction(purpose) as transaction:
        if results is not None and run.result_ttl is not None:
            results.stage(transaction, run.task.id, outcome, run.result_ttl)
        if xcom is not None:
            for key, (plain, ttl) in (run.pushes or {}).items():
                xcom.stage(transaction, key, plain, ttl)
        if lease is not None:
            transaction.ack(lease)


async def give_up(run: Run, lease: Lease[str, Any], reason: str) -> None:
    """Make a task a dead letter, and tell waiters for its result in the same step."""
    if run.result_ttl is None:
        await lease.reject(reason)
        return
    backend = run.backend
    purpose = f"the result of task {shown(run.task.name)}"
    results = await backend.results(purpose)
    async with backend.transaction(purpose) as transaction:
        results.stage(transaction, run.task.id, {"failed": reason}, run.result_ttl)
        transaction.reject(lease, reason)


def _outcome(run: Run, result: object, *, kept: bool) -> dict[str, Any] | None:
    """Return the document to store as the result, if any; push the result to XCom, if asked."""
    definition = run.definition
    if definition is None or not definition.terms.keeps_result:
        return None
    terms = definition.terms
    plain, size = definition.signature.plain_result(result)
    run.backend.check_size(size, f"the result of task {shown(definition.name)}")
    if terms.xcom_key is not None:
        run.keep(terms.xcom_key, plain, None)
    return {"result": plain} if kept and terms.result_ttl is not None else None
