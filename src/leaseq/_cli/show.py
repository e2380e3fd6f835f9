"""``leaseq queues``, ``info``, ``peek`` and ``dead``, and their results as tables and JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._core.reports import DeadLetter, Paused, QueueInfo
from .._core.texts import shown
from .common import Json, Key, Limit, Name, OptionalLimit, Url, parse_key, run_with_broker
from .queries import (
    DeadLetters,
    HeldLease,
    QueueDetails,
    QueueRow,
    find_details,
    find_letters,
    find_rows,
    find_value,
)
from .text import (
    as_json,
    counted,
    format_duration,
    indented_json,
    json_letter,
    json_value,
    printable,
    write_key,
)

_WIDE = 1000  # columns where there is no terminal, so that a row is one line for grep
_SHORT = 100  # characters of a pause, in a list of queues
_COUNTS = (
    *("put", "delivered", "acked", "released", "expired", "given_back", "cancelled", "dead"),
    "dropped",
)
_LOCAL = ("getters", "takers", "putters")  # waiters of this process: it has none


# Commands


def queues(*, url: Url, json: Json = False) -> None:
    """List the queues, with the number of ready, delayed, leased and dead items."""
    rows = run_with_broker(url, find_rows)
    if json:
        typer.echo(as_json([row_document(row) for row in rows]))
    elif rows:
        make_console().print(rows_table(rows))
    else:
        typer.echo("there are no queues")


def info(name: Name, *, url: Url, limit: OptionalLimit = None, json: Json = False) -> None:
    """Show one queue: counts, tenants, and leases with consumer, age and time left.

    Tenants that are paused come first, then those with the most items; leases come in the order of
    their hand-out. Tasks that a
    worker did not know in the last minutes are shown too. At most 20 of each are shown, unless
    --limit is given; with --json, all of them.
    """
    details = run_with_broker(url, lambda broker: find_details(broker, name))
    if json:
        typer.echo(as_json(_details_document(details, limit)))
        return
    console = make_console()
    for table in _details_tables(details, 20 if limit is None else limit):
        console.print(table)


def peek(name: Name, key: Key, *, url: Url, json: Json = False) -> None:
    """Show the newest value of a key, and leave the item where it is."""
    wanted = parse_key(key)
    value = run_with_broker(url, lambda broker: find_value(broker, name, wanted))
    document = _value_document(name, wanted, value)
    if json:
        typer.echo(as_json(document))
    elif "value" in document:
        typer.echo(indented_json(document["value"]))
    else:
        typer.echo(printable(repr(value)))


def dead(name: Name, *, url: Url, limit: Limit = 20, json: Json = False) -> None:
    """Show dead letters, the latest first, and leave them where they are.

    NAME is a queue, or a queue of dead letters: then those of all queues that share it are shown.
    """
    letters = run_with_broker(url, lambda broker: find_letters(broker, name, limit))
    if json:
        typer.echo(as_json(_letters_document(name, letters)))
    elif letters.letters:
        of_many = any(each.queue != name for each in letters.letters)
        make_console().print(_letters_table(letters, of_many=of_many))
    elif letters.total:
        typer.echo(
            f"{counted(letters.total, 'dead letter')}, of which none can be read at the moment"
        )
    else:
        typer.echo("no dead letters")


# Tables and documents


def make_console() -> Console:
    """Return a console on stdout that does not wrap lines where there is no terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_WIDE)
    return console


