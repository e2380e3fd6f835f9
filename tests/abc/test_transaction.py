from typing import Any, Unpack

import pytest
from anyio import CancelScope, Event, create_task_group, wait_all_tasks_blocked

from leaseq import Lease, LeasedKeyQueue, LeasedQueue, PutOptions
from leaseq.abc import Transaction

pytestmark = pytest.mark.anyio


class SlowTransaction(Transaction):
    """A transaction over queues of this process that takes its time, as over a network."""

    def __init__(self) -> None:
        super().__init__()
        self.reply = Event()
        self.refused = False
        self._acks: list[Lease[Any, Any]] = []

    def put(
        self, queue: LeasedQueue[Any, Any], key: Any, value: Any, **options: Unpack[PutOptions]
    ) -> None:
        raise NotImplementedError

    def ack(self, lease: Lease[Any, Any]) -> None:
        self._check_open()
        self._pledge(lease)
        self._acks.append(lease)

    def release(self, lease: Lease[Any, Any], **options: object) -> None:
        raise NotImplementedError

    def reject(self, lease: Lease[Any, Any], reason: str) -> None:
        raise NotImplementedError

    async def _commit(self) -> None:
        await self.reply.wait()
        if self.refused:
            raise ConnectionError("gone")
        for lease in self._acks:
            await lease.ack()


@pytest.fixture
def queue() -> LeasedKeyQueue[str, int]:
    return LeasedKeyQueue()


async def a_lease(queue: LeasedKeyQueue[str, int]) -> Lease[str, int]:
    await queue.put("a", 1)
    return (await queue.get())[2]


async def commit(transaction: SlowTransaction, lease: Lease[str, int]) -> None:
    async with transaction:
        transaction.ack(lease)


async def test_a_body_that_ends_during_the_commit_leaves_its_lease_to_it(
    queue: LeasedKeyQueue[str, int],
) -> None:
    transaction = SlowTransaction()
    lease = await a_lease(queue)
    async with create_task_group() as tg:
        async with lease:
            tg.start_soon(commit, transaction, lease)
            await wait_all_tasks_blocked()
        assert lease.ended is None
        transaction.reply.set()
    assert lease.ended == "acked"
    assert lease._pledge is None


async def test_a_body_that_ended_during_a_failed_commit_goes_back(
    queue: LeasedKeyQueue[str, int],
) -> None:
    transaction = SlowTransaction()
    transaction.refused = True
    lease = await a_lease(queue)
    with pytest.raises(ExceptionGroup) as caught:
        async with create_task_group() as tg:
            async with lease:
                tg.start_soon(commit, transaction, lease)
                await wait_all_tasks_blocked()
            transaction.reply.set()
    assert caught.group_contains(ConnectionError, match="gone")
    assert lease.ended == "released"
    assert (await queue.get())[2].deliveries == 2


async def test_a_commit_that_is_cancelled_gives_back_what_has_no_body(
    queue: LeasedKeyQueue[str, int],
) -> None:
    transaction = SlowTransaction()
    lease = await a_lease(queue)
    with CancelScope() as scope:
        async with transaction:
            async with lease:
                transaction.ack(lease)
            scope.cancel()
    assert scope.cancelled_caught
    assert (await queue.get())[2].deliveries == 1
