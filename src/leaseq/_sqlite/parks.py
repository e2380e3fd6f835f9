"""Parks: the processes that wait for something of a queue, and which one is woken.

A process that finds nothing parks under what it wants (`Want`), and is told when it may be there:
one item that has become ready wakes one process. A wake-up carries no item; it takes the park away,
and goes to the next process if the first is not there any more. Operations only note what they have
done, in the queue's `came` and `freed`; the processes to be woken for it are found at the end of
each operation, and told once the transaction is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from math import inf
from typing import Final, TypeAlias, cast

from .._remote.encoding import (
    decode_want,
    encode_key,
    encode_name,
    encode_value_name,
    encode_want,
)
from .._remote.protocol import (
    LeaseEnded,
    Park,
    QueueDeleted,
    ValueKept,
    Want,
    WantKind,
    Woken,
)
from .rows import READY, Cursor, Queue, Row
from .turns import Turns
from .work import Work

LOOKED_AT: Final = 100
"""Wants of a queue that are looked at for one that can be served."""
AFTER_PAUSE: Final = 1000
"""Wants, tenants, and items of each tenant, for which one resume wakes processes at most."""
OVERLOOKED: Final = 0.5
"""Seconds after which the process that was woken for an item does not come."""
STALE: Final = 60.0
"""Seconds after which a process that cannot be reached and was not heard of is gone."""

Told: TypeAlias = "Woken | LeaseEnded | QueueDeleted | ValueKept"
"""An event that a process is told unasked."""

_KINDS: Final[tuple[WantKind, ...]] = ("own", "steal", "own more", "steal more")


@cache
def _letter(kind: WantKind) -> bytes:
    return encode_want(Want(kind, ""))[:1] if kind != "key" else b"k"


_ANY, _ANY_MORE = encode_want(Want("any")), encode_want(Want("any more"))
_ROOM, _DRAINED = encode_want(Want("room")), encode_want(Want("drained"))
_NAMED: Final = tuple(map(_letter, _KINDS))


def forget(cursor: Cursor, process: str) -> None:
    """Forget what a process waits for."""
    for table in ("parks", "recalls"):
        cursor.execute(f"DELETE FROM leaseq_{table} WHERE process = ?", (process,))


class Parks:
    """The parks of all queues, within a transaction.

    Args:
        work: The transaction.
        is_there: Returns False for a process that is certainly gone, by its address.

    Attributes:
        told: Events for processes, to be told once the transaction is done: the name of each, its
            address, and the event.
    """

    def __init__(self, work: Work, is_there: Callable[[str], bool]) -> None:
        self._work = work
        self._cursor = work.cursor
        self._is_there = is_there
        self.told: list[tuple[str, str, Told]] = []

    # Who is parked

    def _any(self, queue: Queue) -> bool:
        """Return True if a process may be parked."""
        if queue.parked is None:
            query = "SELECT EXISTS (SELECT 1 FROM leaseq_parks WHERE queue = ?)"
            queue.parked = bool(self._cursor.execute(query, (queue.id,)).fetchone()[0])
        return queue.parked

    def park(self, queue: Queue, want: Want) -> Park:
        """Park this process."""
        queue.stamp = max(queue.stamp + 1, int(self._work.wall * 1e6))
        queue.parked = True
        self._cursor.execute(
            "INSERT INTO leaseq_parks VALUES (?, ?, ?, ?)",
            (queue.id, encode_want(want), queue.stamp, self._work.process),
        )
        return Park(want, queue.stamp)

    def stands(self, queue: Queue, park: Park) -> bool:
        """Return True if this process is parked like this."""
        found = self._cursor.execute(
            "SELECT process FROM leaseq_parks WHERE queue = ? AND want = ? AND stamp = ?",
            (queue.id, encode_want(park.want), park.stamp),
        ).fetchone()
        return found is not None and found[0] == self._work.process

    def unpark(self, queue: Queue, park: Park) -> None:
        """Take a park of this process away."""
        self._cursor.execute(
            "DELETE FROM leaseq_parks WHERE queue = ? AND want = ? AND stamp = ? AND process = ?",
            (queue.id, encode_want(park.want), park.stamp, self._work.process),
        )

    def processes(self, queue: Queue) -> list[str]:
        """Return the names of all that wait for something of a queue."""
        query = (
            "SELECT process FROM leaseq_parks WHERE queue = ? "
            "UNION SELECT process FROM leaseq_recalls WHERE queue = ?"
        )
        found = self._cursor.execute(query, (queue.id, queue.id)).fetchall()
        return [name for (name,) in found]

    def is_overlooked(self, queue: Queue, want: Want, places: int) -> bool:
        """Return True if there has been for long what a process waits for."""
        if want.kind == "room":
            return queue.waiting + places <= queue.max_size
        row = self._next_for(queue, want)
        return row is not None and row.since < self._work.now - OVERLOOKED

    def _next_for(self, queue: Queue, want: Want) -> Row | None:
        """Return the item that a process that wants this would get next."""
        work, kind = self._work, want.kind.split()[0]
        if kind == "any":
            return work.next_item(queue, Turns.peek)
        if kind == "key":
            row = work.items.find(queue.id, encode_key(want.name))
            ready = row is not None and row.state == READY
            return row if ready and row and work.claimable(queue, row.tenant) else None
        if kind in ("own", "steal"):
            tenant = encode_name(cast("str | None", want.name))
            if work.claimable(queue, tenant):
                return work.items.first_of(queue.id, tenant)
        return None

    # Who waits for a value

    def wait_for_value(self, queue: Queue, name: bytes) -> None:
        """Note that this process waits for a value."""
        self._cursor.execute(
            "INSERT OR IGNORE INTO leaseq_recalls VALUES (?, ?, ?)",
            (queue.id, name, self._work.process),
        )

    def stop_waiting_for(self, queue: Queue, name: bytes) -> None:
        """Forget that this process waits for a value."""
        self._cursor.execute(
            "DELETE FROM leaseq_recalls WHERE queue = ? AND name = ? AND process = ?",
            (queue.id, name, self._work.process),
        )

    def tell_of_value(self, queue: Queue, name: str) -> None:
        """Tell all processes that wait for a value that it is there."""
        waits = (queue.id, encode_value_name(name))
        processes = self._cursor.execute(
            "SELECT process FROM leaseq_recalls WHERE queue = ? AND name = ?", waits
        ).fetchall()
        if processes:
            self._cursor.execute("DELETE FROM leaseq_recalls WHERE queue = ? AND name = ?", waits)
            for (process,) in processes:
                self.tell(process, ValueKept(queue.name, name))

    # Telling

    def tell(self, process: str, event: Told) -> bool:
        """Tell a process something; False: it is gone, and so are its parks."""
        found = self._cursor.execute(
            "SELECT address, heard FROM leaseq_processes WHERE name = ?", (process,)
        ).fetchone()
        address, heard = ("", 0.0) if found is None else found
        is_here = process == self._work.process
        there = self._is_there(address) if address else heard >= self._work.now - STALE
        if not is_here and not there:
            forget(self._cursor, process)
            return False
        self.told.append((process, address, event))
        return True

    def _wake_one(self, queue: Queue, *wants: bytes) -> bool:
        """Wake the process that has been parked for longest under one of these; False: none is."""
        while True:
            firsts: list[tuple[int, str, bytes]] = []
            for want in wants:
                found = self._cursor.execute(
                    "SELECT stamp, process FROM leaseq_parks WHERE queue = ? AND want = ? "
                    "ORDER BY stamp LIMIT 1",
                    (queue.id, want),
                ).fetchone()
                if found is not None:
                    firsts.append((*found, want))
            if not firsts:
                return False
            stamp, process, want = min(firsts)
            self._take_away(queue, want, stamp)
            if self.tell(process, Woken(queue.name, decode_want(want))):
                return True

    def _take_away(self, queue: Queue, want: bytes, stamp: int) -> None:
        query = "DELETE FROM leaseq_parks WHERE queue = ? AND want = ? AND stamp = ?"
        self._cursor.execute(query, (queue.id, want, stamp))

    def _wake_for_tenant(self, queue: Queue, tenant: bytes) -> bool:
        """Wake a process that may have the next item of a tenant."""
        own, steal, own_more, steal_more = [letter + tenant for letter in _NAMED]
        return (
            self._wake_one(queue, _ANY, own)
            or self._wake_one(queue, steal)
            or self._wake_one(queue, _ANY_MORE, own_more)
            or self._wake_one(queue, steal_more)
        )

    def wake_for(self, queue: Queue, key: bytes, tenant: bytes) -> bool:
        """Wake a process that may have an item that is ready."""
        if queue.paused:
            return False
        return self._wake_one(queue, b"k" + key) or (
            self._work.claimable(queue, tenant) and self._wake_for_tenant(queue, tenant)
        )

    def wake_for_slot(self, queue: Queue, tenant: bytes) -> bool:
        """Wake a process for a tenant that may have come under its cap."""
        if not self._work.claimable(queue, tenant):
            return False
        if self._wake_one(queue, _letter("cap") + tenant):
            return True
        row = self._work.items.first_of(queue.id, tenant)
        return self.wake_for(queue, row.key, tenant)

    def wake_next(self, queue: Queue) -> None:
        """Wake a process for what is left.

        One that was woken for an item may have been given another tenant's: so if no process waits
        for the next item, one may for another.
        """
        row = self._work.next_item(queue, Turns.peek)
        if row is not None and not self.wake_for(queue, row.key, row.tenant) and queue.fair:
            self._wake_for_some(queue)

    def _wake_for_some(self, queue: Queue) -> None:
        wants = self._cursor.execute(
            "SELECT DISTINCT want FROM leaseq_parks WHERE queue = ? LIMIT ?", (queue.id, LOOKED_AT)
        )
        for (want,) in wants.fetchall():
            tenant = want[1:]
            named = want[:1] in _NAMED and self._work.claimable(queue, tenant)
            if named and self._wake_for_tenant(queue, tenant):
                return

    def wake_after_pause(self, queue: Queue) -> None:
        """Wake processes for the items that are ready, once the queue is resumed.

        None was woken for items that came meanwhile. In a very long line, processes that were woken
        wake the next ones.
        """
        if not self._any(queue):
            return
        served: Counter[bytes] = Counter()  # by tenant
        keys = self._cursor.execute(
            "SELECT DISTINCT want FROM leaseq_parks WHERE queue = ? AND want >= ? AND want < ? "
            "LIMIT ?",
            (queue.id, b"k", b"l", AFTER_PAUSE),
        )
        for (want,) in keys.fetchall():
            row = self._work.items.find(queue.id, want[1:])
            if row is not None and row.state == READY and self._wake_one(queue, want):
                served[row.tenant] += 1  # even if it has to wait on, for a cap or another pause
        counts = [(b"", queue.ready)]
        if queue.fair:
            counts = self._work.turns(queue).competing(AFTER_PAUSE)
        for tenant, count in counts:
            while served[tenant] < min(count, AFTER_PAUSE):
                if not self._wake_for_tenant(queue, tenant):
                    break
                served[tenant] += 1
        queue.wakes_next = not served.total()

    def wake_for_room(self, queue: Queue) -> None:
        """Wake a producer, if there is room."""
        if queue.waiting < queue.max_size:
            self._wake_one(queue, _ROOM)

    def wake_all(self, queue: Queue) -> None:
        """Wake each process that waits for an item, under one of its wants: to see what is due."""
        found = self._cursor.execute(
            "SELECT process, want, min(stamp) FROM leaseq_parks WHERE queue = ? "
            "AND want NOT IN (?, ?) GROUP BY process",
            (queue.id, _ROOM, _DRAINED),
        )
        for process, want, stamp in found.fetchall():
            self._take_away(queue, want, stamp)
            self.tell(process, Woken(queue.name, decode_want(want)))

    def pass_on(self, queue: Queue, want: Want) -> None:
        """Wake another process, for what one was woken for that does not want it any more."""
        if not self._any(queue):
            return
        if want.kind in ("any", "any more"):
            self.wake_next(queue)
        elif want.kind == "key":
            row = self._work.items.find(queue.id, encode_key(want.name))
            if row is not None and row.state == READY:
                self.wake_for(queue, row.key, row.tenant)
        elif want.kind == "room":
            self.wake_for_room(queue)
        elif want.kind != "drained":
            self.wake_for_slot(queue, encode_name(cast("str | None", want.name)))

    def end_operation(self) -> None:
        """Wake all processes that are to be woken for what an operation has done."""
        for queue in self._work.queues:
            if self._has_changed(queue) and self._any(queue):
                self._wake_all(queue)
            queue.begin()

    @staticmethod
    def _has_changed(queue: Queue) -> bool:
        return bool(
            queue.came
            or queue.freed
            or queue.wakes_next
            or queue.has_put
            or queue.waiting != queue.had_waiting
            or (queue.had_items and not queue.waiting + queue.leased)
        )

    def _wake_all(self, queue: Queue) -> None:
        for key, tenant in queue.came:
            self.wake_for(queue, key, tenant)
        served = {tenant for _, tenant in queue.came}
        for tenant in queue.freed:
            if tenant not in served or self._is_awaited(queue, _letter("cap") + tenant):
                self.wake_for_slot(queue, tenant)
        if queue.max_size != inf and (queue.waiting < queue.had_waiting or queue.has_put):
            self.wake_for_room(queue)
        if queue.had_items and not queue.waiting + queue.leased:
            while self._wake_one(queue, _DRAINED):
                pass
        if queue.wakes_next:
            self.wake_next(queue)

    def _is_awaited(self, queue: Queue, want: bytes) -> bool:
        query = "SELECT EXISTS (SELECT 1 FROM leaseq_parks WHERE queue = ? AND want = ?)"
        return bool(self._cursor.execute(query, (queue.id, want)).fetchone()[0])
