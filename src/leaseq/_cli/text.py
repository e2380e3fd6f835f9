"""Keys, values and durations as text and as JSON."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import fields
from typing import Any

from .._core.codec import JsonCodec
from .._core.errors import CodecError
from .._core.reports import DeadLetter
from .._core.texts import printable as printable_text
from .._core.texts import shown

_KINDS = ("int:", "bytes:", "str:")


class LegibleCodec(JsonCodec[Any]):
    """JSON; a body that is not JSON stays bytes, so that it can be shown."""

    def decode(self, body: bytes, /) -> Any:
        """Decode JSON, or return the bytes. O(size)."""
        try:
            return super().decode(body)
        except CodecError:
            return body


def read_key(text: str) -> str | int | bytes:
    """Read a key: ``int:42``, ``bytes:00ff`` (hexadecimal), or else a string.

    A string that starts like one of these is written ``str:int:42``.

    Raises:
        ValueError: The rest of the text is not of the kind that the prefix announces.
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
    """Return the text that `read_key` reads as this key."""
    if isinstance(key, str):
        return f"str:{key}" if key.startswith(_KINDS) or not key else key
    if isinstance(key, int):
        return f"int:{key}"
    if isinstance(key, bytes):
        return f"bytes:{key.hex()}"
    return repr(key)


def read_value(text: str | bytes) -> Any:
    """Read a value from JSON.

    Raises:
        ValueError: It is not JSON, or has a number that a float cannot hold.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"JSON has no {constant}")

    def finite(number: str) -> float:
        if math.isinf(float(number)):
            raise ValueError(f"{number} is more than a float can hold")
        return float(number)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {shown(twice)} is there twice in one object")
        return made

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(
            f"the value is not JSON ({error.msg}, at {where}): "
            "a string needs the quotes of JSON inside those of the shell, '\"text\"'"
        ) from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"the value is not JSON: {error}") from None


def json_value(value: object) -> dict[str, object]:
    """Return an object with the field ``value``; or ``bytes``, in base64, if it is not JSON."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, DeadLetter):
        return {"value": json_letter(value)}
    return {"value": value}


def json_letter(letter: DeadLetter[Any, Any]) -> dict[str, object]:
    """Return a dead letter as a JSON object."""
    document = {each.name: getattr(letter, each.name) for each in fields(letter)}
    document["key"] = write_key(letter.key)
    del document["value"]
    return document | json_value(letter.value)


def as_json(document: object) -> str:
    """Return JSON on one line; values that JSON does not have become text."""
    return json.dumps(document, default=repr)


def indented_json(document: object) -> str:
    """Return JSON for people: indented, not escaped save for what a terminal acts on."""
    lines = json.dumps(document, default=repr, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(map(printable, lines))


def counted(number: int, what: str) -> str:
    """Return a number with its noun: ``1 item``, ``2 items``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    """Return a text with all characters escaped that a terminal acts on."""
    return printable_text(str(text))


def format_duration(seconds: float | None) -> str:
    """Return a duration in one unit, such as ``10 min``; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
