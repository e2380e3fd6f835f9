"""The courier: nobody is starved, forgotten or told what is not so, whatever becomes of a call."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from tests.contract.helpers import in_line, until
from tests.servers import Server
from tests.valkey.calls import CALLS, Scene, outcome
from tests.valkey.engine import Valkey
from tests.valkey.mishaps import Gate, calls_go_through, cut_off, eventually, replies_lost, slow

from leaseq import LeaseLostError, PutOutcome, Tenant
from leaseq._core.errors import InvalidLeaseError, ServerUnavailableError
from leaseq._core.loop import Home
from leaseq._remote import dispatcher as courier
from leaseq._remote.requests import Ask
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(anyio_backend: object, shared_server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(shared_server.url)
    yield made
    await made.close()


# Who has to wait


@pytest.mark.parametrize(
    ("producers", "size", "asks_more"),
    [(600, 10, False), (8, 300_000, False), (2, 10, True)],
    ids=["many", "large", "of all kinds"],
)
async def test_who_waits_is_not_starved_by_those_who_ask(
    engine: Valkey, producers: int, size: int, asks_more: bool
) -> None:
    broker = await engine.broker()
    queue = await broker.queue("work")
    value = "x" * size
    got = 0

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
            await eventually(lambda: len(broker.courier._asked) >= min(producers - 1, 3))
            for _ in range(4):
                tg.start_soon(consume)
            await eventually(lambda: got >= 8)
            tg.cancel_scope.cancel()


async def test_who_waits_goes_on_when_the_run_has_ended(engine: Valkey) -> None:
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
                await eventually(lambda: queue._waiters.total == 1)
                await eventually(lambda: bool(queue._waiters.parked))
                scope.cancel()
                await anyio.sleep(0.01)
                await put("a", 1)
            [lease] = queue._held.values()
            await queue.ack(lease)
        assert got == ["a", "a"]


async def test_each_of_two_who_settle_one_lease_is_told(engine: Valkey) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    told: list[object] = []

    async def ack() -> None:
        try:
            told.append(await queue.ack(lease))
        except InvalidLeaseError as error:
            told.append(type(error).__name__)

    with fail_after(20), slow(queue._broker, 0.05):
        async with create_task_group() as tg:
            for operation in (lambda: queue.put("x", 1), lambda: queue.put("y", 1), ack, ack):
                tg.start_soon(operation)
                await anyio.sleep(0.01)
    assert sorted(map(str, told)) == ["False", "LeaseAlreadyAcknowledgedError"]


# Replies that are lost


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_call_whose_reply_was_lost_is_done_once(engine: Valkey, runs: bool) -> None:
    queue = await engine.queue()
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(queue.run)
            with replies_lost(queue._broker, [True, False, True]) as lost:
                assert await queue.put("a", 1) is PutOutcome.ADDED
            assert len(lost) == 3
            with replies_lost(queue._broker, [True]):
                _, _, lease = await queue.get(timeout=0)
            assert lease.deliveries == 1
            with replies_lost(queue._broker, [True, True]):
                await queue.ack(lease)
            statistics = await queue.statistics()
            assert (statistics.put, statistics.delivered, statistics.acked) == (1, 1, 1)
            tg.cancel_scope.cancel()


async def test_a_call_that_was_not_done_is_done_after_all(engine: Valkey) -> None:
    queue = await engine.queue()
    with fail_after(20), replies_lost(queue._broker, [False, False]):
        assert await queue.put("a", 1) is PutOutcome.ADDED
    assert await in_line(queue) == ["a"]


@pytest.mark.parametrize("ends", [True, False], ids=["closed", "not closed"])
async def test_a_lease_whose_reply_was_given_up_goes_back(
    engine: Valkey, shared_server: Server, ends: bool
) -> None:
    other = await engine.queue()
    await other.put("a", 1)
    url = f"{shared_server.url}?prefix={engine._prefix}"
    with fail_after(20):
        async with ValkeyBroker(ValkeyUrl.parse(url), patience=0.05) as broker:
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
    engine: Valkey, shared_server: Server
) -> None:
    url = f"{shared_server.url}?prefix={engine._prefix}"
    errors: list[ServerUnavailableError] = []
    with fail_after(20):
        async with ValkeyBroker(ValkeyUrl.parse(url), patience=0.1) as broker:
            queue = await broker.queue("work")

            async def put(key: str) -> None:
                try:
                    await queue.put(key, 1)
                except ServerUnavailableError as error:
                    errors.append(error)

            with cut_off(broker):
                async with create_task_group() as tg:
                    tg.start_soon(put, "a")
                    await eventually(lambda: broker.courier._unfinished is not None)
                    tg.start_soon(put, "b")
            assert [error.in_doubt for error in errors] == [True, False]
            assert await in_line(queue) == ["a"]


async def test_a_lease_that_is_extended_too_late_is_free_for_others(engine: Valkey) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(queue._broker.run)
            _, _, lease = await queue.get(lease_timeout=2.0)
            with Gate(queue._broker, replies=True).closed() as gate:

                async def extend() -> None:
                    with pytest.raises(LeaseLostError):
                        await queue.extend(lease, None)

                async with create_task_group() as extending:
                    extending.start_soon(extend)
                    await gate.reached.wait()  # it is extended, on the server
                    queue.let_go(lease)
                    lease.deadline = queue.time()
                    queue._hold(lease)
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
async def test_a_bad_name_of_a_consumer_spoils_nothing_else(engine: Valkey, runs: bool) -> None:
    queue = await engine.queue()
    await queue.put("a", 1)
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(queue._broker.run)
            with pytest.raises(TypeError):
                await queue.get(timeout=0, consumer=1)  # type: ignore[arg-type]
            await queue.put("b", 1)
            assert await in_line(queue) == ["a", "b"]
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("runs", [True, False], ids=["run", "no run"])
async def test_a_codec_that_gives_no_bytes_spoils_nothing_else(engine: Valkey, runs: bool) -> None:
    broker = await engine.broker()
    good = await broker.queue("good")
    bad = await broker.queue("bad", codec=Unsendable())
    with fail_after(20):
        async with create_task_group() as tg:
            if runs:
                await tg.start(broker.run)
            with pytest.raises(TypeError):
                await bad.put("a", 1)
            await good.put("a", 1)
            assert await in_line(good) == ["a"]
            tg.cancel_scope.cancel()


async def test_a_codec_whose_error_cannot_be_sent_spoils_nothing_else(
    engine: Valkey, caplog: pytest.LogCaptureFixture
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


async def test_a_call_that_raises_anything_fails_and_the_next_goes_on(engine: Valkey) -> None:
    queue = await engine.queue()

    def way(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def broken(*args: Any) -> Any:
            raise OSError("boom")

        return broken

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(queue._broker.run)
            with calls_go_through(queue._broker, way), pytest.raises(OSError, match="boom"):
                await queue.put("a", 1)
            await queue.put("b", 1)
            assert await in_line(queue) == ["b"]
            tg.cancel_scope.cancel()


# Messages


async def test_a_message_that_comes_before_the_reply_it_is_about_is_not_missed(
    engine: Valkey,
) -> None:
    """The claim that parks finds nothing; what is put meanwhile is told before its reply."""
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    got: list[str] = []

    async def get() -> None:
        got.append((await queue.get())[0])

    with fail_after(20):
        async with create_task_group() as tg:
            await tg.start(queue._broker.run)
            with Gate(queue._broker, replies=True).closed() as gate:
                tg.start_soon(get)
                await gate.reached.wait()  # parked, on the server
                await other.put("a", 1)
                await eventually(lambda: bool(queue._courier._messages))
                assert got == []
                gate.open()
                queue._broker._beat_at = float("inf")  # nothing but the message wakes it
                await eventually(lambda: got == ["a"])
            await until(queue, leased=1)
            tg.cancel_scope.cancel()


async def test_a_loss_that_is_told_before_the_claims_reply_ends_the_lease(
    engine: Valkey,
) -> None:
    queue = await engine.queue()
    other = await (await engine.another_broker()).queue(queue.name)
    await queue.put("a", 1)
    with fail_after(20), Gate(queue._broker, replies=True).closed() as gate:

        async def get() -> None:
            with pytest.raises(TimeoutError):
                await queue.get(timeout=0, consumer="me")

        async with create_task_group() as tg:
            tg.start_soon(get)
            await gate.reached.wait()
            assert await other.release_all(consumer="me") == 1
            await eventually(lambda: bool(queue._courier._messages))
            gate.open()
        assert await in_line(other) == ["a"]


async def test_a_message_about_a_queue_that_is_not_known_here_is_of_no_matter(
    engine: Valkey,
) -> None:
    queue = await engine.queue()
    with fail_after(20):
        for want in (b"a", b"r", b"j", b"x", b"l\x0017", b"kabsent"):
            queue._courier.hear(b"unknown\0" + want)
            queue._courier.hear(queue.name.encode() + b"\0" + want if want != b"x" else b"other\0x")
        await queue.put("a", 1)
        assert await in_line(queue) == ["a"]


@pytest.mark.only("trio")
@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
async def test_no_operation_takes_words_of_the_next(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    at_the_end = "  pcall(store_queues)\n"
    for name, script in courier._SCRIPTS.items():
        assert at_the_end in script.source
        check = at_the_end + '  if cursor ~= #ARGV then error("not its own words") end\n'
        strict = replace(script, source=script.source.replace(at_the_end, check))
        monkeypatch.setitem(courier._SCRIPTS, name, strict)
    for name, call in CALLS.items():
        if not there and name == "get what is put":
            continue  # two tasks that are told: a group of errors
        shared_server.command("FLUSHALL")
        async with (
            ValkeyBroker(ValkeyUrl.parse(shared_server.url)) as broker,
            create_task_group() as tg,
        ):
            await tg.start(broker.run)
            scene = await Scene().set(broker)
            if not there:
                shared_server.command("FLUSHALL")
            with suppress(LookupError):
                assert await outcome(call, scene) != "ServerError", name
            tg.cancel_scope.cancel()


async def test_what_is_asked_of_a_broker_at_once_is_answered_each(server: Server) -> None:
    async with ValkeyBroker(ValkeyUrl.parse(server.url)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        async with create_task_group() as asking:
            for name in ("a", "b", "c"):
                asking.start_soon(broker.list_queues)
                asking.start_soon(broker.queue, name)
                asking.start_soon(broker.process_expired)
        assert {info.name for info in await broker.list_queues()} == {"a", "b", "c"}
        tg.cancel_scope.cancel()


# Tries to reach the server


class Gone:
    """A client whose server is away, and when it was asked."""

    is_cluster = False

    def __init__(self) -> None:
        self.tried_at: list[float] = []

    async def script(self, script: object, keys: object, args: object) -> Any:
        self.tried_at.append(anyio.current_time())
        raise ServerUnavailableError("no server", in_doubt=False)

    async def close(self) -> None: ...


class Idle:
    """Has nothing to do, and nobody who waits."""

    def expire(self, now: float) -> float:
        return inf

    def do(self, now: float) -> float:
        return inf

    def claims(self) -> list[Ask]:
        return []

    def heard(self, trip: object, next_due: object, events: object) -> None: ...

    def told(self, message: bytes) -> None: ...


@pytest.mark.virtual_time
async def test_a_hundred_who_are_cut_off_do_not_come_back_in_one_rush() -> None:
    gone = Gone()

    async def keep_trying(number: int) -> None:
        one = courier.Courier("leaseq", str(number), gone, Home(), Idle(), patience=10.0)  # type: ignore[arg-type]
        with pytest.raises(ServerUnavailableError):
            await one.ask(Ask("hello", "hello", "0"))

    began = anyio.current_time()
    async with create_task_group() as tg:
        for number in range(100):
            tg.start_soon(keep_trying, number)
    later = [when for when in gone.tried_at if when - began > 1.5]
    assert len(later) > 1000  # they go on trying
    rush = max(Counter(int(when / 0.05) for when in later).values())
    assert rush < 40  # of the hundred, in any fifty milliseconds
