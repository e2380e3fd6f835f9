"""Real time without its idle parts."""

import time

import anyio
import pytest
from tests.skipping import asking, skipped, skipping_backend


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return skipping_backend(request.param)


def run(main: object, backend: tuple[str, dict[str, object]]) -> None:
    name, options = backend
    anyio.run(main, backend=name, backend_options=options)  # type: ignore[arg-type]


def test_where_nothing_happens_the_clock_skips_to_the_next_timer(
    backend: tuple[str, dict[str, object]],
) -> None:
    async def main() -> None:
        before, started = skipped(), anyio.current_time()
        await anyio.sleep(3600.0)
        assert anyio.current_time() - started == pytest.approx(3600.0, abs=1.0)
        assert skipped() - before == pytest.approx(3600.0, abs=1.0)

    started = time.monotonic()
    run(main, backend)
    assert time.monotonic() - started < 60.0


def test_nothing_is_skipped_while_somebody_asks(backend: tuple[str, dict[str, object]]) -> None:
    async def main() -> None:
        before = skipped()
        async with asking():
            await anyio.sleep(0.1)
        assert skipped() - before == pytest.approx(0.0, abs=0.001)
        await anyio.sleep(0.1)
        assert skipped() - before > 0.01

    run(main, backend)
