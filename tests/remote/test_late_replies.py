"""Replies that come late, and what a client must know before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, sleep
from anyio.abc import TaskGroup
from tests.remote.ledger_store import LedgerBackend, LedgerStore

from leaseq import LeaseLostError, ServerError, ServerUnavailableError
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


@asynccontextmanager
async def two_brokers(
    open_here: p.OpenStore, backend: LedgerBackend
) -> AsyncIterator[tuple[RemoteBroker, RemoteBroker, TaskGroup]]:
    """Two brokers that run, the other one straight on the store."""
    here = RemoteBroker(open_here, place="here")
    there = RemoteBroker(backend.open, place="there")
    async with here, there, create_task_group() as tg:
        await tg.start(here.run)
        await tg.start(there.run)
        yield here, there, tg


async def test_a_lease_that_is_shortened_ends_in_time_though_the_answer_comes_late() -> None:
    backend = LedgerBackend()
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> SlowStore:
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    with fail_after(600):
        async with two_brokers(open_slow, backend) as (here, there, tg):
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


class Losing(LedgerStore):
    """A store to which no extension comes through, and which cannot say so."""

    async def exchange(self, batch: p.Batch) -> p.Reply:
        if any(isinstance(operation, p.Extend) for operation in batch.operations):
            raise ServerUnavailableError("lost", in_doubt=True)
        reply = await super().exchange(batch)
        doubts = [isinstance(operation, p.Abandon) for operation in batch.operations]
        answers = [is_doubt or said for is_doubt, said in zip(doubts, reply.answers, strict=True)]
        return replace(reply, answers=answers)


@pytest.mark.parametrize("what", ["refused late", "without an answer"])
async def test_a_lease_without_an_end_that_was_to_have_one_goes_to_others(what: str) -> None:
    def refuse(operation: p.Operation) -> Exception | None:
        return ServerError("OOM full", code="OOM") if isinstance(operation, p.Extend) else None

    backend = LedgerBackend(refuse=refuse)
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> LedgerStore:
        if what == "without an answer":
            return Losing(backend, process, on_event)
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    with fail_after(600):
        async with two_brokers(open_slow, backend) as (here, there, tg):
            queue = await here.queue("work", default_lease_timeout=None)
            await queue.put("a", 1)
            _, _, lease = await queue.get()
            if stores:
                stores[0].delay = 30.0

            async def shorten() -> None:
                with pytest.raises((ServerError, ServerUnavailableError)):
                    await lease.extend(10.0)

            tg.start_soon(shorten)
            other = await there.queue("work")
            await other.get(timeout=120)
            assert lease.ended == "lost"
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


@pytest.mark.only("asyncio")
@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("call", ["put", "qsize", "get", "join"])
async def test_a_task_that_is_cancelled_twice_in_one_step_does_not_go_on(
    call: str, *, runs: bool
) -> None:
    backend = LedgerBackend()
    stores: list[SlowStore] = []

    async def open_slow(process: str, on_event: p.OnEvent) -> SlowStore:
        stores.append(SlowStore(backend, process, on_event))
        return stores[0]

    with fail_after(600):
        async with RemoteBroker(open_slow, place="here") as broker, create_task_group() as tg:
            if runs:
                await tg.start(broker.run)
            queue: Any = await broker.queue("work", default_lease_timeout=None)
            if call == "join":
                await queue.put("first", 1)
            arguments = ("second", 2) if call == "put" else ()
            stores[0].delay = 1.0
            scope = anyio.CancelScope()

            async def be_cancelled() -> None:
                with scope:
                    await getattr(queue, call)(*arguments)
                await sleep(10)

            task = asyncio.create_task(be_cancelled())
            await sleep(0.5)  # the call was sent
            scope.cancel()  # is patient, but
            task.cancel()  # comes only once
            await asyncio.wait([task], timeout=60)
            assert task.cancelled()
            tg.cancel_scope.cancel()
