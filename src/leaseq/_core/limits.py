"""The documented limits of keys, names and values, and their errors. Sans-IO."""

from __future__ import annotations

from typing import Final

from .texts import shown

MOST_KEY: Final = 1024
"""Bytes of a key, a string's in UTF-8."""
MOST_KEY_BITS: Final = 3322
"""Bits of a key that is an int: a thousand digits."""
MOST_NAME: Final = 256
"""Bytes of the name of a tenant or a consumer, in UTF-8."""
MOST_REASON: Final = 4096
"""Characters of the reason of a rejection; what is beyond is cut."""
MOST_BODIES: Final = 4 << 20
"""Bytes of the values that one call puts into an engine that processes share, once encoded."""
MOST_ITEMS: Final = 500
"""Items that one call puts into such an engine: a call is atomic, and others wait for it, some 20
milliseconds at most."""
MOST_STEPS: Final = 250
"""Steps of a transaction there; each may be a reject, which takes twice as long as a put."""
MOST_NAMES: Final = 1000
"""Tenants that one consumer asks for, those that it steals from included."""
MOST_TENANTS: Final = 1000
"""Tenants among the options of a queue of such an engine."""
MOST_PAUSED: Final = 1000
"""Tenants of a queue that are paused."""

_SURE: Final = 4  # bytes of a character at most


def check_length(name: str, value: str | bytes, most: int) -> None:
    """Raise `ValueError` if a string, or bytes, is longer than so many bytes. O(1), mostly."""
    size = str.__len__(value) if isinstance(value, str) else bytes.__len__(value)
    if _SURE * size <= most:
        return
    if size <= most and isinstance(value, str):
        size = len(str.encode(value, "utf-8", "surrogatepass"))
    if size > most:
        raise ValueError(f"{name} must be {most:,} bytes at most, not {size:,}: {shown(value)}")


def check_bodies(call: str, sizes: list[int], key: object) -> None:
    """Raise `ValueError` if one call puts more than an engine that processes share can take.

    Args:
        call: The call, as a user writes it.
        sizes: The bytes of each value.
        key: The key of the first.
    """
    _check_sizes(call, sizes, key, MOST_ITEMS, "items", "each put all or none by a call of its own")


def check_steps(sizes: list[int], key: object) -> None:
    """Raise `ValueError` if a transaction has more than such an engine can take.

    Args:
        sizes: The bytes of the value of each step.
        key: The key of the last.
    """
    way = "each all or none in a transaction of its own"
    _check_sizes("transaction", sizes, key, MOST_STEPS, "steps", way)


def _check_sizes(call: str, sizes: list[int], key: object, most: int, what: str, way: str) -> None:
    if len(sizes) > most:
        raise ValueError(
            f"{call}() takes {most:,} {what} at most on this engine, not {len(sizes):,}: "
            f"split them into lots of {most:,}, {way}"
        )
    total = sum(sizes)
    if total <= MOST_BODIES:
        return
    if len(sizes) == 1:
        raise ValueError(
            f"the value of key {shown(key)} takes {total:,} bytes, and {MOST_BODIES:,} is the most "
            "on this engine: keep it in another place, and put where that is"
        )
    lots = -(-total // MOST_BODIES)
    raise ValueError(
        f"the values of {call}() take {total:,} bytes together, and {MOST_BODIES:,} is the most on "
        f"this engine: split the {len(sizes):,} {what} into {lots + 1:,} lots or more, {way}"
    )
