"""The engine under test: the client over a store in this process."""

from __future__ import annotations

import uuid
from typing import Any, Unpack

from anyio import CancelScope
from tests.contract.helpers import QueueOptions
from tests.remote.ledger_store import LedgerBackend

from leaseq._remote.broker import RemoteBroker
from leaseq.testing import advance

_MOMENT = 0.01  # seconds that a client takes to look after what has fallen due


class Ledgers:
    """Makes queues and brokers, each broker as if in a process of its own."""

    def __init__(self) -> None:
        self._backend = LedgerBackend()
        self._brokers: list[RemoteBroker] = []

    async def another_broker(self) -> RemoteBroker:
        """One more broker on the same queues."""
        broker = RemoteBroker(self._backend.open, place="this process")
        await broker.__aenter__()
        self._brokers.append(broker)
        return broker

    async def broker(self) -> RemoteBroker:
        """A broker without any queues."""
        self._backend = LedgerBackend()
        return await self.another_broker()

    async def queue(self, **options: Unpack[QueueOptions]) -> Any:
        """A queue of the one broker that all queues of a test share."""
        broker = self._brokers[0] if self._brokers else await self.another_broker()
        given: dict[str, Any] = dict(options)
        letters = given.pop("dead_letters", None)
        if letters is not None:
            given["dead_letters"] = letters.name
        return await broker.queue(given.pop("name", None) or uuid.uuid4().hex, **given)

    async def handles(self, **options: Unpack[QueueOptions]) -> tuple[Any, Any]:
        """Two handles on one queue, of two brokers."""
        one = await self.queue(**options)
        broker = await self.another_broker()
        return one, await broker.queue(one.name)

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, all of it, even if it ends the lease of the body that asks."""
        with CancelScope(shield=True):
            await advance(seconds + _MOMENT)

    async def close(self) -> None:
        """Close all brokers."""
        for broker in self._brokers:
            await broker.close()
