"""The queue behind a `TaskQueue`, which keeps results and XCom values too."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from anyio import Lock

from .._core.errors import LeaseqError, QueueClosedError
from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant
from .._core.queue_options import NOTES_KEPT, check_tenants, unknown_notes
from .._core.texts import shown
from .._core.validation import lease_seconds, timeout_seconds
from ..abc import Broker, LeasedQueue, Transaction
from ._errors import ValueTooLargeError
from ._results import read_kept

if TYPE_CHECKING:
    from ._timetable import Timetable


class TaskQueueOptions(TypedDict, total=False):
    """Options of the queue that a `TaskQueue` makes in its broker."""

    lease_timeout: float | None
    """Seconds after which the task of a dead worker goes to another one (60.0); None: never."""
    backoff: Backoff | None
    """Delay before a task is tried again (``Backoff(1.0)``: up to a second, then two, and so on
    to five minutes); None: no delay."""
    tenants: dict[str, Tenant] | None
    """Weights and caps of tenants; None (the default): all alike."""
    group: str | None
    """Group of the queue in the broker; None (the default): the broker's choice."""


def read_queue_options(options: TaskQueueOptions) -> BrokerQueueOptions:
    """Return the options of the queue in a broker.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: The lease timeout is not above 0.
    """
    lease_timeout = options.get("lease_timeout", 60.0)
    lease_seconds("lease_timeout", lease_timeout)
    tenants = options.get("tenants")
    if tenants is not None:
        check_tenants(tenants)
    return {
        "default_lease_timeout": lease_timeout,
        "retry": Retry(backoff=options.get("backoff", Backoff(1.0))),
        "tenants": tenants,
        "group": options.get("group"),
    }


class _Binding:
    """The broker or queue that a backend is bound to, and the queue once it is open."""

    __slots__ = ("broker", "lock", "queue", "source", "timetable")

    def __init__(self, source: Broker | LeasedQueue[str, Any]) -> None:
        self.source = source
        self.broker: Broker | None = None
        self.queue: LeasedQueue[str, Any] | None = None
        self.lock = Lock()
        self.timetable: Timetable | None = None
        if isinstance(source, Broker):
            self.broker = source
        elif isinstance(source, LeasedQueue):
            self.queue = source
        else:
            raise TypeError(
                f"tasks go into a broker or a LeasedQueue, not {type(source).__name__!r}: "
                "write TaskQueue(leaseq.connect(url))"
            )


