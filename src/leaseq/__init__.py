"""A keyed, leased work queue for trio and asyncio, through anyio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._batcher.batcher import Batcher, BatcherStatistics
    from ._connect import connect
    from ._core.codec import Codec, JsonCodec
    from ._core.errors import (
        CodecError,
        InvalidLeaseError,
        KeyAlreadyInFlightError,
        LeaseAlreadyAcknowledgedError,
        LeaseCancelledError,
        LeaseLostError,
        LeaseqError,
        LostAtCloseError,
        ProcessDiedError,
        ProcessError,
        QueueClosedError,
        Reject,
        ServerError,
        ServerUnavailableError,
        TenantMismatchError,
        TimekeeperNotRunningError,
        TransactionError,
        UnusableServerError,
    )
    from ._core.options import (
        BrokerQueueOptions,
        GetOptions,
        InFlightPolicy,
        PutOptions,
        TakeOptions,
    )
    from ._core.policies import Backoff, Priority, Retry, Tenant
    from ._core.reports import (
        DeadLetter,
        HistoryEntry,
        KeyState,
        LeaseInfo,
        MessageId,
        Paused,
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
    "LeaseCancelledError",
    "LeaseInfo",
    "LeaseLostError",
    "LeasedKeyQueue",
    "LeasedQueue",
    "LeaseqError",
    "LostAtCloseError",
    "MemoryBroker",
    "MessageId",
    "Paused",
    "PoolOptions",
    "Priority",
    "ProcessDiedError",
    "ProcessError",
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

_HOMES = {
    "_batcher.batcher": ("Batcher", "BatcherStatistics"),
    "_connect": ("connect",),
    "_core.codec": ("Codec", "JsonCodec"),
    "_core.errors": (
        "CodecError",
        "InvalidLeaseError",
        "KeyAlreadyInFlightError",
        "LeaseAlreadyAcknowledgedError",
        "LeaseCancelledError",
        "LeaseLostError",
        "LeaseqError",
        "LostAtCloseError",
        "ProcessDiedError",
        "ProcessError",
        "QueueClosedError",
        "Reject",
        "ServerError",
        "ServerUnavailableError",
        "TenantMismatchError",
        "TimekeeperNotRunningError",
        "TransactionError",
        "UnusableServerError",
    ),
    "_core.options": (
        "BrokerQueueOptions",
        "GetOptions",
        "InFlightPolicy",
        "PutOptions",
        "TakeOptions",
    ),
    "_core.policies": ("Backoff", "Priority", "Retry", "Tenant"),
    "_core.reports": (
        "DeadLetter",
        "HistoryEntry",
        "KeyState",
        "LeaseInfo",
        "MessageId",
        "Paused",
        "PutOutcome",
        "QueueInfo",
        "RedriveResult",
        "Statistics",
        "TenantStatistics",
    ),
    "_pool": ("PoolOptions", "ServeOptions", "serve", "serve_batches", "stop_on_signals"),
    "abc": ("Broker", "LeasedQueue", "Transaction"),
    "abc._lease": ("Lease", "LeaseBatch"),
    "memory": ("LeasedKeyQueue", "MemoryBroker"),
}
"""The module of each name, which is imported when the name is first used: a program waits for the
engine that it uses, and for no other."""


def _import(name: str) -> object:
    """Return a name of this module, which is used for the first time."""
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # type checkers would take any name for one of this module
    __getattr__ = _import
