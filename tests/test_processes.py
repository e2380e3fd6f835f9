"""Handlers in processes: what goes there and comes back, and how they end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import Event, create_task_group, fail_after
from tests import elsewhere
from tests.children import ROOT

from leaseq import (
    DeadLetter,
    Lease,
    LeasedKeyQueue,
    LeasedQueue,
    ProcessDiedError,
    ProcessError,
    QueueClosedError,
    Retry,
    serve,
)
from leaseq._core.process_pool import Processes

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="processes and signals, as POSIX has them"),
]

Queue = LeasedKeyQueue[Any, Any]


@asynccontextmanager
async def timekeeper(queue: LeasedQueue[Any, Any]) -> AsyncIterator[None]:
    async with create_task_group() as tg:
        await tg.start(queue.run)
        yield
        tg.cancel_scope.cancel()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_lease_goes_to_a_process_and_its_result_comes_back() -> None:
    queue = Queue(name="work", default_lease_timeout=30.0)
    for key, value in (("a", {"x": [1, None, 2.5]}), (2, "text"), (b"\x00\xff", True)):
        queue.put_nowait(key, value, tenant="north")
    results: list[tuple[Any, list[Any]]] = []

    async def tell(lease: Lease[Any, Any], result: list[Any]) -> None:
        results.append((lease, result))

    with fail_after(30):
        async with timekeeper(queue):
            await queue.shutdown()
            await serve(queue, elsewhere.describe, run_in="process", on_success=tell)
    assert len(results) == 3
    pids = set()
    for lease, (pid, kind, value, token, deliveries, tenant, name, deadline) in results:
        pids.add(pid)
        assert kind == type(lease.key).__name__
        assert value == lease.value
        assert (token, deliveries, tenant, name) == (lease.token, 1, "north", "work")
        assert deadline > 0
    assert len(pids) == 1  # of the one worker
    assert pids.isdisjoint({os.getpid()})
    assert not is_alive(pids.pop())  # it has ended with the pool


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("value", r"ValueError: bad\x1b[31m value"),
        ("exit", "SystemExit: 3"),
        ("deep", "ExceptionGroup: "),
        ("ack", "RuntimeError: ack: a handler in a process has a lease that can only be read"),
        ("signal", "ProcessDiedError: its process was ended by SIGKILL, maybe for lack of memory"),
        ("crash", "ProcessDiedError: its process was ended by SIGSEGV"),
        ("hard exit", "ProcessDiedError: its process has ended with the exit code 7"),
        ("fork", "ProcessDiedError: its process was ended by SIGKILL, maybe for lack of memory"),
        ("closing", "ProcessDiedError: it has closed the pipe of its process, which was killed"),
        ("generator", "TypeError: the function returned <generator"),
    ],
)
async def test_what_fails_in_a_process_is_a_counted_failure_and_others_go_on(
    value: str, error: str
) -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, Any]] = LeasedKeyQueue()
    queue = Queue(retry=Retry(max_deliveries=2), dead_letters=letters)
    queue.put_many_nowait({"bad": value, "good": "fine"})
    told: list[BaseException] = []

    async def tell(lease: object, error: BaseException) -> None:
        told.append(error)

    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.fail, run_in="process", on_failure=tell)
    assert (await queue.statistics()).acked == 1
    ((_, letter),) = letters.drain_nowait()
    assert (letter.key, letter.deliveries, letter.reason) == ("bad", 2, "max_deliveries")
    assert letter.error.startswith(error)
    assert all(isinstance(each, ProcessError) for each in told)
    if value in ("signal", "crash", "hard exit"):
        assert isinstance(told[0], ProcessDiedError)
        assert told[0].exit_code == {"signal": -9, "crash": -11, "hard exit": 7}[value]
    elif value == "value":
        assert isinstance(told[0], ProcessError)
        assert told[0].kinds[:2] == ("ValueError", "Exception")
        assert "in fail\n" in told[0].traceback


@pytest.mark.parametrize("value", ["closed output", "no output", "full output", "fork without end"])
async def test_what_a_function_does_to_its_process_is_no_failure_of_it(value: str) -> None:
    queue = Queue(retry=Retry(max_deliveries=1))
    queue.put_many_nowait({"odd": value, "good": "fine"})
    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.fail, 1, run_in="process")
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.delivered, statistics.dropped) == (2, 2, 0)


@pytest.mark.parametrize("value", ["closed output", "no output", "closed streams"])
async def test_the_next_function_has_its_streams_again(value: str) -> None:
    queue = Queue(retry=Retry(max_deliveries=1))
    queue.put_many_nowait({"odd": value, "good": "print"})
    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.fail, 1, run_in="process")
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.dropped) == (2, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
async def test_a_process_whose_function_has_failed_is_not_used_again() -> None:
    queue = Queue(retry=Retry(max_deliveries=1))
    queue.put_many_nowait({"odd": "no files", "good": "file"})
    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.fail, 1, run_in="process")
    statistics = await queue.statistics()
    assert (statistics.acked, statistics.dropped) == (1, 1)


async def pid_in(mark: Path) -> int:
    there = anyio.Path(mark)
    while not await there.exists() or not await there.read_text():  # noqa: ASYNC110
        await anyio.sleep(0.02)
    return int(await there.read_text())


async def death_of(pid: int) -> None:
    while is_alive(pid):  # noqa: ASYNC110 - another process
        await anyio.sleep(0.02)


async def test_what_a_function_has_started_is_ended_with_its_process(tmp_path: Path) -> None:
    queue = Queue()
    queue.put_nowait("a", str(tmp_path / "mark"))
    with fail_after(30):
        async with create_task_group() as tg:
            tg.start_soon(partial(serve, queue, elsewhere.start_a_program, run_in="process"))
            pid = await pid_in(tmp_path / "mark")
            tg.cancel_scope.cancel()
        await death_of(pid)


@pytest.mark.only("asyncio")
async def test_processes_end_also_if_their_end_is_cancelled_natively() -> None:
    pids: list[int] = []

    async def run(ready: Event) -> None:
        async with Processes() as processes, create_task_group() as tg:

            async def call() -> None:
                answer, _ = await processes.call("tests.elsewhere:here", {}, b"")
                pids.append(answer["result"])

            for _ in range(3):
                tg.start_soon(call)
            while len(pids) < 3:  # noqa: ASYNC110 - other processes
                await anyio.sleep(0.02)
            ready.set()

    ready = Event()
    with fail_after(30):
        task = asyncio.ensure_future(run(ready))
        await ready.wait()
        for _ in range(60):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        for pid in pids:
            assert not is_alive(pid)


async def test_entries_of_the_path_that_are_no_strings_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere"), b"/nowhere"])
    with fail_after(30):
        async with Processes() as processes:
            _, body = await processes.call("tests.elsewhere:here", {}, b"body")
    assert body == b"body"


async def test_a_process_that_dies_between_two_calls_is_replaced() -> None:
    with fail_after(30):
        async with Processes() as processes:
            first, _ = await processes.call("tests.elsewhere:here", {}, b"")
            os.kill(first["result"], signal.SIGKILL)
            while processes._idle[0]._process.returncode is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
            second, body = await processes.call("tests.elsewhere:here", {}, b"body")
    assert second["result"] != first["result"]
    assert body == b"body"


async def test_a_handler_in_a_process_can_reject() -> None:
    letters: LeasedKeyQueue[str, DeadLetter[str, Any]] = LeasedKeyQueue()
    queue = Queue(dead_letters=letters)
    queue.put_nowait("bad", "reject")
    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.fail, run_in="process")
    ((_, letter),) = letters.drain_nowait()
    assert (letter.reason, letter.deliveries) == ("no good", 1)


@pytest.mark.parametrize("how", ["max_runtime", "cancelled", "grace", "closed", "item cancelled"])
async def test_a_process_that_computes_without_end_is_ended(how: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    queue = Queue(default_lease_timeout=0.5, retry=Retry(max_deliveries=1))
    queue.put_nowait("a", str(mark))
    stop = Event()
    options: dict[str, Any] = {}
    if how == "max_runtime":
        options = {"heartbeat": True, "max_runtime": 4.0}
    elif how == "grace":
        options = {"stop": stop, "grace": 0.0}
    ended: list[float] = []

    async def run() -> None:
        try:
            await serve(queue, elsewhere.spin, 1, run_in="process", **options)
        except QueueClosedError:
            assert how == "closed"
        finally:
            ended.append(time.monotonic())

    with fail_after(30):
        async with timekeeper(queue), create_task_group() as tg:
            if how == "max_runtime":
                await queue.shutdown()
            tg.start_soon(run)
            while not mark.exists():  # noqa: ASYNC110 - another process
                await anyio.sleep(0.02)
            pid = int(mark.read_text())
            began = time.monotonic()
            if how == "cancelled":
                await anyio.sleep(1.0)  # its lease is kept meanwhile
                began = time.monotonic()
                tg.cancel_scope.cancel()
            elif how == "grace":
                stop.set()
            elif how == "closed":
                await queue.close()
            elif how == "item cancelled":
                assert await queue.cancel("a")
                await queue.shutdown()
    assert ended[0] - began < (8 if how == "max_runtime" else 1.5)
    assert not is_alive(pid)
    if how == "closed":
        return
    statistics = await queue.statistics()
    assert statistics.expired == 0
    assert (statistics.released, statistics.given_back, statistics.cancelled) == {
        "max_runtime": (1, 0, 0),
        "item cancelled": (0, 0, 1),
    }.get(how, (0, 1, 0))


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux sees to it")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "function",
    [
        "spin",
        pytest.param("keep_the_interpreter", marks=only_linux),
        pytest.param("start_a_program", marks=only_linux),
    ],
)
def test_a_process_does_not_outlive_the_one_that_has_started_it(
    tmp_path: Path, backend: str, function: str
) -> None:
    mark = tmp_path / "mark"
    program = f"""
