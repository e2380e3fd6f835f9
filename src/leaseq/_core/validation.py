"""Checks of arguments, with errors in the words of the public calls. Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import wraps
from operator import index
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, cast

from .limits import MOST_KEY, MOST_KEY_BITS, MOST_NAME, MOST_REASON, check_length
from .texts import shown

T = TypeVar("T")

_SHORTEST_LEASE = 0.001  # seconds
_MOST_EXACT = 1 << 53  # beyond that, not every engine can tell whole numbers apart


def check_known(call: str, given: Iterable[str], known: Iterable[str], how: str = "") -> None:
    """Raise `TypeError` for options that a public call does not have.

    Args:
        call: The call, as a user writes it.
        given: The names of given options.
        known: The names of all its options.
        how: The way it was called, if it has others in another way.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join(map(shown, unknown))
        raise TypeError(
            f"{call}(){how} has no option{'s' if unknown[1:] else ''} {names}: "
            f"it has {', '.join(known) or 'none'}"
        )


def options_of(cls: type[T]) -> type[T]:
    """Make a dataclass say which options it has when it is given another."""
    make = cls.__init__
    known = [each.name for each in fields(cls) if each.init]  # type: ignore[arg-type]

    @wraps(make)
    def checked(self: T, *args: object, **options: object) -> None:
        check_known(cls.__name__, options, known)
        make(self, *args, **options)

    cls.__init__ = checked  # type: ignore[method-assign, assignment]
    return cls


def pairs_of(call: str, items: object) -> list[tuple[Any, Any]]:
    """Return the pairs of a public call that puts several items.

    Raises:
        TypeError: these are not pairs of a key and a value.
    """
    if isinstance(items, Mapping):
        return list(items.items())
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise TypeError(
            f"{call}() takes a mapping, or pairs of a key and a value, not {shown(items)}"
        )
    pairs = list(items)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{call}() takes pairs of a key and a value, not {shown(pair)}")
    return pairs


def keys_of(call: str, keys: object) -> list[Any]:
    """Return the keys of a public call that takes several; raise `TypeError` if they are not."""
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise TypeError(f"{call}() takes a collection of keys, or None, not {shown(keys)}")
    found = list(keys)
    for key in found:
        check_key(key)
    return found


def check_key(key: object) -> None:
    """Raise if an object cannot be a key.

    Raises:
        TypeError: it is not hashable.
        ValueError: it is a string, or bytes, of more than `MOST_KEY` bytes, or an int of more than
            `MOST_KEY_BITS` bits.
    """
    try:
        hash(key)
    except TypeError:
        kind = type(key).__name__
        raise TypeError(f"a key must be hashable, and {kind!r} is not: {shown(key)}") from None
    if isinstance(key, str | bytes):
        check_length("a key", key, MOST_KEY)
    elif isinstance(key, int) and (bits := int.bit_length(key)) > MOST_KEY_BITS:
        raise ValueError(
            f"a key must be {MOST_KEY_BITS:,} bits at most where it is an int, not {bits:,}"
        )


def check_text(name: str, value: object, otherwise: str = "") -> None:
    """Raise `TypeError` if a value is not a string; ``otherwise``: the alternatives, as text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string{otherwise}, not {shown(value)}")


def name_text(name: str, value: str, otherwise: str = "") -> str:
    """Return a tenant's or a consumer's name as an exact `str`.

    The hash of a subclass may raise, or change.

    Raises:
        TypeError: it is not a string.
        ValueError: it has more than `MOST_NAME` bytes.
    """
    if type(value) is not str:
        check_text(name, value, otherwise)
        value = str.__str__(value)
    check_length(name, value, MOST_NAME)
    return value


def name_or_none(name: str, value: str | None) -> str | None:
    """Return such a name, or None; raise as `name_text` does."""
    return None if value is None else name_text(name, value, " or None")


def reason_text(reason: str) -> str:
    """Return the reason of a rejection, a cancellation or a pause, cut to `MOST_REASON` characters.

    Raises:
        TypeError: it is not a string.
    """
    check_text("reason", reason)
    return str.__str__(reason)[:MOST_REASON]


def check_text_or_none(name: str, value: object) -> None:
    """Raise `TypeError` if a value is neither a string nor None."""
    if value is not None:
        check_text(name, value, " or None")


def check_flag(name: str, value: object) -> None:
    """Raise `TypeError` if an option is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")


