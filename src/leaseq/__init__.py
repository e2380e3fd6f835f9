"""A keyed, leased work queue for trio and asyncio, through anyio."""

from .abc import Broker, LeasedQueue, Transaction
from .batching import Batcher, BatcherStatistics
from .codec import Codec, JsonCodec
from .connecting import connect
from .errors import (
    CodecError,
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseAlreadyAcknowledgedError,
    LeaseLostError,
    LeaseqError,
    QueueClosedError,
    ServerError,
    ServerUnavailableError,
    TimekeeperNotRunningError,
    TransactionError,
    UnusableServerError,
)
from .lease import Lease
from .lease_batch import LeaseBatch
from .memory import LeasedKeyQueue, MemoryBroker
from .policies import Backoff, Priority, Retry, Tenant
from .pool import PoolOptions, Reject, ServeOptions, serve, serve_batches, stop_on_signals
from .values import (
    BrokerQueueOptions,
    DeadLetter,
    Done,
    GetOptions,
    InFlight,
    InFlightPolicy,
    MessageId,
    Put,
    PutOptions,
    QueueInfo,
    Redriven,
    Statistics,
    TakeOptions,
    TenantStatistics,
)

__all__ = [
    "Backoff",
    "Batcher",
    "BatcherStatistics",
    "Broker",
    "BrokerQueueOptions",
    "Codec",
    "CodecError",
    "DeadLetter",
    "Done",
    "GetOptions",
    "InFlight",
    "InFlightPolicy",
    "InvalidLeaseError",
    "JsonCodec",
    "KeyAlreadyInFlightError",
    "Lease",
    "LeaseAlreadyAcknowledgedError",
    "LeaseBatch",
    "LeaseLostError",
    "LeasedKeyQueue",
    "LeasedQueue",
    "LeaseqError",
    "MemoryBroker",
    "MessageId",
    "PoolOptions",
    "Priority",
    "Put",
    "PutOptions",
    "QueueClosedError",
    "QueueInfo",
    "Redriven",
    "Reject",
    "Retry",
    "ServeOptions",
    "ServerError",
    "ServerUnavailableError",
    "Statistics",
    "TakeOptions",
    "Tenant",
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
