"""``leaseq demo``: its options, the progress bar and the table. Needs typer and rich."""

from __future__ import annotations

import logging
import math
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from leaseq import Statistics

from ..common import EventLoop, EventLoopOption, make_broker, reporting_errors
from .files import find_files
from .job import Options, Report, index
from .shared import index_with_processes

_DEFAULTS = Options()
_LINE_EVERY = 1.0
_MOST_IMPORTED = 8
_PROCESSES = 4

Show = Callable[[Statistics], None]


def demo(
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder to index.",
            show_default="the standard library of this Python",
        ),
    ] = None,
    backend: EventLoopOption = EventLoop.ASYNCIO,
    workers: Annotated[int, typer.Option(help="Number of workers.")] = _DEFAULTS.workers,
    crash_rate: Annotated[
        float,
        typer.Option(
            help="Share of the files, 0 to 1, that kill the first worker that takes them."
        ),
    ] = _DEFAULTS.crash_rate,
    seed: Annotated[int, typer.Option(help="Seed of the choice of these files.")] = _DEFAULTS.seed,
    lease_timeout: Annotated[
        float, typer.Option(help="Seconds until the file of a dead worker goes to another one.")
    ] = _DEFAULTS.lease_timeout,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LEASEQ_DEMO_URL",
            help="URL of a file or a server, such as sqlite:///demo.db: the workers are processes "
            "that share the queue, and some of them are killed. Left out: in this process.",
            metavar="URL",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="With --url: number of processes.", metavar="N")
    ] = None,
) -> None:
    """Index Python files with workers that die; check that none is lost or in two hands at once.

    Every file is an item in a queue. Some workers die while they hold a file: its lease expires,
    and another worker does it. Some files are saved again while a worker holds them, and come back.
    Exits with 1 if a check fails. With --url the workers are processes, which are killed as by
    kill -9.
    """
    root = path or Path(sysconfig.get_path("stdlib"))
    try:
        options = Options(
            workers=workers, crash_rate=crash_rate, seed=seed, lease_timeout=lease_timeout
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    files = find_files(root)
    if not files:
        raise typer.BadParameter(f"there are no Python files in {root}", param_hint="path")

    if processes is not None and url is None:
        raise typer.BadParameter(
            "processes need a queue that they share: pass --url sqlite:///demo.db",
            param_hint="--processes",
        )
    if url is not None:
        make_broker(url)  # a wrong URL is an error of usage
    console = Console()
    with _quiet(), _display(console) as show, _failing_as(url):
        try:
            if url is None:
                report = anyio.run(index, files, options, show, backend=backend.value)
            else:
                shared = partial(
                    index_with_processes,
                    *(files, options, url, processes or _PROCESSES, backend.value, show),
                )
                report = anyio.run(shared, backend=backend.value)
        except BaseExceptionGroup as group:
            # trio raises KeyboardInterrupt in the groups of its nurseries.
            if group.split(KeyboardInterrupt)[1] is None:
                raise KeyboardInterrupt from None
            raise

    console.print(_table(root, report, "processes" if url else "workers"))
    for failure in report.failures:
        typer.echo(f"check failed: {failure}", err=True)
    if report.failures:
        raise typer.Exit(1)
    typer.echo(
        "checked: every file done, none in two hands at once, each recorded under its newest token"
    )


@contextmanager
def _failing_as(url: str | None) -> Iterator[None]:
    """Turn errors of a shared queue into one line and exit code 1."""
    if url is None:
        yield
        return
    with reporting_errors(url):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence log records that the display counts, and warnings about the indexed files."""
    logger = logging.getLogger("leaseq")
    level = logger.level
    logger.setLevel(logging.ERROR)  # not a record for each lease that expires
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from ast.parse
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _display(console: Console) -> Iterator[Show]:
    """Yield the function that shows the progress: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _lines()
        return
    columns = (BarColumn(None), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("")

        def show(statistics: Statistics) -> None:
            progress.update(
                task,
                completed=statistics.acked,
                total=statistics.acked + _left(statistics),
                description=_describe(statistics),
            )

        yield show


def _lines() -> Show:
    """Return a function that prints one line per second, and one at the end."""
    due = -math.inf

    def show(statistics: Statistics) -> None:
        nonlocal due
        now = monotonic()
        if now < due and _left(statistics):
            return
        due = now + _LINE_EVERY
        typer.echo(_describe(statistics))

    return show


def _left(statistics: Statistics) -> int:
    return statistics.ready + statistics.leased + statistics.buffered


def _describe(statistics: Statistics) -> str:
    return (
        f"ready {statistics.ready:>5}  leased {statistics.leased:>4}  "
        f"done {statistics.acked:>5}  expired {statistics.expired:>4}"
    )


def _table(root: Path, report: Report, who: str) -> Table:
    table = Table(title=f"Index of {escape(str(root))}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    most_imported = Counter(report.imports).most_common(_MOST_IMPORTED)
    rows = {
        "files": f"{report.files:,}",
        "  that do not parse": f"{report.unparsable:,}",
        "functions and classes": f"{report.definitions:,}",
        "most imported": "\n".join(f"{escape(name)} {count:,}" for name, count in most_imported),
        f"{who} that died": f"{report.deaths:,}",
        "leases that expired, and were redone": f"{report.expired:,}",
        "files saved again meanwhile": f"{report.saved_again:,}",
        "time": f"{report.seconds:.1f} s",
        "throughput": f"{report.jobs / report.seconds:,.0f} files/s",
    }
    for row in rows.items():
        table.add_row(*row)
    return table
