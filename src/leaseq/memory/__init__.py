"""The engine in this process."""

from .broker import MemoryBroker
from .queue import LeasedKeyQueue

__all__ = ["LeasedKeyQueue", "MemoryBroker"]
