"""Items and queues as rows of the file, for the length of one transaction.

What was read is remembered until the end of the transaction, and what was changed is written down
when a query needs it, or at the end: many rows with one statement of each kind. So a row is there
once, however many operations of a batch concern it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import inf
from typing import Any, Final, TypeAlias

from .._core.errors import ServerError
from .._core.options import BrokerQueueOptions
from .._core.policies import Retry
from .._core.reports import KeyState
from .._core.texts import failure_text
from .._remote.stored_options import read_options
from .._rules.moves import NORMAL, ItemRecord, Successor

READY, DELAYED, LEASED = 0, 1, 2
STATES: Final[tuple[KeyState, ...]] = ("ready", "delayed", "leased")
UPDATED, BUFFERED = 1, 2

INLINE: Final = 1024
"""Bytes of a body that is kept in the row of its item: a move of the item writes it anew."""
_AFTER_LEASES: Final = 1 << 62
"""Of equal times, leases come before what waits."""
_LOT: Final = 32
"""Rows that one query looks up."""

Cursor: TypeAlias = sqlite3.Cursor
Value: TypeAlias = "bytes | None"
"""A body; None: it is a large one that was not read."""


class Letter(bytes):
    """The body of a dead letter, which has the body of the item that died in it."""

    __slots__ = ()


_COLUMNS: Final = (
    "id", "queue", "key", "state", "place", "urgency", "tenant", "at", "turn", "since",
    "deliveries", "cancellations", "expiries", "due", "rest", "expires", "consumer", "process",
    "after", "cancelled", "letter", "body",
)  # fmt: skip
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM leaseq_items"
_INSERT: Final = (
    f"INSERT INTO leaseq_items ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_CHANGING: Final = _COLUMNS[3:-2]
_UPDATE: Final = (
    f"UPDATE leaseq_items SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"
)
_BY_KEY: Final = f"{_SELECT} INDEXED BY leaseq_items_key WHERE queue = ? AND key = ?"
_BY_KEYS: Final = (
    f"{_SELECT} INDEXED BY leaseq_items_key WHERE queue = ? AND key IN ({', '.join('?' * _LOT)})"
)
_KEYS: Final = (
    "SELECT EXISTS (SELECT 1 FROM leaseq_items INDEXED BY leaseq_items_key "
    f"WHERE queue = ? AND key IN ({', '.join('?' * _LOT)}))"
)
_ADD_PLAIN: Final = (
    "INSERT INTO leaseq_items (queue, key, state, place, urgency, tenant, turn, since, deliveries, "
    "cancellations, expiries, after, letter, body) "
    "VALUES (?, ?, 0, ?, ?, x'', 0, ?, 0, 0, 0, 0, 0, ?)"
)
_FIRST: Final = (
    "SELECT id, key, urgency, deliveries, cancellations, expires, letter, body FROM leaseq_items "
    "INDEXED BY leaseq_items_line WHERE state = 0 AND queue = ? "
    "ORDER BY tenant, urgency, place LIMIT ?"
)
_HAND_OUT: Final = (
    "UPDATE leaseq_items SET state = 2, place = ?, at = ?, turn = ?, since = ?, deliveries = ?, "
    "consumer = ?, process = ? WHERE id = ?"
)
_DELETE: Final = (
    "DELETE FROM leaseq_items INDEXED BY leaseq_items_key WHERE queue = ? AND state = 2 AND at > ? "
    "AND after = 0 AND cancelled IS NULL AND letter = 0 AND body IS NOT NULL AND key IN ({0}) "
    "AND place IN ({0}) "
    "RETURNING key, place"
)
_DELETE_ONE, _DELETE_LOT = _DELETE.format("?"), _DELETE.format(", ".join("?" * _LOT))
_LINE: Final = f"{_SELECT} INDEXED BY leaseq_items_line WHERE state = 0 AND queue = ?"
_AT: Final = f"{_SELECT} INDEXED BY leaseq_items_at WHERE queue = ? AND at IS NOT NULL"


class Row:
    """An item.

    Attributes:
        place: The rank of one that is ready; the token of a leased one.
        deadline: The end of its lease.
        number: Its number among those that wait and fall due at one time; 0: none yet.
        since: The time since which it has been ready or leased.
        due: The time at which it is ready, if it is delayed.
        rest: The earliest due time that a put may set.
        expires: The end of its time to live.
        body: Its body; None: it is kept apart, and was not read.
        large: True if the body in the file is kept apart.
        after: The value that was put while it was leased, once that was read.
        cancelled: The reason for which its lease was cancelled; None: it was not.
    """

    __slots__ = (
        "after_kind", "body", "cancellations", "cancelled", "consumer", "deadline", "deliveries",
        "due", "expires", "expiries", "id", "key", "large", "letter", "number", "place", "priority",
        "process", "queue", "rest", "since", "state", "successor", "tenant",
    )  # fmt: skip

    def __init__(self, queue: int, key: bytes) -> None:
        self.id = 0
        self.queue = queue
        self.key = key
        self.state = READY
        self.place = 0
        self.priority = NORMAL
        self.tenant = b""
        self.deadline = inf
        self.number = 0
        self.since = 0.0
        self.deliveries = 0
        self.cancellations = 0
        self.expiries = 0
        self.due = -inf
        self.rest = -inf
        self.expires = inf
        self.consumer = b""
        self.process = ""
        self.after_kind = 0
        self.cancelled: str | None = None
        self.successor: Successor[Value] | None = None
        self.body: Value = None
        self.large = False
        self.letter = False

    def changing(self) -> tuple[Any, ...]:
        """Return the columns that moves change, and the row's number."""
        state, due, expires = self.state, self.due, self.expires
        if state == LEASED:
            at: float | None = self.deadline
            turn = self.place
        else:
            at = expires if state == READY else min(due, expires)
            turn = self.number + _AFTER_LEASES
            if at == inf:
                at, turn = None, 0
        return (
            state, self.place, -self.priority, self.tenant, at, turn, self.since,
            self.deliveries, self.cancellations, self.expiries,
            None if due == -inf else due,
            None if self.rest == -inf else self.rest,
            None if expires == inf else expires,
            self.consumer or None, self.process or None, self.after_kind, self.cancelled, self.id,
        )  # fmt: skip

    def as_new(self) -> tuple[Any, ...]:
        """Return all columns."""
        *changing, number = self.changing()
        body = self.body
        assert body is not None
        inline = None if self.large else body
        return (number, self.queue, self.key, *changing, self.letter, inline)


