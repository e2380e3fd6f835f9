"""Keys and tenants as bytes, and back as what they were. Sans-IO."""

from __future__ import annotations

from ..values import check_hashable

__all__ = ["decode_key", "decode_tenant", "encode_key", "encode_tenant"]

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


def encode_tenant(tenant: str | None) -> bytes:
    """A tenant's name as bytes; for None there are none.

    Raises:
        TypeError: it is not a `str`.
    """
    if tenant is None:
        return b""
    if not isinstance(tenant, str):
        raise TypeError(f"a tenant must be a str or None on this engine, not {tenant!r}")
    return b"=" + tenant.encode("utf-8", _SURROGATES)


def decode_tenant(encoded: bytes) -> str | None:
    """The tenant that `encode_tenant` made these bytes of.

    Raises:
        ValueError: it did not.
    """
    if not encoded:
        return None
    if encoded[:1] != b"=":
        raise ValueError(f"not a tenant: {encoded!r}")
    return encoded[1:].decode("utf-8", _SURROGATES)
