"""Those who use a server that is away for a while, does calls late, or loses replies.

On time without its idle parts, and with connections that are made to fail here. Servers, nodes and
processes that do fail are in the modules `test_crashes`, `test_cluster`, `test_nights` and
`test_soak`, which take minutes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, sleep
from tests.remote.mishaps import Call, Outage, eventually, exchanges_go_through
from tests.servers import Server
from tests.valkey.engine import Valkey

from leaseq import Backoff, DeadLetter, LeasedQueue, LeaseLostError, Retry
from leaseq._core.errors import ServerUnavailableError
from leaseq._valkey.connection import ServerNotReadyError

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("skipping")]

HOURS = 3600.0


@pytest.fixture
async def engine(anyio_backend: object, shared_server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(shared_server.url)
    yield made
    await made.close()


def lost() -> Exception:
    return ServerUnavailableError("the connection was lost", in_doubt=True)


def unready(code: str) -> Exception:
    return ServerNotReadyError(f"it is not ready: {code} wait", code=code)


@pytest.mark.parametrize(
    ("error", "is_done"),
    [
        (lost, False),
        (lost, True),
        (partial(unready, "CLUSTERDOWN"), False),
        (partial(unready, "MOVED"), False),
        (partial(unready, "READONLY"), False),
    ],
    ids=["gone", "gone once it was done", "failing over", "moved", "a replica by now"],
)
async def test_all_who_wait_go_on_by_themselves_after_an_outage(
    engine: Valkey, error: Callable[[], Exception], is_done: bool
) -> None:
    done: list[str] = []
    broker = await engine.broker()
    with fail_after(60):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work", default_lease_timeout=60)
            small = await broker.queue("small", max_size=1)
            await queue.put("held", 1)
            _, _, lease = await queue.get()
            await small.put("a", 1)

            async def noted(name: str, operation: Awaitable[object]) -> None:
                await operation
                done.append(name)

            async def take() -> None:
                key, _, taken = await queue.take("wanted")
                assert key == "wanted"
                await taken.ack()

            async def put() -> None:
                await queue.put("any", 1)
                await queue.put("wanted", 1)

            async with create_task_group() as users:
                users.start_soon(noted, "get", queue.get())
                users.start_soon(noted, "take", take())
                users.start_soon(noted, "put", small.put("b", 1))
                users.start_soon(noted, "join", small.join())
                await eventually(lambda: len(small._engine._putters) == 1 and queue._engine._waiters.total == 2)
                with Outage(broker, error, is_done=is_done).begun() as outage:
                    users.start_soon(noted, "ack", lease.ack())
                    users.start_soon(noted, "puts", put())
                    await outage.noticed(5)
                    assert not done
                    outage.end()
                    for key in ("a", "b"):
                        _, _, small_lease = await small.take(key)
                        await small_lease.ack()
            assert sorted(done) == ["ack", "get", "join", "put", "puts", "take"]
            statistics = await queue.statistics()
            assert (statistics.put, statistics.delivered, statistics.acked) == (3, 3, 2)
            tg.cancel_scope.cancel()


class Shift:
    """Producers and consumers, each with a broker whose calls are lost, late, or done in vain."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.put: set[str] = set()
        self.taken: set[tuple[str, int]] = set()
        self.acked: set[tuple[str, int]] = set()
        self.in_hand: set[str] = set()

    def way(self, call: Call) -> Call:
        """How a broker's calls go."""

        async def unreliable(*args: Any) -> Any:
            fate = self.chance.random()
            if fate < 0.1:
                raise lost()
            if fate < 0.2:
                await sleep(self.chance.uniform(0.0, 3.0))
            reply = await call(*args)
            if fate > 0.9:
                raise lost()
            if fate > 0.8:
                await sleep(self.chance.uniform(0.0, 3.0))
            return reply

        return unreliable

    async def produce(self, queue: LeasedQueue[str, int], name: str) -> None:
        for number in range(15):
            key = f"{name}-{number}"
            await queue.put(key, number)
            self.put.add(key)

    async def consume(self, queue: LeasedQueue[str, int]) -> None:
        async for lease in queue:
            with suppress(LeaseLostError, FailedError):
                async with lease:
                    self.taken.add((lease.key, lease.token))
                    assert lease.key not in self.in_hand
                    self.in_hand.add(lease.key)
                    try:
                        await sleep(self.chance.uniform(0.0, 2.5))  # longer than a lease, at times
                        if self.chance.random() < 0.1:
                            raise FailedError
                    finally:
                        self.in_hand.remove(lease.key)
                self.acked.add((lease.key, lease.token))


