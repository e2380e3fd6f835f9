"""The moves of `_rules/moves.py`, over rows.

A `Work` is one transaction on the file. It reads the rows that a move concerns, has the rules
compute what becomes of them, and changes the rows; nothing is decided here, and nothing in SQL.
Plain puts and hand-outs are done by short ways, which the vectors compare with the rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from typing import Final, Literal

from .._core.messages import Cancellation
from .._core.options import ANY_KEY
from .._core.policies import rest_by
from .._core.reports import DeadLetter, PutOutcome
from .._core.requests import ClaimRequest, PutRequest
from .._remote.encoding import encode_key, encode_name, read_key, read_name
from .._remote.protocol import Body, Delivery, ItemDied, Key, LeaseEnded, RawKey
from .._rules import moves
from .._rules.moves import MOVES, OLD, Fate, ItemRecord, Move, Moved
from .rows import (
    BUFFERED,
    DELAYED,
    LEASED,
    READY,
    Cursor,
    Items,
    Letter,
    Queue,
    Queues,
    Row,
    Value,
)
from .turns import Turns

SWEPT: Final = 64
"""Items that have fallen due a claim sees to first."""
BURIED: Final = 1000
"""Items that had outlived their time to live a claim buries on its way."""
_PLAIN: Final = PutRequest()


class Work:
    """A transaction: the rows it has read, and what is to be told once it is done.

    Args:
        cursor: Of the file, within a transaction.
        process: The name of this process.
        wall: The wall clock, in seconds since the epoch.

    Attributes:
        now: The file's clock.
        events: The ends of items and leases on the way.
    """

    def __init__(self, cursor: Cursor, process: str, wall: float) -> None:
        seen, ahead = cursor.execute("SELECT seen, ahead FROM leaseq_clock").fetchone()
        self.cursor = cursor
        self.process = process
        self.now, self._ahead = clock(wall, seen, ahead)
        self.wall = wall
        self._first_token = int(wall * 1e6) - 1
        self.items = Items(cursor)
        self.queues = Queues(cursor)
        self.events: list[ItemDied | LeaseEnded] = []
        self._turns: dict[Queue, Turns] = {}

    def turns(self, queue: Queue) -> Turns:
        """Return the turns of a queue's tenants."""
        turns = self._turns.get(queue)
        if turns is None:
            turns = self._turns[queue] = Turns(self.cursor, self.items, queue)
        return turns

    def note_time(self) -> None:
        """Write the time down, so that no process tells an earlier one from here on."""
        self.cursor.execute("UPDATE leaseq_clock SET seen = ?, ahead = ?", (self.now, self._ahead))

    def flush(self) -> None:
        """Write everything down."""
        self.items.flush()
        for turns in self._turns.values():
            turns.flush()
            turns.forget()
        self.queues.flush()

    # The line

    def _join(
        self,
        queue: Queue,
        row: Row,
        record: ItemRecord[Value],
        place: moves.Place,
        *,
        since: float | None = None,
        goes_on: bool = False,
    ) -> None:
        """Let an item wait: in the line, or until it is due.

        Args:
            queue: Its queue.
            row: The item, which is in no line and under no lease; new, or one that was there.
            record: The item as it is to be.
            place: Its place in the line.
            since: The time since which it is ready, if that has passed.
            goes_on: True: it has waited until now, and keeps its number.
        """
        now = self.now
        was_at = row.place
        row.priority = record.priority
        row.deliveries, row.cancellations = record.deliveries, record.cancellations
        row.expiries, row.expires = record.expiries, record.expires
        row.rest = record.not_before if record.not_before > now else -inf
        row.consumer, row.process, row.deadline, row.cancelled = b"", "", inf, None
        if not goes_on:
            row.number = 0
        if record.due > now:
            row.state, row.due, row.place, row.since = DELAYED, record.due, 0, now
            queue.delayed += 1
            self._give_number(queue, row)
            return
        row.state, row.due, row.since = READY, -inf, now if since is None else since
        if place == "back":
            queue.back += 1
            row.place = queue.back
            if since is not None:  # in the order of the line: its first has been ready for longest
                before = self.items.last_since(queue.id, row.tenant, -row.priority)
                row.since = max(since, before)
        elif place == "front":
            queue.front += 1
            row.place = -OLD - queue.front
        else:
            row.place = was_at - OLD
        if not queue.fair and row.tenant:
            self.turns(queue).begin()
        if queue.fair:
            self.turns(queue).push(row)
        queue.ready += 1
        if row.expires == inf:
            row.number = 0
        else:
            self._give_number(queue, row)
        queue.came.append((row.key, row.tenant))

    def _give_number(self, queue: Queue, row: Row) -> None:
        if not row.number:
            queue.timers += 1
            row.number = queue.timers

    def _take_out(self, queue: Queue, row: Row) -> None:
        """Take an item that waits out of the line; its row is as it was."""
        if row.state == DELAYED:
            queue.delayed -= 1
            return
        if queue.fair:
            self.turns(queue).remove(row)
        queue.ready -= 1

    def claimable(self, queue: Queue, tenant: bytes) -> bool:
        """Return True if something of a tenant can be claimed."""
        if not queue.ready or queue.paused:
            return False
        return self.turns(queue).claimable(tenant) if queue.fair else not tenant

    def next_item(self, queue: Queue, turn: Callable[[Turns], bytes | None]) -> Row | None:
        """Return an item that can be claimed; None: there is none.

        ``turn`` finds the tenant: `Turns.next`, or `Turns.peek`, which moves no virtual time.
        """
        if not queue.ready or queue.paused:
            return None
        if not queue.fair:
            return self.items.first(queue.id, 1)[0]
        tenant = turn(self.turns(queue))
        return None if tenant is None else self.items.first_of(queue.id, tenant)

    # Moves

    def _move(
        self,
        queue: Queue,
        row: Row,
        moved: Moved[Value],
        since: float | None = None,
    ) -> None:
        """Carry out a computed move of an item, leased or waiting."""
        after = self.items.successor(row)
        if moved.ended is not None:
            self._end_lease(queue, row)
        else:
            self._take_out(queue, row)
        if after is not None and after.buffered:
            queue.buffered -= 1
        queue.count(moved.counts)
        record = moved.item
        if record is None:
            self._remove(queue, row)
            return
        self.items.succeed(row, None)
        if record.value is not None and record.value is not row.body:
            self.set_body(queue, row, record.value)
        self._join(queue, row, record, moved.place or "back", since=since)
        self.items.save(row)

    def _end_lease(self, queue: Queue, row: Row) -> None:
        queue.leased -= 1
        if queue.fair and self.turns(queue).end(row.tenant):
            queue.freed.append(row.tenant)

    def set_body(self, queue: Queue, row: Row, body: bytes) -> None:
        """Give an item another body."""
        self.count_letter(queue, row, -1)
        self.items.set_body(row, body)
        self.count_letter(queue, row, 1)

    def _remove(self, queue: Queue, row: Row) -> None:
        self.count_letter(queue, row, -1)
        self.items.remove(row)

    def count_letter(self, queue: Queue, row: Row, by: int) -> None:
        """Count a dead letter that comes or goes, by the queue that it is of."""
        if row.letter:
            self.cursor.execute(
                "INSERT INTO leaseq_letters VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET number = number + excluded.number",
                (queue.id, read_letter(self.items.body(row)).queue, by),
            )

    # Puts

    def was_done(self, queue: Queue, key: bytes) -> bool:
        """Return True if a key was done so lately that it is not taken again where it is absent."""
        if not queue.dedupe_for:
            return False
        found = self.cursor.execute(
            "SELECT until FROM leaseq_done WHERE queue = ? AND key = ?", (queue.id, key)
        ).fetchone()
        return found is not None and found[0] > self.now

    def put(self, queue: Queue, key: bytes, body: bytes, terms: PutRequest) -> PutOutcome:
        """Put a key, whatever state it is in; nothing may be against it."""
        queue.has_put = True
        row = self.items.find(queue.id, key)
        if row is None:
            if self.was_done(queue, key):
                return PutOutcome.DUPLICATE
            self._put_new(queue, key, body, terms)
            return PutOutcome.ADDED
        if row.state == LEASED:
            return self._put_on_leased(queue, row, body, terms)
        return self._put_on_waiting(queue, row, body, terms)

    def _put_new(self, queue: Queue, key: bytes, body: bytes, terms: PutRequest) -> None:
        row = Row(queue.id, key)
        row.body = body
        if not queue.fair and terms.tenant is None and not terms.timed:  # the short way
            queue.back += 1
            queue.ready += 1
            row.place = queue.back
            row.since = self.now
            if terms.priority is not None:
                row.priority = terms.priority
            queue.came.append((key, b""))
        else:
            row.tenant = encode_name(terms.tenant)
            value: Value = body
            record = moves.put_on_absent(value, terms, self.now).item
            assert record is not None
            self._join(queue, row, record, "back")
        self.items.add(row)
        self.count_letter(queue, row, 1)

    def _put_on_waiting(self, queue: Queue, row: Row, body: bytes, terms: PutRequest) -> PutOutcome:
        moved = moves.put_on_waiting(self.items.record(row), body, terms, self.now)
        record = moved.item
        assert record is not None
        assert moved.outcome is not None
        if record.state == "ready" and moved.place is None:  # where it was
            if record.expires != row.expires:
                row.expires = record.expires
                self._give_number(queue, row)
                self.items.save(row)
        else:
            was_ready = row.state == READY
            self._take_out(queue, row)
            self._join(queue, row, record, "back", goes_on=True)
            self.items.save(row)
            if was_ready and row.state == READY:
                queue.came.pop()  # there is no more to be had than before
        self.set_body(queue, row, body)
        return moved.outcome

    def _put_on_leased(self, queue: Queue, row: Row, body: bytes, terms: PutRequest) -> PutOutcome:
        moved = moves.put_on_leased(self.items.record(row), body, terms, self.now)
        assert moved.item is not None
        assert moved.outcome is not None
        after = moved.item.after
        assert after is not None
        if after.buffered and row.after_kind != BUFFERED:
            queue.buffered += 1
        self.items.succeed(row, after)
        return moved.outcome

    def discard(self, queue: Queue, row: Row) -> None:
        """Drop an item that waits."""
        self._move(queue, row, Moved(MOVES["drain"], None, counts=MOVES["drain"].counts))

    def take_out(self, queue: Queue, row: Row) -> None:
        """Take out a ready item, as if it had been acknowledged."""
        self._move(queue, row, Moved(MOVES["take_out"], None, counts=MOVES["take_out"].counts))

    # Hand-outs

    def claim(self, queue: Queue, request: ClaimRequest[Key], count: int) -> list[Delivery]:
        """Hand out items for a request, as many as there are for it, and not more than a number."""
        if queue.paused:
            return []
        if not request.restricted and not queue.fair:
            return self._claim_lot(queue, request, count)
        found: list[Delivery] = []
        buried = 0
        while len(found) < count and buried < BURIED:
            first = self._first_for(queue, request)
            if first is None:
                break
            if first.expires > self.now:
                if queue.fair:
                    self.turns(queue).hand_out(first, restricted=request.restricted)
                self._hand_out(queue, first, request)
                found.append(self.delivery(first))
            else:
                self._outlive(queue, first)
                buried += 1
        return found

    def _claim_lot(self, queue: Queue, request: ClaimRequest[Key], count: int) -> list[Delivery]:
        """Hand out the first items of a queue without tenants, many with one query."""
        found = self._claim_plain(queue, request, count)
        buried = 0
        while queue.ready and len(found) < count and buried < BURIED:
            for row in self.items.first(queue.id, count - len(found)):
                if row.expires > self.now:
                    self._hand_out(queue, row, request)
                    found.append(self.delivery(row))
                else:
                    self._outlive(queue, row)
                    buried += 1
        return found

    def _claim_plain(self, queue: Queue, request: ClaimRequest[Key], count: int) -> list[Delivery]:
        """Hand out items by the short way, as far as the first one with something unusual."""
        found: list[Delivery] = []
        leases: list[tuple[object, ...]] = []
        keys: list[bytes] = []
        now, deadline = self.now, self.now + request.lease_timeout
        consumer = encode_name(request.consumer) or None
        token = max(queue.token, self._first_token)
        rows = self.items.first_lot(queue.id, count) if queue.ready else []
        for number, key, urgency, before, cancellations, expires, letter, body in rows:
            if letter or body is None or (expires is not None and expires <= now):
                break
            token += 1
            deliveries = before + 1
            keys.append(key)
            leases.append((token, deadline, token, now, deliveries, consumer, self.process, number))
            found.append(
                Delivery(read_key(key), body, token, -urgency, None, deliveries, cancellations)
            )
        if found:
            self.items.hand_out(queue.id, leases, keys)
            queue.token = token
            queue.ready -= len(found)
            queue.leased += len(found)
            queue.handed_out += len(found)
        return found

    def _first_for(self, queue: Queue, request: ClaimRequest[Key]) -> Row | None:
        """Return the item that a request gets next."""
        if request.key is not ANY_KEY:
            row = self.items.find(queue.id, encode_key(request.key))
            if row is None or row.state != READY or not self.claimable(queue, row.tenant):
                return None
            return row
        if request.tenants is None:
            return self.next_item(queue, Turns.next)
        if not queue.ready:
            return None
        if not queue.fair:
            return self.items.first(queue.id, 1)[0] if request.serves(None) else None
        turns = self.turns(queue)
        own = turns.next_of(tuple(map(encode_name, request.tenants)))
        tenant = own
        if tenant is None:
            tenant = turns.next_of(tuple(map(encode_name, request.steal_from)))
        return None if tenant is None else self.items.first_of(queue.id, tenant)

    def _hand_out(self, queue: Queue, row: Row, request: ClaimRequest[Key]) -> None:
        queue.ready -= 1
        queue.leased += 1
        queue.handed_out += 1
        queue.token = row.place = max(queue.token, self._first_token) + 1
        row.state = LEASED
        row.since = self.now
        row.deliveries += 1
        row.number = 0
        row.deadline = self.now + request.lease_timeout
        row.process = self.process
        if request.consumer is not None:
            row.consumer = encode_name(request.consumer)
        self.items.save(row)

    def delivery(self, row: Row) -> Delivery:
        """Return a leased item as its consumer gets it."""
        return Delivery(
            read_key(row.key),
            read_body(self.items.body(row)),
            row.place,
            row.priority,
            read_name(row.tenant),
            row.deliveries,
            row.cancellations,
        )

    # The end of leases

    def leased(self, queue: Queue, key: Key | RawKey, token: int) -> Row | None:
        """Return the item that a lease holds, past its deadline or not; None: it holds nothing."""
        row = self.items.find(queue.id, encode_key(key))
        return row if row is not None and row.state == LEASED and row.place == token else None

    def held(self, queue: Queue, key: Key | RawKey, token: int) -> Row | None:
        """Return the item that a lease holds; past its deadline it holds nothing."""
        row = self.leased(queue, key, token)
        is_held = row is not None and row.deadline > self.now and row.cancelled is None
        return row if is_held else None

    def is_leased(self, queue: Queue, lease: Delivery) -> bool:
        """Return True if a lease still has its item: holds it, or was cancelled meanwhile."""
        row = self.leased(queue, lease.key, lease.token)
        return row is not None and row.deadline > self.now

    def ack(self, queue: Queue, row: Row) -> bool:
        """Acknowledge an item; True: an update was dropped that its consumer never saw."""
        if queue.dedupe_for:
            self._remember_done(queue, row.key)
        if queue.history:
            self._remember_item(queue, row, "acked")
        if not row.after_kind:  # the short way
            self._end_lease(queue, row)
            queue.acked += 1
            self._remove(queue, row)
            return False
        dropped = row.after_kind != BUFFERED
        self._move(queue, row, moves.after_ack(self.items.record(row), self.now))
        return dropped

    def _remember_done(self, queue: Queue, key: bytes) -> None:
        self.cursor.execute(
            "INSERT OR REPLACE INTO leaseq_done VALUES (?, ?, ?)",
            (queue.id, key, self.now + queue.dedupe_for),
        )
        self.cursor.execute(
            "DELETE FROM leaseq_done WHERE queue = ? AND key IN (SELECT key FROM leaseq_done "
            "INDEXED BY leaseq_done_until WHERE queue = ? AND until <= ? LIMIT 16)",
            (queue.id, queue.id, self.now),
        )

    def forget_done(self, queue: Queue, key: bytes) -> None:
        """Accept a key again, however lately it was done."""
        if queue.dedupe_for:
            self.cursor.execute(
                "DELETE FROM leaseq_done WHERE queue = ? AND key = ?", (queue.id, key)
            )

    def _remember_item(self, queue: Queue, row: Row, ended: Literal["acked", "cancelled"]) -> None:
        self.cursor.execute(
            "INSERT INTO leaseq_history "
            "(queue, key, token, deliveries, ended_at, letter, body, ended) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (queue.id, row.key, row.place, row.deliveries, self.wall, row.letter,
             self.items.body(row), ended),
        )  # fmt: skip
        self.cursor.execute(
            "DELETE FROM leaseq_history WHERE id <= (SELECT id FROM leaseq_history "
            "INDEXED BY leaseq_history_queue WHERE queue = ? ORDER BY id DESC LIMIT 1 OFFSET ?) "
            "AND queue = ?",
            (queue.id, queue.history, queue.id),
        )

    # Kept values

    def keep(self, queue: Queue, name: bytes, body: bytes, ttl: float) -> None:
        """Keep a value under a name, in place of an older one."""
        self.cursor.execute(
            "INSERT OR REPLACE INTO leaseq_kept (queue, name, until, body) VALUES (?, ?, ?, ?)",
            (queue.id, name, self.now + ttl, body),
        )
        self.cursor.execute(
            "DELETE FROM leaseq_kept WHERE id IN (SELECT id FROM leaseq_kept "
            "INDEXED BY leaseq_kept_until WHERE queue = ? AND until <= ? LIMIT 16)",
            (queue.id, self.now),
        )

    def kept(self, queue: Queue, name: bytes) -> bytes | None:
        """Return the value of a name; None: there is none, or its time is over."""
        found = self.cursor.execute(
            "SELECT body, until FROM leaseq_kept WHERE queue = ? AND name = ?", (queue.id, name)
        ).fetchone()
        return found[0] if found is not None and found[1] > self.now else None

    # Leases that are given back

    def release(
        self,
        queue: Queue,
        row: Row,
        *,
        front: bool,
        delay: float | None,
        counted: bool,
        error: str | None,
    ) -> None:
        """Release an item to be tried again; or give it up, at a counted last delivery."""
        rest = 0.0
        if counted:
            if queue.retry.exhausted(row.deliveries):
                self._die(queue, row, MOVES["fail"], "max_deliveries", error)
                return
            if delay is None and not front:
                rest = rest_by(queue.retry, row.deliveries)
        moved = moves.after_release(
            self.items.record(row), self.now, front=front, delay=delay, counted=counted, rest=rest
        )
        self._move(queue, row, moved)

    def reject(
        self, queue: Queue, row: Row, reason: str, error: str | None, *, unread: bool = False
    ) -> None:
        """Give an item up."""
        self._die(queue, row, MOVES["reject"], reason, error, unread=unread)

    def give_back(self, queue: Queue, row: Row) -> None:
        """Take back, uncounted, an item whose consumer was cancelled."""
        self._move(queue, row, moves.after_give_back(self.items.record(row), self.now))

    def undo(self, queue: Queue, row: Row) -> None:
        """Take back a hand-out that its consumer never saw."""
        if row.cancelled is not None:
            self.wind_up(queue, row)
            return
        self._move(queue, row, moves.after_undo(self.items.record(row), self.now))

    def close(self, queue: Queue, row: Row) -> None:
        """End a lease because the handle on the queue is closed."""
        if row.cancelled is not None:
            self.wind_up(queue, row)
            return
        self._move(queue, row, moves.after_close(self.items.record(row), self.now))

    def cancel(self, queue: Queue, row: Row, reason: str, *, keep_successor: bool) -> bool:
        """Cancel an item, whatever state it is in; False: it was cancelled before."""
        was = self.items.record(row)
        moved = moves.after_cancel(was, keep_successor=keep_successor)
        if moved.item is None:
            self._move(queue, row, moved)
            return True
        if was.cancelled and not moved.counts:
            return False
        queue.buffered -= len(moved.counts)  # the only thing that counts by now is a successor
        queue.count(moved.counts)
        self.items.succeed(row, moved.item.after)
        if not was.cancelled:
            row.cancelled = reason
            if queue.history:
                self._remember_item(queue, row, "cancelled")
        self.items.save(row)
        return True

    def cancellation(
        self, queue: Queue, key: Key | RawKey, token: int
    ) -> tuple[Row, Cancellation] | None:
        """Return the item of a cancelled lease, and the cancellation; None: there is none."""
        row = self.leased(queue, key, token)
        if row is None or row.cancelled is None:
            return None
        return row, Cancellation(row.cancelled)

    def wind_up(self, queue: Queue, row: Row) -> None:
        """Free the key of a cancelled item, whose holder has ended."""
        self._move(queue, row, moves.after_wind_up(self.items.record(row), self.now))

    def revoke(self, queue: Queue, row: Row) -> None:
        """End a lease of a consumer that is gone."""
        self.events.append(LeaseEnded(queue.name, row.place))
        self._lose(queue, row, MOVES["revoke"], self.now)

    def _lose(self, queue: Queue, row: Row, cause: Move, since: float) -> None:
        if row.cancelled is not None:
            self.wind_up(queue, row)
            return
        if queue.retry.exhausted(row.deliveries):
            self._die(queue, row, cause, "max_deliveries", None)
            return
        rest = rest_by(queue.retry, row.deliveries) if row.expiries else 0.0
        lose = moves.after_expiry if cause.name == "expire" else moves.after_revocation
        self._move(queue, row, lose(self.items.record(row), self.now, rest), since)

    # What happens by itself

    def sweep(self, queue: Queue, limit: int) -> int:
        """Do what has fallen due, the earliest first, up to a limit; return the number of items."""
        done = 0
        while done < limit:
            rows = self.items.due(queue.id, self.now, limit - done)
            if not rows:
                break
            for row in rows:
                self._fall_due(queue, row)
                done += 1
                again = row.expires <= self.now and self.items.find(queue.id, row.key) is row
                if again:  # more has happened to it, and perhaps before it did to the others
                    break
        return done

    def _fall_due(self, queue: Queue, row: Row) -> None:
        if row.state == LEASED:
            self.events.append(LeaseEnded(queue.name, row.place))
            self._lose(queue, row, MOVES["expire"], row.deadline)
        elif row.expires <= self.now:
            self._outlive(queue, row)
        else:
            due = row.due
            record = moves.after_due(self.items.record(row), self.now).item
            assert record is not None
            self._take_out(queue, row)
            self._join(queue, row, record, "back", since=due, goes_on=True)
            self.items.save(row)

    def _outlive(self, queue: Queue, row: Row) -> None:
        self._die(queue, row, MOVES["outlive"], "expired", None)

    def _die(
        self,
        queue: Queue,
        row: Row,
        cause: Move,
        reason: str,
        error: str | None,
        *,
        unread: bool = False,
    ) -> None:
        """Give an item up: bury it, or if that is impossible, keep it for later."""
        record = self.items.record(row)
        token: int | None = row.place
        if row.state != LEASED:
            at_old_place = row.state == READY and -OLD < row.place < 0
            token = row.place + OLD if at_old_place else None
        body = moves.newest_value(record)
        letter = self._letter(
            queue, row, self.items.body(row) if body is None else body, token, reason, error
        )
        letters = self.queues.find(queue.letters) if queue.letters else None
        fate: Fate = "kept"
        if letters is not None:
            fate = "dead"
        elif not queue.letters and not unread:
            fate = "dropped"
        rest = moves.unburied_rest(queue.retry)
        key = read_key(row.key)
        self._move(queue, row, moves.after_death(cause, record, self.now, fate, rest))
        if letters is not None:
            self._receive(letters, letter)
        self.events.append(ItemDied(queue.name, key, token, reason, fate))

    def _letter(
        self,
        queue: Queue,
        row: Row,
        body: bytes,
        token: int | None,
        reason: str,
        error: str | None,
    ) -> Letter:
        head = {
            "queue": queue.name,
            "key": row.key.decode("latin-1"),
            "token": token,
            "reason": reason,
            "error": error,
            "deliveries": row.deliveries,
            "tenant": row.tenant.decode("latin-1"),
            "priority": row.priority,
            "died_at": self.wall,
            "letter": type(body) is Letter,
        }
        return Letter(json.dumps(head).encode() + b"\n" + body)

    def _receive(self, queue: Queue, letter: Letter) -> None:
        """Take a dead letter in."""
        queue.stamp = max(queue.stamp + 1, int(self.wall * 1e6))
        self._put_new(queue, encode_key(f"{queue.stamp:032x}"), letter, _PLAIN)

    def bring_back(self, queue: Queue, letters: Queue, row: Row) -> bool:
        """Bring a dead letter back; False: its key is there by now."""
        body = self.items.body(row)
        head, _, inner = body.partition(b"\n")
        letter = json.loads(head)
        key = letter["key"].encode("latin-1")
        if self.items.find(queue.id, key) is not None:
            return False
        self.take_out(letters, row)
        self.forget_done(queue, key)
        terms = PutRequest(
            priority=letter["priority"], tenant=read_name(letter["tenant"].encode("latin-1"))
        )
        self._put_new(queue, key, Letter(inner) if letter["letter"] else inner, terms)
        return True


