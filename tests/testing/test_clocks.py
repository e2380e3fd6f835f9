import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio import current_time, to_thread
from anyio.lowlevel import checkpoint

from leaseq import LeasedKeyQueue, connect, serve, serve_batches
from leaseq.tasks import TaskQueue, TaskWorker
from leaseq.testing import VirtualEventLoop, advance, virtual_backend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

DAY = 24 * 3600.0
YEAR = 365 * DAY


async def test_the_clock_starts_at_zero() -> None:
    assert current_time() == 0


async def test_a_sleeper_wakes_when_its_time_has_come() -> None:
    await anyio.sleep(DAY)
    assert current_time() == DAY


async def test_a_clock_too_coarse_for_nanoseconds_goes_on() -> None:
    for _ in range(3):
        await anyio.sleep(YEAR)
    assert current_time() == pytest.approx(3 * YEAR)


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    woken: list[tuple[float, float]] = []

    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append((seconds, current_time()))

    async with anyio.create_task_group() as tg:
        for seconds in (3.0, 0.25, DAY, 1.5):
            tg.start_soon(sleep, seconds)
    assert woken == [(0.25, 0.25), (1.5, 1.5), (3.0, 3.0), (DAY, DAY)]


async def test_the_clock_stands_still_while_a_task_can_run() -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 1)
        for _ in range(1000):
            await checkpoint()
        assert current_time() == 0


async def test_a_timeout_fires_at_its_deadline() -> None:
    with anyio.move_on_after(60) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert current_time() == 60


async def test_a_timeout_that_was_not_needed_moves_no_clock() -> None:
    with anyio.fail_after(60):
        await anyio.sleep(1)
    await anyio.sleep(1)
    assert current_time() == 2


async def test_advance_moves_the_clock_by_so_much() -> None:
    await advance(2.5)
    await advance(DAY)
    assert current_time() == 2.5 + DAY


async def test_advance_returns_when_all_that_fell_due_has_happened() -> None:
    happened: list[str] = []
    first, second = anyio.Event(), anyio.Event()

    async def timer() -> None:
        await anyio.sleep(10)
        first.set()

    async def relay() -> None:
        await first.wait()
        for _ in range(100):
            await checkpoint()
        second.set()

    async def last() -> None:
        await second.wait()
        happened.append("last")

    async with anyio.create_task_group() as tg:
        for task in (last, relay, timer):
            tg.start_soon(task)
        await advance(10)
        assert happened == ["last"]
        assert current_time() == 10


async def test_advance_leaves_what_is_due_later() -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 11)
        await advance(10)
        assert current_time() == 10


async def test_advance_by_nothing_lets_every_task_come_to_rest() -> None:
    reached = False

    async def run() -> None:
        nonlocal reached
        for _ in range(100):
            await checkpoint()
        reached = True
        await anyio.sleep(1)

    async with anyio.create_task_group() as tg:
        tg.start_soon(run)
        await advance(0)
        assert reached
        assert current_time() == 0


async def test_several_tasks_can_advance_at_once() -> None:
    async with anyio.create_task_group() as tg:
        for seconds in (1, 5, 5, 3):
            tg.start_soon(advance, seconds)
    assert current_time() == 5


async def test_a_cancelled_advance_leaves_the_clock_in_order() -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(advance, 0)
        await checkpoint()
        await checkpoint()
        tg.cancel_scope.cancel()
    await advance(1)
    assert current_time() == 1


@pytest.mark.parametrize("seconds", [-1, -math.inf, math.inf, math.nan])
async def test_time_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"the time of advance\(\) must be .* not {seconds!r}"):
        await advance(seconds)


async def test_the_clock_waits_for_a_worker_thread() -> None:
    release = threading.Event()
    ended: list[str] = []

    async def work() -> None:
        await to_thread.run_sync(release.wait)
        ended.append("thread")

    async def time_out() -> None:
        await anyio.sleep(DAY)
        ended.append("timer")

    async with anyio.create_task_group() as tg:
        tg.start_soon(time_out)
        tg.start_soon(work)
        await advance(0)
        threading.Timer(0, release.set).start()
    assert ended == ["thread", "timer"]


