"""The engine under test: brokers of their own, on a server, whose time the tests can move."""

from __future__ import annotations

import uuid
from typing import Any, Unpack

from tests.contract.helpers import QueueOptions

from leaseq._remote.requests import Ask
from leaseq.valkey import ValkeyBroker, ValkeyQueue, ValkeyUrl


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

    async def queue(self, **options: Unpack[QueueOptions]) -> ValkeyQueue[Any, Any]:
        """A queue of the one broker that all queues of a test share."""
        broker = self._brokers[0] if self._brokers else await self.another_broker()
        given: dict[str, Any] = dict(options)
        letters = given.pop("dead_letters", None)
        if letters is not None:
            given["dead_letters"] = letters.name
        return await broker.queue(given.pop("name", None) or uuid.uuid4().hex, **given)

    async def handles(
        self, **options: Unpack[QueueOptions]
    ) -> tuple[ValkeyQueue[Any, Any], ValkeyQueue[Any, Any]]:
        """Two handles on one queue, of two brokers."""
        one = await self.queue(**options)
        broker = await self.another_broker()
        return one, await broker.queue(one.name)

    async def advance(self, seconds: float) -> None:
        """Put the server's clock forward, and the deadlines of the leases here back."""
        for broker in self._brokers:
            broker.courier.offset += round(seconds * 1e6)
            for queue in [*broker._queues.values()]:
                for lease in [*queue._held.values()]:
                    queue.let_go(lease)
                    lease.deadline -= seconds
                    queue._hold(lease)
            if any(queue.kept for queue in broker._queues.values()):
                broker.upkeep.expire(broker.home.time())
        for broker in self._brokers:
            for queue in [*broker._queues.values()]:
                while not queue.closed and queue.kept:
                    _, _, more, _ = await broker.courier.ask(Ask("turn", "sweep", queue.site, "64"))
                    if not more:
                        break

    async def close(self) -> None:
        """Close all brokers."""
        for broker in self._brokers:
            await broker.close()
