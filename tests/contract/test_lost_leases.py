"""The error for a lost lease: it says why the lease was lost, and the way out, on every engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from anyio import create_task_group, fail_after, sleep_forever
from anyio.lowlevel import checkpoint
from tests.contract.helpers import TIMEOUT, Engine, Handles, Queue, each_way, settle

from leaseq import InvalidLeaseError, Lease, LeaseLostError, QueueClosedError

pytestmark = pytest.mark.anyio

Lose = Callable[[Engine, Queue], Coroutine[Any, Any, None]]


async def expire(engine: Engine, queue: Queue) -> None:
    await engine.advance(TIMEOUT + 1)


async def revoke(engine: Engine, queue: Queue) -> None:
    assert await queue.release_all(consumer="me") > 0


async def close(engine: Engine, queue: Queue) -> None:
    await queue.close()


WAYS: dict[Lose, str] = {
    expire: "it expired N ago. Take a longer lease_timeout, or extend it in time: a pool does so "
    "with heartbeat=True",
    revoke: "it was taken away, by release_all() or through its receipt, and another consumer may "
    "have the item: let what it writes be refused by its token",
    close: "its queue was closed or deleted: to let consumers finish first, call shutdown() and "
    "wait in join()",
}

each_cause = pytest.mark.parametrize("lose", WAYS)


def plain(error: BaseException) -> str:
    """The text of an error, without tokens and times, which differ."""
    text = re.sub(r"token=\d+", "token=N", str(error))
    return re.sub(r"expired (just now|[\d.]+ s ago)", "expired N ago", text)


async def leased(queue: Queue, key: str) -> Lease[str, object]:
    await queue.put(key, 1)
    _, _, lease = await queue.get(consumer="me", lease_timeout=TIMEOUT)
    return lease


@each_cause
@pytest.mark.needs("advance")
async def test_a_body_that_has_lost_its_lease_hears_why(
    engine: Engine, queue: Queue, lose: Lose
) -> None:
    lease = await leased(queue, "a")
    async with create_task_group() as tg:
        with pytest.raises(LeaseLostError) as caught:
            async with lease:
                tg.start_soon(lose, engine, queue)
                await sleep_forever()
    text = f"<Lease 'a' token=N lost> was lost while its body ran: {WAYS[lose]}"
    assert plain(caught.value) == text


@each_cause
@pytest.mark.needs("advance")
async def test_the_body_of_a_batch_hears_why_its_last_lease_was_lost(
    engine: Engine, queue: Queue, lose: Lose
) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    async with create_task_group() as tg:
        with pytest.raises(LeaseLostError) as caught:
            async with queue.lease_batch(2, consumer="me", lease_timeout=TIMEOUT):
                tg.start_soon(lose, engine, queue)
                await sleep_forever()
    text = "<LeaseBatch 0 held, 2 lost, of 2>: all remaining leases were lost while its body ran."
    assert plain(caught.value) == f"{text} Of the last, <Lease 'b' token=N lost>: {WAYS[lose]}"


@each_way
@pytest.mark.parametrize("lose", [expire, revoke])
@pytest.mark.needs("advance")
async def test_settling_a_lost_lease_says_why(
    engine: Engine, queue: Queue, lose: Lose, how: str
) -> None:
    lease = await leased(queue, "a")
    await lose(engine, queue)
    with pytest.raises(LeaseLostError) as caught:
        await settle(lease, how)
    assert plain(caught.value) == f"<Lease 'a' token=N lost> was lost: {WAYS[lose]}"


@each_cause
@pytest.mark.needs("advance")
async def test_entering_a_lost_lease_says_why(engine: Engine, queue: Queue, lose: Lose) -> None:
    lease = await leased(queue, "a")
    await lose(engine, queue)
    with pytest.raises(LeaseLostError) as caught:
        await lease.__aenter__()
    text = f"<Lease 'a' token=N lost> was lost before it was entered: {WAYS[lose]}"
    assert plain(caught.value) == text


async def test_settling_a_lease_of_a_closed_queue_says_how_to_end_in_order(queue: Queue) -> None:
    lease = await leased(queue, "a")
    await queue.close()
    with pytest.raises(
        QueueClosedError, match=re.escape(f"its leases are lost, since {WAYS[close]}")
    ):
        await lease.ack()


async def test_a_lease_that_was_settled_is_not_lost(queue: Queue) -> None:
    lease = await leased(queue, "a")
    await lease.release()
    with pytest.raises(InvalidLeaseError, match="was released before: settle a lease once"):
        await lease.ack()


async def test_a_loss_that_goes_along_with_the_claim_is_heard(queue: Queue) -> None:
    async def work() -> None:
        with pytest.raises((TimeoutError, LeaseLostError)):  # it may be lost before it is seen
            async with queue.lease(0, consumer="me"):
                await sleep_forever()

    await queue.put("a", 1)
    with fail_after(60):
        async with create_task_group() as tg:
            tg.start_soon(work)
            while not await queue.release_all(consumer="me"):
                await checkpoint()
    assert await queue.peek("a") == 1


@pytest.mark.needs("handles")
@each_way
async def test_a_lease_that_another_process_has_settled_was_taken_away(
    both: Handles, how: str
) -> None:
    here, there = both
    await here.put("a", 1)
    _, _, lease = await here.get()
    await (await there.lease_of(lease.receipt)).ack()
    with pytest.raises(InvalidLeaseError) as caught:
        await settle(lease, how)
    if isinstance(caught.value, LeaseLostError):  # an engine may know more: that it was settled
        assert plain(caught.value) == f"<Lease 'a' token=N lost> was lost: {WAYS[revoke]}"
