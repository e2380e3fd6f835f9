"""Policies of a queue: order, shares between tenants, and retries. Sans-IO."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf

from .exports import adopt
from .texts import shown
from .validation import delay_seconds, number, options_of, wait_seconds, whole_number

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""The weights of tenants. Every engine counts shares of less than a millionth as that."""
_WEIGHT = "a number from 0.000001 to 1,000,000"


class Priority(IntEnum):
    """Names for six priorities; any other int is one too. Higher comes first."""

    VERY_LOW = 1
    LOW = 2
    NORMAL = 3
    HIGH = 4
    VERY_HIGH = 5
    CRITICAL = 6


@options_of
@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's share of a queue, and its cap.

    Args:
        weight: Its share, relative to the weights of the other tenants that have something ready:
            from 0.000001 to 1,000,000.
        max_in_flight: The largest number of its items leased at a time; None: no limit.

    Raises:
        TypeError: the weight is not a number, or the cap not a whole one.
        ValueError: the weight is out of range, or the cap is less than 1.
    """

    weight: float = 1.0
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        weight = number("weight", self.weight, _WEIGHT)
        if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise ValueError(f"weight must be {_WEIGHT}, not {shown(self.weight)}")
        object.__setattr__(self, "weight", weight)
        if self.max_in_flight is not None:
            most = whole_number(
                "max_in_flight", self.max_in_flight, 1, "1 or more, or None for any"
            )
            object.__setattr__(self, "max_in_flight", most)


def tenant_kept(weight: float, max_in_flight: int | None) -> Tenant:
    """Return a tenant that a store has kept: an older version may have taken any weight above 0."""
    return Tenant(min(max(weight, LEAST_WEIGHT), MOST_WEIGHT), max_in_flight)


@options_of
@dataclass(frozen=True)
class Backoff:
    """The rest of an item before it is tried again: exponential, with full jitter.

    After the n-th delivery it rests for a time drawn evenly from 0 to
    ``min(ceiling, base * factor ** (n - 1))`` ("Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015), so that items that failed together are not tried together again.

    Args:
        base: The longest rest after the first delivery, in seconds.
        factor: The growth of the longest rest with each delivery, 1 or more.
        ceiling: The longest rest after any delivery, in seconds.
        seed: Makes the draws repeatable; None: they are not.

    Raises:
        TypeError: a value is not a number.
        ValueError: a time is negative or NaN, the factor less than 1, or the seed too large.
    """

    base: float
    factor: float = 2.0
    ceiling: float = 300.0
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", wait_seconds("base", self.base))
        object.__setattr__(self, "ceiling", wait_seconds("ceiling", self.ceiling))
        if not 1 <= number("factor", self.factor, "a number of 1 or more") < inf:
            raise ValueError(f"factor must be a number of 1 or more, not {shown(self.factor)}")
        object.__setattr__(self, "factor", float(self.factor))
        if self.seed is not None:
            if type(self.seed) is not int:
                raise TypeError(f"seed must be a whole number or None, not {shown(self.seed)}")
            if not -(1 << 63) <= self.seed < 1 << 63:
                raise ValueError(f"seed must have 64 bits at most, not {shown(self.seed)}")
        object.__setattr__(self, "_random", random.Random(self.seed))

    def delay(self, deliveries: int) -> float:
        """Draw the rest after so many deliveries, 1 or more, in seconds. O(1)."""
        return self._random.uniform(0.0, longest_rest(self, deliveries))


def longest_rest(backoff: Backoff, deliveries: int) -> float:
    """Return the longest rest that a backoff draws after so many deliveries, in seconds."""
    try:
        return min(backoff.ceiling, backoff.base * backoff.factor ** (deliveries - 1))
    except OverflowError:
        return backoff.ceiling if backoff.base else 0.0


@options_of
@dataclass(frozen=True, slots=True)
class Retry:
    """The policy for items whose delivery failed or expired.

    Args:
        max_deliveries: The number of deliveries after which the item is a dead letter; None: it is
            tried for ever.
        backoff: The rest before the next try; None: it joins the back of the line immediately.

    Raises:
        TypeError: the number is not a whole one, or the backoff not a `Backoff`.
        ValueError: the number is less than 1.
    """

    max_deliveries: int | None = None
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        if self.backoff is not None and not isinstance(self.backoff, Backoff):
            raise TypeError(
                f"backoff must be a Backoff or None, not {shown(self.backoff)}: Backoff(base=0.5) "
                "rests up to half a second after the first delivery"
            )
        if self.max_deliveries is not None:
            wanted = "1 or more, or None for ever"
            most = whole_number("max_deliveries", self.max_deliveries, 1, wanted)
            object.__setattr__(self, "max_deliveries", most)

    def exhausted(self, deliveries: int) -> bool:
        """Return True if an item is given up after so many deliveries. O(1)."""
        return self.max_deliveries is not None and deliveries >= self.max_deliveries

    def delay(self, deliveries: int) -> float:
        """Return the seconds until the next try, after so many deliveries. O(1)."""
        return 0.0 if self.backoff is None else self.backoff.delay(deliveries)


def rests(retry: Retry) -> bool:
    """Return True if items may rest by a policy: it has a backoff, or delays of the user's own."""
    return retry.backoff is not None or type(retry).delay is not Retry.delay


def rest_by(policy: Retry | Backoff, deliveries: int) -> float:
    """Ask a policy, which may be the user's own, for the seconds until the next try.

    Raises:
        TypeError, ValueError: it gives no number of seconds, or a negative or endless one.
        Exception: it raises one.
    """
    seconds = policy.delay(deliveries)
    return delay_seconds(seconds, f"the delay that {type(policy).__name__} gives")


adopt("leaseq", globals())
