"""Cancellation while the server is asked: what was cancelled did not happen, or returned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.contract.helpers import in_line, until
from tests.remote.mishaps import Gate, broker_of, eventually
from tests.servers import Server
from tests.valkey.engine import Valkey

from leaseq import PutOutcome, Retry
from leaseq.testing import Operation, cancel_sweep
from leaseq.valkey import RemoteQueue

Queue = RemoteQueue[str, object]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(anyio_backend: object, shared_server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(shared_server.url)
    yield made
    await made.close()


def producer(
    engine: Valkey, put: Callable[[Queue], Awaitable[object]], *, runs: bool
) -> Callable[[], AbstractAsyncContextManager[Operation]]:
    """A producer who knows whether its item is there."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        returned = False
        queue = await engine.queue()

        async def produce() -> None:
            nonlocal returned
            await put(queue)
            returned = True

        async with create_task_group() as tg:
            if runs:
                await tg.start(queue.run)
            yield produce
            assert bool(await in_line(queue)) is returned
            tg.cancel_scope.cancel()

    return scenario


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_put_that_a_scope_cancels_did_not_happen_or_returned(
    engine: Valkey, runs: bool
) -> None:
    assert await cancel_sweep(producer(engine, lambda queue: queue.put("a", 1), runs=runs)) > 0


async def test_a_put_of_many_that_a_scope_cancels_did_not_happen_or_returned(
    engine: Valkey,
) -> None:
    def put(queue: Queue) -> Awaitable[object]:
        return queue.put_many([("a", 1), ("b", 2)])

    assert await cancel_sweep(producer(engine, put, runs=True)) > 0


async def test_a_put_for_room_that_a_scope_cancels_did_not_happen_or_returned(
    engine: Valkey,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        returned = False
        queue = await engine.queue(max_size=1)
        await queue.put("full", 1)

        async def put() -> None:
            nonlocal returned
            await queue.put("a", 1)
            returned = True

        async def make_room() -> None:
            _, _, lease = await queue.get(timeout=0)
            await queue.ack(lease)

        async with create_task_group() as tg:
            await tg.start(queue.run)
            async with create_task_group() as others:
                others.start_soon(make_room)
                yield put
            assert bool(await in_line(queue)) is returned
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario) > 0


async def test_an_ack_that_a_scope_cancels_is_done_if_it_was_asked(engine: Valkey) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        queue = await engine.queue()
        await queue.put("a", 1)
        _, _, lease = await queue.get(timeout=0)
        returned = False

        async def ack() -> None:
            nonlocal returned
            await queue.ack(lease)
            returned = True

        async with create_task_group() as tg:
            await tg.start(queue.run)
            yield ack
            statistics = await queue.statistics()
            assert (statistics.acked, statistics.leased) in ((1, 0), (0, 1))
            assert statistics.acked or not returned
            assert (lease.ended == "acked") is bool(statistics.acked)
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario) > 0


async def test_what_a_cancelled_driver_took_along_is_done_by_the_next(engine: Valkey) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        queue = await engine.queue()

        async def drive() -> None:
            await queue.put("mine", 1)

        async def others() -> None:
            async with create_task_group() as tg:
                for key in ("a", "b", "c"):
                    tg.start_soon(queue.put, key, 1)

        async with create_task_group() as tg:
            tg.start_soon(others)
            yield drive
        left = set(await in_line(queue))
        assert left - {"mine"} == {"a", "b", "c"}

    assert await cancel_sweep(scenario) > 0


@pytest.mark.only("asyncio")
async def test_a_driver_that_is_cancelled_natively_loses_nothing_that_others_ask(
    engine: Valkey,
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        queue = await engine.queue()
        returned: list[str] = []

        async def drive() -> None:
            await queue.put("mine", 1)

        async def put(key: str) -> None:
            await queue.put(key, 1)
            returned.append(key)

        with fail_after(20):
            async with create_task_group() as tg:
                for key in ("a", "b", "c"):
                    tg.start_soon(put, key)
                yield drive
            assert sorted(returned) == ["a", "b", "c"]
            left = sorted(await in_line(queue))
            assert [key for key in left if key != "mine"] == ["a", "b", "c"]

    assert await cancel_sweep(scenario, native=True) > 0


@pytest.mark.only("asyncio")
async def test_a_native_cancel_while_a_call_is_under_way_leaves_it_done_once(
    engine: Valkey,
) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    with fail_after(20):
        with Gate(broker, replies=True).closed() as gate:
            driver = asyncio.create_task(queue.put("a", 1))
            await gate.reached.wait()
            other = asyncio.create_task(queue.put("b", 1))
            await anyio.sleep(0.01)
            driver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await driver
            gate.open()
            assert await other is PutOutcome.ADDED
        assert (await queue.statistics()).put == 2
        assert await in_line(queue) == ["a", "b"]


@pytest.mark.only("asyncio")
async def test_a_native_cancel_of_a_body_that_waits_is_no_failure(engine: Valkey) -> None:
    queue = await engine.queue(retry=Retry(max_deliveries=1))
    full = await engine.queue(max_size=1)
    await queue.put("job", 1)
    await full.put("full", 1)
    cancelling: list[int] = []

    async def work() -> None:
        async with queue.lease():
            try:
                await full.put("result", 2)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                cancelling.append(task.cancelling())
                raise

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            worker = asyncio.create_task(work())
            await eventually(lambda: bool(full._engine._putters))
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
            await until(queue, leased=0)
            statistics = await queue.statistics()
            assert cancelling == [1]
            assert (statistics.ready, statistics.dropped) == (1, 0)
            tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_timeout_of_asyncio_around_a_put_leaves_no_cancellation_behind(
    engine: Valkey, runs: bool
) -> None:
    queue = await engine.queue()
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(broker_of(engine, queue).run)
            with Gate(queue).closed() as gate:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await queue.put("a", 1)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert task.cancelling() == before
                gate.open()
            assert await queue.qsize() in (0, 1)
            await queue.put("b", 1)
            tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
async def test_each_native_cancel_of_a_put_is_counted(engine: Valkey) -> None:
    queue = await engine.queue()
    counts: list[int] = []

    async def put() -> None:
        try:
            await queue.put("a", 1)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            counts.append(task.cancelling())
            raise

    with fail_after(20), Gate(queue).closed() as gate:
        producer = asyncio.create_task(put())
        await gate.reached.wait()
        producer.cancel()
        producer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await producer
        assert counts == [2]
