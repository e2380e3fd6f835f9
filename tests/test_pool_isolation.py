"""Pools and the code that they run: contexts, memory, wrong handlers, and errors of every kind."""

import asyncio
import functools
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal

import anyio
import pytest
from anyio import Event, create_task_group, current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint, current_token
from hypothesis import given, settings, strategies
from tests.contract.helpers import in_line, until

from leaseq import (
    Backoff,
    DeadLetter,
    Lease,
    LeasedKeyQueue,
    Reject,
    Retry,
    serve,
    serve_batches,
)
from leaseq.testing import VirtualEventLoop, advance, virtual_backend

pytestmark = pytest.mark.anyio
virtual_time = pytest.mark.virtual_time

Queue = LeasedKeyQueue[str, Any]
Serve = Callable[..., Awaitable[None]]

bound: ContextVar[str] = ContextVar("bound")


async def serve_one_by_one(queue: Queue, handler: Any, **options: Any) -> None:
    await serve(queue, handler, **options)


async def serve_in_batches(queue: Queue, handler: Any, **options: Any) -> None:
    await serve_batches(queue, handler, 2, **options)


each_pool = pytest.mark.parametrize("pool", [serve_one_by_one, serve_in_batches])


@pytest.fixture
def queue() -> Queue:
    queue = Queue(name="work")
    queue.put_many_nowait({"a": 1, "b": 2, "c": 3})
    return queue


@asynccontextmanager
async def timekeeper(queue: Queue) -> AsyncIterator[None]:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        yield
        tg.cancel_scope.cancel()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "leaseq"]


def leases_of(work: Any) -> list[Lease[str, Any]]:
    """A lease, or those of a batch."""
    return [work] if isinstance(work, Lease) else [*work]


def keys_of(work: Any) -> list[str]:
    return [lease.key for lease in leases_of(work)]


async def nothing(work: object) -> None:
    """A handler that has nothing to do."""


# Contexts


@each_pool
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_delivery_binds_the_next_one_does_not_see(
    queue: Queue, pool: Serve, waits: bool, fails: bool
) -> None:
    seen: list[str | None] = []

    async def handle(work: Any) -> None:
        seen.append(bound.get(None))
        bound.set(f"by {keys_of(work)}")
        if waits:
            await checkpoint()
            async with create_task_group() as tg:
                tg.start_soon(checkpoint)
        assert bound.get() == f"by {keys_of(work)}"
        if fails and len(seen) < 3:
            raise KeyError

    await queue.shutdown()
    await pool(queue, handle)
    assert len(seen) >= 2
    assert set(seen) == {None}


async def test_a_delivery_sees_what_was_bound_where_its_pool_was_started(queue: Queue) -> None:
    seen: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        seen.append(bound.get())
        bound.set("by a handler")

    token = bound.set("by the caller")
    await queue.shutdown()
    await serve(queue, handle)
    assert seen == ["by the caller"] * 3
    assert bound.get() == "by the caller"
    bound.reset(token)


async def test_a_delivery_is_one_context_from_its_first_callback_to_its_last(queue: Queue) -> None:
    seen: list[tuple[str, str]] = []

    async def on_start(lease: Lease[str, int]) -> None:
        await checkpoint()
        bound.set(f"for {lease.key}")

    async def handle(lease: Lease[str, int]) -> None:
        assert bound.get() == f"for {lease.key}"
        await checkpoint()
        bound.set(f"{bound.get()}, handled")
        if lease.key == "b" and lease.deliveries == 1:
            raise KeyError

    async def on_end(lease: Lease[str, int], _: object) -> None:
        await checkpoint()
        seen.append((lease.key, bound.get()))

    await queue.shutdown()
    await serve(queue, handle, on_start=on_start, on_success=on_end, on_failure=on_end)
    assert seen == [(key, f"for {key}, handled") for key in "abcb"]


