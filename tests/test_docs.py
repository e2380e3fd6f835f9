"""Every Python block that a reader may copy runs, and so does every example program.

A page is run from top to bottom, on asyncio and on trio, in virtual time; its blocks share one
namespace. A block that defines ``main`` and does not run it has it run here. A block that imports
asyncio or trio is for that library alone. What a block prints has to be what the ``text`` block
right under it says. Blocks that need a server, and examples that do, are run where there is one:
`tests.valkey.test_docs`; and those that keep a queue in a file, in real time, by
`tests.sqlite.test_docs`.
"""

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest
import trio
from pages import BLOCK, PAGES, ROOT, blocks, execute, needs_file, needs_server, relative

import leaseq
import leaseq.testing
from leaseq.testing import VirtualEventLoop, virtual_backend

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PACKAGE = ROOT / "src" / "leaseq"

FENCE = re.compile(r"^ *(?:```|~~~)(.*)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
LITERAL_BLOCK = re.compile(r"::\n\n((?:(?: {4}.*)?\n)+)")

Main = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["asyncio", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs(library: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was run so far, by any of the three ways to do it: all of them in virtual time."""
    runs: list[object] = []
    anyio_run, trio_run = anyio.run, trio.run

    def run(main: Main, *args: object, backend: str = library) -> Any:
        runs.append(main)
        assert backend == library
        name, options = virtual_backend(backend)  # type: ignore[arg-type]
        return anyio_run(main, *args, backend=name, backend_options=options)

    def run_on_trio(main: Main, *args: object, **options: Any) -> Any:  # anyio calls it too
        runs.append(main)
        if "clock" not in options:
            options |= virtual_backend("trio")[1]
        return trio_run(main, *args, **options)

    def run_on_asyncio(main: Coroutine[Any, Any, Any]) -> Any:
        runs.append(main)
        with asyncio.Runner(loop_factory=VirtualEventLoop) as runner:
            return runner.run(main)

    monkeypatch.setattr(anyio, "run", run)
    monkeypatch.setattr(trio, "run", run_on_trio)
    monkeypatch.setattr(asyncio, "run", run_on_asyncio)
    return runs


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_of_the_page_runs(
    page: Path, library: str, runs: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    for code, said in blocks(page, library):
        if needs_server(code) or needs_file(code):
            continue
        execute(code, str(page), namespace, runs)
        printed = capsys.readouterr().out
        assert said in (None, printed)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_block_of_the_page_escapes(page: Path) -> None:
    text = page.read_text()
    fences = FENCE.findall(text)
    assert set(fences[::2]) <= {"mermaid", "python", "sh", "text"}
    assert set(fences[1::2]) <= {""}
    assert fences.count("python") == len(BLOCK.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(CODE.sub("", page.read_text())):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_every_example_runs(example: Path, library: str, runs: list[object]) -> None:
    execute(example.read_text(), str(example), {"__name__": "__main__"}, runs)
    assert runs


@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_every_example_is_a_program(example: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", example], check=True, timeout=60)


def docstring_blocks() -> Iterator[Any]:
    """The literal blocks in the docstrings of what users import."""
    for file in sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "testing").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for block in LITERAL_BLOCK.findall((ast.get_docstring(node) or "") + "\n"):
                    name = getattr(node, "name", "")
                    yield pytest.param(dedent(block), id=f"{file.relative_to(PACKAGE)}:{name}")


@pytest.mark.parametrize("block", [*docstring_blocks()])
def test_every_docstring_example_runs(block: str, library: str, runs: list[object]) -> None:
    namespace = {**vars(leaseq), **vars(leaseq.testing), "anyio": anyio, "pytest": pytest}
    execute(block, "docstring", namespace, runs)
