"""Pools of workers in the user's task group."""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TypedDict, TypeVar, Unpack, cast, overload

from anyio import TASK_STATUS_IGNORED, CapacityLimiter, Event, open_signal_receiver
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync

from .abc import LeasedQueue
from .errors import LeaseLostError
from .lease import Lease
from .lease_batch import LeaseBatch
from .values import GetOptions
from .workers import Pool, is_mere_failure

__all__ = ["PoolOptions", "Reject", "serve", "serve_batches", "stop_on_signals"]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("leaseq")

_GET_OPTIONS = GetOptions.__required_keys__ | GetOptions.__optional_keys__


class Reject(Exception):  # noqa: N818 - what a handler does, not what went wrong
    """Raise it in a handler: the item is given up for this reason, and becomes a dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PoolOptions(TypedDict, total=False):
    """How a pool works."""

    heartbeat: bool
    """Whether leases are extended, each third of their length, while their handler runs. False
    (the default): a handler that takes longer than its lease loses it."""
    max_runtime: float | None
    """With ``heartbeat``: seconds for a handler, up to which its lease is extended and no further,
    so that one that hangs does not hold its key for ever. None (the default): no bound."""
    stop: Event | None
    """Once it is set, the pool claims nothing more, gives the running handlers ``grace`` to finish,
    cancels the others, whose items go back uncounted, and returns."""
    grace: float
    """With ``stop``: seconds for the handlers that run when it is set. `math.inf` (the default): as
    long as they take."""


class ServeOptions(GetOptions, PoolOptions, total=False):
    """How a pool leases its items, and how it works."""


@overload
async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], Awaitable[R]],
    limit: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None: ...


@overload
async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], R],
    limit: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None: ...


async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], Awaitable[R]] | Callable[[Lease[K, V]], R],
    limit: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Have workers handle the items of a queue, until it is shut down and drained.

    ``await tg.start(serve, queue, handler, 8)`` runs eight of them in your task group. Each leases
    one item at a time, and none ahead. When the handler

    - returns, the item is acknowledged;
    - raises `Reject`, the item becomes a dead letter;
    - raises another `Exception`, that is logged, and the item released under the retry policy;
    - loses its lease, it is cancelled, and that is logged.

    In all of these cases the pool goes on. An error of the queue itself or of a callback ends it,
    and so does anything outside `Exception`; the other handlers are cancelled.

    Args:
        queue: The queue, on any engine.
        handler: Takes a lease and does the work. An ordinary function runs in a worker thread.
            Nothing can stop a thread: if its lease is lost, or the pool is cancelled, it runs to
            its end all the same, and the pool waits for that.
        limit: How many workers.
        on_start: Called with the lease, before the handler. It may extend the lease: the heartbeat
            then keeps it at that length. What it raises is as if the handler did.
        on_success: Called with the lease and what the handler returned, once the item is done.
        on_failure: Called with the lease, which still holds, and the error. It may settle the lease
            in its own way; if it does not, the retry policy decides.
        task_status: For ``tg.start``: the workers are there.
        **options: As `ServeOptions` has them.

    Raises:
        QueueClosedError: the queue was closed with work left.
        TimekeeperNotRunningError: as `LeasedQueue.get` does.
        ValueError: an option has a value that it cannot have.
        Exception: whatever else the queue raised, or a callback.

    If cancelled, so are the handlers, and their items go back uncounted.
    """
    pool = Pool(queue.name, limit, **_pool_options(options))
    get_options = _get_options(options)
    handle = _as_async(handler, limit)

    async def claim() -> Sequence[Lease[K, V]]:
        _, _, lease = await queue.get(**get_options)
        return (lease,)

    async def work(leases: Sequence[Lease[K, V]]) -> None:
        (lease,) = leases
        try:
            async with lease:
                try:
                    if on_start is not None:
                        await on_start(lease)
                        pool.replan(leases)
                    result = await handle(lease)
                except BaseException as error:
                    if not is_mere_failure(error):
                        raise
                    await fail(lease, error)
                    return
        except LeaseLostError as lost:
            logger.warning("queue %r: %s", queue.name, lost)
            return
        if on_success is not None and lease.ended == "acked":
            await on_success(lease, result)

    async def fail(lease: Lease[K, V], error: BaseException) -> None:
        if isinstance(error, Reject):
            if lease.ended is None:
                await lease.reject(error.reason)
            return
        logger.error(
            "queue %r: the handler of %r failed at delivery %d",
            queue.name,
            lease.key,
            lease.deliveries,
            exc_info=error,
        )
        if on_failure is not None and lease.ended is None:
            await on_failure(lease, error)
        if lease.ended is None:
            await queue.fail(lease, error)
        await checkpoint()  # a handler that fails whenever it is cancelled must not go on and on

    await pool.run(claim, work, task_status)


