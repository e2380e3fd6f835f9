"""Pools of workers in the user's task group."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from logging import ERROR, INFO, WARNING
from math import inf
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_args, overload

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    CapacityLimiter,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    open_signal_receiver,
    sleep,
)
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from ._core.errors import (
    InvalidLeaseError,
    LeaseCancelledError,
    LeaseLostError,
    QueueClosedError,
    TimekeeperNotRunningError,
    rejection,
)
from ._core.exports import adopt
from ._core.functions import (
    check_function,
    check_has_run,
    is_async,
    keeper,
    result_of,
    run_in,
    run_in_thread,
)
from ._core.log import log
from ._core.loop import Home, cancel_counter, is_cancelled, is_mere_failure
from ._core.options import ANY_KEY, GetOptions
from ._core.policies import Backoff
from ._core.process_pool import Processes
from ._core.requests import ClaimRequest
from ._core.texts import failure_text, queue_text, shown
from ._core.validation import check_flag, check_known, lease_seconds, wait_seconds, whole_number
from ._handler_in_process import as_call
from .abc import LeasedQueue
from .abc._lease import Bodies, Lease, LeaseBatch, kept_leases
from .abc._queue import EarlyClaim

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
T = TypeVar("T")

RunIn: TypeAlias = Literal["thread", "process"]
"""The place in which an ordinary function runs."""
_Leases: TypeAlias = Sequence[Lease[Any, Any]]

_GET_OPTIONS = GetOptions.__required_keys__ | GetOptions.__optional_keys__

_BACKOFF = Backoff(base=1.0, ceiling=60.0)
"""The rest of an item whose handler failed, in queues whose retry policy has none."""

_ALONG = 0.1  # of the length of a lease, by which its heartbeat may be early, to go with others
_UNBROKEN = 32  # deliveries of a worker, at most, until others have a turn
_KNOWN_FAILURES = 1000


class PoolOptions(TypedDict, total=False):
    """Options of a pool's work."""

    heartbeat: bool
    """True: leases are extended at every third of their length while their handler runs; those that
    never expire are left as they are. False (the default): a handler that takes longer than its
    lease loses it, unless it runs in a thread."""
    max_runtime: float | None
    """With ``heartbeat``: seconds of a handler after which its lease is no longer extended, so that
    a handler that hangs does not hold its key for ever; a lease that never expires gets this
    length. A handler in a thread keeps its lease until it has ended, and then has failed. None (the
    default): no bound."""
    stop: Event | None
    """Once it is set, the pool claims nothing more, gives the running handlers ``grace`` to finish,
    cancels the others, whose items go back uncounted, and returns."""
    grace: float
    """With ``stop``: seconds for the handlers that run when it is set. `math.inf` (the default): no
    limit."""


class ServeOptions(GetOptions, PoolOptions, total=False):
    """Options of a pool: of its leases and of its work."""


@overload
async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], Awaitable[R]],
    concurrency: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    on_lost: Callable[[Lease[K, V], LeaseLostError], Awaitable[object]] | None = None,
    run_in: RunIn = "thread",
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None: ...


@overload
async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], R],
    concurrency: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    on_lost: Callable[[Lease[K, V], LeaseLostError], Awaitable[object]] | None = None,
    run_in: RunIn = "thread",
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None: ...


