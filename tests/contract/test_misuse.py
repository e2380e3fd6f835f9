"""Errors that teach how a queue is used."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import Engine, Queue

from leaseq import Backoff, Retry, Tenant, TimekeeperNotRunningError

pytestmark = pytest.mark.anyio

lease_timeouts = pytest.mark.parametrize("timeout", [0, -1, math.nan])


async def test_a_timed_lease_needs_a_timekeeper(engine: Engine) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    with pytest.raises(TimekeeperNotRunningError, match=r"await tg\.start\((queue|broker)\.run\)"):
        await queue.get(lease_timeout=60)
    with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
        await queue.take("a", lease_timeout=60)
    assert await queue.available_keys() == {"a"}


async def test_the_queues_own_timeout_needs_a_timekeeper(engine: Engine) -> None:
    queue = await engine.queue(default_lease_timeout=60)
    await queue.put("a", 1)
    with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
        await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
        async with queue.lease():
            raise AssertionError("entered")
    assert await queue.available_keys() == {"a"}


async def test_a_timekeeper_is_needed_before_there_is_anything_to_lease(engine: Engine) -> None:
    queue = await engine.queue(default_lease_timeout=60)
    with pytest.raises(TimekeeperNotRunningError):
        await queue.get()


async def test_a_timekeeper_that_was_cancelled_is_missed(engine: Engine) -> None:
    queue = await engine.queue(default_lease_timeout=60)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        await queue.put_many([("a", 1), ("b", 1)])
        _, _, lease = await queue.get()
        tg.cancel_scope.cancel()
    with pytest.raises(TimekeeperNotRunningError, match="a lease of 60"):
        await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match="a lease of 30"):
        await queue.extend(lease, 30)


async def test_a_delay_needs_a_timekeeper(engine: Engine) -> None:
    queue = await engine.queue()
    with pytest.raises(TimekeeperNotRunningError, match=r"(?s)a delay of 10 .*tg\.start"):
        await queue.put("a", 1, delay=10)
    with pytest.raises(TimekeeperNotRunningError, match="a delay of 10"):
        await queue.put_many([("a", 1)], delay=10)
    assert await queue.qsize() == 0
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match="a delay of 10"):
        await queue.release(lease, delay=10)
    assert lease.ended is None


async def test_a_backoff_needs_a_timekeeper_at_the_lease_and_not_at_its_end(engine: Engine) -> None:
    queue = await engine.queue(retry=Retry(backoff=Backoff(10)))
    await queue.put("a", 1)
    with pytest.raises(TimekeeperNotRunningError, match="a backoff"):
        await queue.get()
    with pytest.raises(TimekeeperNotRunningError, match="a backoff"):
        await queue.take("a")
    async with create_task_group() as tg:
        await tg.start(queue.run)
        _, _, lease = await queue.get()
        tg.cancel_scope.cancel()
    await queue.release(lease)
    assert lease.ended == "released"


async def test_a_missing_timekeeper_is_a_runtime_error(engine: Engine) -> None:
    queue = await engine.queue(default_lease_timeout=60)
    with pytest.raises(RuntimeError):
        await queue.get()


@pytest.mark.parametrize("timeout", [0, -0.001, -1, -math.inf])
async def test_a_negative_timeout_does_not_wait(queue: Queue, timeout: float) -> None:
    with pytest.raises(TimeoutError, match="no item was ready within 0 s"):
        await queue.get(timeout)
    with pytest.raises(TimeoutError, match="key 'a' was not ready within 0 s"):
        await queue.take("a", timeout)
    with pytest.raises(TimeoutError, match="no item was ready within 0 s"):
        await queue.get_batch(2, timeout=timeout)
    await queue.put("a", 1)
    assert (await queue.get(timeout))[0] == "a"


async def test_a_wait_that_was_too_long_says_so(queue: Queue) -> None:
    with pytest.raises(TimeoutError, match=r"no item was ready within 0\.01 s"):
        await queue.get(0.01)
    with pytest.raises(TimeoutError, match=r"key 'a' was not ready within 0\.01 s"):
        await queue.take("a", 0.01)


@lease_timeouts
async def test_a_lease_of_no_length_is_refused(queue: Queue, timeout: float) -> None:
    await queue.put("a", 1)
    message = f"lease_timeout must be more than 0 seconds, or None for ever, not {timeout}"
    with pytest.raises(ValueError, match=message):
        await queue.get(lease_timeout=timeout)
    with pytest.raises(ValueError, match=message):
        await queue.take("a", lease_timeout=timeout)
    assert await queue.available_keys() == {"a"}


@lease_timeouts
async def test_an_extension_of_no_length_is_refused(queue: Queue, timeout: float) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(ValueError, match=f"timeout must be more than 0 .*, not {timeout}"):
        await queue.extend(lease, timeout)
    assert lease.deadline == math.inf


@lease_timeouts
async def test_a_queue_whose_leases_have_no_length_is_refused(
    engine: Engine, timeout: float
) -> None:
    with pytest.raises(
        ValueError, match=f"default_lease_timeout must be more than 0 .*, not {timeout}"
    ):
        await engine.queue(default_lease_timeout=timeout)


async def test_an_unknown_policy_is_refused_with_the_choices(queue: Queue) -> None:
    message = "if_in_flight must be one of 'update', 'reject', 'buffer', not 'drop'"
    with pytest.raises(ValueError, match=message):
        await queue.put("a", 1, if_in_flight="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        await queue.put_many([("a", 1)], if_in_flight="drop")  # type: ignore[arg-type]
    assert await queue.qsize() == 0


async def test_a_key_that_cannot_be_hashed_is_refused(queue: Queue) -> None:
    key: str = ["a"]  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
        await queue.put(key, 1)
    with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
        await queue.put(key, 1, if_in_flight="buffer")
    with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
        await queue.put_many([("b", 1), (key, 1)])
    with pytest.raises(TypeError, match=r"a key must be .* \['a'\]"):
        await queue.take(key)
    assert await queue.qsize() == 0


# Options that there are not, and values of another type


async def test_an_unknown_option_is_told_with_those_that_there_are(queue: Queue) -> None:
    odd: Any = queue
    with pytest.raises(TypeError, match=r"put\(\) has no option 'nope': it has if_in_flight, pri"):
        await odd.put("a", 1, nope=1)
    with pytest.raises(TypeError, match=r"add\(\) has no option 'nope'"):
        await odd.add(1, nope=1)
    with pytest.raises(TypeError, match=r"has no option 'nope': it has if_in_flight"):
        await odd.put_many([("a", 1)], nope=1)
    with pytest.raises(TypeError, match=r"get\(\) has no option 'nope': it has timeout, lease"):
        await odd.get(nope=1)
    with pytest.raises(TypeError, match=r"take\(\) has no option 'nope': it has timeout, lease"):
        await odd.take("a", nope=1)
    with pytest.raises(TypeError, match=r"lease\(\) with a key has no option 'tenants': it "):
        async with odd.lease(key="a", tenants=["x"]):
            raise AssertionError("entered")
    assert await queue.qsize() == 0


@pytest.mark.parametrize(
    ("call", "own"),
    [
        (lambda queue: queue.get(timeot=3), "timeout"),
        (lambda queue: queue.take("a", timeot=3), "timeout"),
        (lambda queue: queue.get_batch(2, timeot=3), "max_wait, timeout"),
        (lambda queue: queue.lease(timeot=3), "timeout, key"),
        (lambda queue: queue.lease(key="a", timeot=3), "timeout, key"),
        (lambda queue: queue.lease_batch(2, timeot=3), "max_wait, timeout"),
        (lambda queue: queue.add(1, mesage_id="a"), "message_id"),
    ],
)
async def test_the_options_that_there_are_include_the_call_s_own(
    queue: Queue, call: Any, own: str
) -> None:
    with pytest.raises(TypeError, match=rf"has no option '(timeot|mesage_id)': it has {own}, "):
        await call(queue)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "4"}, "priority must be a Priority or another int, not '4'"),
        ({"priority": 4.0}, "priority must be a Priority or another int, not 4.0"),
        ({"priority": True}, "priority must be a Priority or another int, not True"),
        ({"tenant": 7}, "tenant must be a string or None, not 7"),
        ({"delay": "1"}, "delay must be a number of seconds, not '1'"),
        ({"ttl": True}, "ttl must be a number of seconds, or None for ever, not True"),
    ],
)
async def test_an_option_of_a_put_that_is_of_another_type_is_refused(
    queue: Queue, options: dict[str, Any], message: str
) -> None:
    odd: Any = queue
    with pytest.raises(TypeError, match=message):
        await odd.put("a", 1, **options)
    with pytest.raises(TypeError, match=message):
        await odd.put_many([("a", 1)], **options)
    assert await queue.qsize() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "1"}, "timeout must be a number of seconds, not '1'"),
        ({"timeout": True}, "timeout must be a number of seconds, not True"),
        ({"lease_timeout": "1"}, "lease_timeout must be a number of seconds, or None .*, not '1'"),
        ({"consumer": 7}, "consumer must be a string or None, not 7"),
        ({"tenants": [7]}, "a name in tenants must be a string or None, not 7"),
        ({"tenants": 7}, "tenants must be a collection of names, not 7"),
    ],
)
async def test_an_option_of_a_get_that_is_of_another_type_is_refused(
    queue: Queue, options: dict[str, Any], message: str
) -> None:
    odd: Any = queue
    await queue.put("a", 1)
    with pytest.raises(TypeError, match=message):
        await odd.get(**options)
    assert await queue.available_keys() == {"a"}


async def test_times_may_be_numbers_of_any_kind(queue: Queue) -> None:
    odd: Any = queue
    assert await odd.put("a", 1, delay=Fraction(0), ttl=None)
    _, _, lease = await odd.get(Decimal("0.5"))
    assert await lease.ack() is False


async def test_a_consumer_that_is_no_name_is_refused(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.get()
    with pytest.raises(TypeError, match=r"consumer must be a string, not None"):
        await queue.release_all(consumer=None)  # type: ignore[arg-type]
    assert await queue.inflight_keys() == {"a"}


# Flags, reasons and names


@pytest.mark.parametrize("flag", [None, "yes", 2, 0.0])
async def test_a_flag_that_is_neither_true_nor_false_is_refused(queue: Queue, flag: object) -> None:
    odd: Any = queue
    await queue.put("a", 1)
    _, _, lease = await odd.get()
    with pytest.raises(TypeError, match="requeue_front must be True or False, not "):
        await lease.release(requeue_front=flag)
    with pytest.raises(TypeError, match="counted must be True or False, not "):
        await lease.release(counted=flag)
    with pytest.raises(TypeError, match="tenants must be True or False, not "):
        await odd.statistics(tenants=flag)
    assert lease.ended is None
    await lease.ack()


async def test_a_reason_that_is_no_text_is_refused(queue: Queue) -> None:
    odd: Any = queue
    await queue.put("a", 1)
    _, _, lease = await odd.get()
    with pytest.raises(TypeError, match="reason must be a string, not 5"):
        await lease.reject(5)
    await lease.ack()


async def test_a_tenant_must_be_one(queue: Queue) -> None:
    odd: Any = queue
    with pytest.raises(TypeError, match=r"must be a Tenant, not 2.0"):
        await odd.set_tenant("a", 2.0)
    with pytest.raises(TypeError, match="a tenant's name must be a string, not None"):
        await odd.set_tenant(None, Tenant())


async def test_no_option_is_taken_for_an_argument_of_a_private_class(queue: Queue) -> None:
    odd: Any = queue
    for name in ("call", "request"):
        with pytest.raises(TypeError, match=rf"put\(\) has no option '{name}'"):
            await odd.put("a", 1, **{name: "x"})
        with pytest.raises(TypeError, match=rf"get\(\) has no option '{name}'"):
            await odd.get(**{name: "x"})


@pytest.mark.needs("brokers")
@pytest.mark.parametrize("name", [5, None, ["a"]])
async def test_a_name_that_is_no_text_is_refused_by_a_broker(engine: Any, name: object) -> None:
    broker = await engine.broker()
    async with broker:
        for call in (broker.queue, broker.dead_letters, broker.delete_queue, broker.purge):
            with pytest.raises(TypeError, match="a queue's name must be a string, not "):
                await call(name)


@pytest.mark.needs("brokers")
@pytest.mark.parametrize("backoff", [Backoff(1.0, 2.0, math.inf), Backoff(math.inf, 2.0, math.inf)])
async def test_a_backoff_without_a_ceiling_is_one_on_every_engine(
    engine: Any, backoff: Backoff
) -> None:
    async with await engine.broker() as broker:
        await broker.queue("pages", retry=Retry(backoff=backoff))
        assert await broker.queue("pages", retry=Retry(backoff=backoff))
        await broker.delete_queue("pages")
