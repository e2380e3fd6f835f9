"""What a type checker makes of the public names. It runs too: what is typed here also works."""

import math
from collections.abc import Mapping
from typing import Any, assert_type

import anyio
import pytest

from leaseq import (
    Codec,
    GetOptions,
    InvalidLeaseError,
    JsonCodec,
    KeyState,
    Lease,
    LeasedKeyQueue,
    LeasedQueue,
    LeaseInfo,
    MessageId,
    Paused,
    PutOptions,
    PutOutcome,
    Statistics,
    TakeOptions,
)

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]


def filled(*keys: str) -> Queue:
    queue = Queue()
    for key in keys:
        queue.put_nowait(key, 1)
    return queue


def test_a_queue_takes_its_types_from_its_annotation() -> None:
    queue: LeasedKeyQueue[int, list[str]] = LeasedKeyQueue(
        default_lease_timeout=30.0, fast_acquire=True, name="work"
    )
    assert_type(queue.put_nowait(1, ["a"]), PutOutcome)
    queue.put_nowait("1", ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    queue.put_nowait(2, [3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def test_a_queue_is_one_of_the_contract() -> None:
    queue: LeasedQueue[str, int] = filled()
    assert_type(queue.name, str)
    assert_type(queue.closed, bool)


async def test_putting() -> None:
    queue = filled()
    assert_type(await queue.put("a", 1), PutOutcome)
    assert_type(await queue.put("a", 2, if_in_flight="buffer"), PutOutcome)
    assert_type(await queue.put_many({"b": 1, "c": 2}), list[PutOutcome])
    assert_type(
        await queue.put_many(zip("de", [1, 2], strict=True), if_in_flight="reject"),
        list[PutOutcome],
    )
    assert_type(queue.put_many_nowait([("f", 1)]), list[PutOutcome])


async def test_options_can_be_kept_in_a_dictionary() -> None:
    queue = filled("a", "b")
    put: PutOptions = {"if_in_flight": "update"}
    get: GetOptions = {"lease_timeout": None}
    take: TakeOptions = {"lease_timeout": None}
    assert_type(await queue.put("a", 1, **put), PutOutcome)
    assert_type(await queue.get(**get), tuple[str, int, Lease[str, int]])
    _, _, lease = await queue.take("b", **take)
    assert_type(lease, Lease[str, int])
    assert_type(lease.queue, LeasedQueue[str, int])


async def test_an_unknown_policy_is_a_type_error() -> None:
    with pytest.raises(ValueError, match="if_in_flight"):
        await filled().put("a", 1, if_in_flight="replace")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_keys_of_the_queue_s_making_are_strings() -> None:
    queue = filled()
    assert_type(await queue.add(1), MessageId)
    numbered = LeasedKeyQueue[int, int]()
    await numbered.add(1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


async def test_getting() -> None:
    queue = filled("a", "b", "c", "d")
    key, value, lease = await queue.get()
    assert_type(key, str)
    assert_type(value, int)
    assert_type(lease, Lease[str, int])
    assert_type(await queue.get(0), tuple[str, int, Lease[str, int]])
    assert_type(queue.get_nowait(lease_timeout=None), tuple[str, int, Lease[str, int]])
    assert_type(await queue.take("d", timeout=1.5), tuple[str, int, Lease[str, int]])


async def test_to_take_a_key_of_another_type_is_a_type_error() -> None:
    with pytest.raises(anyio.WouldBlock):
        filled("a").take_nowait(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_what_a_lease_tells() -> None:
    _, _, lease = await filled("a").get()
    assert_type(lease.queue.name, str)
    assert_type(lease.key, str)
    assert_type(lease.value, int)
    assert_type(lease.token, int)
    assert_type(lease.deadline, float)
    assert_type(lease.deliveries, int)
    assert_type(lease.cancellations, int)


async def test_pauses() -> None:
    queue = filled("a")
    assert_type(await queue.pause("ann", reason="why"), None)
    assert_type((await queue.info()).paused, Paused | None)
    assert_type((await queue.info()).paused_tenants, Mapping[str, Paused])
    assert_type(await queue.resume(), bool)


async def test_settling() -> None:
    queue = filled("a", "b", "c")
    _, _, lease = await queue.get()
    assert_type(await queue.extend(lease, None), None)
    assert_type(await queue.release(lease, requeue_front=True, counted=False), None)
    _, _, lease = await queue.get()
    assert_type(await lease.extend(None), None)
    assert_type(await lease.release(), None)
    _, _, lease = await queue.get()
    assert_type(await lease.ack(), bool)
    _, _, lease = await queue.get()
    assert_type(await queue.ack(lease), bool)
    _, _, lease = queue.get_nowait()
    queue.extend_nowait(lease, None)
    queue.release_nowait(lease)
    assert_type(queue.ack_nowait(queue.get_nowait()[2]), bool)


async def test_a_lease_of_a_queue_of_other_types_is_a_type_error() -> None:
    _, _, lease = filled("a").get_nowait()
    other = LeasedKeyQueue[int, int]()
    with pytest.raises(InvalidLeaseError):
        await other.ack(lease)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_lease_around_a_body() -> None:
    queue = filled("a", "b", "c")
    async with queue.lease() as lease:
        assert_type(lease, Lease[str, int])
    async with queue.lease(key="c", timeout=1, lease_timeout=None) as lease:
        assert_type(lease, Lease[str, int])
    _, _, lease = await queue.get()
    async with lease as entered:
        assert_type(entered, Lease[str, int])


async def test_a_body_can_return_for_no_error_is_swallowed_around_it() -> None:
    async def first_value(queue: Queue) -> int:
        async with queue.lease() as lease:
            return lease.value

    async def ack_and_return(lease: Lease[str, int]) -> int:
        async with lease:
            return lease.value

    queue = filled("a", "b")
    assert_type(await first_value(queue), int)
    assert_type(await ack_and_return(queue.get_nowait()[2]), int)


async def test_leases_one_after_another() -> None:
    async with filled("a", "b") as queue:
        assert_type(queue, Queue)
        await queue.shutdown()
        async for lease in queue:
            assert_type(lease, Lease[str, int])
            async with lease:
                assert_type(lease.value, int)
        assert_type(await queue.join(), None)


async def test_what_is_in_there() -> None:
    queue = filled("a", "b")
    await queue.get()
    assert_type(await queue.peek("a"), int | None)
    assert_type(await queue.contains("a"), bool)
    assert_type(await queue.state("a"), KeyState)
    assert_type(await queue.discard("a"), bool)
    assert_type(await queue.available_keys(), set[str])
    assert_type(await queue.delayed_keys(), set[str])
    assert_type(await queue.inflight_keys(), set[str])
    assert_type(await queue.qsize(), int)
    assert_type(await queue.inflight_size(), int)
    for each in assert_type(await queue.inflight(), list[LeaseInfo[str]]):
        assert_type(each.key, str)
        assert_type(each.token, int)
        assert_type(each.deadline, float)
        assert each.deadline == math.inf
    statistics = assert_type(await queue.statistics(), Statistics)
    assert_type(statistics.ready, int)


async def test_the_end() -> None:
    queue = filled("a")
    async with anyio.create_task_group() as tg:
        assert_type(await tg.start(queue.run), Any)
        assert_type(await queue.close(), None)
    assert_type(queue.drain_nowait(), list[tuple[str, int]])


def test_a_codec_has_the_type_of_its_values() -> None:
    whole = JsonCodec(int)
    assert_type(whole, JsonCodec[int])
    assert_type(whole.decode(whole.encode(1)), int)
    assert_type(JsonCodec(list[str]).decode(b"[]"), list[str])
    assert_type(JsonCodec(), JsonCodec[Any])
    codec: Codec[int] = whole
    codec.encode("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
