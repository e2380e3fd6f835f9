"""The table of operations, the Lua that takes them, and the answers."""

from math import inf
from typing import Any

import pytest
from lua_fields import Lua, Taken

from leaseq import Backoff, DeadLetter, PutOutcome, Retry, Tenant
from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._core.kept import Kept
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol
from leaseq._remote.protocol import Operation, Park, QueueRef, RawKey, Want
from leaseq._valkey.operations import OPERATIONS, Choice, EachQueue, Field, Many, QueueField, Step

QUEUE = QueueRef("q")
FAMILIES = {
    "commands": Lua("commands", "put", "claim", "kept", "settle", "wait", "transact"),
    "queries": Lua("queries"),
    "admin": Lua("admin", "declare"),
}
LUA_NAMES = {"queues": "all_queues"}
"""Functions that are not called as their operation is."""


def operations() -> set[type[Operation[Any]]]:
    """All operations of the protocol, the kinds of them left out."""
    kinds = {base for each in vars(protocol).values() for base in getattr(each, "__bases__", ())}
    return {
        each
        for each in vars(protocol).values()
        if isinstance(each, type) and issubclass(each, Operation) and each not in kinds
    }


def test_every_operation_is_in_the_table() -> None:
    assert OPERATIONS.keys() == operations()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_script_has_the_operations_of_its_family(family: str) -> None:
    in_table = {each.name for of, each in OPERATIONS.items() if of.family == family}
    assert FAMILIES[family].operations == in_table


def in_table(fields: Any) -> list[Taken]:
    """How the fields in the table are taken, and their names."""
    taken: list[Taken] = []
    for each in fields:
        if isinstance(each, Many):
            taken += [("number", ""), in_table(each.fields)]
        elif isinstance(each, Choice):
            taken.append(("text", each.name))
            for way in each.ways.values():
                taken += in_table(way)
        elif isinstance(each, Step):
            taken.append(("text", ""))
        else:
            assert isinstance(each, Field | QueueField | EachQueue)
            taken.append((each.kind.takes, each.name))
    return taken


def assert_alike(lua: list[Taken], table: list[Taken]) -> None:
    """Compare fields, and their names where the Lua has one."""
    assert len(lua) == len(table), (lua, table)
    for one, other in zip(lua, table, strict=True):
        if isinstance(one, list) or isinstance(other, list):
            assert isinstance(one, list)
            assert isinstance(other, list)
            assert_alike(one, other)
        elif other[0] == "queue":
            assert one[0] == "queue" or one == ("number", "index")
        else:
            assert one == (other[0], one[1] and other[1])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_the_lua_takes_the_fields_of_the_table(operation: type[Operation[Any]]) -> None:
    layout = OPERATIONS[operation]
    lua = FAMILIES[operation.family]
    name = LUA_NAMES.get(layout.name, layout.name)
    assert_alike(lua.fields(name), in_table(layout.fields))


@pytest.mark.parametrize(
    "step",
    [protocol.Put, protocol.Ack, protocol.Release, protocol.Reject],
    ids=lambda s: s.__name__,
)
def test_a_step_of_a_transaction_takes_the_same_fields(step: type[Operation[Any]]) -> None:
    layout = OPERATIONS[step]
    assert_alike(FAMILIES["commands"].fields(f"kinds.{layout.name}"), in_table(layout.fields))


def test_a_field_that_is_missing_or_misplaced_in_the_lua_is_seen() -> None:
    lua = FAMILIES["commands"]
    table = in_table(OPERATIONS[protocol.Extend].fields)
    assert_alike(lua.fields("extend"), table)
    for other in ("ack", "release"):
        with pytest.raises(AssertionError):
            assert_alike(lua.fields(other), table)
    swapped = [("queue", "q"), ("text", "token"), ("text", "key")]
    with pytest.raises(AssertionError):
        assert_alike(swapped, in_table(OPERATIONS[protocol.Ack].fields))  # type: ignore[arg-type]


# Words


class Numbers:
    """A call with one queue."""

    def number(self, queue: QueueRef) -> int:
        assert queue == QUEUE
        return 1


