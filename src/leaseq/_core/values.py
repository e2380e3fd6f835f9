"""Plain values: dataclasses that are quick to define, and quick to make. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def plain_value(cls: type[T]) -> type[T]:
    """Make a dataclass with slots that is frozen for type checkers alone.

    Several are made for every item, and one that refuses changes at run time takes twice as long to
    make. Only the constructor is compiled for each class: compiling the other methods as well would
    take most of the time in which the package is imported.
    """
    made = dataclass(slots=True, eq=False, repr=False)(cls)
    has: tuple[str, ...] = made.__match_args__  # type: ignore[attr-defined]
    shown = [each.name for each in fields(made) if each.repr]  # type: ignore[arg-type]
    values: Callable[[object], object] = attrgetter(*has) if has else type

    def equal(self: T, other: object) -> Any:
        if type(other) is not made:
            return NotImplemented
        return values(self) == values(other)

    def hashed(self: T) -> int:
        return hash(values(self))

    def written(self: T) -> str:
        texts = (f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({', '.join(texts)})"

    made.__eq__, made.__hash__, made.__repr__ = equal, hashed, written  # type: ignore[assignment]
    return made
