"""The Python blocks of the pages that a reader may copy."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SERVER = "valkey://localhost:6379"
"""Where the pages say that there is a server: a block that does needs one."""

FILE = "sqlite:///"
"""The beginning of the URLs of files: a block with one runs in a folder of its own."""

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_LIBRARY = re.compile(r"^(?:import|from) (asyncio|trio)\b", re.MULTILINE)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def needs_server(code: str) -> bool:
    return SERVER in code


def needs_file(code: str) -> bool:
    return FILE in code


def blocks(page: Path, library: str) -> Iterator[tuple[str, str | None]]:
    """The blocks that are for this library, and what each of them is said to print."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        libraries = _LIBRARY.findall(block["code"])
        if not libraries or library in libraries:
            line = text.count("\n", 0, block.start("code"))
            # So that a traceback names the page's line.
            yield "\n" * line + block["code"], block["printed"]


def execute(code: str, filename: str, namespace: dict[str, Any], runs: list[object]) -> None:
    """Run some code and, unless it does so itself, the ``main`` and the tests that it defines.

    Args:
        code: What to run.
        filename: Where it is from.
        namespace: What it finds there, and leaves.
        runs: Has something in it as soon as an event loop was run.
    """
    before = dict(namespace)
    runs.clear()
    exec(compile(code, filename, "exec"), namespace)
    if runs:
        return
    for name, thing in list(namespace.items()):
        if thing is not before.get(name) and (name == "main" or name.startswith("test_")):
            anyio.run(thing)


def record_runs(library: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Have `anyio.run` run on `library`, in real time; return what it has run so far."""
    runs: list[object] = []
    anyio_run = anyio.run

    def run(main: Any, *args: object) -> Any:
        runs.append(main)
        return anyio_run(main, *args, backend=library)

    monkeypatch.setattr(anyio, "run", run)
    return runs
