"""Transactions, held to what the same calls do one after another, and to a crowd that is cancelled.

The contract suite has what each of them promises; here they are many, and drawn at random.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import CancelScope, WouldBlock, create_task_group
from anyio.lowlevel import checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leaseq import Lease, LeasedKeyQueue, LeaseqError, MemoryBroker, Retry, TransactionError
from leaseq._core.reports import KeyState

Queue = LeasedKeyQueue[str, Any]
Step = tuple[Any, ...]

QUEUES = ("orders", "invoices")
STATES: tuple[KeyState, ...] = ("ready", "delayed", "leased")
KEYS = "abc"
gets = st.tuples(st.just("get"), st.sampled_from(QUEUES))


def puts(names: st.SearchStrategy[str], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Step]:
    policies = st.sampled_from(["update", "reject", "buffer", "buffer"])
    tenants = st.sampled_from([None, None, "ada"])
    return st.tuples(st.just("put"), names, keys, st.integers(0, 9), policies, tenants)


def settlements(
    names: st.SearchStrategy[str], keys: st.SearchStrategy[str]
) -> st.SearchStrategy[Step]:
    return st.tuples(st.sampled_from(["ack", "release", "reject"]), names, keys)


@st.composite
def transactions(draw: st.DrawFn) -> tuple[list[Step], str]:
    """Some steps, mostly about one key, and how the block ends."""
    names, keys = st.sampled_from(QUEUES), st.sampled_from(KEYS)
    name, key = st.just(draw(names)), st.just(draw(keys))
    step = puts(name, key) | puts(name, keys) | settlements(name, key)
    if draw(st.booleans()):
        step |= puts(names, keys) | settlements(names, keys)
    steps = draw(st.lists(step, min_size=1, max_size=6))
    return steps, draw(st.sampled_from(["end", "end", "end", "end", "raise", "cancel"]))


def put(key: str, policy: str = "update", tenant: str | None = None) -> list[Step]:
    return [("put", "orders", key, 1, policy, tenant)]


LEASE = ("get", "orders")
ACK: list[Step] = [("ack", "orders", "a")]
RELEASE: list[Step] = [("release", "orders", "a")]

programs = st.lists(gets | transactions(), min_size=3, max_size=16)


class World:
    """Two small queues, and the leases on their items."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.queues: dict[str, Queue] = {}
        self.leases: dict[tuple[str, str], Lease[str, Any]] = {}

    async def make(self) -> World:
        for name in QUEUES:
            self.queues[name] = await self.broker.queue(
                name,
                max_size=2,
                retry=Retry(max_deliveries=2),
                dead_letters="lost",
                dedupe_for=60 if name == "invoices" else None,
            )
        self.queues["lost"] = await self.broker.queue("lost")
        return self

    def get(self, name: str) -> str | None:
        with suppress(WouldBlock):
            key, _, lease = self.queues[name].get_nowait()
            self.leases[name, key] = lease
            return key
        return None

    def possible(self, steps: list[Step]) -> list[Step]:
        return [step for step in steps if step[0] == "put" or step[1:] in self.leases]

    def do(self, step: Step) -> None:
        """Do a step at once."""
        what, name, key, *rest = step
        queue = self.queues[name]
        if what == "put":
            value, policy, tenant = rest
            queue.put_nowait(key, value, if_in_flight=policy, tenant=tenant)
        elif what == "ack":
            queue.ack_nowait(self.leases[name, key])
        elif what == "release":
            queue.release_nowait(self.leases[name, key])
        else:
            queue.reject_nowait(self.leases[name, key], "no")

    def ask(self, tx: Any, step: Step) -> None:
        """Ask a transaction to do it."""
        what, name, key, *rest = step
        if what == "put":
            value, policy, tenant = rest
            tx.put(self.queues[name], key, value, if_in_flight=policy, tenant=tenant)
        elif what == "reject":
            tx.reject(self.leases[name, key], "no")
        else:
            getattr(tx, what)(self.leases[name, key])

    def look(self) -> object:
        """All that there is to see."""
        return [
            [
                sorted(
                    (item.key, value_of(item.value), item.deliveries)
                    for item in ledger.items(state)
                )
                for state in STATES
            ]
            + [ledger.buffered, [ledger.look(key)[1] for key in KEYS]]
            for queue in self.queues.values()
            for ledger in [queue._engine.ledger]
            if queue.name != "lost"
        ] + [sorted(letter.key for letter in self.queues["lost"]._engine.letters())]


def value_of(value: object) -> str:
    return repr(value)


