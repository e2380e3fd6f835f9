"""The commands of an operator, and a worker process, on queues in a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner, Result

import leaseq
from leaseq import Retry
from leaseq._cli import make_app
from leaseq._cli.common import address_of
from leaseq.tasks import TaskQueue

JOBS = """
from leaseq.tasks import TaskQueue
tasks = TaskQueue()

@tasks.task(result_ttl=60.0)
def double(number: int) -> int:
    return 2 * number
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'queues@home.db'}"


def invoke(url: str, *arguments: str) -> Result:
    environment = {"LEASEQ_URL": url, "COLUMNS": "200"}
    return CliRunner().invoke(make_app(), [*arguments], env=environment)


def said(url: str, *arguments: str) -> Any:
    result = invoke(url, *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def fill(url: str) -> None:
    """Put four orders, of which one dies."""

    async def main() -> None:
        async with leaseq.connect(url) as broker:
            queue, _ = await broker.create_queue_pair("orders", retry=Retry(max_deliveries=1))
            await queue.put_many([(f"order-{number}", number) for number in range(4)])
            _, _, lease = await queue.get(lease_timeout=None)
            await queue._fail(lease, OSError("reset"))

    anyio.run(main)


def test_a_night_on_call(url: str) -> None:
    fill(url)
    orders, letters = said(url, "queues")
    assert (orders["name"], orders["ready"], orders["dead"]) == ("orders", 3, 1)
    assert letters["dead_letters_of"] == ["orders"]
    assert orders["oldest_ready_age"] >= 0
    (letter,) = said(url, "dead", "orders")["letters"]
    assert (letter["key"], letter["value"], letter["error"]) == ("order-0", 0, "OSError: reset")
    assert said(url, "redrive", "orders", letter["key"])["back"] == ["order-0"]
    assert said(url, "put", "orders", "int:7", '{"a": 1}', "--delay", "60")["outcome"] == "added"
    assert said(url, "peek", "orders", "int:7")["value"] == {"a": 1}
    statistics = said(url, "info", "orders")["statistics"]
    assert (statistics["ready"], statistics["delayed"]) == (4, 1)
    assert invoke(url, "pause", "orders", "--reason", "a reason").exit_code == 0
    assert said(url, "pause", "orders", "--tenant", "acme")["tenant"] == "acme"
    paused = said(url, "info", "orders")
    assert (paused["paused"]["reason"], [*paused["paused_tenants"]]) == ("a reason", ["acme"])
    assert said(url, "queues")[0]["paused"] == paused["paused"]
    assert said(url, "resume", "orders")["was_paused"] is True
    assert said(url, "resume", "orders", "--tenant", "acme")["was_paused"] is True
    assert invoke(url, "resume", "orders").exit_code == 1
    assert said(url, "purge", "orders", "--yes")["dropped"] == 5
    assert [each["ready"] for each in said(url, "queues")] == [0, 0]


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    failed = invoke(f"sqlite:///{tmp_path / 'none' / 'q.db'}", "queues")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("leaseq: there is no folder")
    assert failed.stderr.count("\n") == 1
    refused = invoke("sqlite://host/q.db", "queues")
    assert refused.exit_code == 2


def test_the_address_of_a_file_is_its_path() -> None:
    assert address_of("sqlite:///a@b/q.db?synchronous=normal") == "sqlite:///a@b/q.db"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_process_does_the_tasks(url: str, tmp_path: Path, backend: str) -> None:
    (tmp_path / "jobs.py").write_text(JOBS)
    command = [sys.executable, "-m", "leaseq", "worker", "jobs:tasks", "--url", url]
    source = str(Path(leaseq.__file__).parents[1])
    with subprocess.Popen(
        [*command, "--backend", backend],
        cwd=tmp_path,
        env={"PYTHONPATH": source},
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:

            async def main() -> int:
                async with leaseq.connect(url) as broker, anyio.create_task_group() as tg:
                    await tg.start(broker.run)
                    tasks = TaskQueue(broker)

                    @tasks.task(result_ttl=60.0)
                    def double(number: int) -> int:
                        raise AssertionError("another process does it")

                    pushed = await tasks.push(double.task(21))
                    result = await tasks.result(pushed, timeout=30)
                    tg.cancel_scope.cancel()
                return result

            assert anyio.run(main, backend=backend) == 42
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            worker.kill()