async def test_an_ordinary_function_has_a_context_of_its_own_too(queue: Queue) -> None:
    seen: list[str | None] = []

    async def on_start(lease: Lease[str, int]) -> None:
        bound.set(lease.key)

    def handle(lease: Lease[str, int]) -> None:
        seen.append(bound.get(None))
        bound.set("by a thread")

    await queue.shutdown()
    await serve(queue, handle, on_start=on_start)
    assert seen == ["a", "b", "c"]


async def test_a_log_filter_sees_the_context_of_the_delivery_that_failed(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append(bound.get())
        return True

    async def handle(lease: Lease[str, int]) -> None:
        bound.set(lease.key)
        if lease.deliveries == 1:
            raise KeyError

    caplog.handler.addFilter(note)
    try:
        await queue.shutdown()
        await serve(queue, handle)
    finally:
        caplog.handler.removeFilter(note)
    assert seen == ["a", "b", "c"]


async def test_a_body_that_catches_what_was_thrown_into_it_handles_nothing_afterwards(
    queue: Queue,
) -> None:
    contexts: list[BaseException | None] = []

    async def handle(lease: Lease[str, int]) -> None:
        with anyio.move_on_after(0):
            await sleep_forever()
        error = ValueError("of its own")
        try:
            raise error
        except ValueError:
            contexts.append(error.__context__)
        await checkpoint()

    await queue.shutdown()
    await serve(queue, handle)
    assert contexts == [None, None, None]


# What an idle worker keeps


class Thing:
    """A value that can be seen to be gone."""


@pytest.mark.parametrize("how", ["returns", "fails", "waits and fails", "rejects", "is lost"])
@pytest.mark.parametrize("ordinary", [False, True], ids=["async", "def"])
@each_pool
async def test_an_idle_worker_keeps_nothing_alive(pool: Serve, ordinary: bool, how: str) -> None:
    logger = logging.getLogger("leaseq")
    queue = Queue(retry=Retry(max_deliveries=1))
    refs: list[weakref.ref[Any]] = []

    class OwnError(Exception):
        def __init__(self) -> None:
            refs.append(weakref.ref(self))

    def watch(work: Any) -> None:
        refs.extend(weakref.ref(lease.value) for lease in leases_of(work))
        if how == "rejects":
            raise Reject("no good")
        if how.endswith("fails"):
            raise OwnError

    async def handle(work: Any) -> None:
        local = leases_of(work)
        if how == "waits and fails":
            with anyio.move_on_after(0):
                await sleep_forever()
        if how == "is lost":
            watch(work)
            await local[0].queue.release_all(consumer="me")
            await checkpoint()
        else:
            watch(work)

    logger.disabled = True  # whatever listens to the log may keep its records
    gc.collect()
    gc.disable()
    try:
        async with create_task_group() as tg:
            options: dict[str, Any] = {"consumer": "me"}
            run = functools.partial(pool, queue, watch if ordinary else handle, **options)
            tg.start_soon(run)
            await until(queue, getters=1)
            await queue.put("a", Thing())
            for _ in range(1000):
                if refs and (await queue.statistics()).getters == 1:
                    break
                await (sleep(0.001) if ordinary else checkpoint())
            await until(queue, getters=1, leased=0)
            for _ in range(3):
                await checkpoint()
            alive = [ref() for ref in refs if ref() is not None]
            tg.cancel_scope.cancel()
    finally:
        logger.disabled = False
        gc.enable()
    assert refs
    assert alive == []


# Handlers that cannot work


def generator(*_: object) -> Iterator[int]:
    yield 1


async def async_generator(*_: object) -> AsyncIterator[int]:
    yield 1


async def async_returns_a_generator(*_: object) -> object:
    return generator()


async def async_forgets_to_await(*_: object) -> object:
    return nothing(None)


def returns_a_generator(*_: object) -> object:
    return generator()


def returns_an_async_generator(*_: object) -> object:
    return async_generator()


async def async_returns_an_async_generator(*_: object) -> object:
    started = async_generator()
    await anext(started)
    return started


class Called:
    """A generator as an object, and as a method."""

    def __call__(self, work: object) -> Iterator[int]:
        yield 1

    async def method(self, work: object) -> AsyncIterator[int]:
        yield 1


@each_pool
@pytest.mark.parametrize(
    "handler",
    [
        generator,
        async_generator,
        functools.partial(generator, 1),
        functools.partial(functools.partial(async_generator, 1)),
        Called(),
        functools.partial(Called()),
        Called().method,
    ],
    ids=["def", "async", "partial", "partial of partial", "object", "partial object", "method"],
)
async def test_a_generator_is_refused_at_the_start(queue: Queue, pool: Serve, handler: Any) -> None:
    with pytest.raises(TypeError, match="the handler has a yield in it"):
        await pool(queue, handler)
    assert await in_line(queue) == ["a", "b", "c"]


@each_pool
@pytest.mark.parametrize(
    "handler",
    [
        lambda work: generator(),
        lambda work: async_generator(),
        returns_a_generator,
        returns_an_async_generator,
        async_returns_a_generator,
        async_forgets_to_await,
        async_returns_an_async_generator,
    ],
)
async def test_work_that_was_not_run_is_a_failure(
    pool: Serve, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(name="work", retry=Retry(max_deliveries=2), dead_letters=letters)
    queue.put_many_nowait({"a": 1, "b": 2})
    await queue.shutdown()
    await pool(queue, handler)
    assert (await queue.statistics()).acked == 0
    dead = [letter for _, letter in letters.drain_nowait()]
    assert [letter.key for letter in dead] == ["a", "b"]
    assert all("which was not run" in (letter.error or "") for letter in dead)


@pytest.mark.parametrize("name", ["on_start", "on_success", "on_failure"])
@pytest.mark.parametrize("callback", [generator, async_generator, lambda: None, lambda a, b, c: 1])
async def test_a_callback_that_cannot_work_is_refused_at_the_start(
    queue: Queue, name: str, callback: Any
) -> None:
    with pytest.raises(TypeError, match=name):
        await serve(queue, nothing, **{name: callback})
    assert await in_line(queue) == ["a", "b", "c"]


@each_pool
@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda work, more: None,
        functools.partial(nothing, 1),
    ],
)
async def test_a_handler_that_cannot_be_called_with_one_argument_is_refused(
    queue: Queue, pool: Serve, handler: Any
) -> None:
    with pytest.raises(TypeError, match=r"the handler is called with a (lease|batch), which"):
        await pool(queue, handler)
    assert await in_line(queue) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "handler", [print, dict.fromkeys, lambda *work: None, lambda work, more=1: None, Thing.__eq__]
)
def test_a_function_that_may_take_its_arguments_is_let_through(handler: Any) -> None:
    from leaseq._core.functions import check_function

    check_function("the handler", handler, *["a lease"] * (2 if handler is Thing.__eq__ else 1))


