"""Standard streams that are closed, full, or cut off by their reader."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OUTPUT_FAILED = 74
"""The exit code of a command that was done, and whose output could not be written."""
CUT_OFF = 141
"""The exit code of a command whose reader has gone, as of a process that SIGPIPE has ended."""


class OutputError(Exception):
    """The output of the command could not be written.

    Not an `OSError`: libraries have their own ideas of a pipe that is broken.
    """

    def __init__(self, errno: int | None, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


class _Out(io.FileIO):
    """Standard output, whose errors are told from those of the work."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.errno, error.strerror or "unknown") from None


class _Err(io.FileIO):
    """Standard error, whose errors there is no place to tell of."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


@contextmanager
def mended_streams() -> Iterator[None]:
    """Have standard streams, in a block, that can always be used, and tell what fails of them."""
    before = sys.stdin, sys.stdout, sys.stderr
    _mend()
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _mend() -> None:
    # Else a file or connection that is opened gets the number of a stream that is closed.
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # which has the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Out, 1, sys.stdout)
    sys.stderr = _text(_Err, 2, sys.stderr)


def _text(kind: Callable[..., io.FileIO], number: int, before: Any) -> io.TextIOWrapper:
    encoding, errors = getattr(before, "encoding", "utf-8"), getattr(before, "errors", "replace")
    raw = kind(number, "wb", closefd=False)
    # Characters that the terminal does not have are no reason to fail.
    how = "backslashreplace" if errors == "strict" else errors
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, how, line_buffering=number == 2 or raw.isatty()
    )


def end(error: OutputError) -> int:
    """Return the exit code after an error of the output, and say what it was."""
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - what is left in the buffer goes there
        os.dup2(nothing.fileno(), 1)
    if error.errno == errno.EPIPE:
        return CUT_OFF
    sys.stderr.write(f"leaseq: the output could not be written: {error.reason}\n")
    return OUTPUT_FAILED


def is_interrupt(error: BaseException) -> bool:
    """Return True for Ctrl-C, also where it came while a class was being made.

    Before Python 3.12 that has an error of its own for whatever is raised there.
    """
    cause = error.__cause__ if type(error) is RuntimeError else error
    return isinstance(cause, KeyboardInterrupt)
