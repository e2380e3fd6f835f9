"""Texts of the users' values and errors, for errors, logs and dead letters. Sans-IO.

They can always be made: a `repr` or `str` that raises gives a text that says so. They are short,
have no character that a terminal acts on, and the text of an error is one line. Only
`KeyboardInterrupt` and `SystemExit` go through, since a signal may raise them anywhere, and they
are not for the library to keep.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

_LONGEST = 100  # characters of a value that an error shows
_LONGEST_ERROR = 1000  # characters of an error that a dead letter keeps
_LONGEST_LEAF = 200  # characters of each error in a group, so that the first leaves room for others
_LONGEST_TRACEBACK = 10_000  # characters; the end says more than the beginning
_MOST_LEAVES = 10


def shown(value: object, longest: int = _LONGEST) -> str:
    """Return the `repr` of a value, cut if it is longer than so many characters."""
    return _cut(printable(_made(repr, value)[: longest + 1]), longest)


def printable(text: str) -> str:
    """Return a text with all characters escaped that a terminal acts on, and line breaks."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def queue_text(name: str) -> str:
    """Return the words for a queue of this name, or of none."""
    return f"queue {shown(name)}" if name else "an unnamed queue"


def failure_text(error: BaseException) -> str:
    """Return the type and text of an error in one line; of a group, those of its leaves as well."""
    if not is_a(error, BaseExceptionGroup):
        return _cut(_line(error), _LONGEST_ERROR)
    first = islice(leaves(error), _MOST_LEAVES + 1)
    texts = [_cut(_line(leaf), _LONGEST_LEAF) for leaf in first]
    if len(texts) > _MOST_LEAVES:
        texts[_MOST_LEAVES:] = ["..."]
    return _cut(f"{_cut(_line(error), _LONGEST_LEAF)}: {'; '.join(texts)}", _LONGEST_ERROR)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Iterate over the errors in a group that are not groups, however deep it is; or the error."""
    left = [error]
    while left:
        error = left.pop()
        if is_a(error, BaseExceptionGroup):
            # Those that it was made with: a property of a subclass may raise, or give the group.
            left.extend(reversed(BaseExceptionGroup.exceptions.__get__(error)))
        else:
            yield error


def has_traceback(error: BaseException) -> bool:
    """Return True for an error whose traceback can be written: no group in it hides what it holds.

    A traceback asks a group for its errors. A property of a subclass may give the group itself.
    """
    left = [error]
    while left:
        error = left.pop()
        if is_a(error, BaseExceptionGroup):
            if getattr(type(error), "exceptions", None) is not BaseExceptionGroup.exceptions:
                return False
            left.extend(BaseExceptionGroup.exceptions.__get__(error))
    return True


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error, without its beginning if it is long; empty: it has none."""
    try:
        text = "".join(traceback.format_exception(error)) if has_traceback(error) else ""
    except RecursionError:  # a group that is deeper than calls can be nested
        return ""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST_TRACEBACK else f"...{text[-_LONGEST_TRACEBACK:]}"


_Kind: TypeAlias = type[BaseException]


def is_a(error: BaseException, kinds: _Kind | tuple[_Kind, ...]) -> bool:
    """Return True for an error of these kinds, by its type: its ``__class__`` may raise."""
    return issubclass(type(error), kinds)


def _line(error: BaseException) -> str:
    kind, text = type(error).__name__, _made(str, error)
    text = printable(" ".join(text[: 2 * _LONGEST_ERROR].split()))
    return f"{kind}: {text}" if text else kind


def _made(make: Callable[[object], str], value: object) -> str:
    try:
        text = make(value)
        # Neither a subclass of str, nor something that cannot be written in UTF-8.
        return str.encode(text, errors="backslashreplace").decode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return f"<{type(value).__name__}, whose {make.__name__} raises {type(error).__name__}>"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
