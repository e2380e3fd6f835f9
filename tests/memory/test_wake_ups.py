"""The sweep for wake-ups notices each wake-up that is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract.engines import Memory
from tests.contract.wake_ups import sweep

from leaseq._memory.engine import Engine
from leaseq._memory.timekeeper import Timekeeper
from leaseq._rules.capacity import Capacity
from leaseq._rules.waiters import Waiters

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def nothing(self: object, *args: object) -> Iterator[Any]:
    return iter(())


def forget_items(self: Engine[Any, Any], waiter: Any) -> None:
    if waiter.item is None:
        self.waiters.drop(waiter)


def forget_those_behind(self: Capacity[Any], waiting: int) -> Iterator[Any]:
    if self._places:  # places that were given back are not noticed
        yield from admit(self, waiting)


admit = Capacity.admit

FORGOTTEN: dict[str, tuple[type[Any], str, Any]] = {
    "a timekeeper that is over": (Timekeeper, "ring", nothing),
    "an earlier deadline": (Timekeeper, "plan", nothing),
    "consumers and joiners at the end": (Engine, "_check_drained", nothing),
    "consumers, when a key returns": (Engine, "after_return", nothing),
    "consumers, when one is cancelled": (Engine, "_leave_line", forget_items),
    "consumers of letters": (Engine, "_report_deaths", lambda self: self.deaths.clear() or []),
    "consumers at a cap": (Waiters, "serve_tenant", nothing),
    "consumers of a paused queue": (Waiters, "serve_all", nothing),
    "takers at a cap": (Waiters, "_line_up_for_cap", nothing),
    "collectors at a shutdown": (Waiters, "drop_patient", nothing),
    "takers of what cannot come": (Waiters, "drop_takers", nothing),
    "takers of what cannot come at a shutdown": (Waiters, "drop_takers_of_absent", nothing),
    "producers, when there is room": (Engine, "_admit", nothing),
    "producers at a shutdown": (Capacity, "clear", nothing),
    "producers whose key has come": (Capacity, "came", nothing),
    "producers behind others": (Capacity, "admit", forget_those_behind),
}


@pytest.mark.parametrize("who", FORGOTTEN)
async def test_the_sweep_notices_who_is_forgotten(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, broken = FORGOTTEN[who]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        await sweep(Memory(), range(1000))
