"""The contract: what queues and brokers promise, on every engine."""

from .._core.exports import adopt as _adopt
from ._broker import Broker
from ._queue import LeaseBatchContext, LeaseContext, LeasedQueue
from ._transaction import Transaction

__all__ = ["Broker", "LeaseBatchContext", "LeaseContext", "LeasedQueue", "Transaction"]

_adopt(__name__, globals())
_adopt("leaseq", globals())  # what the package offers too
