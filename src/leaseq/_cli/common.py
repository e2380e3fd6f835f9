"""Common parts of the commands: parameters, the broker of a URL, one line for an error."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, TypeVar
from urllib.parse import unquote

import anyio
import typer

from .._connect import SERVER_SCHEMES, connect
from .._core.errors import LeaseqError, ServerUnavailableError
from .._core.queue_options import check_name
from .._core.texts import leaves
from ..abc import Broker
from .text import printable, read_key

T = TypeVar("T")

_IN_DOUBT = "it may have been done, so look before you try again"


# Parameters


def _check_name(text: str) -> str:
    try:
        check_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    return text


Url = Annotated[
    str,
    typer.Option(
        envvar="LEASEQ_URL",
        help="URL of the broker. Put a password into the variable, which ps does not show.",
        metavar="URL",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on one line, for scripts.")]
Name = Annotated[
    str, typer.Argument(help="Name of the queue.", metavar="NAME", callback=_check_name)
]
Key = Annotated[
    str,
    typer.Argument(
        help="Key of the item: a string; int:42; or bytes:00ff, in hexadecimal.", metavar="KEY"
    ),
]
Limit = Annotated[int, typer.Option(min=1, help="Show at most N.", metavar="N")]
OptionalLimit = Annotated[
    int | None, typer.Option(min=1, help="Show at most N of each.", metavar="N")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


class EventLoop(StrEnum):
    """Event loops that a command can run on."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


def _check_installed(backend: EventLoop) -> EventLoop:
    if importlib.util.find_spec(backend) is None:
        raise typer.BadParameter(f"{backend} is not installed: pip install 'leaseq[{backend}]'")
    return backend


EventLoopOption = Annotated[
    EventLoop, typer.Option(callback=_check_installed, help="Event loop to run on.")
]


def parse_key(text: str) -> str | int | bytes:
    """Read a key from the command line.

    Raises:
        BadParameter: The text is empty, or not of the kind that its prefix announces.
    """
    if not text:
        raise typer.BadParameter("it is empty: for the empty string, write str:", param_hint="KEY")
    try:
        return read_key(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="KEY") from None


def confirm(question: str) -> None:
    """Ask the operator, and go on if the answer is yes.

    Raises:
        Exit: The answer is anything else, or stdin has ended.
    """
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    answer = sys.stdin.readline()
    if answer.strip().lower() in ("y", "yes"):
        return
    if not answer.endswith("\n"):
        typer.echo(err=True)
    typer.echo("leaseq: nothing was done; --yes does it without asking", err=True)
    raise typer.Exit(1)


# Brokers


class CommandError(Exception):
    """A command was not done; the message gives the reason."""


def make_broker(url: str) -> Broker:
    """Return the broker of a URL, not yet connected.

    Raises:
        BadParameter: The URL is not one of a server.
    """
    scheme, colon, _ = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "memory":
        raise typer.BadParameter(
            "memory:// begins and ends with this process, so it has no queues to see or to "
            "change: pass the URL of the server",
            param_hint="--url",
        )
    if scheme not in SERVER_SCHEMES:
        choices = ", ".join(f"{each}://" for each in SERVER_SCHEMES)
        raise typer.BadParameter(
            f"the URL of a server starts with one of {choices}", param_hint="--url"
        )
    try:
        return connect(url)
    except (LeaseqError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def address_of(url: str) -> str:
    """Return a URL without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def run_with_broker(
    url: str, command: Callable[[Broker], Awaitable[T]], *, changes: bool = False
) -> T:
    """Connect, run a command on the broker, and disconnect.

    Args:
        url: URL of the broker.
        command: The command.
        changes: True if the command changes something. The operator is then told when it is in
            doubt whether it did.

    Raises:
        BadParameter: The URL is not one of a server.
        Exit: The command was not done, and the operator was told the reason.
    """
    broker = make_broker(url)

    async def connected() -> T:
        async with broker:
            return await command(broker)

    with reporting_errors(url, changes=changes):
        return anyio.run(connected)


# Errors


@contextmanager
def reporting_errors(url: str, *, changes: bool = False) -> Iterator[None]:
    """Turn any error into one line and exit code 1. Arguments are those of `run_with_broker`."""
    logger = logging.getLogger("leaseq")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the command itself reports to the operator
    try:
        yield
    except Exception as error:
        first = next(leaves(error))
        if isinstance(first, BrokenPipeError | typer.Exit):
            raise first from None
        typer.echo(f"leaseq: {describe_error(first, url, changes=changes)}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if changes:
            typer.echo(f"leaseq: interrupted: {_IN_DOUBT}", err=True)
        raise typer.Exit(130) from None
    finally:
        logger.setLevel(level)


def describe_error(error: BaseException, url: str, *, changes: bool = False) -> str:
    """Return one line about an error, without the password of the URL."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, ServerUnavailableError) and error.in_doubt and changes:
        return f"{text}: {_IN_DOUBT}"
    if isinstance(error, CommandError | LeaseqError) or type(error) is LookupError:
        return text
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
    password = _password_of(url)
    if password and password in unquote(text):
        return f"unexpected {where}"
    return f"unexpected {where}: {text}"


def _password_of(url: str) -> str:
    return unquote(url.partition("://")[2].rpartition("@")[0].partition(":")[2])
