"""Every number that a public call takes: other types and values are refused in the same way."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from inspect import isawaitable
from math import inf, nan
from typing import Any

import pytest
from anyio import Event

import leaseq
import leaseq.tasks
import leaseq.valkey
from leaseq.testing import advance, cancel_sweep

pytestmark = [pytest.mark.anyio, pytest.mark.only("asyncio")]

odd: Any = leaseq
Make = Callable[..., Any]


class Rude:
    """A value whose repr raises."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


async def flush(items: list[int]) -> None:
    pass


async def handle(lease: object) -> None:
    pass


def queue(**options: Any) -> Any:
    return odd.LeasedKeyQueue(**options)


async def named(**options: Any) -> object:
    async with leaseq.MemoryBroker() as broker:
        return await broker.queue("q", **options)


def serve(concurrency: Any = 1, **options: Any) -> Awaitable[None]:
    return leaseq.serve(queue(), handle, concurrency, **options)


def serve_batches(max_items: Any = 1, max_wait: Any = 0, concurrency: Any = 1) -> Awaitable[None]:
    return leaseq.serve_batches(queue(), handle, max_items, max_wait, concurrency)


def worker(**options: Any) -> object:
    return leaseq.tasks.TaskWorker(leaseq.tasks.TaskQueue(), **options)


def task_function(**options: Any) -> object:
    return leaseq.tasks.TaskQueue().task(**options)


async def push(**options: Any) -> object:
    async with leaseq.MemoryBroker() as broker:
        tasks = leaseq.tasks.TaskQueue(broker)
        return await tasks.push(leaseq.tasks.Task.create(), **options)


async def result(**options: Any) -> object:
    async with leaseq.MemoryBroker() as broker:
        return await leaseq.tasks.TaskQueue(broker).result("id", **options)


def pushed_value(**options: Any) -> object:
    async def run() -> object:
        tasks = leaseq.tasks.TaskQueue(leaseq.MemoryBroker())

        @tasks.task
        async def work() -> None:
            leaseq.tasks.xcom_push("key", 1, **options)

        return await work.task()()

    return run()


async def sweep(**options: Any) -> int:
    def scenario() -> Any:
        raise AssertionError

    return await cancel_sweep(scenario, **options)


def url(**options: Any) -> object:
    return leaseq.valkey.ValkeyUrl((("localhost", 6379),), **options)


def valkey_broker(**options: Any) -> object:
    return leaseq.valkey.ValkeyBroker(leaseq.valkey.ValkeyUrl.parse("valkey://h"), **options)


COUNT = (0, -1, 2**70)
"""Values that a number of things cannot have, if it is one at least."""
SECONDS = (-1, nan)
LENGTH = (0, -1, nan)

NUMBERS: list[tuple[Make, str, tuple[float, ...]]] = [
    (queue, "default_lease_timeout", LENGTH),
    (queue, "max_size", (*COUNT, nan)),
    (queue, "history", (-1, 2**70)),
    (queue, "dedupe_for", SECONDS),
    (named, "default_lease_timeout", LENGTH),
    (named, "max_size", (*COUNT, nan)),
    (named, "history", (-1, 2**70)),
    (named, "dedupe_for", SECONDS),
    (lambda **it: queue().put_nowait("a", 1, **it), "delay", (*SECONDS, inf)),
    (lambda **it: queue().put_nowait("a", 1, **it), "ttl", LENGTH),
    (lambda **it: queue().get(**it), "timeout", (nan,)),
    (lambda **it: queue().get(**it), "lease_timeout", LENGTH),
    (lambda **it: queue().take("a", **it), "timeout", (nan,)),
    (lambda **it: queue().take("a", **it), "lease_timeout", LENGTH),
    (lambda **it: queue().get_batch(**it), "max_items", COUNT),
    (lambda **it: queue().get_batch(2, **it), "max_wait", SECONDS),
    (lambda **it: queue().get_batch(2, **it), "timeout", (nan,)),
    (lambda **it: queue(dead_letters=queue()).redrive(**it), "limit", COUNT),
    (odd.Retry, "max_deliveries", COUNT),
    (odd.Backoff, "base", SECONDS),
    (lambda **it: odd.Backoff(1, **it), "factor", (0.5, nan, inf)),
    (lambda **it: odd.Backoff(1, **it), "ceiling", SECONDS),
    (lambda **it: odd.Backoff(1, **it), "seed", (2**70,)),
    (odd.Tenant, "weight", (0, -1, nan, inf, 1e308, 1e7, 1e-7)),
    (odd.Tenant, "max_in_flight", COUNT),
    (lambda **it: odd.Batcher(flush, **it), "max_batch_size", COUNT),
    (lambda **it: odd.Batcher(flush, **it), "flush_interval", SECONDS),
    (lambda **it: odd.Batcher(flush, **it), "max_pending", (*COUNT, nan)),
    (lambda **it: odd.Batcher(flush, **it), "shutdown_timeout", SECONDS),
    (serve, "concurrency", COUNT),
    (serve, "max_runtime", LENGTH),
    (lambda **it: serve(stop=Event(), **it), "grace", SECONDS),
    (serve, "lease_timeout", LENGTH),
    (serve_batches, "max_items", COUNT),
    (serve_batches, "max_wait", SECONDS),
    (serve_batches, "concurrency", COUNT),
    (leaseq.tasks.TaskQueue, "max_retries", (-1, 2**70)),
    (leaseq.tasks.TaskQueue, "xcom_ttl", LENGTH),
    (leaseq.tasks.TaskQueue, "value_limit", COUNT),
    (leaseq.tasks.TaskQueue, "lease_timeout", LENGTH),
    (task_function, "max_retries", (-1, 2**70)),
    (task_function, "lease_timeout", LENGTH),
    (task_function, "ttl", LENGTH),
    (task_function, "result_ttl", LENGTH),
    (task_function, "priority", ()),
    (leaseq.tasks.Task.create, "max_retries", (-1, 2**70)),
    (leaseq.tasks.Task.create, "priority", ()),
    (push, "delay", SECONDS),
    (push, "ttl", LENGTH),
    (push, "priority", ()),
    (result, "timeout", (nan,)),
    (pushed_value, "ttl", LENGTH),
    (worker, "concurrency", COUNT),
    (worker, "max_runtime", LENGTH),
    (worker, "grace", SECONDS),
    (advance, "seconds", (*SECONDS, inf)),
    (sweep, "limit", COUNT),
    (url, "database", (-1,)),
    (url, "connect_timeout", (0, -1, nan, inf)),
    (url, "request_timeout", (0, -1, nan, inf)),
    (url, "wait_replicas", (-1, 101)),
    (valkey_broker, "patience", SECONDS),
]


