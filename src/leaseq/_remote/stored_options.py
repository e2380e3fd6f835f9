"""Options of queues as a store keeps them. Sans-IO."""

from __future__ import annotations

import json
from math import inf
from typing import Any, Final

from .._core.options import BrokerQueueOptions
from .._core.policies import Backoff, Retry, tenant_kept
from .._core.texts import failure_text

_LEFT_OUT: Final = object()


def check_options(options: BrokerQueueOptions) -> None:
    """Raise `ValueError` unless options are the same once they have been kept."""
    try:
        kept = read_options(write_options(options))
    except Exception as error:
        raise ValueError(f"these options cannot be kept: {failure_text(error)}") from error
    if kept != options:
        changed = ", ".join(name for name in options if kept.get(name) != options[name])  # type: ignore[literal-required]
        raise ValueError(f"these options would be kept as others: {changed}")


def write_options(options: BrokerQueueOptions) -> bytes:
    """Encode options as JSON."""
    stored: dict[str, Any] = dict(options)
    for name in ("max_size", "dedupe_for"):
        if options.get(name) == inf:
            stored[name] = "inf"
    if "retry" in options:
        retry = stored.pop("retry")
        stored["max_deliveries"] = retry.max_deliveries
        if retry.backoff is not None:
            base, ceiling = retry.backoff.base, retry.backoff.ceiling
            stored["backoff"] = [
                "inf" if base == inf else base,
                retry.backoff.factor,
                "inf" if ceiling == inf else ceiling,
                retry.backoff.seed,
            ]
    if options.get("tenants") is not None:
        stored["tenants"] = {
            name: [tenant.weight, tenant.max_in_flight]
            for name, tenant in stored["tenants"].items()
        }
    return json.dumps(stored, allow_nan=False, separators=(",", ":")).encode()


def read_options(stored: bytes) -> BrokerQueueOptions:
    """Return the options that `write_options` encoded."""
    options: dict[str, Any] = json.loads(stored)  # what was left out is not in it
    deliveries, backoff = options.pop("max_deliveries", _LEFT_OUT), options.pop("backoff", None)
    if deliveries is not _LEFT_OUT:
        if backoff is not None:
            base, factor, ceiling, seed = backoff
            backoff = Backoff(float(base), factor, float(ceiling), seed)
        options["retry"] = Retry(deliveries, backoff)
    for name in ("max_size", "dedupe_for"):
        if options.get(name) == "inf":
            options[name] = inf
    if options.get("tenants"):
        options["tenants"] = {
            name: tenant_kept(weight, cap) for name, (weight, cap) in options["tenants"].items()
        }
    return options  # type: ignore[return-value]
