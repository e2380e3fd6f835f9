"""How queues are spread over groups, and groups over the slots of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from leaseq._valkey.spread import SLOTS, group_tag, slot_of, spread

FAMILIES = {
    "numbers": [f"queue-{number}" for number in range(30)],
    "numbers with zeros": [f"q{number:03}" for number in range(30)],
    "numbers amid": [f"tenant-{number}-jobs" for number in range(30)],
    "letters": [f"{first}{second}" for first in "abcde" for second in "uvwxyz"],
    "hours": [f"2026-11-{day:02}" for day in range(1, 31)],
    "hosts": [f"worker{number}.eu-west.example.org" for number in range(30)],
}


def shares(
    names: Iterable[str], groups: int, nodes: int = 3, prefix: str = "leaseq"
) -> list[float]:
    """The share of the queues that each node of a cluster has, the largest first."""
    count = Counter(
        slot_of(group_tag(prefix, spread(prefix, name, groups))) * nodes // SLOTS for name in names
    )
    return sorted((each / count.total() for each in count.values()), reverse=True)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 6, 7, 16, 30, 64, 100, 999, 1000])
@pytest.mark.parametrize("prefix", ["leaseq", "shop:eu"])
def test_groups_are_evenly_over_the_slots(groups: int, prefix: str) -> None:
    found: set[str] = set()
    number = 0
    while len(found) < groups:
        found.add(spread(prefix, f"q{number}", groups))
        number += 1
    slots = sorted(slot_of(group_tag(prefix, each)) for each in found)
    for part, slot in enumerate(slots):
        assert (part + 0.2) * SLOTS / groups <= slot <= (part + 0.8) * SLOTS / groups


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("groups", [3, 6, 12, 30, 60, 64, 100, 300])
def test_queues_of_one_family_are_evenly_over_three_nodes(family: str, groups: int) -> None:
    assert shares(FAMILIES[family], groups)[0] <= 0.45


def test_names_that_have_nothing_in_common_are_spread_as_by_chance() -> None:
    words = [f"{number * number % 7919:x}{number * 31 % 211}" for number in range(3000)]
    for groups in (7, 16, 30, 256):
        count = Counter(spread("leaseq", word, groups) for word in words)
        mean = len(words) / groups
        assert len(count) == groups
        free = groups - 1
        assert (
            sum((each - mean) ** 2 / mean for each in count.values()) < free + 4 * (2 * free) ** 0.5
        )
        assert shares(words, groups)[0] < 1 / 3 + 0.03 + 0.5 / groups


def test_versions_of_the_code_agree_on_the_group_of_a_name() -> None:
    expected = ["11-of-30-51", "14-of-30-64", "28-of-30-11"]
    assert [spread("leaseq", name, 30) for name in ("orders", "bills", "orders.dead")] == expected
