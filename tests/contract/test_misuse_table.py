"""Calls with bad values: each is refused in the words of the call, and has changed nothing."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from anyio import create_task_group
from tests.contract.helpers import BrokerEngine, Queue

import leaseq
import leaseq.valkey
from leaseq import CodecError, Lease, Retry, Tenant

pytestmark = pytest.mark.anyio

Scene = tuple[Any, Lease[str, object]]
Row = tuple[str, Callable[[Any, Any], Any], type[Exception], str]


class Rude:
    """A value whose repr raises."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


LONG = "x" * 10_000
KEYS: tuple[Any, ...] = (["a"], {}, {"a"})


def nope(call: str) -> str:
    return rf"{call}\(\).* has no option 'nope': it has "


OF_A_QUEUE: list[Row] = [
    # Options that there are not
    ("put nope", lambda q, _: q.put("n", 1, nope=1), TypeError, nope("put")),
    ("add nope", lambda q, _: q.add(1, nope=1), TypeError, nope("add")),
    ("put_many nope", lambda q, _: q.put_many([], nope=1), TypeError, nope("put_many")),
    ("get nope", lambda q, _: q.get(nope=1), TypeError, nope("get")),
    ("take nope", lambda q, _: q.take("a", nope=1), TypeError, nope("take")),
    ("get_batch nope", lambda q, _: q.get_batch(2, nope=1), TypeError, nope("get_batch")),
    ("lease nope", lambda q, _: q.lease(nope=1), TypeError, nope("lease")),
    ("lease key nope", lambda q, _: q.lease(key="a", nope=1), TypeError, nope("lease")),
    ("lease_batch nope", lambda q, _: q.lease_batch(2, nope=1), TypeError, nope("lease_batch")),
    # Items that are none
    ("put_many word", lambda q, _: q.put_many("ab"), TypeError, r"put_many\(\) takes .* not 'ab'"),
    ("put_many words", lambda q, _: q.put_many(["ab"]), TypeError, r"put_many\(\) .* not 'ab'"),
    ("put_many number", lambda q, _: q.put_many(5), TypeError, r"put_many\(\) takes .* not 5"),
    ("put_many three", lambda q, _: q.put_many([(1, 2, 3)]), TypeError, r"not \(1, 2, 3\)"),
    ("put_many none", lambda q, _: q.put_many(None), TypeError, r"put_many\(\) .* not None"),
    ("redrive word", lambda q, _: q.redrive("ab"), TypeError, r"redrive\(\) takes .* not 'ab'"),
    ("redrive number", lambda q, _: q.redrive(5), TypeError, r"redrive\(\) takes .* not 5"),
    ("redrive limit", lambda q, _: q.redrive(limit=0), ValueError, "limit must be .* not 0"),
    # Keys that are none
    *(
        (f"{call} {type(key).__name__}", act, TypeError, "a key must be .*" + type(key).__name__)
        for key in KEYS
        for call, act in {
            "put": lambda q, _, key=key: q.put(key, 1),
            "put_many": lambda q, _, key=key: q.put_many([("n", 1), (key, 1)]),
            "take": lambda q, _, key=key: q.take(key, 0),
            "lease": lambda q, _, key=key: q.lease(key=key).__aenter__(),
            "peek": lambda q, _, key=key: q.peek(key),
            "contains": lambda q, _, key=key: q.contains(key),
            "state": lambda q, _, key=key: q.state(key),
            "discard": lambda q, _, key=key: q.discard(key),
            "redrive": lambda q, _, key=key: q.redrive([key]),
        }.items()
    ),
    ("add id", lambda q, _: q.add(1, message_id=2.5), TypeError, "message_id must .* not 2.5"),
    # Values of another type, or out of range
    ("put delay", lambda q, _: q.put("n", 1, delay="1"), TypeError, "delay must be .* not '1'"),
    ("put delay inf", lambda q, _: q.put("n", 1, delay=math.inf), ValueError, "delay .* not inf"),
    ("put ttl", lambda q, _: q.put("n", 1, ttl=-1), ValueError, "ttl must be .* not -1"),
    ("put policy", lambda q, _: q.put("n", 1, if_in_flight="x"), ValueError, "one of .* not 'x'"),
    ("put tenant", lambda q, _: q.put("n", 1, tenant=["x"]), TypeError, r"tenant must .*\['x'\]"),
    ("put rude", lambda q, _: q.put("n", 1, tenant=Rude()), TypeError, "whose repr raises"),
    ("put long", lambda q, _: q.put("n", 1, delay=LONG), TypeError, r"^.{0,300}$"),
    ("get timeout", lambda q, _: q.get("1"), TypeError, "timeout must be .* not '1'"),
    ("get nan", lambda q, _: q.get(math.nan), ValueError, "timeout must be .* not nan"),
    ("get lease", lambda q, _: q.get(lease_timeout=0), ValueError, "lease_timeout must .* not 0"),
    ("get tenants", lambda q, _: q.get(tenants="ab"), TypeError, r"tenants must .* not 'ab'"),
    ("get consumer", lambda q, _: q.get(consumer=5), TypeError, "consumer must be .* not 5"),
    ("batch size", lambda q, _: q.get_batch(0), ValueError, "max_items must be .* not 0"),
    ("batch size 2.5", lambda q, _: q.get_batch(2.5), TypeError, "max_items must .* not 2.5"),
    ("batch wait", lambda q, _: q.get_batch(2, max_wait="1"), TypeError, "max_wait .* not '1'"),
    ("inflight", lambda q, _: q.inflight(consumer=5), TypeError, "consumer must be .* not 5"),
    ("statistics", lambda q, _: q.statistics(tenants=1), TypeError, "tenants must be .* not 1"),
    ("release_all", lambda q, _: q.release_all(consumer=5), TypeError, "consumer must .* not 5"),
    ("set_tenant name", lambda q, _: q.set_tenant(5, Tenant()), TypeError, "name must .* not 5"),
    ("set_tenant", lambda q, _: q.set_tenant("t", 2.0), TypeError, "must be a Tenant, not 2.0"),
    ("pause name", lambda q, _: q.pause(5), TypeError, "name must be a string or None, not 5"),
    ("pause reason", lambda q, _: q.pause(reason=5), TypeError, "reason must be a string, not 5"),
    ("resume name", lambda q, _: q.resume(5), TypeError, "name must be a string or None, not 5"),
    # Settlements
    ("release delay", lambda q, it: q.release(it, delay="1"), TypeError, "delay must .* not '1'"),
    ("release front", lambda q, it: q.release(it, requeue_front=1), TypeError, "front .* not 1"),
    ("release count", lambda q, it: q.release(it, counted=0), TypeError, "counted must .* not 0"),
    ("reject", lambda q, it: q.reject(it, 5), TypeError, "reason must be a string, not 5"),
    ("extend", lambda q, it: q.extend(it, 0), ValueError, "timeout must be .* not 0"),
    ("extend word", lambda q, it: q.extend(it, "1"), TypeError, "timeout must be .* not '1'"),
]  # fmt: skip

