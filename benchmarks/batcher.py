"""Items through leaseq's batcher and through beque, into a callback that does nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

import anyio
from beque import Beque  # type: ignore[import-untyped]

from leaseq import Batcher

from .harness import Bench, Row, Stopwatch, at_least, at_most
from .queues import Opening

ITEMS = 100_000
ROUNDS = 15
LOT = 100


class Gatherer(Protocol):
    """The calls that the two have in common."""

    async def add(self, item: int) -> None: ...
    async def add_many(self, items: list[int]) -> None: ...
    async def flush(self) -> None: ...


G = TypeVar("G", bound=Gatherer)


async def do_nothing(batch: list[int]) -> None:
    pass


@asynccontextmanager
async def leaseq(*, fast_acquire: bool = False) -> AsyncIterator[Batcher[int]]:
    """leaseq's batcher, running."""
    async with (
        anyio.create_task_group() as tg,
        Batcher[int](do_nothing, fast_acquire=fast_acquire) as batcher,
    ):
        await tg.start(batcher.run)
        yield batcher


@asynccontextmanager
async def beque() -> AsyncIterator[Gatherer]:
    """beque's, running; asyncio only."""
    async with Beque(on_flush=do_nothing) as queue:
        yield queue


async def add(gatherer: Gatherer, items: list[int]) -> None:
    """One by one."""
    for item in items:
        await gatherer.add(item)


async def add_nowait(batcher: Batcher[int], items: list[int]) -> None:
    """One by one, without an await."""
    for item in items:
        batcher.add_nowait(item)


async def add_all(gatherer: Gatherer, items: list[int]) -> None:
    """All in one call."""
    await gatherer.add_many(items)


async def add_lots(gatherer: Gatherer, items: list[int]) -> None:
    """A hundred in a call."""
    for start in range(0, len(items), LOT):
        await gatherer.add_many(items[start : start + LOT])


async def added(
    opening: Opening[G], adds: Callable[[G, list[int]], Awaitable[None]], items: int
) -> float:
    """Add items, as many as there are before they are flushed."""
    numbers = list(range(items))
    async with opening() as gatherer:
        with Stopwatch() as watch:
            await adds(gatherer, numbers)
    return watch.seconds / items


async def flushed(
    opening: Opening[G], adds: Callable[[G, list[int]], Awaitable[None]], items: int
) -> float:
    """Add items, and wait until all of them are flushed."""
    numbers = list(range(items))
    async with opening() as gatherer:
        with Stopwatch() as watch:
            await adds(gatherer, numbers)
            await gatherer.flush()
    return watch.seconds / items


fast = partial(leaseq, fast_acquire=True)

ours_nowait = partial(added, leaseq, add_nowait)
ours_fast = partial(added, fast, add)
ours_awaiting = partial(added, leaseq, add)
ours_all = partial(added, leaseq, add_all)
ours_lots = partial(added, leaseq, add_lots)
ours_fast_lots = partial(added, fast, add_lots)
ours_nowait_flushed = partial(flushed, leaseq, add_nowait)
ours_fast_flushed = partial(flushed, fast, add)
ours_flushed = partial(flushed, leaseq, add)

peer = partial(added, beque, add)
peer_all = partial(added, beque, add_all)
peer_lots = partial(added, beque, add_lots)
peer_flushed = partial(flushed, beque, add)


def items_to_a_callback(bench: Bench) -> Iterator[Row]:
    """add of an item to a batcher, in front of a callback that does nothing."""
    ours = (
        *(ours_nowait, ours_fast, ours_awaiting, ours_lots, ours_fast_lots),
        *(ours_nowait_flushed, ours_fast_flushed, ours_flushed),
    )
    peers = (peer, peer_lots, peer_flushed) if bench.on_asyncio else ()
    costs = bench.measure((*ours, *peers), items=bench.items(ITEMS), rounds=ROUNDS)
    if not bench.on_asyncio:
        yield costs.cost("add_nowait, to add with fast_acquire", ours_nowait, ours_fast)
        yield costs.cost("add, to add with fast_acquire", ours_awaiting, ours_fast)
        return
    yield costs.speed("add_nowait, as fast as beque's add", ours_nowait, peer, at_least(5))
    yield costs.speed("add, fast_acquire, as fast as beque's", ours_fast, peer, at_least(1.5))
    yield costs.cost("add, to beque's", ours_awaiting, peer, at_most(1.5))
    yield costs.speed("add_many of 100, fast_acquire, likewise", ours_fast_lots, peer_lots)
    yield costs.speed("add_many of 100, likewise", ours_lots, peer_lots)
    yield costs.speed("until flushed: add_nowait, likewise", ours_nowait_flushed, peer_flushed)
    yield costs.speed("until flushed: add, fast_acquire", ours_fast_flushed, peer_flushed)
    yield costs.cost("until flushed: add, to beque's", ours_flushed, peer_flushed)
    costs = bench.measure((peer_all, ours_all), items=ITEMS, rounds=3 * ROUNDS)  # milliseconds
    yield costs.speed("add_many of all, as fast as beque's", ours_all, peer_all, at_least(1.5))
