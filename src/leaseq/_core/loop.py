"""The event loop: its clock and checkpoints, bound once, and kinds of cancellations.

Neither library is imported for the sake of the other: asyncio takes a third of the time in which
all of leaseq is imported, and a command, or a program on trio, need not wait for it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from threading import get_ident
from types import ModuleType, coroutine
from typing import Any, TypeAlias, cast
from weakref import WeakValueDictionary, ref

import anyio
from anyio.lowlevel import checkpoint_if_cancelled, current_token

from .texts import is_a, leaves, shown

_INTERRUPTS = (KeyboardInterrupt, GeneratorExit)
"""Errors that come from a signal, or the end of the event loop, and not from the code."""

being_closed: ContextVar[bool] = ContextVar("leaseq.being_closed", default=False)
"""True: the coroutine of the delivery that runs in this context is being closed."""
own_cancels: ContextVar[int] = ContextVar("leaseq.own_cancels", default=0)
"""`asyncio.Task.cancel` calls by the code of the delivery in this context on its own task."""

CALLS = 32
"""Calls in an event loop that need not wait, of which the last gives other tasks a turn."""

SECONDS = 0.001
"""The time after which the next of these calls gives them one, however few there were."""


Turn: TypeAlias = Callable[[], Awaitable[object] | None]
"""Begins a call that may not have to wait: returns something to await before it, or None."""


_forks = 0  # of the processes between the first one and this


def _has_forked() -> None:
    global _forks  # noqa: PLW0603 - there is no other way to hear of it
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_has_forked)


class _Budget:
    """The calls and the time that are left in an event loop until a call is a checkpoint.

    Args:
        token: The event loop, which this keeps alive, and so its id.
    """

    __slots__ = ("__weakref__", "calls", "forks", "left", "process", "seconds", "token", "until")

    def __init__(self, token: object) -> None:
        self.token = token
        self.process = os.getpid()
        self.forks = _forks
        self.calls: float = CALLS
        self.left: float = CALLS
        self.seconds = SECONDS
        self.until = -math.inf

    def without_end(self) -> _Budget:
        """Return another one for the event loop, of which nothing is ever spent."""
        budget = _Budget(self.token)
        budget.calls = budget.left = budget.seconds = budget.until = math.inf
        return budget


_budgets: WeakValueDictionary[int, _Budget] = WeakValueDictionary()  # by the loops' ids


def _budget_of(token: object) -> _Budget:
    budget = _budgets.get(id(token))
    if budget is None or budget.forks != _forks:
        budget = _budgets[id(token)] = _Budget(token)
    return budget


@contextmanager
def budget_for_tests(calls: int) -> Iterator[Callable[[], bool]]:
    """Have each so many-th call in this event loop be a checkpoint, however long they take.

    Yields a function that returns True if there have been calls. With a budget of one call it is
    exact; with more, it is always True.
    """
    budget = _budget_of(current_token().native_token)
    budget.calls = budget.left = calls
    budget.seconds = math.inf
    budget.until = -math.inf if calls == 1 else math.inf  # of one, the first is one anyway
    try:
        yield lambda: budget.until > -math.inf
    finally:
        budget.calls = budget.left = CALLS
        budget.seconds = SECONDS
        budget.until = -math.inf


def _asyncio() -> ModuleType | None:
    """Return asyncio if anything has imported it: otherwise none of its event loops can run."""
    return sys.modules.get("asyncio")


class Sleeper:
    """A thing that tasks wait for, with a bell for each that waits."""

    __slots__ = ("_bells", "_ring")

    _ring: Callable[[Any], object]

    def __init__(self) -> None:
        self._bells: list[Any] | None = None

    def wake(self) -> None:
        """Have the tasks that wait look again. O(tasks)."""
        bells, self._bells = self._bells, None
        if bells is not None:
            for bell in bells:
                self._ring(bell)

    def woken(self, home: Home) -> Awaitable[object]:
        """Return an awaitable of the next `wake`, to be awaited at once."""
        bell = home.bell()
        if self._bells is None:
            self._bells, self._ring = [bell], home.ring
        else:
            self._bells.append(bell)
        return bell


class Home:
    """The event loop that a queue belongs to, from its first use on.

    The clock and the checkpoint of the loop are bound once: finding the running backend through
    anyio at each call costs half a microsecond, which is most of a hand-out.

    Attributes:
        check: Binds to the running event loop; on later calls, raises `RuntimeError` unless it runs
            in this thread.
        time: The loop's clock.
        turn: Begins a call that may not have to wait. It returns what is to be awaited before the
            call, or None: nothing. A pending cancellation is delivered, always. Other tasks get
            their turn within a budget, which all calls in the event loop spend: the last of `CALLS`
            calls is a checkpoint, and so is the first one that comes `SECONDS` or more after the
            last of these checkpoints. So a task that never has to wait keeps others from running
            for so many calls, or for that time and one call, whichever is less.
        look: As `turn`, for a call that will have to wait in any case: it only delivers a pending
            cancellation.
        bell: Makes something to be awaited once, by one task, until it is rung: an `anyio.Event` at
            a fifth of the cost. Bound by `check`.
        ring: Rings a bell: its task wakes. Again, or if that task is cancelled, it does nothing.
        scope: Makes an `anyio.CancelScope`, at half the cost: the backend need not be found. On
            trio it is trio's own, which anyio's wraps, and which has the same methods.
        cancels: Counts the `asyncio.Task.cancel` calls on the running task, but for those by which
            a scope around it is delivered: to a task that goes on awaiting, again and again. 0 on
            trio.
    """

    __slots__ = (
        "_budget",
        "_pause",
        "bell",
        "cancels",
        "check",
        "look",
        "ring",
        "scope",
        "time",
        "turn",
    )

    def __init__(self) -> None:
        self._budget: _Budget | None = None
        self._pause: Callable[[], Awaitable[None]]
        self.check: Callable[[], None] = self._settle
        self.time: Callable[[], float] = self._settle_and_tell_time
        self.turn: Turn = self._settle_and_turn
        self.look: Turn = self._settle_and_turn
        self.bell: Callable[[], Awaitable[object]]
        self.ring: Callable[[Any], object]
        self.scope: type[anyio.CancelScope] = anyio.CancelScope
        self.cancels: Callable[[], int] = int

    @property
    def is_bound(self) -> bool:
        """True once there has been a use in an event loop."""
        return self._budget is not None

    @property
    def is_of_parent(self) -> bool:
        """True if it was used in the process that has forked this one."""
        return self._budget is not None and self._budget.forks != _forks

    def checkpoint(self) -> Awaitable[None]:
        """`anyio.lowlevel.checkpoint`, after a `check`."""
        self.check()
        return self._pause()

    def _settle(self) -> None:
        token = current_token().native_token
        asyncio = _asyncio()
        if asyncio is not None and isinstance(token, asyncio.AbstractEventLoop):
            self._pause = _pause
            make_check, make_turn = _check_on_asyncio, _turn_on_asyncio
            self.scope = type(anyio.CancelScope())
            self.bell, self.ring = token.create_future, _ring_future
            task_in = _finder_of_tasks()
            self.cancels = partial(_times_cancelled, task_in, token, _scopes_of_tasks())
            # The standard loop's time() is a Python function that calls this one.
            standard = getattr(type(token), "time", None) is asyncio.BaseEventLoop.time
            self.time = time.monotonic if standard else token.time
        else:
            import trio

            self._pause = trio.lowlevel.checkpoint
            make_check, make_turn = _check_on_trio, _turn_on_trio
            self.scope = cast("type[anyio.CancelScope]", trio.CancelScope)
            self.bell = bell = _bell_on_trio()
            self.ring = bell.ring
            self.time = trio.lowlevel.current_clock().current_time
        budget = _budget_of(token)
        self.check = make_check(budget)
        self.turn = make_turn(budget, self.time)
        self.look = make_turn(budget.without_end(), self.time)
        self._budget = budget

    def _settle_and_tell_time(self) -> float:
        try:
            self._settle()
        except anyio.NoEventLoopError:  # not in one yet: no time has passed
            return 0.0
        return self.time()

    def _settle_and_turn(self) -> Awaitable[object] | None:
        self._settle()
        return self.turn()


def _check_in(budget: _Budget, current: Callable[[], object]) -> None:
    """Raise for a call in another event loop than this one, in none, or in a forked process."""
    try:
        here = current()
    except RuntimeError:  # none is running
        here = None
    if here is not budget.token or budget.forks != _forks:
        raise RuntimeError(_elsewhere(budget))


def _elsewhere(budget: _Budget) -> str:
    """Return the words for a use away from home, with the way out."""
    if budget.forks != _forks:
        return (
            f"this was made in process {budget.process}, which has forked this one, and cannot be "
            "shared with it: make another queue here, or another broker by connect(url)"
        )
    loop = shown(budget.token)
    if _is_over(budget.token):
        return (
            f"this belongs to an event loop that is over, {loop}: for another anyio.run(), "
            "make another queue, or another broker by connect(url)"
        )
    return (
        f"this belongs to another event loop, {loop}: from a thread, call it with "
        "anyio.from_thread.run_sync(queue.put_nowait, ...); for another anyio.run(), make another "
        "queue, or another broker by connect(url)"
    )


def _is_over(token: object) -> bool:
    """Return True for an event loop that will not run again."""
    is_closed = getattr(token, "is_closed", None)
    if is_closed is not None:
        return bool(is_closed())
    from trio import RunFinishedError

    try:
        token.run_sync_soon(int)  # type: ignore[attr-defined]
    except RunFinishedError:
        return True
    return False


@coroutine
def _pause() -> Generator[None, None, None]:
    """`asyncio.sleep(0)`, without the coroutine around it."""
    yield


def _finder_of_tasks() -> Callable[[Any], Any]:
    """Return a function that finds the running task of an event loop of asyncio."""
    from asyncio import current_task, tasks

    if sys.version_info < (3, 12):  # there it is a Python function around this
        running: dict[Any, Any] | None = getattr(tasks, "_current_tasks", None)
        if running is not None:
            return running.get
    return current_task


def _check_on_asyncio(budget: _Budget) -> Callable[[], None]:
    """Make `Home.check` for an event loop of asyncio.

    `get_running_loop` alone would do, but asks the system for the process each time.
    """
    from asyncio import get_running_loop

    task_in = _finder_of_tasks()
    loop = budget.token
    thread = get_ident()

    def check() -> None:
        if task_in(loop) is None or get_ident() != thread or budget.forks != _forks:
            _check_in(budget, get_running_loop)

    return check


def _turn_on_asyncio(budget: _Budget, clock: Callable[[], float]) -> Turn:
    """Make `Home.turn` for an event loop of asyncio.

    A task that another one cancels by `asyncio.Task.cancel` is suspended, and hears of it where it
    resumes. It may have yet to hear of two: the cancellation of a scope around it; and a
    `Task.cancel` by itself or by a signal handler, such as that of Ctrl-C, of which asyncio keeps a
    mark that anyio reads as well.

    `anyio.lowlevel.checkpoint_if_cancelled` looks for the first, in a coroutine that finds the
    backend and then the scopes of the task: 1.1 µs, of a call that takes 0.2 without it. So this
    looks at the scopes itself, if they are kept as in the versions of anyio that it was written
    for, and asks anyio only if there is one to be heard of. The state of a task is the same until
    the task ends, and one task often makes several of these calls in a row: so the last one is
    remembered, for finding it costs as much as all the rest of this.
    """
    from asyncio import current_task

    check = _check_on_asyncio(budget)
    states = _scopes_of_tasks()
    task_in = _finder_of_tasks()
    loop: Any = budget.token
    thread = get_ident()
    last: Callable[[], Any] = lambda: None  # noqa: E731 - a weak reference to the last task
    state: Any = None  # the state of that one

    def turn() -> Awaitable[object] | None:
        nonlocal last, state
        task = task_in(loop)
        if task is None or get_ident() != thread or budget.forks != _forks:
            check()
            task = current_task(loop)
            if task is None:  # a callback that runs a coroutine by hand
                return None
        budget.left = left = budget.left - 1
        now = clock()
        if left <= 0 or now >= budget.until or getattr(task, "_must_cancel", True):
            budget.left, budget.until = budget.calls, now + budget.seconds
            return _pause()
        if states is None:
            return checkpoint_if_cancelled()
        if last() is not task or state is None:
            last = key = ref(task)
            state = states.get(key)
        if state is not None:
            scope = state.cancel_scope
            while scope is not None:
                if scope._cancel_called:
                    return checkpoint_if_cancelled()
                if scope._shield:
                    break
                scope = scope._parent_scope
        return None

    return turn


def _times_cancelled(
    task_in: Callable[[Any], Any], loop: object, states: Mapping[ref[Any], Any] | None
) -> int:
    """Return the number of native cancellations of the running task; see `Home.cancels`.

    anyio counts the deliveries of a scope to the task that has entered it. Of a scope around the
    whole task it counts none: then one of the calls is taken for it, as where that is not known.
    """
    task = task_in(loop)
    times: int = 0 if task is None else task.cancelling()  # None: a callback runs a coroutine
    state = None if not times or states is None else states.get(ref(task))
    scope = None if state is None else state.cancel_scope
    around = states is None
    while scope is not None:
        if scope._host_task is task:
            times -= scope._pending_uncancellations or 0
        elif scope._cancel_called:
            around = True
        scope = scope._parent_scope
    return max(0, times - around)


def _ring_future(bell: Any) -> None:
    if not bell.done():  # rung before, or its task is being cancelled
        bell.set_result(None)


@cache
def _bell_on_trio() -> Any:
    """Return the class of `Home.bell` for trio, whose `trio.Event` is for many tasks."""
    from trio.lowlevel import Abort, Task, checkpoint, current_task, reschedule
    from trio.lowlevel import wait_task_rescheduled as suspend

    class Bell:
        __slots__ = ("is_rung", "task")

        def __init__(self) -> None:
            self.is_rung = False
            self.task: Task | None = None

        def ring(self) -> None:
            self.is_rung = True
            if self.task is not None:
                reschedule(self.task)
                self.task = None

        def leave(self, _: object) -> Abort:
            self.task = None
            return Abort.SUCCEEDED

        def __await__(self) -> Generator[Any, Any, object]:
            if self.is_rung:
                return checkpoint().__await__()  # noqa: ASYNC105
            self.task = current_task()
            return suspend(self.leave).__await__()  # noqa: ASYNC105

    return Bell


_USED = frozenset(
    {"_cancel_called", "_host_task", "_parent_scope", "_pending_uncancellations", "_shield"}
)
"""Attributes of anyio's scopes that are read here, besides their methods."""


