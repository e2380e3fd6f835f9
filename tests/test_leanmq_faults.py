"""What goes wrong in LeanMQ 0.2.0, and does not here.

LeanMQ needs a Redis server; so each test says what its code does, and shows what ours does.
"""

import pytest
from anyio import create_task_group, sleep

from leaseq import MemoryBroker, Retry

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_time_to_live_is_kept_though_nobody_calls_for_it() -> None:
    """`Queue.get_messages` does not look at the expiry set: only
    `LeanMQ.process_expired_messages` does, when somebody calls it.
    """
    async with create_task_group() as tg, MemoryBroker() as broker:
        queue, letters = await broker.create_queue_pair("orders")
        await queue.put("swept", 1, ttl=60)
        await tg.start(broker.run)
        await sleep(61)
        assert await letters.qsize() == 1


async def test_a_time_to_live_is_kept_by_the_hand_out_itself() -> None:
    """The same, where not even a timekeeper runs."""
    async with MemoryBroker() as broker:
        queue, letters = await broker.create_queue_pair("orders")
        await queue.put("stale", 1, ttl=60)
        await queue.put("fresh", 1)
        await sleep(61)
        assert [lease.key for lease in await queue.get_batch(2)] == ["fresh"]
        assert await letters.qsize() == 1


async def test_a_time_to_live_in_a_transaction_is_that_of_its_own_message() -> None:
    """`Transaction._execute` notes `len(self.messages) - 1` for each message with a ttl, when all
    of them are in the list already: the index of the last one, whosever the ttl is.
    """
    async with MemoryBroker() as broker:
        orders, invoices = [await broker.queue(name) for name in ("orders", "invoices")]
        async with broker.transaction() as tx:
            tx.put(orders, "short", 1, ttl=60)
            tx.put(orders, "long", 1, ttl=120)
            tx.put(invoices, "for ever", 1)
        await sleep(61)
        assert await broker.process_expired() == 1
        assert await orders.available_keys() == {"long"}
        await sleep(60)
        assert await broker.process_expired() == 1
        assert await invoices.available_keys() == {"for ever"}


async def test_a_consumer_that_dies_loses_its_messages_to_others() -> None:
    """`Queue.get_messages` reads new messages alone, ``">"``. Nothing claims what a consumer had
    and did not acknowledge.
    """
    async with create_task_group() as tg, MemoryBroker() as broker:
        queue = await broker.queue("orders", default_lease_timeout=30)
        await tg.start(broker.run)
        await queue.put("a", 1)
        await queue.get(consumer="worker-1")  # and is never heard of again
        key, _, lease = await queue.get()
        assert (key, lease.deliveries) == ("a", 2)


async def test_a_consumer_that_is_known_to_be_dead_loses_them_at_once() -> None:
    async with MemoryBroker() as broker:
        queue = await broker.queue("orders")
        await queue.put("a", 1)
        await queue.get(consumer="worker-1")
        assert await queue.release_all(consumer="worker-1") == 1
        key, _, _ = await queue.get(timeout=0)
        assert key == "a"


async def test_a_bad_message_is_not_acked_unseen() -> None:
    """`Queue.get_messages` acknowledges what it cannot parse, and goes on without it. Here a
    consumer that cannot read a message fails, and what fails is tried again and then kept.
    """
    async with MemoryBroker() as broker:
        queue, letters = await broker.create_queue_pair("orders", retry=Retry(max_deliveries=2))
        await queue.put("a", "{not JSON")
        for _ in range(2):
            with pytest.raises(TypeError):
                async with queue.lease() as lease:
                    lease.value["order_id"]
        _, letter, _ = await letters.get()
        assert (letter.value, letter.deliveries) == ("{not JSON", 2)
        assert letter.error is not None
        assert letter.error.startswith("TypeError")
        assert (await queue.statistics()).acked == 0


async def test_a_message_moves_to_the_dead_letters_in_one_step() -> None:
    """`Queue.move_to_dlq` adds a copy to one stream and acknowledges in the other, in two calls: a
    crash in between leaves it in both.
    """
    async with MemoryBroker() as broker:
        queue, letters = await broker.create_queue_pair("orders")
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        await lease.reject("Processing error")
        assert (await queue.info()).leased == 0
        assert await letters.qsize() == 1
        assert (await queue.redrive()).keys == ("a",)
        assert await letters.qsize() == 0


async def test_a_full_queue_drops_nothing() -> None:
    """`Queue.send_message` adds with ``maxlen=100000``: the oldest message goes, read or not."""
    async with MemoryBroker() as broker:
        queue = await broker.queue("orders", max_size=2)
        await queue.put_many([("a", 1), ("b", 1)])
        async with create_task_group() as tg:
            tg.start_soon(queue.put, "c", 1)
            keys = [(await queue.get())[0] for _ in range(3)]
        assert keys == ["a", "b", "c"]
