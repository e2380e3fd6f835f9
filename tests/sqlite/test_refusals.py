"""Files that cannot hold queues, and disks that are full: a clear error, and nothing half done."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, move_on_after
from tests.sqlite.engine import store_of
from tests.sqlite.place import QUEUE, Place, claim, claimed, put

import leaseq
from leaseq import (
    QueueClosedError,
    ServerError,
    ServerUnavailableError,
    Tenant,
    UnusableServerError,
)
from leaseq._core.kept import Kept
from leaseq._remote import protocol as p
from leaseq._sqlite import file as files
from leaseq._sqlite import schema
from leaseq._sqlite.file import NETWORKS, file_system
from leaseq.sqlite import SqliteBroker, SqliteUrl, put_in

pytestmark = pytest.mark.anyio


async def refusal_of(path: Path, **options: Any) -> str:
    """The text of the error with which a file is refused."""
    with pytest.raises(UnusableServerError) as caught:
        async with SqliteBroker(SqliteUrl(path, **options)):
            pass
    return str(caught.value)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files that are not ours


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path / 'none'}" in await refusal_of(tmp_path / "none" / "q.db")
    assert "is a folder: name a file in it" in await refusal_of(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="devices have other names there")
async def test_what_is_no_file_is_told_as_that(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        assert f"{path} is a device or a pipe, and not a file" in await refusal_of(path)


@pytest.mark.parametrize("change", ["UPDATE leaseq_file SET value = 0", "DELETE FROM leaseq_file"])
async def test_a_format_that_never_was_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "q.db"
    async with leaseq.connect(f"sqlite:///{path}") as broker:
        await broker.queue("work")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)
        connection.commit()
        assert "has the format 0, which no leaseq writes" in await refusal_of(path)
        with pytest.raises(UnusableServerError, match="have the format 0, and this leaseq knows"):
            put_in(connection, "work", "a", 1)


@pytest.mark.parametrize("weight", [1e308, 1e-300])
async def test_a_weight_that_an_older_version_has_kept_stands_in_the_way_of_nothing(
    tmp_path: Path, weight: float
) -> None:
    path = tmp_path / "q.db"
    async with leaseq.connect(f"sqlite:///{path}") as broker:
        queue = await broker.queue("work", tenants={"ann": Tenant()})
        await queue.set_tenant("ann", Tenant(2.0))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE leaseq_tenants SET weight = ?", (weight,))
        options = f'{{"tenants":{{"ann":[{weight},null]}}}}'.encode()
        connection.execute("UPDATE leaseq_queues SET options = ?", (options,))
        connection.commit()
    async with leaseq.connect(f"sqlite:///{path}") as broker:
        queue = await broker.queue("work")
        await queue.put("a", 1, tenant="ann")
        await queue.put("b", 1, tenant="bob")
        assert len(await queue.get_batch(2)) == 2


async def test_a_name_that_the_file_system_cannot_have_is_refused(tmp_path: Path) -> None:
    assert "name too long" in (await refusal_of(tmp_path / ("q" * 300))).lower()


async def test_a_sqlite_that_is_too_old_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    said = await refusal_of(tmp_path / "q.db")
    assert said == "SQLite 3.36.0 is too old: leaseq needs 3.37 or later"
    assert files_in(tmp_path) == []


# Files that are not where they were


@pytest.mark.parametrize("how", ["deleted", "moved"])
async def test_a_file_that_is_gone_takes_nothing_more(tmp_path: Path, how: str) -> None:
    path, elsewhere = tmp_path / "q.db", tmp_path / "elsewhere.db"
    async with SqliteBroker(SqliteUrl(path)) as broker:
        queue = await broker.queue("work")
        await queue.put("there", 1)
        if how == "deleted":
            path.unlink()
        else:
            path.rename(elsewhere)
        with pytest.raises(QueueClosedError, match="the store has lost it"):
            await queue.put("lost", 1)
        assert await broker.list_queues() == []
        again = await broker.queue("work")
        await again.put("found", 1)
        async with SqliteBroker(SqliteUrl(path)) as other:
            assert await (await other.queue("work")).available_keys() == {"found"}
    if how == "moved":
        async with SqliteBroker(SqliteUrl(elsewhere)) as other:
            assert await (await other.queue("work")).available_keys() == {"there"}


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and no database\n" * 100)
    before = path.read_bytes()
    assert "is not a database of SQLite" in await refusal_of(path)
    assert path.read_bytes() == before
    assert files_in(tmp_path) == [path.name]


@pytest.mark.parametrize("number", [0, 0x1234])
async def test_the_database_of_another_application_is_left_alone(
    tmp_path: Path, number: int
) -> None:
    path = tmp_path / "photos.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {number}")
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    said = await refusal_of(path)
    assert "tables of its own" in said
    assert "adopt=true" in said
    assert ("0x1234" in said) == bool(number)
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with SqliteBroker(SqliteUrl(path)) as broker:
        await broker.queue("work")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE leaseq_file SET value = 99")
    connection.execute("ALTER TABLE leaseq_items ADD COLUMN colour TEXT")
    connection.commit()
    said = await refusal_of(path)
    assert "newer leaseq (its format is 99" in said
    assert "upgrade leaseq here" in said
    assert connection.execute("SELECT value FROM leaseq_file").fetchone() == (99,)
    connection.close()


async def test_a_process_whose_file_a_newer_one_has_changed_does_nothing_more(
    tmp_path: Path,
) -> None:
    path = tmp_path / "q.db"
    async with SqliteBroker(SqliteUrl(path)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work")
        await queue.put("a", 1)
        _, _, lease = await queue.get()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE leaseq_file SET value = value + 1 WHERE name = 'format'")
        before = connection.execute("SELECT * FROM leaseq_items").fetchall()
        for call in (lease.ack, partial(queue.put, "b", 1), partial(queue.peek, "a")):
            with pytest.raises(ServerError, match="upgrade leaseq in this process") as no:
                await call()
            assert no.value.code == "NEWER"
        assert connection.execute("SELECT * FROM leaseq_items").fetchall() == before
        connection.execute("UPDATE leaseq_file SET value = value - 1 WHERE name = 'format'")
        connection.close()
        await lease.ack()
        tg.cancel_scope.cancel()


async def test_a_file_of_an_older_format_is_brought_to_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    async with SqliteBroker(SqliteUrl(path)) as broker:
        await (await broker.queue("work")).put("item", 1)

    def add_colours(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE leaseq_queues ADD COLUMN colour TEXT")

    def add_shapes(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE leaseq_queues ADD COLUMN shape TEXT")

    now = schema.FORMAT
    monkeypatch.setattr(schema, "FORMAT", now + 2)
    monkeypatch.setattr(
        schema, "MIGRATIONS", {**schema.MIGRATIONS, now: add_colours, now + 1: add_shapes}
    )
    async with SqliteBroker(SqliteUrl(path)) as broker:
        queue = await broker.queue("work")
        assert await queue.peek("item") == 1
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT colour, shape FROM leaseq_queues").fetchall() == [(None,) * 2]
    assert connection.execute("SELECT value FROM leaseq_file").fetchone() == (now + 2,)
    connection.close()


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    async with SqliteBroker(SqliteUrl(path)) as broker:
        await (await broker.queue("work")).put("item", 1)

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE leaseq_items")
        connection.execute("SELECT no_such_function()")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT", schema.FORMAT + 1)
        patch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, schema.FORMAT - 1: fail})
        assert "no such function" in await refusal_of(path)
    async with SqliteBroker(SqliteUrl(path)) as broker:
        assert await (await broker.queue("work")).peek("item") == 1


def test_every_older_format_has_a_way_to_this_one() -> None:
    assert sorted(schema.MIGRATIONS) == [*range(1, schema.FORMAT)]


# Places that cannot hold a file


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/home\\040nfs rw,relatime shared:2 - nfs4 server:/home rw
31 22 0:41 / /mnt rw,relatime shared:3 - tmpfs tmpfs rw
32 31 0:42 / /mnt/win rw shared:4 - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/q.db", "ext4"),
        ("/mnt/q.db", "tmpfs"),
        ("/mnt/home nfs/ann/q.db", "nfs4"),
        ("/mnt/win/q.db", "cifs"),
        ("/mnt/windows/q.db", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path_is_known(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind
    assert file_system(Path(path), "") == ""


async def test_a_file_system_of_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"40 22 0:50 / {tmp_path} rw,relatime - nfs4 server:/q rw\n"
    monkeypatch.setattr(files, "_mounts", lambda: MOUNTS + line)
    said = await refusal_of(tmp_path / "q.db")
    assert "file system of another machine (nfs4)" in said
    assert "use a local disk, or a Valkey server" in said
    assert files_in(tmp_path) == []
    assert "nfs" in NETWORKS


async def test_a_place_that_can_have_no_write_ahead_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def connect_without_shared_memory(path: Path, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_without_shared_memory)
    said = await refusal_of(tmp_path / "q.db")
    assert "is where SQLite can keep no write-ahead log" in said
    assert "use a local disk" in said


async def test_a_system_that_names_no_file_systems_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", fail)
    async with SqliteBroker(SqliteUrl(tmp_path / "q.db")) as broker:
        await broker.queue("work")


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_this_user_may_not_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "q.db"
    path.touch()
    refused = path if what == "file" else tmp_path
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK or path != refused)
    assert f"{refused} may not be written to by this user" in await refusal_of(path)


AS_NOBODY = """
import anyio, os, sys
import leaseq.sqlite
from leaseq import UnusableServerError, connect
async def main():
    broker = connect(sys.argv[1])
    os.setuid(65534)
    try:
        async with broker:
            pass
    except UnusableServerError as error:
        print(error)
