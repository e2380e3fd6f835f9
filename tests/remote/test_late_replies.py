"""Replies that come late, and what a client must know before them."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, sleep
from tests.remote.ledger_store import LedgerBackend, LedgerStore

from leaseq import LeaseLostError, ServerError
from leaseq._remote import protocol as p
from leaseq._remote.broker import RemoteBroker

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class SlowStore(LedgerStore):
    """A store whose replies take their time."""

    delay = 0.0

    async def exchange(self, batch: p.Batch) -> p.Reply:
        reply = await super().exchange(batch)
        await sleep(self.delay)
        return reply


async def test_a_lease_that_is_shortened_ends_in_time_though_the_answer_comes_late() -> None:
    backend = LedgerBackend()
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> SlowStore:
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    here = RemoteBroker(open_slow, place="here")
    there = RemoteBroker(backend.open, place="there")
    with fail_after(600):
        async with here, there, create_task_group() as tg:
            await tg.start(here.run)
            await tg.start(there.run)
            queue = await here.queue("work", default_lease_timeout=60.0)
            await queue.put("a", 1)
            _, _, lease = await queue.get()
            stores[0].delay = 30.0

            async def shorten() -> None:
                with pytest.raises(LeaseLostError):
                    await lease.extend(10.0)

            tg.start_soon(shorten)
            other = await there.queue("work")
            await other.get(timeout=20)
            assert lease.ended == "lost"
            await sleep(60)
            tg.cancel_scope.cancel()


async def test_a_lease_that_could_not_be_shortened_keeps_its_deadline() -> None:
    def refuse(operation: p.Operation) -> Exception | None:
        return ServerError("OOM full", code="OOM") if isinstance(operation, p.Extend) else None

    backend = LedgerBackend(refuse=refuse)
    async with RemoteBroker(backend.open, place="here") as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue: Any = await broker.queue("work", default_lease_timeout=60.0)
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        before = lease.deadline
        with pytest.raises(ServerError):
            await lease.extend(10.0)
        assert lease.deadline == before
        await sleep(before - anyio.current_time() - 1.0)
        await lease.ack()
        tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")  # whose own cancellation knows no shield
@pytest.mark.parametrize("delay", [0.5, 5.0, 30.0])
async def test_a_producer_that_was_cancelled_waits_for_no_room(delay: float) -> None:
    backend = LedgerBackend()
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> SlowStore:
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    with fail_after(600):
        async with RemoteBroker(open_slow, place="here") as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work", max_size=1)
            await queue.put("first", 1)
            stores[0].delay = delay
            producer = asyncio.create_task(queue.put("second", 2))
            await sleep(delay / 2)  # it was sent, and the answer is on its way
            producer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await producer
            await sleep(2 * delay)
            stores[0].delay = 0.0
            assert (await queue.statistics()).putters == 0
            _, _, lease = await queue.get()
            await lease.ack()
            await sleep(60)
            assert await queue.state("second") == "absent"
            tg.cancel_scope.cancel()


@pytest.mark.only("asyncio")
async def test_a_task_that_was_cancelled_joins_no_more() -> None:
    backend = LedgerBackend()
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> SlowStore:
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    with fail_after(600):
        async with RemoteBroker(open_slow, place="here") as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            await queue.put("first", 1)
            stores[0].delay = 5.0
            joiner = asyncio.create_task(queue.join())
            await sleep(2.0)
            joiner.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joiner
            await sleep(10)
            assert not queue._engine._joiners
            tg.cancel_scope.cancel()
