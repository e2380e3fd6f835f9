"""Workers: what becomes of tasks that succeed, fail, hang, or cannot be done."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import BusyResourceError, Event, create_task_group, sleep, sleep_forever
from anyio.lowlevel import checkpoint

import leaseq.testing
from leaseq import Backoff, Broker, LeasedKeyQueue, Priority, Reject, connect
from leaseq._remote.protocol import Put, Transact
from leaseq.tasks import (
    Task,
    TaskDataError,
    TaskFailedError,
    TaskHandler,
    TaskQueue,
    TaskWorker,
    WorkerConfig,
    WorkerHealth,
    _backend,
    _worker,
    xcom_push,
)
from leaseq.tasks._results import result_name, xcom_name
from leaseq.testing import Operation, cancel_sweep

pytestmark = pytest.mark.anyio
virtual_time = pytest.mark.virtual_time
time_passes = pytest.mark.time_passes

Any_ = Callable[..., Any]


class Diary(TaskHandler):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    def on_task_start(self, task: Task[Any]) -> None:
        self.notes.append(("start", task.name))

    async def on_task_success(self, task: Task[Any], duration: float) -> None:
        self.notes.append(("success", task.name, round(duration)))

    def on_task_failure(self, task: Task[Any], error: BaseException, duration: float) -> None:
        self.notes.append(("failure", task.name, repr(error), round(duration)))


# Success and failure


async def test_functions_are_done_in_the_event_loop_or_in_threads(
    tasks: TaskQueue, do_all: Any_
) -> None:
    done: set[tuple[str, int, bool]] = set()

    @tasks.task
    async def here(number: int) -> None:
        done.add(("here", number, threading.current_thread() is threading.main_thread()))

    @tasks.task
    def there(number: int) -> None:
        done.add(("there", number, threading.current_thread() is threading.main_thread()))

    await tasks.push_many([function.task(4) for function in (here, there)])
    await do_all(tasks)
    assert done == {("here", 4, True), ("there", 4, False)}
    assert (await tasks.stats()).acked == 2


@time_passes
@virtual_time
async def test_a_task_that_fails_is_tried_again_as_often_as_it_says(
    broker: Broker, do_all: Any_, letter: Any_
) -> None:
    tasks = TaskQueue(broker, backoff=Backoff(10.0, factor=1.0, seed=1))
    started: list[float] = []

    @tasks.task(max_retries=2)
    async def fail() -> None:
        started.append(anyio.current_time())
        raise KeyError("nothing there")

    task = await tasks.push(fail.task(), tenant="user:1")
    await do_all(tasks)
    assert len(started) == 3
    assert all(later > earlier for earlier, later in pairwise(started))
    dead = await letter()
    assert (dead.key, dead.tenant, dead.deliveries) == (task.id, "user:1", 3)
    first, *_, last = dead.reason.strip().splitlines()
    assert first == "failed at delivery 3, its last: KeyError: 'nothing there'"
    assert "in fail\n    raise KeyError" in dead.reason
    assert last == "KeyError: 'nothing there'"


@virtual_time
async def test_a_dead_task_can_be_brought_back_and_starts_anew(
    tasks: TaskQueue, do_all: Any_
) -> None:
    broken = True

    @tasks.task(max_retries=0, result_ttl=60.0)
    async def work() -> int:
        if broken:
            raise ValueError
        return 4

    task = await tasks.push(work.task())
    await do_all(tasks)
    broken = False
    queue = await tasks.open()
    assert (await queue.redrive()).keys == (task.id,)
    await do_all(tasks)
    assert await tasks.result(task) == 4


@virtual_time
async def test_a_very_long_traceback_is_cut(tasks: TaskQueue, do_all: Any_, letter: Any_) -> None:
    @tasks.task(max_retries=0)
    async def fail() -> None:
        raise ValueError("x" * 50_000)

    await tasks.push(fail.task())
    await do_all(tasks)
    assert len((await letter()).reason) < 70_000


@virtual_time
async def test_a_task_that_is_rejected_is_not_tried_again(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    @tasks.task(result_ttl=60.0)
    async def refuse() -> None:
        raise Reject("no such customer")

    task = await tasks.push(refuse.task())
    await do_all(tasks)
    dead = await letter()
    assert (dead.reason, dead.deliveries) == ("no such customer", 1)
    with pytest.raises(TaskFailedError, match="no such customer"):
        await tasks.result(task)


def versions_of(broker: Broker, **options: Any) -> tuple[TaskQueue, TaskQueue]:
    """The tasks of an old version of the code, and of the next one, on one queue."""
    old, new = (
        TaskQueue(broker, lease_timeout=30.0, backoff=Backoff(0.0), **options) for _ in range(2)
    )

    @old.task(name="pack")
    async def pack(order: int) -> None: ...

    @new.task(name="pack")
    async def pack_in_colour(order: int = 0, colour: str = "red") -> None: ...

    @new.task
    async def unpack(order: int) -> None: ...

    return old, new


def unknown_to(new: TaskQueue, how: str) -> Task[Any]:
    match how:
        case "name":
            return new.functions["unpack"].task(1)
        case "argument":
            return new.functions["pack"].task(1, colour="blue")
        case _:
            return new.functions["pack"].task(colour="blue")


each_unknown = pytest.mark.parametrize("how", ["name", "argument", "no argument"])


@time_passes
@virtual_time
@each_unknown
async def test_a_task_that_a_worker_does_not_know_is_left_to_one_that_does(
    broker: Broker, working: Any_, advance: Any_, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = versions_of(broker)
    task = await new.push(unknown_to(new, how))
    async with working(old, id="old"):
        await advance(2.5)  # it is tried now and after a second, and rests for two more
        with anyio.fail_after(10):
            while (await old.stats()).released < 2:  # noqa: ASYNC110 - on any engine
                await sleep(0.05)
        assert (await old.stats()).dead == 0
        wire = await (await old.open())._look(task.id)
        assert wire[1] is not None
        assert wire[1]["left"][1] == 2
        notes = await broker.queue("tasks.unknown", make=False)
        assert (await notes.peek(str(task.name)))["worker"] == "old"
    assert sum("leaves" in record.message for record in caplog.records) == 1
    async with working(new):
        await advance(4.5)
        with anyio.fail_after(10):
            await new.join()
    statistics = await new.stats()
    assert (statistics.acked, statistics.dead, statistics.released) == (1, 0, 2)


@virtual_time
async def test_notes_on_unknown_tasks_go_with_the_worker_that_ends(
    broker: Broker, working: Any_
) -> None:
    old, new = versions_of(broker)
    await new.push(unknown_to(new, "name"))
    async with working(old, id="old"):
        with anyio.fail_after(10):
            while not (await old.stats()).delayed:  # noqa: ASYNC110 - on any engine
                await sleep(0.02)
        notes = await broker.queue("tasks.unknown", make=False)
        assert await notes.available_keys() == {"unpack"}
        await notes.put("of another", {"reason": "", "worker": "other", "at": 1.0})
    assert await notes.available_keys() == {"of another"}


async def test_notes_of_a_worker_that_was_killed_go_in_time(
    tmp_path: Path, working: Any_, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backend, "NOTES_KEPT", 0.5)
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    async with create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        old, new = versions_of(broker)
        task = await new.push(unknown_to(new, "name"))
        await tg.start(TaskWorker(old).run)
        while not (await old.stats()).delayed:  # noqa: ASYNC110 - in a file
            await sleep(0.02)
        await new.delete(task.id)
        tg.cancel_scope.cancel()
    async with create_task_group() as tg, connect(url) as broker, connect(url) as looker:
        await tg.start(broker.run)
        notes = await looker.queue("tasks.unknown", make=False)
        assert await notes.qsize() == 1
        async with working(versions_of(broker)[1]):
            with anyio.fail_after(10):
                while await notes.qsize():  # noqa: ASYNC110 - in a file
                    await sleep(0.05)
        tg.cancel_scope.cancel()


@virtual_time
@each_unknown
async def test_a_task_that_no_worker_has_known_for_long_is_a_dead_letter(
    broker: Broker, do_all: Any_, letter: Any_, how: str
) -> None:
    old, new = versions_of(broker, unknown_for=0.0)
    await new.push(unknown_to(new, how))
    await do_all(old)
    reason = (await letter()).reason
    assert reason.startswith(
        {
            "name": "unknown task 'unpack': there is no such function",
            "argument": "task 'pack' has no parameter 'colour'",
            "no argument": "task 'pack' has no parameter 'colour'",
        }[how]
    )
    assert reason.endswith(", and no worker has known it for 0 s")


@virtual_time
async def test_the_time_for_which_a_task_was_unknown_travels_with_it(
    broker: Broker, do_all: Any_, letter: Any_, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = versions_of(broker)
    task = await new.push(unknown_to(new, "name"))
    queue = await old.open()
    _, wire = await queue._look(task.id)
    since = time.time() - 86_401
    await queue.put(task.id, {**wire, "left": [since, 1441], "field of a later version": 1})
    await do_all(old)
    dead = await letter()
    assert dead.reason.endswith("and no worker has known it for 86400 s")
    assert dead.value["field of a later version"] == 1


@time_passes
@virtual_time
async def test_a_task_that_is_left_keeps_what_other_versions_have_written_in_it(
    broker: Broker, working: Any_, advance: Any_
) -> None:
    old, new = versions_of(broker)
    task = await new.push(unknown_to(new, "name"), tenant="north")
    queue = await old.open()
    _, wire = await queue._look(task.id)
    await queue.put(task.id, {**wire, "field of a later version": 1, "left": "odd"})
    async with working(old):
        await advance(0.5)
        with anyio.fail_after(10):
            while not (await old.stats()).delayed:  # noqa: ASYNC110 - on any engine
                await sleep(0.02)
    _, left = await queue._look(task.id)
    assert left["left"][1] == 1
    assert {**left, "left": 0} == {**wire, "field of a later version": 1, "left": 0}


async def test_a_task_is_left_only_by_the_worker_that_has_its_lease(
    url: str, engine_name: str, working: Any_, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine_name == "memory":
        pytest.skip("nothing is under way for long within a process")
    done = Event()
    async with create_task_group() as tg, connect(url) as slow, connect(url) as fast:
        await tg.start(slow.run)
        await tg.start(fast.run)
        old, new = (
            TaskQueue(each, lease_timeout=0.5, backoff=Backoff(0.0)) for each in (slow, fast)
        )
        ran: list[int] = []

        @new.task
        async def unpack() -> None:
            ran.append(1)

        task = await new.push(unpack.task())
        store = slow._own.dispatcher._store  # type: ignore[attr-defined]
        exchange = store.exchange

        async def held_up(batch: Any) -> Any:
            """Let what an old worker writes of a task be under way until that is done."""
            writes = [each for each in batch.operations if isinstance(each, Put | Transact)]
            if any(each.queue.name == "tasks" for each in writes):
                with anyio.CancelScope(shield=True), anyio.fail_after(20):
                    await done.wait()
            return await exchange(batch)

        monkeypatch.setattr(store, "exchange", held_up)
        with anyio.fail_after(30):
            async with working(old, id="old"):
                while not (await new.stats()).expired:
                    await fast.process_expired()
                    await sleep(0.05)
                async with working(new, id="new"):
                    await new.join()
                done.set()
            assert await new.get(task.id) is None
            async with working(new):
                await new.join()
        statistics = await new.stats()
        assert (statistics.put, statistics.acked, ran) == (1, 1, [1])
        tg.cancel_scope.cancel()


@virtual_time
@pytest.mark.parametrize(
    ("queue", "function"),
    [("q" * 123, "unpack"), ("tasks", "\x1b[31m"), ("tasks", "n" * 1_025)],
)
async def test_a_task_is_left_uncounted_also_if_that_cannot_be_noted(
    broker: Broker,
    working: Any_,
    advance: Any_,
    caplog: pytest.LogCaptureFixture,
    queue: str,
    function: str,
) -> None:
    tasks = TaskQueue(broker, name=queue, max_retries=0)
    wire = {"name": function, "arguments": {}, "made_at": 1.0, "max_retries": 0}
    await (await tasks.open()).put("t", wire)
    await (await tasks.open()).put("u", wire | {"name": function[:-1]})
    async with working(tasks):
        await advance(1.2)
        with anyio.fail_after(10):
            while (await tasks.stats()).released < 3:  # noqa: ASYNC110 - on any engine
                await sleep(0.05)
    statistics = await tasks.stats()
    assert (statistics.dead, statistics.dropped) == (0, 0)
    assert sum("could not note" in record.message for record in caplog.records) <= 1


@virtual_time
async def test_a_task_is_left_uncounted_also_if_what_it_waits_for_cannot_be_written(
    broker: Broker, working: Any_, advance: Any_, engine_name: str
) -> None:
    tasks = TaskQueue(broker, max_retries=0)
    queue = await tasks.open()
    wire = {"name": "unpack", "arguments": {"data": ""}, "made_at": 1.0, "max_retries": 0}
    most = 4 * 1024 * 1024
    wire["arguments"] = {"data": "x" * (most - len(json.dumps(wire, separators=(",", ":"))))}
    await queue.put("t", wire)
    async with working(tasks):
        await advance(0.1)
        with anyio.fail_after(10):
            while not (await tasks.stats()).delayed:  # noqa: ASYNC110 - on any engine
                await sleep(0.05)
    statistics = await tasks.stats()
    assert (statistics.dead, statistics.released) == (0, 1)
    if engine_name != "memory":  # which has no largest value
        assert "left" not in (await queue._look("t"))[1]


@virtual_time
async def test_a_plain_queue_has_its_tasks_left_too(working: Any_) -> None:
    queue: LeasedKeyQueue[str, Any] = LeasedKeyQueue(default_lease_timeout=30.0)
    tasks = TaskQueue(queue, max_retries=0)
    queue.put_nowait("t", {"name": "unpack", "arguments": {}, "made_at": 1.0, "max_retries": 0})
    async with create_task_group() as tg:
        await tg.start(queue.run)
        async with working(tasks):
            await leaseq.testing.advance(1.5)
        _, wire = await queue._look("t")
        tg.cancel_scope.cancel()
    assert wire["left"][1] == 2


@virtual_time
async def test_names_from_the_queue_take_no_memory_for_long(
    broker: Broker, working: Any_, advance: Any_, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "_MOST_NOTES", 5)
    monkeypatch.setattr(_worker, "_NOTE_EVERY", 0.2)
    tasks = TaskQueue(broker)
    queue = await tasks.open()
    async with working(tasks, concurrency=1) as worker:
        for turn in range(2):
            for number in range(8):
                wire = {"name": f"{turn}.{number}", "arguments": {}, "made_at": 1.0}
                await queue.put(f"{turn}.{number}", wire)
            with anyio.fail_after(10):
                while (await queue.statistics()).ready:  # noqa: ASYNC110 - on any engine
                    await sleep(0.02)
            assert len(worker._told) <= 5
            await advance(0.3)
        assert not any(name.startswith("0.") for name in worker._told)


async def test_unknown_for_is_a_time(broker: Broker) -> None:
    assert TaskQueue().unknown_for == 86_400
    with pytest.raises(ValueError, match="unknown_for"):
        TaskQueue(unknown_for=-1.0)


@virtual_time
@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ({"made_at": 1.0, "name": "work", "arguments": {"order": ["x"]}}, "at `$.order[0]`"),
        ({"made_at": 1.0, "name": 5}, "Expected `str | null`, got `int` - at `$.name`"),
        ({"made_at": 1.0}, "the task has a payload and no function"),
        ("nonsense", "Expected `object`, got `str`"),
    ],
)
async def test_what_does_not_fit_is_a_dead_letter_with_the_path(
    tasks: TaskQueue, do_all: Any_, letter: Any_, wire: object, reason: str
) -> None:
    @tasks.task
    async def work(order: list[int]) -> None: ...

    queue = await tasks.open()
    await queue.put("key", wire)
    await do_all(tasks)
    dead = await letter()
    assert reason in dead.reason
    assert dead.deliveries == 1


@virtual_time
async def test_a_result_of_another_type_is_a_dead_letter_with_the_path(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    @tasks.task(result_ttl=60.0)
    async def work() -> list[int]:
        return ["x"]  # type: ignore[list-item]

    await tasks.push(work.task())
    await do_all(tasks)
    assert (await letter()).reason == (
        "task 'work': its result: Expected `int`, got `str` - at `$[0]`"
    )


# Workers that die, and tasks that hang


@time_passes
@virtual_time
async def test_a_task_that_kills_its_worker_each_time_is_given_up_and_others_go_on(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    done: list[int] = []

    @tasks.task(max_retries=2, result_ttl=60.0)
    async def note(number: int) -> None:
        done.append(number)

    deadly = await tasks.push(note.task(1))
    await tasks.push(note.task(2))
    queue = await tasks.open()
    for delivery in (1, 2, 3):
        _, _, lease = await queue.take(deadly.id)  # by a worker that dies with it
        assert lease.deliveries == delivery
        await sleep(30.1)
    await do_all(tasks)
    assert done == [2]
    assert (await letter()).reason.startswith("its lease was lost at delivery 3, its last: the ")
    with pytest.raises(TaskFailedError, match="its lease was lost at delivery 3"):
        await tasks.result(deadly)


@time_passes
@virtual_time
async def test_a_task_that_takes_longer_than_its_lease_is_not_disturbed(
    tasks: TaskQueue, do_all: Any_
) -> None:
    started: list[float] = []

    @tasks.task
    async def slow() -> None:
        started.append(anyio.current_time())
        await sleep(200.0)

    await tasks.push(slow.task())
    await do_all(tasks)
    assert len(started) == 1
    assert (await tasks.stats()).expired == 0


@time_passes
@virtual_time
@pytest.mark.parametrize("lease_timeout", [None, 2.0, 30.0])
async def test_a_task_that_hangs_is_cancelled_and_given_up_in_the_end(
    broker: Broker, do_all: Any_, letter: Any_, lease_timeout: float | None
) -> None:
    tasks = TaskQueue(broker, lease_timeout=lease_timeout, backoff=None)
    ended: list[float] = []

    @tasks.task(max_retries=1)
    async def hang() -> None:
        started = anyio.current_time()
        try:
            await sleep_forever()
        finally:
            ended.append(anyio.current_time() - started)

    await tasks.push(hang.task())
    await do_all(tasks, max_runtime=5.0)
    assert ended == pytest.approx(
        [5.0, 5.0], abs=0.3
    )  # a server's lease ends a little earlier here
    assert "its lease was lost at delivery 2" in (await letter()).reason


@time_passes
@virtual_time
@pytest.mark.parametrize("length", [3.0, 60.0])
async def test_a_task_can_have_a_lease_of_its_own_length(
    tasks: TaskQueue, working: Any_, length: float
) -> None:
    ends: list[float] = []

    @tasks.task(lease_timeout=length)
    async def work() -> None:
        await sleep(length * 2)
        queue = await tasks.open()
        (flight,) = await queue.inflight()
        ends.append(flight.deadline - anyio.current_time())

    await tasks.push(work.task())
    async with working(tasks):
        await tasks.join()
    assert 0 < ends[0] <= length + 0.1
    assert (await tasks.stats()).expired == 0


# Whose turn


@virtual_time
async def test_critical_tasks_of_a_tenant_come_before_its_normal_ones(
    tasks: TaskQueue, do_all: Any_
) -> None:
    done: list[str] = []

    @tasks.task
    async def note(what: str) -> None:
        done.append(what)

    for priority in (Priority.NORMAL, Priority.CRITICAL, Priority.VERY_LOW):
        await tasks.push(note.task(priority.name), tenant="user:1", priority=priority)
    await do_all(tasks, tenants=["user:1"], concurrency=1)
    assert done == ["CRITICAL", "NORMAL", "VERY_LOW"]


@virtual_time
async def test_a_worker_does_its_own_tenants_tasks_then_those_it_may_steal_and_no_others(
    tasks: TaskQueue, working: Any_
) -> None:
    done: list[str | None] = []

    class Noting(TaskHandler):
        async def process_task(self, task: Task[Any]) -> None:
            done.append(task.tenant)

    for number in range(2):
        for tenant in ("stolen", "others", "b", "a"):
            await tasks.push(Task.create(tenant, payload=number))
    async with working(tasks, Noting(), tenants=["a", "b"], steal_from=["stolen"], concurrency=1):
        await sleep(1.0)
    assert sorted(map(str, done[:2])) == sorted(map(str, done[2:4])) == ["a", "b"]
    assert done[4:] == ["stolen", "stolen"]
    assert (await tasks.stats()).ready == 2


# Handlers


@time_passes
@virtual_time
async def test_hooks_are_told_what_happens(tasks: TaskQueue, do_all: Any_) -> None:
    diary = Diary()

    @tasks.task(max_retries=1)
    async def work(*, fail: bool) -> None:
        await sleep(3.0)
        if fail:
            raise ValueError("no")

    await tasks.push(work.task(fail=False))
    await do_all(tasks, diary)
    assert diary.notes == [("start", "work"), ("success", "work", 3)]
    diary.notes.clear()
    await tasks.push(work.task(fail=True))
    await do_all(tasks, diary)
    assert diary.notes == [("start", "work"), ("failure", "work", "ValueError('no')", 3)] * 2


@virtual_time
async def test_what_a_hook_raises_is_logged_and_changes_nothing(
    tasks: TaskQueue, do_all: Any_, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(TaskHandler):
        def on_task_start(self, task: Task[Any]) -> None:
            raise ValueError("dropped it")

        async def on_task_success(self, task: Task[Any], duration: float) -> None:
            raise ValueError("dropped it again")

    @tasks.task
    async def work() -> None: ...

    await tasks.push(work.task())
    with caplog.at_level(logging.ERROR, "leaseq"):
        await do_all(tasks, Clumsy())
    assert (await tasks.stats()).acked == 1
    assert [record.getMessage().split(" for ")[0] for record in caplog.records] == [
        "the hook on_task_start failed",
        "the hook on_task_success failed",
    ]


@virtual_time
async def test_a_handler_does_payloads_and_leaves_functions_to_its_parent(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    done: list[object] = []

    class MyHandler(TaskHandler):
        async def process_task(self, task: Task[Any]) -> object:
            if task.payload is not None and task.payload.get("action") == "custom":
                done.append(task.payload)
                return None
            return await super().process_task(task)

    @tasks.task(result_ttl=60.0)
    async def double(number: int) -> int:
        return number * 2

    await tasks.push(Task.create("user:1", payload={"action": "custom"}))
    task = await tasks.push(double.task(4))
    await do_all(tasks, MyHandler())
    assert done == [{"action": "custom"}]
    assert await tasks.result(task) == 8
    await tasks.push(Task.create("user:1", payload={"action": "other"}))
    await do_all(tasks, MyHandler())
    assert "give the worker a TaskHandler with a process_task for it" in (await letter()).reason


async def test_handlers_that_cannot_be_are_refused_at_once(tasks: TaskQueue) -> None:
    class Blocking(TaskHandler):
        def process_task(self, task: Task[Any]) -> object:  # type: ignore[override]
            return None

    with pytest.raises(TypeError, match="handler must be a TaskHandler, not <class"):
        TaskWorker(tasks, TaskHandler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Blocking.process_task must be an async def"):
        TaskWorker(tasks, Blocking())


async def test_options_that_cannot_be_are_refused_when_a_worker_is_made(tasks: TaskQueue) -> None:
    with pytest.raises(TypeError, match="tenants must be a collection of names, not 'user:1'"):
        TaskWorker(tasks, tenants="user:1")
    with pytest.raises(TypeError, match="steal_from must be a collection of names, not 'b'"):
        TaskWorker(tasks, tenants=["a"], steal_from="b")
    with pytest.raises(ValueError, match=r"steal_from=\['b'\] needs tenants"):
        TaskWorker(tasks, steal_from=["b"])
    with pytest.raises(ValueError, match="tenants must name at least one tenant"):
        TaskWorker(tasks, tenants=[])
    with pytest.raises(ValueError, match="concurrency must be 1 task or more, not 0"):
        TaskWorker(tasks, concurrency=0)
    with pytest.raises(ValueError, match="max_runtime must be more than 0 seconds"):
        TaskWorker(tasks, max_runtime=0.0)
    with pytest.raises(ValueError, match="grace must be 0 seconds or more"):
        TaskWorker(tasks, grace=-1.0)
    assert repr(TaskWorker(tasks, id="one")) == "<TaskWorker 'one' of 'tasks'>"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("id", 5, "id must be a string, not 5"),
        ("tenants", 5, "tenants must be a collection of names, not 5"),
        ("tenants", [5], "a name in tenants must be a string or None, not 5"),
        ("concurrency", 2.5, "concurrency must be a whole number of 1 task or more, not 2.5"),
        ("concurrency", True, "concurrency must be a whole number of 1 task or more, not True"),
        ("max_runtime", "5", "max_runtime must be a number of seconds, or None for ever, not '5'"),
        ("grace", None, "grace must be a number of seconds, not None"),
        ("stop", True, "stop must be an anyio.Event, not True"),
        (
            "colour",
            "red",
            "TaskWorker() has no option 'colour': it has id, tenants, steal_from, concurrency, "
            "max_runtime, stop, grace",
        ),
    ],
)
async def test_an_option_of_a_worker_with_the_wrong_type_is_refused(
    tasks: TaskQueue, option: str, value: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        TaskWorker(tasks, **{option: value})


async def test_a_worker_is_of_a_task_queue(tasks: TaskQueue) -> None:
    with pytest.raises(TypeError, match="tasks must be a TaskQueue, not 'tasks'"):
        TaskWorker("tasks")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"config must be a WorkerConfig, not \{\}"):
        TaskWorker.from_config(tasks, {})  # type: ignore[arg-type]


# The end


@time_passes
@virtual_time
async def test_a_worker_that_is_stopped_finishes_what_it_does(
    tasks: TaskQueue, working: Any_
) -> None:
    done: list[int] = []

    @tasks.task
    async def work(number: int) -> None:
        await sleep(5.0)
        done.append(number)

    await tasks.push_many([work.task(number) for number in range(4)])
    async with working(tasks, concurrency=2) as worker:
        await sleep(1.0)
        worker.stop()
    assert sorted(done) == [0, 1]
    assert (await tasks.stats()).ready == 2


@time_passes
@virtual_time
async def test_grace_bounds_how_long_a_stopped_worker_goes_on(
    tasks: TaskQueue, working: Any_
) -> None:
    stop = Event()

    @tasks.task
    async def work() -> None:
        await sleep(50.0)

    await tasks.push(work.task())
    started = anyio.current_time()
    async with working(tasks, stop=stop, grace=2.0):
        await sleep(1.0)
        stop.set()
    assert anyio.current_time() - started == pytest.approx(3.0, abs=0.1)
    assert (await tasks.stats()).ready == 1
    again = await tasks.pop()
    assert again is not None


@virtual_time
async def test_a_worker_ends_when_its_queue_is_shut_down_and_drained(tasks: TaskQueue) -> None:
    @tasks.task
    async def work() -> None:
        await sleep(1.0)

    await tasks.push(work.task())
    await tasks.shutdown()
    await TaskWorker(tasks).run()
    assert (await tasks.stats()).acked == 1


@virtual_time
async def test_a_worker_that_was_stopped_before_it_ran_does_nothing(tasks: TaskQueue) -> None:
    worker = TaskWorker(tasks)
    worker.stop()
    await tasks.push(Task.create(payload=1))
    await worker.run()
    assert (await tasks.stats()).ready == 1


@virtual_time
async def test_a_worker_runs_once_at_a_time(tasks: TaskQueue, working: Any_) -> None:
    async with working(tasks) as worker:
        with pytest.raises(BusyResourceError):
            await worker.run()


@virtual_time
async def test_of_two_runs_that_begin_together_one_is_refused(tasks: TaskQueue) -> None:
    worker = TaskWorker(tasks)
    refused: list[BusyResourceError] = []

    async def run() -> None:
        try:
            await worker.run()
        except BusyResourceError as error:
            refused.append(error)

    await tasks.shutdown()
    async with create_task_group() as tg:
        for _ in range(2):
            tg.start_soon(run)
    assert len(refused) == 1
    await worker.run()  # and later it may run again


@time_passes
@virtual_time
async def test_a_worker_says_how_it_is(tasks: TaskQueue, working: Any_) -> None:
    @tasks.task
    async def work() -> None:
        await sleep(100.0)

    worker = TaskWorker(tasks, id="one")
    assert worker.health() == WorkerHealth("one", False, None, 0, None)
    async with working(tasks, id="two") as busy:
        await tasks.push(work.task())
        await sleep(10.0)
        await tasks.push(work.task())
        await sleep(5.0)
        health = busy.health()
        assert (health.running, health.tasks) == (True, 2)
        assert health.last_claim == pytest.approx(5.0, abs=0.1)
        assert health.oldest == pytest.approx(15.0, abs=0.1)
    assert busy.health().tasks == 0
    assert not busy.health().running


@virtual_time
async def test_a_worker_needs_annotations_that_can_be_resolved(tasks: TaskQueue) -> None:
    @tasks.task
    async def work(order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TaskDataError, match="task 'work': an annotation cannot be resolved"):
        await TaskWorker(tasks).run()


async def test_a_worker_is_made_of_a_configuration(tasks: TaskQueue) -> None:
    config = WorkerConfig.from_dict(
        {
            "workers": [{"id": "one", "assigned_users": ["a"], "steal_targets": ["b"]}],
            "queue": {"default_max_retries": 7, "xcom_ttl_seconds": 60},
        }
    )
    worker = TaskWorker.from_config(tasks, config)
    assert (worker.id, worker.concurrency) == ("one", 10)
    assert (tasks.max_retries, tasks.xcom_ttl) == (7, 60.0)


@virtual_time
@pytest.mark.slow_on("valkey")
async def test_a_cancelled_worker_has_stored_all_of_a_task_or_nothing(
    url: str, native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> Any:
        async with create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            tasks = TaskQueue(broker, backoff=None)

            @tasks.task(result_ttl=60.0, xcom_key="result")
            async def work(number: int) -> int:
                xcom_push("number", number)
                await sleep(number / 100)
                return number

            pushed = await tasks.push_many([work.task(number) for number in range(2)])
            await tasks.shutdown()
            operation: Operation = TaskWorker(tasks, concurrency=1).run
            yield operation
            queue = await tasks.open()

            async def is_kept(name: str) -> bool:
                try:
                    return bool(await queue._recall(name, 0))
                except TimeoutError:
                    return False

            for task in pushed:
                is_left = await tasks.get(task.id) is not None
                names = (
                    result_name(task.id),
                    xcom_name(task.id, "result"),
                    xcom_name(task.id, "number"),
                )
                kept = [await is_kept(name) for name in names]
                assert kept == [not is_left] * 3
            assert (await tasks.stats()).leased == 0
            tg.cancel_scope.cancel()

    assert await cancel_sweep(scenario, native=native) > 5


@virtual_time
async def test_a_worker_that_is_cancelled_gives_its_tasks_back(native: bool) -> None:
    @asynccontextmanager
    async def scenario() -> Any:
        done: list[int] = []
        queue = LeasedKeyQueue[str, Any](name="alone")
        tasks = TaskQueue(queue)

        @tasks.task
        async def work(number: int) -> None:
            await sleep(number)
            done.append(number)

        for number in range(4):
            await tasks.push(work.task(number))
        await tasks.shutdown()
        operation: Operation = TaskWorker(tasks, concurrency=2).run
        async with create_task_group():
            yield operation
        left = [value["arguments"]["number"] for _, value in queue.drain_nowait()]
        assert sorted(left) == sorted({0, 1, 2, 3} - set(done))

    assert await cancel_sweep(scenario, native=native) > 5


# The code that it runs: see `tests/test_pool_isolation.py`, for what is the pool's to do


bound: ContextVar[str] = ContextVar("bound")


def numbers() -> Iterator[int]:
    yield 1


async def test_what_a_task_binds_the_next_one_does_not_see(tasks: TaskQueue, do_all: Any_) -> None:
    seen: list[str | None] = []

    @tasks.task
    async def bind(number: int) -> None:
        seen.append(bound.get(None))
        bound.set("by a task")
        await checkpoint()
        assert bound.get() == "by a task"

    @tasks.task
    def bind_in_a_thread(number: int) -> None:
        seen.append(bound.get(None))
        bound.set("by a thread")

    await tasks.push_many([each.task(1) for each in (bind, bind_in_a_thread) for _ in range(3)])
    await do_all(tasks, concurrency=1)
    assert seen == [None] * 6


@pytest.mark.parametrize("how", ["async", "def", "coroutine", "payload"])
async def test_a_task_that_was_not_run_has_failed(
    tasks: TaskQueue, do_all: Any_, letter: Any_, how: str
) -> None:
    class Handler(TaskHandler):
        async def process_task(self, task: Task[Any]) -> object:
            return numbers() if how == "payload" else await super().process_task(task)

    @tasks.task(max_retries=0)
    async def returns_a_generator() -> Any:
        return sleep(1) if how == "coroutine" else numbers()

    @tasks.task(max_retries=0)
    def returns_it_in_a_thread() -> Any:
        return numbers()

    task = {
        "def": returns_it_in_a_thread.task,
        "payload": lambda: Task.create(None, payload="numbers", max_retries=0),
    }.get(how, returns_a_generator.task)()
    await tasks.push(task)
    await do_all(tasks, Handler())
    assert "which was not run" in (await letter()).reason


async def test_a_rejection_out_of_a_task_group_makes_a_dead_letter_at_once(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    async def reject() -> None:
        raise Reject("no such page")

    @tasks.task
    async def fetch() -> None:
        async with create_task_group() as tg:
            tg.start_soon(reject)

    await tasks.push(fetch.task())
    await do_all(tasks)
    found = await letter()
    assert (found.reason, found.deliveries) == ("no such page", 1)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("error", [UnprintableError, KeyError])
async def test_whatever_hooks_raise_the_tasks_are_done(
    tasks: TaskQueue, do_all: Any_, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    class Hook:
        """A function without a name."""

        def __call__(self, *_: object) -> None:
            raise error

    class Handler(TaskHandler):
        async def on_task_start(self, task: Task[Any]) -> None:
            if error is UnprintableError:  # trio itself cannot have that out of a task
                raise error
            async with create_task_group() as tg:
                tg.start_soon(self.on_task_failure)

        on_task_success = Hook()

        async def on_task_failure(self, *_: object) -> None:
            raise error

    @tasks.task(max_retries=1)
    async def work(number: int) -> None:
        if number not in done:
            done.append(number)
            raise error

    await tasks.push_many([work.task(number) for number in range(3)])
    await do_all(tasks, Handler())
    assert sorted(done) == [0, 1, 2]
    told = [record.getMessage() for record in caplog.records]
    for hook in ("on_task_start", "Hook", "on_task_failure"):
        assert any(message.startswith("the hook ") and hook in message for message in told)
    assert not any("is a dead letter" in message for message in told)


async def test_a_task_whose_error_has_no_text_is_a_dead_letter(
    tasks: TaskQueue, do_all: Any_, letter: Any_
) -> None:
    class NoTextError(TaskDataError, UnprintableError):
        pass

    @tasks.task(max_retries=0)
    async def fail() -> None:
        raise NoTextError

    await tasks.push(fail.task())
    await do_all(tasks)
    assert "NoTextError" in (await letter()).reason


class Telling(TaskHandler):
    """A handler that notes how tasks were ended from outside."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def on_task_cancelled(self, task: Task[Any], reason: str) -> None:
        await checkpoint()
        self.told.append(("cancelled", reason))

    def on_task_timeout(self, task: Task[Any], duration: float) -> None:
        self.told.append(("timeout", str(task.name)))

    def on_task_failure(self, task: Task[Any], error: BaseException, duration: float) -> None:
        self.told.append(("failure", type(error).__name__))


