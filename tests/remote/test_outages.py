"""Clients of a store that is away for a while, and crowds of them, on time that jumps."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from anyio import create_task_group, fail_after, sleep
from tests.remote.engine import Ledgers
from tests.remote.mishaps import Outage, connection_lost, eventually

from leaseq._core.errors import ServerUnavailableError

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

HOURS = 3600.0


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


def not_ready() -> Exception:
    return ServerUnavailableError("it is not ready", in_doubt=False)


@pytest.mark.parametrize(
    ("error", "is_done"),
    [(connection_lost, False), (connection_lost, True), (not_ready, False)],
    ids=["gone", "gone once it was done", "not ready"],
)
async def test_all_who_wait_go_on_by_themselves_after_an_outage(
    engine: Ledgers, error: Callable[[], Exception], is_done: bool
) -> None:
    done: list[str] = []
    broker = await engine.broker()
    with fail_after(60):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work", default_lease_timeout=60)
            small = await broker.queue("small", max_size=1)
            await queue.put("held", 1)
            _, _, lease = await queue.get()
            await small.put("a", 1)

            async def noted(name: str, operation: Awaitable[object]) -> None:
                await operation
                done.append(name)

            async def take() -> None:
                key, _, taken = await queue.take("wanted")
                assert key == "wanted"
                await taken.ack()

            async def put() -> None:
                await queue.put("any", 1)
                await queue.put("wanted", 1)

            async with create_task_group() as users:
                users.start_soon(noted, "get", queue.get())
                users.start_soon(noted, "take", take())
                users.start_soon(noted, "put", small.put("b", 1))
                users.start_soon(noted, "join", small.join())
                await eventually(
                    lambda: len(small._engine._putters) == 1 and queue._engine._waiters.total == 2
                )
                with Outage(broker, error, is_done=is_done).begun() as outage:
                    users.start_soon(noted, "ack", lease.ack())
                    users.start_soon(noted, "puts", put())
                    await outage.noticed(5)
                    assert not done
                    outage.end()
                    for key in ("a", "b"):
                        _, _, small_lease = await small.take(key)
                        await small_lease.ack()
            assert sorted(done) == ["ack", "get", "join", "put", "puts", "take"]
            statistics = await queue.statistics()
            assert (statistics.put, statistics.delivered, statistics.acked) == (3, 3, 2)
            tg.cancel_scope.cancel()


async def test_hundreds_of_consumers_in_a_process_share_what_there_is(engine: Ledgers) -> None:
    done: Counter[int] = Counter()
    broker = await engine.broker()
    with fail_after(HOURS):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work", default_lease_timeout=60.0)

            async def consume() -> None:
                async for lease in queue:
                    async with lease:
                        await sleep(0.05)
                    done[lease.key] += 1

            for _ in range(500):
                tg.start_soon(consume)
            for first in (0, 500):
                await queue.put_many(dict.fromkeys(range(first, first + 500), 1))
            await queue.join()
            await eventually(lambda: done.total() == 1000)
            statistics = await queue.statistics()
            assert (statistics.delivered, statistics.expired) == (1000, 0)
            tg.cancel_scope.cancel()
    assert set(done.values()) == {1}
