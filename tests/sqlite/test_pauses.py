"""Pauses in a file: they outlive processes, and their ends wake those that wait.

How a file of format 1, which had none, is brought to this one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.place import QUEUE, Place, claim, claimed, put
from tests.sqlite.test_parks import WAITS, gone, park

from leaseq import Tenant, connect
from leaseq._remote import protocol as p
from leaseq._sqlite import schema

WAITS_FOR_ITEMS = sorted(WAITS)


@pytest.mark.anyio
async def test_a_pause_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    async with connect(url) as broker:
        queue = await broker.queue("work")
        await queue.put("a", 1, tenant="ann")
        await queue.pause(reason="a reason")
        await queue.pause("ann", reason="another")
        before = await queue.info()
    async with connect(url) as broker:
        queue = await broker.queue("work")
        assert await queue.info() == before
        with pytest.raises(TimeoutError):
            await queue.get(timeout=0)
        assert [await queue.resume("ann"), await queue.resume()] == [True, True]
        assert (await queue.get(timeout=0))[0] == "a"


@pytest.mark.anyio
async def test_a_file_of_format_1_has_no_pauses_and_can_have_some(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with connect(f"sqlite:///{path}") as broker:
        queue = await broker.queue("work", tenants={"ann": Tenant(2.0)})
        await queue.put("a", 1, tenant="ann")
    to_format_1(path)
    async with connect(f"sqlite:///{path}") as broker:
        queue = await broker.queue("work")
        info = await queue.info()
        assert (info.ready, info.paused, dict(info.paused_tenants)) == (1, None, {})
        for tenant in (None, "ann"):
            await queue.pause(tenant)
            with pytest.raises(TimeoutError):
                await queue.get(timeout=0)
            await queue.resume(tenant)
        assert (await queue.get(timeout=0))[0] == "a"


def to_format_1(path: Path) -> None:
    """Take away from a file what format 2 has for pauses and cancellations."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE leaseq_pauses")
    for column in ("paused", "paused_tenants"):
        connection.execute(f"ALTER TABLE leaseq_queues DROP COLUMN {column}")
    for change in (
        "leaseq_queues DROP COLUMN cancelled",
        "leaseq_queues RENAME COLUMN given_back TO cancelled",
        "leaseq_items DROP COLUMN cancelled",
        "leaseq_history DROP COLUMN ended",
        "leaseq_history RENAME COLUMN ended_at TO acked_at",
    ):
        connection.execute(f"ALTER TABLE {change}")
    connection.execute("UPDATE leaseq_file SET value = 1 WHERE name = 'format'")
    connection.commit()
    connection.close()


def test_a_file_that_was_brought_to_this_format_is_like_a_new_one(tmp_path: Path) -> None:
    def tables() -> dict[str, set[tuple[Any, ...]]]:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: {tuple(column[1:]) for column in connection.execute(f"PRAGMA table_info({name})")}
            for (name,) in names
        }

    path = tmp_path / "q.db"
    connection = sqlite3.connect(path)
    schema.make(connection)
    connection.commit()
    new = tables()
    connection.close()
    to_format_1(path)
    connection = sqlite3.connect(path)
    schema.migrate(connection, 1)
    assert tables() == new
    connection.close()


def test_a_deleted_queue_leaves_no_pause_behind(place: Place) -> None:
    place.declare()
    place.do("a", p.Pause(QUEUE, None, ""))
    place.do("a", p.Pause(QUEUE, "x", ""))
    place.do("a", p.Delete(QUEUE))
    assert place.rows("SELECT * FROM leaseq_pauses") == []
    place.declare()
    info = place.do("a", p.Info(QUEUE))
    assert (info.paused, info.paused_tenants) == (None, {})


# Processes that wait


@pytest.mark.parametrize("kind", WAITS_FOR_ITEMS)
def test_no_process_is_woken_for_what_comes_to_a_paused_queue(place: Place, kind: str) -> None:
    place.declare()
    parks = park(place, "b", WAITS[kind])
    place.do("a", p.Pause(QUEUE, None, ""))
    place.do("a", put("item", tenant="x"))
    place.now += 10
    assert gone(place, "b", parks) == set()
    place.do("a", p.Wake(QUEUE, p.Want("any")))
    assert place.woken() == []


@pytest.mark.parametrize("kind", WAITS_FOR_ITEMS)
@pytest.mark.parametrize("tenant", [None, "x"])
def test_a_process_that_waits_is_woken_once_it_is_resumed(
    place: Place, kind: str, tenant: str | None
) -> None:
    place.declare()
    place.do("a", p.Pause(QUEUE, tenant, ""))
    place.do("a", put("item", tenant="x"))
    park(place, "b", WAITS[kind])
    assert place.do("a", p.Resume(QUEUE, tenant)) is True
    assert place.woken() == ["b"]
    assert [key for key, _ in claimed(place.do("b", WAITS[kind]))] == ["item"]


def test_one_process_is_woken_for_each_item_that_may_be_had_now(place: Place) -> None:
    place.declare()
    place.do("a", p.Pause(QUEUE, None, ""))
    for process in "bcde":
        park(place, process, claim(parks=True))
    park(place, "f", claim(parks=True, key="two"))
    place.do("a", put("one", "two", "three"))
    place.do("a", p.Resume(QUEUE, None))
    assert sorted(place.woken()) == ["b", "c", "f"]


def test_no_process_is_woken_when_what_was_not_paused_is_resumed(place: Place) -> None:
    place.declare()
    park(place, "b", claim(parks=True, key="absent"))
    place.do("a", put("item"))
    park(place, "c", claim(parks=True, tenants=["x"]))
    for tenant in (None, "x"):
        assert place.do("a", p.Resume(QUEUE, tenant)) is False
    assert place.woken() == []
