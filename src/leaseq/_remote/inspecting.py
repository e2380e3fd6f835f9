"""What one can see of a queue of this engine."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, TypeVar, cast

from .._core.reports import HistoryEntry, LeaseInfo, QueueInfo, Statistics, TenantStatistics
from .._valkey.keys import decode_key, decode_name, encode_key
from .claiming import Claiming
from .requests import Answer

__all__ = ["Inspecting", "read_info"]

K = TypeVar("K")
V = TypeVar("V")


def read_info(name: str, answer: Answer, letters_of: Iterable[str]) -> QueueInfo:
    """What the server says of a queue, which has the dead letters of these."""
    _, ready, delayed, leased, dead, created_at = answer[:6]
    return QueueInfo(
        name=name,
        ready=ready,
        delayed=delayed,
        leased=leased,
        dead=dead,
        created_at=int(created_at) / 1e6,
        dead_letters_of=tuple(letters_of),
    )


class Inspecting(Claiming[K, V]):
    """The calls that look into a queue."""

    async def peek(self, key: K) -> V | None:
        answer = await self._ask("look", "peek", encode_key(key))
        if answer[0] != b"ok":
            return None
        return self._value(answer[1], letter=answer[2])

    def _value(self, body: Any, *, letter: int) -> V:
        if letter:
            return cast("V", self._broker.read_letter(body))
        return self.codec.decode(body)

    async def contains(self, key: K) -> bool:
        return bool((await self._ask("look", "contains", encode_key(key)))[1])

    async def available_keys(self) -> set[K]:
        return self._keys(await self._ask("look", "ready"))

    async def inflight_keys(self) -> set[K]:
        return self._keys(await self._ask("look", "leased"))

    def _keys(self, answer: Answer) -> set[K]:
        return {cast("K", decode_key(key)) for key in answer[1:]}

    async def qsize(self) -> int:
        _, ready, delayed, _, buffered, *_ = await self._ask("look", "counts", "0")
        return cast("int", ready + delayed + buffered)

    async def inflight_size(self) -> int:
        return cast("int", (await self._ask("look", "counts", "0"))[3])

    async def statistics(self, *, tenants: bool = False) -> Statistics:
        answer = await self._ask("look", "counts", "1" if tenants else "0")
        counts, age, shares = answer[1:14], int(answer[14]), answer[15:]
        names = (
            "ready",
            "delayed",
            "leased",
            "buffered",
            "put",
            "delivered",
            "acked",
            "released",
            "expired",
            "cancelled",
            "dead",
            "dropped",
            "superseded",
        )
        by_tenant = {
            decode_name(shares[index]): TenantStatistics(shares[index + 1], shares[index + 2])
            for index in range(0, len(shares), 3)
        }
        return Statistics(
            **dict(zip(names, counts, strict=True)),
            getters=self._waiters.total - self._waiters.takers,
            takers=self._waiters.takers,
            putters=len(self._putters),
            oldest_ready_age=None if age < 0 else age / 1e6,
            tenants=by_tenant if tenants else None,
        )

    async def inflight(self, *, consumer: str | None = None) -> list[LeaseInfo[K]]:
        answer = await self._ask("look", "inflight")
        now = self._home.time()
        held = [
            LeaseInfo(
                key=cast("K", decode_key(key)),
                token=int(token),
                consumer=decode_name(who),
                since=now - since / 1e6,
                deadline=inf if left < 0 else now + left / 1e6,
                deliveries=deliveries,
                tenant=decode_name(tenant),
                priority=priority,
            )
            for key, token, who, since, left, deliveries, tenant, priority in answer[1:]
        ]
        return [one for one in held if consumer is None or one.consumer == consumer]

    async def info(self) -> QueueInfo:
        answer = await self._ask("look", "info", "1")
        return read_info(self.name, answer, (each.decode() for each in answer[6:]))

    async def history(self) -> list[HistoryEntry[K, V]]:
        answer = await self._ask("look", "history")
        return [
            HistoryEntry(
                key=cast("K", decode_key(key)),
                value=self._value(body, letter=letter),
                token=int(token),
                deliveries=deliveries,
                acked_at=int(acked_at) / 1e6,
            )
            for key, body, token, deliveries, acked_at, letter in answer[1:]
        ]
