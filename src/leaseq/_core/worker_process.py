"""A worker process of `process_pool`: it runs the calls that come, and ends with them."""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from .errors import rejection
from .process_pool import HEAD, pack
from .texts import failure_text, traceback_text


def main(line: int) -> None:
    """Run the calls that come in on standard input, until it ends.

    Args:
        line: The pipe for `end_with`; -1: none.
    """
    from pathlib import Path

    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")

    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what the functions print is no answer
    for each in (signal.SIGINT, signal.SIGTERM):  # the process that has started this one decides
        signal.signal(each, lambda *_: None)
    if line >= 0:
        end_with(line)
    me = os.getpid()
    spares = [os.dup(number) for number in range(3)]
    inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    answers.write(pack({"result": None}, b""))  # it is there
    answers.flush()
    threading.Thread(target=_receive, args=(calls, inbox), daemon=True).start()
    while True:
        document, body = inbox.get()
        _mend_streams(spares)
        answer = _run(document, body)
        del document, body
        if os.getpid() != me:  # the function has forked, and this is the other one
            os._exit(0)
        answers.write(answer)
        answers.flush()
        with suppress(Exception):  # closed, None, or full: no matter of the answer
            sys.stdout.flush()


def _mend_streams(spares: list[int]) -> None:
    """Open the standard streams again that a function has closed: the next one is another's."""
    for number, spare in enumerate(spares):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # it has forbidden files altogether
                os.dup2(spare, number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with suppress(Exception):  # it may be anything by now
            stream = getattr(sys, name)
            if stream is None or stream.closed:
                options: dict[str, Any] = {"closefd": False, "buffering": 1}
                setattr(sys, name, open(number, "w", errors="backslashreplace", **options))  # noqa: PTH123, SIM115


def end_with(line: int) -> None:
    """Have the kernel end this process, and what it has started, with the one that started it.

    Only that one holds the other end of the pipe, and writes nothing into it. So a signal tells of
    its end, also while a function in C keeps the interpreter, and a thread gets no turn.
    PR_SET_PDEATHSIG would not do: it tells of the end of the thread that has started a process.
    """
    if sys.platform == "linux":
        import fcntl

        os.set_inheritable(line, False)
        fcntl.fcntl(line, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)


def _receive(calls: BinaryIO, inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Pass calls on; when the other side is gone, end whatever is being done."""
    while True:
        lengths = calls.read(HEAD)
        if len(lengths) < HEAD:
            if sys.platform != "win32":
                os.killpg(0, signal.SIGKILL)
            os._exit(0)
        document = json.loads(calls.read(int.from_bytes(lengths[:8])))
        inbox.put((document, calls.read(int.from_bytes(lengths[8:]))))


def _run(document: dict[str, Any], body: bytes) -> bytes:
    try:
        module, _, name = document["entry"].partition(":")
        result, rest = getattr(importlib.import_module(module), name)(document, body)
        return pack({"result": result}, rest)
    except BaseException as error:  # also an exit: nothing of the function's ends the process
        return pack(_error_document(error), b"")


def _error_document(error: BaseException) -> dict[str, Any]:
    reason = rejection(error)
    if reason is not None:
        return {"reject": reason}
    kind, line = type(error), failure_text(error).removeprefix(f"{type(error).__name__}: ")
    kinds = [each.__name__ for each in kind.__mro__]
    return {"error": [kinds, line, traceback_text(error)]}


def find(place: list[str], main: dict[str, str] | None) -> Any:
    """Return the function at a place, as `process_pool.place_of` gives it."""
    module, name = place
    if module == "__main__" and main and sys.modules["__main__"].__name__ != "__mp_main__":
        from multiprocessing.spawn import prepare  # what its own processes do

        prepare(dict(main))
    found: Any = (
        sys.modules["__main__"] if module == "__main__" else importlib.import_module(module)
    )
    for part in name.split("."):
        found = getattr(found, part)
    return found