def words_of(operation: Operation[Any]) -> list[bytes]:
    words: list[str | bytes] = []
    OPERATIONS[type(operation)].write(operation, words, Numbers())
    return [word.encode() if isinstance(word, str) else word for word in words]


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (
            protocol.Put(
                QUEUE, (("a", b"1"), (7, b"")), PutRequest(tenant="x", delay=0.5, priority=-2)
            ),
            b"put 1 update -2 =x 500000 -1 earliest 0 2 sa 1 i7 ",
        ),
        (
            protocol.Put(
                QUEUE,
                ((b"k", b"v"),),
                PutRequest(if_in_flight="buffer", ttl=2.0, reschedule="latest"),
                behind=True,
            ),
            b"put 1 buffer   0 2000000 latest 1 1 bk v",
        ),
        (
            protocol.Claim(QUEUE, (protocol.ClaimFor(ClaimRequest(), 3),)),
            b"claim 1 0 0 1 3 -1  0 any",
        ),
        (
            protocol.Claim(
                QUEUE,
                (
                    protocol.ClaimFor(ClaimRequest("a", lease_timeout=1.5, consumer="me"), 1),
                    protocol.ClaimFor(
                        ClaimRequest(tenants=["x", None], steal_from=["y"]), 2, patient=True
                    ),
                ),
                parks=True,
                held=(Park(Want("key", "a"), 5), Park(Want("own", None), 6)),
            ),
            b"claim 1 1 2 ksa 5 t 6 2 1 1500000 =me 0 key sa 2 -1  1 tenants 2 =x  1 =y",
        ),
        (protocol.Ack(QUEUE, "a", 7), b"ack 1 sa 7 0"),
        (protocol.Ack(QUEUE, RawKey(b"?x"), 7), b"ack 1 ?x 7 0"),
        (
            protocol.Ack(QUEUE, "a", 7, (Kept("n", b"v", 2.0, b"-"), Kept("ö", b"", inf, b"i"))),
            b"ack 1 sa 7 2 n 2000000 v - \xc3\xb6 3150000000000000  i",
        ),
        (protocol.Recall(QUEUE, "n", waits=True), b"recall 1 n 1"),
        (protocol.StopWaiting(QUEUE, ("a", "b")), b"stop_waiting 1 2 a b"),
        (protocol.Release(QUEUE, "a", 7), b"release 1 sa 7 0 -1 1 "),
        (
            protocol.Release(QUEUE, "a", 7, front=True, delay=0.0, counted=False, error="E"),
            b"release 1 sa 7 1 0 0 E",
        ),
        (protocol.Reject(QUEUE, "a", 7, "bad", ""), b"reject 1 sa 7 bad  0 0"),
        (protocol.Extend(QUEUE, "a", 7, inf), b"extend 1 sa 7 -1"),
        (protocol.HoldOn(QUEUE, "a", 7, 5.0), b"hold_on 1 sa 7 5000000"),
        (
            protocol.Transact(QUEUE, (protocol.Ack(QUEUE, "a", 7), None)),
            b"transact 2 ack 1 sa 7 0 ack 1 s 0 0",
        ),
        (protocol.ListQueues(QUEUE, b"7 0"), b"queues 7 0"),
        (protocol.Find(QUEUE), b"find q"),
        (
            protocol.Declare(
                QUEUE,
                {
                    "max_size": 5,
                    "retry": Retry(3, Backoff(1.0, 2.0, inf)),
                    "dead_letters": "d",
                    "dedupe_for": inf,
                    "tenants": {"x": Tenant(2, 4), "y": Tenant()},
                    "group": "shop",
                },
            ),
            b'declare 1 q {"max_size":5,"dead_letters":"d","dedupe_for":"inf",'
            b'"tenants":{"x":[2.0,4],"y":[1.0,null]},"group":"shop","max_deliveries":3,'
            b'"backoff":[1.0,2.0,"inf",null]} d {"group":"shop"} 5 3 1000000 2.0 '
            b"3150000000000000 0 "
            b"3150000000000000 2 =x 2.0 4 =y 1.0 -1",
        ),
        (
            protocol.Declare(QUEUE, {}),
            b"declare 1 q {}  {} -1 -1 -1 1.0 0 0 0 0",
        ),
        (protocol.Redrive(QUEUE, None, None), b"redrive 1 1 0 -1 -"),
        (protocol.Redrive(QUEUE, ("a", 1), 5, b"(m"), b"redrive 1 0 2 sa i1 5 (m"),
        (protocol.SetTenant(QUEUE, "x", Tenant(0.5)), b"set_tenant 1 =x 0.5 -1"),
        (protocol.Pause(QUEUE, "x", "why"), b"pause 1 =x why"),
        (protocol.Pause(QUEUE, None, ""), b"pause 1  "),
        (protocol.Resume(QUEUE, None), b"resume 1 "),
    ],
)
def test_an_operation_is_these_words(operation: Operation[Any], words: bytes) -> None:
    assert b" ".join(words_of(operation)) == words


