"""Values that are kept by the queues of a broker."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from tests.contract.helpers import others_run

from leaseq import Broker, QueueClosedError
from leaseq._core.kept import Kept

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

VALUE = Kept("x", b"1", 600.0, b"-")


async def test_each_queue_has_values_of_its_own(broker: Broker) -> None:
    one, other = await broker.queue("one"), await broker.queue("one:2")
    await one._keep([VALUE])
    with pytest.raises(TimeoutError):
        await other._recall("x", 0)
    assert await one._recall("x", 0) == b"1"


async def test_a_queue_of_the_same_name_has_none_of_those_of_a_deleted_one(broker: Broker) -> None:
    queue = await broker.queue("one")
    await queue._keep([VALUE])
    refused: list[Exception] = []

    async def wait() -> None:
        try:
            await queue._recall("y", None)
        except QueueClosedError as error:
            refused.append(error)

    async with create_task_group() as tg:
        tg.start_soon(wait)
        await others_run()
        await broker.delete_queue("one")
    assert len(refused) == 1
    queue = await broker.queue("one")
    with pytest.raises(TimeoutError):
        await queue._recall("x", 0)


async def test_a_purge_leaves_values_alone(broker: Broker) -> None:
    queue = await broker.queue("one")
    await queue._keep([VALUE])
    await queue.put("a", 1)
    await broker.purge("one")
    assert await queue._recall("x", 0) == b"1"
