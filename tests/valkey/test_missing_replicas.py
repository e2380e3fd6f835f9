"""Calls that wait for replicas wait until there are some, on a server that has none as yet."""

from __future__ import annotations

import anyio
import pytest
from anyio import create_task_group, fail_after
from tests.remote.mishaps import eventually
from tests.valkey.conftest import MakeServer

import leaseq

pytestmark = [pytest.mark.anyio, pytest.mark.only("asyncio")]


@pytest.mark.slow
async def test_calls_wait_for_a_replica_that_is_missing_and_lose_nothing(
    make_server: MakeServer,
) -> None:
    primary = make_server("--repl-diskless-sync-delay", "0")
    replica = make_server()
    done: list[str] = []
    url = f"{primary.url}?wait_replicas=1&request_timeout=0.2"
    with fail_after(60):
        async with leaseq.connect(url) as broker, create_task_group() as tg:
            await tg.start(broker.run)

            async def work() -> None:
                queue = await broker.queue("work")
                done.append("queue")
                await queue.put("a", 1)
                done.append("put")
                _, _, lease = await queue.get()
                await lease.ack()
                done.append("ack")

            tg.start_soon(work)
            await anyio.sleep(6.0)  # more than a batch gets whose answer is lost again and again
            assert done == []
            replica.command("REPLICAOF", "127.0.0.1", str(primary.port))
            await eventually(lambda: done == ["queue", "put", "ack"])
            tg.cancel_scope.cancel()
