"""Fixtures of the tests of the engine in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sqlite.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A file, the time there, and processes that use it."""
    place = Place(tmp_path / "queues.db")
    yield place
    place.close()
