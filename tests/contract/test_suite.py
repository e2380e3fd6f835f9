"""The suite itself: whether it runs what there is, and notices what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.engines import ENGINES, FEATURES

ROOT = Path(__file__).parents[2]


def features_of(name: str) -> set[str]:
    return set[str]().union(*(entry.features for entry in ENGINES if entry.name == name))


def test_an_engine_in_this_process_is_held_to_all_but_what_holds_of_two_handles() -> None:
    assert features_of("memory") == FEATURES - {"handles"}


@pytest.mark.parametrize("name", ["valkey", "redis", "cluster"])
def test_an_engine_on_a_server_is_held_to_all_but_what_an_owner_has(name: str) -> None:
    assert features_of(name) == FEATURES - {"owned", "cancelled_puts"}


def test_an_engine_that_loses_items_fails() -> None:
    tests = ["tests/contract/test_cancellation.py", "-k", "take or put"]
    options = ["-p", "tests.contract.forgetful", "-p", "no:cacheprovider", "--tb=no"]
    command = [sys.executable, "-m", "pytest", "-q", *options, *tests]
    # What this run was told, to measure coverage for instance, is not for that one.
    others = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=ROOT, env=others, capture_output=True, text=True, check=False
    )
    assert "2 failed, 4 passed" in done.stdout.splitlines()[-1], done.stdout
