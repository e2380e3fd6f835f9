"""An engine under test on a store in real time, which the tests can move."""

from __future__ import annotations

import uuid
from typing import Any, Unpack

from tests.contract.helpers import QueueOptions

from leaseq._remote.broker import RemoteBroker
from leaseq._remote.dispatcher import Call, Dispatcher
from leaseq._remote.groups import Group
from leaseq._remote.protocol import Sweep
from leaseq._remote.queue import RemoteQueue


def dispatcher_of(broker: RemoteBroker) -> Dispatcher:
    """The dispatcher of a broker that is open."""
    assert broker._own.dispatcher is not None
    return broker._own.dispatcher


def groups_of(broker: RemoteBroker) -> list[Group]:
    """The groups of a broker that are open, its own first."""
    groups = [broker._own, *broker._others.values()]
    return [group for group in groups if group.dispatcher is not None]


class Clocked:
    """Makes queues and brokers that no other test sees."""

    def __init__(self) -> None:
        self._place = uuid.uuid4().hex
        self._brokers: list[Any] = []

    def make_broker(self, place: str) -> Any:
        """A broker on the queues of a place, as from another process."""
        raise NotImplementedError

    def put_forward(self, store: Any, seconds: float) -> None:
        """Put the clock of a store forward."""
        raise NotImplementedError

    async def another_broker(self) -> Any:
        """One more broker on the same queues, as from another process."""
        broker = self.make_broker(self._place)
        await broker.__aenter__()
        self._brokers.append(broker)
        return broker

    async def broker(self) -> Any:
        """A broker without any queues."""
        self._place = uuid.uuid4().hex
        return await self.another_broker()

    async def queue(self, **options: Unpack[QueueOptions]) -> RemoteQueue[Any, Any]:
        """A queue of the one broker that all queues of a test share."""
        broker = self._brokers[0] if self._brokers else await self.another_broker()
        given: dict[str, Any] = dict(options)
        letters = given.pop("dead_letters", None)
        if letters is not None:
            given["dead_letters"] = letters.name
        queue: RemoteQueue[Any, Any]
        queue = await broker.queue(given.pop("name", None) or uuid.uuid4().hex, **given)
        return queue

    async def handles(
        self, **options: Unpack[QueueOptions]
    ) -> tuple[RemoteQueue[Any, Any], RemoteQueue[Any, Any]]:
        """Two handles on one queue, of two brokers."""
        one = await self.queue(**options)
        broker = await self.another_broker()
        return one, await broker.queue(one.name)

    async def advance(self, seconds: float) -> None:
        """Put the store's clock forward, and the deadlines of the leases here back."""
        for broker in self._brokers:
            for group in groups_of(broker):
                assert group.dispatcher is not None
                self.put_forward(group.dispatcher._store, seconds)
            engines = broker._handles.engines()
            for engine in engines:
                for lease in [*engine._held.values()]:
                    engine.let_go(lease)
                    lease._deadline -= seconds
                    engine._hold(lease)
            if any(engine.kept for engine in engines):
                for group in groups_of(broker):
                    group.housekeeping.expire(broker._home.time())
        for broker in self._brokers:
            for engine in broker._handles.engines():
                while not engine.closed and engine.kept:
                    if not (await engine.dispatcher.perform(Call(Sweep(engine.ref, 64)))).more:
                        break

    async def close(self) -> None:
        """Close all brokers."""
        for broker in self._brokers:
            await broker.close()
