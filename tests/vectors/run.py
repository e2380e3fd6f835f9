"""Feeding vectors to an engine."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tests.vectors.driver import Driver, Json, do
from tests.vectors.write import FOLDER

__all__ = ["check_move", "check_plan", "move_names", "plan_names"]


@cache
def _moves() -> dict[str, Any]:
    written = json.loads((FOLDER / "moves.json").read_text(encoding="utf-8"))
    cases = {
        f"{case['queue']}: {case['state']}: {json.dumps(case['events'])}": case
        for case in written["cases"]
    }
    return {**written, "cases": cases}


@cache
def _plans() -> dict[str, Any]:
    files = [FOLDER / name for name in ("turns.json", "due.json")]
    return {
        plan["name"]: plan
        for file in files
        for plan in json.loads(file.read_text(encoding="utf-8"))
    }


def move_names() -> list[str]:
    """Return the names of all cases of a state and an event."""
    return [*_moves()["cases"]]


def plan_names() -> list[str]:
    """Return the names of all sequences."""
    return [*_plans()]


def check_move(driver: Driver, name: str) -> None:
    """Bring a queue to a state, let the event happen, and compare what is there then."""
    written = _moves()
    case = written["cases"][name]
    driver.open(written["queues"][case["queue"]])
    for step in written["states"][case["state"]]:
        do(driver, step)
    answers = [do(driver, step) for step in case["events"]]
    if "outcome" in case:
        assert answers[-1] == case["outcome"]
    there, expected = driver.see("a"), case["then"]
    if "rests" in case:
        assert there is not None
        there, expected = dict(there), dict(expected)
        for time in ("due", "rests_until"):
            longest = expected.pop(time)
            assert longest - 4 <= there.pop(time, longest) <= longest
        assert there.pop("state") in (expected.pop("state"), "ready")
    assert there == expected
    if "rests" not in case:
        assert driver.line() == case["line"]
    assert driver.letters() == case["letters"]
    assert driver.counts() == case["counts"]


def check_plan(driver: Driver, name: str) -> None:
    """Take the steps, and compare what each claim gives."""
    plan: dict[str, Json] = _plans()[name]
    driver.open(plan["queue"])
    claims = []
    for step in plan["steps"]:
        answer = do(driver, step)
        if step[0] == "claim":
            claims.append(answer)
    assert claims == plan["claims"]
    assert driver.letters() == plan["letters"]