OF_A_BROKER: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    ("queue nope", lambda b: b.queue("new", nope=1), TypeError, nope("queue")),
    ("pair nope", lambda b: b.create_queue_pair("n", nope=1), TypeError, nope("create_queue_pair")),
    ("queue make", lambda b: b.queue("new", make="x"), TypeError, "make must be .* not 'x'"),
    ("queue codec", lambda b: b.queue("new", codec=5), TypeError, "codec must have .* not 5"),
    ("queue name", lambda b: b.queue(5), TypeError, "a queue's name must be a string, not 5"),
    ("queue name list", lambda b: b.queue(["a"], make=False), TypeError, "name must be a string"),
    ("pair name", lambda b: b.create_queue_pair(["a"]), TypeError, "name must be a string"),
    ("queue retry", lambda b: b.queue("new", retry=5), TypeError, "retry must be a Retry, not 5"),
    ("queue history", lambda b: b.queue("new", history=2**70), ValueError, "history .* at most"),
    ("queue size", lambda b: b.queue("new", max_size=2**70), ValueError, "max_size .* at most"),
    ("queue tenants", lambda b: b.queue("new", tenants={"a": 2.0}), TypeError, "Tenant, not 2.0"),
    ("delete letters", lambda b: b.delete_queue("q", dead_letters="x"), TypeError, "not 'x'"),
    ("delete name", lambda b: b.delete_queue(["q"]), TypeError, "name must be a string"),
    ("purge name", lambda b: b.purge(5), TypeError, "name must be a string, not 5"),
    ("letters name", lambda b: b.dead_letters(["q"]), TypeError, "name must be a string"),
]  # fmt: skip

odd: Any = leaseq

OBJECTS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("Retry nope", lambda: odd.Retry(nope=1), TypeError, nope("Retry") + "max_deliveries, backoff"),
    ("Backoff nope", lambda: odd.Backoff(1, nope=1), TypeError, nope("Backoff") + "base, factor, "),
    ("Tenant nope", lambda: odd.Tenant(nope=1), TypeError, nope("Tenant") + "weight, max_"),
    ("Batcher nope", lambda: odd.Batcher(_flush, nope=1), TypeError, nope("Batcher") + "max_ba"),
    ("Retry large", lambda: odd.Retry(2**70), ValueError, "max_deliveries must be .* at most"),
    ("Tenant large", lambda: odd.Tenant(1.0, 2**70), ValueError, "max_in_flight .* at most"),
    ("Backoff seed", lambda: odd.Backoff(1, seed=2**70), ValueError, "seed must have 64 bits"),
    ("connect", lambda: odd.connect(5), TypeError, "the URL of a broker must be a string, not int"),
    ("ValkeyUrl", lambda: odd.valkey.ValkeyUrl(5), TypeError, "hosts must be a tuple .*, not int"),
    ("ValkeyUrl.parse", lambda: odd.valkey.ValkeyUrl.parse(5), TypeError, "a string, not int"),
    ("ValkeyBroker", lambda: odd.valkey.ValkeyBroker("x"), TypeError, "must be a ValkeyUrl, not"),
]  # fmt: skip