@pytest.mark.parametrize("how", ["anyio", "asyncio", "trio"])
async def test_timers_wait_in_real_time_only_while_a_thread_works(
    how: str, anyio_backend_name: str
) -> None:
    if how == "anyio":
        run_sync: Callable[[Callable[[], object]], Awaitable[object]] = to_thread.run_sync
    elif how == anyio_backend_name:
        run_sync = asyncio.to_thread if how == "asyncio" else trio.to_thread.run_sync
    else:
        return
    release = threading.Event()
    started = time.monotonic()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_sync, release.wait)
        await checkpoint()
        await anyio.sleep(0.01)
        passed = time.monotonic() - started
        release.set()
    assert passed >= 0.01
    await anyio.sleep(DAY)


@pytest.mark.parametrize("kind", ["pool", "batches", "tasks"])
async def test_the_clock_waits_for_the_threads_of_the_library(kind: str) -> None:
    release = threading.Event()
    ended: list[str] = []

    def work(*_: object) -> None:
        release.wait(60)
        ended.append("thread")

    async def time_out() -> None:
        await advance(0)  # the thread works by now
        threading.Timer(0.05, release.set).start()
        await anyio.sleep(DAY)
        ended.append("timer")

    async with connect("memory://") as broker, anyio.create_task_group() as tg:
        await tg.start(broker.run)
        tasks = TaskQueue(broker)
        function = tasks.task(name="work")(work)
        queue = await tasks.open()
        if kind == "pool":
            tg.start_soon(serve, queue, work)
        elif kind == "batches":
            tg.start_soon(serve_batches, queue, work, 2)
        else:
            tg.start_soon(TaskWorker(tasks).run)
        await tasks.push(function.task())
        await time_out()
        tg.cancel_scope.cancel()
    assert ended == ["thread", "timer"]


# trio's clock as it is


@pytest.mark.parametrize("options", [{}, {"rate": 1000.0}, {"autojump_threshold": 0}])
def test_any_mock_clock_can_be_advanced(options: dict[str, float]) -> None:
    woken: list[float] = []

    async def ticks() -> None:
        while True:
            await anyio.sleep(0.1)
            woken.append(current_time())

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(ticks)
            await advance(1.05)
            count = len(woken)
            tg.start_soon(advance, 1)
            await advance(1)
            assert current_time() >= 2.05
            tg.cancel_scope.cancel()
        if "rate" not in options:  # else it also moves by itself
            assert count == 10
            assert current_time() == pytest.approx(2.05)

    clock = trio.testing.MockClock(**options)
    anyio.run(main, backend="trio", backend_options={"clock": clock})


def test_a_clock_that_stands_still_fires_timers_in_their_order_and_a_timeout_of_its_own() -> None:
    async def main() -> None:
        queue: LeasedKeyQueue[str, int] = LeasedKeyQueue(default_lease_timeout=30)
        async with anyio.create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put("a", 1)
            await queue.get()
            await advance(29)
            assert await queue.available_keys() == set()
            await advance(1)
            assert await queue.available_keys() == {"a"}
            with anyio.move_on_after(5) as scope:
                await advance(DAY)
            assert scope.cancelled_caught
            assert current_time() == 35
            await advance(YEAR / 3)
            await advance(1 / 3)
            tg.cancel_scope.cancel()

    anyio.run(main, backend="trio", backend_options={"clock": trio.testing.MockClock()})


def test_a_plain_asyncio_program_closes_its_executor_without_a_timeout() -> None:
    with asyncio.Runner(loop_factory=VirtualEventLoop) as runner:
        runner.run(asyncio.to_thread(int))
        closing = runner.get_loop()
    assert closing.time() == 0


def test_a_plain_asyncio_program_sleeps_in_virtual_time() -> None:
    with asyncio.Runner(loop_factory=VirtualEventLoop) as runner:
        runner.run(asyncio.sleep(DAY))
        assert runner.get_loop().time() == DAY


def test_each_virtual_trio_has_a_clock_of_its_own() -> None:
    assert virtual_backend("trio")[1]["clock"] is not virtual_backend("trio")[1]["clock"]


def test_another_backend_has_no_virtual_time() -> None:
    with pytest.raises(ValueError, match="for the backend 'curio': choose 'asyncio' or 'trio'"):
        virtual_backend("curio")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "options"), [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
)
def test_advance_refuses_to_wait_in_real_time(backend: str, options: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"time is real here: .*virtual_backend\(\)"):
        anyio.run(advance, DAY, backend=backend, backend_options=options)


def test_virtual_time_on_asyncio_needs_no_trio() -> None:
    program = """
import sys, anyio
from leaseq.testing import advance, virtual_backend
sys.modules["trio"] = None
backend, options = virtual_backend("asyncio")
anyio.run(advance, 60, backend=backend, backend_options=options)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
