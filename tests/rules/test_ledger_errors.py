"""What raises within a move leaves everything as it was."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from leaseq import LeasedKeyQueue, Retry
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.item import Item
from leaseq._rules.ledger import Burial, Death, Ledger

AnyLedger = Ledger[str, int]


class BrokenError(Exception):
    pass


class BrokenRetry(Retry):
    """A policy that cannot say how long."""

    def delay(self, deliveries: int) -> float:
        raise BrokenError


class BrokenBurial:
    """One who cannot bury, as long as it is broken."""

    broken = True

    def __call__(self, death: Death[Any, Any]) -> Burial:
        if self.broken:
            raise BrokenError
        return Burial("dead")


def tick(ledger: AnyLedger, item: Item[str, int]) -> list[Item[str, int]]:
    return list(ledger.tick(10))


MOVES: dict[str, Callable[[AnyLedger, Item[str, int]], object]] = {
    "release": lambda ledger, item: ledger.release(item, 0),
    "tick": tick,
    "release_all": lambda ledger, item: ledger.revoke("c", 0),
    "reject": lambda ledger, item: ledger.reject(item, 0, "bad"),
}


def look(ledger: AnyLedger) -> object:
    """All that there is to see."""
    counts = (ledger.acked, ledger.released, ledger.expired, ledger.dead, ledger.dropped)
    here = [[*ledger.ready], [*ledger.delayed], [*ledger.leased]]
    return counts, here, ledger.added, ledger.delivered, ledger.next_deadline()


def make(**options: Any) -> tuple[AnyLedger, Item[str, int]]:
    ledger: AnyLedger = Ledger(Item, LeasedKeyQueue(), first_token=0, **options)
    for key in "ab":
        ledger.put(key, 1, 0, PutRequest())
    lost = ClaimRequest[str](lease_timeout=5, consumer="c")
    for now in (0, 0):
        assert ledger.claim(lost, now) is not None
    for item in [*ledger.leased.values()]:
        ledger._timers_of(item).expiries = 1
    return ledger, ledger.leased["a"]


class OddRetry(Retry):
    """A policy that gives what is no rest."""

    def delay(self, deliveries: int) -> Any:
        return self.odd

    def __init__(self, odd: object) -> None:
        super().__init__()
        object.__setattr__(self, "odd", odd)

    __slots__ = ("odd",)
    odd: object


ODD = [None, nan, inf, -1.0, Decimal(-1), "1", True, 10**400, 1j, [1.0]]


def broken_policies(test: Any) -> Any:
    policies = [BrokenRetry(), *map(OddRetry, ODD)]
    return pytest.mark.parametrize("retry", policies, ids=["raises", *map(repr, ODD)])(test)


@broken_policies
@pytest.mark.parametrize("how", ["release", "release_all"])
def test_a_policy_that_raises_leaves_a_lease_as_it_was(how: str, retry: Retry) -> None:
    ledger, item = make(retry=retry, bury=BrokenBurial())
    before = look(ledger)
    with pytest.raises((BrokenError, TypeError, ValueError)):
        MOVES[how](ledger, item)
    assert look(ledger) == before
    assert item.ended is None
    assert ledger.mishaps == []
    assert ledger.ack(item) is False


@broken_policies
@pytest.mark.parametrize("how", ["fail", "tick"])
def test_a_policy_that_raises_where_there_is_no_caller_leaves_an_item_to_rest(
    how: str, retry: Retry
) -> None:
    ledger, item = make(retry=retry, bury=BrokenBurial())
    leased = len(ledger.leased)
    if how == "fail":
        ledger.fail(item, 0, "ValueError: no")
    else:
        assert len(tick(ledger, item)) == leased
    assert "a" in ledger.delayed
    assert item.ended == ("lost" if how == "tick" else "released")
    assert len(ledger.mishaps) == (leased if how == "tick" else 1)
    assert all(isinstance(error, Exception) for _, error in ledger.mishaps)
    assert [item.key for item in ledger.tick(1000)][-1:] == ["a" if how == "fail" else "b"]
    assert "a" in ledger.ready


@pytest.mark.parametrize("rest", [Decimal("2.5"), Fraction(5, 2), 2.5])
def test_a_policy_may_give_its_rest_as_a_number_of_any_kind(rest: object) -> None:
    ledger, item = make(retry=OddRetry(rest), bury=BrokenBurial())
    ledger.release(item, 0)
    assert ledger.items("delayed")[0].deadline == 2.5


@pytest.mark.parametrize("how", MOVES)
def test_a_burial_that_raises_leaves_a_lease_as_it_was(how: str) -> None:
    bury = BrokenBurial()
    ledger, item = make(retry=Retry(max_deliveries=1), bury=bury)
    before = look(ledger)
    with pytest.raises(BrokenError):
        MOVES[how](ledger, item)
    assert look(ledger) == before
    assert item.ended is None
    bury.broken = False
    MOVES[how](ledger, item)
    assert item.ended is not None
    assert ledger.dead == (1 if how in ("release", "reject") else 2)


@pytest.mark.parametrize("delay", [0, 2])
def test_a_burial_that_raises_leaves_what_waits_as_it_was(delay: float) -> None:
    bury = BrokenBurial()
    ledger: AnyLedger = Ledger(Item, LeasedKeyQueue(), first_token=0, bury=bury)
    ledger.put("a", 1, 0, PutRequest(delay=delay, ttl=delay + 3))
    before = look(ledger)
    with pytest.raises(BrokenError):
        list(ledger.tick(10) if delay else [ledger.claim(ClaimRequest(), 10)])
    assert "a" in ledger
    if not delay:
        assert look(ledger) == before
    bury.broken = False
    assert [item.key for item in ledger.tick(10)] == ["a"]
    assert "a" not in ledger
    assert ledger.dead == 1
    assert ledger.next_deadline() == inf
