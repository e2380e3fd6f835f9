"""Facts about Python files. Blocking code, for a worker thread."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path

_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about one file."""

    definitions: int = 0
    """Functions, methods and classes."""
    imports: tuple[str, ...] = ()
    """The top-level package of each import, as often as it is imported, without relative ones."""
    parsable: bool = True
    """True if this Python could read and parse it; if not, the rest is empty."""


def find_files(root: Path) -> list[Path]:
    """Return the Python files below `root`, sorted, without installed packages."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _INSTALLED]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def read_facts(path: Path) -> Facts:
    """Parse the file at `path` and count its definitions and imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return Facts(parsable=False)
    definitions = 0
    imports: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                definitions += 1
            case ast.Import(names=names):
                imports += [_package(alias.name) for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                imports.append(_package(module))
    return Facts(definitions, tuple(imports))


def _package(module: str) -> str:
    return module.partition(".")[0]
