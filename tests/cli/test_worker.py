"""``leaseq worker``."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.abc import TaskStatus
from typer.testing import CliRunner, Result

from leaseq._cli import make_app
from leaseq.tasks import TaskWorker

APP = """
import signal
from leaseq import MemoryBroker, connect
from leaseq.tasks import Task, TaskHandler, TaskQueue

tasks = TaskQueue()
own = TaskQueue(connect("memory://"))
number = 5

@tasks.task
async def work() -> None: ...

class Handler(TaskHandler):
    async def process_task(self, task: Task) -> None:
        if task.payload == "stop":
            print("stopping")
            signal.raise_signal(signal.SIGTERM)
        else:
            await super().process_task(task)

class Ending(MemoryBroker):
    async def run(self, *, task_status) -> None:
        await ending.push(Task.create(payload="stop"))
        await super().run(task_status=task_status)

class Broken(MemoryBroker):
    async def run(self, *, task_status) -> None:
        raise ExceptionGroup("lost", [OSError("the server is gone")])

class Interrupted(MemoryBroker):
    async def run(self, *, task_status) -> None:
        raise KeyboardInterrupt

ending = TaskQueue(Ending())
broken = TaskQueue(Broken())
interrupted = TaskQueue(Interrupted())
"""

PROGRAM = """
import anyio
from leaseq import MemoryBroker
from leaseq.tasks import TaskHandler, TaskQueue

class Broker(MemoryBroker):
    async def run(self, *, task_status) -> None:
        await tasks.push(work.task(1))
        await super().run(task_status=task_status)

class Handler(TaskHandler):
    def on_task_start(self, task):
        print("start", task.name, flush=True)

tasks = TaskQueue(Broker())

@tasks.task
async def work(number: int) -> None:
    print("begun", number, flush=True)
    await anyio.sleep(0.5)
    print("done", number, flush=True)
    await tasks.push(work.task(number + 1))
"""

CONFIG = """
workers:
  - id: "worker-001"
    max_concurrent_tasks: 1
  - id: "worker-002"
"""


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "app_of_tasks.py").write_text(APP)
    (tmp_path / "workers.yaml").write_text(CONFIG)
    (tmp_path / "server.yaml").write_text("url: mysql://:secret@host\n" + CONFIG)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("LEASEQ_URL", raising=False)
    yield
    sys.modules.pop("app_of_tasks", None)


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(
        make_app(), ["worker", *arguments], env={"COLUMNS": "400"} | environment
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["app_of_tasks"], "write app.module:name, not 'app_of_tasks'"),
        (["nowhere:tasks"], "there is no module 'nowhere', here or installed"),
        (
            ["app_of_tasks:number"],
            "'number' of 'app_of_tasks' is not a TaskQueue: it has tasks, own",
        ),
        (["leaseq:tasks"], "'tasks' of 'leaseq' is not a TaskQueue"),
        (["app_of_tasks:tasks"], "give the URL of the broker: here, in LEASEQ_URL, or in the"),
        (["app_of_tasks:tasks", "--url", "mysql://:secret@h"], "a broker's URL starts with one of"),
        (["app_of_tasks:tasks", "--config", "server.yaml", "--worker", "worker-001"], "a broker's"),
        (["app_of_tasks:own", "--url", "memory://"], "has its broker from its module"),
        (["app_of_tasks:tasks", "--config", "nowhere.yaml"], "does not exist"),
        (["app_of_tasks:tasks", "--config", "app_of_tasks.py"], "a configuration is a .yaml"),
        (["app_of_tasks:tasks", "--config", "workers.yaml"], "say which worker to be"),
        (
            ["app_of_tasks:tasks", "--config", "workers.yaml", "--worker", "worker-003"],
            "there is no worker 'worker-003'",
        ),
        (["app_of_tasks:tasks", "--handler", "app_of_tasks:number"], "is not a TaskHandler"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(arguments: list[str], error: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert error in result.output
    assert "secret" not in result.output


def test_an_error_of_the_module_is_not_taken_for_a_wrong_name(tmp_path: Path) -> None:
    (tmp_path / "broken_app.py").write_text("import nothing_like_that")
    result = invoke("broken_app:tasks")
    assert result.exit_code == 1
    assert result.stderr == (
        "leaseq: broken_app cannot be imported: "
        "ModuleNotFoundError: No module named 'nothing_like_that' (broken_app.py:1)\n"
    )


def test_an_event_loop_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke("app_of_tasks:tasks", "--url", "memory://", "--backend", "trio")
    assert "trio is not installed: pip install 'leaseq[trio]'" in result.output


def test_without_msgspec_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ("leaseq.tasks", "leaseq._cli.worker")
    for name in [name for name in sys.modules if name.startswith(needed)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    result = invoke()
    assert result.exception is not None
    assert "pip install 'leaseq[tasks]'" in str(result.exception)


def test_the_password_of_a_url_is_not_printed_when_it_does_not_work() -> None:
    result = invoke("app_of_tasks:tasks", LEASEQ_URL="redis://:secret@localhost:1")
    assert result.exit_code != 0
    assert "secret" not in result.output


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_runs_until_it_is_told_to_end(backend: str) -> None:
    handler = "app_of_tasks:Handler"
    result = invoke("app_of_tasks:ending", "--handler", handler, "--backend", backend)
    assert (result.exit_code, result.stdout) == (0, "stopping\n"), result.output


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_whose_queues_are_gone_says_so_and_fails(backend: str) -> None:
    result = invoke("app_of_tasks:broken", "--backend", backend)
    assert result.exit_code == 1
    assert "the worker has ended: OSError: the server is gone\n" in result.output


def test_a_worker_is_bound_to_the_url_for_as_long_as_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(worker: TaskWorker, *_: object, task_status: TaskStatus[None]) -> None:
        task_status.started()
        worker.stop()

    monkeypatch.setattr("leaseq._cli.worker._obey_signals", at_once)
    result = invoke("app_of_tasks:tasks", "--url", "memory://")
    assert result.exit_code == 0, result.output
    assert not sys.modules["app_of_tasks"].tasks.bound


STUBBORN = """
import anyio
import leaseq._cli.worker
from leaseq import MemoryBroker
from leaseq.tasks import TaskQueue