anyio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root has users")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_or_folder_that_may_not_be_written_to_is_refused(what: str) -> None:
    with TemporaryDirectory() as folder:  # which other users can reach
        refuse_nobody(Path(folder), what)


def refuse_nobody(folder: Path, what: str) -> None:
    path = folder / "q.db"
    folder.chmod(0o755)
    if what == "file":
        place = Place(path)
        place.declare()
        place.close()
        folder.chmod(0o777)
    before = path.read_bytes() if what == "file" else b""
    said = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, f"sqlite:///{path}"],
        env={"PYTHONPATH": str(Path(leaseq.__file__).parents[1])},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert "may not be written to by this user" in said
    assert str(path if what == "file" else folder) in said
    assert (path.read_bytes() if what == "file" else b"") == before


# Locks of other programs


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file, which can lock it."""
    connection = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
    yield connection
    connection.close()


async def test_a_file_that_is_locked_while_it_is_opened_says_so(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    locked.execute("BEGIN EXCLUSIVE")
    locked.execute("CREATE TABLE mine (a)")
    with pytest.raises(ServerUnavailableError, match="locked: another program") as caught:
        async with SqliteBroker(SqliteUrl(tmp_path / "q.db", request_timeout=0.05)):
            pass
    assert not caught.value.in_doubt
    locked.execute("ROLLBACK")


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_the_wait_for_a_locked_file_that_is_opened_can_be_cancelled(
    tmp_path: Path, locked: sqlite3.Connection, mode: str, how: str
) -> None:
    locked.execute(f"PRAGMA journal_mode = {mode}")
    locked.execute(f"BEGIN {how}")
    began = time.monotonic()
    with move_on_after(0.05) as scope:
        async with SqliteBroker(SqliteUrl(tmp_path / "q.db", request_timeout=60.0)):
            pass
    assert scope.cancelled_caught
    assert time.monotonic() - began < 30.0
    locked.execute("ROLLBACK")


async def test_a_lock_that_is_held_for_long_is_an_error_and_nothing_was_done(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    url = SqliteUrl(tmp_path / "q.db", request_timeout=0.05)
    async with SqliteBroker(url, patience=0.1) as broker:
        queue = await broker.queue("work")
        locked.execute("BEGIN IMMEDIATE")
        with pytest.raises(ServerUnavailableError, match="locked: another program") as caught:
            await queue.put("item", 1)
        assert not caught.value.in_doubt
        assert await queue.qsize() == 0  # to read needs no lock
        locked.execute("COMMIT")
        assert await queue.put("item", 1) is leaseq.PutOutcome.ADDED


async def test_a_lock_that_is_held_for_a_while_is_waited_for(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    async with (
        SqliteBroker(SqliteUrl(tmp_path / "q.db", request_timeout=0.05)) as broker,
        create_task_group() as tg,
    ):
        await tg.start(broker.run)
        queue = await broker.queue("work")
        locked.execute("BEGIN IMMEDIATE")
        tg.start_soon(queue.put, "item", 1)
        await anyio.sleep(0.3)
        locked.execute("COMMIT")
        with fail_after(2):
            _, _, lease = await queue.get()
        await queue.ack(lease)
        tg.cancel_scope.cancel()


async def test_a_reader_of_another_program_is_in_nobody_s_way(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    async with SqliteBroker(SqliteUrl(tmp_path / "q.db", request_timeout=0.05)) as broker:
        queue = await broker.queue("work")
        locked.execute("BEGIN")
        locked.execute("SELECT count(*) FROM leaseq_items").fetchall()
        for number in range(10):
            await queue.put(f"item-{number}", None)
        assert locked.execute("SELECT count(*) FROM leaseq_items").fetchone() == (0,)
        locked.execute("COMMIT")


# Full disks


def fill(place: Place, process: str = "a", spare: int = 0) -> None:
    """Let the file grow no more, but by some pages."""
    cursor = place.file(process)._cursor
    pages = cursor.execute("PRAGMA page_count").fetchone()[0]
    cursor.execute(f"PRAGMA max_page_count = {pages + spare}").fetchall()


def large(*keys: str) -> p.Put:
    request = put("").request
    return p.Put(QUEUE, tuple((key, b"x" * 20_000) for key in keys), request)


def test_a_full_disk_refuses_puts_and_lets_the_rest_go_on(place: Place) -> None:
    place.declare()
    place.do("a", put(*(f"item-{number}" for number in range(50))))
    leases = claimed(place.do("a", claim(30)))
    fill(place)
    batch = place.batch(
        *[p.Ack(QUEUE, key, token) for key, token in leases[:10]],
        large("big"),
        *[p.Release(QUEUE, key, token) for key, token in leases[10:20]],
        claim(5),
    )
    answers = place.exchange("a", batch).answers
    assert answers[:10] == [p.Settled.DONE] * 10
    error = answers[10]
    assert isinstance(error, ServerError)
    assert error.code == "OOM"
    assert "disk" in str(error)
    assert answers[11:21] == [p.Settled.DONE] * 10
    assert len(claimed(answers[21])) == 5
    assert place.exchange("a", batch).answers[:11] == answers[:11]
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.ready, counts.leased, counts.acked) == (25, 15, 10)
    assert place.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_transaction_that_has_no_room_does_nothing(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    [(key, token)] = claimed(place.do("a", claim()))
    fill(place)
    steps = (p.Ack(QUEUE, key, token), large("one"), large("two"))
    assert isinstance(place.do("a", p.Transact(QUEUE, steps)), ServerError)
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.leased, counts.ready, counts.acked) == (1, 0, 0)
    assert place.do("a", p.Ack(QUEUE, key, token)) is p.Settled.DONE


def test_a_transaction_that_puts_is_refused_like_a_put_where_little_is_free(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.declare()
    place.do("a", put("one", "two"))
    one, two = claimed(place.do("a", claim(2)))
    monkeypatch.setattr(place.file("a"), "_has_room", lambda: False)
    growing, settling = place.exchange(
        "a",
        place.batch(
            p.Transact(QUEUE, (p.Ack(QUEUE, *one), put("next"))),
            p.Transact(QUEUE, (p.Ack(QUEUE, *two),)),
        ),
    ).answers
    assert isinstance(growing, ServerError)
    assert growing.code == "OOM"
    assert settling == ()
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.leased, counts.ready, counts.acked) == (1, 0, 1)


def test_what_was_given_up_goes_to_the_letters_on_a_full_disk(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    [(key, token)] = claimed(place.do("a", claim()))
    fill(place)
    assert place.do("a", p.Reject(QUEUE, key, token, "bad")) is p.Settled.DONE
    assert place.do("a", p.Info(QUEUE)).dead == 1


@pytest.mark.parametrize("spare", [0, 3])
def test_a_full_disk_keeps_no_results_and_settles_all_the_same(place: Place, spare: int) -> None:
    place.declare()
    place.do("a", put("one", "two"))
    [(one, token), (two, other)] = claimed(place.do("a", claim(2)))
    fill(place, spare=spare)
    result = Kept("result", b"x" * 100_000, 60.0, b"lost")
    assert place.do("a", p.Ack(QUEUE, one, token, (result,))) is p.Settled.NOT_KEPT
    assert place.do("a", p.Reject(QUEUE, two, other, "bad", keep=(result,))) is p.Settled.NOT_KEPT
    assert place.do("a", p.Ack(QUEUE, one, token, (result,))) is p.Settled.NOT_HELD
    assert place.do("a", p.Recall(QUEUE, "result")).body in (b"lost", None)
    assert isinstance(place.do("a", p.KeepValues(QUEUE, (result,))), ServerError)
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.acked, counts.dead, counts.leased) == (1, 1, 0)


async def test_a_full_disk_is_told_to_the_caller_and_passes(tmp_path: Path) -> None:
    async with SqliteBroker(SqliteUrl(tmp_path / "q.db")) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work")
        await queue.put("small", 1)
        store = store_of(broker)
        cursor = store.file._cursor

        def grow_by(pages: int) -> None:
            there = cursor.execute("PRAGMA page_count").fetchone()[0]
            cursor.execute(f"PRAGMA max_page_count = {there + pages}").fetchall()

        await store._worker.do(lambda: grow_by(0))
        with pytest.raises(ServerError, match="is full") as caught:
            await queue.put("big", "x" * 100_000)
        assert caught.value.code == "OOM"
        _, value, lease = await queue.get()
        assert value == 1
        await queue.ack(lease)
        await store._worker.do(lambda: grow_by(1000))
        await queue.put("big", "x" * 100_000)
        tg.cancel_scope.cancel()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that is soon full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user may mount no disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it mounts a disk")
async def test_a_disk_that_fills_under_load_loses_nothing(small_disk: Path) -> None:
    put_keys: list[str] = []
    async with SqliteBroker(SqliteUrl(small_disk / "q.db")) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", default_lease_timeout=60)

        async def produce(name: str) -> None:
            for number in range(10_000):
                await queue.put(f"{name}-{number}", "x" * 20_000)
                put_keys.append(f"{name}-{number}")

        async def fill(name: str) -> None:
            with pytest.raises(ServerError) as caught:
                await produce(name)
            assert caught.value.code == "OOM"

        async with create_task_group() as producers:
            for name in "abc":
                producers.start_soon(fill, name)
        assert len(put_keys) > 100
        with fail_after(60):
            done = []
            while len(done) < len(put_keys):
                for lease in await queue.get_batch(20):
                    await queue.ack(lease)
                    done.append(lease.key)
        assert sorted(done) == sorted(put_keys)
        assert await queue.qsize() == 0
        tg.cancel_scope.cancel()


def test_a_quota_refuses_puts_and_lets_the_rest_go_on(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    [(key, token)] = claimed(place.do("a", claim()))
    file = place.file("a")
    file._cursor = CursorWithQuota(file._cursor)  # type: ignore[assignment]
    batch = place.batch(large("big"), p.Ack(QUEUE, key, token), put("small"))
    refused, acked, taken = place.exchange("a", batch).answers
    assert isinstance(refused, ServerError)
    assert refused.code == "OOM"
    assert acked is p.Settled.DONE
    assert taken == (leaseq.PutOutcome.ADDED,)
    assert place.exchange("a", batch).answers[1:] == [acked, taken]
    assert place.do("a", p.AvailableKeys(QUEUE)) == p.Page(("small",))


# Doubtful commits


class CursorWithQuota:
    """A cursor whose commits fail, and are rolled back, if there is a large body in them."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == "COMMIT":
            query = "SELECT count(*) FROM leaseq_bodies"
            if self._cursor.execute(query).fetchone()[0]:
                self._cursor.execute("ROLLBACK")
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
                raise error
        return self._cursor.execute(statement, *parameters)


