"""The delivery of batches to the callback: one at a time, counted, logged, retried or given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import isawaitable
from logging import DEBUG, ERROR, Logger, LoggerAdapter
from math import inf
from typing import Any, Generic, TypeVar

from anyio import CancelScope, Event, Lock, current_effective_deadline

from .._core.errors import LeaseqError
from .._core.functions import check_has_run, result_of
from .._core.log import log
from .._core.loop import Home, is_failure, native_cancellations, times_cancelled
from .._core.texts import is_a, shown
from .buffer import Batch, Buffer

T = TypeVar("T")


class _Delivery:
    """The delivery of a batch to the callbacks, and the one in which that was asked for."""

    __slots__ = ("within",)

    def __init__(self, within: _Delivery | None) -> None:
        self.within = within


_here: ContextVar[_Delivery | None] = ContextVar("leaseq.batcher.delivery", default=None)
"""The delivery in whose callback this code runs, in its task or in one that was started in it."""


class Call:
    """A call to flush the items before a position.

    Attributes:
        end: The position.
        error: The error of the first such batch that has failed meanwhile.
    """

    __slots__ = ("end", "error")

    def __init__(self, end: int) -> None:
        self.end = end
        self.error: Exception | None = None


class Flusher(Generic[T]):
    """The delivery of batches to the callback, one at a time.

    A batch is removed from `Buffer` only after the callback has returned: so if the callback is
    cancelled, natively or by a scope, there is nothing to put back.

    Args:
        buffer: The batches, until they are flushed or given up.
        home: The event loop.
        on_flush: As in `Batcher`.
        on_give_up: As in `Batcher`.
        name: As in `Batcher`.
        logger: The logger of failures, as errors, and of flushes, for debugging.
        after: Called after each delivery, however it ended.

    Attributes:
        flushes: Batches flushed.
        items: Items flushed.
        failures: Deliveries that failed.
        given_up: Items given up.
        last_flush_time: The time of the last flush, on the event loop's clock.
    """

    def __init__(
        self,
        buffer: Buffer[T, Event],
        home: Home,
        on_flush: Callable[[list[T]], Awaitable[object]],
        on_give_up: Callable[[list[T], Exception], Awaitable[object] | None] | None,
        name: str,
        logger: Logger | LoggerAdapter[Any],
        after: Callable[[], None],
    ) -> None:
        self.flushes = self.items = self.failures = self.given_up = 0
        self.last_flush_time: float | None = None
        self._buffer = buffer
        self._home = home
        self._on_flush = on_flush
        self._on_give_up = on_give_up
        self._name = name
        self._logger = logger
        self._after = after
        self._lock = Lock(fast_acquire=True)
        self._delivery: _Delivery | None = None  # there is one while a callback runs
        self._calls: set[Call] = set()
        self._news: Event | None = None  # there is one while a call waits for a batch that rests

    def check_outside(self, call: str) -> None:
        """Raise `RuntimeError` in a callback whose end a call would wait for.

        A task that the callback has started and does not wait for is refused as well, as long as
        that delivery lasts: the two cannot be told apart.
        """
        here = _here.get()
        while here is not None:
            if here is self._delivery:
                raise RuntimeError(
                    f"{call} in a callback of the batcher {shown(self._name)} would wait for ever: "
                    "for the callback itself to return. Have on_flush raise an error for what is "
                    "to be tried again, and give other work to a task that runs beside the batcher"
                )
            here = here.within

    async def flush_due(self) -> None:
        """Try the next batch that is due, if the batcher is still open."""
        async with self._lock:
            now = self._home.time()
            batch = self._buffer.take(self._buffer.end_of_due(now), now)
            if batch is not None and self._buffer.open:
                await self._deliver(batch)

    async def flush(self, call: Call) -> None:
        """Try batches until all of the call's are gone, or one has failed."""
        self.check_outside("flush()")
        self._calls.add(call)
        try:
            while call.error is None and self._buffer.start < call.end:
                await self._flush_next(call)
        finally:
            self._calls.discard(call)
        if call.error is not None:
            raise call.error

    async def try_all(self, final: Call) -> None:
        """Try each batch from ``final.end`` on once, due or not, and move ``final.end`` on."""
        self.check_outside("leaving the batcher's own `async with`")
        async with self._lock:
            for batch in self._buffer.take_all():
                if batch.start >= final.end:
                    error = await self._deliver(batch)
                    final.error = final.error or error
                    final.end = batch.start + 1

    async def _flush_next(self, call: Call) -> None:
        """Try the next batch, or wait until it has rested or another task has tried it."""
        until = self._buffer.rests_until()
        if until > self._home.time():
            self._news = self._news or Event()
            with CancelScope(deadline=until):
                await self._news.wait()
            return
        async with self._lock:
            batch = self._buffer.take(call.end, self._home.time())
            if batch is not None and call.error is None:
                await self._deliver(batch)

    async def _deliver(self, batch: Batch[T]) -> Exception | None:
        """Try to flush a batch, and give it up after its last delivery; return its error."""
        await self._home.checkpoint()  # the callback may have none
        self._delivery = _Delivery(_here.get())
        token = _here.set(self._delivery)
        try:
            error = batch.error or await self._attempt(batch)
            if error is None:
                self._flushed(batch)
            elif batch.error is None:
                self._failed(batch, error)
            if batch.error is not None:
                await self._give_up(batch, batch.error)
            return error
        finally:
            _here.reset(token)
            self._delivery = None
            self._after()
            if self._news is not None:
                self._news.set()
                self._news = None

    async def _attempt(self, batch: Batch[T]) -> Exception | None:
        """Call `on_flush` and return its error; raise one that took the place of a cancellation."""
        cancelled = times_cancelled()
        try:
            flushing = self._on_flush(batch.items.copy())
            if isawaitable(flushing):
                await check_has_run(await flushing)
                return None
        except Exception as error:
            if times_cancelled() > cancelled and current_effective_deadline() != -inf:
                raise  # a native cancellation comes once: the task would go on as if it had not
            return error
        except native_cancellations() as error:
            if not is_failure(error):
                raise
            failure = LeaseqError("on_flush awaited something that was cancelled")
            failure.__cause__ = error
            return failure
        raise TypeError(
            f"on_flush must be an async function, but {shown(self._on_flush)} returned "
            f"{shown(flushing)}: make it one with async def, and if it blocks, await "
            "anyio.to_thread.run_sync(...) in it"
        )

    def _flushed(self, batch: Batch[T]) -> None:
        self._buffer.remove(batch)
        self.flushes += 1
        self.items += len(batch.items)
        self.last_flush_time = self._home.time()
        what = (self._name, len(batch.items))
        log(DEBUG, "batcher %r: flushed %d items", *what, logger=self._logger)

    def _failed(self, batch: Batch[T], error: Exception) -> None:
        mishap = self._buffer.failed(batch, error, self._home.time())
        self.failures += 1
        for call in self._calls:
            if batch.start < call.end:
                call.error = call.error or error
        self._log_error(
            "flushing %d items failed at delivery %d, and they are "
            + ("kept and tried again" if batch.error is None else "given up"),
            error,
            len(batch.items),
            batch.deliveries,
        )
        if mishap is not None:
            self._log_error("the retry policy failed: the items rest for a minute", mishap)

    async def _give_up(self, batch: Batch[T], error: Exception) -> None:
        assert self._on_give_up is not None
        try:
            await result_of(self._on_give_up(batch.items.copy(), error))
        except BaseException as own:
            if not is_a(own, (Exception, *native_cancellations())) or not is_failure(own):
                raise
            self._buffer.not_given_up(batch, self._home.time())
            self._log_error(
                "on_give_up failed: the %d items are kept, and offered again later",
                own,
                len(batch.items),
            )
        else:
            self._buffer.remove(batch)
            self.given_up += len(batch.items)

    def _log_error(self, message: str, error: BaseException, *counts: int) -> None:
        log(
            ERROR,
            f"batcher %r: {message}",
            self._name,
            *counts,
            error=error,
            logger=self._logger,
        )
