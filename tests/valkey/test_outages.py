"""Clients of a server that does calls late, loses replies, or has another time than they.

On time without its idle parts, and with connections that are made to fail here. What the server has
no part in is in `tests.remote.test_outages`. Servers, nodes and processes that do fail are in the
modules `test_crashes`, `test_cluster`, `test_nights` and `test_soak`, which take minutes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, sleep
from tests.remote.mishaps import Call, connection_lost, exchanges_go_through
from tests.servers import Server
from tests.valkey.engine import Valkey

from leaseq import (
    Backoff,
    DeadLetter,
    LeasedQueue,
    LeaseLostError,
    Retry,
    ServerUnavailableError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("skipping")]

HOURS = 3600.0


@pytest.fixture
async def engine(anyio_backend: object, shared_server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(shared_server.url)
    yield made
    await made.close()


class Shift:
    """Producers and consumers, each with a broker whose calls are lost, late, or done in vain."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.put: set[str] = set()
        self.taken: set[tuple[str, int]] = set()
        self.acked: set[tuple[str, int]] = set()
        self.in_hand: set[str] = set()
        self.is_over = False

    def way(self, call: Call) -> Call:
        """How a broker's calls go."""

        async def unreliable(*args: Any) -> Any:
            fate = self.chance.random()
            if fate < 0.1:
                raise connection_lost()
            if fate < 0.2:
                await sleep(self.chance.uniform(0.0, 3.0))
            reply = await call(*args)
            if fate > 0.9:
                raise connection_lost()
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
            try:
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
            except (LeaseLostError, FailedError):
                continue
            except ServerUnavailableError:
                if not self.is_over:  # then nobody asks again whether it was done
                    raise
            else:
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
            shift.is_over = True
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
