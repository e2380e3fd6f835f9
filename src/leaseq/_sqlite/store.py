"""A store in a file: an exchange is one transaction, in a thread of the store's own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import anyio
from anyio import CancelScope, Event
from anyio.lowlevel import current_token

from .._core.errors import ServerUnavailableError
from .._core.log import log
from .._core.texts import failure_text
from .._remote.checks import check_fields
from .._remote.encoding import decode_event, encode_event
from .._remote.protocol import Batch, OnEvent, Operation, Reply
from .file import File
from .hints import Ear, Voice
from .url import SqliteUrl

R = TypeVar("R")


class Job(Generic[R]):
    """A function to call in the store's thread, and its result.

    Attributes:
        done: Set in the event loop's thread.
    """

    __slots__ = ("done", "error", "function", "result")

    result: R

    def __init__(self, function: Callable[[], R]) -> None:
        self.function = function
        self.done = Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call it, in the store's thread."""
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error


class Worker:
    """A thread that does one job after the other, and tidies up when there is none.

    It belongs to the event loop in which it is made, and does not keep the process from ending.

    Attributes:
        call: Has a function called in the event loop.
    """

    def __init__(self, tidy: Callable[[Callable[[], bool]], None]) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._tidy = tidy
        self.call = _caller()
        self._thread = threading.Thread(target=self._run, name="leaseq-sqlite", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self.call(job.done.set)
            del job
            if self._jobs.empty():
                try:
                    self._tidy(self._jobs.empty)
                except Exception as error:  # the next job is to be done all the same
                    log(logging.ERROR, "the file was not tidied up", error=error)

    async def do(self, function: Callable[[], R]) -> R:
        """Have a function called in the thread: to its end, also if this is cancelled."""
        job = Job(function)
        self._jobs.put(job)
        await job.done.wait()
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # it refers to this frame
        return job.result

    def end(self) -> None:
        """End the thread when all jobs are done."""
        self._jobs.put(None)


def _caller() -> Callable[[Callable[[], object]], None]:
    """Return a function that has another one called in this event loop, from any thread."""
    token: Any = current_token().native_token
    soon = getattr(token, "run_sync_soon", None) or token.call_soon_threadsafe

    def call(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            soon(function)

    return call


class SqliteStore:
    """A `Store` in a file. Made by `open_store`.

    Args:
        url: The file.
        process: The name of this process.
        on_event: Called with what the process is told unasked.
    """

    def __init__(self, url: SqliteUrl, process: str, on_event: OnEvent) -> None:
        self._process = process
        self._on_event = on_event
        self._ear = Ear(process)
        self._voice = Voice()
        self._pid = os.getpid()
        self.file = File(url, process, self._ear.address, self._voice.is_heard)
        self._worker = Worker(self.file.tidy)
        self._closed = False

    async def open(self) -> None:
        """Open the file. Raises as `File.open`."""
        await self._worker.do(self.file.open)

    async def exchange(self, batch: Batch) -> Reply:
        """Do a batch in one transaction. See `Store.exchange`."""
        if self._pid != os.getpid():
            raise RuntimeError(
                "this broker belongs to the process that has forked this one: make another one here"
            )
        if self._closed:
            raise ServerUnavailableError("the store is closed", in_doubt=False)
        reply = await self._worker.do(lambda: self._do(batch))
        if self._closed:
            raise ServerUnavailableError("the store was closed", in_doubt=True)
        return reply

    def _do(self, batch: Batch) -> Reply:
        """Do a batch, in the thread, and tell this process and others what there is for them.

        That this one is told does not depend on the task that has asked, which may be gone.
        """
        reply, told = self.file.do(batch)
        for process, address, event in told:
            if process == self._process:
                self._worker.call(partial(self._on_event, event))
            elif address:
                self._voice.send(address, encode_event(event))
        return reply

    def check(self, operation: Operation[Any]) -> None:
        """Raise if the store would refuse an operation. See `Store.check`."""
        check_fields(operation)

    async def listen(self) -> None:
        """Hear the hints of other processes. See `Store.listen`."""
        ear = self._ear
        if ear.socket is None:
            await anyio.sleep_forever()
            return
        while ear.socket is not None:
            await anyio.wait_readable(ear.socket)
            for hint in ear.read():
                try:
                    event = decode_event(hint)
                except ValueError as error:
                    log(logging.WARNING, "a hint is ignored: %s", failure_text(error))
                else:
                    self._on_event(event)

    async def close(self) -> None:
        """Close the file; idempotent."""
        if self._closed:
            return
        self._closed = self.file.hurried = True
        with CancelScope(shield=True):
            try:
                await self._worker.do(self.file.close)
            finally:  # `asyncio.Task.cancel` knows no shield
                self._worker.end()
                if self._ear.socket is not None:
                    anyio.notify_closing(self._ear.socket)
                self._ear.close()
                self._voice.close()


async def open_store(url: SqliteUrl, process: str, on_event: OnEvent) -> SqliteStore:
    """Open a file, and make it if it is not there; if cancelled, it is closed.

    Raises:
        UnusableServerError: it cannot be used; the message says why.
        ServerUnavailableError: another program keeps it locked.
    """
    store = SqliteStore(url, process, on_event)
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store
