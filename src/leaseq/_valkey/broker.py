"""Queues by name, on a Valkey or Redis server."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .._core.validation import wait_seconds
from .._remote.broker import RemoteBroker
from .._remote.protocol import OpenStore
from .spread import group_tag, spread
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

        def open_group(group: str) -> OpenStore:
            place = replace(url, prefix=group_tag(url.prefix, group))
            return partial(open_store, place, is_known=True)

        patience = wait_seconds("patience", patience)
        super().__init__(
            partial(open_store, url),
            open_group=open_group,
            spread=(lambda name: spread(url.prefix, name, url.groups)) if url.groups else None,
            place=str(url),
            patience=patience,
        )
