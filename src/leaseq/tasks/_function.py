"""Functions that can be called somewhere else."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from .._core.policies import Priority
from .._core.validation import lease_seconds
from ._signature import Signature
from ._task import Task, check_priority, check_retries, new_id

if TYPE_CHECKING:
    from ._registry import TaskRegistry

__all__ = ["TaskDecorator", "TaskFunction", "TaskTerms"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What a decorator was told of the tasks of its function; checked."""

    priority: int = Priority.NORMAL
    max_retries: int | None = None
    lease_timeout: float | None = None
    ttl: float | None = None
    result_ttl: float | None = None
    xcom_key: str | None = None

    def __post_init__(self) -> None:
        check_priority(self.priority)
        if self.max_retries is not None:
            check_retries(self.max_retries)
        for name in ("lease_timeout", "ttl", "result_ttl"):
            lease_seconds(name, getattr(self, name))

    @property
    def keeps_something(self) -> bool:
        """Whether what the function returns is stored anywhere."""
        return self.result_ttl is not None or self.xcom_key is not None


class TaskFunction(Generic[P, R_co, T_co]):
    """A function that can be called as itself, and of which tasks can be made.

    ``await process_order(1)`` is a call, as without the decorator: typed, and nothing else happens.
    ``process_order.task(1)`` is a task, to be pushed or to be run here.

    Attributes:
        name: What it is registered as.
        owner: The `TaskQueue` that it is registered with.
        terms: What the decorator was told.
        signature: Its parameters.
        is_async: Whether it is an ``async def``; others run in worker threads.
    """

    name: str
    __wrapped__: Callable[P, R_co]

    def __init__(
        self, function: Callable[P, R_co], name: str, owner: TaskRegistry, terms: TaskTerms
    ) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"task {name!r} cannot be a generator: nobody iterates over it; return a list"
            )
        update_wrapper(self, function)
        self.name = name
        self.owner = owner
        self.terms = terms
        self.signature = Signature(function, name)
        self.is_async = inspect.iscoroutinefunction(function)

    def __repr__(self) -> str:
        return f"<TaskFunction {self.name!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, here and now."""
        return self.__wrapped__(*args, **kwargs)

    def task(self, *args: P.args, **kwargs: P.kwargs) -> Task[T_co]:
        """Make a task of a call with these arguments. It is a snapshot of them.

        Raises:
            TypeError: the function does not take these.
            TaskDataError: an argument is not what its annotation says, or cannot be written as
                JSON.

        O(size of the arguments).
        """
        retries = self.terms.max_retries
        return Task(
            id=new_id(),
            name=self.name,
            arguments=self.signature.bind(args, kwargs),
            priority=int(self.terms.priority),
            max_retries=self.owner.max_retries if retries is None else retries,
            made_at=time.time(),
            function=self,
        )


class TaskDecorator(Protocol):
    """What ``@tasks.task(...)`` decorates with."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, T], T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...
