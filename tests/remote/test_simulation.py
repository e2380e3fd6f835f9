"""Clients of one store among whom all goes wrong: nothing is lost, nothing is in two hands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from tests.remote.simulation import ViolationError, simulate

from leaseq._remote.dispatcher import Exchange
from leaseq._remote.engine import Engine

FEW = range(80)
MANY = range(80, 3080)
LOT = 25  # seeds in one test


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """What goes wrong is logged, and a lot does."""
    logger = logging.getLogger("leaseq")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("first", FEW[::LOT])
def test_nothing_is_lost_and_nothing_is_in_two_hands(first: int) -> None:
    deliveries = sum(simulate(seed).auditor.deliveries for seed in range(first, first + LOT))
    assert deliveries > 10 * LOT


@pytest.mark.parametrize("first", FEW[::LOT])
def test_nothing_is_lost_in_a_group_of_its_own(first: int) -> None:
    runs = [simulate(seed, grouped=True) for seed in range(first, first + LOT)]
    assert sum(run.auditor.deliveries for run in runs) > 7 * LOT


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("first", MANY[:: 10 * LOT])
def test_nothing_is_lost_whatever_the_seed(first: int, grouped: bool) -> None:
    for seed in range(first, first + 10 * LOT):
        simulate(seed, grouped=grouped)


def test_a_seed_gives_the_same_run_each_time() -> None:
    one: list[str] = []
    other: list[str] = []
    simulate(7, say=one.append)
    simulate(7, say=other.append)
    assert len(one) > 100
    assert one == other


def test_the_auditor_sees_a_store_that_does_a_batch_again() -> None:
    with pytest.raises(ViolationError):
        _run(lambda seed: simulate(seed, remembers=False))


def test_the_auditor_sees_a_client_that_counts_on_its_leases_for_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadline = staticmethod(lambda sent_at, timeout: sent_at + 1.5 * timeout)
    monkeypatch.setattr(Engine, "_deadline", deadline)
    with pytest.raises(ViolationError):
        _run(simulate)


def test_the_auditor_sees_a_client_that_takes_a_lost_reply_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = property(lambda _: False, lambda _, in_doubt: None)
    monkeypatch.setattr(Exchange, "in_doubt", never)
    with pytest.raises(ViolationError):
        _run(simulate)


def _run(simulate: Callable[[int], object]) -> None:
    for seed in FEW:
        simulate(seed)
