"""The functions of users: what can be told of them beforehand, and how they are run."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import partial
from inspect import (
    isasyncgen,
    isasyncgenfunction,
    isawaitable,
    iscoroutine,
    iscoroutinefunction,
    isgenerator,
    isgeneratorfunction,
    isroutine,
    signature,
)
from types import coroutine
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio import CancelScope, CapacityLimiter, get_cancelled_exc_class, sleep
from anyio.lowlevel import current_token
from anyio.to_thread import run_sync

from .loop import being_closed, own_cancels, take_back_cancels
from .texts import shown

R = TypeVar("R")


def check_function(name: str, function: object, *arguments: str) -> None:
    """Raise `TypeError` for what is no function of some arguments, or is a generator function.

    Args:
        name: The function's part in the call, for errors.
        function: The function. One whose signature cannot be read is taken to be right.
        arguments: The arguments that it is called with, for errors.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {shown(function)}")
    if is_generator(function):
        raise TypeError(
            f"{name} has a yield in it, so a call would run nothing of it: {shown(function)}"
        )
    try:
        bind = signature(function).bind
    except Exception:  # it has none, or its annotations have no meaning here
        return
    try:
        bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{name} is called with {' and '.join(arguments)}, which {shown(function)} does not "
            f"take: {error}"
        ) from None


def is_async(function: Callable[..., object]) -> bool:
    """Return True if it is an ``async def``, also one that is behind a partial or an object."""
    return iscoroutinefunction(function) or iscoroutinefunction(_called(function))


def is_generator(function: Callable[..., object]) -> bool:
    """Return True if it has a yield in it, also one that is behind a partial or an object."""
    called = _called(function)
    return isgeneratorfunction(called) or isasyncgenfunction(called)


def _called(function: object) -> object:
    """Return the code that runs first in a call, as far as it can be told."""
    while isinstance(function, partial):
        function = function.func
    return function if isroutine(function) else type(function).__call__


async def result_of(returned: object) -> Any:
    """Return the result of a function that was called, and await it if it is an awaitable.

    Raises:
        TypeError: as `check_has_run` does.
    """
    result = await returned if isawaitable(returned) else returned
    if result is not None:
        await check_has_run(result)
    return result


def check_has_run_sync(result: object) -> None:
    """Do as `check_has_run` does, where no event loop runs, and refuse any awaitable."""
    if isasyncgen(result) or isgenerator(result) or isawaitable(result):
        if iscoroutine(result) or isgenerator(result):
            result.close()
        raise TypeError(
            f"the function returned {shown(result)}, which was not run: no event loop runs here"
        )


async def check_has_run(result: object) -> None:
    """Raise `TypeError` for a result that is code which was not run, and close it."""
    if iscoroutine(result) or isgenerator(result):
        result.close()
    elif isasyncgen(result):
        await result.aclose()
    else:
        return
    raise TypeError(
        f"the function returned {shown(result)}, which was not run: is there an await missing, or "
        "a yield too many?"
    )


# Contexts