def _row(values: Sequence[Any]) -> Row:
    row = Row.__new__(Row)
    (
        row.id, row.queue, row.key, row.state, row.place, urgency, row.tenant, at, turn, row.since,
        row.deliveries, row.cancellations, row.expiries, due, rest, expires, consumer, process,
        row.after_kind, row.cancelled, letter, body,
    ) = values  # fmt: skip
    row.priority = -urgency
    row.deadline, row.number = inf, 0
    if row.state == LEASED:
        row.deadline = at
    elif at is not None:
        row.number = turn - _AFTER_LEASES
    row.due = -inf if due is None else due
    row.rest = -inf if rest is None else rest
    row.expires = inf if expires is None else expires
    row.consumer = consumer or b""
    row.process = process or ""
    row.successor = None
    row.large = body is None
    row.letter = bool(letter)
    row.body = Letter(body) if letter and body is not None else body
    return row


class Items:
    """The items of all queues."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._known: dict[tuple[int, bytes], Row | None] = {}
        self._new: dict[Row, None] = {}
        self._changed: dict[Row, None] = {}
        self._gone: list[tuple[int]] = []
        self._last_id = 0

    # Rows by their keys

    def find(self, queue: int, key: bytes) -> Row | None:
        """Return the item of a key. O(log items)."""
        try:
            return self._known[queue, key]
        except KeyError:
            values = self._cursor.execute(_BY_KEY, (queue, key)).fetchone()
            row = self._known[queue, key] = None if values is None else _row(values)
            return row

    def look_up(self, queue: int, keys: Iterable[bytes]) -> None:
        """Read the items of keys that will be asked for, many with one query."""
        known = self._known
        wanted = [key for key in dict.fromkeys(keys) if (queue, key) not in known]
        for first in range(0, len(wanted), _LOT):
            lot = wanted[first : first + _LOT]
            known.update(dict.fromkeys([(queue, key) for key in lot]))
            padded = lot + lot[:1] * (_LOT - len(lot))
            for values in self._cursor.execute(_BY_KEYS, (queue, *padded)).fetchall():
                known[queue, values[2]] = _row(values)

    def _rows(self, query: str, parameters: tuple[Any, ...]) -> list[Row]:
        self.flush()
        known = self._known
        found: list[Row] = []
        for values in self._cursor.execute(query, parameters).fetchall():
            key = values[1], values[2]
            row = known.get(key)
            if row is None:
                row = known[key] = _row(values)
            found.append(row)
        return found

    # Several at a time, by the short way

    def are_there(self, queue: int, keys: Sequence[bytes]) -> bool:
        """Return True if any of some keys has an item."""
        self.flush()
        for first in range(0, len(keys), _LOT):
            lot = list(keys[first : first + _LOT])
            padded = (queue, *lot, *lot[:1] * (_LOT - len(lot)))
            if self._cursor.execute(_KEYS, padded).fetchone()[0]:
                return True
        return False

    def add_plain(self, rows: Sequence[tuple[int, bytes, int, int, float, bytes]]) -> None:
        """Add ready items of keys that have none, and with nothing unusual.

        Args:
            rows: Queue, key, rank, urgency, time and body of each.
        """
        for queue, key, *_ in rows:
            self._known.pop((queue, key), None)
        self._cursor.executemany(_ADD_PLAIN, rows)
        self._last_id = 0  # SQLite has numbered them

    def first_lot(self, queue: int, count: int) -> list[tuple[Any, ...]]:
        """Return the first ready items of a queue without tenants.

        Of each its number, key, urgency, deliveries, cancellations, the end of its time to live,
        whether it is a letter, and the body, if that is not kept apart.
        """
        self.flush()
        return self._cursor.execute(_FIRST, (queue, count)).fetchall()

    def hand_out(
        self, queue: int, leases: Sequence[tuple[Any, ...]], keys: Iterable[bytes]
    ) -> None:
        """Lease items that are ready.

        Args:
            queue: Their queue.
            leases: Token, deadline, token, time, deliveries, consumer, process and number of each.
            keys: Their keys.
        """
        for key in keys:
            self._known.pop((queue, key), None)
        self._cursor.executemany(_HAND_OUT, leases)

    def remove_leased(
        self, queue: int, leases: Sequence[tuple[bytes, int]], now: float
    ) -> set[tuple[bytes, int]]:
        """Take away items that leases hold, and that have nothing unusual; return these leases."""
        self.flush()
        done: set[tuple[bytes, int]] = set()
        for first in range(0, len(leases), _LOT):
            lot = leases[first : first + _LOT]
            statement = _DELETE_ONE
            if len(lot) > 1:
                lot = [*lot, *[lot[0]] * (_LOT - len(lot))]
                statement = _DELETE_LOT
            keys, tokens = zip(*lot, strict=True)
            found = self._cursor.execute(statement, (queue, now, *keys, *tokens))
            done.update(found.fetchall())
        for key, _ in done:
            self._known[queue, key] = None
        return done

    # Rows in their order

    def first(self, queue: int, count: int) -> list[Row]:
        """Return the first ready items of a queue without tenants."""
        return self._rows(f"{_LINE} ORDER BY tenant, urgency, place LIMIT ?", (queue, count))

    def first_of(self, queue: int, tenant: bytes) -> Row:
        """Return the first ready item of a tenant; there must be one."""
        query = f"{_LINE} AND tenant = ? ORDER BY urgency, place LIMIT 1"
        return self._rows(query, (queue, tenant))[0]

    def last_since(self, queue: int, tenant: bytes, urgency: int) -> float:
        """Return since when the last item of a line is ready; 0: none has come to its back."""
        self.flush()
        found = self._cursor.execute(
            "SELECT since FROM leaseq_items INDEXED BY leaseq_items_line WHERE state = 0 "
            "AND queue = ? AND tenant = ? AND urgency = ? AND place >= 0 "
            "ORDER BY place DESC LIMIT 1",
            (queue, tenant, urgency),
        ).fetchone()
        return 0.0 if found is None else found[0]

    def place_after(
        self, queue: int, tenant: bytes, urgency: int = -(1 << 63), place: int = -(1 << 63)
    ) -> tuple[int, int] | None:
        """Return urgency and rank of a tenant's next ready item after a place; None: none is."""
        self.flush()
        found: tuple[int, int] | None = self._cursor.execute(
            "SELECT urgency, place FROM leaseq_items INDEXED BY leaseq_items_line WHERE state = 0 "
            "AND queue = ? AND tenant = ? AND (urgency, place) > (?, ?) "
            "ORDER BY urgency, place LIMIT 1",
            (queue, tenant, urgency, place),
        ).fetchone()
        return found

    def due(self, queue: int, now: float, count: int) -> list[Row]:
        """Return the first items to which something has happened by itself."""
        return self._rows(f"{_AT} AND at <= ? ORDER BY at, turn LIMIT ?", (queue, now, count))

    def next_at(self, queue: int) -> float:
        """Return the time at which something happens next by itself; `math.inf`: never."""
        self.flush()
        found = self._cursor.execute(
            "SELECT at FROM leaseq_items INDEXED BY leaseq_items_at WHERE queue = ? "
            "AND at IS NOT NULL ORDER BY at LIMIT 1",
            (queue,),
        ).fetchone()
        return inf if found is None else float(found[0])

    def leased(self, queue: int) -> list[Row]:
        """Return the leased items in the order of the hand-outs. O(timed items)."""
        rows = self._rows(f"{_AT} AND turn < {_AFTER_LEASES}", (queue,))
        return sorted(rows, key=lambda row: row.place)

    def ready(self, queue: int, after: tuple[bytes, int, int] | None, count: int) -> list[Row]:
        """Return ready items in their order, those after a place in it."""
        beyond = "" if after is None else "AND (tenant, urgency, place) > (?, ?, ?) "
        query = f"{_LINE} {beyond}ORDER BY tenant, urgency, place LIMIT ?"
        return self._rows(query, (queue, *(after or ()), count))

    def ready_keys(self, queue: int) -> list[bytes]:
        """Return the keys of all ready items in their order."""
        self.flush()
        found = self._cursor.execute(
            "SELECT key FROM leaseq_items INDEXED BY leaseq_items_line WHERE state = 0 "
            "AND queue = ? ORDER BY tenant, urgency, place",
            (queue,),
        )
        return [key for (key,) in found.fetchall()]

    def delayed_keys(self, queue: int) -> list[bytes]:
        """Return the keys of all delayed items. O(timed items)."""
        self.flush()
        found = self._cursor.execute(
            "SELECT key FROM leaseq_items INDEXED BY leaseq_items_at WHERE queue = ? "
            f"AND at IS NOT NULL AND state = {DELAYED} ORDER BY at, turn",
            (queue,),
        )
        return [key for (key,) in found.fetchall()]

    # Bodies, and what was put meanwhile

    def body(self, row: Row) -> bytes:
        """Return the body of an item."""
        if row.body is None:
            query = "SELECT body FROM leaseq_bodies WHERE item = ?"
            body: bytes = self._cursor.execute(query, (row.id,)).fetchone()[0]
            row.body = Letter(body) if row.letter else body
        return row.body

    def successor(self, row: Row) -> Successor[Value] | None:
        """Return what was put while an item was leased."""
        if row.after_kind and row.successor is None:
            buffered, priority, due, expires, body = self._cursor.execute(
                "SELECT buffered, priority, due, expires, body FROM leaseq_successors "
                "WHERE item = ?",
                (row.id,),
            ).fetchone()
            row.successor = Successor(
                body,
                priority,
                bool(buffered),
                -inf if due is None else due,
                inf if expires is None else expires,
            )
        return row.successor

    def succeed(self, row: Row, after: Successor[Value] | None) -> None:
        """Set what was put while an item was leased."""
        if after is None and not row.after_kind:
            return
        self.flush()
        if after is None:
            self._cursor.execute("DELETE FROM leaseq_successors WHERE item = ?", (row.id,))
            row.after_kind = 0
        else:
            due = None if after.due == -inf else after.due
            expires = None if after.expires == inf else after.expires
            self._cursor.execute(
                "INSERT OR REPLACE INTO leaseq_successors VALUES (?, ?, ?, ?, ?, ?)",
                (row.id, after.buffered, after.priority, due, expires, after.value),
            )
            kind = BUFFERED if after.buffered else UPDATED
            if kind != row.after_kind:
                row.after_kind = kind
                self.save(row)
        row.successor = after

    def record(self, row: Row) -> ItemRecord[Value]:
        """Return an item as the rules see it."""
        return ItemRecord(
            STATES[row.state],
            row.body,
            row.priority,
            None,
            row.deliveries,
            row.cancellations,
            row.expiries,
            row.due,
            row.rest,
            row.expires,
            self.successor(row),
            row.cancelled is not None,
        )

    # Changes

    def add(self, row: Row) -> None:
        """Add an item of a key that has none."""
        if not self._last_id:
            last = self._cursor.execute("SELECT max(id) FROM leaseq_items").fetchone()[0] or 0
            self._last_id = last
        self._last_id += 1
        row.id = self._last_id
        assert row.body is not None
        row.large = len(row.body) > INLINE
        row.letter = type(row.body) is Letter
        self._known[row.queue, row.key] = row
        self._new[row] = None

    def save(self, row: Row) -> None:
        """Note that an item has changed, but for its body."""
        if row not in self._new:
            self._changed[row] = None

    def set_body(self, row: Row, body: bytes) -> None:
        """Give an item another body."""
        is_large = len(body) > INLINE
        row.letter = type(body) is Letter
        if row in self._new:
            row.body, row.large = body, is_large
            return
        if row.large:
            self._cursor.execute("DELETE FROM leaseq_bodies WHERE item = ?", (row.id,))
        self._cursor.execute(
            "UPDATE leaseq_items SET letter = ?, body = ? WHERE id = ?",
            (row.letter, None if is_large else body, row.id),
        )
        if is_large:
            self._cursor.execute("INSERT INTO leaseq_bodies VALUES (?, ?)", (row.id, body))
        row.body, row.large = body, is_large

    def remove(self, row: Row) -> None:
        """Take an item away."""
        self._known[row.queue, row.key] = None
        if row in self._new:
            del self._new[row]
            return
        self._changed.pop(row, None)
        if row.large:
            self._cursor.execute("DELETE FROM leaseq_bodies WHERE item = ?", (row.id,))
        if row.after_kind:
            self._cursor.execute("DELETE FROM leaseq_successors WHERE item = ?", (row.id,))
        self._gone.append((row.id,))

    def flush(self) -> None:
        """Write down what has changed. O(changes)."""
        if self._gone:
            self._cursor.executemany("DELETE FROM leaseq_items WHERE id = ?", self._gone)
            self._gone.clear()
        if self._changed:
            self._cursor.executemany(_UPDATE, [row.changing() for row in self._changed])
            self._changed.clear()
        if self._new:
            self._cursor.executemany(_INSERT, [row.as_new() for row in self._new])
            large = [(row.id, row.body) for row in self._new if row.large]
            if large:
                self._cursor.executemany("INSERT INTO leaseq_bodies VALUES (?, ?)", large)
            self._new.clear()

    def forget(self, queue: int) -> None:
        """Forget what was read of a queue, of which many rows have changed by a query."""
        self.flush()
        self._known = {key: row for key, row in self._known.items() if key[0] != queue}


