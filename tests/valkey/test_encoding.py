"""Keys, names, wants and times on the wire."""

from enum import IntEnum, StrEnum
from math import inf
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseq import MessageId, PutOutcome
from leaseq._remote.encoding import (
    decode_event,
    decode_key,
    decode_name,
    decode_want,
    encode_event,
    encode_key,
    encode_name,
    encode_text,
    encode_value_name,
    encode_want,
    read_key,
    read_name,
    read_text,
)
from leaseq._remote.protocol import (
    Event,
    LeaseEnded,
    QueueDeleted,
    RawKey,
    ValueKept,
    Want,
    WantKind,
    Woken,
)
from leaseq._valkey.times import (
    encode_finite_seconds,
    encode_optional_seconds,
    encode_seconds,
    read_seconds,
)

ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # with what is no Unicode
KEYS = ANY_TEXT | st.integers() | st.binary()


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 5


@given(KEYS)
def test_a_key_comes_back_as_what_it_was(key: str | int | bytes) -> None:
    decoded = decode_key(encode_key(key))
    assert decoded == key
    assert type(decoded) is type(key)


@given(KEYS, KEYS)
def test_different_keys_are_different_bytes(
    one: str | int | bytes, other: str | int | bytes
) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("a", b"sa"),
        ("", b"s"),
        ("7", b"s7"),
        (7, b"i7"),
        (-7, b"i-7"),
        (b"7", b"b7"),
        ("ä", b"s\xc3\xa4"),
        (MessageId("a", PutOutcome.ADDED), b"sa"),
        (Colour.RED, b"sred"),
        (Level.HIGH, b"i5"),
    ],
)
def test_a_key_is_its_kind_and_itself(key: object, encoded: bytes) -> None:
    assert encode_key(key) == encoded


@pytest.mark.parametrize("key", [True, None, 1.5, ("a", 1), frozenset[str]()])
def test_other_keys_are_refused_with_the_choices(key: object) -> None:
    kind = type(key).__name__
    with pytest.raises(TypeError, match=f"a key must be str, bytes or int .*, not {kind}"):
        encode_key(key)


def test_a_key_that_cannot_be_hashed_is_refused_as_in_any_queue() -> None:
    with pytest.raises(TypeError, match=r"a key must be hashable, .* \['a'\]"):
        encode_key(["a"])


@pytest.mark.parametrize("encoded", [b"", b"x", b"7", b"i", b"iseven", b"s\xff"])
def test_what_is_no_key_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|int|decode"):
        decode_key(encoded)


@given(st.none() | ANY_TEXT)
def test_a_tenant_comes_back_as_who_it_was(tenant: str | None) -> None:
    assert decode_name(encode_name(tenant)) == tenant


def test_nobody_in_particular_is_no_bytes() -> None:
    assert encode_name(None) == b""
    assert encode_name("") == b"="
    assert encode_name("ann") == b"=ann"


def test_a_tenant_is_a_name() -> None:
    with pytest.raises(TypeError, match="must be a str or None on this engine, not 7"):
        encode_name(7)  # type: ignore[arg-type]


def test_what_is_no_tenant_is_refused() -> None:
    with pytest.raises(ValueError, match="not a tenant: b'ann'"):
        decode_name(b"ann")


@pytest.mark.parametrize("encoded", [b"", b"x", b"7", b"iseven", b"s\xff"])
def test_what_is_no_key_stays_as_it_is(encoded: bytes) -> None:
    key = read_key(encoded)
    assert isinstance(key, RawKey)
    assert encode_key(key) == encoded
    assert read_key(b"b7") == b"7"
    assert not isinstance(read_key(b"b7"), RawKey)


@pytest.mark.parametrize(
    ("encoded", "name"), [(b"", None), (b"=ann", "ann"), (b"ann", "ann"), (b"=\xff", "=\\xff")]
)
def test_what_is_no_name_is_shown(encoded: bytes, name: str | None) -> None:
    assert read_name(encoded) == name


WANTS = [
    *map(Want, ("any", "any more", "room", "drained", "cap", "own", "steal")),
    *(Want("key", key) for key in ("", "a", 7, b"a")),
    *(Want(kind, "x") for kind in ("cap", "own", "steal", "own more", "steal more")),
]


@pytest.mark.parametrize("want", WANTS)
def test_a_want_comes_back_as_what_it_was(want: Want) -> None:
    assert decode_want(encode_want(want)) == want


def test_different_wants_are_different_bytes() -> None:
    assert len({encode_want(want) for want in WANTS}) == len(WANTS)
    assert {want.kind for want in WANTS} == {*get_args(WantKind)}


@pytest.mark.parametrize("encoded", [b"", b"?", b"at", b"l", b"x"])
def test_what_is_no_want_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="not a want"):
        decode_want(encoded)


@pytest.mark.parametrize(
    "event",
    [
        LeaseEnded("work", 7),
        QueueDeleted("work"),
        ValueKept("work", "réserve"),
        Woken("work", Want("room")),
        Woken("work", Want("key", 7)),
    ],
)
def test_an_event_comes_back_as_what_it_was(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


def test_the_name_of_a_value_is_a_text() -> None:
    with pytest.raises(TypeError, match="the name of a kept value must be a str, not 7"):
        encode_value_name(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "encoded"),
    [(0.0, b"0"), (1.5, b"1500000"), (inf, b"-1"), (1e-7, b"0"), (-1.0, b"0")],
)
def test_a_span_is_microseconds(seconds: float, encoded: bytes) -> None:
    assert encode_seconds(seconds) == encoded


def test_a_span_may_be_left_out_or_cut() -> None:
    assert encode_optional_seconds(None) == b"-1"
    assert encode_optional_seconds(0.5) == b"500000"
    assert encode_finite_seconds(inf) == b"3150000000000000"
    assert (read_seconds(-1), read_seconds(b"500000")) == (inf, 0.5)


@given(ANY_TEXT)
def test_any_text_can_be_sent(text: str) -> None:
    encode_text(text).decode()


def test_a_text_that_is_no_unicode_is_shown() -> None:
    assert read_text(b"a\xff") == "a\\xff"
