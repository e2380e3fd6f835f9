"""The name and the options that a broker is asked for a queue with. Sans-IO."""

from __future__ import annotations

import re
from math import inf
from typing import Any

from .codec import Codec, JsonCodec
from .options import BrokerQueueOptions
from .policies import Retry

__all__ = [
    "check_handle",
    "check_known",
    "check_name",
    "check_same",
    "codec_for",
    "options_of_queue",
]

_OF_QUEUE: dict[str, object] = {
    "default_lease_timeout": None,
    "max_size": inf,
    "retry": Retry(),
    "dead_letters": None,
    "tenants": None,
    "history": 0,
    "dedupe_for": None,
}
_OF_HANDLE: dict[str, object] = {"type": Any, "codec": None}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def check_name(name: str) -> None:
    """Raise `ValueError` if no queue can have this name."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a queue's name has 1 to 128 characters, letters, digits, and . _ - : after the "
            f"first one; {name!r} is none"
        )


def check_known(options: BrokerQueueOptions) -> None:
    """Raise `TypeError` if a queue has no such options, and `ValueError` if they contradict."""
    known = {**_OF_QUEUE, **_OF_HANDLE}
    unknown = options.keys() - known.keys()
    if unknown:
        raise TypeError(f"a queue has no option {', '.join(unknown)}: it has {', '.join(known)}")
    if options.get("codec") is not None and options.get("type", Any) is not Any:
        raise ValueError("a codec of your own knows the type of its values: leave type= out")


def options_of_queue(options: BrokerQueueOptions) -> BrokerQueueOptions:
    """Those options that a queue is made with, without what concerns one handle on it alone."""
    return {name: value for name, value in options.items() if name in _OF_QUEUE}  # type: ignore[return-value]


def codec_for(options: BrokerQueueOptions) -> Codec[Any]:
    """What makes bytes of a queue's values.

    Raises:
        LeaseqError: msgspec is needed, and is not installed.
        TypeError: it is not a type that msgspec knows what to do with.
    """
    codec = options.get("codec")
    return JsonCodec(options.get("type", Any)) if codec is None else codec


def check_same(name: str, made_with: BrokerQueueOptions, options: BrokerQueueOptions) -> None:
    """Raise `ValueError` if a queue was not made with these options.

    Args:
        name: The queue's.
        made_with: The options that it was made with; those left out are as usual.
        options: What it is asked for with; those left out are as they are, and those that concern
            a handle alone are left alone.
    """
    _compare(name, {**_OF_QUEUE, **options_of_queue(made_with)}, options)


def check_handle(name: str, made_with: BrokerQueueOptions, options: BrokerQueueOptions) -> None:
    """Raise `ValueError` if a handle on a queue does not read and write values as these options do.

    Arguments are those of `check_same`, of the handle.
    """
    _compare(name, {key: made_with.get(key, usual) for key, usual in _OF_HANDLE.items()}, options)


def _compare(name: str, has: dict[str, object], options: BrokerQueueOptions) -> None:
    for option, value in options.items():
        if option in has and has[option] != value:
            raise ValueError(
                f"queue {name!r} has {option}={has[option]!r}, and is asked for with "
                f"{option}={value!r}: leave it out to take the queue as it is"
            )
