"""Functions of users: those that are refused, results that were not run, and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, create_task_group, fail_after
from anyio.lowlevel import checkpoint

from leaseq._core import functions
from leaseq._core.functions import (
    check_function,
    check_has_run,
    check_has_run_sync,
    run_in,
    run_in_thread,
)
from leaseq._core.loop import is_mere_failure

pytestmark = pytest.mark.anyio


async def coroutine() -> None:
    pass


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class WithoutSignature:
    """A function whose signature cannot be read."""

    @property
    def __signature__(self) -> object:
        raise RuntimeError("no signature")

    def __call__(self) -> None:
        pass


class Once:
    """An awaitable that waits once."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield


def test_a_coroutine_that_is_closed_can_be_told_from_one_that_raises_its_error() -> None:
    failures: list[bool] = []

    async def work(*, raises: bool) -> None:
        try:
            await Once()
            if raises:
                raise GeneratorExit
        except GeneratorExit as error:
            failures.extend(
                [is_mere_failure(error), is_mere_failure(BaseExceptionGroup("", [error]))]
            )
            raise

    closed: Any = run_in(copy_context(), work(raises=False))
    next(closed)
    closed.close()
    assert failures == [False, False]
    raising: Any = run_in(copy_context(), work(raises=True))
    next(raising)
    with pytest.raises(GeneratorExit):
        next(raising)
    assert failures == [False, False, True, True]


# Before they are called


@pytest.mark.parametrize(
    "function", [print, max, WithoutSignature(), lambda lease, *_: None, partial(max, 1)]
)
def test_a_function_that_may_take_the_arguments_is_taken(function: object) -> None:
    check_function("handler", function, "lease")


@pytest.mark.parametrize("function", [generator, async_generator, partial(generator)])
def test_a_function_with_a_yield_in_it_is_refused(function: object) -> None:
    with pytest.raises(TypeError, match="handler has a yield in it, so a call would run nothing"):
        check_function("handler", function)


def test_a_function_of_other_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match=r"handler is called with lease and more, which .* does"):
        check_function("handler", lambda lease: lease, "lease", "more")
    with pytest.raises(TypeError, match="handler must be a function, not 7"):
        check_function("handler", 7)


# What they return


@pytest.mark.parametrize("make", [coroutine, generator, async_generator])
async def test_code_that_was_not_run_is_an_error(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="was not run: is there an await missing, or a yield too"):
        await check_has_run(make())
    with pytest.raises(TypeError, match="was not run: no event loop runs here"):
        check_has_run_sync(unfinished := make())
    if make is async_generator:
        await unfinished.aclose()


async def test_an_awaitable_is_an_error_only_where_no_event_loop_runs() -> None:
    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    await check_has_run(Awaitable())
    with pytest.raises(TypeError, match="no event loop runs here"):
        check_has_run_sync(Awaitable())


@pytest.mark.parametrize("result", [None, 7, "text", [1], iter([1])])
async def test_a_value_is_taken(result: object) -> None:
    await check_has_run(result)
    check_has_run_sync(result)


# In threads


class Work:
    """A function that runs until it may end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(5)
        self.ended = True

    async def until_begun(self) -> None:
        while not self.begun.is_set():
            await checkpoint()


@pytest.mark.only("asyncio")
@pytest.mark.parametrize("times", [1, 2])
async def test_a_function_that_has_begun_is_waited_for_after_a_native_cancellation(
    times: int,
) -> None:
    work = Work()
    task = asyncio.create_task(run_in_thread(work))
    with fail_after(5):
        await work.until_begun()
        for _ in range(times):
            task.cancel()
            for _ in range(5):
                await checkpoint()
            assert not task.done()
        work.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert work.ended


@pytest.mark.only("asyncio")
async def test_a_function_that_waits_for_a_thread_is_not_run_after_a_native_cancellation() -> None:
    limiter, first, second = CapacityLimiter(1), Work(), Work()
    with fail_after(5):
        async with create_task_group() as tg:
            tg.start_soon(partial(run_in_thread, first, limiter=limiter))
            await first.until_begun()
            task = asyncio.create_task(run_in_thread(second, limiter=limiter))
            while not limiter.statistics().tasks_waiting:
                await checkpoint()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            first.may_end.set()
    assert first.ended
    assert not second.begun.is_set()


async def test_a_thread_that_comes_too_late_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Callable[[], None]] = []

    async def run_sync(call: Callable[[], None], **_: object) -> None:
        late.append(call)
        await anyio.sleep_forever()

    monkeypatch.setattr(functions, "run_sync", run_sync)
    work = Work()
    with anyio.move_on_after(0) as scope:
        await run_in_thread(work)
    assert scope.cancelled_caught
    late.pop()()
    assert not work.begun.is_set()


async def test_the_error_of_a_function_in_a_thread_is_its_task_s() -> None:
    def fail() -> None:
        raise KeyError("item")

    with pytest.raises(KeyError, match="item"):
        await run_in_thread(fail)


async def test_an_awaitable_that_a_thread_returns_is_awaited_by_its_task() -> None:
    async def double(number: int) -> int:
        await checkpoint()
        return 2 * number

    assert await run_in_thread(double, 4) == 8
    with pytest.raises(TypeError, match="which was not run"):
        await run_in_thread(generator)