# Groups


@each_pool
async def test_a_rejection_out_of_a_task_group_is_one(
    pool: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(dead_letters=letters)
    queue.put_many_nowait({"a": 1, "b": 2})
    caplog.set_level(logging.ERROR)

    async def reject() -> None:
        await checkpoint()
        raise Reject("no such page")

    async def handle(work: object) -> None:
        async with create_task_group() as tg:
            tg.start_soon(sleep_forever)
            async with create_task_group() as inner:
                inner.start_soon(reject)

    await queue.shutdown()
    await pool(queue, handle)
    dead = [letter for _, letter in letters.drain_nowait()]
    assert [(letter.key, letter.reason, letter.deliveries) for letter in dead] == [
        ("a", "no such page", 1),
        ("b", "no such page", 1),
    ]
    assert messages(caplog) == []


async def test_the_letter_of_a_group_names_its_leaves() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(retry=Retry(max_deliveries=1), dead_letters=letters)
    queue.put_nowait("a", 1)

    async def fail(error: Exception) -> None:
        raise error

    async def handle(work: object) -> None:
        async with create_task_group() as tg:
            tg.start_soon(fail, KeyError("b"))
            tg.start_soon(fail, Reject("no such page"))

    await queue.shutdown()
    await serve(queue, handle)
    ((_, letter),) = letters.drain_nowait()
    assert letter.reason == "max_deliveries"
    assert letter.error is not None
    assert "KeyError: 'b'" in letter.error
    assert "Reject: no such page" in letter.error


# Backoff, and the log


async def always_fail(work: object) -> None:
    raise KeyError("always")


@virtual_time
@each_pool
async def test_an_item_that_always_fails_is_tried_a_handful_of_times_in_its_first_seconds(
    queue: Queue, pool: Serve
) -> None:
    deliveries: list[int] = []

    async def handle(work: Any) -> None:
        deliveries.extend(lease.deliveries for lease in leases_of(work))
        raise KeyError

    async with timekeeper(queue), create_task_group() as tg:
        tg.start_soon(pool, queue, handle)
        await advance(4)
        early = len(deliveries)
        await advance(3600)
        tg.cancel_scope.cancel()
    assert early <= 3 * 25  # in a thousand draws out of a thousand
    assert 3 * 50 <= len(deliveries) <= 3 * 500


@virtual_time
@each_pool
async def test_the_backoff_of_the_queue_comes_before_that_of_the_pool(pool: Serve) -> None:
    queue = Queue(retry=Retry(backoff=Backoff(0)))
    queue.put_nowait("a", 1)
    tries = 0

    async def handle(work: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 100:
            raise KeyError

    async with timekeeper(queue):
        await queue.shutdown()
        await pool(queue, handle)
    assert tries == 100
    assert current_time() == 0


@virtual_time
@each_pool
async def test_without_a_timekeeper_a_failed_item_joins_the_back_of_the_line(
    queue: Queue, pool: Serve
) -> None:
    done: list[str] = []

    async def handle(work: Any) -> None:
        if "a" in keys_of(work) and not done:
            done.append("failed")
            raise KeyError
        done.extend(keys_of(work))

    await queue.shutdown()
    await pool(queue, handle)
    assert done[:2] == ["failed", "c" if pool is serve_in_batches else "b"]
    assert current_time() == 0


@each_pool
async def test_the_traceback_of_an_item_that_keeps_failing_is_logged_once(
    pool: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(name="work", retry=Retry(max_deliveries=20))
    queue.put_nowait("a", 1)
    await queue.shutdown()
    await pool(queue, always_fail)
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failed) == 20
    assert [record.exc_info is not None for record in failed] == [True] + [False] * 19
    assert all(record.getMessage().endswith(": KeyError: 'always'") for record in failed[1:])


async def test_a_key_that_was_put_anew_has_a_traceback_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = Queue(retry=Retry(max_deliveries=2))
    async with create_task_group() as tg:
        tg.start_soon(serve, queue, always_fail)
        for dropped in (1, 2, 3):
            await queue.put("a", 1)
            await until(queue, dropped=dropped)
        tg.cancel_scope.cancel()
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in failed] == [True, False] * 3


async def test_a_pool_remembers_the_failures_of_so_many_keys_and_no_more() -> None:
    from leaseq import _pool

    pool = _pool.Pool("work", 1)
    for number in range(3 * _pool._KNOWN_FAILURES):
        assert not pool._is_known(("failed", number), 1)
        assert pool._is_known(("failed", number), 2)
        assert pool._is_known(("failed", number), 3)
    assert len(pool._known) == _pool._KNOWN_FAILURES


class Fading:
    """A key that has no hash any more, if it is told so."""

    is_odd = False

    def __hash__(self) -> int:
        if self.is_odd:
            raise TypeError("no hash")
        return 1


async def test_the_failures_of_a_key_that_cannot_be_found_any_more_are_each_told_in_full() -> None:
    from leaseq import _pool

    pool, key = _pool.Pool("work", 1), Fading()
    assert not pool._is_known(("failed", key), 1)
    assert pool._is_known(("failed", key), 2)
    key.is_odd = True
    assert not pool._is_known(("failed", key), 3)


# The heartbeat of a stalled loop


def stall(seconds: float) -> None:
    """Block the event loop for so long, in virtual time."""
    loop = current_token().native_token
    if isinstance(loop, VirtualEventLoop):
        loop._selector_with_clock.now += seconds
    else:
        import trio.testing

        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)


