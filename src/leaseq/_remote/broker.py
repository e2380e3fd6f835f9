"""Queues by name, in a store that processes share."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CancelScope, Lock
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from .._core.codec import Codec, JsonCodec
from .._core.errors import LeaseqError, ServerError
from .._core.ids import new_id
from .._core.log import log
from .._core.loop import Home
from .._core.messages import (
    RUN_TWICE,
    broker_closed,
    dead_letters_used,
    no_dead_letters,
    no_queue,
    own_dead_letters,
    pair_without_dead_letters,
)
from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry
from .._core.queue_options import (
    check_broker_options,
    check_handle,
    check_name,
    check_same,
    codec_for,
    options_of_queue,
)
from .._core.reports import DeadLetter, QueueInfo
from .._core.texts import shown
from .._core.validation import check_flag, check_text
from ..abc import Broker
from . import protocol
from .dispatcher import Call, Dispatcher
from .engine import SWEPT, Engine, check_readable
from .housekeeping import Housekeeping
from .protocol import (
    UNDECODABLE,
    Body,
    Declared,
    Event,
    GoneError,
    Key,
    OpenStore,
    Operation,
    QueueRef,
    RawKey,
)
from .queue import RemoteQueue
from .transaction import RemoteTransaction

A = TypeVar("A")

_NOWHERE = QueueRef("")  # for what is about no queue


def _ref(name: str, letters: str) -> QueueRef:
    return QueueRef(name, QueueRef(letters) if letters else None)


def _check_kept(options: BrokerQueueOptions) -> None:
    """Raise `TypeError` for a policy with code of its own: a store has its numbers alone."""
    retry = options.get("retry")
    for policy, kind in ((retry, Retry), (retry and retry.backoff, Backoff)):
        if policy is not None and type(policy) is not kind:
            raise TypeError(
                f"a queue that processes share takes a plain {kind.__name__}, and not "
                f"{shown(policy)}, whose methods would not be called"
            )


class _Handles:
    """The handles of a broker, by name: what the queues need of each other.

    Attributes:
        kept: True while the broker's own `run` runs.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, RemoteQueue[Any, Any]] = {}
        self.kept = False

    def __len__(self) -> int:
        return len(self.by_name)

    def engine(self, name: str) -> Engine[Any, Any] | None:
        """Return the engine of a handle, closed or not; None: there is no handle."""
        queue = self.by_name.get(name)
        return None if queue is None else queue._engine

    def engines(self) -> list[Engine[Any, Any]]:
        """Return the engines of all handles, closed ones among them."""
        return [queue._engine for queue in self.by_name.values()]

    def owns(self, queue: RemoteQueue[Any, Any]) -> bool:
        """Return True for a handle of this broker's."""
        return self.by_name.get(queue.name) is queue

    def ref(self, name: str, letters: str = "") -> QueueRef:
        """Name a queue, and its queue of dead letters, unless that is known here already."""
        there = self.engine(name)
        if there is None:
            return _ref(name, letters)
        if letters and there.ref.letters is None:
            there.ref = _ref(name, letters)  # it was made anew by another process
        return there.ref

    # For the engines

    def keeps(self, engine: Engine[Any, Any]) -> bool:
        """Return True if a `run` keeps time for a queue: its own, or another that covers it."""
        if self.kept or engine.runs:
            return True
        covering = [engine]  # it, and those whose dead letters come to it
        for each in covering:
            if each.runs:
                return True
            covering += [
                other
                for other in self.engines()
                if other.ref.letters is not None
                and other.ref.letters.name == each.name
                and other not in covering
            ]
        return False

    def forget(self, engine: Engine[Any, Any]) -> None:
        """Note that a queue was deleted: its name is free for another one."""
        if self.engine(engine.name) is engine:
            del self.by_name[engine.name]

    def read_letter(self, letter: DeadLetter[Key | RawKey, Body]) -> DeadLetter[Any, Any]:
        """Decode a dead letter, by the codec of the queue that it comes from."""
        check_readable(letter.key)
        value: Any = self._read_body(letter.queue, letter.value, letter.reason)
        return replace(letter, value=value)

    def _read_body(self, queue: str, body: Body, reason: str) -> Any:
        """Decode what died; its bytes as they are, if they cannot be read."""
        if isinstance(body, DeadLetter):
            return self.read_letter(body)
        there = self.engine(queue)
        codec: Codec[Any] = JsonCodec() if there is None else there.codec
        try:
            return codec.decode(body)
        except Exception:
            if reason != UNDECODABLE:
                log(logging.WARNING, "a dead letter of queue %r cannot be read here", queue)
            return body


