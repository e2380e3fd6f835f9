"""The cycle of one item where there are tenants and priorities."""

import math
from collections.abc import Iterator
from functools import partial

from leaseq import LeasedKeyQueue, PutOptions

from .harness import Bench, Row, Stopwatch, at_most
from .queues import Opening, leaseq

ITEMS = 5_000
ROUNDS = 9
BACKLOG = 10_000

TENANTS = (1, 100, 10_000)
PRIORITIES = (1, 6)


def options(tenants: int, priorities: int) -> list[PutOptions]:
    """What each put says, in turn; with one tenant and one priority, nothing."""
    names: list[PutOptions] = [{"tenant": f"tenant-{number}"} for number in range(tenants)]
    levels: list[PutOptions] = [{"priority": 1 + number} for number in range(priorities)]
    turns = math.lcm(tenants, priorities)
    return [
        {
            **(names[turn % tenants] if tenants > 1 else {}),
            **(levels[turn % priorities] if priorities > 1 else {}),
        }
        for turn in range(turns)
    ]


async def cycle(
    opening: Opening[LeasedKeyQueue[int, int]], tenants: int, priorities: int, items: int
) -> float:
    """The awaitable calls, on a queue in which all tenants have something ready."""
    terms = options(tenants, priorities)
    async with opening() as queue:
        for key in range(-BACKLOG, 0):
            queue.put_nowait(key, key, **terms[key % len(terms)])
        with Stopwatch() as watch:
            for key in range(items):
                await queue.put(key, key, **terms[key % len(terms)])
                _, _, lease = await queue.get()
                await queue.ack(lease)
    return watch.seconds / items


async def nowait_cycle(
    opening: Opening[LeasedKeyQueue[int, int]], tenants: int, priorities: int, items: int
) -> float:
    """The synchronous calls, likewise."""
    terms = options(tenants, priorities)
    async with opening() as queue:
        for key in range(-BACKLOG, 0):
            queue.put_nowait(key, key, **terms[key % len(terms)])
        with Stopwatch() as watch:
            for key in range(items):
                queue.put_nowait(key, key, **terms[key % len(terms)])
                _, _, lease = queue.get_nowait()
                queue.ack_nowait(lease)
    return watch.seconds / items


def tenants_and_priorities(bench: Bench) -> Iterator[Row]:
    """put + get + ack of an item behind 10,000 others, to one tenant and one priority."""
    modes = {"awaiting": (cycle, at_most(2.5)), "nowait": (nowait_cycle, at_most(2.5))}
    for mode, (subject, target) in modes.items():
        subjects = {
            (tenants, priorities): partial(subject, leaseq, tenants, priorities)
            for tenants in TENANTS
            for priorities in PRIORITIES
        }
        costs = bench.measure(subjects.values(), items=bench.items(ITEMS), rounds=ROUNDS)
        plain = subjects.pop((1, 1))
        for (tenants, priorities), turns in subjects.items():
            what = f"{mode}, {_count(tenants, 'tenant')}, {_count(priorities, 'priority')}"
            yield costs.cost(what, turns, plain, target)


def _count(number: int, noun: str) -> str:
    plural = {"tenant": "tenants", "priority": "priorities"}[noun]
    return f"{number:,} {noun if number == 1 else plural}"