async def check_program(program: list[Any]) -> None:
    """Run a program in a world with an onlooker, and its parts one by one in another world."""
    world, twin = await World().make(), await World().make()
    log: list[Any] = []  # what was done so far
    seen: list[object] = []

    async def look_on() -> None:
        while True:
            seen.append(world.look())
            await checkpoint()

    async with create_task_group() as tg:
        tg.start_soon(look_on)
        for first, last in program:
            if first == "get":
                assert world.get(last) == twin.get(last)
                log.append((first, last))
                continue
            steps = world.possible(first)
            before = world.look()
            seen.clear()
            try:
                with CancelScope() as scope:
                    async with world.broker.transaction() as tx:
                        for step in steps:
                            world.ask(tx, step)
                            await checkpoint()
                        if last == "raise":
                            raise KeyError
                        if last == "cancel":
                            scope.cancel()
                            await checkpoint()
                done = last == "end"
            except KeyError:
                done = False
            except TransactionError:
                done = False
                with pytest.raises((LeaseqError, ValueError, WouldBlock)):
                    await do_again(log, steps)
            assert all(sight == before for sight in seen)
            await checkpoint()
            await checkpoint()
            if done:
                for step in steps:
                    twin.do(step)
                log.append((steps, last))
                assert set(map(repr, seen)) <= {repr(before), repr(world.look())}
            assert world.look() == (twin.look() if done else before)
        tg.cancel_scope.cancel()


async def do_again(log: list[Any], steps: list[Step]) -> None:
    """Do what was done so far, and then some steps, in a new world."""
    world = await World().make()
    for first, last in log:
        if first == "get":
            world.get(last)
        else:
            for step in first:
                world.do(step)
    for step in steps:
        world.do(step)


@pytest.mark.parametrize("examples", [50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_a_transaction_does_what_its_steps_do_and_nobody_sees_a_part_of_it(
    library: str, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(program=programs)
    @example([(put("a"), "end"), LEASE, (put("a", "buffer") + ACK + put("a", tenant="ada"), "end")])
    @example([(put("a") + put("b"), "end"), LEASE, (RELEASE + put("c"), "end")])
    def check(program: list[Any]) -> None:
        anyio.run(check_program, program, backend=library)

    check()


# A crowd

WORKERS = 6


class Crowd:
    """Workers that hand items over from one queue to the other, and are cancelled at random."""

    def __init__(self, ping: Queue, pong: Queue, done: Queue, broker: MemoryBroker) -> None:
        self.ways = [(ping, pong), (pong, ping)]
        self.done = done
        self.broker = broker
        self.over = False
        self.cancels: dict[int, Any] = {}
        self.cancelled = 0

    async def turn(self, source: Queue, target: Queue) -> None:
        async with source.lease() as lease, self.broker.transaction() as tx:
            tx.ack(lease)
            if lease.value:
                tx.put(target, lease.key, lease.value - 1)
            else:
                tx.put(self.done, lease.key, None, if_in_flight="reject")
            await checkpoint()

    async def work(self, number: int) -> None:
        """Take turns, each in a scope of its own."""
        while not self.over:
            with CancelScope() as scope:
                self.cancels[number] = scope.cancel
                await self.turn(*self.ways[number % 2])
            self.cancelled += scope.cancelled_caught

    async def work_natively(self, number: int) -> None:
        """Take turns, and go on after each `Task.cancel`."""
        task = asyncio.current_task()
        assert task is not None
        self.cancels[number] = task.cancel
        while not self.over:
            try:
                await self.turn(*self.ways[number % 2])
            except asyncio.CancelledError:
                if self.over:
                    raise
                task.uncancel()
                self.cancelled += 1


@pytest.mark.anyio
@pytest.mark.parametrize("items", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_items_are_handed_over_and_none_is_lost_or_doubled(
    native: bool, items: int
) -> None:
    draw = random.Random(5)
    async with MemoryBroker() as broker:
        ping, pong, done = [await broker.queue(name) for name in ("ping", "pong", "done")]
        keys = [str(number) for number in range(items)]
        ping.put_many_nowait((key, 1) for key in keys[::2])
        pong.put_many_nowait((key, 1) for key in keys[1::2])
        crowd = Crowd(ping, pong, done, broker)
        async with create_task_group() as tg:
            for number in range(WORKERS):
                tg.start_soon(crowd.work_natively if native else crowd.work, number)
            while await done.qsize() < items:
                await checkpoint()
                if draw.random() < 0.2:
                    crowd.cancels[draw.randrange(WORKERS)]()
            crowd.over = True
            tg.cancel_scope.cancel()
        assert crowd.cancelled > items // 20
        assert Counter(key for key, _ in done.drain_nowait()) == Counter(keys)
        for queue in (ping, pong):
            statistics = await queue.statistics()
            assert (statistics.ready, statistics.leased) == (0, 0)
            assert (statistics.acked, statistics.put) == (items, items)


class BrokenRetry(Retry):
    """A policy that cannot say how long an item rests."""

    def delay(self, deliveries: int) -> float:
        raise ArithmeticError


@pytest.mark.anyio
async def test_a_policy_that_raises_does_so_before_the_first_step_is_done() -> None:
    async with create_task_group() as tg, MemoryBroker() as broker:
        await tg.start(broker.run)
        queue = await broker.queue("orders", retry=BrokenRetry())
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        with pytest.raises(TransactionError, match="ArithmeticError") as caught:
            async with broker.transaction() as tx:
                tx.put(queue, "b", 1)
                tx.release(lease)
        assert await queue.available_keys() == set()
        assert [type(failure) for failure in caught.value.failures] == [ArithmeticError]
        assert lease.ended is None
