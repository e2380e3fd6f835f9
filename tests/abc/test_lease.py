"""What ``async with lease`` makes of the end of its body, where it takes a closer look."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from anyio import CancelScope, create_task_group, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line

from leaseq import InvalidLeaseError, Lease, LeasedKeyQueue, LeaseLostError
from leaseq.testing import advance

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]


@pytest.fixture
def queue() -> Queue:
    queue = Queue()
    queue.put_many_nowait({"a": 1, "b": 1})
    return queue


async def delivery(queue: Queue, key: str) -> tuple[int, int]:
    """Take a key, and tell its deliveries and its cancellations in a row."""
    _, _, lease = await queue.take(key, timeout=0)
    return lease.deliveries, lease.cancellations


def test_a_lease_shows_its_key_token_and_state(queue: Queue) -> None:
    _, _, lease = queue.get_nowait()
    assert repr(lease) == f"<Lease 'a' token={lease.token} held>"
    queue.ack_nowait(lease)
    assert repr(lease) == f"<Lease 'a' token={lease.token} acked>"


def test_a_lease_that_was_never_handed_out_has_counted_nothing(queue: Queue) -> None:
    lease = Lease[str, int](queue, "a", 1)
    assert (lease.token, lease.deliveries, lease.cancellations) == (0, 0, 0)


# A cancellation that is somebody else's


@pytest.mark.only("asyncio")
async def test_a_cancelled_task_that_a_body_awaits_is_a_failure(queue: Queue) -> None:
    async with asyncio.TaskGroup() as tg:
        other = tg.create_task(sleep_forever())
        await checkpoint()
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with queue.lease():
                await other
    assert await delivery(queue, "a") == (2, 0)


@pytest.mark.only("asyncio")
async def test_a_cancelled_task_that_a_task_of_the_body_awaits_is_a_failure(queue: Queue) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with pytest.raises(BaseExceptionGroup):
        async with queue.lease():
            raise BaseExceptionGroup("two tasks", [KeyboardInterrupt(), await error_of(other)])
    assert await delivery(queue, "a") == (2, 0)


async def error_of(future: "asyncio.Future[None]") -> BaseException:
    try:
        await future
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.only("asyncio")
async def test_a_cancelled_task_that_is_awaited_behind_a_shield_is_a_failure(queue: Queue) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with CancelScope() as scope:
        scope.cancel()
        with CancelScope(shield=True), suppress(asyncio.CancelledError):
            async with queue.lease():
                await other
    assert await delivery(queue, "a") == (2, 0)


@pytest.mark.only("asyncio")
async def test_a_cancelled_task_that_is_awaited_when_oneself_is_cancelled_is_none(
    queue: Queue,
) -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with pytest.raises(asyncio.CancelledError), CancelScope() as scope:
        async with queue.lease():
            scope.cancel()
            await other
    assert await delivery(queue, "a") == (1, 1)


# Native cancellation


async def cancelled_natively(body: Callable[[], Awaitable[object]]) -> "asyncio.Task[None]":
    """Run something in a task, and cancel it when it waits."""

    async def run() -> None:
        await body()

    task = asyncio.create_task(run())
    for _ in range(5):
        await checkpoint()
    task.cancel()
    await asyncio.wait([task])
    return task


@pytest.mark.only("asyncio")
async def test_a_natively_cancelled_body_gives_its_item_back_uncounted(queue: Queue) -> None:
    async def body() -> None:
        async with queue.lease():
            await sleep_forever()

    task = await cancelled_natively(body)
    assert task.cancelled()
    assert await delivery(queue, "a") == (1, 1)


@pytest.mark.only("asyncio")
async def test_a_body_that_swallows_a_native_cancellation_and_ends_is_acked(queue: Queue) -> None:
    async def body() -> None:
        async with queue.lease():
            with suppress(asyncio.CancelledError):
                await sleep_forever()

    await cancelled_natively(body)
    assert await queue.state("a") == "absent"


@pytest.mark.only("asyncio")
async def test_a_body_that_swallows_a_native_cancellation_and_fails_is_a_failure(
    queue: Queue,
) -> None:
    async def body() -> None:
        async with queue.lease():
            with suppress(asyncio.CancelledError):
                await sleep_forever()
            raise KeyError

    task = await cancelled_natively(body)
    assert isinstance(task.exception(), KeyError)
    assert await delivery(queue, "a") == (2, 0)


@pytest.mark.only("asyncio")
@pytest.mark.virtual_time
async def test_asyncio_timeout_around_a_body_is_a_cancellation(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10), queue.lease():
            await sleep_forever()
    assert await delivery(queue, "a") == (1, 1)


@pytest.mark.only("asyncio")
@pytest.mark.virtual_time
async def test_asyncio_timeout_inside_a_body_is_a_failure(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        async with queue.lease(), asyncio.timeout(10):
            await sleep_forever()
    assert await delivery(queue, "a") == (2, 0)


@pytest.mark.only("asyncio")
@pytest.mark.virtual_time
async def test_a_native_cancellation_wins_over_the_loss_of_the_lease(queue: Queue) -> None:
    async def body() -> None:
        async with queue.lease(lease_timeout=10):
            with CancelScope(shield=True):
                await anyio.sleep(20)
            await sleep_forever()

    async with create_task_group() as tg:
        await tg.start(queue.run)
        task = asyncio.create_task(body())
        await advance(15)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
@pytest.mark.virtual_time
async def test_a_native_cancellation_in_the_tick_of_the_loss_wins(queue: Queue) -> None:
    async def body() -> None:
        async with queue.lease(lease_timeout=10):
            await sleep_forever()

    async with create_task_group() as tg:
        await tg.start(queue.run)
        task = asyncio.create_task(body())
        await anyio.sleep_until(10)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await advance(0)
        assert await in_line(queue) == ["a", "b"]
        tg.cancel_scope.cancel()


# Timeouts


@pytest.mark.virtual_time
async def test_a_timeout_around_a_slow_item_keeps_nobody_from_their_turn(queue: Queue) -> None:
    keys: list[str] = []
    for _ in range(6):
        with anyio.move_on_after(10):
            async with queue.lease() as lease:
                keys.append(lease.key)
                await sleep_forever()
    assert keys == ["a", "a", "b", "b", "a", "b"]


@pytest.mark.virtual_time
async def test_a_timeout_inside_a_body_is_the_bodys_own_affair(queue: Queue) -> None:
    async with queue.lease() as lease:
        with anyio.move_on_after(10):
            await sleep_forever()
    assert lease.ended == "acked"


@pytest.mark.virtual_time
async def test_a_timeout_that_fails_inside_a_body_is_a_failure(queue: Queue) -> None:
    with pytest.raises(TimeoutError):
        async with queue.lease():
            with anyio.fail_after(10):
                await sleep_forever()
    assert await delivery(queue, "a") == (2, 0)


# Groups


async def test_a_cancelled_task_group_in_a_body_is_a_cancellation(queue: Queue) -> None:
    with CancelScope() as scope:
        async with queue.lease(), create_task_group() as tg:
            tg.start_soon(sleep_forever)
            scope.cancel()
    assert await delivery(queue, "a") == (1, 1)


async def test_an_error_among_cancellations_is_a_failure(queue: Queue) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise KeyError from None

    with pytest.raises(BaseExceptionGroup), CancelScope() as scope:
        async with queue.lease(), create_task_group() as tg:
            tg.start_soon(fail_when_cancelled)
            tg.start_soon(sleep_forever)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert await delivery(queue, "a") == (2, 0)


async def test_an_error_deep_in_a_group_is_a_failure(queue: Queue) -> None:
    inner = BaseExceptionGroup("inner", [KeyError(), SystemExit()])
    with pytest.raises(BaseExceptionGroup):
        async with queue.lease():
            raise BaseExceptionGroup("outer", [KeyboardInterrupt(), inner])
    assert await delivery(queue, "a") == (2, 0)


async def test_a_body_that_swallows_its_first_cancellation_is_cancelled_again(
    queue: Queue,
) -> None:
    with CancelScope() as scope:
        async with queue.lease():
            scope.cancel()
            with suppress(anyio.get_cancelled_exc_class()):
                await checkpoint()
            await sleep_forever()
    assert scope.cancelled_caught
    assert await delivery(queue, "a") == (1, 1)


# Closed queues


async def test_a_lease_whose_queue_was_closed_can_have_no_body(queue: Queue) -> None:
    _, _, lease = await queue.get()
    await queue.close()
    with pytest.raises(InvalidLeaseError, match="lost"):
        async with lease:
            raise AssertionError("entered after its end")


async def test_a_body_whose_item_was_settled_before_its_queue_was_closed_is_left_alone(
    queue: Queue,
) -> None:
    async with queue.lease() as lease:
        await lease.ack()
        await queue.close()
        await checkpoint()
    assert lease.ended == "acked"


async def test_losing_a_lease_that_has_no_body_cancels_nobody(queue: Queue) -> None:
    _, _, lease = await queue.get()
    await queue.close()
    await checkpoint()
    assert lease.ended == "lost"


@pytest.mark.virtual_time
async def test_a_group_of_cancellations_of_a_lost_lease_is_its_loss(queue: Queue) -> None:
    async with create_task_group() as timekeepers:
        await timekeepers.start(queue.run)
        with pytest.raises(LeaseLostError):
            async with queue.lease(lease_timeout=10), create_task_group() as tg:
                for _ in range(3):
                    tg.start_soon(sleep_forever)
        timekeepers.cancel_scope.cancel()


def test_a_generator_over_leases_that_the_event_loop_closes_has_not_failed() -> None:
    async def leases(queue: Queue) -> AsyncIterator[Lease[str, int]]:
        async with queue.lease() as lease:
            yield lease

    async def leave_it() -> tuple[str, int, int]:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        queue = Queue()
        queue.put_nowait("a", 1)
        async for _ in leases(queue):
            break
        _, _, lease = await queue.get()  # a task of the loop's closes the generator meanwhile
        return lease.key, lease.deliveries, lease.cancellations

    assert asyncio.run(leave_it()) == ("a", 1, 1)
