"""Power cuts, clocks that step back, files that shrink again: what is in the file stays right."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

from leaseq import PutOutcome, Retry, Tenant
from leaseq._core.requests import PutRequest
from leaseq._remote import protocol as p
from leaseq._sqlite import file as files
from leaseq._sqlite.work import clock
from leaseq.sqlite import SqliteUrl

# Power cuts


TABLES = ("items", "queues", "accounts", "successors", "bodies", "done", "history", "parks")


def contents(path: Path) -> dict[str, Any]:
    """All that is in a file, which must not be damaged."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {
            table: connection.execute(f"SELECT * FROM leaseq_{table} ORDER BY 1, 2").fetchall()
            for table in TABLES
        }
    finally:
        connection.close()


def counters_are_right(there: dict[str, Any]) -> None:
    """The counters of each queue are those of its rows."""
    for queue in there["queues"]:
        states = [item[3] for item in there["items"] if item[1] == queue[0]]
        ready, delayed, leased = queue[13:16]
        assert [states.count(state) for state in range(3)] == [ready, delayed, leased]


class Workload:
    """Whatever producers and consumers do, as a seed decides."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.chance = random.Random(seed)
        self.leases: list[tuple[str, int]] = []
        self.keys = 0

    def step(self) -> None:
        """Have a batch of some operations done."""
        self.place.now += self.chance.choice([0.0, 0.1, 3.0])
        operations = [self.operation() for _ in range(self.chance.randint(1, 5))]
        for answer in self.place.exchange("a", self.place.batch(*operations)).answers:
            assert not isinstance(answer, Exception), answer
            if isinstance(answer, p.Claimed):
                self.leases += claimed(answer)

    def operation(self) -> p.Operation[Any]:
        chance = self.chance
        kind = chance.choice(["put", "put", "put", "claim", "claim", "settle", "settle", "sweep"])
        if kind == "settle" and self.leases:
            key, token = self.leases.pop(chance.randrange(len(self.leases)))
            return chance.choice(
                [
                    p.Ack(QUEUE, key, token),
                    p.Release(QUEUE, key, token, error="broken"),
                    p.Reject(QUEUE, key, token, "bad"),
                    p.GiveBack(QUEUE, key, token),
                ]
            )
        if kind == "claim":
            return claim(chance.randint(1, 3), parks=True, lease_timeout=chance.choice([2.0, None]))
        if kind == "sweep":
            return p.Sweep(QUEUE, 64)
        keys = [chance.choice("abcdefgh")]
        if chance.random() < 0.5:
            self.keys += 1
            keys = [f"key-{self.keys}"]
        terms = PutRequest(
            if_in_flight=chance.choice(["update", "buffer"]),
            delay=chance.choice([0.0, 0.0, 1.0]),
            priority=chance.choice([None, 5]),
        )
        body = b"x" * chance.choice([1, 100, 3000])
        return p.Put(QUEUE, tuple((key, body) for key in keys), terms)


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 9), marks=pytest.mark.slow)])
def test_a_power_cut_leaves_all_that_was_confirmed_and_no_half_of_anything(
    tmp_path: Path, seed: int | range
) -> None:
    for each in [seed] if isinstance(seed, int) else seed:
        folder = tmp_path / str(each)
        folder.mkdir()
        cut_power(folder, each)


def cut_power(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    place = Place(folder / "queues.db")
    file, log = place.path, place.path.with_name("queues.db-wal")
    place.declare(retry=Retry(max_deliveries=3), history=5, dedupe_for=5.0)
    place.file("a")._cursor.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    workload = Workload(place, seed)
    for _ in range(3):
        place.file("a")._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        confirmed = [(0, contents(file))]
        for _ in range(25):
            workload.step()
            confirmed.append((log.stat().st_size, contents(file)))
        whole = log.read_bytes()
        ends = [size for size, _ in confirmed]
        cuts = [*ends, *(end - 1 for end in ends if end), *(chance.sample(range(len(whole)), 20))]
        for cut in cuts:
            lost = folder / "lost.db"
            shutil.copy(file, lost)
            torn = chance.choice([0, 0, 100, 10_000])  # bytes that came out wrong
            wrong = bytes(byte ^ 0xA5 for byte in whole[cut : cut + torn])
            log_left = whole[:cut] + wrong
            lost.with_name("lost.db-wal").write_bytes(log_left)
            lost.with_name("lost.db-shm").unlink(missing_ok=True)
            there = contents(lost)
            [*_, (_, expected)] = [each for each in confirmed if each[0] <= cut]
            assert there == expected, (seed, cut, len(whole))
            counters_are_right(there)
            lost.unlink()
    place.close()


def test_what_was_confirmed_is_on_the_disk_unless_one_says_otherwise(place: Place) -> None:
    assert SqliteUrl.parse("sqlite:///q.db").synchronous == "full"
    query = "PRAGMA synchronous"
    assert place.file("a")._cursor.execute(query).fetchone() == (1,)  # as tests have it
    from leaseq._sqlite.file import File

    file = File(SqliteUrl(place.path), "b", "", lambda _: False)
    file.open()
    assert file._cursor.execute(query).fetchone() == (2,)
    file.close()


# Clocks


def test_the_clock_of_the_file_goes_on_evenly_when_that_of_the_machine_steps_back() -> None:
    assert clock(100.0, 90.0, 0.0) == (100.0, 0.0)
    now, ahead = clock(40.0, 100.0, 0.0)
    assert (now, ahead) == (100.0, 60.0)
    now, ahead = clock(45.0, now, ahead)
    assert (now, ahead) == (105.0, 60.0)
    now, ahead = clock(30.0, now, ahead)  # once more
    assert (now, ahead) == (105.0, 75.0)
    assert clock(110.0, now, ahead) == (110.0, 0.0)  # it was set right


@pytest.mark.parametrize("step", [-3600.0, -0.5])
def test_a_clock_that_steps_back_holds_nothing_up(place: Place, step: float) -> None:
    place.declare()
    place.do("a", put("leased"))
    [(key, token)] = claimed(place.do("a", claim(lease_timeout=2.0)))
    place.do("a", put("delayed", delay=2.0))
    place.now += step
    assert place.do("a", p.Ack(QUEUE, "nothing", 1)) is p.Settled.NOT_HELD
    place.do("b", put("other"))
    place.now += 2.5
    found = claimed(place.do("b", claim(5)))
    assert {each for each, _ in found} == {"leased", "delayed", "other"}
    assert all(later > token for each, later in found if each == key)
    assert place.do("a", p.Ack(QUEUE, key, token)) is p.Settled.NOT_HELD


def test_a_clock_that_steps_back_ends_no_lease(place: Place) -> None:
    place.declare()
    place.do("a", put("leased"))
    [(key, token)] = claimed(place.do("a", claim(lease_timeout=2.0)))
    place.now -= 3600
    for _ in range(3):
        place.now += 0.5
        assert not claimed(place.do("b", claim()))
    assert place.do("a", p.Ack(QUEUE, key, token)) is p.Settled.DONE


# Size


def file_size(place: Place) -> int:
    place.file("a")._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return place.path.stat().st_size


def drain(place: Place) -> None:
    while leases := claimed(place.do("a", claim(200))):
        acks = [p.Ack(QUEUE, key, token) for key, token in leases]
        place.exchange("a", place.batch(*acks))


def test_a_file_that_is_drained_shrinks_again(place: Place) -> None:
    place.declare()
    for number in range(40):
        place.do("a", put(*(f"item-{number}-{each}" + "x" * 200 for each in range(250))))
    full = file_size(place)
    drain(place)
    place.file("a").tidy(lambda: True)
    assert full > 6_000_000
    assert file_size(place) < 4_000_000
    place.do("a", put("one more"))
    assert place.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_busy_process_tidies_up_another_time(place: Place) -> None:
    place.declare()
    for number in range(20):
        place.do("a", put(*(f"item-{number}-{each}" + "x" * 200 for each in range(250))))
    drain(place)
    free = place.rows("PRAGMA freelist_count")
    place.file("a").tidy(lambda: False)
    assert place.rows("PRAGMA freelist_count") == free


def test_a_file_that_was_drained_in_a_hurry_shrinks_later(place: Place) -> None:
    place.declare()
    for number in range(40):
        place.do("a", put(*(f"item-{number}-{each}" + "x" * 200 for each in range(250))))
    drain(place)
    file, full = place.file("a"), file_size(place)
    file.tidy(lambda: False)  # there is something else to do
    file.tidy(lambda: True)
    assert file_size(place) < full - 2_000_000


def test_a_few_large_values_give_their_room_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.declare()
    file = place.file("a")
    place.do("a", p.Put(QUEUE, (("item", b"x" * 20_000_000),), PutRequest()))
    file.tidy(lambda: True)
    drain(place)
    full = file_size(place)
    file.tidy(lambda: True)
    later = time.monotonic() + 61.0
    monkeypatch.setattr(files.time, "monotonic", lambda: later)
    file.tidy(lambda: True)
    assert file_size(place) < full - 15_000_000


def test_the_log_stays_small(place: Place) -> None:
    place.declare()
    log = place.path.with_name("queues.db-wal")
    for number in range(300):
        place.do("a", put(*(f"item-{number}-{each}" + "x" * 200 for each in range(50))))
        place.file("a").tidy(lambda: True)
    assert log.stat().st_size < 16_000_000


def test_a_log_that_a_reader_has_made_long_begins_anew_when_it_has_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LARGE_LOG", 100_000)
    place.declare()
    log = place.path.with_name(f"{place.path.name}-wal")
    reader = sqlite3.connect(place.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM leaseq_items").fetchall()
    for number in range(2 * files._LOOKS):
        place.do("a", put(f"item-{number}"))
    file = place.file("a")
    file.tidy(lambda: True)
    assert log.stat().st_size > 100_000
    place.do("a", put("more"))  # nor did the look at it leave anything behind
    reader.execute("COMMIT")
    reader.close()
    file._changes = files._LOOKS
    file.tidy(lambda: True)
    assert log.stat().st_size == 0
    assert place.do("a", p.Counts(QUEUE)).ready == 2 * files._LOOKS + 1


def test_a_file_that_was_let_go_of_is_not_tidied_up(place: Place) -> None:
    place.declare()
    file = place.file("a")
    file.close()
    file.close()
    file.tidy(lambda: True)
    assert place.do("a", put("item")) == (PutOutcome.ADDED,)  # it is opened anew


def test_large_values_are_kept_apart_and_come_back(place: Place) -> None:
    place.declare(history=3)
    bodies = {f"key-{size}": b"x" * size for size in (0, 1024, 1025, 100_000)}
    request = PutRequest()
    place.do("a", p.Put(QUEUE, tuple(bodies.items()), request))
    assert place.rows("SELECT count(*) FROM leaseq_bodies") == [(2,)]
    [batch] = place.do("a", claim(9)).batches
    assert {each.key: each.body for each in batch} == bodies
    tokens = {each.key: each.token for each in batch}
    place.do("a", p.Reject(QUEUE, "key-100000", tokens["key-100000"], "bad"))
    letters = p.QueueRef("lost")
    [key] = place.do("a", p.AvailableKeys(letters)).members
    assert place.do("a", p.Look(letters, key)).body.value == bodies["key-100000"]
    assert place.do("a", p.Redrive(QUEUE, None, None)).keys == ("key-100000",)
    assert place.do("a", p.Look(QUEUE, "key-100000")).body == bodies["key-100000"]
    place.do("a", p.Put(QUEUE, (("key-100000", b"small"),), request))
    place.do("a", p.Put(QUEUE, (("key-1025", b"y" * 5000),), request))
    place.do("a", p.Release(QUEUE, "key-1025", tokens["key-1025"]))
    assert place.do("a", p.Look(QUEUE, "key-100000")).body == b"small"
    assert place.do("a", p.Look(QUEUE, "key-1025")).body == b"y" * 5000
    place.do("a", p.Purge(QUEUE))
    for key in ("key-0", "key-1024"):
        place.do("a", p.Ack(QUEUE, key, tokens[key]))
    assert place.rows("SELECT count(*) FROM leaseq_bodies") == [(0,)]
    assert place.rows("SELECT count(*) FROM leaseq_items") == [(0,)]


# The cost of statements


ALLOWED = (
    "SCAN leaseq_clock", "SCAN leaseq_processes", "SCAN leaseq_queues", "SCAN leaseq_file",
)  # fmt: skip


def test_every_statement_finds_its_rows_by_an_index(place: Place) -> None:
    seen: dict[str, None] = {}
    connection = place.file("a")._connection
    assert connection is not None
    connection.set_trace_callback(seen.setdefault)
    run_all(place)
    connection.set_trace_callback(None)
    wrong = []
    for statement in seen:
        if statement.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA", "--"):
            continue
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {finite(statement)}"):
            scans = step.startswith("SCAN") and not step.startswith(ALLOWED)
            if (scans and "CONSTANT ROW" not in step) or "TEMP B-TREE FOR ORDER" in step:
                wrong.append((step, statement))
    assert len(seen) > 100
    assert wrong == []


def finite(statement: str) -> str:
    """A statement as SQLite shows it, without the infinities that it shows and does not read."""
    return re.sub(r"\bInf\b", "9e999", statement)


def run_all(place: Place) -> None:
    """Have every kind of operation done, in a queue with tenants and in one without."""
    queries: list[Callable[[p.QueueRef], p.Operation[Any]]] = [
        p.AvailableKeys, p.DelayedKeys, p.LeasedKeys, p.InFlight, p.Info, p.ReadHistory, p.Find,
        p.Counts, p.CountTenants, lambda ref: p.Look(ref, "a"),
    ]  # fmt: skip
    for tenants in ({}, {"tenants": {"x": Tenant(2.0)}}):
        place.declare(history=2, dedupe_for=1.0, retry=Retry(max_deliveries=3), **tenants)
        workload = Workload(place, 1)
        for _ in range(60):
            workload.step()
        if tenants:
            for tenant in "xyz":
                place.do("a", put(f"of {tenant}", tenant=tenant))
            place.do("a", p.SetTenant(QUEUE, "x", Tenant(1.0, 5)))
            place.do("a", claim(tenants=["y"], steal_from=["x"], parks=True))
        place.do("b", claim(parks=True, key="absent"))
        for tenant in ("x", None):
            place.do("a", p.Pause(QUEUE, tenant, "a reason"))
            place.do("a", p.Info(QUEUE))
            place.do("a", put("of x", tenant="x" if tenants else None))
            place.do("a", p.Resume(QUEUE, tenant))
        for _ in range(3):
            place.do("b", claim(parks=True))
            place.do("a", put("a", "b"))
        for query in queries:
            assert not isinstance(place.do("a", query(QUEUE)), Exception)
        place.do("a", p.Discard(QUEUE, "a"))
        place.do("a", p.Join(QUEUE))
        place.do("a", p.Parked(QUEUE, (p.Park(p.Want("any"), 1),)))
        place.do("a", p.Unpark(QUEUE, (p.Park(p.Want("any"), 1),)))
        place.do("a", p.Wake(QUEUE, p.Want("any")))
        place.do("a", p.ReleaseAll(QUEUE, "nobody"))
        place.do("a", p.Redrive(QUEUE, None, 2))
        place.do("a", p.Purge(QUEUE))
        place.do("a", p.Close(QUEUE, tuple(workload.leases)))
        place.do("a", p.Delete(QUEUE))
        place.do("a", p.Delete(p.QueueRef("lost")))
        place.file("a")._swept_at = 0.0
        place.file("a").tidy(lambda: True)
