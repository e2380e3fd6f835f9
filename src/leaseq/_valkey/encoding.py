"""Options of queues and puts as the server takes them. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import msgspec

from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant
from .._core.requests import PutRequest
from .._core.validation import lease_seconds, wait_seconds
from .._remote.requests import Word, at_most_a_century, microseconds
from .keys import encode_name

__all__ = ["declare_words", "put_words", "read_options", "write_options"]

_PRIORITIES: Final = range(-(2**31), 2**31)


@dataclass(frozen=True)
class _Stored:
    """The options that a queue was made with; what is not set was left out."""

    default_lease_timeout: float | msgspec.UnsetType | None = msgspec.UNSET
    max_size: int | float | msgspec.UnsetType | None = msgspec.UNSET
    max_deliveries: int | msgspec.UnsetType | None = msgspec.UNSET
    backoff: tuple[float, float, float, int | None] | None = None
    dead_letters: str | msgspec.UnsetType | None = msgspec.UNSET
    tenants: dict[str, tuple[float, int | None]] | msgspec.UnsetType | None = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    dedupe_for: float | msgspec.UnsetType | None = msgspec.UNSET


def write_options(options: BrokerQueueOptions) -> bytes:
    """Options as JSON."""
    stored: dict[str, Any] = dict(options)
    if options.get("max_size") == inf:
        stored["max_size"] = None
    if "retry" in options:
        retry = stored.pop("retry")
        stored["max_deliveries"] = retry.max_deliveries
        if retry.backoff is not None:
            backoff = retry.backoff
            stored["backoff"] = [backoff.base, backoff.factor, backoff.ceiling, backoff.seed]
    if options.get("tenants") is not None:
        stored["tenants"] = {
            name: [tenant.weight, tenant.max_in_flight]
            for name, tenant in stored["tenants"].items()
        }
    return msgspec.json.encode(stored)


def read_options(stored: bytes) -> BrokerQueueOptions:
    """What `write_options` wrote."""
    read = msgspec.json.decode(stored, type=_Stored)
    options: dict[str, Any] = {
        name: getattr(read, name)
        for name in ("default_lease_timeout", "max_size", "dead_letters", "history", "dedupe_for")
        if getattr(read, name) is not msgspec.UNSET
    }
    if "max_size" in options and options["max_size"] is None:
        options["max_size"] = inf
    if read.max_deliveries is not msgspec.UNSET:
        backoff = None if read.backoff is None else Backoff(*read.backoff)
        options["retry"] = Retry(read.max_deliveries, backoff)
    if read.tenants is not msgspec.UNSET:
        options["tenants"] = read.tenants and {
            name: Tenant(weight, cap) for name, (weight, cap) in read.tenants.items()
        }
    return options  # type: ignore[return-value]


def declare_words(name: str, options: BrokerQueueOptions) -> list[Word]:
    """What the server is told of a new queue, checked.

    Raises:
        ValueError: an option has a value that it cannot have.
    """
    max_size = options.get("max_size", inf)
    if not max_size >= 1:
        raise ValueError(f"max_size must be 1 or more, or math.inf, not {max_size!r}")
    history = options.get("history", 0)
    if history < 0:
        raise ValueError(f"history must be 0 or more items, not {history!r}")
    dedupe_for = options.get("dedupe_for")
    if dedupe_for is not None:
        wait_seconds("dedupe_for", dedupe_for)
    lease_seconds("default_lease_timeout", options.get("default_lease_timeout"))
    retry = options.get("retry", Retry())
    tenants = options.get("tenants")
    words: list[Word] = [
        name,
        write_options(options),
        options.get("dead_letters") or "",
        "-1" if max_size == inf else str(int(max_size)),
        "-1" if retry.max_deliveries is None else str(retry.max_deliveries),
    ]
    if retry.backoff is None:
        words += ["-1", "1", "0"]
    else:
        backoff = retry.backoff
        base, ceiling = (at_most_a_century(each) for each in (backoff.base, backoff.ceiling))
        words += [base, repr(backoff.factor), ceiling]
    words += [str(history), "-1" if not dedupe_for else at_most_a_century(dedupe_for)]
    words.append(str(len(tenants or {})))
    for tenant_name, tenant in (tenants or {}).items():
        cap = "-1" if tenant.max_in_flight is None else str(tenant.max_in_flight)
        words += [encode_name(tenant_name), repr(float(tenant.weight)), cap]
    return words


def put_words(terms: PutRequest, pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes | str]:
    """What a put is told after the queue."""
    if terms.priority is not None and terms.priority not in _PRIORITIES:
        raise ValueError(
            f"a priority is between -2**31 and 2**31 - 1 on this engine, not {terms.priority}"
        )
    items = [word for pair in pairs for word in pair]
    return [
        terms.if_in_flight,
        "" if terms.priority is None else str(terms.priority),
        encode_name(terms.tenant),
        microseconds(terms.delay),
        microseconds(terms.ttl),
        terms.reschedule,
        "0",
        str(len(items) // 2),
        *items,
    ]
