"""Common parts of the commands: parameters, the broker of a URL, one line for an error."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Annotated, TypeVar
from urllib.parse import unquote

import anyio
import typer

from .._connect import SHARED_SCHEMES, connect, file_of, path_hint
from .._core.errors import LeaseqError, ServerUnavailableError
from .._core.queue_options import queue_name
from .._core.texts import failure_text, leaves
from ..abc import Broker
from .streams import OutputError, is_interrupt
from .text import printable, read_key

T = TypeVar("T")

_IN_DOUBT = "it may have been done, so look before you try again"


# Parameters


def _check_name(text: str) -> str:
    try:
        queue_name(text)
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


# Modules


def import_from(path: str, parameter: str) -> tuple[ModuleType, object]:
    """Import the module of ``app.module:name``, and return it with the object; None: it has none.

    Raises:
        BadParameter: The path is not of this form, or there is no such module.
        Exit: The module has an error, which the operator was told.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise typer.BadParameter(f"write app.module:name, not {path!r}", param_hint=parameter)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise typer.BadParameter(
                f"there is no module {missing!r}, here or installed", param_hint=parameter
            ) from None
        why = f"{module_name} cannot be imported: {failure_text(error)}"
        typer.echo(f"leaseq: {printable(why)} ({_place_of(error)})", err=True)
        raise typer.Exit(1) from None
    return module, getattr(module, name, None)


# Brokers


class CommandError(Exception):
    """A command was not done; the message gives the reason."""


def make_broker(url: str) -> Broker:
    """Return the broker of a URL, not yet connected.

    Raises:
        BadParameter: The URL is not one of a place that processes share.
    """
    scheme, colon, _ = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "memory":
        raise typer.BadParameter(
            "memory:// begins and ends with this process, so it has no queues to see or to "
            "change: pass the URL of the file or the server",
            param_hint="--url",
        )
    if scheme not in SHARED_SCHEMES:
        choices = ", ".join(f"{each}://" for each in SHARED_SCHEMES)
        raise typer.BadParameter(
            f"the URL of queues that processes share starts with one of {choices}{path_hint(url)}",
            param_hint="--url",
        )
    try:
        return connect(url)
    except (LeaseqError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def address_of(url: str) -> str:
    """Return a URL without user, password and options."""
    scheme, _, rest = url.partition("://")
    place, _, _ = rest.partition("?")
    return f"{scheme}://{place if scheme == 'sqlite' else place.rpartition('@')[2]}"


def run_with_broker(
    url: str,
    command: Callable[[Broker], Awaitable[T]],
    *,
    changes: bool = False,
    makes: bool = False,
) -> T:
    """Connect, run a command on the broker, and disconnect.

    Args:
        url: URL of the broker.
        command: The command.
        changes: True if the command changes something. The operator is then told when it is in
            doubt whether it did.
        makes: True if queues in a file that is not there are to be made.

    Raises:
        BadParameter: The URL is not one of a server.
        Exit: The command was not done, and the operator was told the reason.
    """
    broker = make_broker(url)
    began = False

    async def connected() -> T:
        nonlocal began
        async with broker:
            began = True
            return await command(broker)

    with reporting_errors(url, changes=lambda: changes and began):
        if not makes:
            check_file(url)
        return anyio.run(connected)


def check_file(url: str) -> None:
    """Raise a `CommandError` for queues in a file that is not there: it is not to be made."""
    path = file_of(url)
    if path is not None and path.parent.is_dir() and not path.exists():
        raise CommandError(f"there is no file {path}: the first process with queues in it makes it")


# Errors


@contextmanager
def reporting_errors(url: str, *, changes: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn any error into one line and exit code 1.

    Args:
        url: URL of the broker.
        changes: Returns True if something may have been changed.
    """
    logger = logging.getLogger("leaseq")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the command itself reports to the operator
    try:
        yield
    except BaseException as error:
        first = next(leaves(error))
        if is_interrupt(first):
            if changes():
                typer.echo(f"leaseq: interrupted: {_IN_DOUBT}", err=True)
            raise typer.Exit(130) from None
        if isinstance(first, OutputError | typer.Exit):
            raise first from None
        if not isinstance(error, Exception):
            raise
        typer.echo(f"leaseq: {describe_error(first, url, changes=changes())}", err=True)
        raise typer.Exit(1) from None
    finally:
        logger.setLevel(level)


def describe_error(error: BaseException, url: str, *, changes: bool = False) -> str:
    """Return one line about an error, without the password of the URL."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, ServerUnavailableError) and error.in_doubt and changes:
        return f"{text}: {_IN_DOUBT}"
    if isinstance(error, CommandError | LeaseqError) or type(error) is LookupError:
        return text
    where = f"{type(error).__name__} at {_place_of(error)}"
    password = _password_of(url)
    if password and password in unquote(text):
        return f"unexpected {where}"
    return f"unexpected {where}: {text}"


def _place_of(error: BaseException) -> str:
    """Return the file and the line in which an error was raised."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _password_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return "" if scheme == "sqlite" else unquote(rest.rpartition("@")[0].partition(":")[2])
