"""The file: how it is opened, what it is refused for, and how a batch is done in it.

All of this runs in the store's own thread.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from .._core.errors import ServerError, ServerUnavailableError, UnusableServerError
from .._core.log import log
from .._remote import protocol
from .._remote.protocol import Batch, LeaseEnded, Operation, Reply, Settled
from . import schema
from .operations import Exchange, no_room
from .parks import STALE, Parks, Told, forget
from .url import SqliteUrl
from .work import Work

_Quiet: TypeAlias = tuple[tuple[int, int, tuple[Operation[Any], ...]], float, dict[str, float]]
"""Questions and the state of the file, the time, and the seconds until something falls due."""
Tidings: TypeAlias = "list[tuple[str, str, Told]]"
"""Processes, their addresses, and what they are to be told."""

_OLDEST: Final = 3, 37, 0
_BUSY: Final = 5
"""The primary error codes of SQLite, as documented under https://sqlite.org/rescode.html."""
_READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _TOOBIG, _NOTADB = 8, 10, 11, 13, 14, 18, 26

_UNWRITTEN: Final = sqlite3.SQLITE_IOERR_WRITE
"""The extended error code of SQLite for a quota or a limit that leaves the file no room."""

_SHORTEST, _LONGEST = 0.0001, 0.005  # seconds between two tries to write
_HEARD: Final = 20.0
"""Seconds after which a process that changes nothing says that it is still there."""
_LEFT_FREE: Final = 512
"""Free pages that are kept, for what is put next, and for acks when the disk is full."""
_VACUUMED: Final = 256
"""Pages that are given back in one step."""
_LOOKS: Final = 64
"""Changes of the file after which it is looked whether it is to be tidied up."""
_LARGE_LOG: Final = 64 << 20
"""Bytes of the write-ahead log beyond which writers wait a moment for its checkpoint."""
_KEPT_LOG: Final = 8 << 20
_RESERVE: Final = 16 << 20
"""Bytes of the disk that puts leave free: acks need some, for the log and its checkpoint."""
_PLENTY: Final = 1 << 30
"""Bytes of free disk at which it is not asked again for `_LOOKS` batches."""

NETWORKS: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb", "smb2", "smb3", "smbfs"),
        *("virtiofs", "vboxsf"),
    }
)
"""File systems of other machines, by the names that Linux has for them."""


