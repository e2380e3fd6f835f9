"""The public face of classes that are defined in private modules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Never


def adopt(face: str, namespace: Mapping[str, object], *also: str) -> None:
    """Make tracebacks, reprs and `help` show a public module as the home of its names.

    A public module calls this for what it imports. The package imports its names when they are
    first used; the modules that define them call this in its stead.

    Args:
        face: The ``__name__`` of the public module, which is being or has been imported.
        namespace: The ``globals()`` of the caller, which has some or all of its names.
        also: Names that the public module has and does not offer.
    """
    for name in (*sys.modules[face].__all__, *also):
        value = namespace.get(name)
        home = getattr(value, "__module__", None)
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
