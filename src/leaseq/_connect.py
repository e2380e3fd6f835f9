"""From a URL to a broker: the one place that knows which engines there are."""

from __future__ import annotations

from ._core.errors import LeaseqError
from .abc import Broker
from .memory import MemoryBroker

SERVER_SCHEMES = ("valkey", "valkeys", "redis", "rediss")
"""Schemes of the URLs of servers."""


def connect(url: str) -> Broker:
    """A broker: ``async with leaseq.connect("memory://") as broker``.

    Args:
        url: Where the queues live. ``memory://``: in this process, in this broker.
            ``valkey://user:password@host:6379/0``: on a Valkey or Redis server, where other
            processes have the same ones; `leaseq.valkey.ValkeyUrl` has all that it may say.

    Raises:
        ValueError: the URL is not one of a broker.
        LeaseqError: the engine for it is not installed.
    """
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "memory":
        if rest.strip("/"):
            raise ValueError("memory:// is in this process: it takes no host, path or options")
        return MemoryBroker()
    if scheme in SERVER_SCHEMES:
        return _connect_to_server(url, scheme)
    choices = ", ".join(f"{choice}://" for choice in ("memory", *SERVER_SCHEMES))
    # Not what it starts with: it may have a password in it, wherever.
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
