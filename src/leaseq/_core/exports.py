"""The public face of classes that are defined in private modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Never


def adopt(face: str, names: Iterable[str], namespace: Mapping[str, object]) -> None:
    """Make tracebacks, reprs and `help` show a public module as the home of its names.

    Args:
        face: The ``__name__`` of the public module.
        names: Its ``__all__``.
        namespace: Its ``globals()``.
    """
    for name in names:
        value = namespace[name]
        home = getattr(value, "__module__", None)
        # A name that several faces offer belongs to the widest, which is imported last.
        if isinstance(home, str) and home.startswith("leaseq."):
            if isinstance(value, type) and "__annotations__" in value.__dict__:
                # They are read at run time, by msgspec for one, with the names of the module.
                with suppress(NameError):  # a name for type checkers alone
                    value.__annotations__ = inspect.get_annotations(value, eval_str=True)
            value.__module__ = face


def not_copied(self: object) -> Never:
    """Refuse to copy or pickle an object that is one of its kind, as its ``__reduce__``."""
    raise TypeError(
        f"{self!r} cannot be copied or pickled: pass the object itself, or to another process "
        "the name of a queue or the receipt of a lease"
    )
