"""Codecs: values as bytes, and back, where they leave the process."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from .errors import CodecError, LeaseqError
from .texts import shown

V = TypeVar("V")

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)


class Codec(Protocol[V]):
    """An encoder and decoder of the values of a queue that processes share.

    It is the ``codec=`` of `Broker.queue`. Producers and consumers need codecs that understand each
    other. Whatever `encode` raises, the put raises a `CodecError`, and nothing was put. An item
    that `decode` raises for becomes a dead letter with that error, and its bytes are kept.
    """

    def encode(self, value: V, /) -> bytes:
        """Return the value as bytes.

        Args:
            value: The value of a put.

        Raises:
            Exception: the value cannot be encoded; the put raises a `CodecError` for it.

        It is called synchronously, within the put.
        """
        ...

    def decode(self, body: bytes, /) -> V:
        """Return the value that was encoded as these bytes.

        Args:
            body: Bytes that `encode` has returned, in this process or another one.

        Raises:
            Exception: these are not the bytes of a value; the item becomes a dead letter.

        It is called synchronously, at the hand-out.
        """
        ...


class JsonCodec(Generic[V]):
    """Values as JSON, by msgspec: the default codec.

    It takes JSON's own types, and dataclasses, msgspec's structs, dates, enums, bytes, tuples, sets
    and more. With ``type`` each comes back as it was; without it a dataclass comes back as a dict,
    and a tuple as a list. JSON has no infinities and no NaN: they come back as None.

    Args:
        type: The type of the values, to which they are decoded and checked. Left out: JSON's own
            types.

    Raises:
        LeaseqError: msgspec is not installed.
        TypeError: msgspec does not support the type.
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
                "encoding values as JSON needs msgspec, which is not installed: "
                "it comes with the extra leaseq[valkey]"
            ) from None
        self._refusals = (*_REFUSALS, MsgspecError)
        self._type = type
        self._encode = Encoder().encode
        self._decode = Decoder(type).decode

    def __repr__(self) -> str:
        return f"JsonCodec({'' if self._type is Any else shown(self._type)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonCodec) and bool(self._type == other._type)

    def __hash__(self) -> int:
        return hash(JsonCodec)

    def encode(self, value: V, /) -> bytes:
        """Return the value as JSON. O(its size).

        Raises:
            CodecError: the value has no JSON form.
        """
        try:
            return self._encode(value)
        except self._refusals as error:
            raise CodecError(
                f"a value of the type {type(value).__name__!r} cannot be put as JSON ({error}): "
                "put a value of JSON, a dataclass or a msgspec.Struct, or give the queue a codec="
            ) from error

    def decode(self, body: bytes, /) -> V:
        """Return the value of this JSON. O(its size).

        Raises:
            CodecError: it is not JSON, or not of the type.
        """
        try:
            value: V = self._decode(body)
        except self._refusals as error:
            wanted = "JSON" if self._type is Any else f"JSON of {shown(self._type)}"
            raise CodecError(f"{len(body)} bytes are not {wanted}: {error}") from error
        return value
