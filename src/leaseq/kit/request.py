"""What a consumer asks for. Sans-IO."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Generic, TypeVar

from ..values import ANY_KEY, AnyKey, check_hashable, lease_seconds

__all__ = ["Request"]

K = TypeVar("K")


class Request(Generic[K]):
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