class File:
    """The file, for one process.

    Args:
        url: The file, and how to write it.
        process: The name of this process.
        address: The address of its hints; "": it has none.
        is_heard: Returns False if no process has an address any more.

    Attributes:
        offset: Seconds by which the clock is put forward, for tests.
        hurried: True: do not wait for others any more.
    """

    def __init__(
        self, url: SqliteUrl, process: str, address: str, is_heard: Callable[[str], bool]
    ) -> None:
        self._url = url
        self._process = process
        self._address = address
        self._path = Path(url.path).absolute()
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor
        self._is_heard = is_heard
        self._last: _Done | None = None
        self._quiet: _Quiet | None = None
        self._identity: object = None
        self._ask_for_room_in = 0  # batches
        self._heard = 0.0
        self._changes = 0  # since it was last looked whether to tidy up
        self._has_free = False  # pages to give back, as far as is known
        self._swept_at = 0.0
        self.offset = 0.0
        self.hurried = False

    # Opening

    def open(self) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            UnusableServerError: it cannot be used; the message says why, and what to do.
            ServerUnavailableError: another program keeps it locked.
        """
        if sqlite3.sqlite_version_info < _OLDEST:
            raise UnusableServerError(
                f"SQLite {sqlite3.sqlite_version} is too old: leaseq needs 3.37 or later"
            )
        self._check_place()
        until, pause = time.monotonic() + self._url.request_timeout, _SHORTEST
        while True:
            try:
                self._connect()
            except sqlite3.Error as error:
                self._let_go()
                is_late = time.monotonic() >= until or self.hurried
                if primary_code(error) != _BUSY or is_late:
                    raise self._unusable(error) from None
            except BaseException:
                self._let_go()
                raise
            else:
                return
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST)

    def _check_place(self) -> None:
        try:
            self._look_at_place()
        except OSError as error:  # a name that is too long, or a loop of links
            raise UnusableServerError(f"{self._path} cannot be used ({error.strerror})") from None

    def _look_at_place(self) -> None:
        path = self._path
        if path.is_dir():
            raise UnusableServerError(f"{path} is a folder: name a file in it")
        if path.exists() and not path.is_file():
            raise UnusableServerError(f"{path} is a device or a pipe, and not a file: name another")
        if not path.parent.is_dir():
            raise UnusableServerError(f"there is no folder {path.parent}: make it first")
        kind = file_system(path, _mounts())
        if kind in NETWORKS:
            raise UnusableServerError(
                f"{path} is on a file system of another machine ({kind}), where SQLite cannot "
                "share a file safely: use a local disk, or a Valkey server"
            )
        for place in (path.parent, path):
            if os.access(place, os.F_OK) and not os.access(place, os.W_OK):
                raise UnusableServerError(
                    f"{place} may not be written to by this user: a queue is changed even by its "
                    "consumers"
                )

    def _connect(self) -> None:
        connection = sqlite3.connect(
            self._path,
            timeout=0,  # a lock is waited for in `open` and `_begin`, which `hurried` ends
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        self._connection = connection
        self._cursor = cursor = connection.cursor()
        is_new = not cursor.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if is_new:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        else:
            self._check_owner(connection)
        mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise UnusableServerError(
                f"{self._path} is where SQLite can keep no write-ahead log, which it needs for "
                "several processes: use a local disk"
            )
        cursor.execute(f"PRAGMA synchronous = {self._url.synchronous}")
        cursor.execute(f"PRAGMA journal_size_limit = {_KEPT_LOG}")
        self._make_tables(connection)
        self._identity = _identity(self._path)
        self._quiet = None
        self._heard = 0.0

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        """Raise for a database that is not ours, before anything in it is changed."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        if "leaseq_file" not in tables and not self._url.adopt:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            whose = f"of another application (number {application:#x})" if application else "with"
            raise UnusableServerError(
                f"{self._path} is a database {whose} tables of its own, and none of leaseq's: use "
                "another file; or, to keep queues beside these tables, add ?adopt=true to the URL"
            )

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        self._begin()
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            if "leaseq_file" not in tables:
                if not tables:
                    connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
                schema.make(connection)
            found = schema.format_of(self._cursor)
            if found > schema.FORMAT:
                raise UnusableServerError(
                    f"{self._path} was written by a newer leaseq (its format is {found}, and this "
                    f"one knows {schema.FORMAT}): upgrade leaseq here"
                )
            if found not in (schema.FORMAT, *schema.MIGRATIONS):
                raise UnusableServerError(
                    f"{self._path} has the format {found}, which no leaseq writes: its table "
                    "leaseq_file was changed, so go back to a copy"
                )
            if found < schema.FORMAT:
                schema.migrate(connection, found)
        except BaseException:
            connection.rollback()
            raise
        connection.execute("COMMIT")

    def _unusable(self, error: sqlite3.Error) -> Exception:
        code = primary_code(error)
        if code == _BUSY:
            return ServerUnavailableError(self._locked(), in_doubt=False)
        why = {
            _NOTADB: "is not a database of SQLite",
            _READONLY: "may not be written to: a queue is changed even by its consumers",
            _CANTOPEN: "cannot be opened by this user",
            _FULL: "cannot be made, for the disk is full",
            _CORRUPT: "is damaged: `sqlite3 FILE .recover` may save what is in it",
        }.get(code, "cannot be used")
        return UnusableServerError(f"{self._path} {why} ({error})")

    def _locked(self) -> str:
        return f"{self._path} is locked: another program has a transaction on it that does not end"

    # Batches

    def do(self, batch: Batch) -> tuple[Reply, Tidings]:
        """Do a batch, unless it was done; see `Store.exchange`."""
        self._check_identity()
        if self._connection is None:
            self.open()
        try:
            return self._do(batch)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _do(self, batch: Batch) -> tuple[Reply, Tidings]:
        if batch.operations[0].family == "queries":
            return self._read(batch), []
        last = self._last
        if last is not None and batch.number < last.number:
            raise ServerError("OLD a later batch of this process was done before", code="OLD")
        if last is None or batch.number > last.number:
            if all(isinstance(operation, protocol.Parked) for operation in batch.operations):
                return self._look_at_parks(batch)
            return self._write(batch)
        if not last.is_certain:
            last.is_certain, done = True, self._done_of(batch)
            if done < len(batch.operations):
                del last.answers[done:]
                return self._write_each(batch, last) if done else self._write(batch)
        return self._again(batch, last), []

    def _check_identity(self) -> None:
        """Let go of a file that is no longer at its path: no other process would find it."""
        if self._connection is not None and _identity(self._path) != self._identity:
            with suppress(sqlite3.Error):  # what is in the log goes into the file, where it is now
                self._cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._let_go()
            moved = "%s was moved, deleted or replaced: it is opened anew"
            log(logging.WARNING, moved, str(self._path))

    def _look_at_parks(self, batch: Batch) -> tuple[Reply, Tidings]:
        """Do a batch of processes that wait, and ask again and again, mostly for nothing.

        As long as no connection has written since, and nothing was ready, the answer is the same.
        """
        connection = self._connection
        assert connection is not None
        version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        now = time.monotonic()
        asked = version, connection.total_changes, batch.operations
        if self._quiet is not None and self._quiet[0] == asked:
            _, told_at, due = self._quiet
            left = {name: max(0.0, seconds - (now - told_at)) for name, seconds in due.items()}
            return Reply([()] * len(batch.operations), left), []
        reply, told = self._write(batch)
        self._quiet = None
        if self._address and not any(reply.answers) and not self._is_anything_ready(batch):
            asked = version, connection.total_changes, batch.operations
            self._quiet = asked, now, dict(reply.due)
        return reply, told

    def _is_anything_ready(self, batch: Batch) -> bool:
        names = {operation.queue.name for operation in batch.operations}
        query = "SELECT ready FROM leaseq_queues WHERE name = ?"
        return any(self._cursor.execute(query, (name,)).fetchone()[0] for name in names)

    def _done_of(self, batch: Batch) -> int:
        """Return the number of a batch's operations that the file says were done."""
        found = self._cursor.execute(
            "SELECT number, done FROM leaseq_processes WHERE name = ?", (self._process,)
        ).fetchone()
        return int(found[1]) if found is not None and found[0] == batch.number else 0

    def _read(self, batch: Batch) -> Reply:
        self._cursor.execute("BEGIN")
        try:
            exchange, work, _ = self._start()
            answers: list[object] = []
            for operation in batch.operations:
                try:
                    answers.append(exchange.do(operation))
                except sqlite3.Error:
                    raise
                except Exception as error:
                    answers.append(error)
            return Reply(answers, exchange.due(batch.operations), work.events)
        finally:
            self._roll_back()

    def _again(self, batch: Batch, last: _Done) -> Reply:
        self._cursor.execute("BEGIN")
        try:
            exchange, _, _ = self._start()
            pairs = zip(batch.operations, last.answers, strict=True)
            answers = [exchange.again(operation, answer) for operation, answer in pairs]
            return Reply(answers, exchange.due(batch.operations), last.events)
        finally:
            self._roll_back()

    def _write(self, batch: Batch) -> tuple[Reply, Tidings]:
        self._begin()
        last = _Done(batch.number)
        try:
            return self._transact(last, batch.operations)
        except _CommitError as error:
            raise self._doubtful(error) from error
        except Exception as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error) and primary_code(error) == _FULL:
                with suppress(sqlite3.Error):  # so that the log begins anew, and needs no more room
                    self._cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return self._write_each(batch, _Done(batch.number))

    def _write_each(self, batch: Batch, last: _Done) -> tuple[Reply, Tidings]:
        """Do operations in transactions of their own, as one of them cannot be done."""
        due: dict[str, float] = {}
        told: Tidings = []
        for operation in batch.operations[len(last.answers) :]:
            answers = len(last.answers)
            try:
                reply, more = self._do_one(last, operation)
            except _CommitError as error:
                raise self._doubtful(error) from error
            except Exception as error:
                self._roll_back()
                del last.answers[answers:]
                failed = self._failed(error) if isinstance(error, sqlite3.Error) else error
                if self._connection is None:  # what was done is known, and the rest is for later
                    self._last, last.is_certain = last, False
                    raise failed from error
                last.answers.append(failed)
            else:
                due.update(reply.due)
                told += more
        self._last = last
        return Reply(last.answers, due, last.events), told

    def _do_one(self, last: _Done, operation: Operation[Any]) -> tuple[Reply, Tidings]:
        """Do one operation in a transaction of its own; if it must, without what it keeps."""
        answers = len(last.answers)
        ways = [operation, *_with_less(operation)]
        for number, way in enumerate(ways, 1):
            self._begin()
            try:
                reply, told = self._transact(last, (way,))
            except sqlite3.Error as error:
                if primary_code(error) != _FULL or number == len(ways):
                    raise
                self._roll_back()
                del last.answers[answers:]
            else:
                break
        if number > 1 and last.answers[-1] is not Settled.NOT_HELD:
            last.answers[-1] = Settled.NOT_KEPT
        return reply, told

    def _doubtful(self, error: _CommitError) -> ServerUnavailableError:
        self._let_go()  # a fresh connection finds out what is in the file
        return ServerUnavailableError(f"{self._path}: {error}", in_doubt=True)

    def _transact(self, last: _Done, operations: Sequence[Operation[Any]]) -> tuple[Reply, Tidings]:
        """Do the next operations of a batch in the transaction that has begun, and commit it."""
        connection = self._connection
        assert connection is not None
        changes = connection.total_changes
        exchange, work, parks = self._start()
        answers = exchange.do_all(operations)
        due = exchange.due(operations)
        work.flush()
        last.answers += answers
        if connection.total_changes != changes or work.now > self._heard + _HEARD:
            work.note_time()
            self._cursor.execute(
                "INSERT OR REPLACE INTO leaseq_processes VALUES (?, ?, ?, ?, ?)",
                (self._process, self._address, last.number, len(last.answers), work.now),
            )
            self._changes += 1
        self._last, last.is_certain = last, False
        self._commit(operations)
        last.is_certain = True
        self._heard = work.now
        last.events += work.events
        return Reply(answers, due, work.events), parks.told

    def _start(self) -> tuple[Exchange, Work, Parks]:
        """Begin with nothing read.

        Raises:
            ServerError: a newer leaseq has brought the file to its own format meanwhile.
        """
        found = schema.format_of(self._cursor)
        if found != schema.FORMAT:
            raise ServerError(
                f"NEWER {self._path} has the format {found} now, and this leaseq knows "
                f"{schema.FORMAT}: upgrade leaseq in this process",
                code="NEWER",
            )
        work = Work(self._cursor, self._process, time.time() + self.offset)
        parks = Parks(work, self._is_heard)
        return Exchange(work, parks, self._has_room), work, parks

    def _has_room(self) -> bool:
        """Return False if so little of the disk is free that nothing new is to be put."""
        self._ask_for_room_in -= 1
        if self._ask_for_room_in > 0 or not hasattr(os, "statvfs"):
            return True
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        self._ask_for_room_in = _LOOKS if free > _PLENTY else 0
        return free > _RESERVE

    # Transactions

    def _begin(self) -> None:
        """Begin to write, as soon as no other process does."""
        until, pause, version = 0.0, _SHORTEST, None
        while True:
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if primary_code(error) != _BUSY:
                    raise
            else:
                return
            now = time.monotonic()
            if now >= until or self.hurried:
                seen = self._cursor.execute("PRAGMA data_version").fetchone()[0]
                if seen == version or self.hurried:
                    raise ServerUnavailableError(self._locked(), in_doubt=False)
                until, version = now + self._url.request_timeout, seen  # others make progress
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST)

    def _commit(self, operations: Sequence[Operation[Any]]) -> None:
        try:
            self._cursor.execute("COMMIT")
        except sqlite3.Error as error:
            connection = self._connection
            if connection is not None and connection.in_transaction:
                raise  # it was not done, and is rolled back
            if primary_code(error) == _FULL and any(each.weight for each in operations):
                raise  # the end of it is not in the log; the rest is done without what is large
            raise _CommitError(str(error)) from error

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._cursor.execute("ROLLBACK")

    def _failed(self, error: sqlite3.Error) -> Exception:
        """Return the error for an operation that SQLite has refused, which was not done."""
        code = primary_code(error)
        if code == _FULL:
            return no_room(str(error))
        if code == _READONLY:
            return ServerError(f"{self._path} may not be written to ({error})", code="NOPERM")
        if code == _TOOBIG:
            return ValueError(f"a value is too large for a file of SQLite: {error}")
        if code in (_CORRUPT, _NOTADB):
            return ServerError(f"{self._path} is damaged ({error})", code="ERR")
        self._let_go()
        return ServerUnavailableError(f"{self._path}: {error}", in_doubt=False)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # The end, and what is done in between

    def tidy(self, is_idle: Callable[[], bool]) -> None:
        """Do a little of what keeps the file small, as long as there is nothing else to do."""
        if self._connection is None:
            return
        with suppress(sqlite3.Error):
            now = time.monotonic()
            if now >= self._swept_at + STALE:
                self._swept_at = now
                self._sweep_processes()
                self._changes = _LOOKS  # what a few changes have freed is given back as well
            if self._changes >= _LOOKS:
                self._changes = 0
                self._bound_log()
                self._has_free = True
            while self._has_free and is_idle():
                self._has_free = self._give_back()

    def _sweep_processes(self) -> None:
        """Forget processes that have ended without a word."""
        self._cursor.execute("BEGIN IMMEDIATE")
        try:
            _, work, _ = self._start()
            processes = self._cursor.execute("SELECT name, address, heard FROM leaseq_processes")
            for name, address, heard in processes.fetchall():
                silent = work.now - heard
                gone = silent > STALE and not (address and self._is_heard(address))
                if name != self._process and gone:
                    self._forget(name)
            self._cursor.execute("COMMIT")
        finally:
            self._roll_back()

    def _forget(self, process: str) -> None:
        forget(self._cursor, process)
        self._cursor.execute("DELETE FROM leaseq_processes WHERE name = ?", (process,))

    def _bound_log(self) -> None:
        """Have the write-ahead log begin anew, if readers have kept it from that for long."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with suppress(OSError):
            if log.stat().st_size > _LARGE_LOG:
                self._cursor.execute("PRAGMA busy_timeout = 20")
                try:
                    self._cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._cursor.execute("PRAGMA busy_timeout = 0")

    def _give_back(self) -> bool:
        """Give some free pages back to the file system; False: there are few."""
        free = self._cursor.execute("PRAGMA freelist_count").fetchone()[0]
        if free < _LEFT_FREE + _VACUUMED:
            return False
        self._cursor.execute("BEGIN IMMEDIATE")
        try:
            self._cursor.execute(f"PRAGMA incremental_vacuum({_VACUUMED})").fetchall()
            self._cursor.execute("COMMIT")
        finally:
            self._roll_back()
        left: int = self._cursor.execute("PRAGMA freelist_count").fetchone()[0]
        return left < int(free)

    def close(self) -> None:
        """Let go of the file, and leave nothing of this process in it; idempotent."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._cursor.execute("PRAGMA busy_timeout = 1000")
                self._cursor.execute("PRAGMA analysis_limit = 400")
                self._cursor.execute("PRAGMA optimize").fetchall()
            with suppress(sqlite3.Error):
                self._cursor.execute("BEGIN IMMEDIATE")
                self._forget(self._process)
                self._cursor.execute("COMMIT")
        self._let_go()


def _with_less(operation: Operation[Any]) -> Iterator[Operation[Any]]:
    """Yield ways to settle a lease that need less and less room for the values that it keeps."""
    if isinstance(operation, protocol.Ack | protocol.Reject) and operation.keep:
        short = [value._replace(body=value.instead) for value in operation.keep]
        yield replace(operation, keep=tuple(short))
        yield replace(operation, keep=())


class _Done:
    """The last batch that was done, and its answers; all of them once it is."""

    __slots__ = ("answers", "events", "is_certain", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers: list[object] = []
        self.events: list[protocol.ItemDied | LeaseEnded] = []
        self.is_certain = True


class _CommitError(Exception):
    """It is not known whether a transaction was done."""


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary error code of an error; 0: it has none.

    What could not be written for a quota is no room, as on a full disk.
    """
    code: int = getattr(error, "sqlite_errorcode", 0)
    return _FULL if code == _UNWRITTEN else code & 0xFF


def _identity(path: Path) -> object:
    """Return an object that is equal for one and the same file; None: there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mounts() -> str:
    """Return the table of file systems that Linux has; "": there is none."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path is on; "": it is not in the table."""
    place = os.path.realpath(path)
    longest, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            longest, kind = point, after.split(" ")[0]
    return kind
