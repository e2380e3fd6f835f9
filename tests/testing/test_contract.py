"""The contract suite, in the hands of somebody with an engine of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from leaseq.testing import contract

LOSING_ENGINE = """

class ForgetfulQueue(LeasedKeyQueue):
    def _withdraw(self, waiter):
        if waiter.item is None:
            self._waiters.drop(waiter)


class Forgetful(Memory):
    async def queue(self, **options):
        return ForgetfulQueue(**options)


class TestForgetful(contract.Contract):
    @pytest.fixture
    def engine(self):
        return Forgetful()
"""


def run(directory: Path, code: str, *options: str) -> str:
    """Run a test module in a pytest of its own, and give its last line."""
    (directory / "test_engine.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *options]
    # What this run was told, to measure coverage for instance, is not for that one.
    others = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=directory, env=others, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()[-1]


def example() -> str:
    assert contract.__doc__ is not None
    _, _, rest = contract.__doc__.partition("::\n")
    code, _, _ = rest.partition("\nAn engine whose time")
    return textwrap.dedent(code)


def test_the_documented_example_runs(tmp_path: Path) -> None:
    outcome = run(tmp_path, example(), "-k", "test_a_new_key_is_added or expires")
    assert "passed" in outcome
    assert "failed" not in outcome
    assert "error" not in outcome


def test_an_engine_that_loses_items_fails(tmp_path: Path) -> None:
    code = example() + LOSING_ENGINE
    outcome = run(tmp_path, code, "-k", "TestForgetful and test_a_cancelled_take_loses_nothing")
    assert "2 failed" in outcome
