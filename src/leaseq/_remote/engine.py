"""What a queue of this engine is made of: its place on the server, its waiters, its leases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, TypeVar, cast

from anyio import TASK_STATUS_IGNORED, BusyResourceError
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from .._core.codec import Codec
from .._core.errors import InvalidLeaseError, LeaseqError, QueueClosedError, ServerError
from .._core.lease import Lease
from .._core.messages import no_timekeeper
from .._core.options import BrokerQueueOptions
from .._core.policies import Retry
from .._core.requests import ClaimRequest, PutRequest
from .._valkey.server_errors import refusal
from ..abc import LeasedQueue
from .lease import ValkeyLease
from .requests import Answer, Ask, Site, Word
from .waiters import Waiter, Waiters

if TYPE_CHECKING:
    from .broker import ValkeyBroker

__all__ = ["BEHIND", "Core", "raised"]

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger("leaseq")

BEHIND = 8  # where a put says whether somebody of this process waits before it


class Core(LeasedQueue[K, V]):
    """A handle on a queue that lives on a server.

    Args:
        broker: Whose it is.
        site: Where it is.
        codec: Turns its values into bytes, and back.
        made_with: The options that the queue was made with.
        handled_with: Those that this handle was asked for with.
    """

    def __init__(
        self,
        broker: ValkeyBroker,
        site: Site,
        codec: Codec[V],
        made_with: BrokerQueueOptions,
        handled_with: BrokerQueueOptions,
    ) -> None:
        self.name = site.name
        self.site = site
        self.codec = codec
        self._broker = broker
        self._home = broker.home
        self._courier = broker.courier
        self.made_with = made_with
        self.handled_with = handled_with
        self._lease_timeout = made_with.get("default_lease_timeout")
        self._any: ClaimRequest[K] = ClaimRequest(lease_timeout=self._lease_timeout)
        self._needs_time = made_with.get("retry", Retry()).backoff is not None
        self._waiters: Waiters[K, V] = Waiters()
        self._putters: dict[Ask, int] = {}  # who waits for how many places, in their order
        self._joiners: dict[Ask, None] = {}
        self._held: dict[int, ValkeyLease[K, V]] = {}  # by token
        self._runs = False
        self._shut_down = False
        self._closed = False
        self._deleted = False
        self._complaint = ""  # what was said when something was last claimed in vain
        self._drained = False  # as far as is known; asked for once it is shut down, or closed
        self.next_due = inf  # when something is on the server, in seconds on the loop's clock

    def __repr__(self) -> str:
        state = "closed" if self._closed else "shut down" if self._shut_down else "open"
        return f"<{type(self).__name__} {self.name!r} {state}: {len(self._held)} leased here>"

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def kept(self) -> bool:
        """Whether some `run` lets time pass for it."""
        return self._broker.keeps(self)

    @property
    def runs(self) -> bool:
        """Whether its own `run` does."""
        return self._runs

    def time(self) -> float:
        """The event loop's time, in seconds."""
        return self._home.time()

    # Asking

    async def _ask(self, script: str, word: str, *words: Word, withdraw: bool = False) -> Answer:
        """Ask something of the queue that must be there."""
        await checkpoint_if_cancelled()  # or a loop of these could not be cancelled
        self._home.check()
        ask = Ask(script, word, self.site, *words)
        return self._present(await self._courier.ask(ask, withdraw=withdraw))

    def _present(self, answer: Answer) -> Answer:
        if answer[0] == b"gone":
            self.vanish()
            raise self._closed_error()
        if answer[0] == b"raised":
            raise raised(answer)
        return answer

    # What is leased here

    def _hold(self, lease: ValkeyLease[K, V]) -> None:
        self._held[lease.token] = lease
        if lease.deadline != inf:
            self._broker.upkeep.deadlines.add(lease.deadline, lease)
            self._courier.expire_at(lease.deadline)

    def let_go(self, lease: ValkeyLease[K, V]) -> None:
        """A lease has ended, or is about to have another deadline."""
        if self._held.pop(lease.token, None) is not None and lease.deadline != inf:
            self._broker.upkeep.deadlines.drop(lease)

    def lose(self, lease: ValkeyLease[K, V]) -> None:
        """A lease is lost: its body ends."""
        self.let_go(lease)
        lease.ended = "lost"
        lease._cancel_body()

    def expire(self, lease: ValkeyLease[K, V]) -> None:
        """A lease is lost that has just been taken out of the deadlines, being due."""
        logger.warning(
            "queue %r: the lease on %r, token %d, expired", self.name, lease.key, lease.token
        )
        del self._held[lease.token]
        lease.ended = "lost"
        lease._cancel_body()

    def lost(self, token: int) -> None:
        """The server has taken a lease away."""
        lease = self._held.get(token)
        if lease is not None:
            self.lose(lease)

    # Being told

    def woken(self, want: bytes) -> None:
        """The server has something for those here who want this. O(groups)."""
        kind = want[:1]
        if kind == b"j":
            self._waiters.parked.pop(want, None)
            self.drain()
        elif kind == b"x":
            self.vanish()
        elif kind == b"l":
            self.lost(int(want.rpartition(b"\0")[2]))
        elif not self._seek(want):
            self._courier.post(Ask("turn", "wake", self.site, want))

    def _seek(self, want: bytes) -> bool:
        """Those here who want this try; False: nobody does any more. O(groups)."""
        known = self._waiters.woken(want)
        if want == b"r" and self._putters:
            self._let_putter_in()
            known = True
        if want == b"j":
            self._ask_for_the_end()
        self._courier.nudge()
        return known

    def look_again(self) -> None:
        """A wake-up may have been lost: then this process is parked no more where it was."""
        self._waiters.look_again()
        parked = [*self._waiters.parked.items()]

        def receive(answer: Answer) -> None:
            if answer[0] == b"gone":
                self.vanish()
            elif answer[0] == b"ok":
                for want in answer[1:]:
                    self._seek(want)

        places = next(iter(self._putters.values()), 0)
        words: list[Word] = [str(places), str(len(parked))]
        words += [word for pair in parked for word in pair]
        self._courier.post(Ask("turn", "parked", self.site, *words, receive=receive))

    def _ask_for_the_end(self) -> None:
        """Whether the queue is drained is asked anew."""
        joiners, self._joiners = [*self._joiners], {}
        for joiner in joiners:
            self._courier.post(joiner)
        if self._shut_down and self._waiters.total:
            self._watch_the_end()

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for anything here."""
        return bool(self._waiters.total or self._putters or self._joiners)

    # Room

    def _let_putter_in(self) -> None:
        """There may be room: the first of those who wait for it tries."""
        first = next(iter(self._putters), None)
        if first is not None and not first.posted and not first.sent:
            first.words = (*first.words[:BEHIND], "0", *first.words[BEHIND + 1 :])
            self._courier.post(first)

    def _turn_putters_away(self) -> None:
        """Nothing is put any more, save what is under way: that may have been."""
        for putter in [*self._putters]:
            if not putter.sent:
                self._courier.withdraw(putter)
                putter.fail(self._shut_down_error())
        self._putters.clear()

    def _shut_down_error(self) -> QueueClosedError:
        if self._deleted:
            return self._closed_error()
        how = "closed" if self._closed else "shut down"
        return QueueClosedError(f"{self!r} takes nothing more: it is {how}")

    def check_takes(self, terms: PutRequest) -> None:
        """Raise if nothing, or nothing like that, can be put through this handle."""
        if self._shut_down or self._closed:
            raise self._shut_down_error()
        if terms.delay > 0 and not self.kept:
            raise no_timekeeper(self, f"a delay of {terms.delay:g} s", "end")

    # Time

    def sweep(self) -> None:
        """Something is due on the server: have it done."""
        self.next_due = inf
        if not self._closed and self.kept:
            self._courier.post(Ask("turn", "sweep", self.site, "64"))

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._runs:
            raise BusyResourceError("letting time pass for")
        self._home.check()
        self._runs = True
        try:
            await self._broker.drive(self._is_over, task_status)
        finally:
            self._runs = False

    def _is_over(self) -> bool:
        return self._closed or (self._shut_down and self._drained)

    # The end

    def drain(self) -> None:
        """The queue was drained just now: those who wait for that need not any more."""
        self._drained = self._shut_down
        joiners, self._joiners = [*self._joiners], {}
        for joiner in joiners:
            joiner.accept([b"ok", 0, 0])
        if self._shut_down:
            self._turn_away(self._waiters.drop_all())
        self._courier.ring()

    def join_ask(self, receive: Callable[[Answer], bool | None]) -> Ask:
        """Ask whether the queue is drained, and to be told when it is."""
        parked = self._waiters.parked.get(b"j", b"0")
        return Ask("turn", "join", self.site, parked, receive=receive)

    def unpark(self, want: bytes) -> None:
        """Nobody here wants that any more."""
        stamp = self._waiters.parked.pop(want, None)
        if stamp is not None and not self._closed:
            self._courier.post(Ask("turn", "unpark", self.site, "1", want, stamp))

    def not_yet(self, answer: Answer) -> bool:
        """Whether something is left, by the answer to a join: then this process will be told."""
        _, left, stamp = answer
        if left:
            self._waiters.parked[b"j"] = b"%d" % stamp
        else:
            self.drain()
        return bool(left)

    def vanish(self) -> None:
        """The queue was deleted: this handle is closed."""
        self._closed = self._deleted = True
        self._broker.forget(self)
        self._give_up_all()

    def _give_up_all(self) -> None:
        for lease in [*self._held.values()]:
            self.lose(lease)
        self._turn_away(self._waiters.drop_all())
        self._turn_putters_away()
        for joiner in self._joiners:
            joiner.fail(self._closed_error())
        self._joiners.clear()
        self._courier.ring()

    def _turn_away(self, waiters: Iterable[Waiter[K, V]]) -> None:
        for waiter in waiters:
            waiter.end()

    def _watch_the_end(self) -> None:
        """Be told when the queue is drained."""

        def receive(answer: Answer) -> None:
            if answer[0] == b"gone":
                self.vanish()
            elif answer[0] == b"ok":
                self.not_yet(answer)

        self._courier.post(self.join_ask(receive))

    def _check_open(self) -> None:
        """Raise if nothing comes any more."""
        if self._closed or (self._shut_down and self._drained):
            raise self._closed_error()

    def _closed_error(self) -> QueueClosedError:
        drained = self._drained
        if self._deleted:
            why = f"{self!r}: it was deleted, or the server has lost it"
        elif drained:
            why = f"{self!r} is drained: nothing more is coming"
        else:
            why = f"{self!r} was closed with work left"
        return QueueClosedError(why, drained=drained)

    def mine(self, lease: Lease[K, V]) -> ValkeyLease[K, V]:
        """The lease, if it is one of this queue's."""
        if lease.queue is not self or self._closed:
            raise self._not_mine(lease)
        self._home.check()
        return cast("ValkeyLease[K, V]", lease)

    def _not_mine(self, lease: Lease[K, V]) -> LeaseqError:
        if lease.queue is not self:
            return InvalidLeaseError(f"{lease!r} is another queue's: settle it there")
        return QueueClosedError(f"{self!r}: its leases are lost", drained=self._drained)


def raised(answer: Answer) -> ServerError:
    """The error for what failed on the server: that alone of what was asked together."""
    return refusal(answer[1].decode(errors="replace"))
