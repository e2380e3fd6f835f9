"""Values that a store keeps: how it is asked for them, and what is lost on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from anyio import CancelScope, create_task_group, current_time, fail_after, sleep
from tests.contract.helpers import others_run
from tests.remote.engine import Ledgers
from tests.remote.mishaps import Call, broker_of, exchanges_go_through, rule_out_beats
from tests.remote.test_trips import exchanges_of

from leaseq._core.kept import Kept
from leaseq._remote.protocol import Ack, Batch, Claim, Recall, Recalled, Reply, ValueKept
from leaseq.tasks import TaskQueue, TaskWorker

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


def kept(name: str, body: bytes = b"1") -> Kept:
    return Kept(name, body, 600.0, b"-")


async def test_an_ack_that_keeps_a_result_carries_the_next_claim_of_its_worker(
    engine: Ledgers,
) -> None:
    broker = await engine.broker()
    tasks = TaskQueue(broker)

    @tasks.task(result_ttl=60.0)
    async def double(number: int) -> int:
        return 2 * number

    with fail_after(60):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            pushed = await tasks.push_many([double.task(number) for number in range(20)])
            with exchanges_of(engine, await tasks.open()) as seen:
                worker = TaskWorker(tasks, concurrency=1)
                await tg.start(worker.run)
                await tasks.join()
                with_acks = [kinds for kinds in seen if Ack in kinds]
            assert [await tasks.result(task) for task in pushed] == [*range(0, 40, 2)]
            tg.cancel_scope.cancel()
    assert len(with_acks) == 20
    assert all(Claim in kinds for kinds in with_acks)


async def test_waiters_of_all_processes_are_told_and_not_left_to_look(engine: Ledgers) -> None:
    one, other = await engine.handles()
    found: list[tuple[bytes, float]] = []

    async def wait(queue: Any) -> None:
        found.append((await queue._recall("x", None), current_time()))

    async with create_task_group() as tg:
        for queue in (one, other):
            await tg.start(broker_of(engine, queue).run)
            for _ in range(3):
                tg.start_soon(wait, queue)
        await others_run()
        rule_out_beats(broker_of(engine, one), broker_of(engine, other))
        await sleep(3600.0)
        kept_at = current_time()
        await one._keep([kept("x")])
        await sleep(1.0)
        tg.cancel_scope.cancel()
    assert found == [(b"1", kept_at)] * 6


async def test_a_value_that_was_waited_for_is_fetched_once(engine: Ledgers) -> None:
    one, other = await engine.handles()
    found: list[bytes] = []

    async def wait() -> None:
        found.append(await one._recall("x", None))

    async with create_task_group() as tg:
        await tg.start(broker_of(engine, one).run)
        tg.start_soon(wait)
        await others_run()
        rule_out_beats(broker_of(engine, one))
        with exchanges_of(engine, one) as seen:
            await sleep(1.0)
            await other._keep([kept("x")])
            await sleep(1.0)
        tg.cancel_scope.cancel()
    assert found == [b"1"]
    assert [kinds.count(Recall) for kinds in seen] == [1]


async def test_who_is_not_told_looks_again(
    engine: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await engine.queue()
    tell = engine._backend.tell

    def lose(process: str, event: Any) -> bool:
        return True if isinstance(event, ValueKept) else tell(process, event)

    monkeypatch.setattr(engine._backend, "tell", lose)
    names = [f"x{number}" for number in range(700)]
    found: list[bytes] = []

    async def wait(name: str) -> None:
        found.append(await queue._recall(name, None))

    async with create_task_group() as tg:
        await tg.start(queue.run)
        for name in names:
            tg.start_soon(wait, name)
        await sleep(5.0)
        await queue._keep([kept(name) for name in names])
        with exchanges_of(engine, queue) as seen:
            await sleep(10.0)
        tg.cancel_scope.cancel()
    assert found == [b"1"] * 700
    assert sum(kinds.count(Recall) for kinds in seen) <= 2 * 700


@pytest.mark.parametrize("how", ["timeout", "scope"])
async def test_the_store_forgets_who_waits_no_more(engine: Ledgers, how: str) -> None:
    queue = await engine.queue()
    [stored] = engine._backend.queues.values()

    async def wait(timeout: float | None) -> None:
        with pytest.raises(TimeoutError):
            await queue._recall("x", timeout)

    async with create_task_group() as tg:
        await tg.start(queue.run)
        with CancelScope() as scope:
            tg.start_soon(wait, 50.0)
            if how == "timeout":
                await wait(10.0)
            else:
                scope.deadline = current_time() + 10.0
                await queue._recall("x", None)
        await sleep(1.0)
        assert len(stored.waiting_for["x"]) == 1
        await sleep(50.0)
        assert not stored.waiting_for["x"]
        tg.cancel_scope.cancel()


async def test_a_value_that_was_left_out_is_asked_for_again(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue._keep([kept("x")])
    left_out = 3

    def way(call: Call) -> Call:
        async def without(batch: Batch) -> Reply:
            nonlocal left_out
            reply = await call(batch)
            if Recall in map(type, batch.operations) and left_out:
                left_out -= 1
                answers = [
                    Recalled(None, is_there=True) if isinstance(each, Recalled) else each
                    for each in reply.answers
                ]
                return replace(reply, answers=answers)
            return reply

        return without

    with exchanges_go_through(broker_of(engine, queue), way):
        assert await queue._recall("x", 0) == b"1"
    assert not left_out
