"""The engine on a Valkey or Redis server: queues that processes and machines share."""

from .broker import ValkeyBroker
from .queue import ValkeyQueue
from .url import ValkeyUrl

__all__ = ["ValkeyBroker", "ValkeyQueue", "ValkeyUrl"]
