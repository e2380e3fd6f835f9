"""The contract suite: its tests on every engine that has what they need, and their fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Unpack

import pytest
from anyio import create_task_group
from tests.contract import engines
from tests.contract.engines import FEATURES, SUBJECTS, Entry, Opened
from tests.contract.helpers import (
    TIMEOUT,
    Engine,
    Handles,
    Queue,
    QueueOptions,
    SharedEngine,
    Start,
    StartBoth,
)

from leaseq import Retry


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collect a test for each engine that has what it needs, on each backend of that engine."""
    if "entry" not in metafunc.fixturenames:
        return
    needs = needs_of(metafunc.definition)
    ways = [
        pytest.param(
            entry,
            backend,
            id=f"{entry.name}-{backend}",
            marks=[pytest.mark.slow] if backend in entry.slow or "uvloop" in backend else [],
        )
        for entry in engines.ENGINES
        for backend in entry.backends
        if needs <= entry.features
    ]
    if not ways:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no engine has all of {needs}")
    metafunc.parametrize(("entry", "anyio_backend"), ways, indirect=["anyio_backend"])


def needs_of(test: pytest.Item) -> set[str]:
    """The features that a test needs of an engine."""
    needs = {feature for mark in test.iter_markers("needs") for feature in mark.args}
    if not needs <= FEATURES:
        raise pytest.UsageError(f"{test.nodeid}: there are no features {needs - FEATURES}")
    return needs if needs & SUBJECTS else needs | {"queues"}


@pytest.fixture
def opened(entry: Entry, request: pytest.FixtureRequest) -> Opened:
    """The engine before it is entered; servers start here, outside the event loop."""
    return entry.open(request)


@pytest.fixture
async def engine(opened: Opened) -> AsyncIterator[object]:
    """The engine under test."""
    async with opened as engine:
        yield engine


@pytest.fixture
async def start(engine: Engine) -> AsyncIterator[Start]:
    """Makes queues whose timekeepers run until the end of the test."""
    async with create_task_group() as tg:

        async def start(**options: Unpack[QueueOptions]) -> Queue:
            queue = await engine.queue(**options)
            await tg.start(queue.run)
            return queue

        yield start
        tg.cancel_scope.cancel()


@pytest.fixture
async def queue(start: Start) -> Queue:
    return await start()


@pytest.fixture
async def timed(start: Start) -> Queue:
    """A queue whose leases expire."""
    return await start(default_lease_timeout=TIMEOUT)


@pytest.fixture
async def letters(start: Start) -> Queue:
    """A queue for dead letters."""
    return await start(name="letters")


@pytest.fixture
async def pages(start: Start, letters: Queue) -> Queue:
    """A queue whose dead letters go there."""
    return await start(dead_letters=letters, name="pages")


@pytest.fixture
async def mortal(start: Start, letters: Queue) -> Queue:
    """A queue whose items die at their second delivery."""
    return await start(dead_letters=letters, retry=Retry(max_deliveries=2), name="pages")


@pytest.fixture
async def brief(start: Start, letters: Queue) -> Queue:
    """A queue whose items die at their first delivery, of an expiry too."""
    return await start(
        dead_letters=letters,
        retry=Retry(max_deliveries=1),
        default_lease_timeout=TIMEOUT,
        name="pages",
    )


@pytest.fixture
async def start_both(engine: SharedEngine) -> AsyncIterator[StartBoth]:
    """Makes two handles on a queue, whose timekeepers run until the end of the test."""
    async with create_task_group() as tg:

        async def start_both(**options: Unpack[QueueOptions]) -> Handles:
            handles = await engine.handles(**options)
            for handle in handles:
                await tg.start(handle.run)
            return handles

        yield start_both
        tg.cancel_scope.cancel()


@pytest.fixture
async def both(start_both: StartBoth) -> Handles:
    """Two handles on one queue."""
    return await start_both()
