import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint
from typer.testing import CliRunner

from leaseq import Lease, LeasedKeyQueue, Statistics, connect
from leaseq._cli import make_app
from leaseq._cli.demo import Options, find_files, index
from leaseq._cli.demo import job as job_module
from leaseq._cli.demo import shared as shared_module
from leaseq._cli.demo.audit import Audit, Database, Record
from leaseq._cli.demo.files import Facts, read_facts
from leaseq._cli.demo.shared import index_with_processes

SOURCE = """
import os.path, sys
import sys as system
from collections.abc import Iterable
from . import sibling
from .sibling import name

class Shape:
    def area(self): ...

async def draw(shape):
    def line(): ...
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for number in range(60):
        (tmp_path / f"module_{number}.py").write_text(SOURCE)
    return find_files(tmp_path)


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files read in the event loop: a clock that jumps does not wait for a thread."""

    async def run_sync(function: Any, *arguments: Any, limiter: object) -> Any:
        await checkpoint()
        return function(*arguments)

    monkeypatch.setattr(job_module, "to_thread", SimpleNamespace(run_sync=run_sync))


# What is read


def test_files_are_found_in_every_folder_but_those_of_installed_packages(tmp_path: Path) -> None:
    for name in ["b.py", "a.txt", "package/a.py", "lib/site-packages/installed.py"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_files(tmp_path) == [tmp_path / "b.py", tmp_path / "package" / "a.py"]


def test_definitions_and_imported_packages_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert read_facts(path) == Facts(
        definitions=4, imports=("os", "sys", "sys", "collections"), parsable=True
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"def", id="syntax error"),
        pytest.param(b"a = 1\0", id="null byte"),
        pytest.param(b"# coding: klingon", id="unknown encoding"),
        pytest.param(b"\xff\xfe", id="undecodable"),
        pytest.param(b"-" * 100_000 + b"1", id="too deep"),
    ],
)
def test_a_file_that_does_not_parse_has_no_facts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "module.py"
    path.write_bytes(content)
    assert read_facts(path) == Facts(parsable=False)


def test_a_file_that_is_gone_has_no_facts(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "gone.py") == Facts(parsable=False)


# The job


@pytest.mark.anyio
async def test_every_file_is_indexed(files: list[Path]) -> None:
    files[0].write_text("def")
    report = await index(files, Options(crash_rate=0.0))
    assert report.failures == ()
    assert report.files == 60
    assert report.unparsable == 1
    assert report.definitions == 59 * 4
    assert report.imports == {"os": 59, "sys": 2 * 59, "collections": 59}
    assert report.deaths == 0
    assert report.seconds > 0


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.usefixtures("without_threads")
async def test_what_dead_workers_held_is_redone(files: list[Path]) -> None:
    report = await index(files, Options(workers=3, crash_rate=1.0))
    assert report.failures == ()
    assert report.definitions == 60 * 4
    assert report.deaths == 60
    assert report.expired == 60


@pytest.mark.anyio
async def test_files_that_are_saved_again_meanwhile_come_back(files: list[Path]) -> None:
    report = await index(files, Options(crash_rate=0.0))
    assert report.failures == ()
    assert report.saved_again > 0
    assert report.jobs == 60 + report.saved_again


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.usefixtures("without_threads")
async def test_the_seed_decides_what_goes_wrong(files: list[Path]) -> None:
    deaths = [(await index(files, Options(crash_rate=0.5, seed=seed))).deaths for seed in (1, 1, 2)]
    assert deaths[0] == deaths[1] != deaths[2]


