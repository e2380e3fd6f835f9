"""How values become bytes and come back, where they leave the process."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from .errors import CodecError, LeaseqError

__all__ = ["Codec", "JsonCodec"]

V = TypeVar("V")

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)


class Codec(Protocol[V]):
    """What makes bytes of values, and values of these bytes, for a queue on another machine.

    ``codec=`` of `Broker.queue`. Whoever puts and whoever gets need codecs that understand each
    other. An error of `encode` is raised by the put, and nothing was put; an item that `decode`
    has an error for becomes a dead letter with that error, and its bytes are kept.
    """

    def encode(self, value: V, /) -> bytes:
        """The value as bytes."""
        ...

    def decode(self, body: bytes, /) -> V:
        """The value that `encode` made these bytes of."""
        ...


class JsonCodec(Generic[V]):
    """Values as JSON, by msgspec: the codec of a queue that was given none.

    It knows what JSON knows, and dataclasses, msgspec's structs, dates, enums, bytes, tuples, sets
    and more, each of which comes back as what it was if ``type`` says so; without it a dataclass
    comes back as a dict, and a tuple as a list. In JSON there are no infinities and no NaN: these
    come back as None.

    Args:
        type: The type of the values: they are decoded to it, and checked. Left out: to what JSON
            makes of them.

    Raises:
        LeaseqError: msgspec is not installed.
        TypeError: it is not a type that msgspec knows what to do with.
    """

    __slots__ = ("_decode", "_encode", "_refusals", "_type")

    @overload
    def __init__(self: JsonCodec[Any]) -> None: ...
    @overload
    def __init__(self, type: type[V]) -> None: ...
    @overload
    def __init__(self, type: Any) -> None: ...
    def __init__(self, type: Any = Any) -> None:
        try:
            from msgspec import MsgspecError
            from msgspec.json import Decoder, Encoder
        except ImportError:
            raise LeaseqError(
                "values become JSON by msgspec, which is not installed: "
                "it comes with the extra leaseq[valkey]"
            ) from None
        self._refusals = (*_REFUSALS, MsgspecError)
        self._type = type
        self._encode = Encoder().encode
        self._decode = Decoder(type).decode

    def __repr__(self) -> str:
        return f"JsonCodec({'' if self._type is Any else repr(self._type)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonCodec) and bool(self._type == other._type)

    def __hash__(self) -> int:
        return hash(JsonCodec)

    def encode(self, value: V, /) -> bytes:
        """The value as JSON. O(its size).

        Raises:
            CodecError: JSON has no way to say it.
        """
        try:
            return self._encode(value)
        except self._refusals as error:
            raise CodecError(
                f"a value of the type {type(value).__name__!r} cannot be put as JSON ({error}): "
                "put what JSON knows, a dataclass or a msgspec.Struct, or give the queue a codec="
            ) from error

    def decode(self, body: bytes, /) -> V:
        """The value that this JSON says. O(its size).

        Raises:
            CodecError: it is not JSON, or not of the type.
        """
        try:
            value: V = self._decode(body)
        except self._refusals as error:
            wanted = "JSON" if self._type is Any else f"JSON of {self._type!r}"
            raise CodecError(f"{len(body)} bytes are not {wanted}: {error}") from error
        return value
