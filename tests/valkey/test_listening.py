"""Wake-ups for processes without a `run`: a call that waits listens, whatever it waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio import create_task_group, fail_after
from tests.contract.helpers import until
from tests.remote.mishaps import eventually, rule_out_beats
from tests.servers import Server

import leaseq
from leaseq.valkey import RemoteQueue

pytestmark = pytest.mark.anyio

Queue = RemoteQueue[str, int]

WAITS: dict[str, tuple[Callable[[Queue], Awaitable[object]], str]] = {
    "a put that waits for room": (lambda queue: queue.put("b", 2), "putters"),
    "a join": (lambda queue: queue.join(), ""),
    "a get": (lambda queue: queue.get(), "getters"),
    "a take": (lambda queue: queue.take("c"), "takers"),
}


@pytest.mark.parametrize("beside", ["alone", "beside a join"])
@pytest.mark.parametrize("waits", WAITS)
async def test_a_call_that_waits_is_woken_without_a_run(
    server: Server, waits: str, beside: str
) -> None:
    call, counted = WAITS[waits]
    with fail_after(20):
        async with leaseq.connect(server.url) as here, leaseq.connect(server.url) as there:
            rule_out_beats(here)
            mine = await here.queue("work", max_size=1)
            other = await there.queue("work")
            await other.put("a", 1)
            _, _, lease = await other.get()
            if waits == "a put that waits for room":
                await other.put("x", 1)
            async with create_task_group() as tg:
                if beside != "alone":
                    tg.start_soon(mine.join)
                tg.start_soon(call, mine)
                if counted:
                    await until(mine, **{counted: 1})
                else:
                    await eventually(lambda: bool(mine._engine._joiners))
                await other.ack(lease)
                if waits == "a put that waits for room":
                    await (await other.get())[2].ack()
                if waits in ("a get", "a take"):
                    await other.put("c", 3)
                if beside != "alone" and waits != "a join":
                    await until(mine, getters=0, takers=0, putters=0)
                    tg.cancel_scope.cancel()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_subscription_that_is_lost_comes_back_with_few_connections(
    own_server: Server, busy: bool
) -> None:
    def made() -> int:
        said = own_server.command("INFO", "stats")
        return int(said.partition(b"total_connections_received:")[2].partition(b"\r")[0])

    def subscribed() -> bool:
        return b"sub=1" in own_server.command("CLIENT", "LIST", "TYPE", "pubsub")

    async def produce(queue: Any) -> None:
        number = 0
        while True:
            number += 1
            await queue.put(f"{number % 10}", number)

    with fail_after(20):
        async with leaseq.connect(own_server.url) as broker, create_task_group() as tg:
            empty, full = await broker.queue("empty"), await broker.queue("full")
            tg.start_soon(empty.get)
            if busy:
                tg.start_soon(produce, full)
            await until(empty, getters=1)
            own_server.command("CLIENT", "KILL", "TYPE", "pubsub")
            before = made()
            await eventually(subscribed)
            assert made() - before < 20  # of which most are this test's own
            tg.cancel_scope.cancel()
