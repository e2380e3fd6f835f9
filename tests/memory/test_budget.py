"""Calls that need not wait: each hears of a cancellation, and others get their turn within a bound.

The bound is `CALLS` calls, or `SECONDS` and the call that comes after them, whichever is less.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import TypeAlias

import anyio
import pytest
from anyio import CancelScope, create_task_group, current_time, move_on_after
from anyio.lowlevel import checkpoint, current_token
from tests.contract.helpers import suspensions

from leaseq import Batcher, LeasedKeyQueue
from leaseq._core import loop
from leaseq._core.loop import CALLS, SECONDS, budget_for_tests

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[int, int]
Call: TypeAlias = Callable[[Queue], Awaitable[object]]


async def put(queue: Queue) -> None:
    await queue.put(1, 1)


async def put_many(queue: Queue) -> None:
    await queue.put_many({2: 2})


async def get(queue: Queue) -> None:
    _, _, lease = await queue.get()
    await queue.release(lease)


async def take(queue: Queue) -> None:
    _, _, lease = await queue.take(0)
    await queue.release(lease)


async def get_batch(queue: Queue) -> None:
    for lease in await queue.get_batch(1):
        await queue.release(lease)


async def body(queue: Queue) -> None:
    async with queue.lease() as lease:
        await queue.release(lease)


each_call = pytest.mark.parametrize("call", [put, put_many, get, take, get_batch, body])


def a_queue() -> Queue:
    queue = Queue()
    queue.put_nowait(0, 0)
    return queue


def cancel_this_task() -> None:
    """Cancel as Ctrl-C does, whose handler runs in the midst of a task."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


# Cancellations


@each_call
@pytest.mark.parametrize("before", range(CALLS + 2))
async def test_a_call_hears_of_a_cancellation_wherever_in_the_budget_it_is(
    call: Call, before: int, native: bool
) -> None:
    queue = a_queue()
    calls = 0

    async def make_calls(scope: CancelScope) -> None:
        nonlocal calls
        with suppress(asyncio.CancelledError) if native else scope:
            while calls < before:
                await call(queue)
                calls += 1
            cancel_this_task() if native else scope.cancel()
            await call(queue)
            calls += 1

    with budget_for_tests(CALLS):
        async with create_task_group() as tg:  # a task of its own, for a cancellation of its own
            tg.start_soon(make_calls, CancelScope())
    assert calls == before
    assert [item for item, _ in queue.drain_nowait()][:1] == [0]


@each_call
async def test_a_call_hears_of_a_cancelled_scope_further_out(call: Call) -> None:
    queue = a_queue()
    with budget_for_tests(CALLS), CancelScope() as outer, CancelScope(), CancelScope():
        await call(queue)
        outer.cancel()
        await call(queue)
        raise AssertionError("it did not hear of it")
    assert outer.cancelled_caught


@each_call
async def test_a_call_in_a_shield_hears_of_no_cancellation_outside(call: Call) -> None:
    queue = a_queue()
    with budget_for_tests(CALLS), CancelScope() as outer:
        outer.cancel()
        with CancelScope(shield=True):
            for _ in range(2 * CALLS):
                await call(queue)
    assert not outer.cancelled_caught


@each_call
async def test_a_call_hears_of_a_cancellation_that_came_with_what_it_waited_for(
    call: Call,
) -> None:
    queue = a_queue()
    came = anyio.Event()

    async def wait_and_call(scope: CancelScope) -> None:
        with scope:
            await came.wait()
            await call(queue)
            raise AssertionError("it did not hear of it")

    with budget_for_tests(CALLS):
        scope = CancelScope()
        async with create_task_group() as tg:
            tg.start_soon(wait_and_call, scope)
            await anyio.wait_all_tasks_blocked()
            came.set()
            scope.cancel()
    assert scope.cancelled_caught


async def test_what_is_cancelled_has_put_and_taken_nothing() -> None:
    queue = a_queue()
    for call in (queue.put(1, 1), queue.get(), queue.take(0), queue.get_batch(2)):
        with budget_for_tests(CALLS), CancelScope() as scope:
            scope.cancel()
            await call
        assert scope.cancelled_caught
    assert queue.drain_nowait() == [(0, 0)]


@pytest.mark.only("asyncio")
async def test_this_anyio_keeps_scopes_where_calls_look_for_them() -> None:
    assert loop._scopes_of_tasks() is not None


