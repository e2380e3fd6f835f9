"""Queues by name, in a file."""

from __future__ import annotations

from .._core.validation import wait_seconds
from .._remote.broker import RemoteBroker
from .._remote.protocol import OnEvent, Store
from .store import open_store
from .url import SqliteUrl


class SqliteBroker(RemoteBroker):
    """A broker whose queues live in a file: ``connect("sqlite:///file.db")``.

    Args:
        url: The file's URL.
        patience: Seconds for which a call tries to write to the file where no `run` runs.
    """

    def __init__(self, url: SqliteUrl, *, patience: float = 10.0) -> None:
        if not isinstance(url, SqliteUrl):
            raise TypeError(
                f"url must be a SqliteUrl, not {type(url).__name__}: SqliteUrl.parse reads a URL"
            )

        async def open_file(process: str, on_event: OnEvent) -> Store:
            return await open_store(url, process, on_event)

        patience = wait_seconds("patience", patience)
        super().__init__(open_file, place=str(url), patience=patience)
