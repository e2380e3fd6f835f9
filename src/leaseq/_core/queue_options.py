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
    name_text,
    wait_seconds,
    whole_number,
    whole_or_inf,
)

_OF_QUEUE: dict[str, object] = {
    "default_lease_timeout": None,
    "max_size": inf,
    "retry": Retry(),
    "dead_letters": None,
    "tenants": None,
    "history": 0,
    "dedupe_for": None,
    "group": "",
}
SHARED_LEASE_TIMEOUT = 60.0
"""Seconds until a lease expires of a queue that processes share, unless it is made with another
timeout: a process that is killed holds its items no longer."""
_OF_HANDLE: dict[str, object] = {"type": Any, "codec": None}
_LONGEST_HISTORY = 10**9
NOTES_KEPT = 180.0
"""Seconds for which a note on unknown tasks is kept: they are tried every minute at the least."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_GROUP = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,63})?")


def queue_name(name: str) -> str:
    """Return the name of a queue as an exact `str`, of which every call of a broker makes use.

    Raises:
        TypeError: it is not a string.
        ValueError: no queue can have it.
    """
    check_text("a queue's name", name)
    name = str.__str__(name)
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid queue name {shown(name, 200)}: use 1 to 128 letters, digits or . _ - :, "
            "starting with a letter or digit"
        )
    return name


def unknown_notes(name: str) -> str:
    """Return the name of the queue that has the notes on tasks which a worker does not know."""
    return f"{name}.unknown"


def schedule_alarms(name: str) -> str:
    """Return the name of the queue that has the alarms of the schedules of a task queue."""
    return f"{name}.schedules"


def schedule_terms(name: str) -> str:
    """Return the name of the queue that has the terms of the schedules of a task queue."""
    return f"{name}.schedules.terms"


def _group_name(group: str) -> str:
    """Return the name of a group as an exact `str`; raise as `queue_name` does."""
    check_text("group", group, ', the name of a group, "" for the broker\'s own, or None')
    group = str.__str__(group)
    if not _GROUP.fullmatch(group):
        raise ValueError(
            f"invalid group {shown(group, 200)}: use 1 to 64 letters, digits or . _ - :, starting "
            "with a letter or digit"
        )
    return group


def group_of(options: BrokerQueueOptions) -> str:
    """Return the group of a queue with these options; ``""``: the broker's own."""
    return options.get("group") or ""


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
    if "max_size" in options:
        checked["max_size"] = whole_or_inf(
            "max_size", options["max_size"], 1, "1 or more, or math.inf"
        )
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
        name_text("a tenant's name", name): check_tenant(name, tenant)
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
    own = ("make",) if call == "queue" else ()
    check_known(call, options, (*own, *_OF_QUEUE, *_OF_HANDLE))
    codec: object = options.get("codec")
    check_codec(codec)
    if codec is not None and options.get("type", Any) is not Any:
        raise ValueError("a codec of your own knows the type of its values: leave type= out")
    if (letters := options.get("dead_letters")) is not None:
        check_text("dead_letters", letters, ", the name of a queue of this broker, or None")
    checked: BrokerQueueOptions = {**options, **check_queue_options(options)}
    if letters is not None:
        checked["dead_letters"] = str.__str__(letters)
    if (group := checked.get("group")) is None:
        checked.pop("group", None)  # as if it was left out
    else:
        checked["group"] = _group_name(group)
    return checked


def check_codec(codec: object) -> None:
    """Raise `TypeError` if a value is neither a codec nor None."""
    if codec is not None and not all(
        callable(getattr(codec, name, None)) for name in ("encode", "decode")
    ):
        raise TypeError(f"codec must have encode() and decode(), or be None, not {shown(codec)}")


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
