"""Worker processes: each runs one call at a time, and can be ended in the middle of it.

Not `anyio.to_process`: its processes belong to the event loop and not to a task group, it does not
say what a process has died of, and it pickles what it is given. Here nothing of a caller's is
pickled: a call is a document and bytes, and so is its answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf
from subprocess import PIPE
from types import FunctionType
from typing import Any, Final, Self

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    IncompleteRead,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    open_process,
)
from anyio.abc import Process
from anyio.lowlevel import current_token
from anyio.streams.buffered import BufferedByteReceiveStream

from .errors import ProcessDiedError, ProcessError, Reject
from .functions import is_async, is_generator, keeper, note_process
from .texts import shown

HEAD: Final = 16
"""Bytes before a call or an answer: the lengths of its document and of its bytes."""
_DYING: Final = 1.0
"""Seconds that a process whose answers have ended may take to be dead."""
_LOOK: Final = 0.5
"""Seconds between two looks whether a process is dead whose answers have not ended.

A task that waits for its death would take as long as all the rest of a short call.
"""
_START: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); line = int(sys.argv.pop(1)); "
    "from leaseq._core.worker_process import main; main(line)"
)
_DIED: Final = (BrokenResourceError, ClosedResourceError, EndOfStream, IncompleteRead)


def check_importable(what: str, function: object) -> None:
    """Raise `TypeError` for a function that another process cannot find by its name."""
    if not isinstance(function, FunctionType) or "<" in function.__qualname__:
        raise TypeError(
            f'{what} with run_in="process" must be a function at the top of a module, by whose '
            f"name a process finds it, not {shown(function)}"
        )
    if is_async(function) or is_generator(function):
        raise TypeError(
            f'{what} with run_in="process" must be an ordinary function: an async def runs in the '
            "event loop"
        )


def place_of(function: Any) -> list[str]:
    """Return the module of a function, and its name there."""
    return [function.__module__, function.__qualname__]


def main_module() -> dict[str, str]:
    """Return where a process finds the module that is ``__main__`` here."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return {"init_main_from_name": spec.name}
    from pathlib import Path

    path = getattr(main, "__file__", None)

    return {} if path is None else {"init_main_from_path": str(Path(path).resolve())}


def pack(document: object, body: bytes) -> bytes:
    """Return a call or an answer as bytes."""
    head = json.dumps(document).encode()
    return b"%s%s%s%s" % (len(head).to_bytes(8), len(body).to_bytes(8), head, body)


