"""The engine on a Valkey or Redis server: queues that processes and machines share."""

from .._core.exports import adopt as _adopt
from .._remote.broker import ValkeyBroker
from .._remote.queue import ValkeyQueue
from .._valkey.url import ValkeyUrl

__all__ = ["ValkeyBroker", "ValkeyQueue", "ValkeyUrl"]

_adopt(__name__, __all__, globals())
