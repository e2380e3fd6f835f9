"""``leaseq check``, on a real server: what the code given would refuse."""

import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.servers import Servers
from typer.testing import CliRunner, Result

from leaseq import Backoff, Broker, JsonCodec, Retry, connect
from leaseq._cli import make_app
from leaseq.tasks import TaskQueue, TaskWorker

APP = """
from dataclasses import dataclass
from leaseq import JsonCodec
from leaseq.tasks import TaskQueue

tasks = TaskQueue(name="jobs")
number = 5

@tasks.task
def pack(order: int) -> None: ...

@dataclass
class Page:
    url: str

class Codec:
    def encode(self, value): raise NotImplementedError
    def decode(self, body):
        if b"http" not in body:
            raise ValueError("not one of ours")

class Needy(Codec):
    def __init__(self, secret): ...

codec = JsonCodec(Page)
"""


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "app_to_check.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("app_to_check", None)


@pytest.fixture
def url(servers: Servers) -> str:
    return f"{servers('valkey').url}?prefix={uuid.uuid4().hex}"


def fill(url: str, what: Callable[[Broker], Awaitable[object]]) -> None:
    async def main() -> None:
        async with connect(url) as broker:
            await what(broker)

    anyio.run(main)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(), [*arguments], env={"COLUMNS": "300"})


async def push(broker: Broker) -> None:
    newer = TaskQueue(broker, name="jobs")

    @newer.task
    def pack(order: Any, colour: str = "red") -> None: ...

    @newer.task
    def unpack() -> None: ...

    await newer.push_many([pack.task(1), pack.task(2)])
    queue = await newer.open()
    await queue.put("unknown", {"made_at": 1.0, "name": "unpack"})
    await queue.put("wrong", {"made_at": 1.0, "name": "pack", "arguments": {"order": "x"}})
    await queue.put("more", {"made_at": 1.0, "name": "pack", "arguments": {"order": 1, "by": 2}})
    await queue.put("less", {"made_at": 1.0, "name": "pack"})
    await queue.put("odd", "no task")


def test_it_says_which_tasks_a_version_of_the_code_would_refuse(url: str) -> None:
    fill(url, push)
    result = invoke("check", "app_to_check:tasks", "--url", url, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["queue"], found["checked"], found["refused"]) == ("jobs", 7, 5)
    reasons = {each["key"]: each["reason"] for each in found["items"]}
    assert reasons["unknown"] == "unknown task 'unpack': there is no such function"
    assert reasons["wrong"] == "task 'pack': Expected `int`, got `str` - at `$.order`"
    assert reasons["more"] == "task 'pack' has no parameter 'by'"
    assert reasons["less"] == "task 'pack' needs a value for its parameter 'order'"
    assert "is not a task" in reasons["odd"]
    shown = invoke("check", "app_to_check:tasks", "--url", url, "--limit", "2").stdout
    assert "5 of 7 items refused" in shown
    assert "and 3 more" in shown


UNKNOWN = {"made_at": 1.0, "name": "unpack"}
KNOWN = {"made_at": 1.0, "name": "pack", "arguments": {"order": 1}}


async def push_in_all_states(broker: Broker) -> None:
    """Put a task that would be refused and one that would not, in each state."""
    queue = await broker.queue("jobs", retry=Retry(5, Backoff(base=3600, ceiling=3600)))
    async with anyio.create_task_group() as tg:
        await tg.start(queue.run)
        for key in ("leased", "buffered", "updated", "rested", "resting"):
            await queue.put(key, KNOWN if key in ("buffered", "updated") else UNKNOWN)
        await queue.put("mended", UNKNOWN)
        leases = {}
        for _ in range(6):
            _, _, lease = await queue.get(lease_timeout=None)
            leases[lease.key] = lease
        await queue.put("buffered", UNKNOWN, if_in_flight="buffer", delay=3600)
        await queue.put("updated", UNKNOWN)
        await queue.put("mended", KNOWN, if_in_flight="buffer")
        await leases["rested"].release(delay=3600)
        await queue._fail(leases["resting"], ValueError("no"))
        await queue.put("delayed", UNKNOWN, delay=3600)
        await queue.put("brief", UNKNOWN, delay=1800, ttl=3600)
        await queue.put("ready", UNKNOWN, ttl=3600)
        await queue.put("good", KNOWN)
        await queue.put("good and delayed", KNOWN, delay=3600)
        tg.cancel_scope.cancel()


IN_ALL_STATES = [
    "brief", "buffered", "delayed", "leased", "ready", "rested", "resting", "updated",
]  # fmt: skip


