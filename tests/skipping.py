"""Real time without its idle parts, for tests that ask a server, or a thread for a file.

A virtual clock cannot see the world outside: it would jump while a server thinks. Here the clock
runs as the real one does, and where nothing has happened for a moment, and no request is under way,
it skips to the next timer; the server is told to skip as much. So a test of an hour's timeout takes
as long as what happens in it.
"""

import asyncio
import selectors
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest
import trio
from anyio.lowlevel import current_token
from trio.testing import MockClock

from leaseq._sqlite.store import SqliteStore
from leaseq._valkey import store as valkey_store
from leaseq._valkey.store import ValkeyStore

QUIET = 0.01
"""Seconds in which nothing has happened: what was on its way has arrived."""


class SkippingEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop that does not sleep for long."""

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Real time, and what was skipped of it."""
        return time.monotonic() + self.skipped


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= QUIET or _under_way:
            return super().select(timeout)
        events = super().select(QUIET)
        if not events:
            self._loop.skipped += timeout - QUIET
        return events


def skipping_backend(name: str) -> tuple[str, dict[str, object]]:
    """An anyio backend on such a clock: an event loop for asyncio, and trio's own for trio."""
    if name == "asyncio":
        return "asyncio", {"loop_factory": SkippingEventLoop}
    return "trio", {"clock": MockClock(rate=1.0, autojump_threshold=QUIET)}


_under_way: set[object] = set()
"""The requests that somebody waits for. One event loop runs at a time."""


def _skipping_clock() -> MockClock | None:
    """trio's clock, if it is one that skips."""
    if isinstance(current_token().native_token, asyncio.AbstractEventLoop):
        return None
    clock = trio.lowlevel.current_clock()
    return clock if isinstance(clock, MockClock) else None


def skipped() -> float:
    """How many seconds this event loop has not waited for, so far."""
    clock = _skipping_clock()
    if clock is not None:
        return clock.current_time() - time.perf_counter()  # less than none, but for all alike
    loop = current_token().native_token
    return loop.skipped if isinstance(loop, SkippingEventLoop) else 0.0


@asynccontextmanager
async def asking() -> AsyncIterator[None]:
    """Skip nothing meanwhile."""
    request = object()
    clock = _skipping_clock()
    _under_way.add(request)
    if clock is not None:
        clock.autojump_threshold = inf
    try:
        yield
    finally:
        _under_way.remove(request)
        if clock is not None and not _under_way:
            clock.autojump_threshold = QUIET


def skip_with_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all stores in files here say when they ask, and skip what is skipped here."""
    open_file, exchange = SqliteStore.open, SqliteStore.exchange

    async def open_watched(self: SqliteStore) -> None:
        async with asking():
            await open_file(self)

    async def watched(self: SqliteStore, batch: Any) -> Any:
        async with asking():
            self.file.offset = skipped()
            return await exchange(self, batch)

    monkeypatch.setattr(SqliteStore, "open", open_watched)
    monkeypatch.setattr(SqliteStore, "exchange", watched)


def skip_with_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all clients here say when they ask, and the server's clock skip what is skipped here."""
    open_client = valkey_store.open_client

    async def open_watched(*args: Any, **options: Any) -> Any:
        async with asking():
            client: Any = await open_client(*args, **options)
        script = client.script

        async def watched(*args: Any) -> Any:
            async with asking():
                return await script(*args)

        client.script = watched
        return client

    ahead = property(lambda store: round(skipped() * 1e6), lambda store, value: None)
    monkeypatch.setattr(valkey_store, "open_client", open_watched)
    monkeypatch.setattr(ValkeyStore, "offset", ahead, raising=False)
