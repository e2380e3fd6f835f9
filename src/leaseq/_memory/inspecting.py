"""What one can see of a queue of this engine."""

from __future__ import annotations

from typing import TypeVar

from .._core.reports import (
    HistoryEntry,
    LeaseInfo,
    PutOutcome,
    QueueInfo,
    Statistics,
    TenantStatistics,
)
from .._core.requests import PutRequest
from .engine import Shell

__all__ = ["Inspecting"]

K = TypeVar("K")
V = TypeVar("V")

_ADDED = PutOutcome.ADDED
_NO_TERMS = PutRequest()
_TURN = frozenset({"tenant", "priority"})  # what says no more than whose turn it is


class Inspecting(Shell[K, V]):
    """The calls that look into a queue."""

    # What is in there

    async def peek(self, key: K) -> V | None:
        return self._ledger.peek(key)

    async def contains(self, key: K) -> bool:
        return key in self._ledger

    async def available_keys(self) -> set[K]:
        return set(self._ledger.ready)

    async def inflight_keys(self) -> set[K]:
        return set(self._ledger.leased)

    async def qsize(self) -> int:
        return self._ledger.waiting + self._ledger.buffered

    async def inflight_size(self) -> int:
        return len(self._ledger.leased)

    async def statistics(self, *, tenants: bool = False) -> Statistics:
        ledger = self._ledger
        since = ledger.oldest_ready_since()
        return Statistics(
            ready=len(ledger.ready),
            delayed=len(ledger.delayed),
            leased=len(ledger.leased),
            buffered=ledger.buffered,
            getters=self._waiters.total - self._waiters.takers,
            takers=self._waiters.takers,
            putters=0 if self._room is None else self._room.putters,
            put=ledger.added,
            delivered=ledger.delivered,
            acked=ledger.acked,
            released=ledger.released,
            expired=ledger.expired,
            cancelled=ledger.cancelled,
            dead=ledger.dead,
            dropped=ledger.dropped,
            superseded=ledger.superseded,
            oldest_ready_age=None if since is None else self._home.time() - since,
            tenants=self._tenant_statistics() if tenants else None,
        )

    def _tenant_statistics(self) -> dict[str | None, TenantStatistics]:
        ledger = self._ledger
        if ledger.schedule is None:
            return {None: TenantStatistics(len(ledger.ready), len(ledger.leased))}
        return {name: TenantStatistics(ready, leased) for name, ready, leased in ledger.schedule}

    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        held = [
            LeaseInfo(
                key=item.key,
                token=item.token,
                consumer=None if item.extra is None else item.extra.consumer,
                since=item.since,
                deadline=item.deadline,
                deliveries=item.deliveries,
                tenant=item.tenant,
                priority=item.priority,
            )
            for item in self._ledger.leased.values()
        ]
        return [one for one in held if consumer is None or one.consumer == consumer]

    async def info(self) -> QueueInfo:
        letters = () if self.dead_letters is None else self.dead_letters.letters()
        return QueueInfo(
            name=self.name,
            ready=len(self._ledger.ready),
            delayed=len(self._ledger.delayed),
            leased=len(self._ledger.leased),
            dead=sum(letter.queue == self.name for letter in letters),
            created_at=self._created_at,
            dead_letters_of=tuple(self._letters_of),
        )

    async def history(self) -> list[HistoryEntry[K, V]]:
        return list(self._history or ())
