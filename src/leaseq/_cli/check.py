"""``leaseq check``: what a version of the code would make of the items that are in a queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from .._core.codec import Codec, JsonCodec
from .._core.errors import CodecError, LeaseqError
from .._core.queue_options import queue_name
from .._core.texts import failure_text, shown
from ..abc import Broker
from .common import CommandError, Json, OptionalLimit, Url, import_from, run_with_broker
from .queries import call_with_each, find_keys, find_queue
from .show import make_console, refusals_table
from .text import as_json, counted, printable, write_key

Check = Callable[[str, bytes], str | None]
"""Returns why a version of the code would refuse a key with this body; None: it would not."""


class _RawCodec:
    """Bodies as they are."""

    def encode(self, value: bytes, /) -> bytes:
        return value

    def decode(self, body: bytes, /) -> bytes:
        return body


@dataclass(slots=True)
class _Checked:
    """Outcome of a check."""

    refused: list[tuple[Any, str]]
    """Keys, and the reason of each."""
    checked: int


def check(
    code: Annotated[
        str,
        typer.Argument(
            help="Module and name: of a TaskQueue; or of a type or codec, with --queue.",
            metavar="CODE",
        ),
    ],
    *,
    url: Url,
    queue: Annotated[
        str | None,
        typer.Option(help="Name of the queue.", show_default="the name of the TaskQueue"),
    ] = None,
    limit: OptionalLimit = None,
    json: Json = False,
) -> None:
    """Say which items of a queue the code given would refuse; it changes nothing.

    Run it with the next version of the code before it is deployed, and with the present one to see
    what workers leave or bury. Of a TaskQueue these are tasks without a function, or with arguments
    that it does not take; of a type or codec, values that cannot be read. Ready, delayed and leased
    items are looked at; where an update or a successor waits behind a lease, that is, as it is what
    comes next. Exits with 1 if anything would be refused.
    """
    refuse, name = _reader(code, queue)
    found = run_with_broker(url, lambda broker: _check(broker, name, refuse))
    if json:
        refused = [{"key": write_key(key), "reason": why} for key, why in found.refused[:limit]]
        document = {"queue": name, "checked": found.checked, "refused": len(found.refused)}
        typer.echo(as_json({**document, "items": refused}))
    else:
        if found.refused:
            rows = [(write_key(key), why) for key, why in found.refused]
            make_console().print(refusals_table(rows, 20 if limit is None else limit))
        typer.echo(f"{len(found.refused):,} of {counted(found.checked, 'item')} refused")
    if found.refused:
        raise typer.Exit(1)


def _reader(code: str, queue: str | None) -> tuple[Check, str]:
    """Return the check of a body, and the name of the queue.

    Raises:
        BadParameter: The code is none of the kinds that can be, or it takes the name of a queue.
    """
    module, found = import_from(code, "CODE")
    has = ""
    try:
        from ..tasks._queue import TaskQueue
    except ModuleNotFoundError:
        pass
    else:
        if isinstance(found, TaskQueue):
            return _task_check(found), _checked_name(queue or found.name)
        names = [own for own, each in vars(module).items() if isinstance(each, TaskQueue)]
        has = f": it has the TaskQueue {', '.join(names)}" if names else ""
    name = code.partition(":")[2]
    if not hasattr(module, name):
        raise typer.BadParameter(
            f"there is no {name!r} in {module.__name__!r}{has}", param_hint="CODE"
        )
    if queue is None:
        raise typer.BadParameter(
            f"{code!r} is not a TaskQueue: for a type or a codec, give the name of its queue",
            param_hint="--queue",
        )
    return _value_check(code, found), _checked_name(queue)


def _checked_name(name: str) -> str:
    try:
        queue_name(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--queue") from None
    return name


def _task_check(tasks: Any) -> Check:
    from ..tasks._errors import TaskDataError
    from ..tasks._task import decode_task, refusal_of

    decode = JsonCodec[Any]().decode

    def check(key: str, body: bytes) -> str | None:
        try:
            task = decode_task(key, decode(body), tasks.functions)
            refusal = refusal_of(task)
            if refusal is None and task.function is not None:
                task.function._definition.signature.unbind(task.arguments)
        except (CodecError, TaskDataError) as error:
            return str(error)
        return refusal

    return check


def _value_check(code: str, found: Any) -> Check:
    decodes = callable(getattr(found, "decode", None))
    if decodes and isinstance(found, type) and not issubclass(found, bytes | bytearray):
        try:
            found = found()
        except Exception as error:
            raise typer.BadParameter(
                f"{code!r} cannot be called without arguments ({failure_text(error)}): give the "
                "name of a codec that was made",
                param_hint="CODE",
            ) from None
    if found is None:
        raise typer.BadParameter(f"there is no {code!r}", param_hint="CODE")
    if not isinstance(found, type) and callable(getattr(found, "decode", None)):
        codec: Codec[Any] = found
    else:
        try:
            codec = JsonCodec(found)
        except (LeaseqError, TypeError) as error:
            raise typer.BadParameter(
                f"{code!r} is neither a TaskQueue nor a type or codec of values: {error}",
                param_hint="CODE",
            ) from None

    def check(key: str, body: bytes) -> str | None:
        try:
            codec.decode(body)
        except Exception as error:  # whatever a codec raises
            return failure_text(error)
        return None

    return check


async def _check(broker: Broker, name: str, refuse: Check) -> _Checked:
    queue = await find_queue(broker, name, codec=_RawCodec())
    info = await queue.info()
    if info.dead_letters_of:
        raise CommandError(f"queue {name!r} has dead letters, which no code is given")
    found = _Checked([], 0)

    async def judge(key: Any) -> None:  # and keep no body
        _, body = await queue._look(key)
        if body is not None:
            found.checked += 1
            why = refuse(key, body)
            if why is not None:
                found.refused.append((key, printable(why)))

    await call_with_each(judge, sorted(await find_keys(queue), key=shown))
    found.refused.sort(key=lambda each: shown(each[0]))
    return found
