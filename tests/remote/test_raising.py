"""Whatever can raise, raises: codecs, filters of the log, texts of errors and keys, callbacks, and
the store itself. The right caller is told, no task hangs, and no item is lost or done twice."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line
from tests.remote.engine import Ledgers
from tests.remote.ledger_store import LedgerBackend
from tests.remote.mishaps import broker_of, dispatcher_of, exchanges_go_through

from leaseq import CodecError, LeaseqError, QueueClosedError, Retry, TransactionError
from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.dispatcher import Call
from leaseq._remote.protocol import (
    AvailableKeys,
    Batch,
    Claim,
    ListQueues,
    Put,
    QueueRef,
    RawKey,
    Reply,
    Transact,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


def answered(
    change: Callable[[Any, object], object],
) -> Callable[[Callable[..., Awaitable[Reply]]], Callable[..., Awaitable[Reply]]]:
    """A way for exchanges, on which each answer is changed, when the operation was done."""

    def way(exchange: Callable[..., Awaitable[Reply]]) -> Callable[..., Awaitable[Reply]]:
        async def changed(batch: Batch) -> Reply:
            reply = await exchange(batch)
            pairs = zip(batch.operations, reply.answers, strict=True)
            return replace(reply, answers=[change(*pair) for pair in pairs])

        return changed

    return way


def unread(of: type) -> Callable[[Any, object], object]:
    """The answer to an operation of this type cannot be read."""

    def change(operation: Any, answer: object) -> object:
        if isinstance(operation, of):
            return ServerUnavailableError("it cannot be read", in_doubt=True)
        return answer

    return change


async def test_a_transaction_whose_answer_cannot_be_read_is_in_doubt(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with (
        exchanges_go_through(queue, answered(unread(Transact))),
        pytest.raises(ServerUnavailableError) as caught,
    ):
        async with broker_of(engine, queue).transaction() as tx:
            tx.ack(lease)
    assert caught.value.in_doubt
    assert lease.ended is None  # as far as is known


async def test_a_key_that_is_none_is_left_out_of_a_list(
    engine: Ledgers, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)

    def change(operation: Any, answer: Any) -> object:
        if isinstance(operation, AvailableKeys):
            return answer._replace(members=(*answer.members, RawKey(b"?")))
        return answer

    with exchanges_go_through(queue, answered(change)):
        assert await queue.available_keys() == {"a"}
    assert "b'?' is not a key, and left out" in caplog.text


async def test_a_queue_that_was_shut_down_and_closed_says_whether_it_was_drained(
    engine: Ledgers,
) -> None:
    drained, left = await engine.queue(), await engine.queue()
    await left.put("a", 1)
    for queue in (drained, left):
        for _ in range(2):
            await queue.shutdown()
    await drained.join()
    for queue in (drained, left):
        await queue.close()
        await queue.shutdown()
    await drained.join()
    with pytest.raises(QueueClosedError):
        await left.join()


async def test_an_answer_that_cannot_be_read_leaves_the_rest_of_its_batch_alone(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    told: dict[str, object] = {}

    async def put(key: str) -> None:
        try:
            told[key] = await queue.put(key, 1)
        except ServerUnavailableError as error:
            told[key] = error.in_doubt

    def change(operation: Any, answer: object) -> object:
        is_first = isinstance(operation, Put) and operation.items[0][0] == "first"
        return unread(Put)(operation, answer) if is_first else answer

    with exchanges_go_through(queue, answered(change)), fail_after(5):
        async with create_task_group() as tg:
            for key in ("leads", "first", "second"):
                tg.start_soon(put, key)
    assert told == {"leads": "added", "first": True, "second": "added"}


async def test_a_store_that_raises_what_it_should_not_leaves_calls_in_doubt(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()

    def way(exchange: Any) -> Any:
        async def broken(batch: Batch) -> Reply:
            await exchange(batch)
            raise OSError("boom")

        return broken

    with (
        exchanges_go_through(queue, way),
        pytest.raises(ServerUnavailableError, match="OSError: boom") as caught,
    ):
        await queue.put("a", 1)
    assert caught.value.in_doubt
    assert isinstance(caught.value.__cause__, OSError)
    assert await in_line(queue) == ["a"]


async def test_each_task_that_is_told_of_one_error_has_its_own(engine: Ledgers) -> None:
    queue = await engine.queue()
    errors: list[ServerError] = []

    def way(exchange: Any) -> Any:
        async def refuse(batch: Batch) -> Reply:
            await checkpoint()
            raise ServerError("NOPERM not you", code="NOPERM")

        return refuse

    async def put(key: str) -> None:
        try:
            await queue.put(key, 1)
        except ServerError as error:
            errors.append(error)

    with exchanges_go_through(queue, way):
        async with create_task_group() as tg:
            for number in range(8):
                tg.start_soon(put, f"{number}")
    assert len({*map(id, errors)}) == len(errors) == 8
    assert {(str(error), error.code) for error in errors} == {("NOPERM not you", "NOPERM")}
    for error in errors:  # where it was raised here, and what the store raised
        assert len(traceback.extract_tb(error.__traceback__)) < 9
        assert isinstance(error.__cause__, ServerError)


async def test_tasks_that_settle_one_lease_have_errors_of_their_own(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    errors: list[Exception] = []

    async def ack() -> None:
        try:
            await queue.ack(lease)
        except LeaseqError as error:
            errors.append(error)

    backend = engine._backend
    backend._refuse = lambda _: ServerError("OOM full", code="OOM")
    async with create_task_group() as tg:
        tg.start_soon(ack)
        tg.start_soon(ack)
    backend._refuse = lambda _: None
    assert len({*map(id, errors)}) == 2
    assert await queue.ack(lease) is False


async def test_a_callback_that_raises_keeps_no_other_call_from_its_answer(engine: Ledgers) -> None:
    queue = await engine.queue()
    dispatcher = dispatcher_of(queue)
    told: list[str] = []

    def break_down(_: object) -> None:
        raise ZeroDivisionError("of a callback")

    async def ask(call: Call[Any]) -> None:
        try:
            await dispatcher.perform(call)
            told.append("answered")
        except ZeroDivisionError:
            told.append("its own")

    calls = [
        Call(ListQueues(QueueRef("")), receive=receive, refuse=break_down)
        for receive in (None, break_down, None)
    ]
    with fail_after(5):
        async with create_task_group() as tg:
            for call in calls:
                tg.start_soon(ask, call)
    assert sorted(told) == ["answered", "answered", "its own"]


async def test_a_signal_while_a_codec_runs_loses_nothing(engine: Ledgers) -> None:
    class Interrupted:
        raises = True

        def encode(self, value: object) -> bytes:
            return b"x"

        def decode(self, body: bytes) -> object:
            if Interrupted.raises:
                raise KeyboardInterrupt
            return 1

    queue = await (await engine.broker()).queue("work", codec=Interrupted())
    await queue.put_many({"a": 1, "b": 1})
    told: list[object] = []

    async def look() -> None:
        told.append(await queue.qsize())

    async with create_task_group() as tg:
        tg.start_soon(look)
        with pytest.raises(KeyboardInterrupt):
            await queue.get_batch(2, timeout=0)
    Interrupted.raises = False
    assert [lease.key for lease in await queue.get_batch(2, timeout=0)] == ["a", "b"]
    assert len(told) == 1


# Queues of dead letters


@pytest.mark.parametrize("names", ["ab", "abc"])
async def test_queues_made_at_once_do_not_become_each_others_dead_letters(names: str) -> None:
    backend = LedgerBackend()
    made: list[str] = []
    refused: list[str] = []

    async def make(broker: RemoteBroker, name: str, letters: str) -> None:
        try:
            await broker.queue(name, dead_letters=letters)
            made.append(name)
        except ValueError:
            refused.append(name)

    async with RemoteBroker(backend.open, place="here") as broker:
        with fail_after(5):
            async with create_task_group() as tg:
                for name, letters in zip(names, names[1:] + names[0], strict=True):
                    tg.start_soon(make, broker, name, letters)
        assert made
        assert refused
        for name in names:
            queue = await broker.queue(name)
            assert not queue._engine.kept


# All at once


class Chance:
    """Raises now and then."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.on = False

    def __bool__(self) -> bool:
        return self.on and self._random.random() < 0.15