# Answers


def read(operation: type[Operation[Any]], *raw: Any) -> object:
    return OPERATIONS[operation].read([*raw])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_any_operation_may_find_no_queue_or_fail(operation: type[Operation[Any]]) -> None:
    assert isinstance(read(operation, b"gone"), protocol.GoneError)
    failed = read(operation, b"raised", b"OOM command not allowed")
    assert isinstance(failed, ServerError)
    assert failed.code == "OOM"


def test_the_answers_to_a_put_are_told_apart() -> None:
    outcomes = (PutOutcome.ADDED, PutOutcome.REPLACED, PutOutcome.UPDATED_IN_FLIGHT)
    assert read(protocol.Put, b"ok", b"a", b"r", b"u") == outcomes
    assert read(protocol.Put, b"full", 3) == protocol.Full(3)
    assert read(protocol.Put, b"full", 3, 99) == protocol.Full(3, 99)
    assert read(protocol.Put, b"never", 3) == protocol.NeverFits(3)
    assert read(protocol.Put, b"error", b"in_flight", 2) == protocol.PutRefused(1, "in_flight")
    refused = protocol.PutRefused(0, "tenant", "x")
    assert read(protocol.Put, b"error", b"tenant", 1, b"=x") == refused


LETTER = [b"q", b"sa", b"1", 0, b"7", b"bad", b"", 2, b"=x", 3, b"1500000"]
STORED = DeadLetter("q", "a", b"1", 7, "bad", None, 2, "x", 3, 1.5)


def test_a_letter_may_have_a_letter_in_it() -> None:
    outer = [b"d", b"s0", LETTER, 1, b"", b"expired", b"E", 0, b"", 3, b"0"]
    expected = DeadLetter("d", "0", STORED, None, "expired", "E", 0, None, 3, 0.0)
    assert read(protocol.Look, b"ok", b"ready", outer, 1) == protocol.Looked("ready", expected)
    assert read(protocol.Look, b"ok", b"leased", b"b", 0) == protocol.Looked("leased", b"b")
    assert read(protocol.Look, b"ok", b"absent") == protocol.Looked("absent", None)


def test_a_key_that_cannot_be_read_comes_as_it_is_where_its_item_is_to_be_settled() -> None:
    lease = [b"?k", b"body", b"7", 3, b"", 1, 0, 0]
    claimed = read(protocol.Claim, b"ok", 1, [b"ksa", 5, b"a", 6], [lease], [])
    assert claimed == protocol.Claimed(
        ((protocol.Delivery(RawKey(b"?k"), b"body", 7, 3, None, 1, 0),), ()),
        1,
        (Park(Want("key", "a"), 5), Park(Want("any"), 6)),
    )
    assert isinstance(claimed, protocol.Claimed)
    [delivery] = claimed.batches[0]
    assert words_of(protocol.Undo(QUEUE, delivery.key, delivery.token))[2] == b"?k"
    page = read(protocol.AvailableKeys, b"ok", b"(m", b"?k", b"sa")
    assert page == protocol.Page((RawKey(b"?k"), "a"), b"(m")


def test_what_no_script_says_leaves_that_operation_alone_in_doubt() -> None:
    for failed in (read(protocol.Ack, b"what"), read(protocol.Counts, b"ok", 1)):
        assert isinstance(failed, ServerUnavailableError)
        assert failed.in_doubt


def test_the_failures_of_a_transaction_are_told_with_their_steps() -> None:
    failed = (b"failed", 1, b"no", b"", 2, b"tenant", b"=x", 3, b"full", b"4")
    assert read(protocol.Transact, *failed) == (
        protocol.StepRefused(0, "not held"),
        protocol.StepRefused(1, "tenant", tenant="x"),
        protocol.StepRefused(2, "full", places=4),
    )
