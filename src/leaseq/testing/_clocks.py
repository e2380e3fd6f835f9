"""Virtual time: when all tasks wait, the clock jumps to the next timer.

A test of an hour's timeout then takes no time, and gives the same result each time. trio has
`trio.testing.MockClock` for this; `VirtualEventLoop` is its counterpart for asyncio. In a
`conftest.py`, for anyio's pytest plugin::

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return virtual_backend(request.param)

Neither clock can see the world outside: a jump does not wait for a socket or another process.
Worker threads differ: while one of them works, timers wait in real time. That holds for threads of
this library, for ordinary functions as handlers and tasks, for those of `anyio.to_thread`'s default
limiter, and on asyncio for those of `loop.run_in_executor`. It does not hold for threads under
another limiter of your own, nor, where sniffio is installed, for threads that anyio starts on an
asyncio loop that anyio does not run.
"""

import asyncio
import math
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, Unpack

import anyio
from anyio.lowlevel import current_token

from .._core.functions import at_work
from .._core.texts import shown
from .._core.validation import delay_seconds

if TYPE_CHECKING:
    import trio.abc
    from trio.testing import MockClock

RESOLUTION = time.get_clock_info("monotonic").resolution
"""The seconds before its time at which asyncio takes a timer to be due."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def virtual_backend(name: Literal["asyncio", "trio"]) -> tuple[str, dict[str, object]]:
    """Return an anyio backend under virtual time, with a clock of its own.

    Args:
        name: ``"asyncio"`` or ``"trio"``. trio is imported for the latter only.

    Returns:
        The name and the backend options, as the ``anyio_backend`` fixture and `anyio.run` take
        them.

    Raises:
        ValueError: it is another backend.

    O(1).
    """
    if name == "asyncio":
        return "asyncio", {"loop_factory": VirtualEventLoop}
    if name == "trio":
        from trio.testing import MockClock

        clock = MockClock(autojump_threshold=0)
        return "trio", {"clock": clock, "instruments": [_watch_for_threads(clock)]}
    raise ValueError(f"no virtual time for the backend {shown(name)}: choose 'asyncio' or 'trio'")


async def advance(seconds: float) -> None:
    """Move virtual time on, and run everything that falls due in it.

    On return all other tasks wait, also those that the last timers have woken. ``advance(0)`` runs
    the other tasks until they wait, without moving the clock. A `trio.testing.MockClock` that moves
    neither by itself nor by jumps is moved from one timer to the next.

    Args:
        seconds: Seconds by which the clock moves.

    Raises:
        TypeError: the time is not a number.
        ValueError: the time is negative, infinite or NaN.
        RuntimeError: the backend has no virtual time.

    If cancelled, a part of the time may have passed. O(timers and steps in it).
    """
    seconds = delay_seconds(seconds, "the time of advance()")
    loop = current_token().native_token
    if isinstance(loop, VirtualEventLoop):
        await anyio.sleep(seconds)
        await loop.idle()
        return
    if not isinstance(loop, asyncio.AbstractEventLoop):
        from trio.lowlevel import current_clock
        from trio.testing import MockClock, wait_all_tasks_blocked

        clock = current_clock()
        if isinstance(clock, MockClock):
            if clock.rate or clock.autojump_threshold < math.inf:
                await anyio.sleep(seconds)
                await wait_all_tasks_blocked()
            else:
                await _jump(clock, seconds)
            return
    raise RuntimeError(
        "time is real here: run the test on a backend from leaseq.testing.virtual_backend()"
    )


async def _jump(clock: "MockClock", seconds: float) -> None:
    """Move a clock that stands still, from one timer to the next."""
    from trio.lowlevel import current_statistics
    from trio.testing import wait_all_tasks_blocked

    end = clock.current_time() + seconds
    await wait_all_tasks_blocked()
    while (left := end - clock.current_time()) > 0:  # others may jump meanwhile
        clock.jump(min(left, max(current_statistics().seconds_to_next_deadline, 0)))
        await wait_all_tasks_blocked()


def _watch_for_threads(clock: "MockClock") -> "trio.abc.Instrument":
    """Make an instrument that has trio's clock run in real time while worker threads work."""
    from trio.abc import Instrument
    from trio.lowlevel import current_trio_token
    from trio.to_thread import current_default_thread_limiter

    class ThreadWatch(Instrument):
        waiting: tuple[float, float] | None = None
        """The clock's settings while it runs in real time."""

        def after_task_step(self, task: object) -> None:
            busy = at_work(current_trio_token())
            busy = busy or current_default_thread_limiter().borrowed_tokens
            if busy and self.waiting is None:
                self.waiting = clock.autojump_threshold, clock.rate
                clock.autojump_threshold, clock.rate = math.inf, 1.0
            elif not busy and self.waiting is not None:
                clock.autojump_threshold, clock.rate = self.waiting
                self.waiting = None

    return ThreadWatch()


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop that never sleeps: its clock jumps to the next timer.

    The clock starts at zero, as `trio.testing.MockClock` does. With no timer to jump to, the loop
    waits for real, like any other; so give waits that may hang a timeout: it costs nothing.
    """

    def __init__(self) -> None:
        self._selector_with_clock = _ClockSelector(self._threads_at_work)
        self._executor_calls = 0
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._selector_with_clock.now

    async def idle(self) -> None:
        """Wait until all other tasks wait, without moving the clock.

        Like `trio.testing.wait_all_tasks_blocked`. If cancelled, nothing has changed. O(1), besides
        the work of the other tasks.
        """
        waiter = self.create_future()
        self._selector_with_clock.idlers.append(waiter)
        await waiter

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in a thread or process, like any loop, and count it as at work."""
        future = super().run_in_executor(executor, func, *args)
        self._executor_calls += 1
        future.add_done_callback(self._executor_call_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the executor's threads without a timeout, which would jump."""
        await super().shutdown_default_executor()

    def _executor_call_done(self, future: asyncio.Future[Any]) -> None:
        self._executor_calls -= 1

    def _threads_at_work(self) -> bool:
        if self._executor_calls or at_work(self):
            return True
        try:
            return anyio.to_thread.current_default_thread_limiter().borrowed_tokens > 0
        except anyio.NoEventLoopError:
            return False


class _ClockSelector(selectors.DefaultSelector):
    """A selector with a clock, which it moves instead of sleeping."""

    def __init__(self, threads_at_work: Callable[[], bool]) -> None:
        super().__init__()
        self.now = 0.0
        self.idlers: list[asyncio.Future[None]] = []
        self._threads_at_work = threads_at_work

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if self.idlers:
            self._wake_idlers()
        elif timeout is None:
            return super().select()
        elif self._threads_at_work():
            return self._select_in_real_time(timeout)
        else:
            self._move_clock(timeout)
        return events

    def _wake_idlers(self) -> None:
        for waiter in self.idlers:
            if not waiter.done():
                waiter.set_result(None)
        self.idlers.clear()

    def _select_in_real_time(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        started = time.monotonic()
        events = super().select(timeout)
        self._move_clock(min(time.monotonic() - started, timeout))
        return events

    def _move_clock(self, seconds: float) -> None:
        self.now += seconds
        # After some months a float is too coarse for the resolution. asyncio then takes no timer
        # to be due before the clock is past it.
        if self.now + RESOLUTION == self.now:
            self.now = math.nextafter(self.now, math.inf)