def _scopes_of_tasks() -> Mapping[ref[Any], Any] | None:
    """Return anyio's states of tasks, which have their scopes; None: they are not as expected."""
    from anyio._backends import _asyncio as backend

    module: Any = backend
    try:
        states: Mapping[ref[Any], Any] = module._task_states.data
        scope = {*module.CancelScope.__slots__}
    except AttributeError:
        return None
    return states if scope >= _USED else None


def _check_on_trio(budget: _Budget) -> Callable[[], None]:
    """Make `Home.check` for an event loop of trio."""
    from trio.lowlevel import current_trio_token

    return partial(_check_in, budget, current_trio_token)


def _turn_on_trio(budget: _Budget, clock: Callable[[], float]) -> Turn:
    """Make `Home.turn` for an event loop of trio."""
    from trio.lowlevel import checkpoint, current_trio_token
    from trio.lowlevel import checkpoint_if_cancelled as look

    def turn() -> Awaitable[object]:
        _check_in(budget, current_trio_token)
        budget.left = left = budget.left - 1
        now = clock()
        if left > 0 and now < budget.until:
            return look()  # noqa: ASYNC105 - the caller awaits it
        budget.left, budget.until = budget.calls, now + budget.seconds
        return checkpoint()  # noqa: ASYNC105

    return turn


