"""Checks of what callers give, with errors in the words of the public calls."""

from __future__ import annotations

import math

__all__ = ["check_consumer", "check_hashable", "delay_seconds", "lease_seconds", "wait_seconds"]


def check_hashable(key: object) -> None:
    """Raise `TypeError` if this cannot be a key."""
    try:
        hash(key)
    except TypeError:
        kind = type(key).__name__
        raise TypeError(f"a key must be hashable, and {kind!r} is not: {key!r}") from None


def check_consumer(consumer: object) -> None:
    """Raise `TypeError` if this cannot be the name of a consumer."""
    if not isinstance(consumer, str):
        raise TypeError(
            f"consumer must be a string, as get or take was told, not {consumer!r:.100}"
        )


def wait_seconds(name: str, seconds: float) -> float:
    """The seconds, if they can be waited for: neither negative nor NaN."""
    if not seconds >= 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {seconds!r}")
    return seconds


def delay_seconds(seconds: float) -> float:
    """The seconds, if an item can be ready after them: not negative, not NaN, and not for ever."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"delay must be 0 or more seconds, and finite, not {seconds!r}")
    return seconds


def lease_seconds(name: str, seconds: float | None) -> float:
    """The length of a lease; `math.inf` for None, which never expires."""
    if seconds is None:
        return math.inf
    if not seconds > 0:
        raise ValueError(f"{name} must be more than 0 seconds, or None for ever, not {seconds!r}")
    return seconds
