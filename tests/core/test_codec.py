import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseq import CodecError, JsonCodec, LeaseqError

WHOLE = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    name: str
    colours: tuple[Colour, ...]


@dataclass
class Order:
    number: int
    parts: list[Part]
    placed: datetime | None = None
    photo: bytes = b""


class Point(msgspec.Struct, frozen=True):
    x: float
    y: float


parts = st.builds(Part, TEXT, st.lists(st.sampled_from(Colour)).map(tuple))
orders = st.builds(Order, WHOLE, st.lists(parts), st.none() | st.datetimes(), st.binary())
coordinates = st.floats(allow_nan=False, allow_infinity=False)


@given(JSON)
def test_what_json_knows_comes_back_as_what_it_was(value: object) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    body = codec.encode(value)
    assert isinstance(body, bytes)
    assert codec.decode(body) == value


@given(orders)
def test_a_dataclass_comes_back_as_what_it_was(order: Order) -> None:
    codec = JsonCodec(Order)
    assert codec.decode(codec.encode(order)) == order


@given(st.builds(Point, coordinates, coordinates))
def test_a_struct_comes_back_as_what_it_was(point: Point) -> None:
    codec = JsonCodec(Point)
    assert codec.decode(codec.encode(point)) == point


@given(st.dictionaries(WHOLE, st.sets(st.binary()) | st.none()))
def test_a_type_may_be_made_of_types(value: dict[int, set[bytes] | None]) -> None:
    codec: JsonCodec[dict[int, set[bytes] | None]] = JsonCodec(dict[int, set[bytes] | None])
    assert codec.decode(codec.encode(value)) == value


def test_without_a_type_a_dataclass_comes_back_as_a_dict() -> None:
    codec: JsonCodec[Any] = JsonCodec()
    body = codec.encode(Part("a", (Colour.RED,)))
    assert codec.decode(body) == {"name": "a", "colours": ["red"]}


def endless() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (object, "object"),
        (lambda: {"a": [object()]}, "dict"),
        (lambda: {(1, 2): 3}, "dict"),
        (lambda: 3j, "complex"),
        (lambda: len, "builtin_function_or_method"),
        (lambda: "\ud800", "str"),
        (endless, "list"),
    ],
)
def test_what_json_cannot_say_is_an_error_with_its_type_and_the_way_out(
    make: Callable[[], object], named: str
) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    with pytest.raises(CodecError, match=f"(?s)type '{named}' cannot .* JSON .* codec=") as caught:
        codec.encode(make())
    assert isinstance(caught.value, LeaseqError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_such_numbers(number: float) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    assert codec.decode(codec.encode([number])) == [None]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\xff"', b"nul", b"1 2", b"[" * 100_000])
def test_what_is_no_json_is_an_error(body: bytes) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    with pytest.raises(CodecError, match=f"{len(body)} bytes are not JSON: "):
        codec.decode(body)


@given(st.binary())
def test_any_bytes_are_a_value_or_an_error(body: bytes) -> None:
    codec = JsonCodec(Order)
    with pytest.raises(CodecError, match="Order"):
        codec.decode(body)


def test_json_of_another_type_is_an_error_that_says_where() -> None:
    with pytest.raises(CodecError, match=r"not JSON of .*Order.*: .*\$\.number"):
        JsonCodec(Order).decode(b'{"number": "one", "parts": []}')


def test_what_is_no_type_is_refused() -> None:
    with pytest.raises(TypeError):
        JsonCodec(3)


def test_codecs_of_one_type_are_equal() -> None:
    assert JsonCodec(Order) == JsonCodec(Order)
    assert len({JsonCodec(Order), JsonCodec(Order), JsonCodec(Part), JsonCodec()}) == 3
    assert JsonCodec() != "JsonCodec()"


def test_a_codec_shows_its_type() -> None:
    assert repr(JsonCodec()) == "JsonCodec()"
    assert repr(JsonCodec(list[int])) == "JsonCodec(list[int])"


def test_without_msgspec_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    with pytest.raises(LeaseqError, match=r"leaseq\[valkey\]"):
        JsonCodec()