async def test_a_hook_hears_of_a_cancelled_task_when_it_has_cleaned_up(
    tasks: TaskQueue, working: Any_
) -> None:
    handler = Telling()
    started = Event()

    @tasks.task
    async def hang() -> None:
        started.set()
        try:
            await sleep_forever()
        finally:
            handler.told.append(("clean-up", ""))

    async with working(tasks, handler):
        task = await tasks.push(hang.task())
        await started.wait()
        await tasks.cancel(task, reason="why not")
        await tasks.join()
    assert handler.told == [("clean-up", ""), ("cancelled", "why not")]


@time_passes
@virtual_time
async def test_a_hook_hears_of_a_task_that_takes_too_long(tasks: TaskQueue, do_all: Any_) -> None:
    handler = Telling()
    began: list[int] = []

    @tasks.task
    async def hang() -> None:
        began.append(1)
        if len(began) == 1:
            await sleep_forever()

    await tasks.push(hang.task())
    await do_all(tasks, handler, max_runtime=5.0)
    assert handler.told == [("timeout", "hang")]
    assert len(began) == 2


@time_passes
@virtual_time
async def test_no_hook_hears_of_a_timeout_when_a_lease_is_lost_otherwise(
    tasks: TaskQueue, do_all: Any_
) -> None:
    handler = Telling()
    began: list[int] = []

    @tasks.task
    async def lose() -> None:
        began.append(1)
        if len(began) == 1:
            await (await tasks.open()).release_all(consumer="worker")
            await sleep_forever()

    await tasks.push(lose.task())
    await do_all(tasks, handler, max_runtime=50.0)
    assert handler.told == []
    assert len(began) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("on_task_start", "on_task_success", "on_task_failure", "on_task_cancelled"),
        "on_task_timeout",
    ],
)
@pytest.mark.parametrize("hook", [lambda self: None, lambda self, *_: (yield)])
async def test_a_hook_that_cannot_work_is_refused(tasks: TaskQueue, name: str, hook: Any) -> None:
    handler = type("Handler", (TaskHandler,), {name: hook})
    with pytest.raises(TypeError, match=rf"Handler\.{name} (has a yield|is called with a task)"):
        TaskWorker(tasks, handler())
