"""Queues by name, in a store that processes share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Self, TypeVar, Unpack

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CancelScope, Event, create_task_group
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from .._core.codec import Codec, JsonCodec
from .._core.errors import LeaseqError, ServerError
from .._core.ids import new_id
from .._core.limits import MOST_TENANTS
from .._core.log import log
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
from .._core.policies import Backoff, Retry
from .._core.queue_options import (
    SHARED_LEASE_TIMEOUT,
    check_broker_options,
    check_handle,
    check_same,
    codec_for,
    group_of,
    options_of_queue,
    queue_name,
)
from .._core.reports import DeadLetter, QueueInfo
from .._core.texts import shown
from .._core.validation import check_flag
from ..abc import Broker
from . import protocol
from .dispatcher import Call, Dispatcher
from .engine import SWEPT, Engine, check_readable
from .groups import Group
from .protocol import (
    CORRUPT,
    UNDECODABLE,
    Body,
    Declared,
    GoneError,
    Key,
    Listed,
    OpenStore,
    Operation,
    QueueRef,
    RawKey,
    Remaining,
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
    if len(options.get("tenants") or ()) > MOST_TENANTS:
        raise ValueError(
            f"tenants names {MOST_TENANTS:,} at most on this engine: "
            "queue.set_tenant() takes others"
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

    def engine_of(self, queue: object) -> Engine[Any, Any]:
        """Return the engine of a handle of this broker's. Raises `ValueError` for another."""
        if not isinstance(queue, RemoteQueue) or not self.owns(queue):
            raise not_of_broker(queue)
        return queue._engine

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
            if reason not in (UNDECODABLE, CORRUPT):
                log(logging.WARNING, "a dead letter of queue %r cannot be read here", queue)
            return body