async def serve(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], Awaitable[R]] | Callable[[Lease[K, V]], R],
    concurrency: int = 1,
    *,
    on_start: Callable[[Lease[K, V]], Awaitable[object]] | None = None,
    on_success: Callable[[Lease[K, V], R], Awaitable[object]] | None = None,
    on_failure: Callable[[Lease[K, V], BaseException], Awaitable[object]] | None = None,
    on_lost: Callable[[Lease[K, V], LeaseLostError], Awaitable[object]] | None = None,
    run_in: RunIn = "thread",
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Have workers handle the items of a queue, until it is shut down and drained.

    ``await tg.start(serve, queue, handler, 8)`` runs eight workers in your task group. Each leases
    one item at a time, and prefetches nothing. When the handler

    - returns, the item is acknowledged;
    - raises `Reject`, alone or as every leaf of a group, the item becomes a dead letter;
    - raises another error, also one outside `Exception` such as `SystemExit`, the error is logged,
      and the item released under the retry policy;
    - loses its lease, it is cancelled, and the loss is logged.

    In all of these cases the pool goes on. An error of the queue itself ends it, and is raised by
    itself; so does `KeyboardInterrupt`, which comes in a group, as from any task group. The other
    handlers are cancelled.

    Each delivery, from ``on_start`` to ``on_success``, runs in its own copy of the pool's context.

    Callbacks are ``async def`` functions. An ordinary function works too, and runs in the event
    loop, not in a worker thread: it must not block.

    If the retry policy of the queue has no backoff, the pool has one: after the n-th delivery an
    item that failed rests for up to ``2 ** (n - 1)`` seconds, a minute at most. Without a
    timekeeper it cannot rest, and joins the back of the line. Of errors that an item repeats, the
    log has the traceback of the first only.

    Args:
        queue: The queue, on any engine.
        handler: A function that takes a lease and does the work. An ordinary function runs in a
            worker thread. A thread cannot be stopped, so its lease is extended until it has ended,
            also without ``heartbeat``, after ``max_runtime``, which then counts as a failure, and
            when the pool is cancelled. A result that is code which was not run, such as a
            generator, counts as an error.
        concurrency: The number of workers, and so of items at a time.
        on_start: Called with the lease, before the handler. It may extend the lease: the heartbeat
            then keeps it at that length. An error in it counts as an error of the handler.
        on_success: Called with the lease and the handler's result, after the acknowledgement,
            by the pool or by the handler. An error in it is logged, and has no other effect.
        on_failure: Called with the lease, which still holds, and the error. It may settle the lease
            itself; if it does not, or raises an error, which is logged, the retry policy decides.
        on_lost: Called with the lease and the error, once the handler has ended, if it has lost the
            lease, or a `LeaseCancelledError` if its item was cancelled. An error in it is logged,
            and has no other effect.
        run_in: The place of an ordinary function. ``"thread"`` (the default): in a worker thread.
            ``"process"``: in a process, which is killed when the lease is lost, ``max_runtime`` is
            over, or the pool is cancelled; one that dies is a failure of the item. Each worker has
            one process, which ends with the pool. The handler is found there by its name, so it
            must be at the top of a module. Its lease can only be read; the value goes there by the
            codec of the queue, and its result comes back as JSON.
        task_status: For ``tg.start``: the workers have started.
        **options: As `ServeOptions` has them.

    Raises:
        QueueClosedError: the queue was closed with work left.
        RuntimeError: on asyncio, each of its workers was cancelled by itself.
        TimekeeperNotRunningError: as `LeasedQueue.get` does.
        TypeError: an option is unknown; or the handler or a callback is a generator function, or
            cannot be called with these arguments.
        ValueError: an option has an invalid value.
        Exception: any other error of the queue.

    If cancelled, so are the handlers, and their items go back uncounted. With the heartbeat, each
    extension costs O(workers).
    """
    callbacks: dict[str, Callable[..., object] | None] = {
        "on_start": on_start,
        "on_success": on_success,
        "on_failure": on_failure,
        "on_lost": on_lost,
    }
    _check_call("serve", handler, "a lease", options, ("concurrency", "run_in", *callbacks))
    for name, callback in callbacks.items():
        if callback is not None:
            others = {"on_start": (), "on_success": ("a result",)}.get(name, ("an error",))
            check_function(name, callback, "a lease", *others)
    check_run_in(run_in)
    pool = Pool(queue.name, concurrency, **_pool_options(options))
    get_options = _get_options(options)
    handle = (
        as_call(queue, cast("Any", handler), pool.processes, keeps_result=on_success is not None)
        if run_in == "process"
        else _as_async(handler, pool.concurrency)
    )

    async def claim(worker: Worker) -> Sequence[Lease[K, V]]:
        early, worker.early = worker.early, None
        if early is not None:
            return (await early.lease(),)
        _, _, lease = await queue.get(**get_options)
        return (lease,)

    def claim_next(worker: Worker) -> None:
        """Have the next item claimed together with the settlement that follows, if any."""
        if on_success is None and not pool.is_stopping:
            worker.early = queue._claim_early(get_options)

    async def work(worker: Worker, leases: Sequence[Lease[K, V]]) -> None:
        (lease,) = leases
        try:
            async with worker.bodies.of(lease):
                if pool.is_bounded:
                    await pool.bound(worker)
                try:
                    if on_start is not None:
                        await result_of(on_start(lease))
                        pool.replan(worker)
                        if pool.is_bounded:
                            await pool.bound(worker)
                    result = await handle(lease)
                    if result is not None:
                        await check_has_run(result)
                except BaseException as error:
                    if not is_mere_failure(error):
                        raise
                    await fail(lease, error)
                    return
                claim_next(worker)
        except LeaseLostError as lost:
            log_loss(queue.name, lost)
            if on_lost is not None:
                await tell("on_lost", on_lost, lease, lost)
            return
        if on_success is not None and lease.ended == "acked":
            await tell("on_success", on_success, lease, result)

    async def tell(
        name: str, callback: Callable[..., object], lease: Lease[K, V], outcome: object
    ) -> None:
        try:
            await result_of(callback(lease, outcome))
        except BaseException as error:
            if not is_mere_failure(error):
                raise
            pool.log_failure(lease, error, f"{name} of %r failed at delivery %d")

    async def fail(lease: Lease[K, V], error: BaseException) -> None:
        if rejection(error) is None:
            pool.log_failure(lease, error, "the handler of %r failed at delivery %d")
            if on_failure is not None and lease.ended is None:
                await tell("on_failure", on_failure, lease, error)
        if lease.ended is None:
            await lease._abandon(error, _BACKOFF)
        await checkpoint()  # a handler that fails whenever it is cancelled must not go on for ever

    await pool.run(claim, work, task_status)


async def serve_batches(
    queue: LeasedQueue[K, V],
    handler: Callable[[LeaseBatch[K, V]], Awaitable[object]] | Callable[[LeaseBatch[K, V]], object],
    max_items: int,
    max_wait: float = 0.0,
    concurrency: int = 1,
    *,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Have workers handle the items of a queue in batches, until it is shut down and drained.

    Like `serve`, with a handler that takes a `LeaseBatch`. When it returns, the leases that it has
    not settled are acknowledged; when it raises, they are released under the retry policy, in the
    old order, or with the backoff of `serve`. `Reject` gives up all items that are left in the
    batch.

    Args:
        queue: The queue, on any engine.
        handler: A function that takes a batch and does the work. An ordinary function runs in a
            worker thread, as in `serve`.
        max_items: The largest number of items in a batch.
        max_wait: Seconds to wait for more items after the first; 0 (the default): do not wait.
        concurrency: The number of workers, and so of batches at a time.
        task_status: For ``tg.start``: the workers have started.
        **options: As `ServeOptions` has them.

    Raises:
        QueueClosedError: the queue was closed with work left.
        TimekeeperNotRunningError: as `LeasedQueue.get_batch` does.
        TypeError: an option is unknown; or the handler is a generator function, or cannot be called
            with a batch.
        ValueError: an option has an invalid value, as in `LeasedQueue.get_batch`.
        Exception: any other error of the queue.

    If cancelled, so are the handlers, and their items go back uncounted. With the heartbeat, each
    extension costs O(workers + items of the batch).
    """
    own = ("max_items", "max_wait", "concurrency")
    _check_call("serve_batches", handler, "a batch", options, own)
    max_items = whole_number("max_items", max_items, 1, "1 or more")
    wait_seconds("max_wait", max_wait)
    pool = Pool(queue.name, concurrency, **_pool_options(options))
    get_options = _get_options(options)
    handle = _as_async(handler, pool.concurrency)

    async def claim(worker: Worker) -> Sequence[Lease[K, V]]:
        return await queue.get_batch(max_items, max_wait=max_wait, **get_options)

    async def work(worker: Worker, leases: Sequence[Lease[K, V]]) -> None:
        try:
            async with LeaseBatch(leases) as batch:
                if pool.is_bounded:
                    await pool.bound(worker)
                try:
                    result = await handle(batch)
                    if result is not None:
                        await check_has_run(result)
                except BaseException as error:
                    if not is_mere_failure(error):
                        raise
                    await fail(batch, error)
        except LeaseLostError as lost:
            log_loss(queue.name, lost)

    async def fail(batch: LeaseBatch[K, V], error: BaseException) -> None:
        if rejection(error) is None:
            pool.log_failure(batch, error, "the handler of a batch failed, with %d items left")
        await batch._settle_rest(error, _BACKOFF)
        await checkpoint()  # as in `serve`

    await pool.run(claim, work, task_status)