async def _flush(items: list[int]) -> None:
    pass


async def picture(queue: Queue) -> object:
    counts = replace(await queue.statistics(tenants=True), oldest_ready_age=None)
    keys = await queue.available_keys(), await queue.inflight_keys()
    return counts, keys, await queue.inflight() and len(await queue.inflight())


@pytest.mark.needs("brokers")
@pytest.mark.parametrize(
    ("act", "kind", "message"), [row[1:] for row in OF_A_QUEUE], ids=[row[0] for row in OF_A_QUEUE]
)
async def test_a_call_of_a_queue_is_refused_and_changes_nothing(
    engine: BrokerEngine, act: Callable[[Any, Any], Any], kind: type[Exception], message: str
) -> None:
    async with create_task_group() as tg, await engine.broker() as broker:
        await tg.start(broker.run)
        queue, _ = await broker.create_queue_pair("q")
        await queue.put("a", 1)
        _, _, lease = await queue.take("a")
        await queue.put("b", 1)
        before = await picture(queue)
        with pytest.raises(kind, match=message) as caught:
            result = act(queue, lease)
            if isinstance(result, Awaitable):
                await result
        assert type(caught.value) is kind
        assert len(str(caught.value)) < 400
        assert await picture(queue) == before
        assert lease.ended is None
        await lease.ack()
        await broker.close()


@pytest.mark.needs("brokers")
@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [row[1:] for row in OF_A_BROKER],
    ids=[row[0] for row in OF_A_BROKER],
)
async def test_a_call_of_a_broker_is_refused_and_changes_nothing(
    engine: BrokerEngine, act: Callable[[Any], Any], kind: type[Exception], message: str
) -> None:
    async with await engine.broker() as broker:
        await broker.queue("q")
        with pytest.raises(kind, match=message):
            await act(broker)
        assert [info.name for info in await broker.list_queues()] == ["q"]


@pytest.mark.parametrize(
    ("make", "kind", "message"), [row[1:] for row in OBJECTS], ids=[row[0] for row in OBJECTS]
)
def test_an_object_is_refused_at_construction(
    make: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


async def test_a_pool_is_refused_with_its_options(queue: Queue) -> None:
    with pytest.raises(TypeError, match=nope("serve")):
        await odd.serve(queue, print, nope=1)


# What a store keeps of a queue


@pytest.mark.needs("brokers")
@pytest.mark.parametrize("option", ["default_lease_timeout", "dedupe_for"])
async def test_an_option_without_end_stays_without_end(engine: BrokerEngine, option: str) -> None:
    async with await engine.broker() as broker:
        options: Any = {option: math.inf}
        queue = await broker.queue("q", **options)
        assert await broker.queue("q", **options) is queue
        await queue.put("a", 1)
        await (await queue.get())[2].ack()
        expected = "duplicate" if option == "dedupe_for" else "added"
        assert await queue.put("a", 1) == expected


class Patient(Retry):
    """A policy with code of its own."""

    def exhausted(self, deliveries: int) -> bool:
        return False


@pytest.mark.needs("brokers", "owned")
async def test_a_policy_with_code_of_its_own_is_used_in_this_process(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        queue = await broker.queue("q", retry=Patient(max_deliveries=1))
        await queue.put("a", 1)
        await (await queue.get())[2].release()
        assert await queue.available_keys() == {"a"}


@pytest.mark.needs("brokers", "handles")
async def test_a_policy_with_code_of_its_own_is_refused_by_a_store(engine: BrokerEngine) -> None:
    async with await engine.broker() as broker:
        with pytest.raises(TypeError, match="takes a plain Retry, and not Patient"):
            await broker.queue("q", retry=Patient(max_deliveries=1))
        assert await broker.list_queues() == []


class Failing:
    """A codec that raises what it likes."""

    def encode(self, value: object) -> bytes:
        if value == "bad":
            raise LookupError("no such word")
        return str(value).encode()

    def decode(self, body: bytes) -> object:
        raise LookupError("no such bytes")


@pytest.mark.needs("brokers", "handles")
async def test_whatever_a_codec_raises_is_a_codec_error(engine: BrokerEngine) -> None:
    encode = "the codec of queue 'q' could not encode a value: LookupError: no such word"
    decode = "the codec of queue 'q' could not decode a value: LookupError: no such bytes"
    async with await engine.broker() as broker:
        queue: Any = await broker.queue("q", codec=Failing())
        for call, arguments in (
            ("put", ("a", "bad")),
            ("add", ("bad",)),
            ("put_many", ([("a", "bad")],)),
        ):
            with pytest.raises(CodecError, match=encode):
                await getattr(queue, call)(*arguments)
        async with broker.transaction() as tx:
            with pytest.raises(CodecError, match=encode):
                tx.put(queue, "a", "bad")
        await queue.put("b", "good")
        with pytest.raises(CodecError, match=decode):
            await queue.peek("b")
        assert await queue.available_keys() == {"b"}
