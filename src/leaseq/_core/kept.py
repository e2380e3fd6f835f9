"""Values that a queue keeps for a time, each under a name, beside its items."""

from __future__ import annotations

from typing import NamedTuple


class Kept(NamedTuple):
    """A value to keep under a name, in place of an older one."""

    name: str
    body: bytes
    """The value as its user has encoded it."""
    ttl: float
    """Seconds for which it is kept; above 0, `math.inf`: for ever."""
    instead: bytes
    """A short body that is kept where the store has no room for the value."""
