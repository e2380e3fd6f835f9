"""The contract: what queues and brokers promise, on every engine."""

from .broker import Broker, Transaction
from .inspecting import Inspectable
from .queue import LeaseContext, LeasedQueue

__all__ = ["Broker", "Inspectable", "LeaseContext", "LeasedQueue", "Transaction"]
