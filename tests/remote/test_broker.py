"""A broker and its handles: how a store is opened, and the names that they show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, sleep
from tests.contract.helpers import others_run
from tests.remote.ledger_store import LedgerBackend
from tests.remote.mishaps import Gate, exchanges_go_through

from leaseq import Lease, LeaseqError, QueueClosedError
from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.engine import RemoteLease
from leaseq._remote.protocol import (
    Batch,
    Declared,
    GoneError,
    Info,
    OnEvent,
    Operation,
    Purge,
    Reply,
    Store,
    Sweep,
)
from leaseq._remote.queue import RemoteQueue
from leaseq._remote.transaction import RemoteTransaction
from leaseq.abc import Broker, LeasedQueue, Transaction

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def public_names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "contract"),
    [
        (RemoteBroker, Broker),
        (RemoteQueue, LeasedQueue),
        (RemoteTransaction, Transaction),
        (RemoteLease, Lease),
    ],
)
def test_a_handle_has_the_names_of_the_contract_and_no_others(kind: type, contract: type) -> None:
    assert public_names(kind) == public_names(contract)


# Queues that another process changes, or that this user may not use


class Refusal:
    """Refuses operations of a kind, on one queue or on all."""

    def __init__(self, kind: type, error: Exception, name: str | None = None) -> None:
        self._kind = kind
        self._error = error
        self._name = name

    def __call__(self, operation: Operation[Any]) -> Exception | None:
        is_it = isinstance(operation, self._kind) and self._name in (None, operation.queue.name)
        return self._error if is_it else None


async def two_queues(broker: RemoteBroker) -> None:
    for name in ("orders", "mails"):
        queue: RemoteQueue[str, int] = await broker.queue(name)
        await queue.put("old", 1, ttl=1.0)
    await sleep(2)


async def test_a_queue_that_this_user_may_not_see_is_named() -> None:
    error = ServerError("NOPERM no", code="NOPERM")
    backend = LedgerBackend(refuse=Refusal(Info, error, "mails"))
    async with RemoteBroker(backend.open, place="here") as broker:
        await two_queues(broker)
        with pytest.raises(ServerError, match="NOPERM no, for queue 'mails'") as caught:
            await broker.list_queues()
        assert caught.value.code == "NOPERM"


async def test_a_queue_that_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    error = ServerError("ERR no", code="ERR")
    backend = LedgerBackend(refuse=Refusal(Info, error, "mails"))
    async with RemoteBroker(backend.open, place="here") as broker:
        await two_queues(broker)
        assert [info.name for info in await broker.list_queues()] == ["orders"]
    assert "queue 'mails' is left out: ServerError('ERR no')" in caplog.text


async def test_a_queue_that_this_user_may_not_sweep_is_an_error() -> None:
    backend = LedgerBackend(refuse=Refusal(Sweep, ServerError("NOPERM no", code="NOPERM")))
    async with RemoteBroker(backend.open, place="here") as broker:
        await two_queues(broker)
        with pytest.raises(ServerError, match="NOPERM no"):
            await broker.process_expired()


async def test_a_queue_that_cannot_be_swept_does_not_concern_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ServerError("ERR no", code="ERR")
    backend = LedgerBackend(refuse=Refusal(Sweep, error, "mails"))
    async with RemoteBroker(backend.open, place="here") as broker:
        await two_queues(broker)
        assert await broker.process_expired() == 1
    assert "queue 'mails' cannot be swept: ServerError('ERR no')" in caplog.text


async def test_a_queue_that_is_deleted_while_it_is_purged_is_not_there() -> None:
    backend = LedgerBackend(refuse=Refusal(Purge, GoneError()))
    async with RemoteBroker(backend.open, place="here") as broker:
        await broker.queue("orders")
        with pytest.raises(LookupError, match="no queue 'orders'"):
            await broker.purge("orders")


async def test_a_queue_of_a_newer_version_is_left_alone_and_can_be_deleted() -> None:
    backend = LedgerBackend()
    async with RemoteBroker(backend.open, place="here") as broker:
        await broker.queue("orders")

    def way(call: Any) -> Any:
        async def unread(batch: Batch) -> Reply:
            reply: Reply = await call(batch)
            answers = [
                replace(answer, unread="colour") if isinstance(answer, Declared) else answer
                for answer in reply.answers
            ]
            return replace(reply, answers=answers)

        return unread

    async with RemoteBroker(backend.open, place="there") as broker:
        await broker.list_queues()
        with exchanges_go_through(broker, way):
            with pytest.raises(LeaseqError, match=r"options that cannot be read \(colour\)"):
                await broker.queue("orders")
            await broker.delete_queue("orders")
        assert await broker.list_queues() == []


async def test_a_queue_that_was_made_anew_with_dead_letters_is_purged_without_them() -> None:
    backend = LedgerBackend()
    here = RemoteBroker(backend.open, place="here")
    there = RemoteBroker(backend.open, place="there")
    async with here, there:
        await here.queue("orders")
        await there.delete_queue("orders")
        queue: RemoteQueue[str, int] = await there.queue("orders", dead_letters="lost")
        await queue.put("a", 1)
        await queue.put("b", 1)
        await queue.reject((await queue.get())[2], reason="bad")
        assert await here.purge("orders") == 1
        assert await here.purge("lost") == 1


# How a store is opened


class Slow:
    """Opens a store, which takes a second."""

    def __init__(self) -> None:
        self.began = self.opened = 0
        self._backend = LedgerBackend()

    async def open(self, process: str, on_event: OnEvent) -> Store:
        self.began += 1
        await anyio.sleep(1)
        self.opened += 1
        return await self._backend.open(process, on_event)


async def test_several_tasks_open_a_store_once() -> None:
    slow = Slow()
    async with RemoteBroker(slow.open, place="there") as broker:
        async with create_task_group() as tg:
            for name in ("a", "b", "c"):
                tg.start_soon(broker.queue, name)
        assert (slow.began, slow.opened) == (1, 1)


async def test_a_broker_that_is_closed_while_it_opens_gives_that_up() -> None:
    slow = Slow()
    broker = RemoteBroker(slow.open, place="there")
    refused: list[str] = []

    async def ask(name: str) -> None:
        with pytest.raises(QueueClosedError):
            await broker.queue(name)
        refused.append(name)

    with fail_after(0.5):
        async with create_task_group() as tg:
            tg.start_soon(ask, "first")
            tg.start_soon(ask, "second")
            await anyio.sleep(0.1)
            await broker.close()
    assert sorted(refused) == ["first", "second"]
    assert (slow.began, slow.opened) == (1, 0)


async def test_a_task_that_is_cancelled_while_it_opens_a_store_leaves_that_to_the_next() -> None:
    slow = Slow()
    broker = RemoteBroker(slow.open, place="there")
    async with create_task_group() as tg:
        with anyio.move_on_after(0.1):
            tg.start_soon(broker.queue, "other")
            await broker.queue("mine")
    assert slow.opened == 1
    assert [info.name for info in await broker.list_queues()] == ["other"]
    await broker.close()


async def test_a_store_that_could_not_be_opened_is_tried_again() -> None:
    backend = LedgerBackend()
    errors = [ServerUnavailableError("there is no way there", in_doubt=False)]

    async def open_store(process: str, on_event: OnEvent) -> Store:
        if errors:
            raise errors.pop()
        return await backend.open(process, on_event)

    broker = RemoteBroker(open_store, place="there")
    with pytest.raises(ServerUnavailableError, match="no way"):
        await broker.queue("work")
    queue: RemoteQueue[str, Any] = await broker.queue("work")
    await queue.put("a", 1)
    assert await queue.qsize() == 1
    await broker.close()
    assert repr(broker) == "<RemoteBroker there closed: 1 queues here>"


@pytest.mark.parametrize(
    "wait",
    [
        lambda queue: queue.join(),
        lambda queue: queue.put("another", 1),
        lambda queue: queue._recall("x", None),
    ],
    ids=["join", "put", "recall"],
)
async def test_a_handle_whose_queue_was_deleted_does_not_wait_at_the_next_one_of_its_name(
    wait: Callable[[Any], Awaitable[object]],
) -> None:
    backend = LedgerBackend()
    here = RemoteBroker(backend.open, place="here")
    there = RemoteBroker(backend.open, place="there")
    ended: list[object] = []

    async def turned_away(call: Awaitable[object]) -> None:
        with pytest.raises(QueueClosedError):
            await call
        ended.append(call)

    async with here, there, create_task_group() as tg:
        await tg.start(here.run)
        queue, bystander = await here.queue("work", max_size=1), await here.queue("bystander")
        tg.start_soon(turned_away, queue.get())  # so the store tells this process of the deletion
        await others_run()
        with Gate(here).closed() as gate:
            tg.start_soon(bystander.statistics)
            await gate.reached.wait()
            tg.start_soon(turned_away, wait(queue))  # in line behind what is held up
            await others_run()
            await there.delete_queue("work")
            await (await there.queue("work", max_size=1)).put("there", 1)
        await sleep(10.0)
        tg.cancel_scope.cancel()
    assert len(ended) == 2
