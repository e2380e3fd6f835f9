"""The map of the code, held against the code."""

import re
from pathlib import Path

import pytest

import leaseq

ROOT = Path(leaseq.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "`" in line]


def file_of(path: str, room: str) -> Path:
    """A path of the page, which is that of the package, or within the room of its row."""
    places = (ROOT / path, ROOT / room / path, ROOT / "_valkey" / path)
    return next((place for place in places if place.exists()), ROOT / path)


def test_the_page_has_its_tables() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_what_a_row_of_the_page_names_is_there(row: str) -> None:
    room = ""
    sources: list[str] = []
    for name in re.findall(r"`([^`]+)`", row):
        if name.endswith((".py", ".lua", "/")):
            path = file_of(name, room)
            assert path.exists(), name
            if path.is_dir():
                room = room or name
            else:
                sources.append(path.read_text())
        elif sources and re.fullmatch(r"[\w.]+", name):
            last = name.rpartition(".")[2]
            inside = [path.read_text() for path in (ROOT / room).rglob("*.py")] if room else []
            assert any(re.search(rf"\b{last}\b", source) for source in [*sources, *inside]), name


def test_every_room_is_on_the_page() -> None:
    text = PAGE.read_text()
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [room.name for room in rooms if room.name not in text] == []