async def serve_batches(
    queue: LeasedQueue[K, V],
    handler: Callable[[LeaseBatch[K, V]], Awaitable[object]] | Callable[[LeaseBatch[K, V]], object],
    max_items: int,
    max_wait: float = 0.0,
    limit: int = 1,
    *,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Have workers handle the items of a queue in batches, until it is shut down and drained.

    As `serve`, with a handler that takes a `LeaseBatch`. When it returns, what it has not settled
    itself is acknowledged; when it raises, released under the retry policy, in the old order.
    `Reject` gives up all that is left of the batch.

    Args:
        queue: The queue, on any engine.
        handler: Takes a batch and does the work. An ordinary function runs in a worker thread, as
            in `serve`.
        max_items: How many items a batch has at most.
        max_wait: Seconds to wait for more items once there is one.
        limit: How many workers.
        task_status: For ``tg.start``: the workers are there.
        **options: As `ServeOptions` has them.

    Raises:
        QueueClosedError: the queue was closed with work left.
        TimekeeperNotRunningError: as `LeasedQueue.get_batch` does.
        ValueError: an option has a value that it cannot have, as in `LeasedQueue.get_batch`.
        Exception: whatever else the queue raised.

    If cancelled, so are the handlers, and their items go back uncounted.
    """
    pool = Pool(queue.name, limit, **_pool_options(options))
    get_options = _get_options(options)
    handle = _as_async(handler, limit)

    async def claim() -> Sequence[Lease[K, V]]:
        return await queue.get_batch(max_items, max_wait=max_wait, **get_options)

    async def work(leases: Sequence[Lease[K, V]]) -> None:
        try:
            async with LeaseBatch(leases) as batch:
                try:
                    await handle(batch)
                except BaseException as error:
                    if not is_mere_failure(error):
                        raise
                    await fail(batch, error)
        except LeaseLostError as lost:
            logger.warning("queue %r: %s", queue.name, lost)

    async def fail(batch: LeaseBatch[K, V], error: BaseException) -> None:
        if isinstance(error, Reject):
            await batch.settle_rest(partial(queue.reject, reason=error.reason))
            return
        logger.error(
            "queue %r: the handler of a batch failed, with %d items left",
            queue.name,
            len(batch),
            exc_info=error,
        )
        await batch.settle_rest(partial(queue.fail, error=error))
        await checkpoint()  # as in `serve`

    await pool.run(claim, work, task_status)


async def stop_on_signals(
    stop: Event,
    *signals: signal.Signals,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
) -> None:
    """Set an event at the first signal, and return; the next one does what it always does.

    Args:
        stop: What to set, for instance the ``stop`` of a pool.
        *signals: Which signals; none: SIGINT and SIGTERM.
        task_status: For ``tg.start``: signals are listened to.

    If cancelled, signals are not listened to any more.
    """
    with open_signal_receiver(*(signals or (signal.SIGINT, signal.SIGTERM))) as received:
        task_status.started()
        number = await anext(aiter(received))
        logger.info("stopping, at %s", signal.Signals(number).name)
        stop.set()


def _as_async(
    handler: Callable[[T], Awaitable[R]] | Callable[[T], R], limit: int
) -> Callable[[T], Awaitable[R]]:
    """The handler as an async function: an ordinary one runs in a worker thread."""
    if iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__):
        return cast("Callable[[T], Awaitable[R]]", handler)
    # Threads of the pool's own: who waited for one would hold a lease meanwhile.
    threads = CapacityLimiter(limit)

    def call(work: T) -> tuple[Awaitable[R] | R]:
        return (handler(work),)  # trio has no thread return an awaitable by itself

    async def in_a_thread(work: T) -> R:
        (result,) = await run_sync(call, work, limiter=threads)
        if isawaitable(result):  # the handler is a lambda around an async function, for instance
            return await cast("Awaitable[R]", result)
        return result

    return in_a_thread


def _get_options(options: ServeOptions) -> GetOptions:
    chosen = {name: value for name, value in options.items() if name in _GET_OPTIONS}
    return cast("GetOptions", chosen)


def _pool_options(options: ServeOptions) -> PoolOptions:
    others = {name: value for name, value in options.items() if name not in _GET_OPTIONS}
    return cast("PoolOptions", others)
