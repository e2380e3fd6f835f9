"""The command ``leaseq``. It needs the extra ``leaseq[cli]``, and says so if that is missing."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line with the arguments of this process."""
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
    """Return the typer application with all commands.

    Raises:
        ModuleNotFoundError: typer or rich is not installed. They are imported here, not above,
            so that `main` can report it.
    """
    import typer

    from .change import purge, put, redrive
    from .demo.command import demo
    from .show import dead, info, peek, queues
    from .watch import watch

    app = typer.Typer(
        name="leaseq",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,  # they may have secrets
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"leaseq {metadata.version('leaseq')}")
            raise typer.Exit

    @app.callback()
    def leaseq(
        *,
        version: bool = typer.Option(
            False,
            "--version",
            callback=show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ) -> None:
        """A keyed, leased work queue for trio and asyncio."""

    for command in (demo, _worker(), queues, info, watch, put, peek, purge, dead, redrive):
        app.command()(command)
    return app


def _worker() -> Callable[..., None]:
    """Return ``leaseq worker``, or a command that says which extra it needs."""
    try:
        from .worker import worker
    except ModuleNotFoundError as error:
        if error.name != "msgspec":
            raise
    else:
        return worker

    def worker_is_missing() -> None:
        """Run the tasks of a module. Needs leaseq[tasks]."""
        sys.exit(
            "the workers of leaseq need msgspec, which is not installed: "
            "pip install 'leaseq[tasks]'"
        )

    worker_is_missing.__name__ = "worker"
    return worker_is_missing