@virtual_time
@each_pool
@pytest.mark.parametrize("by", ["its handler at once", "its handler later", "another task"])
async def test_a_heartbeat_keeps_leases_over_a_stall_of_the_loop(
    queue: Queue, pool: Serve, by: str
) -> None:
    runs: list[str] = []

    async def handle(work: Any) -> None:
        runs.extend(keys_of(work))
        if by == "its handler at once":
            stall(60)
        await sleep(7)
        if by == "its handler later":
            stall(60)
        await sleep(7)

    async def stall_now_and_then() -> None:
        for _ in range(3):
            await sleep(5)
            stall(60)

    async with timekeeper(queue), create_task_group() as tg:
        await queue.shutdown()
        if by == "another task":
            tg.start_soon(stall_now_and_then)
        await pool(queue, handle, concurrency=2, lease_timeout=10, heartbeat=True)
    assert sorted(runs) == ["a", "b", "c"]
    assert (await queue.statistics()).expired == 0


@virtual_time
async def test_a_stall_does_not_outlive_the_longest_run(queue: Queue) -> None:
    runs: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        runs.append(lease.key)
        if len(runs) <= 3:
            await sleep(7)
            stall(100)
            await sleep_forever()

    async with timekeeper(queue):
        await queue.shutdown()
        await serve(queue, handle, 3, lease_timeout=10, heartbeat=True, max_runtime=60)
    assert sorted(runs) == ["a", "a", "b", "b", "c", "c"]


