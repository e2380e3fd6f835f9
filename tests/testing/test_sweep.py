import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from leaseq.testing import _sweep as sweep
from leaseq.testing import cancel_sweep

pytestmark = pytest.mark.anyio


class Diary:
    """A scenario without an account. It keeps how far the operation came in each attempt."""

    def __init__(self, operation: Callable[[list[str]], Awaitable[None]]) -> None:
        self.operation = operation
        self.attempts: list[list[str]] = []
        self.left = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        attempt: list[str] = []
        self.attempts.append(attempt)
        try:
            yield lambda: self.operation(attempt)
        finally:
            self.left += 1


async def two_steps(attempt: list[str]) -> None:
    attempt.append("began")
    await checkpoint()
    attempt.append("half done")
    await checkpoint()
    attempt.append("done")


async def fail_when_cancelled(attempt: list[str]) -> None:
    try:
        await checkpoint()
    except anyio.get_cancelled_exc_class():
        raise KeyError("clean-up") from None


async def never_end(attempt: list[str]) -> None:
    while True:
        await checkpoint()


async def test_an_operation_is_cancelled_later_each_time_until_it_ends(
    native: bool,
) -> None:
    diary = Diary(two_steps)
    await cancel_sweep(diary, native=native)
    progress = [len(attempt) for attempt in diary.attempts]
    assert progress == sorted(progress)
    assert {1, 2, 3} <= set(progress)


async def test_the_sweep_tells_how_often_it_has_cancelled(native: bool) -> None:
    diary = Diary(two_steps)
    cancelled = await cancel_sweep(diary, native=native)
    unfinished = sum(attempt[-1:] != ["done"] for attempt in diary.attempts)
    assert unfinished <= cancelled < len(diary.attempts)


async def test_each_attempt_has_a_scenario_of_its_own(native: bool) -> None:
    diary = Diary(two_steps)
    await cancel_sweep(diary, native=native)
    assert diary.left == len(diary.attempts)


async def test_there_are_cancellations_on_both_sides_of_a_hand_over(native: bool) -> None:
    told: set[str] = set()

    @asynccontextmanager
    async def hand_over() -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        event = anyio.Event()

        async def tell() -> None:
            for _ in range(3):
                await checkpoint()
            event.set()

        async def wait() -> None:
            try:
                await event.wait()
            except BaseException:
                told.add("cancelled and told" if event.is_set() else "cancelled")
                raise
            told.add("told")

        async with anyio.create_task_group() as tg:
            tg.start_soon(tell)
            yield wait

    await cancel_sweep(hand_over, native=native)
    assert told == {"cancelled", "cancelled and told", "told"}


async def test_an_error_of_the_operation_comes_out_as_it_is(native: bool) -> None:
    with pytest.raises(KeyError, match="clean-up"):
        await cancel_sweep(Diary(fail_when_cancelled), native=native)


async def test_an_error_says_when_the_operation_was_cancelled(native: bool) -> None:
    @asynccontextmanager
    async def account_that_is_wrong() -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        ended = False

        async def operation() -> None:
            nonlocal ended
            await checkpoint()
            await checkpoint()
            ended = True

        yield operation
        assert ended

    with pytest.raises(AssertionError) as caught:
        await cancel_sweep(account_that_is_wrong, native=native)
    [note] = caught.value.__notes__
    assert note == (
        f"The operation was cancelled by {'Task.cancel()' if native else 'a cancel scope'} "
        "after 0 scheduler steps."
    )


async def test_an_operation_that_does_not_end_is_an_error(native: bool) -> None:
    with pytest.raises(RuntimeError, match="did not come to an end within 20 scheduler steps"):
        await cancel_sweep(Diary(never_end), native=native, limit=20)


async def test_the_sweep_itself_can_be_cancelled(native: bool) -> None:
    with CancelScope() as scope:

        async def cancel_the_sweep(attempt: list[str]) -> None:
            if len(diary.attempts) == 2:
                scope.cancel()
            await checkpoint()

        diary = Diary(cancel_the_sweep)
        await cancel_sweep(diary, native=native)
    assert scope.cancelled_caught
    assert diary.left == 2


async def test_an_operation_is_cancelled_by_scope_before_it_starts() -> None:
    diary = Diary(two_steps)
    await cancel_sweep(diary)
    assert diary.attempts[0] == ["began"]


@pytest.mark.only("asyncio")
async def test_an_operation_is_cancelled_natively_before_it_starts() -> None:
    diary = Diary(two_steps)
    await cancel_sweep(diary, native=True)
    assert diary.attempts[0] == []


@pytest.mark.only("trio")
async def test_there_is_no_native_sweep_on_trio() -> None:
    with pytest.raises(ValueError, match=r"asyncio's Task\.cancel"):
        await cancel_sweep(Diary(two_steps), native=True)


def test_the_documented_example_runs() -> None:
    assert sweep.__doc__ is not None
    _, _, example = sweep.__doc__.partition("::\n")
    exec(textwrap.dedent(example), {})
