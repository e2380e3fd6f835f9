"""The options of a put, checked. Sans-IO."""

from __future__ import annotations

from math import inf
from typing import get_args

from ..values import InFlightPolicy, Reschedule, delay_seconds

__all__ = ["Terms"]

_POLICIES = get_args(InFlightPolicy)
_RESCHEDULES = get_args(Reschedule)


class Terms:
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
