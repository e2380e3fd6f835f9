"""Clients of one store among whom all goes wrong: nothing is lost, nothing is in two hands."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.remote.simulation import ViolationError, simulate

FEW = range(300)
MANY = range(300, 5000)
LOT = 50  # seeds in one test


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What goes wrong is logged: nobody reads it here."""
    logger = logging.getLogger("leaseq")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("first", FEW[::LOT])
def test_nothing_is_lost_and_nothing_is_in_two_hands(first: int) -> None:
    deliveries = 0
    for seed in range(first, first + LOT):
        deliveries += simulate(seed).auditor.deliveries
    assert deliveries > LOT


@pytest.mark.long
@pytest.mark.parametrize("first", MANY[:: 2 * LOT])
def test_nothing_is_lost_with_whichever_seed(first: int) -> None:
    for seed in range(first, first + 2 * LOT):
        simulate(seed)


def test_a_run_is_the_same_each_time() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        simulate(7, say=story.append)
    assert len(stories[0]) > 100
    assert [line[:10] for line in stories[0]] == [line[:10] for line in stories[1]]


def test_a_store_that_does_a_batch_again_is_found_out() -> None:
    def run_all() -> None:
        for seed in FEW:
            simulate(seed, remembers=False)

    with pytest.raises(ViolationError):
        run_all()


def test_a_client_that_counts_its_leases_too_long_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_all() -> None:
        for seed in FEW:
            simulate(seed)

    monkeypatch.setattr("leaseq._remote.engine.local_seconds", lambda timeout: 1.5 * timeout)
    with pytest.raises(ViolationError, match="two hands"):
        run_all()