import anyio
from leaseq import LeasedKeyQueue, serve
from tests import elsewhere

async def main():
    queue = LeasedKeyQueue()
    queue.put_nowait("a", {str(mark)!r})
    await serve(queue, elsewhere.{function}, run_in="process")

anyio.run(main, backend={backend!r})
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        until = time.monotonic() + 30
        while time.monotonic() < until and not (mark.exists() and mark.read_text()):
            time.sleep(0.02)
        pid = int(mark.read_text())
        process.kill()
        process.wait(10)
    while time.monotonic() < until and is_alive(pid):
        time.sleep(0.02)
    assert not is_alive(pid)


@pytest.mark.parametrize("started_with", ["", "import multiprocessing"])
def test_a_handler_of_the_program_itself_is_found(tmp_path: Path, started_with: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(started_with)
    program = tmp_path / "program.py"
    program.write_text(
        "import anyio\n"
        "from leaseq import LeasedKeyQueue, Retry, serve\n"
        "def work(lease):\n"
        "    return lease.value * 2\n"
        "async def tell(lease, result):\n"
        "    print(result)\n"
        "async def main():\n"
        "    queue = LeasedKeyQueue(retry=Retry(max_deliveries=1))\n"
        "    queue.put_nowait('a', 21)\n"
        "    await queue.shutdown()\n"
        "    await serve(queue, work, run_in='process', on_success=tell)\n"
        "if __name__ == '__main__':\n"
        "    anyio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "42\n"


def local() -> Callable[[object], None]:
    def handler(lease: object) -> None: ...

    return handler


async def asynchronous(lease: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (local(), "must be a function at the top of a module"),
        (lambda lease: None, "must be a function at the top of a module"),
        (print, "must be a function at the top of a module"),
        (asynchronous, "must be an ordinary function"),
    ],
)
async def test_a_handler_that_no_process_can_find_is_refused(handler: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        await serve(Queue(), handler, run_in="process")
    with pytest.raises(ValueError, match="run_in must be"):
        await serve(Queue(), handler, run_in="fork")  # type: ignore[call-overload]


@pytest.mark.parametrize("item", [(("a", 1), 1), ("a", (1, 2)), ("a", object())])
async def test_what_cannot_go_to_a_process_is_a_failure_of_its_item(item: Any) -> None:
    queue = Queue(retry=Retry(max_deliveries=1))
    queue.put_nowait(*item)
    with fail_after(30):
        await queue.shutdown()
        await serve(queue, elsewhere.nothing, run_in="process")
    assert (await queue.statistics()).dropped == 1
