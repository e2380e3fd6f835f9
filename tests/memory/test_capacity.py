"""The queue in this process when it is full."""

import pytest
from anyio import CancelScope, WouldBlock, create_task_group, wait_all_tasks_blocked
from tests.contract.helpers import Waiting, in_line, until

from leaseq import DeadLetter, KeyAlreadyInFlightError, LeasedKeyQueue, PutOutcome, QueueClosedError
from leaseq._core.requests import PutRequest

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, object]


@pytest.fixture
def full() -> Queue:
    """A full queue for two."""
    queue: Queue = LeasedKeyQueue(max_size=2)
    queue.put_many_nowait({"a": 1, "b": 1})
    return queue


# Without waiting


async def test_what_has_no_room_would_block(full: Queue) -> None:
    with pytest.raises(WouldBlock, match="2 ready, 0 leased> is full: it has max_size=2"):
        full.put_nowait("c", 1)
    with pytest.raises(WouldBlock, match="is full"):
        full.put_many_nowait({"a": 2, "c": 1})
    assert await full.peek("a") == 1
    full.get_nowait()
    assert full.put_nowait("c", 1) is PutOutcome.ADDED
    with pytest.raises(WouldBlock):
        full.put_nowait("d", 1)


async def test_an_update_without_waiting_needs_no_room(full: Queue) -> None:
    assert full.put_nowait("a", 2) is PutOutcome.REPLACED
    assert full.put_many_nowait({"a": 3, "b": 3}) == [PutOutcome.REPLACED, PutOutcome.REPLACED]
    full.get_nowait()
    full.put_nowait("c", 1)
    assert full.put_nowait("a", 4) is PutOutcome.UPDATED_IN_FLIGHT


async def test_more_items_than_ever_have_room_are_refused_without_waiting(full: Queue) -> None:
    with pytest.raises(ValueError, match=r"3 new items never fit into .* max_size=2"):
        full.put_many_nowait({"c": 2, "d": 2, "e": 2})
    with pytest.raises(WouldBlock):  # there may be room for "c" alone
        full.put_many_nowait({"a": 2, "b": 2, "c": 2})


async def test_who_would_not_wait_does_not_pass_those_who_do(full: Queue) -> None:
    async with create_task_group() as tg:
        await Waiting(tg, full).put("c")
        full.get_nowait()  # its place is reserved by now
        assert await full.qsize() == 1
        with pytest.raises(WouldBlock):
            full.put_nowait("d", 1)
    assert await in_line(full) == ["b", "c"]


async def test_draining_makes_room(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("c")
        assert full.drain_nowait() == [("a", 1), ("b", 1)]
    assert await in_line(full) == ["c"]


async def test_bringing_letters_back_makes_room_where_they_were() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, object]] = LeasedKeyQueue(max_size=1)
    queue: Queue = LeasedKeyQueue(dead_letters=letters, name="pages")
    queue.put_nowait("a", 1)
    _, _, lease = queue.get_nowait()
    queue.reject_nowait(lease, "unreadable")
    async with create_task_group() as tg:
        waiting = Waiting(tg, letters)
        await waiting.put("by hand")
        await queue.redrive()
    assert waiting.got == {"by hand": "put"}


async def test_a_queue_in_a_hurry_waits_for_room_and_for_nothing_else() -> None:
    queue: Queue = LeasedKeyQueue(max_size=1, fast_acquire=True)
    with CancelScope() as scope:
        scope.cancel()
        await queue.put("a", 1)
        await queue.put("b", 1)
    assert scope.cancelled_caught
    assert await in_line(queue) == ["a"]


# A place that is of no use


async def test_a_place_for_a_key_that_is_there_by_now_is_for_the_next(full: Queue) -> None:
    async with create_task_group() as tg:
        await Waiting(tg, full).put("c")
        await Waiting(tg, full).put("c")
        await Waiting(tg, full).put("d")
        full.get_nowait()
        await until(full, ready=2)
        full.get_nowait()
        await until(full, putters=0)
    assert await in_line(full) == ["c", "d"]


async def test_a_place_of_a_producer_that_is_refused_is_for_the_next(full: Queue) -> None:
    async def put_again() -> None:
        with pytest.raises(KeyAlreadyInFlightError):
            await full.put("c", 2, if_in_flight="reject")

    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        tg.start_soon(put_again)
        await until(full, putters=1)
        await waiting.put("d")
        full.get_nowait()  # a place for it
        full._engine.put_all([("c", 1)], PutRequest())  # as a redrive does, without a place
        full.take_nowait("c")
        await until(full, putters=0)
    assert waiting.got == {"d": "put"}


async def test_who_needs_more_places_than_it_was_given_waits_on_at_the_head(full: Queue) -> None:
    async with create_task_group() as tg:
        tg.start_soon(full.put_many, [("a", 2), ("c", 1)])  # one is an update, as things are
        await until(full, putters=1)
        await Waiting(tg, full).put("d")
        _, _, lease = full.take_nowait("a")
        full.ack_nowait(lease)
        await wait_all_tasks_blocked()
        assert full.drain_nowait() == [("b", 1)]
        await until(full, putters=1, ready=2)
        assert full.drain_nowait() == [("a", 2), ("c", 1)]
    assert await in_line(full) == ["d"]


async def test_who_needs_more_places_than_it_was_given_takes_those_that_are_free(
    full: Queue,
) -> None:
    async with create_task_group() as tg:
        tg.start_soon(full.put_many, [("a", 2), ("c", 1)])
        await until(full, putters=1)
        tg.start_soon(full.put_many, [("d", 1), ("e", 1)])
        await until(full, putters=2)
        for key in ("a", "b"):
            _, _, lease = full.take_nowait(key)
            full.ack_nowait(lease)
        await until(full, putters=1, ready=2)
        assert full.drain_nowait() == [("a", 2), ("c", 1)]
    assert await in_line(full) == ["d", "e"]


async def test_places_that_were_given_away_are_lost_with_the_queue(full: Queue) -> None:
    refused: list[str] = []

    async def put() -> None:
        with pytest.raises(QueueClosedError):
            await full.put("c", 1)
        refused.append("c")

    async with create_task_group() as tg:
        tg.start_soon(put)
        await until(full, putters=1)
        full.get_nowait()
        await full.close()
    assert refused == ["c"]
    assert [key for key, _ in full.drain_nowait()] == ["a", "b"]


async def test_the_place_of_a_cancelled_producer_is_for_the_next(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        async with create_task_group() as impatient:
            await Waiting(impatient, full).put("c")
            await waiting.put("d")
            impatient.cancel_scope.cancel()
            full.get_nowait()  # the place is given to one that does not know yet
    assert waiting.got == {"d": "put"}
    assert await in_line(full) == ["b", "d"]
