"""The tables of the file, the number of their format, and the way from an older one.

All tables have names that begin with ``leaseq_``, so that others can live beside them. Keys and
names are in the encoding of `_remote/encoding.py`; times are seconds since the epoch, on the file's
own clock; what is as usual is NULL or 0, which takes no room.

An item is a row of ``leaseq_items``, whose ``state`` is that of `rows.State`:

- ``place``: of one that is ready its rank in the line, of a leased one the token.
- ``urgency``: the priority, with the other sign: so the line is in the order of an index.
- ``at``: the time at which something happens to it by itself: a lease ends, a delay or a time to
  live. Every lease has one, be it infinite. What happens at one time comes in the order of
  ``turn``: leases first, by their tokens, then items that wait, by a number that they are given
  with their first timer.
- ``after``: 1: its value was updated meanwhile; 2: a successor is buffered. Both are in
  ``leaseq_successors``.
- ``cancelled``: the reason, of a lease that was cancelled; NULL: it was not.
- ``body``: NULL: it is a large one, in ``leaseq_bodies``, which a move of the item leaves alone.

A tenant's account is in ``leaseq_accounts`` as ``turns.py`` says. Pauses are in
``leaseq_pauses``, by tenant, that of the whole queue under an empty name. Most operations need not
look there: a queue's row has ``paused``, 1 while the whole queue is, and ``paused_tenants``, the
number of tenants that are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

FORMAT = 2
"""The number of the format: it goes up with every change that an older leaseq must not see."""

APPLICATION = 0x6C656173
"""The ``application_id`` of a file that this library has made: ``leas``, in ASCII."""

TABLES = """
CREATE TABLE leaseq_file (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE leaseq_clock (
  id INTEGER PRIMARY KEY, seen REAL NOT NULL, ahead REAL NOT NULL
) STRICT;
INSERT INTO leaseq_clock VALUES (0, 0, 0);

CREATE TABLE leaseq_processes (
  name TEXT PRIMARY KEY, address TEXT NOT NULL, number INTEGER NOT NULL, done INTEGER NOT NULL,
  heard REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE leaseq_queues (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, letters TEXT NOT NULL,
  options BLOB NOT NULL, created_at REAL NOT NULL,
  fair INTEGER NOT NULL, virtual TEXT NOT NULL, shares TEXT NOT NULL,
  back INTEGER NOT NULL, front INTEGER NOT NULL, timers INTEGER NOT NULL, token INTEGER NOT NULL,
  stamp INTEGER NOT NULL,
  ready INTEGER NOT NULL, delayed INTEGER NOT NULL, leased INTEGER NOT NULL,
  buffered INTEGER NOT NULL, handed_out INTEGER NOT NULL, undone INTEGER NOT NULL,
  acked INTEGER NOT NULL, released INTEGER NOT NULL, expired INTEGER NOT NULL,
  given_back INTEGER NOT NULL, dead INTEGER NOT NULL, dropped INTEGER NOT NULL,
  superseded INTEGER NOT NULL, outlived INTEGER NOT NULL,
  paused INTEGER NOT NULL DEFAULT 0, paused_tenants INTEGER NOT NULL DEFAULT 0,
  cancelled INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE leaseq_items (
  id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, key BLOB NOT NULL, state INTEGER NOT NULL,
  place INTEGER NOT NULL, urgency INTEGER NOT NULL, tenant BLOB NOT NULL,
  at REAL, turn INTEGER NOT NULL, since REAL,
  deliveries INTEGER NOT NULL, cancellations INTEGER NOT NULL, expiries INTEGER NOT NULL,
  due REAL, rest REAL, expires REAL,
  consumer BLOB, process TEXT, after INTEGER NOT NULL, letter INTEGER NOT NULL, body BLOB,
  cancelled TEXT
) STRICT;
CREATE UNIQUE INDEX leaseq_items_key ON leaseq_items (queue, key);
CREATE INDEX leaseq_items_line ON leaseq_items (queue, tenant, urgency, place) WHERE state = 0;
CREATE INDEX leaseq_items_at ON leaseq_items (queue, at, turn) WHERE at IS NOT NULL;

CREATE TABLE leaseq_bodies (item INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE leaseq_successors (
  item INTEGER PRIMARY KEY, buffered INTEGER NOT NULL, priority INTEGER NOT NULL,
  due REAL, expires REAL, body BLOB NOT NULL
) STRICT;

CREATE TABLE leaseq_letters (
  queue INTEGER NOT NULL, source TEXT NOT NULL, number INTEGER NOT NULL,
  PRIMARY KEY (queue, source)
) STRICT, WITHOUT ROWID;

CREATE TABLE leaseq_tenants (
  queue INTEGER NOT NULL, tenant BLOB NOT NULL, weight REAL NOT NULL, cap INTEGER,
  PRIMARY KEY (queue, tenant)
) STRICT, WITHOUT ROWID;

CREATE TABLE leaseq_accounts (
  queue INTEGER NOT NULL, tenant BLOB NOT NULL, filed INTEGER NOT NULL, tag BLOB NOT NULL,
  start BLOB NOT NULL, ready INTEGER NOT NULL, in_flight INTEGER NOT NULL, urgency INTEGER NOT NULL,
  place INTEGER NOT NULL, PRIMARY KEY (queue, tenant)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaseq_accounts_filed ON leaseq_accounts (queue, filed, tag, place);

CREATE TABLE leaseq_done (
  queue INTEGER NOT NULL, key BLOB NOT NULL, until REAL NOT NULL, PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaseq_done_until ON leaseq_done (queue, until);

CREATE TABLE leaseq_history (
  id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, key BLOB NOT NULL, token INTEGER NOT NULL,
  deliveries INTEGER NOT NULL, ended_at REAL NOT NULL, letter INTEGER NOT NULL, body BLOB NOT NULL,
  ended TEXT NOT NULL DEFAULT 'acked'
) STRICT;
CREATE INDEX leaseq_history_queue ON leaseq_history (queue, id);

CREATE TABLE leaseq_kept (
  id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, name BLOB NOT NULL, until REAL NOT NULL,
  body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX leaseq_kept_name ON leaseq_kept (queue, name);
CREATE INDEX leaseq_kept_until ON leaseq_kept (queue, until);

CREATE TABLE leaseq_recalls (
  queue INTEGER NOT NULL, name BLOB NOT NULL, process TEXT NOT NULL,
  PRIMARY KEY (queue, name, process)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaseq_recalls_process ON leaseq_recalls (process);

CREATE TABLE leaseq_parks (
  queue INTEGER NOT NULL, want BLOB NOT NULL, stamp INTEGER NOT NULL, process TEXT NOT NULL,
  PRIMARY KEY (queue, want, stamp)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaseq_parks_process ON leaseq_parks (process);
"""

PAUSES = """
CREATE TABLE leaseq_pauses (
  id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, tenant BLOB NOT NULL, since REAL NOT NULL,
  reason BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX leaseq_pauses_tenant ON leaseq_pauses (queue, tenant);
"""
"""The table of pauses, apart for the migration to format 2."""

OF_A_QUEUE = (
    "accounts", "done", "history", "items", "kept", "letters", "parks", "pauses", "recalls",
    "tenants",
)  # fmt: skip
"""The tables whose rows belong to a queue, by the ends of their names."""


def statements(text: str) -> list[str]:
    """Return the single statements of a text."""
    return [each for each in map(str.strip, text.split(";")) if each]


def _add_pauses(connection: sqlite3.Connection) -> None:
    """Add the columns and the table of pauses; no queue of format 1 is paused."""
    for column in ("paused", "paused_tenants"):
        connection.execute(
            f"ALTER TABLE leaseq_queues ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0"
        )
    for statement in statements(PAUSES):
        connection.execute(statement)


def _add_cancellations(connection: sqlite3.Connection) -> None:
    """Add the columns of cancelled items; format 1 has none, and its count is of other leases."""
    for change in (
        "leaseq_queues RENAME COLUMN cancelled TO given_back",
        "leaseq_queues ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0",
        "leaseq_items ADD COLUMN cancelled TEXT",
        "leaseq_history RENAME COLUMN acked_at TO ended_at",
        "leaseq_history ADD COLUMN ended TEXT NOT NULL DEFAULT 'acked'",
    ):
        connection.execute(f"ALTER TABLE {change}")


def _to_format_2(connection: sqlite3.Connection) -> None:
    _add_pauses(connection)
    _add_cancellations(connection)


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {1: _to_format_2}
"""The way from each older format to the next one, by the older one's number."""


def make(connection: sqlite3.Connection) -> None:
    """Make the tables, within a transaction."""
    for statement in statements(TABLES + PAUSES):
        connection.execute(statement)
    connection.execute("INSERT INTO leaseq_file VALUES ('format', ?)", (FORMAT,))


def format_of(cursor: sqlite3.Cursor) -> int:
    """Return the number of the format; 0: there is none."""
    query = "SELECT value FROM leaseq_file WHERE name = 'format'"
    found = cursor.execute(query).fetchone()
    return 0 if found is None else int(found[0])


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Bring the tables from an older format to this one, within a transaction."""
    for number in range(found, FORMAT):
        MIGRATIONS[number](connection)
    connection.execute("UPDATE leaseq_file SET value = ? WHERE name = 'format'", (FORMAT,))
