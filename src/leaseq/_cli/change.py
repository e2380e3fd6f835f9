"""The commands that change a queue: ``leaseq put``, ``cancel``, ``purge``, ``pause`` and others."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import anyio
import typer

from .._core.errors import (
    KeyAlreadyInFlightError,
    LeaseqError,
    ServerError,
    ServerUnavailableError,
    TenantMismatchError,
)
from .._core.options import InFlightPolicy, PutOptions
from .._core.policies import Priority
from .._core.reports import PutOutcome, QueueInfo
from .._core.requests import PutRequest
from .._core.texts import shown
from ..abc import Broker, LeasedQueue
from .common import (
    CommandError,
    Json,
    Key,
    Name,
    Url,
    Yes,
    confirm,
    parse_key,
    run_with_broker,
)
from .queries import find, find_queue
from .text import LegibleCodec, as_json, counted, printable, read_value, write_key

_LONGEST_VALUE = 32 * 2**20  # bytes; and no queue should have such values
_PAUSE = 0.1  # seconds between two checks of a put that waits for room


# Put


def _parse_priority(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        names = ", ".join(f"{each.value} ({each.name.lower()})" for each in Priority)
        raise typer.BadParameter(f"{text!r} is not a whole number, such as {names}") from None


def put(
    name: Name,
    key: Key,
    value: Annotated[
        str, typer.Argument(help="Value of the item: JSON, @FILE, or - for stdin.", metavar="VALUE")
    ],
    *,
    url: Url,
    priority: Annotated[
        int | None,
        typer.Option(
            help="Priority, the higher the sooner; 3 is normal.",
            metavar="N",
            parser=_parse_priority,
        ),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Tenant that the work belongs to.", metavar="NAME")
    ] = None,
    delay: Annotated[
        float, typer.Option(min=0, help="Seconds until the item is ready.", metavar="SECONDS")
    ] = 0.0,
    ttl: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Time to live: seconds in which the item has to be leased.",
            metavar="SECONDS",
        ),
    ] = None,
    if_in_flight: Annotated[
        InFlightPolicy,
        typer.Option(
            help="If the key is leased: update the value, which a release puts back and an ack "
            "drops; reject the put; or buffer the item until the lease ends."
        ),
    ] = "update",
    timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for room in a full queue.", metavar="SECONDS"),
    ] = 5.0,
    create: Annotated[
        bool, typer.Option("--create", help="Make the queue if it does not exist.")
    ] = False,
    json: Json = False,
) -> None:
    """Put an item, or replace the value of the one that has the key.

    The value is put as JSON, so consumers with a codec of their own may not be able to read it.
    """
    parsed, document = parse_key(key), _read_value(value)
    options: PutOptions = {"delay": delay, "ttl": ttl, "priority": priority, "tenant": tenant}
    options["if_in_flight"] = if_in_flight
    try:
        PutRequest("put", **options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def command(broker: Broker) -> PutOutcome:
        async with anyio.create_task_group() as tg:
            if delay:
                await tg.start(broker.run)  # without it the queue refuses a delay
            outcome = await _put(broker, name, parsed, document, options, timeout, create=create)
            tg.cancel_scope.cancel()
        return outcome

    outcome = run_with_broker(url, command, changes=True, makes=create)
    if json:
        result = {"queue": name, "key": write_key(parsed), "outcome": outcome.value}
        typer.echo(as_json(result))
    else:
        typer.echo(outcome.value)
    if outcome is PutOutcome.DUPLICATE:
        typer.echo("leaseq: the key was acked lately, so nothing was put", err=True)
        raise typer.Exit(1)


def _read_value(value: str) -> Any:
    try:
        if value == "-":
            return read_value(_read(sys.stdin.buffer))
        if value.startswith("@"):
            with Path(value[1:]).open("rb") as file:
                return read_value(_read(file))
        return read_value(value)
    except OSError as error:
        why = f"{value[1:]} cannot be read: {error.strerror or error}"
        raise typer.BadParameter(why, param_hint="VALUE") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="VALUE") from None


def _read(file: BinaryIO) -> bytes:
    """Read a file that may have no end.

    Raises:
        ValueError: It is larger than a value may be.
    """
    data = file.read(_LONGEST_VALUE + 1)
    if len(data) > _LONGEST_VALUE:
        raise ValueError(
            f"the value is larger than {_LONGEST_VALUE:,} bytes: put a reference to it instead"
        )
    return data


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
    except CommandError as error:
        raise CommandError(f"{error} (--create makes one of this name)") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    await _check_takes_items(queue)
    try:
        outcome = await _put_if_there_is_room(queue, key, value, options, timeout)
    except KeyAlreadyInFlightError:
        raise CommandError(
            f"key {write_key(key)} is leased: --if-in-flight buffer puts it after that"
        ) from None
    except TenantMismatchError as error:
        raise CommandError(
            f"key {write_key(key)} is there for the tenant {shown(error.tenant)}: leave --tenant "
            "out, or put another key"
        ) from None
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from None
    if outcome is None:
        raise CommandError(f"queue {name!r} had no room for {timeout:g} s: nothing was put")
    return outcome


async def _put_if_there_is_room(
    queue: LeasedQueue[Any, Any], key: Any, value: Any, options: PutOptions, timeout: float
) -> PutOutcome | None:
    """Put, and wait for room; return None if there was none in time, so that nothing was put.

    A server that does not answer is not a queue without room: `put` reports that itself.

    Args:
        queue: The queue.
        key: The key.
        value: The value.
        options: Options of the put.
        timeout: Seconds to wait.
    """
    outcomes: list[PutOutcome] = []
    errors: list[Exception] = []
    no_answer: list[Exception] = []

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
                    break  # the put waits for room
            except LeaseqError as error:
                await anyio.sleep(_PAUSE)  # the put itself may report more
                no_answer.append(ServerUnavailableError(str(error), in_doubt=True))
                break
            await anyio.sleep(_PAUSE)
        tg.cancel_scope.cancel()
    for failure in errors or (not outcomes and no_answer) or ():
        raise failure
    return outcomes[0] if outcomes else None


async def _check_takes_items(queue: LeasedQueue[Any, Any]) -> None:
    """Raise if this is a queue of dead letters, which an item is not.

    Raises:
        CommandError: It is.
    """
    with suppress(ServerError):  # the user may not read that
        senders = (await queue.info()).dead_letters_of
        if senders:
            raise CommandError(
                f"queue {queue.name!r} has the dead letters of {', '.join(map(repr, senders))}: "
                "it does not take items"
            )


# Purge


def purge(name: Name, *, url: Url, yes: Yes = False, json: Json = False) -> None:
    """Drop all ready and delayed items of a queue, for good. Leased items stay."""
    if not yes:
        info = run_with_broker(url, lambda broker: find(broker, name))
        if info.ready or info.delayed:
            confirm(_purge_question(info))
    dropped = run_with_broker(url, lambda broker: _purge(broker, name), changes=True)
    if json:
        typer.echo(as_json({"queue": name, "dropped": dropped}))
    else:
        typer.echo(f"dropped {counted(dropped, 'item')}")


def _purge_question(info: QueueInfo) -> str:
    what = f"drop {info.ready} ready and {info.delayed} delayed items of {info.name!r}"
    if info.dead_letters_of:
        what += f", the dead letters of {', '.join(map(repr, info.dead_letters_of))}"
    stays = f" ({info.leased} leased ones stay)" if info.leased else ""
    return f"{what}, for good{stays}?"


async def _purge(broker: Broker, name: str) -> int:
    await find_queue(broker, name)
    return await broker.purge(name)


# Cancel and discard


def cancel(
    name: Name,
    key: Key,
    *,
    url: Url,
    reason: Annotated[
        str, typer.Option(help="Reason, in the error of the holder of a lease.", metavar="TEXT")
    ] = "",
    keep_successor: Annotated[
        bool, typer.Option("--keep-successor", help="Keep a buffered successor.")
    ] = False,
    json: Json = False,
) -> None:
    """Cancel the item of a key, waiting or leased: it is not tried again.

    The body of a leased one is cancelled, and its key is free when that has cleaned up. Exits with
    1 if there is no item, or it was cancelled before.
    """
    read = parse_key(key)

    async def act(broker: Broker) -> bool:
        queue = await find_queue(broker, name)
        return await queue.cancel(read, reason=reason, keep_successor=keep_successor)

    was = run_with_broker(url, act, changes=True)
    otherwise = "is absent, or was cancelled before"
    _tell("cancelled", name, read, was=was, json=json, otherwise=otherwise)


def discard(name: Name, key: Key, *, url: Url, json: Json = False) -> None:
    """Drop the item of a key, if it waits. A leased one is left alone.

    Exits with 1 if there is no such item.
    """
    read = parse_key(key)

    async def act(broker: Broker) -> bool:
        return await (await find_queue(broker, name)).discard(read)

    was = run_with_broker(url, act, changes=True)
    otherwise = "is absent, or leased: cancel ends a lease too"
    _tell("discarded", name, read, was=was, json=json, otherwise=otherwise)


def _tell(
    done: str, name: str, key: str | int | bytes, *, was: bool, json: bool, otherwise: str
) -> None:
    """Tell whether something was done with the item of a key, and exit with 1 if not."""
    what = printable(write_key(key))
    if json:
        typer.echo(as_json({"queue": name, "key": write_key(key), done: was}))
    elif was:
        typer.echo(f"{done} {what} of queue {name!r}")
    if not was:
        typer.echo(f"leaseq: key {what} of queue {name!r} {otherwise}", err=True)
        raise typer.Exit(1)


# Pause and resume


Tenant = Annotated[
    str | None, typer.Option(help="One tenant instead of the whole queue.", metavar="NAME")
]


def pause(
    name: Name,
    *,
    url: Url,
    tenant: Tenant = None,
    reason: Annotated[
        str, typer.Option(help="Reason, shown by queues and info.", metavar="TEXT")
    ] = "",
    json: Json = False,
) -> None:
    """Stop handing out items of a queue, or of one tenant, until it is resumed.

    Puts, and work that has begun, go on. A second pause replaces the reason.
    """
    run_with_broker(url, lambda broker: _pause(broker, name, tenant, reason), changes=True)
    if json:
        typer.echo(as_json({"queue": name, "tenant": tenant, "reason": reason}))
    else:
        typer.echo(f"paused {_what(name, tenant)}")


async def _pause(broker: Broker, name: str, tenant: str | None, reason: str) -> None:
    queue = await find_queue(broker, name)
    try:
        await queue.pause(tenant, reason=reason)
    except ValueError as error:
        raise CommandError(str(error)) from None


def resume(name: Name, *, url: Url, tenant: Tenant = None, json: Json = False) -> None:
    """End the pause of a queue, or of one tenant.

    A tenant that is paused by itself stays paused when the queue is resumed. Exits with 1 if it was
    not paused.
    """
    was = run_with_broker(url, lambda broker: _resume(broker, name, tenant), changes=True)
    if json:
        typer.echo(as_json({"queue": name, "tenant": tenant, "was_paused": was}))
    elif was:
        typer.echo(f"resumed {_what(name, tenant)}")
    if not was:
        typer.echo(f"leaseq: {_what(name, tenant)} was not paused", err=True)
        raise typer.Exit(1)


async def _resume(broker: Broker, name: str, tenant: str | None) -> bool:
    queue = await find_queue(broker, name)
    try:
        return await queue.resume(tenant)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _what(name: str, tenant: str | None) -> str:
    """Return the words for a queue, or for a tenant of it."""
    return f"queue {name!r}" if tenant is None else f"tenant {shown(tenant)} of queue {name!r}"


# Redrive


@dataclass(frozen=True, slots=True)
class _Redriven:
    """Outcome of a redrive, by the keys of the items."""

    back: list[Any]
    conflicts: list[Any]
    missing: list[Any]


def redrive(
    name: Name,
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of the items to bring back; without keys, all.", metavar="KEY"),
    ] = None,
    *,
    url: Url,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Bring back at most N, the oldest first.", metavar="N")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring dead letters back into their queue, with fresh counts. Asks if there are no keys.

    Exits with 1 if a letter stays because its key is in the queue again, or a key has no letter.
    """
    wanted = [parse_key(each) for each in keys or ()]
    if not (yes or wanted):
        info = run_with_broker(url, lambda broker: _find_sender(broker, name))
        if info.dead:
            count = info.dead if limit is None else min(limit, info.dead)
            confirm(f"bring {counted(count, 'dead letter')} back into {name!r}?")
    found = run_with_broker(url, lambda broker: _redrive(broker, name, wanted, limit), changes=True)
    back, conflicts, missing = (
        [write_key(each) for each in some] for some in (found.back, found.conflicts, found.missing)
    )
    if json:
        document = {"queue": name, "back": back, "conflicts": conflicts, "missing": missing}
        typer.echo(as_json(document))
    else:
        typer.echo(f"brought back {counted(len(back), 'item')}")
        for each in conflicts:
            typer.echo(f"leaseq: {printable(each)} stays dead: its key is there again", err=True)
        for each in missing:
            typer.echo(f"leaseq: {printable(each)} has no dead letter to bring back", err=True)
    if conflicts or missing:
        raise typer.Exit(1)


async def _find_sender(broker: Broker, name: str) -> QueueInfo:
    """Return the state of a queue that has a queue of dead letters.

    Raises:
        CommandError: The queue does not exist, or has none.
    """
    info = await find(broker, name)
    try:
        await broker.dead_letters(name)
    except LookupError:
        if info.dead_letters_of:
            senders = ", ".join(map(repr, info.dead_letters_of))
            raise CommandError(
                f"queue {name!r} has the dead letters of {senders}: name the queue to bring "
                "them back into"
            ) from None
        raise CommandError(f"queue {name!r} has no queue of dead letters") from None
    return info


async def _redrive(broker: Broker, name: str, keys: list[Any], limit: int | None) -> _Redriven:
    await _find_sender(broker, name)
    queue = await find_queue(broker, name)
    done = await queue.redrive(keys or None, limit)
    seen = {*done.keys, *done.conflicts}
    missing = [] if limit is not None else [key for key in keys if key not in seen]
    return _Redriven([*done.keys], [*done.conflicts], missing)