def rows_table(
    rows: Sequence[QueueRow], rates: Mapping[str, tuple[float, float]] | None = None
) -> Table:
    """Return a table of queues, a row each.

    Args:
        rows: The queues.
        rates: Items put and acked per second, by the names of queues; None: not shown.
    """
    table = _table("name", "ready", "delayed", "leased", "dead", "oldest ready", numbers=4)
    if rates is not None:
        for column in ("put/s", "acked/s"):
            table.add_column(column, justify="right")
    table.add_column("dead letters of", overflow="fold")
    has_pauses = any(row.info.paused or row.info.paused_tenants for row in rows)
    if has_pauses:
        table.add_column("paused", overflow="fold")
    has_groups = any(row.info.group for row in rows)
    if has_groups:
        table.add_column("group", overflow="fold")
    for row in rows:
        info, statistics = row.info, row.statistics
        cells: list[object] = [info.name, info.ready, info.delayed, info.leased]
        cells.append(Text(str(info.dead), style="bold red" if info.dead else ""))
        cells.append(format_duration(None if statistics is None else statistics.oldest_ready_age))
        if rates is not None:
            rate = rates.get(info.name)
            cells += ["-", "-"] if rate is None else [f"{each:.1f}" for each in rate]
        cells.append(", ".join(info.dead_letters_of))
        if has_pauses:
            cells.append(Text(_pauses_in_short(info), style="yellow"))
        if has_groups:
            cells.append(info.group)
        _add(table, cells)
    return table


def row_document(row: QueueRow) -> dict[str, object]:
    """Return the row of a queue as a JSON object."""
    age = None if row.statistics is None else row.statistics.oldest_ready_age
    return asdict(row.info) | {"oldest_ready_age": age}


def refusals_table(refusals: Sequence[tuple[str, str]], limit: int) -> Table:
    """Return a table of items that a version of the code would refuse, with the reasons."""
    table = _table("key", "reason", numbers=0)
    for key, reason in refusals[:limit]:
        _add(table, [key, reason])
    return _with_rest(table, len(refusals) - limit)


