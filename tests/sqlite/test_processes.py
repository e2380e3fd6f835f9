"""Processes that share a file: how they wake each other, and what those leave that are killed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests import children
from tests.children import Child
from tests.contract.helpers import until
from tests.remote.killed import (
    check_cancels_are_whole_when_their_caller_is_killed,
    check_what_a_killed_process_held_is_done,
    check_what_is_cancelled_stays_cancelled,
)
from tests.remote.mishaps import eventually
from tests.sqlite.engine import store_of
from tests.valkey.processes import LEASE

import leaseq
from leaseq import LeaseLostError
from leaseq._remote import protocol as p
from leaseq._sqlite import hints
from leaseq._sqlite.store import open_store
from leaseq.sqlite import SqliteBroker, SqliteUrl

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parents[1] / "valkey" / "processes.py"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'queues.db'}?synchronous=normal"


def start(what: str, url: str, *options: str) -> AbstractAsyncContextManager[Child]:
    """Run one of the programs of `processes`, in a process of its own."""
    return children.start(str(PROGRAM), what, url, *options)


@pytest.fixture
async def broker(url: str) -> AsyncIterator[SqliteBroker]:
    """A broker with its run."""
    async with SqliteBroker(SqliteUrl.parse(url)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        yield broker
        tg.cancel_scope.cancel()


async def test_an_item_wakes_a_consumer_in_another_process(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    async with start("consume", url, "--backend", anyio_backend_name) as consumer:
        await consumer.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.2)  # it is parked
        for number in range(5):
            await anyio.sleep(0.05)
            started = anyio.current_time()
            await queue.put(f"item-{number}", None)
            with fail_after(0.9):  # less than the beat of those who look for themselves
                await queue.join()
            assert anyio.current_time() - started < 0.9
        await consumer.until(lambda lines: len(lines) == 6)


async def test_what_a_killed_process_held_is_done_by_another(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    await check_what_a_killed_process_held_is_done(broker, url, anyio_backend_name)


async def test_what_is_cancelled_stays_cancelled_when_its_holder_is_killed(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    await check_what_is_cancelled_stays_cancelled(broker, url, anyio_backend_name)


async def test_a_process_that_is_killed_while_it_cancels_has_cancelled_each_key_or_not(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    await check_cancels_are_whole_when_their_caller_is_killed(broker, url, anyio_backend_name)


async def test_a_wake_up_is_not_spent_on_a_process_that_was_killed(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    async with start("consume", url) as dead, start("consume", url) as alive:
        await dead.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.3)
        dead.kill()
        await dead.ended()
        await alive.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.3)
        for number in range(4):
            await queue.put(f"item-{number}", None)
        with fail_after(0.9):
            await queue.join()


async def test_a_frozen_process_does_not_keep_an_item_from_others(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    async with start("consume", url, "--backend", anyio_backend_name) as frozen:
        await frozen.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.3)
        frozen.freeze()
        await queue.put("item", None)
        with fail_after(5):
            _, _, lease = await queue.get()
        await queue.ack(lease)
        frozen.thaw()


@pytest.mark.slow
async def test_a_process_that_was_frozen_past_its_lease_has_lost_it(
    broker: SqliteBroker, url: str, anyio_backend_name: str
) -> None:
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    await queue.put_many([("a", None), ("b", None)])
    async with start("hang", url, "--backend", anyio_backend_name) as holder:
        await holder.until(lambda lines: any(line[0] == "begun" for line in lines))
        await until(queue, leased=2)
        holder.freeze()
        tokens = {}
        with fail_after(LEASE + 5):
            for _ in range(2):
                key, _, lease = await queue.get(lease_timeout=30)
                tokens[key] = lease.token
                await queue.ack(lease)
        holder.thaw()
        await holder.until(lambda lines: ["done"] in lines)
    lost = {line[1]: line[2] for line in holder.lines if line[0] in ("lost", "late")}
    assert lost.keys() == tokens.keys()
    assert all(tokens[key] > lost[key] for key in tokens)


async def test_a_lease_that_another_process_takes_away_ends_its_body(
    broker: SqliteBroker, url: str
) -> None:
    queue = await broker.queue("work")
    await queue.put("item", None)
    async with leaseq.connect(url) as operator:
        seen = await operator.queue("work")
        with pytest.raises(LeaseLostError):
            async with queue.lease(consumer="worker"):
                assert await seen.release_all(consumer="worker") == 1
                with fail_after(0.9):
                    await anyio.sleep_forever()


async def test_a_deleted_queue_ends_the_waits_of_other_processes(
    broker: SqliteBroker, url: str
) -> None:
    queue = await broker.queue("work")
    ended: list[str] = []

    async def wait() -> None:
        with pytest.raises(leaseq.QueueClosedError):
            await queue.get()
        ended.append("get")

    async with create_task_group() as tg, leaseq.connect(url) as operator:
        tg.start_soon(wait)
        await until(queue, getters=1)
        await anyio.sleep(0.1)
        await operator.delete_queue("work")
        await eventually(lambda: bool(ended), within=0.9)


async def test_a_process_that_ends_well_leaves_nothing_of_itself(
    tmp_path: Path, url: str, broker: SqliteBroker
) -> None:
    queue = await broker.queue("work")
    async with leaseq.connect(url) as other, create_task_group() as tg:
        await tg.start(other.run)
        theirs = await other.queue("work")
        tg.start_soon(theirs.get)
        await until(theirs, getters=1)
        await anyio.sleep(0.1)
        assert await rows(broker, "leaseq_parks") == 1
        assert await rows(broker, "leaseq_processes") == 2
        tg.cancel_scope.cancel()
    assert await rows(broker, "leaseq_parks") == 0
    assert await rows(broker, "leaseq_processes") == 1
    await queue.put("item", None)


async def test_what_a_killed_process_leaves_is_swept(
    url: str, broker: SqliteBroker, anyio_backend_name: str
) -> None:
    queue = await broker.queue("work", default_lease_timeout=LEASE)
    async with start("consume", url, "--backend", anyio_backend_name) as consumer:
        await consumer.until(lambda lines: ["ready"] in lines)
        await anyio.sleep(0.3)
        consumer.kill()
        await consumer.ended()
    assert await rows(broker, "leaseq_parks") == 1
    store = store_of(broker)
    store.file.offset += 61
    store.file._swept_at = 0.0
    await queue.put("item", None, delay=60)
    for _ in range(1000):
        if not await rows(broker, "leaseq_parks"):
            break
        await anyio.sleep(0.005)
    assert await rows(broker, "leaseq_parks") == 0
    assert await rows(broker, "leaseq_processes") == 1


async def test_where_there_are_no_hints_a_process_looks_for_itself(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints.sys, "platform", "win32")
    async with leaseq.connect(url) as one, leaseq.connect(url) as other, create_task_group() as tg:
        for each in (one, other):
            await tg.start(each.run)
        theirs, mine = await one.queue("work"), await other.queue("work")
        tg.start_soon(one_item, theirs)
        await until(theirs, getters=1)
        await anyio.sleep(0.1)
        await mine.put("item", None)
        with fail_after(5):
            await mine.join()
        tg.cancel_scope.cancel()


async def one_item(queue: Any) -> None:
    _, _, lease = await queue.get()
    await queue.ack(lease)


async def test_hints_that_mean_nothing_are_ignored(
    broker: SqliteBroker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await broker.queue("work")
    voice = hints.Voice()
    address = store_of(broker)._ear.address
    for hint in (
        b"",
        b"\xff",
        b"work\0",
        b"work\0l\0x",
        b"nothing\0a",
        b"work\0a",
        b"work\0x"[:-1],
    ):
        voice.send(address, hint)
    assert voice.is_heard(address)
    voice.close()
    voice.close()
    await anyio.sleep(0.05)
    await queue.put("item", None)
    assert await queue.qsize() == 1
    assert "a hint is ignored" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
async def test_a_forked_child_is_told_to_make_a_broker_of_its_own(broker: SqliteBroker) -> None:
    store = store_of(broker)
    store._pid += 1
    with pytest.raises(RuntimeError, match="make another one here"):
        await store.exchange(p.Batch(1, (p.ListQueues(p.QueueRef("")),)))
    store._pid -= 1


async def test_a_store_that_was_closed_does_nothing_more(url: str) -> None:
    store = await open_store(SqliteUrl.parse(url), "a", lambda _: None)
    await store.close()
    await store.close()
    with pytest.raises(leaseq.ServerUnavailableError):
        await store.exchange(p.Batch(1, (p.ListQueues(p.QueueRef("")),)))


async def rows(broker: SqliteBroker, table: str) -> Any:
    """The number of rows in a table, read between two batches."""
    store = store_of(broker)

    def count() -> Any:
        return store.file._cursor.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    return await store._worker.do(count)