class FailedError(Exception):
    """The work has."""


async def test_nothing_is_lost_or_in_two_hands_though_calls_are_lost_and_late(
    engine: Valkey, request: pytest.FixtureRequest
) -> None:
    shift = Shift(request.config.getoption("seed"))
    reliable = await engine.broker()
    brokers = [await engine.another_broker() for _ in range(4)]
    with fail_after(HOURS), ExitStack() as ways:
        async with create_task_group() as tg:
            await tg.start(reliable.run)
            queue, letters = await reliable.create_queue_pair(
                "work",
                default_lease_timeout=2.0,
                retry=Retry(max_deliveries=3, backoff=Backoff(base=0.1, ceiling=1.0)),
                history=1000,
            )
            for broker in brokers:
                await tg.start(broker.run)
                ways.enter_context(exchanges_go_through(broker, shift.way))
            there = [await broker.queue("work") for broker in brokers]
            for handle in there[2:]:
                for _ in range(3):
                    tg.start_soon(shift.consume, handle)
            async with create_task_group() as producing:
                for number, handle in enumerate(there[:2]):
                    producing.start_soon(shift.produce, handle, str(number))
            await queue.join()
            history = await queue.history()
            found = [await letters.peek(key) for key in await letters.available_keys()]
            dead = {letter.key for letter in found if isinstance(letter, DeadLetter)}
            tg.cancel_scope.cancel()
    acked = Counter(done.key for done in history)
    tokens = {(done.key, done.token) for done in history}
    assert len(shift.put) == 30
    assert shift.put == acked.keys() | dead
    assert not acked.keys() & dead
    assert set(acked.values()) == {1}
    assert shift.acked <= tokens <= shift.taken
    newest = dict(sorted(shift.taken))
    assert all(newest[key] == token for key, token in tokens)


async def test_hundreds_of_consumers_in_a_process_share_what_there_is(engine: Valkey) -> None:
    done: Counter[int] = Counter()
    broker = await engine.broker()
    with fail_after(HOURS):
        async with create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("work", default_lease_timeout=60.0)

            async def consume() -> None:
                async for lease in queue:
                    async with lease:
                        await sleep(0.05)
                    done[lease.key] += 1

            for _ in range(500):
                tg.start_soon(consume)
            await queue.put_many({number: number for number in range(1000)})
            await queue.join()
            await eventually(lambda: done.total() == 1000)
            statistics = await queue.statistics()
            assert (statistics.delivered, statistics.expired) == (1000, 0)
            tg.cancel_scope.cancel()
    assert set(done.values()) == {1}


@pytest.mark.parametrize("hours", [-5.0, 7.0], ids=["behind", "ahead"])
async def test_a_clock_that_is_hours_off_makes_no_difference(
    engine: Valkey, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + hours * HOURS)
    with fail_after(HOURS):
        async with create_task_group() as tg:
            one, other = await engine.handles(default_lease_timeout=60.0)
            await tg.start(one.run)
            await tg.start(other.run)
            await one.put("a", 1)
            _, _, lease = await one.get()
            began = anyio.current_time()
            assert abs(lease.token - wall() * 1e6) < HOURS * 1e6  # the server's time
            _, _, again = await other.get()  # when that has expired
            assert 55.0 < anyio.current_time() - began < 65.0
            assert again.token > lease.token
            assert lease.ended == "lost"
            tg.cancel_scope.cancel()
