"""The queue behind a `TaskQueue`, and the results and XCom values beside it."""

from __future__ import annotations

from typing import Any, TypedDict

from anyio import Lock

from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant
from .._core.queue_options import check_tenants
from .._core.texts import shown
from .._core.validation import lease_seconds
from ..abc import Broker, LeasedQueue, Transaction
from ._errors import ValueTooLargeError
from ._results import Results


class TaskQueueOptions(TypedDict, total=False):
    """Options of the queue that a `TaskQueue` makes in its broker."""

    lease_timeout: float | None
    """Seconds after which the task of a dead worker goes to another one (60.0); None: never."""
    backoff: Backoff | None
    """Delay before a task is tried again (``Backoff(1.0)``: up to a second, then two, and so on
    to five minutes); None: no delay."""
    tenants: dict[str, Tenant] | None
    """Weights and caps of tenants; None (the default): all alike."""


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
    }


class _Binding:
    """The broker or queue that a backend is bound to, with the queues opened so far."""

    __slots__ = ("broker", "kept", "lock", "queue", "source")

    def __init__(self, source: Broker | LeasedQueue[str, Any]) -> None:
        self.source = source
        self.broker: Broker | None = None
        self.queue: LeasedQueue[str, Any] | None = None
        self.kept: dict[str, Results] = {}
        self.lock = Lock()
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
        options: Options of the queue.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: The lease timeout is not above 0.
    """

    __slots__ = ("_binding", "_options", "_options_given", "name", "value_limit", "xcom_ttl")

    def __init__(
        self, name: str, xcom_ttl: float, value_limit: int, options: TaskQueueOptions
    ) -> None:
        self.name = name
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
        if binding.queue is None:
            assert binding.broker is not None
            async with binding.lock:
                if binding.queue is None:
                    binding.queue, _ = await binding.broker.create_queue_pair(
                        self.name, **self._options
                    )
        return binding.queue

    async def results(self, purpose: str) -> Results:
        """Return the results of the tasks.

        Args:
            purpose: Subject of the error if there is no broker.

        Raises:
            RuntimeError: There is no source.
            ValueError: There is no broker.
        """
        return await self._kept("results", purpose)

    async def xcom(self, purpose: str) -> Results:
        """Return the XCom values of the tasks. Arguments and errors are those of `results`."""
        return await self._kept("xcom", purpose)

    async def _kept(self, kind: str, purpose: str) -> Results:
        binding, broker = self._with_broker(purpose)
        if kind not in binding.kept:
            async with binding.lock:
                if kind not in binding.kept:
                    queue = await broker.queue(f"{self.name}.{kind}")
                    binding.kept[kind] = Results(broker, queue)
        return binding.kept[kind]

    def transaction(self, purpose: str) -> Transaction:
        """Return a transaction of the broker. Arguments and errors are those of `results`."""
        return self._with_broker(purpose)[1].transaction()

    # Values

    def check_keeps(self, purpose: str) -> None:
        """Raise if values cannot be kept. Arguments and errors are those of `results`."""
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

    def _with_broker(self, purpose: str) -> tuple[_Binding, Broker]:
        binding = self._bound()
        if binding.broker is None:
            raise ValueError(
                f"{purpose} needs a broker, and there is only {shown(binding.queue)}: write "
                "TaskQueue(leaseq.connect(url))"
            )
        return binding, binding.broker
