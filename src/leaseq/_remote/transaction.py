"""Transactions over the queues of this engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from .._core.errors import InvalidLeaseError, LeaseqError, QueueClosedError, TransactionError
from .._core.lease import Lease
from .._core.messages import check_held
from .._core.options import PutOptions
from .._core.reports import Ended
from .._core.requests import PutRequest
from .._valkey.encoding import put_words
from .._valkey.keys import encode_key, encoded
from ..abc import LeasedQueue, Transaction
from .engine import raised
from .queue import ValkeyQueue, release_words
from .requests import Answer, Ask, Word

if TYPE_CHECKING:
    from .broker import ValkeyBroker

__all__ = ["ValkeyTransaction"]

K = TypeVar("K")
V = TypeVar("V")


class _Step:
    """One thing that a transaction does to one queue."""

    def __init__(self, queue: ValkeyQueue[Any, Any], *words: Word) -> None:
        self.queue = queue
        self.words = words

    @property
    def impossible(self) -> tuple[Word, ...]:
        """What is asked in its place if it cannot be done: so that the server refuses all of it."""
        return "ack", self.queue.site, b"s", "0"

    def check(self) -> None:
        """Raise if it is known here that it cannot be done."""

    def refused(self, why: bytes, what: bytes | int) -> Exception:
        """The error for what the server has said against it."""
        if why == b"gone":
            return QueueClosedError(f"{self.queue!r}: it was deleted")
        return LeaseqError(f"{self.queue!r} has no room for {int(what)} more")

    def done(self) -> None:
        """It was done."""


class _Put(_Step):
    def __init__(
        self, queue: ValkeyQueue[Any, Any], key: object, terms: PutRequest, *words: Word
    ) -> None:
        super().__init__(queue, "put", queue.site, *words)
        self._key = key
        self._terms = terms

    def check(self) -> None:
        self.queue.check_takes(self._terms)

    def refused(self, why: bytes, what: bytes | int) -> Exception:
        if why in (b"in_flight", b"tenant"):
            return self.queue.refusal(self._key, self._terms, why, what)
        return super().refused(why, what)


class _Settle(_Step):
    def __init__(
        self, queue: ValkeyQueue[Any, Any], lease: Lease[Any, Any], ended: Ended, *words: Word
    ) -> None:
        held = queue.mine(lease)
        super().__init__(queue, words[0], queue.site, held.wire_key, str(held.token), *words[1:])
        self._lease = held
        self._ended = ended

    def check(self) -> None:
        self.queue.mine(self._lease)
        check_held(self._lease, self.queue.time())

    def refused(self, why: bytes, what: bytes | int) -> Exception:
        if why == b"twice":
            return InvalidLeaseError(f"{self._lease!r} is settled twice")
        if why == b"no":
            self.queue.lose(self._lease)
            try:
                check_held(self._lease, self.queue.time())
            except InvalidLeaseError as error:
                return error
        return super().refused(why, what)

    def done(self) -> None:
        self.queue.let_go(self._lease)
        self._lease.ended = self._ended


class ValkeyTransaction(Transaction):
    """Steps that are kept until the block is left, and then planned and done by one script."""

    def __init__(self, broker: ValkeyBroker) -> None:
        super().__init__()
        self._broker = broker
        self._steps: list[_Step] = []
        self._weight = 0

    def put(
        self, queue: LeasedQueue[K, V], key: K, value: V, **options: Unpack[PutOptions]
    ) -> None:
        mine = self._mine(queue)
        wire_key = encode_key(key)
        terms = PutRequest(**options)
        body = mine.codec.encode(value)
        self._check_open()
        self._weight += len(body)
        self._steps.append(_Put(mine, key, terms, *put_words(terms, [(wire_key, body)])))

    def ack(self, lease: Lease[K, V]) -> None:
        self._settle(lease, "acked", "ack")

    def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        self._mine(lease.queue).check_release(requeue_front, delay)
        self._settle(lease, "released", "release", *release_words(requeue_front, delay, counted))

    def reject(self, lease: Lease[K, V], reason: str) -> None:
        self._settle(lease, "rejected", "reject", encoded(reason), "0", "")

    def _settle(self, lease: Lease[Any, Any], ended: Ended, *words: Word) -> None:
        queue = self._mine(lease.queue)
        self._check_open()
        self._steps.append(_Settle(queue, lease, ended, *words))
        self._pledge(lease)

    def _mine(self, queue: object) -> ValkeyQueue[Any, Any]:
        if not isinstance(queue, ValkeyQueue) or not self._broker.owns(queue):
            raise ValueError(f"{queue!r} is not a queue of this broker")
        return queue

    async def _commit(self) -> None:
        if not self._steps:
            return
        known: dict[int, Exception] = {}  # what cannot be done, by the step's number
        words: list[Word] = []
        for number, step in enumerate(self._steps, 1):
            try:
                step.check()
            except LeaseqError as failure:
                known[number] = failure
                words += step.impossible
            else:
                words += step.words

        if len(known) == len(self._steps):
            raise TransactionError([*known.values()])

        def receive(answer: Answer) -> None:
            if answer[0] == b"ok":
                for step in self._steps:
                    step.done()

        count = str(len(self._steps))
        ask = Ask("turn", "transact", count, *words, receive=receive, weight=self._weight)
        answer = await self._broker.courier.ask(ask, withdraw=True)
        if answer[0] == b"raised":
            raise raised(answer)
        if answer[0] != b"ok":
            against = [answer[index : index + 3] for index in range(1, len(answer), 3)]
            # A step that is known to be impossible was asked for as one that the server refuses.
            # The want of room is told under the last step of its queue, whatever came of that.
            raise TransactionError(
                [
                    self._steps[number - 1].refused(why, what)
                    if number not in known or why == b"full"
                    else known[number]
                    for number, why, what in against
                ]
            )
