"""Items gathered into batches, in front of something that takes many at once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Generic, Self, TypeVar

from anyio import (
    TASK_STATUS_IGNORED,
    BusyResourceError,
    CancelScope,
    Event,
    WouldBlock,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import TaskStatus

from .._core.errors import TimekeeperNotRunningError
from .._core.loop import Home
from .._core.messages import RUN_TWICE, takes_nothing_more
from .._core.policies import Backoff, Retry
from .._core.validation import check_text, number, shown, wait_seconds
from .buffer import Buffer
from .flusher import Call, Flusher

T = TypeVar("T")

_log = logging.getLogger("leaseq")


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """Counts of the items that a batcher holds, and of its flushes so far."""

    flushes: int
    """Buffer flushed."""
    items: int
    """Items flushed."""
    failures: int
    """Deliveries of a batch that failed."""
    given_up: int
    """Items that went to ``on_give_up``."""
    queued: int
    """Items added and neither flushed nor given up, those on their way included."""
    last_flush_time: float | None
    """When a batch was flushed last, in seconds of the event loop's clock; None: none was yet."""
    running: bool
    """True while `Batcher.run` runs."""


class Batcher(Generic[T]):
    """Gathers items, and hands them to a callback in batches.

    A batch goes when it is full, or ``flush_interval`` after its first item, whichever is first.
    Buffer go one at a time and in order, and none is ever over the maximum. A batch that fails
    stays in front as it is, and is tried again after the backoff and not sooner; newer items wait
    behind it. So the callback may see the same batch twice, but no item is lost: each one is
    flushed, given up, or in `pending`. ::

        async def write(rows: list[str]) -> None:
            print(len(rows), "rows")


        async def main():
            async with anyio.create_task_group() as tg, Batcher(write) as batcher:
                await tg.start(batcher.run)
                await batcher.add("a row")

    **The end.** ``async with batcher`` takes no more when its body ends, then tries each batch
    that is left once, due or not, and raises the first error if one failed. If the body raised an
    `Exception` itself, that goes on, with a note. If it was cancelled, or is while the batches are
    flushed, they have ``shutdown_timeout`` seconds, shielded. The shield holds against cancel
    scopes; a second `asyncio.Task.cancel` ends the flush at once. What is left, in any case, is in
    `pending`.

    A batcher belongs to one event loop, and is not thread-safe:
    ``anyio.from_thread.run_sync(batcher.add_nowait, item)`` is the way in from a thread.

    Args:
        on_flush: An async function that takes a list of items, its own to keep. Where it raises,
            or is cancelled, the batch counts as not flushed.
        max_batch_size: How many items make a batch full.
        flush_interval: Seconds after which a batch goes that is not full, counted from its first
            item; 0: as soon as the one before it is done; `math.inf`: never.
        name: What it is called in logs and errors.
        logger: Where it logs failures, as errors, and flushes, for debugging; None: ``leaseq``.
        max_pending: How many items may be pending, those on their way included; then producers
            wait. Let it be some batches and the largest `add_many`: if less than a full batch
            fits, they may wait for the interval.
        retry: How long a failed batch rests, and whether it is given up after so many deliveries.
            By default it is tried for ever.
        on_give_up: Takes the batch and the error of its last delivery; an async function, or an
            ordinary one. If it raises, the batch stays, and is offered to it again after the
            backoff's ceiling, or a minute if there is no backoff.
        shutdown_timeout: Seconds for the final flush once it is cancelled.
        fast_acquire: Whether `add` and `add_many` leave out their checkpoint where they need not
            wait, as in `anyio.Lock`.

    Raises:
        TypeError: ``on_flush`` is not a function.
        ValueError: a number is out of its range; or the retry policy gives up, and there is no
            ``on_give_up``.
    """

    def __init__(
        self,
        on_flush: Callable[[list[T]], Awaitable[object]],
        *,
        max_batch_size: int = 100,
        flush_interval: float = 10.0,
        name: str = "",
        logger: logging.Logger | None = None,
        max_pending: float = inf,
        retry: Retry = Retry(backoff=Backoff(base=1.0, ceiling=60.0)),  # noqa: B008 - a constant
        on_give_up: Callable[[list[T], Exception], Awaitable[object] | None] | None = None,
        shutdown_timeout: float = 5.0,
        fast_acquire: bool = False,
    ) -> None:
        if not callable(on_flush):
            raise TypeError(f"on_flush must be an async function of a list, not {on_flush!r}")
        whole = isinstance(max_batch_size, int)
        if not whole or max_batch_size is True or max_batch_size < 1:
            raise ValueError(
                f"max_batch_size must be a whole number of 1 or more, not {max_batch_size!r}"
            )
        if not isinstance(retry, Retry):
            raise TypeError(f"retry must be a Retry, not {shown(retry)}: Retry(max_deliveries=5)")
        check_text("name", name)
        if not number("max_pending", max_pending, "a whole number, or math.inf") >= 1:
            raise ValueError(f"max_pending must be 1 or more, or math.inf, not {max_pending!r}")
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
        self._buffer: Buffer[T, Event] = Buffer(
            max_batch_size, wait_seconds("flush_interval", flush_interval), max_pending, retry
        )
        self._home = Home()
        self._flusher = Flusher(
            self._buffer, self._home, on_flush, on_give_up, name, self._logger, self._look_again
        )
        self._running = False
        self._closed = False
        self._alarm = Event()
        self._wake_at = inf  # when `run` looks again if it is not woken

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._running else "not running"
        return f"<Batcher {self.name!r} {state}: {len(self._buffer)} pending>"

    # Producers

    async def add(self, item: T) -> None:
        """Add an item, and wait for room if need be.

        Args:
            item: What the callback is to get.

        Raises:
            QueueClosedError: the batcher is closed.
            TimekeeperNotRunningError: `run` was not started, or has ended.

        Who waits gets room in order of arrival. If cancelled, nothing was added. O(1).
        """
        if not self._fast_acquire:
            await self._home.checkpoint()
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
            items: Any number of them; they go in as many batches as it takes.

        Raises:
            QueueClosedError, TimekeeperNotRunningError: as `add` does.
            ValueError: there are more items than may ever be pending.

        Waits until there is room for all of them. If cancelled, nothing was added. O(items).
        """
        many = items if isinstance(items, list) else list(items)
        if not self._fast_acquire:
            await self._home.checkpoint()
        if not many:
            return
        if not self._buffer.room(len(many)):
            many = many.copy()  # whoever made the list may change it meanwhile
            await self._wait_for_room(len(many))
        self._add_now(many)

    def add_nowait(self, item: T) -> None:
        """Add an item at once.

        Args:
            item: What the callback is to get.

        Raises:
            WouldBlock: there is no room, or others wait for it.
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
            raise WouldBlock
        self._add_now([item])

    async def _wait_for_room(self, places: int) -> None:
        """Wait for so many places; then they have to be taken before anything else is done."""
        if places > self._max_pending:
            raise ValueError(
                f"{places} items never fit into a batcher with max_pending={self._max_pending}: "
                "add fewer at a time"
            )
        if self._fast_acquire and not self._running:
            await self._home.checkpoint()  # `run` may just have been given to the event loop
        while True:
            self._check_open()
            if self._buffer.room(places):
                return
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
        """Let producers in for whom there is room by now."""
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

    # What is in there

    @property
    def stats(self) -> BatcherStatistics:
        """Counts of what is in there and of what has happened. O(1)."""
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
        """The items that are neither flushed nor given up, in order. O(their number).

        The batch that is on its way at the moment is among them.
        """
        return list(self._buffer)

    # Flushing

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Flush what is due, until the batcher is closed.

        Start it in your own task group: ``await tg.start(batcher.run)``. A batch that fails is
        logged and tried again, and never raises out of it.

        Raises:
            BusyResourceError: it is running already.
            TypeError: ``on_flush`` is not an async function.

        If cancelled, so is the callback, and its batch stays in front, its delivery not counted;
        producers who wait get `TimekeeperNotRunningError`. It can be started again. It sleeps until
        something is due; a batch costs O(its items).
        """
        if self._running:
            raise BusyResourceError(RUN_TWICE)
        self._home.check()
        self._running = True
        self._set_open()
        try:
            task_status.started()
            while not self._closed:
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
        """Flush what is in there, and return when it is done.

        Args:
            force: Whether a batch goes that is not full; False: only full ones, and those that were
                tried before.

        Raises:
            Exception: what the callback raised, if the delivery of a batch that was to be flushed
                failed after the call, whoever made it. The batch is tried again as always.

        Items that are added later may go in the same batch. A batch that rests is waited for. It
        needs no `run`, and also works on a closed batcher. If cancelled, so is the callback, if
        it was this call that made it; its batch stays in front, its delivery not counted.
        O(items).
        """
        await self._home.checkpoint()
        await self._flusher.flush(Call(self._buffer.end(short=force)))

    # Time

    def _plan(self) -> None:
        """Wake `run` if something is due earlier than it was going to look."""
        deadline = self._buffer.next_deadline()
        if deadline < self._wake_at:
            self._wake_at = deadline
            self._alarm.set()

    async def _sleep(self, now: float, deadline: float) -> None:
        """Sleep until there is something to do, or at most until a time once planned for."""
        planned = self._wake_at if self._wake_at > now else inf
        self._wake_at = min(planned, deadline)
        self._alarm = Event()
        with CancelScope(deadline=self._wake_at):
            await self._alarm.wait()

    def _look_again(self) -> None:
        """Do what may have to be done after a batch has left or come to rest."""
        self._plan()
        self._admit()

    def _set_open(self) -> None:
        """Take items in from now on, or let no producer wait any more."""
        self._buffer.open = self._running and not self._closed
        self._buffer.recount()
        if not self._buffer.open:
            for turn in self._buffer.turn_away():
                turn.set()

    # The end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._set_open()
        self._alarm.set()
        final = Call(0)
        try:
            await self._finish(final, error)
        finally:
            left = len(self._buffer)
            if left:
                self._logger.error("%r is left with items: see pending()", self)
        if final.error is None:
            return
        note = f"the final flush of {self!r} failed, with {left} items left in pending()"
        if error is None or _is_cancellation(error):
            final.error.add_note(note)
            raise final.error
        error.add_note(f"{note}: {final.error!r}")

    async def _finish(self, final: Call, error: BaseException | None) -> None:
        """Try what is left, in good time, or in a hurry once this is cancelled."""
        if error is not None and not isinstance(error, Exception):
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
    """Return whether an error is a cancellation, or a group of cancellations alone."""
    cancelled = get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)
