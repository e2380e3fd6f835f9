"""Checks of operations before they are sent: by types alone, as what passes is encoded later.

Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from .._core.options import ANY_KEY
from .._core.texts import shown
from . import protocol
from .encoding import encode_key, encode_name, encode_value_name
from .protocol import Operation
from .stored_options import check_options

_PLAIN: Final = frozenset({str, int, bytes})
_PRIORITIES: Final = range(-(2**31), 2**31)
_LONGEST_NAME: Final = 10_000
"""Bytes of the name of a value."""


def _check_keys(keys: Iterable[object]) -> None:
    for key in keys:
        if type(key) not in _PLAIN:
            encode_key(key)


def _check_names(*names: object) -> None:
    for name in names:
        if name is not None and type(name) is not str:
            encode_name(name)  # type: ignore[arg-type]


def _check_put(put: protocol.Put) -> None:
    request = put.request
    if request.priority is not None and request.priority not in _PRIORITIES:
        raise ValueError(
            f"a priority is between -2**31 and 2**31 - 1 on this engine, not {request.priority}"
        )
    if request.tenant is not None:
        _check_names(request.tenant)
    for key, _ in put.items:
        if type(key) not in _PLAIN:
            encode_key(key)


def _check_claim(claim: protocol.Claim) -> None:
    for each in claim.claims:
        request = each.request
        _check_names(request.consumer, *(request.tenants or ()), *request.steal_from)
        if request.key is not ANY_KEY:
            _check_keys((request.key,))


def _check_transact(transact: protocol.Transact) -> None:
    for step in transact.steps:
        if isinstance(step, protocol.Put):
            _check_put(step)


def _check_key(
    operation: protocol.Look | protocol.Discard | protocol.Cancel | protocol.FindLease,
) -> None:
    _check_keys((operation.key,))


def _check_recall(recall: protocol.Recall) -> None:
    if len(encode_value_name(recall.name)) > _LONGEST_NAME:
        raise ValueError(
            f"the name of a value has at most {_LONGEST_NAME} bytes: {shown(recall.name)}"
        )


_CHECKS: Final[Mapping[type[Operation[Any]], Callable[[Any], object]]] = {
    protocol.Put: _check_put,
    protocol.Claim: _check_claim,
    protocol.Transact: _check_transact,
    protocol.Look: _check_key,
    protocol.Discard: _check_key,
    protocol.Cancel: _check_key,
    protocol.FindLease: _check_key,
    protocol.Recall: _check_recall,
    protocol.Declare: lambda declare: check_options(declare.options),
    protocol.Redrive: lambda redrive: _check_keys(redrive.keys or ()),
    protocol.SetTenant: lambda change: _check_names(change.name),
    protocol.Pause: lambda pause: _check_names(pause.tenant),
    protocol.Resume: lambda resume: _check_names(resume.tenant),
    protocol.ReleaseAll: lambda release: _check_names(release.consumer),
}


def check_fields(operation: Operation[Any]) -> None:
    """Raise if an operation has a field that no store can take. O(1), for a put O(items).

    Raises:
        TypeError: a key or a name is of another type than these can be.
        ValueError: a priority is out of range.
    """
    check = _CHECKS.get(type(operation))
    if check is not None:
        check(operation)
