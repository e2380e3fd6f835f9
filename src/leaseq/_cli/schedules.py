"""``leaseq schedules``: the schedules of a task queue. Needs typer, rich and msgspec."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import typer

from .._core.texts import shown
from ..abc import Broker
from ..tasks._errors import TaskDataError
from ..tasks._schedules import Stored, decode_schedule
from ..tasks._timetable import Timetable
from .common import Json, Name, Url, run_with_broker
from .queries import find_queue
from .show import _add, _format_time, _table, make_console
from .text import as_json, format_duration, printable

_COLUMNS = ("schedule", "when", "task", "next", "in", "last", "runs", "state")


@dataclass(frozen=True, slots=True)
class _Found:
    """A schedule."""

    name: str
    stored: Stored | None
    """None: it cannot be read."""
    error: str | None


def schedules(name: Name = "tasks", *, url: Url, json: Json = False) -> None:
    """List the schedules of a TaskQueue: when they run, their next slot, and whether they do.

    Times are those of this machine's zone; with --json they are seconds since the epoch.
    """
    found = run_with_broker(url, lambda broker: _find(broker, name))
    now = time.time()
    if json:
        typer.echo(as_json([_document(each) for each in found]))
    elif not found:
        typer.echo(f"there are no schedules of {shown(name)}")
    else:
        table = _table(*_COLUMNS, numbers=0)
        for each in found:
            _add(table, _cells(each, now))
        make_console().print(table)


async def _find(broker: Broker, name: str) -> list[_Found]:
    timetable = await Timetable.find(broker, await find_queue(broker, name))
    found: list[_Found] = []
    if timetable is not None:
        for each, value in await timetable.values():
            try:
                found.append(_Found(each, decode_schedule(each, value), None))
            except TaskDataError as error:
                found.append(_Found(each, None, str(error)))
    return found


def _cells(found: _Found, now: float) -> list[object]:
    stored = found.stored
    if stored is None:
        return [found.name, *["-"] * 6, printable(found.error)]
    rule = stored.rule
    when = f"every {rule.every:g} s" if rule.cron is None else f"{rule.cron} {rule.tz}"
    is_on = stored.paused is None
    return [
        found.name,
        when,
        stored.task.get("name", "-"),
        _format_time(stored.slot) if is_on else "-",
        format_duration(max(0.0, stored.slot - now)) if is_on else "-",
        "-" if stored.last is None else _format_time(stored.last),
        stored.count,
        _state(stored, now),
    ]


def _state(stored: Stored, now: float) -> str:
    if stored.paused is not None:
        because = f": {stored.reason}" if stored.reason else ""
        return f"paused {format_duration(max(0.0, now - stored.paused))} ago{because}"
    if stored.held:
        return "waits for the run before"
    late = now - stored.slot - stored.rule.jitter
    return "late: is a worker running?" if late > stored.rule.grace else "-"


def _document(found: _Found) -> dict[str, Any]:
    stored = found.stored
    if stored is None:
        return {"name": found.name, "error": found.error}
    task = {each: stored.task.get(each) for each in ("name", "priority", "tenant")}
    return {
        "name": found.name,
        **msgspec.to_builtins(stored.rule),
        "task": task["name"],
        "priority": task["priority"],
        "tenant": task["tenant"],
        "ttl": stored.ttl,
        "declared": stored.declared,
        "version": stored.version,
        "made_at": stored.made_at,
        "next": stored.slot,
        "last": stored.last,
        "last_run": stored.last_run,
        "count": stored.count,
        "paused_since": stored.paused,
        "pause_reason": stored.reason,
    }
