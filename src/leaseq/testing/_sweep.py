"""The cancel sweep: an operation is cancelled at every possible point.

An item can be lost when its consumer is cancelled in one particular scheduler step, which no sleep
in a test will ever hit. The sweep hits all steps: it runs an operation again and again, each time
on a fresh scenario, and cancels it one scheduler step later than the last time, until it runs to
its end. After each run the scenario checks its account: the items put are the items got plus the
items left. ::

    from contextlib import asynccontextmanager

    import anyio

    from leaseq import LeasedKeyQueue
    from leaseq.testing import cancel_sweep


    @asynccontextmanager
    async def one_consumer():
        queue = LeasedKeyQueue()
        done = []

        async def produce():
            for _ in range(3):
                await anyio.sleep(0)  # by now the consumer waits
            queue.put_nowait("a", 1)

        async def consume():
            async with queue.lease() as lease:
                await anyio.sleep(0)
            done.append(lease.key)

        async with anyio.create_task_group() as tg:
            tg.start_soon(produce)
            yield consume
        left = [key for key, _ in queue.drain_nowait()]
        assert done + left == ["a"]


    async def main():
        assert await cancel_sweep(one_consumer) > 0


    anyio.run(main)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from anyio import CancelScope
from anyio.lowlevel import current_token

from .._core.loop import CALLS, budget_for_tests
from .._core.validation import whole_number

Operation = Callable[[], Awaitable[object]]
"""The operation to cancel, for instance one turn of a consumer."""

Scenario = Callable[[], AbstractAsyncContextManager[Operation]]
"""A context manager that sets up and returns the operation, and checks the account at the end."""

_ORDERS = 4  # trio runs ready tasks in either of two orders, at random: try each step so often


async def cancel_sweep(scenario: Scenario, *, native: bool = False, limit: int = 1000) -> int:
    """Cancel an operation at each step of the scheduler in turn.

    It is cancelled before it starts; then before the first step that any task takes after it has
    come to wait; then before the second one; and so on, until it comes to its end first. So if
    another task hands it something, there is a cancellation just before that and one just after
    it, in the same tick of the event loop, before the operation runs again.

    All of this twice: once each call of leaseq that need not wait is a checkpoint, and once none of
    them is, so that the points of any other sequence are among these.

    Args:
        scenario: Called for each attempt. The context manager that it returns sets up the scene,
            returns the operation, and on leaving asserts that nothing was lost and nothing
            doubled. Without a cancellation the operation must end, and so must the scenario,
            whether or not the operation got its items.
        native: Cancel with `asyncio.Task.cancel`, in a task of the operation's own, instead of a
            cancel scope.
        limit: The largest number of steps of the operation.

    Returns:
        The number of cancellations.

    Raises:
        TypeError: the limit is not a whole number.
        ValueError: ``native``, and this is not asyncio; or the limit is less than 1.
        RuntimeError: the operation did not end within ``limit`` steps.
        Exception: any error of the operation or the scenario, with a note that gives the step of
            the cancellation.

    If the sweep itself is cancelled, so is the operation, and the scenario is left. One sweep at a
    time in an event loop. O(steps ** 2).
    """
    on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    if native and not on_asyncio:
        raise ValueError("native=True is asyncio's Task.cancel(), and this is trio")
    run = _run_in_task if native else _run_in_scope
    how = "by Task.cancel()" if native else "by a cancel scope"
    limit = whole_number("limit", limit, 1, "1 step or more")
    total = 0
    for calls in (1, CALLS):
        made_calls = False
        for steps in range(limit):
            cancelled = 0
            for _ in range(1 if on_asyncio else _ORDERS):
                try:
                    with budget_for_tests(calls) as have_been_calls:
                        async with scenario() as operation:
                            cancelled += await run(operation, steps)
                        made_calls = made_calls or have_been_calls()
                except Exception as error:
                    error.add_note(
                        f"The operation was cancelled {how} after {steps} scheduler steps."
                    )
                    raise
            total += cancelled
            if not cancelled:
                break
        else:
            raise RuntimeError(
                f"the operation did not come to an end within {limit} scheduler steps: "
                "give it one turn to take, or a queue that is shut down"
            )
        if not made_calls:
            break  # the second time would be the same
    return total


async def _run_in_scope(operation: Operation, steps: int) -> bool:
    """Cancel the operation by a scope around it, so many steps later. False: it ended before."""
    with CancelScope() as scope, _later(steps, scope.cancel):
        await operation()
    return scope.cancel_called


async def _run_in_task(operation: Operation, steps: int) -> bool:
    """Cancel the operation by `asyncio.Task.cancel`, so many steps later."""
    cancelled = False
    errors: list[Exception] = []

    async def attempt() -> None:
        try:
            await operation()
        except Exception as error:  # out of the task group it would come as a group
            errors.append(error)

    def cancel() -> None:
        nonlocal cancelled
        cancelled = task.cancel()

    async with asyncio.TaskGroup() as tg:
        task = tg.create_task(attempt())
        with _later(steps, cancel):
            await asyncio.wait([task])
    for error in errors:
        raise error
    return cancelled


@contextmanager
def _later(steps: int, act: Callable[[], object]) -> Iterator[None]:
    """Call a function once, after so many scheduler steps inside this context."""
    taken = 0

    def step() -> None:
        nonlocal taken
        if taken == steps:
            act()
        taken += 1

    step()
    loop = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        watch = _each_asyncio_step(loop, step)
    else:
        watch = _each_trio_step(step)
    with watch:
        yield


@contextmanager
def _each_asyncio_step(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> Iterator[None]:
    """Call a function before each callback that a task or future schedules on the event loop."""
    call_soon = loop.call_soon

    def run(callback: Callable[..., object], *args: Any) -> None:
        step()
        callback(*args)

    def watched(callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        return call_soon(run, callback, *args, context=context)

    with patch.object(loop, "call_soon", watched):
        yield


@contextmanager
def _each_trio_step(step: Callable[[], None]) -> Iterator[None]:
    """Call a function before each step of a task."""
    import trio

    class Watch(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            step()

    watch = Watch()
    trio.lowlevel.add_instrument(watch)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(watch)