class FailingCursor:
    """A cursor of which a commit fails, the next one or a later one, done or not."""

    def __init__(self, cursor: sqlite3.Cursor, *, is_done: bool, after: int = 0) -> None:
        self._cursor = cursor
        self._is_done = is_done
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == "COMMIT":
            self._left -= 1
            if self._left < 0:
                self._cursor.execute("COMMIT" if self._is_done else "ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
        return self._cursor.execute(statement, *parameters)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_commit_in_doubt_is_looked_up_before_it_is_done_again(
    place: Place, is_done: bool
) -> None:
    place.declare()
    file = place.file("a")
    file._cursor = FailingCursor(file._cursor, is_done=is_done)  # type: ignore[assignment]
    batch = place.batch(put("item"), claim())
    with pytest.raises(ServerUnavailableError) as caught:
        place.exchange("a", batch)
    assert caught.value.in_doubt
    outcome, got = place.exchange("a", batch).answers
    assert outcome == (leaseq.PutOutcome.ADDED,)
    [(key, token)] = claimed(got)
    counts = place.do("a", p.Counts(QUEUE))
    assert (counts.put, counts.leased, counts.delivered) == (1, 1, 1)
    assert place.do("a", p.Ack(QUEUE, key, token)) is p.Settled.DONE


def test_an_operation_that_raises_does_not_concern_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.declare()
    answers = place.exchange(
        "a", place.batch(put("one"), p.Put(QUEUE, (("two", None),), put("").request), put("three"))
    ).answers
    assert answers[0] == answers[2] == (leaseq.PutOutcome.ADDED,)
    assert isinstance(answers[1], Exception)
    assert place.do("a", p.Counts(QUEUE)).ready == 2


# Errors of statements that belong to no operation


@pytest.mark.parametrize(
    ("denied", "operation"),
    [
        (sqlite3.SQLITE_PRAGMA, p.Parked(QUEUE, (), 0)),
        (sqlite3.SQLITE_TRANSACTION, put("item")),
        (sqlite3.SQLITE_TRANSACTION, p.Counts(QUEUE)),
        (sqlite3.SQLITE_READ, p.Counts(QUEUE)),
    ],
)
def test_a_batch_that_cannot_begin_was_not_done_and_is_done_by_another_connection(
    place: Place, denied: int, operation: p.Operation[Any]
) -> None:
    place.declare()
    connection = place.file("a")._connection
    assert connection is not None
    connection.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_DENY if action == denied else sqlite3.SQLITE_OK
    )
    batch = place.batch(operation)
    with pytest.raises(ServerUnavailableError) as caught:
        place.exchange("a", batch)
    assert not caught.value.in_doubt
    [answer] = place.exchange("a", batch).answers
    assert not isinstance(answer, Exception)


