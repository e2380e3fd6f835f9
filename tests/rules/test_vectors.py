"""The vectors are what the rules say, and the ledger does what they say."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
from tests.vectors import tables
from tests.vectors.driver import retry_of, seen
from tests.vectors.run import check_move, check_plan, move_names, plan_names
from tests.vectors.write import FOLDER, texts

from leaseq import KeyAlreadyInFlightError, LeaseCancelledError, LeasedKeyQueue, Tenant
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Death, Ledger

COUNTERS = (
    "acked", "cancelled", "dead", "delivered", "dropped", "expired", "given_back", "released",
    "superseded",
)  # fmt: skip


@contextmanager
def refused_if_cancelled(item: Item[str, int], *, but_for: bool = False) -> Iterator[None]:
    refused = item.ended == "cancelled" and not but_for
    with pytest.raises(LeaseCancelledError) if refused else nullcontext():
        yield


class LedgerDriver:
    """The ledger, driven through the vectors."""

    def open(self, queue: Mapping[str, Any]) -> None:
        self.now = 0.0
        self.fate = queue.get("fate", "dead")
        self.died: list[list[Any]] = []
        tenants = {name: Tenant(*each) for name, each in queue.get("tenants", {}).items()}
        self.ledger: Ledger[str, int] = Ledger(
            Item,
            LeasedKeyQueue(),
            first_token=0,
            retry=retry_of(queue),
            bury=self.bury,
            tenants=tenants or None,
            dedupe_for=queue.get("dedupe_for"),
        )

    def bury(self, death: Death[str, int]) -> Burial:
        letter = [death.item.key, death.value, death.reason]
        finish = None if self.fate != "dead" else lambda: self.died.append(letter)
        return Burial(self.fate, finish)

    def put(self, key: str, value: int, **terms: Any) -> str:
        try:
            return str(self.ledger.put(key, value, self.now, PutRequest(**terms)))
        except KeyAlreadyInFlightError:
            return "in_flight"
        except ValueError:
            return "tenant"

    def claim(
        self, *, key: Any = None, tenants: Any = None, lease: float | None = None
    ) -> str | None:
        request: ClaimRequest[str] = ClaimRequest(
            ANY_KEY if key is None else key, tenants=tenants, lease_timeout=lease, consumer="c"
        )
        item = self.ledger.claim(request, self.now)
        return None if item is None else item.key

    def end(self, how: str, key: str, **options: Any) -> None:
        item = self.ledger.leased[key]
        with refused_if_cancelled(item, but_for=how == "undo"):
            if how == "ack":
                self.ledger.ack(item, self.now)
            elif how == "fail":
                self.ledger.release(item, self.now, error="broken")
            else:
                getattr(self.ledger, how)(item, self.now, **options)
        self.ledger.wind_up(item, self.now)

    def extend(self, key: str, seconds: int) -> None:
        item = self.ledger.leased[key]
        with refused_if_cancelled(item):
            self.ledger.extend(item, self.now, self.now + seconds)

    def set_tenant(self, name: str | None, weight: float, cap: int | None) -> None:
        self.ledger.set_tenant(name, Tenant(weight, cap))

    def pause(self, tenant: str | None) -> None:
        self.ledger.pause(tenant, "", 0.0)

    def resume(self, tenant: str | None) -> None:
        self.ledger.resume(tenant)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        for _ in self.ledger.tick(self.now):
            pass

    def release_all(self) -> None:
        self.ledger.revoke("c", self.now)

    def close(self) -> None:
        self.ledger.close(self.now)

    def drain(self) -> None:
        self.ledger.drain()

    def discard(self, key: str) -> bool:
        return self.ledger.discard(key) is not None

    def cancel(self, key: str, *, keep_successor: bool = False) -> bool:
        return self.ledger.cancel(key, keep_successor=keep_successor) is not None

    def see(self, key: str) -> dict[str, Any] | None:
        item = self.ledger.item(key)
        if item is None:
            return None
        record = replace(self.ledger._record(item), state=self.ledger.look(key)[0])
        return seen(record, self.now)

    def line(self) -> list[str]:
        items = self.ledger.items("ready")
        if self.ledger.schedule is not None:
            items.sort(key=lambda item: (-item.priority, item.token))
        return [item.key for item in items]

    def letters(self) -> list[list[Any]]:
        return self.died

    def counts(self) -> dict[str, int]:
        counts = {name: getattr(self.ledger, name) for name in COUNTERS}
        return {name: count for name, count in counts.items() if count}


def test_the_vectors_are_what_the_rules_say() -> None:
    for name, text in texts().items():
        written = (FOLDER / name).read_text(encoding="utf-8")
        assert written == text, f"{name} is not what the rules say: python -m tests.vectors"


def test_the_tables_of_moves_are_what_the_rules_say() -> None:
    for file, with_table in (
        (tables.LEDGER, tables.with_table),
        (tables.DOCUMENTED, tables.with_told_table),
    ):
        written = file.read_text(encoding="utf-8")
        assert written == with_table(written), f"{file.name}: python -m tests.vectors writes it"


def test_the_vectors_are_small_enough_to_be_read() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.json")) < 300_000


@pytest.mark.parametrize("name", move_names())
def test_the_ledger_moves_an_item_as_the_vectors_say(name: str) -> None:
    check_move(LedgerDriver(), name)


@pytest.mark.parametrize("name", plan_names())
def test_the_ledger_hands_out_in_the_order_of_the_vectors(name: str) -> None:
    check_plan(LedgerDriver(), name)
