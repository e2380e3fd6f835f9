import asyncio
import os
import time
from collections.abc import Awaitable
from functools import partial

import anyio
import pytest
from anyio import CancelScope, current_time
from anyio.lowlevel import checkpoint

from leaseq._core import loop
from leaseq._core.loop import Home, ToldApart, is_failure

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


async def test_a_bell_wakes_its_task_once() -> None:
    home = Home()
    home.check()
    woken = 0

    async def wait(bell: Awaitable[object]) -> None:
        nonlocal woken
        await bell
        woken += 1

    async with anyio.create_task_group() as tg:
        bell = home.bell()
        tg.start_soon(wait, bell)
        await anyio.wait_all_tasks_blocked()
        assert woken == 0
        home.ring(bell)
        home.ring(bell)
        await anyio.wait_all_tasks_blocked()
        assert woken == 1


async def test_a_bell_that_was_rung_before_keeps_nobody_waiting() -> None:
    home = Home()
    home.check()
    bell = home.bell()
    home.ring(bell)
    with anyio.fail_after(5):
        await bell


async def test_a_bell_can_be_rung_though_its_task_is_cancelled() -> None:
    home = Home()
    home.check()
    bell = home.bell()
    ended = []

    async def wait() -> None:
        with CancelScope() as scope:
            scopes.append(scope)
            await bell
        ended.append(scope.cancelled_caught)

    scopes: list[CancelScope] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        home.ring(bell)
    assert ended == [True]


async def test_a_turn_is_refused_in_a_process_that_was_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Home()
    home.check()
    monkeypatch.setattr(loop, "_forks", loop._forks + 1)
    for call in (home.turn, home.check, home.checkpoint):
        with pytest.raises(RuntimeError, match="has forked this one"):
            call()


async def test_a_turn_is_refused_in_another_event_loop() -> None:
    home = Home()
    home.check()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            home.turn()

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=backend))


def test_there_is_no_home_without_an_event_loop() -> None:
    with pytest.raises(anyio.NoEventLoopError):
        Home().check()


def test_a_home_is_in_one_event_loop_for_ever() -> None:
    home = Home()

    async def settle() -> None:
        home.check()

    anyio.run(settle)
    for backend in ("asyncio", "trio"):
        with pytest.raises(RuntimeError, match="belongs to an event loop that is over"):
            anyio.run(settle, backend=backend)
    with pytest.raises(RuntimeError, match=r"for another anyio\.run"):
        home.check()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_home_whose_event_loop_is_over_says_so_and_one_in_a_thread_says_that(
    backend: str,
) -> None:
    home = Home()

    async def main() -> None:
        home.check()
        with pytest.raises(RuntimeError, match=r"another event loop.*from a thread"):
            await anyio.to_thread.run_sync(home.check)

    anyio.run(main, backend=backend)
    with pytest.raises(RuntimeError, match=r"that is over.*another broker by connect\(url\)"):
        home.check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_home_in_a_forked_child_tells_the_truth_and_others_can_be_made(backend: str) -> None:
    used, unused = Home(), Home()

    async def main() -> None:
        used.check()

    async def in_child() -> bytes:
        unused.check()
        Home().check()
        try:
            used.check()
        except RuntimeError as error:
            return str(error).encode()
        return b"nothing was raised"

    anyio.run(main, backend=backend)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = b"it failed"
        try:
            text = anyio.run(in_child, backend=backend)
        finally:
            os.write(writing, text)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    assert text.startswith(f"this was made in process {os.getpid()}, which has forked this one")
    assert not used.is_of_parent


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
    assert is_failure(type("Panic", (BaseException,), {})())
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(GeneratorExit())


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


@pytest.mark.only("asyncio")
@pytest.mark.parametrize("natively", [False, True], ids=["by scope", "by both"])
@pytest.mark.parametrize("deliveries", [1, 2, 3])
async def test_a_scope_that_is_delivered_again_and_again_is_no_native_cancellation(
    deliveries: int, natively: bool
) -> None:
    home = Home()
    home.check()
    scope = CancelScope()

    async def wait() -> None:
        with scope, ToldApart(home):
            for _ in range(deliveries - 1):
                with pytest.raises(asyncio.CancelledError):
                    await anyio.sleep_forever()
            await anyio.sleep_forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    scope.cancel()
    if natively:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() is natively
    assert scope.cancelled_caught is not natively


@pytest.mark.only("asyncio")
async def test_the_cancellation_of_a_scope_around_the_whole_task_is_no_native_one() -> None:
    home = Home()
    home.check()
    told: list[str] = []

    async def wait() -> None:
        try:
            with ToldApart(home):
                await anyio.sleep_forever()
        except asyncio.CancelledError as error:
            told.append("the scope's" if error.args else "native")
            raise

    async with anyio.create_task_group() as tg:
        tg.start_soon(wait)
        await checkpoint()
        tg.cancel_scope.cancel()
    assert told == ["the scope's"]
