"""What a consumer asks for. Sans-IO."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Generic, TypeVar, get_args

from .options import ANY_KEY, AnyKey, InFlightPolicy, Reschedule
from .validation import check_hashable, delay_seconds, lease_seconds, wait_seconds

__all__ = ["ClaimRequest", "PutRequest", "check_batch", "check_limit"]

K = TypeVar("K")


class ClaimRequest(Generic[K]):
    """One key, or the next item; of anybody, or of some tenants.

    Args:
        key: The one key that will do; `ANY_KEY`: any will.
        lease_timeout: Seconds until the lease expires; None: never.
        tenants: Whose items alone will do; None: anybody's.
        steal_from: Whose items will do too when those have nothing to claim.
        consumer: Who asks.

    Raises:
        TypeError: the key is not hashable.
        ValueError: a value that an option cannot have.
    """

    __slots__ = ("consumer", "key", "lease_timeout", "restricted", "steal_from", "tenants", "timed")

    def __init__(
        self,
        key: K | AnyKey = ANY_KEY,
        *,
        lease_timeout: float | None = None,
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
        consumer: str | None = None,
    ) -> None:
        if key is not ANY_KEY:
            check_hashable(key)
        for name, names in (("tenants", tenants), ("steal_from", steal_from)):
            if isinstance(names, str):
                raise ValueError(
                    f"{name} must be a collection of names, not {names!r}: [{names!r}]"
                )
        if tenants is None and steal_from:
            raise ValueError(
                f"steal_from={steal_from!r} without tenants: whoever takes anybody's items "
                "has no need to steal"
            )
        if tenants is not None and not tenants:
            raise ValueError("tenants must name one at least, or be None for anybody")
        self.key = key
        self.lease_timeout = lease_seconds("lease_timeout", lease_timeout)
        self.timed = self.lease_timeout != inf
        self.tenants = None if tenants is None else tuple(dict.fromkeys(tenants))
        self.steal_from = tuple(
            name for name in dict.fromkeys(steal_from) if name not in (tenants or ())
        )
        self.consumer = consumer
        self.restricted = tenants is not None or key is not ANY_KEY

    def serves(self, tenant: str | None) -> bool:
        """Whether an item of this tenant would do."""
        return self.tenants is None or tenant in self.tenants or tenant in self.steal_from


def check_batch(
    request: ClaimRequest[K], max_items: int, max_wait: float, timeout: float | None
) -> None:
    """Raise `ValueError` if so many items cannot be asked for, or waited for so long."""
    if not max_items >= 1:
        raise ValueError(f"max_items must be 1 or more, not {max_items!r}")
    if not wait_seconds("max_wait", max_wait) < request.lease_timeout:
        raise ValueError(
            f"max_wait={max_wait!r} s must be less than the leases' {request.lease_timeout} s, "
            "or the first is lost before the last comes"
        )
    if timeout is not None:
        wait_seconds("timeout", timeout)


def check_limit(limit: int | None) -> None:
    """Raise `ValueError` if that is no number of dead letters to bring back."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, or None for all, not {limit!r}")


_POLICIES = get_args(InFlightPolicy)


_RESCHEDULES = get_args(Reschedule)


class PutRequest:
    """The options of a put, checked."""

    __slots__ = ("delay", "if_in_flight", "priority", "reschedule", "tenant", "ttl")

    def __init__(
        self,
        *,
        if_in_flight: InFlightPolicy = "update",
        priority: int | None = None,
        tenant: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
        reschedule: Reschedule = "earliest",
    ) -> None:
        _check_choice("if_in_flight", if_in_flight, _POLICIES)
        _check_choice("reschedule", reschedule, _RESCHEDULES)
        delay_seconds(delay)
        if ttl is not None and not ttl > delay:
            raise ValueError(f"ttl must be more than the delay of {delay!r} s, not {ttl!r}")
        self.if_in_flight = if_in_flight
        self.priority = None if priority is None else int(priority)
        self.tenant = tenant
        self.delay = delay
        self.ttl = inf if ttl is None else ttl
        self.reschedule = reschedule

    @property
    def timed(self) -> bool:
        """Whether time has to pass for it."""
        return self.delay > 0 or self.ttl != inf


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
