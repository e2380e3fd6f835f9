"""``leaseq queues``, ``info``, ``peek`` and ``dead``: they look, and change nothing."""

from __future__ import annotations

import typer

from .common import consult
from .parameters import Fewer, Json, Key, Limit, Name, Url, to_key
from .queries import find_details, find_letters, find_rows, find_value
from .tables import (
    details_document,
    details_tables,
    letters_document,
    letters_table,
    make_console,
    row_document,
    rows_table,
    value_document,
)
from .text import as_json, counted, legible_json, printable

__all__ = ["dead", "info", "peek", "queues"]


def queues(*, url: Url, json: Json = False) -> None:
    """List the queues: what waits in them, what is leased, what has died."""
    rows = consult(url, find_rows)
    if json:
        typer.echo(as_json([row_document(row) for row in rows]))
    elif rows:
        make_console().print(rows_table(rows))
    else:
        typer.echo("there are no queues")


def info(name: Name, *, url: Url, limit: Fewer = None, json: Json = False) -> None:
    """Tell all of one queue: counts, tenants, and who holds what for how long.

    Tenants with the most items come first, and leases in the order in which they were handed out:
    20 of each are shown, unless --limit says otherwise, and with --json all.
    """
    details = consult(url, lambda broker: find_details(broker, name))
    if json:
        typer.echo(as_json(details_document(details, limit)))
        return
    console = make_console()
    for table in details_tables(details, 20 if limit is None else limit):
        console.print(table)


def peek(name: Name, key: Key, *, url: Url, json: Json = False) -> None:
    """Show the newest value of a key, and leave it where it is."""
    wanted = to_key(key)
    value = consult(url, lambda broker: find_value(broker, name, wanted))
    document = value_document(name, wanted, value)
    if json:
        typer.echo(as_json(document))
    elif "value" in document:
        typer.echo(legible_json(document["value"]))
    else:
        typer.echo(printable(repr(value)))


def dead(name: Name, *, url: Url, limit: Limit = 20, json: Json = False) -> None:
    """Show dead letters, the latest first, and leave them where they are.

    NAME is a queue; or a queue of dead letters, which shows those of all queues that share it.
    """
    letters = consult(url, lambda broker: find_letters(broker, name, limit))
    if json:
        typer.echo(as_json(letters_document(name, letters)))
    elif letters.letters:
        of_many = any(each.queue != name for each in letters.letters)
        make_console().print(letters_table(letters, of_many=of_many))
    elif letters.total:
        typer.echo(f"{counted(letters.total, 'dead letter')}: none can be looked at just now")
    else:
        typer.echo("no dead letters")
