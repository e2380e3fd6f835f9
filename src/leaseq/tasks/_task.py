"""Tasks, and the functions that they call.

A task names its function, and a function makes its tasks, so both are here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from .._core.functions import is_async, is_generator
from .._core.ids import new_id
from .._core.policies import Priority
from .._core.process_pool import check_importable
from .._core.texts import shown
from .._core.validation import (
    check_priority,
    check_text_or_none,
    lease_seconds,
    whole_number,
)
from .._pool import RunIn, check_run_in
from ._errors import TaskDataError
from ._signature import Signature, as_plain

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

DEFAULT_MAX_RETRIES = 3


class Task(msgspec.Struct, Generic[T_co], frozen=True, eq=False, repr_omit_defaults=True):
    """A call of a function, or a payload; ``await task()`` runs it here.

    Made by `TaskFunction.task` or `create`, or read from a queue. Immutable.

    Attributes:
        id: The unique id; the task's key in the queue.
        name: The name of its function; None for a payload.
        arguments: The function's arguments as JSON has them, by the names of its parameters.
        payload: The data of a task without a function, as JSON has it.
        priority: One of `Priority`, or any int, the higher the sooner.
        tenant: The tenant that the work belongs to; None: no particular one.
        max_retries: The number of times that it is tried again after a failure.
        workflow: The namespace of its XCom values, shared by the tasks that it pushes. None: it
            is not queued yet, and will be a workflow of its own.
        made_at: The time at which it was made, in seconds since the epoch.
        function: The function that it calls; None for a payload, or a name that is not registered
            here.
        schedule: The name of the schedule whose run it is; None: it is of none.
        slot: The time that the schedule had for it, in seconds since the epoch; of
            `TaskQueue.run_now`, that of the call. None: it is of no schedule.
    """

    id: str
    name: str | None = None
    arguments: Mapping[str, Any] = {}
    payload: Any = None
    priority: int = int(Priority.NORMAL)
    tenant: str | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    workflow: str | None = None
    made_at: float = 0.0
    function: TaskFunction[..., Any, T_co] | None = None
    schedule: str | None = None
    slot: float | None = None

    @staticmethod
    def create(
        tenant: str | None = None,
        priority: int = Priority.NORMAL,
        payload: object = None,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
    ) -> Task[Any]:
        """Make a task that has a payload and no function, for `TaskHandler.process_task`.

        Args:
            tenant: The tenant that the work belongs to; None: no particular one.
            priority: One of `Priority`, or any int, the higher the sooner.
            payload: Any data that can be written as JSON. The task keeps a snapshot.
            max_retries: The number of times that it is tried again after a failure.

        Raises:
            TypeError: The tenant is not a string, or a number is not an int.
            TaskDataError: The payload cannot be written as JSON.
            ValueError: The number of retries is negative.

        O(size of the payload).
        """
        check_text_or_none("tenant", tenant)
        return Task(
            id=_new_id(),
            payload=as_plain(payload, "the payload")[0],
            priority=check_priority(priority),
            tenant=tenant,
            max_retries=whole_number("max_retries", max_retries, 0, "0 or more"),
            made_at=time.time(),
        )

    async def __call__(self) -> T_co:
        """Run the task here, as a worker would, but without a queue, retries or a kept result.

        Its XCom values are stored when it has succeeded.

        Raises:
            TypeError: It has no function.
            Exception: Any error of the function.

        If cancelled, the function is cancelled; one that runs in a thread is waited for.
        """
        if self.function is None:
            what = (
                "a payload" if self.name is None else f"{shown(self.name)}, which is not registered"
            )
            raise TypeError(f"task {shown(self.id)} cannot be called: it is {what}")
        return await self.function._definition.registry.run(self)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        return self.id == other.id and encode_task(self) == encode_task(other)

    def __ne__(self, other: object) -> bool:  # a Struct has one of its own
        return not self == other

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        name, data = ("payload", self.payload) if self.name is None else ("name", self.name)
        tenant = shown(self.tenant)
        return f"<Task {self.id} {name}={shown(data)} tenant={tenant} priority={self.priority}>"


def _new_id() -> str:
    """Return 32 random hexadecimal digits."""
    return new_id()


# In a queue


class _Wire(msgspec.Struct, omit_defaults=True):
    """The value of a task in a queue; its id is the key."""

    made_at: float
    name: str | None = None
    arguments: dict[str, Any] = {}
    payload: Any = None
    priority: int = int(Priority.NORMAL)
    tenant: str | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    workflow: str | None = None
    schedule: str | None = None
    slot: float | None = None


def encode_task(task: Task[Any]) -> dict[str, Any]:
    """Return the value that a queue holds for a task: a dict of plain values."""
    wire = _Wire(
        task.made_at,
        task.name,
        dict(task.arguments),
        task.payload,
        task.priority,
        task.tenant,
        task.max_retries,
        task.workflow,
        task.schedule,
        task.slot,
    )
    return msgspec.to_builtins(wire)  # type: ignore[no-any-return]


def refusal_of(task: Task[Any]) -> str | None:
    """Return why no worker with these functions can run a task; None: as far as that can be told.

    Of a version of the code that knows another function, or other parameters, it may be right.
    """
    if task.name is None:
        return None
    if task.function is None:
        return f"unknown task {shown(task.name)}: there is no such function"
    return task.function._definition.signature.unfit(task.arguments)


def decode_task(
    task_id: str, wire: object, functions: Mapping[str, TaskFunction[..., Any, Any]]
) -> Task[Any]:
    """Read a task from the value that a queue holds.

    Args:
        task_id: The key of the value.
        wire: The value.
        functions: The registered functions by name.

    Raises:
        TaskDataError: The value is not a task.
    """
    try:
        read = msgspec.convert(wire, _Wire)
    except msgspec.ValidationError as error:
        raise TaskDataError(f"the value of key {shown(task_id)} is not a task: {error}") from None
    return Task(
        task_id,
        read.name,
        read.arguments,
        read.payload,
        read.priority,
        read.tenant,
        read.max_retries,
        read.workflow,
        read.made_at,
        None if read.name is None else functions.get(read.name),
        read.schedule,
        read.slot,
    )


# Functions


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """Checked options of ``@tasks.task(...)``."""

    priority: int = Priority.NORMAL
    max_retries: int | None = None
    lease_timeout: float | None = None
    ttl: float | None = None
    result_ttl: float | None = None
    xcom_key: str | None = None
    run_in: RunIn = "thread"

    def __post_init__(self) -> None:
        checked: dict[str, float] = {"priority": check_priority(self.priority)}
        if self.max_retries is not None:
            retries = whole_number("max_retries", self.max_retries, 0, "0 or more")
            checked["max_retries"] = retries
        for name in ("lease_timeout", "ttl", "result_ttl"):
            seconds = getattr(self, name)
            if seconds is not None:
                checked[name] = lease_seconds(name, seconds)
        check_text_or_none("xcom_key", self.xcom_key)
        check_run_in(self.run_in)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def keeps_result(self) -> bool:
        """True if the returned value is stored, as a result or in XCom."""
        return self.result_ttl is not None or self.xcom_key is not None


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A function as workers need it."""

    name: str
    function: Callable[..., Any]
    registry: Registry
    terms: TaskTerms
    signature: Signature
    is_async: bool
    """True for an ``async def``; other functions run in worker threads."""


