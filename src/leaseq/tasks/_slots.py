"""The rules of schedules: their slots, and the fate of one that is due. Sans-IO.

A *slot* is a time at which a schedule runs its task, in seconds since the epoch. It has a name of
its own, `slot_text`, so that a run is one of exactly one slot. A slot is *due* when it has come and
its jitter is over; it is *late* when ``jitter`` and ``grace`` seconds are over and no worker has
taken it up. Slots are run in their order: one whose jitter is short waits for those before it, and
so it may be taken up as late as the longest jitter has it.

The slots of a schedule are one fixed sequence: those of an expression are the ones that
`cronsim.CronSim` yields, through all changes of daylight saving, wherever one begins to ask; those
of an interval are its multiples since ``start``, or since the epoch. Nobody keeps a list of them.
`decide` has all that a worker has to know: the one slot that is next, and the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile
from typing import Final, Literal

CatchUp = Literal["latest", "none", "all"]
Overlap = Literal["skip", "wait", "allow"]

MOST_RUNS: Final = 100
"""Runs that are put in one step."""
MOST_LATE: Final = 1000
"""Late slots of a schedule that are caught up at most: the latest ones."""
_EARLY: Final = 0.01  # seconds before its time at which a slot is due: a timer may be as early
_TICK: Final = 0.001  # seconds: no two slots are closer
_SHORTEST_WAIT: Final = 1.0  # seconds between two looks whether the run before has ended
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rule:
    """The checked options of a schedule that concern time.

    Attributes:
        cron: The expression; None: there is an interval.
        every: The interval in seconds; None: there is an expression.
        tz: The name of the time zone that the expression is read in.
        start: The time before which there are no slots; None: no limit.
        end: The time after which there are no slots; None: no limit.
        catch_up: The policy for slots that are late.
        overlap: The policy for a slot while an earlier run is not done.
        grace: Seconds after which a slot is late, from the end of the longest jitter.
        jitter: Seconds by which a slot is put off at most.
    """

    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    start: float | None = None
    end: float | None = None
    catch_up: CatchUp = "latest"
    overlap: Overlap = "skip"
    grace: float = 60.0
    jitter: float = 0.0

    def has_slots_of(self, other: Rule) -> bool:
        """Return True if the slots of another rule are the same."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("cron", "every", "tz", "start", "end")
        )


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        LookupError, ValueError, OSError: The system has none of this name.
    """
    if name == "UTC":
        return timezone.utc  # noqa: UP017 - the one that cronsim compares with
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def slot_text(slot: float) -> str:
    """Return the name of a slot: its time in UTC, as ISO 8601 has it."""
    moment = datetime.fromtimestamp(round(slot * 1000) // 1000, timezone.utc)  # noqa: UP017
    milliseconds = round(slot * 1000) % 1000
    return f"{moment:%Y-%m-%dT%H:%M:%S}{f'.{milliseconds:03}' if milliseconds else ''}Z"


def due_at(name: str, rule: Rule, slot: float) -> float:
    """Return the time at which a slot is due: for a name and a slot it is always the same."""
    if not rule.jitter:
        return slot
    digest = blake2b(f"{name}@{slot_text(slot)}".encode("utf-8", "surrogatepass"), digest_size=8)
    return slot + rule.jitter * (int.from_bytes(digest.digest()) / 2**64)


def next_slot(rule: Rule, after: float) -> float | None:
    """Return the first slot after a time; None: there is none, for fifty years at least."""
    if rule.start is not None:
        after = max(after, rule.start - _TICK)
    slot = next(_cron_times(rule.cron, rule.tz, after), None) if rule.cron else _tick(rule, after)
    return None if slot is None or (rule.end is not None and slot > rule.end) else slot


def _cron_times(cron: str, tz: str, after: float) -> Iterator[float]:
    """Iterate over the times of an expression after a time."""
    from cronsim import CronSim

    # In the hour that comes twice, an expression with a fixed time begins again in the first one.
    for moment in CronSim(cron, datetime.fromtimestamp(math.floor(after), zone(tz))):
        slot = moment.timestamp()
        if slot > after:
            yield slot


def _tick(rule: Rule, after: float) -> float:
    """Return the first multiple of an interval after a time."""
    assert rule.every is not None
    origin = rule.start or 0.0
    number = math.floor((after - origin) / rule.every)
    while (slot := round(origin + number * rule.every, 3)) <= after:
        number += 1
    return slot


def latest_slot(rule: Rule, since: float, until: float) -> float | None:
    """Return the last slot from one time to another; None: there is none in between.

    It takes O(log(time)) questions for the next slot, however many there are.
    """
    latest = next_slot(rule, since - _TICK / 2)
    if latest is None or latest > until:
        return None
    empty = until  # after it there is no slot until then
    while True:
        following = next_slot(rule, latest)
        if following is None or following > empty:
            return latest
        latest = following
        middle = (latest + empty) / 2
        following = next_slot(rule, middle)
        if following is None or following > until:
            empty = middle
        else:
            latest = following


def count_slots(rule: Rule, first: float, last: float, most: int) -> int:
    """Return the number of slots from one slot to another; of an expression, no more than ``most``.

    O(1) for an interval, O(most) for an expression.
    """
    if rule.cron is None:
        assert rule.every is not None
        return round((last - first) / rule.every) + 1
    times = takewhile(lambda slot: slot <= last, _cron_times(rule.cron, rule.tz, first - _TICK))
    return sum(1 for _ in islice(times, most))


def first_of_latest(rule: Rule, first: float, last: float, most: int) -> float:
    """Return the first of so many slots that are the latest ones from one slot to another.

    O(most log(time)), at most.
    """
    if last - first < most - 1 or count_slots(rule, first, last, most + 1) <= most:
        return first
    too_many, few = first - _TICK / 2, last - _TICK / 2
    while few - too_many > _TICK / 4:
        middle = (too_many + few) / 2
        slot = next_slot(rule, middle)
        assert slot is not None
        found = count_slots(rule, slot, last, most + 1)
        if found > most:
            too_many = middle
        else:
            few = middle
        if found == most:
            break
    slot = next_slot(rule, few)
    assert slot is not None
    return slot


@dataclass(frozen=True, slots=True)
class Step:
    """The next step of a worker with a schedule: all of it is done, or nothing."""

    runs: tuple[float, ...]
    """The slots whose runs are put now."""
    slot: float | None
    """The next slot; None: there are no more."""
    held: bool
    """True: that slot was taken up in time, and waits for an earlier run."""
    at: float
    """The time at which to look again."""
    left_out: tuple[float, float] | None = None
    """The first and the last of the slots that are not run; None: there are none."""


def decide(
    name: str,
    rule: Rule,
    slot: float,
    now: float,
    *,
    held: bool = False,
    busy: bool = False,
    most: int = MOST_RUNS,
    most_late: int = MOST_LATE,
) -> Step:
    """Return the next step with a schedule: the fate of its next slot, and of those after it.

    A slot that was passed is never the next one again, whatever the clock does: if it steps back,
    the next slot is waited for; if it steps forward, the slots in between are late.

    Args:
        name: The name of the schedule.
        rule: Its options.
        slot: Its next slot.
        now: The time.
        held: True if the slot was taken up in time, and waits for an earlier run.
        busy: True if an earlier run is not done.
        most: The number of runs that one step may have.
        most_late: The number of slots that may be caught up.
    """

    def is_due(slot: float) -> bool:
        return due_at(name, rule, slot) <= now + _EARLY

    def is_late(slot: float) -> bool:
        return slot + rule.jitter + rule.grace < now

    def first_that_is_not(
        passed: Callable[[float], bool], slot: float, before: float
    ) -> float | None:
        """Return the first slot after one that is not to be passed over, as all before a time."""
        found = next_slot(rule, max(slot, before - rule.jitter))
        while found is not None and passed(found):
            found = next_slot(rule, found)
        return found

    def wait_for(
        following: float | None, *runs: float, left_out: tuple[float, float] | None = None
    ) -> Step:
        at = math.inf if following is None else due_at(name, rule, following)
        return Step(runs, following, False, at, left_out)

    def all_before(slot: float) -> tuple[float, float] | None:
        last = latest_slot(rule, first, slot - _TICK)
        return None if last is None else (first, last)

    if not is_due(slot):
        return wait_for(slot)
    first = slot
    if not held and is_late(slot):
        in_time = first_that_is_not(is_late, slot, now - rule.grace)
        last = latest_slot(rule, slot, now if in_time is None else in_time - _TICK)
        assert last is not None
        if rule.catch_up == "all":
            slot = first_of_latest(rule, slot, last, most_late)
        elif in_time is not None and is_due(in_time):
            slot = in_time
        elif rule.catch_up == "none":
            return wait_for(in_time, left_out=(first, last))
        else:
            slot = last
    if rule.overlap == "skip":
        following = first_that_is_not(is_due, slot, now)
        last = latest_slot(rule, slot, now if following is None else following - _TICK)
        assert last is not None
        if busy:
            return wait_for(following, left_out=(first, last))
        return wait_for(following, last, left_out=all_before(last))
    if rule.overlap == "wait":
        if busy:
            waited = (now - due_at(name, rule, slot)) / 8
            wait = min(max(waited, _SHORTEST_WAIT), _LONGEST_WAIT)
            return Step((), slot, True, now + wait, all_before(slot))
        return wait_for(next_slot(rule, slot), slot, left_out=all_before(slot))
    runs = [slot]
    following = next_slot(rule, slot)
    while (
        following is not None
        and len(runs) < most
        and is_due(following)
        and (rule.catch_up == "all" or not is_late(following))
    ):
        runs.append(following)
        following = next_slot(rule, following)
    return wait_for(following, *runs, left_out=all_before(slot))
