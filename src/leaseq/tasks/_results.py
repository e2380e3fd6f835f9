"""Results and XCom values, each kept for a time under a key, and waited for.

A value is an item in a queue of the broker that is never leased: its time to live, which runs
until the first lease, so runs all the time. A waiter takes a second item, the *bell*, which is put
together with the value: it wakes one waiter, which then rings it for the next.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from anyio import fail_after

from .._core.errors import LeaseLostError
from .._core.validation import timeout_seconds
from ..abc import Broker, LeasedQueue, Transaction

_LEASE: Final = 10.0
"""Seconds until the bell rings for another waiter, when the one that holds it dies."""
_ECHO: Final = 60.0
"""Seconds in which a waiter that found no value has to start waiting for the bell."""


class Results:
    """Values by key, each with a time to live, in one queue of a broker.

    Args:
        broker: The broker of the queue.
        queue: The queue that holds the values and their bells.
    """

    def __init__(self, broker: Broker, queue: LeasedQueue[str, Any]) -> None:
        self._broker = broker
        self._queue = queue

    def stage(self, transaction: Transaction, key: str, value: object, ttl: float) -> None:
        """Add to a transaction that a value is kept, in place of an older one.

        Args:
            transaction: The transaction.
            key: The key of the value.
            value: A plain value.
            ttl: Seconds for which it is kept.
        """
        transaction.put(self._queue, _value_key(key), [value], ttl=ttl)
        transaction.put(self._queue, _bell_key(key), True, ttl=ttl, if_in_flight="buffer")

    async def read(self, key: str) -> list[Any]:
        """Return a list with the value, or an empty list."""
        return await self._queue.peek(_value_key(key)) or []

    async def wait(self, key: str, timeout: float | None) -> Any:
        """Wait until there is a value, and return it.

        Args:
            key: The key of the value.
            timeout: Seconds to wait. None: without end; 0 or less: do not wait.

        Raises:
            TimeoutError: There was no value in time.
            ValueError: The timeout is not a number.

        If cancelled, nothing has changed: value and bell are there for other waiters.
        """
        timeout = timeout_seconds(timeout)
        found = await self.read(key)
        if not found and timeout == 0:
            raise TimeoutError
        with fail_after(timeout):
            while not found:
                _, _, lease = await self._queue.take(_bell_key(key), lease_timeout=_LEASE)
                with suppress(LeaseLostError):
                    async with lease:  # a bell whose value is gone ends here
                        found = await self.read(key)
                        if found:
                            await self._ring_for_the_next(lease)
        return found[0]

    async def _ring_for_the_next(self, bell: Any) -> None:
        async with self._broker.transaction() as transaction:
            transaction.ack(bell)
            transaction.put(self._queue, bell.key, True, ttl=_ECHO)


def _value_key(key: str) -> str:
    return f"value:{key}"


def _bell_key(key: str) -> str:
    return f"bell:{key}"
