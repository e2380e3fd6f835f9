"""Receipts: a lease as a string, which another process or task may settle. Sans-IO."""

from __future__ import annotations

from .errors import InvalidLeaseError
from .texts import shown


def write_receipt(queue: str, key: object, token: int) -> str:
    """Return a receipt of a queue's name, a key and a token.

    Raises:
        TypeError: the key is not a `str`, `int` or `bytes`.
    """
    import base64
    import json

    if isinstance(key, bytes):
        return json.dumps([queue, {"bytes": base64.b64encode(key).decode()}, token])
    if isinstance(key, str) or type(key) is int:
        return json.dumps([queue, key, token])
    raise TypeError(
        f"a receipt can be written for a key that is str, int or bytes, not {shown(key)}"
    )


def read_receipt(receipt: str) -> tuple[str, object, int]:
    """Return the queue's name, the key and the token of a receipt.

    Raises:
        InvalidLeaseError: it is not a receipt.
    """
    import base64
    import json

    try:
        queue, key, token = json.loads(receipt)
        if isinstance(key, dict):
            key = base64.b64decode(key["bytes"], validate=True)
    except (ValueError, TypeError, KeyError):
        raise InvalidLeaseError(f"not a receipt: {shown(receipt)}") from None
    if (
        not isinstance(queue, str)
        or not (isinstance(key, str | bytes) or type(key) is int)
        or type(token) is not int
    ):
        raise InvalidLeaseError(f"not a receipt: {shown(receipt)}")
    return queue, key, token
