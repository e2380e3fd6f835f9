"""Items that are given up: `reject`, the last delivery, and the queue of dead letters."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from anyio import create_task_group
from tests.contract.helpers import (
    TIMEOUT,
    Engine,
    Queue,
    Start,
    Waiting,
    in_line,
    letters_in,
    others_run,
)

from leaseq import DeadLetter, LeaseBatch, LeaseLostError, Priority, Reject, serve_batches

pytestmark = pytest.mark.anyio

UNBURIED = 3600.0
"""Seconds after which an item that could not be buried is certainly tried again."""


async def test_a_rejected_item_is_a_dead_letter(mortal: Queue, letters: Queue) -> None:
    before = time.time()
    await mortal.put("a", {"page": 1}, priority=Priority.HIGH, tenant="ann")
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    assert lease.ended == "rejected"
    assert await mortal.state("a") == "absent"
    [letter] = await letters_in(letters)
    assert (letter.queue, letter.key, letter.value) == ("pages", "a", {"page": 1})
    assert (letter.reason, letter.error) == ("unreadable", None)
    assert (letter.token, letter.deliveries) == (lease.token, 1)
    assert (letter.tenant, letter.priority) == ("ann", Priority.HIGH)
    assert before - 1 <= letter.died_at <= time.time() + 1


async def test_a_lease_can_reject_itself(mortal: Queue, letters: Queue) -> None:
    await mortal.put("a", 1)
    async with mortal.lease() as lease:
        await lease.reject("unreadable")
    [letter] = await letters_in(letters)
    assert (letter.key, letter.reason) == ("a", "unreadable")


async def test_an_error_at_the_last_delivery_is_in_the_letter(
    mortal: Queue, letters: Queue
) -> None:
    await mortal.put("a", 1)
    for page in (1, 2):
        with suppress(ValueError):
            async with mortal.lease() as lease:
                raise ValueError(f"page {page} is torn")
    [letter] = await letters_in(letters)
    assert (letter.reason, letter.error) == ("max_deliveries", "ValueError: page 2 is torn")
    assert (letter.token, letter.deliveries) == (lease.token, 2)


async def test_a_release_at_the_last_delivery_has_no_error(mortal: Queue, letters: Queue) -> None:
    await mortal.put("a", 1)
    for _ in range(2):
        _, _, lease = await mortal.get()
        await mortal.release(lease)
    [letter] = await letters_in(letters)
    assert (letter.reason, letter.error, letter.deliveries) == ("max_deliveries", None, 2)


async def test_a_letter_has_the_newest_value(mortal: Queue, letters: Queue) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await mortal.put("a", 2)
    await mortal.reject(lease, "unreadable")
    [letter] = await letters_in(letters)
    assert letter.value == 2


async def test_a_buffered_item_outlives_the_one_that_is_given_up(
    mortal: Queue, letters: Queue
) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await mortal.put("a", 2, if_in_flight="buffer")
    await mortal.reject(lease, "unreadable")
    [letter] = await letters_in(letters)
    assert letter.value == 1
    _, value, successor = await mortal.get(timeout=0)
    assert (value, successor.deliveries) == (2, 1)
    assert (await mortal.statistics()).superseded == 0


async def test_two_deaths_of_a_key_are_two_letters(mortal: Queue, letters: Queue) -> None:
    for value in (1, 2):
        await mortal.put("a", value)
        _, _, lease = await mortal.get()
        await mortal.reject(lease, "unreadable")
    assert [letter.value for letter in await letters_in(letters)] == [1, 2]


async def test_two_queues_can_share_their_dead_letters(
    start: Start, mortal: Queue, letters: Queue
) -> None:
    other = await start(dead_letters=letters, name="images")
    for each in (mortal, other):
        await each.put("a", 1)
        _, _, lease = await each.get()
        await each.reject(lease, "unreadable")
    found = await letters_in(letters)
    assert [(letter.queue, letter.key) for letter in found] == [("pages", "a"), ("images", "a")]


async def test_a_letter_goes_to_who_waits_for_it(mortal: Queue, letters: Queue) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    async with create_task_group() as tg:
        waiting = Waiting(tg, letters)
        await waiting.get("reader")
        await mortal.reject(lease, "unreadable")
    assert waiting.got.keys() == {"reader"}


async def test_the_dead_are_counted(mortal: Queue, letters: Queue) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    statistics = await mortal.statistics()
    assert (statistics.dead, statistics.dropped, statistics.acked) == (1, 0, 0)
    assert (await letters.statistics()).ready == 1


async def test_without_a_queue_for_them_the_dead_are_dropped(start: Start) -> None:
    mortal = await start()
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    assert await mortal.state("a") == "absent"
    statistics = await mortal.statistics()
    assert (statistics.dead, statistics.dropped) == (0, 1)


async def test_a_join_ends_with_the_last_death(mortal: Queue) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    async with create_task_group() as tg:
        tg.start_soon(mortal.join)
        await others_run()
        await mortal.reject(lease, "unreadable")


async def test_a_queue_of_dead_letters_that_is_shut_down_takes_them_still(
    mortal: Queue, letters: Queue
) -> None:
    await mortal.put_many([("a", 1), ("b", 1)])
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    await letters.shutdown()
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    assert (await letters.statistics()).ready == 2


async def test_letters_have_room_in_a_full_queue(start: Start) -> None:
    letters = await start(max_size=1, name="letters")
    mortal = await start(dead_letters=letters, name="pages")
    await mortal.put_many([("a", 1), ("b", 1)])
    for _ in range(2):
        _, _, lease = await mortal.get()
        await mortal.reject(lease, "unreadable")
    assert (await letters.statistics()).ready == 2


async def test_a_letter_can_die_itself(start: Start) -> None:
    last = await start(name="last")
    letters = await start(dead_letters=last, name="letters")
    mortal = await start(dead_letters=letters, name="pages")
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await mortal.reject(lease, "unreadable")
    _, _, lease = await letters.get(timeout=0)
    await letters.reject(lease, "undeliverable")
    [letter] = await letters_in(last)
    assert (letter.queue, letter.reason) == ("letters", "undeliverable")
    assert isinstance(letter.value, DeadLetter)
    assert letter.value.key == "a"


# Deaths by expiry


@pytest.mark.needs("advance")
async def test_an_expiry_at_the_last_delivery_is_a_dead_letter(
    engine: Engine, brief: Queue, letters: Queue
) -> None:
    await brief.put("a", 1)
    _, _, lease = await brief.get()
    await engine.advance(TIMEOUT + 1)
    [letter] = await letters_in(letters)
    assert (letter.reason, letter.error) == ("max_deliveries", None)
    assert (letter.token, letter.deliveries) == (lease.token, 1)
    statistics = await brief.statistics()
    assert (statistics.dead, statistics.expired) == (1, 1)


@pytest.mark.needs("advance")
async def test_a_body_whose_item_died_of_its_expiry_has_lost_its_lease(
    engine: Engine, brief: Queue, letters: Queue
) -> None:
    await brief.put("a", 1)
    with pytest.raises(LeaseLostError):
        async with brief.lease():
            await engine.advance(TIMEOUT + 1)
    assert len(await letters_in(letters)) == 1


@pytest.mark.needs("advance")
async def test_leases_on_letters_expire(engine: Engine, brief: Queue, letters: Queue) -> None:
    await brief.put("a", 1)
    _, _, lease = await brief.get()
    await brief.reject(lease, "unreadable")
    await letters.get(lease_timeout=10)
    await engine.advance(11)
    assert len(await letters_in(letters)) == 1


# A queue of dead letters that is closed is there no more


@pytest.mark.needs("owned")
async def test_an_item_lives_on_if_its_queue_of_dead_letters_is_closed(
    mortal: Queue, letters: Queue
) -> None:
    await mortal.put("a", 1)
    _, _, lease = await mortal.get()
    await letters.close()
    await mortal.reject(lease, "unreadable")
    statistics = await mortal.statistics()
    assert (statistics.delayed, statistics.dead, statistics.dropped) == (1, 0, 0)
    assert await mortal._look("a") == ("delayed", 1)


@pytest.mark.needs("advance", "owned")
async def test_what_could_not_be_buried_is_tried_again(
    engine: Engine, brief: Queue, letters: Queue
) -> None:
    await brief.put("a", 1)
    _, _, lease = await brief.get()
    await letters.close()
    await brief.reject(lease, "unreadable")
    assert await in_line(brief) == []
    await engine.advance(UNBURIED)
    _, value, lease = await brief.get(timeout=0)
    assert (value, lease.deliveries) == (1, 2)
    await brief.ack(lease)
    assert await brief.state("a") == "absent"


@pytest.mark.needs("advance", "owned")
async def test_what_outlived_its_time_and_could_not_be_buried_is_tried_again(
    engine: Engine, brief: Queue, letters: Queue
) -> None:
    await letters.close()
    await brief.put("a", 1, ttl=10)
    await engine.advance(11)
    assert await brief.state("a") == "delayed"
    await engine.advance(UNBURIED)
    assert await in_line(brief) == ["a"]


@pytest.mark.needs("advance", "owned")
async def test_what_expired_and_could_not_be_buried_is_tried_again(
    engine: Engine, brief: Queue, letters: Queue
) -> None:
    await letters.close()
    await brief.put("a", 1)
    await brief.get()
    await engine.advance(TIMEOUT + 1)
    assert await brief.state("a") == "delayed"
    await engine.advance(UNBURIED)
    assert await in_line(brief) == ["a"]


async def fail_in_a_batch(queue: Queue) -> None:
    with pytest.raises(KeyError):
        async with queue.lease_batch(MANY):
            raise KeyError


async def fail_in_a_pool(queue: Queue) -> None:
    async def handle(batch: LeaseBatch[str, object]) -> None:
        raise KeyError

    await queue.shutdown()
    await serve_batches(queue, handle, MANY)


async def reject_a_batch(queue: Queue) -> None:
    with pytest.raises(Reject):
        async with queue.lease_batch(MANY):
            raise Reject("no")


MANY = 30


@pytest.mark.parametrize("fail", [fail_in_a_batch, fail_in_a_pool, reject_a_batch])
async def test_a_batch_that_dies_is_one_record(
    brief: Queue, fail: Callable[[Queue], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    await brief.put_many([(f"k{number}", 1) for number in range(MANY)])
    await fail(brief)
    assert (await brief.statistics()).dead == MANY
    told = [message for message in caplog.messages if "is a dead letter" in message]
    assert len(told) == 1
    assert told[0].endswith(f", and {MANY - 1} more like it")