def _details_tables(details: QueueDetails, limit: int) -> list[Table]:
    """Return tables of one queue, with at most ``limit`` tenants and as many leases."""
    info, statistics = details.info, details.statistics
    facts = Table(title=Text(printable(info.name)), title_justify="left", show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    rows: dict[str, object] = {
        "ready": info.ready,
        "delayed": info.delayed,
        "leased": info.leased,
        "buffered": statistics.buffered,
        "oldest ready": format_duration(statistics.oldest_ready_age),
        "dead letters": info.dead,
        "dead letters of": ", ".join(info.dead_letters_of) or "-",
        **({"group": info.group} if info.group else {}),
        "made": _format_time(info.created_at),
        **({} if info.paused is None else {"paused": _pause(info.paused)}),
    }
    counts = {each: getattr(statistics, each) for each in _COUNTS}
    rows["so far"] = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    for what, fact in rows.items():
        _add(facts, [what, fact if fact != "" else "-"])
    tables = [facts]
    tenants = statistics.tenants or {}
    if tenants.keys() - {None}:
        pauses = info.paused_tenants
        table = _table("tenant", "ready", "leased", numbers=2)
        if pauses:
            table.add_column("paused", overflow="fold")
        busiest = sorted(
            tenants.items(),
            key=lambda each: (each[0] not in pauses, -each[1].ready - each[1].leased),
        )
        for name, has in busiest[:limit]:
            paused = None if name is None else pauses.get(name)
            cells = [_name(name), has.ready, has.leased]
            _add(table, [*cells, *(["-" if paused is None else _pause(paused)] if pauses else [])])
        tables.append(_with_rest(table, len(tenants) - limit))
    if details.leases:
        table = _table("leased key", "deliveries", "priority", "age", "expires in", numbers=2)
        for column in ("consumer", "tenant", "token"):
            table.add_column(column, overflow="fold")
        for one in details.leases[:limit]:
            cells = [
                write_key(one.key),
                one.deliveries,
                one.priority,
                format_duration(one.age),
                _left(one),
            ]
            _add(table, [*cells, _name(one.consumer), _name(one.tenant), one.token])
        tables.append(_with_rest(table, len(details.leases) - limit))
    if details.unknown:
        table = _table("unknown task", "reason", "left by", "ago", numbers=0)
        for each in details.unknown[:limit]:
            _add(table, [each.name, each.reason, each.worker, format_duration(each.age)])
        tables.append(_with_rest(table, len(details.unknown) - limit))
    return tables


def _left(lease: HeldLease) -> str:
    """Return the time that a lease has left, in words."""
    if lease.left == 0:
        return "overdue"
    left = "never" if lease.left is None else format_duration(lease.left)
    return f"{left}, cancelled" if lease.cancelled else left


def _details_document(details: QueueDetails, limit: int | None) -> dict[str, object]:
    """Return the details of one queue as a JSON object."""
    statistics = asdict(details.statistics)
    for each in _LOCAL:
        del statistics[each]
    tenants = details.statistics.tenants or {}
    statistics["tenants"] = [{"tenant": name, **asdict(has)} for name, has in tenants.items()]
    leases = [asdict(one) | {"key": write_key(one.key)} for one in details.leases[:limit]]
    unknown = [asdict(each) for each in details.unknown[:limit]]
    document = {"statistics": statistics, "leases": leases, "unknown": unknown}
    return asdict(details.info) | document


def _letters_table(letters: DeadLetters, *, of_many: bool) -> Table:
    """Return a table of dead letters; of several queues, with the names of these."""
    tasks = [_task_of(one) for one in letters.letters]
    of_tasks = any(task is not None for task in tasks)
    columns = ("key", *(["task"] if of_tasks else []), "reason", "error", "deliveries", "tenant")
    table = _table(*columns, "died at", numbers=0)
    if of_many:
        table.add_column("queue", overflow="fold")
    for one, task in zip(letters.letters, tasks, strict=True):
        reason, error = _why(one)
        cells: list[object] = [write_key(one.key), *([_or_dash(task)] if of_tasks else [])]
        cells += [reason, _or_dash(error), one.deliveries, _name(one.tenant)]
        cells += [_format_time(one.died_at), *([one.queue] if of_many else [])]
        _add(table, cells)
    return _with_rest(table, letters.total - len(letters.letters))


def _task_of(letter: DeadLetter[Any, Any]) -> str | None:
    """Return the name of the function of a task; None: the letter is of another item."""
    match letter.value:
        case {"name": str(name), "made_at": int() | float()}:
            return name
    return None


def _why(letter: DeadLetter[Any, Any]) -> tuple[str, str | None]:
    """Return the reason of a letter and its error, a line each: a task has all in its reason."""
    line = letter.reason.partition("\n")[0]
    if letter.error is None and _task_of(letter) is not None:
        reason, told, error = line.partition(", its last: ")
        if told:
            return f"{reason}, its last", error
    return line, letter.error


def _letters_document(name: str, letters: DeadLetters) -> dict[str, object]:
    """Return dead letters as a JSON object."""
    found = [json_letter(each) for each in letters.letters]
    return {"queue": name, "total": letters.total, "letters": found}


def _value_document(name: str, key: object, value: object) -> dict[str, object]:
    """Return the value of a key as a JSON object."""
    return {"queue": name, "key": write_key(key), **json_value(value)}


# Cells


def _table(*columns: str, numbers: int) -> Table:
    """Return a table with these columns; as many after the first as ``numbers`` align right."""
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


def _pause(paused: Paused) -> str:
    """Return since when something is paused, and why."""
    age = format_duration(max(0.0, time.time() - paused.since))
    because = f": {printable(paused.reason)}" if paused.reason else ""
    return f"since {_format_time(paused.since)}, {age} ago{because}"


def _pauses_in_short(info: QueueInfo) -> str:
    """Return what is paused of a queue, with the beginning of the reason."""
    parts: list[str] = []
    if info.paused is not None:
        text = _pause(info.paused)
        parts.append(text if len(text) <= _SHORT else f"{text[:_SHORT]}…")
    if info.paused_tenants:
        parts.append(counted(len(info.paused_tenants), "tenant"))
    return ", and ".join(parts)


def _or_dash(text: Any) -> Any:
    return "-" if text is None else text


def _name(name: str | None) -> str:
    """Return the name of a tenant or a consumer; a dash for None, and nothing else."""
    return "-" if name is None else shown(name) if name in ("", "-") else name


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
