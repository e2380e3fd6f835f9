"""``async with lease``: what the end of a body does to its item."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import TIMEOUT, Engine, Queue, in_line, letters_in

from leaseq import InvalidLeaseError, Lease, LeaseLostError, Reject, Retry

pytestmark = pytest.mark.anyio


async def test_a_body_has_the_lease_of_the_next_item(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    async with queue.lease() as lease:
        assert (lease.key, lease.value) == ("a", 1)


async def test_a_body_can_have_the_lease_of_one_key(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    async with queue.lease(key="b") as lease:
        assert (lease.key, lease.value) == ("b", 2)


async def test_a_body_waits_no_longer_than_its_timeout(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        async with queue.lease(timeout=0):
            raise AssertionError("there is nothing to lease")
    with pytest.raises(TimeoutError):
        async with queue.lease(timeout=0, key="a"):
            raise AssertionError("there is nothing to lease")


async def test_a_lease_that_is_there_can_be_given_a_body(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with lease as entered:
        assert entered is lease
    assert lease.ended == "acked"


async def test_the_end_of_a_body_is_an_ack(queue: Queue) -> None:
    await queue.put("a", 1)
    async with queue.lease() as lease:
        pass
    assert lease.ended == "acked"
    assert await queue.state("a") == "absent"


@pytest.mark.parametrize("by_hand", ["acked", "released"])
async def test_a_body_that_settles_its_lease_is_left_alone(queue: Queue, by_hand: str) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    async with queue.lease() as lease:
        if by_hand == "acked":
            await lease.ack()
        else:
            await lease.release()
    assert lease.ended == by_hand
    assert await in_line(queue) == ["b"] + ["a"] * (by_hand == "released")


async def test_an_error_after_a_body_has_settled_goes_on(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(KeyError):
        async with queue.lease() as lease:
            await lease.ack()
            raise KeyError
    assert lease.ended == "acked"


# Failures


async def test_an_error_in_a_body_comes_out_as_it_is(queue: Queue) -> None:
    error = KeyError("page")
    await queue.put("a", 1)
    with pytest.raises(KeyError) as caught:
        async with queue.lease():
            raise error
    assert caught.value is error


async def test_an_error_is_a_release_that_counts(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    with suppress(KeyError):
        async with queue.lease():
            raise KeyError
    _, _, lease = await queue.take("a")
    assert (lease.deliveries, lease.cancellations) == (2, 0)
    assert (await queue.statistics()).released == 1


async def test_an_item_whose_body_failed_goes_to_the_back_of_the_line(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    with suppress(KeyError):
        async with queue.lease():
            raise KeyError
    assert await in_line(queue) == ["b", "a"]


async def test_an_error_in_a_group_is_a_failure(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(BaseExceptionGroup):
        async with queue.lease():
            raise BaseExceptionGroup("both", [KeyboardInterrupt(), KeyError()])
    _, _, lease = await queue.get()
    assert lease.deliveries == 2


async def test_an_error_in_a_task_of_the_body_is_a_failure(queue: Queue) -> None:
    async def fail() -> None:
        raise KeyError

    await queue.put("a", 1)
    with pytest.raises(ExceptionGroup):
        async with queue.lease(), create_task_group() as tg:
            tg.start_soon(fail)
    _, _, lease = await queue.get()
    assert lease.deliveries == 2


# Cancellations


async def test_a_cancelled_body_gives_its_item_back_uncounted(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    with CancelScope() as scope:
        async with queue.lease():
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    _, _, lease = await queue.get()
    assert (lease.key, lease.deliveries, lease.cancellations) == ("a", 1, 1)
    assert (await queue.statistics()).given_back == 1


async def test_a_consumer_that_gives_up_again_and_again_keeps_nobody_from_their_turn(
    queue: Queue,
) -> None:
    keys: list[str] = []
    await queue.put_many([("a", 1), ("b", 1)])
    for _ in range(4):
        with CancelScope() as scope:
            async with queue.lease() as lease:
                keys.append(lease.key)
                scope.cancel()
                await checkpoint()
    assert keys == ["a", "a", "b", "b"]


async def test_a_body_that_ends_in_spite_of_its_cancellation_is_acked(queue: Queue) -> None:
    await queue.put("a", 1)
    with CancelScope() as scope:
        async with queue.lease() as lease:
            scope.cancel()
            with suppress(anyio.get_cancelled_exc_class()):
                await checkpoint()
    assert lease.ended == "acked"


async def test_a_failing_clean_up_of_a_cancelled_body_is_a_failure(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(KeyError), CancelScope() as scope:
        async with queue.lease():
            scope.cancel()
            try:
                await checkpoint()
            except anyio.get_cancelled_exc_class():
                raise KeyError from None
    _, _, lease = await queue.get()
    assert lease.deliveries == 2


async def test_an_interruption_is_no_failure_of_the_item(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    with pytest.raises(KeyboardInterrupt):
        async with queue.lease():
            raise KeyboardInterrupt
    _, _, lease = await queue.get()
    assert (lease.key, lease.deliveries) == ("a", 1)


class PanicError(BaseException):
    """An error outside `Exception`, as extension modules have it."""


@pytest.mark.parametrize(
    "error",
    [SystemExit(2), PanicError(), BaseExceptionGroup("of a task group", [SystemExit(2)])],
    ids=repr,
)
async def test_a_body_that_exits_has_failed_and_the_exit_goes_on(
    queue: Queue, error: BaseException
) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    with pytest.raises(type(error)) as caught:
        async with queue.lease():
            raise error
    assert caught.value is error
    assert await in_line(queue) == ["b", "a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Reject("no such page"), "no such page"),
        (ExceptionGroup("", [Reject("no such page")]), "no such page"),
        (ExceptionGroup("", [Reject("one"), ExceptionGroup("", [Reject("two")])]), "one; two"),
        (ExceptionGroup("", [Reject("twice"), Reject("twice")]), "twice"),
    ],
)
async def test_a_body_that_rejects_makes_its_item_a_dead_letter_at_once(
    engine: Engine, error: Exception, reason: str
) -> None:
    letters = await engine.queue()
    queue = await engine.queue(name="work", dead_letters=letters)
    await queue.put_many([("a", 1), ("b", 2)])
    with pytest.raises(type(error)) as caught:
        async with queue.lease():
            raise error
    assert caught.value is error
    with pytest.raises(type(error)):
        async with queue.lease_batch(10):
            raise error
    assert [(each.key, each.reason) for each in await letters_in(letters)] == [
        ("a", reason),
        ("b", reason),
    ]


async def test_a_body_that_rejects_and_fails_has_failed(engine: Engine) -> None:
    letters = await engine.queue()
    retry = Retry(max_deliveries=2)
    queue = await engine.queue(name="work", retry=retry, dead_letters=letters)
    await queue.put("a", 1)
    for _ in range(2):
        with pytest.raises(ExceptionGroup):
            async with queue.lease():
                raise ExceptionGroup("both", [Reject("no such page"), KeyError("b")])
    (letter,) = await letters_in(letters)
    assert letter.reason == "max_deliveries"
    assert letter.error is not None
    assert "Reject: no such page; KeyError: 'b'" in letter.error


async def test_a_group_without_an_error_is_no_failure(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(BaseExceptionGroup):
        async with queue.lease():
            raise BaseExceptionGroup("interrupted", [KeyboardInterrupt()])
    _, _, lease = await queue.get()
    assert lease.deliveries == 1


# Misuse


async def test_one_lease_has_one_body(queue: Queue) -> None:
    await queue.put("a", 1)
    async with queue.lease() as lease:
        with pytest.raises(RuntimeError, match="one body for one lease"):
            async with lease:
                raise AssertionError("entered twice")
    assert lease.ended == "acked"


async def test_a_lease_that_has_ended_can_have_no_body(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await lease.release()
    with pytest.raises(InvalidLeaseError, match="has ended"):
        async with lease:
            raise AssertionError("entered after its end")


# The queue is closed


async def test_closing_the_queue_cancels_a_body(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(LeaseLostError, match="lost while its body ran"):
        async with queue.lease(), create_task_group() as tg:
            tg.start_soon(queue.close)
            await sleep_forever()


async def test_a_body_that_closes_its_own_queue_has_lost_its_lease(queue: Queue) -> None:
    await queue.put("a", 1)
    with pytest.raises(LeaseLostError):
        async with queue.lease():
            await queue.close()


# Bodies whose lease runs out


@pytest.mark.needs("advance")
async def test_a_body_is_cancelled_when_its_lease_expires(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    async with create_task_group() as tg:
        with pytest.raises(LeaseLostError, match="lost while its body ran"):
            async with timed.lease():
                tg.start_soon(engine.advance, TIMEOUT + 1)
                await sleep_forever()


@pytest.mark.needs("advance")
async def test_a_body_that_has_not_noticed_has_lost_its_lease_too(
    engine: Engine, timed: Queue
) -> None:
    await timed.put("a", 1)
    with pytest.raises(LeaseLostError):
        async with timed.lease():
            with CancelScope(shield=True):
                await engine.advance(TIMEOUT + 1)
    assert await in_line(timed) == ["a"]


@pytest.mark.needs("advance")
async def test_a_body_that_has_extended_its_lease_goes_on(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    async with timed.lease() as lease:
        for _ in range(3):
            await engine.advance(TIMEOUT - 1)
            await lease.extend(TIMEOUT)
    assert lease.ended == "acked"


@pytest.mark.needs("advance")
async def test_a_body_that_swallows_its_cancellation_has_lost_its_lease(
    engine: Engine, timed: Queue
) -> None:
    await timed.put("a", 1)
    with pytest.raises(LeaseLostError):
        async with timed.lease():
            with suppress(anyio.get_cancelled_exc_class()):
                await outlive_the_lease(engine)
    assert await in_line(timed) == ["a"]


@pytest.mark.needs("advance")
async def test_a_cancellation_from_outside_wins_over_the_loss(engine: Engine, timed: Queue) -> None:
    await timed.put("a", 1)
    with CancelScope() as scope:
        async with timed.lease():
            with CancelScope(shield=True):
                await engine.advance(TIMEOUT + 1)
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught


@pytest.mark.needs("advance")
async def test_an_error_of_the_clean_up_is_not_masked_by_the_loss(
    engine: Engine, timed: Queue
) -> None:
    await timed.put("a", 1)
    with pytest.raises(KeyError):
        async with timed.lease():
            try:
                await outlive_the_lease(engine)
            except anyio.get_cancelled_exc_class():
                raise KeyError from None
    assert await in_line(timed) == ["a"]


@pytest.mark.needs("advance")
async def test_an_error_in_a_task_of_the_body_is_not_masked_by_the_loss(
    engine: Engine, timed: Queue
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise KeyError from None

    await timed.put("a", 1)
    with pytest.raises(ExceptionGroup) as caught:
        async with timed.lease(), create_task_group() as tg:
            tg.start_soon(fail_when_cancelled)
            await outlive_the_lease(engine)
    [error] = caught.value.exceptions
    assert isinstance(error, KeyError)


@pytest.mark.needs("advance")
async def test_a_body_that_has_settled_its_lease_cannot_lose_it(
    engine: Engine, timed: Queue
) -> None:
    await timed.put("a", 1)
    async with timed.lease() as lease:
        await lease.ack()
        await engine.advance(TIMEOUT + 1)
    assert lease.ended == "acked"


async def outlive_the_lease(engine: Engine) -> None:
    with CancelScope(shield=True):
        await engine.advance(TIMEOUT + 1)
    await sleep_forever()


# Errors that are not easily told


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


class SurrogatesError(Exception):
    def __str__(self) -> str:
        return "\ud800"


class NoReason(Reject):
    def __init__(self) -> None:
        pass

    @property
    def reason(self) -> str:  # type: ignore[override]  # as a user may write it
        raise LookupError("no reason")


def deep(error: Exception) -> ExceptionGroup[Exception]:
    """An error in more groups than calls can be nested."""
    for _ in range(3000):
        error = ExceptionGroup("deep", [error])
    assert isinstance(error, ExceptionGroup)
    return error


@pytest.mark.parametrize(
    "make",
    [
        UnreadableError,
        SurrogatesError,
        lambda: deep(ValueError()),
        lambda: ValueError("x" * 1_000_000),
    ],
    ids=["unreadable", "surrogates", "deep", "long"],
)
async def test_the_lease_ends_whatever_a_body_fails_with(
    queue: Queue, make: Callable[[], Exception]
) -> None:
    await queue.put("a", 1)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - anyio may have one of its own
        async with queue.lease() as lease:
            raise make()
    assert not isinstance(caught.value, InvalidLeaseError)
    assert lease.ended == "released"
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize(
    "make",
    [NoReason, lambda: Reject("\ud800"), lambda: deep(Reject("no")), lambda: Reject("")],
    ids=["no reason", "surrogates", "deep", "empty"],
)
async def test_the_lease_ends_whatever_a_body_rejects_with(
    pages: Queue, letters: Queue, make: Callable[[], Exception]
) -> None:
    await pages.put("a", 1)
    with pytest.raises(Exception):  # noqa: B017, PT011 - anyio may have one of its own
        async with pages.lease() as lease:
            raise make()
    assert lease.ended == "rejected"
    assert await letters.qsize() == 1


# Batches of which one lease cannot be settled


@pytest.mark.parametrize("fails", [False, True])
async def test_one_lease_that_cannot_be_settled_leaves_none_of_its_batch_held(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    await queue.put_many([(key, 1) for key in "abcd"])
    settle = queue._end

    def refuse(lease: Lease[str, object], *others: Any) -> Awaitable[object]:
        if lease.key == "a":
            raise OSError("no room")
        return settle(lease, *others)

    monkeypatch.setattr(type(queue), "_end", lambda _, *args: refuse(*args))
    with pytest.raises(OSError, match="no room"):
        async with queue.lease_batch(4) as batch:
            leases = [*batch]
            if fails:
                raise KeyError
    ended = "released" if fails else "acked"
    assert [lease.ended for lease in leases] == [None, ended, ended, ended]
