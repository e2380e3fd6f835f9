"""What the scripts do that the machine against the model does not reach."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from script_calls import Caller, Ear, Operation, Result, claim, declare, put, request
from script_dump import dump

from leaseq._valkey import scripts

SECOND = 1_000_000


@pytest.fixture
def caller(address: tuple[str, int]) -> Iterator[Caller]:
    caller = Caller(address)
    caller.client.flushdb()
    for process in ("p", "p1", "p2", "p3"):
        caller.one("hello", 0, script="hello", process=process)
    yield caller
    caller.client.close()


@pytest.fixture
def ear(caller: Caller) -> Iterator[Ear]:
    ear = Ear(caller)
    yield ear
    ear.close()


def make(caller: Caller, **options: object) -> None:
    caller.call("manage", declare(1, "q", letters="d", **options), declare(2, "d"))  # type: ignore[arg-type]


def leases(result: Result, of: int = 0) -> list[list[bytes]]:
    assert result[0] == b"ok"
    found: list[list[bytes]] = result[3 + of]
    return found


def keys_of(result: Result) -> list[bytes]:
    return [lease[0] for lease in leases(result)]


def get(caller: Caller, *requests: Operation, process: str = "p", park: bool = False) -> Result:
    return caller.turn(claim(1, *requests, park=park), process=process).results[0]


# Waking


def test_one_item_wakes_one_process_the_first_that_came(caller: Caller, ear: Ear) -> None:
    make(caller)
    for process in ("p1", "p2"):
        get(caller, process=process, park=True)
    caller.turn(put(1, ("a", 1)))
    assert ear.heard() == [("p1", b"a")]
    caller.turn(put(1, ("b", 1), ("c", 1)))
    assert ear.heard() == [("p2", b"a")]


def test_a_put_of_several_wakes_as_many_as_there_are(caller: Caller, ear: Ear) -> None:
    make(caller)
    for process in ("p1", "p2", "p3"):
        get(caller, process=process, park=True)
    caller.turn(put(1, ("a", 1), ("b", 1)))
    assert ear.heard() == [("p1", b"a"), ("p2", b"a")]


def test_who_wants_just_this_key_comes_first(caller: Caller, ear: Ear) -> None:
    make(caller)
    get(caller, process="p1", park=True)
    get(caller, request("key", "a"), process="p2", park=True)
    caller.turn(put(1, ("a", 1)))
    assert ear.heard() == [("p2", b"ksa")]


def test_who_steals_comes_last_but_for_the_patient(caller: Caller, ear: Ear) -> None:
    make(caller)
    get(caller, request(patient=True), process="p1", park=True)
    get(caller, request("tenants", own=["y"], steal=["x"]), process="p2", park=True)
    get(caller, request("tenants", own=["x"]), process="p3", park=True)
    for key in "abc":
        caller.turn(put(1, (key, 1), tenant="x"))
    assert ear.heard() == [("p3", b"t=x"), ("p2", b"s=x"), ("p1", b"A")]


def test_who_listens_no_more_is_passed_over(caller: Caller) -> None:
    make(caller)
    for process in ("p1", "p2"):
        get(caller, process=process, park=True)
    sub = caller.client.pubsub()
    sub.subscribe(scripts.channel("t", "p2"))
    assert sub.get_message(timeout=5.0)
    caller.turn(put(1, ("a", 1)))
    message = sub.get_message(timeout=5.0)
    assert message
    assert message["data"] == b"q\0a"
    sub.close()
    assert caller.client.zcard(scripts.queue_keys("t", "q")[5]) == 0


def test_a_park_that_stands_is_not_made_again(caller: Caller, ear: Ear) -> None:
    make(caller)
    want, stamp = get(caller, park=True)[2]
    again = caller.turn(claim(1, park=True, held={want: stamp})).results[0]
    assert again[2] == []
    caller.turn(put(1, ("a", 1)))
    assert ear.heard() == [("p", b"a")]
    again = caller.turn(claim(1, request("key", "b"), park=True, held={want: stamp})).results[0]
    assert again[2][0] == b"ksb"


def test_parks_of_the_dead_go(caller: Caller) -> None:
    make(caller)
    get(caller, process="unknown", park=True)
    for n in range(5):
        get(caller, request("key", str(n)), process="p1", park=True)
    parked = caller.client.zrange(scripts.queue_keys("t", "q")[5], 0, -1)
    assert len(parked) == 5
    assert all(member.endswith(b"p1") for member in parked)


def test_who_fills_up_wakes_the_next_if_something_is_left(caller: Caller, ear: Ear) -> None:
    make(caller)
    for process in ("p1", "p2"):
        get(caller, process=process, park=True)
    caller.turn(put(1, ("a", 1)))
    assert ear.heard() == [("p1", b"a")]
    caller.turn(["unpark", 1, 0])
    caller.turn(put(1, ("b", 1)), process="p")
    assert ear.heard() == [("p2", b"a")]
    get(caller, process="p3", park=False)
    assert ear.heard() == []
    get(caller, request("key", "z"), process="p3", park=True)
    caller.one("wake", 1, "a")
    assert ear.heard() == []


def test_a_wake_up_that_is_not_wanted_is_passed_on(caller: Caller, ear: Ear) -> None:
    make(caller)
    for process in ("p1", "p2"):
        get(caller, process=process, park=True)
    caller.turn(put(1, ("a", 1)))
    assert ear.heard() == [("p1", b"a")]
    assert caller.one("wake", 1, "a", process="p1") == [b"ok"]
    assert ear.heard() == [("p2", b"a")]


def test_who_takes_a_key_is_woken_when_its_tenant_comes_under_its_cap(
    caller: Caller, ear: Ear
) -> None:
    make(caller, tenants={"x": (1, 1)})
    caller.turn(put(1, ("a", 1), ("b", 1), tenant="x"))
    (held,) = leases(get(caller, request("key", "a")))
    parks = get(caller, request("key", "b"), process="p1", park=True)[2]
    assert parks[::2] == [b"ksb", b"c=x"]
    caller.one("ack", 1, held[0], held[2], 0)
    assert ear.heard() == [("p1", b"c=x")]


def test_more_room_wakes_producers_one_after_the_other(caller: Caller, ear: Ear) -> None:
    make(caller, max_size=2)
    assert caller.turn(put(1, ("a", 1), ("b", 1), ("c", 1))).results == [[b"never", 3]]
    caller.turn(put(1, ("a", 1), ("b", 1)))
    for process in ("p1", "p2"):
        assert caller.turn(put(1, ("c", 1)), process=process).results[0][0] == b"full"
    assert caller.turn(put(1, ("a", 2))).results == [[b"ok", b"r"]]
    assert ear.heard() == []
    get(caller, request(count=2))
    assert ear.heard() == [("p1", b"r")]
    caller.turn(put(1, ("c", 1)), process="p1")
    assert ear.heard() == [("p2", b"r")]
    assert caller.turn(put(1, ("d", 1), behind=True)).results == [[b"full", 1]]


def test_who_joins_is_told_when_the_queue_is_drained(caller: Caller, ear: Ear) -> None:
    make(caller)
    assert caller.one("join", 1, 0) == [b"ok", 0, 0]
    caller.turn(put(1, ("a", 1)))
    for process in ("p1", "p2"):
        assert caller.one("join", 1, 0, process=process)[:2] == [b"ok", 1]
    (held,) = leases(get(caller))
    assert ear.heard() == []
    caller.one("ack", 1, held[0], held[2], 0)
    assert ear.heard() == [("p1", b"j"), ("p2", b"j")]


def test_a_letter_wakes_who_waits_for_letters(caller: Caller, ear: Ear) -> None:
    make(caller)
    caller.turn(claim(2, park=True), process="p1")
    caller.turn(put(1, ("a", 1)))
    (held,) = leases(get(caller))
    caller.one("reject", 1, held[0], held[2], "bad", "Error: no", 0)
    assert ear.heard() == [("p1", b"d\0a")]


def test_who_waits_at_a_queue_that_is_deleted_is_told_once(caller: Caller, ear: Ear) -> None:
    make(caller)
    get(caller, request("tenants", own=["x", "y"]), process="p1", park=True)
    assert caller.manage("delete", 1, "q") == [b"ok"]
    assert ear.heard() == [("p1", b"x")]
    assert caller.turn(put(1, ("a", 1)), claim(1)).results == [[b"gone"], [b"gone"]]
    assert caller.client.keys("*:q:q/*") == []


# Replies that were lost


def test_a_call_that_is_repeated_is_not_done_again(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1), ("b", 2), ("c", 3)), number="1")
    operations = [put(1, ("d", 4)), claim(1, request(count=2), park=True)]
    first = caller.turn(*operations, number="2").results
    before = dump(caller)
    assert caller.turn(*operations, number="2").results == first
    assert dump(caller) == before
    held = leases(first[1])[0]
    caller.one("ack", 1, held[0], held[2], 0)
    again = caller.turn(*operations, number="2").results
    assert leases(again[1]) == leases(first[1])[1:]
    assert again[0] == [b"ok", b"a"]


def test_a_letter_is_in_the_reply_that_is_made_again(caller: Caller) -> None:
    make(caller, max_deliveries=1)
    caller.turn(put(1, ("a", "body")))
    (held,) = leases(get(caller))
    release = ["release", 1, held[0], held[2], 0, -1, 1, "Error: no"]
    first = caller.turn(release, claim(2), number="5")
    again = caller.turn(release, claim(2), number="5")
    assert again.results == first.results
    assert again.events == first.events
    letter = leases(first.results[1])[0][1]
    assert letter[:8] == [b"q", b"sa", b"body", 0, held[2], b"max_deliveries", b"Error: no", 1]


def test_a_call_that_arrives_after_a_later_one_is_not_done(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1)), number="10")
    keys = [*scripts.broker_keys("t"), *scripts.queue_keys("t", "q")]
    arguments = [0, 1, "p", "9", 1, 0, 1, *put(1, ("b", 1))]
    assert caller.client.eval(scripts.COMMANDS, len(keys), *keys, *arguments) == [b"old"]
    assert [*dump(caller).items] == ["a"]


# Time


def test_a_claim_does_so_much_of_what_time_has_brought(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, *((str(n), 1) for n in range(100))))
    get(caller, request(count=100, lease=SECOND))
    caller.offset += 2 * SECOND
    assert len(leases(get(caller, request(count=100)))) == 64
    assert dump(caller).counts["leased"] == 100
    assert caller.one("sweep", 1, 30) == [b"ok", 1, 0]
    assert caller.one("sweep", 1, 30) == [b"ok", 0, 0]


@pytest.mark.parametrize("wanted", [request(count=3000), request("tenants", own=[None])])
def test_a_claim_passes_over_any_number_that_outlived_their_time(
    caller: Caller, wanted: Operation
) -> None:
    make(caller)
    for lot in range(3):
        caller.turn(put(1, *((f"{lot}-{n}", 1) for n in range(500)), ttl=SECOND))
    caller.turn(put(1, ("last", 1)))
    caller.offset += 2 * SECOND
    while not (result := get(caller, wanted, park=True))[3]:
        assert result[0] == b"cut"
        assert result[2] == []
    assert [lease[0] for lease in result[3]] == [b"slast"]
    assert caller.look("counts", 1)[11] == 1500
    first = caller.look("ready", 2, "")
    assert len(first[2:] + caller.look("ready", 2, first[1])[2:]) == 1500


def test_the_reply_says_how_long_until_something_happens(caller: Caller) -> None:
    make(caller)
    assert caller.turn().left == [-1, -1, -1]
    assert caller.turn(put(1, ("a", 1), delay=5 * SECOND)).left[0] == 5 * SECOND
    caller.offset += 6 * SECOND
    assert caller.turn().left[0] == 0
    assert caller.turn(claim(1, request(lease=7 * SECOND))).left[0] == 7 * SECOND


def test_a_key_that_is_done_is_not_taken_again_for_a_while(caller: Caller) -> None:
    make(caller, dedupe_for=10 * SECOND)
    caller.turn(put(1, ("a", 1)))
    (held,) = leases(get(caller))
    assert caller.turn(put(1, ("a", 2))).results == [[b"ok", b"u"]]
    assert caller.one("ack", 1, held[0], held[2], 0) == [b"dropped"]
    assert caller.turn(put(1, ("a", 2), ("b", 1))).results == [[b"ok", b"d", b"a"]]
    caller.offset += 11 * SECOND
    assert caller.turn(put(1, ("a", 2))).results == [[b"ok", b"a"]]


def test_the_history_has_the_last(caller: Caller) -> None:
    make(caller, history=2)
    for key in "abc":
        caller.turn(put(1, (key, key * 3)))
        (held,) = leases(get(caller))
        caller.one("ack", 1, held[0], held[2], 0)
    word, *done = caller.look("history", 1, "")[1:]
    assert word == b""
    assert [one[:2] for one in done] == [[b"sb", b"bbb"], [b"sc", b"ccc"]]


# Dead letters


def test_letters_come_back_and_those_whose_key_is_there_stay(caller: Caller) -> None:
    make(caller)
    for key in "abc":
        caller.turn(put(1, (key, key), tenant="x", priority=5))
        (held,) = leases(get(caller))
        caller.one("reject", 1, held[0], held[2], "bad", "", 0)
    caller.turn(put(1, ("b", "new"), tenant="y"))
    assert caller.manage("redrive", 1, 0, 1, "sc", -1, "-") == [b"ok", [b"sc"], [], 3, b"", 3]
    assert caller.manage("redrive", 1, 1, 0, 1, "-") == [b"ok", [b"sa"], [], 2, b"", 1]
    assert caller.manage("redrive", 1, 1, 0, -1, "-") == [b"ok", [], [b"sb"], 1, b"", 1]
    items = dump(caller).items
    assert (items["a"].tenant, items["a"].priority, items["a"].deliveries) == ("x", 5, 0)
    assert caller.look("info", 1)[:6] == [b"ok", b"q", 3, 0, 0, 1]


def test_a_letter_that_dies_is_a_letter_in_a_letter(caller: Caller) -> None:
    make(caller)
    caller.call("manage", declare(3, "x", letters="q"))
    caller.turn(put(1, ("a", "body")))
    (held,) = leases(get(caller))
    caller.one("reject", 1, held[0], held[2], "bad", "", 0)
    (held,) = leases(caller.turn(claim(2)).results[0])
    keys = [*scripts.broker_keys("t")]
    for queue in ("d", "x"):
        keys += scripts.queue_keys("t", queue)
    arguments = [0, 1, "p", "", 2, 2, 0, 1, "reject", 1, held[0], held[2], "worse", "", 0]
    caller.client.eval(scripts.COMMANDS, len(keys), *keys, *arguments)
    (held,) = leases(caller.turn(claim(3)).results[0])
    letter = held[1]
    assert (letter[0], letter[3], letter[5]) == (b"d", 1, b"worse")
    inner: list[bytes] = letter[2]  # type: ignore[assignment]
    assert inner[:3] == [b"q", b"sa", b"body"]


def test_what_cannot_be_decoded_is_not_dropped(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1)))
    (held,) = leases(get(caller))
    reply = caller.turn(["reject", 1, held[0], held[2], "any", "no", 0, 1], letters=0)
    assert reply.events == [[1, b"dead", b"sa", int(held[2]), b"any", b"kept"]]
    assert dump(caller).items["a"].state == "delayed"


# Looking


def test_a_lease_can_be_taken_up_by_its_token(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", "body"), tenant="x"))
    (held,) = leases(get(caller, request(lease=9 * SECOND, consumer="me")))
    word, *seen, left = caller.look("find_lease", 1, held[0], held[2])
    assert (word, seen) == (b"ok", held)
    assert 8 * SECOND < left <= 9 * SECOND
    assert caller.look("find_lease", 1, held[0], 1) == [b"no"]
    ((key, token, who, since, until, *rest),) = caller.look("inflight", 1, "")[2:]
    assert (key, token, who, rest) == (b"sa", held[2], b"me", [1, b"=x", 3, 0])
    assert since >= 0
    assert until <= 9 * SECOND


def test_queues_are_named_in_the_order_in_which_they_were_made(caller: Caller) -> None:
    make(caller)
    assert caller.manage(*declare(1, "q")) == [b"ok", b"d", b"{}", 1]
    word, after, *queues = caller.look("queues", "")
    assert (word, after) == (b"ok", b"")
    assert {tuple(queues[at : at + 3]) for at in (0, 3)} == {(b"q", 1, b"d"), (b"d", 2, b"")}


def test_nothing_is_made_for_tenants_while_there_are_none(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1), ("b", 1), priority=5), put(1, ("c", 1)), claim(1))
    parts = {key.rpartition(b"/")[2] for key in caller.client.keys("*:q:q/*")}
    assert parts == {b"state", b"items", b"ready", b"leased"}


# Whose turn it is


def test_tenants_have_turns_by_their_weights(caller: Caller) -> None:
    weights = {"x": 4.0, "y": 2.0, "z": 1.0, None: 1.0}
    make(caller, tenants={name: (weight, -1) for name, weight in weights.items()})
    for tenant in weights:
        caller.turn(put(1, *((f"{tenant}{n}", 1) for n in range(200)), tenant=tenant))
    given = [lease[4] for lease in leases(get(caller, request(count=160)))]
    for at in range(1, len(given) + 1):
        for tenant, weight in weights.items():
            share = at * weight / 8
            turns = given[:at].count(f"={tenant}".encode() if tenant else b"")
            assert share - 1 <= turns <= share + 1
    dump(caller)


def test_virtual_time_is_moved_back_before_it_is_inexact(caller: Caller) -> None:
    light = 2.0**-20
    make(caller, tenants={"x": (2 * light, -1), "y": (light, -1)})
    for first in range(0, 1200, 400):
        for tenant in "xy":
            items = ((f"{tenant}{n}", 1) for n in range(first, first + 400))
            assert caller.turn(put(1, *items, tenant=tenant)).results[0][0] == b"ok"
    given = []
    for _ in range(15):
        given += [lease[4] for lease in leases(get(caller, request(count=100)))]
        dump(caller)
    for at in range(1, len(given) + 1):
        assert abs(given[:at].count(b"=x") - at * 2 / 3) <= 1


def test_idle_tenants_are_forgotten(caller: Caller) -> None:
    make(caller)
    for n in range(1200):
        tenant = f"t{n}"
        caller.turn(put(1, (tenant, 1), tenant=tenant))
        (held,) = leases(get(caller, request("key", tenant)))
        caller.one("ack", 1, held[0], held[2], 0)
    assert len(dump(caller).tenants) <= 1025


# What the server refuses


def test_an_operation_that_is_refused_leaves_the_others_alone(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1)))
    (held,) = leases(get(caller))
    caller.client.set(scripts.queue_keys("t", "d")[1], "not a hash")
    reply = caller.turn(
        put(1, ("b", 1)), put(2, ("c", 1)), ["ack", 1, held[0], held[2], 0], put(1, ("d", 1))
    )
    assert [result[0] for result in reply.results] == [b"ok", b"raised", b"ok", b"ok"]
    [_, items, *_] = scripts.queue_keys("t", "d")
    assert reply.results[1][1].startswith(f"CORRUPT queue 'd': {items} is of another".encode())
    assert dump(caller).line == ["b", "d"]


def test_an_operation_that_nobody_knows_ends_a_call(caller: Caller) -> None:
    make(caller)
    reply = caller.turn(put(1, ("a", 1)), ["what", 1], put(1, ("b", 1)))
    assert [result[0] for result in reply.results] == [b"ok", b"raised", b"raised"]
    assert dump(caller).line == ["a"]


def test_a_server_that_is_full_hands_out_what_it_has_and_takes_nothing(caller: Caller) -> None:
    make(caller, tenants={"x": (1, 1)})
    caller.turn(put(1, ("a", 1), tenant="x"), put(1, ("b", 1)))
    before = dump(caller)
    caller.client.config_set("maxmemory", 1)
    try:
        for number in ("1", "2"):
            reply = caller.turn(put(1, ("c", 1), ("d", 1), tenant="y", ttl=SECOND), number=number)
            assert reply.results[0][0] == b"raised"
            assert b"OOM" in reply.results[0][1]
        assert dump(caller) == before
        result = get(caller, request("key", "z"), park=True)
        assert result[:3] == [b"ok", 2, []]
        assert caller.look("look", 1, "sa", 0) == [b"ok", b"ready"]
        reply = caller.turn(put(1, ("c", 1)), claim(1, request(count=2)), number="3")
        assert reply.results[0][0] == b"raised"
        held = leases(reply.results[1])
        key, _, token, *_ = held[0]
        assert caller.turn(["extend", 1, key, token, SECOND]).results == [[b"ok"]]
        acks: list[Operation] = [["ack", 1, key, token, 0] for key, _, token, *_ in held]
        assert caller.turn(*acks, number="4").results == [[b"ok"], [b"ok"]]
        assert dump(caller).items == {}
    finally:
        caller.client.config_set("maxmemory", 0)


def test_nothing_is_kept_of_a_look(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, ("a", 1)), number="1")
    keys = scripts.broker_keys("t")
    before = caller.client.hgetall(keys[0])
    caller.call("look", ["ready", 1, ""], number="2")
    assert caller.client.hgetall(keys[0]) == before
    assert caller.call("look", ["ready", 1, ""], number="0").results == [[b"ok", b"", b"sa"]]


def test_a_process_is_told_which_of_its_parks_are_gone(caller: Caller, ear: Ear) -> None:
    make(caller)
    answer = caller.turn(claim(1, park=True), process="p1").results[0]
    want, stamp = answer[2]
    assert caller.one("parked", 1, 0, 1, want, stamp, process="p1") == [b"ok"]
    assert caller.one("parked", 1, 0, 1, want, stamp, process="p2") == [b"ok", want]
    caller.turn(put(1, ("a", 1)))
    assert caller.one("parked", 1, 0, 1, want, stamp, process="p1") == [b"ok", want]
    assert ear.heard() == [("p1", want)]


LONG = 600_000  # microseconds for which something lies there that somebody was woken for


def park(caller: Caller, process: str, asked: Operation | None = None) -> list[Any]:
    """Let a process wait; what it waits for, and since when: a want, a stamp, a want..."""
    return list(get(caller, *([] if asked is None else [asked]), process=process, park=True)[2])


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(patient=True),
        request("key", "a"),
        request("tenants", own=["x"]),
        request("tenants", own=["y"], steal=["x"]),
    ],
    ids=["any", "patient", "key", "own", "steal"],
)
def test_who_looks_again_is_given_what_another_was_woken_for_and_left_lying(
    caller: Caller, ear: Ear, asked: Operation
) -> None:
    make(caller)
    park(caller, "p1", asked)
    parks = park(caller, "p", asked)
    caller.turn(put(1, ("a", 1), tenant="x"))
    assert [whom for whom, _ in ear.heard()] == ["p1"]
    count = len(parks) // 2
    assert caller.one("parked", 1, 0, count, *parks) == [b"ok"]
    caller.offset += LONG
    [_, *gone] = caller.one("parked", 1, 0, count, *parks)
    assert gone
    assert set(gone) <= set(parks[::2])
    assert caller.one("parked", 1, 0, count, *parks) == [b"ok", *gone]  # nobody is parked there now
    assert ear.heard() == []


def test_what_nobody_else_may_have_is_not_given_to_who_looks_again(
    caller: Caller, ear: Ear
) -> None:
    make(caller)
    caller.manage("set_tenant", 1, "=x", 1.0, 0)
    caller.turn(put(1, ("a", 1), tenant="x"))
    looking = [
        park(caller, "p", each)
        for each in (request(), request("key", "a"), request("tenants", own=["x"]))
    ]
    caller.offset += LONG
    for parks in looking:
        assert caller.one("parked", 1, 0, len(parks) // 2, *parks) == [b"ok"]


def test_who_waits_for_room_is_given_what_another_left(caller: Caller, ear: Ear) -> None:
    make(caller, max_size=2)
    caller.turn(put(1, ("a", 1), ("b", 1)))
    for process in ("p1", "p"):
        full, places, stamp = caller.turn(put(1, ("c", 1), ("d", 1)), process=process).results[0]
        assert (full, places) == (b"full", 2)
    assert caller.one("parked", 1, 2, 1, b"r", stamp) == [b"ok"]
    get(caller)
    assert ear.heard() == [("p1", b"r")]
    assert caller.one("parked", 1, 2, 1, b"r", stamp) == [b"ok"]  # there is room for one alone
    get(caller)
    assert caller.one("parked", 1, 2, 1, b"r", stamp) == [b"ok", b"r"]


# Acks that come together


ACKED_TOGETHER: dict[str, dict[str, Any]] = {
    "plain": {},
    "twice": {"twice": True},
    "an update": {"again": "update"},
    "a successor": {"again": "buffer"},
    "late": {"late": True},
    "history": {"history": 5},
    "dedupe": {"dedupe_for": 60 * SECOND},
    "tenants": {"tenants": {"x": (1.0, 2), "y": (2.0, -1)}, "of": ("x", "y", None)},
    "priorities": {"priority": 9},
    "a consumer": {"consumer": "worker"},
    "a consumer, an update": {"consumer": "worker", "again": "update"},
    "a consumer, tenants": {"consumer": "worker", "tenants": {"x": (1.0, 2)}, "of": ("x", None)},
}


@pytest.mark.parametrize("case", ACKED_TOGETHER)
def test_acks_that_come_together_do_what_each_would_do(caller: Caller, ear: Ear, case: str) -> None:
    known = dict(ACKED_TOGETHER[case])
    tenants, priority = known.pop("of", (None,)), known.pop("priority", None)
    twice, again, late = (known.pop(each, None) for each in ("twice", "again", "late"))
    consumer = known.pop("consumer", "")

    def outcome(*, together: bool) -> object:
        caller.offset = 0
        caller.client.flushdb()
        make(caller, **known)
        for n in range(9):
            tenant = tenants[n % len(tenants)]
            caller.turn(put(1, (f"k{n}", f"body{n}"), tenant=tenant, priority=priority))
        held = leases(get(caller, request(count=8, lease=10 * SECOND, consumer=consumer)))
        if again:
            caller.turn(put(1, ("k1", "new"), if_in_flight=again))
        if late:
            caller.one("extend", 1, held[2][0], held[2][2], 60 * SECOND)
            caller.offset = 20 * SECOND
        get(caller, request("tenants", own=["x"]), process="p1", park=True)
        get(caller, request("key", key="none"), process="p2", park=True)
        ear.heard()
        acks: list[Operation] = [["ack", 1, lease[0], lease[2], 0] for lease in held]
        acks[3][3] = 7  # a token that holds nothing
        acks[4][2] = "sother"
        acks += acks[:2] if twice else []
        acks += [["ack", 3, held[5][0], held[5][2], 0], ["ack", 1, held[5][0], held[5][2], 0]]
        if together:
            results = caller.turn(*acks, number="5").results
            assert caller.turn(*acks, number="5").results == results
        else:
            results = [caller.turn(each).results[0] for each in acks]
        found = dump(caller)
        left = {key: (one.state, one.tenant, one.body) for key, one in found.items.items()}
        counts = caller.look("counts", 1)[:14]
        return results, left, found.line, found.counts, found.tenants, counts, ear.heard()

    assert outcome(together=True) == outcome(together=False)


@pytest.mark.parametrize("consumer", ["", "worker"])
def test_acks_that_come_together_are_few_commands(caller: Caller, consumer: str) -> None:
    make(caller)
    caller.turn(put(1, *((f"k{n}", n) for n in range(100))))
    held = leases(get(caller, request(count=100, consumer=consumer)))
    caller.client.config_resetstat()
    assert (
        caller.turn(*(["ack", 1, each[0], each[2], 0] for each in held)).results == [[b"ok"]] * 100
    )
    stats = caller.client.info("commandstats")
    calls = [stats[f"cmdstat_{name}"]["calls"] for name in ("hdel", "zrem", "hmget")]
    assert calls == [1, 1, 2]  # of which one is for what is kept of the process
    assert "cmdstat_hget" not in stats
    assert dump(caller).items == {}


@pytest.mark.parametrize("case", ["plain", "twice", "late", "an update"])
def test_extensions_that_come_together_do_what_each_would_do(caller: Caller, case: str) -> None:
    def outcome(*, together: bool) -> object:
        caller.offset = 0
        caller.client.flushdb()
        make(caller)
        caller.turn(put(1, *((f"k{n}", n) for n in range(6))))
        held = leases(get(caller, request(count=6, lease=10 * SECOND, consumer="=me")))
        spans = (60, 90, -1, 30, 20, 40)
        extensions: list[Operation] = [
            ["extend", 1, lease[0], lease[2], span * SECOND if span > 0 else span]
            for lease, span in zip(held, spans, strict=True)
        ]
        extensions[3][3] = 7  # a token that holds nothing
        if case == "twice":
            extensions += [["extend", 1, held[0][0], held[0][2], 0], extensions[0]]
        elif case == "late":
            caller.one("extend", 1, held[2][0], held[2][2], 60 * SECOND)
            caller.offset = 20 * SECOND
        elif case == "an update":
            caller.turn(put(1, ("k1", "new")))
        if together:
            results = caller.turn(*extensions).results
        else:
            results = [caller.turn(each).results[0] for each in extensions]
        inflight = caller.look("inflight", 1, "")[2:]
        return results, sorted((each[0], each[2], each[4] // (5 * SECOND)) for each in inflight)

    together, one_by_one = outcome(together=True), outcome(together=False)
    assert together == one_by_one


# Kept values


def value(name: str, body: str, ttl: int = 60 * SECOND) -> Operation:
    """A value with a settlement, or by itself; "-" is kept if there is no room for it."""
    return [name, ttl, body, "-"]


def ack(lease: list[bytes], *values: Operation, queue: int = 1) -> Operation:
    parts = [part for each in values for part in each]
    return ["ack", queue, lease[0], lease[2], len(values), *parts]


def recalled(caller: Caller, *names: str) -> list[bytes | None]:
    results = caller.turn(*(["recall", 1, name, 0] for name in names)).results
    assert all(result[0] == b"ok" for result in results)
    return [result[2] if result[1] else None for result in results]


@pytest.mark.parametrize("case", ["plain", "late", "dedupe", "an update"])
def test_acks_with_values_that_come_together_do_what_each_would_do(
    caller: Caller, ear: Ear, case: str
) -> None:
    def outcome(*, together: bool) -> object:
        caller.offset = 0
        caller.client.flushdb()
        make(caller, dedupe_for=60 * SECOND if case == "dedupe" else -1)
        caller.turn(put(1, *((f"k{n}", n) for n in range(6))))
        held = leases(get(caller, request(count=6, lease=10 * SECOND)))
        if case == "an update":
            caller.turn(put(1, ("k1", "new")))
        if case == "late":
            caller.one("extend", 1, held[2][0], held[2][2], 60 * SECOND)
            caller.offset = 20 * SECOND
        for process, name in (("p1", "v1"), ("p2", "v1"), ("p2", "v2"), ("p3", "other")):
            assert caller.one("recall", 1, name, 1, process=process) == [b"ok", 0]
        acks = [ack(lease, *([value(f"v{n}", f"b{n}")] * n)) for n, lease in enumerate(held)]
        acks[3][3] = 7  # a token that holds nothing
        if together:
            results = caller.turn(*acks).results
        else:
            results = [caller.turn(each).results[0] for each in acks]
        heard = sorted(ear.heard())
        return results, recalled(caller, *(f"v{n}" for n in range(6))), heard, dump(caller).counts

    together, one_by_one = outcome(together=True), outcome(together=False)
    assert together == one_by_one


def test_acks_with_values_are_few_commands(caller: Caller) -> None:
    make(caller)
    caller.turn(put(1, *((f"k{n}", n) for n in range(50))))
    held = leases(get(caller, request(count=50)))
    caller.client.config_resetstat()
    acks = [ack(lease, value(f"v{n}", "body")) for n, lease in enumerate(held)]
    assert caller.turn(*acks).results == [[b"ok"]] * 50
    stats = caller.client.info("commandstats")
    assert stats["cmdstat_set"]["calls"] <= 52  # and the queue
    assert stats["cmdstat_zrange"]["calls"] < 10
    assert recalled(caller, "v0", "v49", "v50") == [b"body", b"body", None]


def test_a_value_is_forgotten_by_the_server_too(caller: Caller) -> None:
    make(caller)
    caller.one("keep_values", 1, 1, *value("x", "1", ttl=20 * SECOND))
    caller.one("keep_values", 1, 1, *value("y", "1"))
    caller.one("keep_values", 1, 1, *value("z", "1", ttl=20_000))
    [key] = caller.client.keys("*/y")
    assert 50_000 < caller.client.pttl(key) <= 60_000
    caller.offset = 10 * SECOND
    assert recalled(caller, "x") == [b"1"]
    caller.offset = 30 * SECOND
    assert recalled(caller, "x") == [None]
    assert len(caller.client.keys("*/x")) == 1
    until = time.monotonic() + 5.0
    while len(caller.client.keys("*/z")) and time.monotonic() < until:
        time.sleep(0.01)
    assert caller.client.keys("*/z") == []


def test_a_value_is_not_kept_with_the_reply_to_a_lost_call(caller: Caller) -> None:
    make(caller)
    caller.one("keep_values", 1, 1, *value("x", "body" * 1000))
    asked: list[Operation] = [["recall", 1, "x", 1], ["recall", 1, "y", 1]]
    assert caller.turn(*asked, number="1").results == [[b"ok", 1, b"body" * 1000], [b"ok", 0]]
    assert caller.turn(*asked, number="1").results == [[b"ok", 1], [b"ok", 0]]
    record = caller.client.hget(scripts.broker_keys("t")[0], "p")
    assert isinstance(record, bytes)
    assert len(record) < 200


def test_values_that_are_much_come_in_several_calls(caller: Caller) -> None:
    make(caller)
    for n in range(10):
        caller.one("keep_values", 1, 1, *value(f"v{n}", "x" * 1_000_000))
    results = caller.turn(*(["recall", 1, f"v{n}", 0] for n in range(10))).results
    found = [len(result) == 3 for result in results]
    assert found == [True] * 4 + [False] * 6
    assert [result[:2] for result in results] == [[b"ok", 1]] * 10


def test_who_waits_for_a_value_is_told_once_and_forgotten_when_gone(
    caller: Caller, ear: Ear
) -> None:
    make(caller)
    for process in ("p1", "p2", "p1"):
        caller.one("recall", 1, "x", 1, process=process)
    caller.one("recall", 1, "y", 1, process="p1")
    caller.one("stop_waiting", 1, 1, "x", process="p2")
    caller.one("keep_values", 1, 2, *value("x", "1"), *value("z", "1"))
    assert ear.heard() == [("p1", b"vx")]
    caller.one("keep_values", 1, 1, *value("x", "2"))
    assert ear.heard() == []
    waiting = scripts.queue_keys("t", "q")[12]
    assert caller.client.zcard(waiting) == 1
    caller.client.hdel(scripts.broker_keys("t")[0], "p1")  # it has not been heard of for an hour
    for n in range(20):
        caller.one("recall", 1, f"n{n}", 1, process="p2")
    assert caller.client.zcard(waiting) == 20
    assert caller.manage("delete", 1, "q") == [b"ok"]
    assert ear.heard() == [("p2", b"x")]
    assert caller.client.exists(waiting) == 0
