import math
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
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


def test_without_a_type_a_dataclass_may_come_back_as_a_dict() -> None:
    codec: JsonCodec[Any] = JsonCodec(strict=False)
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
    codec: JsonCodec[Any] = JsonCodec(strict=False)
    assert codec.decode(codec.encode([number])) == [None]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\xff"', b"nul", b"1 2", b"[" * 100_000])
def test_what_is_no_json_is_an_error(body: bytes) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    with pytest.raises(CodecError, match="the value cannot be read as JSON: "):
        codec.decode(body)


@given(st.binary())
def test_any_bytes_are_a_value_or_an_error(body: bytes) -> None:
    codec = JsonCodec(Order)
    with pytest.raises(CodecError, match="Order"):
        codec.decode(body)


def test_json_of_another_type_is_an_error_that_says_where() -> None:
    with pytest.raises(CodecError, match=r"cannot be read as Order: .*\$\.number"):
        JsonCodec(Order).decode(b'{"number": "one", "parts": []}')
    with pytest.raises(CodecError, match=r"cannot be read as list\[int\]: Expected `array`"):
        JsonCodec(list[int]).decode(b"{}")


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


def test_without_msgspec_an_error_does_not_advise_what_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    codec: JsonCodec[Any] = JsonCodec()
    with pytest.raises(CodecError, match=r"type 'Part' cannot .*pip install msgspec") as caught:
        codec.encode(Part("a", ()))
    assert "put a value of JSON, a dataclass" not in str(caught.value)


def test_a_type_needs_msgspec_and_the_error_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    with pytest.raises(LeaseqError, match="pip install msgspec"):
        JsonCodec(list[int])


@given(JSON)
def test_without_msgspec_json_s_own_types_come_back_as_what_they_were(value: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "msgspec.json", None)
        codec: JsonCodec[Any] = JsonCodec()
    body = codec.encode(value)
    assert isinstance(body, bytes)
    assert codec.decode(body) == value
    assert JsonCodec().decode(body) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, b"", object(), "\ud800", [{1, 2}]])
def test_without_msgspec_anything_else_is_refused(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    with pytest.raises(CodecError, match="cannot be put as JSON"):
        JsonCodec(strict=False).encode(value)


# Without a type, what would be changed is refused


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Decimal("1.10"), "a value of the type 'Decimal'"),
        (b"bytes", "a value of the type 'bytes'"),
        ((1, 2), "a value of the type 'tuple'"),
        ({1: "a"}, "the key 1, which is no string,"),
        ({"a": [1, {"b": {2, 3}}]}, "a value of the type 'set' at ['a'][1]['b']"),
        ({"a": {2: 1}}, "the key 2, which is no string, at ['a']"),
        ([math.nan], "nan at [0]"),
        ([1.5, None, (1,)], "a value of the type 'tuple' at [2]"),
        ({"a": math.inf}, "inf at ['a']"),
        (Point(1.0, 2.0), "a value of the type 'Point'"),
        (Part("wheel", ()), "a value of the type 'Part'"),
        (datetime(2030, 1, 1), "a value of the type 'datetime'"),
        (Colour.RED, "a value of the type 'Colour'"),
        (IntEnum("Number", ["ONE"]).ONE, "a value of the type 'Number'"),
    ],
    ids=repr,
)
def test_what_json_would_change_is_refused_unless_it_is_asked_for(value: Any, what: str) -> None:
    with pytest.raises(CodecError, match=f"^{re.escape(what)}.* would not come back as it was"):
        JsonCodec().encode(value)
    lax: JsonCodec[Any] = JsonCodec(strict=False)
    assert repr(lax.decode(lax.encode(value))) != repr(value)
    assert lax != JsonCodec()
    assert repr(lax) == "JsonCodec(strict=False)"


@given(JSON)
def test_what_json_has_is_taken_and_comes_back_of_the_same_types(value: object) -> None:
    codec: JsonCodec[Any] = JsonCodec()
    assert repr(codec.decode(codec.encode(value))) == repr(value)


def test_a_value_that_is_shared_within_another_comes_back() -> None:
    shared = ["a string that occurs twice", 1.5]
    assert JsonCodec[Any]().encode({"one": shared, "two": shared})


def test_a_codec_is_pickled_with_its_type() -> None:
    for codec in (JsonCodec(), JsonCodec(strict=False), JsonCodec(Order)):
        assert pickle.loads(pickle.dumps(codec)) == codec


def test_strict_is_a_flag() -> None:
    with pytest.raises(TypeError, match="strict must be"):
        JsonCodec(strict="yes")  # type: ignore[arg-type]