def clock(wall: float, seen: float, ahead: float) -> tuple[float, float]:
    """Return the time, and by how much it is ahead of the wall clock.

    It goes on evenly when the wall clock steps back, and follows it again once it has caught up.

    Args:
        wall: The wall clock.
        seen: The latest time that was told by this clock, in any process.
        ahead: By how much it was ahead then.
    """
    if wall >= seen:
        return wall, 0.0
    now = max(seen, wall + ahead)
    return now, now - wall


def letter_origin(body: bytes) -> tuple[str, bytes]:
    """Return the queue and the key of the item that a dead letter is of."""
    letter = json.loads(body.partition(b"\n")[0])
    return letter["queue"], letter["key"].encode("latin-1")


def read_letter(body: bytes) -> DeadLetter[Key | RawKey, Body]:
    """Return the dead letter that these bytes are."""
    head, _, inner = body.partition(b"\n")
    letter = json.loads(head)
    return DeadLetter(
        queue=letter["queue"],
        key=read_key(letter["key"].encode("latin-1")),
        value=read_body(Letter(inner) if letter["letter"] else inner),
        token=letter["token"],
        reason=letter["reason"],
        error=letter["error"],
        deliveries=letter["deliveries"],
        tenant=read_name(letter["tenant"].encode("latin-1")),
        priority=letter["priority"],
        died_at=letter["died_at"],
    )


def read_body(body: bytes) -> Body:
    """Return a body as the client has it: bytes, or the dead letter that they are."""
    return read_letter(body) if type(body) is Letter else body
