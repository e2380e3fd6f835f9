"""Groups: queues that belong together, and the transactions over them."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import create_task_group, fail_after
from tests.contract.helpers import TIMEOUT, BrokerEngine, in_line, lease_of, until

from leaseq import Broker, Lease, LeasedQueue, QueueClosedError, TransactionError

pytestmark = [pytest.mark.anyio, pytest.mark.needs("brokers")]

AnyQueue = LeasedQueue[str, Any]


async def groups(broker: Broker) -> dict[str, str]:
    """The group of each queue, as the broker lists them."""
    return {info.name: info.group for info in await broker.list_queues()}


async def test_a_queue_has_the_group_that_it_was_made_with(broker: Broker) -> None:
    orders = await broker.queue("orders", group="shop")
    await orders.put("a", 1)
    assert (orders.group, (await orders.info()).group) == ("shop", "shop")
    assert await groups(broker) == {"orders": "shop"}
    assert await in_line(await broker.queue("orders")) == ["a"]


async def test_the_broker_s_own_group_has_no_name(broker: Broker) -> None:
    own = await broker.queue("own", group="")
    assert (own.group, (await own.info()).group) == ("", "")
    usual, none = await broker.queue("usual"), await broker.queue("none", group=None)
    assert await groups(broker) == {"own": "", "usual": usual.group, "none": none.group}


async def test_none_is_as_if_it_was_left_out(broker: Broker) -> None:
    await broker.queue("orders", group="shop")
    assert (await broker.queue("orders", group=None)).group == "shop"
    with pytest.raises(ValueError, match=r"'orders' has group='shop', .* group='': leave it out"):
        await broker.queue("orders", group="")


async def test_a_name_is_one_queue_in_whatever_group(broker: Broker) -> None:
    queue, _ = await broker.create_queue_pair("orders", group="shop")
    await queue.put("a", 1)
    for other in ("bank", ""):
        with pytest.raises(ValueError, match=f"has group='shop', and was asked for .*'{other}'"):
            await broker.queue("orders", group=other)
        with pytest.raises(ValueError, match="has group='shop'"):
            await broker.queue("orders", group=other, make=False)
        with pytest.raises(ValueError, match="has group='shop'"):
            await broker.create_queue_pair("orders", group=other)
    assert await groups(broker) == {"orders": "shop", "orders.dead": "shop"}


@pytest.mark.parametrize("group", [" ", "two words", "-a", "a/b", "ä", "a\n", "{a}", "a" * 65, "*"])
async def test_a_bad_group_is_refused_with_the_rule(broker: Broker, group: str) -> None:
    with pytest.raises(ValueError, match=r"invalid group .* use 1 to 64 letters, digits or \. _"):
        await broker.queue("orders", group=group)
    with pytest.raises(TypeError, match="group must be a str"):
        await broker.queue("orders", group=7)  # type: ignore[arg-type]
    assert await broker.list_queues() == []


async def test_dead_letters_go_with_their_queue(broker: Broker) -> None:
    orders, dead = await broker.create_queue_pair("orders", group="shop")
    assert (orders.group, dead.group) == ("shop", "shop")
    assert await groups(broker) == {"orders": "shop", "orders.dead": "shop"}
    await (await lease_of(orders, "a")).reject("bad")
    assert [info.dead_letters_of for info in await broker.list_queues()] == [(), ("orders",)]
    assert (await dead.info()).dead_letters_of == ("orders",)
    assert (await orders.info()).dead == 1
    assert (await orders.redrive()).keys == ("a",)
    assert (await broker.queue("orders.dead")).group == "shop"


async def test_a_queue_goes_where_its_dead_letters_are(broker: Broker) -> None:
    await broker.queue("lost", group="shop")
    orders = await broker.queue("orders", dead_letters="lost")
    invoices = await broker.queue("invoices", dead_letters="lost", group="shop")
    assert (orders.group, invoices.group) == ("shop", "shop")


@pytest.mark.parametrize(("theirs", "mine"), [("shop", "bank"), ("", "bank"), ("shop", "")])
async def test_dead_letters_of_another_group_are_refused_with_what_to_write(
    broker: Broker, theirs: str, mine: str
) -> None:
    await broker.queue("lost", group=theirs)
    said = rf"'lost' is .*, and cannot have the dead letters of 'orders'.* write group='{theirs}'"
    with pytest.raises(ValueError, match=said):
        await broker.queue("orders", dead_letters="lost", group=mine)
    with pytest.raises(ValueError, match=said):
        await broker.create_queue_pair("orders", dead_letters="lost", group=mine)
    assert await groups(broker) == {"lost": theirs}


async def test_the_group_of_a_queue_that_is_there_comes_before_that_of_its_dead_letters(
    broker: Broker,
) -> None:
    orders, dead = await broker.create_queue_pair("orders", group="shop")
    await orders.close()
    await dead.close()  # no handle knows the group any more
    said = "queue 'orders' has group='shop', and was asked for with group='bank'"
    with pytest.raises(ValueError, match=said):
        await broker.create_queue_pair("orders", group="bank")
    with pytest.raises(ValueError, match=said):
        await broker.queue("orders", dead_letters="orders.dead", group="bank")


async def test_a_transaction_is_on_queues_of_one_group(broker: Broker) -> None:
    orders, dead = await broker.create_queue_pair("orders", group="shop")
    invoices = await broker.queue("invoices", group="shop")
    lease = await lease_of(orders, "a")
    async with broker.transaction() as tx:
        tx.ack(lease)
        tx.put(invoices, "a", 1)
    assert await in_line(invoices) == ["a"]
    letter = await lease_of(dead, "b")
    async with broker.transaction() as tx:
        tx.put(orders, "b", 1)
        tx.ack(letter)
    assert await in_line(orders) == ["b"]


@pytest.mark.parametrize("group", ["bank", ""])
async def test_a_step_on_another_group_is_refused_immediately(broker: Broker, group: str) -> None:
    orders = await broker.queue("orders", group="shop")
    invoices = await broker.queue("invoices", group=group)
    here, there = await lease_of(orders, "a"), await lease_of(invoices, "b")
    said = (
        r"one group: 'invoices' is in .*(bank|own).*, and 'orders', of its first step, in group "
        r"'shop'; make both with the same group="
    )
    with pytest.raises(ZeroDivisionError):
        async with broker.transaction() as tx:
            tx.ack(here)
            with pytest.raises(ValueError, match=said):
                tx.put(invoices, "c", 1)
            with pytest.raises(ValueError, match=said):
                tx.add(invoices, 1)
            for settle in (tx.ack, tx.release, lambda lease: tx.reject(lease, "bad")):
                with pytest.raises(ValueError, match=said):
                    settle(there)
            raise ZeroDivisionError
    async with broker.transaction() as tx:
        tx.put(orders, "d", 1)
        with pytest.raises(ValueError, match=said):
            tx.put(invoices, "d", 1)
    assert await in_line(orders) == ["d"]
    await there.ack()  # no transaction has it
    assert await invoices.qsize() == 0


async def test_a_step_that_was_refused_does_not_decide_on_the_group(broker: Broker) -> None:
    orders = await broker.queue("orders", group="shop")
    invoices = await broker.queue("invoices", group="bank")
    async with broker.transaction() as tx:
        with pytest.raises(ValueError, match="if_in_flight"):
            tx.put(orders, "a", 1, if_in_flight="never")  # type: ignore[arg-type]
        tx.put(invoices, "a", 1)
    assert await in_line(invoices) == ["a"]


async def test_a_transaction_in_a_group_is_all_or_nothing(broker: Broker) -> None:
    orders = await broker.queue("orders", group="shop")
    small = await broker.queue("small", group="shop", max_size=1)
    await small.put("a", 1)
    with pytest.raises(TransactionError):
        async with broker.transaction() as tx:
            tx.put(orders, "b", 1)
            tx.put(small, "b", 1)
    assert await orders.qsize() == 0


async def test_operators_see_and_change_queues_of_all_groups(broker: Broker) -> None:
    for name, group in {"orders": "shop", "bills": "bank", "other": ""}.items():
        queue, _ = await broker.create_queue_pair(name, group=group)
        await queue.put_many({"a": 1, "b": 2})
    assert [*await groups(broker)] == [
        *("orders", "orders.dead", "bills", "bills.dead", "other", "other.dead")
    ]
    assert [info.ready for info in await broker.list_queues()] == [2, 0, 2, 0, 2, 0]
    assert await broker.purge("bills") == 2
    assert (await broker.dead_letters("orders")).group == "shop"
    with pytest.raises(ValueError, match="holds the dead letters of 'bills'"):
        await broker.delete_queue("bills.dead")
    await broker.delete_queue("bills")
    await broker.delete_queue("other", dead_letters=False)
    assert await groups(broker) == {"orders": "shop", "orders.dead": "shop", "other.dead": ""}
    with pytest.raises(LookupError):
        await broker.queue("bills", make=False)


@pytest.mark.parametrize("after", ["bank", "", "shop"])
async def test_a_queue_that_was_deleted_may_be_made_in_another_group(
    broker: Broker, after: str
) -> None:
    old, _ = await broker.create_queue_pair("orders", group="shop", history=1)
    await old.put("a", 1)
    await broker.delete_queue("orders")
    assert old.closed
    new, _ = await broker.create_queue_pair("orders", group=after, history=2)
    assert await in_line(new) == []
    await new.put("b", 1)
    assert await in_line(await broker.queue("orders")) == ["b"]
    assert await groups(broker) == {"orders": after, "orders.dead": after}


@pytest.mark.needs("advance")
@pytest.mark.parametrize("runs", [False, True])
async def test_items_of_all_groups_are_given_up_when_their_time_is_over(
    engine: BrokerEngine, runs: bool
) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        pairs = [
            await broker.create_queue_pair(name, group=group)
            for name, group in {"orders": "shop", "bills": "bank", "other": ""}.items()
        ]
        if runs:
            await tg.start(broker.run)
        for queue, _ in pairs:
            await queue.put("a", 1, ttl=TIMEOUT)
        await engine.advance(TIMEOUT + 1)
        assert await broker.process_expired() == (0 if runs else 3)
        for _, letters in pairs:
            assert await letters.qsize() == 1


async def test_consumers_of_all_groups_are_woken(broker: Broker) -> None:
    """Under a `run` that was there before the groups."""
    got: list[str] = []

    async def consume(queue: AnyQueue) -> None:
        _, _, lease = await queue.get(lease_timeout=TIMEOUT)
        await lease.ack()
        got.append(queue.name)

    queues = [await broker.queue(f"{group}s", group=group) for group in ("a", "b", "c")]
    with fail_after(5):
        async with create_task_group() as tg:
            for queue in queues:
                tg.start_soon(consume, queue)
            for queue in queues:
                await until(queue, getters=1)
            for queue in queues:
                await queue.put("x", 1, delay=0.001)
            for queue in queues:
                await queue.join()
    assert sorted(got) == ["as", "bs", "cs"]


async def test_the_end_of_a_broker_is_the_end_of_all_groups(engine: BrokerEngine) -> None:
    waiting: list[AnyQueue] = []

    async def wait(queue: AnyQueue) -> None:
        waiting.append(queue)
        with pytest.raises(QueueClosedError):
            await queue.get()
        waiting.remove(queue)

    async with create_task_group() as tg:
        async with await engine.broker() as broker:
            leases: list[Lease[str, Any]] = []
            for group in ("a", "b", ""):
                queue = await broker.queue(f"q{group}", group=group)
                leases.append(await lease_of(queue, "x"))
                tg.start_soon(wait, queue)
                await until(queue, getters=1)
            assert len(waiting) == 3
        assert [lease.ended for lease in leases] == ["lost"] * 3
    assert not waiting
