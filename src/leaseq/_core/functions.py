"""The functions of users: what can be told of them beforehand, and how they are run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
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
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter
from anyio.lowlevel import current_token
from anyio.to_thread import run_sync

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


async def check_has_run(result: object) -> None:
    """Raise `TypeError` for a result that is code which nobody has run, and close it."""
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


def run_in(context: Context, work: Coroutine[Any, Any, object]) -> Awaitable[None] | None:
    """Run a coroutine in a context, as a part of the running task, as far as it need not wait.

    A task has one context, so another one without another task means to enter it at each step.
    A task for each delivery of a pool would cost more than all the rest of it, and turn an error
    of the work into a group. To restore the variables afterwards is no alternative: a variable
    that was not set before cannot be unset.

    Returns:
        The rest of it, to be awaited; None: it has come to its end.
    """
    try:
        signal = context.run(work.send, None)
    except StopIteration:
        return None
    return _run_on(context, work, signal)


@coroutine
def _run_on(
    context: Context, work: Coroutine[Any, Any, object], signal: object
) -> Generator[Any, Any, None]:
    try:
        while True:
            step: Callable[[Any], Any] = work.send
            try:
                sent = yield signal
            except BaseException as error:  # it goes on below, where it is not being handled
                step, sent = work.throw, error
            signal = context.run(step, sent)
            del sent
    except StopIteration:
        pass
    finally:
        sent = None  # the traceback of an error has this frame


# Threads

_at_work: WeakKeyDictionary[object, int] = WeakKeyDictionary()


async def run_in_thread(
    function: Callable[..., Awaitable[R] | R],
    *arguments: Any,
    limiter: CapacityLimiter | None = None,
) -> R:
    """Run a function in a worker thread, and await here what it returns if it is an awaitable.

    If cancelled, it runs to its end all the same.
    """
    # Nothing goes through the thread's frames or future. An error, which has those in its
    # traceback, would keep itself alive; trio refuses an awaitable as the result of a thread; and
    # for a moment after it has reported, the thread still has what it was given.
    work = [partial(function, *arguments)]
    results: list[Awaitable[R] | R] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work.pop()())
        except BaseException as error:
            errors.append(error)

    loop = current_token().native_token
    _at_work[loop] = threads_at_work(loop) + 1
    try:
        await run_sync(call, limiter=limiter)
    finally:
        _at_work[loop] -= 1
    if errors:
        raise errors.pop()
    return cast("R", await result_of(results.pop()))


def threads_at_work(loop: object) -> int:
    """Return the number of functions that run in threads for an event loop, a native token."""
    return _at_work.get(loop, 0)