class RefusingCursor:
    """A cursor that refuses a statement, after some that it has done."""

    def __init__(self, cursor: sqlite3.Cursor, statement: str, *, after: int = 0) -> None:
        self._cursor = cursor
        self._statement = statement
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == self._statement:
            self._left -= 1
            if self._left == -1:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
                raise error
        return self._cursor.execute(statement, *parameters)


def broken(key: str) -> p.Put:
    """A put that raises where it is done."""
    return p.Put(QUEUE, ((key, None),), put("").request)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", range(4))
def test_a_batch_that_breaks_off_at_one_of_its_operations_is_done_to_its_end_and_once(
    place: Place, after: int
) -> None:
    place.declare()
    file = place.file("a")
    file._cursor = RefusingCursor(file._cursor, "BEGIN IMMEDIATE", after=after)  # type: ignore[assignment]
    batch = place.batch(broken("bad"), put("one"), put("two"))
    with pytest.raises(ServerUnavailableError, match="disk I/O error") as caught:
        place.exchange("a", batch)
    assert not caught.value.in_doubt
    assert place.do("b", p.Counts(QUEUE)).put == max(0, after - 2)
    for _ in range(2):
        failed, *rest = place.exchange("a", batch).answers
        assert isinstance(failed, Exception)
        assert rest == [(leaseq.PutOutcome.ADDED,)] * 2
    assert place.do("b", p.Counts(QUEUE)).put == 2


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("after", [0, 1])
def test_the_commit_of_one_operation_in_doubt_is_looked_up_too(
    place: Place, after: int, is_done: bool
) -> None:
    place.declare()
    file = place.file("a")
    file._cursor = FailingCursor(file._cursor, is_done=is_done, after=after)  # type: ignore[assignment]
    batch = place.batch(broken("bad"), put("one"), put("two"))
    with pytest.raises(ServerUnavailableError) as caught:
        place.exchange("a", batch)
    assert caught.value.in_doubt
    failed, *rest = place.exchange("a", batch).answers
    assert isinstance(failed, Exception)
    assert rest == [(leaseq.PutOutcome.ADDED,)] * 2
    assert place.do("a", p.Counts(QUEUE)).put == 2


