"""Pools of workers: what becomes of items, of leases, and of the pool itself."""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Unpack

import anyio
import pytest
import sniffio
from anyio import CancelScope, Event, create_task_group, current_time, sleep, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until

from leaseq import (
    DeadLetter,
    Lease,
    LeaseBatch,
    LeaseCancelledError,
    LeasedKeyQueue,
    LeaseLostError,
    QueueClosedError,
    Reject,
    Retry,
    ServeOptions,
    TimekeeperNotRunningError,
    serve,
    serve_batches,
    stop_on_signals,
)
from leaseq.testing import Operation, advance, cancel_sweep

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]
Handler = Callable[[Lease[str, int]], Coroutine[Any, Any, object]]

virtual_time = pytest.mark.virtual_time


@pytest.fixture
def queue() -> Queue:
    queue = Queue(name="work")
    queue.put_many_nowait({"a": 1, "b": 2, "c": 3})
    return queue


async def run_until_drained(
    queue: Queue, handler: Handler, limit: int = 1, **options: Unpack[ServeOptions]
) -> None:
    await queue.shutdown()
    await serve(queue, handler, limit, **options)


@asynccontextmanager
async def timekeeper(queue: Queue) -> AsyncIterator[None]:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        yield
        tg.cancel_scope.cancel()


async def nothing(lease: Lease[str, int]) -> None:
    """A handler that has nothing to do."""


def failing(*keys: str, error: BaseException | None = None) -> Handler:
    """A handler that fails at the first delivery of these."""

    async def handle(lease: Lease[str, int]) -> None:
        await checkpoint()
        if lease.key in keys and lease.deliveries == 1:
            raise error or KeyError(lease.key)

    return handle


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "leaseq"]


# What becomes of an item


async def test_what_its_handler_returned_from_is_acked(queue: Queue) -> None:
    values: list[int] = []

    async def handle(lease: Lease[str, int]) -> None:
        assert lease.ended is None
        values.append(lease.value)

    await run_until_drained(queue, handle)
    assert values == [1, 2, 3]
    assert (await queue.statistics()).acked == 3


async def test_a_pool_runs_as_a_task_of_the_users_group(queue: Queue) -> None:
    async with create_task_group() as tg:
        await tg.start(serve, queue, nothing, 8)
        await queue.join()
        await queue.shutdown()


async def test_a_pool_has_as_many_handlers_at_a_time_as_it_has_workers(queue: Queue) -> None:
    at_work = most = 0

    async def handle(lease: Lease[str, int]) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _ in range(10):
            await checkpoint()
        at_work -= 1

    await run_until_drained(queue, handle, 2)
    assert most == 2


