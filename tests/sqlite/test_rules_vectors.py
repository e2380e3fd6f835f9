"""The moves over rows are what the vectors say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed
from tests.vectors.driver import retry_of, seen
from tests.vectors.run import check_move, check_plan, move_names, plan_names

from leaseq import PutOutcome, Tenant
from leaseq._core.messages import Cancellation
from leaseq._core.requests import PutRequest
from leaseq._remote import protocol as p
from leaseq._rules.moves import ItemRecord, Successor

BEGIN = 1_000_000.0
STATES = ("ready", "delayed", "leased")
COUNTERS = (
    "delivered", "acked", "released", "expired", "given_back", "cancelled", "dead", "dropped",
    "superseded",
)  # fmt: skip


class RowDriver:
    """The rows of a file, driven through the vectors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = 0
        self.place: Place

    def open(self, queue: Mapping[str, Any]) -> None:
        if self._files:
            self.place.close()
        self._files += 1
        self.place = Place(self._path / f"{self._files}.db", begin=BEGIN)
        fate = queue.get("fate", "dead")
        self.tokens: dict[str, int] = {}
        tenants = {name: Tenant(*each) for name, each in queue.get("tenants", {}).items()}
        self.place.declare(
            retry=retry_of(queue),
            dedupe_for=queue.get("dedupe_for"),
            tenants=tenants or None,
            dead_letters=None if fate == "dropped" else "lost",
        )
        if fate == "kept":
            self.one(p.Delete(p.QueueRef("lost")))

    def one(self, operation: p.Operation[Any]) -> Any:
        answer = self.place.do("a", operation)
        assert not isinstance(answer, Exception), answer
        return answer

    def put(self, key: str, value: int, **terms: Any) -> str:
        answer = self.one(p.Put(QUEUE, ((key, b"%d" % value),), PutRequest(**terms)))
        if isinstance(answer, p.PutRefused):
            return answer.why.replace(" ", "_")
        outcome: PutOutcome = answer[0]
        return str(outcome)

    def claim(self, *, key: Any = None, tenants: Any = None, lease: int | None = None) -> Any:
        options = {"lease_timeout": lease, "consumer": "c", "tenants": tenants}
        if key is not None:
            options = {"lease_timeout": lease, "consumer": "c", "key": key}
        for found, token in claimed(self.one(claim(**options))):
            self.tokens[found] = token
            return found
        return None

    def end(
        self,
        how: str,
        key: str,
        *,
        front: bool = False,
        delay: int | None = None,
        counted: bool = True,
        reason: str = "",
    ) -> None:
        token = self.tokens[key]
        is_cancelled = isinstance(self.one(p.Held(QUEUE, key, token)), Cancellation)
        settlements: dict[str, p.Settlement] = {
            "ack": p.Ack(QUEUE, key, token),
            "give_back": p.GiveBack(QUEUE, key, token),
            "undo": p.Undo(QUEUE, key, token),
            "reject": p.Reject(QUEUE, key, token, reason),
        }
        release = p.Release(QUEUE, key, token, front, delay, counted)
        answer = self.one(settlements.get(how, release))
        assert answer is not p.Settled.NOT_HELD
        assert isinstance(answer, Cancellation) is is_cancelled

    def extend(self, key: str, seconds: int) -> None:
        self.one(p.Extend(QUEUE, key, self.tokens[key], float(seconds)))

    def set_tenant(self, tenant: Any, weight: float, cap: int | None) -> None:
        self.one(p.SetTenant(QUEUE, tenant, Tenant(weight, cap)))

    def pause(self, tenant: str | None) -> None:
        self.one(p.Pause(QUEUE, tenant, ""))

    def resume(self, tenant: str | None) -> None:
        self.one(p.Resume(QUEUE, tenant))

    def wait(self, seconds: int) -> None:
        self.place.now += seconds
        self.one(p.Sweep(QUEUE, 1000))

    def release_all(self) -> None:
        self.one(p.ReleaseAll(QUEUE, "c"))

    def close(self) -> None:
        keys = self.one(p.LeasedKeys(QUEUE)).members
        self.one(p.Close(QUEUE, tuple((key, self.tokens[key]) for key in keys)))

    def drain(self) -> None:
        self.one(p.Purge(QUEUE))

    def discard(self, key: str) -> bool:
        return bool(self.one(p.Discard(QUEUE, key)))

    def cancel(self, key: str, *, keep_successor: bool = False) -> bool:
        return bool(self.one(p.Cancel(QUEUE, key, "", keep_successor)))

    def see(self, key: str) -> dict[str, Any] | None:
        rows = self.place.rows(
            "SELECT i.*, q.name FROM leaseq_items AS i, leaseq_queues AS q "
            "WHERE q.id = i.queue AND q.name = 'orders' AND key = ?",
            b"s" + key.encode(),
        )
        if not rows:
            return None
        (
            number, _, _, state, _, urgency, tenant, _, _, _, deliveries, cancellations, expiries,
            due, rest, expires, _, _, after, _, body, cancelled, _,
        ) = rows[0]  # fmt: skip
        record = ItemRecord(
            STATES[state],  # type: ignore[arg-type]
            int(body),
            -urgency,
            tenant[1:].decode() if tenant else None,
            deliveries,
            cancellations,
            expiries,
            -inf if due is None else due - BEGIN,
            -inf if rest is None else rest - BEGIN,
            inf if expires is None else expires - BEGIN,
            self._successor(number) if after else None,
            cancelled is not None,
        )
        return seen(record, self.place.now - BEGIN)

    def _successor(self, number: int) -> Successor[int]:
        [(_, buffered, priority, due, expires, body)] = self.place.rows(
            "SELECT * FROM leaseq_successors WHERE item = ?", number
        )
        return Successor(
            int(body),
            priority,
            bool(buffered),
            -inf if due is None else due - BEGIN,
            inf if expires is None else expires - BEGIN,
        )

    def line(self) -> list[str]:
        return list(self.one(p.AvailableKeys(QUEUE)).members)

    def letters(self) -> list[list[Any]]:
        found = []
        letters = p.QueueRef("lost")
        page = self.place.do("a", p.AvailableKeys(letters))
        for key in () if isinstance(page, Exception) else page.members:
            letter = self.one(p.Look(letters, key)).body
            found.append([letter.key, int(letter.value), letter.reason])
        return found

    def counts(self) -> dict[str, int]:
        counts = self.one(p.Counts(QUEUE))
        named = {name: getattr(counts, name) for name in sorted(COUNTERS)}
        return {name: count for name, count in named.items() if count}


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[RowDriver]:
    driver = RowDriver(tmp_path)
    yield driver
    driver.place.close()


def test_rows_move_as_the_vectors_say(driver: RowDriver) -> None:
    assert move_names()
    for case in move_names():
        try:
            check_move(driver, case)
        except AssertionError as error:
            raise AssertionError(case) from error


@pytest.mark.parametrize("plan", plan_names())
def test_rows_are_handed_out_in_the_order_of_the_vectors(driver: RowDriver, plan: str) -> None:
    check_plan(driver, plan)
