"""The engine in this process."""

from .._core.exports import adopt as _adopt
from .._memory.broker import MemoryBroker
from .._memory.queue import LeasedKeyQueue

__all__ = ["LeasedKeyQueue", "MemoryBroker"]

_adopt("leaseq", globals())  # which offers them too
