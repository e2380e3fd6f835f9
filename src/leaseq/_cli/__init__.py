"""The command ``leaseq``. It needs the extra ``leaseq[cli]``, and says so where that is missing.

A command lives beside what it shows; this file only gathers them.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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

    from .commands import COMMANDS
    from .demo.command import demo

    app = typer.Typer(
        name="leaseq",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,  # which may be secrets
    )

    def say_version(asked: bool) -> None:
        if asked:
            typer.echo(f"leaseq {metadata.version('leaseq')}")
            raise typer.Exit

    @app.callback()
    def leaseq(
        *,
        version: bool = typer.Option(
            False, "--version", callback=say_version, is_eager=True, help="Say which, and exit."
        ),
    ) -> None:
        """A keyed, leased work queue for trio and asyncio."""

    app.command()(demo)
    app.command()(_worker())
    for command in COMMANDS:
        app.command()(command)
    return app


def _worker() -> Callable[..., None]:
    """``leaseq worker``; without the extra that it needs, a command that says so."""
    try:
        from .worker import worker
    except ModuleNotFoundError as error:
        if error.name != "msgspec":
            raise
    else:
        return worker

    def worker_is_missing() -> None:
        """Do the tasks of a module. Needs leaseq[tasks]."""
        sys.exit(
            "the workers of leaseq need msgspec, which is not installed: "
            "pip install 'leaseq[tasks]'"
        )

    worker_is_missing.__name__ = "worker"
    return worker_is_missing
