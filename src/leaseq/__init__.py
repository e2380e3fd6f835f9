"""A keyed, leased work queue for trio and asyncio, through anyio."""

from .abc import LeasedQueue
from .errors import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
    LeaseqError,
    QueueClosedError,
    TimekeeperNotRunningError,
)
from .lease import Lease
from .memory import LeasedKeyQueue
from .values import GetOptions, InFlight, Put, PutOptions, Statistics, TakeOptions

__all__ = [
    "GetOptions",
    "InFlight",
    "InvalidLeaseError",
    "KeyAlreadyInFlightError",
    "Lease",
    "LeaseAlreadyAcknowledgedError",
    "LeaseLostError",
    "LeasedKeyQueue",
    "LeasedQueue",
    "LeaseqError",
    "Put",
    "PutOptions",
    "QueueClosedError",
    "Statistics",
    "TakeOptions",
    "TimekeeperNotRunningError",
]
