from math import inf
from typing import Any

import pytest

from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest


def test_a_request_asks_for_anything_of_anybody_for_ever() -> None:
    request: ClaimRequest[str] = ClaimRequest()
    assert request.key is ANY_KEY
    assert (request.lease_timeout, request.timed, request.restricted) == (inf, False, False)
    assert (request.tenants, request.steal_from, request.consumer) == (None, (), None)


def test_a_lease_with_an_end_is_timed() -> None:
    request: ClaimRequest[str] = ClaimRequest(lease_timeout=2.5)
    assert (request.lease_timeout, request.timed) == (2.5, True)


@pytest.mark.parametrize("options", [{"key": "a"}, {"tenants": ["x"]}, {"key": None}])
def test_to_ask_for_a_key_or_for_some_tenants_is_restricted(options: dict[str, Any]) -> None:
    key = options.pop("key", ANY_KEY)
    assert ClaimRequest(key, **options).restricted


@pytest.mark.parametrize(
    ("options", "served"),
    [
        ({}, ["x", "y", None]),
        ({"tenants": ["x"]}, ["x"]),
        ({"tenants": ["x", None]}, ["x", None]),
        ({"tenants": ["x"], "steal_from": ["y"]}, ["x", "y"]),
    ],
)
def test_who_is_served_by_a_request(options: dict[str, Any], served: list[str | None]) -> None:
    request: ClaimRequest[str] = ClaimRequest(**options)
    assert [name for name in ("x", "y", None) if request.serves(name)] == served


def test_a_tenant_that_is_named_twice_is_named_once() -> None:
    request: ClaimRequest[str] = ClaimRequest(
        tenants=["x", "y", "x"], steal_from=["z", "y", "z", None]
    )
    assert request.tenants == ("x", "y")
    assert request.steal_from == ("z", None)


def test_tenants_can_be_any_collection() -> None:
    request: ClaimRequest[str] = ClaimRequest(tenants={"x"}, steal_from=dict.fromkeys("y"))
    assert (request.tenants, request.steal_from) == (("x",), ("y",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"steal_from": ["x"]},
            "steal_from=['x'] needs tenants: without them the items of all tenants are taken",
        ),
        ({"tenants": []}, "tenants must name at least one tenant, or be None for all"),
        (
            {"lease_timeout": 0},
            "lease_timeout must be more than 0 seconds, or None for ever, not 0",
        ),
        (
            {"lease_timeout": float("nan")},
            "lease_timeout must be more than 0 seconds, or None for ever, not nan",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        ClaimRequest(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tenants": "abc"}, "tenants must be a collection of names, not 'abc': ['abc']"),
        (
            {"tenants": ["x"], "steal_from": "abc"},
            "steal_from must be a collection of names, not 'abc': ['abc']",
        ),
        ({"tenants": 5}, "tenants must be a collection of names, not 5"),
        ({"tenants": [5]}, "a name in tenants must be a string or None, not 5"),
    ],
)
def test_names_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        ClaimRequest(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options", [{"tenants": ["x"]}, {"steal_from": ["x"]}, {"tenants": None, "wrong": 1}]
)
def test_a_key_is_asked_for_without_tenants(options: dict[str, Any]) -> None:
    name = next(name for name, value in options.items() if value)
    with pytest.raises(TypeError, match=rf"take\(\) has no option '{name}'"):
        ClaimRequest("a", **options)


def test_a_key_that_is_not_hashable_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        ClaimRequest(["a"])
    assert str(caught.value) == "a key must be hashable, and 'list' is not: ['a']"