def is_failure(error: BaseException) -> bool:
    """Return True if an error is a failure, and not only a cancellation of this task.

    Any error is one, also one outside `Exception`, such as `SystemExit` or the panic of an
    extension module, but for `KeyboardInterrupt` and `GeneratorExit`; and so is a group with one in
    it. On asyncio, a task that awaits another task gets the other's `asyncio.CancelledError` when
    that is cancelled: unless *this* task was cancelled, natively or through a scope, that is a
    failure of what it awaited. So is the cancellation that code in a delivery asks for itself.
    """
    return any(map(_is_failure, leaves(error)))


def is_mere_failure(error: BaseException) -> bool:
    """Return True if an error that ends a delivery of a pool is a failure, and no interrupt.

    A `GeneratorExit` is one that the code has raised, unless the delivery is being closed.
    """
    if any(is_a(leaf, KeyboardInterrupt) for leaf in leaves(error)):
        return False
    if any(is_a(leaf, GeneratorExit) for leaf in leaves(error)):
        return not being_closed.get()
    return is_failure(error)


def _is_failure(error: BaseException) -> bool:
    if is_a(error, _INTERRUPTS):
        return False
    cancelled = anyio.get_cancelled_exc_class()
    if not is_a(error, cancelled):
        return True  # a cancellation of another library has strayed here
    asyncio = _asyncio()
    if asyncio is None or cancelled is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    natively = task is not None and task.cancelling() > own_cancels.get()
    return not natively and anyio.current_effective_deadline() != -math.inf


