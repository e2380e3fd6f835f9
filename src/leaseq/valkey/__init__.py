"""The engine on a Valkey or Redis server: queues that processes and machines share."""

from .._core.exports import adopt as _adopt
from .._remote.broker import RemoteBroker as RemoteBroker
from .._remote.queue import RemoteQueue
from .._valkey.broker import ValkeyBroker
from .._valkey.url import ValkeyUrl

__all__ = ["RemoteQueue", "ValkeyBroker", "ValkeyUrl"]

_adopt(__name__, [*__all__, "RemoteBroker"], globals())  # the base of every store's broker
