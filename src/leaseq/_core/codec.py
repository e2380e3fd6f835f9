"""Codecs: values as bytes, and back, where they leave the process."""

from __future__ import annotations

import builtins
import marshal
from collections.abc import Callable
from math import isfinite
from typing import Any, Generic, Protocol, TypeVar, overload

from .errors import CodecError, LeaseqError
from .exports import adopt
from .texts import failure_text, shown
from .validation import check_flag

V = TypeVar("V")

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)
_AS_THEY_ARE = (CodecError, KeyboardInterrupt, SystemExit)


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


def _plain_json() -> tuple[Callable[[object], bytes], Callable[[bytes], Any]]:
    """Return the standard library's way to JSON, and back."""
    import json

    write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    return lambda value: write(value).encode(), json.loads


class JsonCodec(Generic[V]):
    """Values as JSON: the default codec.

    With ``type`` it takes dataclasses, msgspec's structs, dates, enums, bytes, tuples, sets and
    more, and each comes back as it was. Without it, it takes what JSON has: None, booleans, ints,
    finite floats, strings, lists, and dicts with strings as keys. Anything else is refused, since
    it would come back as something else: a tuple as a list, `Decimal` and bytes as a string, the
    key ``1`` as ``"1"``, NaN as None. Encoding and decoding are msgspec's if it is installed, and
    otherwise, for JSON's own types alone, the standard library's.

    Args:
        type: The type of the values, to which they are decoded and checked. Left out: JSON's own
            types.
        strict: Without ``type``: True (the default) to refuse values that would come back as
            something else; False to take all that can be written.

    Raises:
        LeaseqError: there is a type, and msgspec is not installed.
        TypeError: msgspec does not support the type; ``strict`` is not a bool.
    """

    __slots__ = ("_decode", "_encode", "_refusals", "_strict", "_type")

    @overload
    def __init__(self: JsonCodec[Any], *, strict: bool = True) -> None: ...
    @overload
    def __init__(self, type: type[V], *, strict: bool = True) -> None: ...
    @overload
    def __init__(self, type: Any, *, strict: bool = True) -> None: ...
    def __init__(self, type: Any = Any, *, strict: bool = True) -> None:
        check_flag("strict", strict)
        try:
            from msgspec import MsgspecError
            from msgspec.json import Decoder, Encoder
        except ImportError:
            if type is not Any:
                raise LeaseqError(
                    "decoding JSON to a type needs msgspec, which is not installed: "
                    "pip install msgspec"
                ) from None
            self._refusals: tuple[builtins.type[Exception], ...] = _REFUSALS
            self._encode, self._decode = _plain_json()
        else:
            self._refusals = (*_REFUSALS, MsgspecError)
            self._encode = Encoder().encode
            self._decode = Decoder(type).decode
        self._type = type
        self._strict = strict and type is Any

    def __repr__(self) -> str:
        if self._type is not Any:
            return f"JsonCodec({shown(self._type)})"
        return f"JsonCodec({'' if self._strict else 'strict=False'})"

    def __reduce__(self) -> tuple[object, ...]:
        return _made_again, (self._type, self._strict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JsonCodec) or self._strict != other._strict:
            return False
        return bool(self._type == other._type)

    def __hash__(self) -> int:
        return hash(JsonCodec)

    def encode(self, value: V, /) -> bytes:
        """Return the value as JSON. O(its size).

        Raises:
            CodecError: the value has no JSON form, or would come back as something else.
        """
        return self._encode_for(value, "give the queue a type=, or")

    def _encode_for(self, value: V, advice: str) -> bytes:
        """Encode a value; an error has this advice, which a ``codec=`` follows."""
        try:
            body = self._encode(value)
            if self._strict and not _is_same(value, self._decode(body)):
                raise CodecError(
                    f"{_first_change(value)} would not come back as it was from JSON: {advice} "
                    "codec=JsonCodec(strict=False) to have it changed"
                )
            return body
        except CodecError:
            raise
        except self._refusals as error:
            what = f"a value of the type {type(value).__name__!r} cannot be put as JSON ({error})"
            known = "a value of JSON, a dataclass or a msgspec.Struct, or"
            if self._refusals is _REFUSALS:
                known = "a value of JSON, or install msgspec for more (pip install msgspec), and"
            raise CodecError(f"{what}: put {known} {advice} a codec= that knows it") from error

    def decode(self, body: bytes, /) -> V:
        """Return the value of this JSON. O(its size).

        Raises:
            CodecError: it is not JSON, or not of the type.
        """
        try:
            value: V = self._decode(body)
        except self._refusals as error:
            raise CodecError(f"the value cannot be read as {self._wanted}: {error}") from error
        return value

    @property
    def _wanted(self) -> str:
        if self._type is Any:
            return "JSON"
        is_class = isinstance(self._type, builtins.type)
        return self._type.__name__ if is_class else shown(self._type)


def encode_with(codec: Codec[V], value: V, queue: str) -> bytes:
    """Encode a value for a queue. Raises `CodecError`, whatever the codec raises."""
    try:
        body: object = codec.encode(value)
        if not isinstance(body, bytes):
            raise TypeError(f"encode() returned {shown(body)}, which is not bytes")
    except _AS_THEY_ARE:
        raise
    except BaseException as error:
        raise _codec_error(queue, "encode a value", error) from error
    return body


def decode_with(codec: Codec[V], body: bytes, queue: str) -> V:
    """Decode a value of a queue. Raises `CodecError`, whatever the codec raises."""
    try:
        return codec.decode(body)
    except _AS_THEY_ARE:
        raise
    except BaseException as error:
        raise _codec_error(queue, "decode a value", error) from error


def _codec_error(queue: str, what: str, error: BaseException) -> CodecError:
    return CodecError(f"the codec of queue {queue!r} could not {what}: {failure_text(error)}")


def _made_again(type: Any, strict: bool) -> JsonCodec[Any]:
    return JsonCodec(type, strict=strict)


def _is_same(value: Any, decoded: Any) -> bool:
    """Return True if two values are the same, and of the same types all the way down.

    marshal writes the exact types of what JSON has, fast, and refuses everything else. Its second
    version writes no references, so that equal values have equal bytes.
    """
    if type(value) is str or value is None:
        return True
    try:
        return marshal.dumps(value, 2) == marshal.dumps(decoded, 2)
    except ValueError:
        return False


def _first_change(value: object) -> str:
    """Return a description of the first part of a value that JSON would change, and its place."""
    left: list[tuple[str, object]] = [("", value)]
    while left:
        place, each = left.pop()
        where = f" at {place}" if place else ""
        if type(each) is dict:
            for key in each:
                if type(key) is not str:
                    return f"the key {shown(key)}, which is no string,{where}"
            left.extend((f"{place}[{shown(key)}]", part) for key, part in reversed(each.items()))
        elif type(each) is list:
            left.extend((f"{place}[{n}]", part) for n, part in reversed([*enumerate(each)]))
        elif type(each) is float:
            if not isfinite(each):
                return f"{each}{where}"
        elif each is not None and type(each) not in (bool, int, str):
            return f"a value of the type {type(each).__name__!r}{where}"
    return "a value"


adopt("leaseq", globals())
