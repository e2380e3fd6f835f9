"""``leaseq schedules``, on queues in a file."""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner, Result

from leaseq import Broker, connect
from leaseq._cli import make_app
from leaseq.tasks import TaskQueue

Fill = Callable[[Broker, TaskQueue], Awaitable[object]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'nights.db'}?synchronous=normal"


def fill(url: str, *fills: Fill) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tg, connect(url) as broker:
            await tg.start(broker.run)
            tasks = TaskQueue(broker)

            @tasks.task
            async def report() -> None: ...

            await tasks.open()
            for each in fills:
                await each(broker, tasks)
            tg.cancel_scope.cancel()

    anyio.run(main)


async def some(broker: Broker, tasks: TaskQueue) -> None:
    report = tasks.functions["report"].task
    await tasks.schedule("nightly", report(), cron="0 3 * * *", tz="Europe/Berlin", tenant="ada")
    await tasks.schedule("often", report(), every=90)
    await tasks.run_now("often")
    await tasks.pause_schedule("often", reason="the disk is full")


async def one_that_cannot_be_read(broker: Broker, tasks: TaskQueue) -> None:
    terms = await broker.queue("tasks.schedules.terms")
    await terms.put("strange\x1b[31m", {"rule": {"lunar": True}})


def invoke(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        make_app(), ["schedules", *arguments, "--url", url], env={"COLUMNS": "200"}
    )


def said(url: str, *arguments: str) -> Any:
    result = invoke(url, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def row(result: Result, name: str) -> list[str]:
    (line,) = [line for line in result.output.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_schedules_are_listed(url: str) -> None:
    fill(url, some)
    result = invoke(url)
    assert result.exit_code == 0, result.output
    name, when, task, _, left, last, runs, state = row(result, "nightly")
    assert (name, when, task) == ("nightly", "0 3 * * * Europe/Berlin", "report")
    assert left.endswith((" h", " min", " s"))
    assert (last, runs, state) == ("-", "0", "-")
    _, when, _, following, left, last, runs, state = row(result, "often")
    assert (when, following, left, last, runs) == ("every 90 s", "-", "-", "-", "1")
    assert state.startswith("paused ")
    assert state.endswith(" ago: the disk is full")
    assert invoke(url, "tasks").exit_code == 0


def test_schedules_are_listed_for_scripts(url: str) -> None:
    fill(url, some)
    nightly, often = said(url)
    assert (nightly["name"], nightly["cron"], nightly["tz"]) == (
        "nightly",
        "0 3 * * *",
        "Europe/Berlin",
    )
    assert (nightly["task"], nightly["tenant"], nightly["overlap"]) == ("report", "ada", "skip")
    assert 0 < nightly["next"] - time.time() < 90_000
    assert (often["count"], often["pause_reason"]) == (1, "the disk is full")
    assert often["last_run"].startswith("often@")


def test_a_schedule_that_cannot_be_read_is_listed_too(url: str) -> None:
    fill(url, some, one_that_cannot_be_read)
    assert [each["name"] for each in said(url)] == ["nightly", "often", "strange\x1b[31m"]
    assert "cannot be read" in said(url)[2]["error"]
    result = invoke(url)
    assert "cannot be read" in result.output
    assert "\x1b" not in result.output


def test_a_slot_that_no_worker_has_taken_up_is_late(url: str) -> None:
    async def late(broker: Broker, tasks: TaskQueue) -> None:
        terms = await broker.queue("tasks.schedules.terms")
        value = await terms.peek("nightly")
        await terms.put("nightly", value | {"slot": time.time() - 3600})

    fill(url, some, late)
    assert row(invoke(url), "nightly")[-1] == "late: is a worker running?"

    async def held(broker: Broker, tasks: TaskQueue) -> None:
        terms = await broker.queue("tasks.schedules.terms")
        await terms.put("nightly", await terms.peek("nightly") | {"held": True})

    fill(url, held)
    assert row(invoke(url), "nightly")[-1] == "waits for the run before"


def test_no_schedules_are_no_failure(url: str) -> None:
    fill(url)
    assert invoke(url).output == "there are no schedules of 'tasks'\n"
    assert said(url) == []


def test_a_queue_that_is_not_there_is_named(url: str) -> None:
    fill(url)
    result = invoke(url, "taskz")
    assert result.exit_code == 1
    assert "there is no queue 'taskz': did you mean 'tasks'?" in result.output
    assert invoke(url, "a b").exit_code == 2
