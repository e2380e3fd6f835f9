"""Queues by name: `queue`, its options, `create_queue_pair` and `dead_letters`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from tests.contract.helpers import in_line, lease_of

from leaseq import Broker, BrokerQueueOptions, LeasedKeyQueue, Retry, Tenant

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

each_option = pytest.mark.parametrize(
    ("has", "asked"),
    [
        ({"default_lease_timeout": 60.0}, {"default_lease_timeout": 30.0}),
        ({"max_size": 10}, {"max_size": 20}),
        ({"retry": Retry(3)}, {"retry": Retry(5)}),
        ({"dead_letters": "some"}, {"dead_letters": "others"}),
        ({"tenants": {"a": Tenant(2.0)}}, {"tenants": {"a": Tenant(3.0)}}),
        ({"history": 5}, {"history": 6}),
        ({"dedupe_for": 60.0}, {"dedupe_for": 30.0}),
        ({"group": "shop"}, {"group": "bank"}),
    ],
    ids=lambda options: next(iter(options)),
)

bad_names = pytest.mark.parametrize(
    "name", ["", " ", "two words", "-a", ".a", "a/b", "ä", "a\n", "{a}", "a" * 129]
)

RULE = "use 1 to 128 letters, digits or . _ - :, starting with a letter or digit"


def told(options: BrokerQueueOptions) -> str:
    [(name, value)] = options.items()
    return re.escape(f"{name}={value!r}")


async def test_a_queue_is_made_when_it_is_asked_for(broker: Broker) -> None:
    queue = await broker.queue("orders")
    assert queue.name == "orders"
    await queue.put("a", 1)
    assert await in_line(queue) == ["a"]


async def test_a_queue_that_is_not_there_need_not_be_made(broker: Broker) -> None:
    with pytest.raises(LookupError, match="there is no queue 'orders'"):
        await broker.queue("orders", make=False)
    assert await broker.list_queues() == []
    made = await broker.queue("orders", max_size=3, dead_letters="lost")
    await made.put("a", 1)
    there = await broker.queue("orders", make=False)
    assert await in_line(there) == ["a"]
    with pytest.raises(ValueError, match="max_size=3"):
        await broker.queue("orders", make=False, max_size=4)


async def test_a_name_stands_for_one_queue(broker: Broker) -> None:
    await (await broker.queue("orders")).put("a", 1)
    assert await in_line(await broker.queue("orders")) == ["a"]


async def test_queues_of_different_names_have_nothing_in_common(broker: Broker) -> None:
    await (await broker.queue("orders")).put("a", 1)
    assert await in_line(await broker.queue("invoices")) == []


@each_option
async def test_an_option_that_differs_is_refused_with_both_values(
    broker: Broker, has: BrokerQueueOptions, asked: BrokerQueueOptions
) -> None:
    await broker.queue("orders", **has)
    with pytest.raises(ValueError, match=f"'orders' has {told(has)}, .* {told(asked)}"):
        await broker.queue("orders", **asked)


@each_option
async def test_an_option_that_was_left_out_is_refused_later(
    broker: Broker, has: BrokerQueueOptions, asked: BrokerQueueOptions
) -> None:
    await broker.queue("orders")
    with pytest.raises(ValueError, match=f"'orders' has {next(iter(has))}=.* {told(asked)}"):
        await broker.queue("orders", **asked)


@each_option
async def test_options_that_are_the_same_or_left_out_are_as_they_are(
    broker: Broker, has: BrokerQueueOptions, asked: BrokerQueueOptions
) -> None:
    await broker.queue("orders", **has)
    await broker.queue("orders", **has)
    await broker.queue("orders")
    with pytest.raises(ValueError, match=told(has)):
        await broker.queue("orders", **asked)


async def test_a_queue_does_as_its_options_say(broker: Broker) -> None:
    queue = await broker.queue("orders", retry=Retry(max_deliveries=2))
    for _ in range(2):
        lease = await lease_of(queue, "a")
        await lease.release()
    assert await queue.state("a") == "absent"


async def test_an_option_that_there_is_not_is_refused(broker: Broker) -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match="has no option 'colour': it has make, default_lease"):
            await broker.queue("orders", colour="red")  # type: ignore[call-arg]
        assert await broker.list_queues() == []


async def test_what_a_queue_cannot_be_made_with_makes_nothing(broker: Broker) -> None:
    await broker.queue("lost")
    for letters in ("orders.dead", "lost"):
        with pytest.raises(ValueError, match="max_size"):
            await broker.queue("orders", dead_letters=letters, max_size=0)
    [lost] = await broker.list_queues()
    assert (lost.name, lost.dead_letters_of) == ("lost", ())


@pytest.mark.parametrize("name", ["a", "A", "1", "a.b", "eu-west:orders_2", "a" * 128])
async def test_a_name_has_letters_digits_and_some_marks(broker: Broker, name: str) -> None:
    assert (await broker.queue(name)).name == name


@bad_names
async def test_any_other_name_is_refused_with_the_rule(broker: Broker, name: str) -> None:
    for ask in (broker.queue(name), broker.queue("orders", dead_letters=name)):
        with pytest.raises(ValueError, match=re.escape(f"invalid queue name {name!r}: {RULE}")):
            await ask
    with pytest.raises(ValueError, match=RULE):
        await broker.create_queue_pair(name)
    assert await broker.list_queues() == []


# Queues and their dead letters


async def test_a_pair_is_a_queue_and_its_dead_letters(broker: Broker) -> None:
    queue, letters = await broker.create_queue_pair("orders")
    assert (queue.name, letters.name) == ("orders", "orders.dead")
    await (await lease_of(queue, "a", 1)).reject("no such customer")
    _, letter, _ = await letters.get()
    assert (letter.queue, letter.key, letter.value) == ("orders", "a", 1)
    assert letter.reason == "no such customer"


async def test_a_pair_that_is_there_is_given_again(broker: Broker) -> None:
    queue, _ = await broker.create_queue_pair("orders", history=3)
    await (await lease_of(queue, "a")).reject("no")
    _, letters = await broker.create_queue_pair("orders")
    assert await letters.qsize() == 1


async def test_a_pair_can_name_its_dead_letters(broker: Broker) -> None:
    _, letters = await broker.create_queue_pair("orders", dead_letters="lost")
    assert letters.name == "lost"
    _, letters = await broker.create_queue_pair("orders")
    assert letters.name == "lost"


async def test_a_queue_without_dead_letters_makes_no_pair(broker: Broker) -> None:
    await broker.queue("orders")
    with pytest.raises(ValueError, match=r"dead_letters=None, .* dead_letters='orders\.dead'"):
        await broker.create_queue_pair("orders")
    with pytest.raises(ValueError, match="dead_letters=None"):
        await broker.create_queue_pair("invoices", dead_letters=None)
    assert [info.name for info in await broker.list_queues()] == ["orders"]


async def test_a_name_leaves_room_for_that_of_the_dead_letters(broker: Broker) -> None:
    with pytest.raises(ValueError, match=r"a\.dead':"):
        await broker.create_queue_pair("a" * 124)
    assert await broker.list_queues() == []


async def test_the_dead_letters_of_a_queue_are_found_by_its_name(broker: Broker) -> None:
    await broker.queue("orders", dead_letters="lost")
    assert (await broker.dead_letters("orders")).name == "lost"


async def test_there_are_no_dead_letters_where_there_are_none(broker: Broker) -> None:
    with pytest.raises(LookupError, match="there is no queue 'orders'"):
        await broker.dead_letters("orders")
    await broker.queue("orders")
    with pytest.raises(LookupError, match="'orders' has no queue of dead letters"):
        await broker.dead_letters("orders")


async def test_two_queues_can_share_their_dead_letters(broker: Broker) -> None:
    for name in ("orders", "invoices"):
        queue = await broker.queue(name, dead_letters="lost")
        await (await lease_of(queue, "a")).reject("no")
    assert await (await broker.queue("lost")).qsize() == 2


async def test_a_queue_is_not_its_own_queue_of_dead_letters(broker: Broker) -> None:
    with pytest.raises(ValueError, match="'orders' cannot be its own"):
        await broker.queue("orders", dead_letters="orders")


async def test_dead_letters_are_redriven(broker: Broker) -> None:
    queue, letters = await broker.create_queue_pair("orders")
    await letters.put("by hand", "not a letter")  # type: ignore[arg-type]
    await (await lease_of(queue, "a")).reject("no")
    assert (await queue.redrive()).keys == ("a",)
    assert await in_line(queue) == ["a"]
    assert await in_line(letters) == ["by hand"]


class Odd(str):
    """A string that encodes, hashes and compares as another one."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __str__(self) -> str:
        return "other"

    def __format__(self, spec: str) -> str:
        return "other"

    def encode(self, *_: object) -> bytes:
        return b"other"


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "", "a/b"])
async def test_a_name_that_no_queue_can_have_is_refused_by_every_call(
    broker: Broker, name: str
) -> None:
    calls: list[Callable[[str], Awaitable[object]]] = [
        broker.queue,
        broker.create_queue_pair,
        broker.dead_letters,
        broker.delete_queue,
        broker.purge,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="invalid queue name"):
            await call(name)


