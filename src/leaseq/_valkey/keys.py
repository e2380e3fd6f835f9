"""Keys and tenants as bytes, and back as what they were. Sans-IO."""

from __future__ import annotations

from .._core.validation import check_hashable

__all__ = ["decode_key", "decode_name", "encode_key", "encode_name", "encoded", "shown"]

# Names that are no Unicode, such as those of some files, pass through.
_SURROGATES = "surrogatepass"


def encode_key(key: object) -> bytes:
    """A key as bytes: its kind, and then itself. Equal keys give equal bytes, others others.

    Raises:
        TypeError: it is not a `str`, a `bytes` or an `int`.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", _SURROGATES)
    if isinstance(key, int) and not isinstance(key, bool):
        return b"i%d" % key
    if isinstance(key, bytes):
        return b"b" + key
    check_hashable(key)
    kind = type(key).__name__
    raise TypeError(
        f"a key must be str, bytes or int on this engine, and {kind!r} is none of them: {key!r}"
    )


def decode_key(encoded: bytes) -> str | int | bytes:
    """The key that `encode_key` made these bytes of.

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
    raise ValueError(f"not a key: {encoded!r}")


def shown(encoded: bytes) -> object:
    """A key for people: as it is, if these bytes are one."""
    try:
        return decode_key(encoded)
    except ValueError:
        return encoded


def encode_name(name: str | None) -> bytes:
    """A name, a tenant's or a consumer's, as bytes; for None there are none.

    Raises:
        TypeError: it is not a `str`.
    """
    if name is None:
        return b""
    if not isinstance(name, str):
        raise TypeError(
            f"a tenant or a consumer must be a str or None on this engine, not {name!r}"
        )
    return b"=" + name.encode("utf-8", _SURROGATES)


def decode_name(encoded: bytes) -> str | None:
    """The tenant that `encode_name` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    if not encoded:
        return None
    if encoded[:1] != b"=":
        raise ValueError(f"not a tenant: {encoded!r}")
    return encoded[1:].decode("utf-8", _SURROGATES)


def encoded(text: str) -> bytes:
    """A text for people as bytes, whatever is in it."""
    return text.encode("utf-8", "backslashreplace")
