"""The public map: which names are public, where they are, and that objects show no others."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leaseq
from leaseq import (
    Batcher,
    Broker,
    Lease,
    LeaseBatch,
    LeasedKeyQueue,
    LeasedQueue,
    MemoryBroker,
    Transaction,
)
from leaseq.sqlite import SqliteBroker, SqliteUrl
from leaseq.tasks import ResultLostError, TaskFailedError
from leaseq.valkey import RemoteQueue, ValkeyBroker, ValkeyUrl

# Objects


@dataclass(frozen=True)
class Public:
    """An object that users hold, and the names that are documented of it."""

    of: object
    contract: type | None = None
    extras: frozenset[str] = field(default_factory=frozenset)


def named(names: str) -> frozenset[str]:
    return frozenset(names.split())


async def flush(items: list[int]) -> None:
    pass


QUEUE = LeasedKeyQueue[str, int]()
QUEUE.put_nowait("a", 1)
_, _, LEASE = QUEUE.get_nowait()

ENGINE: Any = SimpleNamespace(name="q", made_with={})
BROKER = ValkeyBroker(ValkeyUrl.parse("valkey://localhost"))

TWINS = named(
    "put_nowait put_many_nowait get_nowait take_nowait ack_nowait release_nowait reject_nowait "
    "extend_nowait drain_nowait"
)
OF_A_LEASE = named(
    "key value priority tenant token deadline since deliveries cancellations ended queue receipt "
    "ack release reject extend"
)

OBJECTS = {
    "LeasedKeyQueue": Public(QUEUE, LeasedQueue, TWINS | {"name", "dead_letters"}),
    "MemoryBroker": Public(MemoryBroker(), Broker),
    "MemoryTransaction": Public(MemoryBroker().transaction(), Transaction),
    "SqliteBroker": Public(SqliteBroker(SqliteUrl(Path("queues.db"))), Broker),
    "ValkeyBroker": Public(BROKER, Broker),
    "RemoteQueue": Public(RemoteQueue(ENGINE), LeasedQueue, named("name")),
    "RemoteTransaction": Public(BROKER.transaction(), Transaction),
    "Lease": Public(Lease(QUEUE, "a", 1), None, OF_A_LEASE),
    "Lease of LeasedKeyQueue": Public(LEASE, None, OF_A_LEASE),
    "LeaseBatch": Public(LeaseBatch([LEASE]), None, named("ack release reject lost")),
    "Batcher": Public(
        Batcher(flush), None, named("add add_nowait add_many flush stats pending run name")
    ),
}
"""Each object with the contract that it keeps and what else is documented of it."""


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_shows_the_names_of_its_contract_and_those_that_are_documented(name: str) -> None:
    entry = OBJECTS[name]
    contract = set() if entry.contract is None else public(dir(entry.contract))
    assert public(dir(entry.of)) == contract | entry.extras


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_says_that_it_is_of_a_public_module(name: str) -> None:
    parts = type(OBJECTS[name].of).__module__.split(".")
    private = {
        "Lease of LeasedKeyQueue",
        "MemoryTransaction",
        "RemoteTransaction",
    }  # made by a call, never by name
    assert name in private or not any(part.startswith("_") for part in parts)


def test_a_lease_has_the_queue_that_handed_it_out() -> None:
    assert LEASE.queue is QUEUE


# Modules

ABC = named("Broker LeaseBatchContext LeaseContext LeasedQueue Transaction")
MODULES = {
    "leaseq": named(
        "Backoff Batcher BatcherStatistics Broker BrokerQueueOptions Codec CodecError DeadLetter "
        "GetOptions HistoryEntry InFlightPolicy InvalidLeaseError JsonCodec "
        "KeyAlreadyInFlightError KeyState Lease LeaseAlreadyAcknowledgedError LeaseBatch "
        "LeaseCancelledError LeaseInfo LeaseLostError LeasedKeyQueue LeasedQueue LeaseqError "
        "LostAtCloseError "
        "MemoryBroker MessageId Paused PoolOptions Priority ProcessDiedError ProcessError "
        "PutOptions PutOutcome QueueClosedError "
        "QueueInfo RedriveResult Reject Retry ServeOptions ServerError ServerUnavailableError "
        "Statistics TakeOptions Tenant TenantMismatchError TenantStatistics "
        "TimekeeperNotRunningError Transaction TransactionError UnusableServerError connect serve "
        "serve_batches stop_on_signals"
    ),
    "leaseq.abc": ABC,
    "leaseq.memory": named("LeasedKeyQueue MemoryBroker"),
    "leaseq.sqlite": named("RemoteQueue SqliteBroker SqliteUrl put_in"),
    "leaseq.tasks": named(
        "QueueSettings RedisSettings ResultLostError Schedule Task TaskCancelledError "
        "TaskDataError "
        "TaskDecorator TaskFailedError TaskFunction TaskHandler TaskQueue TaskQueueOptions "
        "TaskState TaskWorker ValueTooLargeError WorkerConfig WorkerHealth WorkerSettings "
        "current_task xcom_pull xcom_pull_sync xcom_push"
    ),
    "leaseq.testing": named(
        "Operation Scenario VirtualEventLoop advance cancel_sweep virtual_backend"
    ),
    "leaseq.valkey": named("RemoteQueue ValkeyBroker ValkeyUrl"),
}
"""Every module without an underscore, and its `__all__`."""


def modules() -> set[str]:
    """All modules that can be imported by a name without an underscore."""
    found = {"leaseq"}
    for module in pkgutil.walk_packages(leaseq.__path__, "leaseq.", onerror=lambda _: None):
        if not any(part.startswith("_") for part in module.name.split(".")):
            found.add(module.name)
    return found


def test_the_public_modules_are_those_of_the_map() -> None:
    assert modules() == MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_offers_the_names_of_the_map(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == MODULES[name]
    assert all(hasattr(module, each) for each in module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_say_that_they_are_of_a_public_module(name: str) -> None:
    module = importlib.import_module(name)
    homes = {each: getattr(getattr(module, each), "__module__", name) for each in module.__all__}
    of_aliases = {"typing", "collections.abc"}
    strange = {each for each, home in homes.items() if home not in {*MODULES, *of_aliases}}
    assert strange == set()


PUBLIC_TYPES = [
    getattr(module, name)
    for module in map(importlib.import_module, MODULES)
    for name in module.__all__
    if isinstance(getattr(module, name), type)
]

ERRORS = [
    leaseq.QueueClosedError("why", drained=True),
    leaseq.ServerError("ERR why", code="ERR"),
    leaseq.ServerUnavailableError("why", in_doubt=True),
    leaseq.TenantMismatchError("why", tenant="a"),
    leaseq.TransactionError([leaseq.InvalidLeaseError("why"), ValueError("why")]),
    ResultLostError("task-1"),
    TaskFailedError("task-1", "why"),
]


@pytest.mark.parametrize("public", PUBLIC_TYPES, ids=lambda public: public.__name__)
def test_the_annotations_of_a_public_class_can_be_read_at_run_time(public: type) -> None:
    typing.get_type_hints(public)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_can_be_copied_and_pickled(
    error: Exception, again: Callable[[Exception], Exception]
) -> None:
    other = again(error)
    assert (type(other), str(other)) == (type(error), str(error))
    assert other.__dict__.keys() == error.__dict__.keys()