async def stop_on_signals(
    stop: Event,
    *signals: signal.Signals,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
) -> None:
    """Set an event at the first signal, and return; the next one has its usual effect.

    Args:
        stop: The event to set, for instance the ``stop`` of a pool.
        *signals: The signals to listen for; left out: SIGINT and SIGTERM.
        task_status: For ``tg.start``: signals are being listened for.

    Raises:
        TypeError: ``stop`` is no event.

    If cancelled, it no longer listens for signals. O(signals).
    """
    check_event(stop)
    with open_signal_receiver(*(signals or (signal.SIGINT, signal.SIGTERM))) as received:
        task_status.started()
        number = await anext(aiter(received))
        log(INFO, "stopping, at %s", signal.Signals(number).name)
        stop.set()


class Pool:
    """Workers in a task group, the heartbeat of their leases, and their end."""

    def __init__(
        self,
        name: str,
        concurrency: int,
        *,
        heartbeat: bool = False,
        max_runtime: float | None = None,
        stop: Event | None = None,
        grace: float = inf,
    ) -> None:
        self.concurrency = whole_number("concurrency", concurrency, 1, "1 worker or more")
        self._max_runtime = lease_seconds("max_runtime", max_runtime)
        if max_runtime is not None and not heartbeat:
            raise ValueError(
                f"max_runtime={shown(max_runtime)} bounds the heartbeat, and heartbeat is False: "
                "set heartbeat=True, or leave the bound to lease_timeout"
            )
        self._grace = wait_seconds("grace", grace)
        if self._grace < inf and stop is None:
            raise ValueError(
                f"grace={shown(grace)} is for handlers that run when the pool is stopped, and stop "
                "is None: give it an event"
            )
        if stop is not None:
            check_event(stop)
        self.processes = Processes()
        self._queue = queue_text(name)
        self.is_bounded = self._max_runtime < inf
        self.heartbeat = heartbeat
        self._stop = stop
        self._workers = [Worker(self) for _ in range(self.concurrency)]
        self._home = Home()
        self._beat_at = inf
        self._alarm = Event()
        self._everything = CancelScope()
        self._beating = CancelScope(shield=True)  # leases are kept until their handlers have ended
        self._error: Exception | None = None
        self._drained = False
        self._known: dict[int, int] = {}  # hashes of failures, and the delivery of the last one

    async def run(
        self,
        claim: Callable[[Worker], Awaitable[Sequence[Lease[K, V]]]],
        work: Callable[[Worker, Sequence[Lease[K, V]]], Coroutine[Any, Any, None]],
        task_status: TaskStatus[None],
    ) -> None:
        """Run the workers until there is nothing more to do."""
        at_work = len(self._workers)

        async def run_one(worker: Worker) -> None:
            nonlocal at_work
            try:
                keeper.set(worker)
                await self._work(worker, claim, work)
            finally:
                at_work -= 1
                if not at_work:
                    self._everything.cancel()  # the tasks beside the workers
                    self._beating.cancel()

        async with self.processes, create_task_group() as tg:
            self._everything = tg.cancel_scope
            for worker in self._workers:
                tg.start_soon(run_one, worker)
            tg.start_soon(self._beat)
            if self._stop is not None:
                tg.start_soon(self._end_when, self._stop)
            task_status.started()
        if self._error is not None:
            raise self._error
        if not (self._drained or self.is_stopping or is_cancelled()):
            raise RuntimeError(
                f"{self._queue}: asyncio.Task.cancel was called on each worker of the pool, and "
                "not on the task that runs it"
            )

    @property
    def is_stopping(self) -> bool:
        """True: no more items are claimed."""
        return self._stop is not None and self._stop.is_set()

    async def bound(self, worker: Worker) -> None:
        """Give a worker's leases that never expire the length of ``max_runtime``.

        Raises:
            TimekeeperNotRunningError: they would never expire, and have gone back uncounted.
        """
        leases = worker.leases or ()
        endless = [lease for lease in leases if lease.deadline == inf and lease.ended is None]
        try:
            for lease in endless:
                with suppress(InvalidLeaseError, QueueClosedError):  # its body is cancelled already
                    await lease.extend(self._max_runtime)
        except TimekeeperNotRunningError:
            for lease in reversed(leases):
                with suppress(InvalidLeaseError, QueueClosedError):
                    await lease.queue._give_back(lease)
            raise
        if endless:
            self.replan(worker)

    def replan(self, worker: Worker) -> None:
        """Plan the heartbeat of a worker's leases anew, by their present length. O(1)."""
        if self.heartbeat and worker.leases is not None:
            self._plan(worker, worker.leases)

    async def _work(
        self,
        worker: Worker,
        claim: Callable[[Worker], Awaitable[Sequence[Lease[K, V]]]],
        work: Callable[[Worker, Sequence[Lease[K, V]]], Coroutine[Any, Any, None]],
    ) -> None:
        turns = 0
        cancels = cancel_counter()
        try:
            with worker.scope, worker.bodies:
                while not self.is_stopping:
                    worker.leases = await claim(worker)
                    if self.heartbeat:
                        self._plan(worker, worker.leases)
                    rest = run_in(copy_context(), work(worker, worker.leases), cancels)
                    if rest is not None:
                        await rest
                        rest = None
                    worker.leases = None  # nor has this frame it: an idle worker keeps nothing
                    worker.beat_at = inf
                    turns += 1
                    if not turns % _UNBROKEN:  # maybe nothing has ever had to wait
                        await self._home.checkpoint()
        except Exception as error:
            claiming = worker.leases is None
            if claiming and isinstance(error, QueueClosedError) and error.drained:
                self._drained = True
            else:
                self._fail(error)
        finally:
            if worker.early is not None:
                worker.early.give_up()

    def log_failure(
        self, work: Lease[Any, Any] | LeaseBatch[Any, Any], error: BaseException, message: str
    ) -> None:
        """Log an error of a delivery, with its traceback if the log has none of the same item.

        An item that always fails would fill the log otherwise. Of a batch, the first item counts.
        """
        lease: Lease[Any, Any] | None
        what: tuple[object, ...]
        if isinstance(work, LeaseBatch):
            lease, what = next(iter(work), None), (len(work),)
        else:
            lease, what = work, (work.key, work.deliveries)
        message = f"%s: {message}"
        if lease is not None and self._is_known((message, lease.key), lease.deliveries):
            log(ERROR, f"{message}: %s", self._queue, *what, failure_text(error))
        else:
            log(ERROR, message, self._queue, *what, error=error)

    def _is_known(self, failure: tuple[str, object], delivery: int) -> bool:
        """Note a failure, and return True if it was noted at an earlier delivery of the item."""
        try:
            known = hash(failure)  # the pool keeps no key alive
        except Exception:  # the key has changed since it was put
            return False
        before = self._known.pop(known, delivery)
        self._known[known] = delivery
        if len(self._known) > _KNOWN_FAILURES:
            del self._known[next(iter(self._known))]
        return before < delivery

    def _fail(self, error: Exception) -> None:
        """End the pool with an error, which it raises without a group around it."""
        if self._error is None:
            self._error = error
            self._everything.cancel()
        elif not (
            isinstance(error, QueueClosedError) and isinstance(self._error, QueueClosedError)
        ):
            # Each idle worker hears that the queue was closed: once is enough.
            log(ERROR, "%s: one more error ends the pool", self._queue, error=error)

    async def _end_when(self, stop: Event) -> None:
        await stop.wait()
        for worker in self._workers:
            if worker.leases is None:
                worker.scope.cancel()
        if self._grace < inf:
            await sleep(self._grace)
            self._everything.cancel()

    def _plan(self, worker: Worker, leases: _Leases) -> None:
        """Plan the heartbeat of the leases of a worker, unless an earlier one is planned."""
        worker.plan(leases, self._home.time(), self._max_runtime)
        self._ring(worker)

    def _ring(self, worker: Worker) -> None:
        """Have the heartbeat come in time for a worker."""
        if worker.beat_at < self._beat_at:
            self._beat_at = worker.beat_at
            self._alarm.set()

    def keep(self, worker: Worker) -> None:
        """Keep the leases of a worker, in which a thread has begun, whatever the options say."""
        now = self._home.time()
        if not self.heartbeat and worker.leases is not None:
            worker.plan(worker.leases, now, inf)
        worker.keep(now)
        self._ring(worker)

    def check_runtime(self, worker: Worker) -> None:
        """Raise `TimeoutError` if a handler has taken longer than ``max_runtime``."""
        if self._home.time() > worker.until:
            raise TimeoutError(
                f"it took longer than max_runtime={self._max_runtime:g}, in a thread, which could "
                "not be stopped"
            )

    async def _beat(self) -> None:
        """Extend leases when they are due, until the last worker has ended."""
        try:
            with self._beating:
                while True:
                    try:
                        await self._beat_on()
                    except get_cancelled_exc_class():  # `asyncio.Task.cancel` knows no shield
                        held = any(worker.is_held for worker in self._workers)
                        if self._beating.cancel_called or not held:
                            raise
        except Exception as error:
            self._fail(error)

    async def _beat_on(self) -> None:
        while True:
            now = self._home.time()
            due = [worker for worker in self._workers if worker.is_due(now)]
            for worker in due:
                if worker.is_late(now):
                    message = "%s: the handler of %r takes longer than max_runtime=%g, in a thread"
                    for lease in (worker.leases or ())[:1]:
                        log(WARNING, message, self._queue, lease.key, self._max_runtime)
            for worker, extension in [(each, one) for each in due for one in each.beat(now)]:
                try:
                    await extension
                except (InvalidLeaseError, QueueClosedError):
                    pass  # its body is cancelled
                except TimekeeperNotRunningError:
                    if not worker.is_held:  # else the pool is at its end, but for a thread
                        raise
            self._beat_at = min(worker.beat_at for worker in self._workers)
            self._alarm = Event()
            with CancelScope(deadline=self._beat_at):
                await self._alarm.wait()


