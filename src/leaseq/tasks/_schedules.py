"""Schedules: their options, and the document that the broker keeps of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args

import msgspec

from .._core.limits import MOST_NAME, check_length
from .._core.texts import shown
from .._core.validation import check_text, delay_seconds, number
from ._errors import TaskDataError
from ._slots import CatchUp, Overlap, Rule, next_slot, slot_text, zone
from ._task import Task, TaskFunction, decode_task

MOST_GOING: Final = 100
"""Runs that may not be done yet, of which a schedule keeps the keys: the latest ones."""
_LONGEST: Final = 3_155_760_000.0  # seconds between two slots: a hundred years
_YEARS: Final = 1900, 8999  # the first and the last one of a start or an end
_PROBE: Final = 1_704_067_200.0  # 2024: an expression has a time in the fifty years from here


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of a `TaskQueue`, as `TaskQueue.schedules` reports it.

    All times are in seconds since the epoch.
    """

    name: str
    """The name; unique in the `TaskQueue`."""
    task: Task[Any]
    """The task that each run is made of; its id is the name of the schedule."""
    cron: str | None
    """The cron expression; None: there is an interval."""
    every: float | None
    """The interval in seconds; None: there is an expression."""
    tz: str
    """The time zone of the expression."""
    start: float | None
    """The time before which there are no slots; None: no limit."""
    end: float | None
    """The time after which there are no slots; None: no limit."""
    catch_up: CatchUp
    """The policy for slots that no worker has taken up in time."""
    overlap: Overlap
    """The policy for a slot while an earlier run is not done."""
    grace: float
    """Seconds after which a slot is late, from the end of the longest jitter."""
    jitter: float
    """Seconds by which a slot is put off at most."""
    ttl: float | None
    """Seconds in which each run has to be started; None: no limit."""
    declared: bool
    """True: by `TaskQueue.scheduled` in the code; False: by a call of `TaskQueue.schedule`."""
    version: int | None
    """The version of the `TaskQueue` that has declared it; None: it had none."""
    made_at: float
    """The time at which it was first stored."""
    next: float
    """The next slot, its jitter left out."""
    last: float | None
    """The latest slot that was run; None: none was."""
    last_run: str | None
    """The id of its task; that of `TaskQueue.run_now`, if this was later."""
    count: int
    """The number of runs so far, those of `TaskQueue.run_now` included."""
    paused_since: float | None
    """The time at which it was paused; None: it is not."""
    pause_reason: str
    """The reason that was given for the pause."""


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value that the broker holds for a schedule."""

    rule: Rule
    task: dict[str, Any]
    """The task, as a queue has it; without an id."""
    made_at: float
    slot: float
    """The next slot."""
    held: bool = False
    """True: the slot was taken up in time, and waits for an earlier run."""
    ttl: float | None = None
    declared: bool = False
    version: int | None = None
    last: float | None = None
    last_run: str | None = None
    count: int = 0
    going: list[str] = []
    """The keys of runs that may not be done, the latest ones; not with ``overlap="allow"``."""
    paused: float | None = None
    reason: str = ""

    def with_runs(self, keys: list[str], last: float | None = None) -> Stored:
        """Return the schedule once runs with these keys are put."""
        if not keys:
            return self
        going = [] if self.rule.overlap == "allow" else [*self.going, *keys][-MOST_GOING:]
        last = self.last if last is None else last
        return msgspec.structs.replace(
            self, last=last, last_run=keys[-1], count=self.count + len(keys), going=going
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of a schedule, checked: a `Stored` without what has become of it."""

    rule: Rule
    task: dict[str, Any]
    ttl: float | None = None
    declared: bool = False
    version: int | None = None


def encode_schedule(stored: Stored, before: object = None) -> dict[str, Any]:
    """Return the value that a queue holds for a schedule.

    Args:
        stored: The schedule.
        before: The value so far, of which is kept what other versions of the code have written.
    """
    kept = {}
    if isinstance(before, dict):
        kept = {
            name: value for name, value in before.items() if name not in Stored.__struct_fields__
        }
    return {**kept, **msgspec.to_builtins(stored)}


def decode_schedule(name: str, value: object) -> Stored:
    """Read a schedule from the value that a queue holds.

    Raises:
        TaskDataError: The value is not a schedule, or one of another version of the code.
    """
    try:
        return msgspec.convert(value, Stored)
    except msgspec.ValidationError as error:
        raise TaskDataError(f"the schedule {shown(name)} cannot be read: {error}") from None


def report(
    name: str, stored: Stored, functions: Mapping[str, TaskFunction[..., Any, Any]]
) -> Schedule:
    """Return the report of a schedule."""
    rule = stored.rule
    return Schedule(
        name=name,
        task=decode_task(name, stored.task, functions),
        cron=rule.cron,
        every=rule.every,
        tz=rule.tz,
        start=rule.start,
        end=rule.end,
        catch_up=rule.catch_up,
        overlap=rule.overlap,
        grace=rule.grace,
        jitter=rule.jitter,
        ttl=stored.ttl,
        declared=stored.declared,
        version=stored.version,
        made_at=stored.made_at,
        next=stored.slot,
        last=stored.last,
        last_run=stored.last_run,
        count=stored.count,
        paused_since=stored.paused,
        pause_reason=stored.reason,
    )


