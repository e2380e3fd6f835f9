"""Options of queues as the server keeps them. Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant


@dataclass(frozen=True)
class _Stored:
    """The options that a queue was made with; what is not set was left out."""

    default_lease_timeout: float | msgspec.UnsetType | None = msgspec.UNSET
    max_size: int | float | msgspec.UnsetType | None = msgspec.UNSET
    max_deliveries: int | msgspec.UnsetType | None = msgspec.UNSET
    backoff: tuple[float | None, float, float | None, int | None] | None = None  # None: infinite
    dead_letters: str | msgspec.UnsetType | None = msgspec.UNSET
    tenants: dict[str, tuple[float, int | None]] | msgspec.UnsetType | None = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    dedupe_for: float | str | msgspec.UnsetType | None = msgspec.UNSET  # "inf": for ever


def write_options(options: BrokerQueueOptions) -> bytes:
    """Encode options as JSON."""
    stored: dict[str, Any] = dict(options)
    if options.get("max_size") == inf:
        stored["max_size"] = None
    if options.get("dedupe_for") == inf:
        stored["dedupe_for"] = "inf"
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
    """Return the options that `write_options` encoded."""
    read = msgspec.json.decode(stored, type=_Stored)
    options: dict[str, Any] = {
        name: getattr(read, name)
        for name in ("default_lease_timeout", "max_size", "dead_letters", "history", "dedupe_for")
        if getattr(read, name) is not msgspec.UNSET
    }
    if "max_size" in options and options["max_size"] is None:
        options["max_size"] = inf
    if isinstance(read.dedupe_for, str):
        options["dedupe_for"] = float(read.dedupe_for)
    if read.max_deliveries is not msgspec.UNSET:
        backoff = None
        if read.backoff is not None:
            base, factor, ceiling, seed = read.backoff
            backoff = Backoff(
                inf if base is None else base, factor, inf if ceiling is None else ceiling, seed
            )
        options["retry"] = Retry(read.max_deliveries, backoff)
    if read.tenants is not msgspec.UNSET:
        options["tenants"] = read.tenants and {
            name: Tenant(weight, cap) for name, (weight, cap) in read.tenants.items()
        }
    return options  # type: ignore[return-value]