class Worker:
    """A worker of a pool: the leases that it holds, and the time to extend them."""

    __slots__ = (
        "_held",
        "_kept",
        "_length",
        "_pool",
        "_told",
        "beat_at",
        "bodies",
        "early",
        "leases",
        "scope",
        "until",
    )

    def __init__(self, pool: Pool) -> None:
        self.scope = CancelScope()
        self.bodies = Bodies()
        self.leases: _Leases | None = None  # None: it waits for leases
        self.early: EarlyClaim[Any, Any] | None = None  # its next one, if that is under way
        self.beat_at = inf
        self.until = inf  # the end of max_runtime
        self._pool = pool
        self._length = inf
        self._held = 0  # threads that run in its delivery
        self._kept: _Leases = ()
        self._told = False

    @property
    def is_held(self) -> bool:
        """True while code runs in its delivery that cannot be stopped."""
        return self._held > 0

    def hold(self) -> None:
        """Keep its leases until `let_go`, however long that takes and whatever cancels it."""
        self._held += 1
        if self._held == 1 and self.leases is not None:
            self._kept = tuple(self.leases)
            kept_leases.update(self._kept)
            self._pool.keep(self)

    def let_go(self, *, failed: bool) -> None:
        """End what `hold` began.

        Raises:
            TimeoutError: The handler has taken longer than it may, and has not failed otherwise.
        """
        self._held -= 1
        if not self._held:
            kept_leases.difference_update(self._kept)
            self._kept = ()
            if not self._pool.heartbeat:
                self.beat_at = inf
        if not failed:
            self._pool.check_runtime(self)

    def plan(self, leases: _Leases, now: float, max_runtime: float) -> None:
        """Plan the extension of timed leases: at a third of the length of the first to expire."""
        self.until = now + max_runtime
        self._told = False
        # That of a cancelled item, whose key is free by now, is over for ever.
        timed = [lease for lease in leases if -inf < lease.deadline < inf]
        if not timed:
            self.beat_at = inf
            return
        first = min(timed, key=lambda lease: lease.deadline)
        self._length = first.deadline - (now if first.since is None else first.since)
        self.beat_at = first.deadline - self._length * 2 / 3

    def keep(self, now: float) -> None:
        """Plan an extension although max_runtime has none left."""
        if self.beat_at == inf and any(lease.deadline < inf for lease in self._kept):
            self.beat_at = now

    def is_late(self, now: float) -> bool:
        """Return True, once, if a thread has taken longer than it may."""
        late = self.is_held and now > self.until and not self._told
        self._told = self._told or late
        return late

    def is_due(self, now: float) -> bool:
        """Return True if its leases are to be extended now, or so soon that they go along."""
        return self.beat_at < inf and self.beat_at <= now + self._length * _ALONG

    def beat(self, now: float) -> Iterator[Awaitable[object]]:
        """Ask for the extension of the leases that it holds, and yield an awaitable of each.

        Also a lease that is past its deadline: if the event loop was stalled, no other consumer
        can have had the item. If it was not, the queue refuses. And one that was cancelled, as long
        as a thread works on it: else its key would be free beside that.
        """
        until = inf if self.is_held else self.until
        deadline = min(now + self._length, until)
        self.beat_at = inf if deadline == until else now + self._length / 3
        for lease in self.leases or ():
            if lease.ended is None and max(now, lease.deadline) < deadline:
                with suppress(InvalidLeaseError, QueueClosedError):  # its body is cancelled already
                    yield lease._queue._begin_to_extend(lease, deadline - now)
            elif lease.ended == "cancelled" and self.is_held and lease.deadline < deadline:
                with suppress(InvalidLeaseError, QueueClosedError):
                    holding = lease._queue._hold_on(lease, deadline - now)
                    if holding is not None:
                        yield holding


