"""A broker and its handles: how a store is opened, and the names that they show."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.remote.ledger_store import LedgerBackend

from leaseq import Lease, QueueClosedError
from leaseq._core.errors import ServerUnavailableError
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.engine import RemoteLease
from leaseq._remote.protocol import OnEvent, Store
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
