"""What others have written among a queue's data is told and put aside, and the others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import valkey
from tests.contract.helpers import in_line, until
from tests.servers import Server
from tests.valkey.engine import Valkey, store_of

from leaseq import PutOutcome, Tenant
from leaseq._core.errors import LeaseLostError, LeaseqError, ServerError
from leaseq._core.kept import Kept
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol
from leaseq._remote.protocol import Batch, Operation, Park, QueueRef, Want
from leaseq._valkey.operations import OPERATIONS
from leaseq._valkey.scripts import QUEUE_PARTS, broker_keys, queue_keys
from leaseq.valkey import RemoteQueue, ValkeyBroker

pytestmark = pytest.mark.anyio

Queue = Any
PARTS = ("state", "items", "ready", "leased", "timers", "parked", "accounts", "eligible")


class Vandal:
    """Writes what no queue would, among the data of a broker's queues."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.client = valkey.Valkey(port=server.port)
        self.prefix = prefix

    def key(self, queue: str, part: str) -> str:
        """The key of a part of a queue."""
        [key] = [key for key in queue_keys(self.prefix, queue) if key.endswith(part)]
        return key

    @property
    def queues(self) -> str:
        """The key of the names of all queues."""
        return broker_keys(self.prefix)[1]


@pytest.fixture
async def engine(anyio_backend: object, server: Server) -> AsyncIterator[Valkey]:
    made = Valkey(server.url)
    yield made
    await made.close()


@pytest.fixture
async def broker(engine: Valkey) -> ValkeyBroker:
    return await engine.broker()


@pytest.fixture
async def vandal(broker: ValkeyBroker, server: Server) -> AsyncIterator[Vandal]:
    keys = store_of(broker)._broker_keys
    made = Vandal(server, keys[0][1:].partition("}")[0])
    yield made
    made.client.close()


async def drained(queue: Queue) -> list[Any]:
    """Take all that is left, and see that nothing more is counted."""
    keys = []
    while True:
        try:
            key, _, lease = await queue.get(timeout=0)
        except TimeoutError:
            break
        keys.append(key)
        await queue.ack(lease)
    with anyio.fail_after(5):
        await queue.join()
    counts = await queue.statistics()
    assert (counts.ready, counts.delayed, counts.leased) == (0, 0, 0)
    return keys


BYTES = [b"", b"x", b"\xff" * 10, b"\x00" * 26 + b"{}", b"\x07" * 40, b"{}" * 1000]
TENANTS: list[dict[str, Tenant] | None] = [None, {"x": Tenant(2.0)}]


