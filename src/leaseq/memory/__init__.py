"""The engine in this process."""

from .._memory.broker import MemoryBroker
from .._memory.queue import LeasedKeyQueue

__all__ = ["LeasedKeyQueue", "MemoryBroker"]
