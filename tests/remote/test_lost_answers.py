"""A call whose answer never comes, although those of others do, is not asked for for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from anyio import create_task_group, fail_after
from tests.contract.helpers import in_line
from tests.remote.engine import Ledgers
from tests.remote.mishaps import Call, broker_of, exchanges_go_through

from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._remote.protocol import (
    Abandon,
    Batch,
    Claim,
    Find,
    Look,
    NotConfirmedError,
    Operation,
    Put,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


class Poison:
    """Loses the answers to batches that have some operation, or has them lost on the way there."""

    def __init__(self, is_it: Callable[[Operation[Any]], bool], *, done: bool) -> None:
        self._is_it = is_it
        self._done = done
        self.lost = 0

    def way(self, call: Call) -> Call:
        async def exchange(batch: Batch) -> Any:
            if not any(map(self._is_it, batch.operations)):
                return await call(batch)
            self.lost += 1
            if self._done:
                await call(batch)
            raise ServerUnavailableError("lost", in_doubt=True)

        return exchange


def puts(key: str) -> Callable[[Operation[Any]], bool]:
    return lambda operation: isinstance(operation, Put) and operation.items[0][0] == key


@pytest.mark.parametrize("done", [True, False])
async def test_a_put_whose_answer_never_comes_fails_and_others_go_on(
    engine: Ledgers, done: bool
) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    failed: list[ServerUnavailableError] = []
    poison = Poison(puts("bad"), done=done)

    async def put_bad() -> None:
        with pytest.raises(ServerUnavailableError, match="never came") as caught:
            await queue.put("bad", 1)
        failed.append(caught.value)

    with fail_after(60), exchanges_go_through(broker, poison.way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            async with create_task_group() as puts_of:
                puts_of.start_soon(put_bad)
            for key in "abc":
                await queue.put(key, 1)
            tg.cancel_scope.cancel()
    assert poison.lost < 10
    assert [error.in_doubt for error in failed] == [done]
    assert await in_line(queue) == [*(["bad"] if done else []), "a", "b", "c"]


async def test_those_that_went_with_it_are_done_alone(engine: Ledgers) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    poison = Poison(puts("bad"), done=False)
    outcomes: list[str] = []

    async def put(key: str) -> None:
        try:
            await queue.put(key, 1)
            outcomes.append(key)
        except ServerUnavailableError as error:
            outcomes.append("in doubt" if error.in_doubt else "lost")

    with fail_after(60), exchanges_go_through(broker, poison.way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            async with create_task_group() as together:
                for key in ("a", "bad", "b"):
                    together.start_soon(put, key)
            tg.cancel_scope.cancel()
    assert sorted(outcomes) == ["a", "b", "lost"]
    assert sorted(await in_line(queue)) == ["a", "b"]


@pytest.mark.parametrize("also", [Find, Abandon])
@pytest.mark.parametrize(
    "error", [ServerError("no", code="ERR"), ServerUnavailableError("lost", in_doubt=True)]
)
async def test_a_put_whose_answer_never_comes_fails_whatever_else_is_refused(
    engine: Ledgers, also: type[Operation[Any]], error: Exception
) -> None:
    """It loses the answer of a put and, for a while, refuses to look, or to give up."""
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    poison = Poison(puts("bad"), done=False)
    refused = 0

    def way(call: Call) -> Call:
        poisoned = poison.way(call)

        async def exchange(batch: Batch) -> Any:
            nonlocal refused
            if refused < 5 and any(isinstance(each, also) for each in batch.operations):
                refused += 1
                raise error
            return await poisoned(batch)

        return exchange

    with fail_after(600), exchanges_go_through(broker, way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            with pytest.raises(ServerUnavailableError, match="never came") as caught:
                await queue.put("bad", 1)
            await queue.put("good", 1)
            tg.cancel_scope.cancel()
    assert refused
    assert caught.value.in_doubt is (also is Abandon)
    assert await in_line(queue) == ["good"]


async def test_a_look_whose_answer_never_comes_fails(engine: Ledgers) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    await queue.put("a", 1)
    poison = Poison(lambda operation: isinstance(operation, Look), done=True)
    with fail_after(60), exchanges_go_through(broker, poison.way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            with pytest.raises(ServerUnavailableError, match="never came"):
                await queue.peek("a")
            assert await queue.available_keys() == {"a"}
            tg.cancel_scope.cancel()


async def test_what_a_claim_has_leased_whose_answer_never_comes_goes_back(engine: Ledgers) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    broker = broker_of(engine, queue)
    await queue.put_many([("a", 1), ("b", 1)])
    poison = Poison(lambda operation: isinstance(operation, Claim), done=True)
    with fail_after(60), exchanges_go_through(broker, poison.way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            with pytest.raises(ServerUnavailableError, match="never came"):
                await queue.get(timeout=0)
            tg.cancel_scope.cancel()
    assert await in_line(other) == ["a", "b"]


async def test_a_store_that_answers_nothing_is_asked_for_as_long_as_a_run_runs(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    poison = Poison(lambda operation: poison.lost < 50, done=True)
    with fail_after(600), exchanges_go_through(broker, poison.way):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            await queue.put("a", 1)
            tg.cancel_scope.cancel()
    assert poison.lost == 50
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize("claims", [False, True], ids=["put", "claim"])
async def test_what_is_done_and_not_confirmed_is_waited_for_as_long_as_a_run_runs(
    engine: Ledgers, claims: bool
) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    await queue.put("first", 1)
    tries = 0

    def unsure(call: Call) -> Call:
        async def exchange(batch: Batch) -> Any:
            nonlocal tries
            reply = await call(batch)
            if tries < 40 and isinstance(batch.operations[0], Put | Claim):
                tries += 1
                raise NotConfirmedError("too few replicas")
            return reply

        return exchange

    with fail_after(600), exchanges_go_through(broker, unsure):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            if claims:
                assert (await queue.get(timeout=0))[0] == "first"
                assert (await queue.statistics()).leased == 1
            else:
                await queue.put("a", 1)
                assert await queue.available_keys() == {"first", "a"}
            tg.cancel_scope.cancel()
    assert tries == 40
