"""What callers may give as numbers, times and names, and the words in which the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from leaseq import Backoff, LeasedKeyQueue, MemoryBroker, Retry, Tenant
from leaseq._core.validation import (
    check_known,
    delay_seconds,
    lease_seconds,
    number,
    wait_seconds,
    whole_number,
)


class Half:
    """A number of another library."""

    def __float__(self) -> float:
        return 0.5


@pytest.mark.parametrize("value", [0.5, Decimal("0.5"), Fraction(1, 2), Half()])
def test_any_number_will_do_as_a_time_and_becomes_a_float(value: Any) -> None:
    for found in (
        number("x", value),
        wait_seconds("x", value),
        delay_seconds(value),
        lease_seconds("x", value),
    ):
        assert (type(found), found) == (float, 0.5)


@pytest.mark.parametrize("value", ["1", b"1", True, None, [1], 1j, Fraction])
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    checks: list[Callable[[], object]] = [
        lambda: number("x", value),
        lambda: wait_seconds("x", value),
        lambda: delay_seconds(value),
        lambda: whole_number("x", value, 0, "0 or more"),
    ]
    for check in checks:
        with pytest.raises(TypeError, match="must be a "):
            check()


def test_a_number_beyond_floats_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is too large"):
        wait_seconds("timeout", 10**400)


def test_an_unknown_option_is_told_with_those_that_there_are() -> None:
    check_known("put", ["delay"], ["delay", "ttl"])
    with pytest.raises(TypeError) as caught:
        check_known("put", ["delay", "nope"], ["delay", "ttl"])
    assert str(caught.value) == "put() has no option 'nope': it has delay, ttl"


# Queues and policies

WRONG_FOR_A_QUEUE: list[tuple[dict[str, Any], str]] = [
    ({"default_lease_timeout": "30"}, "default_lease_timeout must be a number .*, not '30'"),
    ({"default_lease_timeout": True}, "default_lease_timeout must be a number .*, not True"),
    ({"max_size": 2.5}, "max_size must be a whole number of 1 or more, or math.inf, not 2.5"),
    ({"max_size": True}, "max_size must be a whole number .*, not True"),
    ({"max_size": "9"}, "max_size must be a whole number .*, not '9'"),
    ({"history": True}, "history must be a whole number of 0 or more items, not True"),
    ({"history": 2.5}, "history must be a whole number .*, not 2.5"),
    ({"retry": 3}, r"retry must be a Retry, not 3: Retry\(max_deliveries=5\)"),
    ({"retry": None}, "retry must be a Retry, not None"),
    ({"tenants": {"a": 2.0}}, r"tenant 'a' must be a Tenant, not 2.0: Tenant\(weight=2.0\)"),
    ({"tenants": {7: Tenant()}}, "a tenant's name must be a string, not 7"),
    ({"tenants": ["a"]}, r"tenants must be a mapping .*, not \['a'\]"),
    ({"dedupe_for": "1"}, "dedupe_for must be a number of seconds, not '1'"),
    ({"maxsize": 4}, r"\(\) has no option 'maxsize': it has .*max_size"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_FOR_A_QUEUE)
@pytest.mark.anyio
async def test_a_wrong_option_of_a_queue_is_refused_by_itself_and_by_a_broker(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        LeasedKeyQueue(**options)
    broker = MemoryBroker()
    with pytest.raises(TypeError, match=message):
        await broker.queue("mail", **options)
    assert await broker.list_queues() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maxsize": 4}, r"LeasedKeyQueue\(\) has no option 'maxsize': it has default_lease"),
        ({"dead_letters": "d"}, "dead_letters must be a LeasedKeyQueue or None, not 'd': make one"),
        ({"name": 7}, "name must be a string, not 7"),
        ({"fast_acquire": 1}, "fast_acquire must be True or False, not 1"),
    ],
)
def test_a_wrong_option_of_a_queue_in_this_process_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        LeasedKeyQueue(**options)


@pytest.mark.anyio
async def test_a_wrong_option_of_a_broker_s_queue_is_refused() -> None:
    broker: Any = MemoryBroker()
    with pytest.raises(TypeError, match="a queue's name must be a string, not 7"):
        await broker.queue(7)
    with pytest.raises(TypeError, match="dead_letters must be a string, the name of a queue"):
        await broker.queue("mail", dead_letters=LeasedKeyQueue())


@pytest.mark.parametrize("size", [4, inf])
def test_a_size_is_a_whole_number_or_none_at_all(size: float) -> None:
    LeasedKeyQueue[str, int](max_size=size).put_nowait("a", 1)


def test_a_size_that_is_not_a_number_is_no_size() -> None:
    with pytest.raises(ValueError, match=r"max_size must be 1 or more, or math\.inf, not nan"):
        LeasedKeyQueue(max_size=nan)


@pytest.mark.anyio
async def test_options_of_a_broker_s_queue_are_compared_as_floats() -> None:
    broker: Any = MemoryBroker()
    queue = await broker.queue("mail", default_lease_timeout=Decimal("0.1"))
    assert await broker.queue("mail", default_lease_timeout=0.1) is queue


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Retry, {"backoff": 0.5}, r"backoff must be a Backoff or None, not 0.5: Backoff\(base="),
        (Retry, {"max_deliveries": 2.5}, "max_deliveries must be a whole number .*, not 2.5"),
        (Retry, {"max_deliveries": True}, "max_deliveries must be a whole number .*, not True"),
        (Tenant, {"max_in_flight": 1.5}, "max_in_flight must be a whole number .*, not 1.5"),
        (Tenant, {"weight": "2"}, "weight must be a number from 0.000001 to 1,000,000, not '2'"),
        (Tenant, {"weight": True}, "weight must be a number from 0.000001 to 1,000,000, not True"),
        (Backoff, {"base": "1"}, "base must be a number of seconds, not '1'"),
        (Backoff, {"base": 1, "ceiling": "1"}, "ceiling must be a number of seconds, not '1'"),
        (Backoff, {"base": 1, "factor": "2"}, "factor must be a number of 1 or more, not '2'"),
        (Backoff, {"base": 1, "seed": 0.5}, "seed must be a whole number or None, not 0.5"),
    ],
)
def test_a_policy_is_refused_when_it_is_made(
    make: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make(**options)


def test_a_policy_has_its_numbers_as_floats() -> None:
    backoff: Any = Backoff(Decimal("0.5"), Fraction(3), 60)  # type: ignore[arg-type]
    assert list(map(type, (backoff.base, backoff.factor, backoff.ceiling))) == [float] * 3
    assert type(Tenant(weight=2).weight) is float


@pytest.mark.anyio
async def test_a_name_that_is_no_string_is_refused_by_the_calls_of_a_queue() -> None:
    queue: Any = LeasedKeyQueue()
    with pytest.raises(TypeError, match="consumer must be a string, not None"):
        await queue.release_all(consumer=None)
    with pytest.raises(TypeError, match="a tenant's name must be a string, not 7"):
        await queue.set_tenant(7, Tenant())
    with pytest.raises(TypeError, match="tenant 'a' must be a Tenant, not 2"):
        await queue.set_tenant("a", 2)


@pytest.mark.anyio
async def test_a_transaction_refuses_an_unknown_option_in_the_words_of_put() -> None:
    broker = MemoryBroker()
    queue = await broker.queue("mail")
    async with broker.transaction() as tx:
        odd: Any = tx
        with pytest.raises(TypeError, match=r"put\(\) has no option 'nope': it has if_in_flight"):
            odd.put(queue, "a", 1, nope=1)
    assert await queue.qsize() == 0
