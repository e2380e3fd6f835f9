"""``leaseq watch``: queues, looked at again and again, until the operator has seen enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import anyio

from .._core.errors import LeaseqError, ServerUnavailableError, UnusableServerError
from ..abc import Broker
from .common import NotDone
from .queries import Row, find_rows

__all__ = ["Look", "watch_queues"]

_SHARE = 10
"""A look that took long is followed by a pause so many times as long: nobody's server is to be kept
busy by being watched."""

_LONGEST = 30.0
"""Seconds that such a pause takes at most: it may be for other reasons that the look took long."""

_PATIENCE = 3.0
"""Seconds after which it is told that a look takes long."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found."""

    at: float
    """Seconds since the epoch."""
    rows: list[Row] = field(default_factory=list)
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of queues by their names, items put and acknowledged in a second since the look before."""
    error: LeaseqError | NotDone | None = None
    """Why nothing was found this time."""


async def watch_queues(
    make_broker: Callable[[], Broker],
    names: Collection[str],
    interval: float,
    show: Callable[[Look], None],
) -> None:
    """Look, and look again, for ever.

    Once something was seen, no failure is the end of it: the server may come back, and so may a
    queue.

    Args:
        make_broker: Gives a broker that is not yet connected.
        names: Which queues; none: all there are.
        interval: Seconds from one look to the next.
        show: Called with what each has found.

    Raises:
        NotDone: there was no such queue at the first look.
        LeaseqError: the server could not be reached then, or is none.
    """
    watcher = _Watcher(names)
    while True:
        try:
            async with make_broker() as broker:
                # A handle of a queue that was deleted meanwhile stays closed: then anew.
                while not watcher.stale:
                    await watcher.look(broker, interval, show)
        except UnusableServerError as error:
            if not watcher.has_seen:
                raise
            show(Look(time.time(), error=error))
            await anyio.sleep(interval)
        watcher.stale = False


async def _complain(since: float, show: Callable[[Look], None]) -> None:
    """Say again and again that there has been no answer since then."""
    while True:
        await anyio.sleep(_PATIENCE)
        when = time.strftime("%H:%M:%S", time.localtime(since))
        show(Look(time.time(), error=NotDone(f"the server has not answered since {when}")))


class _Watcher:
    """Remembers the look before."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._before: dict[str, Row] = {}
        self._looked_at = 0.0
        self._away_since: float | None = None  # seconds since the epoch
        self.has_seen = False
        self.stale = False

    async def look(self, broker: Broker, interval: float, show: Callable[[Look], None]) -> None:
        """Look once, and rest; say so if that takes long."""
        started = anyio.current_time()
        since = self._away_since or time.time()
        failure: LeaseqError | NotDone | None = None
        rows: list[Row] = []
        async with anyio.create_task_group() as tg:
            if self.has_seen:
                tg.start_soon(_complain, since, show)
            try:
                rows = await find_rows(broker, self._names)
            except (NotDone, LeaseqError) as error:
                failure = error  # raised in here, it would be in a group
            tg.cancel_scope.cancel()
        if failure is not None:
            if not self.has_seen or not isinstance(failure, NotDone | ServerUnavailableError):
                raise failure
            self._away_since = since
            show(Look(time.time(), error=failure))
            await anyio.sleep(interval)
            return
        self._away_since = None
        now = anyio.current_time()
        show(Look(time.time(), rows, self._rates(rows, now - self._looked_at)))
        self._before = {row.info.name: row for row in rows}
        self._looked_at = now
        self.has_seen = True
        self.stale = any(row.statistics is None for row in rows)
        took = now - started
        rest = min(took * _SHARE, _LONGEST) if took > interval / _SHARE else 0.0
        await anyio.sleep(max(interval - took, rest))

    def _rates(self, rows: list[Row], seconds: float) -> dict[str, tuple[float, float]]:
        rates = {}
        for row in rows:
            old = self._before.get(row.info.name)
            if old is None or old.statistics is None or row.statistics is None:
                continue
            put = row.statistics.put - old.statistics.put
            acked = row.statistics.acked - old.statistics.acked
            if old.info.created_at == row.info.created_at:
                rates[row.info.name] = (put / seconds, acked / seconds)
        return rates