leaseq._cli.worker._GRACE = GRACE

class Broker(MemoryBroker):
    async def run(self, *, task_status) -> None:
        await tasks.push(work.task())
        await super().run(task_status=task_status)

tasks = TaskQueue(Broker())

@tasks.task
async def work() -> None:
    with anyio.CancelScope(shield=True):
        print("begun", flush=True)
        await anyio.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals, as POSIX has them")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("grace", "signals", "code"),
    [
        (0.3, [signal.SIGINT, signal.SIGINT], 130),
        (60, [signal.SIGINT, signal.SIGINT, signal.SIGINT], -signal.SIGTERM),
        (60, [signal.SIGTERM, signal.SIGINT, signal.SIGTERM], -signal.SIGTERM),
    ],
)
def test_a_task_that_cannot_be_cancelled_does_not_keep_a_worker(
    tmp_path: Path, backend: str, grace: float, signals: list[signal.Signals], code: int
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN.replace("GRACE = GRACE", f"GRACE = {grace}"))
    command = [sys.executable, "-m", "leaseq", "worker", "stubborn:tasks", "--backend", backend]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            for each in signals:
                process.send_signal(each)
                time.sleep(0.3)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code, log
    assert ("tasks that have not ended when cancelled" in log) == (code == 130)


def test_a_worker_says_that_it_makes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def at_once(worker: TaskWorker, *_: object, task_status: TaskStatus[None]) -> None:
        task_status.started()
        worker.stop()

    monkeypatch.setattr("leaseq._cli.worker._obey_signals", at_once)
    path = tmp_path / "ordres.db"
    for _ in range(2):
        result = invoke("app_of_tasks:tasks", "--url", f"sqlite:///{path}")
        assert result.exit_code == 0, result.output
        assert path.exists()
    said = [each.getMessage() for each in caplog.records if "no file" in each.getMessage()]
    assert said == [f"there is no file {path} yet: this worker makes it"]


def test_ctrl_c_ends_a_worker() -> None:
    assert invoke("app_of_tasks:interrupted", "--backend", "trio").exit_code in (1, 130)


@pytest.mark.skipif(sys.platform == "win32", reason="signals, as POSIX has them")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_finishes_what_it_does_when_it_is_told_to_end(
    tmp_path: Path, backend: str
) -> None:
    command = [sys.executable, "-m", "leaseq", "worker", "program:tasks", "--backend", backend]
    options = ["--config", "workers.yaml", "--worker", "worker-001", "--handler", "program:Handler"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line == "begun 1\n":
                process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        log = process.stderr.read()
    assert process.returncode == 0, log
    assert lines == ["start work", "begun 1", "done 1"]
    assert "<TaskWorker 'worker-001' of 'tasks'> has ended" in log
