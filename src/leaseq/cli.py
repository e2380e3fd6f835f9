"""The command ``leaseq``. It needs the extra ``leaseq[cli]``, and says so where that is missing.

A command lives beside what it shows; this file only gathers them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["main", "make_app"]

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line, on the arguments of this process."""
    try:
        app = make_app()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit(
            f"the command line of leaseq needs {error.name}, which is not installed: "
            "pip install 'leaseq[cli]'"
        )
    app()


def make_app() -> typer.Typer:
    """Return the typer application with every command.

    Raises:
        ModuleNotFoundError: typer or rich is not installed. They are imported here, not above,
            so that `main` can say it.
    """
    import typer

    from .demo.command import demo

    app = typer.Typer(name="leaseq", no_args_is_help=True, add_completion=False)

    @app.callback()
    def leaseq() -> None:
        """A keyed, leased work queue for trio and asyncio."""

    app.command()(demo)
    return app
