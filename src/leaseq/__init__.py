"""A keyed, leased work queue for trio and asyncio, through anyio."""

from ._batcher.batcher import Batcher, BatcherStatistics
from ._connect import connect
from ._core.codec import Codec, JsonCodec
from ._core.errors import (
    CodecError,
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
    LeaseqError,
    LostAtCloseError,
    QueueClosedError,
    Reject,
    ServerError,
    ServerUnavailableError,
    TenantMismatchError,
    TimekeeperNotRunningError,
    TransactionError,
    UnusableServerError,
)
from ._core.exports import adopt as _adopt
from ._core.options import BrokerQueueOptions, GetOptions, InFlightPolicy, PutOptions, TakeOptions
from ._core.policies import Backoff, Priority, Retry, Tenant
from ._core.reports import (
    DeadLetter,
    HistoryEntry,
    KeyState,
    LeaseInfo,
    MessageId,
    PutOutcome,
    QueueInfo,
    RedriveResult,
    Statistics,
    TenantStatistics,
)
from ._pool import PoolOptions, ServeOptions, serve, serve_batches, stop_on_signals
from .abc import Broker, LeasedQueue, Transaction
from .abc._lease import Lease, LeaseBatch
from .memory import LeasedKeyQueue, MemoryBroker

__all__ = [
    "Backoff",
    "Batcher",
    "BatcherStatistics",
    "Broker",
    "BrokerQueueOptions",
    "Codec",
    "CodecError",
    "DeadLetter",
    "GetOptions",
    "HistoryEntry",
    "InFlightPolicy",
    "InvalidLeaseError",
    "JsonCodec",
    "KeyAlreadyInFlightError",
    "KeyState",
    "Lease",
    "LeaseAlreadyAcknowledgedError",
    "LeaseBatch",
    "LeaseInfo",
    "LeaseLostError",
    "LeasedKeyQueue",
    "LeasedQueue",
    "LeaseqError",
    "LostAtCloseError",
    "MemoryBroker",
    "MessageId",
    "PoolOptions",
    "Priority",
    "PutOptions",
    "PutOutcome",
    "QueueClosedError",
    "QueueInfo",
    "RedriveResult",
    "Reject",
    "Retry",
    "ServeOptions",
    "ServerError",
    "ServerUnavailableError",
    "Statistics",
    "TakeOptions",
    "Tenant",
    "TenantMismatchError",
    "TenantStatistics",
    "TimekeeperNotRunningError",
    "Transaction",
    "TransactionError",
    "UnusableServerError",
    "connect",
    "serve",
    "serve_batches",
    "stop_on_signals",
]

_adopt(__name__, __all__, globals())
