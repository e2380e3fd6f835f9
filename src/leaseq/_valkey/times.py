"""Times as the scripts take them, and back. Sans-IO."""

from __future__ import annotations

from math import inf
from typing import Final

NEVER: Final = b"-1"
"""A span without an end."""

_CENTURY: Final = 3.15e9


def encode_seconds(seconds: float) -> bytes:
    """Encode a span in microseconds, a century at most; `math.inf` is one without an end.

    Times are packed into seven bytes, and are exact below 2^53.
    """
    if seconds == inf:
        return NEVER
    return b"%d" % round(min(seconds, _CENTURY) * 1e6) if seconds > 0 else b"0"


def encode_finite_seconds(seconds: float) -> bytes:
    """Encode a span where the scripts know no endless ones: these are a century."""
    return encode_seconds(min(seconds, _CENTURY))


def encode_optional_seconds(seconds: float | None) -> bytes:
    """Encode a span that may be left out."""
    return NEVER if seconds is None else encode_seconds(seconds)


def read_seconds(microseconds: float | bytes) -> float:
    """Return a span in seconds; a negative one has no end."""
    number = int(microseconds)
    return inf if number < 0 else number / 1e6
