"""The queue of this engine, as its users see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TypeVar, Unpack, cast

from anyio import CancelScope

from .._core.errors import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    LeaseLostError,
    QueueClosedError,
    ServerError,
    ServerUnavailableError,
)
from .._core.lease import Lease, read_receipt
from .._core.messages import check_held, check_release, never_fits, no_timekeeper, tenant_mismatch
from .._core.options import ANY_KEY, GetOptions, PutOptions, TakeOptions
from .._core.policies import Tenant
from .._core.reports import Ended, PutOutcome, RedriveResult
from .._core.requests import PutRequest, check_batch, check_limit
from .._core.validation import check_text, lease_seconds, wait_seconds
from .._valkey.encoding import put_words
from .._valkey.keys import decode_key, decode_name, encode_key, encode_name, encoded
from .engine import BEHIND
from .inspecting import Inspecting
from .lease import ValkeyLease, local_seconds
from .requests import Answer, Ask, Word, microseconds

__all__ = ["ValkeyQueue"]

K = TypeVar("K")
V = TypeVar("V")

_OUTCOMES = {
    b"a": PutOutcome.ADDED,
    b"r": PutOutcome.REPLACED,
    b"u": PutOutcome.UPDATED_IN_FLIGHT,
    b"d": PutOutcome.DUPLICATE,
    b"b": PutOutcome.BUFFERED,
}
_LOT = 1000  # letters that are looked at in one step: a server that did more would do nothing else


class ValkeyQueue(Inspecting[K, V]):
    """A handle on a queue that lives on a Valkey or Redis server.

    What each call promises is said in the contract, `leaseq.abc.LeasedQueue`. Made by
    ``broker.queue(...)``. Whatever handles there are, in whatever processes, they see one queue.

    Keys are `str`, `int` or `bytes`; priorities fit in 32 bits; values go through the queue's
    codec. `close` and `shutdown` concern this handle: its leases go back, the queue lives on.

    Every call is at least one round trip to the server. A cancel scope that is cancelled while one
    is under way lets it end, for two seconds at most. `asyncio.Task.cancel` does not: what was
    under way is done all the same, save that items on their way to the task go back; so after it a
    put may have happened.
    """

    # Producers

    async def put(self, key: K, value: V, **options: Unpack[PutOptions]) -> PutOutcome:
        [outcome] = await self.put_many([(key, value)], **options)
        return outcome

    async def put_many(
        self, items: Mapping[K, V] | Iterable[tuple[K, V]], **options: Unpack[PutOptions]
    ) -> list[PutOutcome]:
        pairs = list(items.items()) if isinstance(items, Mapping) else list(items)
        terms = PutRequest(**options)
        items_on_wire = [(encode_key(key), self.codec.encode(value)) for key, value in pairs]
        await self._home.checkpoint()
        self.check_takes(terms)
        if not items_on_wire:
            return []
        words = put_words(terms, items_on_wire)
        answer = await self._put(words, sum(len(body) for _, body in items_on_wire))
        if answer[0] == b"ok":
            return [_OUTCOMES[outcome] for outcome in answer[1:]]
        if answer[0] == b"never":
            raise never_fits(answer[1], self.made_with.get("max_size", inf))
        _, why, index, *what = answer
        raise self.refusal(pairs[index - 1][0], terms, why, what[0] if what else b"")

    async def _put(self, words: list[bytes | str], weight: int) -> Answer:
        """Put, and wait for room if need be: those who come later wait behind."""

        def receive(answer: Answer) -> bool | None:
            if answer[0] == b"full" and ask.error is None:
                if self._shut_down:
                    ask.fail(self._shut_down_error())
                    return False
                self._broker.upkeep.waits(self)
                self._putters[ask] = answer[1]
                if len(answer) > 2:
                    self._waiters.parked[b"r"] = b"%d" % answer[2]
                if ask.words[BEHIND] == "1" and next(iter(self._putters)) is ask:
                    self._let_putter_in()  # it was behind somebody who is gone, and is not parked
                return False
            if ask in self._putters:
                del self._putters[ask]
                self._let_putter_in()
            return None

        ask = Ask("turn", "put", self.site, *words, receive=receive, weight=weight)
        if self._putters:
            ask.words = (*ask.words[:BEHIND], "1", *ask.words[BEHIND + 1 :])
        try:
            return self._present(await self._courier.ask(ask, withdraw=True))
        finally:
            if ask in self._putters:
                del self._putters[ask]
                self._let_putter_in()
            if not self._putters:
                self.unpark(b"r")

    def refusal(self, key: object, terms: PutRequest, why: bytes, what: bytes | int) -> Exception:
        """The error for a put that the server refused."""
        if why == b"in_flight":
            return KeyAlreadyInFlightError(
                f"key {key!r} is leased: wait until it is settled, "
                'or put it with if_in_flight="buffer"'
            )
        tenant = decode_name(cast("bytes", what))
        return tenant_mismatch(key, tenant, terms.tenant)

    # Consumers

    async def get(
        self, timeout: float | None = None, **options: Unpack[GetOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        request = self._request(ANY_KEY, options) if options else self._any
        if timeout is not None:
            timeout = wait_seconds("timeout", timeout)
        await self._home.checkpoint()
        [lease] = await self._lease(request, 1, timeout)
        return lease.key, lease.value, lease

    async def take(
        self, key: K, timeout: float | None = None, **options: Unpack[TakeOptions]
    ) -> tuple[K, V, Lease[K, V]]:
        request = self._request(key, options)
        if timeout is not None:
            timeout = wait_seconds("timeout", timeout)
        await self._home.checkpoint()
        [lease] = await self._lease(request, 1, timeout)
        return lease.key, lease.value, lease

    async def get_batch(
        self,
        max_items: int,
        *,
        max_wait: float = 0.0,
        timeout: float | None = None,
        **options: Unpack[GetOptions],
    ) -> list[Lease[K, V]]:
        request = self._request(ANY_KEY, options) if options else self._any
        max_wait, timeout = check_batch(request, max_items, max_wait, timeout)
        await self._home.checkpoint()
        batch: list[ValkeyLease[K, V]] = []
        while not batch:  # again, if all were lost meanwhile
            batch = await self._lease(request, max_items, timeout)
            try:
                while len(batch) < max_items:
                    more = await self._claim(request, max_items - len(batch))
                    if not more:
                        break
                    batch += more
                until = self._home.time() + max_wait
                while len(batch) < max_items and self._home.time() < until and not self._shut_down:
                    with CancelScope(deadline=until):
                        batch += await self._lease(request, max_items - len(batch), patient=True)
            except QueueClosedError:
                pass  # what there is, there is
            except BaseException:
                self._undo(batch)
                raise
            if self._closed:
                raise self._closed_error()
            batch = [lease for lease in batch if self._holds(lease)]
        return [*batch]

    # Settling

    async def _settle(
        self, lease: ValkeyLease[K, V], ended: Ended, word: str, *words: Word
    ) -> Answer:
        """End a lease; it takes effect even if cancelled."""
        while lease.settling is not None:
            await self._courier.answer(lease.settling)
        check_held(lease, self._home.time())

        def receive(answer: Answer) -> None:
            lease.settling = None
            if answer[0] == b"ok":
                self.let_go(lease)
                lease.ended = ended
            elif answer[0] == b"no" and lease.ended is None:
                self.lose(lease)

        def refuse(error: Exception) -> None:
            lease.settling = None

        lease.settling = ask = Ask(
            "turn",
            word,
            self.site,
            lease.wire_key,
            str(lease.token),
            *words,
            receive=receive,
            refuse=refuse,
        )
        answer = self._present(await self._courier.ask(ask))
        if answer[0] != b"ok":
            check_held(lease, self._home.time())
        return answer

    async def ack(self, lease: Lease[K, V]) -> bool:
        answer = await self._settle(self.mine(lease), "acked", "ack")
        return bool(answer[1])

    async def release(
        self,
        lease: Lease[K, V],
        *,
        requeue_front: bool = False,
        delay: float | None = None,
        counted: bool = True,
    ) -> None:
        held = self.mine(lease)
        self.check_release(requeue_front, delay)
        words = release_words(requeue_front, delay, counted)
        await self._settle(held, "released", "release", *words)

    def check_release(self, requeue_front: bool, delay: float | None) -> None:
        """Raise if a lease cannot be released like that."""
        if delay is not None:
            check_release(self, delay, requeue_front=requeue_front, timed=self.kept)

    async def _fail(self, lease: Lease[K, V], error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        words = release_words(False, None, True, text)
        await self._settle(self.mine(lease), "released", "release", *words)

    async def _give_back(self, lease: Lease[K, V]) -> None:
        await self._settle(self.mine(lease), "released", "give_back")

    async def reject(self, lease: Lease[K, V], reason: str) -> None:
        await self._settle(self.mine(lease), "rejected", "reject", encoded(reason), "0", "")

    async def extend(self, lease: Lease[K, V], timeout: float | None) -> None:
        held = self.mine(lease)
        seconds = lease_seconds("timeout", timeout)
        if seconds != inf and not self.kept:
            raise no_timekeeper(self, f"a lease of {seconds:g} s", "expire")
        check_held(held, self._home.time())

        def receive(answer: Answer) -> None:
            if held.ended == "lost" and answer[0] == b"ok":  # too late: it is for somebody else
                words = (held.wire_key, str(held.token), *release_words(False, None, True))
                self._courier.post(Ask("turn", "release", self.site, *words), first=True)
            elif held.ended is not None:
                pass
            elif answer[0] == b"ok":
                self.let_go(held)
                held.deadline = inf
                if seconds != inf:
                    held.deadline = self._courier.sent_at + local_seconds(seconds)
                self._hold(held)
            elif answer[0] == b"no":
                self.lose(held)

        words = (held.wire_key, str(held.token), microseconds(seconds))
        ask = Ask("turn", "extend", self.site, *words, receive=receive)
        self._present(await self._courier.ask(ask))
        check_held(held, self._home.time())

    async def resume(self, receipt: str) -> Lease[K, V]:
        queue, key, token = read_receipt(receipt)
        if queue != self.name:
            raise InvalidLeaseError(f"a lease of the queue {queue!r} is not {self.name!r}'s")
        if self._closed:
            raise self._closed_error()
        ended = LeaseLostError(f"the lease on {key!r} with the token {token} has ended")
        started = self._home.time()
        answer = await self._ask("look", "resume", encode_key(key), str(token))
        if answer[0] != b"ok":
            raise ended
        held = self._held.get(token)
        if held is not None:
            check_held(held, self._home.time())
            return held
        lease = self._read(answer[1:9])
        if lease is None:
            raise ended
        left = answer[9]
        if left >= 0:
            lease.deadline = started + local_seconds(left / 1e6)
        lease.since = self._home.time()
        self._hold(lease)
        check_held(lease, self._home.time())
        return lease

    async def release_all(self, *, consumer: str) -> int:
        check_text("consumer", consumer)
        if self._closed:
            raise self._closed_error()
        answer = await self._ask("manage", "release_all", encode_name(consumer))
        return cast("int", answer[1])

    # Dead letters and tenants

    async def redrive(
        self, keys: Iterable[K] | None = None, limit: int | None = None
    ) -> RedriveResult[K]:
        if self.site.letters is None:
            raise ValueError(f"{self!r} has no queue of dead letters to bring items back from")
        check_limit(limit)
        if self._shut_down or self._closed:
            raise QueueClosedError(f"{self!r} takes nothing more")
        wanted = [] if keys is None else [encode_key(key) for key in keys]
        which = ("1" if keys is None else "0", str(len(wanted)), *wanted)
        back: list[K] = []
        conflicts: list[K] = []
        left: int | None = None  # of the letters that are there now, those that nobody looked at
        where: Word = "-"
        while where and (left is None or left > 0) and (limit is None or len(back) < limit):
            most = "-1" if limit is None else str(limit - len(back))
            try:
                answer = await self._ask("manage", "redrive", *which, most, where)
            except (ServerError, ServerUnavailableError) as error:
                if not back:
                    raise
                done = f"{len(back)} dead letters were brought back, but then: {error}"
                raise ServerUnavailableError(done, in_doubt=True) from error
            back += (cast("K", decode_key(key)) for key in answer[1])
            conflicts += (cast("K", decode_key(key)) for key in answer[2])
            left = (answer[3] if left is None else left) - _LOT
            where = answer[4]
        return RedriveResult(tuple(back), tuple(conflicts))

    async def set_tenant(self, name: str, tenant: Tenant) -> None:
        if self._closed:
            raise self._closed_error()
        cap = "-1" if tenant.max_in_flight is None else str(tenant.max_in_flight)
        await self._ask("manage", "set_tenant", encode_name(name), repr(tenant.weight), cap)

    # The end

    async def shutdown(self) -> None:
        self._home.check()
        if self._shut_down or self._closed:
            return
        self._shut_down = True
        self._drained = False
        self._turn_away(self._waiters.drop_patient())
        self._turn_putters_away()
        self._watch_the_end()
        await self._ask("turn", "sweep", "64")  # which comes after what was posted just now

    async def join(self) -> None:
        await self._home.checkpoint()
        if self._closed:
            if self._drained:
                return
            raise self._closed_error()

        def receive(answer: Answer) -> bool | None:
            if answer[0] == b"ok" and self.not_yet(answer) and ask.error is None:
                self._joiners[ask] = None
                self._broker.upkeep.waits(self)
                return False
            self._joiners.pop(ask, None)
            return None

        ask = self.join_ask(receive)
        try:
            self._present(await self._courier.ask(ask, withdraw=True))
        finally:
            self._joiners.pop(ask, None)
            if not self._joiners and not self._shut_down:
                self.unpark(b"j")

    async def close(self) -> None:
        if not self._closed:
            await self._broker.wait_for_close([self.begin_to_close()])

    def begin_to_close(self) -> Ask:
        """Close the handle; what is left to do is to give its leases back."""
        self._closed = self._shut_down = True
        words: list[bytes | str] = []
        for lease in [*self._held.values()]:
            words += [lease.wire_key, str(lease.token)]
            self.lose(lease)

        def receive(answer: Answer) -> None:
            self._drained = answer[0] != b"ok" or not answer[1]
            self._give_up_all()

        def refuse(error: Exception) -> None:
            self._give_up_all()

        count = str(len(words) // 2)
        ask = Ask("turn", "close", self.site, count, *words, receive=receive, refuse=refuse)
        self._courier.post(ask)
        return ask


def release_words(
    front: bool, delay: float | None, counted: bool, error: str | None = None
) -> list[bytes | str]:
    """What a release is told after the lease."""
    return [
        "1" if front else "0",
        "-1" if delay is None else microseconds(delay),
        "1" if counted else "0",
        "0" if error is None else "1",
        encoded(error or ""),
    ]
