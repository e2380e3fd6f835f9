"""How often the store is asked: what belongs together goes in one exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from tests.contract.helpers import QueueOptions, until
from tests.remote.engine import Ledgers
from tests.remote.mishaps import Call, broker_of, exchanges_go_through, rule_out_beats

from leaseq import Lease, Reject, serve, serve_batches
from leaseq._remote.protocol import Ack, Batch, Claim, Extend, Operation

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TIMED: QueueOptions = {"default_lease_timeout": 30.0}


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


@contextmanager
def exchanges_of(engine: Ledgers, queue: Any) -> Iterator[list[list[type[Operation[Any]]]]]:
    """Collect the types of the operations of each exchange."""
    seen: list[list[type[Operation[Any]]]] = []

    def way(call: Call) -> Call:
        async def watched(batch: Batch) -> Any:
            seen.append([type(operation) for operation in batch.operations])
            return await call(batch)

        return watched

    with exchanges_go_through(broker_of(engine, queue), way):
        yield seen


@pytest.mark.parametrize("error", [None, KeyError(), Reject("no")], ids=repr)
async def test_the_leases_of_a_batch_are_settled_in_one_exchange(
    engine: Ledgers, error: Exception | None
) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(100)])
    with exchanges_of(engine, queue) as seen, suppress(KeyError, Reject):
        async with queue.lease_batch(100):
            seen.clear()
            if error is not None:
                raise error
    assert [len(kinds) for kinds in seen] == [100]
    assert (await queue.statistics()).leased == 0


async def test_a_pool_of_batches_asks_twice_for_each(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(500)])
    await queue.shutdown()
    with exchanges_of(engine, queue) as seen:
        await serve_batches(queue, lambda batch: None, 100)
    assert len(seen) <= 12
    assert (await queue.statistics()).acked == 500


async def test_an_ack_carries_the_next_claim_of_its_worker(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(50)])
    done: list[Any] = []

    async def handle(lease: Lease[Any, Any]) -> None:
        done.append(lease.key)
        await checkpoint()

    with fail_after(60):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            with exchanges_of(engine, queue) as seen:
                await tg.start(serve, queue, handle, 1)
                await queue.join()
            tg.cancel_scope.cancel()
    assert done == [*range(50)]
    with_acks = [kinds for kinds in seen if Ack in kinds]
    assert len(with_acks) == 50
    assert all(Claim in kinds for kinds in with_acks)


async def test_a_failure_of_the_handler_keeps_its_worker_and_loses_nothing(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(20)])

    async def handle(lease: Lease[Any, Any]) -> None:
        if lease.deliveries == 1 and lease.key % 3 == 0:
            raise ValueError

    with fail_after(600):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            await tg.start(serve, queue, handle, 4)
            await queue.join()
            tg.cancel_scope.cancel()
    counts = await queue.statistics()
    assert (counts.acked, counts.released, counts.leased) == (20, 7, 0)


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_what_a_pool_has_claimed_when_it_ends_goes_back_uncounted(
    engine: Ledgers, how: str
) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(10)])
    stop = anyio.Event()
    done = 0

    async def handle(lease: Lease[Any, Any]) -> None:
        nonlocal done
        done += 1
        if done == 3 and how == "stop":
            stop.set()
        if done == 3 and how == "cancel":
            scope.cancel()

    with fail_after(60), anyio.CancelScope() as scope:
        await serve(queue, handle, 1, stop=stop)
    with fail_after(60):
        await until(queue, leased=0)
        counts = await queue.statistics()
        assert counts.ready == 10 - counts.acked
        assert counts.acked == (2 if how == "handler" else 3)
        assert counts.delivered == counts.acked


async def test_a_beat_of_many_leases_is_one_exchange(engine: Ledgers) -> None:
    queue = await engine.queue(**TIMED)
    rule_out_beats(broker_of(engine, queue))
    await queue.put_many([(number, 1) for number in range(300)])

    async def hang(lease: Lease[Any, Any]) -> None:
        await anyio.sleep_forever()

    async with create_task_group() as tg:
        await tg.start(queue.run)

        async def work() -> None:
            await serve(queue, hang, 300, heartbeat=True)

        tg.start_soon(work)
        await until(queue, leased=300)
        with exchanges_of(engine, queue) as seen:
            await anyio.sleep(35.0)
        assert (await queue.statistics()).expired == 0
        tg.cancel_scope.cancel()
    beats = [kinds for kinds in seen if Extend in kinds]
    assert len(beats) == 3
    assert [kinds.count(Extend) for kinds in beats] == [300] * 3


async def test_an_event_is_made_for_a_task_that_waits_and_for_no_other(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put_many([(number, 1) for number in range(100)])
    home = queue._engine.home
    made: list[object] = []
    bell = home.bell

    def count() -> Any:
        made.append(bell())
        return made[-1]

    home.bell = count
    async with queue.lease_batch(100):
        made.clear()
    assert len(made) <= 1
