"""Queues by name, in this process."""

from __future__ import annotations

from typing import Any, Unpack

from anyio import TASK_STATUS_IGNORED, BusyResourceError
from anyio.abc import TaskStatus

from .._core.loop import Home
from .._core.messages import (
    RUN_TWICE,
    broker_closed,
    dead_letters_used,
    letters_elsewhere,
    no_dead_letters,
    no_queue,
    not_of_broker,
    own_dead_letters,
    pair_without_dead_letters,
)
from .._core.options import BrokerQueueOptions
from .._core.queue_options import (
    check_broker_options,
    check_handle,
    check_same,
    group_of,
    options_of_queue,
    queue_name,
)
from .._core.reports import DeadLetter, QueueInfo
from .._core.validation import check_flag
from ..abc import Broker
from .engine import Engine
from .queue import LeasedKeyQueue, engine_of
from .timekeeper import Timekeeper
from .transaction import MemoryTransaction


class MemoryBroker(Broker):
    """A broker whose queues are `LeasedKeyQueue`s of this process: ``connect("memory://")``."""

    _is_shared = False

    def __init__(self) -> None:
        self._queues: dict[str, LeasedKeyQueue[Any, Any]] = {}
        self._options: dict[str, BrokerQueueOptions] = {}
        self._home = Home()
        self._keeper: Timekeeper | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryBroker {'closed' if self._closed else 'open'}: {len(self._queues)} queues>"

    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> LeasedKeyQueue[Any, Any]:
        check_flag("make", make)
        name = queue_name(name)
        options = check_broker_options(options)
        if not make:
            self._existing(name)
        return self._queue(name, options)

    def _queue(self, name: str, options: BrokerQueueOptions) -> LeasedKeyQueue[Any, Any]:
        self._check_open()
        if name in self._queues:
            check_same(name, self._options[name], options)
            check_handle(name, self._options[name], options)
            return self._queues[name]
        others = dict(options_of_queue(options))
        letters_name = others.pop("dead_letters", None)
        timeout = options.get("default_lease_timeout")
        letters = (
            None if letters_name is None else self._letters_for(name, str(letters_name), timeout)
        )
        group = self._group_for(name, others.pop("group", None), letters)
        queue = LeasedKeyQueue[Any, Any](name=name, dead_letters=letters, **others)  # type: ignore[arg-type]
        self._keep(queue, {**options, "group": group})
        if letters is not None and letters.name not in self._queues:
            self._keep(letters, {"default_lease_timeout": timeout, "group": group})
        return queue

    def _group_for(self, name: str, group: object, letters: LeasedKeyQueue[Any, Any] | None) -> str:
        """Return the group of a new queue: that of its dead letters, if these are there."""
        if letters is None or letters.name not in self._queues:
            return str(group or "")
        if group is not None and group != letters.group:
            raise letters_elsewhere(name, str(group), letters.name, letters.group)
        return letters.group

    def _letters_for(
        self, name: str, letters_name: str, timeout: float | None
    ) -> LeasedKeyQueue[Any, Any]:
        if letters_name == name:
            raise own_dead_letters(name)
        queue_name(letters_name)
        there = self._queues.get(letters_name)
        return there or LeasedKeyQueue(name=letters_name, default_lease_timeout=timeout)

    def _keep(self, queue: LeasedKeyQueue[Any, Any], options: BrokerQueueOptions) -> None:
        queue.group = group_of(options)
        queue._kept_by = "broker"
        self._queues[queue.name] = queue
        self._options[queue.name] = options
        if self._keeper is not None:
            engine_of(queue).attach(self._keeper)

    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[LeasedKeyQueue[Any, Any], LeasedKeyQueue[str, DeadLetter[Any, Any]]]:
        name = queue_name(name)
        options = check_broker_options(options, "create_queue_pair")
        if "dead_letters" in options and options["dead_letters"] is None:
            raise pair_without_dead_letters()
        there = self._queues.get(name)
        if there is None or there.dead_letters is None:
            options = {"dead_letters": f"{name}.dead", **options}
        queue = self._queue(name, options)
        return queue, await self.dead_letters(name)

    async def dead_letters(self, name: str) -> LeasedKeyQueue[str, DeadLetter[Any, Any]]:
        name = queue_name(name)
        letters = self._existing(name).dead_letters
        if letters is None:
            raise no_dead_letters(name)
        return self._queues[letters.name]

    async def list_queues(self) -> list[QueueInfo]:
        self._check_open()
        return [await queue.info() for queue in self._queues.values()]

    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        name = queue_name(name)
        check_flag("dead_letters", dead_letters)
        queue = self._existing(name)
        users = [other.name for other in self._queues.values() if other.dead_letters is queue]
        if users:
            raise dead_letters_used(name, users)
        await self._forget(queue)
        letters = queue.dead_letters
        if dead_letters and letters is not None:
            shared = any(other.dead_letters is letters for other in self._queues.values())
            if not shared:
                await self._forget(self._queues[letters.name])

    async def _forget(self, queue: LeasedKeyQueue[Any, Any]) -> None:
        await queue.close()
        if queue.dead_letters is not None:
            engine_of(queue.dead_letters).letters_of.pop(queue.name, None)
        del self._queues[queue.name]
        del self._options[queue.name]

    async def purge(self, name: str) -> int:
        name = queue_name(name)
        return len(self._existing(name).drain_nowait())

    async def process_expired(self) -> int:
        self._check_open()
        return sum(engine.process_expired() for engine in self._open_engines())

    def transaction(self) -> MemoryTransaction:
        return MemoryTransaction(self._engine_of, self._home)

    async def close(self) -> None:
        self._closed = True
        for queue in self._queues.values():
            await queue.close()
        if self._keeper is not None:
            self._keeper.ring()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._keeper is not None:
            raise BusyResourceError(RUN_TWICE)
        self._home.check()
        self._keeper = Timekeeper(self._home)
        try:
            await self._keeper.keep(self._open_engines, lambda: self._closed, task_status)
        finally:
            self._keeper = None

    def _open_engines(self) -> list[Engine[Any, Any]]:
        return [engine_of(queue) for queue in self._queues.values() if not queue.closed]

    def _engine_of(self, queue: object) -> Engine[Any, Any]:
        """Return the engine of a queue of this broker. Raises `ValueError` for another."""
        if not isinstance(queue, LeasedKeyQueue) or self._queues.get(queue.name) is not queue:
            raise not_of_broker(queue)
        return engine_of(queue)

    def _check_here(self) -> None:
        self._check_open()
        self._home.check()

    def _check_open(self) -> None:
        if self._closed:
            raise broker_closed(self)

    def _existing(self, name: str) -> LeasedKeyQueue[Any, Any]:
        self._check_open()
        try:
            return self._queues[name]
        except KeyError:
            raise no_queue(name) from None