def run_key(name: str, slot: float) -> str:
    """Return the key of a run: the name of its schedule, and its slot."""
    return f"{name}@{slot_text(slot)}"


def run_of(name: str, stored: Stored, key: str, slot: float, now: float) -> dict[str, Any]:
    """Return the value that a queue holds for a run: a task that is a workflow of its own."""
    return {**stored.task, "made_at": now, "workflow": key, "schedule": name, "slot": slot}


# Checks


def schedule_name(name: str) -> str:
    """Return the name of a schedule as an exact `str`.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty or too long, or has half a surrogate pair.
    """
    check_text("a schedule's name", name)
    name = str.__str__(name)
    if not name:
        raise ValueError("a schedule's name must not be empty")
    check_length("a schedule's name", name, MOST_NAME)
    try:
        name.encode()
    except UnicodeEncodeError:  # a run's value has the name, and could not be written
        raise ValueError(
            f"a schedule's name must be text without half a surrogate pair, not {shown(name)}"
        ) from None
    return name


def make_rule(
    *,
    cron: str | None,
    every: float | None,
    tz: str,
    start: datetime | None,
    end: datetime | None,
    catch_up: CatchUp,
    overlap: Overlap,
    grace: float,
    jitter: float,
) -> Rule:
    """Return the checked options of a schedule that concern time.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range, or two contradict.
        ModuleNotFoundError: cronsim is not installed.
    """
    if (cron is None) == (every is None):
        raise ValueError(
            "a schedule has either cron= or every=, "
            + (
                "and neither is given"
                if cron is None
                else f"not both: cron={shown(cron)}, every={shown(every)}"
            )
        )
    _check_zone(tz)
    for option, value, kind in (("catch_up", catch_up, CatchUp), ("overlap", overlap, Overlap)):
        if value not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise ValueError(f"{option} must be one of {choices}, not {shown(value)}")
    if catch_up == "all" and overlap == "skip":
        raise ValueError(
            "catch_up='all' runs every slot that was missed, and overlap='skip' would leave out "
            "all but one of them: choose overlap='wait', one after the other, or 'allow'"
        )
    grace = number("grace", grace, "a number of seconds")
    if not 1 <= grace < math.inf:
        raise ValueError(f"grace must be 1 second or more, and finite, not {shown(grace)}")
    jitter = delay_seconds(jitter, "jitter")
    first, last = _moment("start", start, tz), _moment("end", end, tz)
    if first is not None and last is not None and last < first:
        raise ValueError(f"the schedule ends before it starts: start={start}, end={end}")
    if every is not None:
        every = number("every", every, "a number of seconds")
        if not 1 <= every <= _LONGEST:
            raise ValueError(
                f"every must be from 1 second to a hundred years, {_LONGEST:,.0f} seconds, "
                f"not {shown(every)}"
            )
        every = round(every, 3)
    rule = Rule(cron, every, tz, first, last, catch_up, overlap, grace, jitter)
    if cron is not None:
        _check_cron(cron, rule)
    if last is not None and next_slot(rule, _PROBE if first is None else first - 1) is None:
        raise ValueError(f"the schedule has no slot before its end={end}")
    return rule


def _check_zone(tz: str) -> None:
    check_text("tz", tz, ", the name of a time zone")
    try:
        zone(str.__str__(tz))
    except (LookupError, ValueError, OSError):
        raise ValueError(
            f"tz {shown(tz)} is no time zone of this system: use a name such as 'Europe/Berlin', "
            "and install tzdata where the system has none"
        ) from None


def _check_cron(cron: str, rule: Rule) -> None:
    check_text("cron", cron)
    try:
        first = next_slot(Rule(cron=cron, tz=rule.tz), _PROBE)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "cron= needs cronsim, which is not installed: pip install 'leaseq[tasks]'",
            name=error.name,
        ) from None
    except Exception as error:  # cronsim's own, and others for some texts that are no expressions
        reason = str(error) or "Bad field"
        raise ValueError(
            f"cron {shown(cron)} is no cron expression: {reason}; it has "
            "five fields, minute, hour, day of the month, month and day of the week, such as "
            "'0 9 * * 1-5', or six, with the second first"
        ) from None
    if first is None:
        raise ValueError(f"cron {shown(cron)} has no time in the next fifty years")


def _moment(option: str, moment: datetime | None, tz: str) -> float | None:
    """Return a time in seconds since the epoch; one without a zone is one of ``tz``."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TypeError(f"{option} must be a datetime, or None, not {shown(moment)}")
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise ValueError(
            f"{option} must be in the years {_YEARS[0]} to {_YEARS[1]}, not {shown(moment)}"
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone(tz))
    return round(moment.timestamp(), 3)
