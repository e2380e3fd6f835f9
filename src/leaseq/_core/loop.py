"""The event loop: its clock and checkpoints, bound once, and kinds of cancellations.

The libraries are imported where they are in use: asyncio takes a third of the time in which all of
leaseq is imported, and a command, or a program on trio, need not wait for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Generator
from types import coroutine

import anyio
from anyio.lowlevel import current_token

from .texts import is_a, leaves, shown


class Home:
    """The event loop that a queue belongs to, from its first use on.

    The clock and the checkpoint of the loop are bound once: finding the running backend through
    anyio at each call costs half a microsecond, which is most of a hand-out.
    """

    __slots__ = ("_current", "_pause", "_token", "time")

    def __init__(self) -> None:
        self._token: object = None
        self._current: Callable[[], object] = object
        self._pause: Callable[[], Awaitable[None]]
        self.time: Callable[[], float] = self._settle_and_tell_time

    @property
    def is_bound(self) -> bool:
        """True once there has been a use in an event loop."""
        return self._token is not None

    def check(self) -> None:
        """Bind to the running event loop; on later calls, check that it is the same one.

        Raises:
            RuntimeError: no event loop runs in this thread, or it is not this queue's.
        """
        try:
            here = self._current()
        except RuntimeError:  # none is running
            here = None
        if here is self._token:
            return
        if self._token is not None:
            raise RuntimeError(
                f"this belongs to another event loop, {shown(self._token)}: from a thread, call "
                "it with anyio.from_thread.run_sync(queue.put_nowait, ...); "
                "for another anyio.run(), make another queue"
            )
        self._settle()

    def checkpoint(self) -> Awaitable[None]:
        """`anyio.lowlevel.checkpoint`, after a `check`."""
        if self._current() is not self._token:
            self.check()
        return self._pause()

    def _settle(self) -> None:
        import asyncio

        token = current_token().native_token
        if isinstance(token, asyncio.AbstractEventLoop):
            self._current = asyncio.get_running_loop
            self._pause = _pause
            # The standard loop's time() is a Python function that calls this one.
            standard = getattr(type(token), "time", None) is asyncio.BaseEventLoop.time
            self.time = time.monotonic if standard else token.time
        else:
            import trio

            self._current = trio.lowlevel.current_trio_token
            self._pause = trio.lowlevel.checkpoint
            self.time = trio.lowlevel.current_clock().current_time
        self._token = token

    def _settle_and_tell_time(self) -> float:
        try:
            self._settle()
        except anyio.NoEventLoopError:  # not in one yet: no time has passed
            return 0.0
        return self.time()


@coroutine
def _pause() -> Generator[None, None, None]:
    """`asyncio.sleep(0)`, without the coroutine around it."""
    yield


def is_failure(error: BaseException) -> bool:
    """Return True if an error is a failure, and not only a cancellation of this task.

    An `Exception` is one, a `SystemExit`, and a group with one in it. On asyncio, a task that
    awaits another task gets the other's `asyncio.CancelledError` when that is cancelled: unless
    *this* task was cancelled, natively or through a scope, that is a failure of what it awaited.
    """
    return any(map(_is_failure, leaves(error)))


def _is_failure(error: BaseException) -> bool:
    import asyncio

    if is_a(error, (Exception, SystemExit)):
        return True
    if not is_a(error, asyncio.CancelledError):
        return False
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return True  # not asyncio's own: it has strayed here
    task = asyncio.current_task()
    natively = task is not None and task.cancelling() > 0
    return not natively and anyio.current_effective_deadline() != -math.inf


def comes_again(cancellation: BaseException) -> bool:
    """Return True if a cancellation that is caught comes again at the next checkpoint.

    The cancellation of a scope does; that of `asyncio.Task.cancel` comes once.
    """
    from asyncio import CancelledError

    if not is_a(cancellation, CancelledError):
        return True
    return bool(cancellation.args) and str(cancellation.args[0]).startswith("Cancelled via cancel")


def times_cancelled() -> int:
    """Return the number of `asyncio.Task.cancel` calls on the running task; 0 on trio."""
    from asyncio import current_task

    try:
        task = current_task()
    except RuntimeError:  # no event loop of asyncio
        return 0
    return 0 if task is None else task.cancelling()
