"""``leaseq watch``: queues shown again and again, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Timer
from types import FrameType
from typing import Annotated

import anyio
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from .._core.errors import LeaseqError, ServerUnavailableError, UnusableServerError
from ..abc import Broker
from .common import (
    CommandError,
    Json,
    Url,
    address_of,
    check_file,
    describe_error,
    make_broker,
    reporting_errors,
)
from .queries import QueueRow, find_rows
from .show import make_console, row_document, rows_table
from .text import as_json

Show = Callable[["Snapshot"], None]

_GRACE = 1.0
"""Seconds to end in good order after Ctrl-C."""
_REST = 10
"""A query is followed by a pause that is so many times as long: watching must not keep a server
busy."""
_LONGEST_REST = 30.0
"""Seconds of the longest such pause: the query may have been slow for other reasons."""
_PATIENCE = 3.0
"""Seconds without an answer after which the operator is told."""


# The command


def watch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of the queues; without names, all.", metavar="NAME"),
    ] = None,
    *,
    url: Url,
    interval: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds between two queries.", metavar="SECONDS"),
    ] = 2.0,
    json: Json = False,
) -> None:
    """Show queues as they change, until Ctrl-C. Goes on when the server is away for a while.

    With --json, prints a line for each query.
    """
    make_broker(url)  # a wrong URL is an error of usage
    interrupt = _Interrupt()

    async def main(show: Show) -> None:
        with interrupt.handled():
            await watch_queues(lambda: make_broker(url), names or (), interval, show)

    with reporting_errors(url), _display(url, json=json) as show:
        check_file(url)
        try:
            anyio.run(main, show)
        except (Exception, KeyboardInterrupt):
            if not interrupt.received:
                raise


class _Interrupt:
    """Ctrl-C, which ends a watch soon, even while it waits for a server that does not answer.

    A watch changes nothing, so the process may exit in the middle of it.
    """

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signal for a ``with`` block in the event loop."""
        before = signal.getsignal(signal.SIGINT)
        timer = Timer(_GRACE, _exit_now)
        timer.daemon = True

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not self.received:
                self.received = True
                timer.start()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            timer.cancel()


def _exit_now() -> None:
    console = make_console()
    console.show_cursor()
    if console.is_terminal:
        console.print()  # or the prompt is in the last table
    sys.stdout.flush()
    os._exit(0)


@contextmanager
def _display(url: str, *, json: bool) -> Iterator[Show]:
    """Yield the function that shows a snapshot: in place on a terminal, else below the last."""
    if json:
        yield lambda snapshot: _print_json(snapshot, url)
        return
    console = make_console()
    if not console.is_terminal:
        yield lambda snapshot: console.print(_draw(snapshot, snapshot.rows, url))
        return
    seen: list[QueueRow] = []
    with Live(console=console, auto_refresh=False) as live:

        def show(snapshot: Snapshot) -> None:
            if snapshot.error is None:
                seen[:] = snapshot.rows
            live.update(_draw(snapshot, seen, url), refresh=True)

        yield show


def _print_json(snapshot: Snapshot, url: str) -> None:
    document: dict[str, object] = {"at": snapshot.at}
    if snapshot.error is not None:
        document["error"] = describe_error(snapshot.error, url)
    else:
        document["queues"] = [
            row_document(row) | _rates_document(snapshot, row) for row in snapshot.rows
        ]
    typer.echo(as_json(document))


def _rates_document(snapshot: Snapshot, row: QueueRow) -> dict[str, object]:
    put, acked = snapshot.rates.get(row.info.name, (None, None))
    return {"put_per_second": put, "acked_per_second": acked}


def _draw(snapshot: Snapshot, rows: list[QueueRow], url: str) -> RenderableType:
    """Return the time and the table of a snapshot; after an error, the table before it."""
    when = f"{datetime.fromtimestamp(snapshot.at):%H:%M:%S}"
    head = Text(f"{address_of(url)}  {when}", style="dim")
    parts: list[RenderableType] = [head]
    if snapshot.error is not None:
        parts.append(Text(describe_error(snapshot.error, url), style="bold red"))
    if rows:
        parts.append(rows_table(rows, snapshot.rates))
    elif snapshot.error is None:
        parts.append(Text("there are no queues"))
    return Group(*parts)