def log_loss(queue: str, lost: LeaseLostError) -> None:
    """Log that a worker has lost its leases, or that their items were cancelled."""
    level = INFO if isinstance(lost, LeaseCancelledError) else WARNING
    log(level, "%s: %s", queue_text(queue), str(lost))


def check_event(stop: object) -> None:
    """Raise `TypeError` if it is not an event, of anyio or of the event loop's library."""
    if not (callable(getattr(stop, "set", None)) and callable(getattr(stop, "wait", None))):
        raise TypeError(f"stop must be an anyio.Event, not {shown(stop)}")


def _as_async(
    handler: Callable[[T], Awaitable[R]] | Callable[[T], R], concurrency: int
) -> Callable[[T], Awaitable[R]]:
    """Return the handler as an async function: an ordinary one runs in a worker thread."""
    if is_async(handler):
        return cast("Callable[[T], Awaitable[R]]", handler)
    # The pool has its own threads: a worker that waited for one would hold a lease meanwhile.
    return partial(run_in_thread, handler, limiter=CapacityLimiter(concurrency))


def check_run_in(run_in: object) -> None:
    """Raise `ValueError` if it is no place for an ordinary function."""
    if run_in not in get_args(RunIn):
        raise ValueError(f'run_in must be "thread" or "process", not {shown(run_in)}')


def _get_options(options: ServeOptions) -> GetOptions:
    chosen = {name: value for name, value in options.items() if name in _GET_OPTIONS}
    return cast("GetOptions", chosen)


def _check_call(
    call: str, handler: object, work: str, options: ServeOptions, own: Sequence[str]
) -> None:
    """Raise for a handler that cannot be called, and for options that cannot be.

    Args:
        call: The public call.
        handler: The handler.
        work: The argument that it is called with, for errors.
        options: The options given.
        own: The names of the call's parameters besides the options.
    """
    check_function("the handler", handler, work)
    check_known(call, options, (*own, *ServeOptions.__annotations__))
    check_flag("heartbeat", options.get("heartbeat", False))
    ClaimRequest[Any](ANY_KEY, call, **_get_options(options))


def _pool_options(options: ServeOptions) -> PoolOptions:
    others = {name: value for name, value in options.items() if name not in _GET_OPTIONS}
    return cast("PoolOptions", others)


adopt("leaseq", globals())