class RemoteBroker(Broker):
    """A broker whose queues are in a store that processes share.

    Args:
        open_store: Opens the store.
        place: The address of the store, for reprs and logs; without secrets.
        patience: Seconds for which a call tries to reach the store where no `run` runs.
    """

    def __init__(self, open_store: OpenStore, *, place: str, patience: float = 10.0) -> None:
        self._open_store = open_store
        self._place = place
        self._patience = patience
        self._home = Home()
        self._handles = _Handles()
        self._housekeeping = Housekeeping(self._handles.engine)
        self._dispatcher: Dispatcher | None = None
        self._turn_to_open: Lock | None = None
        self._opening: CancelScope | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        name = type(self).__name__
        return f"<{name} {self._place} {state}: {len(self._handles)} queues here>"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> Dispatcher:
        """Open the store, unless that was done."""
        self._check_open()
        self._home.check()
        if self._dispatcher is not None:
            return self._dispatcher
        if self._turn_to_open is None:
            self._turn_to_open = Lock()
        async with self._turn_to_open:
            self._check_open()
            if self._dispatcher is None:
                self._dispatcher = await self._connect()
            return self._dispatcher

    async def _connect(self) -> Dispatcher:
        """Open the store; if the broker is closed meanwhile, give it up."""
        store = None
        try:
            with CancelScope() as self._opening:
                store = await self._open_store(new_id(), self._hear)
        except LeaseqError:
            self._check_open()
            raise
        finally:
            self._opening = None
        if store is None or self._closed:
            if store is not None:
                with CancelScope(shield=True):
                    await store.close()
            raise broker_closed(self)
        dispatcher = Dispatcher(store, self._home, self._housekeeping, patience=self._patience)
        self._housekeeping.dispatcher = dispatcher
        return dispatcher

    def _hear(self, event: Event) -> None:
        if self._dispatcher is not None:  # before that, no task waits for anything
            self._dispatcher.hear(event)

    def _check_open(self) -> None:
        if self._closed:
            raise broker_closed(self)

    async def _perform(self, operation: Operation[A]) -> A:
        return await self._answer(Call(operation))

    async def _answer(self, call: Call[A]) -> A:
        await checkpoint_if_cancelled()  # or a loop of these could not be cancelled
        dispatcher = await self._open()
        return await dispatcher.perform(call)

    # Queues

    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> RemoteQueue[Any, Any]:
        check_flag("make", make)
        check_name(name)
        options = check_broker_options(options)
        _check_kept(options)
        dispatcher = await self._open()
        there = self._handles.engine(name)
        if there is not None and not there.closed:
            check_same(name, there.made_with, options)
            check_handle(name, there.handled_with, options)
            return self._handles.by_name[name]
        codec = codec_for(options)
        declared = await (self._declare(name, options) if make else self._existing(name))
        check_same(name, declared.options, options)
        letters = declared.letters
        if letters and make:
            await self.queue(letters)
        there = self._handles.engine(name)
        if there is None or there.closed:  # no other task was faster
            engine = Engine[Any, Any](
                _ref(name, letters),
                codec,
                declared.options,
                options,
                dispatcher=dispatcher,
                timers=self._housekeeping,
                hub=self._handles,
            )
            self._handles.by_name[name] = RemoteQueue(engine)
        return self._handles.by_name[name]

    async def _declare(self, name: str, options: BrokerQueueOptions) -> Declared:
        """Make a queue, unless it is there."""
        options = options_of_queue(options)
        letters = options.get("dead_letters")
        if letters is not None:
            if letters == name:
                raise own_dead_letters(name)
            check_name(letters)
        return await self._perform(protocol.Declare(_ref(name, letters or ""), options))

    async def _find(self, name: str) -> Declared | None:
        """Return how a queue was made; None: it is not there."""
        try:
            return await self._perform(protocol.Find(QueueRef(name)))
        except GoneError:
            return None

    async def _existing(self, name: str) -> Declared:
        """Return how a queue was made that must be there."""
        found = await self._find(name)
        if found is None:
            raise no_queue(name)
        return found

    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[RemoteQueue[Any, Any], RemoteQueue[str, DeadLetter[Any, Any]]]:
        check_name(name)
        options = check_broker_options(options, "create_queue_pair")
        if "dead_letters" in options and options["dead_letters"] is None:
            raise pair_without_dead_letters()
        found = await self._find(name)
        if found is None or not found.letters:
            options = {"dead_letters": f"{name}.dead", **options}
        queue = await self.queue(name, **options)
        return queue, await self.dead_letters(name)

    async def _stored(self) -> dict[str, str]:
        """Return the names of all queues, and of their queues of dead letters or ""."""
        stored: dict[str, str] = {}

        def receive(queues: tuple[tuple[str, str], ...]) -> None:
            stored.update(queues)
            for name in self._handles.by_name.keys() - stored.keys():
                self._note_deleted(name)  # by another process

        await self._answer(Call(protocol.ListQueues(_NOWHERE), receive=receive))
        return stored

    async def dead_letters(self, name: str) -> RemoteQueue[str, DeadLetter[Any, Any]]:
        check_text("a queue's name", name)
        letters = (await self._existing(name)).letters
        if not letters:
            raise no_dead_letters(name)
        return await self.queue(letters)

    async def list_queues(self) -> list[QueueInfo]:
        dispatcher = await self._open()
        stored = await self._stored()
        calls = [
            Call(protocol.Info(self._handles.ref(*each), senders=False)) for each in stored.items()
        ]
        for call in calls:
            dispatcher.post(call)
        senders: dict[str, list[str]] = {}
        for name, letters in stored.items():
            senders.setdefault(letters, []).append(name)
        infos: list[QueueInfo] = []
        for name, call in zip(stored, calls, strict=True):
            try:
                info = await dispatcher.answer(call)
            except GoneError:  # it was deleted meanwhile
                continue
            except ServerError as error:
                raise ServerError(f"{error}, for queue {name!r}", code=error.code) from error
            infos.append(replace(info, dead_letters_of=tuple(senders.get(name, ()))))
        return infos

    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        check_text("a queue's name", name)
        check_flag("dead_letters", dead_letters)
        letters = (await self._existing(name)).letters
        stored = await self._stored()
        users = [other for other, letters in stored.items() if letters == name]
        if users:
            raise dead_letters_used(name, users)
        await self._delete(name)
        stored.pop(name, None)
        if dead_letters and letters and letters not in stored.values():
            await self._delete(letters)

    async def _delete(self, name: str) -> None:
        with suppress(GoneError):
            await self._perform(protocol.Delete(self._handles.ref(name)))
        self._note_deleted(name)

    def _note_deleted(self, name: str) -> None:
        engine = self._handles.engine(name)
        if engine is not None:
            engine.note_deleted()

    async def purge(self, name: str) -> int:
        check_text("a queue's name", name)
        letters = (await self._existing(name)).letters
        try:
            return await self._perform(protocol.Purge(self._handles.ref(name, letters)))
        except GoneError:
            raise no_queue(name) from None

    async def process_expired(self) -> int:
        stored = await self._stored()
        outlived = 0
        for name, letters in stored.items():
            sweep = protocol.Sweep(self._handles.ref(name, letters), SWEPT)
            more = True
            with suppress(GoneError):
                while more:
                    swept = await self._perform(sweep)
                    outlived += swept.outlived
                    more = swept.more
        return outlived

    def transaction(self) -> RemoteTransaction:
        return RemoteTransaction(self._handles.owns)

    # The end

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        calls = [engine.start_to_close() for engine in self._handles.engines() if not engine.closed]
        if self._opening is not None:
            self._opening.cancel()
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        with CancelScope(shield=True):
            dispatcher.hurry()
            try:
                await dispatcher.finish(calls)
            finally:  # `asyncio.Task.cancel` knows no shield
                await dispatcher.close()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._handles.kept:
            raise BusyResourceError(RUN_TWICE)
        self._handles.kept = True
        try:
            if self._closed:
                task_status.started()
                return
            dispatcher = await self._open()
            await dispatcher.run(lambda: self._closed, task_status)
        finally:
            self._handles.kept = False
