"""Checks of the options of tasks, in the words of the public calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .._core.texts import shown
from .._core.validation import lease_seconds, wait_seconds


def unknown_options(owner: str, unknown: Iterable[str], known: Iterable[str]) -> TypeError:
    """Return the error for options that a call does not have.

    Args:
        owner: Subject of the sentence, such as ``"a TaskQueue"``.
        unknown: The options that were given.
        known: All options that there are.
    """
    return TypeError(
        f"{owner} has no option {', '.join(sorted(unknown))}: it has {', '.join(sorted(known))}"
    )


def check_count(name: str, number: int, least: int, unit: str = "") -> int:
    """Return the number if it is an int of at least ``least``.

    Raises:
        TypeError: It is not an int.
        ValueError: It is too small.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, not {shown(number)}")
    if number < least:
        raise ValueError(f"{name} must be {least}{unit} or more, not {shown(number)}")
    return number


def check_priority(priority: int) -> int:
    """Return the priority as a plain int.

    Raises:
        TypeError: It is not an int.
    """
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority must be a Priority or another int, not {shown(priority)}")
    return int(priority)


def check_text(name: str, text: str | None) -> str | None:
    """Return the text if it is a string or None.

    Raises:
        TypeError: It is neither.
    """
    if not isinstance(text, str | None):
        raise TypeError(f"{name} must be a string or None, not {shown(text)}")
    return text


def seconds_or_forever(name: str, seconds: float | None) -> float:
    """Return a duration in seconds; `math.inf` for None.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not more than 0.
    """
    if seconds is not None:
        _check_number(name, seconds)
    return lease_seconds(name, seconds)


def check_wait(name: str, seconds: float) -> float:
    """Return a waiting time in seconds if it is a number and not negative.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative or NaN.
    """
    _check_number(name, seconds)
    return wait_seconds(name, seconds)


def read_tenants(name: str, tenants: Collection[str | None]) -> tuple[str | None, ...]:
    """Return the names of tenants as a tuple.

    Raises:
        TypeError: It is a single string, or has something other than strings and None.
    """
    if isinstance(tenants, str):
        raise TypeError(f"{name} must be a list of names, not one name: {shown(tenants)}")
    try:
        names = tuple(tenants)
    except TypeError:
        raise TypeError(f"{name} must be a list of names, not {shown(tenants)}") from None
    for tenant in names:
        if not isinstance(tenant, str | None):
            raise TypeError(f"{name} must have strings or None, not {shown(tenant)}")
    return names


def _check_number(name: str, seconds: float) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {shown(seconds)}")
