"""Keys, names, values and calls have documented limits, the same on every engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import Engine, until

from leaseq import LeasedQueue, PutOutcome, Reject, Tenant
from leaseq._core.limits import MOST_KEY, MOST_KEY_BITS, MOST_NAME, MOST_REASON

pytestmark = pytest.mark.anyio

Queue = LeasedQueue[Any, Any]
Use = Callable[[Queue, Any], Awaitable[object]]

LARGEST = (1 << MOST_KEY_BITS) - 1
FITTING: list[Any] = [
    *("k" * MOST_KEY, "é" * (MOST_KEY // 2), b"\xff" * MOST_KEY, LARGEST, -LARGEST)
]
TOO_LONG: list[Any] = [
    *("k" * (MOST_KEY + 1), "é" * (MOST_KEY // 2 + 1), b"k" * 70_000, "k" * 70_000),
    *(1 << MOST_KEY_BITS, -(1 << MOST_KEY_BITS), 10**2000, 10**5000),
]
REFUSED = r"a key must be (1,024 bytes|3,322 bits) at most"

KEYS: dict[str, Use] = {
    "put": lambda queue, key: queue.put(key, 1),
    "put with a tenant": lambda queue, key: queue.put(key, 1, tenant="x"),
    "put_many": lambda queue, key: queue.put_many([("a", 1), (key, 1)]),
    "take": lambda queue, key: queue.take(key, timeout=0),
    "discard": lambda queue, key: queue.discard(key),
    "peek": lambda queue, key: queue.peek(key),
    "state": lambda queue, key: queue.state(key),
    "contains": lambda queue, key: queue.contains(key),
}
NAMES: dict[str, Use] = {
    "put": lambda queue, name: queue.put("a", 1, tenant=name),
    "put_many": lambda queue, name: queue.put_many([("a", 1)], tenant=name),
    "get from": lambda queue, name: queue.get(timeout=0, tenants=[name]),
    "steal from": lambda queue, name: queue.get(timeout=0, tenants=["x"], steal_from=[name]),
    "get by": lambda queue, name: queue.get(timeout=0, consumer=name),
    "take by": lambda queue, name: queue.take("a", timeout=0, consumer=name),
    "inflight": lambda queue, name: queue.inflight(consumer=name),
    "release_all": lambda queue, name: queue.release_all(consumer=name),
    "pause": lambda queue, name: queue.pause(name),
    "resume": lambda queue, name: queue.resume(name),
    "set_tenant": lambda queue, name: queue.set_tenant(name, Tenant()),
}


@pytest.mark.parametrize("call", KEYS)
async def test_a_key_that_is_too_long_is_refused(engine: Engine, call: str) -> None:
    queue = await engine.queue()
    for key in TOO_LONG:
        with pytest.raises(ValueError, match=REFUSED):
            await KEYS[call](queue, key)
    assert await queue.qsize() == 0


@pytest.mark.parametrize("call", NAMES)
async def test_a_name_that_is_too_long_is_refused(engine: Engine, call: str) -> None:
    queue = await engine.queue()
    for name in ("n" * (MOST_NAME + 1), "é" * MOST_NAME, "n" * 65_536):
        with pytest.raises(ValueError, match=r"must be 256 bytes at most"):
            await NAMES[call](queue, name)
    assert await queue.qsize() == 0


async def test_a_consumer_that_waits_makes_no_difference(engine: Engine) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        tg.start_soon(queue.get)
        await until(queue, getters=1)
        for key in TOO_LONG:
            with pytest.raises(ValueError, match=REFUSED):
                await queue.put(key, 1)
        await until(queue, getters=1)
        tg.cancel_scope.cancel()


async def test_a_tenant_among_the_options_has_such_a_name(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"must be 256 bytes at most"):
        await engine.queue(tenants={"n" * 257: Tenant()})


@pytest.mark.parametrize("key", FITTING, ids=[0, 1, 2, 3, 4])
async def test_what_just_fits_does_all_that_others_do(engine: Engine, key: Any) -> None:
    letters = await engine.queue()
    queue = await engine.queue(dead_letters=letters, tenants={"t" * MOST_NAME: Tenant(1.0, 1)})
    name = "t" * MOST_NAME
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await queue.take(key, consumer=name))

    async with create_task_group() as tg:
        tg.start_soon(take)
        await until(queue, takers=1)
        await queue.put(key, 1, tenant=name)
    [(_, _, lease)] = taken
    [held] = await queue.inflight(consumer=name)
    assert (held.key, held.consumer, held.tenant) == (key, name, name)
    await queue.reject(lease, "r" * MOST_REASON + "cut")
    letter: Any = (await letters.get())[1]
    assert (letter.key, letter.tenant, letter.reason) == (key, name, "r" * MOST_REASON)


async def test_the_reason_of_an_error_is_cut(engine: Engine) -> None:
    letters = await engine.queue()
    queue = await engine.queue(dead_letters=letters)
    await queue.put("a", 1)
    with pytest.raises(Reject):
        async with queue.lease():
            raise Reject("r" * 100_000)
    letter: Any = (await letters.get())[1]
    assert letter.reason == "r" * MOST_REASON


@pytest.mark.needs("queues", "advance")
@pytest.mark.parametrize("long", [1e10, 2.5e11, 1e300])
async def test_the_longest_spans_spoil_no_order(engine: Engine, long: float) -> None:
    queue = await engine.queue()
    async with create_task_group() as tg:
        await tg.start(queue.run)
        for number in range(3):
            await queue.put(f"far{number}", 1, delay=long)
        await queue.put("near", 1, delay=3.0)
        await queue.put("lives", 1, ttl=long)
        assert await queue.put("far1", 2, delay=5.0) is PutOutcome.REPLACED
        _, _, lease = await queue.take("lives", lease_timeout=long)
        await queue.extend(lease, long)
        [held] = await queue.inflight()
        assert held.deadline is not None
        await queue.release(lease, delay=long)
        counts = await queue.statistics()
        assert (counts.ready, counts.delayed, counts.leased) == (0, 5, 0)
        await engine.advance(10)
        assert [(await queue.get())[0] for _ in range(2)] == ["near", "far1"]
        assert (await queue.statistics()).delayed == 3
        await queue.set_tenant("x", Tenant())
        assert [await queue.state(f"far{number}") for number in (0, 2)] == ["delayed"] * 2
        tg.cancel_scope.cancel()