def test_a_commit_that_was_refused_was_not_done_and_is_tried_for_each_operation(
    place: Place,
) -> None:
    place.declare()
    file = place.file("a")
    file._cursor = RefusingCursor(file._cursor, "COMMIT")  # type: ignore[assignment]
    answers = place.exchange("a", place.batch(put("one"), put("two"))).answers
    assert answers == [(leaseq.PutOutcome.ADDED,)] * 2
    assert place.do("b", p.Counts(QUEUE)).put == 2


# Files that fail while they are used


def test_a_file_that_may_not_be_written_to_any_more_says_so_and_can_be_read(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    place.file("a")._cursor.execute("PRAGMA query_only = ON")
    with pytest.raises(ServerError, match="may not be written to") as caught:
        place.do("a", put("more"))
    assert caught.value.code == "NOPERM"
    assert str(place.path) in str(caught.value)
    assert place.do("a", p.Counts(QUEUE)).ready == 1


def test_a_value_that_is_too_large_for_a_file_is_refused_alone(place: Place) -> None:
    place.declare()
    connection = place.file("a")._connection
    assert connection is not None
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    refused, taken = place.exchange("a", place.batch(large("big"), put("small"))).answers
    assert isinstance(refused, ValueError)
    assert "a value is too large for a file of SQLite" in str(refused)
    assert taken == (leaseq.PutOutcome.ADDED,)


def test_a_file_that_is_damaged_says_so(place: Place) -> None:
    place.declare()
    place.do("a", put("item"))
    cursor = place.file("a")._cursor
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = cursor.execute("PRAGMA page_size").fetchone()[0]
    whole = place.path.read_bytes()
    with place.path.open("r+b") as file:
        file.seek(size)
        file.write(b"\xff" * (len(whole) - size))
    cursor.execute("PRAGMA shrink_memory")  # it has to read anew
    for operation in (put("more"), p.Counts(QUEUE)):
        with pytest.raises(ServerError, match="is damaged"):
            answer = place.do("a", operation)
            raise answer
    assert place.path.read_bytes()[size : size + 1] == b"\xff"


def test_a_file_that_is_damaged_is_not_opened(place: Place) -> None:
    place.declare()
    size = place.rows("PRAGMA page_size")[0][0]
    place.file("a").close()
    whole = place.path.read_bytes()
    place.path.write_bytes(whole[:size] + b"\xff" * (len(whole) - size))
    with pytest.raises(UnusableServerError, match=r"is damaged: `sqlite3 FILE \.recover` may save"):
        place.file("b")


def test_a_query_that_raises_does_not_concern_the_others(place: Place) -> None:
    place.declare()
    batch = place.batch(p.Look(QUEUE, 1.5), p.Counts(QUEUE))  # type: ignore[arg-type]
    failed, counts = place.exchange("a", batch).answers
    assert isinstance(failed, TypeError)
    assert counts.ready == 0


@pytest.mark.parametrize("kind", ["queries", "commands"])
def test_a_queue_that_another_program_has_spoiled_does_not_concern_the_others(
    place: Place, kind: str
) -> None:
    place.declare()
    other = p.QueueRef("other")
    place.do("a", p.Declare(other, {}))
    connection = sqlite3.connect(place.path)
    with closing(connection), connection:
        connection.execute("UPDATE leaseq_queues SET options = x'00' WHERE name = 'orders'")
    if kind == "queries":
        batch = place.batch(p.Counts(QUEUE), p.Counts(other))
    else:
        batch = place.batch(put("x"), put("y", queue=other))
    failed, done = place.exchange("a", batch).answers
    assert isinstance(failed, ServerError)
    assert "queue 'orders' is damaged: its options in the file cannot be read (" in str(failed)
    assert not isinstance(done, Exception)


def test_a_table_that_is_gone_is_an_error_that_passes_with_the_connection(place: Place) -> None:
    place.declare()
    connection = sqlite3.connect(place.path)
    connection.execute("ALTER TABLE leaseq_history RENAME TO history")
    with pytest.raises(ServerUnavailableError, match="no such table") as caught:
        place.do("a", p.ReadHistory(QUEUE))
    assert not caught.value.in_doubt
    connection.execute("ALTER TABLE history RENAME TO leaseq_history")
    connection.close()
    assert place.do("a", p.ReadHistory(QUEUE)) == p.Page(())


def test_a_batch_that_is_older_than_the_last_one_is_refused(place: Place) -> None:
    place.declare()
    early, late = place.batch(put("early")), place.batch(put("late"))
    place.exchange("a", late)
    with pytest.raises(ServerError, match="a later batch of this process was done") as caught:
        place.exchange("a", early)
    assert caught.value.code == "OLD"
    assert place.do("a", p.AvailableKeys(QUEUE)) == p.Page(("late",))


async def test_a_store_that_is_closed_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with SqliteBroker(SqliteUrl(path, request_timeout=60)) as broker:
        await broker.queue("work")
        store = store_of(broker)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")

        async def write() -> None:
            with pytest.raises(ServerUnavailableError):
                await store.exchange(p.Batch(1000, (put("item"),)))

        with fail_after(10):
            async with create_task_group() as tg:
                tg.start_soon(write)
                await anyio.sleep(0.05)
                await store.close()
        other.close()
