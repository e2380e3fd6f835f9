"""Commands whose standard streams are closed, full or cut off, and that are interrupted."""

import errno
import os
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from pathlib import Path

import anyio
import pytest
from tests.children import ROOT
from tests.servers import Servers

import leaseq
from leaseq import connect
from leaseq._cli.streams import OutputError, end

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell, as POSIX has it")

FULL = "/dev/full"


@pytest.fixture
def url(servers: Servers) -> str:
    url = f"{servers('valkey').url}?prefix={uuid.uuid4().hex}"

    async def make() -> None:
        async with connect(url) as broker:
            await (await broker.queue("work")).put_many({"a": 1, "b": 2})

    anyio.run(make)
    return url


def shell(command: str, url: str, **options: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line of bash in which ``leaseq`` is the command."""
    line = command.replace("leaseq", f"{sys.executable} -m leaseq")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        env={**os.environ, "LEASEQ_URL": url, "COLUMNS": "300", **options},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def keys_in(url: str) -> set[object]:
    async def look() -> set[object]:
        async with connect(url) as broker:
            return set(await (await broker.queue("work")).available_keys())

    return anyio.run(look)


def check_quiet(done: "subprocess.CompletedProcess[str]") -> None:
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_put_whose_output_cannot_be_written_was_done_and_says_so(url: str) -> None:
    done = shell(f"leaseq put work c 3 > {FULL}", url)
    check_quiet(done)
    assert done.returncode == 74
    assert done.stderr == (
        f"leaseq: the output could not be written: {os.strerror(errno.ENOSPC)}\n"
    )
    assert keys_in(url) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "command",
    [
        "queues",
        "queues --json",
        "info work",
        "peek work a",
        "--version",
        "--help",
        "demo tests/cli",
    ],
)
@pytest.mark.parametrize(("where", "code"), [(f"> {FULL}", 74), (">&-", 74), ("| true", 141)])
def test_output_that_goes_nowhere_is_no_traceback(
    url: str, command: str, where: str, code: int
) -> None:
    done = shell(f"leaseq {command} {where}", url)
    check_quiet(done)
    assert done.returncode in ((0, code) if code == 141 else (code,))
    assert done.stderr.count("\n") == (code == 74)


def test_the_first_line_of_a_demo_is_enough(url: str) -> None:
    done = shell("leaseq demo tests/cli | head -1", url)
    check_quiet(done)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("stderr", [f"2> {FULL}", "2>&-"])
def test_an_error_that_cannot_be_told_has_its_exit_code(url: str, stderr: str) -> None:
    assert shell(f"leaseq info nowhere {stderr}", url).returncode == 1
    assert shell(f"leaseq info {stderr}", url).returncode == 2


@pytest.mark.parametrize("stdin", ["<&-", "< /dev/null"])
def test_without_an_answer_nothing_is_done(url: str, stdin: str) -> None:
    done = shell(f"leaseq purge work {stdin}", url)
    check_quiet(done)
    assert done.returncode == 1
    assert done.stderr.endswith("leaseq: nothing was done; --yes does it without asking\n")
    assert keys_in(url) == {"a", "b"}
    done = shell(f"leaseq put work c - {stdin}", url)
    check_quiet(done)
    assert done.returncode == 2
    assert "the value is not JSON" in done.stderr


def test_with_all_streams_closed_the_work_is_done(url: str) -> None:
    assert shell("leaseq put work c 3 <&- >&- 2>&-", url).returncode == 74
    assert keys_in(url) == {"a", "b", "c"}


@pytest.mark.parametrize("value", ["@/dev/zero", "- < /dev/zero"])
def test_a_value_without_an_end_is_refused(url: str, value: str) -> None:
    done = shell(f"leaseq put work c {value}", url)
    assert done.returncode == 2
    assert "the value is larger than 33,554,432 bytes" in done.stderr


def test_a_key_that_is_twice_in_an_object_is_refused(url: str) -> None:
    done = shell("""leaseq put work c '{"x": {"a": 1, "b": 2, "a": 3}}'""", url)
    assert done.returncode == 2
    assert "the key 'a' is there twice in one object" in done.stderr


def test_an_output_that_fails_again_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    kept = os.dup(1)
    try:
        assert end(OutputError(errno.EPIPE, "gone")) == 141
        assert end(OutputError(errno.EIO, "broken")) == 74
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capsys.readouterr().err == "leaseq: the output could not be written: broken\n"


# Extras


@pytest.mark.parametrize(
    ("missing", "arguments", "says"),
    [
        ("msgspec", "worker app:tasks --config x.yaml --worker 1", "pip install 'leaseq[tasks]'"),
        ("msgspec", "worker", "pip install 'leaseq[tasks]'"),
        ("hiredis", "queues --url valkey://localhost", "leaseq[valkey]"),
        ("typer", "put work a 1 --url valkey://localhost --tenant x", "pip install 'leaseq[cli]'"),
        ("rich", "queues", "pip install 'leaseq[cli]'"),
    ],
)
def test_a_missing_extra_is_named_whatever_follows(missing: str, arguments: str, says: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from leaseq._cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "300"},
    )
    check_quiet(done)
    assert done.returncode != 0
    assert says in done.stderr
    assert missing in done.stderr


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("leaseq.valkey", "hiredis", "valkey"),
        ("leaseq.tasks", "msgspec", "tasks"),
    ],
)
def test_an_import_says_which_extra_it_needs(module: str, missing: str, extra: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {module} needs {missing}, which is not installed: "
        f"pip install 'leaseq[{extra}]'"
    )


# Ctrl-C


def end_early(program: list[str], after: float) -> tuple[int, str]:
    """Start a command, interrupt it after some seconds, and return its code and its errors."""
    with subprocess.Popen(
        [sys.executable, *program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    return process.returncode, told.decode()


@pytest.mark.parametrize(
    "count", [20, pytest.param(300, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_ctrl_c_is_quiet_from_the_first_line_on(count: int) -> None:
    # Before that Python tells of an interruption itself, and names none of the package's files.
    start = ["-c", "from _leaseq_start import main; main()"]
    package = str(Path(leaseq.__file__).parent)
    for number in range(count):
        code, told = end_early(start, 0.3 * number / count)
        assert package not in told
        assert "KeyboardInterrupt" in told or code in (0, 130, -signal.SIGINT)


def test_the_script_is_the_one_that_sees_to_ctrl_c_first() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert document["project"]["scripts"] == {"leaseq": "_leaseq_start:main"}
    program = (
        "import sys; before = {*sys.modules}; import _leaseq_start; "
        "print(sorted({*sys.modules} - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "['_leaseq_start']\n"  # no other file could be interrupted before


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3, 0.6, 1.2])
@pytest.mark.parametrize(
    "arguments", ["watch --json", "put work c 3", "demo src --workers 1", "worker app:tasks"]
)
def test_ctrl_c_is_quiet_at_any_time(
    url: str, arguments: str, delay: float, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import time\nfrom leaseq.tasks import TaskQueue\ntasks = TaskQueue()\ntime.sleep(0.2)\n"
    )
    program = (
        "import leaseq._cli as cli, sys; sys.stderr.write('.'); sys.stderr.flush(); cli.main()"
    )
    folder = ROOT if arguments.startswith("demo") else tmp_path
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "LEASEQ_URL": url},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read(1) == b"."
        time.sleep(delay + 0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    text = told.decode()
    assert "Traceback" not in text
    assert "KeyboardInterrupt" not in text
    done = 0 if arguments.startswith(("put", "watch", "worker")) else None
    assert process.returncode in (130, done)


def test_ctrl_c_while_an_event_loop_is_made_is_quiet(url: str) -> None:
    """Python tells of what it cannot close of a half made one, after all else."""
    program = (
        "import asyncio.selector_events as events, leaseq._cli as cli\n"
        "def interrupted(self): raise KeyboardInterrupt\n"
        "events.BaseSelectorEventLoop._make_self_pipe = interrupted\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "put", "work", "a", "1", "--create", "--url", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_while_a_class_is_made_is_quiet(tmp_path: Path) -> None:
    """Before Python 3.12 that is a RuntimeError, of `__set_name__`."""
    program = (
        "import builtins, os, signal, sys\n"
        "class Field:\n"
        "    def __set_name__(self, owner, name): os.kill(os.getpid(), signal.SIGINT)\n"
        "found = builtins.__import__\n"
        "def look(name, *rest):\n"
        "    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:\n"
        "        builtins.__import__ = found\n"
        "        class Made: field = Field()\n"
        "    return found(name, *rest)\n"
        "import leaseq._cli as cli\n"
        "builtins.__import__ = look\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "queues", "--url", f"sqlite:///{tmp_path / 'q.db'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
