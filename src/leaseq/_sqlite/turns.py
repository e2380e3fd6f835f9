"""The turns of tenants, over rows: `_rules/schedule.py` explains them, `moves.py` has the rules.

Each tenant has an account, a row under its name: what it has ready and leased, its start, and
urgency and rank of its next item. It is *filed* under what it waits for, so that an index finds the
next one in O(log tenants):

- `ELIGIBLE`, by its finish, and of equal finishes by the rank of its next item;
- `EARLY`, by its start, which the virtual time has not reached;
- `IDLE`, by its start, with nothing ready and nothing leased, until a new account would be as good.

Virtual times are whole numbers without a bound, and kept as bytes of one length, the highest first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from .._core.limits import MOST_PAUSED
from .._core.policies import Tenant, tenant_kept
from .._core.reports import Paused
from .._remote.encoding import encode_text, read_text
from .._rules import moves
from .._rules.moves import ITEM, Account
from .rows import Cursor, Items, Queue, Row

NOT_FILED, ELIGIBLE, EARLY, IDLE = 0, 1, 2, 3

_REMEMBERED: Final = 1024
"""Idle tenants ahead of the virtual time that are kept."""
_BYTES: Final = 32

_USUAL: Final = Tenant()


def _written(number: int) -> bytes:
    return number.to_bytes(_BYTES, "big")


def _pause(reason: bytes, since: float) -> Paused:
    return Paused(read_text(reason), since)


class _Kept:
    """An account, and where it is filed."""

    __slots__ = ("account", "filed", "place", "tenant", "urgency")

    def __init__(
        self, tenant: bytes, account: Account, filed: int, urgency: int, place: int
    ) -> None:
        self.tenant = tenant
        self.account = account
        self.filed = filed
        self.urgency = urgency
        self.place = place

    @property
    def next(self) -> tuple[int, int]:
        """Urgency and rank of its next item."""
        return self.urgency, self.place

    def columns(self, queue: int) -> tuple[Any, ...]:
        account = self.account
        tag = account.finish if self.filed == ELIGIBLE else account.start
        return (
            queue, self.tenant, self.filed, _written(tag), _written(account.start),
            account.ready, account.in_flight, self.urgency, self.place,
        )  # fmt: skip


class Turns:
    """The accounts of one queue's tenants."""

    def __init__(self, cursor: Cursor, items: Items, queue: Queue) -> None:
        self._cursor = cursor
        self._items = items
        self._queue = queue
        self._known: dict[bytes, _Kept | None] = {}
        self._changed: dict[_Kept, None] = {}
        self._rests = False

    # Accounts

    def _find(self, tenant: bytes) -> _Kept | None:
        if tenant not in self._known:
            values = self._cursor.execute(
                "SELECT filed, start, ready, in_flight, urgency, place FROM leaseq_accounts "
                "WHERE queue = ? AND tenant = ?",
                (self._queue.id, tenant),
            ).fetchone()
            kept = None
            if values is not None:
                filed, start, ready, in_flight, urgency, place = values
                policy = self._policy(tenant)
                account = Account(
                    moves.shares_of(policy.weight),
                    policy.max_in_flight,
                    ready,
                    in_flight,
                    int.from_bytes(start, "big"),
                    filed in (ELIGIBLE, EARLY),
                    self._is_paused(tenant),
                )
                kept = _Kept(tenant, account, filed, urgency, place)
            self._known[tenant] = kept
        return self._known[tenant]

    def _policy(self, tenant: bytes) -> Tenant:
        found = self._cursor.execute(
            "SELECT weight, cap FROM leaseq_tenants WHERE queue = ? AND tenant = ?",
            (self._queue.id, tenant),
        ).fetchone()
        return _USUAL if found is None else tenant_kept(*found)

    def _is_paused(self, tenant: bytes) -> bool:
        """Return True for a tenant that is paused by itself, as no items without one can be."""
        paused = tenant and self._queue.paused_tenants
        return bool(paused) and self.pause_of(tenant) is not None

    def _of(self, tenant: bytes) -> _Kept:
        kept = self._find(tenant)
        if kept is None:
            policy = self._policy(tenant)
            account = Account(
                moves.shares_of(policy.weight),
                policy.max_in_flight,
                paused=self._is_paused(tenant),
            )
            kept = self._known[tenant] = _Kept(tenant, account, NOT_FILED, 0, 0)
        return kept

    def _set(self, kept: _Kept, account: Account) -> None:
        """Give a tenant its account after a move, and file it."""
        queue = self._queue
        if kept.account.competing:
            queue.shares -= kept.account.shares
        kept.account = account
        if account.competing:
            queue.shares += account.shares
            kept.filed = ELIGIBLE if account.start <= queue.virtual else EARLY
        elif account.ready or account.in_flight:
            kept.filed = NOT_FILED
        else:
            kept.filed = IDLE
            self._rests = True
        self._changed[kept] = None

    def _move(self, tenant: bytes, move: Any, *arguments: Any) -> _Kept:
        """Do a move of the rules on one account, which is all that they look at."""
        kept = self._of(tenant)
        turns = moves.Turns(self._queue.virtual, {None: kept.account})
        self._set(kept, move(turns, None, *arguments).of(None))
        return kept

    def all(self) -> list[tuple[bytes, int, int]]:
        """Return all tenants with their numbers of ready and leased items."""
        self.flush()
        query = "SELECT tenant, ready, in_flight FROM leaseq_accounts WHERE queue = ?"
        return self._cursor.execute(query, (self._queue.id,)).fetchall()

    # Moves

    def begin(self) -> None:
        """Begin to count turns: the items that are there so far have no tenant."""
        queue = self._queue
        queue.fair, queue.virtual, queue.shares = True, 0, 0
        if queue.ready or queue.leased:
            kept = self._of(b"")
            account = replace(kept.account, ready=queue.ready, in_flight=queue.leased)
            if queue.ready:
                self._follow(kept, self._items.place_after(queue.id, b""))
            competing = account.may_compete
            self._set(kept, replace(account, competing=competing))

    def _follow(self, kept: _Kept, place: tuple[int, int] | None) -> None:
        assert place is not None
        kept.urgency, kept.place = place

    def push(self, row: Row) -> None:
        """Count an item that has become ready."""
        kept = self._of(row.tenant)
        place = -row.priority, row.place
        if not kept.account.ready or place < kept.next:
            self._follow(kept, place)
        self._move(row.tenant, moves.arrived)

    def remove(self, row: Row) -> None:
        """Count an item that is about to leave the line without a hand-out."""
        self._follow_after(self._move(row.tenant, moves.left), row)

    def _follow_after(self, kept: _Kept, row: Row) -> None:
        place = -row.priority, row.place
        if kept.account.ready and place == kept.next:
            self._follow(kept, self._items.place_after(self._queue.id, row.tenant, *place))

    def hand_out(self, row: Row, *, restricted: bool) -> None:
        """Charge a tenant for an item that is about to be handed out."""
        queue = self._queue
        if not restricted:
            queue.virtual -= -ITEM // queue.shares
        kept = self._of(row.tenant)
        turns = moves.Turns(queue.virtual, {None: kept.account})
        account = moves.handed_out(turns, None, restricted=True).of(None)
        self._set(kept, account)
        self._follow_after(kept, row)

    def end(self, tenant: bytes) -> bool:
        """Count the end of a lease; True: the tenant has a cap."""
        return self._move(tenant, moves.ended).account.cap is not None

    def set_tenant(self, tenant: bytes, policy: Tenant) -> int:
        """Give a tenant another weight and cap; return how many more of its items may be had."""
        if not self._queue.fair:
            self.begin()
        kept = self._find(tenant)  # by the old weight, with which it competes
        self._cursor.execute(
            "INSERT OR REPLACE INTO leaseq_tenants VALUES (?, ?, ?, ?)",
            (self._queue.id, tenant, policy.weight, policy.max_in_flight),
        )
        if kept is None:
            return 0
        before = kept.account.slots
        return self._move(tenant, moves.reweighed, policy).account.slots - before

    # Pauses

    def pause_of(self, tenant: bytes) -> Paused | None:
        """Return the pause of a tenant, or for an empty name of the queue; None: there is none."""
        found = self._cursor.execute(
            "SELECT reason, since FROM leaseq_pauses WHERE queue = ? AND tenant = ?",
            (self._queue.id, tenant),
        ).fetchone()
        return None if found is None else _pause(*found)

    def all_pauses(self) -> list[tuple[bytes, Paused]]:
        """Return the tenants that are paused, in the order of their pauses."""
        found = self._cursor.execute(
            "SELECT id, tenant, reason, since FROM leaseq_pauses WHERE queue = ? AND tenant <> x''",
            (self._queue.id,),
        ).fetchall()
        return [(tenant, _pause(*pause)) for _, tenant, *pause in sorted(found)]

    def pause(self, tenant: bytes, reason: str, now: float) -> bool:
        """Pause a tenant, or for an empty name the queue; False: too many tenants are paused."""
        queue = self._queue
        was = self.pause_of(tenant)
        if tenant and was is None and queue.paused_tenants >= MOST_PAUSED:
            return False
        pause = moves.pause_of(was, reason, now)
        self._cursor.execute(
            "INSERT INTO leaseq_pauses (queue, tenant, since, reason) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET reason = excluded.reason",
            (queue.id, tenant, pause.since, encode_text(pause.reason)),
        )
        if not tenant:
            queue.paused = 1
        elif was is None:
            if self._find(tenant) is not None:
                self._move(tenant, moves.paused)
            queue.paused_tenants += 1
        return True

    def resume(self, tenant: bytes) -> int | None:
        """Resume a tenant, or for an empty name the queue; None: it was not paused.

        Returns the number of items of the tenant that can be handed out.
        """
        queue = self._queue
        kept = self._find(tenant) if tenant else None  # while it is paused
        gone = self._cursor.execute(
            "DELETE FROM leaseq_pauses WHERE queue = ? AND tenant = ?", (queue.id, tenant)
        ).rowcount
        if not gone:
            return None
        if not tenant:
            queue.paused = 0
            return 0
        queue.paused_tenants -= 1
        return 0 if kept is None else self._move(tenant, moves.resumed).account.slots

    def competing(self, most: int) -> list[tuple[bytes, int]]:
        """Return some tenants that compete, and the number of items of each to be handed out."""
        self.flush()
        found = self._cursor.execute(
            "SELECT tenant FROM leaseq_accounts INDEXED BY leaseq_accounts_filed "
            f"WHERE queue = ? AND filed IN ({ELIGIBLE}, {EARLY}) LIMIT ?",
            (self._queue.id, most),
        ).fetchall()
        return [(tenant, self._of(tenant).account.slots) for (tenant,) in found]

    def clear_ready(self) -> None:
        """Count that nothing is ready any more."""
        for tenant, ready, _ in self.all():
            if ready:
                kept = self._of(tenant)
                self._set(kept, replace(kept.account, ready=0, competing=False))

    # Turns

    def claimable(self, tenant: bytes) -> bool:
        """Return True if a tenant has something ready and is under its cap."""
        kept = self._find(tenant)
        return kept is not None and kept.account.may_compete

    def _first(self, filed: int) -> _Kept | None:
        self.flush()
        found = self._cursor.execute(
            "SELECT tenant FROM leaseq_accounts INDEXED BY leaseq_accounts_filed "
            "WHERE queue = ? AND filed = ? ORDER BY tag, place LIMIT 1",
            (self._queue.id, filed),
        ).fetchone()
        return None if found is None else self._find(found[0])

    def next(self) -> bytes | None:
        """Return the tenant whose turn it is; None: none competes."""
        queue = self._queue
        turn, first = self._first(ELIGIBLE), self._first(EARLY)
        while first is not None:
            start = first.account.start
            if turn is None:
                queue.virtual = max(queue.virtual, start)
            if start > queue.virtual:
                break
            self._set(first, first.account)
            turn, first = self._first(ELIGIBLE), self._first(EARLY)
        return None if turn is None else turn.tenant

    def peek(self) -> bytes | None:
        """Return a tenant that competes, mostly the one whose turn it is; no virtual time moves."""
        turn = self._first(ELIGIBLE) or self._first(EARLY)
        return None if turn is None else turn.tenant

    def next_of(self, tenants: tuple[bytes, ...]) -> bytes | None:
        """Return the tenant whose turn it is among some; None: none of them competes."""
        competing = [
            kept
            for tenant in tenants
            if (kept := self._find(tenant)) is not None and kept.account.competing
        ]
        if not competing:
            return None
        return min(competing, key=lambda kept: (kept.account.finish, kept.place)).tenant

    # The end of a transaction

    def flush(self) -> None:
        """Write down the accounts that have changed."""
        if self._changed:
            queue = self._queue.id
            self._cursor.executemany(
                "INSERT OR REPLACE INTO leaseq_accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [kept.columns(queue) for kept in self._changed],
            )
            self._changed.clear()

    def forget(self) -> None:
        """Forget the idle accounts that may be; O(log tenants) each."""
        if not self._rests:
            return
        self._rests = False
        self.flush()
        queue = self._queue
        idle = (queue.id, IDLE)
        self._cursor.execute(
            "DELETE FROM leaseq_accounts WHERE queue = ? AND filed = ? AND tag <= ?",
            (*idle, _written(queue.virtual)),
        )
        self._cursor.execute(
            "DELETE FROM leaseq_accounts WHERE queue = ? AND tenant IN (SELECT tenant "
            "FROM leaseq_accounts INDEXED BY leaseq_accounts_filed WHERE queue = ? AND filed = ? "
            f"ORDER BY tag LIMIT max(0, (SELECT count(*) FROM leaseq_accounts "
            f"INDEXED BY leaseq_accounts_filed WHERE queue = ? AND filed = ?) - {_REMEMBERED}))",
            (queue.id, *idle, *idle),
        )
        self._known.clear()
