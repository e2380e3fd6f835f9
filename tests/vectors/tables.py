"""The table of moves, as it stands in the ledger's theory of operation and in the documentation."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from leaseq._rules.moves import MOVES, Move

__all__ = ["DOCUMENTED", "LEDGER", "with_table", "with_told_table"]

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "src/leaseq/_rules/ledger.py"
DOCUMENTED = ROOT / "docs/explanation.md"

WIDTHS = (8, 30, 8, 44)
RULE = "    " + "  ".join("=" * width for width in WIDTHS)
HEAD = "| what happens | where the item goes | is the delivery counted? |"


def table() -> list[str]:
    """Return the lines of the whole table, as the ledger has it."""
    rows = [("from", "by", "to", "and"), *map(_cells, MOVES.values())]
    head, *body = [line for row in rows for line in _lines(row)]
    return [RULE, head, RULE, *body, RULE]


def _cells(move: Move) -> tuple[str, str, str, str]:
    state = "any" if move.state == "waiting, leased" else move.state
    by = f"{move.event}, {move.when}" if move.when else move.event
    places = {"front": "at the front", "back": "at the back", "old": "at its old place", None: ""}
    place = "" if "at " in move.note else places[move.place]
    return state, by, move.to, "; ".join(filter(None, [place, move.note]))


def _lines(cells: tuple[str, ...]) -> list[str]:
    columns = [wrap(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return [
        "    "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, WIDTHS, strict=True)).rstrip()
        for line in zip_longest(*columns, fillvalue="")
    ]


def told_table() -> list[str]:
    """Return the lines of the table for readers, of what happens to a lease."""
    rows = [HEAD, "| --- | --- | --- |"]
    for move in MOVES.values():
        if move.told:
            counted = "yes" if move.counted else "no"
            rows.append(f"| {move.told} | {_goes(move)} | {counted} |")
    return rows


def _goes(move: Move) -> str:
    if move.to == "delayed":
        return "to rest, and then to the back"
    if "retry policy" in move.note:
        return "the back of the line, or as the retry policy says"
    return {"old": "its old place", "front": "the front"}.get(
        str(move.place), "the back of the line"
    )


def with_table(text: str) -> str:
    """Return the ledger's source with the table that the moves make."""
    lines = text.split("\n")
    rules = [number for number, line in enumerate(lines) if line.startswith("    ========  ")]
    return "\n".join([*lines[: rules[0]], *table(), *lines[rules[-1] + 1 :]])


def with_told_table(text: str) -> str:
    """Return the page with the table that the moves make."""
    lines = text.split("\n")
    first = lines.index(HEAD)
    after = next(n for n in range(first, len(lines)) if not lines[n].startswith("|"))
    return "\n".join([*lines[:first], *told_table(), *lines[after:]])