async def test_a_queue_has_the_text_of_the_name_that_it_was_given(broker: Broker) -> None:
    queue = await broker.queue(Odd("mail"), dead_letters=Odd("lost"))
    assert (type(queue.name), queue.name) == (str, "mail")
    assert await broker.queue("mail", dead_letters="lost") is queue
    assert (await broker.dead_letters(Odd("mail"))).name == "lost"
    assert {each.name for each in await broker.list_queues()} == {"lost", "mail"}
    await broker.delete_queue(Odd("mail"))
    assert await broker.list_queues() == []


class OddInt(int):
    def __index__(self) -> int:
        return 7

    def __str__(self) -> str:
        return "7"

    __int__ = __index__
    __repr__ = __format__ = __str__  # type: ignore[assignment]


class OddBytes(bytes):
    def __bytes__(self) -> bytes:
        return b"other"

    def __radd__(self, other: object) -> bytes:
        return b"other"


async def test_a_key_is_the_text_or_number_that_it_was_made_with(broker: Broker) -> None:
    queue = await broker.queue("mail")
    for odd, plain in ((Odd("a"), "a"), (OddInt(3), 3), (OddBytes(b"b"), b"b")):
        await queue.put(odd, 1)
        if not isinstance(queue, LeasedKeyQueue):  # in this process a key is the object itself
            assert await queue.available_keys() == {plain}
            assert await queue.contains(plain)
            _, _, lease = await queue.take(odd, timeout=0)
            assert (type(lease.key), lease.key) == (type(plain), plain)
            await queue.release(lease)
            assert await queue.discard(odd)
