"""Values that are kept for a time, by key, and can be waited for.

A value lies in a queue of the broker's, and is never leased: so its time to live, which runs until
the first lease, runs all the time. Who waits for a value takes a second item, the *bell*, which is
put with it: it wakes one waiter, and that one rings again for the next.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from anyio import fail_after

from .._core.errors import LeaseLostError
from .._core.validation import wait_seconds
from ..abc import Broker, LeasedQueue, Transaction

__all__ = ["Store"]

_LEASE: Final = 10.0
"""Seconds until the bell rings for another one if its waiter dies with it in hand."""
_ECHO: Final = 60.0
"""Seconds in which one who looked too early comes to wait."""


class Store:
    """Values by key, each for a time, in one queue of a broker.

    Args:
        broker: Whose transactions they are put in.
        queue: Where they are.
    """

    def __init__(self, broker: Broker, queue: LeasedQueue[str, Any]) -> None:
        self._broker = broker
        self._queue = queue

    def stage(self, transaction: Transaction, key: str, value: object, ttl: float) -> None:
        """Have a transaction keep a value, instead of the one that is there.

        Args:
            transaction: In which step.
            key: What it is found under.
            value: A plain value.
            ttl: Seconds until it is gone.
        """
        transaction.put(self._queue, _value(key), [value], ttl=ttl)
        transaction.put(self._queue, _bell(key), True, ttl=ttl, if_in_flight="buffer")

    async def read(self, key: str) -> list[Any]:
        """The value, alone in a list; or an empty list."""
        return await self._queue.peek(_value(key)) or []

    async def wait(self, key: str, timeout: float | None) -> Any:
        """The value, as soon as there is one.

        Args:
            key: What it is found under.
            timeout: Seconds to wait for it, None: without end; 0: do not wait.

        Raises:
            TimeoutError: it did not come in time.
            ValueError: the timeout is negative or not a number.

        If cancelled, nothing has changed: the value is there for others, and so is the bell.
        """
        if timeout is not None:
            wait_seconds("timeout", timeout)
        found = await self.read(key)
        if not found and timeout == 0:
            raise TimeoutError
        with fail_after(timeout):
            while not found:
                _, _, lease = await self._queue.take(_bell(key), lease_timeout=_LEASE)
                with suppress(LeaseLostError):
                    async with lease:  # a bell whose value is gone ends here
                        found = await self.read(key)
                        if found:
                            await self._ring_for_the_next(key, lease)
        return found[0]

    async def _ring_for_the_next(self, key: str, lease: Any) -> None:
        async with self._broker.transaction() as transaction:
            transaction.ack(lease)
            transaction.put(self._queue, lease.key, True, ttl=_ECHO)


def _value(key: str) -> str:
    return f"value:{key}"


def _bell(key: str) -> str:
    return f"bell:{key}"
