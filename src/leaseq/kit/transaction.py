"""The half of a transaction that is the same on every engine: its block, and its leases' bodies."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from ..abc import LeasedQueue, Transaction
from ..errors import InvalidLeaseError
from ..lease import Lease
from ..values import PutOptions

__all__ = ["PledgingTransaction"]

V = TypeVar("V")


class PledgingTransaction(Transaction):
    """Keeps what is asked of it until the block is left, and then commits it.

    An engine keeps the steps, each after `_check_open`, and has every lease that a step settles
    given to `_pledge`: the end of its body is then left to the transaction, until that is over.
    """

    def __init__(self) -> None:
        self._state: Literal["new", "open", "over"] = "new"
        self._pledged: list[Lease[Any, Any]] = []
        self._bodiless: list[Lease[Any, Any]] = []  # their bodies have ended, and left them to us

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a transaction is for one block: make another one")
        self._state = "open"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "over"
        if error is None:
            try:
                await self._commit()
            except BaseException as failed:
                await self._abandon(failed)
                raise
            self._release_pledges()
        else:
            await self._abandon(error)

    @abstractmethod
    async def _commit(self) -> None:
        """Do all that was asked for, or nothing of it and raise `TransactionError`."""

    def add(
        self,
        queue: LeasedQueue[str, V],
        value: V,
        *,
        message_id: str | None = None,
        **options: Unpack[PutOptions],
    ) -> str:
        key = uuid.uuid4().hex if message_id is None else message_id
        self.put(queue, key, value, **options)
        return key

    def _check_open(self) -> None:
        if self._state != "open":
            raise RuntimeError("the transaction is not open: use it inside its async with")

    def _pledge(self, lease: Lease[Any, Any]) -> None:
        """See to it that the end of this lease's body leaves it to the transaction."""
        self._pledged.append(lease)
        lease.pledge = self._take_over

    def _take_over(self, lease: Lease[Any, Any]) -> None:
        self._bodiless.append(lease)

    def _release_pledges(self) -> None:
        for lease in self._pledged:
            if lease.pledge == self._take_over:
                lease.pledge = None

    async def _abandon(self, error: BaseException) -> None:
        """Nothing was done: let those go back whose bodies have ended."""
        self._release_pledges()
        for lease in self._bodiless:
            with suppress(InvalidLeaseError):  # it has ended otherwise: the error says more
                await lease.abandon(error)