class UntellableError(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Key(str):
    """A key that cannot be shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


class Fickle:
    """A codec that fails now and then."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def encode(self, value: object) -> bytes:
        if self._chance:
            raise UntellableError
        return str(value).encode()

    def decode(self, body: bytes) -> object:
        if self._chance:
            raise UntellableError
        return body.decode()


@contextmanager
def filtered(chance: Chance) -> Iterator[None]:
    """A log with a filter that fails now and then, and formats all that passes."""

    def keep(record: logging.LogRecord) -> bool:
        record.getMessage()
        if chance:
            raise LookupError("of a filter")
        return False

    logger = logging.getLogger("leaseq")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 200))]


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_raises_nothing_is_lost_and_the_right_caller_is_told(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    chance = Chance(seed)

    def refuse(operation: Any) -> Exception | None:
        """Some operations are refused, or not written down, or their queue is said to be full."""
        if not isinstance(operation, Put | Claim | Transact) or not chance:
            return None
        return random.choice([ServerError("OOM full", code="OOM"), UntellableError()])

    backend = LedgerBackend(refuse=refuse)
    keys = [Key(f"k{number}") for number in range(12)]
    acked: list[str] = []
    put: list[str] = []
    strays = 0  # errors of others

    async def produce(queue: Any, key: str) -> None:
        while key not in put:
            try:
                await queue.put(key, key)
            except (CodecError, ServerError, UntellableError):
                await anyio.sleep(0.1)
            else:
                put.append(key)

    async def transact(broker: RemoteBroker, queue: Any, key: str) -> None:
        while key not in put:
            try:
                async with broker.transaction() as tx:
                    tx.put(queue, key, key)
            except (CodecError, ServerError, TransactionError, UntellableError):
                await anyio.sleep(0.1)
            else:
                put.append(key)

    async def consume(queue: Any) -> None:
        nonlocal strays
        while True:
            mine = UntellableError()
            try:
                key, _, lease = await queue.get()
            except (ServerError, UntellableError):
                continue
            try:
                async with lease:
                    await checkpoint()
                    if chance:
                        raise mine
                acked.append(key)
            except UntellableError as error:
                strays += error is not mine

    with filtered(chance), fail_after(3600):
        async with RemoteBroker(backend.open, place="here") as broker:
            queue: Any = await broker.queue(
                "work",
                codec=Fickle(chance),
                dead_letters="dead",
                default_lease_timeout=30.0,
                retry=Retry(max_deliveries=3),
            )
            async with create_task_group() as tg:
                await tg.start(broker.run)
                for _ in range(3):
                    tg.start_soon(consume, queue)
                chance.on = True
                async with create_task_group() as producers:
                    for key in keys[:8]:
                        producers.start_soon(produce, queue, key)
                    for key in keys[8:]:
                        producers.start_soon(transact, broker, queue, key)
                await queue.join()
                chance.on = False
                tg.cancel_scope.cancel()
            letters = await broker.dead_letters("work")
            dead: list[Any] = [await letters.peek(each) for each in await letters.available_keys()]
            statistics = await queue.statistics()
    assert sorted([*acked, *(letter.key for letter in dead)]) == sorted(keys)
    assert {letter.reason for letter in dead} <= {"undecodable", "max_deliveries"}
    assert strays == 0
    assert statistics.put == len(keys) == statistics.acked + statistics.dead
    assert (statistics.ready, statistics.leased, statistics.delayed) == (0, 0, 0)
