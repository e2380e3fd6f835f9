"""What was found, as tables for people and as documents for scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .queries import Details, Letters, Row
from .text import json_letter, json_value, printable, span, write_key

__all__ = [
    "details_document",
    "details_tables",
    "letters_document",
    "letters_table",
    "make_console",
    "row_document",
    "rows_table",
    "value_document",
]

_WIDE = 1000  # columns, where a line has no end: so that a row is one line for grep
_OF_QUEUE = ("put", "delivered", "acked", "released", "expired", "cancelled", "dead", "dropped")
_HERE_ONLY = ("getters", "takers", "putters")  # of this process, where nobody waits


def make_console() -> Console:
    """A console on stdout, which breaks no lines where there is no terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_WIDE)
    return console


# Queues


def rows_table(
    rows: Sequence[Row], rates: Mapping[str, tuple[float, float]] | None = None
) -> Table:
    """Queues at a glance.

    Args:
        rows: What there is.
        rates: Of queues by their names, items put and acknowledged in a second.
    """
    table = _table("name", "ready", "delayed", "leased", "dead", "oldest ready", numbers=4)
    if rates is not None:
        for column in ("put/s", "acked/s"):
            table.add_column(column, justify="right")
    table.add_column("dead letters of", overflow="fold")
    for row in rows:
        info, statistics = row.info, row.statistics
        cells: list[object] = [info.name, info.ready, info.delayed, info.leased]
        cells.append(Text(str(info.dead), style="bold red" if info.dead else ""))
        cells.append(span(None if statistics is None else statistics.oldest_ready_age))
        if rates is not None:
            rate = rates.get(info.name)
            cells += ["-", "-"] if rate is None else [f"{each:.1f}" for each in rate]
        cells.append(", ".join(info.dead_letters_of))
        _add(table, cells)
    return table


def row_document(row: Row) -> dict[str, object]:
    """A queue at a glance, as an object."""
    age = None if row.statistics is None else row.statistics.oldest_ready_age
    return asdict(row.info) | {"oldest_ready_age": age}


# One queue


def details_tables(details: Details, limit: int) -> list[Table]:
    """One queue at length, with so many of its tenants and of its leases."""
    info, statistics = details.info, details.statistics
    facts = Table(title=Text(printable(info.name)), title_justify="left", show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    rows: dict[str, object] = {
        "ready": info.ready,
        "delayed": info.delayed,
        "leased": info.leased,
        "buffered": statistics.buffered,
        "oldest ready": span(statistics.oldest_ready_age),
        "dead letters": info.dead,
        "dead letters of": ", ".join(info.dead_letters_of) or "-",
        "made": _when(info.created_at),
    }
    counts = {each: getattr(statistics, each) for each in _OF_QUEUE}
    rows["so far"] = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    for what, fact in rows.items():
        _add(facts, [what, fact if fact != "" else "-"])
    tables = [facts]
    tenants = statistics.tenants or {}
    if tenants.keys() - {None}:
        table = _table("tenant", "ready", "leased", numbers=2)
        busiest = sorted(tenants.items(), key=lambda each: -each[1].ready - each[1].leased)
        for name, has in busiest[:limit]:
            _add(table, ["-" if name is None else name, has.ready, has.leased])
        tables.append(_with_rest(table, len(tenants) - limit))
    if details.leases:
        table = _table("leased key", "deliveries", "priority", "age", "expires in", numbers=2)
        for column in ("consumer", "tenant", "token"):
            table.add_column(column, overflow="fold")
        for one in details.leases[:limit]:
            left = "never" if one.left is None else "overdue" if one.left == 0 else span(one.left)
            cells = [write_key(one.key), one.deliveries, one.priority, span(one.age), left]
            _add(table, [*cells, _or_dash(one.consumer), _or_dash(one.tenant), one.token])
        tables.append(_with_rest(table, len(details.leases) - limit))
    return tables


def details_document(details: Details, limit: int | None) -> dict[str, object]:
    """One queue at length, as an object."""
    statistics = asdict(details.statistics)
    for each in _HERE_ONLY:
        del statistics[each]
    tenants = details.statistics.tenants or {}
    statistics["tenants"] = [{"tenant": name, **asdict(has)} for name, has in tenants.items()]
    leases = [asdict(one) | {"key": write_key(one.key)} for one in details.leases[:limit]]
    return asdict(details.info) | {"statistics": statistics, "leases": leases}


# Dead letters and values


def letters_table(letters: Letters, *, of_many: bool) -> Table:
    """Dead letters; of several queues, with the names of these."""
    table = _table("key", "reason", "error", "deliveries", "tenant", "died at", numbers=0)
    if of_many:
        table.add_column("queue", overflow="fold")
    for one in letters.letters:
        cells = [write_key(one.key), one.reason, _or_dash(one.error), one.deliveries]
        cells += [_or_dash(one.tenant), _when(one.died_at), *([one.queue] if of_many else [])]
        _add(table, cells)
    return _with_rest(table, letters.total - len(letters.letters))


def letters_document(name: str, letters: Letters) -> dict[str, object]:
    """Dead letters, as an object."""
    found = [json_letter(each) for each in letters.letters]
    return {"queue": name, "total": letters.total, "letters": found}


def value_document(name: str, key: object, value: object) -> dict[str, object]:
    """The value of a key, as an object."""
    return {"queue": name, "key": write_key(key), **json_value(value)}


# Cells


def _table(*columns: str, numbers: int) -> Table:
    """A table with these columns, of which some after the first have numbers."""
    table = Table()
    for position, column in enumerate(columns):
        right = 0 < position <= numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _add(table: Table, cells: Sequence[object]) -> None:
    table.add_row(*(each if isinstance(each, Text) else Text(printable(each)) for each in cells))


def _with_rest(table: Table, more: int) -> Table:
    if more > 0:
        table.caption = f"and {more:,} more"
        table.caption_justify = "left"
    return table


def _or_dash(text: Any) -> Any:
    return "-" if text is None else text


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