# A pool that never has to wait


@each_pool
@pytest.mark.parametrize("fails", [False, True])
async def test_a_pool_whose_handlers_never_wait_lets_others_run(pool: Serve, fails: bool) -> None:
    queue = Queue(fast_acquire=True)
    queue.put_nowait("0", 0)
    stop = Event()
    handled = 0

    async def handle(work: Any) -> None:
        nonlocal handled
        handled += 1
        assert handled < 10_000, "nothing else has run"
        queue.put_nowait(str(handled), handled)
        if fails:
            raise KeyError

    async with create_task_group() as tg:
        tg.start_soon(functools.partial(pool, queue, handle, stop=stop))
        while handled < 3:
            await checkpoint()
        stop.set()


# The end of the program


class PanicError(BaseException):
    """An error outside `Exception`, as extension modules have it."""


EXITS = [
    SystemExit(2),
    SystemExit(),
    PanicError("of an extension module"),
    BaseExceptionGroup("of a task group", [SystemExit(2)]),
    GeneratorExit("of no generator"),
    BaseExceptionGroup("of a task group", [GeneratorExit()]),
]


@each_pool
@pytest.mark.parametrize("error", EXITS, ids=repr)
@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_handler_that_exits_has_failed_and_the_pool_goes_on(
    pool: Serve, error: BaseException, in_a_thread: bool
) -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(retry=Retry(max_deliveries=2), dead_letters=letters)
    queue.put_many_nowait({"a": 1, "b": 2} if pool is serve_one_by_one else {"a": 1})
    done: list[str] = []

    def handle(work: Any) -> None:
        if "a" in keys_of(work):
            raise error
        done.extend(keys_of(work))

    async def handle_here(work: Any) -> None:
        handle(work)

    async with timekeeper(queue):
        await queue.shutdown()
        await pool(queue, handle if in_a_thread else handle_here)
    assert done == (["b"] if pool is serve_one_by_one else [])
    ((_, letter),) = letters.drain_nowait()
    assert (letter.key, letter.reason, letter.deliveries) == ("a", "max_deliveries", 2)


