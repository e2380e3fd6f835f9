"""``leaseq put``, ``purge`` and ``redrive``: they change what is in a queue."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from .._core.errors import KeyAlreadyInFlightError, LeaseqError, ServerError, ServerUnavailableError
from .._core.options import InFlightPolicy, PutOptions
from .._core.reports import PutOutcome, QueueInfo
from ..abc import Broker, LeasedQueue
from .common import NotDone, consult
from .parameters import Json, Key, Name, Url, Yes, confirm, to_key
from .queries import find, find_queue
from .text import LegibleCodec, as_json, counted, printable, read_value, write_key

__all__ = ["purge", "put", "redrive"]

_PAUSE = 0.1  # seconds between two looks whether a put waits for room


# Putting


def put(
    name: Name,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON; or @FILE; or - for stdin.", metavar="VALUE")],
    *,
    url: Url,
    priority: Annotated[
        int | None, typer.Option(help="The higher the sooner; 3 is usual.", metavar="N")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose work it is.", metavar="NAME")] = None,
    delay: Annotated[
        float, typer.Option(min=0, help="Seconds until it is ready.", metavar="SECONDS")
    ] = 0.0,
    ttl: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds in which it must have been leased.", metavar="SECONDS"),
    ] = None,
    if_in_flight: Annotated[
        InFlightPolicy,
        typer.Option(
            help="If the key is leased: update what a release puts back and an ack drops, reject, "
            "or buffer it until the lease has ended."
        ),
    ] = "update",
    timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for room in a full queue.", metavar="SECONDS"),
    ] = 5.0,
    create: Annotated[bool, typer.Option("--create", help="Make the queue if need be.")] = False,
    json: Json = False,
) -> None:
    """Put an item, or replace the value of one that is there.

    The value is put as JSON: consumers that have a codec of their own may not be able to read it.
    """
    wanted, document = to_key(key), _read(value)
    options: PutOptions = {"delay": delay, "ttl": ttl, "priority": priority, "tenant": tenant}
    options["if_in_flight"] = if_in_flight

    async def command(broker: Broker) -> PutOutcome:
        async with anyio.create_task_group() as tg:
            if delay:
                await tg.start(broker.run)  # without it a delay is refused
            outcome = await _put(broker, name, wanted, document, options, timeout, create=create)
            tg.cancel_scope.cancel()
        return outcome

    outcome = consult(url, command, changes=True)
    if json:
        said = {"queue": name, "key": write_key(wanted), "outcome": outcome.value}
        typer.echo(as_json(said))
    else:
        typer.echo(outcome.value)
    if outcome is PutOutcome.DUPLICATE:
        typer.echo("leaseq: the key was acked lately, so that nothing was put", err=True)
        raise typer.Exit(1)


def _read(value: str) -> Any:
    try:
        if value == "-":
            return read_value(sys.stdin.buffer.read())
        if value.startswith("@"):
            return read_value(Path(value[1:]).read_bytes())
        return read_value(value)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="VALUE") from None


async def _put(
    broker: Broker,
    name: str,
    key: Any,
    value: Any,
    options: PutOptions,
    timeout: float,
    *,
    create: bool,
) -> PutOutcome:
    try:
        queue = await find_queue(broker, name, make=create, codec=LegibleCodec())
    except NotDone as error:
        raise NotDone(f"{error} (--create makes one of this name)") from None
    except ValueError as error:
        raise NotDone(str(error)) from None
    await _check_takes_items(queue)
    try:
        outcome = await _put_if_there_is_room(queue, key, value, options, timeout)
    except KeyAlreadyInFlightError:
        raise NotDone(
            f"key {write_key(key)} is leased: --if-in-flight buffer puts it after that"
        ) from None
    except (TypeError, ValueError) as error:
        raise NotDone(_in_options(error, options)) from None
    if outcome is None:
        raise NotDone(f"queue {name!r} had no room for {timeout:g} s: nothing was put")
    return outcome


async def _put_if_there_is_room(
    queue: LeasedQueue[Any, Any], key: Any, value: Any, options: PutOptions, timeout: float
) -> PutOutcome | None:
    """Put, and wait so many seconds for room; None: there was none, and nothing was put.

    A server that does not answer is another matter, for which `put` has words of its own.
    """
    outcomes: list[PutOutcome] = []
    errors: list[Exception] = []
    silence: list[Exception] = []

    async def put() -> None:
        try:
            outcomes.append(await queue.put(key, value, **options))
        except Exception as error:
            errors.append(error)  # raised in here, it would be in a group
        tg.cancel_scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(put)
        await anyio.sleep(timeout)
        while True:
            try:
                if (await queue.statistics()).putters:
                    break  # it waits for room
            except LeaseqError as error:
                await anyio.sleep(_PAUSE)  # for what the put itself has to say of it
                silence.append(ServerUnavailableError(str(error), in_doubt=True))
                break
            await anyio.sleep(_PAUSE)
        tg.cancel_scope.cancel()
    for failure in errors or (not outcomes and silence) or ():
        raise failure
    return outcomes[0] if outcomes else None


async def _check_takes_items(queue: LeasedQueue[Any, Any]) -> None:
    """See that it is no queue of dead letters: there, an item would be none."""
    with suppress(ServerError):  # not everybody may see that
        senders = (await queue.info()).dead_letters_of
        if senders:
            raise NotDone(
                f"queue {queue.name!r} has the dead letters of {', '.join(map(repr, senders))}, "
                "and an item would be none"
            )


def _in_options(error: Exception, options: PutOptions) -> str:
    """What is wrong with a put, in the words of the command line."""
    if options["tenant"] is not None and "is there for the tenant" in str(error):
        return f"{str(error).partition(':')[0]}: leave --tenant out, or put another key"
    return str(error)


# Purging


def purge(name: Name, *, url: Url, yes: Yes = False, json: Json = False) -> None:
    """Drop all that waits in a queue, for good. What is leased stays."""
    if not yes:
        info = consult(url, lambda broker: find(broker, name))
        if info.ready or info.delayed:
            confirm(_what_is_dropped(info))
    dropped = consult(url, lambda broker: _purge(broker, name), changes=True)
    if json:
        typer.echo(as_json({"queue": name, "dropped": dropped}))
    else:
        typer.echo(f"dropped {counted(dropped, 'item')}")


def _what_is_dropped(info: QueueInfo) -> str:
    what = f"drop {info.ready} ready and {info.delayed} delayed items of {info.name!r}"
    if info.dead_letters_of:
        what += f", the dead letters of {', '.join(map(repr, info.dead_letters_of))}"
    stays = f" ({info.leased} leased ones stay)" if info.leased else ""
    return f"{what}, for good{stays}?"


async def _purge(broker: Broker, name: str) -> int:
    await find_queue(broker, name)
    return await broker.purge(name)


# Bringing back


@dataclass(frozen=True, slots=True)
class _Back:
    """What became of dead letters, by the keys of their items."""

    back: list[Any]
    conflicts: list[Any]
    missing: list[Any]


def redrive(
    name: Name,
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="Those of the items to bring back; none: of all.", metavar="KEY"),
    ] = None,
    *,
    url: Url,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many at most, the oldest first.", metavar="N")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring dead letters back into their queue, to start anew. Asks, unless it is told which.

    Exits with 1 if a letter had to stay: its key is in the queue again, or it is not there.
    """
    wanted = [to_key(each) for each in keys or ()]
    if not (yes or wanted):
        there = consult(url, lambda broker: _find_sender(broker, name))
        if there.dead:
            count = there.dead if limit is None else min(limit, there.dead)
            confirm(f"bring {counted(count, 'dead letter')} back into {name!r}?")
    found = consult(url, lambda broker: _redrive(broker, name, wanted, limit), changes=True)
    back, conflicts, missing = (
        [write_key(each) for each in some] for some in (found.back, found.conflicts, found.missing)
    )
    if json:
        said = {"queue": name, "back": back, "conflicts": conflicts, "missing": missing}
        typer.echo(as_json(said))
    else:
        typer.echo(f"brought back {counted(len(back), 'item')}")
        for each in conflicts:
            typer.echo(f"leaseq: {printable(each)} stays dead: its key is there again", err=True)
        for each in missing:
            typer.echo(f"leaseq: {printable(each)} has no dead letter to bring back", err=True)
    if conflicts or missing:
        raise typer.Exit(1)


async def _find_sender(broker: Broker, name: str) -> QueueInfo:
    """The queue, if it has a queue of dead letters."""
    info = await find(broker, name)
    try:
        await broker.dead_letters(name)
    except LookupError:
        if info.dead_letters_of:
            senders = ", ".join(map(repr, info.dead_letters_of))
            raise NotDone(
                f"queue {name!r} has the dead letters of {senders}: name the queue that they are "
                "to be brought back into"
            ) from None
        raise NotDone(f"queue {name!r} has no queue of dead letters") from None
    return info


async def _redrive(broker: Broker, name: str, keys: list[Any], limit: int | None) -> _Back:
    await _find_sender(broker, name)
    queue = await find_queue(broker, name)
    done = await queue.redrive(keys or None, limit)
    seen = {*done.keys, *done.conflicts}
    missing = [] if limit is not None else [key for key in keys if key not in seen]
    return _Back([*done.keys], [*done.conflicts], missing)
