"""The log of the library, which never disturbs what it tells of."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeAlias

from .texts import failure_text, has_traceback, printable, queue_text, shown

_OURS = logging.getLogger("leaseq")
_LONGEST = 200  # characters of a string
_FEW = 10  # records of a kind that a burst writes one by one


def log(
    level: int,
    message: str,
    *args: object,
    error: BaseException | None = None,
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = _OURS,
) -> None:
    """Write a record, once the move that it tells of is complete.

    Whatever a filter or a handler raises ends here: it is printed as `logging` prints the errors of
    its own handlers, if `logging.raiseExceptions` is true. Only `KeyboardInterrupt` and
    `SystemExit` go through. A filter cannot wait, so what looks like a cancellation out of one is
    an error of its own: let through, it would end a timekeeper or a worker without a word.

    Args:
        level: One of `logging`'s levels.
        message: A format for the arguments.
        args: Numbers; strings, which are cut if they are long, and whose control characters are
            escaped; any other values, for which ``%r`` and ``%s`` write what `shown` returns. A
            text that comes from elsewhere is written by ``%r``.
        error: An error, whose traceback is added, indented and without control characters: the
            text of an error is not to look like records of its own.
        logger: The logger.
    """
    try:
        if error is not None and not has_traceback(error):
            message, args, error = f"{message}: %s", (*args, failure_text(error)), None
        if not logger.isEnabledFor(level):
            return
        arguments = tuple(map(_safe, args))
        if error is None:
            logger.log(level, message, *arguments, stacklevel=2)
        else:
            _log_error(logger, level, message, arguments, error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        if logging.raiseExceptions and sys.stderr is not None:
            with suppress(Exception):
                sys.stderr.write("--- Logging error of leaseq ---\n")
                traceback.print_exc()


def _log_error(
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    level: int,
    message: str,
    args: tuple[object, ...],
    error: BaseException,
) -> None:
    """Write a record with a traceback, whose text is made here: formatters take it as it is."""
    extra: Mapping[str, object] | None = None
    while isinstance(logger, logging.LoggerAdapter):
        message, more = logger.process(message, {"extra": extra} if extra else {})
        extra, logger = more.get("extra"), logger.logger
    path, line, function, stack = logger.findCaller(stacklevel=3)
    what = (type(error), error, error.__traceback__)
    record = logger.makeRecord(
        logger.name, level, path, line, message, args, what, function, extra, stack
    )
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    record.exc_text = "\n".join(f"    {printable(line)}" for line in lines)
    logger.handle(record)


_FATES = {
    "dead": (logging.WARNING, "a dead letter (%r)"),
    "dropped": (logging.WARNING, "dead (%r) and dropped"),
    "kept": (
        logging.ERROR,
        "dead (%r), but its queue of dead letters is closed or gone: it is tried again later",
    ),
}


_Record: TypeAlias = tuple[tuple[object, ...], BaseException | None]
"""The arguments of a record, and an error."""


class Burst:
    """Records of events that may come by the thousand in one step.

    Of each kind a few are written as they are. More than that are one record, the first, with the
    number of the others: fifty thousand lines would take longer than what they tell of.
    """

    __slots__ = ("_holds", "_kinds")

    def __init__(self) -> None:
        self._holds = 0
        self._kinds: dict[tuple[str, ...], tuple[int, str, list[_Record], int]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def expiry(self, queue: str, key: object, token: int) -> None:
        """Keep the record of a lease that expired. O(1)."""
        message = "%s: the lease on %r, token %d, expired"
        self._add((queue, "expired"), logging.WARNING, message, queue_text(queue), key, token)

    def death(self, queue: str, key: object, token: int | None, reason: str, fate: str) -> None:
        """Keep the record of an item that was given up. O(1).

        Args:
            queue: The name of its queue.
            key: Its key.
            token: Its last lease's; None: it was not leased.
            reason: The reason, as its dead letter has it.
            fate: ``"dead"``, ``"dropped"`` or ``"kept"``.
        """
        level, end = _FATES[fate]
        if fate == "dropped" and reason == "expired":
            level = logging.DEBUG  # a time to live without dead letters is for what is not missed
        held = "not leased" if token is None else f"token {token}"
        message = f"%s: %r, %s, is {end}"
        self._add((queue, fate, reason), level, message, queue_text(queue), key, held, reason)

    def mishap(self, queue: str, key: object, token: int, error: BaseException) -> None:
        """Keep the record of an error of a retry policy, which no caller hears of. O(1)."""
        message = "%s: the retry policy raised for %r, token %d, which is tried again"
        what = (queue_text(queue), key, token)
        self._add((queue, "mishap"), logging.ERROR, message, *what, error=error)

    def _add(
        self,
        kind: tuple[str, ...],
        level: int,
        message: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        _, _, first, count = self._kinds.get(kind, (level, message, [], 0))
        if count < _FEW:
            first.append((args, error))
        self._kinds[kind] = level, message, first, count + 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the records of several steps that belong together, and write them at the end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._write()  # whatever else is held: its end may be far

    def write(self) -> None:
        """Write the records that were kept, and keep them no more, unless they are held."""
        if not self._holds:
            self._write()

    def _write(self) -> None:
        kinds, self._kinds = self._kinds, {}
        for level, message, first, count in kinds.values():
            if count > _FEW:
                args, error = first[0]
                log(level, f"{message}, and %d more like it", *args, count - 1, error=error)
                continue
            for args, error in first:
                log(level, message, *args, error=error)


class _Escaped(str):
    """A text of which ``%s`` writes no control characters, and ``%r`` its usual form."""

    __slots__ = ()

    def __str__(self) -> str:
        return printable(str.__str__(self))


class _Shown(str):
    """The `repr` of a value, which ``%r`` writes as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _safe(value: object) -> object:
    if type(value) is int or type(value) is float:
        return value
    if type(value) is str:  # which may have what no handler can write
        text = value[: _LONGEST + 1].encode(errors="backslashreplace").decode()
        text = text if len(value) <= _LONGEST else f"{text[:_LONGEST]}..."
        return text if text.isprintable() else _Escaped(text)
    return _Shown(shown(value))