# Queues


_STATE: Final = (
    "fair", "virtual", "shares", "back", "front", "timers", "token", "stamp", "ready", "delayed",
    "leased", "buffered", "handed_out", "undone", "acked", "released", "expired", "given_back",
    "dead", "dropped", "superseded", "outlived", "paused", "paused_tenants", "cancelled",
)  # fmt: skip
_QUEUE_COLUMNS: Final = ("id", "name", "letters", "options", "created_at", *_STATE)
_SELECT_QUEUE: Final = f"SELECT {', '.join(_QUEUE_COLUMNS)} FROM leaseq_queues WHERE name = ?"
_UPDATE_QUEUE: Final = (
    f"UPDATE leaseq_queues SET {', '.join(f'{name} = ?' for name in _STATE)} WHERE id = ?"
)
_INSERT_QUEUE: Final = (
    f"INSERT INTO leaseq_queues ({', '.join(_QUEUE_COLUMNS[1:])}) "
    f"VALUES ({', '.join('?' * (len(_QUEUE_COLUMNS) - 1))})"
)


@lru_cache(1024)
def _options(stored: bytes) -> BrokerQueueOptions:
    return read_options(stored)


class Queue:
    """The state of a queue, and its options.

    Attributes:
        virtual: The virtual time of tenants' turns.
        shares: The sum over all tenants that compete.
        back, front: Ranks that were given so far.
        timers: Numbers that were given to what falls due.
        paused: 1 while the whole queue is paused.
        paused_tenants: The number of tenants that are paused.
        came: Items that have become ready in the present operation, by key and tenant.
        freed: Tenants of which leases have ended in it.
        has_put: True if it was put into.
        wakes_next: True if a process is to be woken for what is left.
        had_waiting, had_items: The numbers before the operation.
    """

    __slots__ = (
        "_stored", "came", "created_at", "dedupe_for", "freed", "had_items", "had_waiting",
        "has_put", "history", "id", "letters", "max_size", "name", "options", "parked", "retry",
        "wakes_next", *_STATE,
    )  # fmt: skip

    ready: int
    delayed: int
    leased: int
    buffered: int
    token: int
    stamp: int
    back: int
    front: int
    timers: int
    handed_out: int
    undone: int
    acked: int
    released: int
    expired: int
    given_back: int
    dead: int
    dropped: int
    superseded: int
    outlived: int
    paused: int
    paused_tenants: int
    cancelled: int

    def __init__(self, values: Sequence[Any]) -> None:
        self.id, self.name, self.letters, stored, self.created_at = values[:5]
        self._stored = tuple(values[5:])
        fair, virtual, shares, *numbers = self._stored
        self.fair = bool(fair)
        self.virtual = int(virtual)
        self.shares = int(shares)
        for name, value in zip(_STATE[3:], numbers, strict=True):
            setattr(self, name, value)
        try:
            self.options = options = _options(stored)
        except Exception as error:
            raise ServerError(
                f"queue {self.name!r} is damaged: its options in the file cannot be read "
                f"({failure_text(error)}); go back to a copy of the file",
                code="ERR",
            ) from error
        self.retry = options.get("retry", _USUAL)
        self.max_size = options.get("max_size", inf)
        self.history = options.get("history", 0)
        self.dedupe_for = options.get("dedupe_for") or 0.0
        self.parked: bool | None = None  # whether a process may be, once it was asked
        self.begin()

    def begin(self) -> None:
        """Note how things are before an operation."""
        self.came: list[tuple[bytes, bytes]] = []
        self.freed: list[bytes] = []
        self.has_put = self.wakes_next = False
        self.had_waiting = self.waiting
        self.had_items = self.waiting + self.leased

    @property
    def waiting(self) -> int:
        """The number of items that wait."""
        return self.ready + self.delayed

    @property
    def total(self) -> int:
        """The number of items, in whatever state."""
        return self.ready + self.delayed + self.leased + self.buffered

    def state(self) -> tuple[Any, ...]:
        """Return the columns of its state."""
        return (
            int(self.fair), str(self.virtual), str(self.shares),
            self.back, self.front, self.timers, self.token, self.stamp, self.ready, self.delayed,
            self.leased, self.buffered, self.handed_out, self.undone, self.acked, self.released,
            self.expired, self.given_back, self.dead, self.dropped, self.superseded, self.outlived,
            self.paused, self.paused_tenants, self.cancelled,
        )  # fmt: skip

    def count(self, counters: Iterable[str]) -> None:
        """Count moves."""
        for name in counters:
            setattr(self, name, getattr(self, name) + 1)


