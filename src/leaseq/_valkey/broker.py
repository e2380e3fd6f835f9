"""Queues by name, on a Valkey or Redis server."""

from __future__ import annotations

from .._core.validation import wait_seconds
from .._remote.broker import RemoteBroker
from .._remote.protocol import OnEvent, Store
from .store import open_store
from .url import ValkeyUrl


class ValkeyBroker(RemoteBroker):
    """A broker whose queues live on a server: ``connect("valkey://host:6379/0")``.

    Args:
        url: The server's URL.
        patience: Seconds for which a call tries to reach the server where no `run` runs.
    """

    def __init__(self, url: ValkeyUrl, *, patience: float = 10.0) -> None:
        if not isinstance(url, ValkeyUrl):
            raise TypeError(
                f"url must be a ValkeyUrl, not {type(url).__name__}: ValkeyUrl.parse reads a URL"
            )

        async def open_on_server(process: str, on_event: OnEvent) -> Store:
            return await open_store(url, process, on_event)

        patience = wait_seconds("patience", patience)
        super().__init__(open_on_server, place=str(url), patience=patience)
