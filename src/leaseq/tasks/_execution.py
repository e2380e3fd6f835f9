"""How a task is run, and what is stored when it has ended."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from anyio.to_thread import run_sync

from ._context import Run, current_run, enter, leave

if TYPE_CHECKING:
    from .._core.lease import Lease
    from ._queue import TaskQueue
    from ._task import Task

__all__ = ["execute", "finish", "give_up", "run_here"]

T = TypeVar("T")


async def run_here(tasks: TaskQueue, task: Task[T]) -> T:
    """Do a task here and now, without a queue; inside of its own run, as a part of that."""
    run = current_run()
    if run is not None and run.task.id == task.id:  # a handler has it done
        return await execute(run)  # type: ignore[no-any-return]
    if run is not None and run.tasks is tasks and task.workflow is None:
        task = msgspec.structs.replace(task, workflow=run.workflow)
    run = Run(task, tasks)
    token = enter(run)
    try:
        result: T = await execute(run)
    finally:
        leave(token)
    await finish(run, result, None)
    return result


async def execute(run: Run) -> Any:
    """Call the function of a task with its arguments, and return what it does."""
    task = run.task
    function = task.function
    assert function is not None
    args, kwargs = function.signature.unbind(task.arguments)
    if function.is_async:
        return await function.__wrapped__(*args, **kwargs)

    def call() -> tuple[Any]:
        return (function.__wrapped__(*args, **kwargs),)  # trio has no thread return an awaitable

    (result,) = await run_sync(call, limiter=run.threads)
    return await result if isawaitable(result) else result


async def finish(run: Run, result: object, lease: Lease[str, Any] | None) -> None:
    """Store what a task has pushed and returned, in one step with the end of its lease.

    Where there is nothing to store, nothing happens, and the lease is left to its holder.

    Raises:
        TaskDataError: what it returned cannot be kept.
        TransactionError: the lease is lost; nothing was stored.

    If cancelled, nothing was stored.
    """
    outcome = _outcome(run, result, kept=lease is not None)
    if outcome is None and run.pushes is None:
        return
    place = run.tasks.place
    what = f"what task {run.task.name or run.task.id!r} leaves"
    results = await place.store("results", what) if outcome is not None else None
    xcom = await place.store("xcom", what) if run.pushes is not None else None
    async with place.transaction(what) as transaction:
        if results is not None and run.result_ttl is not None:
            results.stage(transaction, run.task.id, outcome, run.result_ttl)
        if xcom is not None:
            for key, (plain, ttl) in (run.pushes or {}).items():
                xcom.stage(transaction, key, plain, ttl)
        if lease is not None:
            transaction.ack(lease)


async def give_up(run: Run, lease: Lease[str, Any], reason: str) -> None:
    """Have a task be a dead letter; who waits for its result is told in the same step."""
    if run.result_ttl is None:
        await lease.reject(reason)
        return
    place = run.tasks.place
    what = f"the result of task {run.task.name!r}"
    results = await place.store("results", what)
    async with place.transaction(what) as transaction:
        results.stage(transaction, run.task.id, {"failed": reason}, run.result_ttl)
        transaction.reject(lease, reason)


def _outcome(run: Run, result: object, *, kept: bool) -> dict[str, Any] | None:
    """What a task's outcome is stored as, if it is; what it returned is pushed, if it is to be."""
    function = run.task.function
    if function is None or not function.terms.keeps_something:
        return None
    terms = function.terms
    what = f"the result of task {function.name!r}"
    plain = run.tasks.within_limit(*function.signature.plain_result(result), what)
    if terms.xcom_key is not None:
        run.keep(terms.xcom_key, plain, None)
    return {"result": plain} if kept and terms.result_ttl is not None else None
