"""Transactions over the queues of this engine."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, Unpack

from .._core.errors import TransactionError
from .._core.loop import Home
from .._core.messages import no_room, settled_twice
from .._core.options import PutOptions
from .._core.requests import PutRequest
from .._core.validation import check_key, reason_text
from .._rules.item import Item
from .._rules.moves import put_error
from .._rules.plan import Plan, plan_for
from ..abc import LeasedQueue, Transaction
from ..abc._lease import Lease
from .engine import Engine

K = TypeVar("K")
V = TypeVar("V")


class _Step(Protocol):
    """A step of a transaction on a queue."""

    engine: Engine[Any, Any]

    def plan(self, plan: Plan, now: float) -> None:
        """Raise if the step is impossible after the ones planned before."""

    def do(self, now: float) -> None:
        """Do the step. A planned step cannot fail."""


class _Put:
    def __init__(
        self, engine: Engine[Any, Any], key: Hashable, value: object, terms: PutRequest
    ) -> None:
        self.engine = engine
        self.key = key
        self._value = value
        self._terms = terms

    def plan(self, plan: Plan, now: float) -> None:
        self.engine.check_takes(self._terms)
        refused = plan.put(self.key, self._terms)
        if refused is not None:
            raise put_error(refused.why, self.key, refused.tenant, self._terms)

    def do(self, now: float) -> None:
        self.engine.ledger.put_accepted(self.key, self._value, now, self._terms)


class _Settle:
    item: Item[Any, Any]

    def __init__(self, engine: Engine[Any, Any], lease: Lease[Any, Any]) -> None:
        self.engine = engine
        self._lease = lease

    def plan(self, plan: Plan, now: float) -> None:
        self.item = self.engine.held(self._lease, now)
        if not self.ends(plan):
            raise settled_twice(self.item)

    def ends(self, plan: Plan) -> bool:
        """Plan the end of the lease; False: it will have ended."""
        raise NotImplementedError


class _Ack(_Settle):
    def ends(self, plan: Plan) -> bool:
        return plan.ack(self.item._key)

    def do(self, now: float) -> None:
        self.engine.ack(self.item, now)


class _Release(_Settle):
    def __init__(
        self,
        engine: Engine[Any, Any],
        lease: Lease[Any, Any],
        *,
        front: bool,
        delay: float | None,
        counted: bool,
    ) -> None:
        super().__init__(engine, lease)
        self._rest: float | None = 0.0
        self._front = front
        self._delay = delay
        self._counted = counted

    def ends(self, plan: Plan) -> bool:
        self.engine.check_release(self._front, self._delay, self._counted)
        if self._counted:
            rests = self._delay is None and not self._front
            self._rest = self.engine.ledger.verdict(self.item, rests=rests)
        leaves = self._rest is None and self.engine.buries
        return plan.release(self.item._key, leaves=leaves)

    def do(self, now: float) -> None:
        self.engine.ledger.release_as(
            self._rest,
            self.item,
            now,
            front=self._front,
            delay=self._delay,
            counted=self._counted,
        )


class _Reject(_Settle):
    def __init__(self, engine: Engine[Any, Any], lease: Lease[Any, Any], reason: str) -> None:
        super().__init__(engine, lease)
        self._reason = reason

    def ends(self, plan: Plan) -> bool:
        return plan.release(self.item._key, leaves=self.engine.buries)

    def do(self, now: float) -> None:
        self.engine.ledger.reject(self.item, now, self._reason)


class MemoryTransaction(Transaction):
    """Steps that are kept until the block is left, then all planned, and then all done.

    Planning and doing happen without suspending: no other task can see a part of the steps, or
    change anything in between.
    """

    def __init__(self, engine_of: Callable[[object], Engine[Any, Any]], home: Home) -> None:
        super().__init__()
        self._engine_of = engine_of
        self._home = home
        self._steps: list[_Step] = []

    def put(
        self, queue: LeasedQueue[K, V], key: K, value: V, **options: Unpack[PutOptions]
    ) -> None:
        check_key(key)
        self._ask(_Put(self._engine_of(queue), key, value, PutRequest("put", **options)))

    def ack(self, lease: Lease[K, V]) -> None:
        self._settle(_Ack(self._engine_for(lease, self._engine_of), lease), lease)

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
        step = _Release(engine, lease, front=requeue_front, delay=delay, counted=counted)
        self._settle(step, lease)

    def reject(self, lease: Lease[K, V], reason: str) -> None:
        reason = reason_text(reason)
        self._settle(_Reject(self._engine_for(lease, self._engine_of), lease, reason), lease)

    def _ask(self, step: _Step) -> None:
        self._check_open()
        self._check_group(step.engine.queue)
        self._steps.append(step)

    def _settle(self, step: _Step, lease: Lease[Any, Any]) -> None:
        self._ask(step)
        self._pledge(lease)

    async def _commit(self) -> None:
        now = self._home.time()
        plans: dict[Engine[Any, Any], Plan] = {}
        failures: list[Exception] = []
        for step in self._steps:
            engine = step.engine
            if engine not in plans:
                plans[engine] = plan_for(engine.ledger, now)
            try:
                step.plan(plans[engine], now)
            except Exception as failure:
                failures.append(failure)
        for engine, plan in plans.items():
            if not engine.has_room(plan.places):
                failures.append(no_room(engine.queue, plan.places))
        if failures:
            raise TransactionError(failures)
        for step in self._steps:
            step.do(now)
        for engine in plans:
            mine = [step for step in self._steps if step.engine is engine]
            put = [step.key for step in mine if isinstance(step, _Put)]
            settled = [step.item for step in mine if isinstance(step, _Settle)]
            engine.after_transaction(put, settled)
