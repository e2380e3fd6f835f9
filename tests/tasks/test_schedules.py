"""Schedules: who runs them, what becomes of their slots, and what is refused.

All of it in virtual time, and so in memory: `tests.tasks.test_schedules_elsewhere` has the other
engines.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio import CancelScope, create_task_group, current_time, fail_after, sleep

from leaseq import Backoff, Broker, LeasedKeyQueue, MemoryBroker, Priority, connect
from leaseq.tasks import Schedule, Task, TaskDataError, TaskQueue, TaskWorker, current_task
from leaseq.tasks import _clock as clock
from leaseq.tasks import _timetable as timetable
from leaseq.tasks._schedules import run_key
from leaseq.tasks._slots import slot_text
from leaseq.testing import Operation, cancel_sweep

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Any_ = Callable[..., Any]
T = TypeVar("T")


@pytest.fixture
def url() -> str:
    """Where the tasks of these tests are, on each library."""
    return "memory://"


BEGIN = datetime(2026, 3, 10, 10, 3, 27, tzinfo=UTC).timestamp()
"""The time at which each test begins: at another one, a slot might come sooner or later."""


class Wall:
    """The wall clock, which can be set."""

    def __init__(self) -> None:
        self.ahead = BEGIN - time.time()

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(clock, "_wall", wall.time)
    return wall


@pytest.fixture
def runs(tasks: TaskQueue) -> list[Task[Any]]:
    """The runs of `note` so far."""
    runs: list[Task[Any]] = []

    @tasks.task
    async def note() -> None:
        runs.append(current_task())

    return runs


def note_of(tasks: TaskQueue) -> Task[Any]:
    return tasks.functions["note"].task()


async def the_one(tasks: TaskQueue) -> Schedule:
    (found,) = await tasks.schedules()
    return found


async def until(is_so: Callable[[], bool], *, within: float = 7200.0, every: float = 10.0) -> None:
    with fail_after(within):
        while not is_so():  # noqa: ASYNC110 - on any engine
            await sleep(every)


def slots_of(runs: list[Task[Any]]) -> list[float]:
    slots = [run.slot for run in runs]
    assert None not in slots
    return sorted(slots)  # type: ignore[type-var]


# At its time


async def test_the_runs_of_a_schedule(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, wall: Wall
) -> None:
    async with working(tasks):
        made = await tasks.schedule(
            "hourly",
            note_of(tasks),
            cron="0 * * * *",
            tz="Europe/Berlin",
            tenant="user:1",
            priority=Priority.HIGH,
        )
        assert made == await the_one(tasks)
        assert (made.cron, made.tz) == ("0 * * * *", "Europe/Berlin")
        assert (made.last, made.count) == (None, 0)
        assert (made.catch_up, made.overlap, made.grace, made.jitter) == ("latest", "skip", 60, 0)
        assert 0 < made.next - clock.wall_time() <= 3600
        await until(lambda: len(runs) == 2)
        await sleep(1)
    first, second = runs
    assert first.slot == made.next
    assert second.slot is not None
    assert datetime.fromtimestamp(second.slot, UTC).minute == 0
    assert first.schedule == "hourly"
    assert first.id == run_key("hourly", made.next)
    assert re.fullmatch(r"hourly@\d{4}-\d\d-\d\dT\d\d:00:00Z", first.id)
    assert (first.tenant, first.priority, first.workflow) == ("user:1", 4, first.id)
    assert abs(first.made_at - made.next) < 20
    now = await the_one(tasks)
    assert (now.last, now.last_run, now.count) == (second.slot, second.id, 2)
    assert now.next > second.slot
    assert now.task.name == "note"


async def test_a_run_is_a_task_with_the_terms_of_its_function(
    broker: Broker, working: Any_, letter: Any_
) -> None:
    tasks = TaskQueue(broker, backoff=Backoff(0.0))
    tried: list[str] = []

    @tasks.task(max_retries=1, ttl=500.0)
    async def fail(why: str) -> None:
        tried.append(why)
        raise ValueError(why)

    made = await tasks.schedule("failing", fail.task("on purpose"), every=3600)
    assert made.ttl == 500.0
    async with working(tasks):
        await until(lambda: len(tried) == 2)
        await tasks.join()
    assert tried == ["on purpose"] * 2
    assert (await letter()).key == run_key("failing", made.next)


async def test_a_task_with_a_payload_is_scheduled_too(tasks: TaskQueue) -> None:
    task = Task.create("user:3", Priority.LOW, payload={"action": "report"})
    made = await tasks.schedule("payload", task, every=60)
    assert made.task.payload == {"action": "report"}
    pushed = await tasks.run_now("payload")
    assert (pushed.payload, pushed.tenant, pushed.priority) == ({"action": "report"}, "user:3", 2)


async def test_jitter_puts_a_slot_off(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    at: list[float] = []

    @tasks.task
    async def tell() -> None:
        slot = current_task().slot
        assert slot is not None
        at.append(clock.wall_time() - slot)

    await tasks.schedule("jittery", tell.task(), every=3600, jitter=1800)
    async with working(tasks):
        await until(lambda: len(at) == 5, within=7 * 3600, every=100)
    assert all(-1 < late < 1810 for late in at)
    assert max(at) - min(at) > 20


async def test_a_schedule_is_gone_after_its_end(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    now = datetime.fromtimestamp(clock.wall_time(), UTC)
    start, end = now + timedelta(seconds=100), now + timedelta(seconds=230)
    made = await tasks.schedule("brief", note_of(tasks), every=60, start=start, end=end)
    assert made.next == made.start == round(start.timestamp(), 3)
    async with working(tasks):
        await sleep(300)
        assert await tasks.schedules() == []
    assert slots_of(runs) == pytest.approx([start.timestamp() + each for each in (0, 60, 120)])
    with pytest.raises(ValueError, match="the schedule 'brief' has no slot from now on"):
        await tasks.schedule("brief", note_of(tasks), every=60, start=start, end=end)


# Whatever becomes of the workers


async def test_no_slot_is_run_twice_and_none_is_missing_while_workers_are_killed(
    tasks: TaskQueue, runs: list[Task[Any]]
) -> None:
    every, killings = 60.0, 6
    scopes: dict[int, CancelScope] = {}

    async def work(number: int) -> None:
        worker = TaskWorker(tasks, id=f"worker {number}")
        with CancelScope() as scopes[number]:
            await worker.run()

    made = await tasks.schedule("often", note_of(tasks), every=every, overlap="allow")
    async with create_task_group() as tg:
        for number in range(3):
            tg.start_soon(work, number)
        for killed in range(killings):
            await until(lambda: len(runs) >= 10 * (killed + 1), every=0.5)  # noqa: B023
            scopes[killed].cancel()
            tg.start_soon(work, killed + 3)
        await sleep(every)
        tg.cancel_scope.cancel()
    slots = slots_of(runs)
    assert len(slots) > 60
    assert slots[0] == made.next
    assert all(later - earlier == every for earlier, later in pairwise(slots))


@pytest.mark.parametrize("where", ["before", "within", "after"])
async def test_a_worker_that_ends_while_it_runs_a_slot_leaves_it_to_others(
    tasks: TaskQueue,
    runs: list[Task[Any]],
    working: Any_,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    do, decide = timetable.Timetable._do, timetable.decide
    victim = CancelScope()
    ended = False

    def kill() -> None:
        nonlocal ended
        if not ended:
            ended = True
            victim.cancel()

    def watched(*args: Any, **options: Any) -> Any:
        step = decide(*args, **options)
        if step.runs and where == "before":
            kill()
        return step

    async def watched_do(*args: Any) -> None:
        if args[3].runs and where == "within":
            kill()
        await do(*args)
        if args[3].runs and where == "after":
            kill()

    monkeypatch.setattr(timetable, "decide", watched)
    monkeypatch.setattr(timetable.Timetable, "_do", watched_do)
    made = await tasks.schedule("often", note_of(tasks), every=60, overlap="allow")
    with victim:
        await TaskWorker(tasks).run()
    assert ended
    async with working(tasks):
        await until(lambda: len(runs) >= 3)
    assert slots_of(runs)[:3] == [made.next, made.next + 60, made.next + 120]


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("latest", [5]), ("none", []), ("all", [0, 1, 2, 3, 4, 5])]
)
async def test_slots_without_a_worker(
    tasks: TaskQueue,
    runs: list[Task[Any]],
    working: Any_,
    catch_up: Any,
    expected: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = await tasks.schedule(
        "absent", note_of(tasks), every=600, catch_up=catch_up, overlap="allow"
    )
    await sleep(made.next - clock.wall_time() + 5 * 600 + 300)
    async with working(tasks):
        await sleep(20)
        assert slots_of(runs) == [made.next + 600 * each for each in expected]
        await until(lambda: len(runs) > len(expected))
    assert slots_of(runs)[len(expected)] == made.next + 6 * 600
    told = [each.message for each in caplog.records if "leaves out" in each.message]
    count = {"latest": 5, "none": 6, "all": 0}[catch_up]
    first, last = slot_text(made.next), slot_text(made.next + 600 * (count - 1))
    message = f"the schedule 'absent' leaves out {count} slots, from {first} to {last}"
    assert told == ([message] if count else [])


async def test_one_slot_that_is_left_out_is_named(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, caplog: pytest.LogCaptureFixture
) -> None:
    made = await tasks.schedule("absent", note_of(tasks), every=600, catch_up="none")
    await sleep(made.next - clock.wall_time() + 300)
    async with working(tasks):
        await sleep(20)
    told = [each.message for each in caplog.records if "leaves out" in each.message]
    assert told == [f"the schedule 'absent' leaves out the slot {slot_text(made.next)}"]
    assert runs == []


@pytest.mark.parametrize("when", [{"every": 1}, {"cron": "* * * * * *"}], ids=str)
async def test_after_a_year_without_a_worker_the_latest_thousand_slots_are_caught_up(
    tasks: TaskQueue,
    runs: list[Task[Any]],
    working: Any_,
    when: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: Any = {**when, "catch_up": "all", "overlap": "allow"}
    made = await tasks.schedule("absent", note_of(tasks), **options)
    await sleep(365 * 86_400)
    now = clock.wall_time()
    async with working(tasks):
        await until(lambda: len(runs) >= 1060, within=100)
    slots = slots_of(runs)
    assert slots[0] == pytest.approx(now - 1060, abs=3)
    assert all(later - earlier == 1 for earlier, later in pairwise(slots))
    (told,) = [each.message for each in caplog.records if "leaves out" in each.message]
    count = "more than 1000" if "cron" in when else str(round(slots[0] - made.next))
    expected = f"leaves out {count} slots, from {slot_text(made.next)} to {slot_text(slots[0] - 1)}"
    assert expected in told


async def test_many_slots_are_caught_up_in_lots(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetable, "MOST_RUNS", 20)
    made = await tasks.schedule("many", note_of(tasks), every=60, catch_up="all", overlap="allow")
    await sleep(made.next - clock.wall_time() + 60 * 70)
    async with working(tasks):
        await until(lambda: len(runs) >= 71, within=50)
    assert slots_of(runs)[:71] == [made.next + 60 * number for number in range(71)]


@pytest.mark.parametrize("overlap", ["skip", "wait", "allow"])
async def test_overlap(broker: Broker, working: Any_, overlap: Any) -> None:
    tasks = TaskQueue(broker)
    began: list[float] = []
    at_once = most = 0

    @tasks.task
    async def linger() -> None:
        nonlocal at_once, most
        slot = current_task().slot
        assert slot is not None
        began.append(slot)
        at_once += 1
        most = max(most, at_once)
        await sleep(150 if len(began) == 1 else 1)
        at_once -= 1

    options: Any = {"catch_up": "all"} if overlap != "skip" else {}
    made = await tasks.schedule("long", linger.task(), every=60, overlap=overlap, **options)
    async with working(tasks):
        await until(lambda: len(began) >= 5, every=5)
    passed = [(slot - made.next) / 60 for slot in began[:5]]
    if overlap == "skip":
        assert passed == [0, 3, 4, 5, 6]
    else:
        assert sorted(passed) == [0, 1, 2, 3, 4]
    assert most == (2 if overlap == "allow" else 1)


async def test_a_slot_that_waits_is_run_however_late_that_is(broker: Broker, working: Any_) -> None:
    tasks = TaskQueue(broker)
    began: list[float] = []

    @tasks.task
    async def linger() -> None:
        slot = current_task().slot
        assert slot is not None
        began.append(slot)
        await sleep(500 if len(began) == 1 else 1)

    made = await tasks.schedule(
        "long", linger.task(), every=400, overlap="wait", catch_up="none", grace=10
    )
    async with working(tasks):
        await until(lambda: len(began) >= 3)
    assert began[:3] == [made.next, made.next + 400, made.next + 800]


# Clocks


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
@pytest.mark.parametrize("catch_up", ["latest", "none", "all"])
async def test_a_wall_clock_that_is_set_by_an_hour_runs_no_slot_twice(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, wall: Wall, by: float, catch_up: Any
) -> None:
    made = await tasks.schedule(
        "often", note_of(tasks), every=600, overlap="allow", catch_up=catch_up
    )
    async with working(tasks), working(tasks):
        await until(lambda: len(runs) >= 3)
        await sleep(200)
        wall.ahead += by
        set_at = clock.wall_time()
        await sleep(100)  # by then it was noticed
        noticed = len(runs)
        await until(lambda: len(runs) >= noticed + 3, within=3 * 3600)
    slots = slots_of(runs)
    assert len(slots) == len(set(slots))
    passed = [round((slot - made.next) / 600) for slot in slots]
    if by < 0 or catch_up == "all":
        assert passed == [*range(len(passed))]
    else:
        left_out = {*range(passed[-1])} - {*passed}
        assert passed[:3] == [0, 1, 2]
        assert len(left_out) == (5 if catch_up == "latest" else 6)
        assert noticed == (4 if catch_up == "latest" else 3)
        assert max(left_out) * 600 + made.next < set_at


# By hand


async def test_a_slot_that_is_due_is_not_run_once_it_is_paused(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("often", note_of(tasks), every=600)
    await sleep(made.next - clock.wall_time() + 30)
    await tasks.pause_schedule("often", reason="the disk is full")
    paused = await the_one(tasks)
    assert paused.paused_since == pytest.approx(clock.wall_time(), abs=20)
    assert paused.pause_reason == "the disk is full"
    await tasks.pause_schedule("often", reason="a new one")
    assert (await the_one(tasks)).paused_since == paused.paused_since
    async with working(tasks):
        await sleep(3000)
        assert runs == []
        await tasks.resume_schedule("often")
        await tasks.resume_schedule("often")
        resumed = await the_one(tasks)
        assert (resumed.paused_since, resumed.pause_reason) == (None, "")
        assert resumed.next > clock.wall_time()
        await until(lambda: len(runs) == 2)
    assert slots_of(runs) == [resumed.next, resumed.next + 600]


async def test_a_slot_that_is_due_is_not_run_once_it_is_taken_out(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("often", note_of(tasks), every=600)
    await sleep(made.next - clock.wall_time() + 30)
    assert await tasks.unschedule("often")
    assert not await tasks.unschedule("often")
    async with working(tasks):
        await sleep(3000)
        assert await tasks.schedules() == []
        assert runs == []
        made = await tasks.schedule("often", note_of(tasks), every=600)  # and again
        await until(lambda: len(runs) == 1)
        assert await tasks.unschedule("often")
        await sleep(3000)
    assert slots_of(runs) == [made.next]


async def test_a_schedule_is_run_now_beside_its_slots(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("rare", note_of(tasks), every=6000)
    await tasks.pause_schedule("rare")
    pushed = await tasks.run_now("rare")
    assert pushed.id.startswith("rare@")
    assert pushed.slot == pytest.approx(clock.wall_time(), abs=20)
    assert pushed.schedule == "rare"
    after = await the_one(tasks)
    assert (after.last, after.last_run, after.count) == (None, pushed.id, 1)
    assert after.next == made.next
    async with working(tasks):
        await until(lambda: len(runs) == 1)
    assert runs == [pushed]


async def test_a_run_by_hand_is_one_that_slots_do_not_overlap(
    broker: Broker, working: Any_
) -> None:
    tasks = TaskQueue(broker)
    began: list[float] = []

    @tasks.task
    async def linger() -> None:
        began.append(current_task().slot or 0.0)
        await sleep(100)

    made = await tasks.schedule("rare", linger.task(), every=600)
    await sleep(made.next - clock.wall_time() - 50)
    async with working(tasks):
        await tasks.run_now("rare")
        await until(lambda: len(began) == 2)
    assert began[1] == made.next + 600


async def test_another_task_or_time_for_a_schedule(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    others: list[float] = []

    @tasks.task
    async def other() -> None:
        others.append(current_task().slot or 0.0)

    async with working(tasks):
        made = await tasks.schedule("one", note_of(tasks), every=600)
        await until(lambda: len(runs) == 1)
        changed = await tasks.schedule("one", other.task(), every=600, jitter=1, catch_up="none")
        assert changed.next == made.next + 600
        assert (changed.made_at, changed.count, changed.last) == (made.made_at, 1, made.next)
        await until(lambda: len(others) == 1)
        sooner = await tasks.schedule("one", other.task(), every=60)
        assert sooner.next - clock.wall_time() <= 60
        await until(lambda: len(others) == 2)
        assert others == [made.next + 600, sooner.next]
        later = await tasks.schedule("one", other.task(), every=6000)
        await until(lambda: len(others) == 3)
        assert others[2] == later.next


async def test_a_slot_that_was_run_does_not_come_again_when_the_times_change(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, wall: Wall
) -> None:
    async with working(tasks):
        made = await tasks.schedule("one", note_of(tasks), every=600, overlap="allow")
        await until(lambda: len(runs) == 1)
        wall.ahead -= 100  # now it is before that slot
        changed = await tasks.schedule("one", note_of(tasks), every=1200, overlap="allow")
        assert changed.next > made.next
        again = await tasks.schedule("one", note_of(tasks), every=600, overlap="allow")
        assert again.next == made.next + 600


# The code, and its versions


def code(broker: Broker, version: int | None, *names: str, every: float = 600) -> TaskQueue:
    """A version of the code, with schedules of these names."""
    tasks = TaskQueue(broker, version=version)

    @tasks.task
    async def note() -> None: ...

    for name in names:
        tasks.scheduled(name, every=every)(note)
    return tasks


async def names_in(tasks: TaskQueue) -> dict[str, float | None]:
    return {each.name: each.every for each in await tasks.schedules()}


async def test_schedules_of_the_code_are_stored_when_a_worker_starts(
    broker: Broker, working: Any_
) -> None:
    tasks = TaskQueue(broker)
    done: list[object] = []

    @tasks.scheduled("twice", every=60, arguments={"words": ["a", "b"]}, tenant="user:2")
    @tasks.scheduled(cron="*/2 * * * *", overlap="allow")
    @tasks.task(priority=Priority.LOW)
    async def say(words: list[str] | None = None) -> None:
        done.append((current_task().schedule, current_task().tenant, words))

    assert await tasks.schedules() == []
    async with working(tasks):
        stored = await tasks.schedules()
        assert [(each.name, each.declared, each.version) for each in stored] == [
            ("say", True, None),
            ("twice", True, None),
        ]
        await until(lambda: len(done) >= 4)
    assert ("say", None, None) in done
    assert ("twice", "user:2", ["a", "b"]) in done
    await say.task(["as", "itself"])()
    assert done[-1] == (None, None, ["as", "itself"])


async def test_an_old_worker_of_a_rolling_deploy_leaves_the_schedules_of_a_new_one(
    broker: Broker, working: Any_
) -> None:
    old = code(broker, 1, "changed", "gone")
    new = code(broker, 2, "changed", "new", every=300)
    by_hand = TaskQueue(broker)

    @by_hand.task
    async def note() -> None: ...

    async with working(old):
        await by_hand.schedule("by hand", note.task(), every=50)
        assert await names_in(old) == {"changed": 600, "gone": 600, "by hand": 50}
        await old.pause_schedule("changed", reason="kept")
        async with working(new):
            expected = {"changed": 300.0, "new": 300.0, "by hand": 50.0}
            assert await names_in(old) == expected
            async with working(old), working(code(broker, 1, "gone")), working(code(broker, None)):
                assert await names_in(old) == expected
            async with working(code(broker, None, "gone", "changed")):
                assert await names_in(old) == expected
    found = {each.name: each for each in await new.schedules()}
    assert found["changed"].pause_reason == "kept"
    assert (found["changed"].version, found["by hand"].version) == (2, None)
    async with working(code(broker, 3)):
        assert await names_in(old) == {"by hand": 50}


async def test_code_without_a_version_takes_nothing_out(broker: Broker, working: Any_) -> None:
    async with working(code(broker, None, "one", "two")):
        pass
    async with working(code(broker, None, "two", every=300)):
        assert await names_in(code(broker, None)) == {"one": 600, "two": 300}
    async with working(code(broker, 0, "two")):
        assert await names_in(code(broker, None)) == {"two": 600}


async def test_workers_that_start_together_store_their_schedules_once(broker: Broker) -> None:
    versions = [code(broker, 1 + number % 2, f"v{1 + number % 2}", "both") for number in range(8)]
    workers = [TaskWorker(each) for each in versions]
    async with create_task_group() as tg:
        for worker in workers:
            tg.start_soon(worker.run)
        await sleep(30)
        assert await names_in(versions[0]) == {"both": 600, "v2": 600}
        assert {each.version for each in await versions[0].schedules()} == {2}
        tg.cancel_scope.cancel()


async def test_a_run_of_a_new_version_is_left_by_an_old_worker(
    broker: Broker, working: Any_
) -> None:
    new, old = TaskQueue(broker), TaskQueue(broker)
    done: list[str] = []

    @new.task
    async def unheard_of() -> None:
        done.append(current_task().id)

    made = await new.schedule("new", unheard_of.task(), every=600)
    async with working(old):
        await sleep(made.next - clock.wall_time() + 30)
        assert (await the_one(old)).last == made.next
        async with working(new):
            await until(lambda: len(done) == 1)
    assert done == [run_key("new", made.next)]


# What else may happen


async def test_the_first_schedule_is_found_by_a_worker_that_runs_already(
    broker: Broker, tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    elsewhere = TaskQueue(lease_timeout=30.0, backoff=Backoff(0.0))

    @elsewhere.task
    async def note() -> None: ...

    async with working(tasks):
        await sleep(100)
        assert len(await broker.list_queues()) == 2  # with those that it needs itself
        with elsewhere.bind(broker):
            made = await elsewhere.schedule("late", note.task(), every=600)
            await until(lambda: len(runs) == 1)
    assert slots_of(runs) == [made.next]


async def test_alarms_that_were_purged_are_back_when_a_worker_starts(
    broker: Broker, tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("one", note_of(tasks), every=600)
    assert await broker.purge("tasks.schedules") == 1
    async with working(tasks):
        await until(lambda: len(runs) == 1)
    assert slots_of(runs) == [made.next]


async def test_a_schedule_that_cannot_be_read_holds_up_no_other(
    broker: Broker,
    tasks: TaskQueue,
    runs: list[Task[Any]],
    working: Any_,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await tasks.schedule("good", note_of(tasks), every=600)
    terms = await broker.queue("tasks.schedules.terms")
    await terms.put("strange", {"rule": {"lunar": True}})
    await (await broker.queue("tasks.schedules")).put("strange", None)
    async with working(tasks):
        await until(lambda: len(runs) == 2)
    assert any("cannot be read" in each.getMessage() for each in caplog.records)
    with pytest.raises(TaskDataError, match="the schedule 'strange' cannot be read"):
        await tasks.schedules()
    assert await terms.state("strange") != "absent"


async def test_fields_of_other_versions_are_kept(
    broker: Broker, tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    await tasks.schedule("one", note_of(tasks), every=600)
    terms = await broker.queue("tasks.schedules.terms")
    await terms.put("one", {**await terms.peek("one"), "newer": [1]})
    async with working(tasks):
        await until(lambda: len(runs) == 1)
        await tasks.pause_schedule("one")
    assert (await terms.peek("one"))["newer"] == [1]


async def test_a_worker_ends_when_its_queue_is_shut_down(
    tasks: TaskQueue, runs: list[Task[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    blocked = anyio.Event()

    @tasks.task
    async def wait() -> None:
        await blocked.wait()

    await tasks.schedule("one", note_of(tasks), every=60)
    await tasks.push(wait.task())
    with fail_after(3600):
        async with create_task_group() as tg:
            await tg.start(TaskWorker(tasks).run)
            await tasks.shutdown()
            await sleep(300)
            blocked.set()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_worker_ends_when_its_broker_is_closed(url: str) -> None:
    tasks = TaskQueue()

    @tasks.scheduled(every=60)
    @tasks.task
    async def note() -> None: ...

    with fail_after(3600):
        async with create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            with tasks.bind(broker):
                await tg.start(TaskWorker(tasks).run)
                await tasks.shutdown()
                await sleep(100)


async def test_a_call_that_is_cancelled_leaves_a_schedule_whole(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        async with create_task_group() as tg, connect("memory://") as broker:
            await tg.start(broker.run)
            tasks = TaskQueue(broker)

            @tasks.task
            async def note() -> None: ...

            await tasks.schedule("one", note.task(), every=600)

            async def operation() -> None:
                await tasks.schedule("two", note.task(), every=600)
                await tasks.schedule("one", note.task(), every=60)
                await tasks.pause_schedule("one")
                await tasks.run_now("one")
                await tasks.resume_schedule("one")
                await tasks.unschedule("two")

            yield operation
            terms = await broker.queue("tasks.schedules.terms")
            assert await terms.inflight_keys() == set()
            assert await terms.state("one") == "ready"
            found = {each.name: each for each in await tasks.schedules()}
            assert found["one"].every in (60, 600)
            assert found["one"].count == (await tasks.stats()).ready
            alarms = await broker.queue("tasks.schedules")
            for name in found:
                assert await alarms.state(name) in ("delayed", "ready")
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario, native=native) > 5


async def test_a_worker_that_is_cancelled_at_any_step_loses_no_slot(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        async with create_task_group() as tg, connect("memory://") as broker:
            await tg.start(broker.run)
            tasks = TaskQueue(broker)
            done: list[float] = []

            @tasks.task
            async def note() -> None:
                done.append(current_task().slot or 0.0)

            made = await tasks.schedule("one", note.task(), every=600, overlap="allow")
            await sleep(made.next - clock.wall_time() + 0.5)
            worker = TaskWorker(tasks)

            async def operation() -> None:
                async with create_task_group() as inner:
                    inner.start_soon(worker.run)
                    while not done:
                        await anyio.lowlevel.checkpoint()
                    worker.stop()

            yield operation
            async with create_task_group() as inner:
                other = TaskWorker(tasks)
                await inner.start(other.run)
                with fail_after(3600):
                    while len(done) < 2:  # noqa: ASYNC110 - on any clock
                        await sleep(10)
                other.stop()
            assert sorted(set(done))[:2] == [made.next, made.next + 600]
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario, native=native) > 5


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "a schedule has either cron= or every=, and neither is given"),
        (
            {"cron": "* * * * *", "every": 5},
            ValueError,
            "a schedule has either cron= or every=, not both: cron='* * * * *', every=5",
        ),
        ({"cron": "61 * * * *"}, ValueError, "cron '61 * * * *' is no cron expression: Bad minute"),
        ({"cron": ""}, ValueError, "cron '' is no cron expression: Bad field; it has five fields"),
        ({"cron": "* * *"}, ValueError, "is no cron expression: Wrong number of fields; it has"),
        ({"cron": "0 0 30 2 *"}, ValueError, "is no cron expression: Bad day-of-month"),
        ({"cron": "* * */20 * 1L"}, ValueError, "has no time in the next fifty years"),
        ({"cron": 5}, TypeError, "cron must be a string, not 5"),
        (
            {"cron": "* * * * *", "tz": "Europe/Berlim"},
            ValueError,
            "tz 'Europe/Berlim' is no time zone of this system: use a name such as",
        ),
        ({"every": 60, "tz": "../../etc/passwd"}, ValueError, "is no time zone of this system"),
        ({"every": 60, "tz": "Europe"}, ValueError, "tz 'Europe' is no time zone of this system"),
        ({"every": 60, "tz": None}, TypeError, "tz must be a string, the name of a time zone"),
        (
            {"every": 0.5},
            ValueError,
            "every must be from 1 second to a hundred years, 3,155,760,000",
        ),
        ({"every": float("inf")}, ValueError, "3,155,760,000 seconds, not inf"),
        ({"every": float("nan")}, ValueError, "seconds, not nan"),
        ({"every": 1e10}, ValueError, "seconds, not 10000000000.0"),
        ({"every": "60"}, TypeError, "every must be a number of seconds, not '60'"),
        ({"every": 60, "jitter": -1}, ValueError, "jitter must be 0 seconds or more, and finite"),
        (
            {"every": 60, "grace": 0},
            ValueError,
            "grace must be 1 second or more, and finite, not 0",
        ),
        (
            {"every": 60, "grace": -5},
            ValueError,
            "grace must be 1 second or more, and finite, not -5",
        ),
        ({"every": 60, "grace": float("nan")}, ValueError, "grace must be 1 second or more"),
        ({"every": 60, "grace": "5"}, TypeError, "grace must be a number of seconds, not '5'"),
        (
            {"every": 60, "catch_up": "some"},
            ValueError,
            "catch_up must be one of 'latest', 'none', 'all', not 'some'",
        ),
        (
            {"every": 60, "overlap": ["skip"]},
            ValueError,
            "overlap must be one of 'skip', 'wait', 'allow', not ['skip']",
        ),
        (
            {"every": 60, "catch_up": "all"},
            ValueError,
            "choose overlap='wait', one after the",
        ),
        ({"every": 60, "start": 5}, TypeError, "start must be a datetime, or None, not 5"),
        (
            {"cron": "0 3 * * *", "start": datetime(1, 1, 1)},
            ValueError,
            "start must be in the years 1900 to 8999, not datetime.datetime(1, 1, 1, 0, 0)",
        ),
        (
            {"cron": "0 3 * * *", "start": datetime(9999, 12, 31, 23)},
            ValueError,
            "start must be in the years 1900 to 8999",
        ),
        ({"every": 60, "end": datetime.max}, ValueError, "end must be in the years 1900 to 8999"),
        (
            {"every": 60, "start": datetime(2030, 1, 2), "end": datetime(2030, 1, 1)},
            ValueError,
            "the schedule ends before it starts",
        ),
        (
            {
                "cron": "0 3 * * *",
                "start": datetime(2030, 1, 2, 4, tzinfo=UTC),
                "end": datetime(2030, 1, 2, 5, tzinfo=UTC),
            },
            ValueError,
            "the schedule has no slot before its end",
        ),
        ({"every": 60, "end": datetime(2020, 1, 1, tzinfo=UTC)}, ValueError, "has no slot"),
        ({"every": 60, "tenant": 5}, TypeError, "tenant must be a string or None, not 5"),
        (
            {"every": 60, "priority": "high"},
            TypeError,
            "priority must be a Priority or",
        ),
        ({"every": 60, "ttl": -1}, ValueError, "ttl must be"),
        ({"evry": 60}, TypeError, "schedule() has no option 'evry': it has cron, every, tz"),
    ],
)
async def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with MemoryBroker() as broker:
        tasks = TaskQueue(broker)

        @tasks.task
        async def note() -> None: ...

        with pytest.raises(error, match=re.escape(message)):
            await tasks.schedule("one", note.task(), **options)
        assert await broker.list_queues() in ([], await broker.list_queues())
        if "evry" not in options and "end" not in options:
            with pytest.raises(error, match=re.escape(message)):
                tasks.scheduled("one", **options)(note)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (5, TypeError, "a schedule's name must be a string, not 5"),
        ("", ValueError, "a schedule's name must not be empty"),
        ("n" * 257, ValueError, "a schedule's name must be 256 bytes at most, not 257"),
        ("\ud800", ValueError, "a schedule's name must be text without half a surrogate pair"),
    ],
)
async def test_names_that_cannot_be_are_refused(
    name: Any, error: type[Exception], message: str
) -> None:
    async with MemoryBroker() as broker:
        tasks = TaskQueue(broker)

        @tasks.task
        async def note() -> None: ...

        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: tasks.schedule(name, note.task(), every=60),
            lambda: tasks.unschedule(name),
            lambda: tasks.pause_schedule(name),
            lambda: tasks.resume_schedule(name),
            lambda: tasks.run_now(name),
        ]
        for call in calls:
            with pytest.raises(error, match=re.escape(message)):
                await call()
        with pytest.raises(error, match=re.escape(message)):
            tasks.scheduled(name, every=60)


async def test_what_is_not_there_cannot_be_changed(tasks: TaskQueue) -> None:
    for _ in range(2):
        for call in (tasks.pause_schedule, tasks.resume_schedule, tasks.run_now):
            with pytest.raises(LookupError, match=r"has no schedule 'none'"):
                await call("none")
        assert not await tasks.unschedule("none")

        @tasks.task(name=f"note {_}")
        async def note() -> None: ...

        await tasks.schedule("some", note.task(), every=60)
    with pytest.raises(TypeError, match="reason must be a string, not 5"):
        await tasks.pause_schedule("some", reason=5)  # type: ignore[arg-type]


async def test_what_is_no_task_of_the_queue_cannot_be_scheduled() -> None:
    tasks, others = TaskQueue(MemoryBroker()), TaskQueue()

    @others.task
    async def note(number: int = 1) -> None: ...

    with pytest.raises(TypeError, match=r"a task is made by function\.task"):
        await tasks.schedule("one", note, every=60)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not of a function of <TaskQueue 'tasks'"):
        await tasks.schedule("one", note.task(), every=60)
    with pytest.raises(ValueError, match="is not of a function of <TaskQueue 'tasks'"):
        tasks.scheduled(every=60)(note)
    with pytest.raises(TypeError, match=r"write @tasks.scheduled\(...\) above @tasks.task"):
        tasks.scheduled(every=60)(lambda: None)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="arguments must be a mapping"):
        others.scheduled(every=60, arguments=[1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'numbr'"):
        others.scheduled(every=60, arguments={"numbr": 1})(note)
    with pytest.raises(TaskDataError, match="Expected `int`, got `str`"):
        others.scheduled(every=60, arguments={"number": "1"})(note)
    others.scheduled(every=60)(note)
    with pytest.raises(ValueError, match="there is a schedule 'note' already"):
        others.scheduled(every=60)(note)
    with pytest.raises(TypeError, match=r"scheduled\(\) has no option 'evry'"):
        others.scheduled(evry=60)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="version must be 0 or more, not -1"):
        TaskQueue(version=-1)
    assert TaskQueue(version=7).version == 7


async def test_schedules_need_a_broker() -> None:
    tasks = TaskQueue()

    @tasks.scheduled(every=60)
    @tasks.task
    async def note() -> None: ...

    with pytest.raises(RuntimeError, match="task queue 'tasks' has no broker yet"):
        await tasks.schedules()
    with (
        pytest.raises(ValueError, match="the schedule 'note' needs a broker, and there is only"),
        tasks.bind(LeasedKeyQueue()),
    ):
        pass
    plain = TaskQueue(LeasedKeyQueue())
    with pytest.raises(ValueError, match="the schedule 'one' needs a broker"):
        await plain.schedule("one", Task.create(), every=60)
    with pytest.raises(ValueError, match="schedules needs a broker"):
        await plain.schedules()


async def test_a_worker_over_a_plain_queue_does_without_schedules(working: Any_) -> None:
    queue: LeasedKeyQueue[str, Any] = LeasedKeyQueue(default_lease_timeout=30.0)
    tasks = TaskQueue(queue)
    done: list[float] = []

    @tasks.task
    async def note() -> None:
        done.append(current_time())

    async with create_task_group() as tg:
        await tg.start(queue.run)
        async with working(tasks):
            await tasks.push(note.task())
            await tasks.join()
        tg.cancel_scope.cancel()
    assert len(done) == 1


def test_the_moment_of_a_start_without_a_zone_is_one_of_the_schedule() -> None:
    tasks = TaskQueue()

    @tasks.scheduled(every=60, start=datetime(2030, 7, 1, 12), tz="Europe/Berlin")
    @tasks.task
    async def note() -> None: ...

    start = tasks._declared["note"].rule.start
    assert start == datetime(2030, 7, 1, 10, tzinfo=UTC).timestamp()
    assert ceil(start) == start