class Backend:
    """The queue of tasks; with a broker also results and XCom values.

    It exists before it has a broker, since functions are registered before that, and their tasks
    may be run without one.

    Args:
        name: Name of the queue in the broker.
        xcom_ttl: Seconds for which XCom values are kept.
        value_limit: Bytes that one result or XCom value may have as JSON.
        unknown_for: Seconds for which workers leave a task that they do not know.
        options: Options of the queue.

    Attributes:
        elsewhere_keeps: In a process that runs a task for a worker: True if values can be kept
            there. None: this is not such a process.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: The lease timeout is not above 0.
    """

    __slots__ = (
        "_binding",
        "_options",
        "_options_given",
        "elsewhere_keeps",
        "name",
        "unknown_for",
        "value_limit",
        "xcom_ttl",
    )

    def __init__(
        self,
        name: str,
        xcom_ttl: float,
        value_limit: int,
        unknown_for: float,
        options: TaskQueueOptions,
    ) -> None:
        self.name = name
        self.unknown_for = unknown_for
        self.elsewhere_keeps: bool | None = None
        self.xcom_ttl = xcom_ttl
        self.value_limit = value_limit
        self._options = read_queue_options(options)
        self._options_given = tuple(options)
        self._binding: _Binding | None = None

    # The source

    def bind(self, source: Broker | LeasedQueue[str, Any]) -> None:
        """Put the tasks into a broker, or into a queue.

        Raises:
            RuntimeError: It is bound already.
            TypeError: The source is neither.
            ValueError: There are options for the queue, and it exists already.
        """
        if self._binding is not None:
            raise RuntimeError(
                f"task queue {self.name!r} is bound to {shown(self._binding.source)} already: "
                "bind it once"
            )
        binding = _Binding(source)
        if self._options_given and binding.queue is not None:
            raise ValueError(
                f"{', '.join(self._options_given)}: {shown(binding.queue)} exists already; set "
                "this where the queue is made, or pass the broker instead of the queue"
            )
        self._binding = binding

    def unbind(self) -> None:
        """Forget the source."""
        self._binding = None

    @property
    def is_bound(self) -> bool:
        """True while there is a source."""
        return self._binding is not None

    @property
    def source(self) -> Broker | LeasedQueue[str, Any]:
        """The broker, or the queue.

        Raises:
            RuntimeError: There is none.
        """
        return self._bound().source

    # The queues

    async def open(self) -> LeasedQueue[str, Any]:
        """Return the queue of the tasks, made if it does not exist. If cancelled, it was not made.

        Raises:
            RuntimeError: There is no source.
        """
        binding = self._bound()
        self._check_here(binding)
        if binding.queue is None:
            assert binding.broker is not None
            async with binding.lock:
                if binding.queue is None:
                    binding.queue, _ = await binding.broker.create_queue_pair(
                        self.name, **self._options
                    )
        return binding.queue

    async def timetable(self, purpose: str) -> Timetable:
        """Return the schedules; what they are kept in is made if it does not exist.

        Args:
            purpose: Subject of the error if there is no broker.

        Raises:
            RuntimeError: There is no source.
            ValueError: There is no broker.
        """
        broker = self._with_broker(purpose)
        binding = self._bound()
        if binding.timetable is None:
            from ._timetable import Timetable

            binding.timetable = await Timetable.make(broker, await self.open())
        return binding.timetable

    async def find_timetable(self, purpose: str) -> Timetable | None:
        """Return the schedules, or None if there never was one. Raises as `timetable` does."""
        broker = self._with_broker(purpose)
        binding = self._bound()
        if binding.timetable is None:
            from ._timetable import Timetable

            binding.timetable = await Timetable.find(broker, await self.open())
        return binding.timetable

    async def run_schedules(self, consumer: str) -> None:
        """Run the schedules beside a worker, once there are some."""
        broker = self._bound().broker
        if broker is not None:
            from ._timetable import until_made

            find = partial(self.find_timetable, "a schedule")
            await (await until_made(broker, find)).run(consumer)

    async def note_unknown(self, what: str, note: dict[str, Any]) -> None:
        """Keep a note on tasks that a worker does not know, for operators, for a few minutes."""
        binding = self._bound()
        if binding.broker is not None:
            queue = await binding.broker.queue(unknown_notes(self.name))
            await queue.put(what, note, ttl=NOTES_KEPT)

    async def mind_notes(self, ended: str = "", names: Iterable[str] = ()) -> None:
        """Have notes on unknown tasks go in time, though the worker that has put them may be gone.

        They are only a help: what cannot be done is left. O(names).

        Args:
            ended: The id of a worker that has ended, whose notes go now.
            names: The unknown functions of its notes; newer ones may be other workers'.
        """
        broker = self._bound().broker
        if broker is None:
            return
        with suppress(LookupError, LeaseqError, ValueError):
            notes = await broker.queue(unknown_notes(self.name), make=False)
            # The answer tells this broker's `run` when the next one is to go.
            await notes.statistics()
            for name in names:
                note = await notes.peek(name)
                if isinstance(note, dict) and note.get("worker") == ended:
                    await notes.discard(name)

    def transaction(self, purpose: str) -> Transaction:
        """Return a transaction of the broker.

        Args:
            purpose: Subject of the error if there is no broker.

        Raises:
            RuntimeError: There is no source.
            ValueError: There is no broker.
        """
        return self._with_broker(purpose).transaction()

    # Values

    @property
    def keeps(self) -> bool:
        """True if values can be kept: there is a broker, and not only a queue."""
        return bool(self.elsewhere_keeps) or (
            self._binding is not None and self._binding.broker is not None
        )

    async def recall(self, name: str, timeout: float | None, purpose: str) -> dict[str, Any]:
        """Wait for the value that is kept under a name, and return its document.

        Args:
            name: The name.
            timeout: Seconds to wait. None: without end; 0 or less: do not wait.
            purpose: Subject of the error if there is no broker.

        Raises:
            TimeoutError: There was no value in time.
            RuntimeError: There is no source.
            ValueError: There is no broker; the timeout is not a number.
            QueueClosedError: The queue is closed.

        If cancelled, nothing has changed.
        """
        timeout = timeout_seconds(timeout)
        self.check_keeps(purpose)
        queue = await self.open()
        return read_kept(await queue._recall(name, timeout))

    def check_keeps(self, purpose: str) -> None:
        """Raise if values cannot be kept. Arguments and errors are those of `transaction`."""
        if not self.elsewhere_keeps:
            self._with_broker(purpose)

    def check_size(self, size: int, what: str) -> None:
        """Raise if a value is too large to be kept.

        Args:
            size: Bytes of the value as JSON.
            what: Subject of the error.

        Raises:
            ValueTooLargeError: The size is above the limit.
        """
        if size > self.value_limit:
            raise ValueTooLargeError(
                f"{what} has {size} bytes as JSON, and value_limit is {self.value_limit}: store "
                "it elsewhere, and keep a reference to it"
            )

    def _bound(self) -> _Binding:
        if self._binding is None:
            raise RuntimeError(
                f"task queue {self.name!r} has no broker yet: write "
                "TaskQueue(leaseq.connect(url)), or `with tasks.bind(broker):` around the code "
                "that uses it"
            )
        return self._binding

    def _check_here(self, binding: _Binding) -> None:
        """Raise, with the way out, if the broker is closed, or of another event loop or process."""
        if binding.broker is None:
            return
        try:
            binding.broker._check_here()
        except (QueueClosedError, RuntimeError) as error:
            advice = (
                f"{error}. A broker is for one anyio.run() in one process: make task queue "
                f"{self.name!r} without one, TaskQueue(), and write "
                "`with tasks.bind(connect(url)):` in each"
            )
            raise type(error)(advice) from None

    def _with_broker(self, purpose: str) -> Broker:
        binding = self._bound()
        if binding.broker is None:
            raise ValueError(
                f"{purpose} needs a broker, and there is only {shown(binding.queue)}: write "
                "TaskQueue(leaseq.connect(url))"
            )
        return binding.broker
