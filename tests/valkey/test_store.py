"""The store on a server: exchanges, events, and what it refuses before it asks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

import anyio
import pytest
from anyio import create_task_group
from tests.remote.mishaps import eventually
from tests.servers import Server
from tests.valkey.calls import CALLS, Scene, outcome

from leaseq import PutOutcome, Retry, Tenant, TenantStatistics
from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._core.kept import Kept
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol
from leaseq._remote.encoding import decode_event
from leaseq._remote.protocol import Batch, Event, Operation, QueueRef, RawKey, Settled, Want
from leaseq._valkey.operations import OPERATIONS
from leaseq._valkey.permissions import Permissions
from leaseq._valkey.store import _SCRIPTS, ScriptCall, ValkeyStore, open_store
from leaseq._valkey.url import ValkeyUrl
from leaseq.valkey import ValkeyBroker

pytestmark = pytest.mark.anyio

LETTERS = QueueRef("dead")
QUEUE = QueueRef("work", LETTERS)
BARE = QueueRef("work")
"""The same queue, as one who does not know of its letters has it."""
TERMS = PutRequest()


class Process:
    """A process of a broker: its store, and what it is told."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self.number = 0
        self.seen: set[type[Operation[Any]]] = set()
        self._url = ValkeyUrl.parse(url)

    async def open(self) -> Process:
        self.store: ValkeyStore = await open_store(self._url, self.name, self.events.append)
        return self

    async def exchange(self, *operations: Operation[Any]) -> protocol.Reply:
        self.number += 1
        self.seen.update(map(type, operations))
        return await self.store.exchange(Batch(self.number, operations))

    async def hear(self, is_so: Callable[[], bool]) -> None:
        """Listen until this is so."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.store.listen)
            await eventually(is_so)
            tg.cancel_scope.cancel()

    async def do(self, operation: Operation[Any]) -> Any:
        return (await self.exchange(operation)).answers[0]

    async def claim(self, count: int = 1, **options: Any) -> list[protocol.Delivery]:
        request: ClaimRequest[protocol.Key] = ClaimRequest(options.pop("key", ANY_KEY), **options)
        claimed = await self.do(protocol.Claim(QUEUE, (protocol.ClaimFor(request, count),)))
        return [*claimed.batches[0]]

    async def put(self, *keys: protocol.Key, terms: PutRequest = TERMS) -> None:
        items = tuple((key, b"body") for key in keys)
        assert isinstance(await self.do(protocol.Put(QUEUE, items, terms)), tuple)


@pytest.fixture
async def process(anyio_backend: object, server: Server) -> AsyncIterator[Process]:
    process = await Process(server.url, "one").open()
    await process.exchange(
        protocol.Declare(LETTERS, {}),
        protocol.Declare(QUEUE, {"dead_letters": "dead", "history": 5, "retry": Retry(2)}),
    )
    yield process
    await process.store.close()


@pytest.fixture
async def other(process: Process, server: Server) -> AsyncIterator[Process]:
    other = await Process(server.url, "other").open()
    yield other
    await other.store.close()


async def test_every_operation_is_answered(process: Process) -> None:
    do = process.do
    for_any = protocol.ClaimFor(ClaimRequest[protocol.Key](), 1)
    declared = await do(protocol.Find(QUEUE))
    assert declared == protocol.Declared(
        "dead", {"dead_letters": "dead", "history": 5, "retry": Retry(2)}, made=2
    )
    listed = await do(protocol.ListQueues(QUEUE))
    assert listed.after is None
    assert sorted(listed.members) == [
        protocol.Listed(1, "dead", ""),
        protocol.Listed(2, "work", "dead"),
    ]

    claimed = await do(protocol.Claim(QUEUE, (for_any,), parks=True))
    [park] = claimed.parks
    assert (claimed.batches, claimed.left, park.want) == (((),), 0, Want("any"))
    assert await do(protocol.Parked(QUEUE, (park,))) == ()
    assert await do(protocol.Unpark(QUEUE, (park,))) is None
    assert await do(protocol.Parked(QUEUE, (park,))) == (Want("any"),)
    assert await do(protocol.Wake(QUEUE, Want("any"))) is None

    items = tuple((key, b"body") for key in ("a", "b", "c", "d", "e", "f", 7, b"8"))
    added = (PutOutcome.ADDED,) * len(items)
    assert await do(protocol.Put(QUEUE, items, TERMS)) == added
    assert await do(protocol.Look(QUEUE, 7)) == protocol.Looked("ready", b"body")
    assert await do(protocol.Look(QUEUE, b"8", value=False)) == protocol.Looked("ready", None)
    assert await do(protocol.Discard(QUEUE, "absent")) is False
    available = await do(protocol.AvailableKeys(QUEUE))
    assert {*available.members} == {key for key, _ in items}

    a, b, c, d, e = await process.claim(5, consumer="me")
    assert (a.key, a.body, a.tenant, a.deliveries, a.priority) == ("a", b"body", None, 1, 3)
    assert await do(protocol.LeasedKeys(QUEUE)) == protocol.Page(("a", "b", "c", "d", "e"))
    held = (await do(protocol.InFlight(QUEUE))).members
    assert await do(protocol.Held(QUEUE, a.key, a.token)) is True
    assert await do(protocol.Held(QUEUE, a.key, 1)) is False
    assert [(one.key, one.token, one.consumer, one.deadline) for one in held] == [
        (one.key, one.token, "me", inf) for one in (a, b, c, d, e)
    ]
    assert await do(protocol.FindLease(QUEUE, a.key, a.token)) == protocol.FoundLease(a, inf)
    assert await do(protocol.FindLease(QUEUE, a.key, 1)) is None

    assert await do(protocol.Extend(QUEUE, a.key, a.token, 60.0)) is Settled.DONE
    assert await do(protocol.HoldOn(QUEUE, a.key, a.token, 60.0)) is Settled.DONE
    assert await do(protocol.Ack(QUEUE, a.key, a.token)) is Settled.DONE
    assert await do(protocol.Ack(QUEUE, a.key, a.token)) is Settled.NOT_HELD
    assert await do(protocol.Release(QUEUE, b.key, b.token, error="E: e")) is Settled.DONE
    assert await do(protocol.GiveBack(QUEUE, c.key, c.token)) is Settled.DONE
    assert await do(protocol.Undo(QUEUE, d.key, d.token)) is Settled.DONE
    assert await do(protocol.Reject(QUEUE, e.key, e.token, "bad", "E: e")) is Settled.DONE
    [record] = (await do(protocol.ReadHistory(QUEUE))).members
    assert (record.key, record.value, record.token, record.deliveries) == ("a", b"body", a.token, 1)

    kept = (Kept("x", b"1", 60.0, b"-"),)
    assert await do(protocol.Recall(QUEUE, "x", waits=True)) == protocol.Recalled(
        None, is_there=False
    )
    assert await do(protocol.StopWaiting(QUEUE, ("x",))) is None
    assert await do(protocol.KeepValues(QUEUE, kept)) is None
    assert await do(protocol.Recall(QUEUE, "x")) == protocol.Recalled(b"1", is_there=True)

    info = await do(protocol.Info(QUEUE))
    assert (info.ready, info.delayed, info.leased, info.dead, info.dead_letters_of) == (
        6,
        0,
        0,
        1,
        (),
    )
    counts = await do(protocol.Counts(QUEUE))
    assert (counts.ready, counts.put, counts.acked, counts.dead) == (6, 8, 1, 1)
    by_tenant = await do(protocol.CountTenants(QUEUE))
    assert by_tenant == protocol.Page(((None, TenantStatistics(6, 0)),))

    [lost] = await process.claim()
    queues = (QUEUE,)
    assert await do(protocol.Abandon(QUEUE, process.number, queues)) is True
    assert await do(protocol.Abandon(QUEUE, process.number + 5, queues)) is False
    assert await do(protocol.Ack(QUEUE, lost.key, lost.token)) is Settled.NOT_HELD

    assert await do(protocol.DelayedKeys(QUEUE)) == protocol.Page(())
    await process.put("later", terms=PutRequest(delay=60.0))
    assert await do(protocol.DelayedKeys(QUEUE)) == protocol.Page(("later",))
    assert await do(protocol.Cancel(QUEUE, "later", "")) is True
    await process.put("later", terms=PutRequest(delay=60.0))
    assert await do(protocol.Discard(QUEUE, "later")) is True

    redriven = await do(protocol.Redrive(QUEUE, ("e",), 1))
    assert redriven == protocol.Redriven(("e",), (), 1, 1, None)

    put = protocol.Put(QUEUE, (("t", b"1"),), TERMS)
    [one] = await process.claim()
    steps = (put, protocol.Ack(QUEUE, one.key, one.token))
    assert await do(protocol.Transact(QUEUE, steps)) == ()
    refused = await do(protocol.Transact(QUEUE, (*steps, None)))
    assert {each.step for each in refused} == {1, 2}

    assert await do(protocol.SetTenant(QUEUE, "x", Tenant(2.0, 1))) is None
    assert await do(protocol.Pause(QUEUE, None, "a reason")) is True
    assert await process.claim() == []
    paused = (await do(protocol.Info(QUEUE))).paused
    assert (paused.reason, (await do(protocol.Counts(QUEUE))).paused) == ("a reason", True)
    assert [await do(protocol.Resume(QUEUE, None)) for _ in "ab"] == [True, False]
    assert await do(protocol.Pause(QUEUE, "x", "")) is True
    [(name, paused)] = (await do(protocol.Info(QUEUE))).paused_tenants.items()
    assert (name, paused.reason) == ("x", "")
    assert [await do(protocol.Resume(QUEUE, "x")) for _ in "ab"] == [True, False]
    await process.claim(consumer="gone")
    assert await do(protocol.ReleaseAll(QUEUE, "gone")) == protocol.Released(1, None)
    [last] = await process.claim()
    left = (await do(protocol.Counts(QUEUE))).ready + 1
    remaining = protocol.Remaining(left)
    assert await do(protocol.Close(QUEUE, ((last.key, last.token),))) == remaining
    joined = await do(protocol.Join(QUEUE))
    assert joined.left == left
    assert joined.stamp > 0
    assert await do(protocol.Sweep(QUEUE, 64)) == protocol.Swept(more=False, outlived=0)
    assert await do(protocol.Purge(QUEUE)) == protocol.Purged(left, left)
    assert await do(protocol.Delete(QUEUE)) is None
    assert isinstance(await do(protocol.Find(QUEUE)), protocol.GoneError)
    assert isinstance(await do(put), protocol.GoneError)

    assert process.seen == OPERATIONS.keys()


@pytest.mark.only("trio")
@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
async def test_no_operation_takes_words_of_the_next(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    at_the_end = "  store_queues()\n"
    for family, script in _SCRIPTS.items():
        assert at_the_end in script.source
        check = at_the_end + '  if cursor ~= #ARGV then error("not its own words") end\n'
        strict = replace(script, source=script.source.replace(at_the_end, check))
        monkeypatch.setitem(_SCRIPTS, family, strict)
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


async def test_a_batch_that_is_exchanged_again_is_not_done_again(process: Process) -> None:
    put = protocol.Put(QUEUE, (("a", b"1"), ("b", b"2")), TERMS)
    claim = protocol.Claim(QUEUE, (protocol.ClaimFor(ClaimRequest(), 1),))
    batch = Batch(10, (put, claim))
    first = await process.store.exchange(batch)
    assert (await process.store.exchange(batch)).answers == first.answers
    later = await process.store.exchange(Batch(11, (put,)))
    outcomes = (PutOutcome.UPDATED_IN_FLIGHT, PutOutcome.REPLACED)
    assert later.answers == [outcomes]
    with pytest.raises(ServerError, match="a later call") as caught:
        await process.store.exchange(batch)
    assert caught.value.code == "OLD"


async def test_a_queue_is_one_however_much_is_known_of_it(process: Process) -> None:
    await process.put("a", "b")
    a, b = await process.claim(2)
    reply = await process.exchange(
        protocol.Reject(BARE, a.key, a.token, "bad"),
        protocol.Reject(QUEUE, b.key, b.token, "bad"),
        protocol.Put(BARE, (("c", b"body"),), TERMS),
    )
    assert reply.due.keys() == {"work", "dead"}
    assert [(each.key, each.fate) for each in reply.events] == [("a", "dead"), ("b", "dead")]  # type: ignore[union-attr]
    info = await process.do(protocol.Info(QUEUE))
    assert (info.ready, info.dead) == (1, 2)


def test_a_call_is_a_header_and_its_operations() -> None:
    other = QueueRef("other")
    batch = Batch(
        7,
        (
            protocol.Purge(BARE),
            protocol.Purge(other),
            protocol.Purge(QUEUE),
            protocol.Purge(LETTERS),
        ),
    )
    call = ScriptCall(batch)
    offset, seed, *words = call.encode(5, "one")
    assert (offset, 0 <= int(seed) < 2**31) == (b"5", True)
    header = ["one", b"7", b"3", b"3", b"0", b"0", b"4"]
    purges = ["purge", b"1", "purge", b"2", "purge", b"1", "purge", b"3"]
    assert words == [*header, *purges]
    assert call.names == ["work", "other", "dead"]


async def test_a_failure_is_that_operation_s_alone(process: Process, server: Server) -> None:
    server.command("SET", "{leaseq}:q:other/state", "nonsense")
    declare = protocol.Declare(QueueRef("other"), {})
    reply = await process.exchange(declare, protocol.Purge(QUEUE))
    failed, purged = reply.answers
    assert isinstance(failed, ServerError)
    assert purged == protocol.Purged(0, 0)


async def test_what_time_has_done_comes_as_events(process: Process) -> None:
    await process.put("a", terms=PutRequest(ttl=5.0))
    await process.put("b")
    await process.claim(1, key="b", lease_timeout=2.0)
    reply = await process.exchange(protocol.Counts(QUEUE))
    assert 0 < reply.due["work"] <= 2.0
    [lease] = (await process.do(protocol.InFlight(QUEUE))).members
    process.store.offset += 6_000_000
    reply = await process.exchange(protocol.Sweep(QUEUE, 64))
    assert reply.answers == [protocol.Swept(more=False, outlived=1)]
    assert reply.due["work"] == inf
    assert [*reply.events] == [
        protocol.LeaseEnded("work", lease.token),
        protocol.ItemDied("work", "a", None, "expired", "dead"),
    ]


async def test_processes_are_told_of_what_others_do(process: Process, other: Process) -> None:
    for_any = protocol.ClaimFor(ClaimRequest[protocol.Key](), 1)
    await process.do(protocol.Claim(QUEUE, (for_any,), parks=True))
    await process.do(protocol.Join(QUEUE))
    await other.put("a")
    await process.hear(lambda: process.events == [protocol.Woken("work", Want("any"))])
    [lease] = await process.claim(consumer="me")
    assert await other.do(protocol.ReleaseAll(QUEUE, "me")) == protocol.Released(1, None)
    await process.hear(lambda: process.events[1:] == [protocol.LeaseEnded("work", lease.token)])
    await process.do(protocol.Join(QUEUE))
    await other.do(protocol.Purge(QUEUE))
    await process.hear(lambda: process.events[2:] == [protocol.Woken("work", Want("drained"))])
    await process.do(protocol.Claim(QUEUE, (for_any,), parks=True))
    await other.do(protocol.Delete(QUEUE))
    await process.hear(lambda: process.events[3:] == [protocol.QueueDeleted("work")])


async def test_a_message_that_no_script_sends_is_logged_and_ignored(
    process: Process, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    messages = ("rubbish", "work\0", "work\0?", "work\0l", "work\0lsa\0x", "work\0at")
    with caplog.at_level(logging.WARNING, "leaseq"):
        for message in messages:
            server.command("PUBLISH", "{leaseq}:p:one", message)
        server.command("PUBLISH", "{leaseq}:p:one", "work\0a")
        await process.hear(lambda: bool(process.events))
    assert process.events == [protocol.Woken("work", Want("any"))]
    ignored = [each for each in caplog.messages if "is ignored" in each]
    assert len(ignored) == len(messages)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (b"q\0a", protocol.Woken("q", Want("any"))),
        (b"q\0ksa\0b", protocol.Woken("q", Want("key", "a\0b"))),
        (b"q\0k?", protocol.Woken("q", Want("key", RawKey(b"?")))),
        (b"q\0c", protocol.Woken("q", Want("cap"))),
        (b"q\0S=x", protocol.Woken("q", Want("steal more", "x"))),
        (b"q\0lsa\0b\x0017", protocol.LeaseEnded("q", 17)),
        (b"q\0x", protocol.QueueDeleted("q")),
    ],
)
def test_a_message_is_a_queue_and_what_has_happened(message: bytes, event: Event) -> None:
    assert decode_event(message) == event


def test_a_queue_s_name_is_text() -> None:
    with pytest.raises(ValueError, match="decode"):
        decode_event(b"\xff\0a")


async def test_a_closed_store_asks_nothing(process: Process) -> None:
    await process.store.close()
    await process.store.close()
    with pytest.raises(ServerUnavailableError) as caught:
        await process.do(protocol.Counts(QUEUE))
    assert not caught.value.in_doubt


async def test_an_exchange_that_is_cancelled_may_have_been_done(process: Process) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await process.put("a")
    assert scope.cancelled_caught
    assert await process.do(protocol.Look(QUEUE, "b")) == protocol.Looked("absent", None)


# Checks


def store(*lacking: str) -> ValkeyStore:
    return ValkeyStore(None, "leaseq", "one", Permissions(lacking))  # type: ignore[arg-type]


def put_of(key: object = "a", **options: Any) -> protocol.Put:
    return protocol.Put(QUEUE, ((key, b"body"),), PutRequest(**options))  # type: ignore[arg-type]


def claim_of(**options: Any) -> protocol.Claim:
    return protocol.Claim(
        QUEUE, (protocol.ClaimFor(ClaimRequest(options.pop("key", ANY_KEY), **options), 1),)
    )


@pytest.mark.parametrize("wrap", [lambda put: put, lambda put: protocol.Transact(QUEUE, (put,))])
def test_a_put_out_of_range_is_refused(wrap: Callable[[protocol.Put], Operation[Any]]) -> None:
    check = store().check
    for priority in (None, -(2**31), 2**31 - 1):
        check(wrap(put_of(priority=priority)))
    for priority in (-(2**31) - 1, 2**31):
        with pytest.raises(ValueError, match=r"a priority is between -2\*\*31 and 2\*\*31 - 1 on"):
            check(wrap(put_of(priority=priority)))
    with pytest.raises(TypeError, match="a key must be str, bytes or int on this engine"):
        check(wrap(put_of(1.5)))


@pytest.mark.parametrize(
    "operation",
    [
        claim_of(key=1.5),
        claim_of(key=None),
        protocol.Look(QUEUE, 1.5),  # type: ignore[arg-type]
        protocol.Discard(QUEUE, 1.5),  # type: ignore[arg-type]
        protocol.Cancel(QUEUE, 1.5, ""),  # type: ignore[arg-type]
        protocol.FindLease(QUEUE, 1.5, 1),  # type: ignore[arg-type]
        protocol.Redrive(QUEUE, (1.5,), None),  # type: ignore[arg-type]
        protocol.SetTenant(QUEUE, 7, Tenant()),  # type: ignore[arg-type]
        protocol.ReleaseAll(QUEUE, 7),  # type: ignore[arg-type]
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_a_key_or_a_name_of_another_type_is_refused(operation: Operation[Any]) -> None:
    with pytest.raises(TypeError, match="on this engine"):
        store().check(operation)


def test_what_the_user_may_not_do_is_refused_by_the_operation() -> None:
    check = store("zpopmin", "unlink").check
    check(put_of())
    check(protocol.Ack(QUEUE, "a", 1))
    for operation in (claim_of(), protocol.FindLease(QUEUE, "a", 1), protocol.Purge(QUEUE)):
        with pytest.raises(ServerError, match=r"its ACL lacks \+") as caught:
            check(operation)
        assert caught.value.code == "NOPERM"


async def test_an_operation_that_cannot_be_written_down_fails_alone(process: Process) -> None:
    too_long = 10**5000  # its digits are refused by Python itself
    reply = await process.exchange(put_of("a"), put_of(too_long), put_of("b"))
    first, failed, last = reply.answers
    assert first == last == (PutOutcome.ADDED,)
    assert isinstance(failed, ValueError)
    assert reply.due.keys() == {"work", "dead"}
    [alone] = (await process.exchange(put_of(too_long))).answers
    assert isinstance(alone, ValueError)


@pytest.mark.parametrize("raw", [[b"100"], [b"100", [], [], 7], [b"100", [-1], [], [b"ok"]]])
def test_a_reply_that_cannot_be_read_leaves_all_of_it_in_doubt(raw: list[Any]) -> None:
    call = ScriptCall(Batch(7, (protocol.Purge(QUEUE),)))
    call.encode(0, "one")
    [failed] = call.decode(raw).answers
    assert isinstance(failed, ServerUnavailableError)
    assert failed.in_doubt
