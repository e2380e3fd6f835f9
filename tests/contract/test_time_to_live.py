"""``ttl=``: items that are of use for some time only."""

from __future__ import annotations

import math

import pytest
from anyio import create_task_group
from tests.contract.helpers import Engine, Queue, Start, Waiting, in_line, letters_in, until

pytestmark = [pytest.mark.anyio, pytest.mark.needs("advance")]


async def test_an_item_is_handed_out_within_its_time_to_live(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, ttl=10)
    await engine.advance(9)
    assert await in_line(pages) == ["a"]


async def test_an_item_that_was_not_handed_out_in_time_is_a_dead_letter(
    engine: Engine, pages: Queue, letters: Queue
) -> None:
    await pages.put("a", 1, ttl=10, priority=4, tenant="ann")
    await engine.advance(11)
    assert await pages.state("a") == "absent"
    [letter] = await letters_in(letters)
    assert (letter.queue, letter.key, letter.value) == ("pages", "a", 1)
    assert (letter.reason, letter.error) == ("expired", None)
    assert (letter.token, letter.deliveries) == (None, 0)
    assert (letter.tenant, letter.priority) == ("ann", 4)
    assert (await pages.statistics()).dead == 1


async def test_an_item_that_is_swept_leaves_the_others_in_line(
    engine: Engine, pages: Queue
) -> None:
    await pages.put("a", 1)
    await pages.put("b", 1, ttl=10)
    await pages.put("c", 1, ttl=20)
    await engine.advance(11)
    assert await in_line(pages) == ["a", "c"]


async def test_an_item_without_a_queue_of_dead_letters_is_dropped(
    engine: Engine, start: Start
) -> None:
    mortal = await start()
    await mortal.put("a", 1, ttl=10)
    await engine.advance(11)
    statistics = await mortal.statistics()
    assert (statistics.ready, statistics.dead, statistics.dropped) == (0, 0, 1)


async def test_an_item_that_outlived_its_time_is_handed_to_nobody(engine: Engine) -> None:
    mortal = await engine.queue()
    await mortal.put("a", 1, ttl=10)
    await mortal.put("b", 1)
    await engine.advance(11)
    assert await in_line(mortal) == ["b"]


async def test_a_take_does_not_get_an_item_that_outlived_its_time(engine: Engine) -> None:
    mortal = await engine.queue()
    await mortal.put("a", 1, ttl=10)
    await engine.advance(11)
    with pytest.raises(TimeoutError):
        await mortal.take("a", timeout=0)


async def test_a_time_to_live_ends_with_the_first_lease(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, ttl=10)
    _, _, lease = await pages.get()
    await engine.advance(11)
    await pages.release(lease)
    await engine.advance(11)
    assert await in_line(pages) == ["a"]


async def test_a_put_with_a_time_to_live_starts_it_anew(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, ttl=10)
    await pages.put("b", 1)
    await engine.advance(6)
    await pages.put("a", 2, ttl=10)
    await engine.advance(6)
    assert await in_line(pages) == ["a", "b"]


async def test_a_put_without_one_leaves_the_time_to_live(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, ttl=10)
    await engine.advance(6)
    await pages.put("a", 2)
    await engine.advance(6)
    assert await pages.state("a") == "absent"


async def test_a_time_to_live_runs_while_an_item_is_delayed(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, delay=10, ttl=20)
    await engine.advance(11)
    assert await pages.available_keys() == {"a"}
    await engine.advance(10)
    assert await pages.state("a") == "absent"


async def test_a_time_to_live_of_a_buffered_item_runs_from_its_put(
    engine: Engine, pages: Queue
) -> None:
    await pages.put("a", 1)
    _, _, lease = await pages.get()
    await pages.put("a", 2, if_in_flight="buffer", ttl=10)
    await engine.advance(6)
    await pages.ack(lease)
    await engine.advance(5)
    assert await pages.state("a") == "absent"


async def test_who_waits_for_an_item_that_perishes_waits_on(engine: Engine, pages: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, pages)
        await pages.put("a", 1, delay=10, ttl=20)
        await pages.put("a", 1, delay=30, reschedule="latest")
        await waiting.take("taker", "a")
        await engine.advance(21)
        assert await pages.state("a") == "absent"
        assert (await pages.statistics()).takers == 1
        await pages.put("a", 2)
    assert waiting.got == {"taker": "a"}


async def test_a_join_ends_when_the_last_item_perishes(engine: Engine, pages: Queue) -> None:
    await pages.put("a", 1, ttl=10)
    async with create_task_group() as tg:
        tg.start_soon(pages.join)
        await engine.advance(11)


async def test_a_shut_down_queue_is_drained_when_the_last_item_perishes(
    engine: Engine, pages: Queue
) -> None:
    await pages.put("a", 1, delay=10, ttl=20)
    await pages.put("a", 1, delay=30, reschedule="latest")
    await pages.shutdown()
    leases: list[object] = []

    async def consume() -> None:
        leases.extend([lease async for lease in pages])

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(pages, getters=1)
        await engine.advance(21)
    assert leases == []


@pytest.mark.parametrize("ttl", [0, -1, 5, 10, math.nan])
async def test_a_time_to_live_that_ends_before_an_item_is_due_is_refused(
    pages: Queue, ttl: float
) -> None:
    message = f"ttl must be more than the delay of 10 s, not {ttl}"
    with pytest.raises(ValueError, match=message):
        await pages.put("a", 1, delay=10, ttl=ttl)
    with pytest.raises(ValueError, match=message):
        await pages.put_many([("a", 1)], delay=10, ttl=ttl)
    assert await pages.qsize() == 0


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
async def test_a_time_to_live_of_no_length_is_refused(pages: Queue, ttl: float) -> None:
    with pytest.raises(ValueError, match=f"ttl must be more than .*, not {ttl}"):
        await pages.put("a", 1, ttl=ttl)
    assert await pages.qsize() == 0
