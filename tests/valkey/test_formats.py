"""The number of the format, clients of newer ones, and a server's clock that is put back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import valkey
from script_calls import Caller, claim, declare, put, request
from tests.servers import Server

import leaseq
from leaseq._core.errors import ServerError, UnusableServerError
from leaseq._valkey import scripts
from leaseq._valkey.scripts import FORMAT, OLDEST

SECOND = 1_000_000


class Doctored(Caller):
    """A caller of scripts in which some text is another."""

    def __init__(self, address: tuple[str, int], *changes: tuple[str, str]) -> None:
        self._changes = changes
        super().__init__(address)

    def load(self, script: str) -> object:
        return super().load(self._doctored(script))

    def load_function(self, script: str) -> str:
        return super().load_function(self._doctored(script))

    def _doctored(self, script: str) -> str:
        for before, after in self._changes:
            assert before in script
            script = script.replace(before, after)
        return script


NEWER_FIELDS = (
    ("q.remembered\n  ) .. q.further)", 'q.remembered\n  ) .. pack("future"))'),
    ("  local last = 9\n", '  local last = 9\n  item.further = { "future" }\n'),
    (") .. account.further)", ') .. pack("future"))'),
)
"""A format that has a field more in the state of a queue, in items, and in tenants' accounts."""

FORMAT_3 = (
    (
        "    q.largest,\n    q.paused, q.reason, q.n_paused, q.cancelled, q.remembered\n",
        "    q.largest\n",
    ),
)
"""A format whose state of a queue has no pauses, and no cancelled items."""

CLOCK = (
    ("  wall = clock[1] * 1000000 + clock[2]\n", "  wall = tonumber(ARGV[1])\n"),
    ("  now = steady + ARGV[1]\n", "  now = steady\n"),
)
"""The server's clock is the caller's offset."""


@pytest.fixture
def address(server: Server) -> tuple[str, int]:
    with valkey.Valkey(port=server.port) as client:
        client.flushall()
    return "127.0.0.1", server.port


def leases(result: list[Any]) -> list[list[Any]]:
    assert result[0] == b"ok"
    found: list[list[Any]] = result[3]
    return found


# Newer formats


def test_fields_of_newer_formats_are_kept_by_all_that_older_ones_do(
    address: tuple[str, int],
) -> None:
    newer, older = Doctored(address, *NEWER_FIELDS), Caller(address)
    tenants = {"x": (1.0, -1)}
    newer.call("manage", declare(1, "q", letters="d", tenants=tenants), declare(2, "d"))
    newer.turn(put(1, ("a", "body"), ("b", "body"), tenant="x"))
    client = older.client
    keys = scripts.queue_keys(older.prefix, "q")
    state, items, accounts = keys[0], keys[1], keys[6]

    def all_have_it() -> bool:
        raws = [client.get(state), client.hget(items, "sa"), client.hget(accounts, "=x")]
        return all(raw is not None and b"future" in raw for raw in raws)  # type: ignore[operator]

    assert all_have_it()
    for number in range(3):
        older.turn(put(1, ("a", f"body {number}"), tenant="x"))
        assert all_have_it()
        (held,) = leases(older.turn(claim(1, request("key", "a"))).results[0])
        assert held[1] == b"body %d" % number
        assert all_have_it()
        older.one("extend", 1, held[0], held[2], 60 * SECOND)
        older.turn(put(1, ("a", "update")))
        older.one("release", 1, held[0], held[2], number % 2, -1, 1, "")
        assert all_have_it()
    older.manage("set_tenant", 1, "=x", 3.0, 5)
    (held,) = leases(newer.turn(claim(1, request("key", "a"))).results[0])
    assert held[1] == b"update"
    assert older.one("ack", 1, held[0], held[2], 0) == [b"ok"]
    newer.client.close()
    older.client.close()


def test_a_queue_of_format_3_is_not_paused_and_can_be(address: tuple[str, int]) -> None:
    older, newer = Doctored(address, *FORMAT_3), Caller(address)
    older.call("manage", declare(1, "q", letters="d"), declare(2, "d"))
    older.turn(put(1, ("a", "body")))
    assert newer.look("info", 1)[7:] == [b"0", b""]
    assert newer.manage("pause", 1, "", "a reason") == [b"ok"]
    assert leases(newer.turn(claim(1, request())).results[0]) == []
    assert newer.look("info", 1)[8] == b"a reason"
    assert newer.manage("resume", 1, "") == [b"ok", 1]
    assert len(leases(newer.turn(claim(1, request())).results[0])) == 1
    newer.client.close()
    older.client.close()


def meta(server: Server) -> list[Any]:
    """What is kept of a broker: the last time, by how much it was put back, and the formats."""
    with valkey.Valkey(port=server.port) as client:
        raw = client.hget(scripts.broker_keys("leaseq")[0], "@")
    assert isinstance(raw, bytes)
    decoder = msgspec.msgpack.Decoder()
    found: list[Any] = decoder.decode(bytes([0x90 + 4]) + raw)
    return found


def set_meta(server: Server, *fields: object) -> None:
    raw = b"".join(map(msgspec.msgpack.encode, fields))
    with valkey.Valkey(port=server.port) as client:
        client.hset(scripts.broker_keys("leaseq")[0], "@", raw)