class Later(Generic[R]):
    """An awaitable whose coroutine is made when it is awaited: it may also be left alone."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self._make = make

    def __await__(self) -> Generator[Any, Any, R]:
        return self._make().__await__()


def run_in(
    context: Context,
    work: Coroutine[Any, Any, object],
    cancels: Callable[[], int] | None = None,
) -> Awaitable[None] | None:
    """Run a coroutine in a context, as a part of the running task, as far as it need not wait.

    A task has one context, so another one without another task means to enter it at each step.
    A task for each delivery of a pool would cost more than all the rest of it, and turn an error
    of the work into a group. To restore the variables afterwards is no alternative: a variable
    that was not set before cannot be unset.

    Only here can be told who has ended it: what is called while it runs, it calls itself; what
    comes while it waits comes from outside. `being_closed` and `own_cancels` have that, in its
    context. Its own calls are taken back at its end.

    Args:
        context: The context.
        work: The coroutine.
        cancels: Counts the `asyncio.Task.cancel` calls on the running task.

    Returns:
        The rest of it, to be awaited; None: it has come to its end.
    """
    times = 0 if cancels is None else cancels()
    try:
        signal = context.run(work.send, None)
    except StopIteration:
        return None
    return _run_on(context, work, signal, cancels, times)


@coroutine
def _run_on(
    context: Context,
    work: Coroutine[Any, Any, object],
    signal: object,
    cancels: Callable[[], int] | None,
    times: int,
) -> Generator[Any, Any, None]:
    own = 0
    try:
        while True:
            if cancels is not None and (more := cancels() - times):
                times += more
                own = max(own + more, 0)
                context.run(own_cancels.set, own)
            step: Callable[[Any], Any] = work.send
            try:
                sent = yield signal
            except BaseException as error:  # it goes on below, where it is not being handled
                step, sent = work.throw, error
                if type(error) is GeneratorExit:
                    context.run(being_closed.set, True)
                elif cancels is not None:
                    times = cancels()
            signal = context.run(step, sent)
            del sent
    except StopIteration:
        pass
    finally:
        sent = None  # the traceback of an error has this frame
        if cancels is not None and (more := cancels() - times):
            own += more
        if own > 0:  # the task has others to run after this one
            take_back_cancels(own)


# Threads


class Keeper(Protocol):
    """The worker of a pool, which keeps its leases while code runs that cannot be stopped."""

    until: float
    """The time at which the code has taken longer than it may, on the event loop's clock."""

    def hold(self) -> None:
        """Keep the leases from now on, however long it takes and whatever cancels the worker."""

    def let_go(self, *, failed: bool) -> None:
        """End what `hold` began; ``failed``: the code has raised an error, or was cancelled.

        Raises:
            TimeoutError: It took longer than it may, and has not failed otherwise.
        """


keeper: ContextVar[Keeper | None] = ContextVar("leaseq.keeper", default=None)
"""The worker whose delivery runs in this context; None: there is none."""

_at_work: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_processes: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_POLL = 0.02  # seconds between two looks for the end of a thread whose task was cancelled natively


async def run_in_thread(
    function: Callable[..., Awaitable[R] | R],
    *arguments: Any,
    limiter: CapacityLimiter | None = None,
) -> R:
    """Run a function in a worker thread, and await here what it returns if it is an awaitable.

    If cancelled, it runs to its end all the same, and this waits for it, also after a native
    cancellation. Until then the worker in whose delivery it runs keeps its leases.
    """
    # Nothing goes through the thread's frames or future. An error, which has those in its
    # traceback, would keep itself alive; trio refuses an awaitable as the result of a thread; and
    # for a moment after it has reported, the thread still has what it was given.
    work = [partial(function, *arguments)]
    results: list[Awaitable[R] | R] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            begun = work.pop()
        except IndexError:  # its task was cancelled before
            return
        try:
            results.append(begun())
        except BaseException as error:
            errors.append(error)
        finally:
            del begun
            ended.set()

    loop = current_token().native_token
    holder = keeper.get()
    _at_work[loop] = threads_at_work(loop) + 1
    if holder is not None:
        holder.hold()
    failed = True
    try:
        await _run_to_its_end(call, work, ended, limiter)
        failed = bool(errors)
    finally:
        _at_work[loop] -= 1
        if holder is not None:
            holder.let_go(failed=failed)
    if errors:
        raise errors.pop()
    return cast("R", await result_of(results.pop()))


async def _run_to_its_end(
    call: Callable[[], None],
    work: list[Any],
    ended: threading.Event,
    limiter: CapacityLimiter | None,
) -> None:
    try:
        await run_sync(call, limiter=limiter)
    except BaseException:  # `asyncio.Task.cancel` knows no shield
        try:
            work.pop()
        except IndexError:  # it has begun, so it comes to its end
            while not ended.is_set():
                with suppress(get_cancelled_exc_class()), CancelScope(shield=True):
                    await sleep(_POLL)
        raise


def threads_at_work(loop: object) -> int:
    """Return the number of functions that run in threads for an event loop, a native token."""
    return _at_work.get(loop, 0)


def note_process(loop: object, more: int) -> None:
    """Note that so many more functions run in processes for an event loop."""
    _processes[loop] = _processes.get(loop, 0) + more


def at_work(loop: object) -> int:
    """Return the number of functions that run in threads or processes for an event loop."""
    return threads_at_work(loop) + _processes.get(loop, 0)
