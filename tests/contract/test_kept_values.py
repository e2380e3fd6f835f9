"""Values that a queue keeps for a time beside its items: results, and what tasks share."""

from __future__ import annotations

from math import inf

import pytest
from anyio import create_task_group, move_on_after
from anyio.lowlevel import checkpoint
from tests.contract.helpers import TIMEOUT, Engine, Queue, others_run

from leaseq import InvalidLeaseError, Lease, LeaseLostError, QueueClosedError
from leaseq._core.kept import Kept

pytestmark = pytest.mark.anyio


def kept(name: str, body: bytes = b"1", ttl: float = 600.0) -> Kept:
    return Kept(name, body, ttl, b"-")


async def ack_and_keep(queue: Queue, lease: Lease[str, object], values: list[Kept]) -> None:
    ending = queue._ack_and_keep(lease, values)
    if ending is not None:
        await ending


async def is_kept(queue: Queue, name: str) -> bytes | None:
    try:
        return await queue._recall(name, 0)
    except TimeoutError:
        return None


async def test_an_ack_keeps_values_that_all_may_read_again_and_again(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await ack_and_keep(queue, lease, [kept("x", b"1"), kept("y\0ö/", b"")])
    assert lease.ended == "acked"
    for _ in range(2):
        assert await queue._recall("x", None) == b"1"
        assert await queue._recall("y\0ö/", 1.0) == b""
    assert await is_kept(queue, "z") is None
    assert await queue.state("a") == "absent"


async def test_a_rejection_keeps_values(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue._reject_and_keep(lease, "unreadable", [kept("x", b"why")])
    assert lease.ended == "rejected"
    assert await is_kept(queue, "x") == b"why"


@pytest.mark.parametrize("state", ["ready", "delayed", "leased"])
async def test_a_cancellation_keeps_values(queue: Queue, state: str) -> None:
    await queue.put("a", 1, delay=60 if state == "delayed" else 0)
    if state == "leased":
        await queue.get(lease_timeout=None)
    assert await queue._cancel_and_keep("a", "why", [kept("x", b"why")]) is True
    assert await is_kept(queue, "x") == b"why"


async def test_where_there_is_nothing_to_cancel_nothing_is_kept(queue: Queue) -> None:
    assert await queue._cancel_and_keep("a", "why", [kept("x")]) is False
    await queue.put("a", 1)
    await queue.get(lease_timeout=None)
    assert await queue.cancel("a")
    assert await queue._cancel_and_keep("a", "why", [kept("x")]) is False
    assert await is_kept(queue, "x") is None


async def test_values_are_kept_by_themselves_and_replaced(queue: Queue) -> None:
    await queue._keep([kept("x", b"1"), kept("y", b"2")])
    await queue._keep([kept("x", b"3")])
    assert [await is_kept(queue, name) for name in "xy"] == [b"3", b"2"]


async def test_a_settlement_that_is_refused_keeps_nothing(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    with pytest.raises(InvalidLeaseError):
        await ack_and_keep(queue, lease, [kept("x")])
    with pytest.raises(InvalidLeaseError):
        await queue._reject_and_keep(lease, "unreadable", [kept("x")])
    assert await is_kept(queue, "x") is None


@pytest.mark.needs("advance")
async def test_a_lease_that_was_lost_keeps_nothing(timed: Queue, engine: Engine) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await engine.advance(2 * TIMEOUT)
    with pytest.raises(LeaseLostError):
        await ack_and_keep(timed, lease, [kept("x")])
    assert await is_kept(timed, "x") is None


@pytest.mark.needs("advance")
async def test_a_value_is_kept_for_its_time(queue: Queue, engine: Engine) -> None:
    await queue._keep([kept("x", ttl=10.0), kept("y", ttl=20.0), kept("z", ttl=inf)])
    await engine.advance(15.0)
    assert [await is_kept(queue, name) for name in "xyz"] == [None, b"1", b"1"]
    await queue._keep([kept("y", b"2", ttl=20.0)])
    await engine.advance(15.0)
    assert [await is_kept(queue, name) for name in "xyz"] == [None, b"2", b"1"]
    await engine.advance(15.0)
    assert [await is_kept(queue, name) for name in "xyz"] == [None, None, b"1"]


async def test_a_value_is_no_item(queue: Queue) -> None:
    await queue._keep([kept("x")])
    assert (await queue.qsize(), await queue.available_keys()) == (0, set())
    assert (await queue.statistics()).put == 0
    await queue.shutdown()
    await queue.join()
    assert await is_kept(queue, "x") == b"1"


@pytest.mark.parametrize("how", ["ack", "reject", "keep"])
async def test_all_that_wait_for_a_value_are_told(queue: Queue, how: str) -> None:
    found: list[bytes] = []

    async def wait(name: str) -> None:
        found.append(await queue._recall(name, None))

    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        for name in ("x", "x", "y"):
            tg.start_soon(wait, name)
        await others_run()
        values = [kept("x", b"1"), kept("y", b"2"), kept("z", b"3")]
        if how == "ack":
            await ack_and_keep(queue, lease, values)
        elif how == "reject":
            await queue._reject_and_keep(lease, "unreadable", values)
        else:
            await queue._keep(values)
    assert sorted(found) == [b"1", b"1", b"2"]


@pytest.mark.needs("advance")
async def test_a_wait_for_a_value_has_an_end(queue: Queue, engine: Engine) -> None:
    with pytest.raises(TimeoutError):
        await queue._recall("x", 0)
    with pytest.raises(TimeoutError):
        await queue._recall("x", 5.0)
    await queue._keep([kept("x")])
    assert await queue._recall("x", 5.0) == b"1"


async def test_a_waiter_that_gives_up_leaves_the_others(queue: Queue) -> None:
    found: list[bytes] = []

    async def wait() -> None:
        found.append(await queue._recall("x", None))

    async with create_task_group() as tg:
        tg.start_soon(wait)
        with move_on_after(0.01):
            await queue._recall("x", None)
        await others_run()
        await queue._keep([kept("x")])
    assert found == [b"1"]


async def test_waiters_for_a_value_hear_that_the_queue_was_closed(queue: Queue) -> None:
    refused: list[Exception] = []

    async def wait() -> None:
        try:
            await queue._recall("x", None)
        except QueueClosedError as error:
            refused.append(error)

    async with create_task_group() as tg:
        tg.start_soon(wait)
        await others_run()
        await queue.close()
    assert len(refused) == 1
    for call in (queue._recall("x", None), queue._recall("x", 0), queue._keep([kept("x")])):
        with pytest.raises(QueueClosedError):
            await call


@pytest.mark.needs("handles")
async def test_a_value_is_for_all_processes(both: tuple[Queue, Queue]) -> None:
    one, other = both
    found: list[bytes] = []

    async def wait(queue: Queue) -> None:
        found.append(await queue._recall("x", None))

    async with create_task_group() as tg:
        for queue in both:
            tg.start_soon(wait, queue)
        await others_run()
        await checkpoint()
        await one._keep([kept("x")])
    assert found == [b"1", b"1"]
    assert await is_kept(other, "x") == b"1"
