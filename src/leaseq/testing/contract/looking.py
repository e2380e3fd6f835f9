"""What the contract says of looking into a queue, and of using it wrongly."""

from __future__ import annotations

import math

import pytest
from anyio import create_task_group

from ...errors import TimekeeperNotRunningError
from .base import Engine, Part, Queue, in_line

__all__ = ["Looking", "Misusing"]

timeouts = pytest.mark.parametrize("timeout", [-1, -0.001, math.nan])
lease_timeouts = pytest.mark.parametrize("timeout", [0, -1, math.nan])


class Looking(Part):
    """`peek`, `contains`, the sets of keys, the counts, `statistics` and `inflight`."""

    async def test_a_peek_shows_the_value_of_a_key_in_line(self, queue: Queue) -> None:
        await queue.put("a", 1)
        assert await queue.peek("a") == 1
        assert await in_line(queue) == ["a"]

    async def test_a_peek_at_an_absent_key_shows_nothing(self, queue: Queue) -> None:
        assert await queue.peek("a") is None

    async def test_a_peek_shows_the_value_of_a_leased_key(self, queue: Queue) -> None:
        await queue.put("a", 1)
        await queue.get()
        assert await queue.peek("a") == 1

    @pytest.mark.parametrize("if_in_flight", ["update", "buffer"])
    async def test_a_peek_shows_the_newest_value_of_a_leased_key(
        self, queue: Queue, if_in_flight: str
    ) -> None:
        await queue.put("a", 1)
        await queue.get()
        await queue.put("a", 2, if_in_flight=if_in_flight)  # type: ignore[arg-type]
        assert await queue.peek("a") == 2

    async def test_a_queue_contains_what_is_ready_or_leased(self, queue: Queue) -> None:
        assert not await queue.contains("a")
        await queue.put("a", 1)
        assert await queue.contains("a")
        _, _, lease = await queue.get()
        assert await queue.contains("a")
        await queue.ack(lease)
        assert not await queue.contains("a")

    async def test_keys_are_available_or_in_flight(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
        await queue.get()
        assert await queue.available_keys() == {"b", "c"}
        assert await queue.inflight_keys() == {"a"}

    async def test_a_set_of_keys_is_the_callers_own(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1)])
        await queue.get()
        (await queue.available_keys()).clear()
        (await queue.inflight_keys()).clear()
        assert await queue.available_keys() == {"b"}
        assert await queue.inflight_keys() == {"a"}

    async def test_sizes_are_of_what_waits_and_of_what_is_leased(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
        await queue.get()
        assert await queue.qsize() == 2
        assert await queue.inflight_size() == 1

    async def test_statistics_begin_at_zero(self, queue: Queue) -> None:
        statistics = await queue.statistics()
        assert (statistics.ready, statistics.leased, statistics.buffered) == (0, 0, 0)
        assert (statistics.put, statistics.delivered, statistics.acked) == (0, 0, 0)

    async def test_statistics_count_what_is_there(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
        await queue.get()
        await queue.put("a", 2, if_in_flight="buffer")
        statistics = await queue.statistics()
        assert (statistics.ready, statistics.leased, statistics.buffered) == (2, 1, 1)

    async def test_statistics_count_what_has_happened(self, queue: Queue) -> None:
        await queue.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
        await queue.put("d", 2)
        leases = [(await queue.get())[2] for _ in range(4)]
        await queue.put("c", 2, if_in_flight="buffer")
        await queue.ack(leases[0])
        await queue.release(leases[1])
        await queue.release(leases[2])
        await queue.give_back(leases[3])
        statistics = await queue.statistics()
        assert statistics.put == 5
        assert statistics.delivered == 3
        assert statistics.acked == 1
        assert statistics.released == 2
        assert statistics.superseded == 1
        assert statistics.cancelled == 1
        assert (statistics.expired, statistics.dropped) == (0, 0)

    async def test_an_uncounted_release_is_no_delivery(self, queue: Queue) -> None:
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        await queue.release(lease, counted=False)
        assert (await queue.statistics()).delivered == 0

    async def test_nothing_is_in_flight_in_a_new_queue(self, queue: Queue) -> None:
        assert await queue.inflight() == []

    async def test_what_is_in_flight_is_told_in_the_order_of_the_hand_outs(
        self, queue: Queue
    ) -> None:
        await queue.put_many([("a", 1), ("b", 1), ("c", 1)])
        await queue.take("c")
        await queue.take("a")
        assert [each.key for each in await queue.inflight()] == ["c", "a"]

    async def test_what_is_in_flight_is_told_with_its_lease(self, queue: Queue) -> None:
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        await queue.release(lease)
        _, _, lease = await queue.get(lease_timeout=3600)
        [one] = await queue.inflight()
        assert (one.key, one.token, one.deliveries) == ("a", lease.token, 2)
        assert one.deadline == pytest.approx(lease.deadline)


class Misusing(Part):
    """Errors that teach."""

    async def test_a_timed_lease_needs_a_timekeeper(self, engine: Engine) -> None:
        queue = await engine.queue()
        await queue.put("a", 1)
        with pytest.raises(TimekeeperNotRunningError, match=r"await tg\.start\(queue\.run\)"):
            await queue.get(lease_timeout=60)
        with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
            await queue.take("a", lease_timeout=60)
        assert await queue.available_keys() == {"a"}

    async def test_the_queues_own_timeout_needs_a_timekeeper(self, engine: Engine) -> None:
        queue = await engine.queue(default_lease_timeout=60)
        await queue.put("a", 1)
        with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
            await queue.get()
        with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
            async with queue.lease():
                raise AssertionError("entered")
        assert await queue.available_keys() == {"a"}

    async def test_a_timekeeper_is_needed_before_there_is_anything_to_lease(
        self, engine: Engine
    ) -> None:
        queue = await engine.queue(default_lease_timeout=60)
        with pytest.raises(TimekeeperNotRunningError):
            await queue.get()

    async def test_a_timekeeper_that_was_cancelled_is_missed(self, engine: Engine) -> None:
        queue = await engine.queue(default_lease_timeout=60)
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await queue.put_many([("a", 1), ("b", 1)])
            _, _, lease = await queue.get()
            tg.cancel_scope.cancel()
        with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
            await queue.get()
        with pytest.raises(TimekeeperNotRunningError, match="a lease of 30"):
            await queue.extend(lease, 30)

    async def test_a_missing_timekeeper_is_a_runtime_error(self, engine: Engine) -> None:
        queue = await engine.queue(default_lease_timeout=60)
        with pytest.raises(RuntimeError):
            await queue.get()

    @timeouts
    async def test_a_wait_of_no_length_is_refused(self, queue: Queue, timeout: float) -> None:
        await queue.put("a", 1)
        with pytest.raises(ValueError, match=f"timeout must be 0 seconds or more, not {timeout}"):
            await queue.get(timeout)
        with pytest.raises(ValueError, match=f"timeout must be 0 seconds or more, not {timeout}"):
            await queue.take("a", timeout)
        assert await queue.available_keys() == {"a"}

    @lease_timeouts
    async def test_a_lease_of_no_length_is_refused(self, queue: Queue, timeout: float) -> None:
        await queue.put("a", 1)
        message = f"lease_timeout must be more than 0 seconds, or None for ever, not {timeout}"
        with pytest.raises(ValueError, match=message):
            await queue.get(lease_timeout=timeout)
        with pytest.raises(ValueError, match=message):
            await queue.take("a", lease_timeout=timeout)
        assert await queue.available_keys() == {"a"}

    @lease_timeouts
    async def test_an_extension_of_no_length_is_refused(self, queue: Queue, timeout: float) -> None:
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        with pytest.raises(ValueError, match=f"timeout must be more than 0 .*, not {timeout}"):
            await queue.extend(lease, timeout)
        assert lease.deadline == math.inf

    @lease_timeouts
    async def test_a_queue_whose_leases_have_no_length_is_refused(
        self, engine: Engine, timeout: float
    ) -> None:
        with pytest.raises(
            ValueError, match=f"default_lease_timeout must be more than 0 .*, not {timeout}"
        ):
            await engine.queue(default_lease_timeout=timeout)

    async def test_an_unknown_policy_is_refused_with_the_choices(self, queue: Queue) -> None:
        message = "if_in_flight must be one of 'update', 'reject', 'buffer', not 'drop'"
        with pytest.raises(ValueError, match=message):
            await queue.put("a", 1, if_in_flight="drop")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            await queue.put_many([("a", 1)], if_in_flight="drop")  # type: ignore[arg-type]
        assert await queue.qsize() == 0

    async def test_a_key_that_cannot_be_hashed_is_refused(self, queue: Queue) -> None:
        key: str = ["a"]  # type: ignore[assignment]
        with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
            await queue.put(key, 1)
        with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
            await queue.put(key, 1, if_in_flight="buffer")
        with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
            await queue.put_many([("b", 1), (key, 1)])
        with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
            await queue.take(key)
        assert await queue.qsize() == 0
