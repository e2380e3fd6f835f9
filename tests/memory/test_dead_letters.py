"""Dead letters of the queue in this process: their timekeeper, and what the log says of them."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from anyio import CancelScope, create_task_group, sleep, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line

from leaseq import (
    Backoff,
    DeadLetter,
    LeasedKeyQueue,
    PutOutcome,
    Retry,
    TimekeeperNotRunningError,
)
from leaseq.testing import advance

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Queue = LeasedKeyQueue[str, str]
Letters = LeasedKeyQueue[str, DeadLetter[str, str]]


@pytest.fixture
def letters() -> Letters:
    return LeasedKeyQueue(name="letters")


@pytest.fixture
def queue(letters: Letters) -> Queue:
    return LeasedKeyQueue(name="pages", dead_letters=letters, retry=Retry(max_deliveries=1))


@asynccontextmanager
async def running(*queues: LeasedKeyQueue[str, object]) -> AsyncGenerator[list[CancelScope]]:
    """Start the timekeepers of these queues in this order; each can be cancelled."""
    scopes: list[CancelScope] = []

    async with create_task_group() as tg:
        for queue in queues:
            scopes.append(scope := CancelScope())

            async def run(queue: Queue = queue, scope: CancelScope = scope) -> None:
                with scope:
                    await queue.run()

            tg.start_soon(run)
            await advance(0)
        yield scopes
        tg.cancel_scope.cancel()


async def time_passes(letters: LeasedKeyQueue[str, object]) -> bool:
    """Whether a lease on a letter expires."""
    _, _, lease = await letters.get(timeout=0, lease_timeout=10)
    await advance(11)
    return lease.ended == "lost"


async def kill(queue: Queue, *keys: str) -> None:
    for key in keys:
        queue.put_nowait(key, "secret")
        _, _, lease = queue.take_nowait(key)
        queue.reject_nowait(lease, "unreadable")


# The timekeeper


async def test_the_timekeeper_of_a_queue_is_that_of_its_dead_letters(
    queue: Queue, letters: Letters
) -> None:
    await kill(queue, "a")
    async with running(queue):
        assert await time_passes(letters)


async def test_without_a_timekeeper_of_the_queue_dead_letters_have_none(
    queue: Queue, letters: Letters
) -> None:
    await kill(queue, "a")
    with pytest.raises(TimekeeperNotRunningError, match="'letters'"):
        letters.get_nowait(lease_timeout=10)
    async with running(queue) as [scope]:
        scope.cancel()
        await advance(0)
        with pytest.raises(TimekeeperNotRunningError, match="'letters'"):
            letters.get_nowait(lease_timeout=10)


@pytest.mark.parametrize("own_first", [True, False])
async def test_dead_letters_can_have_a_timekeeper_of_their_own(
    queue: Queue, letters: Letters, own_first: bool
) -> None:
    await kill(queue, "a", "b")
    order = (letters, queue) if own_first else (queue, letters)
    async with running(*order):
        assert await time_passes(letters)


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("first_to_end", [0, 1])
async def test_one_of_two_timekeepers_goes_on_for_the_dead_letters(
    queue: Queue, letters: Letters, own_first: bool, first_to_end: int
) -> None:
    await kill(queue, "a", "b")
    order = (letters, queue) if own_first else (queue, letters)
    async with running(*order) as scopes:
        letters.get_nowait(lease_timeout=10)
        scopes[first_to_end].cancel()
        await advance(0)
        own_ended = own_first == (first_to_end == 0)
        assert await time_passes(letters)
        assert len(await in_line(letters)) == 2
        if not own_ended:
            with pytest.raises(TimekeeperNotRunningError):
                queue.put_nowait("a", "late", delay=10)


async def test_a_lease_on_a_letter_lasts_from_one_timekeeper_to_the_next(
    queue: Queue, letters: Letters
) -> None:
    await kill(queue, "a")
    async with running(queue, letters) as [_, own]:
        _, _, lease = letters.get_nowait(lease_timeout=10)
        await advance(5)
        own.cancel()
        await advance(4)
        assert lease.ended is None
        await advance(2)
        assert lease.ended == "lost"


@pytest.mark.parametrize("first_to_end", [0, 1])
async def test_queues_that_share_their_dead_letters_let_time_pass_for_them(
    queue: Queue, letters: Letters, first_to_end: int
) -> None:
    other: Queue = LeasedKeyQueue(name="images", dead_letters=letters)
    await kill(queue, "a")
    async with running(queue, other) as scopes:
        _, _, lease = letters.get_nowait(lease_timeout=10)
        scopes[first_to_end].cancel()
        await advance(11)
        assert lease.ended == "lost"
        assert await time_passes(letters)


async def test_a_queue_that_is_closed_leaves_shared_dead_letters_to_the_other(
    queue: Queue, letters: Letters
) -> None:
    other: Queue = LeasedKeyQueue(name="images", dead_letters=letters)
    await kill(queue, "a")
    async with running(queue, other):
        _, _, lease = letters.get_nowait(lease_timeout=10)
        await queue.close()
        await advance(11)
        assert lease.ended == "lost"


async def test_a_timekeeper_goes_on_for_dead_letters_of_dead_letters() -> None:
    last: LeasedKeyQueue[str, DeadLetter[str, object]] = LeasedKeyQueue(name="last")
    letters: LeasedKeyQueue[str, object] = LeasedKeyQueue(name="letters", dead_letters=last)
    queue: Queue = LeasedKeyQueue(name="pages", dead_letters=letters)
    await kill(queue, "a")
    _, _, lease = letters.get_nowait()
    letters.reject_nowait(lease, "undeliverable")
    async with running(queue, letters) as [of_queue, of_letters]:
        assert await time_passes(last)
        of_letters.cancel()
        await advance(0)
        assert await time_passes(last)
    async with running(queue, letters) as [of_queue, of_letters]:
        of_queue.cancel()
        await advance(0)
        assert await time_passes(last)


async def test_dead_letters_that_are_closed_end_no_timekeeper(
    queue: Queue, letters: Letters
) -> None:
    async with running(queue, letters):
        await letters.close()
        await advance(0)
        queue.put_nowait("a", "page", delay=10)
        await advance(11)
        assert await queue.available_keys() == {"a"}


# The moment of death


async def test_an_item_is_never_in_two_places(queue: Queue, letters: Letters) -> None:
    queue.put_nowait("a", "page")
    _, _, lease = queue.get_nowait()
    assert (repr(queue), repr(letters)) == (
        "<LeasedKeyQueue 'pages' open: 0 ready, 1 leased>",
        "<LeasedKeyQueue 'letters' open: 0 ready, 0 leased>",
    )
    queue.release_nowait(lease)
    assert (repr(queue), repr(letters)) == (
        "<LeasedKeyQueue 'pages' open: 0 ready, 0 leased>",
        "<LeasedKeyQueue 'letters' open: 1 ready, 0 leased>",
    )


async def test_a_letter_has_no_token_if_its_item_was_never_leased(
    queue: Queue, letters: Letters
) -> None:
    queue.put_nowait("a", "page", ttl=10)
    async with running(queue):
        await advance(11)
    _, letter, _ = letters.get_nowait()
    assert letter.token is None


@pytest.mark.parametrize("requeue_front", [True, False])
async def test_a_letter_never_has_a_token_that_no_lease_had(
    letters: Letters, requeue_front: bool
) -> None:
    queue: Queue = LeasedKeyQueue(dead_letters=letters)
    queue.put_nowait("a", "page")
    _, _, lease = queue.get_nowait()
    queue.release_nowait(lease, requeue_front=requeue_front)
    queue.put_nowait("a", "page", ttl=10)
    async with running(queue):
        await advance(11)
    _, letter, _ = letters.get_nowait()
    assert letter.token in (None, lease.token)


async def test_rejecting_without_waiting_wakes_who_waits_for_letters(
    queue: Queue, letters: Letters
) -> None:
    reasons: list[str] = []

    async def read() -> None:
        async with letters.lease() as lease:
            reasons.append(lease.value.reason)

    async with create_task_group() as tg:
        tg.start_soon(read)
        await advance(0)
        await kill(queue, "a")
    assert reasons == ["unreadable"]


# The log


async def test_a_dead_letter_is_logged_with_key_and_token_and_without_the_value(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put_nowait("page-1", "secret")
    with suppress(KeyError):
        async with queue.lease() as lease:
            raise KeyError
    [record] = caplog.records
    assert (record.name, record.levelno) == ("leaseq", logging.WARNING)
    assert record.getMessage() == (
        f"queue 'pages': 'page-1', token {lease.token}, is a dead letter ('max_deliveries')"
    )


async def test_an_item_that_is_dropped_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    queue: Queue = LeasedKeyQueue(name="pages")
    queue.put_nowait("page-1", "secret")
    _, _, lease = queue.get_nowait()
    queue.reject_nowait(lease, "unreadable")
    [record] = caplog.records
    assert (record.name, record.levelno) == ("leaseq", logging.WARNING)
    assert record.getMessage() == (
        f"queue 'pages': 'page-1', token {lease.token}, is dead ('unreadable') and dropped"
    )


@pytest.mark.virtual_time
async def test_an_item_that_is_dropped_because_its_time_was_over_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: Queue = LeasedKeyQueue(name="pages")
    with caplog.at_level(logging.DEBUG, "leaseq"):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put("page-1", "secret", ttl=1.0)
            await sleep(1.1)
            tg.cancel_scope.cancel()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("leaseq", logging.DEBUG)
    assert record.getMessage() == (
        "queue 'pages': 'page-1', not leased, is dead ('expired') and dropped"
    )


async def test_an_item_that_could_not_be_buried_is_an_error_in_the_log(
    queue: Queue, letters: Letters, caplog: pytest.LogCaptureFixture
) -> None:
    await letters.close()
    queue.put_nowait("page-1", "secret")
    _, _, lease = queue.get_nowait()
    queue.reject_nowait(lease, "unreadable")
    [record] = caplog.records
    assert (record.name, record.levelno) == ("leaseq", logging.ERROR)
    message = record.getMessage()
    assert message.startswith(
        f"queue 'pages': 'page-1', token {lease.token}, is dead ('unreadable')"
    )
    assert "closed" in message
    assert "secret" not in message


async def test_an_item_that_outlived_its_time_is_logged_without_a_token(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put_nowait("page-1", "secret", ttl=10)
    async with running(queue):
        await advance(11)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "queue 'pages': 'page-1', not leased, is a dead letter ('expired')"
    )


async def test_an_expiry_at_the_last_delivery_is_logged_as_both(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put_nowait("page-1", "secret")
    async with running(queue):
        queue.get_nowait(lease_timeout=10)
        await advance(11)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert sum(message.endswith("expired") for message in messages) == 1
    assert sum(message.endswith("('max_deliveries')") for message in messages) == 1
    assert not any("secret" in message for message in messages)


async def test_what_is_tried_again_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    queue: Queue = LeasedKeyQueue(retry=Retry(backoff=Backoff(1)))
    async with running(queue):
        queue.put_nowait("page-1", "secret")
        for _ in range(3):
            with suppress(KeyError):
                async with queue.lease():
                    await checkpoint()
                    raise KeyError
    assert caplog.records == []


class Unwilling(logging.Filter):
    """A filter that counts on what is not there, as one for the ids of requests may."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError(record.msg)


async def test_a_log_that_raises_reaches_no_task_and_keeps_none_waiting() -> None:
    logger = logging.getLogger("leaseq")
    queue = LeasedKeyQueue[str, int]()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    unwilling = Unwilling()
    async with create_task_group() as tg:

        async def join() -> None:
            await queue.join()
            tg.cancel_scope.cancel()

        tg.start_soon(join)
        tg.start_soon(queue.get)  # who is looked at before those who join
        await wait_all_tasks_blocked()
        logger.addFilter(unwilling)
        try:
            await lease.reject("no good")
        finally:
            logger.removeFilter(unwilling)
        await sleep(60)
        raise AssertionError("the task that joins still waits")
    assert (await queue.statistics()).dropped == 1


async def test_the_key_of_an_item_may_be_taken_again_after_no_time_at_all() -> None:
    queue = LeasedKeyQueue[str, int](dedupe_for=1e-20)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await advance(1.0)  # a clock past 0 has no such small differences
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        await lease.ack()
        assert await queue.put("a", 2) is PutOutcome.ADDED
        tg.cancel_scope.cancel()
