"""Where the tasks of a `TaskQueue` are: a queue, and what is kept beside it."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from anyio import Lock

from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant
from .._core.validation import lease_seconds
from ..abc import Broker, LeasedQueue, Transaction
from ._results import Store

__all__ = ["Place", "TaskQueueOptions", "queue_options"]


class TaskQueueOptions(TypedDict, total=False):
    """How a `TaskQueue` makes its queue in a broker; what is left out is as usual."""

    lease_timeout: float | None
    """Seconds after which a dead worker's task goes to another one (60); None: never."""
    backoff: Backoff | None
    """How long a task rests before it is tried again (``Backoff(1.0)``: up to a second, then two,
    and so on to five minutes); None: not at all."""
    tenants: dict[str, Tenant] | None
    """Weights and caps of tenants (None: all alike)."""


def queue_options(options: TaskQueueOptions) -> BrokerQueueOptions:
    """How the queue is made in a broker.

    Raises:
        TypeError: there is no such option.
        ValueError: the lease timeout is not above 0.
    """
    unknown = options.keys() - TaskQueueOptions.__optional_keys__
    if unknown:
        choices = ", ".join(sorted(TaskQueueOptions.__optional_keys__))
        raise TypeError(f"a TaskQueue has no option {', '.join(sorted(unknown))}: it has {choices}")
    lease_timeout = options.get("lease_timeout", 60.0)
    lease_seconds("lease_timeout", lease_timeout)
    return {
        "default_lease_timeout": lease_timeout,
        "retry": Retry(backoff=options.get("backoff", Backoff(1.0))),
        "tenants": options.get("tenants"),
    }


class Place:
    """A queue of tasks; with a broker also what results and XCom are kept in.

    Args:
        source: A broker, which makes the queues when they are first needed; or a queue alone.
        name: What the queue is called in the broker.
        **options: As `TaskQueueOptions` has them.

    Raises:
        TypeError: it is neither a broker nor a queue; there is no such option.
        ValueError: there are options, and the queue is made already.
    """

    def __init__(
        self,
        source: Broker | LeasedQueue[str, Any],
        name: str,
        **options: Unpack[TaskQueueOptions],
    ) -> None:
        self.source = source
        self.broker: Broker | None = None
        self.queue: LeasedQueue[str, Any] | None = None
        self._name = name
        self._stores: dict[str, Store] = {}
        self._lock = Lock()
        if isinstance(source, Broker):
            self.broker = source
        elif isinstance(source, LeasedQueue):
            self.queue = source
        else:
            raise TypeError(
                f"tasks go into a broker or a LeasedQueue, not {type(source).__name__!r}: "
                "write TaskQueue(leaseq.connect(url))"
            )
        if options and self.queue is not None:
            raise ValueError(
                f"{', '.join(options)}: {self.queue!r} is made already; say it where that is made, "
                "or give the broker instead of the queue"
            )
        self._options = queue_options(options)

    async def open(self) -> LeasedQueue[str, Any]:
        """The queue of the tasks, made if it is not there. If cancelled, nothing was made."""
        if self.queue is None:
            assert self.broker is not None
            async with self._lock:
                if self.queue is None:
                    self.queue, _ = await self.broker.create_queue_pair(self._name, **self._options)
        return self.queue

    async def store(self, kind: str, what: str) -> Store:
        """Where values of a kind are kept.

        Args:
            kind: The last part of the queue's name.
            what: What needs it, for the error.

        Raises:
            ValueError: there is no broker.
        """
        broker = self._needed(what)
        if kind not in self._stores:
            async with self._lock:
                if kind not in self._stores:
                    queue = await broker.queue(f"{self._name}.{kind}")
                    self._stores[kind] = Store(broker, queue)
        return self._stores[kind]

    def transaction(self, what: str) -> Transaction:
        """A transaction of the broker.

        Args:
            what: What needs it, for the error.

        Raises:
            ValueError: there is no broker.
        """
        return self._needed(what).transaction()

    def check_keeps(self, what: str) -> None:
        """See that values can be kept here.

        Raises:
            ValueError: there is no broker.
        """
        self._needed(what)

    def _needed(self, what: str) -> Broker:
        if self.broker is None:
            raise ValueError(
                f"{what} needs a broker, and there is only {self.queue!r}: write "
                "TaskQueue(leaseq.connect(url))"
            )
        return self.broker
