"""Keys and values as an operator types them, reads them, and has them in JSON."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import fields
from typing import Any

from .._core.codec import JsonCodec
from .._core.errors import CodecError
from .._core.reports import DeadLetter

__all__ = [
    "LegibleCodec",
    "as_json",
    "counted",
    "json_letter",
    "json_value",
    "legible_json",
    "printable",
    "read_key",
    "read_value",
    "span",
    "write_key",
]

_KINDS = ("int:", "bytes:", "str:")


class LegibleCodec(JsonCodec[Any]):
    """As JSON; and what is none stays the bytes that it is, so that it can be looked at."""

    def decode(self, body: bytes, /) -> Any:
        """What the JSON says, or the bytes. O(their number)."""
        try:
            return super().decode(body)
        except CodecError:
            return body


def read_key(text: str) -> str | int | bytes:
    """The key that an operator means: ``int:42``, ``bytes:00ff`` (hexadecimal), else a string.

    A string that begins like one of these is written ``str:int:42``.

    Raises:
        ValueError: what follows is not of that kind.
    """
    kind, colon, rest = text.partition(":")
    if kind + colon == "int:":
        try:
            return int(rest)
        except ValueError:
            raise ValueError(f"{rest!r} is not an int: for the string, write str:{text}") from None
    if kind + colon == "bytes:":
        try:
            return bytes.fromhex(rest)
        except ValueError:
            raise ValueError(
                f"{rest!r} is not hexadecimal: for the string, write str:{text}"
            ) from None
    return rest if kind + colon == "str:" else text


def write_key(key: object) -> str:
    """A key as `read_key` reads it."""
    if isinstance(key, str):
        return f"str:{key}" if key.startswith(_KINDS) or not key else key
    if isinstance(key, int):
        return f"int:{key}"
    if isinstance(key, bytes):
        return f"bytes:{key.hex()}"
    return repr(key)


def read_value(text: str | bytes) -> Any:
    """The value that some JSON says.

    Raises:
        ValueError: it is not JSON.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"there is no {constant} in JSON")

    def finite(number: str) -> float:
        if math.isinf(float(number)):
            raise ValueError(f"{number} is more than a float can be")
        return float(number)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(
            f"the value is not JSON ({error.msg}, at {where}): "
            "a text needs the quotes of JSON inside those of the shell, '\"text\"'"
        ) from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"the value is not JSON: {error}") from None


def json_value(value: object) -> dict[str, object]:
    """A value as a field of an object: ``value``; or ``bytes``, in base64, if it is not JSON."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, DeadLetter):
        return {"value": json_letter(value)}
    return {"value": value}


def json_letter(letter: DeadLetter[Any, Any]) -> dict[str, object]:
    """A dead letter as an object."""
    said = {each.name: getattr(letter, each.name) for each in fields(letter)}
    said["key"] = write_key(letter.key)
    del said["value"]
    return said | json_value(letter.value)


def as_json(document: object) -> str:
    """A document as JSON, on one line; what JSON cannot say, as text."""
    return json.dumps(document, default=repr)


def legible_json(document: object) -> str:
    """A document as JSON for people, whose letters are what they are, save those that do harm."""
    lines = json.dumps(document, default=repr, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(map(printable, lines))


def counted(number: int, what: str) -> str:
    """``1 item``, ``2 items``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    """A text that does nothing to a terminal, whoever wrote it."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def span(seconds: float | None) -> str:
    """A time as one reads it at a glance; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
