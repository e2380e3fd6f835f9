"""The groups of a broker: each has a store of its own, opened when it is first needed.

Theory of operation
===================

A queue belongs to a group, together with its dead letters, and an operation on several queues is on
queues of one group. The store decides on the meaning of a group: on a server it is a set of keys
that stay together. A store that makes no difference between groups is one place for all of them; a
group is then only a name that is kept with the options of a queue.

Names are looked up in the broker's own group. Each queue is declared there, with the option
``group`` if it belongs to another one; such a *signpost* is a queue into which nothing is ever put.
So a name is one queue for all processes, and the first process to put up a signpost decides on its
group. Then the queue is declared in its group, with the options of the signpost.

A process that dies in between leaves a signpost without a queue: the next process that asks for the
queue makes it there. There must never be a queue without a signpost, since no other process would
find it. So a queue is deleted first, then its signpost, and then the queue once more, since it may
have been made again meanwhile; and a process that has made a queue checks that its signpost is
still there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable

from anyio import CancelScope, Lock, sleep

from .._core.errors import LeaseqError, ServerUnavailableError
from .._core.log import log
from .._core.loop import Home
from .dispatcher import LONGEST, SHORTEST, Call, Dispatcher
from .housekeeping import AnyEngine, Housekeeping
from .protocol import Event, OpenStore, Remaining, Store


class Group:
    """The connection to the queues of a group, or of several groups in one place.

    Args:
        process: The name of this process for the store.
        open_store: Opens the store.
        home: The event loop.
        find: Returns the engine of a queue that is open here, or was lately, by its name.
        check_open: Raises if the broker is closed.
        patience: Seconds for which a call tries to reach the store where no `run` runs.
        persistence: Returns the seconds for which to try to open a store that is not there.

    Attributes:
        dispatcher: The dispatcher; None: the store has not been opened yet.
        housekeeping: The timers of its queues.
    """

    def __init__(
        self,
        process: str,
        open_store: OpenStore,
        home: Home,
        find: Callable[[str], AnyEngine | None],
        check_open: Callable[[], None],
        *,
        patience: float,
        persistence: Callable[[], float],
    ) -> None:
        self.dispatcher: Dispatcher | None = None
        self.housekeeping = Housekeeping(self._find_here)
        self._process = process
        self._open_store = open_store
        self._home = home
        self._find = find
        self._check_open = check_open
        self._patience = patience
        self._persistence = persistence
        self._turn_to_open: Lock | None = None
        self._opening: CancelScope | None = None

    def _find_here(self, name: str) -> AnyEngine | None:
        engine = self._find(name)
        return engine if engine is not None and engine.dispatcher is self.dispatcher else None

    async def open(self) -> Dispatcher:
        """Open the store, unless it is open, and return the dispatcher.

        Raises:
            QueueClosedError: the broker is closed.
            UnusableServerError: there is no such store.
            ServerUnavailableError: the store is not there, and was not for long enough.

        If cancelled, the next call opens it.
        """
        self._check_open()
        self._home.check()
        if self.dispatcher is not None:
            return self.dispatcher
        if self._turn_to_open is None:
            self._turn_to_open = Lock()
        async with self._turn_to_open:
            self._check_open()
            if self.dispatcher is None:
                store = await self._connect()
                housekeeping = self.housekeeping
                self.dispatcher = Dispatcher(
                    store, self._home, housekeeping, patience=self._patience
                )
                housekeeping.dispatcher = self.dispatcher
            return self.dispatcher

    async def _connect(self) -> Store:
        """Open the store, unless the broker is closed meanwhile."""
        store = None
        try:
            with CancelScope() as self._opening:
                store = await self._try_to_connect()
        except LeaseqError:
            self._check_open()
            raise
        finally:
            self._opening = None
        try:
            self._check_open()
        except LeaseqError:
            if store is not None:
                with CancelScope(shield=True):
                    await store.close()
            raise
        assert store is not None  # the scope is cancelled by `give_up` alone
        return store

    async def _try_to_connect(self) -> Store:
        """Open the store; while it is not there, try again for as long as `persistence` says."""
        started = self._home.time()
        pause = SHORTEST
        while True:
            try:
                return await self._open_store(self._process, self._hear)
            except ServerUnavailableError as error:
                if self._home.time() - started >= self._persistence():
                    raise
                if pause == SHORTEST:  # once
                    log(logging.WARNING, "%s: it is tried again and again", str(error))
            await sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST)

    def _hear(self, event: Event) -> None:
        if self.dispatcher is not None:  # before that, no task waits for anything
            self.dispatcher.hear(event)

    def give_up(self) -> None:
        """Stop opening the store: the broker is closed."""
        if self._opening is not None:
            self._opening.cancel()

    async def close(self, calls: Iterable[Call[Remaining]]) -> None:
        """Give the calls of handles that close a moment to be done, and close the store.

        Takes effect even if cancelled.
        """
        dispatcher = self.dispatcher
        if dispatcher is None:
            return
        with CancelScope(shield=True):
            dispatcher.hurry()
            try:
                await dispatcher.finish(calls)
            finally:  # `asyncio.Task.cancel` knows no shield
                await dispatcher.close()