@each_call
async def test_a_call_hears_of_a_cancellation_by_another_anyio(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_scopes_of_tasks", lambda: None)
    queue = a_queue()
    with budget_for_tests(CALLS), CancelScope() as scope:
        await call(queue)
        scope.cancel()
        await call(queue)
        raise AssertionError("it did not hear of it")
    assert scope.cancelled_caught


# Turns


@pytest.mark.virtual_time
@each_call
async def test_others_run_after_so_many_calls(call: Call) -> None:
    queue = a_queue()
    calls = 0
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(calls)
            await checkpoint()

    async with create_task_group() as tg:
        tg.start_soon(watch)
        for _ in range(10 * CALLS):
            await call(queue)
            calls += 1
        tg.cancel_scope.cancel()
    longest = max(later - sooner for sooner, later in pairwise(seen))
    shuffled = not isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    assert CALLS / 2 < longest <= CALLS * (2 if shuffled else 1)  # trio's tasks run in any order


async def test_others_run_after_some_time_however_few_the_calls() -> None:
    now = 0.0
    token = current_token().native_token
    on_asyncio = isinstance(token, asyncio.AbstractEventLoop)
    make_turn = loop._turn_on_asyncio if on_asyncio else loop._turn_on_trio
    turn = make_turn(loop._Budget(token), lambda: now)
    turns = 0

    async def begin() -> None:
        if (something := turn()) is not None:
            await something

    for _ in range(20):
        turns += await suspensions(begin())
        now += 0.3 * SECONDS
    assert turns == 5


async def test_all_queues_and_batchers_of_an_event_loop_spend_one_budget() -> None:
    async def write(items: list[int]) -> None:
        pass

    queues = [Queue() for _ in range(3)]
    turns = 0
    async with create_task_group() as tg, Batcher(write) as batcher:
        await tg.start(batcher.run)
        with budget_for_tests(CALLS):
            for number in range(CALLS):
                for queue in queues:
                    turns += await suspensions(queue.put(number, 1))
                turns += await suspensions(batcher.add(number))
    assert turns == 4


@pytest.mark.parametrize("calls", [[put, get], [put, take], [put_many, get_batch], [body]])
async def test_a_loop_that_never_waits_hears_of_a_deadline(calls: list[Call]) -> None:
    queue = a_queue()
    late = 0
    with move_on_after(0.01) as scope:
        while True:
            for call in calls:
                await call(queue)
                late += current_time() > scope.deadline
    assert late <= 2 * CALLS  # one turn for the event loop to see the time, one to deliver it


@each_call
async def test_a_loop_that_never_waits_can_be_cancelled_by_another_task(
    call: Call, native: bool
) -> None:
    queue = a_queue()
    calls = calls_before = 0
    tasks: list[asyncio.Task[object] | None] = []
    scope = CancelScope()

    async def make_calls() -> None:
        nonlocal calls
        tasks.append(asyncio.current_task() if native else None)
        with suppress(asyncio.CancelledError) if native else scope:
            while True:
                await call(queue)
                calls += 1

    async with create_task_group() as tg:
        tg.start_soon(make_calls)
        while calls < 100:
            await checkpoint()
        calls_before = calls
        if native:
            assert tasks[0] is not None
            tasks[0].cancel()
        else:
            scope.cancel()
    assert calls == calls_before


# A timekeeper that was started just now


@pytest.mark.only("asyncio")
@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.get(lease_timeout=60.0),
        lambda queue: queue.take(0, lease_timeout=60.0),
        lambda queue: queue.get_batch(1, lease_timeout=60.0),
        lambda queue: queue.put(1, 1, delay=60.0),
        lambda queue: queue.put_many({1: 1}, delay=60.0),
    ],
)
async def test_a_call_that_needs_a_timekeeper_lets_it_start(call: Call) -> None:
    queue = a_queue()
    with budget_for_tests(CALLS):
        async with asyncio.TaskGroup() as tg:
            tg.create_task(queue.run())
            await call(queue)
            await queue.close()


@pytest.mark.only("asyncio")
async def test_adding_to_a_batcher_lets_its_run_start() -> None:
    async def write(items: list[int]) -> None:
        pass

    with budget_for_tests(CALLS):
        async with asyncio.TaskGroup() as tg, Batcher(write) as batcher:
            tg.create_task(batcher.run())
            await batcher.add(1)
    assert batcher.pending() == []
