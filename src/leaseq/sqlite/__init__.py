"""The engine in a file: queues that the processes of one machine share, by SQLite."""

from .._core.exports import adopt as _adopt
from .._remote.broker import RemoteBroker as RemoteBroker
from .._remote.queue import RemoteQueue
from .._sqlite.broker import SqliteBroker
from .._sqlite.outbox import put_in
from .._sqlite.url import SqliteUrl

__all__ = ["RemoteQueue", "SqliteBroker", "SqliteUrl", "put_in"]

_adopt(__name__, globals(), "RemoteBroker")  # the base of every store's broker
