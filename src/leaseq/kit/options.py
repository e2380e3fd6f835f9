"""The name and the options that a broker is asked for a queue with. Sans-IO."""

from __future__ import annotations

import re
from math import inf

from ..policies import Retry
from ..values import BrokerQueueOptions

__all__ = ["check_known", "check_name", "check_same"]

_USUAL = {
    "default_lease_timeout": None,
    "max_size": inf,
    "retry": Retry(),
    "dead_letters": None,
    "tenants": None,
    "history": 0,
    "dedupe_for": None,
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def check_name(name: str) -> None:
    """Raise `ValueError` if no queue can have this name."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a queue's name has 1 to 128 characters, letters, digits, and . _ - : after the "
            f"first one; {name!r} is none"
        )


def check_known(options: BrokerQueueOptions) -> None:
    """Raise `TypeError` if a queue has no such options."""
    unknown = options.keys() - _USUAL.keys()
    if unknown:
        raise TypeError(f"a queue has no option {', '.join(unknown)}: it has {', '.join(_USUAL)}")


def check_same(name: str, made_with: BrokerQueueOptions, options: BrokerQueueOptions) -> None:
    """Raise `ValueError` if a queue was not made with these options.

    Args:
        name: The queue's.
        made_with: The options that it was made with; those left out are as usual.
        options: What it is asked for with; those left out are as they are.
    """
    has: dict[str, object] = {**_USUAL, **made_with}
    for option, value in options.items():
        if has[option] != value:
            raise ValueError(
                f"queue {name!r} has {option}={has[option]!r}, and is asked for with "
                f"{option}={value!r}: leave it out to take the queue as it is"
            )
