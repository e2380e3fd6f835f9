"""A real process, which real signals stop: nothing is lost, and what was not finished is ready."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, as POSIX has them")

PROGRAM = """
import json, sys
import anyio
from leaseq import LeasedKeyQueue, serve, stop_on_signals

KEYS = [str(number) for number in range(20)]

async def handle(lease):
    print("working", flush=True)
    if lease.value == "quick":
        await anyio.sleep(0.05)
    else:
        await anyio.sleep_forever()

async def main():
    stop = anyio.Event()
    async with anyio.create_task_group() as tg, LeasedKeyQueue(default_lease_timeout=30) as queue:
        await tg.start(queue.run)
        await tg.start(stop_on_signals, stop)
        await queue.put_many((key, "slow" if key == "1" else "quick") for key in KEYS)
        await serve(queue, handle, 2, stop=stop, grace=float(sys.argv[2]))
        statistics = await queue.statistics()
        ready = await queue.available_keys()
        _, _, first = await queue.take("1", timeout=0)
        tg.cancel_scope.cancel()
    left = [key for key, _ in queue.drain_nowait()]
    print(json.dumps({
        "acked": statistics.acked,
        "leased": statistics.leased,
        "given_back": statistics.given_back,
        "ready": sorted(ready, key=int),
        "left": left,
        "deliveries": first.deliveries,
    }))

anyio.run(main, backend=sys.argv[1])
"""


@pytest.fixture(params=["asyncio", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def program(library: str, grace: float) -> Iterator["subprocess.Popen[str]"]:
    """The pool in a process of its own, whose two workers are at work."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, library, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):
                assert process.stdout.readline() == "working\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_pool_and_nothing_is_lost(library: str, number: signal.Signals) -> None:
    with program(library, grace=0.3) as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    told = json.loads(output.splitlines()[-1])
    assert told["leased"] == 0
    assert told["acked"] >= 1  # the quick one had the time to finish
    assert told["given_back"] == 1  # the slow one had not
    assert told["deliveries"] == 1  # and that does not count
    assert told["acked"] + len(told["ready"]) == 20
    assert sorted(told["left"]) == sorted(told["ready"])


def test_the_second_signal_ends_the_program_at_once(library: str) -> None:
    with program(library, grace=3600) as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
