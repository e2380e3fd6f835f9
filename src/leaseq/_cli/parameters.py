"""What several commands are told, and how they ask back."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .._core.queue_options import check_name
from .text import read_key

__all__ = ["Fewer", "Json", "Key", "Limit", "Name", "Url", "Yes", "confirm", "to_key"]

Url = Annotated[
    str,
    typer.Option(
        envvar="LEASEQ_URL",
        help="Where the queues live. A password is best in the variable, where ps shows it to "
        "nobody.",
        metavar="URL",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For scripts: JSON, on one line.")]


def _to_name(text: str) -> str:
    try:
        check_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    return text


Name = Annotated[str, typer.Argument(help="The queue.", metavar="NAME", callback=_to_name)]
Key = Annotated[
    str, typer.Argument(help="A string; or int:42, or bytes:00ff in hexadecimal.", metavar="KEY")
]
Limit = Annotated[int, typer.Option(min=1, help="How many to show at most.", metavar="N")]
Fewer = Annotated[
    int | None, typer.Option(min=1, help="How many of each to show at most.", metavar="N")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def to_key(text: str) -> str | int | bytes:
    """The key that is meant.

    Raises:
        BadParameter: it is none.
    """
    if not text:
        raise typer.BadParameter("it is empty: for the empty string, write str:", param_hint="KEY")
    try:
        return read_key(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="KEY") from None


def confirm(question: str) -> None:
    """Let the operator say yes.

    Raises:
        Exit: they did not, or there is nobody.
    """
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    answer = sys.stdin.readline()
    if answer.strip().lower() in ("y", "yes"):
        return
    if not answer.endswith("\n"):
        typer.echo(err=True)
    typer.echo("leaseq: nothing was done; --yes does it without asking", err=True)
    raise typer.Exit(1)
