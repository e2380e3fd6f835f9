"""The engine under test: brokers of their own, on a server, whose time the tests can move."""

from __future__ import annotations

import uuid
from typing import Any, Unpack

from tests.contract.helpers import QueueOptions

from leaseq._remote.dispatcher import Call, Dispatcher
from leaseq._remote.protocol import Sweep
from leaseq._valkey.store import ValkeyStore
from leaseq.valkey import RemoteQueue, ValkeyBroker, ValkeyUrl


def dispatcher_of(broker: ValkeyBroker) -> Dispatcher:
    """The dispatcher of a broker that is open."""
    assert broker._dispatcher is not None
    return broker._dispatcher


def store_of(broker: ValkeyBroker) -> ValkeyStore:
    """The store of a broker that is open."""
    store = dispatcher_of(broker)._store
    assert isinstance(store, ValkeyStore)
    return store


class Valkey:
    """Makes queues and brokers that no other test sees."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = uuid.uuid4().hex
        self._brokers: list[ValkeyBroker] = []

    async def another_broker(self) -> ValkeyBroker:
        """One more broker on the same queues, as from another process."""
        url = f"{self._url}?prefix={self._prefix}"
        broker = ValkeyBroker(ValkeyUrl.parse(url))
        await broker.__aenter__()
        self._brokers.append(broker)
        return broker

    async def broker(self) -> ValkeyBroker:
        """A broker without any queues."""
        self._prefix = uuid.uuid4().hex
        return await self.another_broker()

    async def queue(self, **options: Unpack[QueueOptions]) -> RemoteQueue[Any, Any]:
        """A queue of the one broker that all queues of a test share."""
        broker = self._brokers[0] if self._brokers else await self.another_broker()
        given: dict[str, Any] = dict(options)
        letters = given.pop("dead_letters", None)
        if letters is not None:
            given["dead_letters"] = letters.name
        return await broker.queue(given.pop("name", None) or uuid.uuid4().hex, **given)

    async def handles(
        self, **options: Unpack[QueueOptions]
    ) -> tuple[RemoteQueue[Any, Any], RemoteQueue[Any, Any]]:
        """Two handles on one queue, of two brokers."""
        one = await self.queue(**options)
        broker = await self.another_broker()
        return one, await broker.queue(one.name)

    async def advance(self, seconds: float) -> None:
        """Put the server's clock forward, and the deadlines of the leases here back."""
        for broker in self._brokers:
            store_of(broker).offset += round(seconds * 1e6)
            engines = broker._handles.engines()
            for engine in engines:
                for lease in [*engine._held.values()]:
                    engine.let_go(lease)
                    lease._deadline -= seconds
                    engine._hold(lease)
            if any(engine.kept for engine in engines):
                broker._housekeeping.expire(broker._home.time())
        for broker in self._brokers:
            for engine in broker._handles.engines():
                while not engine.closed and engine.kept:
                    if not (await engine.dispatcher.perform(Call(Sweep(engine.ref, 64)))).more:
                        break

    async def close(self) -> None:
        """Close all brokers."""
        for broker in self._brokers:
            await broker.close()
