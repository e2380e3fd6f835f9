"""Brokers by URL: the only module that knows all engines."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ._core.errors import LeaseqError
from ._core.exports import adopt
from ._core.texts import shown
from .abc import Broker

if TYPE_CHECKING:
    from pathlib import Path

SERVER_SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix", "valkey+unix", "redis+unix")
"""Schemes of the URLs of servers."""
SHARED_SCHEMES = ("sqlite", *SERVER_SCHEMES)
"""Schemes of the URLs of places that processes share."""


def connect(url: str) -> Broker:
    """Return a broker: ``async with leaseq.connect("memory://") as broker``.

    Args:
        url: The place of the queues. ``memory://``: in this process, in this broker.
            ``sqlite:///folder/file.db``, or ``sqlite:////absolute/file.db``: in a file, shared
            between the processes of one machine; `leaseq.sqlite.SqliteUrl` documents its options.
            ``valkey://user:password@host:6379/0``, or ``unix:///path/to/valkey.sock?db=0``: on a
            Valkey or Redis server, shared between processes; `leaseq.valkey.ValkeyUrl` documents
            its parts.

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
        from .memory import MemoryBroker

        return MemoryBroker()
    if scheme == "sqlite":
        return _connect_to_file(url)
    if scheme in SERVER_SCHEMES:
        return _connect_to_server(url, scheme)
    choices = ", ".join(f"{choice}://" for choice in ("memory", *SHARED_SCHEMES))
    # The URL is not quoted: any part of it may be a password.
    raise ValueError(f"a broker's URL starts with one of {choices}{path_hint(url)}")


def path_hint(text: str) -> str:
    """Return the end of an error that offers the URL of a file, if a text is a file's path."""
    if "@" in text or "?" in text or not text.endswith((".db", ".sqlite", ".sqlite3")):
        return ""
    return f"; the file {shown(text)} is sqlite:///{quote(text)}"


def file_of(url: str) -> Path | None:
    """Return the absolute path of the file that a URL names; None: its broker has no file.

    Raises:
        ValueError: the URL is not that of a broker in a file.
    """
    if url.partition(":")[0].lower() != "sqlite":
        return None
    from .sqlite import SqliteUrl

    return SqliteUrl.parse(url).path.absolute()


def _connect_to_file(url: str) -> Broker:
    try:
        from .sqlite import SqliteBroker, SqliteUrl
    except ImportError as error:
        raise LeaseqError(
            f"the engine for sqlite:// needs the sqlite3 of Python, which is not there: {error}"
        ) from None
    return SqliteBroker(SqliteUrl.parse(url))


def _connect_to_server(url: str, scheme: str) -> Broker:
    try:
        from .valkey import ValkeyBroker, ValkeyUrl
    except ImportError as error:
        raise LeaseqError(f"the engine for {scheme}:// is not installed: {error}") from None
    return ValkeyBroker(ValkeyUrl.parse(url))


adopt("leaseq", globals())
