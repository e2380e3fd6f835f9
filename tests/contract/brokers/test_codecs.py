"""``type=`` and ``codec=``: a value comes out as it went in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.contract.helpers import lease_of

from leaseq import Broker, BrokerQueueOptions, Codec, DeadLetter, LeasedQueue

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]


@dataclass(frozen=True)
class Line:
    """A part of an order."""

    article: str
    count: int


@dataclass(frozen=True)
class Order:
    """A value that JSON has no type for."""

    number: int
    lines: tuple[Line, ...] = field(default=())


ORDER = Order(7, (Line("nut", 2), Line("bolt", 1)))


class Words:
    """A codec for sets of words."""

    def encode(self, value: frozenset[str], /) -> bytes:
        return " ".join(sorted(value)).encode()

    def decode(self, body: bytes, /) -> frozenset[str]:
        return frozenset(body.decode().split())

    def __repr__(self) -> str:
        return "Words()"


WORDS: Codec[frozenset[str]] = Words()

each_handle = pytest.mark.parametrize(
    ("has", "asked"),
    [
        ({"type": Order}, {"type": Line}),
        ({"type": Order}, {"codec": WORDS}),
        ({"codec": WORDS}, {"type": Order}),
        ({}, {"type": Order}),
        ({}, {"codec": WORDS}),
    ],
    ids=["type", "type and codec", "codec and type", "no type", "no codec"],
)


@pytest.fixture
async def typed(broker: Broker) -> LeasedQueue[str, Any]:
    queue, _ = await broker.create_queue_pair("typed", type=Order, history=1)
    return queue


async def test_a_value_comes_back_as_what_it_was(typed: LeasedQueue[str, Any]) -> None:
    await typed.put("a", ORDER)
    _, value, lease = await typed.get()
    assert value == lease.value == ORDER


async def test_it_is_what_it_was_wherever_it_is_seen(typed: LeasedQueue[str, Any]) -> None:
    await typed.put_many([("a", ORDER), ("b", ORDER)])
    assert await typed.peek("a") == ORDER
    [first, second] = await typed.get_batch(2)
    assert first.value == second.value == ORDER
    assert (await typed.lease_of(first.receipt)).value == ORDER
    await first.ack()
    [done] = await typed.history()
    assert done.value == ORDER


async def test_an_update_in_flight_is_what_it_was(typed: LeasedQueue[str, Any]) -> None:
    lease = await lease_of(typed, "a", Order(1))
    await typed.put("a", ORDER)
    await lease.release()
    _, value, _ = await typed.get()
    assert value == ORDER


async def test_what_a_transaction_puts_is_what_it_was(
    broker: Broker, typed: LeasedQueue[str, Any]
) -> None:
    async with broker.transaction() as tx:
        tx.put(typed, "a", ORDER)
    assert (await typed.get())[1] == ORDER


async def test_a_dead_letter_has_the_value_as_it_was(
    broker: Broker, typed: LeasedQueue[str, Any]
) -> None:
    await (await lease_of(typed, "a", ORDER)).reject("no such article")
    _, letter, _ = await (await broker.dead_letters("typed")).get()
    assert isinstance(letter, DeadLetter)
    assert letter.value == ORDER


async def test_a_value_that_is_brought_back_is_what_it_was(typed: LeasedQueue[str, Any]) -> None:
    await (await lease_of(typed, "a", ORDER)).reject("no such article")
    await typed.redrive()
    assert (await typed.get())[1] == ORDER


async def test_a_type_may_be_made_of_types(broker: Broker) -> None:
    queue = await broker.queue("lists", type=list[Order] | None)
    await queue.put_many([("a", [ORDER]), ("b", None)])
    assert [(await queue.get())[1] for _ in range(2)] == [[ORDER], None]


async def test_a_codec_is_used_in_place_of_json(broker: Broker) -> None:
    queue = await broker.queue("words", codec=WORDS)
    words = frozenset({"nut", "bolt"})
    await queue.put("a", words)
    assert await queue.peek("a") == words
    assert (await queue.get())[1] == words


# Asked for again


@pytest.mark.parametrize("options", [{"type": Order}, {"codec": WORDS}])
async def test_what_is_asked_for_again_is_the_same_or_left_out(
    broker: Broker, options: BrokerQueueOptions
) -> None:
    await broker.queue("orders", **options)
    await broker.queue("orders", **options)
    await broker.queue("orders")


@each_handle
async def test_another_type_or_codec_is_refused(
    broker: Broker, has: BrokerQueueOptions, asked: BrokerQueueOptions
) -> None:
    await broker.queue("orders", **has)
    [name] = asked
    with pytest.raises(ValueError, match=f"'orders' has {name}=.*, .* asked for with {name}="):
        await broker.queue("orders", **asked)


async def test_a_type_beside_a_codec_is_refused(broker: Broker) -> None:
    with pytest.raises(ValueError, match="leave type= out"):
        await broker.queue("orders", type=Order, codec=WORDS)
    assert await broker.list_queues() == []