class _Child:
    """A process that waits for calls."""

    def __init__(self, process: Process, line: int) -> None:
        self._process = process
        self._line = line
        self._is_at_work = False
        assert process.stdin is not None
        assert process.stdout is not None
        self._calls = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)

    @property
    def is_dead(self) -> bool:
        """True if the process has died by itself."""
        return self._process.returncode is not None

    async def call(self, document: object, body: bytes) -> tuple[Any, bytes]:
        """Send a call, and return its answer.

        Raises one of `_DIED` if there is none, also while a process that the function has forked
        keeps the pipes open.
        """
        self._is_at_work = True
        await self._calls.send(pack(document, body))
        answer = await self.answer()
        self._is_at_work = False
        return answer

    async def answer(self) -> tuple[Any, bytes]:
        """Return the next answer."""
        lengths = await self._receive(HEAD)
        head = await self._receive(int.from_bytes(lengths[:8]))
        rest = int.from_bytes(lengths[8:])
        return json.loads(head), await self._receive(rest) if rest else b""

    async def _receive(self, count: int) -> bytes:
        was_dead = False
        while True:
            with move_on_after(_LOOK):  # what has come by then is in the buffer
                return await self._answers.receive_exactly(count)
            if was_dead:  # and nothing was on its way any more
                raise EndOfStream
            was_dead = self.is_dead

    def kill(self) -> None:
        """Kill the process, and what it has started, but for what has left its process group."""
        if self.is_dead and not self._is_at_work:
            return  # long ago, maybe: its number may be that of another group
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Wait until the process is dead, and let go of its pipes. May be called again."""
        if self._line >= 0:
            os.close(self._line)
            self._line = -1
        await self._process.aclose()

    async def death(self) -> ProcessDiedError:
        """Return the error for the process, whose answers have ended; it is dead then."""
        with move_on_after(_DYING, shield=True) as scope:
            await self._process.wait()
        await _end(self)
        code = self._process.returncode
        assert code is not None
        if scope.cancelled_caught:
            return ProcessDiedError("it has closed the pipe of its process, which was killed", code)
        return _death(code)


class Processes:
    """Processes for calls that run one beside the other; they end with the block.

    ``async with`` it in the task group that waits for the calls.
    """

    def __init__(self) -> None:
        self._idle: list[_Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        idle, self._idle = self._idle, []
        await _end(*idle)

    async def call(self, entry: str, document: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
        """Have a process run a call, and return its answer.

        It takes about twice as long as in a thread. If no process is idle, as after a call that
        has failed, one is started first: a third of a second, and longer on a busy machine, for
        which there is no limit.

        Until it has ended, the worker in whose delivery this is keeps its leases. At the end of the
        time that the delivery may take, or if this is cancelled, the process is killed.

        Args:
            entry: The function of ours that runs it there, as ``module:name``.
            document: A document of JSON.
            body: Any bytes.

        Raises:
            Reject: The function has raised it.
            ProcessError: The function has raised another error, whose name and text this has.
            ProcessDiedError: The process has died.
            TimeoutError: It has taken longer than it may.
        """
        holder = keeper.get()
        loop = current_token().native_token
        note_process(loop, 1)
        if holder is not None:
            holder.hold()
        try:
            began = current_time()
            child = await self._idle_or_new()
            # The time of the function does not begin before there is a process.
            until = inf if holder is None else holder.until + current_time() - began
            with CancelScope(deadline=until) as scope:
                answer, rest = await self._call(child, {"entry": entry, **document}, body)
        finally:
            note_process(loop, -1)
            if holder is not None:
                holder.let_go(failed=True)
        if scope.cancelled_caught:
            raise TimeoutError("it took longer than max_runtime, and its process was ended")
        if "reject" in answer:
            raise Reject(answer["reject"])
        if "error" in answer:
            raise ProcessError.made(*answer["error"])
        return answer, rest

    async def _idle_or_new(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if not child.is_dead:
                return child
            await child.close()  # it has died between two calls
        return await _start()

    async def _call(
        self, child: _Child, document: dict[str, Any], body: bytes
    ) -> tuple[Any, bytes]:
        async with _ended_on_error(child):
            answer = await child.call(document, body)
        if "error" in answer[0]:
            await _end(child)  # the function may have spoilt it: for the next call as well
        else:
            self._idle.append(child)
        return answer


@asynccontextmanager
async def _ended_on_error(child: _Child) -> AsyncIterator[None]:
    try:
        yield
    except _DIED:
        raise await child.death() from None
    except BaseException:
        await _end(child)
        raise


async def _end(*children: _Child) -> None:
    """Kill processes, and wait until they are dead, also through native cancellations."""
    for child in children:
        child.kill()
    cancelled: BaseException | None = None
    for child in children:
        while True:
            try:
                with CancelScope(shield=True):
                    await child.close()
                break
            except get_cancelled_exc_class() as error:  # `asyncio.Task.cancel` knows no shield
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def _start() -> _Child:
    own_session = sys.platform != "win32"  # Ctrl-C in a terminal is for this process
    path: list[object] = [*sys.path]  # in which there may be anything
    # The end of a pipe that only this process holds: see `worker_process.end_with`.
    there, here = os.pipe() if sys.platform == "linux" else (-1, -1)
    lines = () if there < 0 else (there,)
    command = [sys.executable, "-u", *_flags(), "-c", _START]
    command += [json.dumps([each for each in path if isinstance(each, str)]), str(there)]
    try:
        with CancelScope(shield=True):
            process = await open_process(
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=None,
                start_new_session=own_session,
                pass_fds=lines,
            )
    except BaseException:
        if here >= 0:
            os.close(here)
        raise
    finally:
        for line in lines:
            os.close(line)
    child = _Child(process, here)
    async with _ended_on_error(child):
        await child.answer()  # it is there
    return child


def _flags() -> list[str]:
    """Return the options of this interpreter."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    flags: list[str] = _args_from_interpreter_flags()
    return flags


def _death(code: int) -> ProcessDiedError:
    if code >= 0:
        return ProcessDiedError(f"its process has ended with the exit code {code}", code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", maybe for lack of memory" if name == "SIGKILL" else ""
    return ProcessDiedError(f"its process was ended by {name}{hint}", code)
