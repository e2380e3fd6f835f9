"""What the contract says of the end of one of two handles, and of time as both have it."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from ..._core.errors import LeaseLostError, QueueClosedError
from ..._core.reports import PutOutcome
from .base import TIMEOUT, Queue, Waiting, in_line, others_run, until
from .handles import Handles, SharedEngine, SharedPart, StartBoth

__all__ = ["PartingHandles", "SharingHandlesInTime"]


class PartingHandles(SharedPart):
    """`shutdown`, `join` and `close`: each handle ends by itself, and the queue lives on."""

    async def test_a_join_waits_for_what_others_hold(self, both: Handles) -> None:
        one, other = both
        happened: list[str] = []

        async def join() -> None:
            await one.join()
            happened.append("joined")

        await other.put("a", 1)
        _, _, lease = await other.get()
        async with create_task_group() as tg:
            tg.start_soon(join)
            await others_run()
            happened.append("done")
            await lease.ack()
        assert happened == ["done", "joined"]

    async def test_a_shutdown_of_the_one_leaves_the_others_puts(self, both: Handles) -> None:
        one, other = both
        await one.shutdown()
        with pytest.raises(QueueClosedError):
            await one.put("a", 1)
        assert await other.put("a", 1) is PutOutcome.ADDED
        assert await in_line(other) == ["a"]

    async def test_a_shutdown_of_the_one_leaves_the_others_consumers_waiting(
        self, both: Handles
    ) -> None:
        one, other = both
        async with create_task_group() as tg:
            waiting = Waiting(tg, other)
            await waiting.get("getter")
            await one.shutdown()
            await others_run()
            await other.put("a", 1)
        assert waiting.got == {"getter": "a"}

    async def test_who_is_shut_down_consumes_until_the_whole_queue_is_drained(
        self, both: Handles
    ) -> None:
        one, other = both
        await other.put_many([("a", 1), ("b", 1)])
        await one.shutdown()
        _, _, lease = await one.get()
        await lease.ack()
        _, _, lease = await other.get()

        async def consume() -> None:
            with pytest.raises(QueueClosedError) as caught:
                await one.get()
            assert caught.value.drained

        async with create_task_group() as tg:
            tg.start_soon(consume)
            await until(one, getters=1)
            await lease.ack()

    async def test_closing_the_one_leaves_the_queue_open(self, both: Handles) -> None:
        one, other = both
        await one.put("a", 1)
        await one.close()
        assert (one.closed, other.closed) == (True, False)
        with pytest.raises(QueueClosedError):
            await one.put("b", 1)
        await other.put("b", 1)
        assert await in_line(other) == ["a", "b"]

    async def test_closing_the_one_gives_its_leases_to_the_other(self, both: Handles) -> None:
        one, other = both
        await one.put_many([("a", 1), ("b", 1)])
        _, _, lost = await one.get()
        await one.close()
        assert lost.ended == "lost"
        _, _, lease = await other.get(timeout=0)
        assert (lease.key, lease.deliveries) == ("a", 1)

    async def test_closing_the_one_wakes_the_others_consumers_for_its_items(
        self, both: Handles
    ) -> None:
        one, other = both
        await one.put("a", 1)
        await one.get()
        async with create_task_group() as tg:
            waiting = Waiting(tg, other)
            await waiting.get("getter")
            await one.close()
        assert waiting.got == {"getter": "a"}

    async def test_closing_the_one_leaves_the_others_leases(self, both: Handles) -> None:
        one, other = both
        await one.put("a", 1)
        async with other.lease() as lease:
            await one.close()
            await checkpoint()
        assert lease.ended == "acked"

    async def test_who_waits_without_a_timekeeper_is_woken_by_the_other(
        self, engine: SharedEngine
    ) -> None:
        one, other = await engine.handles()
        async with create_task_group() as tg:
            waiting = Waiting(tg, one)
            await waiting.get("getter")
            await waiting.take("taker", "b")
            await other.put("a", 1)
            await other.put("b", 1)
        assert waiting.got == {"getter": "a", "taker": "b"}


class SharingHandlesInTime(SharedPart):
    """What becomes of items and leases of two handles in the course of time."""

    async def test_an_expired_lease_of_the_one_is_the_others(
        self, engine: SharedEngine, both: Handles
    ) -> None:
        one, other = both
        await one.put("a", 1)
        _, _, lost = await one.get(lease_timeout=TIMEOUT)
        await engine.advance(TIMEOUT + 1)
        _, _, lease = await other.get(timeout=0)
        assert (lease.key, lease.deliveries) == ("a", 2)
        with pytest.raises(LeaseLostError):
            await lost.ack()
        await lease.ack()

    async def test_an_expired_lease_of_the_one_wakes_a_getter_of_the_other(
        self, engine: SharedEngine, both: Handles
    ) -> None:
        one, other = both
        await one.put("a", 1)
        await one.get(lease_timeout=TIMEOUT)
        async with create_task_group() as tg:
            waiting = Waiting(tg, other)
            await waiting.get("getter")
            await engine.advance(TIMEOUT + 1)
            await until(other, getters=0)
        assert waiting.got == {"getter": "a"}

    async def test_what_is_left_by_one_that_is_gone_is_the_others(
        self, engine: SharedEngine
    ) -> None:
        one, other = await engine.handles()
        async with create_task_group() as gone:
            await gone.start(one.run)
            await one.put("a", 1)
            await one.get(lease_timeout=TIMEOUT)
            await one.put("b", 1, delay=TIMEOUT + 10)
            gone.cancel_scope.cancel()
        async with create_task_group() as tg:
            await tg.start(other.run)
            waiting = Waiting(tg, other)
            for name in ("first", "second"):
                await waiting.get(name)
            await engine.advance(TIMEOUT + 1)
            await until(other, getters=1)
            await engine.advance(10)
            await until(other, getters=0)
            tg.cancel_scope.cancel()
        assert waiting.got == {"first": "a", "second": "b"}

    async def test_a_lease_that_is_extended_is_not_the_others(
        self, engine: SharedEngine, both: Handles
    ) -> None:
        one, other = both
        await one.put("a", 1)
        _, _, lease = await one.get(lease_timeout=TIMEOUT)
        await engine.advance(TIMEOUT - 1)
        await lease.extend(TIMEOUT)
        await engine.advance(TIMEOUT - 1)
        assert await in_line(other) == []
        await lease.ack()

    async def test_a_time_to_live_runs_for_both(
        self, engine: SharedEngine, start_both: StartBoth, letters: Queue
    ) -> None:
        one, other = await start_both(dead_letters=letters, name="pages")
        await one.put("a", 1, ttl=10)
        await engine.advance(11)
        assert await in_line(other) == []
        assert (await letters.statistics()).ready == 1
