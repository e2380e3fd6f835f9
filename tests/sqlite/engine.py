"""The engine under test: brokers on files of their own, whose time the tests can move."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.remote.clocked import Clocked, dispatcher_of

from leaseq._sqlite.store import SqliteStore
from leaseq.sqlite import SqliteBroker, SqliteUrl

__all__ = ["Sqlite", "store_of"]


def store_of(broker: SqliteBroker) -> SqliteStore:
    """The store of a broker that is open."""
    store = dispatcher_of(broker)._store
    assert isinstance(store, SqliteStore)
    return store


class Sqlite(Clocked):
    """Makes queues and brokers in files, each test in one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="leaseq-test-"))

    def make_broker(self, place: str) -> SqliteBroker:
        url = SqliteUrl(self._folder / f"{place}.db", synchronous="normal")
        return SqliteBroker(url)

    def put_forward(self, store: SqliteStore, seconds: float) -> None:
        store.file.offset += seconds

    async def close(self) -> None:
        await super().close()
        shutil.rmtree(self._folder)
