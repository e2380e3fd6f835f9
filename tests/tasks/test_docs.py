"""What a page says of any engine, it says of a server too."""

import re
from typing import Any

import anyio
import pytest
from pages import ROOT, blocks, execute
from tests.servers import Server

PAGE = ROOT / "docs" / "how-to" / "coming-from-fairqueue.md"
TIME = re.compile(r"\d+\.\d\d s\b")


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_the_page_for_those_who_come_from_fairqueue_runs_on_a_server(
    library: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs: list[object] = []
    run = anyio.run

    def run_here(main: Any) -> None:
        runs.append(main)
        run(main, backend=library)

    monkeypatch.setattr(anyio, "run", run_here)
    server.command("FLUSHALL")
    server.command("CONFIG", "RESETSTAT")
    namespace: dict[str, Any] = {"__name__": "docs"}
    for code, expected in blocks(PAGE, library):
        execute(code, str(PAGE), namespace, runs)
        namespace["URL"] = server.url  # from the first block on, which says another one
        printed = capsys.readouterr().out
        assert expected is None or TIME.sub("?", printed) == TIME.sub("?", expected)
    assert b"cmdstat_fcall" in server.command("INFO", "commandstats")