def is_cancelled() -> bool:
    """Return True if this task is cancelled: by a scope around it, or natively."""
    return times_cancelled() > 0 or anyio.current_effective_deadline() == -math.inf


def cancel_counter() -> Callable[[], int] | None:
    """Return a function that counts the `asyncio.Task.cancel` calls on this task; None on trio."""
    task = _task_of_asyncio()
    return None if task is None else task.cancelling


def take_back_cancels(times: int) -> None:
    """Take so many `asyncio.Task.cancel` calls on the running task back, if there are as many."""
    task = _task_of_asyncio()
    while task is not None and times > 0 and task.cancelling():
        task.uncancel()
        times -= 1


def comes_again(cancellation: BaseException) -> bool:
    """Return True if a cancellation that is caught comes again at the next checkpoint.

    The cancellation of a scope does; that of `asyncio.Task.cancel` comes once.
    """
    if not is_a(cancellation, native_cancellations()):
        return True
    return bool(cancellation.args) and str(cancellation.args[0]).startswith("Cancelled via cancel")


class ToldApart:
    """A context for one wait, in which a scope and `asyncio.Task.cancel` may cancel in one step.

    asyncio then raises one error, with the scope's message; it leaves the context as the one that
    does not come again.

    Args:
        home: The event loop.
    """

    __slots__ = ("_before", "_cancels")

    def __init__(self, home: Home) -> None:
        self._cancels = home.cancels

    def __enter__(self) -> None:
        self._before = self._cancels()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or not is_a(error, native_cancellations()):
            return
        if comes_again(error) and self._cancels() > self._before:
            native = type(error)()
            try:
                raise native
            finally:
                native.__context__ = None  # or the scope would take it for its own


def times_cancelled() -> int:
    """Return the number of `asyncio.Task.cancel` calls on the running task; 0 on trio."""
    task = _task_of_asyncio()
    return 0 if task is None else task.cancelling()


def _task_of_asyncio() -> Any:
    """Return the running task of asyncio; None: there is none, as on trio."""
    asyncio = _asyncio()
    try:
        return None if asyncio is None else asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio
        return None


def native_cancellations() -> tuple[type[BaseException], ...]:
    """Return the kinds of errors that cancel a task of asyncio: none where it is not in use."""
    asyncio = _asyncio()
    return () if asyncio is None else (asyncio.CancelledError,)
