"""Brokers by URL: the only module that knows all engines."""

from __future__ import annotations

from ._core.errors import LeaseqError
from .abc import Broker
from .memory import MemoryBroker

SERVER_SCHEMES = ("valkey", "valkeys", "redis", "rediss")
"""Schemes of the URLs of servers."""


def connect(url: str) -> Broker:
    """Return a broker: ``async with leaseq.connect("memory://") as broker``.

    Args:
        url: The place of the queues. ``memory://``: in this process, in this broker.
            ``valkey://user:password@host:6379/0``: on a Valkey or Redis server, shared between
            processes; `leaseq.valkey.ValkeyUrl` documents its parts.

    Raises:
        TypeError: the URL is not a string.
        ValueError: the URL is not that of a broker.
        LeaseqError: the engine for it is not installed.

    Connects to nothing yet. O(1).
    """
    if not isinstance(url, str):  # nor is its type's repr quoted, for it may show a password
        raise TypeError(f"the URL of a broker must be a string, not {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "memory":
        if rest.strip("/"):
            raise ValueError("memory:// is in this process: it takes no host, path or options")
        return MemoryBroker()
    if scheme in SERVER_SCHEMES:
        return _connect_to_server(url, scheme)
    choices = ", ".join(f"{choice}://" for choice in ("memory", *SERVER_SCHEMES))
    # The URL is not quoted: any part of it may be a password.
    raise ValueError(f"a broker's URL starts with one of {choices}")


def _connect_to_server(url: str, scheme: str) -> Broker:
    try:
        from .valkey import ValkeyBroker, ValkeyUrl
    except ImportError as error:
        raise LeaseqError(
            f"the engine for {scheme}:// is not installed: it comes with the extra leaseq[valkey] "
            f"({error})"
        ) from None
    return ValkeyBroker(ValkeyUrl.parse(url))
