"""Processes that are killed for a minute."""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sqlite.soak import run_soak


@pytest.mark.slow
def test_processes_that_are_killed_all_the_time_lose_nothing(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "leaseq")
    report = run_soak(60.0, pytestconfig.getoption("seed"), tmp_path)
    record_property("soak in a file", str(report))
    assert report.failures == []
    assert report.put > 100
    assert report.faults.total() > 20
    connection = sqlite3.connect(tmp_path / "soak.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