def shown(value: object) -> str:
    return re.escape("<Rude, whose repr raises" if type(value) is Rude else repr(value)[:50])


async def error_of(make: Make, option: str, value: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        made = make(**{option: value})
        if isawaitable(made):
            await made
    assert isinstance(caught.value, Exception)
    return caught.value


NAMES = [f"{number}-{option}" for number, (_, option, _) in enumerate(NUMBERS)]


@pytest.mark.parametrize(("make", "option", "out"), NUMBERS, ids=NAMES)
async def test_another_type_is_a_type_error_that_names_option_and_value(
    make: Make, option: str, out: tuple[float, ...]
) -> None:
    for value in ("1", "x" * 10_000, [1], Rude(), True, object):
        error = await error_of(make, option, value)
        assert type(error) is TypeError, (value, error)
        wanted = f"{option if option != 'seconds' else 'time'}.* must be .*, not {shown(value)}"
        assert re.search(wanted, str(error)), error
        assert len(str(error)) < 300


@pytest.mark.parametrize(("make", "option", "out"), NUMBERS, ids=NAMES)
async def test_a_number_out_of_range_is_a_value_error_that_names_option_and_value(
    make: Make, option: str, out: tuple[float, ...]
) -> None:
    for value in out:
        error = await error_of(make, option, value)
        assert isinstance(error, ValueError), (value, error)
        wanted = f"{option if option != 'seconds' else 'time'}.* must .*, not {shown(value)}"
        assert re.search(wanted, str(error)), error


@pytest.mark.parametrize(("make", "option", "out"), NUMBERS, ids=NAMES)
async def test_a_number_that_cannot_be_compared_is_refused_by_the_name_of_the_option(
    make: Make, option: str, out: tuple[float, ...]
) -> None:
    error = await error_of(make, option, Decimal("sNaN"))
    assert type(error) in {TypeError, ValueError}, error
    wanted = f"{option if option != 'seconds' else 'time'}.* must .*, not (Decimal|nan)"
    assert re.search(wanted, str(error)), error


async def test_an_infinite_number_of_any_kind_is_no_bound() -> None:
    odd.Batcher(flush, max_pending=Decimal("inf"))
    queue(max_size=Decimal("inf")).put_many_nowait({"a": 1, "b": 2})


async def test_a_delay_of_none_is_not_no_delay() -> None:
    with pytest.raises(TypeError, match="delay must be a number of seconds, not None"):
        await push(delay=None)


@pytest.mark.parametrize(
    ("call", "make"),
    [
        ("LeasedKeyQueue", lambda: odd.LeasedKeyQueue(30)),
        ("Batcher", lambda: odd.Batcher(flush, 100)),
        ("TaskQueue", lambda: odd.tasks.TaskQueue(None, "tasks")),
        ("TaskWorker", lambda: odd.tasks.TaskWorker(odd.tasks.TaskQueue(), None, "worker")),
        ("Retry", lambda: odd.Retry(1, None, 3)),
        ("MemoryBroker", lambda: odd.MemoryBroker("memory://")),
        ("ValkeyBroker", lambda: odd.valkey.ValkeyBroker(url(), 10)),
    ],
)
async def test_too_many_positions_are_refused_by_the_name_of_the_call(
    call: str, make: Callable[[], object]
) -> None:
    with pytest.raises(TypeError, match=rf"{call}.*takes .* positional argument"):
        make()
