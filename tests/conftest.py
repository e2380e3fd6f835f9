"""Backends, marks and servers for all tests."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from tests.backends import REAL_TIME, SKIPPED_TIME, VIRTUAL_TIME, Backend
from tests.servers import Cluster, Server, Servers, binary

pytest.register_assert_rewrite("tests.contract.helpers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="decides what goes wrong in the tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "virtual_time: run where the clock jumps to the next timer, on both libraries"
    )
    config.addinivalue_line(
        "markers", "needs(*features): run on the engines of the contract suite that have them"
    )
    config.addinivalue_line("markers", "only(library): run on asyncio alone, or on trio alone")
    config.addinivalue_line("markers", "long: takes seconds; run once on each library")
    config.addinivalue_line(
        "markers", "time_passes: too much of it to wait for where the clock does not jump or skip"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have recorded of themselves."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a backend on each.

    What also takes ``native`` runs once for each way to cancel; what takes ``engine_name``, on each
    engine, with a server in real time or without its idle parts. Tests that take ``entry``, an
    engine of the contract suite, run where `tests.contract.conftest` says.
    """
    if "anyio_backend" not in metafunc.fixturenames or "entry" in metafunc.fixturenames:
        return
    definition = metafunc.definition
    virtual = definition.get_closest_marker("virtual_time") is not None
    only = definition.get_closest_marker("only")
    names = {None: [*(VIRTUAL_TIME if virtual else REAL_TIME)]}
    if "engine_name" in metafunc.fixturenames:
        on_server = [*REAL_TIME]
        if virtual:
            waits = definition.get_closest_marker("time_passes") is None
            on_server = [*SKIPPED_TIME, *(["asyncio+uvloop"] if waits else [])]
        names = {"memory": names[None], "valkey": on_server}
    arguments = ["anyio_backend"]
    arguments += [name for name in ("engine_name", "native") if name in metafunc.fixturenames]
    ways = []
    for engine, backends in names.items():
        for name in backends:
            if only is not None and name.split("+")[0] not in only.args:
                continue
            if name.endswith("+uvloop") and definition.get_closest_marker("long") is not None:
                continue
            for native in (False,) if name.startswith("trio") else (False, True):
                values = {"anyio_backend": name, "engine_name": engine, "native": native}
                how = {"native": "native" if native else "scope"}
                shown = [how.get(each, str(values[each])) for each in arguments]
                if "native" in arguments or not native:
                    ways.append(
                        pytest.param(*(values[each] for each in arguments), id="-".join(shown))
                    )
    metafunc.parametrize(arguments, ways, indirect=[each for each in arguments if each != "native"])


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    make_backend = (REAL_TIME | VIRTUAL_TIME | SKIPPED_TIME)[request.param]
    return make_backend()


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