async def test_a_worker_leases_nothing_ahead(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        await anyio.wait_all_tasks_blocked()
        assert len(await queue.inflight_keys()) <= 2

    await run_until_drained(queue, handle, 2)


async def test_an_item_whose_handler_failed_is_tried_again(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        await failing("a")(lease)
        done.append(lease.key)

    await run_until_drained(queue, handle)
    assert done == ["b", "c", "a"]
    assert messages(caplog) == ["queue 'work': the handler of 'a' failed at delivery 1"]
    assert caplog.records[0].exc_info is not None


async def test_an_item_that_fails_too_often_is_a_dead_letter() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(retry=Retry(max_deliveries=2), dead_letters=letters)
    queue.put_nowait("a", 1)

    async def handle(lease: Lease[str, int]) -> None:
        raise ValueError("bad page")

    await run_until_drained(queue, handle)
    _, letter, _ = letters.get_nowait()
    assert (letter.reason, letter.error) == ("max_deliveries", "ValueError: bad page")
    assert letter.deliveries == 2


async def test_an_item_that_is_rejected_is_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(dead_letters=letters)
    queue.put_nowait("a", 1)
    caplog.set_level(logging.ERROR)
    await run_until_drained(queue, failing("a", error=Reject("no such page")))
    _, letter, _ = letters.get_nowait()
    assert (letter.key, letter.reason, letter.error) == ("a", "no such page", None)
    assert messages(caplog) == []


@pytest.mark.parametrize("error", [KeyError, Reject("late")])
@pytest.mark.parametrize("by_hand", ["acked", "released", "rejected"])
async def test_a_handler_that_settles_its_lease_is_left_alone(
    by_hand: str, error: BaseException
) -> None:
    queue = Queue()
    queue.put_nowait("a", 1)
    called: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 2:
            return
        if by_hand == "acked":
            await lease.ack()
        elif by_hand == "released":
            await lease.release()
        else:
            await lease.reject("by hand")
        raise error

    async def on_success(lease: Lease[str, int], result: object) -> None:
        called.append(f"success at {lease.deliveries}")

    async def on_failure(lease: Lease[str, int], error: BaseException) -> None:
        called.append("failure")

    await queue.shutdown()
    await serve(queue, handle, on_success=on_success, on_failure=on_failure)
    assert called == (["success at 2"] if by_hand == "released" else [])


@pytest.mark.only("asyncio")
async def test_a_handler_that_awaits_a_task_that_somebody_cancelled_has_failed(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()

    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1 and lease.key == "a":
            await other

    await run_until_drained(queue, handle)
    assert messages(caplog) == ["queue 'work': the handler of 'a' failed at delivery 1"]
    assert (await queue.statistics()).acked == 3


async def test_a_handler_whose_task_group_fails_has_failed(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        async with create_task_group() as tg:
            tg.start_soon(failing("a"), lease)

    await run_until_drained(queue, handle)
    assert (await queue.statistics()).released == 1


# Ordinary functions


async def test_an_ordinary_function_runs_in_a_worker_thread(queue: Queue) -> None:
    threads: set[int] = set()

    def handle(lease: Lease[str, int]) -> None:
        threads.add(threading.get_ident())

    await queue.shutdown()
    await serve(queue, handle)
    assert threads
    assert threading.get_ident() not in threads
    assert (await queue.statistics()).acked == 3


async def test_an_ordinary_function_may_fail(queue: Queue) -> None:
    def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1:
            raise KeyError

    await queue.shutdown()
    await serve(queue, handle)
    assert (await queue.statistics()).released == 3


async def test_each_worker_has_a_thread() -> None:
    limit = 50  # more than anyio has for all
    queue = Queue()
    queue.put_many_nowait((str(number), number) for number in range(limit))
    all_are_there = threading.Barrier(limit, timeout=10)

    def handle(lease: Lease[str, int]) -> None:
        all_are_there.wait()

    await queue.shutdown()
    await serve(queue, handle, limit)
    assert (await queue.statistics()).released == 0


async def test_a_thread_that_is_cancelled_runs_to_its_end_and_its_item_goes_back(
    queue: Queue,
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def handle(lease: Lease[str, int]) -> None:
        started.set()
        go_on.wait(10)

    async with create_task_group() as tg:
        await tg.start(serve, queue, handle)
        await anyio.to_thread.run_sync(started.wait, 10)
        tg.cancel_scope.cancel()
        go_on.set()
    # The thread came to its end, so the item is done, in spite of the cancellation.
    assert (await queue.statistics()).acked == 1


async def fetch(lease: Lease[str, int], fetched: list[str]) -> None:
    await checkpoint()
    fetched.append(lease.key)


class Fetcher:
    """A handler with a state."""

    def __init__(self, fetched: list[str]) -> None:
        self.fetched = fetched

    async def __call__(self, lease: Lease[str, int]) -> None:
        await fetch(lease, self.fetched)


@pytest.mark.parametrize(
    "make",
    [
        Fetcher,
        lambda fetched: functools.partial(fetch, fetched=fetched),
        lambda fetched: functools.partial(Fetcher(fetched)),
        lambda fetched: lambda lease: fetch(lease, fetched),
    ],
    ids=["object", "partial", "partial of object", "lambda"],
)
async def test_whatever_is_called_like_an_async_function_is_awaited(
    queue: Queue, make: Callable[[list[str]], Handler]
) -> None:
    fetched: list[str] = []
    await run_until_drained(queue, make(fetched))
    assert fetched == ["a", "b", "c"]


# Callbacks


async def test_on_success_has_the_result_when_the_item_is_done(queue: Queue) -> None:
    results: dict[str, int] = {}

    async def handle(lease: Lease[str, int]) -> int:
        return lease.value * 10

    async def on_success(lease: Lease[str, int], result: int) -> None:
        assert lease.ended == "acked"
        results[lease.key] = result

    await queue.shutdown()
    await serve(queue, handle, on_success=on_success)
    assert results == {"a": 10, "b": 20, "c": 30}


async def test_on_failure_may_decide_otherwise(queue: Queue) -> None:
    failed: list[tuple[str, str]] = []

    async def on_failure(lease: Lease[str, int], error: BaseException) -> None:
        failed.append((lease.key, type(error).__name__))
        await lease.ack()

    await queue.shutdown()
    await serve(queue, failing("a", "c"), on_failure=on_failure)
    assert failed == [("a", "KeyError"), ("c", "KeyError")]
    assert (await queue.statistics()).released == 0


async def test_if_on_failure_decides_nothing_the_retry_policy_does(queue: Queue) -> None:
    async def on_failure(lease: Lease[str, int], error: BaseException) -> None:
        await checkpoint()

    await queue.shutdown()
    await serve(queue, failing("a"), on_failure=on_failure)
    assert (await queue.statistics()).released == 1


async def stray_cancellation(*_: object) -> None:
    """Await something that another task has cancelled: only asyncio knows such a thing."""
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    await other


async def key_error(*_: object) -> None:
    await checkpoint()
    raise KeyError("of the callback")


async def group_of_errors(*_: object) -> None:
    async with create_task_group() as tg:
        tg.start_soon(key_error)
        tg.start_soon(key_error)


def generator(*_: object) -> Iterator[int]:
    yield 1


def behind_a_lambda(*_: object) -> object:
    return generator()


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")

    __repr__ = __str__


async def unprintable(*_: object) -> None:
    raise UnprintableError


@pytest.mark.parametrize("callback", ["on_success", "on_failure"])
@pytest.mark.parametrize("fail", [key_error, group_of_errors, behind_a_lambda, unprintable])
async def test_an_error_of_a_callback_is_logged_and_the_pool_goes_on(
    queue: Queue, callback: str, fail: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.shutdown()
    if callback == "on_success":
        await serve(queue, nothing, on_success=fail)
    else:
        await serve(queue, failing("a", "b", "c"), on_failure=fail)
    statistics = await queue.statistics()
    assert statistics.acked == 3
    assert statistics.released == (3 if callback == "on_failure" else 0)
    told = [message for message in messages(caplog) if callback in message]
    assert told == [f"queue 'work': {callback} of {key!r} failed at delivery 1" for key in "abc"]


@pytest.mark.only("asyncio")
async def test_a_callback_that_awaits_a_task_that_somebody_cancelled_has_failed(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.shutdown()
    await serve(queue, nothing, on_success=stray_cancellation, stop=Event())
    assert len(messages(caplog)) == 3
    assert (await queue.statistics()).acked == 3


async def test_a_callback_that_finds_another_queue_closed_has_failed(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    results = Queue()
    await results.shutdown()

    async def store(lease: Lease[str, int], _: object) -> None:
        await results.put(lease.key, 1)

    await queue.shutdown()
    await serve(queue, nothing, on_success=store)
    assert len(messages(caplog)) == 3


async def test_of_two_errors_of_the_engine_one_comes_out_and_one_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(LeasedKeyQueue[str, int]):
        async def ack(self, lease: Lease[str, int]) -> bool:
            raise ConnectionError(lease.key)

    queue = Broken(name="work")
    queue.put_many_nowait({"a": 1, "b": 1})

    async def handle(lease: Lease[str, int]) -> None:
        if lease.key == "a":
            with CancelScope(shield=True):
                for _ in range(10):
                    await checkpoint()

    with pytest.raises(ConnectionError, match="b"):
        await serve(queue, handle, 2)
    assert messages(caplog) == ["queue 'work': one more error ends the pool"]


# The end of a pool


async def test_a_pool_ends_when_its_queue_is_shut_down_and_drained(queue: Queue) -> None:
    async with create_task_group() as tg:
        await tg.start(serve, queue, nothing, 4)
        await queue.shutdown()
    assert (await queue.statistics()).acked == 3


async def test_a_pool_waits_for_what_others_may_release(queue: Queue) -> None:
    _, _, lease = await queue.take("a")
    async with create_task_group() as tg:
        await tg.start(serve, queue, nothing)
        await queue.shutdown()
        await until(queue, acked=2)
        await lease.release()
    assert (await queue.statistics()).acked == 3


async def test_a_pool_of_a_queue_closed_when_all_was_done_ends_well(queue: Queue) -> None:
    async with create_task_group() as tg, queue:
        await tg.start(serve, queue, nothing, 4)
        await queue.join()


async def test_a_pool_of_a_queue_closed_with_work_left_ends_with_the_error(queue: Queue) -> None:
    async def close(lease: Lease[str, int]) -> None:
        await queue.close()

    with pytest.raises(QueueClosedError, match="work left"):
        await serve(queue, close, 4)


async def test_a_misused_queue_ends_the_pool_with_one_error(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TimekeeperNotRunningError):
        await serve(queue, nothing, 8, lease_timeout=10)
    assert messages(caplog) == []


async def test_an_error_of_the_engine_ends_the_pool_and_cancels_its_handlers() -> None:
    class Broken(LeasedKeyQueue[str, int]):
        async def ack(self, lease: Lease[str, int]) -> bool:
            raise ConnectionError

    queue = Broken()
    queue.put_many_nowait({"a": 1, "b": 1})

    async def handle(lease: Lease[str, int]) -> None:
        if lease.key == "a":
            await sleep_forever()

    with pytest.raises(ConnectionError):
        await serve(queue, handle, 2)
    assert await in_line(queue) == ["a"]


async def test_a_cancelled_pool_gives_its_items_back_uncounted(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        await sleep_forever()

    async with create_task_group() as tg:
        await tg.start(serve, queue, handle, 2)
        await until(queue, leased=2)
        tg.cancel_scope.cancel()
    assert (await queue.statistics()).given_back == 2
    _, _, lease = await queue.get()
    assert (lease.key, lease.deliveries) == ("a", 1)


async def test_a_handler_that_fails_when_cancelled_does_not_go_on_with_the_next_item() -> None:
    queue = Queue(fast_acquire=True)
    queue.put_many_nowait({"a": 1, "b": 1})
    keys: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        keys.append(lease.key)
        try:
            await sleep_forever()
        finally:
            raise KeyError

    async with create_task_group() as tg:
        await tg.start(serve, queue, handle)
        await until(queue, leased=1)
        tg.cancel_scope.cancel()
    assert keys == ["a"]


# Leases and time


@virtual_time
async def test_a_handler_that_takes_longer_than_its_lease_loses_it(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        if lease.key == "a" and lease.deliveries == 1:
            await sleep_forever()

    async with timekeeper(queue):
        await run_until_drained(queue, handle, lease_timeout=10)
    assert (await queue.statistics()).expired == 1
    assert (await queue.statistics()).acked == 3
    assert any("was lost while its body ran" in message for message in messages(caplog))


async def test_a_thread_whose_lease_is_lost_runs_to_its_end_and_has_no_success(
    queue: Queue,
) -> None:
    started, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def handle(lease: Lease[str, int]) -> None:
        started.set()
        go_on.wait(10)
        ended.append(lease.key)

    async def on_success(lease: Lease[str, int], _: object) -> None:
        raise AssertionError("the lease was lost")

    async def close_when_it_works() -> None:
        await anyio.to_thread.run_sync(started.wait, 10)
        await queue.close()
        go_on.set()

    async with create_task_group() as tg:
        tg.start_soon(close_when_it_works)
        with pytest.raises(QueueClosedError):
            await serve(queue, handle, on_success=on_success)
    assert ended == ["a"]
    assert [key for key, _ in queue.drain_nowait()] == ["a", "b", "c"]


async def test_the_key_of_a_cancelled_item_is_free_when_its_thread_has_ended(queue: Queue) -> None:
    started, go_on = threading.Event(), threading.Event()
    seen: list[object] = []

    def handle(lease: Lease[str, int]) -> None:
        if lease.value == 1:
            started.set()
            go_on.wait(10)
        seen.append((lease.key, lease.value))

    async def cancel_when_it_works() -> None:
        await anyio.to_thread.run_sync(started.wait, 10)
        while len(seen) < 2:  # noqa: ASYNC110 - in threads
            await anyio.sleep(0.001)
        assert await queue.cancel("a")
        await queue.put("a", 7)
        for _ in range(20):
            await checkpoint()
        seen.append(await queue.state("a"))
        await queue.shutdown()
        go_on.set()

    async with create_task_group() as tg:
        tg.start_soon(cancel_when_it_works)
        await serve(queue, handle, 3)
    assert sorted(map(str, seen[:3])) == ["('b', 2)", "('c', 3)", "leased"]
    assert seen[3:] == [("a", 1), ("a", 7)]
    assert (await queue.statistics()).cancelled == 1


async def test_a_pool_tells_of_a_lost_lease_and_of_a_cancelled_item(queue: Queue) -> None:
    lost: list[tuple[str, str]] = []

    async def handle(lease: Lease[str, int]) -> None:
        if lease.key == "a" or (lease.key == "b" and lease.deliveries == 1):
            await sleep_forever()

    async def on_lost(lease: Lease[str, int], error: LeaseLostError) -> None:
        await checkpoint()
        lost.append((lease.key, type(error).__name__))

    async with create_task_group() as tg:
        tg.start_soon(functools.partial(serve, queue, handle, 3, on_lost=on_lost, consumer="me"))
        while queue._engine.ledger.acked < 1:
            await checkpoint()
        await queue.cancel("a")
        await queue.release_all(consumer="me")
        await queue.shutdown()
    assert sorted(lost) == [("a", "LeaseCancelledError"), ("b", "LeaseLostError")]
    assert (await queue.statistics()).acked == 2


async def test_an_error_of_on_lost_is_logged(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        assert await queue.cancel(lease.key)

    def on_lost(lease: Lease[str, int], error: LeaseLostError) -> None:
        raise KeyError

    await queue.shutdown()
    await serve(queue, handle, on_lost=on_lost)  # type: ignore[arg-type]
    assert sum("on_lost of" in message for message in messages(caplog)) == 3


@virtual_time
@pytest.mark.parametrize("first", ["a", "b"])
async def test_the_heartbeat_goes_on_after_a_start_that_ended_a_cancelled_lease(first: str) -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=10)
    done: list[str] = []

    async def on_start(lease: Lease[str, int]) -> None:
        if lease.key == "a":
            assert await queue.cancel("a")
            with suppress(LeaseCancelledError):
                await lease.ack()

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(60)
        done.append(lease.key)

    async with timekeeper(queue):
        for key in sorted("ab", reverse=first == "b"):
            await queue.put(key, 1)
        await queue.shutdown()
        await serve(queue, handle, 2, on_start=on_start, heartbeat=True)
    assert done == ["b"]
    assert (await queue.statistics()).expired == 0


@virtual_time
async def test_a_late_handler_that_fails_has_lost_its_lease(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1 and lease.key == "a":
            with CancelScope(shield=True):
                await sleep(20)
            raise KeyError

    async def on_failure(lease: Lease[str, int], error: BaseException) -> None:
        failures.append(lease.key)

    async with timekeeper(queue):
        await queue.shutdown()
        await serve(queue, handle, on_failure=on_failure, lease_timeout=10)
    assert failures == []
    assert "queue 'work': the handler of 'a' failed at delivery 1" in messages(caplog)
    assert (await queue.statistics()).acked == 3


@virtual_time
async def test_without_a_heartbeat_a_lease_is_what_it_is(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        await sleep(25 if lease.deliveries == 1 else 0)

    async with timekeeper(queue):
        await run_until_drained(queue, handle, lease_timeout=10)
    assert (await queue.statistics()).expired == 3


@virtual_time
async def test_a_heartbeat_extends_leases_while_their_handlers_live(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        for _ in range(25):
            await sleep(lease.value)
            assert lease.deadline - current_time() > 10 * 2 / 3 - 1e-6

    async with timekeeper(queue):
        await run_until_drained(queue, handle, 2, lease_timeout=10, heartbeat=True)
        assert current_time() >= 75
    assert (await queue.statistics()).expired == 0


@virtual_time
async def test_a_heartbeat_beats_three_times_in_a_lease() -> None:
    beats: list[float] = []

    class Watched(LeasedKeyQueue[str, int]):
        async def extend(self, lease: Lease[str, int], timeout: float | None) -> None:
            beats.append(current_time())
            await super().extend(lease, timeout)

    queue = Watched()
    queue.put_many_nowait({"a": 1, "b": 1})

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(31)

    async with timekeeper(queue):
        await run_until_drained(queue, handle, 2, lease_timeout=30, heartbeat=True)
    assert beats == [10, 10, 20, 20, 30, 30]


@virtual_time
async def test_a_heartbeat_leaves_a_longer_lease_alone(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        await lease.extend(100)
        await sleep(20)
        assert lease.deadline >= current_time() + 80

    async with timekeeper(queue):
        await run_until_drained(queue, handle, 3, lease_timeout=10, heartbeat=True)


@virtual_time
@pytest.mark.parametrize("length", [2, 100])
async def test_a_heartbeat_keeps_a_lease_at_the_length_that_on_start_gave_it(
    queue: Queue, length: int
) -> None:
    left: list[float] = []

    async def on_start(lease: Lease[str, int]) -> None:
        await lease.extend(length)

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(length * 5)
        left.append(lease.deadline - current_time())

    async with timekeeper(queue):
        await queue.shutdown()
        await serve(queue, handle, 2, on_start=on_start, lease_timeout=10, heartbeat=True)
    assert all(length * 0.6 < each <= length + 0.1 for each in left)
    assert (await queue.statistics()).expired == 0


async def test_what_on_start_raises_is_a_failure_of_the_item(queue: Queue) -> None:
    async def on_start(lease: Lease[str, int]) -> None:
        if lease.key == "b" and lease.deliveries == 1:
            raise KeyError(lease.key)

    await queue.shutdown()
    await serve(queue, nothing, on_start=on_start)
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.released) == (3, 1)


@virtual_time
async def test_a_heartbeat_leaves_leases_without_an_end_alone(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        await sleep(1000)
        assert lease.deadline == float("inf")

    async with timekeeper(queue):
        await run_until_drained(queue, handle, 3, heartbeat=True)
        assert current_time() == 1000


@virtual_time
async def test_a_handler_that_hangs_is_given_up_after_its_runtime(queue: Queue) -> None:
    lost: list[float] = []

    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1 and lease.key == "a":
            try:
                await sleep_forever()
            finally:
                lost.append(current_time())

    async with timekeeper(queue):
        await run_until_drained(queue, handle, lease_timeout=10, heartbeat=True, max_runtime=60)
    assert lost == [60]
    assert (await queue.statistics()).acked == 3


@virtual_time
async def test_a_runtime_shorter_than_the_lease_extends_nothing(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1:
            await sleep_forever()

    async with timekeeper(queue):
        await run_until_drained(queue, handle, 3, lease_timeout=10, heartbeat=True, max_runtime=4)
        assert current_time() == 10


@virtual_time
async def test_a_heartbeat_that_finds_the_lease_lost_goes_on() -> None:
    class Forgetful(LeasedKeyQueue[str, int]):
        async def extend(self, lease: Lease[str, int], timeout: float | None) -> None:
            await self.close()
            await super().extend(lease, timeout)

    queue = Forgetful()
    queue.put_nowait("a", 1)

    async def handle(lease: Lease[str, int]) -> None:
        await sleep_forever()

    with pytest.raises(QueueClosedError):
        async with queue, create_task_group() as tg:
            tg.start_soon(queue.run)
            await checkpoint()
            try:
                await serve(queue, handle, lease_timeout=10, heartbeat=True)
            except QueueClosedError as error:
                closed = error
            tg.cancel_scope.cancel()
        raise closed


@virtual_time
async def test_an_error_of_the_engine_in_a_heartbeat_ends_the_pool() -> None:
    class Broken(LeasedKeyQueue[str, int]):
        async def extend(self, lease: Lease[str, int], timeout: float | None) -> None:
            raise ConnectionError

    queue = Broken()
    queue.put_nowait("a", 1)

    async def handle(lease: Lease[str, int]) -> None:
        await sleep_forever()

    async with timekeeper(queue):
        with pytest.raises(ConnectionError):
            await serve(queue, handle, lease_timeout=10, heartbeat=True)
        assert await in_line(queue) == ["a"]


@virtual_time
async def test_a_heartbeat_without_a_timekeeper_ends_the_pool(queue: Queue) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        time_is_kept.cancel()
        await sleep_forever()

    async with create_task_group() as tg:
        time_is_kept = CancelScope()

        async def keep_time(*, task_status: Any) -> None:
            with time_is_kept:
                await queue.run(task_status=task_status)

        await tg.start(keep_time)
        with pytest.raises(TimekeeperNotRunningError):
            await serve(queue, handle, lease_timeout=10, heartbeat=True)
    assert await in_line(queue) == ["a", "b", "c"]


# Stopping


@virtual_time
async def test_a_stopped_pool_claims_nothing_more(queue: Queue) -> None:
    stop = Event()
    keys: list[str] = []

    async def handle(lease: Lease[str, int]) -> None:
        keys.append(lease.key)
        await sleep(10)

    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop), queue, handle, 2)
        await sleep(5)
        stop.set()
    assert keys == ["a", "b"]
    assert (await queue.statistics()).acked == 2
    assert await in_line(queue) == ["c"]


@virtual_time
async def test_a_stopped_pool_whose_workers_wait_ends_at_once() -> None:
    queue, stop = Queue(), Event()
    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop), queue, nothing, 4)
        await until(queue, getters=4)
        stop.set()
    assert current_time() == 0
    assert (await queue.statistics()).getters == 0


async def test_a_pool_that_was_stopped_before_does_nothing(queue: Queue) -> None:
    stop = Event()
    stop.set()
    await serve(queue, nothing, 4, stop=stop)
    assert await in_line(queue) == ["a", "b", "c"]


async def test_an_item_on_its_way_when_the_pool_is_stopped_goes_back(queue: Queue) -> None:
    await in_line(queue)
    stop = Event()
    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop), queue, nothing)
        await until(queue, getters=1)
        stop.set()
        await queue.put("d", 1)
    assert [*await in_line(queue), *["d"] * (await queue.statistics()).acked] == ["d"]


@virtual_time
async def test_handlers_have_their_grace_and_then_their_items_go_back(queue: Queue) -> None:
    stop = Event()

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(8 if lease.key == "a" else 12)

    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop, grace=10), queue, handle, 2)
        await checkpoint()
        stop.set()
    assert current_time() == 10
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.given_back) == (1, 1)
    _, _, lease = await queue.get()
    assert (lease.key, lease.deliveries) == ("b", 1)


@virtual_time
async def test_without_an_end_to_their_grace_handlers_finish(queue: Queue) -> None:
    stop = Event()

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(10**6)

    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop), queue, handle, 3)
        await until(queue, leased=3)
        stop.set()
    assert (await queue.statistics()).acked == 3


@virtual_time
async def test_the_end_of_the_work_is_the_end_of_the_grace(queue: Queue) -> None:
    stop = Event()
    async with create_task_group() as tg:
        await tg.start(functools.partial(serve, stop=stop, grace=3600), queue, nothing, 3)
        await queue.join()
        stop.set()
    assert current_time() == 0


@virtual_time
async def test_leases_are_extended_in_the_time_of_grace(queue: Queue) -> None:
    stop = Event()
    options = ServeOptions(lease_timeout=10, heartbeat=True, stop=stop, grace=60)

    async def handle(lease: Lease[str, int]) -> None:
        await sleep(50)

    async with timekeeper(queue), create_task_group() as tg:
        await tg.start(functools.partial(serve, **options), queue, handle, 3)
        await until(queue, leased=3)
        stop.set()
    assert (await queue.statistics()).acked == 3


# Batches


async def test_the_handler_of_a_batch_pool_has_a_leased_batch(queue: Queue) -> None:
    batches: list[list[str]] = []

    async def handle(batch: LeaseBatch[str, int]) -> None:
        batches.append([lease.key for lease in batch])

    await queue.shutdown()
    await serve_batches(queue, handle, 2)
    assert batches == [["a", "b"], ["c"]]
    assert (await queue.statistics()).acked == 3


async def test_the_handler_of_a_batch_pool_may_be_an_ordinary_function(queue: Queue) -> None:
    sizes: list[int] = []

    def handle(batch: LeaseBatch[str, int]) -> None:
        sizes.append(len(batch))

    await queue.shutdown()
    await serve_batches(queue, handle, 2)
    assert sizes == [2, 1]


@virtual_time
async def test_a_batch_pool_waits_for_more_items(queue: Queue) -> None:
    sizes: list[int] = []

    async def handle(batch: LeaseBatch[str, int]) -> None:
        sizes.append(len(batch))

    async with create_task_group() as tg:
        await tg.start(serve_batches, queue, handle, 5, 10.0)
        await sleep(5)
        await queue.put("d", 4)
        await sleep(10)
        await queue.shutdown()
    assert sizes == [4]


async def test_a_batch_whose_handler_failed_is_tried_again_in_its_old_order(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    batches: list[list[str]] = []

    async def handle(batch: LeaseBatch[str, int]) -> None:
        batches.append([lease.key for lease in batch])
        if len(batches) == 1:
            await batch.ack(next(iter(batch)))
            raise KeyError

    await queue.shutdown()
    await serve_batches(queue, handle, 3)
    assert batches == [["a", "b", "c"], ["b", "c"]]
    assert messages(caplog) == [
        "queue 'work': the handler of a batch failed, with 2 items left",
    ]


async def test_what_is_left_of_a_rejected_batch_is_dead() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    queue = Queue(dead_letters=letters)
    queue.put_many_nowait({"a": 1, "b": 1, "c": 1})

    async def handle(batch: LeaseBatch[str, int]) -> None:
        await batch.ack(next(iter(batch)))
        raise Reject("no such table")

    await queue.shutdown()
    await serve_batches(queue, handle, 3)
    dead = [letter for _, letter in letters.drain_nowait()]
    assert [(letter.key, letter.reason) for letter in dead] == [
        ("b", "no such table"),
        ("c", "no such table"),
    ]


@virtual_time
@pytest.mark.parametrize("error", [KeyError(), Reject("late")])
async def test_a_batch_that_fails_when_all_is_lost_is_lost(
    queue: Queue, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries: list[int] = []

    async def handle(batch: LeaseBatch[str, int]) -> None:
        deliveries.append(max(lease.deliveries for lease in batch))
        if len(deliveries) == 1:
            with CancelScope(shield=True):
                await sleep(20)
            raise error

    async with timekeeper(queue):
        await queue.shutdown()
        await serve_batches(queue, handle, 3, lease_timeout=10)
    assert deliveries == [1, 2]
    assert any("all remaining leases were lost" in message for message in messages(caplog))


@virtual_time
async def test_a_heartbeat_extends_a_batch_by_its_whole_lease(queue: Queue) -> None:
    async def handle(batch: LeaseBatch[str, int]) -> None:
        await sleep(100)
        assert not batch.lost

    async with timekeeper(queue), create_task_group() as tg:
        options = ServeOptions(lease_timeout=10, heartbeat=True)
        await tg.start(functools.partial(serve_batches, **options), queue, handle, 5, 9.0)
        await until(queue, leased=3)
        await queue.join()
        await queue.shutdown()
        assert current_time() == pytest.approx(109)
    assert (await queue.statistics()).expired == 0


@virtual_time
async def test_a_batch_that_gathers_when_its_pool_is_stopped_goes_back(queue: Queue) -> None:
    stop = Event()

    async def handle(batch: LeaseBatch[str, int]) -> None:
        raise AssertionError("it was not complete")

    async with create_task_group() as tg:
        await tg.start(functools.partial(serve_batches, stop=stop), queue, handle, 5, 10.0)
        await until(queue, leased=3)
        stop.set()
    assert await in_line(queue) == ["a", "b", "c"]
    assert (await queue.statistics()).given_back == 0


# Misuse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be 1 worker or more, not 0"),
        ({"max_runtime": 10}, "max_runtime=10 bounds the heartbeat, and heartbeat is False"),
        ({"max_runtime": 0, "heartbeat": True}, "max_runtime must be more than 0 seconds"),
        ({"grace": -1, "stop": None}, "grace must be 0 seconds or more, not -1"),
        ({"grace": float("nan"), "stop": None}, "grace must be 0 seconds or more, not nan"),
        ({"grace": 10}, "grace=10 is for handlers that run when the pool is stopped"),
        ({"lease_timeout": 0}, "lease_timeout must be more than 0 seconds"),
        ({"steal_from": ["me"]}, "needs tenants"),
    ],
)
async def test_a_pool_says_what_is_wrong_with_its_options(
    queue: Queue, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await serve(queue, nothing, **options)
    assert await in_line(queue) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["serve", "serve_batches"])
@pytest.mark.parametrize(
    "options", [{"tenants": "me"}, {"lease_timeout": "5"}, {"consumer": 5}, {"max_runtime": "5"}]
)
async def test_a_pool_with_a_wrong_option_does_not_start(
    queue: Queue, name: str, options: dict[str, Any]
) -> None:
    class Status:
        def started(self, value: None = None) -> None:
            pytest.fail("it has started")

    pool: Any = functools.partial(serve, queue)
    if name == "serve_batches":
        pool = functools.partial(serve_batches, queue, max_items=2)
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be "):
        await pool(handler=nothing, task_status=Status(), **options)
    with pytest.raises(TypeError, match="max_items must be a whole number"):
        await serve_batches(queue, nothing, "2", task_status=Status())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("max_items", "max_wait", "message"),
    [
        (0, 0.0, "max_items must be 1 or more, not 0"),
        (2, -1.0, "max_wait must be 0 seconds or more, not -1"),
        (2, 10.0, "max_wait=10.0 s must be less than the lease_timeout of 10 s"),
    ],
)
async def test_a_batch_pool_says_what_is_wrong_with_its_options(
    queue: Queue, max_items: int, max_wait: float, message: str
) -> None:
    async def handle(batch: LeaseBatch[str, int]) -> None:
        pass

    with pytest.raises(ValueError, match=message):
        await serve_batches(queue, handle, max_items, max_wait, lease_timeout=10)


# The cancel sweep


async def account(queue: Queue, done: list[str], put: list[str]) -> None:
    """What was put was done exactly once, is dead, or is left."""
    statistics = await queue.statistics()
    assert statistics.leased == 0
    assert statistics.acked == len(done)
    letters = queue.dead_letters
    assert isinstance(letters, LeasedKeyQueue)
    dead = [letter.key for _, letter in letters.drain_nowait()]
    left = [key for key, _ in queue.drain_nowait()]
    assert sorted(done + dead + left) == sorted(put)


def a_queue() -> Queue:
    letters: LeasedKeyQueue[str, DeadLetter[str, int]] = LeasedKeyQueue()
    return Queue(retry=Retry(max_deliveries=2), dead_letters=letters)


async def handle_somehow(lease: Lease[str, int]) -> None:
    """Succeed, fail once, fail for ever, or give up: by the key."""
    await checkpoint()
    if lease.key == "fails for ever" or (lease.key == "fails once" and lease.deliveries == 1):
        raise KeyError(lease.key)
    if lease.key == "is rejected":
        raise Reject("by the handler")
    await checkpoint()


KEYS = ["works", "fails once", "fails for ever", "is rejected", "comes late"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_cancelled_pool_loses_and_doubles_nothing(limit: int, native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = a_queue()
        done: list[str] = []
        queue.put_many_nowait(dict.fromkeys(KEYS[:-1], 1))

        async def produce() -> None:
            for _ in range(25):
                await checkpoint()
            await queue.put("comes late", 1)
            await queue.shutdown()

        async def on_success(lease: Lease[str, int], _: object) -> None:
            await checkpoint()

        async def operation() -> None:
            await serve(queue, handle_somehow, limit, on_success=on_success)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            watched(queue, done)
            yield operation
        await account(queue, done, KEYS)

    assert await cancel_sweep(scenario, native=native) > 10


def watched(queue: Queue, done: list[str]) -> None:
    """Note the keys that are acknowledged."""
    ack = queue.ack

    async def ack_and_note(lease: Lease[str, int]) -> bool:
        dropped = await ack(lease)
        done.append(lease.key)
        return dropped

    queue.ack = ack_and_note  # type: ignore[method-assign]


@virtual_time
async def test_a_pool_killed_while_it_stops_loses_and_doubles_nothing(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = a_queue()
        done: list[str] = []
        stop = Event()
        queue.put_many_nowait(dict.fromkeys(KEYS, 1))
        watched(queue, done)

        async def handle(lease: Lease[str, int]) -> None:
            await sleep(lease.deliveries * (3 if lease.key == "works" else 12))

        async def stop_it() -> None:
            await sleep(2)
            stop.set()

        async def operation() -> None:
            await serve(
                queue, handle, 3, lease_timeout=6, heartbeat=True, stop=stop, grace=4
            )  # fmt: skip

        async with timekeeper(queue), create_task_group() as tg:
            tg.start_soon(stop_it)
            yield operation
        await account(queue, done, KEYS)

    assert await cancel_sweep(scenario, native=native) > 10


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_cancelled_batch_pool_loses_and_doubles_nothing(limit: int, native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = a_queue()
        done: list[str] = []
        watched(queue, done)
        queue.put_many_nowait(dict.fromkeys(KEYS[:-1], 1))

        async def produce() -> None:
            for _ in range(15):
                await checkpoint()
            await queue.put("comes late", 1)
            await queue.shutdown()

        async def handle(batch: LeaseBatch[str, int]) -> None:
            for lease in batch:
                await handle_somehow(lease)
                await checkpoint()

        async def operation() -> None:
            await serve_batches(queue, handle, 2, 3600.0, limit)

        async with create_task_group() as tg:
            tg.start_soon(produce)
            yield operation
        await account(queue, done, KEYS)

    assert await cancel_sweep(scenario, native=native) > 10


@virtual_time
async def test_a_pool_cancelled_while_its_leases_expire_loses_and_doubles_nothing(
    native: bool,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        queue = a_queue()
        done: list[str] = []
        watched(queue, done)
        queue.put_many_nowait({"a": 1, "b": 1, "c": 1})
        await queue.shutdown()

        async def handle(lease: Lease[str, int]) -> None:
            await sleep(10 if lease.deliveries == 1 or lease.key == "b" else 1)

        async def operation() -> None:
            await serve(queue, handle, 2, lease_timeout=10)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            yield operation
            await advance(60)  # leases that nobody settles would run out
            tg.cancel_scope.cancel()
        await account(queue, done, ["a", "b", "c"])

    assert await cancel_sweep(scenario, native=native) > 5


@pytest.mark.parametrize("stop", [True, "now", 5])
async def test_a_stop_that_is_no_event_is_refused(stop: Any) -> None:
    queue: LeasedKeyQueue[str, int] = LeasedKeyQueue()
    message = f"stop must be an anyio.Event, not {stop!r}"
    with pytest.raises(TypeError, match=message):
        await serve(queue, print, stop=stop)
    with pytest.raises(TypeError, match=message):
        await stop_on_signals(stop)


# Threads, which cannot be stopped


class Slow:
    """A handler in a thread that takes its time, and counts how many run at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = threading.Event()
        self.at_once: list[int] = []
        self.ended: list[str] = []
        self._running = 0

    def __call__(self, work: Any) -> None:
        keys = [lease.key for lease in work] if isinstance(work, LeaseBatch) else [work.key]
        self._running += 1
        self.at_once.append(self._running)
        self.begun.set()
        time.sleep(self.seconds)
        self._running -= 1
        self.ended += keys


each_way = pytest.mark.parametrize(
    "pool", [serve, functools.partial(serve_batches, max_items=1)], ids=["one by one", "batches"]
)


@each_way
async def test_the_lease_of_a_thread_is_kept_until_it_has_ended(pool: Any) -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=0.2)
    queue.put_nowait("a", 1)
    handle = Slow(0.7)
    async with timekeeper(queue):
        await queue.shutdown()
        await pool(queue, handle, concurrency=3)
    assert (handle.at_once, handle.ended) == ([1], ["a"])
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.expired) == (1, 0)


@each_way
async def test_a_thread_keeps_the_key_of_its_cancelled_item_until_it_has_ended(pool: Any) -> None:
    queue = LeasedKeyQueue[str, int](default_lease_timeout=0.2)
    queue.put_nowait("a", 1)
    handle = Slow(0.7)
    async with timekeeper(queue), create_task_group() as tg:

        async def cancel_when_it_works() -> None:
            await anyio.to_thread.run_sync(handle.begun.wait, 10)
            assert await queue.cancel("a")
            await queue.put("a", 2)
            await queue.shutdown()

        tg.start_soon(cancel_when_it_works)
        await pool(queue, handle, concurrency=3)
    assert (handle.at_once, handle.ended) == ([1, 1], ["a", "a"])
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.cancelled, statistics.expired) == (1, 1, 0)


@each_way
async def test_a_thread_over_its_max_runtime_is_a_failure_when_it_has_ended(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue = LeasedKeyQueue[str, int](retry=Retry(max_deliveries=2), default_lease_timeout=0.3)
    queue.put_nowait("a", 1)
    handle = Slow(0.6)
    async with timekeeper(queue):
        await queue.shutdown()
        await pool(queue, handle, concurrency=4, heartbeat=True, max_runtime=0.2)
    assert (handle.at_once, handle.ended) == ([1, 1], ["a", "a"])
    statistics = await queue.statistics()
    assert (statistics.released, statistics.expired, statistics.dropped) == (2, 0, 1)
    assert any("takes longer than max_runtime=0.2" in text for text in messages(caplog))
    assert any("TimeoutError: it took longer" in text for text in caplog.text.splitlines())


@each_way
@pytest.mark.parametrize("how", ["scope", "grace", "native"])
async def test_the_lease_of_a_thread_is_kept_whatever_cancels_its_pool(pool: Any, how: str) -> None:
    on_asyncio = sniffio.current_async_library() == "asyncio"
    if how == "native" and not on_asyncio:
        pytest.skip("asyncio has it")
    queue = LeasedKeyQueue[str, int](default_lease_timeout=0.2)
    queue.put_nowait("a", 1)
    handle, stop = Slow(0.7), Event()
    options: Any = {"stop": stop, "grace": 0.0} if how == "grace" else {}
    async with timekeeper(queue), create_task_group() as tg:

        async def run() -> None:
            with suppress(*([asyncio.CancelledError] if how == "native" else [])):
                await pool(queue, handle, concurrency=2, **options)

        if how == "native":
            task = asyncio.create_task(run())
        else:
            tg.start_soon(run)
        await anyio.to_thread.run_sync(handle.begun.wait, 10)
        if how == "native":
            for each in asyncio.all_tasks():  # as the end of the event loop does
                if each is not asyncio.current_task() and "run_one" in repr(each.get_coro()):
                    each.cancel()
            task.cancel()
            await asyncio.wait([task])
        elif how == "grace":
            stop.set()
        else:
            tg.cancel_scope.cancel()
    assert handle.ended == ["a"]
    statistics = await queue.statistics()
    assert statistics.expired == 0
    assert statistics.acked + statistics.given_back == 1
