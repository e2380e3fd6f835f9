"""The blocks of the pages, and the examples, that need a server: in real time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, SERVER, blocks, execute, needs_server, record_runs, relative
from tests.servers import Server

pytestmark = pytest.mark.usual_leases

SERVED = [page for page in PAGES if SERVER in page.read_text()]
EXAMPLES = sorted((ROOT / "examples" / "valkey").glob("*.py"))


@pytest.fixture(params=["asyncio", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs(library: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return record_runs(library, monkeypatch)


@pytest.mark.parametrize("page", SERVED, ids=relative)
def test_every_block_that_needs_a_server_runs(
    page: Path,
    library: str,
    runs: list[object],
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    for code, said in blocks(page, library):
        if not needs_server(code):
            continue
        here = code.replace(SERVER, f"valkey://127.0.0.1:{server.port}")
        execute(here, str(page), namespace, runs)
        printed = capsys.readouterr().out
        assert said in (None, printed)


@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_every_example_is_a_program(example: Path, library: str, server: Server) -> None:
    command = [sys.executable, "-W", "error", str(example), library]
    environment = {**os.environ, "LEASEQ_URL": server.url}
    subprocess.run(command, env=environment, check=True, timeout=60)
