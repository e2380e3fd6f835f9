import asyncio
import time

import anyio
import pytest
from anyio import CancelScope, current_time
from anyio.lowlevel import checkpoint

from leaseq._core.loop import Home, is_failure

pytestmark = pytest.mark.anyio


# A home


async def test_a_home_has_the_event_loops_clock() -> None:
    home = Home()
    before = current_time()
    assert before <= home.time() <= current_time()
    assert before <= home.time() <= current_time()


@pytest.mark.virtual_time
async def test_a_home_has_the_virtual_clock_where_time_is_virtual() -> None:
    home = Home()
    await anyio.sleep(1000)
    assert home.time() == 1000


@pytest.mark.only("asyncio")
async def test_a_home_takes_the_short_way_to_the_clock_of_asyncio() -> None:
    home = Home()
    home.check()
    own = type(asyncio.get_running_loop()).time is not asyncio.BaseEventLoop.time
    assert (home.time is time.monotonic) is not own


async def test_a_checkpoint_at_home_lets_others_run() -> None:
    ran = False

    async def run() -> None:
        nonlocal ran
        ran = True

    home = Home()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run)
        for _ in range(2):
            await home.checkpoint()
        assert ran


async def test_a_checkpoint_at_home_can_be_cancelled() -> None:
    home = Home()
    with CancelScope() as scope:
        scope.cancel()
        await home.checkpoint()
    assert scope.cancelled_caught


def test_there_is_no_home_without_an_event_loop() -> None:
    with pytest.raises(anyio.NoEventLoopError):
        Home().check()


def test_a_home_is_in_one_event_loop_for_ever() -> None:
    home = Home()

    async def settle() -> None:
        home.check()

    anyio.run(settle)
    for backend in ("asyncio", "trio"):
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            anyio.run(settle, backend=backend)
    with pytest.raises(RuntimeError, match=r"for another anyio\.run"):
        home.check()


# What is a failure


async def test_an_error_is_a_failure() -> None:
    assert is_failure(KeyError())


async def test_a_group_with_an_error_in_it_is_a_failure() -> None:
    assert is_failure(BaseExceptionGroup("both", [KeyboardInterrupt(), KeyError()]))


async def test_a_group_without_an_error_in_it_is_no_failure() -> None:
    assert not is_failure(BaseExceptionGroup("stopped", [KeyboardInterrupt()]))


async def test_a_body_that_exits_has_failed_and_one_that_is_interrupted_has_not() -> None:
    assert is_failure(SystemExit())
    assert is_failure(BaseExceptionGroup("of a task group", [SystemExit()]))
    assert not is_failure(KeyboardInterrupt())


async def test_a_cancellation_by_scope_is_no_failure() -> None:
    failed = True
    with CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except BaseException as error:
            failed = is_failure(error)
            raise
    assert not failed


@pytest.mark.only("asyncio")
async def test_a_native_cancellation_is_no_failure() -> None:
    async def wait() -> bool:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            return is_failure(error)
        raise AssertionError("it slept forever")

    task = asyncio.create_task(wait())
    await checkpoint()
    task.cancel()
    assert not await task


async def test_a_cancellation_of_asyncios_that_nobody_asked_for_is_a_failure() -> None:
    assert is_failure(asyncio.CancelledError())
