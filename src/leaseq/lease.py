"""One hold on one item, and the cancel scope that ends with it."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from anyio import CancelScope

from ._loop import is_cancellation
from .errors import InvalidLeaseError, LeaseLostError

if TYPE_CHECKING:
    from .abc import LeasedQueue
    from .values import Ended

__all__ = ["Lease"]

K = TypeVar("K")
V = TypeVar("V")


class Lease(Generic[K, V]):
    """The exclusive hold of one consumer on one item, until it is settled or lost.

    Made by a queue, never by hand. ``async with lease`` runs its body in a cancel scope:

    - the body ends: the item is acknowledged, unless the body has settled the lease itself;
    - the body raises an `Exception`: the item is released under the retry policy, the error goes
      on;
    - the body is cancelled from outside: the item is released and this hand-out not counted; it
      returns to its old place the first time, and to the back of the line from the second time in
      a row on, so that no consumer can keep others from their turn by giving up again and again;
    - the lease is lost (it expired, or its queue was closed): the body is cancelled, and
      `LeaseLostError` raised after it. A body that blocks the event loop, or shields itself,
      cannot be stopped: have what it writes to refuse a `token` lower than the last one it saw.

    Attributes:
        queue: The queue that handed it out.
        key: The item's key.
        value: The item's value as it was handed out; a later put does not change it.
        token: The fencing token: for each key it only grows, also across restarts.
        deadline: When the lease expires, in seconds of the event loop's clock
            (`anyio.current_time`); `math.inf`: never.
        deliveries: Hand-outs of this item that count, this one included: 1 the first time.
        cancellations: Hand-outs in a row before this one that were cancelled, and so not counted.
        ended: None while the lease holds its item, else how it ended.
    """

    __slots__ = (
        "_scope",
        "cancellations",
        "deadline",
        "deliveries",
        "ended",
        "key",
        "queue",
        "token",
        "value",
    )

    def __init__(self, queue: LeasedQueue[K, V], key: K, value: V) -> None:
        self.queue = queue
        self.key = key
        self.value = value
        self.token = 0
        self.deadline = math.inf
        self.deliveries = 0
        self.cancellations = 0
        self.ended: Ended | None = None
        self._scope: CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.key!r} token={self.token} {self.ended or 'held'}>"

    async def ack(self) -> bool:
        """The item is done: the same as `LeasedQueue.ack` with this lease."""
        return await self.queue.ack(self)

    async def release(self, *, requeue_front: bool = False, counted: bool = True) -> None:
        """Let it be tried again: the same as `LeasedQueue.release` with this lease."""
        await self.queue.release(self, requeue_front=requeue_front, counted=counted)

    async def extend(self, timeout: float | None) -> None:
        """A new deadline, from now: the same as `LeasedQueue.extend` with this lease."""
        await self.queue.extend(self, timeout)

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError(f"{self!r} is entered already: one body for one lease")
        if self.ended is not None:
            raise InvalidLeaseError(f"{self!r} cannot be entered: it has ended")
        self._scope = CancelScope()
        self._scope.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scope
        assert scope is not None
        try:
            swallowed = scope.__exit__(exc_type, error, traceback)
        except BaseException as rest:  # a group, less the cancellations that were the scope's own
            await self._leave(rest)
            raise
        finally:
            self._scope = None
        # The scope swallows the cancellation of a lost lease only, and then this raises.
        await self._leave(None if swallowed else error)

    async def _leave(self, error: BaseException | None) -> None:
        if self.ended == "lost":
            if error is None:
                raise LeaseLostError(f"{self!r} was lost while its body ran")
        elif self.ended is not None:
            pass  # the body has settled it
        elif error is None:
            await self.queue.ack(self)
        else:
            with suppress(InvalidLeaseError):  # it ran out just now: the error says more
                if _is_failure(error):
                    await self.queue.release(self)
                else:
                    await self.queue.give_back(self)

    def cancel_body(self) -> None:
        """Cancel what runs under ``async with lease``. For engines: the lease is lost."""
        if self._scope is not None:
            self._scope.cancel("the lease was lost")


def _is_failure(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_failure, error.exceptions))
    if isinstance(error, Exception):
        return True
    return isinstance(error, asyncio.CancelledError) and not is_cancellation(error)
