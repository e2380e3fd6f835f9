"""The dispatcher: no task is starved, forgotten or told what is not so, whatever a call meets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until
from tests.remote.engine import Ledgers
from tests.remote.mishaps import (
    Gate,
    broker_of,
    cut_off,
    dispatcher_of,
    eventually,
    exchanges_go_through,
    replies_lost,
    rule_out_beats,
    slow,
)

from leaseq import CodecError, LeaseLostError, PutOutcome, Tenant
from leaseq._core.errors import InvalidLeaseError, ServerError, ServerUnavailableError
from leaseq._core.loop import Home
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.dispatcher import Call, Dispatcher
from leaseq._remote.protocol import (
    Batch,
    LeaseEnded,
    ListQueues,
    Operation,
    QueueDeleted,
    QueueRef,
    Reply,
    Wake,
    Want,
    Woken,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(anyio_backend: object) -> AsyncIterator[Ledgers]:
    made = Ledgers()
    yield made
    await made.close()


# Who has to wait


@pytest.mark.parametrize(
    ("producers", "size", "asks_more"),
    [(600, 10, False), (8, 300_000, False), (2, 10, True)],
    ids=["many", "large", "of all kinds"],
)
async def test_who_waits_is_not_starved_by_those_who_ask(
    engine: Ledgers, producers: int, size: int, asks_more: bool
) -> None:
    broker = await engine.broker()
    queue = await broker.queue("work")
    value = "x" * size
    got = 0
    crowded = False

    def see(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def exchange(batch: Batch) -> Any:
            nonlocal crowded
            reply = await call(batch)
            crowded = crowded or len(dispatcher_of(broker)._line) >= min(producers - 1, 3)
            return reply

        return exchange

    async def put(number: int) -> None:
        while True:
            await queue.put(f"{number}", value)

    async def look() -> None:
        while True:
            await queue.qsize()
            await checkpoint()

    async def manage() -> None:
        while True:
            await queue.set_tenant("x", Tenant())
            await checkpoint()

    async def consume() -> None:
        nonlocal got
        while True:
            _, _, lease = await queue.get()
            await queue.ack(lease)
            got += 1

    with fail_after(30):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            for number in range(producers):
                tg.start_soon(put, number)
            if asks_more:
                for each in (look, look, manage):
                    tg.start_soon(each)
            with exchanges_go_through(broker, see):
                await eventually(lambda: crowded)
            for _ in range(4):
                tg.start_soon(consume)
            await eventually(lambda: got >= 8)
            tg.cancel_scope.cancel()


async def test_who_waits_goes_on_when_the_run_has_ended(engine: Ledgers) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    got: list[str] = []

    async def get() -> None:
        got.append((await queue.get())[0])

    with fail_after(20):
        for put in (queue.put, other.put):
            scope = anyio.CancelScope()

            async def run(
                scope: anyio.CancelScope = scope, *, task_status: anyio.abc.TaskStatus[None]
            ) -> None:
                with scope:
                    await queue.run(task_status=task_status)

            async with create_task_group() as tg:
                await tg.start(run)
                tg.start_soon(get)
                await eventually(lambda: queue._engine._waiters.total == 1)
                await eventually(lambda: bool(queue._engine._waiters.parked))
                scope.cancel()
                await anyio.sleep(0.01)
                await put("a", 1)
            [lease] = queue._engine._held.values()
            await queue.ack(lease)
        assert got == ["a", "a"]


async def test_each_of_two_who_settle_one_lease_is_told(engine: Ledgers) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    told: list[object] = []

    async def ack() -> None:
        try:
            told.append(await queue.ack(lease))
        except InvalidLeaseError as error:
            told.append(type(error).__name__)

    with fail_after(20), slow(queue, 0.05):
        async with create_task_group() as tg:
            for operation in (lambda: queue.put("x", 1), lambda: queue.put("y", 1), ack, ack):
                tg.start_soon(operation)
                await anyio.sleep(0.01)
    assert sorted(map(str, told)) == ["False", "LeaseAlreadyAcknowledgedError"]


# Replies that are lost


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_call_whose_reply_was_lost_is_done_once(engine: Ledgers, runs: bool) -> None:
    queue = await engine.queue()
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(queue.run)
            with replies_lost(queue, [True, False, True]) as lost:
                assert await queue.put("a", 1) is PutOutcome.ADDED
            assert len(lost) == 3
            with replies_lost(queue, [True]):
                _, _, lease = await queue.get(timeout=0)
            assert lease.deliveries == 1
            with replies_lost(queue, [True, True]):
                await queue.ack(lease)
            statistics = await queue.statistics()
            assert (statistics.put, statistics.delivered, statistics.acked) == (1, 1, 1)
            tg.cancel_scope.cancel()


async def test_a_call_that_was_not_done_is_done_after_all(engine: Ledgers) -> None:
    queue = await engine.queue()
    with fail_after(20), replies_lost(queue, [False, False]):
        assert await queue.put("a", 1) is PutOutcome.ADDED
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize("ends", [True, False], ids=["closed", "not closed"])
async def test_a_lease_whose_reply_was_given_up_goes_back(engine: Ledgers, ends: bool) -> None:
    other = await engine.queue()
    await other.put("a", 1)
    with fail_after(20):
        async with RemoteBroker(engine._backend.open, place="there", patience=0.05) as broker:
            queue = await broker.queue(other.name)
            with cut_off(broker), pytest.raises(ServerUnavailableError) as caught:
                await queue.get(timeout=0)
            assert caught.value.in_doubt
            assert await other.inflight_size() == 1
            if ends:
                await queue.close()
            else:
                await queue.qsize()
                await queue.qsize()
            assert await other.inflight_size() == 0
        assert await in_line(other) == ["a"]


async def test_a_put_that_is_given_up_says_whether_it_is_in_doubt(
    engine: Ledgers,
) -> None:
    errors: list[ServerUnavailableError] = []
    with fail_after(20):
        async with RemoteBroker(engine._backend.open, place="there", patience=0.1) as broker:
            queue = await broker.queue("work")

            async def put(key: str) -> None:
                try:
                    await queue.put(key, 1)
                except ServerUnavailableError as error:
                    errors.append(error)

            with cut_off(broker):
                async with create_task_group() as tg:
                    tg.start_soon(put, "a")
                    await eventually(lambda: dispatcher_of(broker)._unfinished is not None)
                    tg.start_soon(put, "b")
            assert [error.in_doubt for error in errors] == [True, False]
            assert await in_line(queue) == ["a"]


async def test_a_put_that_was_said_to_have_failed_is_not_sent_again(engine: Ledgers) -> None:
    """There may be room for it between the error and the next step of its task."""
    queue = await engine.queue(max_size=1)
    await queue.put("a", 1)
    dispatcher = dispatcher_of(queue)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(queue.run)

            async def put() -> None:
                with pytest.raises(OSError, match="boom"):
                    await queue.put("b", 2)

            tg.start_soon(put)
            await eventually(lambda: bool(queue._engine._putters))
            [call] = queue._engine._putters
            dispatcher.withdraw(call)
            call.fail(OSError("boom"))
            queue._engine._let_putter_in()
            assert not call.posted
            await eventually(lambda: not queue._engine._putters)
            await queue.take("a")
            assert await queue.qsize() == 0
            tg.cancel_scope.cancel()


async def test_a_lease_that_is_extended_too_late_is_free_for_others(engine: Ledgers) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            _, _, lease = await queue.get(lease_timeout=2.0)
            with Gate(queue, replies=True).closed() as gate:

                async def extend() -> None:
                    with pytest.raises(LeaseLostError):
                        await queue.extend(lease, None)

                async with create_task_group() as extending:
                    extending.start_soon(extend)
                    await gate.reached.wait()  # it is extended, on the server
                    queue._engine.let_go(lease)
                    lease._deadline = queue._engine.home.time()
                    queue._engine._hold(lease)
                    await eventually(lambda: lease.ended == "lost")
                    gate.open()
            key, _, _ = await other.get()
            assert key == "a"
            tg.cancel_scope.cancel()


# Arguments that cannot be sent


class Unsendable:
    """A codec that makes no bytes."""

    def encode(self, value: object) -> bytes:
        return None  # type: ignore[return-value]

    def decode(self, body: bytes) -> object:
        return body


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_bad_name_of_a_consumer_spoils_nothing_else(engine: Ledgers, runs: bool) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(broker_of(engine, queue).run)
            with pytest.raises(TypeError):
                await queue.get(timeout=0, consumer=1)  # type: ignore[arg-type]
            await queue.put("b", 1)
            assert await in_line(queue) == ["a", "b"]
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_codec_that_gives_no_bytes_spoils_nothing_else(engine: Ledgers, runs: bool) -> None:
    broker = await engine.broker()
    good = await broker.queue("good")
    bad = await broker.queue("bad", codec=Unsendable())
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(broker.run)
            with pytest.raises(CodecError, match="could not encode a value: TypeError"):
                await bad.put("a", 1)
            await good.put("a", 1)
            assert await in_line(good) == ["a"]
            tg.cancel_scope.cancel()


async def test_a_codec_whose_error_cannot_be_sent_spoils_nothing_else(
    engine: Ledgers, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreadable:
        def encode(self, value: object) -> bytes:
            return b"x"

        def decode(self, body: bytes) -> object:
            raise ValueError("\udc80")

    broker = await engine.broker()
    queue = await broker.queue("work", codec=Unreadable(), dead_letters="dead")
    dead = await broker.queue("dead")
    await queue.put("a", 1)
    with fail_after(20), caplog.at_level(logging.CRITICAL):
        with pytest.raises(TimeoutError):
            await queue.get(timeout=0)
        assert (await queue.statistics()).leased == 0
        assert await dead.qsize() == 1


async def test_a_call_that_raises_anything_fails_and_the_next_goes_on(engine: Ledgers) -> None:
    queue = await engine.queue()

    def way(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def broken(*args: Any) -> Any:
            raise OSError("boom")

        return broken

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            with exchanges_go_through(queue, way), pytest.raises(OSError, match="boom"):
                await queue.put("a", 1)
            await queue.put("b", 1)
            assert await in_line(queue) == ["b"]
            tg.cancel_scope.cancel()


# Messages


async def test_a_message_that_comes_before_the_reply_it_is_about_is_not_missed(
    engine: Ledgers,
) -> None:
    """The claim that parks finds nothing; what is put meanwhile is told before its reply."""
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    got: list[str] = []

    async def get() -> None:
        got.append((await queue.get())[0])

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            with Gate(queue, replies=True).closed() as gate:
                tg.start_soon(get)
                await gate.reached.wait()  # parked, on the server
                await other.put("a", 1)
                await eventually(lambda: bool(queue._engine.dispatcher._messages))
                assert got == []
                gate.open()
                rule_out_beats(broker_of(engine, queue))  # nothing but the message wakes it
                await eventually(lambda: got == ["a"])
            await until(queue, leased=1)
            tg.cancel_scope.cancel()


async def test_a_loss_that_is_told_before_the_claims_reply_ends_the_lease(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("a", 1)
    with fail_after(20), Gate(queue, replies=True).closed() as gate:
        leases: list[Any] = []

        async def get() -> None:
            leases.append((await queue.get(timeout=0, consumer="me"))[2])

        async with create_task_group() as tg:
            tg.start_soon(get)
            await gate.reached.wait()
            assert await other.release_all(consumer="me") == 1
            await eventually(lambda: bool(queue._engine.dispatcher._messages))
            gate.open()
        assert await queue.qsize() == 1  # with which goes the question whether it is so
        assert [lease.ended for lease in leases] == ["lost"]
        assert await in_line(other) == ["a"]


async def test_what_is_said_of_a_lease_or_a_queue_is_asked_for_before_it_is_believed(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    lease = (await queue.get())[2]
    dispatcher = dispatcher_of(queue)
    joined: list[str] = []

    async def join() -> None:
        await queue.join()
        joined.append("joined")

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            tg.start_soon(join)
            await until(queue, leased=1)
            dispatcher.hear(LeaseEnded(queue.name, lease.token))
            dispatcher.hear(QueueDeleted(queue.name))
            dispatcher.hear(Woken(queue.name, Want("drained")))
            await until(queue, leased=1)
            assert (lease.ended, queue.closed, joined) == (None, False, [])
            await queue.ack(lease)
            await eventually(lambda: joined == ["joined"])
            tg.cancel_scope.cancel()


async def test_a_message_about_a_queue_that_is_not_known_here_is_of_no_matter(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    with fail_after(20):
        wants = (Want("any"), Want("room"), Want("drained"), Want("key", "absent"))
        for name in ("unknown", queue.name):
            for want in wants:
                dispatcher_of(queue).hear(Woken(name, want))
            dispatcher_of(queue).hear(LeaseEnded(name, 17))
        dispatcher_of(queue).hear(QueueDeleted("unknown"))
        await queue.put("a", 1)
        assert await in_line(queue) == ["a"]


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


async def test_a_message_that_cannot_be_followed_is_logged_and_the_next_one_counts(
    engine: Ledgers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await engine.queue()
    dispatcher = dispatcher_of(queue)
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher._callbacks, "hinted", raises(KeyError("odd")))
        dispatcher.hear(QueueDeleted("unknown"))
    assert "nothing was done about the event QueueDeleted" in caplog.text
    assert "odd" in caplog.text
    with fail_after(20):
        await queue.put("a", 1)
        assert await in_line(queue) == ["a"]


async def test_the_events_of_a_reply_that_cannot_be_followed_are_logged_and_its_answers_count(
    engine: Ledgers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await engine.queue()
    with monkeypatch.context() as patch, fail_after(20):
        patch.setattr(dispatcher_of(queue)._callbacks, "heard", raises(KeyError("odd")))
        assert await queue.put("a", 1) is PutOutcome.ADDED
    assert "nothing was done about the events of a reply" in caplog.text
    assert await in_line(queue) == ["a"]


async def test_a_store_that_fails_to_listen_tells_the_task_that_stands_in_for_a_run(
    engine: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await engine.queue()

    async def listen() -> None:
        await checkpoint()
        raise OSError("deaf")

    with monkeypatch.context() as patch, fail_after(20):
        patch.setattr(dispatcher_of(queue)._store, "listen", listen)
        with pytest.raises(OSError, match="deaf"):  # and no group of it
            await queue.get()
    await queue.put("a", 1)
    assert (await queue.get())[0] == "a"


class UnlikeOthersError(ServerError):
    """An error that was not made to be copied."""

    def __reduce__(self) -> Any:
        raise NotImplementedError


async def test_an_error_that_cannot_be_copied_is_raised_as_it_is(engine: Ledgers) -> None:
    queue = await engine.queue()
    error = UnlikeOthersError("odd", code="ERR")

    def way(_: object) -> Callable[[Batch], Awaitable[Any]]:
        async def refuse(_: Batch) -> Any:
            raise error

        return refuse

    with fail_after(20):
        with exchanges_go_through(queue, way), pytest.raises(UnlikeOthersError) as caught:
            await queue.put("a", 1)
        assert caught.value is error
        assert await queue.put("a", 1) is PutOutcome.ADDED


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed"])
async def test_wake_ups_that_none_here_wants_are_passed_on_one_at_a_time_for_queues_that_were_open(
    engine: Ledgers, closes: bool
) -> None:
    queue = await engine.queue()
    broker = broker_of(engine, queue)
    if closes:
        await queue.close()
    asked: list[str] = []

    def see(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def exchange(batch: Batch) -> Any:
            asked.extend(each.queue.name for each in batch.operations if isinstance(each, Wake))
            return await call(batch)

        return exchange

    with fail_after(20), exchanges_go_through(broker, see):
        for _ in range(100):
            for name in ("unknown", queue.name):
                dispatcher_of(broker).hear(Woken(name, Want("any")))
        await broker.list_queues()
        assert asked == [queue.name]
        dispatcher_of(broker).hear(Woken(queue.name, Want("any")))
        await broker.list_queues()
        assert asked == [queue.name] * 2


async def test_however_many_wake_ups_are_told_so_many_are_passed_on_at_a_time(
    engine: Ledgers,
) -> None:
    queue = await engine.queue()
    dispatcher = dispatcher_of(queue)
    for number in range(100_000):
        dispatcher.hear(Woken(queue.name, Want("key", f"key-{number}")))
    assert len(dispatcher._line) <= 1000
    with fail_after(20):
        await queue.put("a", 1)
        assert await in_line(queue) == ["a"]
    assert not queue._engine._passing


async def test_a_forbidden_call_is_refused_alone(engine: Ledgers) -> None:
    queue = await engine.queue()
    other = await broker_of(engine, queue).queue("other")
    outcomes: dict[str, str] = {}

    def guard(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def exchange(batch: Batch) -> Any:
            await checkpoint()
            if any(each.queue.name == "other" for each in batch.operations):
                raise ServerError("NOPERM not you", code="NOPERM")
            return await call(batch)

        return exchange

    async def put(where: Any, key: str) -> None:
        try:
            await where.put(key, 1)
            outcomes[key] = "done"
        except ServerError as error:
            outcomes[key] = error.code

    with fail_after(20), exchanges_go_through(queue, guard):
        async with create_task_group() as tg:
            await tg.start(broker_of(engine, queue).run)
            tg.start_soon(queue.get)  # whose claim goes with the puts
            async with create_task_group() as putting:
                for key in "abcdef":
                    putting.start_soon(put, other if key == "c" else queue, key)
            await until(queue, leased=1)
            tg.cancel_scope.cancel()
    assert outcomes == {key: "NOPERM" if key == "c" else "done" for key in "abcdef"}


async def test_what_is_asked_of_a_broker_at_once_is_answered_each(engine: Ledgers) -> None:
    broker = await engine.broker()
    async with create_task_group() as tg:
        await tg.start(broker.run)
        async with create_task_group() as asking:
            for name in ("a", "b", "c"):
                asking.start_soon(broker.list_queues)
                asking.start_soon(broker.queue, name)
                asking.start_soon(broker.process_expired)
        assert {info.name for info in await broker.list_queues()} == {"a", "b", "c"}
        tg.cancel_scope.cancel()


# Tries to reach the store


class Gone:
    """A store that is away, and when it was asked."""

    def __init__(self) -> None:
        self.tried_at: list[float] = []

    async def exchange(self, batch: Batch) -> Reply:
        self.tried_at.append(anyio.current_time())
        raise ServerUnavailableError("no server", in_doubt=False)

    def check(self, operation: Operation) -> None: ...

    async def listen(self) -> None: ...

    async def close(self) -> None: ...


class Idle:
    """Has nothing to do, and nobody who waits."""

    def expire(self, now: float) -> float:
        return inf

    def do_due(self, now: float) -> float:
        return inf

    def claims(self, effort: float) -> list[Call]:
        return []

    def heard(self, due: object, events: object, now: float) -> None: ...

    def hinted(self, event: object) -> None: ...

    def deleted(self, name: str) -> None: ...


@pytest.mark.virtual_time
async def test_a_hundred_who_are_cut_off_do_not_come_back_in_one_rush() -> None:
    gone = Gone()

    async def keep_trying() -> None:
        one = Dispatcher(gone, Home(), Idle(), patience=10.0)
        with pytest.raises(ServerUnavailableError):
            await one.perform(Call(ListQueues(QueueRef("any"))))

    began = anyio.current_time()
    async with create_task_group() as tg:
        for _ in range(100):
            tg.start_soon(keep_trying)
    later = [when for when in gone.tried_at if when - began > 1.5]
    assert len(later) > 1000  # they go on trying
    rush = max(Counter(int(when / 0.05) for when in later).values())
    assert rush < 40  # of the hundred, in any fifty milliseconds
