"""The rules of schedules: which slots there are, and what becomes of one that is due."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from leaseq.tasks._slots import (
    MOST_LATE,
    CatchUp,
    Overlap,
    Rule,
    count_slots,
    decide,
    due_at,
    first_of_latest,
    latest_slot,
    next_slot,
    slot_text,
)

YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
END = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
CRONS = [
    "* * * * 0#1",
    "*/30 * * * *",
    "0 * * * *",
    "59 * * * *",
    "30 */2 * * *",
    "*/20 1-3 * * *",
    "0 0 * * *",
    "0 1 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "0,30 2,3 * * *",
    "15 2 * * SUN",
    "0 9 * * 1-5",
    "0 9 1 * *",
    "0 0 L * *",
    "0 0 * * 5L",
    "0 12 13 * FRI",
    "0 4 29 2 *",
    "*/30 * 2 * * 0",
]


@cache
def year_of(cron: str, tz: str) -> list[float]:
    """All times of a year, as cronsim yields them one after the other."""
    times: list[float] = []
    for moment in CronSim(cron, datetime.fromtimestamp(YEAR, ZoneInfo(tz))):
        if moment.timestamp() > END:
            break
        times.append(moment.timestamp())
    return times


def slots(rule: Rule, since: float, until: float) -> list[float]:
    found: list[float] = []
    slot = next_slot(rule, since)
    while slot is not None and slot <= until:
        found.append(slot)
        slot = next_slot(rule, slot)
    return found


@pytest.mark.parametrize(
    "tz", [pytest.param(tz, marks=[pytest.mark.slow] * (tz != "Europe/Berlin")) for tz in ZONES]
)
@pytest.mark.parametrize("cron", CRONS)
def test_the_slots_of_a_year_are_those_of_cronsim(cron: str, tz: str) -> None:
    times = year_of(cron, tz)
    assert all(earlier < later for earlier, later in pairwise(times))
    assert slots(Rule(cron=cron, tz=tz), YEAR, END) == times


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        ("30 2 * * *", "2026-03-29", ["03:00+0200"]),  # there is no half past two
        ("0,30 2 * * *", "2026-03-29", ["03:00+0200"]),
        ("30 2 * * *", "2026-10-25", ["02:30+0200"]),  # it comes twice
        ("0 */1 * * *", "2026-10-25", ["02:00+0200", "02:00+0100"]),
        ("*/30 2 * * *", "2026-10-25", ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
    ],
)
def test_daylight_saving(cron: str, day: str, expected: list[str]) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    midnight = datetime.fromisoformat(day).replace(tzinfo=berlin).timestamp()
    found = slots(Rule(cron=cron, tz="Europe/Berlin"), midnight, midnight + 5 * 3600)
    texts = [datetime.fromtimestamp(slot, berlin).strftime("%H:%M%z") for slot in found]
    assert [text for text in texts if text[:2] in ("02", "03")][: len(expected)] == expected


rules = st.one_of(
    st.builds(Rule, cron=st.sampled_from(CRONS), tz=st.sampled_from(ZONES)),
    st.builds(
        Rule,
        every=st.floats(1.0, 1e6).map(lambda seconds: round(seconds, 3)),
        start=st.none() | st.floats(YEAR - 1e7, END).map(lambda seconds: round(seconds, 3)),
    ),
)
times = st.floats(YEAR + 1, END - 3e6)
spans = st.floats(0.0, 3e6) | st.floats(0.0, 5000.0)


@settings(deadline=None)
@given(st.sampled_from(CRONS), st.sampled_from(ZONES), times)
def test_the_next_slot_is_the_same_wherever_one_asks(cron: str, tz: str, after: float) -> None:
    of_year = year_of(cron, tz)
    number = bisect_right(of_year, after)
    found = next_slot(Rule(cron=cron, tz=tz), after)
    if number < len(of_year):
        assert found == of_year[number]
    else:
        assert found is None or found > END


@settings(deadline=None)
@given(st.sampled_from(CRONS), st.sampled_from(ZONES), times, spans)
def test_the_latest_slot_of_a_time_is_found_without_a_walk(
    cron: str, tz: str, since: float, span: float
) -> None:
    of_year = year_of(cron, tz)
    between = of_year[bisect_left(of_year, since) : bisect_right(of_year, since + span)]
    found = latest_slot(Rule(cron=cron, tz=tz), since, since + span)
    assert found == (between[-1] if between else None)


@settings(deadline=None)
@given(rules, times, spans, st.integers(1, 40))
def test_the_first_of_the_latest_slots_is_found_without_a_walk(
    rule: Rule, since: float, span: float, most: int
) -> None:
    first = next_slot(rule, since)
    assert first is not None
    last = latest_slot(rule, first, first + min(span, 1e3 * (rule.every or 100.0)))
    assert last is not None
    between = slots(rule, first - 0.0005, last)
    assert first_of_latest(rule, first, last, most) == between[-most:][0]
    counted = count_slots(rule, first, last, most)
    assert counted == (min(len(between), most) if rule.every is None else len(between))


@given(rules, times)
def test_a_slot_is_after_the_time_and_none_is_left_out(rule: Rule, after: float) -> None:
    slot = next_slot(rule, after)
    assert slot is not None
    assert slot > after
    assert next_slot(rule, slot - 0.001) == slot
    if rule.start is not None:
        assert slot >= rule.start
    if rule.every is not None:
        assert slot <= max(after, rule.start or 0) + rule.every + 0.002
        origin = rule.start or 0.0
        number = round((slot - origin) / rule.every)
        assert slot == round(origin + number * rule.every, 3)


def test_start_and_end_are_slots_themselves_if_they_fit() -> None:
    rule = Rule(every=60.0, start=YEAR + 30, end=YEAR + 150)
    assert slots(rule, YEAR - 1e6, END) == [YEAR + 30, YEAR + 90, YEAR + 150]
    hours = Rule(cron="0 * * * *", start=YEAR, end=YEAR + 7200)
    assert slots(hours, YEAR - 1e6, END) == [YEAR, YEAR + 3600, YEAR + 7200]
    assert next_slot(rule, YEAR + 150) is None
    assert latest_slot(rule, YEAR, END) == YEAR + 150
    assert latest_slot(rule, YEAR + 31, YEAR + 89) is None


def test_a_slot_has_a_name_that_sorts_by_time() -> None:
    assert slot_text(YEAR) == "2026-01-01T00:00:00Z"
    assert slot_text(YEAR + 1.5) == "2026-01-01T00:00:01.500Z"
    assert slot_text(YEAR + 0.9996) == "2026-01-01T00:00:01Z"


@given(st.text(max_size=20), st.integers(0, 10**6), st.floats(0.0, 1e5))
def test_jitter_is_the_same_for_a_name_and_a_slot(name: str, number: int, jitter: float) -> None:
    rule, slot = Rule(every=1.0, jitter=jitter), YEAR + number
    due = due_at(name, rule, slot)
    assert slot <= due <= slot + jitter
    assert due == due_at(name, rule, slot)


def test_jitter_spreads_schedules_and_slots() -> None:
    rule = Rule(every=60.0, jitter=100.0)
    by_name = {due_at(f"n{number}", rule, YEAR) for number in range(200)}
    by_slot = {due_at("n", rule, YEAR + 60.0 * number) - 60.0 * number for number in range(200)}
    for offsets in (by_name, by_slot):
        assert len(offsets) == 200
        assert min(offsets) - YEAR < 10
        assert max(offsets) - YEAR > 90


# What becomes of a slot


def minutes(*numbers: float) -> tuple[float, ...]:
    return tuple(YEAR + 60 * number for number in numbers)


def test_a_slot_that_is_not_due_is_waited_for() -> None:
    step = decide("n", Rule(every=60.0), YEAR, YEAR - 5)
    assert (step.runs, step.slot, step.at, step.left_out) == ((), YEAR, YEAR, None)


def test_a_slot_that_is_due_is_run() -> None:
    overlaps: list[Overlap] = ["skip", "wait", "allow"]
    for overlap in overlaps:
        step = decide("n", Rule(every=60.0, overlap=overlap), YEAR, YEAR)
        assert (step.runs, step.slot, step.left_out) == ((YEAR,), YEAR + 60, None)
        assert step.at == YEAR + 60


@pytest.mark.parametrize(
    ("catch_up", "now", "runs", "following", "left_out"),
    [
        ("latest", 5.5, (5,), 6, (0, 4)),  # the sixth is in time, and the others are not
        ("none", 5.5, (5,), 6, (0, 4)),
        ("all", 5.5, (0, 1, 2, 3, 4, 5), 6, None),
        ("latest", 0.9, (0,), 1, None),
        ("none", 0.9, (), 1, (0, 0)),
        ("all", 0.9, (0,), 1, None),
        ("latest", 5.9, (5,), 6, (0, 4)),
        ("none", 5.9, (), 6, (0, 5)),
    ],
)
def test_slots_that_are_late(
    catch_up: CatchUp,
    now: float,
    runs: tuple[float, ...],
    following: float,
    left_out: tuple[float, float] | None,
) -> None:
    rule = Rule(every=60.0, catch_up=catch_up, overlap="allow", grace=40.0)
    step = decide("n", rule, YEAR, YEAR + 60 * now)
    assert step.runs == minutes(*runs)
    assert (step.slot, step.at) == minutes(following, following)
    assert step.left_out == (None if left_out is None else minutes(*left_out))


def test_overlap_skip_leaves_out_slots_while_a_run_is_not_done() -> None:
    rule = Rule(every=60.0, grace=600.0)
    step = decide("n", rule, YEAR, YEAR + 130, busy=True)
    assert (step.runs, step.slot, step.left_out) == ((), YEAR + 180, minutes(0, 2))
    step = decide("n", rule, YEAR, YEAR + 130)
    assert (step.runs, step.slot, step.left_out) == (minutes(2), YEAR + 180, minutes(0, 1))


def test_overlap_wait_holds_a_slot_until_the_run_is_done_however_late() -> None:
    rule = Rule(every=60.0, overlap="wait", catch_up="none", grace=10.0)
    step = decide("n", rule, YEAR, YEAR + 1, busy=True)
    assert (step.runs, step.slot, step.held) == ((), YEAR, True)
    assert YEAR + 1 < step.at <= YEAR + 31
    step = decide("n", rule, YEAR, YEAR + 1000, held=True, busy=True)
    assert (step.slot, step.held, step.at) == (YEAR, True, YEAR + 1030)
    step = decide("n", rule, YEAR, YEAR + 1000, held=True)
    assert (step.runs, step.slot, step.held) == ((YEAR,), YEAR + 60, False)
    step = decide("n", rule, YEAR + 60, YEAR + 1000, busy=True)  # and the others are late
    assert (step.runs, step.slot, step.left_out) == ((), *[YEAR + 1020], minutes(1, 16))


def test_one_step_puts_so_many_runs_at_most() -> None:
    rule = Rule(every=1.0, catch_up="all", overlap="allow")
    step = decide("n", rule, YEAR, YEAR + 500, most=7)
    assert step.runs == tuple(YEAR + number for number in range(7))
    assert step.slot == YEAR + 7
    assert step.at <= YEAR + 500


def test_a_long_time_without_a_worker_takes_no_long_walk() -> None:
    rule = Rule(cron="* * * * * *", tz="Europe/Berlin", overlap="allow", grace=10.0)
    step = decide("n", rule, YEAR, END - 0.5)
    assert len(step.runs) == 10
    assert step.left_out == (YEAR, END - 11)


@pytest.mark.parametrize("overlap", ["wait", "allow"])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(every=1.0, grace=10.0),
        Rule(cron="* * * * * *", tz="Europe/Berlin", grace=10.0),
        Rule(cron="* * * 1 * *", grace=10.0),
    ],
    ids=str,
)
def test_no_more_than_so_many_late_slots_are_caught_up_and_the_latest_ones(
    rule: Rule, overlap: Overlap
) -> None:
    rule = replace(rule, catch_up="all", overlap=overlap)
    first = next_slot(rule, YEAR)
    assert first is not None
    step = decide("n", rule, first, END - 0.5)
    assert step.left_out is not None
    begin, end = step.left_out
    late = slots(rule, end, END - 10.5)
    assert begin == first
    assert len(late) == MOST_LATE
    assert step.runs[0] == late[0]
    assert decide("n", rule, late[0], END - 0.5).left_out is None


def test_a_slot_that_was_taken_up_in_time_is_not_left_out_for_being_one_too_many() -> None:
    rule = Rule(every=60.0, catch_up="all", overlap="wait")
    step = decide("n", rule, YEAR, YEAR + 6e6, held=True)
    assert (step.runs, step.slot, step.left_out) == ((YEAR,), YEAR + 60, None)


def test_the_last_slot_ends_a_schedule() -> None:
    overlaps: list[Overlap] = ["skip", "wait", "allow"]
    for overlap in overlaps:
        rule = Rule(every=60.0, end=YEAR + 30, overlap=overlap)
        step = decide("n", rule, YEAR, YEAR + 5)
        assert (step.runs, step.slot, step.at) == ((YEAR,), None, math.inf)
    late = decide("n", Rule(every=60.0, end=YEAR + 30, catch_up="none"), YEAR, END)
    assert (late.runs, late.slot, late.left_out) == ((), None, (YEAR, YEAR))
    late = decide("n", Rule(every=60.0, end=YEAR + 30), YEAR, END)
    assert (late.runs, late.slot) == ((YEAR,), None)


@given(
    st.sampled_from([Rule(every=60.0), Rule(every=7.0), Rule(cron="*/10 * * * * *")]),
    st.floats(0.0, 1000.0),
    st.sampled_from(["latest", "none", "all"]),
    st.sampled_from(["wait", "allow"]),
)
def test_no_slot_is_late_while_a_worker_lives_however_long_the_jitter_is(
    rule: Rule, jitter: float, catch_up: CatchUp, overlap: Overlap
) -> None:
    rule = replace(rule, jitter=jitter, grace=1.0, catch_up=catch_up, overlap=overlap)
    slot, now = next_slot(rule, YEAR), YEAR
    runs: list[float] = []
    for _ in range(50):
        assert slot is not None
        step = decide("n", rule, slot, now)
        assert step.left_out is None
        runs += step.runs
        slot, now = step.slot, max(now, step.at)
    assert runs == slots(rule, YEAR, runs[-1])


policies = st.sampled_from(
    [
        (catch_up, overlap)
        for catch_up in ("latest", "none", "all")
        for overlap in ("skip", "wait", "allow")
        if (catch_up, overlap) != ("all", "skip")
    ]
)


@settings(deadline=None)
@given(
    st.sampled_from([Rule(every=7.0), Rule(cron="*/10 * * * * *"), Rule(cron="* * * * *")]),
    policies,
    st.floats(1.0, 100.0),
    st.just(0.0) | st.floats(0.0, 50.0),
    st.lists(st.tuples(st.floats(-3600.0, 3600.0) | st.floats(0.0, 30.0), st.booleans())),
    st.integers(1, 50) | st.just(MOST_LATE),
)
def test_no_slot_is_run_twice_or_early_whatever_the_clock_does(
    rule: Rule,
    policy: tuple[CatchUp, Overlap],
    grace: float,
    jitter: float,
    steps: list[tuple[float, bool]],
    most_late: int,
) -> None:
    catch_up, overlap = policy
    rule = Rule(rule.cron, rule.every, "UTC", None, None, catch_up, overlap, grace, jitter)
    now = YEAR
    slot, held = next_slot(rule, now), False
    assert slot is not None
    done: list[float] = []
    seen: set[float] = set()
    left_out: list[tuple[float, float]] = []
    for passed, busy in steps:
        now += passed
        before = slot
        step = decide("n", rule, slot, now, held=held, busy=busy, most_late=most_late)
        assert all(due_at("n", rule, each) <= now + 0.01 for each in step.runs)
        assert not (busy and step.runs and overlap != "allow")
        assert step.slot is not None
        assert step.slot >= before
        done += step.runs
        seen |= {*slots(rule, before - 0.001, step.slot - 0.001)}
        if step.left_out is not None:
            left_out.append(step.left_out)
            first, last = step.left_out
            assert first == before
            assert not any(first <= each <= last for each in step.runs)
            if overlap == "allow":  # then they were late
                assert first + jitter + grace < now
            if catch_up == "all":  # and there are enough that are later, and late as well
                later = slots(rule, last, last + 100.0 * (most_late + 1))[:most_late]
                assert len(later) == most_late
                assert all(each + jitter + grace < now for each in later)
        slot, held = step.slot, step.held
    assert done == sorted(set(done))
    # Each slot that was passed was run, or is told to have been left out.
    missing = seen - {*done}
    assert all(any(first <= each <= last for first, last in left_out) for each in missing)
