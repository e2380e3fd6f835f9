"""The store's thread: it goes on whatever fails, and says what it left undone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from tests.sqlite.place import QUEUE, put

from leaseq import ServerUnavailableError
from leaseq._remote import protocol as p
from leaseq._sqlite.store import Worker, open_store
from leaseq.sqlite import SqliteUrl

pytestmark = pytest.mark.anyio


def ignore(_event: object) -> None:
    pass


async def test_a_thread_that_cannot_tidy_up_does_the_next_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tidied = threading.Event()

    def tidy(_is_idle: Callable[[], bool]) -> None:
        tidied.set()
        raise OSError("reset")

    worker = Worker(tidy)
    with caplog.at_level(logging.ERROR):
        assert await worker.do(lambda: 1) == 1
        assert tidied.wait(5)
        assert await worker.do(lambda: 2) == 2
        worker.end()
        worker._thread.join(5)
    assert "the file was not tidied up" in caplog.text
    assert "reset" in caplog.text


async def test_a_job_that_raises_raises_for_its_task_alone() -> None:
    worker = Worker(ignore)

    def fail() -> None:
        raise KeyError("one")

    with pytest.raises(KeyError, match="one"):
        await worker.do(fail)
    assert await worker.do(lambda: 2) == 2
    worker.end()


async def test_a_batch_that_is_under_way_when_the_store_is_closed_is_in_doubt(
    tmp_path: Path,
) -> None:
    store = await open_store(SqliteUrl(tmp_path / "q.db"), "process", ignore)
    begun, may_go_on, do = threading.Event(), threading.Event(), store.file.do

    def do_later(batch: p.Batch) -> object:
        begun.set()
        assert may_go_on.wait(5)
        return do(batch)

    store.file.do = do_later  # type: ignore[method-assign,assignment]
    caught: list[ServerUnavailableError] = []

    async def exchange() -> None:
        with pytest.raises(ServerUnavailableError, match="the store was closed") as error:
            await store.exchange(p.Batch(1, (p.Declare(QUEUE, {}), put("item"))))
        caught.append(error.value)

    with fail_after(5):
        async with create_task_group() as tg:
            tg.start_soon(exchange)
            while not begun.is_set():
                await checkpoint()
            tg.start_soon(store.close)
            while not store._closed:
                await checkpoint()
            may_go_on.set()
    assert caught[0].in_doubt
    with pytest.raises(ServerUnavailableError, match="the store is closed") as error:
        await store.exchange(p.Batch(2, (put("item"),)))
    assert not error.value.in_doubt
    await store.close()
