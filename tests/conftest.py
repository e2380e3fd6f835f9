"""Backends, marks and servers for all tests."""

import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from tests.backends import REAL_TIME, SKIPPED_TIME, VIRTUAL_TIME, Backend
from tests.servers import Cluster, Server, Servers, binary

pytest.register_assert_rewrite("tests.contract.helpers", "tests.remote.killed")


MOST_PROCESSES = 16
"""Each may have servers of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="decides what goes wrong in the tests")


def pytest_configure() -> None:
    """Hear Ctrl-C in the background as well, where a shell has programs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Have two processes for each processor, since tests wait; a single file needs no other."""
    files = {Path(argument.partition("::")[0]) for argument in config.args}
    if len(files) == 1 and all(path.is_file() for path in files):
        return 0
    return min(2 * (os.cpu_count() or 1), MOST_PROCESSES)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among the tests that are collected: it is a million objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have recorded of themselves."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a backend on each; with uvloop, which has asyncio's tasks, if asked for `slow`.

    What also takes ``native`` runs once for each way to cancel; what takes ``engine_name``, on each
    engine, with a server in real time or without its idle parts; what takes ``skipping``, without
    these. Tests that take ``entry``, an engine of the contract suite, run where
    `tests.contract.conftest` says.
    """
    if "anyio_backend" not in metafunc.fixturenames or "entry" in metafunc.fixturenames:
        return
    definition = metafunc.definition
    virtual = definition.get_closest_marker("virtual_time") is not None
    only = definition.get_closest_marker("only")
    slow_on = definition.get_closest_marker("slow_on")
    names = {None: [*(VIRTUAL_TIME if virtual else REAL_TIME)]}
    if "engine_name" in metafunc.fixturenames:
        on_server = [*REAL_TIME]
        if virtual:
            waits = definition.get_closest_marker("time_passes") is None
            on_server = [*SKIPPED_TIME, *(["asyncio+uvloop"] if waits else [])]
        in_file = on_server[:1] if virtual else [*REAL_TIME]
        names = {"memory": names[None], "sqlite": in_file, "valkey": on_server}
    if "skipping" in metafunc.fixturenames:
        names = {None: [*SKIPPED_TIME]}
    arguments = ["anyio_backend"]
    arguments += [name for name in ("engine_name", "native") if name in metafunc.fixturenames]
    ways = []
    for engine, backends in names.items():
        for name in backends:
            if only is not None and name.split("+")[0] not in only.args:
                continue
            is_slow = slow_on is not None and engine in slow_on.args
            if name.endswith("+uvloop") and (is_slow or definition.get_closest_marker("slow")):
                continue
            for native in (False,) if name.startswith("trio") else (False, True):
                values = {"anyio_backend": name, "engine_name": engine, "native": native}
                how = {"native": "native" if native else "scope"}
                shown = [how.get(each, str(values[each])) for each in arguments]
                if "native" in arguments or not native:
                    ways.append(
                        pytest.param(
                            *(values[each] for each in arguments),
                            id="-".join(shown),
                            marks=[pytest.mark.slow] if is_slow or name.endswith("+uvloop") else [],
                        )
                    )
    metafunc.parametrize(arguments, ways, indirect=[each for each in arguments if each != "native"])


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    make_backend = (REAL_TIME | VIRTUAL_TIME | SKIPPED_TIME)[request.param]
    return make_backend()


@pytest.fixture(autouse=True)
def own_signal() -> Iterator[None]:
    """Keep from the tests what the command does at Ctrl-C, wherever one of them runs it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def endless_leases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that end only where a test says so: most look and take without a timekeeper."""
    if request.node.get_closest_marker("usual_leases") is None:
        monkeypatch.setattr("leaseq._remote.broker.SHARED_LEASE_TIMEOUT", None)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One server of each kind for the whole run, started when it is first asked for."""
    with ExitStack() as running:

        @cache
        def start(kind: str) -> Server:
            server = Server(binary(kind), tmp_path_factory.mktemp(kind))
            return running.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the whole run. A test does it no harm, and keeps to prefixes of its own."""
    with Cluster(binary("valkey"), tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
