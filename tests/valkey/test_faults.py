"""Servers that are gone, cut off, full, spoiled or emptied, and what their users are told."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, move_on_after
from tests.contract.helpers import in_line
from tests.remote.mishaps import dispatcher_of, eventually
from tests.servers import Server
from tests.valkey.engine import store_of
from tests.valkey.wire import Wire

import leaseq
from leaseq import LeasedQueue, QueueClosedError
from leaseq._core.errors import LeaseqError, ServerError
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio

SOON = 8.0
"""Seconds within which whatever gives up has to, on however busy a machine."""


@pytest.fixture(autouse=True)
def short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon what is cancelled or closed."""
    monkeypatch.setattr("leaseq._remote.dispatcher._GRACE", 0.2)
    monkeypatch.setattr("leaseq._remote.dispatcher._CLOSING", 0.2)


def broker_on(url: str) -> ValkeyBroker:
    return ValkeyBroker(ValkeyUrl.parse(url))


class Outcomes(dict[str, object]):
    """What became of operations, by name: what they returned, or the error that they raised."""

    async def of(self, name: str, operation: Awaitable[object]) -> None:
        try:
            self[name] = await operation
        except Exception as error:
            self[name] = error


# Cut off


async def test_the_body_of_who_is_cut_off_ends_before_another_has_its_item(
    own_server: Server,
) -> None:
    wire = Wire(own_server)
    begun: list[float] = []
    ended: list[float] = []
    with fail_after(30):
        async with (
            wire.listening() as url,
            broker_on(url) as cut_off,
            broker_on(own_server.url) as other,
            create_task_group() as tg,
        ):
            await tg.start(cut_off.run)
            await tg.start(other.run)
            queue = await cut_off.queue("work", default_lease_timeout=1.0)
            await queue.put("a", 1)

            async def consume() -> None:
                with pytest.raises(leaseq.LeaseLostError):
                    async with queue.lease():
                        begun.append(time.monotonic())
                        try:
                            await anyio.sleep_forever()
                        finally:
                            ended.append(time.monotonic())

            async def ask() -> None:
                await queue.qsize()

            async with create_task_group() as consuming:
                consuming.start_soon(consume)
                await eventually(lambda: bool(begun))
                wire.stall()
                tg.start_soon(ask)  # a call is under way all the time
                key, _, _ = await (await other.queue("work")).get()
                assert key == "a"
                assert ended  # before this
            assert ended[0] - begun[0] < SOON
            wire.mend()
            tg.cancel_scope.cancel()


# Gone


async def test_the_users_own_error_is_not_masked_when_the_server_is_gone(
    own_server: Server,
) -> None:
    with fail_after(SOON), pytest.raises(KeyError, match="the user's"):
        async with broker_on(own_server.url) as broker:
            queues = [await broker.queue(f"work-{number}") for number in range(3)]
            own_server.kill()
            raise KeyError("the user's")
    assert all(queue.closed for queue in queues)


async def test_a_run_ends_when_its_broker_is_closed_though_the_server_is_gone(
    own_server: Server,
) -> None:
    outcomes = Outcomes()
    with fail_after(SOON):
        async with create_task_group() as tg:
            broker = broker_on(own_server.url)
            await broker.__aenter__()
            await tg.start(broker.run)
            queue = await broker.queue("work")
            own_server.kill()
            tg.start_soon(outcomes.of, "put", queue.put("a", 1))
            await eventually(lambda: dispatcher_of(broker)._unfinished is not None)
            await broker.close()
            await broker.close()
    assert isinstance(outcomes["put"], LeaseqError)


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_what_is_cancelled_comes_back_soon_when_the_server_is_gone(
    own_server: Server, runs: bool
) -> None:
    names: list[str] = []
    with fail_after(3 * SOON):
        async with broker_on(own_server.url) as broker, create_task_group() as tg:
            if runs:
                await tg.start(broker.run)
            queue = await broker.queue("work")
            await queue.put("a", 1)
            _, _, lease = await queue.get()
            own_server.kill()

            async def attempt(name: str, operation: Awaitable[object]) -> None:
                with move_on_after(0.1):
                    await operation
                names.append(name)

            started = time.monotonic()
            async with create_task_group() as attempts:
                attempts.start_soon(attempt, "put", queue.put("b", 1))
                attempts.start_soon(attempt, "ack", queue.ack(lease))
                attempts.start_soon(attempt, "qsize", queue.qsize())
                attempts.start_soon(attempt, "get", queue.get(timeout=0))
            assert time.monotonic() - started < SOON
            assert sorted(names) == ["ack", "get", "put", "qsize"]
            tg.cancel_scope.cancel()


# Full


