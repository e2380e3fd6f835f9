"""The checked options of puts and claims, for every engine. Sans-IO."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import Final, Generic, Never, TypeVar, get_args

from .limits import MOST_NAMES
from .options import (
    ANY_KEY,
    AnyKey,
    GetOptions,
    InFlightPolicy,
    PutOptions,
    Reschedule,
    TakeOptions,
)
from .texts import shown
from .validation import (
    check_key,
    check_known,
    check_priority,
    delay_seconds,
    lease_seconds,
    name_text,
    number,
    timeout_seconds,
    wait_seconds,
    whole_number,
)

K = TypeVar("K")


class ClaimRequest(Generic[K]):
    """The checked options of a claim: of one key, or of the next item of all or some tenants.

    Args:
        call: The public call, for errors; left out, `get`, or with a key `take`.
        key: The one key to claim; `ANY_KEY`: any.
        lease_timeout: Seconds until the lease expires; None: never.
        tenants: The tenants whose items are taken; None: all.
        steal_from: The tenants whose items are taken when those have none to claim.
        consumer: The name of the consumer.

    Raises:
        TypeError: the key is not hashable; an option is unknown, or its value of another type.
        ValueError: an option has an invalid value.
    """

    __slots__ = ("consumer", "key", "lease_timeout", "restricted", "steal_from", "tenants", "timed")

    def __init__(
        self,
        key: K | AnyKey = ANY_KEY,
        call: str = "",
        /,
        *,
        lease_timeout: float | None = None,
        tenants: Collection[str | None] | None = None,
        steal_from: Collection[str | None] = (),
        consumer: str | None = None,
        **unknown: Never,
    ) -> None:
        if key is ANY_KEY:
            if unknown:
                check_claim_known(call or "get", unknown, GetOptions.__annotations__)
        else:
            check_key(key)
            if unknown:
                check_claim_known(call or "take", unknown, TakeOptions.__annotations__)
            if tenants is not None or steal_from:
                given = ["steal_from" if tenants is None else "tenants"]
                check_claim_known(call or "take", given, TakeOptions.__annotations__)
        if tenants is not None:
            tenants = _names("tenants", tenants)
        if steal_from != ():
            steal_from = _names("steal_from", steal_from)
        if tenants is not None and (number := len(tenants) + len(steal_from)) > MOST_NAMES:
            raise ValueError(
                f"tenants and steal_from name {MOST_NAMES:,} tenants at most, not {number:,}: have "
                "several consumers, each for some of them"
            )
        if consumer is not None:
            consumer = name_text("consumer", consumer, " or None")
        if tenants is None and steal_from:
            raise ValueError(
                f"steal_from={shown(steal_from)} needs tenants: "
                "without them the items of all tenants are taken"
            )
        if tenants is not None and not tenants:
            raise ValueError("tenants must name at least one tenant, or be None for all")
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
        """Return True if an item of this tenant may be claimed."""
        return self.tenants is None or tenant in self.tenants or tenant in self.steal_from


_OF_CALL: Final[Mapping[str, tuple[str, ...]]] = {
    "get": ("timeout",),
    "take": ("timeout",),
    "lease": ("timeout", "key"),
    "get_batch": ("max_wait", "timeout"),
    "lease_batch": ("max_wait", "timeout"),
}
"""Options of a call by keyword that its request does not have."""


def check_claim_known(call: str, given: Iterable[str], known: Iterable[str], how: str = "") -> None:
    """Raise `TypeError` for options that a call which claims does not have, as `check_known`."""
    if given:
        check_known(call, given, (*_OF_CALL.get(call, ()), *known), how)


def _names(option: str, names: Collection[str | None]) -> list[str | None]:
    if isinstance(names, str):
        raise TypeError(
            f"{option} must be a collection of names, not {shown(names)}: [{shown(names)}]"
        )
    if not isinstance(names, Collection):
        raise TypeError(f"{option} must be a collection of names, not {shown(names)}")
    return [
        None if name is None else name_text(f"a name in {option}", name, " or None")
        for name in names
    ]


def check_batch(
    request: ClaimRequest[K], max_items: int, max_wait: float, timeout: float | None
) -> tuple[int, float, float | None]:
    """Return the options of a batch as plain numbers; raise if one is invalid."""
    most = whole_number("max_items", max_items, 1, "1 or more")
    wait = wait_seconds("max_wait", max_wait)
    if not wait < request.lease_timeout:
        raise ValueError(
            f"max_wait={wait!r} s must be less than the lease_timeout of "
            f"{request.lease_timeout:g} s, or the first lease expires before the last item comes"
        )
    return most, wait, timeout_seconds(timeout)


def checked_limit(limit: int | None) -> int | None:
    """Return the limit of a redrive as a plain int; raise `ValueError` if it is less than 1."""
    return None if limit is None else whole_number("limit", limit, 1, "1 or more, or None for all")


_POLICIES = get_args(InFlightPolicy)
_RESCHEDULES = get_args(Reschedule)


class PutRequest:
    """The checked options of a put.

    Args:
        call: The public call, for errors.
        if_in_flight: As in `PutOptions`, like all that follow.
        priority: One of `Priority`, or any int.
        tenant: A name.
        delay: Seconds.
        ttl: Seconds.
        reschedule: A word.

    Raises:
        TypeError: an option is unknown, or its value of another type.
        ValueError: an option has an invalid value.
    """

    __slots__ = ("delay", "if_in_flight", "priority", "reschedule", "tenant", "ttl")

    def __init__(
        self,
        call: str = "put",
        /,
        *,
        if_in_flight: InFlightPolicy = "update",
        priority: int | None = None,
        tenant: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
        reschedule: Reschedule = "earliest",
        **unknown: Never,
    ) -> None:
        if unknown:
            check_known(call, unknown, PutOptions.__annotations__)
        _check_choice("if_in_flight", if_in_flight, _POLICIES)
        _check_choice("reschedule", reschedule, _RESCHEDULES)
        if tenant is not None:
            tenant = name_text("tenant", tenant, " or None")
        if priority is not None:
            priority = check_priority(priority)
        self.if_in_flight = if_in_flight
        self.priority = priority
        self.tenant = tenant
        self.delay = delay_seconds(delay)
        self.ttl = inf
        if ttl is not None:
            self.ttl = number("ttl", ttl, "a number of seconds, or None for ever")
            if not self.ttl > self.delay:
                raise ValueError(
                    f"ttl must be more than the delay of {shown(delay)} s, not {shown(ttl)}"
                )
        self.reschedule = reschedule

    @property
    def timed(self) -> bool:
        """True if the put has a delay or a time to live, and so needs a timekeeper."""
        return self.delay > 0 or self.ttl != inf

    @property
    def is_plain(self) -> bool:
        """True if a new item has no times, no tenant and the usual priority."""
        return not self.timed and self.tenant is None and self.priority is None


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(shown, choices))}, not {shown(value)}"
        )