def test_it_looks_at_items_in_all_states_and_at_what_waits_behind_a_lease(url: str) -> None:
    fill(url, push_in_all_states)
    result = invoke("check", "app_to_check:tasks", "--url", url, "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["queue", "checked", "refused", "items"]
    assert (found["queue"], found["checked"], found["refused"]) == ("jobs", 11, 8)
    assert [each["key"] for each in found["items"]] == IN_ALL_STATES
    result = invoke("check", "app_to_check:tasks", "--url", url, "--json", "--limit", "3")
    found = json.loads(result.stdout)
    assert (found["checked"], found["refused"]) == (11, 8)
    assert [each["key"] for each in found["items"]] == IN_ALL_STATES[:3]
    shown = invoke("check", "app_to_check:tasks", "--url", url, "--limit", "3").stdout
    assert "8 of 11 items refused\n" in shown
    assert "and 5 more" in shown
    assert "looked at" not in shown


def test_it_changes_nothing_and_succeeds_when_all_is_well(url: str) -> None:
    async def push_good(broker: Broker) -> None:
        queue = await broker.queue("jobs")
        wire = {"made_at": 1.0, "name": "pack", "arguments": {"order": 1}}
        await queue.put_many({str(number): wire for number in range(3)})

    fill(url, push_good)
    result = invoke("check", "app_to_check:tasks", "--url", url)
    assert (result.exit_code, result.stdout) == (0, "0 of 3 items refused\n"), result.output

    async def look(broker: Broker) -> None:
        statistics = await (await broker.queue("jobs")).statistics()
        assert (statistics.ready, statistics.delivered) == (3, 0)

    fill(url, look)


@pytest.mark.parametrize("code", ["Page", "Codec", "codec"])
def test_it_says_which_values_a_type_or_codec_cannot_read(url: str, code: str) -> None:
    async def put(broker: Broker) -> None:
        queue = await broker.queue("pages", codec=JsonCodec(strict=False))
        await queue.put_many({"good": {"url": "http://a"}, 7: {"address": 1}})

    fill(url, put)
    result = invoke("check", f"app_to_check:{code}", "--url", url, "--queue", "pages", "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert [each["key"] for each in found["items"]] == ["int:7"]


@pytest.mark.parametrize("code", ["bytes", "bytearray"])
def test_a_type_of_values_that_can_be_decoded_is_no_codec(url: str, code: str) -> None:
    async def put(broker: Broker) -> None:
        queue = await broker.queue("bodies", codec=JsonCodec(strict=False))
        await queue.put_many({"good": "YQ==", "bad": 5})

    fill(url, put)
    result = invoke("check", f"builtins:{code}", "--url", url, "--queue", "bodies", "--json")
    assert [each["key"] for each in json.loads(result.stdout)["items"]] == ["bad"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["app_to_check:Page"], "is not a TaskQueue: for a type or a codec, give the name"),
        (["app_to_check:number", "--queue", "pages"], "neither a TaskQueue nor a type or codec"),
        (["app_to_check:Needy", "--queue", "pages"], "give the name of a codec that was made"),
        (["app_to_check:nothing", "--queue", "pages"], "there is no 'nothing' in 'app_to_check'"),
        (["app_to_check:nothing"], "'nothing' in 'app_to_check': it has the TaskQueue tasks"),
        (["app_to_check:tasks", "--queue", "no good"], "invalid queue name"),
    ],
)
def test_wrong_usage_is_told_with_the_way_out(url: str, arguments: list[str], error: str) -> None:
    result = invoke("check", *arguments, "--url", url)
    assert result.exit_code == 2, result.output
    assert error in result.output


def test_code_that_cannot_be_imported_is_told_in_one_line(url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nfrom nothing import there\n")
    result = invoke("check", "broken:tasks", "--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "leaseq: broken cannot be imported: "
        "ModuleNotFoundError: No module named 'nothing' (broken.py:2)\n"
    )


@pytest.mark.slow
def test_the_info_of_a_queue_tells_what_a_worker_does_not_know(url: str) -> None:
    async def work(broker: Broker) -> None:
        tasks = TaskQueue(broker, name="jobs")
        await (await tasks.open()).put("unknown", {"made_at": 1.0, "name": "un\x1b[31mpack"})
        async with anyio.create_task_group() as tg:
            await tg.start(broker.run)
            await tg.start(TaskWorker(tasks, id="old").run)
            while not (await tasks.stats()).delayed:  # noqa: ASYNC110 - on a server
                await anyio.sleep(0.02)
            tg.cancel_scope.cancel()

    fill(url, work)
    found = json.loads(invoke("info", "jobs", "--url", url, "--json").stdout)
    [unknown] = found["unknown"]
    assert (unknown["name"], unknown["worker"]) == ("un\x1b[31mpack", "old")
    shown = invoke("info", "jobs", "--url", url).stdout
    assert "unknown task" in shown
    assert "un\\x1b[31mpack" in shown