@pytest.mark.anyio
async def test_a_worker_keeps_its_file_though_the_event_loop_stalls_for_longer_than_its_lease(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = False

    def read_while_the_event_loop_stalls_once(path: Path) -> Facts:
        nonlocal stalled
        if not stalled:
            stalled = True
            from_thread.run_sync(time.sleep, 0.5)
        return read_facts(path)

    monkeypatch.setattr(job_module, "read_facts", read_while_the_event_loop_stalls_once)
    report = await index(files[:5], Options(workers=2, crash_rate=0.0, lease_timeout=0.25))
    assert stalled
    assert report.failures == ()
    assert report.deaths == 0
    assert report.expired == 0


@pytest.mark.anyio
async def test_the_progress_is_shown_from_the_first_to_the_last(files: list[Path]) -> None:
    shown: list[Statistics] = []
    report = await index(files, Options(crash_rate=0.0), shown.append)
    assert shown[0].acked == 0
    assert shown[-1].acked == report.jobs
    assert (shown[-1].ready, shown[-1].leased, shown[-1].buffered) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"crash_rate": 1.5}, "the crash rate must be from 0 to 1, not 1.5"),
        ({"crash_rate": math.nan}, "the crash rate must be from 0 to 1, not nan"),
        (
            {"lease_timeout": 0.0},
            "the lease timeout must be a finite number of seconds above 0, not 0.0",
        ),
        (
            {"lease_timeout": math.inf},
            "the lease timeout must be a finite number of seconds above 0, not inf",
        ),
    ],
)
def test_a_number_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.anyio
async def test_a_file_that_the_queue_loses_is_found_missing(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many = LeasedKeyQueue.put_many

    async def lose_the_first(queue: Any, items: Iterable[Any]) -> None:
        await put_many(queue, list(items)[1:])

    monkeypatch.setattr(LeasedKeyQueue, "put_many", lose_the_first)
    report = await index(files, Options(crash_rate=0.0))
    assert report.failures == (
        f"1 of 60 files not done, or not in the newest revision, the first is {files[0]}",
    )


# Over several processes


@pytest.mark.anyio
async def test_processes_that_are_killed_lose_nothing(
    files: list[Path], tmp_path: Path, anyio_backend_name: str
) -> None:
    files[0].write_text("def")
    url = f"sqlite:///{tmp_path / 'demo.db'}?synchronous=normal"
    options = Options(workers=4, crash_rate=0.5, lease_timeout=1.0)
    report = await index_with_processes(files, options, url, 2, anyio_backend_name)
    assert report.failures == ()
    assert (report.files, report.unparsable) == (60, 1)
    assert report.definitions == 59 * 4
    assert report.deaths == 3
    async with connect(url) as broker:
        assert await broker.list_queues() == []


@pytest.mark.anyio
async def test_a_file_that_no_process_does_is_found_missing(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of = shared_module._all_of

    async def lose_one(queue: Any) -> list[Any]:
        return (await all_of(queue))[1:]

    monkeypatch.setattr(shared_module, "_all_of", lose_one)
    url = f"sqlite:///{tmp_path / 'demo.db'}?synchronous=normal"
    report = await index_with_processes(files[:5], Options(crash_rate=0.0), url, 1, "asyncio")
    (failure,) = report.failures
    assert "1 of 5 files not done" in failure
    assert report.deaths == 0


def test_the_command_says_what_it_needs(tmp_path: Path, files: list[Path]) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(make_app(), ["demo", str(tmp_path), *arguments])

    refused = run("--processes", "2")
    assert refused.exit_code == 2
    assert "--url sqlite:///demo.db" in refused.output
    refused = run("--url", "memory://", "--processes", "2")
    assert refused.exit_code == 2
    failed = run("--url", f"sqlite:///{tmp_path / 'none' / 'demo.db'}")
    assert failed.exit_code == 1
    assert "there is no folder" in failed.output.replace("\n", " ")
    place = f"sqlite:///{tmp_path / 'demo.db'}"
    done = run("--url", place, "--processes", "2", "--crash-rate", "0.1", "--lease-timeout", "1")
    assert done.exit_code == 0, done.output
    assert "processes that died" in done.output
    assert "checked: every file done" in done.output


# The checks

PATH = Path("module.py")


def leased(token: int, deadline: float = math.inf) -> Lease[Path, int]:
    lease = Lease(LeasedKeyQueue[Path, int](), PATH, 0)
    lease._token, lease._deadline = token, deadline
    return lease


def record(token: int, revision: int = 0) -> Record:
    return Record(token, revision, Facts())


def test_the_database_refuses_a_write_under_an_older_token() -> None:
    database = Database()
    assert database.write(PATH, record(7))
    assert not database.write(PATH, record(6))
    assert database.records == {PATH: record(7)}
    assert database.write(PATH, record(8))
    assert database.records == {PATH: record(8)}


def test_a_file_that_is_done_once_passes() -> None:
    audit = Audit([PATH])
    audit.taken(leased(1), now=0.0)
    assert audit.failures({PATH: record(1)}) == ()


def test_a_file_without_a_record_fails() -> None:
    (failure,) = Audit([PATH]).failures({})
    assert failure == "1 of 1 files not done, or not in the newest revision, the first is module.py"


def test_a_file_that_is_recorded_in_an_old_revision_only_fails() -> None:
    audit = Audit([PATH])
    audit.taken(leased(1), now=0.0)
    audit.saved(PATH, 1)
    (failure,) = audit.failures({PATH: record(1)})
    assert "not done, or not in the newest revision" in failure


def test_a_file_in_two_hands_fails() -> None:
    audit = Audit([PATH])
    audit.taken(leased(1, deadline=10.0), now=0.0)
    audit.taken(leased(2, deadline=19.0), now=9.0)
    (failure,) = audit.failures({PATH: record(2)})
    assert failure == "1 of 1 files in two hands at once, the first is module.py"


def test_a_file_that_passes_from_hand_to_hand_does_not_fail() -> None:
    audit = Audit([PATH])
    lost, done, again = leased(1, deadline=10.0), leased(2, deadline=20.0), leased(3)
    audit.taken(lost, now=0.0)
    audit.taken(done, now=10.0)
    audit.let_go(lost)
    audit.let_go(done)
    audit.taken(again, now=11.0)
    assert audit.failures({PATH: record(3)}) == ()


def test_a_loser_that_lets_go_does_not_free_the_file_of_its_successor() -> None:
    audit = Audit([PATH])
    lost = leased(1, deadline=10.0)
    audit.taken(lost, now=0.0)
    audit.taken(leased(2, deadline=20.0), now=10.0)
    audit.let_go(lost)
    audit.taken(leased(3, deadline=21.0), now=11.0)
    (failure,) = audit.failures({PATH: record(3)})
    assert "in two hands at once" in failure


def test_a_token_that_does_not_grow_fails() -> None:
    audit = Audit([PATH])
    for lease in [leased(2), leased(2)]:
        audit.taken(lease, now=0.0)
        audit.let_go(lease)
    (failure,) = audit.failures({PATH: record(2)})
    assert failure == "1 of 1 files not recorded under the newest token, the first is module.py"


def test_a_record_under_an_old_token_fails() -> None:
    audit = Audit([PATH])
    audit.taken(leased(1, deadline=10.0), now=0.0)
    audit.taken(leased(2), now=10.0)
    (failure,) = audit.failures({PATH: record(1)})
    assert "not recorded under the newest token" in failure