@pytest.mark.parametrize("error", EXITS, ids=repr)
@pytest.mark.parametrize("name", ["on_start", "on_success", "on_failure"])
async def test_a_callback_that_exits_ends_no_pool(name: str, error: BaseException) -> None:
    queue = Queue(retry=Retry(max_deliveries=1))
    queue.put_many_nowait({"a": 1, "b": 2})
    called: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        if name == "on_failure":
            raise KeyError

    async def exit_now(lease: Lease[str, int], *_: object) -> None:
        called.append(lease.key)
        raise error

    await queue.shutdown()
    await serve(queue, handle, **{name: exit_now})  # type: ignore[arg-type]
    assert called == ["a", "b"]


@pytest.mark.only("asyncio")
@each_pool
@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_that_cancels_its_own_task_has_failed_and_the_pool_goes_on(
    pool: Serve, waits: bool
) -> None:
    queue = Queue(retry=Retry(max_deliveries=2))
    queue.put_many_nowait({"a": 1, "b": 2} if pool is serve_one_by_one else {"a": 1})
    seen: list[str] = []

    async def handle(work: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        seen.extend(keys_of(work))
        if "a" in keys_of(work):
            if waits:
                await anyio.sleep(0.01)
            task.cancel()
            await anyio.sleep(1)

    async with timekeeper(queue):
        await queue.shutdown()
        await pool(queue, handle)
    assert seen.count("a") == 2
    assert seen.count("b") == (1 if pool is serve_one_by_one else 0)


@pytest.mark.only("asyncio")
@each_pool
async def test_a_pool_whose_workers_are_all_cancelled_does_not_end_as_if_it_was_asked_to(
    pool: Serve,
) -> None:
    queue = Queue()
    queue.put_nowait("a", 1)
    tasks: list[Any] = []

    async def handle(work: object) -> None:
        task: Any = asyncio.current_task()
        task.cancel()  # its own cancellation is over when the other one comes
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        task.uncancel()
        tasks.append(task)
        await anyio.sleep_forever()

    async def cancel() -> None:
        while not tasks:
            await checkpoint()
        tasks[0].cancel()

    async with create_task_group() as tg:
        tg.start_soon(cancel)
        with pytest.raises(RuntimeError, match="cancel was called on each worker of the pool"):
            await pool(queue, handle)
    (lease,) = await queue.get_batch(1)
    assert (lease.deliveries, lease.cancellations) == (1, 1)


@each_pool
async def test_a_handler_that_is_interrupted_ends_the_pool_and_its_item_goes_back(
    pool: Serve,
) -> None:
    queue = Queue()
    queue.put_nowait("a", 1)

    async def handle(work: object) -> None:
        raise KeyboardInterrupt

    # On asyncio it ends the loop itself before any task group can tell.
    with pytest.raises((BaseExceptionGroup, KeyboardInterrupt)):
        await _in_a_loop_of_its_own(pool, queue, handle)
    assert queue.drain_nowait() == [("a", 1)]


async def _in_a_loop_of_its_own(pool: Serve, queue: Queue, handle: Any) -> None:
    on_trio = not hasattr(current_token().native_token, "create_task")
    backend = "trio" if on_trio else "asyncio"
    await anyio.to_thread.run_sync(
        lambda: anyio.run(functools.partial(pool, queue, handle), backend=backend)
    )


# Log handlers


@each_pool
@pytest.mark.parametrize("error", [LookupError, ValueError])
async def test_whatever_the_log_raises_ends_no_pool(
    queue: Queue, pool: Serve, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    class Raising(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise error("of the log")

    raising = Raising()
    logger = logging.getLogger("leaseq")
    logger.addFilter(raising)
    tries: list[str] = []

    async def handle(work: Any) -> None:
        tries.extend(keys_of(work))
        if len(tries) <= 3:
            raise KeyError

    try:
        await queue.shutdown()
        await pool(queue, handle)
    finally:
        logger.removeFilter(raising)
    assert (await queue.statistics()).acked == 3


# Whatever can raise, raises


class MischiefError(Exception):
    """An error whose text raises, on every second occasion."""

    def __str__(self) -> str:
        if self.args[0] % 2:
            raise KeyError("no text")
        return "of a hook"

    __repr__ = __str__


class Key:
    """A key that can be hashed and compared, and nothing else."""

    def __repr__(self) -> str:
        raise KeyError("of a key")

    __str__ = __repr__


class Value:
    """A value that can be held, and nothing else."""

    def _no(self, *_: object) -> Any:
        raise KeyError("of a value")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __len__ = _no


Hook = Callable[[], Any]


def hook_of(draws: list[int]) -> Hook:
    """Makes a hook that does at each call what was drawn: nothing, or some harm."""
    left = iter(draws)

    def act() -> Any:
        draw = next(left, 0)
        if draw in {1, 2}:
            raise MischiefError(draw)
        if draw == 3:
            raise Reject("no good")
        if draw == 4:
            raise ExceptionGroup("of a group", [Reject("no good"), MischiefError(2)])
        if draw == 5:
            return generator()
        if draw == 6:
            return nothing(None)
        return None

    return act


draws = strategies.lists(strategies.integers(0, 6), max_size=15)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=100, deadline=None)
@given(
    handler=draws,
    start=draws,
    success=draws,
    failure=draws,
    logs=strategies.lists(strategies.integers(0, 4), max_size=15),
    keys=strategies.integers(1, 6),
    concurrency=strategies.integers(1, 3),
    most=strategies.integers(1, 4),
    options=strategies.fixed_dictionaries(
        {"in_batches": strategies.booleans(), "ordinary": strategies.booleans()}
    ),
)
def test_whatever_raises_each_item_is_acked_or_dead_and_the_pool_goes_on(
    backend: Literal["asyncio", "trio"],
    handler: list[int],
    start: list[int],
    success: list[int],
    failure: list[int],
    logs: list[int],
    keys: int,
    concurrency: int,
    most: int,
    options: dict[str, bool],
) -> None:
    handling, starting = hook_of(handler), hook_of(start)
    succeeding, failing = hook_of(success), hook_of(failure)
    logging_ = hook_of(logs)

    def handle(work: object) -> Any:
        return handling()

    async def handle_here(work: object) -> Any:
        await checkpoint()
        return handling()

    async def on_start(lease: object) -> Any:
        return starting()

    async def on_success(lease: object, result: object) -> Any:
        return succeeding()

    def on_failure(lease: object, error: object) -> Any:
        return failing()

    def log_filter(record: logging.LogRecord) -> bool:
        logging_()
        return True

    async def main() -> None:
        letters: LeasedKeyQueue[str, DeadLetter[Key, Value]] = LeasedKeyQueue()
        queue: LeasedKeyQueue[Key, Value] = LeasedKeyQueue(
            retry=Retry(max_deliveries=most), dead_letters=letters, default_lease_timeout=10
        )
        put = [Key() for _ in range(keys)]
        chosen: Any = handle if options["ordinary"] else handle_here
        with anyio.fail_after(1e6):
            async with create_task_group() as tg:
                await tg.start(queue.run)
                queue.put_many_nowait((key, Value()) for key in put)
                await queue.shutdown()
                if options["in_batches"]:
                    await serve_batches(queue, chosen, 2, 0.0, concurrency)
                else:
                    await serve(
                        queue, chosen, concurrency, heartbeat=True,
                        on_start=on_start, on_success=on_success, on_failure=on_failure,
                    )  # fmt: skip
        statistics = await queue.statistics()
        dead = [letter.key for _, letter in letters.drain_nowait()]
        assert statistics.acked + len(dead) == len(put)
        assert set(dead) <= set(put)
        assert len(set(dead)) == len(dead)

    logger = logging.getLogger("leaseq")
    raised, logging.raiseExceptions = logging.raiseExceptions, False
    logger.addFilter(log_filter)
    try:
        name, backend_options = virtual_backend(backend)
        anyio.run(main, backend=name, backend_options=backend_options)
    finally:
        logger.removeFilter(log_filter)
        logging.raiseExceptions = raised