class RemoteBroker(Broker):
    """A broker whose queues are in a store that processes share.

    Args:
        open_store: Opens the store of the broker's own group.
        open_group: Returns a function that opens the store of another group; None: all groups are
            in one store.
        spread: Returns the group of a new queue by its name, if the user names no group; None: the
            broker's own.
        place: The address of the store, for reprs and logs; without secrets.
        patience: Seconds for which a call tries to reach the store where no `run` runs.
    """

    def __init__(
        self,
        open_store: OpenStore,
        *,
        open_group: Callable[[str], OpenStore] | None = None,
        spread: Callable[[str], str] | None = None,
        place: str,
        patience: float = 10.0,
    ) -> None:
        self._open_group = open_group
        self._spread = spread
        self._place = place
        self._patience = patience
        self._process = new_id()
        self._home = Home()
        self._handles = _Handles()
        self._own = self._make_group(open_store, lambda: 0.0)
        self._others: dict[str, Group] = {}
        self._changed = Event()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        name = type(self).__name__
        return f"<{name} {self._place} {state}: {len(self._handles)} queues here>"

    async def __aenter__(self) -> Self:
        await self._own.open()
        return self

    def _check_here(self) -> None:
        self._check_open()
        self._home.check()

    def _check_open(self) -> None:
        if self._closed:
            raise broker_closed(self)

    async def _perform(self, operation: Operation[A], group: Group | None = None) -> A:
        return await self._answer(Call(operation), group)

    async def _answer(self, call: Call[A], group: Group | None = None) -> A:
        await checkpoint_if_cancelled()  # or a loop of these could not be cancelled
        dispatcher = await self._open(self._own if group is None else group)
        return await dispatcher.perform(call)

    # Groups

    def _make_group(self, open_store: OpenStore, persistence: Callable[[], float]) -> Group:
        return Group(
            self._process,
            open_store,
            self._home,
            self._handles.engine,
            self._check_open,
            patience=self._patience,
            persistence=persistence,
        )

    def _group(self, declared: Declared) -> Group:
        """Return the group of a queue."""
        name = group_of(declared.options)
        if not name or self._open_group is None:
            return self._own
        if name not in self._others:
            self._others[name] = self._make_group(self._open_group(name), self._persistence)
        return self._others[name]

    def _persistence(self) -> float:
        """Return the seconds for which a call tries to reach the store of a group."""
        return inf if self._handles.kept else self._patience

    async def _open(self, group: Group) -> Dispatcher:
        was_open = group.dispatcher is not None
        dispatcher = await group.open()
        if not was_open:
            self._ring()
        return dispatcher

    def _ring(self) -> None:
        """Have `run` look again: a group was opened, or the broker is closed."""
        self._changed.set()
        self._changed = Event()

    # Queues

    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> RemoteQueue[Any, Any]:
        check_flag("make", make)
        name = queue_name(name)
        options = check_broker_options(options)
        _check_kept(options)
        return await self._queue(name, make, options, SHARED_LEASE_TIMEOUT)

    async def _queue(
        self, name: str, make: bool, options: BrokerQueueOptions, lease_timeout: float | None
    ) -> RemoteQueue[Any, Any]:
        """Return a queue, whose leases have this timeout if it was made without another."""
        await self._open(self._own)
        there = self._handles.engine(name)
        if there is not None and not there.closed:
            check_same(name, there.made_with, options)
            check_handle(name, there.handled_with, options)
            return self._handles.by_name[name]
        codec = codec_for(options)
        declared = await (self._make(name, options) if make else self._existing(name))
        if declared.unread:
            raise LeaseqError(
                f"queue {name!r} was made with options that cannot be read ({declared.unread}): "
                "a newer leaseq may have made it; broker.delete_queue() deletes it"
            )
        made_with: BrokerQueueOptions = {
            "default_lease_timeout": lease_timeout,
            **declared.options,
        }
        check_same(name, made_with, options)
        letters = declared.letters
        if letters and make:
            await self._letters_of(name, declared, made_with["default_lease_timeout"])
        group = self._group(declared)
        dispatcher = await self._open(group)
        there = self._handles.engine(name)
        if there is None or there.closed:  # no other task was faster
            engine = Engine[Any, Any](
                _ref(name, letters),
                codec,
                made_with,
                options,
                dispatcher=dispatcher,
                timers=group.housekeeping,
                hub=self._handles,
                made=declared.made,
            )
            self._handles.by_name[name] = RemoteQueue(engine)
        return self._handles.by_name[name]

    async def _letters_of(
        self, name: str, declared: Declared, lease_timeout: float | None
    ) -> RemoteQueue[str, DeadLetter[Any, Any]]:
        """Return a queue's queue of dead letters, made in the group of the queue if it is gone."""
        letters, group = declared.letters, group_of(declared.options)
        there = await self._look_up(letters)
        if there is not None and group_of(there.options) != group:
            raise letters_elsewhere(name, group, letters, group_of(there.options))
        here = self._handles.engine(letters)
        if here is not None and group_of(here.made_with) != group:
            here.note_deleted()  # and it was made again, in another group
        return await self._queue(letters, True, {"group": group}, lease_timeout)

    async def _make(self, name: str, options: BrokerQueueOptions) -> Declared:
        """Make a queue, unless it is there."""
        options = options_of_queue(options)
        letters = options.get("dead_letters")
        if letters is not None:
            if letters == name:
                raise own_dead_letters(name)
            queue_name(letters)
        while True:
            declared = await self._declare(name, options, letters or "")
            group = self._group(declared)
            if group is self._own:
                return declared
            check_same(name, declared.options, options)
            declare = protocol.Declare(_ref(name, declared.letters), declared.options)
            made = await self._perform(declare, group)
            if made is None:
                continue
            check_same(name, made.options, declared.options)  # it may be one without a signpost
            found = await self._look_up(name)
            if found is not None and self._group(found) is group:
                return replace(declared, made=made.made)

    async def _declare(self, name: str, options: BrokerQueueOptions, letters: str) -> Declared:
        """Decide on the group of a queue that is not there, and declare it in the broker's own."""
        while True:
            group = await self._choose_group(name, options.get("group"), letters)
            chosen = options.copy()
            chosen.pop("group", None)
            if group:
                chosen["group"] = group
            declared = await self._perform(protocol.Declare(_ref(name, letters), chosen))
            if declared is not None:  # else another process has just made its dead letters
                return declared

    async def _choose_group(self, name: str, group: str | None, letters: str) -> str | None:
        """Return the group of a queue that is not there; None: the broker's own.

        A new queue goes where its dead letters are. If neither is there, both are spread by the
        name of the letters: so it makes no difference which of the two is made first.
        """
        there = await self._look_up(letters) if letters else None
        if there is None:
            spread = self._spread if group is None else None
            return group if spread is None else spread(letters or name)
        theirs = group_of(there.options)
        if group is not None and group != theirs:
            found = await self._look_up(name)
            if found is not None:  # its own group is what the caller knows of
                check_same(name, found.options, {"group": group})
            raise letters_elsewhere(name, group, letters, theirs)
        return theirs

    async def _look_up(self, name: str) -> Declared | None:
        """Return how a queue was declared in the broker's own group; None: it was not."""
        try:
            return await self._perform(protocol.Find(QueueRef(name)))
        except GoneError:
            return None

    async def _find(self, name: str) -> Declared | None:
        """Return how a queue was made; None: it is not there."""
        declared = await self._look_up(name)
        if declared is not None and (group := self._group(declared)) is not self._own:
            try:
                found = await self._perform(protocol.Find(QueueRef(name)), group)
            except GoneError:
                return None
            declared = replace(declared, made=found.made)
        return declared

    async def _existing(self, name: str) -> Declared:
        """Return how a queue was made that must be there."""
        found = await self._find(name)
        if found is None:
            raise no_queue(name)
        return found

    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[RemoteQueue[Any, Any], RemoteQueue[str, DeadLetter[Any, Any]]]:
        name = queue_name(name)
        options = check_broker_options(options, "create_queue_pair")
        if "dead_letters" in options and options["dead_letters"] is None:
            raise pair_without_dead_letters()
        found = await self._find(name)
        letters = found.letters if found is not None and found.letters else f"{name}.dead"
        options = {"dead_letters": letters, **options}
        queue = await self.queue(name, **options)
        return queue, await self.dead_letters(name)

    async def _stored(self) -> dict[str, str]:
        """Return the names of all queues, and of their queues of dead letters or ""."""
        listed: set[Listed] = set()
        after: bytes | None = None
        while True:
            page = await self._perform(protocol.ListQueues(_NOWHERE, after))
            listed.update(page.members)
            after = page.after
            if after is None:
                break
        stored = {each.name: each.letters for each in sorted(listed)}
        for engine in self._handles.engines():
            if engine.name not in stored and not engine.closed:
                await self._find(engine.name)  # it may be gone: the answer closes the handle
        return stored

    async def _answers(self, calls: Mapping[str, tuple[Group, Call[A]]]) -> dict[str, A]:
        """Return the answers to calls about queues, without queues that are gone.

        The calls to one group go together.
        """
        opened: dict[Group, Dispatcher] = {}
        for group, _ in calls.values():
            if group not in opened:
                opened[group] = await self._open(group)
        for group, call in calls.values():
            opened[group].post(call)
        answers: dict[str, A] = {}
        for name, (group, call) in calls.items():
            try:
                answers[name] = await opened[group].answer(call)
            except GoneError:  # it was deleted meanwhile
                continue
            except ServerError as error:
                if error.code == "NOPERM":
                    raise ServerError(f"{error}, for queue {name!r}", code=error.code) from error
                log(logging.WARNING, "queue %r is left out: %s", name, error)
        return answers

    async def _declared(self, names: Iterable[str]) -> dict[str, Declared]:
        """Return how queues were declared, without queues that are gone."""
        return await self._answers(
            {name: (self._own, Call(protocol.Find(QueueRef(name)))) for name in names}
        )

    async def dead_letters(self, name: str) -> RemoteQueue[str, DeadLetter[Any, Any]]:
        name = queue_name(name)
        declared = await self._existing(name)
        if not declared.letters:
            raise no_dead_letters(name)
        timeout = declared.options.get("default_lease_timeout", SHARED_LEASE_TIMEOUT)
        return await self._letters_of(name, declared, timeout)

    async def list_queues(self) -> list[QueueInfo]:
        stored = await self._stored()
        declared = await self._declared(stored)
        infos = await self._answers(
            {
                name: (
                    self._group(found),
                    Call(protocol.Info(self._handles.ref(name, stored[name]))),
                )
                for name, found in declared.items()
            }
        )
        senders: dict[str, list[str]] = {}
        for name, letters in stored.items():
            senders.setdefault(letters, []).append(name)
        return [
            replace(
                info,
                dead_letters_of=tuple(senders.get(name, ())),
                group=group_of(declared[name].options),
            )
            for name, info in infos.items()
        ]

    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        name = queue_name(name)
        check_flag("dead_letters", dead_letters)
        declared = await self._look_up(name)
        if declared is None:
            raise no_queue(name)
        letters = declared.letters
        stored = await self._stored()
        users = [other for other, letters in stored.items() if letters == name]
        if users:
            raise dead_letters_used(name, users)
        group = self._group(declared)
        await self._delete(name, group)
        stored.pop(name, None)
        if dead_letters and letters and letters not in stored.values():
            there = await self._look_up(letters)
            if there is not None and self._group(there) is group:  # or it is another queue
                await self._delete(letters, group)

    async def _delete(self, name: str, group: Group) -> None:
        """Delete a queue in its group, and in the broker's own.

        A queue that was made in its group meanwhile is deleted too: it could not be found any more.
        """
        places = [self._own] if group is self._own else [group, self._own, group]
        for place in places:
            with suppress(GoneError):
                await self._perform(protocol.Delete(self._handles.ref(name)), place)
        self._note_deleted(name)

    def _note_deleted(self, name: str) -> None:
        engine = self._handles.engine(name)
        if engine is not None:
            engine.note_deleted()

    async def purge(self, name: str) -> int:
        name = queue_name(name)
        declared = await self._existing(name)
        purge = protocol.Purge(self._handles.ref(name, declared.letters))
        dropped, left = 0, inf  # of those that were there at first
        while left > 0:
            try:
                step = await self._perform(purge, self._group(declared))
            except GoneError:
                raise no_queue(name) from None
            dropped += step.dropped
            left = min(left, step.waited) - step.dropped
        return dropped

    async def process_expired(self) -> int:
        stored = await self._stored()
        outlived = 0
        for name, declared in (await self._declared(stored)).items():
            sweep = protocol.Sweep(self._handles.ref(name, declared.letters), SWEPT)
            more = True
            with suppress(GoneError):
                while more:
                    try:
                        swept = await self._perform(sweep, self._group(declared))
                    except ServerError as error:
                        if error.code == "NOPERM":
                            raise
                        log(logging.WARNING, "queue %r cannot be swept: %s", name, error)
                        break
                    outlived += swept.outlived
                    more = swept.more
        return outlived

    def transaction(self) -> RemoteTransaction:
        return RemoteTransaction(self._handles.engine_of)

    # The end

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._home.is_of_parent:  # whose connections these are
            return
        calls: dict[Dispatcher | None, list[Call[Remaining]]] = {}
        for engine in self._handles.engines():
            if not engine.closed:
                calls.setdefault(engine.dispatcher, []).append(engine.start_to_close())
        self._ring()
        groups = [self._own, *self._others.values()]
        for group in groups:
            group.give_up()
        if not self._others:
            await self._own.close(calls.get(self._own.dispatcher, ()))
            return
        with CancelScope(shield=True):
            async with create_task_group() as tg:
                for group in groups:
                    tg.start_soon(group.close, calls.get(group.dispatcher, ()))

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._handles.kept:
            raise BusyResourceError(RUN_TWICE)
        self._handles.kept = True
        try:
            if self._closed:
                task_status.started()
                return
            dispatcher = await self._open(self._own)
            if self._open_group is None:
                await dispatcher.run(lambda: self._closed, task_status)
            else:
                await self._run_groups(task_status)
        finally:
            self._handles.kept = False

    async def _run_groups(self, task_status: TaskStatus[None]) -> None:
        """Run the groups that are open, and those that are opened meanwhile."""
        running: set[Dispatcher] = set()
        has_started = False
        async with create_task_group() as tg:
            while not self._closed:
                changed = self._changed
                for group in (self._own, *self._others.values()):
                    dispatcher = group.dispatcher
                    if dispatcher is not None and dispatcher not in running:
                        running.add(dispatcher)
                        await tg.start(dispatcher.run, lambda: self._closed)
                if not has_started:
                    has_started = True
                    task_status.started()
                await changed.wait()
