"""``leaseq watch``: queues as they are now, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Timer
from types import FrameType
from typing import Annotated

import anyio
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from .common import explain, guarded, make_broker, place
from .observe import Look, watch_queues
from .parameters import Json, Url
from .queries import Row
from .tables import make_console, row_document, rows_table
from .text import as_json

__all__ = ["watch"]

Show = Callable[[Look], None]

_PATIENCE = 1.0  # seconds to leave in good order


def watch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which queues; none: all.", metavar="NAME")
    ] = None,
    *,
    url: Url,
    interval: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds from one look to the next.", metavar="SECONDS"),
    ] = 2.0,
    json: Json = False,
) -> None:
    """Show queues as they change, until Ctrl-C. It goes on where the server is away for a while.

    With --json a line for each look.
    """
    make_broker(url)  # or it is a matter of usage
    interrupt = _Interrupt()

    async def main(show: Show) -> None:
        with interrupt.awaited():
            await watch_queues(lambda: make_broker(url), names or (), interval, show)

    with guarded(url), _display(url, json=json) as show:
        try:
            anyio.run(main, show)
        except (Exception, KeyboardInterrupt):
            if not interrupt.came:
                raise


class _Interrupt:
    """Ctrl-C, which ends a watch soon, even if a server that does not answer is waited for.

    Nothing is changed by a watch, so that it may be left in the middle.
    """

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Listen for it, in the event loop."""
        before = signal.getsignal(signal.SIGINT)
        timer = Timer(_PATIENCE, _leave)
        timer.daemon = True

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not self.came:
                self.came = True
                timer.start()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            timer.cancel()


def _leave() -> None:
    console = make_console()
    console.show_cursor()
    if console.is_terminal:
        console.print()  # or what comes next is in the last table
    sys.stdout.flush()
    os._exit(0)


@contextmanager
def _display(url: str, *, json: bool) -> Iterator[Show]:
    """Give the function that shows a look: in place on a terminal, elsewhere below the last."""
    if json:
        yield lambda look: _say(look, url)
        return
    console = make_console()
    if not console.is_terminal:
        yield lambda look: console.print(_draw(look, look.rows, url))
        return
    seen: list[Row] = []
    with Live(console=console, auto_refresh=False) as live:

        def show(look: Look) -> None:
            if look.error is None:
                seen[:] = look.rows
            live.update(_draw(look, seen, url), refresh=True)

        yield show


def _say(look: Look, url: str) -> None:
    said: dict[str, object] = {"at": look.at}
    if look.error is not None:
        said["error"] = explain(look.error, url)
    else:
        said["queues"] = [row_document(row) | _rates(look, row) for row in look.rows]
    typer.echo(as_json(said))


def _rates(look: Look, row: Row) -> dict[str, object]:
    put, acked = look.rates.get(row.info.name, (None, None))
    return {"put_per_second": put, "acked_per_second": acked}


def _draw(look: Look, rows: list[Row], url: str) -> RenderableType:
    """What was seen, and when; under what went wrong, what was seen before."""
    when = f"{datetime.fromtimestamp(look.at):%H:%M:%S}"
    head = Text(f"{place(url)}  {when}", style="dim")
    parts: list[RenderableType] = [head]
    if look.error is not None:
        parts.append(Text(explain(look.error, url), style="bold red"))
    if rows:
        parts.append(rows_table(rows, look.rates))
    elif look.error is None:
        parts.append(Text("there are no queues"))
    return Group(*parts)