@pytest.mark.parametrize("tenants", TENANTS, ids=["plain", "tenants"])
@pytest.mark.parametrize("raw", BYTES, ids=lambda raw: f"{raw[:1].hex()}x{len(raw)}")
async def test_what_is_no_item_is_a_letter_with_its_bytes_and_the_others_go_on(
    broker: ValkeyBroker,
    vandal: Vandal,
    raw: bytes,
    tenants: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead", tenants=tenants)
    await queue.put_many([("a", 1), ("b", 2), ("c", 3)])
    vandal.client.hset(vandal.key("work", "items"), "sb", raw)
    assert await drained(queue) == ["a", "c"]
    [letter] = [(await letters.get())[1]]
    assert (letter.key, letter.reason) == ("b", "corrupt")
    assert letter.value == raw or raw == b"{}" * 1000  # which JSON does not read either
    assert "queue 'work': 'b'" in caplog.text
    assert (await queue.statistics()).dead == 1


@pytest.mark.parametrize("tenants", TENANTS, ids=["plain", "tenants"])
async def test_what_is_in_the_line_without_its_item_is_dropped_and_told(
    broker: ValkeyBroker, vandal: Vandal, tenants: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await broker.queue("work", tenants=tenants)
    await queue.put_many([("a", 1), ("b", 2), ("c", 3)])
    vandal.client.hdel(vandal.key("work", "items"), "sb")
    assert await drained(queue) == ["a", "c"]
    assert "queue 'work': 'b'" in caplog.text
    assert "missing" in caplog.text
    assert (await queue.statistics()).dropped == 1


@pytest.mark.parametrize("member", [b"", b"x", b"\x00" * 3, b"\x01" + b"\xff" * 20, b"\x00" * 40])
@pytest.mark.parametrize("part", ["ready", "leased", "timers"])
async def test_a_member_that_is_none_is_in_nobodys_way(
    broker: ValkeyBroker, vandal: Vandal, part: str, member: bytes
) -> None:
    queue = await broker.queue("work")
    await queue.put_many([("a", 1), ("b", 2)])
    vandal.client.zadd(vandal.key("work", part), {member: 0})
    with anyio.fail_after(10):
        await broker.process_expired()
        assert await drained(queue) == ["a", "b"]
        assert len(await queue.available_keys()) <= 1
        assert await queue.delayed_keys() == set()
        await queue.inflight()
        await queue.statistics(tenants=True)
        await queue.put("c", 3)
        assert await in_line(queue) == ["c"]
        await broker.purge("work")


@pytest.mark.parametrize("raw", [None, b"nonsense"])
async def test_a_leased_item_that_is_none_any_more_is_lost_to_its_consumer(
    broker: ValkeyBroker, vandal: Vandal, raw: bytes | None
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    await queue.put_many([("a", 1), ("b", 2)])
    lease = (await queue.get())[2]
    items = vandal.key("work", "items")
    vandal.client.hdel(items, "sa") if raw is None else vandal.client.hset(items, "sa", raw)
    with pytest.raises(LeaseLostError, match="its item could not be read"):
        await queue.ack(lease)
    assert await drained(queue) == ["b"]
    assert await letters.qsize() == (raw is not None)


async def test_a_delayed_item_that_is_none_any_more_is_given_up_when_it_is_due(
    engine: Valkey, broker: ValkeyBroker, vandal: Vandal
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("a", 1, delay=50)
        await queue.put("b", 1, delay=50)
        vandal.client.hset(vandal.key("work", "items"), "sa", "nonsense")
        await engine.advance(60)
        assert await drained(queue) == ["b"]
        assert await letters.qsize() == 1
        tg.cancel_scope.cancel()


async def test_a_key_whose_item_is_none_can_be_put_again(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    await queue.put_many([("a", 1), ("b", 2)])
    vandal.client.hset(vandal.key("work", "items"), mapping={"sa": "x", "sb": "y"})
    await queue.put("a", 3)
    async with broker.transaction() as transaction:
        transaction.put(queue, "b", 4)
    assert await in_line(queue) == ["a", "b"]  # each once, though it is twice in the line
    assert await letters.qsize() == 2


async def test_a_letter_that_cannot_be_read_does_not_stop_the_others(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    await queue.put_many([("a", 1), ("b", 2)])
    for _ in range(2):
        await queue.reject((await queue.get())[2], "bad")
    items = vandal.key("dead", "items")
    first = min(name for name in vandal.client.hkeys(items) if name[:1] == b"s")
    vandal.client.hset(items, first, "nonsense")
    assert (await queue.redrive()).keys == ("b",)
    assert await drained(queue) == ["b"]
    assert await drained(letters) == []


@pytest.mark.parametrize("raw", [b"", b"x", b"\xff\xff", b"\x93\x01\x02\x03"])
async def test_a_queue_that_cannot_be_read_is_left_out_of_the_list_and_can_be_deleted(
    broker: ValkeyBroker, vandal: Vandal, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "state", "entry"):
        await broker.queue(name)
    vandal.client.set(vandal.key("state", "state"), raw)
    vandal.client.hset(vandal.queues, "entry", raw)
    vandal.client.hset(vandal.queues, "other", raw)
    names = {info.name for info in await broker.list_queues()}
    assert names == {"a", "entry"}
    assert "'state'" in caplog.text
    assert await broker.process_expired() == 0
    queue = await broker.queue("state")
    with pytest.raises(ServerError, match=r"CORRUPT .*state") as caught:
        await queue.put("k", 1)
    assert "user_" not in str(caught.value)
    for name in ("state", "entry", "other"):
        await broker.delete_queue(name)
    assert {info.name for info in await broker.list_queues()} == {"a"}
    again = await broker.queue("state")
    await again.put("k", 1)
    assert await in_line(again) == ["k"]


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_of_another_type_is_told_in_the_servers_words(
    broker: ValkeyBroker, vandal: Vandal, part: str
) -> None:
    other = await broker.queue("other")
    queue = await broker.queue("work", tenants={"x": Tenant()})
    vandal.client.delete(vandal.key("work", part))
    vandal.client.rpush(vandal.key("work", part), "x")
    calls: list[Callable[[], Any]] = [
        lambda: queue.put("a", 1),
        lambda: queue.get(timeout=0),
        queue.available_keys,
        queue.delayed_keys,
        queue.inflight,
        lambda: queue.statistics(tenants=True),
    ]
    said: list[str] = []
    for call in calls:
        try:
            await call()
        except (LeaseqError, TimeoutError) as error:
            said.append(str(error))
    assert not [words for words in said if "user_" in words]
    await other.put("a", 1)
    assert await in_line(other) == ["a"]
    await broker.delete_queue("work")


# What is kept beside an item, and in letters


ENDS = {
    "ack": lambda queue, lease: queue.ack(lease),
    "release": lambda queue, lease: queue.release(lease),
    "reject": lambda queue, lease: queue.reject(lease, "bad"),
    "give back": lambda queue, lease: queue._give_back(lease),
    "expire": None,
}
AFTERS = [None, b"\xff\xff", b"\x93\x01\x02\x03"]


@pytest.mark.parametrize("how", ["update", "buffer"])
@pytest.mark.parametrize("raw", AFTERS, ids=lambda raw: "gone" if raw is None else str(len(raw)))
@pytest.mark.parametrize("end", ENDS)
async def test_a_newer_value_that_cannot_be_read_leaves_the_item_where_it_was(
    engine: Valkey, broker: ValkeyBroker, vandal: Vandal, end: str, raw: bytes | None, how: Any
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead", default_lease_timeout=5.0)
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put_many([("a", 1), ("b", 1)])
        lease = (await queue.get())[2]
        await queue.put("a", 2, if_in_flight=how)
        items = vandal.key("work", "items")
        vandal.client.hdel(items, "+sa") if raw is None else vandal.client.hset(items, "+sa", raw)
        assert (await queue._look("a"))[1] == 1
        settle = ENDS[end]
        if settle is None:
            await engine.advance(10)
            await until(queue, leased=0)
        else:
            await settle(queue, lease)
        stays = end in ("release", "give back", "expire")
        with anyio.fail_after(10):
            assert sorted(await drained(queue)) == (["a", "b"] if stays else ["b"])
        assert await letters.qsize() == (raw is not None) + (end == "reject")
        await queue.put("a", 3)
        assert await drained(queue) == ["a"]
        tg.cancel_scope.cancel()


async def test_a_transaction_with_a_newer_value_that_cannot_be_read_is_wholly_done(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    queue = await broker.queue("work")
    await queue.put_many([("a", 1), ("b", 2)])
    one, other = (await queue.get())[2], (await queue.get())[2]
    await queue.put("b", 3, if_in_flight="buffer")
    vandal.client.hset(vandal.key("work", "items"), "+sb", b"\xff\xff")
    async with broker.transaction() as transaction:
        transaction.put(queue, "c", 1)
        transaction.ack(one)
        transaction.ack(other)
    assert await drained(queue) == ["c"]


@pytest.mark.parametrize("how", ["update", "buffer"])
@pytest.mark.parametrize("raw", [None, b"nonsense"], ids=["gone", "nonsense"])
@pytest.mark.parametrize("after", [None, b"nonsense"], ids=["readable", "not"])
@pytest.mark.parametrize("by", ["ack", "put", "put many", "transaction", "expiry"])
async def test_a_newer_value_succeeds_an_item_that_is_none_any_more(
    engine: Valkey,
    broker: ValkeyBroker,
    vandal: Vandal,
    by: str,
    after: bytes | None,
    raw: bytes | None,
    how: Any,
) -> None:
    queue = await broker.queue("work", default_lease_timeout=5.0)
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("a", 1)
        await queue.put("b", 1)
        lease = (await queue.get())[2]
        await queue.put("a", 2, if_in_flight=how)
        items = vandal.key("work", "items")
        vandal.client.hdel(items, "sa") if raw is None else vandal.client.hset(items, "sa", raw)
        if after is not None:
            vandal.client.hset(items, "+sa", after)
        if by == "put":
            await queue.put("a", 3)
        elif by == "put many":
            await queue.put_many([("c", 1), ("a", 3)])
        elif by == "transaction":
            async with broker.transaction() as transaction:
                transaction.put(queue, "a", 3)
        if by == "expiry":
            await engine.advance(10)
            await until(queue, leased=0)
        else:
            with pytest.raises(LeaseLostError, match="its item could not be read"):
                await queue.ack(lease)
        keys = {"b"} | ({"a"} if after is None or by not in ("ack", "expiry") else set())
        assert await queue.available_keys() == keys | ({"c"} if by == "put many" else set())
        if "a" in keys:
            assert await queue.peek("a") == (2 if by in ("ack", "expiry") else 3)
        with anyio.fail_after(10):
            assert len(await drained(queue)) == len(keys) + (by == "put many")
        assert (await queue.statistics()).buffered == 0
        tg.cancel_scope.cancel()


def short(letter: bytes) -> bytes:
    """A letter with its first two fields alone, in the place of a whole one."""
    at = letter.index(b"\x9b\xa4work")
    return letter[:at] + b"\x92\xa4work\xa2sa"


async def test_a_letter_that_lacks_fields_stays_and_is_told_and_the_others_come_back(
    broker: ValkeyBroker, vandal: Vandal, caplog: pytest.LogCaptureFixture
) -> None:
    letters = await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    await queue.put_many([("a", 1), ("b", 2)])
    for _ in range(2):
        await queue.reject((await queue.get())[2], "bad")
    items = vandal.key("dead", "items")
    first = min(name for name in vandal.client.hkeys(items) if name[:1] == b"s")
    vandal.client.hset(items, first, short(vandal.client.hget(items, first)))
    assert (await queue.redrive()).keys == ("b",)
    assert "corrupt" in caplog.text
    assert await letters.qsize() == 1
    assert await drained(queue) == ["b"]


@pytest.mark.parametrize("raw", [b"nonsense", b"\x94\x01\x01\xa1x\xa0", b"\x94\x01\x01\xa2[]\xa0"])
async def test_a_queue_of_dead_letters_that_cannot_be_read_says_what_to_delete(
    broker: ValkeyBroker, vandal: Vandal, raw: bytes
) -> None:
    await broker.queue("work.dead")
    vandal.client.hset(vandal.queues, "work.dead", raw)
    with pytest.raises(ServerError, match=r"'work\.dead' cannot be read: delete that queue"):
        await broker.create_queue_pair("work")
    assert not vandal.client.hexists(vandal.queues, "work")
    await broker.delete_queue("work.dead")
    queue, letters = await broker.create_queue_pair("work")
    await queue.put("a", 1)
    await (await queue.get())[2].reject("bad")
    assert await letters.qsize() == 1


async def test_letters_that_cannot_be_read_as_a_queue_keep_the_items_that_would_go_there(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("a", 1)
        vandal.client.set(vandal.key("dead", "state"), b"nonsense")
        await (await queue.get())[2].reject("bad")
        assert await queue.state("a") == "delayed"
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("part", ["done", "history"])
async def test_an_item_is_done_though_its_record_cannot_be_kept(
    broker: ValkeyBroker, vandal: Vandal, part: str
) -> None:
    queue = await broker.queue("work", history=10, dedupe_for=60.0)
    await queue.put("a", 1)
    vandal.client.set(vandal.key("work", part), "x")
    await (await queue.get())[2].ack()
    assert (await queue.statistics()).acked == 1
    with anyio.fail_after(5):
        await queue.join()


# A queue that cannot be read, beside another one


REF, HEALTHY = QueueRef("work", QueueRef("dead")), QueueRef("other")
ASKED: list[Operation[Any]] = [
    protocol.Put(REF, (("a", b"1"), ("b", b"2")), PutRequest()),
    protocol.Claim(
        REF,
        (
            protocol.ClaimFor(ClaimRequest("a", consumer="me"), 1),
            protocol.ClaimFor(ClaimRequest(tenants=["x", None], steal_from=["y"]), 2),
        ),
        parks=True,
        held=(Park(Want("any"), 5),),
    ),
    protocol.Ack(REF, "a", 7, (Kept("n", b"v", 2.0, b"-"),)),
    protocol.Release(REF, "a", 7),
    protocol.Reject(REF, "a", 7, "bad", ""),
    protocol.GiveBack(REF, "a", 7),
    protocol.Undo(REF, "a", 7),
    protocol.Extend(REF, "a", 7, 5.0),
    protocol.HoldOn(REF, "a", 7, 5.0),
    protocol.Discard(REF, "a"),
    protocol.Cancel(REF, "a", "why"),
    protocol.Close(REF, (("a", 7), ("b", 8))),
    protocol.Sweep(REF, 64),
    protocol.Wake(REF, Want("any")),
    protocol.Unpark(REF, (Park(Want("any"), 5),)),
    protocol.Parked(REF, (Park(Want("any"), 5),), 1),
    protocol.Join(REF, 5),
    protocol.Abandon(REF, 10**9, (HEALTHY, REF)),
    protocol.KeepValues(REF, (Kept("n", b"v", 2.0, b"-"),)),
    protocol.Recall(REF, "n", waits=True),
    protocol.StopWaiting(REF, ("a", "b")),
    protocol.Transact(
        REF, (protocol.Ack(REF, "a", 7), protocol.Put(HEALTHY, (("t", b"1"),), PutRequest()))
    ),
    protocol.Look(REF, "a", value=True),
    protocol.AvailableKeys(REF),
    protocol.DelayedKeys(REF),
    protocol.LeasedKeys(REF),
    protocol.Counts(REF),
    protocol.CountTenants(REF),
    protocol.InFlight(REF),
    protocol.Info(REF),
    protocol.ReadHistory(REF),
    protocol.Held(REF, "a", 7),
    protocol.FindLease(REF, "a", 7),
    protocol.Find(REF),
    protocol.ListQueues(REF),
    protocol.Declare(REF, {"tenants": {"x": Tenant()}, "dead_letters": "dead"}),
    protocol.Delete(REF),
    protocol.Purge(REF),
    protocol.Redrive(REF, ("a", "b"), 5),
    protocol.SetTenant(REF, "x", Tenant()),
    protocol.Pause(REF, "x", "a reason"),
    protocol.Resume(REF, None),
    protocol.ReleaseAll(REF, "me"),
]
BESIDE: dict[str, Operation[Any]] = {
    "commands": protocol.Put(HEALTHY, (("k", b"1"),), PutRequest()),
    "queries": protocol.Look(HEALTHY, "there"),
    "admin": protocol.SetTenant(HEALTHY, "x", Tenant()),
}
UNTOUCHED = (protocol.Find, protocol.ListQueues, protocol.Delete)
"""Operations that look at no queue's state."""


def test_every_operation_is_asked_for_of_a_queue_that_cannot_be_read() -> None:
    assert {type(each) for each in ASKED} == OPERATIONS.keys()


@pytest.mark.parametrize("operation", ASKED, ids=lambda each: type(each).__name__)
async def test_a_queue_that_cannot_be_read_spoils_no_other_operation_of_its_call(
    broker: ValkeyBroker, vandal: Vandal, operation: Operation[Any]
) -> None:
    await broker.queue("work", dead_letters="dead")
    other = await broker.queue("other")
    await other.put("there", 1)
    vandal.client.set(vandal.key("work", "state"), b"\xff\xfejunk")
    beside = BESIDE[operation.family]
    batch = Batch(10**6, (operation, beside, operation, operation, beside))
    reply = await store_of(broker).exchange(batch)
    one, *rest = reply.answers
    if not isinstance(operation, UNTOUCHED):
        assert isinstance(one, ServerError)
        assert one.code == "CORRUPT"
        assert vandal.key("work", "state") in str(one)
        assert [str(each) for each in rest[1:3]] == [str(one)] * 2
    assert not [each for each in (rest[0], rest[3]) if isinstance(each, Exception)]
    assert "t" not in await other.available_keys()


# Members and counts that are at odds


@pytest.mark.parametrize("ttl", [None, 500.0], ids=["alone", "beside a time to live"])
@pytest.mark.parametrize("member", [b"foreign", b"x", b"\x00" * 6 + b"\x09sz", b"\x00" * 40])
async def test_a_foreign_timer_is_told_and_dropped_and_no_delayed_item_is_uncounted(
    engine: Valkey,
    broker: ValkeyBroker,
    vandal: Vandal,
    member: bytes,
    ttl: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = await broker.queue("work")
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("later", 1, delay=50)
        await queue.put("x", 1, ttl=ttl)
        vandal.client.zadd(vandal.key("work", "timers"), {member: 0})
        await broker.process_expired()
        assert "queue 'work'" in caplog.text
        assert (await queue.statistics()).delayed == 1
        assert await queue.delayed_keys() == {"later"}
        await engine.advance(60)
        assert await drained(queue) == ["x", "later"]
        await queue.put("y", 1)
        assert await drained(queue) == ["y"]
        tg.cancel_scope.cancel()


async def test_delayed_items_that_are_gone_are_not_counted_beside_a_time_to_live(
    engine: Valkey, broker: ValkeyBroker, vandal: Vandal
) -> None:
    queue = await broker.queue("work")
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("later", 1, delay=50)
        await queue.put("x", 1, ttl=500)
        vandal.client.hdel(vandal.key("work", "items"), "slater")
        await engine.advance(60)
        await broker.process_expired()
        assert await drained(queue) == ["x"]
        tg.cancel_scope.cancel()


STEPS: list[Callable[[Queue, Any], Any]] = [
    lambda queue, _: queue.put("ready", 2),
    lambda queue, _: queue.put("ready", 2, priority=9),
    lambda queue, _: queue.put("late", 2),
    lambda queue, _: queue.discard("ready"),
    lambda queue, _: queue.discard("late"),
    lambda queue, lease: queue.ack(lease),
    lambda queue, lease: queue.release(lease, delay=5),
    lambda queue, lease: queue.reject(lease, "bad"),
    lambda queue, _: queue.get(timeout=0),
    lambda queue, _: queue.take("ready", timeout=0),
]


@pytest.mark.parametrize("part", ["ready", "leased", "timers"])
@pytest.mark.parametrize("tenants", TENANTS, ids=["plain", "tenants"])
@pytest.mark.parametrize("step", range(len(STEPS)))
async def test_no_count_falls_below_nothing_when_an_index_is_gone(
    broker: ValkeyBroker, vandal: Vandal, step: int, tenants: Any, part: str
) -> None:
    queue = await broker.queue("work", tenants=tenants)
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("held", 1)
        lease = (await queue.get())[2]
        await queue.put("late", 1, delay=50)
        await queue.put("ready", 1)
        vandal.client.delete(vandal.key("work", part))
        with suppress(TimeoutError):  # counts are made anew
            await queue.get(timeout=0)
        await broker.process_expired()
        with suppress(LeaseqError, TimeoutError):
            await STEPS[step](queue, lease)
        counts = await queue.statistics()
        assert min(counts.ready, counts.delayed, counts.leased, counts.buffered) >= 0
        await queue.put("new", 1)
        assert await queue.state("new") == "ready"
        tg.cancel_scope.cancel()


async def test_a_queue_whose_counts_are_below_nothing_goes_on(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    queue = await broker.queue("work")
    await queue.put("a", 1)
    key = vandal.key("work", "state")
    script = """
    local state = {cmsgpack.unpack(redis.call("GET", KEYS[1]))}
    state[17], state[18] = -1, -2
    redis.call("SET", KEYS[1], cmsgpack.pack(unpack(state)))
    """
    vandal.client.eval(script, 1, key)
    await queue.put("b", 1)
    counts = await queue.statistics()
    assert (counts.delayed, counts.leased) == (0, 0)
    assert await drained(queue) == ["a", "b"]


# What is kept of calls


def calls_key(vandal: Vandal) -> str:
    return broker_keys(vandal.prefix)[0]


RECORDS = ["", "x", "\x93\x01", "half", "swapped", "long"]


@pytest.mark.parametrize("raw", RECORDS, ids=repr)
async def test_fields_of_the_calls_that_cannot_be_read_stop_nothing(
    broker: ValkeyBroker, vandal: Vandal, raw: str
) -> None:
    queue = await broker.queue("work")
    await queue.put("a", 1)
    key = calls_key(vandal)
    kept: dict[bytes, bytes] = vandal.client.hgetall(key)
    [process] = kept.keys() - {b"@"}
    for field in ("@", process):
        old = vandal.client.hget(key, field)
        new = {
            "half": old[: len(old) // 2],
            "swapped": kept[process if field == "@" else b"@"],
            "long": b"\xff" * 5000,
        }
        vandal.client.hset(key, field, new.get(raw, raw.encode("latin-1")))
        lease = (await queue.get(timeout=0))[2]
        await lease.release()
        await queue.put("a", 2)
        assert (await queue.statistics()).ready == 1
    assert await drained(queue) == ["a"]


@pytest.mark.parametrize("raw", RECORDS, ids=repr)
async def test_a_call_that_comes_again_is_done_if_its_record_cannot_be_read(
    broker: ValkeyBroker, vandal: Vandal, raw: str
) -> None:
    await broker.queue("other")
    store = store_of(broker)
    batch = Batch(10**6, (protocol.Put(HEALTHY, (("k", b"1"),), PutRequest()),))
    [first] = (await store.exchange(batch)).answers
    key = calls_key(vandal)
    old = vandal.client.hget(key, store._process)
    kept = {"half": old[: len(old) // 2], "swapped": vandal.client.hget(key, "@")}
    new = {**kept, "long": b"\xff" * 5000}
    vandal.client.hset(key, store._process, new.get(raw, raw))
    [again] = (await store.exchange(batch)).answers
    assert (first, again) == ((PutOutcome.ADDED,), (PutOutcome.REPLACED,))
    given_up = Batch(10**6 + 1, (protocol.Abandon(HEALTHY, 10**6, (HEALTHY,)),))
    vandal.client.hset(key, store._process, new.get(raw, raw))
    assert (await store.exchange(given_up)).answers == [True]


async def test_calls_of_another_type_are_named(broker: ValkeyBroker, vandal: Vandal) -> None:
    queue = await broker.queue("work")
    key = calls_key(vandal)
    vandal.client.delete(key)
    vandal.client.rpush(key, "x")
    with pytest.raises(ServerError, match=f"{key} is of another type, so delete") as caught:
        await queue.put("a", 1)
    assert caught.value.code == "CORRUPT"
    assert await queue.state("a") == "absent"
    vandal.client.delete(key)
    await queue.put("a", 1)
    assert await drained(queue) == ["a"]


# Keys of another type


CALLS: dict[str, Callable[[Queue], Any]] = {
    "put": lambda queue: queue.put("new", 1),
    "replace": lambda queue: queue.put("a", 1, priority=9),
    "get": lambda queue: queue.get(timeout=0),
    "take": lambda queue: queue.take("a", timeout=0),
    "keys": RemoteQueue.available_keys,
    "delayed": RemoteQueue.delayed_keys,
    "inflight": RemoteQueue.inflight,
    "counts": RemoteQueue.statistics,
    "tenants": lambda queue: queue.statistics(tenants=True),
    "history": RemoteQueue.history,
    "look": lambda queue: queue.peek("a"),
    "info": RemoteQueue.info,
}


@pytest.mark.parametrize("part", [part for part in QUEUE_PARTS if part not in ("state", "kept")])
async def test_a_part_of_another_type_is_named_with_its_queue(
    broker: ValkeyBroker, vandal: Vandal, part: str
) -> None:
    queue = await broker.queue("work", tenants={"x": Tenant()}, history=5, dedupe_for=5.0)
    await queue.put("a", 1, tenant="x")
    key = vandal.key("work", part)
    vandal.client.delete(key)
    vandal.client.setbit(key, 0, 1)
    said = {}
    for name, call in CALLS.items():
        try:
            await call(queue)
        except (ServerError, TimeoutError, KeyError) as error:
            said[name] = error
    for error in said.values():
        if isinstance(error, ServerError):
            assert error.code == "CORRUPT"
            assert f"queue 'work': {key} is of another type" in str(error)
    if part in ("items", "accounts", "ready"):
        assert isinstance(said["put"], ServerError)


@pytest.mark.parametrize("part", ["state", "items"])
@pytest.mark.parametrize("raw", [b"", b"\xff\xfejunk"])
async def test_a_queue_can_be_looked_at_though_its_dead_letters_cannot(
    broker: ValkeyBroker, vandal: Vandal, part: str, raw: bytes
) -> None:
    await broker.queue("dead")
    queue = await broker.queue("work", dead_letters="dead")
    await queue.put("a", 1)
    vandal.client.set(vandal.key("dead", part), raw)
    info = await queue.info()
    assert (info.ready, info.dead) == (1, 0)
    assert "work" in {info.name for info in await broker.list_queues()}
    if part == "items":
        await (await queue.get())[2].ack()
        return
    with pytest.raises(ServerError, match="dead/") as caught:
        await queue.redrive()
    assert caught.value.code == "CORRUPT"


# Accounts of tenants


def spoil_account(vandal: Vandal, what: str) -> None:
    accounts = vandal.key("work", "accounts")
    old = vandal.client.hget(accounts, "=B")
    spoilt = {"junk": b"\xff\xfejunk", "empty": b"", "half": old[: len(old) // 2], "text": "x"}
    if what in spoilt:
        vandal.client.hset(accounts, "=B", spoilt[what])
    elif what == "weight":
        vandal.client.hset(accounts, "%=B", b"\xff")
        vandal.client.hdel(accounts, "=B")
    elif what == "foreign":
        vandal.client.hset(accounts, mapping=dict.fromkeys(["", "=", "-", "x", "=y", "%"], b"\xff"))
    elif what == "swapped":
        vandal.client.hset(accounts, "=B", vandal.client.hget(accounts, "=A"))
    elif what == "gone":
        vandal.client.hdel(accounts, "=B")
    else:
        vandal.client.delete(*(vandal.key("work", part) for part in what.split("+")))


ACCOUNTS = [
    *("junk", "empty", "half", "text", "weight", "foreign", "swapped", "gone"),
    *("accounts", "eligible", "early", "eligible+early", "accounts+eligible+early+idle"),
]


@pytest.mark.parametrize("what", ACCOUNTS)
@pytest.mark.parametrize("declared", [None, {"A": Tenant(2.0, 3)}], ids=["plain", "declared"])
async def test_a_broken_account_is_made_anew_and_all_tenants_go_on(
    broker: ValkeyBroker, vandal: Vandal, what: str, declared: Any
) -> None:
    queue = await broker.queue("work", tenants=declared)
    for number in range(6):
        await queue.put(f"k{number}", number, tenant="AB"[number % 2])
    await queue.put("extra", 1, tenant="A")
    lease = (await queue.get())[2]
    spoil_account(vandal, what)
    counts = (await queue.statistics(tenants=True)).tenants
    assert counts is not None
    assert all(each.ready >= 0 for each in counts.values())
    await queue.put("b", 1, tenant="B")
    await lease.release()
    with anyio.fail_after(10):
        assert len(await drained(queue)) == 8
    for tenant in ("A", "B", None):
        await queue.put("again", 1, tenant=tenant)
        assert await drained(queue) == ["again"]


@pytest.mark.parametrize("what", ACCOUNTS)
@pytest.mark.parametrize("how", ["claim", "key", "tenant", "discard"])
async def test_a_tenant_of_a_broken_account_is_served_in_each_way(
    broker: ValkeyBroker, vandal: Vandal, what: str, how: str
) -> None:
    queue = await broker.queue("work")
    for number in range(6):
        await queue.put(f"k{number}", number, tenant="AB"[number % 2])
    spoil_account(vandal, what)
    left = {f"k{number}" for number in range(6)}
    if how == "key":
        await (await queue.take("k3", timeout=0))[2].ack()
        left.remove("k3")
    elif how == "tenant":
        key, _, lease = await queue.get(timeout=0, tenants=["B"])
        await lease.ack()
        left.remove(key)
    elif how == "discard":
        await queue.discard("k1")
        left.remove("k1")
    with anyio.fail_after(10):
        assert set(await drained(queue)) == left


# Items in no line


@pytest.mark.parametrize("claimed", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("tenants", TENANTS, ids=["plain", "tenants"])
@pytest.mark.parametrize("how", ["put", "priority", "put many", "transaction", "take"])
async def test_an_item_in_no_line_is_put_there_by_its_key(
    broker: ValkeyBroker, vandal: Vandal, how: str, tenants: Any, claimed: bool
) -> None:
    queue = await broker.queue("work", tenants=tenants)
    await queue.put_many([("i0", 0), ("i1", 1), ("i2", 2)])
    vandal.client.delete(vandal.key("work", "ready"))
    if claimed:
        with pytest.raises(TimeoutError):
            await queue.get(timeout=0)
    if how == "put":
        assert await queue.put("i1", 9) is PutOutcome.REPLACED
    elif how == "priority":
        await queue.put("i1", 9, priority=7)
    elif how == "put many":
        await queue.put_many([("i1", 8), ("i1", 9)])
    elif how == "transaction":
        async with broker.transaction() as transaction:
            transaction.put(queue, "i1", 9)
    else:
        await (await queue.take("i1", timeout=0))[2].release()
    assert await queue.available_keys() == {"i1"}
    key, value, lease = await queue.get(timeout=0)
    assert (key, value) == ("i1", 1 if how == "take" else 9)
    await lease.ack()
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)
    assert (await queue.statistics()).ready == 0


async def test_a_process_that_waits_is_woken_for_an_item_that_was_in_no_line(
    broker: ValkeyBroker, vandal: Vandal
) -> None:
    queue = await broker.queue("work")
    await queue.put("a", 1)
    vandal.client.delete(vandal.key("work", "ready"))
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        tg.start_soon(queue.get)
        await until(queue, getters=1)
        await queue.put("a", 2)
        with anyio.fail_after(5):
            await until(queue, leased=1)
        tg.cancel_scope.cancel()


async def test_a_delayed_item_without_a_timer_gets_one_with_its_next_put(
    engine: Valkey, broker: ValkeyBroker, vandal: Vandal
) -> None:
    queue = await broker.queue("work")
    async with anyio.create_task_group() as tg:
        await tg.start(broker.run)
        await queue.put("a", 1, delay=50)
        vandal.client.delete(vandal.key("work", "timers"))
        await queue.put("a", 2, delay=50)
        assert (await queue.statistics()).delayed == 1
        await engine.advance(60)
        assert await drained(queue) == ["a"]
        tg.cancel_scope.cancel()
