"""Keys, names and wants as bytes, and back, for any store; and checks that they can be. Sans-IO."""

from __future__ import annotations

from typing import Any, Final

from .._core.texts import shown
from .._core.validation import check_key
from .protocol import (
    Event,
    Key,
    LeaseEnded,
    QueueDeleted,
    RawKey,
    ValueKept,
    Want,
    WantKind,
    Woken,
)

_PLAIN: Final = frozenset({str, int, bytes})

# Names that are no Unicode, such as those of some files, pass through.
_SURROGATES: Final = "surrogatepass"


def plain_key(key: object) -> Any:
    """Return a key as an exact `str`, `bytes` or `int`, as every call takes it first.

    A subclass may encode, hash and compare as another one. Other types are for `encode_key` to
    refuse. Raises as `check_key` does.
    """
    if type(key) not in _PLAIN:
        if isinstance(key, str):
            key = str.__str__(key)
        elif isinstance(key, bytes) and not isinstance(key, RawKey):
            key = b"".join((key,))
        elif isinstance(key, int) and not isinstance(key, bool):
            key = int.__int__(key)
    check_key(key)
    return key


def encode_key(key: object) -> bytes:
    """Encode a key: its kind, and then itself. Equal keys give equal bytes, others others.

    Raises:
        TypeError: it is not a `str`, a `bytes` or an `int`.
        ValueError: it is an `int` of too many digits.
    """
    if type(key) is str or isinstance(key, str):
        return b"s" + key.encode("utf-8", _SURROGATES)
    if isinstance(key, int) and not isinstance(key, bool):
        return b"i%d" % key
    if isinstance(key, bytes):
        return key if isinstance(key, RawKey) else b"b" + key
    check_key(key)
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


def encode_value_name(name: str) -> bytes:
    """Encode the name of a kept value. Raises `TypeError` for what is no `str`."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a kept value must be a str, not {shown(name)}")
    return name.encode("utf-8", _SURROGATES)


def decode_value_name(encoded: bytes) -> str:
    """Return the name that `encode_value_name` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    return encoded.decode("utf-8", _SURROGATES)


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


# What a store tells a process: the queue, and an event of it


def encode_event(event: LeaseEnded | QueueDeleted | ValueKept | Woken) -> bytes:
    """Encode an event that a store tells a process unasked."""
    if isinstance(event, LeaseEnded):
        what = b"l\0%d" % event.token
    elif isinstance(event, QueueDeleted):
        what = b"x"
    elif isinstance(event, ValueKept):
        what = b"v" + encode_value_name(event.name)
    else:
        what = encode_want(event.want)
    return event.queue.encode() + b"\0" + what


def decode_event(message: bytes) -> Event:
    """Return the event that `encode_event` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    name, separator, what = message.partition(b"\0")
    if not separator:
        raise ValueError(f"not a message: {shown(message)}")
    queue = name.decode()
    if what[:1] == b"l":
        return LeaseEnded(queue, int(what.rpartition(b"\0")[2]))
    if what == b"x":
        return QueueDeleted(queue)
    if what[:1] == b"v":
        return ValueKept(queue, decode_value_name(what[1:]))
    return Woken(queue, decode_want(what))
