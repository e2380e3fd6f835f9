"""A batcher: items gathered into batches for a callback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any, Generic, Never, Self, TypeVar

from anyio import (
    TASK_STATUS_IGNORED,
    BusyResourceError,
    Event,
    WouldBlock,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import TaskStatus

from .._core.errors import TimekeeperNotRunningError
from .._core.exports import adopt
from .._core.functions import check_function
from .._core.log import log
from .._core.loop import Home
from .._core.messages import RUN_TWICE, takes_nothing_more
from .._core.policies import Backoff, Retry
from .._core.queue_options import check_retry
from .._core.texts import is_a, leaves, shown
from .._core.validation import (
    check_flag,
    check_known,
    check_text,
    wait_seconds,
    whole_number,
    whole_or_inf,
)
from .buffer import Buffer
from .flusher import Call, Flusher

T = TypeVar("T")

_log = logging.getLogger("leaseq")

_TURNS = 5
"""Turns for which a `run` waits at a batcher that has ended: it may be entered again next."""


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """Counts of a batcher's items, and of its flushes so far."""

    flushes: int
    """Batches flushed."""
    items: int
    """Items flushed."""
    failures: int
    """Deliveries of a batch that failed."""
    given_up: int
    """Items that went to ``on_give_up``."""
    queued: int
    """Items added and neither flushed nor given up, including the batch in the callback."""
    last_flush_time: float | None
    """The time of the last flush, in seconds of the event loop's clock; None: none yet."""
    running: bool
    """True while `Batcher.run` runs."""