class TaskFunction(Generic[P, R_co, T_co]):
    """A registered function: called as itself, or made into tasks.

    ``await process_order(1)`` is an ordinary call, as without the decorator.
    ``process_order.task(1)`` is a task, to be pushed to a queue or run here.

    Attributes:
        name: The name that workers find it by.
    """

    name: str
    __wrapped__: Callable[P, R_co]

    def __init__(self, function: Callable[P, R_co], definition: Definition) -> None:
        update_wrapper(self, function)
        self.name = definition.name
        self._definition = definition

    def __repr__(self) -> str:
        return f"<TaskFunction {shown(self.name)}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function here."""
        return self.__wrapped__(*args, **kwargs)

    def task(self, *args: P.args, **kwargs: P.kwargs) -> Task[T_co]:
        """Make a task of a call with these arguments, of which it keeps a snapshot.

        Raises:
            TypeError: The function does not take these arguments.
            TaskDataError: An argument does not match its annotation, or cannot be written as JSON.

        O(size of the arguments).
        """
        definition = self._definition
        retries = definition.terms.max_retries
        return Task(
            id=_new_id(),
            name=self.name,
            arguments=definition.signature.bind(args, kwargs),
            priority=definition.terms.priority,
            max_retries=definition.registry.max_retries if retries is None else retries,
            made_at=time.time(),
            function=self,
        )


class TaskDecorator(Protocol):
    """The decorator that ``@tasks.task(...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, T], T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...


class Registry:
    """The functions of one `TaskQueue` by name. Workers run no other function.

    Args:
        max_retries: Retries of tasks whose function does not set them.
        run: Runs a task in this process, for `Task.__call__`.
    """

    __slots__ = ("functions", "max_retries", "run")

    def __init__(self, max_retries: int, run: Callable[[Task[Any]], Awaitable[Any]]) -> None:
        self.functions: dict[str, TaskFunction[..., Any, Any]] = {}
        self.max_retries = max_retries
        self.run = run

    def define(
        self, function: Callable[..., Any], name: str | None, terms: TaskTerms
    ) -> TaskFunction[..., Any, Any]:
        """Make a `TaskFunction`; `add` registers it.

        Raises:
            TypeError: It is not a function, or it is a generator; the name is not a string.
            ValueError: The name is taken, or there is none.
        """
        if not callable(function):
            raise TypeError(
                f"a task is a function, not {shown(function)}: write @tasks.task, or "
                "@tasks.task(name=...) with keywords"
            )
        name = getattr(function, "__name__", None) if name is None else name
        if not isinstance(name, str | None):
            raise TypeError(f"a task's name is a string, not {shown(name)}")
        if not name:
            raise ValueError(f"{shown(function)} has no name of its own: give it one with name=")
        if name in self.functions:
            raise ValueError(
                f"there is a task {shown(name)} already, "
                f"{shown(self.functions[name].__wrapped__)}: give one of the two another name with "
                "name="
            )
        if is_generator(function):
            raise TypeError(
                f"task {shown(name)} cannot be a generator: a worker does not iterate over it; "
                "return a list"
            )
        if terms.run_in == "process":
            check_importable(f"task {shown(name)}", function)
        definition = Definition(
            name,
            function,
            self,
            terms,
            Signature(function, name),
            is_async(function),
        )
        return TaskFunction[..., Any, Any](function, definition)

    def add(self, function: TaskFunction[..., Any, Any]) -> None:
        """Register a function under its name."""
        self.functions[function.name] = function
