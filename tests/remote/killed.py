"""What must hold when a process is killed, of every engine that processes share."""

from __future__ import annotations

from pathlib import Path

from anyio import fail_after, sleep
from tests import children
from tests.valkey.processes import LEASE

from leaseq import LeaseCancelledError
from leaseq.abc import Broker

PROGRAM = Path(__file__).parents[1] / "valkey" / "processes.py"


async def check_what_a_killed_process_held_is_done(broker: Broker, url: str, backend: str) -> None:
    keys = [f"item-{number}" for number in range(100)]
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    await queue.put_many([(key, None) for key in keys])
    async with children.start(str(PROGRAM), "hold", url, "--backend", backend) as holder:
        await holder.until(lambda lines: ["holding"] in lines)
        held = dict(holder.lines[:100])
        assert held.keys() == set(keys)
        assert await queue.inflight_size() == 100
        holder.kill()
        async with children.start(str(PROGRAM), "consume", url, "--backend", backend) as consumer:
            with fail_after(LEASE + 10):
                await queue.join()
            await consumer.until(lambda lines: len(lines) == 101)
    done = dict(line for line in consumer.lines if len(line) == 2)
    assert done.keys() == held.keys()
    assert all(done[key] > held[key] for key in keys)
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.expired, statistics.leased) == (100, 100, 0)


async def check_what_is_cancelled_stays_cancelled(broker: Broker, url: str, backend: str) -> None:
    keys = [f"item-{number}" for number in range(100)]
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    await queue.put_many([(key, None) for key in keys])
    async with children.start(str(PROGRAM), "hold", url, "--backend", backend) as holder:
        await holder.until(lambda lines: ["holding"] in lines)
        assert all([await queue.cancel(key) for key in keys[:50]])
        holder.kill()
        with fail_after(LEASE + 10):
            while await queue.inflight_size():  # noqa: ASYNC110 - of another process
                await sleep(0.1)
    statistics = await queue.statistics()
    assert (statistics.cancelled, statistics.expired, statistics.ready) == (50, 50, 50)
    assert await queue.available_keys() == {*keys[50:]}


async def check_cancels_are_whole_when_their_caller_is_killed(
    broker: Broker, url: str, backend: str
) -> None:
    keys = [f"item-{number}" for number in range(100)]
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    await queue.put_many([(key, None) for key in keys])
    leases = [(await queue.take(key, lease_timeout=60))[2] for key in keys]
    async with children.start(str(PROGRAM), "cancel", url, "--backend", backend) as caller:
        await caller.until(lambda lines: len(lines) > 20)
        caller.kill()
        await caller.ended()
        done = {line[0] for line in caller.lines if line != ["ready"]}
    cancelled = set()
    for lease in leases:
        try:
            await lease.ack()
        except LeaseCancelledError:
            cancelled.add(lease.key)
    assert done <= cancelled
    assert len(cancelled) <= len(done) + 1
    statistics = await queue.statistics()
    assert (statistics.cancelled, statistics.acked) == (len(cancelled), 100 - len(cancelled))
    assert statistics.leased == statistics.ready == 0