def number(name: str, value: object, wanted: str = "a number") -> float:
    """Return a number of any kind as a float. Raises `TypeError` for a bool or a string.

    Args:
        name: The name of the option.
        value: A float, or an object that `float` converts: an int, a Decimal, a Fraction.
        wanted: The kind of value that the option must have, for errors.
    """
    if type(value) is float:
        return value
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be {wanted}, not {shown(value)}")
    try:
        return float(cast("SupportsFloat", value))
    except OverflowError:
        raise ValueError(f"{name} must be {wanted}, and {shown(value)} is too large") from None
    except ValueError:  # a signalling NaN
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}") from None


def whole_number(name: str, value: object, least: int, wanted: str, most: int = _MOST_EXACT) -> int:
    """Return a whole number as a plain int.

    Args:
        name: The name of the option.
        value: An int, or an object that can index a list.
        least: The smallest valid number.
        wanted: The valid numbers, for errors: "0 or more items".
        most: The largest valid number.

    Raises:
        TypeError: it is a bool, a float or a string.
        ValueError: it is less than the least, or more than the most.
    """
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} must be {wanted}, not nan")
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be a whole number of {wanted}, not {shown(value)}")
    found = index(cast("SupportsIndex", value))
    if found < least:
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}")
    if found > most:
        raise ValueError(f"{name} must be {most} at most, not {shown(value)}")
    return found


def whole_or_inf(name: str, value: object, least: int, wanted: str) -> float:
    """Return a whole number as a plain int, or `math.inf`; raise as `whole_number` does."""
    kind = type(value)
    if hasattr(kind, "__float__") and not hasattr(kind, "__index__"):
        found = number(name, value, wanted)
        if found == math.inf:
            return found
        if math.isnan(found):
            value = found
    return whole_number(name, value, least, wanted)


def check_priority(value: object) -> int:
    """Return a priority as a plain int. Raises `TypeError` for another type."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"priority must be a Priority or another int, not {shown(value)}")
    return index(cast("SupportsIndex", value))


def wait_seconds(name: str, seconds: float) -> float:
    """Return a time to wait in seconds; raise if it is negative or NaN."""
    found = number(name, seconds, "a number of seconds")
    if not found >= 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {shown(seconds)}")
    return found


def timeout_seconds(timeout: float | None) -> float | None:
    """Return the timeout of a wait in seconds: 0 for a negative one, and None for None."""
    if timeout is None:
        return None
    found = number("timeout", timeout, "a number of seconds")
    if math.isnan(found):
        raise ValueError(f"timeout must be a number of seconds, not {shown(timeout)}")
    return max(0.0, found)


def delay_seconds(seconds: float, name: str = "delay") -> float:
    """Return a delay in seconds; raise if it is negative, NaN or infinite."""
    found = number(name, seconds, "a number of seconds")
    if not 0 <= found < math.inf:
        raise ValueError(f"{name} must be 0 seconds or more, and finite, not {shown(seconds)}")
    return found


def lease_seconds(name: str, seconds: float | None) -> float:
    """Return the length of a lease; `math.inf` for None, which never expires.

    Less than a millisecond counts as one: a lease that the clock cannot tell from none would expire
    in the moment of its hand-out, again and again, while time stands still.
    """
    if seconds is None:
        return math.inf
    found = number(name, seconds, "a number of seconds, or None for ever")
    if not found > 0:
        raise ValueError(
            f"{name} must be more than 0 seconds, or None for ever, not {shown(seconds)}"
        )
    return max(found, _SHORTEST_LEASE)
