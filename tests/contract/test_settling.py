"""The ends of a lease: `ack`, `release`, `give_back`, `extend`, and the errors of all of them."""

from __future__ import annotations

import math

import pytest
from anyio import create_task_group
from tests.contract.helpers import Queue, Start, each_way, in_line, settle, until

from leaseq import InvalidLeaseError, LeaseAlreadyAcknowledgedError, LeaseLostError

pytestmark = pytest.mark.anyio


async def test_an_acked_item_has_left_the_queue(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    assert lease.ended == "acked"
    assert await queue.state("a") == "absent"


async def test_a_released_item_goes_to_the_back_of_the_line(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.release(lease)
    assert lease.ended == "released"
    assert await in_line(queue) == ["b", "a"]


async def test_a_released_item_can_go_to_the_front_of_the_line(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue.release(lease, requeue_front=True)
    assert await in_line(queue) == ["a", "b"]


async def test_a_release_counts_as_a_delivery(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    _, _, again = await queue.get()
    assert again.deliveries == 2


async def test_a_release_can_be_left_uncounted(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease, counted=False)
    _, _, again = await queue.get()
    assert again.deliveries == 1


async def test_what_is_given_back_returns_to_its_old_place_uncounted(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue._give_back(lease)
    _, _, again = await queue.get()
    assert (again.key, again.deliveries, again.cancellations) == ("a", 1, 1)


async def test_items_given_back_in_any_order_keep_the_one_they_had(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    leases = [(await queue.get())[2] for _ in range(3)]
    for number in (1, 0, 2):
        await queue._give_back(leases[number])
    assert await in_line(queue) == ["a", "b", "c", "d"]


async def test_what_is_given_back_twice_in_a_row_goes_to_the_back(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    for _ in range(2):
        _, _, lease = await queue.take("a")
        await queue._give_back(lease)
    assert await in_line(queue) == ["b", "a"]


async def test_a_release_in_between_is_no_giving_back_in_a_row(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await queue._give_back(lease)
    _, _, lease = await queue.get()
    await queue.release(lease, requeue_front=True)
    _, _, lease = await queue.get()
    assert lease.cancellations == 0
    await queue._give_back(lease)
    assert await in_line(queue) == ["a", "b"]


async def test_a_released_key_goes_to_the_taker_that_waits_for_it(queue: Queue) -> None:
    got: dict[str, str] = {}

    async def get() -> None:
        key, _, _ = await queue.get()
        got["getter"] = key

    async def take() -> None:
        key, _, _ = await queue.take("a")
        got["taker"] = key

    await queue.put("a", 1)
    _, _, lease = await queue.get()
    async with create_task_group() as tg:
        tg.start_soon(get)
        await until(queue, getters=1)
        tg.start_soon(take)
        await until(queue, takers=1)
        await queue.release(lease)
        await queue.put("b", 1)
    assert got == {"taker": "a", "getter": "b"}


# By the lease itself


async def test_a_lease_can_ack_itself(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.put("a", 2)
    assert await lease.ack() is True
    assert lease.ended == "acked"


async def test_a_lease_can_release_itself(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 1)])
    _, _, lease = await queue.get()
    await lease.release(requeue_front=True, counted=False)
    _, _, again = await queue.get()
    assert (again.key, again.deliveries) == ("a", 1)


async def test_a_lease_can_extend_itself(timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    before = lease.deadline
    await lease.extend(3600)
    assert lease.deadline > before


# Errors


async def test_a_second_ack_is_an_error_of_its_own(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    with pytest.raises(LeaseAlreadyAcknowledgedError, match="was acknowledged before"):
        await queue.ack(lease)


@each_way
async def test_after_an_ack_a_lease_is_at_its_end(queue: Queue, how: str) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.ack(lease)
    with pytest.raises(LeaseAlreadyAcknowledgedError, match="'a'"):
        await settle(lease, how)


@each_way
async def test_after_a_release_a_lease_is_invalid(queue: Queue, how: str) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    await queue.release(lease)
    with pytest.raises(InvalidLeaseError, match="was released before") as caught:
        await settle(lease, how)
    assert not isinstance(caught.value, LeaseAlreadyAcknowledgedError | LeaseLostError)


@each_way
async def test_an_old_lease_cannot_touch_an_item_that_another_holds(queue: Queue, how: str) -> None:
    await queue.put("a", 1)
    _, _, old = await queue.get()
    await queue.release(old)
    _, _, lease = await queue.get()
    with pytest.raises(InvalidLeaseError):
        await settle(old, how)
    assert lease.ended is None
    assert await queue.inflight_keys() == {"a"}
    await queue.ack(lease)


async def test_a_lease_of_another_queue_is_invalid(start: Start, queue: Queue) -> None:
    another = await start()
    await queue.put("a", 1)
    await another.put("a", 1)
    _, _, lease = await queue.get()
    await another.get()
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another.ack(lease)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another.release(lease)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another._give_back(lease)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another.extend(lease, None)
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another.reject(lease, "unreadable")
    with pytest.raises(InvalidLeaseError, match="belongs to another queue"):
        await another._fail(lease, KeyError())
    assert await another.inflight_keys() == {"a"}
    assert lease.ended is None


# A deadline


async def test_extending_a_lease_for_ever_takes_its_deadline_away(timed: Queue) -> None:
    await timed.put("a", 1)
    _, _, lease = await timed.get()
    await timed.extend(lease, None)
    assert lease.deadline == math.inf
