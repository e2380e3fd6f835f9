"""The dispatcher: takes operations to the store, one exchange at a time.

Theory of operation
===================

All operations of a process on its store go through one line, in the order in which they were
asked for: settlements, puts, claims for waiters, queries. What has gathered while one exchange was
under way goes with the next, as one batch. So there is never more than one exchange under way, a
process sees its own effects in order, and the busier it is, the more goes with each exchange.

Each batch has a number. When its reply is lost, it is not known whether the batch was done; so it
is exchanged again under the same number, and the store, which remembers the number of each
process's last batch and its answers, does it at most once.

The line needs a *leader*: one task at a time, which packs a batch, exchanges it, and hands out the
answers. While a `run` runs, that leads, and does what falls due. Without one, a caller leads until
it has its answer, and takes along what others ask for meanwhile.

A cancel scope does not cut an exchange off half-way: a task that is cancelled while its operation
is under way waits for the answer, returns it, and is cancelled at its next checkpoint.
`asyncio.Task.cancel` knows no shield, and does not come again: it is raised without waiting. If it
hits the leader, the batch that was under way is exchanged again, under its number, by the next
leader; its operations are done.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    Event,
    Lock,
    create_task_group,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio.abc import TaskStatus

from .._core.errors import LeaseqError, QueueClosedError, ServerError, ServerUnavailableError
from .._core.log import log
from .._core.loop import Home, Sleeper, ToldApart, comes_again
from .._core.texts import failure_text
from . import protocol
from .protocol import (
    LATER,
    Abandon,
    Batch,
    Find,
    GoneError,
    ItemDied,
    LeaseEnded,
    NotConfirmedError,
    Operation,
    QueueRef,
    Reply,
    Store,
    Transact,
)
from .waiters import Waiter

A = TypeVar("A")

_MOST_BYTES = 1 << 20  # of bodies in one batch, more or less
_MOST_EFFORT = 256  # of the store, for one batch
SHORTEST, LONGEST = 0.02, 0.5  # seconds between two tries to reach the store
_GRACE = 2.0  # seconds for which a task that is cancelled waits for the answer to what was sent
_PUT_OFF = 0.05  # seconds between two times that a busy leader without a `run` listens to the store
_HEARING = 0.001  # seconds for which it listens
_CLOSING = 2.0  # seconds for which a handle that closes tries to give its leases back
_LOSSES = 3  # of one batch's answers, until it is seen whether those of others come
_MOMENT = 1.0  # seconds without an answer that are not worth a warning


class Call(Sleeper, Generic[A]):
    """An operation in line, and its answer or error.

    Args:
        operation: The operation.
        receive: Called with the answer as soon as it is there, before any other task runs. It
            returns False if that is no answer yet; the call may be posted again.
        refuse: Called with the error, if there will be no answer.

    Attributes:
        lapses: True if it is made anew when the store has not come to it.
        alone: True if it goes without others, with which it had no answer.
        posted: True while it is in line.
        sent: True while it is under way.
        awaited: True if a task waits for the answer.
        answered: True if there is an answer, or an error because there will be none.
    """

    __slots__ = (
        "alone",
        "answer",
        "answered",
        "awaited",
        "error",
        "lapses",
        "operation",
        "posted",
        "receive",
        "refuse",
        "sent",
        "weight",
    )

    answer: A

    def __init__(
        self,
        operation: Operation[A],
        *,
        receive: Callable[[A], bool | None] | None = None,
        refuse: Callable[[Exception], None] | None = None,
    ) -> None:
        self.operation = operation
        self.weight = operation.weight
        self.receive = receive
        self.refuse = refuse
        super().__init__()
        self.error: Exception | None = None
        self.alone = False
        self.lapses = False
        self.answered = False
        self.posted = False
        self.sent = False
        self.awaited = False

    def accept(self, answer: A) -> None:
        """Take the answer, even if the caller has given up meanwhile.

        An error of a callback is for the caller alone.
        """
        try:
            is_answer = self.receive is None or self.receive(answer) is not False
        except Exception as error:
            self.fail(error)
            return
        if is_answer and not self.answered:
            self.answered, self.answer = True, answer
        self.wake()

    def fail(self, error: Exception) -> None:
        """Take the error: there is no answer, and there will be none."""
        if not self.answered:
            self.answered, self.error = True, error
        try:
            if self.refuse is not None:
                self.refuse(error)
        except Exception as bug:
            log(logging.ERROR, "nothing was done about the error %s", error, error=bug)
        self.wake()


class Exchange:
    """A batch under way, and the calls whose operations it has.

    Attributes:
        sent_at: The time at which it was first sent, in seconds on the event loop's clock.
        in_doubt: True if it may have been done, because its reply was lost.
    """

    __slots__ = ("batch", "calls", "in_doubt", "lost", "sent_at")

    def __init__(self, number: int, calls: Sequence[Call[Any]]) -> None:
        self.calls = calls
        self.batch = Batch(number, tuple([call.operation for call in calls]))
        self.sent_at = 0.0
        self.in_doubt = False
        self.lost = 0  # answers
        for call in calls:
            call.posted = False
            call.sent = True


class DispatcherCallbacks(Protocol):
    """The work of a leader besides exchanging batches."""

    def expire(self, now: float) -> float:
        """End the leases here that have expired, and return the time at which the next one does."""

    def do_due(self, now: float) -> float:
        """Do the other work that is due, and return the time at which there is more."""

    def claims(self, effort: float) -> list[Call[Any]]:
        """Return the calls to be sent on behalf of waiters, for so much work of the store at most.

        What does not fit is returned the next time.
        """

    def heard(
        self, due: Mapping[str, float], events: Sequence[ItemDied | LeaseEnded], now: float
    ) -> None:
        """Take the news in a reply, besides the answers.

        Args:
            due: Seconds until more falls due in a queue, by its name.
            events: Leases and items that have ended.
            now: The time of the reply, in seconds on the event loop's clock.
        """

    def hinted(self, event: protocol.Event) -> None:
        """Take a hint that was published to this process: a wake-up, mostly."""

    def deleted(self, name: str) -> None:
        """Note that a queue is gone, by an answer of the store."""


class Dispatcher:
    """The one way from this process to its store.

    Args:
        store: The store.
        home: The event loop.
        callbacks: The other work of a leader.
        patience: Seconds for which a task without a `run` tries to reach the store.

    Attributes:
        sent_at: The time at which the exchange started whose answers are handed out.
        was_in_doubt: True if that exchange was sent more than once, as a reply was lost.
    """

    def __init__(
        self, store: Store, home: Home, callbacks: DispatcherCallbacks, *, patience: float
    ) -> None:
        self.home = home
        self.check = store.check
        self.sent_at = 0.0
        self.was_in_doubt = False
        self._store = store
        self._callbacks = callbacks
        self._patience = patience
        self._line: deque[Call[Any]] = deque()
        self._unfinished: Exchange | None = None  # may have been done: goes before all others
        self._messages: list[protocol.Event] = []
        self._awaited: dict[object, Call[Any]] = {}  # by tasks that do not lead
        self._waiters: dict[Waiter[Any, Any], None] = {}
        self._runs = 0  # that are ready to lead
        self._grace = _GRACE
        self._number = 0
        self._claimed = False  # with the last batch, if there was anything to claim
        self._led = False
        self._ear = Lock(fast_acquire=True)  # one task hears what the store tells unasked
        self._listening = 0  # tasks of `run`s that hear it, or will once they have the lock
        self._heard_at = -inf
        self._closed = False
        self._lost_at: float | None = None  # since when there has been no answer
        self._complained = False  # and the log says so
        self._alarm = Event()
        self._changed = Event()
        self._watch = Event()
        self._expire_at = inf

    # Calls

    def post(self, call: Call[Any], *, first: bool = False) -> None:
        """Put a call in line, at its end or first, and do not wait for the answer. O(1).

        A call that has its answer, or an error instead, stays out: its task may not have run since,
        and was told that nothing more will be done.
        """
        if call.answered:
            return
        if self._closed:
            call.fail(QueueClosedError("the broker is closed"))
            return
        call.posted = True
        if first:
            self._line.appendleft(call)
        else:
            self._line.append(call)
        self._alarm.set()

    def withdraw(self, call: Call[Any]) -> None:
        """Take a call out of the line, unless it is under way. O(calls in line)."""
        if call.posted:
            call.posted = False
            self._line.remove(call)

    async def perform(
        self, call: Call[A], *, withdraw: bool = False, patience: float | None = None
    ) -> A:
        """Have an operation done, and wait for the answer.

        Args:
            call: The operation.
            withdraw: True: if this task is cancelled before the operation was sent, it is given
                up. Otherwise it is sent all the same. The answer to an operation that was sent is
                waited for, for a while.
            patience: Seconds for which to try, if not the usual ones.

        Raises:
            GoneError: there is no such queue.
            ServerUnavailableError: the store could not be reached, or not for long enough.
            ServerError: the store refused, or the user may not do that.
            TypeError, ValueError: a value that the store cannot keep.
        """
        self.check(call.operation)
        self.post(call)
        return await self.answer(call, withdraw=withdraw, patience=patience)

    async def answer(
        self, call: Call[A], *, withdraw: bool = False, patience: float | None = None
    ) -> A:
        """Wait for the answer to a call that was posted.

        Arguments and errors are those of `perform`.
        """
        call.awaited = True
        if patience is None:
            patience = self._patience
        cancelled: BaseException | None = None
        try:
            await self._wait(call, lambda: call.answered, patience)
        except get_cancelled_exc_class() as error:
            if withdraw and call.posted:
                self.withdraw(call)
                raise
            if not comes_again(error):
                raise
            cancelled = error
        if cancelled is not None:  # not within `except`: another cancellation is one of its own
            try:
                with move_on_after(self._grace, shield=True):
                    await self._wait(
                        call, lambda: call.answered or not (call.posted or call.sent), self._grace
                    )
                if not call.answered:
                    raise cancelled
            finally:
                cancelled = None  # it refers to this frame
        if call.error is not None:
            raise _own(call.error)
        return call.answer

    async def _wait(self, call: Call[Any], over: Callable[[], bool], patience: float) -> None:
        while not over():
            if self._led or self._runs:
                task = object()  # several may wait for one call
                self._awaited[task] = call
                try:
                    with ToldApart(self.home):
                        await call.woken(self.home)
                finally:
                    del self._awaited[task]
            else:
                await self._lead(over, patience=patience)

    async def wait(self, waiter: Waiter[Any, Any]) -> None:
        """Wait until a waiter is done; lead where no `run` runs, and no other task leads."""
        self._waiters[waiter] = None
        try:
            while not waiter.done:
                if self._led or self._runs:
                    await waiter.woken(self.home)
                else:
                    await self._lead(lambda: waiter.done, patience=inf)
        finally:
            del self._waiters[waiter]

    def turn(self) -> Awaitable[object] | None:
        """Begin a call that will wait for the store: return something to await before it, or None.

        A pending cancellation is delivered. Without a `run`, other tasks get a turn: one of them
        may be about to lead, and would listen to the store, which one call after the other does
        not.
        """
        return self.home.look() if self._listening else self.home.checkpoint()

    def wake_leader(self) -> None:
        """Have the leader look again. O(1)."""
        self._alarm.set()

    def wake_all(self) -> None:
        """Have the leader, and each `run` that is ready to lead, look again."""
        self._alarm.set()
        self._changed.set()
        self._changed = Event()

    def expire_at(self, when: float) -> None:
        """Make sure that a lease that expires at a time is ended then. O(1)."""
        if when < self._expire_at:
            self._expire_at = when
            self._watch.set()

    def hear(self, event: protocol.Event) -> None:
        """Take an event that the store has published to this process.

        It may be about items in the answers that are on their way: then these come first.
        """
        self._messages.append(event)
        if self._unfinished is None:
            self._listen()

    def _listen(self) -> None:
        messages, self._messages = self._messages, []
        for message in messages:
            try:
                self._callbacks.hinted(message)
            except Exception as error:
                log(logging.ERROR, "nothing was done about the event %r", message, error=error)

    # The end

    async def finish(self, calls: Iterable[Call[Any]]) -> None:
        """Give calls of handles that close a moment to be done."""
        with move_on_after(_CLOSING):
            for call in calls:
                with suppress(LeaseqError):
                    await self.answer(call, patience=_CLOSING)

    def hurry(self) -> None:
        """Have cancelled tasks no longer wait for operations that were sent: the end is near."""
        self._grace = 0.0

    async def close(self) -> None:
        """Exchange nothing more. Calls that were not answered fail; idempotent.

        Takes effect even if cancelled.
        """
        self._closed = True
        sent = [] if self._unfinished is None else self._unfinished.calls
        for call in (*sent, *self._line):
            if not call.answered and call.sent:
                lost = "the broker was closed before the answer came"
                call.fail(ServerUnavailableError(lost, in_doubt=True))
            elif not call.answered:
                call.fail(QueueClosedError("the broker is closed"))
            call.posted = call.sent = False
        self._line.clear()
        self.wake_all()
        with CancelScope(shield=True):
            await self._store.close()

    # Leading

    async def run(
        self, over: Callable[[], bool], task_status: TaskStatus[None] = TASK_STATUS_IGNORED
    ) -> None:
        """Lead until it is over; while another task leads, be ready to.

        Leases that expire here end beside that: they must not wait for a store that does not
        answer.
        """
        if over():
            task_status.started()
            return
        async with create_task_group() as tg:
            tg.start_soon(self._keep_watch)
            tg.start_soon(self._keep_listening)
            task_status.started()
            while not over():
                if not self._led:
                    await self._lead(over, patience=inf, stand_in=False)
                    continue
                self._runs += 1
                self._alarm.set()
                try:
                    await self._changed.wait()
                except BaseException:
                    self._runs -= 1
                    if not self._led:
                        self._hand_over()  # other tasks may have counted on this one
                    raise
                self._runs -= 1
            tg.cancel_scope.cancel()

    async def _keep_watch(self) -> None:
        while True:
            self._expire_at = self._callbacks.expire(self.home.time())
            self._watch = Event()
            with CancelScope(deadline=self._expire_at):
                await self._watch.wait()

    async def _lead(
        self,
        over: Callable[[], bool],
        *,
        patience: float,
        stand_in: bool = True,
    ) -> None:
        """Exchange the operations in line, until it is over.

        Args:
            over: Returns True once it is over.
            patience: Seconds for which to try to reach the store.
            stand_in: True: it leads, and listens to the store, because no `run` does, and only
                until one does.
        """

        def relieved() -> bool:
            return over() or (stand_in and self._runs > 0)

        self._led = True
        try:
            while not relieved():
                wake_at = self._callbacks.do_due(self.home.time())
                exchange = self._unfinished or self._pack()
                if exchange is not None:
                    await self._exchange(exchange, relieved, patience)
                    now = self.home.time()
                    if stand_in and not relieved() and now > self._heard_at + _PUT_OFF:
                        self._alarm = Event()
                        await self._rest(now + _HEARING, listens=True)
                    continue
                self._alarm = Event()
                await self._rest(wake_at, listens=stand_in)
        finally:
            self._led = False
            self._hand_over()

    async def _rest(self, until: float, *, listens: bool) -> None:
        """Wait for the alarm, until some time at the latest."""
        with CancelScope(deadline=until):
            if not listens or self._ear.statistics().locked:
                await self._alarm.wait()
                return
            errors: list[BaseException] = []  # which are not to come in a group

            async def listen() -> None:
                try:
                    await self._listen_to_store()
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    errors.append(error)
                    tg.cancel_scope.cancel()

            async with create_task_group() as tg:
                tg.start_soon(listen)
                try:
                    await self._alarm.wait()
                except get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    errors.append(error)
                tg.cancel_scope.cancel()
            if errors:
                raise errors[0]

    async def _keep_listening(self) -> None:
        self._listening += 1
        try:
            await self._listen_to_store()
        finally:
            self._listening -= 1

    async def _listen_to_store(self) -> None:
        async with self._ear:
            try:
                await self._store.listen()
            finally:
                self._heard_at = self.home.time()

    def _hand_over(self) -> None:
        """Have waiting tasks see that none leads: one of them will."""
        self.wake_all()
        # Some of these are not in line: they wait for room, or for the end.
        for call in [*self._awaited.values()]:
            call.wake()
        for waiter in [*self._waiters]:
            waiter.wake()

    def _pack(self) -> Exchange | None:
        """Take the calls of one batch out of the line; None: there is nothing.

        Callers do not keep waiters waiting: the claims of these go along, or, if the calls in line
        are of another family, with every other batch.
        """
        line = self._line
        family = line[0].operation.family if line else "commands"
        if family != "commands" and not self._claimed:
            claims = self._callbacks.claims(_MOST_EFFORT)
            if claims:
                return self._start("commands", claims)
        calls: list[Call[Any]] = []
        weight, effort = 0, 0.0
        while line and effort < _MOST_EFFORT:
            call = line[0]
            weight += call.weight
            effort += call.operation.effort
            is_much = weight > _MOST_BYTES or effort > _MOST_EFFORT or call.alone
            if call.operation.family != family or (calls and is_much):
                break
            calls.append(line.popleft())
            if call.alone:
                return self._start(family, calls)
        if family == "commands":
            calls += self._callbacks.claims(_MOST_EFFORT - effort)
        return self._start(family, calls)

    def _start(self, family: protocol.Family, calls: list[Call[Any]]) -> Exchange | None:
        if not calls:
            return None
        self._claimed = family == "commands"
        self._number += 1
        return Exchange(self._number, calls)

    async def _exchange(
        self, exchange: Exchange, over: Callable[[], bool], patience: float
    ) -> None:
        """Exchange a batch, again and again until there is a reply."""
        self._unfinished = exchange
        started = self.home.time()
        exchange.sent_at = exchange.sent_at or started
        pause = SHORTEST
        while True:
            try:
                reply = await self._send(exchange)
            except ServerUnavailableError as error:
                exchange.in_doubt = exchange.in_doubt or error.in_doubt
                self._missed(str(error))
                if isinstance(error, NotConfirmedError):
                    exchange.lost = 0
                else:
                    exchange.lost += error.in_doubt
                if exchange.lost >= _LOSSES and await self._answers_others(exchange):
                    await self._set_aside(exchange, str(error))
                    return
                if self._closed or self.home.time() - started >= patience:
                    self._give_up(exchange, str(error))
                    return
            except Exception as error:  # it must not be in the way for ever
                self._refuse(exchange, error)
                return
            else:
                self._hand_out(exchange, reply)
                return
            if over():
                return
            await sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST)

    async def _answers_others(self, exchange: Exchange) -> bool:
        """Ask for something small; return True if only answers to this batch are lost.

        That is after twice `_LOSSES` in a row, from the first half on with an answer to this after
        each: a store that does not answer this either is away, and the count begins anew.
        """
        queue = exchange.calls[0].operation.queue
        try:
            await self._store.exchange(Batch(exchange.batch.number, (Find(queue),)))
        except ServerUnavailableError:
            exchange.lost = 0  # it is away
        except ServerError:
            pass
        return exchange.lost >= 2 * _LOSSES

    async def _set_aside(self, exchange: Exchange, why: str) -> None:
        """Ask for no more of a batch whose answer never comes: its calls each go alone, or fail.

        What was done of it is in doubt for those who asked.
        """
        calls, batch = exchange.calls, exchange.batch
        was_done = False
        if batch.operations[0].family != "queries":
            self._number += 1
            queues = tuple([ref for each in batch.operations for ref in _queues_of(each)])
            abandon = Abandon(batch.operations[0].queue, batch.number, queues)
            try:
                reply = await self._store.exchange(Batch(self._number, (abandon,)))
                was_done = reply.answers[0] is not False
            except (ServerUnavailableError, ServerError):
                was_done = True  # or may have been: it is refused from now on
        self._unfinished = None
        error = ServerUnavailableError(
            f"it was asked for {exchange.lost} times, and the answer never came: {why}",
            in_doubt=was_done,
        )
        others: list[Call[Any]] = []
        for call in calls:
            call.sent = False
            if was_done or len(calls) == 1 or call.lapses:
                call.fail(error)
            else:
                others.append(call)
        self._send_alone(others)
        self._listen()

    def _send_alone(self, calls: Sequence[Call[Any]]) -> None:
        """Put calls in line again, as the first, each to go without others."""
        for call in reversed(calls):
            call.sent = False
            call.alone = True
            self.post(call, first=True)

    async def _send(self, exchange: Exchange) -> Reply:
        """Exchange a batch; and if this task is cancelled meanwhile, once more, for the reply.

        But not if it is cancelled natively, which knows no shield: the next leader will do it.
        """
        try:
            with ToldApart(self.home):
                return await self._store.exchange(exchange.batch)
        except get_cancelled_exc_class() as error:
            exchange.in_doubt = True
            if not comes_again(error):
                raise
            cancelled = error
        # Not within `except`: a native cancellation is not to look like a part of the first one.
        try:
            with move_on_after(self._grace, shield=True):
                return await self._store.exchange(exchange.batch)
            raise cancelled
        finally:
            del cancelled  # it refers to this frame

    def _give_up(self, exchange: Exchange, why: str) -> None:
        """Fail the calls that wait. A batch in doubt stays, and is exchanged again later."""
        if not exchange.in_doubt:
            self._unfinished = None
        for call in exchange.calls:
            call.sent = exchange.in_doubt
            if not call.answered:
                call.fail(ServerUnavailableError(why, in_doubt=exchange.in_doubt))
        for call in [*self._line]:
            if call.awaited:
                self.withdraw(call)
                behind = f"it was not asked for, being behind what has no answer: {why}"
                call.fail(ServerUnavailableError(behind, in_doubt=False))
        self._listen()

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        """Fail all calls; they are in doubt unless the store has said that it did nothing.

        What this user may not do is not to fail the others: then each call goes alone.
        """
        is_forbidden = isinstance(error, ServerError) and error.code == "NOPERM"
        if is_forbidden and not exchange.in_doubt and len(exchange.calls) > 1:
            self._unfinished = None
            self._send_alone(exchange.calls)
            self._listen()
            return
        if exchange.in_doubt or not isinstance(error, ServerError):
            doubt = ServerUnavailableError(failure_text(error), in_doubt=True)
            doubt.__cause__ = error
            error = doubt
        self._finish(exchange, [error] * len(exchange.calls))

    def _hand_out(self, exchange: Exchange, reply: Reply) -> None:
        now = self.home.time()
        self._reached(now)
        self.sent_at = exchange.sent_at
        self.was_in_doubt = exchange.in_doubt
        self._take_news(reply.due, reply.events, now)
        try:
            self._finish(exchange, reply.answers)
        finally:
            # Some may be of leases that came with these very answers.
            ended = [event for event in reply.events if isinstance(event, LeaseEnded)]
            if ended:
                self._take_news({}, ended, now)

    def _take_news(
        self, due: Mapping[str, float], events: Sequence[ItemDied | LeaseEnded], now: float
    ) -> None:
        try:
            self._callbacks.heard(due, events, now)
        except Exception as error:
            log(logging.ERROR, "nothing was done about the events of a reply", error=error)

    def _finish(self, exchange: Exchange, answers: Sequence[object]) -> None:
        self._unfinished = None
        pairs = list(zip(exchange.calls, answers, strict=True))
        while pairs and pairs[-1][1] is LATER:  # before what the others may ask for first
            self._ask_later(pairs.pop()[0])
        self._answer_each(iter(pairs))
        self._listen()

    def _ask_later(self, call: Call[Any]) -> None:
        """Put a call in line again, as the first, that the store has not come to."""
        call.sent = False
        if not call.lapses:
            self.post(call, first=True)
        self._alarm.set()

    def _answer_each(self, answers: Iterator[tuple[Call[Any], object]]) -> None:
        """Tell each call its answer, or the exception for which there is none."""
        for call, answer in answers:
            try:
                call.sent = False
                if isinstance(answer, GoneError):
                    self._callbacks.deleted(call.operation.queue.name)
                if isinstance(answer, Exception):
                    call.fail(answer)
                else:
                    call.accept(answer)
            except BaseException as error:  # a signal: the others have their answers all the same
                call.fail(ServerUnavailableError(failure_text(error), in_doubt=True))
                self._answer_each(answers)
                raise

    # The log

    def _missed(self, why: str) -> None:
        """Log once that the store does not answer."""
        now = self.home.time()
        if self._lost_at is None:
            self._lost_at = now
        elif not self._complained and now - self._lost_at >= _MOMENT:
            self._complained = True
            log(logging.WARNING, "%s: it is tried again and again", why)

    def _reached(self, now: float) -> None:
        """Log once that the store answers again."""
        if self._complained and self._lost_at is not None:
            log(logging.WARNING, "the store answers again, after %.1f s", now - self._lost_at)
        self._lost_at = None
        self._complained = False


def _queues_of(operation: Operation[Any]) -> list[QueueRef]:
    """Return the queues that an operation names, in their order."""
    if isinstance(operation, Transact):
        return [operation.queue if step is None else step.queue for step in operation.steps]
    return [operation.queue]


def _own(error: Exception) -> Exception:
    """Return a copy of an error for one of the tasks that raise it, as its traceback will grow."""
    try:
        own = copy(error)
    except Exception:  # it was not made to be copied
        return error
    own.__cause__ = error if error.__traceback__ is not None else error.__cause__
    return own
