"""``max_size=``: producers that wait for room."""

from __future__ import annotations

import math

import pytest
from anyio import create_task_group
from tests.contract.helpers import TIMEOUT, Engine, Queue, Start, Waiting, in_line, until

from leaseq import PutOutcome, QueueClosedError, Retry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def small(start: Start) -> Queue:
    return await start(max_size=2)


@pytest.fixture
async def full(small: Queue) -> Queue:
    await small.put_many([("a", 1), ("b", 1)])
    return small


async def test_a_put_does_not_wait_while_there_is_room(small: Queue) -> None:
    await small.put("a", 1)
    await small.put("b", 1)
    assert (await small.statistics()).putters == 0


async def test_a_put_waits_for_room(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("c")
        assert await full.qsize() == 2
        await full.get()
        await until(full, putters=0)
    assert waiting.got == {"c": "put"}
    assert await in_line(full) == ["b", "c"]


async def test_an_item_of_the_queues_making_waits_for_room_too(full: Queue) -> None:
    async with create_task_group() as tg:
        tg.start_soon(full.add, 1)
        await until(full, putters=1)
        await full.get()
    assert await full.qsize() == 2


async def test_a_take_makes_room_too(full: Queue) -> None:
    async with create_task_group() as tg:
        await Waiting(tg, full).put("c")
        await full.take("b")
    assert await in_line(full) == ["a", "c"]


async def test_producers_are_served_in_the_order_in_which_they_came(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        for key in ("c", "d", "e"):
            await waiting.put(key)
        await full.get()
        await until(full, putters=2, ready=2)
        await full.get()
        await until(full, putters=1, ready=2)
        key, _, _ = await full.get()
    assert key == "c"
    assert await in_line(full) == ["d", "e"]


async def test_who_comes_later_does_not_get_the_place_of_who_waits(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("c")
        await full.get()
        tg.start_soon(full.put, "d", 1)
        await until(full, ready=2, putters=1)
        assert await full.available_keys() == {"b", "c"}
        await full.get()
    assert await full.available_keys() == {"c", "d"}


async def test_an_item_goes_to_the_getter_that_waits_for_it(small: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, small)
        await waiting.get("getter")
        await small.put("a", 1)
        await small.put("b", 1)
        await small.put("c", 1)
    assert waiting.got == {"getter": "a"}


async def test_a_producer_gives_up_when_its_time_is_over(full: Queue) -> None:
    async with create_task_group() as tg:
        await Waiting(tg, full).put("c")
        tg.cancel_scope.cancel()
    assert (await full.statistics()).putters == 0
    assert await in_line(full) == ["a", "b"]


async def test_a_cancelled_producer_leaves_its_turn_to_the_next(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        async with create_task_group() as impatient:
            await Waiting(impatient, full).put("c")
            await waiting.put("d")
            impatient.cancel_scope.cancel()
        await until(full, putters=1)
        await full.get()
    assert waiting.got == {"d": "put"}
    assert await in_line(full) == ["b", "d"]


# What never waits


async def test_an_update_never_waits(full: Queue) -> None:
    async with create_task_group() as tg:
        await Waiting(tg, full).put("c")
        assert await full.put("a", 2) is PutOutcome.REPLACED
        assert await full.put_many([("a", 3), ("b", 3)]) == [
            PutOutcome.REPLACED,
            PutOutcome.REPLACED,
        ]
        tg.cancel_scope.cancel()
    assert await full.peek("a") == 3


async def test_an_update_in_flight_never_waits(full: Queue) -> None:
    await full.get()
    await full.put("c", 1)
    assert await full.put("a", 2) is PutOutcome.UPDATED_IN_FLIGHT
    assert await full.put("a", 3, if_in_flight="buffer") is PutOutcome.BUFFERED


async def test_a_release_is_never_blocked(full: Queue) -> None:
    _, _, lease = await full.get()
    await full.put("c", 1)
    await full.release(lease)
    assert await full.qsize() == 3


async def test_what_is_given_back_is_never_blocked(full: Queue) -> None:
    _, _, lease = await full.get()
    await full.put("c", 1)
    await full._give_back(lease)
    assert await in_line(full) == ["a", "b", "c"]


async def test_a_buffered_item_is_never_blocked(full: Queue) -> None:
    _, _, lease = await full.get()
    await full.put("c", 1)
    await full.put("a", 2, if_in_flight="buffer")
    await full.ack(lease)
    assert await in_line(full) == ["b", "c", "a"]


async def test_a_queue_that_holds_too_much_lets_nobody_in(full: Queue) -> None:
    _, _, lease = await full.get()
    await full.put("c", 1)
    await full.release(lease)
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("d")
        await full.get()
        assert (await full.statistics()).putters == 1
        await full.get()
    assert waiting.got == {"d": "put"}


async def test_leased_items_take_no_room(full: Queue) -> None:
    for _ in range(2):
        await full.get()
    await full.put_many([("c", 1), ("d", 1)])
    assert (await full.statistics()).leased == 2


# Many at once


async def test_many_items_wait_until_there_is_room_for_all(full: Queue) -> None:
    async with create_task_group() as tg:
        tg.start_soon(full.put_many, [("c", 1), ("d", 1)])
        await until(full, putters=1)
        await full.get()
        assert await full.qsize() == 1
        await full.get()
    assert await in_line(full) == ["c", "d"]


async def test_only_new_keys_among_many_take_room(full: Queue) -> None:
    await full.get()
    outcomes = await full.put_many([("b", 2), ("c", 2)])
    assert outcomes == [PutOutcome.REPLACED, PutOutcome.ADDED]


async def test_one_item_does_not_pass_many_that_came_before(full: Queue) -> None:
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        tg.start_soon(full.put_many, [("c", 1), ("d", 1)])
        await until(full, putters=1)
        await waiting.put("e")
        await full.get()
        assert waiting.got == {}
        await full.get()
        assert waiting.got == {}
        await until(full, ready=2)
        await full.get()
    assert await in_line(full) == ["d", "e"]


async def test_more_items_than_the_queue_may_hold_are_refused(small: Queue) -> None:
    with pytest.raises(ValueError, match=r"3 new items never fit into .* max_size=2"):
        await small.put_many([("a", 1), ("b", 1), ("c", 1)])
    assert await small.qsize() == 0


async def test_only_new_keys_take_room(full: Queue) -> None:
    outcomes = await full.put_many([("a", 2), ("b", 2), ("a", 3)])
    assert outcomes == [PutOutcome.REPLACED] * 3
    with pytest.raises(ValueError, match=r"3 new items never fit into .* max_size=2"):
        await full.put_many([("a", 4), ("c", 4), ("d", 4), ("e", 4), ("c", 4)])
    assert await full.peek("a") == 3
    assert await full.qsize() == 2


# The end


@pytest.mark.parametrize("how", ["shutdown", "close"])
async def test_no_producer_waits_on_at_the_end(full: Queue, how: str) -> None:
    refused: list[str] = []

    async def put(key: str) -> None:
        with pytest.raises(QueueClosedError):
            await full.put(key, 1)
        refused.append(key)

    async with create_task_group() as tg:
        for number, key in enumerate("cd", 1):
            tg.start_soon(put, key)
            await until(full, putters=number)
        await (full.shutdown() if how == "shutdown" else full.close())
    assert sorted(refused) == ["c", "d"]
    assert await full.state("c") == "absent"


async def test_a_place_that_comes_with_the_end_is_no_use(full: Queue) -> None:
    async def put() -> None:
        with pytest.raises(QueueClosedError, match="accepts no more items"):
            await full.put("c", 1)

    async with create_task_group() as tg:
        tg.start_soon(put)
        await until(full, putters=1)
        await full.shutdown()
        await full.get()
    assert await full.available_keys() == {"b"}


# Misuse


@pytest.mark.parametrize("size", [0, -1, math.nan])
async def test_a_queue_that_holds_nothing_is_refused(engine: Engine, size: float) -> None:
    with pytest.raises(ValueError, match=rf"max_size must be 1 or more, .*, not {size}"):
        await engine.queue(max_size=size)


# Room that time makes, or takes


@pytest.mark.needs("advance")
async def test_delayed_items_take_room(engine: Engine, start: Start) -> None:
    limited = await start(max_size=1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, limited)
        await limited.put("a", 1, delay=10)
        await waiting.put("b")
        await engine.advance(11)
        assert waiting.got == {}
        await limited.get()
    assert waiting.got == {"b": "put"}


@pytest.mark.needs("advance")
async def test_an_item_that_waited_for_room_is_delayed_from_then_on(
    engine: Engine, start: Start
) -> None:
    limited = await start(max_size=1)
    await limited.put("a", 1)
    async with create_task_group() as tg:
        await Waiting(tg, limited).put("b", delay=10)
        await engine.advance(60)
        await limited.get()
        await until(limited, delayed=1)
        await engine.advance(9)
        assert await in_line(limited) == []
        await engine.advance(2)
    assert await in_line(limited) == ["b"]


@pytest.mark.needs("advance")
async def test_an_expiry_is_never_blocked(engine: Engine, start: Start) -> None:
    limited = await start(max_size=1, default_lease_timeout=TIMEOUT)
    await limited.put("a", 1)
    await limited.get()
    await limited.put("b", 1)
    await engine.advance(TIMEOUT + 1)
    assert await in_line(limited) == ["a", "b"]


@pytest.mark.needs("advance")
async def test_an_item_that_rests_takes_room(engine: Engine, start: Start) -> None:
    limited = await start(max_size=1, retry=Retry())
    await limited.put("a", 1)
    _, _, lease = await limited.get()
    await limited.release(lease, delay=10)
    async with create_task_group() as tg:
        waiting = Waiting(tg, limited)
        await waiting.put("b")
        await engine.advance(11)
        assert waiting.got == {}
        await limited.get()
    assert waiting.got == {"b": "put"}


@pytest.mark.needs("advance")
async def test_an_item_that_perishes_makes_room(engine: Engine, start: Start) -> None:
    limited = await start(max_size=1)
    await limited.put("a", 1, ttl=10)
    async with create_task_group() as tg:
        waiting = Waiting(tg, limited)
        await waiting.put("b")
        await engine.advance(11)
        await until(limited, putters=0)
    assert waiting.got == {"b": "put"}
    assert await in_line(limited) == ["b"]
