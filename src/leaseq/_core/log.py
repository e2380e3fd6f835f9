"""The log of the library, which never disturbs what it tells of."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress

from .texts import shown

_OURS = logging.getLogger("leaseq")
_LONGEST = 200  # characters of a string


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
        args: Numbers; strings, which are cut if they are long; any other values, for which ``%r``
            and ``%s`` write what `shown` returns.
        error: An error, whose traceback is added.
        logger: The logger.
    """
    try:
        if logger.isEnabledFor(level):
            logger.log(level, message, *map(_safe, args), exc_info=error, stacklevel=2)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        if logging.raiseExceptions and sys.stderr is not None:
            with suppress(Exception):
                sys.stderr.write("--- Logging error of leaseq ---\n")
                traceback.print_exc()


class _Shown(str):
    """The `repr` of a value, which ``%r`` writes as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _safe(value: object) -> object:
    if type(value) is int or type(value) is float:
        return value
    if type(value) is str:
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    return _Shown(shown(value))
