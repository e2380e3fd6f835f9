"""The blocks of the pages that keep queues in a file: in real time, each page in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import FILE, PAGES, blocks, execute, needs_file, record_runs, relative

WITH_FILES = [page for page in PAGES if any(needs_file(code) for code, _ in blocks(page, ""))]


@pytest.fixture(params=["asyncio", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs(library: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return record_runs(library, monkeypatch)


@pytest.mark.parametrize("page", WITH_FILES, ids=relative)
def test_every_block_with_a_file_runs(
    page: Path,
    library: str,
    runs: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "docs"}
    for code, said in blocks(page, library):
        if not needs_file(code):
            continue
        execute(code, str(page), namespace, runs)
        printed = capsys.readouterr().out
        assert said in (None, printed)


def test_the_readme_and_the_page_on_processes_begin_with_a_file() -> None:
    names = [relative(page) for page in WITH_FILES]
    assert "README.md" in names
    assert "docs/how-to/across-processes.md" in names
    assert FILE in (PAGES[0]).read_text()