_USUAL: Final = Retry()


class Queues:
    """The queues, by name."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._known: dict[str, Queue | None] = {}

    def __iter__(self) -> Iterator[Queue]:
        """Yield those that were used."""
        return iter([queue for queue in self._known.values() if queue is not None])

    def find(self, name: str) -> Queue | None:
        """Return the queue of a name; None: there is none.

        Raises:
            ServerError: another program has changed its row.
        """
        try:
            return self._known[name]
        except KeyError:
            values = self._cursor.execute(_SELECT_QUEUE, (name,)).fetchone()
            queue = self._known[name] = None if values is None else Queue(values)
            return queue

    def add(
        self, name: str, letters: str, options: bytes, created_at: float, first_token: int
    ) -> Queue:
        """Make a queue."""
        numbers = dict.fromkeys(_STATE[3:], 0)
        numbers |= {"token": first_token, "stamp": first_token}
        state = (0, "0", "0", *numbers.values())
        self._cursor.execute(_INSERT_QUEUE, (name, letters, options, created_at, *state))
        self._known.pop(name, None)
        queue = self.find(name)
        assert queue is not None
        return queue

    def remove(self, queue: Queue, tables: Iterable[str]) -> None:
        """Do away with a queue, and its rows in other tables."""
        of_items = "IN (SELECT id FROM leaseq_items WHERE queue = ?)"
        for table in ("bodies", "successors"):
            self._cursor.execute(f"DELETE FROM leaseq_{table} WHERE item {of_items}", (queue.id,))
        for table in tables:
            self._cursor.execute(f"DELETE FROM leaseq_{table} WHERE queue = ?", (queue.id,))
        self._cursor.execute("DELETE FROM leaseq_queues WHERE id = ?", (queue.id,))
        self._known[queue.name] = None

    def all(self) -> list[tuple[str, str]]:
        """Return the names of all queues, and of their queues of dead letters or ""."""
        query = "SELECT name, letters FROM leaseq_queues ORDER BY id"
        return self._cursor.execute(query).fetchall()

    def flush(self) -> None:
        """Write down the states that have changed."""
        for queue in self:
            state = queue.state()
            if state != queue._stored:
                self._cursor.execute(_UPDATE_QUEUE, (*state, queue.id))
                queue._stored = state
