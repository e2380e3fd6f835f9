"""`redrive`: dead letters that are brought back."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, Start, Waiting, in_line, letters_in, others_run

from leaseq import Priority, QueueClosedError, RedriveResult, Retry

pytestmark = pytest.mark.anyio


async def reject(mortal: Queue, *keys: str) -> None:
    """Put items and make them dead letters, one after the other."""
    for key in keys:
        await mortal.put(key, key.upper())
        _, _, lease = await mortal.take(key)
        await mortal.reject(lease, "unreadable")


async def test_all_letters_come_back_in_their_order(pages: Queue, letters: Queue) -> None:
    await reject(pages, "b", "a", "c")
    assert await pages.redrive() == RedriveResult(keys=("b", "a", "c"), conflicts=())
    assert await in_line(pages) == ["b", "a", "c"]
    assert await letters_in(letters) == []


async def test_there_may_be_nothing_to_bring_back(pages: Queue) -> None:
    assert await pages.redrive() == RedriveResult(keys=(), conflicts=())


async def test_one_letter_can_be_brought_back(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a", "b", "c")
    assert (await pages.redrive(["b"])).keys == ("b",)
    assert await in_line(pages) == ["b"]
    assert [letter.key for letter in await letters_in(letters)] == ["a", "c"]


async def test_some_letters_can_be_brought_back(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a", "b", "c")
    assert (await pages.redrive({"c", "a", "z"})).keys == ("a", "c")
    assert [letter.key for letter in await letters_in(letters)] == ["b"]


async def test_so_many_letters_can_be_brought_back(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a", "b", "c")
    assert (await pages.redrive(limit=2)).keys == ("a", "b")
    assert [letter.key for letter in await letters_in(letters)] == ["c"]


async def test_so_many_of_some_letters_can_be_brought_back(pages: Queue) -> None:
    await reject(pages, "a", "b", "c")
    assert (await pages.redrive(["b", "c"], limit=1)).keys == ("b",)


async def test_an_item_starts_anew(start: Start, letters: Queue) -> None:
    mortal = await start(dead_letters=letters, retry=Retry(max_deliveries=1), name="pages")
    await mortal.put("a", 1, tenant="ann", priority=Priority.HIGH)
    _, _, first = await mortal.get()
    await mortal.release(first)
    await mortal.redrive()
    _, value, lease = await mortal.get(timeout=0)
    assert (value, lease.deliveries) == (1, 1)
    assert (lease.tenant, lease.priority) == ("ann", Priority.HIGH)
    assert lease.token > first.token


async def test_a_letter_stays_if_another_item_has_its_key(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a", "b", "c")
    await pages.put("a", "new")
    await pages.put("b", "new")
    await pages.take("b")
    assert await pages.redrive() == RedriveResult(keys=("c",), conflicts=("a", "b"))
    assert await pages.peek("a") == "new"
    assert [letter.key for letter in await letters_in(letters)] == ["a", "b"]


async def test_conflicts_do_not_count_for_the_limit(pages: Queue) -> None:
    await reject(pages, "a", "b")
    await pages.put("a", "new")
    assert await pages.redrive(limit=1) == RedriveResult(keys=("b",), conflicts=("a",))


async def test_of_two_letters_of_a_key_the_older_one_comes_back(
    pages: Queue, letters: Queue
) -> None:
    await reject(pages, "a", "a")
    assert await pages.redrive() == RedriveResult(keys=("a",), conflicts=("a",))
    assert (await letters.statistics()).ready == 1


async def test_a_queue_brings_back_letters_of_its_own_only(
    start: Start, pages: Queue, letters: Queue
) -> None:
    other = await start(dead_letters=letters, name="images")
    await reject(pages, "a")
    await reject(other, "a", "b")
    assert (await other.redrive()).keys == ("a", "b")
    assert [letter.queue for letter in await letters_in(letters)] == ["pages"]


async def test_a_letter_in_somebodys_hands_is_left_alone(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a", "b")
    _, _, lease = await letters.get()
    assert await pages.redrive() == RedriveResult(keys=("b",), conflicts=())
    await letters.ack(lease)
    assert lease.ended == "acked"


async def test_what_comes_back_goes_to_those_who_wait(pages: Queue) -> None:
    await reject(pages, "a", "b")
    async with create_task_group() as tg:
        waiting = Waiting(tg, pages)
        await waiting.get("getter")
        await waiting.take("taker", "a")
        await pages.redrive()
    assert waiting.got == {"taker": "a", "getter": "b"}


async def test_what_comes_back_has_room_in_a_full_queue(start: Start, letters: Queue) -> None:
    mortal = await start(dead_letters=letters, max_size=1, name="pages")
    await reject(mortal, "a", "b")
    await mortal.put("c", 1)
    assert (await mortal.redrive()).keys == ("a", "b")
    assert await in_line(mortal) == ["c", "a", "b"]


async def test_a_join_of_the_letters_ends_when_all_are_back(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a")
    async with create_task_group() as tg:
        tg.start_soon(letters.join)
        await others_run()
        await pages.redrive()


# Misuse


async def test_a_queue_without_dead_letters_has_none_to_bring_back(start: Start) -> None:
    mortal = await start()
    with pytest.raises(ValueError, match="has no queue of dead letters"):
        await mortal.redrive()


async def test_a_limit_of_none_is_refused(pages: Queue) -> None:
    with pytest.raises(ValueError, match="limit must be 1 or more, or None for all, not 0"):
        await pages.redrive(limit=0)


async def test_nothing_is_brought_back_after_a_shutdown(pages: Queue, letters: Queue) -> None:
    await reject(pages, "a")
    await pages.shutdown()
    with pytest.raises(QueueClosedError, match="accepts no more items"):
        await pages.redrive()
    await pages.close()
    with pytest.raises(QueueClosedError):
        await pages.redrive()
    assert (await letters.statistics()).ready == 1
