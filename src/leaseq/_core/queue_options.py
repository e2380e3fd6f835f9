"""The options of queues and of a broker's queues. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any, TypedDict

from .codec import Codec, JsonCodec
from .options import BrokerQueueOptions
from .policies import Retry, Tenant
from .texts import shown
from .validation import (
    check_known,
    check_text,
    lease_seconds,
    plain_text,
    wait_seconds,
    whole_number,
)

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
_LONGEST_HISTORY = 10**9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def check_name(name: str) -> None:
    """Raise `ValueError` for an invalid name of a queue, `TypeError` for another type."""
    check_text("a queue's name", name)
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid queue name {shown(name, 200)}: use 1 to 128 letters, digits or . _ - :, "
            "starting with a letter or digit"
        )


class QueueOptions(TypedDict, total=False):
    """Options that are common to a queue by itself and a queue of a broker."""

    default_lease_timeout: float | None
    max_size: float
    retry: Retry
    tenants: Mapping[str, Tenant] | None
    history: int
    dedupe_for: float | None


def check_queue_options(options: QueueOptions) -> QueueOptions:
    """Return options of a queue with their times as floats.

    Raises:
        TypeError: an option has a value of another type.
        ValueError: an option has an invalid value.
    """
    checked = options.copy()
    if (timeout := options.get("default_lease_timeout")) is not None:
        length = lease_seconds("default_lease_timeout", timeout)
        checked["default_lease_timeout"] = None if length == inf else length
    if "max_size" in options and options["max_size"] != inf:
        size = whole_number("max_size", options["max_size"], 1, "1 or more, or math.inf")
        checked["max_size"] = size
    check_retry(options.get("retry", _OF_QUEUE["retry"]))
    if (tenants := options.get("tenants")) is not None:
        checked["tenants"] = check_tenants(tenants)
    if "history" in options:
        checked["history"] = whole_number(
            "history", options["history"], 0, "0 or more items", _LONGEST_HISTORY
        )
    if (seconds := options.get("dedupe_for")) is not None:
        checked["dedupe_for"] = wait_seconds("dedupe_for", seconds)
    return checked


def check_retry(retry: object) -> None:
    """Raise `TypeError` if a value is not a `Retry`."""
    if not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {shown(retry)}: Retry(max_deliveries=5)")


def check_tenants(tenants: object) -> dict[str, Tenant]:
    """Return tenants by their names; raise `TypeError` if a value is not a mapping of these."""
    if not isinstance(tenants, Mapping):
        raise TypeError(
            f"tenants must be a mapping of names to Tenants, or None, not {shown(tenants)}"
        )
    return {
        plain_text("a tenant's name", name): check_tenant(name, tenant)
        for name, tenant in tenants.items()
    }


def check_tenant(name: object, tenant: object) -> Tenant:
    """Return a tenant; raise `TypeError` if it is none."""
    if not isinstance(tenant, Tenant):
        raise TypeError(
            f"tenant {shown(name)} must be a Tenant, not {shown(tenant)}: Tenant(weight=2.0)"
        )
    return tenant


def check_broker_options(options: BrokerQueueOptions, call: str = "queue") -> BrokerQueueOptions:
    """Return options of a broker's queue with their times as floats.

    Args:
        options: The options.
        call: The public call, for errors.

    Raises:
        TypeError: an option is unknown, or its value of another type.
        ValueError: an option has an invalid value, or two contradict.
    """
    check_known(call, options, {**_OF_QUEUE, **_OF_HANDLE})
    codec: object = options.get("codec")
    if codec is not None and not all(
        callable(getattr(codec, name, None)) for name in ("encode", "decode")
    ):
        raise TypeError(f"codec must have encode() and decode(), or be None, not {shown(codec)}")
    if codec is not None and options.get("type", Any) is not Any:
        raise ValueError("a codec of your own knows the type of its values: leave type= out")
    if (letters := options.get("dead_letters")) is not None:
        check_text("dead_letters", letters, ", the name of a queue of this broker, or None")
    return {**options, **check_queue_options(options)}


def options_of_queue(options: BrokerQueueOptions) -> BrokerQueueOptions:
    """Return the options of the queue itself, without those of one handle on it."""
    return {name: value for name, value in options.items() if name in _OF_QUEUE}  # type: ignore[return-value]


def codec_for(options: BrokerQueueOptions) -> Codec[Any]:
    """Return the codec of a queue's values.

    Raises:
        LeaseqError: msgspec is needed, and is not installed.
        TypeError: msgspec does not support the type.
    """
    codec = options.get("codec")
    return JsonCodec(options.get("type", Any)) if codec is None else codec


def check_same(name: str, made_with: BrokerQueueOptions, options: BrokerQueueOptions) -> None:
    """Raise `ValueError` if a queue was made with other options.

    Args:
        name: The name of the queue.
        made_with: The options that it was made with; an option left out had its default.
        options: The options that it is asked for with; options left out, and those of the handle
            alone, are not compared.
    """
    _compare(name, {**_OF_QUEUE, **options_of_queue(made_with)}, options)


def check_handle(name: str, made_with: BrokerQueueOptions, options: BrokerQueueOptions) -> None:
    """Raise `ValueError` if a handle on a queue has another type or codec of values.

    The arguments are those of `check_same`, for the handle.
    """
    _compare(name, {key: made_with.get(key, usual) for key, usual in _OF_HANDLE.items()}, options)


def _compare(name: str, has: dict[str, object], options: BrokerQueueOptions) -> None:
    for option, value in options.items():
        if option in has and has[option] != value:
            raise ValueError(
                f"queue {name!r} has {option}={shown(has[option])}, and was asked for with "
                f"{option}={shown(value)}: leave it out to take the queue as it is"
            )