@pytest.mark.anyio
async def test_the_format_is_kept_with_the_data(own_server: Server) -> None:
    async with leaseq.connect(own_server.url) as broker:
        await broker.queue("work")
    _, put_back, number, oldest = meta(own_server)
    assert (put_back, number, oldest) == (0, FORMAT, OLDEST)


@pytest.mark.anyio
async def test_a_format_that_shuts_this_one_out_is_told_with_the_way_out(
    own_server: Server,
) -> None:
    now = time.time_ns() // 1000
    async with leaseq.connect(own_server.url) as broker:
        queue = await broker.queue("work")
        await queue.put("a", 1)
        set_meta(own_server, now, 0, FORMAT + 1, FORMAT + 1)
        for call in (queue.put("b", 1), queue.available_keys(), broker.purge("work")):
            with pytest.raises(ServerError, match="upgrade leaseq in this process") as caught:
                await call
            assert caught.value.code == "NEWER"
        with pytest.raises(UnusableServerError, match=f"in format {FORMAT + 1}, and this is"):
            async with leaseq.connect(own_server.url):
                pass
        async with leaseq.connect(f"{own_server.url}?prefix=other") as other:
            await other.queue("work")
        set_meta(own_server, now, 0, FORMAT, OLDEST)
        assert await queue.available_keys() == {"a"}


@pytest.mark.anyio
async def test_a_newer_format_that_lets_this_one_work_is_left_as_it_is(own_server: Server) -> None:
    now = time.time_ns() // 1000
    set_meta(own_server, now, 0, FORMAT + 1, OLDEST, "future")
    async with leaseq.connect(own_server.url) as broker:
        queue = await broker.queue("work")
        await queue.put("a", 1)
        assert await queue.available_keys() == {"a"}
    with valkey.Valkey(port=own_server.port) as client:
        raw = client.hget(scripts.broker_keys("leaseq")[0], "@")
    assert isinstance(raw, bytes)
    assert raw.endswith(b"future")
    assert msgspec.msgpack.encode(FORMAT + 1) in raw


@pytest.mark.anyio
async def test_a_record_of_the_broker_that_cannot_be_read_is_written_anew(
    own_server: Server,
) -> None:
    async with leaseq.connect(own_server.url) as broker:
        queue = await broker.queue("work")
        for raw in (b"", b"\xff", b"x", b"\x93"):
            with valkey.Valkey(port=own_server.port) as client:
                client.hset(scripts.broker_keys("leaseq")[0], "@", raw)
            await queue.put(raw, 1)
        assert await queue.qsize() == 4


# A clock that is put back


@pytest.fixture
def clocked(address: tuple[str, int]) -> Iterator[Doctored]:
    caller = Doctored(address, *CLOCK)
    caller.offset = 1_000_000 * SECOND
    caller.call("manage", declare(1, "q", letters="d", dedupe_for=2 * SECOND), declare(2, "d"))
    yield caller
    caller.client.close()


@pytest.mark.parametrize("back", [10, 3600, 86_400 * 365])
def test_a_clock_that_is_put_back_moves_nothing(clocked: Doctored, back: int) -> None:
    numbers = iter(map(str, range(1, 1000)))
    clocked.turn(put(1, ("a", 1)), number=next(numbers))
    (held,) = leases(
        clocked.turn(claim(1, request(lease=2 * SECOND)), number=next(numbers)).results[0]
    )
    clocked.turn(put(1, ("b", 1), delay=3 * SECOND), number=next(numbers))
    clocked.turn(put(1, ("c", 1), ttl=4 * SECOND), number=next(numbers))
    clocked.offset += SECOND * 3 // 2
    clocked.turn(put(1, ("d", 1)), number=next(numbers))  # the time is seen
    clocked.offset -= back * SECOND
    turn = clocked.turn(number=next(numbers))
    assert 0 < turn.left[0] <= SECOND // 2
    clocked.offset += SECOND * 6 // 10
    assert clocked.one("ack", 1, held[0], held[2], 0, number=next(numbers)) == [b"no"]
    clocked.offset += SECOND
    result = clocked.turn(claim(1, request(count=9)), number=next(numbers)).results[0]
    assert {lease[0] for lease in leases(result)} == {b"sa", b"sb", b"sc", b"sd"}
    assert turn.now >= 1_000_000 * SECOND


def test_a_clock_that_is_put_back_again_and_again_moves_nothing(clocked: Doctored) -> None:
    numbers = iter(map(str, range(1, 1000)))
    clocked.turn(put(1, ("a", 1), delay=50 * SECOND), number=next(numbers))
    for second in range(48):
        clocked.offset += 2 * SECOND
        clocked.turn(number=next(numbers))
        clocked.offset -= SECOND if second % 2 else 7 * SECOND
        left = clocked.turn(number=next(numbers)).left[0]
        assert left == max(0, 50 - 2 * (second + 1)) * SECOND


def test_time_that_leaps_forward_and_back_stays_where_it_was(clocked: Doctored) -> None:
    clocked.turn(put(1, ("a", 1), delay=7200 * SECOND), number="1")
    clocked.offset += 3600 * SECOND
    assert clocked.turn(number="2").left[0] == 3600 * SECOND
    clocked.offset -= 3600 * SECOND
    assert clocked.turn(number="3").left[0] == 3600 * SECOND
