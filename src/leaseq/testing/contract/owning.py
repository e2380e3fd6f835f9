"""What the contract says of queues that end with their handle, as those in one process do.

Where others have the same queue, a handle that is closed ends nothing but itself: what was in it is
there for them, and whatever cannot come from here may come from there.
"""

from __future__ import annotations

from collections import Counter

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from ..._core.errors import QueueClosedError, TimekeeperNotRunningError
from ...abc import Broker
from .base import TIMEOUT, Engine, Queue, in_line, until
from .broker_base import BrokerEngine, BrokerPart
from .burying import Mortal
from .cancelling import CancelledPuts
from .handing_over import hand_over_around, hand_over_inside

__all__ = ["Owned", "OwnedBroker", "OwnedTimed", "OwnedTimedBroker"]

UNBURIED = 3600.0
"""Seconds after which an item that could not be buried is certainly tried again."""


class Owned(CancelledPuts, Mortal):
    """What holds of a queue that nobody else can put into, or take from."""

    # After a shutdown nothing can come

    async def test_a_taker_of_an_absent_key_fails_at_a_shutdown(self, queue: Queue) -> None:
        await queue.put("b", 1)

        async def consume() -> None:
            with pytest.raises(QueueClosedError, match="'a' cannot come any more"):
                await queue.take("a")

        async with create_task_group() as tg:
            tg.start_soon(consume)
            await until(queue, takers=1)
            await queue.shutdown()

    async def test_a_taker_of_an_absent_key_fails_after_a_shutdown(self, queue: Queue) -> None:
        await queue.put("b", 1)
        await queue.shutdown()
        with pytest.raises(QueueClosedError, match="'a' cannot come any more"):
            await queue.take("a")

    async def test_a_taker_fails_when_its_key_is_done_after_a_shutdown(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1)])
        _, _, lease = await queue.get()
        await queue.shutdown()

        async def consume() -> None:
            with pytest.raises(QueueClosedError, match="'a' cannot come any more"):
                await queue.take("a")

        async with create_task_group() as tg:
            tg.start_soon(consume)
            await until(queue, takers=1)
            await queue.ack(lease)

    # A queue of dead letters that is closed is there no more

    async def test_an_item_lives_on_if_its_queue_of_dead_letters_is_closed(
        self, mortal: Queue, letters: Queue
    ) -> None:
        await mortal.put("a", 1)
        _, _, lease = await mortal.get()
        await letters.close()
        await mortal.reject(lease, "unreadable")
        statistics = await mortal.statistics()
        assert (statistics.delayed, statistics.dead, statistics.dropped) == (1, 0, 0)
        assert await mortal.peek("a") == 1

    # A consumer is woken by its own process

    async def test_waiting_for_what_falls_due_later_needs_a_timekeeper(
        self, engine: Engine
    ) -> None:
        queue = await engine.queue()
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put("a", 1, delay=10)
            tg.cancel_scope.cancel()
        with pytest.raises(TimekeeperNotRunningError, match="falls due later"):
            await queue.get()
        with pytest.raises(TimekeeperNotRunningError, match="falls due later"):
            await queue.take("a")


class OwnedTimed(Mortal):
    """What becomes of items in the course of time if their queue of dead letters is no more."""

    async def test_what_could_not_be_buried_is_tried_again(
        self, engine: Engine, brief: Queue, letters: Queue
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
        assert not await brief.contains("a")

    async def test_what_outlived_its_time_and_could_not_be_buried_is_tried_again(
        self, engine: Engine, brief: Queue, letters: Queue
    ) -> None:
        await letters.close()
        await brief.put("a", 1, ttl=10)
        await engine.advance(11)
        assert await brief.contains("a")
        await engine.advance(UNBURIED)
        assert await in_line(brief) == ["a"]

    async def test_what_expired_and_could_not_be_buried_is_tried_again(
        self, engine: Engine, brief: Queue, letters: Queue
    ) -> None:
        await letters.close()
        await brief.put("a", 1)
        await brief.get()
        await engine.advance(TIMEOUT + 1)
        assert await brief.contains("a")
        await engine.advance(UNBURIED)
        assert await in_line(brief) == ["a"]


class OwnedBroker(BrokerPart):
    """What holds of a broker whose queues nobody else can look into, or change."""

    async def test_an_item_is_in_one_queue_at_every_step(self, broker: Broker) -> None:
        source, target = [await broker.queue(name) for name in ("source", "target")]
        over = False
        places: Counter[tuple[bool, bool]] = Counter()

        async def look_on() -> None:
            while not over:
                places[await source.contains("a"), await target.contains("a")] += 1
                await checkpoint()

        await source.put("a", 1)
        async with create_task_group() as tg:
            tg.start_soon(look_on)
            await checkpoint()
            await hand_over_inside(broker, source, target)
            await hand_over_around(broker, target, source)
            await hand_over_inside(broker, source, target)
            over = True
        assert places.keys() <= {(True, False), (False, True)}


class OwnedTimedBroker(BrokerPart):
    """Queues that are closed, and that time leaves alone."""

    async def test_a_closed_queue_is_left_as_it_is(self, engine: BrokerEngine) -> None:
        async with await engine.broker() as broker:
            queue = await broker.queue("orders")
            await queue.put("a", 1, ttl=60)
            await queue.close()
            await engine.advance(61)
            assert await broker.process_expired() == 0

    async def test_a_closed_queue_is_left_alone(self, engine: BrokerEngine, broker: Broker) -> None:
        queue, letters = await broker.create_queue_pair("orders")
        await queue.put("a", 1, ttl=TIMEOUT)
        await queue.close()
        await engine.advance(TIMEOUT + 1)
        assert await letters.qsize() == 0
