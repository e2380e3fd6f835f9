"""From a URL to a broker for one command, and from what goes wrong to one line and an exit code."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar
from urllib.parse import unquote

import anyio
import typer

from .._connect import connect
from .._core.errors import LeaseqError, ServerUnavailableError
from ..abc import Broker
from .text import printable

__all__ = ["NotDone", "consult", "explain", "guarded", "make_broker", "place"]

T = TypeVar("T")

_PERHAPS = "it may have been done, so look before you try again"


class NotDone(Exception):  # noqa: N818  # it says what it is
    """What an operator asked for is not done; its text says why."""


def make_broker(url: str) -> Broker:
    """The broker of a URL, not yet connected.

    Raises:
        BadParameter: there is none that a command could be of use to.
    """
    try:
        broker = connect(url)
    except (LeaseqError, ValueError) as error:
        text = str(error).replace("memory://, ", "")  # which is refused below
        raise typer.BadParameter(text, param_hint="--url") from None
    if url.partition(":")[0].lower() == "memory":
        raise typer.BadParameter(
            "memory:// begins and ends with this process, so that there is nothing in it to see or "
            "to do: name the server where the queues live",
            param_hint="--url",
        )
    return broker


def place(url: str) -> str:
    """Where a URL leads, without who goes there and with which password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def consult(url: str, command: Callable[[Broker], Awaitable[T]], *, changes: bool = False) -> T:
    """Connect, have something done, and disconnect.

    Args:
        url: Where to.
        command: What is done with the broker.
        changes: Whether it changes something: who cannot tell whether it did is told so.

    Raises:
        BadParameter: the URL will not do.
        Exit: it was not done, and the operator was told why.
    """
    broker = make_broker(url)

    async def connected() -> T:
        async with broker:
            return await command(broker)

    with guarded(url, changes=changes):
        return anyio.run(connected)


@contextmanager
def guarded(url: str, *, changes: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong into one line and the exit code 1. Arguments are `consult`'s."""
    logger = logging.getLogger("leaseq")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what concerns the operator, the command says itself
    try:
        yield
    except Exception as error:
        first = next(_leaves(error))
        if isinstance(first, BrokenPipeError | typer.Exit):
            raise first from None
        typer.echo(f"leaseq: {explain(first, url, changes=changes)}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if changes:
            typer.echo(f"leaseq: interrupted: {_PERHAPS}", err=True)
        raise typer.Exit(130) from None
    finally:
        logger.setLevel(level)


def explain(error: BaseException, url: str, *, changes: bool = False) -> str:
    """What went wrong, in one line that has no password in it."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, ServerUnavailableError) and error.in_doubt and changes:
        return f"{text}: {_PERHAPS}"
    if isinstance(error, NotDone | LeaseqError) or type(error) is LookupError:
        return text
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
    if _password(url) and _password(url) in unquote(text):
        return f"unexpected {where}"
    return f"unexpected {where}: {text}"


def _password(url: str) -> str:
    return unquote(url.partition("://")[2].rpartition("@")[0].partition(":")[2])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
