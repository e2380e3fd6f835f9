"""Keys, names, wants and times as the scripts take them, and back. Sans-IO."""

from __future__ import annotations

from math import inf
from typing import Final

from .._core.texts import shown
from .._core.validation import check_hashable
from .._remote.protocol import Key, RawKey, Want, WantKind

# Names that are no Unicode, such as those of some files, pass through.
_SURROGATES: Final = "surrogatepass"

NEVER: Final = b"-1"
"""A span without an end."""

_CENTURY: Final = 3.15e9


def encode_key(key: object) -> bytes:
    """Encode a key: its kind, and then itself. Equal keys give equal bytes, others others.

    Raises:
        TypeError: it is not a `str`, a `bytes` or an `int`.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", _SURROGATES)
    if isinstance(key, int) and not isinstance(key, bool):
        return b"i%d" % key
    if isinstance(key, bytes):
        return key if isinstance(key, RawKey) else b"b" + key
    check_hashable(key)
    kind = type(key).__name__
    raise TypeError(f"a key must be str, bytes or int on this engine, not {kind}: {shown(key)}")


def decode_key(encoded: bytes) -> Key:
    """Return the key that `encode_key` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"s":
        return rest.decode("utf-8", _SURROGATES)
    if kind == b"i":
        return int(rest)
    if kind == b"b":
        return rest
    raise ValueError(f"not a key: {shown(encoded)}")


def read_key(encoded: bytes) -> Key | RawKey:
    """Return the key that these bytes are, or the bytes as they are, if they are not one."""
    try:
        return decode_key(encoded)
    except ValueError:
        return RawKey(encoded)


def encode_name(name: str | None) -> bytes:
    """Encode a name, a tenant's or a consumer's; None is no bytes.

    Raises:
        TypeError: it is not a `str`.
    """
    if name is None:
        return b""
    if not isinstance(name, str):
        raise TypeError(
            f"a tenant or a consumer must be a str or None on this engine, not {shown(name)}"
        )
    return b"=" + name.encode("utf-8", _SURROGATES)


def decode_name(encoded: bytes) -> str | None:
    """Return the name that `encode_name` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    if not encoded:
        return None
    if encoded[:1] != b"=":
        raise ValueError(f"not a tenant: {shown(encoded)}")
    return encoded[1:].decode("utf-8", _SURROGATES)


def read_name(encoded: bytes) -> str | None:
    """Return the name that these bytes are, or a text that shows them, if they are not one."""
    if not encoded:
        return None
    try:
        return decode_name(encoded)
    except ValueError:
        return read_text(encoded)


def encode_text(text: str) -> bytes:
    """Encode a text for people, whatever is in it."""
    return text.encode("utf-8", "backslashreplace")


def read_text(encoded: bytes) -> str:
    """Return the text that these bytes are; what is no UTF-8 is escaped."""
    return encoded.decode("utf-8", "backslashreplace")


# Times


def encode_seconds(seconds: float) -> bytes:
    """Encode a span in microseconds; `math.inf` is one without an end."""
    if seconds == inf:
        return NEVER
    return b"%d" % round(seconds * 1e6) if seconds > 0 else b"0"


def encode_finite_seconds(seconds: float) -> bytes:
    """Encode a span where the scripts know no endless ones: a century at most."""
    return encode_seconds(min(seconds, _CENTURY))


def encode_optional_seconds(seconds: float | None) -> bytes:
    """Encode a span that may be left out."""
    return NEVER if seconds is None else encode_seconds(seconds)


def read_seconds(microseconds: float | bytes) -> float:
    """Return a span in seconds; a negative one has no end."""
    number = int(microseconds)
    return inf if number < 0 else number / 1e6


# Wants: a letter, and the key or the name


_LETTERS: Final[dict[WantKind, bytes]] = {
    "any": b"a",
    "key": b"k",
    "cap": b"c",
    "own": b"t",
    "steal": b"s",
    "any more": b"A",
    "own more": b"T",
    "steal more": b"S",
    "room": b"r",
    "drained": b"j",
}
_KINDS: Final = {letter: kind for kind, letter in _LETTERS.items()}
_NAMELESS: Final = {_LETTERS[kind]: Want(kind) for kind in ("any", "any more", "room", "drained")}


def encode_want(want: Want) -> bytes:
    """Encode a want."""
    letter = _LETTERS[want.kind]
    if want.kind == "key":
        return letter + encode_key(want.name)
    return letter + encode_name(want.name)  # type: ignore[arg-type]  # a tenant's


def decode_want(encoded: bytes) -> Want:
    """Return the want that `encode_want` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    if encoded in _NAMELESS:
        return _NAMELESS[encoded]
    kind, name = _KINDS.get(encoded[:1]), encoded[1:]
    if kind is None or encoded[:1] in _NAMELESS:
        raise ValueError(f"not a want: {shown(encoded)}")
    return Want(kind, read_key(name) if kind == "key" else read_name(name))