class Batcher(Generic[T]):
    """Gathers items, and hands them to a callback in batches.

    A batch is flushed when it is full, or ``flush_interval`` after its first item, whichever is
    first. Batches are flushed one at a time and in order, and never exceed the maximum size. If a
    batch fails, it stays in front, unchanged, and is tried again after the backoff; newer items
    wait behind it. So the callback may see the same batch twice, but no item is lost: each one is
    flushed, given up, or in `pending`. ::

        async def write(rows: list[str]) -> None:
            print(len(rows), "rows")


        async def main():
            async with anyio.create_task_group() as tg, Batcher(write) as batcher:
                await tg.start(batcher.run)
                await batcher.add("a row")

    **The end.** When the body of ``async with batcher`` ends, the batcher accepts no more items,
    tries each remaining batch once, due or not, and raises the first error. If the body raised an
    `Exception` itself, that one propagates, with a note. If the body or the final flush is
    cancelled, the flush has ``shutdown_timeout`` seconds, shielded. The shield holds against cancel
    scopes; a second `asyncio.Task.cancel` ends the flush immediately. Remaining items are in
    `pending`, in any case.

    Then it can be entered and run again, with what is left in `pending`.

    A callback must not wait for itself: in `on_flush` and ``on_give_up``, `flush` is refused, and
    so is an `add` that would have to wait for room, also in tasks that they start.

    A batcher belongs to one event loop, and is not thread-safe:
    ``anyio.from_thread.run_sync(batcher.add_nowait, item)`` is the way in from a thread.

    Args:
        on_flush: An async function that takes a list of items, which it may keep. If it raises or
            is cancelled, the batch counts as not flushed.
        max_batch_size: The number of items in a full batch.
        flush_interval: Seconds after its first item until a batch is flushed that is not full; 0:
            as soon as the previous one is done; `math.inf`: never.
        name: The name of the batcher in logs and errors.
        logger: The logger of failures, as errors, and of flushes, for debugging; None: ``leaseq``.
        max_pending: The largest number of pending items, including the batch in the callback;
            then producers wait. Allow for several batches and the largest `add_many`: with room
            for less than a full batch, producers may wait for the interval. `math.inf` (the
            default): no limit.
        retry: The backoff of a failed batch, and the number of deliveries after which it is given
            up. By default it is tried for ever.
        on_give_up: A function, async or ordinary, that takes a given-up batch and the error of its
            last delivery. If it raises, the batch stays, and is offered to it again after the
            backoff's ceiling, or a minute without a backoff.
        shutdown_timeout: Seconds for the final flush once it is cancelled.
        fast_acquire: True: `add` and `add_many` leave out their checkpoint where they need not
            wait, as in `anyio.Lock`.

    Raises:
        TypeError: an option is unknown, or its value of another type; ``on_flush`` or
            ``on_give_up`` cannot be called as it has to be, or is a generator function.
        ValueError: a number is out of range; or the retry policy gives up, and there is no
            ``on_give_up``.
    """

    def __init__(
        self,
        on_flush: Callable[[list[T]], Awaitable[object]],
        *,
        max_batch_size: int = 100,
        flush_interval: float = 10.0,
        name: str = "",
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        max_pending: float = inf,
        retry: Retry = Retry(backoff=Backoff(base=1.0, ceiling=60.0)),  # noqa: B008 - a constant
        on_give_up: Callable[[list[T], Exception], Awaitable[object] | None] | None = None,
        shutdown_timeout: float = 5.0,
        fast_acquire: bool = False,
        **unknown: Never,
    ) -> None:
        if unknown:
            check_known("Batcher", unknown, Batcher.__init__.__kwdefaults__ or ())
        check_function("on_flush", on_flush, "a list")
        if on_give_up is not None:
            check_function("on_give_up", on_give_up, "a list", "an error")
        if not isinstance(logger, logging.Logger | logging.LoggerAdapter | None):
            raise TypeError(f"logger must be a logging.Logger or None, not {shown(logger)}")
        check_flag("fast_acquire", fast_acquire)
        check_text("name", name)
        check_retry(retry)
        size = whole_number("max_batch_size", max_batch_size, 1, "1 or more items")
        interval = wait_seconds("flush_interval", flush_interval)
        max_pending = whole_or_inf("max_pending", max_pending, 1, "1 or more, or math.inf")
        if retry.max_deliveries is not None and on_give_up is None:
            raise ValueError(
                f"with max_deliveries={retry.max_deliveries} a batch can be given up, and would be "
                "lost: give on_give_up=, a function that takes it, or leave max_deliveries out"
            )
        self.name = name
        self._logger = logger or _log
        self._shutdown_timeout = wait_seconds("shutdown_timeout", shutdown_timeout)
        self._fast_acquire = fast_acquire
        self._max_pending = max_pending
        self._buffer: Buffer[T, Event] = Buffer(size, interval, max_pending, retry)
        self._home = Home()
        self._flusher = Flusher(
            self._buffer, self._home, on_flush, on_give_up, name, self._logger, self._look_again
        )
        self._running = False
        self._closed = False
        self._times_opened = 0
        self._alarm: Awaitable[object] | None = None  # there is one while `run` sleeps
        self._wake_at = inf  # the time at which `run` wakes by itself

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._running else "not running"
        return f"<Batcher {shown(self.name)} {state}: {len(self._buffer)} pending>"

    # Producers

    async def add(self, item: T) -> None:
        """Add an item, and wait for room if need be.

        Args:
            item: The item for the callback.

        Raises:
            QueueClosedError: the batcher is closed.
            TimekeeperNotRunningError: `run` was not started, or has ended.

        Waiting producers get room in order of arrival. If cancelled, nothing was added. O(1).
        """
        if not self._fast_acquire and (turn := self._home.turn()) is not None:
            await turn
        buffer = self._buffer
        if buffer.spare:
            buffer.spare -= 1
            buffer.filling.append(item)
            return
        if not buffer.room(1):
            await self._wait_for_room(1)
        self._add_now([item])

    async def add_many(self, items: Iterable[T]) -> None:
        """Add items in their order, all or none.

        Args:
            items: Any number of items, for as many batches as needed.

        Raises:
            QueueClosedError, TimekeeperNotRunningError: as `add` does.
            ValueError: there are more items than may ever be pending.

        Waits until there is room for all of them. If cancelled, nothing was added. O(items).
        """
        many = items if isinstance(items, list) else list(items)
        if not self._fast_acquire and (turn := self._home.turn()) is not None:
            await turn
        if not many:
            return
        if not self._buffer.room(len(many)):
            many = many.copy()  # the caller may change its list meanwhile
            await self._wait_for_room(len(many))
        self._add_now(many)

    def add_nowait(self, item: T) -> None:
        """Add an item without waiting.

        Args:
            item: The item for the callback.

        Raises:
            WouldBlock: there is no room, or other producers wait for it.
            QueueClosedError, TimekeeperNotRunningError: as `add` does.

        Never suspends. O(1).
        """
        buffer = self._buffer
        if buffer.spare:
            buffer.spare -= 1
            buffer.filling.append(item)
            return
        if not buffer.room(1):
            self._check_open()
            raise WouldBlock(f"{self!r} has no room: it has max_pending={self._max_pending}")
        self._add_now([item])

    async def _wait_for_room(self, places: int) -> None:
        """Wait for so many places; the caller must use them without suspending."""
        if places > self._max_pending:
            raise ValueError(
                f"{places} items never fit into a batcher with max_pending={self._max_pending}: "
                "add fewer at a time"
            )
        if not self._running:
            await self._home.checkpoint()  # `run` may have been started just now
        while True:
            self._check_open()
            if self._buffer.room(places):
                return
            self._flusher.check_outside("add() without room")
            turn = Event()
            self._buffer.wait(turn, places)
            try:
                await turn.wait()
            except BaseException:
                self._buffer.leave(turn)
                self._admit()
                raise
            if self._buffer.leave(turn):
                self._check_open()
                return

    def _add_now(self, items: list[T]) -> None:
        woken = self._wake_at == -inf
        if not woken:
            self._home.check()
        self._buffer.add(items, self._home.time())
        if not woken:
            self._plan()

    def _admit(self) -> None:
        """Wake the producers for which there is room by now."""
        for turn in self._buffer.admit():
            turn.set()

    def _check_open(self) -> None:
        if self._closed:
            raise takes_nothing_more(self)
        if not self._running:
            raise TimekeeperNotRunningError(
                f"{self!r} would never flush added items: its run() is not running. "
                "Start it in your own task group:\n\n"
                "    async with anyio.create_task_group() as tg, batcher:\n"
                "        await tg.start(batcher.run)\n\n"
                "(in an asyncio.TaskGroup: tg.create_task(batcher.run()), then "
                "await asyncio.sleep(0))"
            )

    # Inspection

    @property
    def stats(self) -> BatcherStatistics:
        """Counts of items and flushes so far. O(1)."""
        return BatcherStatistics(
            flushes=self._flusher.flushes,
            items=self._flusher.items,
            failures=self._flusher.failures,
            given_up=self._flusher.given_up,
            queued=len(self._buffer),
            last_flush_time=self._flusher.last_flush_time,
            running=self._running,
        )

    def pending(self) -> list[T]:
        """Return the items that are neither flushed nor given up, in order. O(their number).

        The batch in the callback is among them.
        """
        return list(self._buffer)

    # Flushing

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Flush batches as they fall due, until the batcher is closed.

        Start it in your own task group: ``await tg.start(batcher.run)``. A failing batch is logged
        and tried again, and never raises out of `run`.

        Raises:
            BusyResourceError: it is running already.
            TypeError: ``on_flush`` is not an async function.

        If cancelled, so is the callback, and its batch stays in front, its delivery not counted;
        waiting producers get `TimekeeperNotRunningError`. It can be started again. It sleeps until
        a batch is due; a batch costs O(its items).
        """
        if self._running:
            raise BusyResourceError(RUN_TWICE)
        self._home.check()
        self._running = True
        self._set_open()
        try:
            task_status.started()
            for _ in range(_TURNS):
                if self._closed:
                    await self._home.checkpoint()
            opened = self._times_opened
            # Opened anew before it has seen the end, it ends all the same.
            while not self._closed and self._times_opened == opened:
                now = self._home.time()
                deadline = self._buffer.next_deadline()
                if deadline <= now:
                    await self._flusher.flush_due()
                else:
                    await self._sleep(now, deadline)
        finally:
            self._running = False
            self._set_open()

    async def flush(self, *, force: bool = True) -> None:
        """Flush the pending items, and return when they are flushed.

        Args:
            force: True: flush all items; False: only full batches, and batches that were tried
                before.

        Raises:
            Exception: the error of the callback, if the delivery of such a batch failed after this
                call began. The batch is tried again as always.

        Items added later may be in the same batch. `flush` waits for a batch that rests. It needs
        no `run`, and also works on a closed batcher. If cancelled, so is the callback, if this
        call was running it; its batch stays in front, its delivery not counted.
        O(items).
        """
        await self._home.checkpoint()
        await self._flusher.flush(Call(self._buffer.end(short=force)))

    # Time

    def _plan(self) -> None:
        """Wake `run` if a batch is due before it would wake by itself."""
        deadline = self._buffer.next_deadline()
        if deadline < self._wake_at:
            self._wake_at = deadline
            self._wake()

    def _wake(self) -> None:
        if self._alarm is not None:
            self._home.ring(self._alarm)

    async def _sleep(self, now: float, deadline: float) -> None:
        """Sleep until there is something to do, or at most until the planned time."""
        planned = self._wake_at if self._wake_at > now else inf
        self._wake_at = min(planned, deadline)
        home = self._home
        self._alarm = alarm = home.bell()
        with home.scope(deadline=self._wake_at):
            await alarm
        self._alarm = None

    def _look_again(self) -> None:
        """Plan and admit producers anew after the delivery of a batch."""
        self._plan()
        self._admit()

    def _set_open(self) -> None:
        """Accept items, or turn away waiting producers."""
        self._buffer.open = self._running and not self._closed
        self._buffer.recount()
        if not self._buffer.open:
            for turn in self._buffer.turn_away():
                turn.set()

    # The end

    async def __aenter__(self) -> Self:
        if self._closed:
            self._closed = False
            self._times_opened += 1
            self._set_open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._set_open()
        self._wake()
        final = Call(0)
        try:
            await self._finish(final, error)
        finally:
            left = len(self._buffer)
            if left:
                log(
                    logging.ERROR,
                    "%s is left with items: see pending()",
                    repr(self),
                    logger=self._logger,
                )
        if final.error is None:
            return
        note = f"the final flush of {self!r} failed, with {left} items left in pending()"
        if error is None or _is_cancellation(error):
            final.error.add_note(note)
            raise final.error
        error.add_note(f"{note}: {shown(final.error)}")

    async def _finish(self, final: Call, error: BaseException | None) -> None:
        """Try the remaining batches, within the shutdown timeout once this is cancelled."""
        if error is not None and not is_a(error, Exception):
            await self._finish_in_time(final)
            return
        try:
            await self._home.checkpoint()
            await self._flusher.try_all(final)
        except Exception:
            raise
        except BaseException as stop:
            await self._finish_in_time(final)
            if final.error is None or not _is_cancellation(stop):
                raise

    async def _finish_in_time(self, final: Call) -> None:
        with move_on_after(self._shutdown_timeout, shield=True):
            await self._flusher.try_all(final)


def _is_cancellation(error: BaseException) -> bool:
    """Return True if an error is a cancellation, or a group of cancellations alone."""
    cancelled = get_cancelled_exc_class()
    return all(is_a(leaf, cancelled) for leaf in leaves(error))


adopt("leaseq", globals())