# The queries


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Result of one query."""

    at: float
    """Seconds since the epoch."""
    rows: list[QueueRow] = field(default_factory=list)
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Items put and acked per second since the last query, by the names of queues."""
    error: LeaseqError | CommandError | None = None
    """The reason if there was no result."""


async def watch_queues(
    make_broker: Callable[[], Broker],
    names: Collection[str],
    interval: float,
    show: Show,
) -> None:
    """Query queues again and again, without end.

    After the first result errors do not end it: the server may come back, and so may a queue.

    Args:
        make_broker: Makes a broker that is not yet connected.
        names: Names of the queues; empty: all.
        interval: Seconds between two queries.
        show: Called with the result of each.

    Raises:
        CommandError: The first query found that a queue does not exist.
        LeaseqError: The first query did not reach a usable server.

    If cancelled, it ends.
    """
    watcher = _Watcher(names)
    while True:
        try:
            async with make_broker() as broker:
                # The handle of a deleted queue stays closed, so a new broker is needed.
                while not watcher.stale:
                    await watcher.query(broker, interval, show)
        except UnusableServerError as error:
            if not watcher.has_result:
                raise
            show(Snapshot(time.time(), error=error))
            await anyio.sleep(interval)
        watcher.stale = False


async def _report_silence(since: float, show: Show) -> None:
    """Show again and again that the server has not answered since a time."""
    while True:
        await anyio.sleep(_PATIENCE)
        when = time.strftime("%H:%M:%S", time.localtime(since))
        show(Snapshot(time.time(), error=CommandError(f"the server has not answered since {when}")))


class _Watcher:
    """The query of a watch, with the result of the last one."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._last: dict[str, QueueRow] = {}
        self._queried_at = 0.0
        self._away_since: float | None = None  # seconds since the epoch
        self.has_result = False
        self.stale = False

    async def query(self, broker: Broker, interval: float, show: Show) -> None:
        """Query once, show the result, and pause; show that there is no answer for long."""
        started = anyio.current_time()
        since = self._away_since or time.time()
        failure: LeaseqError | CommandError | None = None
        rows: list[QueueRow] = []
        async with anyio.create_task_group() as tg:
            if self.has_result:
                tg.start_soon(_report_silence, since, show)
            try:
                rows = await find_rows(broker, self._names)
            except (CommandError, LeaseqError) as error:
                failure = error  # raised in here, it would be in a group
            tg.cancel_scope.cancel()
        if failure is not None:
            if not self.has_result or not isinstance(
                failure, CommandError | ServerUnavailableError
            ):
                raise failure
            self._away_since = since
            show(Snapshot(time.time(), error=failure))
            await anyio.sleep(interval)
            return
        self._away_since = None
        now = anyio.current_time()
        show(Snapshot(time.time(), rows, self._rates(rows, now - self._queried_at)))
        self._last = {row.info.name: row for row in rows}
        self._queried_at = now
        self.has_result = True
        self.stale = any(row.statistics is None for row in rows)
        took = now - started
        rest = min(took * _REST, _LONGEST_REST) if took > interval / _REST else 0.0
        await anyio.sleep(max(interval - took, rest))

    def _rates(self, rows: list[QueueRow], seconds: float) -> dict[str, tuple[float, float]]:
        rates = {}
        for row in rows:
            old = self._last.get(row.info.name)
            if old is None or old.statistics is None or row.statistics is None:
                continue
            put = row.statistics.put - old.statistics.put
            acked = row.statistics.acked - old.statistics.acked
            if old.info.created_at == row.info.created_at:
                rates[row.info.name] = (put / seconds, acked / seconds)
        return rates
