"""A task: a call of a function, or a payload, that is to be done somewhere, some time."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from .._core.policies import Priority
from ._errors import TaskDataError
from ._signature import as_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._function import TaskFunction

__all__ = ["DEFAULT_MAX_RETRIES", "Task", "new_id"]

T_co = TypeVar("T_co", covariant=True)

DEFAULT_MAX_RETRIES = 3


class _Wire(msgspec.Struct, omit_defaults=True):
    """What a queue holds of a task, under its id."""

    made_at: float
    name: str | None = None
    arguments: dict[str, Any] = {}
    payload: Any = None
    priority: int = int(Priority.NORMAL)
    tenant: str | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    workflow: str | None = None


def new_id() -> str:
    """32 hexadecimal digits, drawn at random."""
    return uuid.uuid4().hex


class Task(msgspec.Struct, Generic[T_co], frozen=True, eq=False, repr_omit_defaults=True):
    """One call of a function, or one payload: ``await task()`` does it here.

    Made by `TaskFunction.task`, by `create`, or read from a queue. It does not change.

    Attributes:
        id: What identifies it; its key in the queue.
        name: The name of its function; None: it has none, but a payload.
        arguments: The function's arguments by the names of its parameters, as JSON has them.
        payload: What is to be done, where there is no function, as JSON has it.
        priority: One of `Priority`, or any int, the higher the sooner.
        tenant: Whose work it is; None: nobody's in particular.
        max_retries: How often it is tried again when it has failed.
        workflow: What its XCom values are found under; tasks pushed while it runs have the same.
            None: it is not in a queue yet, and will be a workflow of its own.
        made_at: When it was made, in seconds since the epoch.
        function: What it runs; None: a payload, or a name that is not registered here.
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

    @staticmethod
    def create(
        tenant: str | None = None,
        priority: int = Priority.NORMAL,
        payload: object = None,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
    ) -> Task[Any]:
        """Make a task for work that is no function: `TaskHandler.process_task` does it.

        Args:
            tenant: Whose work it is; None: nobody's in particular.
            priority: One of `Priority`, or any int.
            payload: What is to be done: anything that can be written as JSON.
            max_retries: How often it is tried again when it has failed.

        Raises:
            TypeError: the tenant is not a string, or the priority not an int.
            TaskDataError: the payload cannot be written as JSON.
            ValueError: the number of retries is negative.
        """
        return Task(
            id=new_id(),
            payload=as_plain(payload, "the payload")[0],
            priority=check_priority(priority),
            tenant=check_tenant(tenant),
            max_retries=check_retries(max_retries),
            made_at=time.time(),
        )

    async def __call__(self) -> T_co:
        """Do it here and now, as a worker would, but without a queue, retries or a kept result.

        What it pushes to XCom is stored when it has succeeded.

        Raises:
            TypeError: it has no function.
            Exception: whatever the function raises.

        If cancelled, so is the function; one that runs in a thread is waited for.
        """
        if self.function is None:
            what = "a payload" if self.name is None else f"{self.name!r}, which is not registered"
            raise TypeError(f"task {self.id!r} cannot be called: it is {what}")
        return await self.function.owner.run_here(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        return self.id == other.id and self.to_wire() == other.to_wire()

    def __ne__(self, other: object) -> bool:  # a Struct has one of its own
        return not self == other

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        what = f"payload={self.payload!r}" if self.name is None else f"name={self.name!r}"
        return f"<Task {self.id} {what} tenant={self.tenant!r} priority={self.priority}>"

    def to_wire(self) -> dict[str, Any]:
        """What a queue holds of it: a dict of plain values."""
        wire = _Wire(
            self.made_at,
            self.name,
            dict(self.arguments),
            self.payload,
            self.priority,
            self.tenant,
            self.max_retries,
            self.workflow,
        )
        return msgspec.to_builtins(wire)  # type: ignore[no-any-return]

    @staticmethod
    def from_wire(
        task_id: str, wire: object, functions: Mapping[str, TaskFunction[..., Any, Any]]
    ) -> Task[Any]:
        """Read what a queue holds of a task.

        Args:
            task_id: The key that it is under.
            wire: What is there.
            functions: What names stand for.

        Raises:
            TaskDataError: that is not a task.
        """
        try:
            read = msgspec.convert(wire, _Wire)
        except msgspec.ValidationError as error:
            raise TaskDataError(f"what is under {task_id!r} is not a task: {error}") from None
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
        )


def check_retries(number: int) -> int:
    """The number, if it is one of retries."""
    if number < 0:
        raise ValueError(f"max_retries must be 0 or more, not {number!r}")
    return number


def check_priority(priority: int) -> int:
    """The priority as an int, if it is one."""
    if not isinstance(priority, int):
        raise TypeError(f"priority must be a Priority or another int, not {priority!r}")
    return int(priority)


def check_tenant(tenant: str | None) -> str | None:
    """The tenant, if it can be one."""
    if not isinstance(tenant, str | None):
        raise TypeError(f"tenant must be a string or None, not {tenant!r}")
    return tenant
