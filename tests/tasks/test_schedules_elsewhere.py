"""Schedules on every engine, whose clocks are the world's: their times are short."""

import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep
from tests import children
from tests.tasks import nights

import leaseq
from leaseq import Broker, connect
from leaseq._sqlite import file as files
from leaseq.tasks import Task, TaskQueue, TaskWorker, current_task
from leaseq.tasks import _clock as clock
from leaseq.tasks import _timetable as timetable

pytestmark = [pytest.mark.anyio, pytest.mark.time_passes]
virtual_time = pytest.mark.virtual_time

Any_ = Callable[..., Any]


@pytest.fixture
def runs(tasks: TaskQueue) -> list[Task[Any]]:
    """The runs of `note` so far."""
    runs: list[Task[Any]] = []

    @tasks.task
    async def note() -> None:
        runs.append(current_task())

    return runs


class Wall:
    """The wall clock of this machine, which can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """That of the workers, and of the file that they use; a server has one of its own."""
    wall = Wall()
    monkeypatch.setattr(clock, "_wall", wall.time)
    monkeypatch.setattr(
        files, "time", SimpleNamespace(time=wall.time, monotonic=time.monotonic, sleep=time.sleep)
    )
    return wall


def note_of(tasks: TaskQueue) -> Task[Any]:
    return tasks.functions["note"].task()


def slots_of(runs: list[Task[Any]]) -> list[float]:
    return sorted(run.slot or 0.0 for run in runs)


async def until(is_so: Callable[[], bool], *, within: float = 300, every: float = 0.1) -> None:
    with fail_after(within):
        while not is_so():  # noqa: ASYNC110 - on any engine
            await sleep(every)


@virtual_time
async def test_no_slot_is_run_twice_and_none_is_missing_while_workers_are_killed(
    tasks: TaskQueue, runs: list[Task[Any]]
) -> None:
    scopes: dict[int, CancelScope] = {}

    async def work(number: int) -> None:
        with CancelScope() as scopes[number]:
            await TaskWorker(tasks, id=f"worker {number}").run()

    made = await tasks.schedule("often", note_of(tasks), every=2, overlap="allow")
    async with create_task_group() as tg:
        for number in range(3):
            tg.start_soon(work, number)
        for killed in range(3):
            await until(lambda: len(runs) >= 10 * (killed + 1))  # noqa: B023
            scopes[killed].cancel()
            tg.start_soon(work, killed + 3)
        await until(lambda: len(runs) >= 40)
        tg.cancel_scope.cancel()
    slots = slots_of(runs)
    assert slots[0] == made.next
    assert all(later - earlier == 2 for earlier, later in pairwise(slots))


@virtual_time
@pytest.mark.parametrize(
    ("catch_up", "expected"), [("latest", [2]), ("none", []), ("all", [0, 1, 2])]
)
async def test_slots_without_a_worker(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, catch_up: Any, expected: list[int]
) -> None:
    options: Any = {"catch_up": catch_up, "overlap": "allow", "grace": 5}
    made = await tasks.schedule("absent", note_of(tasks), every=20, **options)
    await sleep(made.next - clock.wall_time() + 50)
    async with working(tasks):
        await until(lambda: len(runs) > len(expected))
    assert slots_of(runs) == [made.next + 20 * each for each in [*expected, 3]]


@virtual_time
@pytest.mark.parametrize("overlap", ["skip", "wait", "allow"])
async def test_overlap(tasks: TaskQueue, working: Any_, overlap: Any) -> None:
    began: list[float] = []
    at_once = most = 0

    @tasks.task
    async def linger() -> None:
        nonlocal at_once, most
        began.append(current_task().slot or 0.0)
        at_once += 1
        most = max(most, at_once)
        await sleep(25 if len(began) == 1 else 0.1)
        at_once -= 1

    made = await tasks.schedule("long", linger.task(), every=10, overlap=overlap)
    async with working(tasks):
        await until(lambda: len(began) >= 4)
    passed = [(slot - made.next) / 10 for slot in began[:4]]
    assert sorted(passed) == ([0, 3, 4, 5] if overlap == "skip" else [0, 1, 2, 3])
    assert most == (2 if overlap == "allow" else 1)


@virtual_time
@pytest.mark.parametrize("catch_up", ["latest", "none", "all"])
async def test_a_wall_clock_that_is_set_forward_by_an_hour_runs_no_slot_twice(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, wall: Wall, catch_up: Any
) -> None:
    options: Any = {"every": 100, "grace": 10, "overlap": "allow", "catch_up": catch_up}
    made = await tasks.schedule("often", note_of(tasks), **options)
    async with working(tasks), working(tasks):
        await until(lambda: len(runs) == 2, every=5)
        await sleep(20)
        wall.ahead += 3600.0
        last = made.next + 3900  # one slot after those that are late
        await until(lambda: slots_of(runs)[-1] == last, every=5)
    late = {"latest": [37], "none": [], "all": [*range(2, 38)]}[catch_up]
    assert slots_of(runs) == [made.next + 100 * each for each in (0, 1, *late, 38, 39)]


@virtual_time
@pytest.mark.parametrize("catch_up", ["latest", "none", "all"])
async def test_a_wall_clock_that_is_set_back_by_an_hour_runs_no_slot_twice(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_, wall: Wall, catch_up: Any
) -> None:
    options: Any = {"every": 60, "grace": 300, "overlap": "allow", "catch_up": catch_up}
    made = await tasks.schedule("often", note_of(tasks), **options)
    async with working(tasks), working(tasks):
        await until(lambda: len(runs) == 2, every=5)
        wall.ahead -= 3600.0
        await sleep(150)  # in which two more would be due
        assert slots_of(runs) == [made.next, made.next + 60]
        (waits,) = await tasks.schedules()
        assert waits.next == made.next + 120
        wall.ahead += 3600.0  # and now they are
        await until(lambda: len(runs) == 6, every=5)
    assert slots_of(runs) == [made.next + 60 * each for each in range(6)]


@virtual_time
async def test_schedules_are_changed_while_they_are_due(
    tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("often", note_of(tasks), every=10)
    await sleep(made.next - clock.wall_time() + 3)
    await tasks.pause_schedule("often", reason="the disk is full")
    async with working(tasks), working(tasks):
        await sleep(15)
        assert runs == []
        (paused,) = await tasks.schedules()
        assert paused.pause_reason == "the disk is full"
        pushed = await tasks.run_now("often")
        await until(lambda: len(runs) == 1)
        assert runs == [pushed]
        await tasks.resume_schedule("often")
        (resumed,) = await tasks.schedules()
        await until(lambda: len(runs) == 3)
        assert slots_of(runs[1:]) == [resumed.next, resumed.next + 10]
        changed = await tasks.schedule("often", note_of(tasks), every=3)
        await until(lambda: len(runs) == 5)
        assert slots_of(runs[3:]) == [changed.next, changed.next + 3]
        assert await tasks.unschedule("often")
        before = len(runs)
        await sleep(15)
        assert await tasks.schedules() == []
    assert len(runs) == before


def code(broker: Broker, version: int | None, *names: str, every: float = 600) -> TaskQueue:
    """A version of the code, with schedules of these names."""
    tasks = TaskQueue(broker, version=version)

    @tasks.task
    async def note() -> None: ...

    for name in names:
        tasks.scheduled(name, every=every)(note)
    return tasks


@virtual_time
async def test_an_old_worker_of_a_rolling_deploy_leaves_the_schedules_of_a_new_one(
    broker: Broker, working: Any_
) -> None:
    old, new = code(broker, 1, "changed", "gone"), code(broker, 2, "changed", "new", every=300)

    async def stored() -> dict[str, float | None]:
        return {each.name: each.every for each in await old.schedules()}

    async with working(old):
        assert await stored() == {"changed": 600, "gone": 600}
        async with working(new):
            assert await stored() == {"changed": 300, "new": 300}
            async with working(old), working(code(broker, None, "gone")):
                assert await stored() == {"changed": 300, "new": 300}
    async with working(code(broker, 3)):
        assert await stored() == {}
    terms = await broker.queue("tasks.schedules.terms")
    assert await terms.available_keys() == set()
    assert await terms.delayed_keys() == {b"version"}


@virtual_time
async def test_workers_that_start_together_store_their_schedules_once(broker: Broker) -> None:
    versions = [code(broker, 1 + number % 2, f"v{1 + number % 2}", "both") for number in range(6)]
    async with create_task_group() as tg:
        for each in versions:
            tg.start_soon(TaskWorker(each).run)
        await sleep(10)
        found = await versions[0].schedules()
        assert [(each.name, each.version) for each in found] == [("both", 2), ("v2", 2)]
        tg.cancel_scope.cancel()


@virtual_time
async def test_the_first_schedule_of_another_process_is_found(
    engine_name: str,
    tasks: TaskQueue,
    runs: list[Task[Any]],
    working: Any_,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine_name == "memory":
        pytest.skip("there is no other process in memory")
    monkeypatch.setattr(timetable, "_LOOK_EVERY", 5.0)
    other = TaskQueue(lease_timeout=30.0, backoff=leaseq.Backoff(0.0))

    @other.task
    async def note() -> None: ...

    async with working(tasks):
        await sleep(8)
        async with create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            with other.bind(broker):
                made = await other.schedule("late", note.task(), every=20)
        await until(lambda: len(runs) == 1)
    assert slots_of(runs) == [made.next]


@virtual_time
async def test_alarms_that_were_purged_are_back_when_a_worker_starts(
    broker: Broker, tasks: TaskQueue, runs: list[Task[Any]], working: Any_
) -> None:
    made = await tasks.schedule("one", note_of(tasks), every=10)
    assert await broker.purge("tasks.schedules") == 1
    async with working(tasks):
        await until(lambda: len(runs) == 1)
    assert slots_of(runs) == [made.next]


# Processes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them")
async def test_worker_processes_that_are_killed_run_each_slot_once(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    url = f"sqlite:///{tmp_path / 'nights.db'}"
    command = ("-m", "leaseq", "worker", "tests.tasks.nights:tasks", "--url", url)
    command += ("--backend", anyio_backend_name)
    workers: list[children.Child] = []

    def slots() -> set[int]:
        return {line[1] for each in workers for line in each.lines}

    async with AsyncExitStack() as stack:

        async def start() -> None:
            own = (*command, "--worker", f"w{len(workers)}")
            workers.append(await stack.enter_async_context(children.start(*own)))

        for _ in range(3):
            await start()
        for victim in range(4):
            seen = len(slots())
            await until(lambda: len(slots()) >= seen + 10)  # noqa: B023
            workers[victim].kill()
            await workers[victim].ended()
            await start()
        for each in workers[4:]:
            each.terminate()
            await each.ended()
    done = sorted(slots())
    assert len(done) >= 40
    assert all(later - earlier == 1 for earlier, later in pairwise(done))
    async with connect(url) as broker:
        with nights.tasks.bind(broker):
            (schedule,) = await nights.tasks.schedules()
            left = await nights.tasks.stats()
    assert schedule.last is not None
    assert schedule.count == schedule.last - done[0] + 1
    assert left.put == schedule.count  # and no run was put twice
