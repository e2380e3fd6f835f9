"""A group whose store is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from leaseq._core.errors import ServerUnavailableError
from leaseq._core.loop import Home
from leaseq._remote.groups import Group
from leaseq._remote.protocol import Event

pytestmark = pytest.mark.anyio

AWAY = f"{','.join(['127.0.0.1:6379'] * 9)} cannot be reached"


@pytest.mark.virtual_time
async def test_a_store_that_is_not_there_is_reported_once_in_its_own_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def open_store(process: str, on_event: Callable[[Event], None]) -> NoReturn:
        raise ServerUnavailableError(AWAY, in_doubt=False)

    group = Group(
        "me",
        open_store,
        Home(),
        lambda name: None,
        lambda: None,
        patience=10,
        persistence=lambda: 10,
    )
    with pytest.raises(ServerUnavailableError, match="cannot be reached"):
        await group.open()
    assert caplog.messages == [f"{AWAY}: it is tried again and again"]
