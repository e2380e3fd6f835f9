"""The public home of names that are defined in private modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


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
            value.__module__ = face
