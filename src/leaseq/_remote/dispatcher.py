"""Carries what is asked to the server, one trip at a time.

Theory of operation
===================

Whatever a process asks of the server goes through one line, in the order in which it was asked:
settlements, puts, claims for those who wait, questions. What has gathered while one trip was under
way goes on the next, in one call of a script. So there is never more than one call in flight, a
process sees its own effects in order, and the busier it is, the more goes on each trip.

Each call has a number. When the connection fails, nobody knows whether the call was done; so it is
sent again under the same number, and the server, which remembers the number of each process's last
call and what it said, does it at most once.

Somebody has to *drive*: one task at a time, which packs a trip, sends it, and hands out the
answers. While a `run` runs, that drives, and does what falls due. Without one, whoever asks drives
until it has its answer, and takes along what others ask meanwhile.

A cancel scope cuts no call off half-way: a task that is cancelled while its question is under way
waits for the answer, returns it, and is cancelled at its next checkpoint. `asyncio.Task.cancel`
knows no shield, and does not come again: it is raised at once. If it hits whoever drives, the call
that was under way is sent again, under its number, by the next who drives; what it asked is done.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol, cast

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio.abc import TaskStatus

from .._core.errors import QueueClosedError, ServerUnavailableError
from .._core.loop import Home, comes_again
from .._valkey.connection import Client, Script
from .._valkey.permissions import Rights
from .._valkey.scripts import HELLO, LOOK, MANAGE, TURN
from .contact import Contact
from .requests import Answer, Ask, Attendant, Trip

__all__ = ["Chores", "Courier"]

_SCRIPTS = {
    "turn": Script(TURN),
    "look": Script(LOOK, changes=False),
    "manage": Script(MANAGE),
    "hello": Script(HELLO, changes=False),
}
_SHORTEST, _LONGEST = 0.02, 0.5  # seconds between two tries to reach the server
_GRACE = 2.0  # seconds for which a task that is cancelled waits for the answer to what was sent


class Chores(Protocol):
    """What there is to do besides carrying."""

    def expire(self, now: float) -> float:
        """End the leases here that have run out, and say when the next one does."""

    def do(self, now: float) -> float:
        """Do what else is due, and say when there is more."""

    def claims(self) -> list[Ask]:
        """What is to be asked for those who wait."""

    def heard(self, trip: Trip, next_due: list[float], events: list[Answer]) -> None:
        """What the server said besides the answers: when more falls due, and what happened."""

    def told(self, message: bytes) -> None:
        """What somebody has published to this process: a wake-up, mostly."""


class Courier:
    """The one way from this process to a server.

    Args:
        prefix: The broker's.
        process: This process's name among those of the broker.
        client: The connection.
        home: The event loop.
        chores: What there is to do besides.
        patience: Seconds for which a task without a `run` tries to reach the server.
    """

    def __init__(
        self,
        prefix: str,
        process: str,
        client: Client,
        home: Home,
        chores: Chores,
        *,
        patience: float,
    ) -> None:
        self._prefix = prefix
        self._process = process
        self._client = client
        self._home = home
        self._chores = chores
        self._patience = patience
        self._asked: deque[Ask] = deque()
        self._unfinished: Trip | None = None  # it may have been done: it goes before all others
        self._messages: list[bytes] = []
        self._attendants: dict[Attendant, None] = {}
        self._runs = 0  # those that are ready to drive
        self._grace = _GRACE
        self._number = 0
        self._claimed = False  # by the last trip, if there was anything to claim
        self._driven = False
        self._closed = False
        self._contact = Contact()
        self._alarm = Event()
        self._changed = Event()
        self._watch = Event()
        self._expire_at = inf
        self.rights = Rights(())  # of the user on the server, once they are known
        self.sent_at = 0.0  # when the trip started whose answers are handed out
        self.offset = 0  # microseconds that the server's clock is put forward, for tests

    # Asking

    def post(self, ask: Ask, *, first: bool = False) -> None:
        """Have something asked, and do not wait for the answer; last in line, or first. O(1)."""
        if self._closed:
            ask.fail(QueueClosedError("the broker is closed"))
            return
        ask.posted = True
        if first:
            self._asked.appendleft(ask)
        else:
            self._asked.append(ask)
        self._alarm.set()

    def withdraw(self, ask: Ask) -> None:
        """Do not ask something that was posted, unless it is under way. O(what was asked)."""
        if ask.posted:
            ask.posted = False
            self._asked.remove(ask)

    def hurry(self) -> None:
        """The end is near: a cancelled task waits no more for what was sent."""
        self._grace = 0.0

    async def close(self) -> None:
        """Ask nothing more. What was asked and not answered fails; idempotent.

        Takes effect even if cancelled.
        """
        self._closed = True
        sent = [] if self._unfinished is None else self._unfinished.asks
        for ask in (*sent, *self._asked):
            if not ask.answered and ask.sent:
                lost = "the broker was closed before the answer came"
                ask.fail(ServerUnavailableError(lost, in_doubt=True))
            elif not ask.answered:
                ask.fail(QueueClosedError("the broker is closed"))
            ask.posted = ask.sent = False
        self._asked.clear()
        self.ring()
        with CancelScope(shield=True):
            await self._client.close()

    def nudge(self) -> None:
        """Have the driver look again at once. O(1)."""
        self._alarm.set()

    def ring(self) -> None:
        """Have the driver, and those who are ready to be, look again at once."""
        self._alarm.set()
        self._changed.set()
        self._changed = Event()

    def expire_at(self, when: float) -> None:
        """See to it that a lease that runs out then is ended then. O(1)."""
        if when < self._expire_at:
            self._expire_at = when
            self._watch.set()

    def hear(self, message: bytes) -> None:
        """Somebody has published something to this process.

        It may be about what the answers say that are on their way: then these come first.
        """
        self._messages.append(message)
        if self._unfinished is None:
            self._listen()

    def _listen(self) -> None:
        messages, self._messages = self._messages, []
        for message in messages:
            self._chores.told(message)

    async def ask(
        self, ask: Ask, *, withdraw: bool = False, patience: float | None = None
    ) -> Answer:
        """Ask something, and wait for the answer.

        Args:
            ask: What.
            withdraw: Whether it is not to be asked any more if this task is cancelled before it
                was sent. Otherwise it will be. What was sent is waited for, for a while.
            patience: Seconds for which to try, if not the usual ones.

        Raises:
            ServerUnavailableError: the server could not be reached, or not for long enough.
            ServerError: the server refused, or the user may not ask that.
        """
        self.rights.check(ask.words[0])
        self.post(ask)
        return await self.answer(ask, withdraw=withdraw, patience=patience)

    async def answer(
        self, ask: Ask, *, withdraw: bool = False, patience: float | None = None
    ) -> Answer:
        """Wait for the answer to what was posted. Arguments and errors are those of `ask`."""
        ask.awaited = True
        if patience is None:
            patience = self._patience
        try:
            await self._wait(ask, lambda: ask.answered, patience)
        except get_cancelled_exc_class() as error:
            if withdraw and ask.posted:
                self.withdraw(ask)
                raise
            if not comes_again(error):
                raise
            with move_on_after(self._grace, shield=True):
                await self._wait(
                    ask, lambda: ask.answered or not (ask.posted or ask.sent), self._grace
                )
            if not ask.answered:
                raise
        if ask.error is not None:
            raise ask.error
        assert ask.answer is not None
        return ask.answer

    async def _wait(self, ask: Ask, over: Callable[[], bool], patience: float) -> None:
        while not over():
            if self._driven or self._runs:
                await ask.event.wait()
            else:
                await self._drive(over, patience=patience)

    async def attend(self, waiter: Attendant) -> None:
        """Wait for what others bring about; where no `run` runs, and nobody drives, drive."""
        self._attendants[waiter] = None
        try:
            while not waiter.done:
                if self._driven or self._runs:
                    await waiter.event.wait()
                else:
                    await self._drive(lambda: waiter.done, patience=inf)
        finally:
            del self._attendants[waiter]

    # Driving

    async def run(
        self, over: Callable[[], bool], task_status: TaskStatus[None] = TASK_STATUS_IGNORED
    ) -> None:
        """Drive until it is over; while somebody else does, be ready to.

        What runs out here ends beside that: it must not wait for a server that does not answer.
        """
        async with create_task_group() as tg:
            tg.start_soon(self._keep_watch)
            task_status.started()
            while not over():
                if not self._driven:
                    await self._drive(over, patience=inf, stand_in=False)
                    continue
                self._runs += 1
                self._alarm.set()
                try:
                    await self._changed.wait()
                except BaseException:
                    self._runs -= 1
                    if not self._driven:
                        self._hand_over()  # somebody may have counted on this one
                    raise
                self._runs -= 1
            tg.cancel_scope.cancel()

    async def _keep_watch(self) -> None:
        while True:
            self._expire_at = self._chores.expire(self._home.time())
            self._watch = Event()
            with CancelScope(deadline=self._expire_at):
                await self._watch.wait()

    async def _drive(
        self, over: Callable[[], bool], *, patience: float, stand_in: bool = True
    ) -> None:
        """Carry what is asked, until it is over.

        Args:
            over: Whether it is.
            patience: Seconds for which to try to reach the server.
            stand_in: Whether this is for want of a `run`: until there is one.
        """

        def relieved() -> bool:
            return over() or (stand_in and self._runs > 0)

        self._driven = True
        try:
            while not relieved():
                wake_at = self._chores.do(self._home.time())
                trip = self._unfinished or self._pack()
                if trip is not None:
                    await self._carry(trip, relieved, patience)
                    continue
                self._alarm = Event()
                with CancelScope(deadline=wake_at):
                    await self._alarm.wait()
        finally:
            self._driven = False
            self._hand_over()

    def _hand_over(self) -> None:
        """Let those who wait see that nobody drives: one of them will."""
        self.ring()
        left = [*self._asked, *([] if self._unfinished is None else self._unfinished.asks)]
        for ask in left:
            ask.wake()
        for waiter in [*self._attendants]:
            waiter.wake()

    def _pack(self) -> Trip | None:
        """A trip with what was asked, as much as goes on one; None: nothing was.

        Those who wait are not kept waiting by those who ask: their claims go along, or, if what is
        asked takes another script, on every other trip.
        """
        script = self._asked[0].script if self._asked else "turn"
        if script != "turn" and not self._claimed and (claims := self._chores.claims()):
            return self._depart(Trip("turn", self._number + 1), claims)
        trip = Trip(script, self._number + 1)
        while self._asked and trip.has_room_for(self._asked[0]):
            trip.add(self._asked.popleft())
        return self._depart(trip, self._chores.claims() if script == "turn" else [])

    def _depart(self, trip: Trip, claims: list[Ask]) -> Trip | None:
        for claim in claims:
            trip.add(claim)
        if not trip.asks:
            return None
        self._claimed = trip.script == "turn"
        self._number = trip.number
        return trip

    async def _carry(self, trip: Trip, over: Callable[[], bool], patience: float) -> None:
        """Take a trip, again and again until there is an answer."""
        self._unfinished = trip
        keys = trip.keys(self._prefix)
        words = trip.arguments(self._process, self.offset, random.getrandbits(31))
        started = self._home.time()
        trip.sent_at = trip.sent_at or started
        pause = _SHORTEST
        while True:
            try:
                reply = await self._send(trip, keys, words)
            except ServerUnavailableError as error:
                trip.in_doubt = trip.in_doubt or error.in_doubt
                self._contact.missed(str(error), self._home.time())
                if self._closed or self._home.time() - started >= patience:
                    self._give_up(trip, str(error))
                    return
            except Exception as error:  # what cannot be sent must not be in the way for ever
                self._refuse(trip, error)
                return
            else:
                self._unfinished = None
                self._contact.made(self._home.time())
                self._deliver(trip, reply)
                return
            if over():
                return
            await sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST)

    async def _send(self, trip: Trip, keys: Sequence[str], words: Sequence[str | bytes]) -> Answer:
        """Make the call; and if this task is cancelled meanwhile, once more, for the answer.

        But not if it is cancelled natively, which knows no shield: the next who drives will do it.
        """
        script = _SCRIPTS[trip.script]
        try:
            return cast("Answer", await self._client.script(script, keys, words))
        except get_cancelled_exc_class() as error:
            trip.in_doubt = True
            if comes_again(error):
                with move_on_after(self._grace, shield=True):
                    return cast("Answer", await self._client.script(script, keys, words))
            raise

    def _give_up(self, trip: Trip, why: str) -> None:
        """Whoever waits is told. What may have been done stays, to be seen to when it can be."""
        if not trip.in_doubt:
            self._unfinished = None
        for ask in trip.asks:
            if not ask.answered:
                ask.fail(ServerUnavailableError(why, in_doubt=trip.in_doubt))
        for ask in [*self._asked]:
            if ask.awaited:
                self.withdraw(ask)
                behind = f"it was not asked for, being behind what has no answer: {why}"
                ask.fail(ServerUnavailableError(behind, in_doubt=False))
        self._listen()

    def _refuse(self, trip: Trip, error: Exception) -> None:
        if trip.in_doubt:
            error = ServerUnavailableError(str(error), in_doubt=True)
        self._unfinished = None
        for ask in trip.asks:
            ask.sent = False
            if not ask.answered:
                ask.fail(error)
        self._listen()

    def _deliver(self, trip: Trip, reply: Answer) -> None:
        now = self._home.time()
        self.sent_at = trip.sent_at
        _, due, events, *answers = reply
        self._chores.heard(trip, [inf if left < 0 else now + left / 1e6 for left in due], events)
        for ask, answer in zip(trip.asks, answers, strict=True):
            ask.accept(answer)
        self._listen()
