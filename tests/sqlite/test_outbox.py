"""Puts within the user's own transaction on the file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group
from tests.contract.helpers import until
from tests.remote.mishaps import eventually

import leaseq
from leaseq import (
    CodecError,
    JsonCodec,
    KeyAlreadyInFlightError,
    PutOutcome,
    Tenant,
    TenantMismatchError,
    UnusableServerError,
)
from leaseq.sqlite import SqliteBroker, SqliteUrl, put_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def queue(path: Path) -> AsyncIterator[Any]:
    """A queue in the file, with its broker's run."""
    async with SqliteBroker(SqliteUrl(path)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        yield await broker.queue("mails", default_lease_timeout=30)
        tg.cancel_scope.cancel()


@pytest.fixture
def shop(path: Path, queue: Any) -> Iterator[sqlite3.Connection]:
    """The user's own connection, with a table of the user's."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (number INTEGER)")
    yield connection
    connection.close()


def orders(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])


async def test_a_put_is_done_with_the_transaction(queue: Any, shop: sqlite3.Connection) -> None:
    with shop:
        shop.execute("INSERT INTO orders VALUES (1)")
        assert put_in(shop, "mails", "order-1", {"total": 5}) is PutOutcome.ADDED
        assert await queue.qsize() == 0
    assert await queue.qsize() == 1
    key, value, lease = await queue.get(timeout=0)
    assert (key, value) == ("order-1", {"total": 5})
    await queue.ack(lease)


async def test_a_put_is_undone_with_the_transaction(queue: Any, shop: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError), shop:
        shop.execute("INSERT INTO orders VALUES (1)")
        put_in(shop, "mails", "order-1", None)
        raise ZeroDivisionError
    assert await queue.qsize() == orders(shop) == 0
    statistics = await queue.statistics()
    assert statistics.put == 0


async def test_a_put_begins_a_transaction_as_other_statements_do(
    queue: Any, shop: sqlite3.Connection
) -> None:
    put_in(shop, "mails", "order-1", None)
    assert shop.in_transaction
    shop.rollback()
    assert await queue.qsize() == 0


async def test_in_autocommit_a_put_is_a_transaction_of_its_own(
    queue: Any, path: Path, shop: sqlite3.Connection
) -> None:
    own = sqlite3.connect(path, isolation_level=None)
    put_in(own, "mails", "order-1", None)
    assert not own.in_transaction
    own.close()
    assert await queue.qsize() == 1


@asynccontextmanager
async def consumer(queue: Any) -> AsyncIterator[list[str]]:
    """The keys that a consumer has got, one at most: it waits when the block begins."""
    got: list[str] = []

    async def consume() -> None:
        key, _, lease = await queue.get()
        got.append(key)
        await queue.ack(lease)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await anyio.sleep(0.05)
        yield got


async def test_a_consumer_that_waits_has_the_item_after_the_commit(
    queue: Any, shop: sqlite3.Connection
) -> None:
    async with consumer(queue) as got:
        put_in(shop, "mails", "order-1", None)
        await anyio.sleep(0.1)
        assert got == []
        shop.commit()
        await eventually(lambda: bool(got), within=0.9)  # it does not wait for its next look


async def test_a_consumer_that_is_woken_for_a_put_that_is_undone_waits_on(
    queue: Any, shop: sqlite3.Connection
) -> None:
    async with consumer(queue) as got:
        put_in(shop, "mails", "order-1", None)
        shop.rollback()
        await anyio.sleep(0.05)
        put_in(shop, "mails", "order-2", None)
        shop.commit()
        await eventually(lambda: bool(got), within=5)
    assert got == ["order-2"]


async def test_what_a_put_refuses_leaves_the_transaction_as_it_was(
    queue: Any, shop: sqlite3.Connection
) -> None:
    await queue.put("taken", None, tenant="ann")
    await queue.get()
    with shop:
        shop.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(KeyAlreadyInFlightError):
            put_in(shop, "mails", "taken", None, if_in_flight="reject")
        with pytest.raises(TenantMismatchError):
            put_in(shop, "mails", "taken", None, tenant="bob")
        with pytest.raises(CodecError):
            put_in(shop, "mails", "order-1", object())
        with pytest.raises(TypeError, match="a key must be"):
            put_in(shop, "mails", 1.5, None)  # type: ignore[arg-type]
        with pytest.raises(LookupError, match="no queue 'letters'"):
            put_in(shop, "letters", "order-1", None)
        with pytest.raises(TypeError, match=r"put_in\(\) has no option 'prio'"):
            put_in(shop, "mails", "order-1", None, prio=1)  # type: ignore[call-arg]
        put_in(shop, "mails", "order-1", None, delay=60, priority=5)
    assert orders(shop) == 1
    assert (await queue.statistics()).delayed == 1


@dataclass
class Mail:
    to: str


class Broken:
    """A codec whose encode raises, or returns no bytes."""

    def encode(self, value: Any, /) -> Any:
        return {}[value] if value else "text"

    def decode(self, body: bytes, /) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("k" * 2_000, None, {}),
        (b"k" * 2_000, None, {}),
        (["a"], None, {}),
        (True, None, {}),
        (10**10_000, None, {}),
        ("a", "v" * 5_000_000, {}),
        ("a", None, {"tenant": "t" * 300}),
        ("a", None, {"priority": 2**40}),
        ("a", None, {"ttl": 0}),
    ],
    ids=["str", "bytes", "list", "bool", "int", "value", "tenant", "priority", "ttl"],
)
async def test_a_put_has_the_limits_of_any_other_put(
    queue: Any, shop: sqlite3.Connection, key: Any, value: object, options: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)) as wanted:
        await queue.put(key, value, **options)
    with pytest.raises(wanted.type) as caught:
        put_in(shop, "mails", key, value, **options)
    assert str(caught.value) == str(wanted.value)
    assert not shop.in_transaction


async def test_a_codec_is_checked_as_a_queue_s_is(queue: Any, shop: sqlite3.Connection) -> None:
    with pytest.raises(TypeError, match=r"codec must have encode\(\) and decode\(\), .* not 3"):
        put_in(shop, "mails", "a", None, codec=3)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="codec of queue 'mails' could not encode a value: KeyErr"):
        put_in(shop, "mails", "a", "b", codec=Broken())
    with pytest.raises(CodecError, match=r"could not encode a value: TypeError: .*not bytes"):
        put_in(shop, "mails", "a", None, codec=Broken())


async def test_the_way_out_of_a_value_of_a_type_is_that_of_this_call(
    queue: Any, shop: sqlite3.Connection
) -> None:
    with pytest.raises(CodecError, match=r"pass put_in\(\) .* codec=JsonCodec\(TYPE\)") as caught:
        put_in(shop, "mails", "a", Mail("x"))
    assert "give the queue" not in str(caught.value)
    with shop:
        put_in(shop, "mails", "a", Mail("x"), codec=JsonCodec(Mail))
    assert await queue.peek("a") == {"to": "x"}


async def test_an_item_with_a_delay_comes_on_time(queue: Any, shop: sqlite3.Connection) -> None:
    got: list[str] = []

    async def consume() -> None:
        got.append((await queue.get())[0])

    async with create_task_group() as tg:
        tg.start_soon(consume)
        tg.start_soon(consume)
        await until(queue, getters=2)
        await anyio.sleep(0.05)
        with shop:
            put_in(shop, "mails", "later", None, delay=30)
            put_in(shop, "mails", "soon", None, delay=0.3)
        await eventually(lambda: bool(got), within=0.8)  # and no sooner than at its next look
        assert got == ["soon"]
        tg.cancel_scope.cancel()
    found = shop.execute("SELECT want FROM leaseq_parks GROUP BY want, process HAVING count(*) > 1")
    assert found.fetchall() == []


async def test_a_put_that_is_refused_keeps_no_lock(path: Path, shop: sqlite3.Connection) -> None:
    async with SqliteBroker(SqliteUrl(path)) as broker:
        queue = await broker.queue("small", max_size=1)
        await queue.put("taken", None, tenant="ann")
        await queue.get()
        await queue.put("waits", None)
        refused: list[tuple[str, str, dict[str, Any], type[Exception]]] = [
            ("small", "more", {}, anyio.WouldBlock),
            ("small", "taken", {"if_in_flight": "reject"}, KeyAlreadyInFlightError),
            ("small", "taken", {"tenant": "bob"}, TenantMismatchError),
            ("letters", "one", {}, LookupError),
        ]
        for name, key, options, error in refused:
            with pytest.raises(error):
                put_in(shop, name, key, None, **options)
            assert not shop.in_transaction
        with anyio.fail_after(5):
            await queue.get()


async def test_a_full_queue_does_not_block(path: Path, shop: sqlite3.Connection) -> None:
    async with SqliteBroker(SqliteUrl(path)) as broker:
        await broker.queue("small", max_size=1, tenants={"a": Tenant(2.0)})
        put_in(shop, "small", "a", None)
        with pytest.raises(anyio.WouldBlock, match="queue 'small' is full: it has max_size=1"):
            put_in(shop, "small", "b", None)
        put_in(shop, "small", "a", 2)
        shop.commit()
        assert await (await broker.queue("small")).qsize() == 1
    assert shop.execute("SELECT count(*) FROM leaseq_parks").fetchone() == (0,)


async def test_the_user_s_own_factories_do_not_matter(queue: Any, shop: sqlite3.Connection) -> None:
    shop.row_factory = sqlite3.Row
    shop.text_factory = bytes
    with shop:
        put_in(shop, "mails", "order-1", "text")
    assert shop.text_factory is bytes
    assert await queue.peek("order-1") == "text"


async def test_a_database_without_queues_says_how_to_have_some(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(UnusableServerError, match=r"adopt=true"):
        put_in(connection, "mails", "order-1", None)
    connection.close()
    with pytest.raises(TypeError, match=r"must be a sqlite3.Connection"):
        put_in("shop.db", "mails", "order-1", None)  # type: ignore[arg-type]


async def test_queues_of_another_version_are_left_alone(
    queue: Any, shop: sqlite3.Connection
) -> None:
    with shop:
        shop.execute("UPDATE leaseq_file SET value = 99 WHERE name = 'format'")
    with pytest.raises(UnusableServerError, match="have the format 99, and this leaseq knows"):
        put_in(shop, "mails", "order-1", None)
    assert not shop.in_transaction
    with shop:
        shop.execute("ALTER TABLE leaseq_file RENAME COLUMN value TO worth")
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        put_in(shop, "mails", "order-1", None)
    assert not shop.in_transaction


async def test_queues_can_be_kept_beside_the_tables_of_an_application(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.execute("CREATE TABLE orders (number INTEGER)")
    connection.commit()
    async with leaseq.connect(f"sqlite:///{path}?adopt=true") as broker:
        await broker.queue("mails")
        with connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            put_in(connection, "mails", "order-1", None)
        assert await (await broker.queue("mails")).qsize() == 1
    async with leaseq.connect(f"sqlite:///{path}") as broker:  # from now on it is known
        assert await (await broker.queue("mails")).qsize() == 1
    assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    assert orders(connection) == 1
    connection.close()
