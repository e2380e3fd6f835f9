"""How items of this engine are leased: at once, or by those who wait, all with one claim."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from math import inf
from typing import TypeVar, cast

from anyio import fail_after

from .._core.messages import no_timekeeper
from .._core.options import ANY_KEY, AnyKey, GetOptions, TakeOptions
from .._core.requests import ClaimRequest
from .._valkey.keys import decode_key, decode_name, encode_key, encode_name, encoded, shown
from .engine import Core, raised
from .lease import ValkeyLease, local_seconds
from .requests import Answer, Ask, Word, microseconds
from .waiters import Group, Waiter

__all__ = ["Claiming"]

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger("leaseq")

_CLAIM = 100  # items that one claim takes at most, all in all
_UNDECODABLE = "undecodable"


class Claiming(Core[K, V]):
    """The hand-outs of a queue."""

    def _request(self, key: K | AnyKey, options: GetOptions | TakeOptions) -> ClaimRequest[K]:
        options = {"lease_timeout": self._lease_timeout, **options}
        request = ClaimRequest(key, **options)
        self._asked_for(request, 1)  # what cannot be sent is refused before it waits with others
        return request

    async def _lease(
        self,
        request: ClaimRequest[K],
        count: int,
        timeout: float | None = None,
        *,
        patient: bool = False,
    ) -> list[ValkeyLease[K, V]]:
        """Lease some items, one at least, and wait for the first if need be."""
        self._check_open()
        if not self.kept and (request.timed or self._needs_time):
            what = f"a lease of {request.lease_timeout:g} s" if request.timed else "a backoff"
            raise no_timekeeper(self, what, "expire" if request.timed else "end")
        if timeout == 0 or self._shut_down:
            leases = await self._claim(request, count)
            if leases:
                return leases
            self._check_open()
            if timeout == 0:
                raise TimeoutError
        if timeout is None:
            return await self._stand_in_line(request, count, patient=patient)
        with fail_after(timeout):
            return await self._stand_in_line(request, count, patient=patient)

    async def _stand_in_line(
        self, request: ClaimRequest[K], count: int, *, patient: bool
    ) -> list[ValkeyLease[K, V]]:
        self._courier.rights.check("claim")
        while True:
            self._check_open()
            waiter: Waiter[K, V] = Waiter(request, count)
            if self._waiters.add(waiter, patient=patient):
                self._courier.nudge()
            self._broker.upkeep.waits(self)
            try:
                await self._courier.attend(waiter)
            except BaseException:
                if not self._waiters.drop(waiter):
                    self._undo(waiter.leases)
                self._courier.nudge()
                raise
            if waiter.error is not None:
                raise waiter.error
            if not waiter.leases:
                raise self._closed_error()
            leases = [lease for lease in waiter.leases if self._holds(lease)]
            if leases:
                return leases

    def _holds(self, lease: ValkeyLease[K, V]) -> bool:
        return lease.ended is None and lease.deadline > self._home.time()

    async def _claim(self, request: ClaimRequest[K], count: int) -> list[ValkeyLease[K, V]]:
        """Lease what is there, and do not wait."""
        leases: list[ValkeyLease[K, V]] = []
        handed_out = True
        given_up = False

        def receive(answer: Answer) -> None:
            nonlocal handed_out
            if answer[0] == b"ok":
                self._drained = self._shut_down and not answer[2]
                handed_out = bool(answer[4])
                leases.extend(self._received(answer[4], request))
            if given_up:
                self._undo(leases)

        words = ("claim", self.site, b"0", b"0", b"1", *self._asked_for(request, count))
        while not leases and handed_out:  # again, if what came could not be read
            ask = Ask("turn", *words, receive=receive)
            try:
                self._present(await self._courier.ask(ask, withdraw=True))
            except BaseException:
                given_up = True
                self._undo(leases)
                raise
        return [lease for lease in leases if self._holds(lease)]

    def _asked_for(
        self, request: ClaimRequest[K], count: int, *, patient: bool = False
    ) -> list[bytes | str]:
        words: list[bytes | str] = [
            str(min(count, _CLAIM)),
            microseconds(request.lease_timeout),
            encode_name(request.consumer),
            "1" if patient else "0",
        ]
        if request.key is not ANY_KEY:
            return [*words, "key", encode_key(request.key)]
        if request.tenants is None:
            return [*words, "any"]
        return [
            *words,
            "tenants",
            str(len(request.tenants)),
            *map(encode_name, request.tenants),
            str(len(request.steal_from)),
            *map(encode_name, request.steal_from),
        ]

    # For the courier: those who wait

    def claims(self) -> Iterable[Ask]:
        """What is to be asked for those who wait here."""
        stale = self._waiters.stale()
        if stale:
            pairs = [word for pair in stale for word in pair]
            yield Ask("turn", "unpark", self.site, str(len(stale)), *pairs)
        runs = self._waiters.hungry(_CLAIM)
        if not runs:
            return
        parked = self._waiters.parked
        held = [
            (want, parked[want])
            for want in {want: None for group, _ in runs for want in group.wants}
            if want in parked
        ]
        words: list[Word] = ["claim", self.site, b"1", str(len(held))]
        for want, stamp in held:
            words += [want, stamp]
        words.append(str(len(runs)))
        for group, count in runs:
            words += self._asked_for(group.request, count, patient=group.patient)

        def receive(answer: Answer) -> None:
            self._served([group for group, _ in runs], answer)

        yield Ask("turn", *words, receive=receive, refuse=self._not_served)

    def _served(self, groups: list[Group[K, V]], answer: Answer) -> None:
        if answer[0] == b"gone":
            self.vanish()
            return
        if answer[0] != b"ok":
            self._not_served(raised(answer))
            return
        self._complaint = ""
        _, _, left, parks, *batches = answer
        for index in range(0, len(parks), 2):
            self._waiters.park(parks[index], b"%d" % parks[index + 1])
        self._courier.nudge()  # some of these may not be wanted any more
        for group, batch in zip(groups, batches, strict=True):
            leases = self._received(batch, group.request)
            self._undo(self._waiters.give(group, leases, more=bool(batch)))
        if self._shut_down and not left:
            self.drain()

    def _not_served(self, error: Exception) -> None:
        """Let them wait until the next beat, and say why, but not again and again."""
        self._waiters.rest()
        if str(error) != self._complaint and not self._closed:
            self._complaint = str(error)
            logger.error("queue %r: nothing can be claimed: %s", self.name, error)

    def _received(self, batch: list[Answer], request: ClaimRequest[K]) -> list[ValkeyLease[K, V]]:
        """The leases that a claim has brought; what cannot be read is a dead letter."""
        leases: list[ValkeyLease[K, V]] = []
        for fields in batch:
            lease = self._read(fields)
            if lease is None:
                continue
            lease.since = self._home.time()
            if request.lease_timeout != inf:
                lease.deadline = self._courier.sent_at + local_seconds(request.lease_timeout)
            self._hold(lease)
            leases.append(lease)
        return leases

    def _read(self, fields: Answer) -> ValkeyLease[K, V] | None:
        wire_key, body, token, priority, tenant, deliveries, cancellations, letter = fields[:8]
        try:
            key = cast("K", decode_key(wire_key))
            value = self._broker.read_letter(body) if letter else self.codec.decode(body)
        except Exception as error:  # whatever a codec raises: the item is not to be lost
            logger.error(
                "queue %r: %r, token %d, cannot be read: %s",
                self.name,
                shown(wire_key),
                int(token),
                type(error).__name__,
            )
            text = encoded(f"{type(error).__name__}: {error}")
            words = ("reject", self.site, wire_key, token, _UNDECODABLE, "1", text)
            self._courier.post(Ask("turn", *words))
            return None
        lease = ValkeyLease(self, key, cast("V", value), wire_key)
        lease.token = int(token)
        lease.priority = int(priority)
        lease.tenant = decode_name(tenant)
        lease.deliveries = deliveries
        lease.cancellations = cancellations
        return lease

    def _undo(self, leases: Sequence[ValkeyLease[K, V]]) -> None:
        """Hand-outs that their consumers never saw go back, before anything else is asked."""
        for lease in reversed(leases):
            if lease.ended is None:
                self.let_go(lease)
                lease.ended = "released"
                ask = Ask("turn", "undo", self.site, lease.wire_key, str(lease.token))
                self._courier.post(ask, first=True)
