"""Results and XCom values, which the queue of the tasks keeps for a time beside them.

A value is kept by the settlement of its task, in the same step, under a name: that of a result is
the id of the task, that of an XCom value its workflow and its key. It is a JSON document with the
value that was returned or pushed, or the reason why there is none.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from .._core.kept import Kept
from .._core.texts import shown
from ._errors import TaskDataError

_LONGEST_NAME: Final = 1000
"""Bytes of the name of an XCom value: a workflow, a key, and six more."""
_LONGEST_REASON: Final = 300
"""Characters of a reason where the store has no room for more."""

_encode = msgspec.json.Encoder().encode

LOST: Final = {"lost": True}
"""The document of a value that was to be kept, and for which the store had no room."""
_LOST: Final = _encode(LOST)


def result_name(task_id: str) -> str:
    """Return the name under which the result of a task is kept."""
    return f"result/{task_id}"


def xcom_name(workflow: str, key: str) -> str:
    """Return the name under which an XCom value is kept.

    Raises:
        TaskDataError: The key or the workflow is too long.
    """
    name = f"xcom/{quote(workflow, safe='')}/{key}"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise TaskDataError(
            f"XCom key {shown(key)} of workflow {shown(workflow)} is too long: the two may have "
            f"{_LONGEST_NAME - 6} bytes together"
        )
    return name


def value_kept(name: str, data: bytes, ttl: float) -> Kept:
    """Return a value, given as JSON, to be kept."""
    return Kept(name, b'{"value":%b}' % data, ttl, _LOST)


def failure_kept(task_id: str, reason: str, ttl: float) -> Kept:
    """Return the reason for which a task was given up, to be kept in place of its result."""
    return _end_kept("failed", task_id, reason, ttl)


def cancellation_kept(task_id: str, reason: str, ttl: float) -> Kept:
    """Return the reason for which a task was cancelled, to be kept in place of its result."""
    return _end_kept("cancelled", task_id, reason, ttl)


def _end_kept(how: str, task_id: str, reason: str, ttl: float) -> Kept:
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
    return Kept(result_name(task_id), _encode({how: reason}), ttl, _encode({how: short}))


def read_kept(body: bytes) -> dict[str, Any]:
    """Return the document that is kept.

    With a ``value``; or ``failed`` or ``cancelled``, and the reason; or it is `LOST`.
    """
    document: dict[str, Any] = msgspec.json.decode(body)
    return document
