import importlib.util
import inspect
import runpy
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from leaseq import LeasedKeyQueue
from leaseq._cli import main, make_app
from leaseq._cli.app import COMMANDS

CHECKED = "checked: every file done, none in two hands at once"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(10):
        (tmp_path / f"module_{number}.py").write_text("import sys\n\ndef function(): ...\n")
    return tmp_path


def invoke(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(
        make_app(), [str(each) for each in arguments], env={"COLUMNS": "200"} | environment
    )


def raiser(error: BaseException) -> Callable[..., Awaitable[None]]:
    async def raise_it(*arguments: object) -> None:
        raise error

    return raise_it


# What the command does


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_demo_indexes_a_tree_and_checks_itself(tree: Path, backend: str) -> None:
    result = invoke("demo", tree, "--backend", backend, "--crash-rate", 0)
    assert result.exit_code == 0, result.output
    assert "sys 10" in result.output
    assert CHECKED in result.output


def test_demo_prints_plain_lines_where_there_is_no_terminal(tree: Path) -> None:
    result = invoke("demo", tree, "--crash-rate", 0)
    first, *_ = result.output.splitlines()
    assert first == "ready    10  leased    0  done     0  expired    0"
    assert "\x1b" not in result.output


def test_demo_draws_a_bar_on_a_terminal(tree: Path) -> None:
    result = invoke("demo", tree, "--crash-rate", 0, FORCE_COLOR="1", TERM="xterm")
    assert result.exit_code == 0, result.output
    assert "━" in result.output


def test_demo_redoes_what_dead_workers_held(tree: Path) -> None:
    result = invoke("demo", tree, "--crash-rate", 1, "--lease-timeout", 0.25)
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.output.splitlines() if "workers that died" in line]
    assert "10" in row


def test_demo_says_nothing_of_warnings_in_the_files(tree: Path) -> None:
    (tree / "escape.py").write_text(r"pattern = '\d'")
    result = invoke("demo", tree, "--crash-rate", 0)
    (row,) = [line for line in result.output.splitlines() if "do not parse" in line]
    assert "0" in row
    assert "Warning" not in result.output


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_demo_exits_with_1_and_names_the_check_that_failed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    put_many = LeasedKeyQueue.put_many

    async def lose_the_first(queue: Any, items: Iterable[Any]) -> None:
        await put_many(queue, list(items)[1:])

    monkeypatch.setattr(LeasedKeyQueue, "put_many", lose_the_first)
    result = invoke("demo", tree, "--backend", backend, "--crash-rate", 0)
    assert result.exit_code == 1
    assert "check failed: 1 of 10 files not done" in result.output
    assert CHECKED not in result.output


def test_python_m_leaseq_runs_the_command(tree: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "leaseq", "demo", tree, "--lease-timeout", "0.1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert CHECKED in result.stdout


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), BaseExceptionGroup("from a task group", [KeyboardInterrupt()])],
    ids=["bare", "in a group"],
)
def test_demo_stops_quietly_at_an_interrupt(
    tree: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(LeasedKeyQueue, "join", raiser(error))
    result = invoke("demo", tree, "--crash-rate", 0)
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_demo_does_not_hide_a_bug_behind_an_interrupt(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = BaseExceptionGroup("from a task group", [KeyboardInterrupt(), ZeroDivisionError()])
    monkeypatch.setattr(LeasedKeyQueue, "join", raiser(errors))
    with pytest.raises(BaseExceptionGroup) as caught:
        invoke("demo", tree, "--crash-rate", 0)
    assert caught.value.split(ZeroDivisionError)[0] is not None


# What it refuses


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--workers", 0, "workers must be at least 1, not 0"),
        ("--crash-rate", -0.1, "the crash rate must be from 0 to 1, not -0.1"),
        ("--crash-rate", "nan", "the crash rate must be from 0 to 1, not nan"),
        (
            "--lease-timeout",
            0,
            "the lease timeout must be a finite number of seconds above 0, not 0.0",
        ),
        ("--backend", "curio", "'curio' is not one of 'asyncio', 'trio'"),
    ],
)
def test_demo_refuses_a_value_out_of_range(
    tree: Path, option: str, value: object, message: str
) -> None:
    result = invoke("demo", tree, option, value)
    assert result.exit_code == 2
    assert message in result.output


def test_demo_refuses_a_path_that_does_not_exist(tmp_path: Path) -> None:
    result = invoke("demo", tmp_path / "gone")
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_demo_refuses_a_folder_without_python_files(tmp_path: Path) -> None:
    result = invoke("demo", tmp_path)
    assert result.exit_code == 2
    assert "there are no Python files in" in result.output


def test_demo_says_how_to_install_trio_where_it_is_missing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = invoke("demo", tree, "--backend", "trio")
    assert result.exit_code == 2
    assert "trio is not installed: pip install 'leaseq[trio]'" in result.output


# The entry point


def test_the_entry_point_shows_the_commands(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leaseq", "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("leaseq", run_name="__main__")
    assert exit.value.code in (0, None)
    assert "demo" in capfd.readouterr().out


def test_the_entry_point_says_what_to_install_where_typer_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "leaseq._cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"needs typer, .*: pip install 'leaseq\[cli\]'"):
        main()


def test_the_entry_point_does_not_hide_another_missing_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "leaseq._cli.demo.command", raising=False)
    monkeypatch.setitem(sys.modules, "sysconfig", None)
    monkeypatch.setattr(sys, "argv", ["leaseq", "demo", "--help"])
    with pytest.raises(ModuleNotFoundError, match="sysconfig"):
        main()


def test_a_command_says_what_to_install_where_its_library_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "leaseq._cli.demo.command", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    result = invoke("demo", "--help")
    assert "pip install 'leaseq[cli]'" in str(result.exception)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_has_the_first_line_of_the_help_of_each_command(name: str) -> None:
    module, summary = COMMANDS[name]
    command = getattr(importlib.import_module(f"leaseq._cli.{module}"), name)
    assert inspect.getdoc(command).splitlines()[0] == summary
    assert summary in " ".join(invoke("--help").output.split())
