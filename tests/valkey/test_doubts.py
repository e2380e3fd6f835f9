"""Whoever asks is told what became of it, and no more than is known: done, not done, or perhaps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked
from tests.remote.mishaps import eventually
from tests.servers import Server, binary
from tests.valkey.conftest import MakeServer
from tests.valkey.test_client import SECRET, refused
from tests.valkey.wire import Fault, Wire

import leaseq
from leaseq import PutOutcome, Retry
from leaseq._core.errors import QueueClosedError, ServerError, ServerUnavailableError
from leaseq._valkey.server_errors import error_of
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def ada(server: Server, wire: Wire) -> AsyncIterator[ValkeyBroker]:
    """The broker of a user who may do anything so far, behind a wire."""
    server.command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all")
    async with wire.listening() as url:
        parsed = ValkeyUrl.parse(url.replace("://", f"://ada:{SECRET}@"))
        async with ValkeyBroker(parsed, patience=1.0) as broker:
            yield broker


async def forbid(server: Server, wire: Wire) -> None:
    """Once the fault has happened, let her run no scripts, and mend the wire."""
    await eventually(lambda: bool(wire.happened))
    server.command("ACL", "SETUSER", "ada", "-evalsha", "-fcall")
    wire.mend()


async def test_a_put_that_was_done_and_then_forbidden_is_in_doubt(own_server: Server) -> None:
    wire = Wire(own_server)
    with fail_after(20):
        async with ada(own_server, wire) as broker, create_task_group() as tg:
            queue = await broker.queue("work")
            await queue.put("first", 1)  # the server has the script now
            wire.plan(Fault(b"put", "reply", 0.0, "end"))
            tg.start_soon(forbid, own_server, wire)
            with pytest.raises(ServerUnavailableError, match=r"\+evalsha") as caught:
                await queue.put("a", 1)
            assert caught.value.in_doubt
            own_server.command("ACL", "SETUSER", "ada", "+evalsha", "+fcall")
            assert await queue.put("b", 1) is PutOutcome.ADDED  # it is in nobody's way
            assert await queue.available_keys() == {"first", "a", "b"}


@pytest.mark.usefixtures("skipping")
async def test_who_may_not_lease_any_more_complains_once_and_waits(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with fail_after(20):
        async with ada(own_server, Wire(own_server)) as broker, create_task_group() as tg:
            queue = await broker.queue("work")
            await queue.put("a", 1)
            own_server.command("ACL", "SETUSER", "ada", "-zpopmin")
            await tg.start(broker.run)

            async def allow() -> None:
                await anyio.sleep(4.5)  # two beats at least
                own_server.command("ACL", "SETUSER", "ada", "+zpopmin")

            tg.start_soon(allow)
            _, _, lease = await queue.get()
            await lease.ack()
            tg.cancel_scope.cancel()
    complaints = [each for each in caplog.messages if "nothing can be claimed" in each]
    assert len(complaints) == 1
    assert "+zpopmin" in complaints[0]


async def test_a_put_under_way_when_its_broker_is_closed_is_in_doubt(shared_server: Server) -> None:
    wire = Wire(shared_server)
    with fail_after(20):
        async with wire.listening("?prefix=closing") as url, create_task_group() as tg:
            broker = leaseq.connect(url)
            queue = await broker.queue("work")
            wire.plan(Fault(b"put", "reply", 0.0, "stall"))
            errors: list[ServerUnavailableError] = []

            async def put() -> None:
                with pytest.raises(ServerUnavailableError, match="was closed before") as caught:
                    await queue.put("a", 1)
                errors.append(caught.value)

            tg.start_soon(put)
            await eventually(lambda: bool(wire.happened))
            await broker.close()
            await eventually(lambda: bool(errors))
            assert errors[0].in_doubt


async def test_a_broker_that_is_closed_while_it_is_opened_opens_no_more(
    shared_server: Server,
) -> None:
    wire = Wire(shared_server)
    with fail_after(8):
        async with wire.listening() as url, create_task_group() as tg:
            broker = leaseq.connect(url)
            wire.plan(Fault(b"hello", "reply", 0.0, "stall"))

            async def close() -> None:
                await eventually(lambda: bool(wire.happened))
                await broker.close()

            tg.start_soon(close)
            with pytest.raises(QueueClosedError):
                await broker.queue("work")


async def test_an_old_list_of_queues_takes_no_dead_letters_away(server: Server) -> None:
    async with leaseq.connect(server.url) as broker:
        await broker.queue("work")
        old = await broker._stored()
        assert old["work"] == ""
        await broker.delete_queue("work")
        queue, dead = await broker.create_queue_pair("work", retry=Retry(max_deliveries=1))
        letters = broker._handles.ref("work", old["work"]).letters
        assert letters is not None
        assert letters.name == dead.name
        await queue.put("a", 1)
        await (await queue.get())[2].reject("bad")
        assert await dead.qsize() == 1


async def test_a_redrive_that_fails_half_way_says_what_it_has_done(own_server: Server) -> None:
    async with leaseq.connect(own_server.url) as broker:
        queue, dead = await broker.create_queue_pair("work")
        for lot in range(3):
            await queue.put_many([(f"{lot}-{number}", 0) for number in range(400)])
        for _ in range(3):
            async with create_task_group() as tg:
                for lease in await queue.get_batch(400):
                    tg.start_soon(lease.reject, "bad")
        assert await dead.qsize() == 1200
        perform = queue._engine.perform
        steps = 0

        async def fill(*words: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == 2:
                own_server.command("CONFIG", "SET", "min-replicas-to-write", "1")
            return await perform(*words)

        queue._engine.perform = fill  # type: ignore[method-assign]
        with pytest.raises(ServerUnavailableError, match=r"^200 dead letters were") as caught:
            await queue.redrive()
        assert caught.value.in_doubt
        assert isinstance(caught.value.__cause__, ServerError)


async def test_who_opens_a_broker_and_is_cancelled_spoils_it_for_nobody(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaseq._remote.dispatcher._GRACE", 0.1)
    wire = Wire(shared_server)
    with fail_after(20):
        async with wire.listening("?prefix=opening") as url, create_task_group() as tg:
            broker = leaseq.connect(url)
            wire.plan(Fault(b"hello", "reply", 0.0, "stall"))
            given_up, has_left = anyio.CancelScope(), anyio.Event()

            async def first() -> None:
                with given_up:
                    await broker.queue("a")
                has_left.set()

            tg.start_soon(first)
            await eventually(lambda: bool(wire.happened))
            async with create_task_group() as others:
                others.start_soon(broker.queue, "b")
                await wait_all_tasks_blocked()
                given_up.cancel()
                await has_left.wait()  # it waits no longer for what was sent
                wire.mend()
            assert [info.name for info in await broker.list_queues()] == ["b"]
            await broker.close()


@pytest.mark.only("asyncio")
async def test_a_close_that_is_cancelled_natively_hangs_up_all_the_same(own_server: Server) -> None:
    broker = leaseq.connect(own_server.url)
    queue = await broker.queue("work")
    await queue.put("a", 1)
    await queue.get()
    with own_server.frozen():
        closing = asyncio.create_task(broker.close())
        await asyncio.sleep(0.2)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    await eventually(lambda: b"name=" not in others(own_server))


def others(server: Server) -> bytes:
    """Who is connected, but for whoever asks."""
    lines = server.command("CLIENT", "LIST").splitlines()
    return b"\n".join(line for line in lines if b"cmd=client" not in line)


async def test_a_server_that_does_not_confirm_a_subscription_is_no_matter_of_rights(
    shared_server: Server,
) -> None:
    wire = Wire(shared_server)
    async with wire.listening("?connect_timeout=0.5") as url:
        wire.plan(Fault(b"SUBSCRIBE", "request", 0.0, "delay", seconds=1.0))
        assert "has not confirmed a subscription for 0.5 s" in await refused(url)


def test_what_a_server_echoes_is_not_told() -> None:
    said = f"ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'ada' '{SECRET}'"
    told = str(error_of(said, "localhost:6379"))
    assert "'HELLO'" in told
    assert SECRET not in told


@pytest.mark.only("trio")
async def test_a_server_that_does_not_know_hello_is_told_as_such(
    tmp_path: Path,
) -> None:
    with Server(binary("redis"), tmp_path, "--rename-command", "HELLO", "") as server:
        said = await refused(f"valkey://ada:{SECRET}@127.0.0.1:{server.port}?connect_timeout=1")
    assert "does not know HELLO" in said


# Where nothing can be written


@pytest.mark.usefixtures("skipping")
@pytest.mark.parametrize(
    "how",
    [
        ("CONFIG", "SET", "maxmemory", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("REPLICAOF", "127.0.0.1", "1"),
    ],
    ids=["full", "without replicas", "a replica"],
)
async def test_who_waits_where_nothing_can_be_written_does_not_ask_without_end(
    own_server: Server, how: tuple[str, ...]
) -> None:
    async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
        queue = await broker.queue("work")
        own_server.command(*how)
        await tg.start(broker.run)
        tg.start_soon(queue.get)
        await anyio.sleep(0.5)
        before = calls(own_server)
        await anyio.sleep(1.0)
        assert calls(own_server) - before <= 10
        tg.cancel_scope.cancel()


def calls(server: Server) -> int:
    """How many scripts it has run."""
    said = server.command("INFO", "commandstats")
    return sum(int(each) for each in re.findall(rb"cmdstat_(?:evalsha|fcall):calls=(\d+)", said))


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True], ids=["puts", "waits"])
async def test_a_server_that_has_become_a_replica_is_left_for_its_successor(
    make_server: MakeServer, waits: bool
) -> None:
    old, new = (make_server("--repl-diskless-sync-delay", "0") for _ in range(2))
    wire = Wire(old)
    new.command("REPLICAOF", "127.0.0.1", str(old.port))
    with fail_after(30):
        async with wire.listening() as url, leaseq.connect(url) as broker:
            queue = await broker.queue("work")
            await queue.put("a", 1)
            async with create_task_group() as tg:
                await tg.start(broker.run)
                await eventually(lambda: b"offset" in new.command("INFO", "replication"))
                await eventually(lambda: b"link_status:up" in new.command("INFO", "replication"))
                assert (await queue.get())[0] == "a"
                new.command("REPLICAOF", "NO", "ONE")
                old.command("REPLICAOF", "127.0.0.1", "1")  # and never hears of its successor
                wire.lead_to(new)
                if waits:
                    new_url = f"valkey://127.0.0.1:{new.port}/0"
                    async with leaseq.connect(new_url) as other:
                        await (await other.queue("work")).put("b", 2)
                else:
                    await queue.put("b", 2)
                assert (await queue.get())[0] == "b"
                tg.cancel_scope.cancel()


def test_a_name_without_a_password_is_nobody_elses() -> None:
    with pytest.raises(ValueError, match="a user without a password"):
        leaseq.connect("valkey://ada@localhost")