async def test_a_full_server_takes_nothing_new_and_lets_what_is_there_be_done(
    own_server: Server,
) -> None:
    outcomes = Outcomes()
    with fail_after(30):
        async with broker_on(own_server.url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            empty = await broker.queue("empty")
            await queue.put_many([(str(number), 1) for number in range(5)])
            one, two, three = await queue.get_batch(3)
            own_server.command("CONFIG", "SET", "maxmemory", "1")
            tg.start_soon(outcomes.of, "waiting", empty.get())
            with pytest.raises(ServerError, match="OOM") as caught:
                await queue.put("more", 1)
            assert caught.value.code == "OOM"
            assert await queue.qsize() == 2
            assert (await queue.statistics()).leased == 3
            key, _, four = await queue.get()
            assert key == "3"
            async with create_task_group() as together:
                together.start_soon(outcomes.of, "put", queue.put("1", 2))
                together.start_soon(outcomes.of, "ack", queue.ack(one))
                together.start_soon(outcomes.of, "release", queue.release(two))
                together.start_soon(outcomes.of, "release too", queue.release(four))
            assert isinstance(outcomes.pop("put"), ServerError)
            assert outcomes == {"ack": False, "release": None, "release too": None}
            await queue.extend(three, None)
            await queue.ack(three)
            assert "waiting" not in outcomes
            own_server.command("CONFIG", "SET", "maxmemory", "0")
            await empty.put("late", 1)
            await eventually(lambda: "waiting" in outcomes)
            assert isinstance(outcomes["waiting"], tuple)
            assert sorted(await in_line(queue)) == ["1", "3", "4"]
            tg.cancel_scope.cancel()


def items_key(broker: ValkeyBroker, queue: LeasedQueue[Any, Any]) -> str:
    """The server's key of a queue's items."""
    [items] = [key for key in store_of(broker)._keys_of(queue.name) if key.endswith("/items")]
    return items


# Spoiled


async def test_an_operation_that_fails_spoils_nothing_else_of_the_same_call(
    own_server: Server,
) -> None:
    outcomes = Outcomes()
    with fail_after(30):
        async with broker_on(own_server.url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            spoiled = await broker.queue("spoiled")
            await queue.put("held", 1)
            _, _, lease = await queue.get()
            items = items_key(broker, spoiled)
            own_server.command("SET", items, "x")
            async with create_task_group() as together:
                together.start_soon(outcomes.of, "put", queue.put("a", 1))
                together.start_soon(outcomes.of, "bad", spoiled.put("b", 1))
                together.start_soon(outcomes.of, "ack", queue.ack(lease))
            assert isinstance(outcomes.pop("bad"), ServerError)
            assert outcomes == {"put": leaseq.PutOutcome.ADDED, "ack": False}
            statistics = await queue.statistics()
            assert (statistics.ready, statistics.leased, statistics.acked) == (1, 0, 1)
            assert await in_line(queue) == ["a"]
            tg.cancel_scope.cancel()


async def test_a_lease_is_still_held_if_the_server_fails_to_settle_it(own_server: Server) -> None:
    with fail_after(30):
        async with broker_on(own_server.url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            await queue.put("a", 1)
            _, _, lease = await queue.get()
            items = items_key(broker, queue)
            own_server.command("RENAME", items, "elsewhere")
            own_server.command("SET", items, "x")
            with pytest.raises(ServerError, match="WRONGTYPE"):
                await queue.ack(lease)
            with pytest.raises(ServerError, match="WRONGTYPE"):
                await queue.extend(lease, 60)
            with pytest.raises(ServerError, match="WRONGTYPE"):
                async with broker.transaction() as tx:
                    tx.ack(lease)
            assert lease.ended is None
            own_server.command("RENAME", "elsewhere", items)
            await queue.ack(lease)
            assert lease.ended == "acked"
            tg.cancel_scope.cancel()


# Emptied


async def test_everybody_is_told_that_a_queue_is_gone_and_can_make_it_anew(
    own_server: Server,
) -> None:
    outcomes = Outcomes()
    ended: list[bool] = []
    with fail_after(30):
        async with broker_on(own_server.url) as broker, create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work")
            small = await broker.queue("small", max_size=1)
            await small.put("full", 1)

            async def iterate() -> None:
                async for lease in queue:
                    raise AssertionError(lease)

            async def hold() -> None:
                async with held.lease():
                    try:
                        await anyio.sleep_forever()
                    finally:
                        ended.append(True)

            held = await broker.queue("held")
            await held.put("a", 1)
            async with create_task_group() as users:
                users.start_soon(outcomes.of, "get", queue.get())
                users.start_soon(outcomes.of, "iteration", iterate())
                users.start_soon(outcomes.of, "put", small.put("a", 1))
                users.start_soon(outcomes.of, "join", small.join())
                users.start_soon(outcomes.of, "body", hold())
                await eventually(
                    lambda: queue._engine._waiters.total == 2 and bool(held._engine._held)
                )
                await eventually(lambda: bool(small._engine._putters and small._engine._joiners))
                own_server.command("FLUSHALL")
                await outcomes.of("held", held.qsize())  # nothing else asks about it
            for name in ("get", "iteration", "put", "join", "held"):
                error = outcomes[name]
                assert isinstance(error, QueueClosedError), (name, error)
                assert "deleted" in str(error)
                assert not error.drained
            assert isinstance(outcomes["body"], LeaseqError)
            assert ended == [True]
            for name in ("work", "small", "held"):
                again = await broker.queue(name)
                assert not again.closed
                await again.put("new", 1)
                assert await in_line(again) == ["new"]
            tg.cancel_scope.cancel()
