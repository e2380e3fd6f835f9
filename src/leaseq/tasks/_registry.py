"""Which functions are tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, overload

from .._core.policies import Priority
from ._function import TaskDecorator, TaskFunction, TaskTerms
from ._task import Task

__all__ = ["TaskRegistry"]

P = ParamSpec("P")
T = TypeVar("T")


class TaskRegistry(ABC):
    """The functions that one `TaskQueue` knows, by their names. Nothing else is ever run."""

    max_retries: int
    """How often a task is tried again, where its function says nothing."""

    def __init__(self) -> None:
        self._functions: dict[str, TaskFunction[..., Any, Any]] = {}

    @property
    def functions(self) -> Mapping[str, TaskFunction[..., Any, Any]]:
        """The registered functions by their names."""
        return MappingProxyType(self._functions)

    @abstractmethod
    def check_keeps(self, function: TaskFunction[..., Any, Any]) -> None:
        """Raise `ValueError` if what a function returns is to be kept, and cannot be."""

    @abstractmethod
    async def run_here(self, task: Task[T]) -> T:
        """Do a task here and now: `Task.__call__`."""

    @overload
    def task(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, T], T]: ...

    @overload
    def task(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        priority: int = Priority.NORMAL,
        max_retries: int | None = None,
        lease_timeout: float | None = None,
        ttl: float | None = None,
        result_ttl: float | None = None,
        xcom_key: str | None = None,
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        priority: int = Priority.NORMAL,
        max_retries: int | None = None,
        lease_timeout: float | None = None,
        ttl: float | None = None,
        result_ttl: float | None = None,
        xcom_key: str | None = None,
    ) -> Any:
        """Register a function: ``@tasks.task`` or ``@tasks.task(priority=Priority.HIGH)``.

        The function is still called as itself; ``function.task(...)`` makes a `Task` of a call.

        Args:
            function: An ``async def``, or an ordinary function, which runs in a worker thread.
            name: What it is called in the queue; None: as the function is. Workers find it by this
                name, so producers and workers must agree on it.
            priority: Of its tasks: one of `Priority`, or any int, the higher the sooner.
            max_retries: How often a task of it is tried again when it has failed; None: as the
                `TaskQueue` has it.
            lease_timeout: Seconds after which a task of it goes to another worker when its own has
                died; None: as the queue has it. A living worker extends its leases.
            ttl: Seconds in which a task must have been started for the first time; None: for ever.
            result_ttl: Seconds for which what it returns is kept for `TaskQueue.result`; None: it
                is not.
            xcom_key: What it returns is pushed to XCom under this key; None: it is not.

        Raises:
            TypeError: it is not a function, or a generator; the name or the priority is none.
            ValueError: the name is taken; a time or a number is one that cannot be; something is
                to be kept, and there is no broker.
        """
        terms = TaskTerms(priority, max_retries, lease_timeout, ttl, result_ttl, xcom_key)

        def register(function: Callable[..., Any]) -> TaskFunction[..., Any, Any]:
            return self._register(function, name, terms)

        return register if function is None else register(function)

    def _register(
        self, function: Callable[..., Any], name: str | None, terms: TaskTerms
    ) -> TaskFunction[..., Any, Any]:
        if not callable(function):
            raise TypeError(
                f"a task is a function, not {function!r}: write @tasks.task, or "
                "@tasks.task(name=...) with keywords"
            )
        name = getattr(function, "__name__", None) if name is None else name
        if not isinstance(name, str | None):
            raise TypeError(f"a task's name is a string, not {name!r}")
        if not name:
            raise ValueError(f"{function!r} has no name of its own: give it one with name=")
        if name in self._functions:
            raise ValueError(
                f"there is a task {name!r} already, {self._functions[name].__wrapped__!r}: "
                "give one of the two another name with name="
            )
        task_function = TaskFunction[..., Any, Any](function, name, self, terms)
        self.check_keeps(task_function)
        self._functions[name] = task_function
        return task_function
