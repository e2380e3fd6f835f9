"""Transactions over queues in a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, Unpack, cast

from .._core.errors import InvalidLeaseError, LeaseqError, QueueClosedError, TransactionError
from .._core.limits import check_steps
from .._core.messages import (
    Cancellation,
    check_held,
    no_room,
    settled_twice,
)
from .._core.options import PutOptions
from .._core.reports import Ended
from .._core.requests import PutRequest
from .._core.validation import reason_text
from ..abc import LeasedQueue, Transaction
from ..abc._lease import Lease
from .dispatcher import Call
from .encoding import plain_key
from .engine import Engine, RemoteLease, put_refused
from .protocol import (
    Ack,
    Key,
    Put,
    Reject,
    Release,
    StepRefused,
    Transact,
)

K = TypeVar("K")
V = TypeVar("V")

SettlingStep: TypeAlias = "Ack | Release | Reject"


class _PutStep:
    """A put of a transaction."""

    def __init__(self, engine: Engine[Any, Any], operation: Put) -> None:
        self.engine = engine
        self.operation = operation

    def check(self) -> None:
        """Raise if it is known here that it cannot be done."""
        self.engine.check_takes(self.operation.request)

    def refused(self, why: StepRefused) -> Exception:
        """Return the error for a step that the store has refused."""
        if why.why in ("in_flight", "tenant", "size"):
            key, _ = self.operation.items[0]
            return put_refused(key, self.operation.request, why.why, why.tenant)
        return _refused(self.engine, why)

    def done(self) -> None:
        """Note that it was done."""


class _SettlingStep:
    """The end of a lease in a transaction."""

    def __init__(self, lease: RemoteLease[Any, Any], ended: Ended, operation: SettlingStep) -> None:
        self.engine = lease._engine
        self.operation = operation
        self._lease = lease
        self._ended = ended

    def check(self) -> None:
        """Raise if it is known here that it cannot be done."""
        self.engine.mine(self._lease)
        check_held(self._lease, self.engine.home.time())

    def refused(self, why: StepRefused) -> Exception:
        """Return the error for a step that the store has refused."""
        if why.why == "twice":
            return settled_twice(self._lease)
        if why.why in ("not held", "cancelled"):
            if why.why == "cancelled":
                self.engine.cancel_lease(self._lease, Cancellation(why.reason))
            elif self._lease.ended is None:
                self.engine.lose(self._lease)
            try:
                check_held(self._lease, self.engine.home.time())
            except InvalidLeaseError as error:
                return error
        return _refused(self.engine, why)

    def done(self) -> None:
        """Note that it was done."""
        self.engine.let_go(self._lease)
        self._lease._ended = self._ended


def _refused(engine: Engine[Any, Any], why: StepRefused) -> Exception:
    if why.why == "gone":
        return QueueClosedError(f"{engine.queue!r}: it was deleted")
    return no_room(engine.queue, why.places)


class RemoteTransaction(Transaction):
    """Steps that are kept until the block is left, and then taken by the store, all or none.

    Args:
        engine_of: Returns the engine of a queue; raises `ValueError` for one of another broker.
    """

    def __init__(self, engine_of: Callable[[object], Engine[Any, Any]]) -> None:
        super().__init__()
        self._engine_of = engine_of
        self._steps: list[_PutStep | _SettlingStep] = []
        self._sizes: list[int] = []  # of the values to put

    def put(
        self, queue: LeasedQueue[K, V], key: K, value: V, **options: Unpack[PutOptions]
    ) -> None:
        engine = self._engine_of(queue)
        key = plain_key(key)
        request = PutRequest("put", **options)
        body = engine.encode(value)
        sizes = [*self._sizes, len(body)]
        check_steps(sizes, key)
        operation = Put(engine.ref, ((cast("Key", key), body),), request)
        engine.dispatcher.check(operation)
        self._check_open()
        self._check_group(queue)
        self._sizes = sizes
        self._steps.append(_PutStep(engine, operation))

    def ack(self, lease: Lease[K, V]) -> None:
        engine = self._engine_for(lease, self._engine_of)
        self._settle(engine, lease, "acked", Ack(engine.ref, cast("Key", lease.key), lease.token))

    def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        engine = self._engine_for(lease, self._engine_of)
        delay = engine.check_release(requeue_front, delay, counted)
        key = cast("Key", lease.key)
        operation = Release(engine.ref, key, lease.token, requeue_front, delay, counted)
        self._settle(engine, lease, "released", operation)

    def reject(self, lease: Lease[K, V], reason: str) -> None:
        engine = self._engine_for(lease, self._engine_of)
        key = cast("Key", lease.key)
        operation = Reject(engine.ref, key, lease.token, reason_text(reason))
        engine.dispatcher.check(operation)
        self._settle(engine, lease, "rejected", operation)

    def _settle(
        self,
        engine: Engine[Any, Any],
        lease: Lease[Any, Any],
        ended: Ended,
        operation: SettlingStep,
    ) -> None:
        self._check_open()
        step = _SettlingStep(engine.mine(lease), ended, operation)
        self._check_group(lease.queue)
        sizes = [*self._sizes, 0]
        check_steps(sizes, lease.key)
        self._sizes = sizes
        self._steps.append(step)
        self._pledge(lease)

    async def _commit(self) -> None:
        if not self._steps:
            return
        known: dict[int, Exception] = {}  # what cannot be done, by the step's number
        for number, step in enumerate(self._steps):
            try:
                step.check()
            except LeaseqError as failure:
                known[number] = failure
        if len(known) == len(self._steps):
            raise TransactionError([*known.values()])

        def receive(refused: tuple[StepRefused, ...]) -> None:
            if not refused:
                for step in self._steps:
                    step.done()

        operations = [
            None if number in known else step.operation for number, step in enumerate(self._steps)
        ]
        engine = self._steps[0].engine
        call = Call(Transact(engine.ref, tuple(operations)), receive=receive)
        refused = await engine.dispatcher.perform(call, withdraw=True)
        if refused:
            # A step that is known to be impossible was asked for as one that the store refuses.
            # The want of room is told under the last step of its queue, whatever came of that.
            raise TransactionError(
                [
                    self._steps[why.step].refused(why)
                    if why.step not in known or why.why == "full"
                    else known[why.step]
                    for why in refused
                ]
            )
