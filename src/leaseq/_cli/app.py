"""The commands of ``leaseq``, each imported when it is run."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

COMMANDS: Final = {
    "demo": (
        "demo.command",
        "Index Python files with workers that die; check that none is lost or in two hands "
        "at once.",
    ),
    "worker": (
        "worker",
        "Run the tasks of a module until SIGTERM or Ctrl-C; then finish the running ones and exit.",
    ),
    "check": (
        "check",
        "Say which items of a queue the code given would refuse; it changes nothing.",
    ),
    "queues": (
        "show",
        "List the queues, with the number of ready, delayed, leased and dead items.",
    ),
    "info": (
        "show",
        "Show one queue: counts, tenants, and leases with consumer, age and time left.",
    ),
    "watch": (
        "watch",
        "Show queues as they change, until Ctrl-C. Goes on when the server is away for a while.",
    ),
    "put": ("change", "Put an item, or replace the value of the one that has the key."),
    "peek": ("show", "Show the newest value of a key, and leave the item where it is."),
    "purge": (
        "change",
        "Drop all ready and delayed items of a queue, for good. Leased items stay.",
    ),
    "cancel": (
        "change",
        "Cancel the item of a key, waiting or leased: it is not tried again.",
    ),
    "discard": (
        "change",
        "Drop the item of a key, if it waits. A leased one is left alone.",
    ),
    "pause": (
        "change",
        "Stop handing out items of a queue, or of one tenant, until it is resumed.",
    ),
    "resume": ("change", "End the pause of a queue, or of one tenant."),
    "dead": ("show", "Show dead letters, the latest first, and leave them where they are."),
    "schedules": (
        "schedules",
        "List the schedules of a TaskQueue: when they run, their next slot, and whether they do.",
    ),
    "redrive": (
        "change",
        "Bring dead letters back into their queue, with fresh counts. Asks if there are no keys.",
    ),
}
"""The module of each command, and the first line of its help: an overview imports none of them."""

_EXTRAS: Final = {"rich": "cli", "msgspec": "tasks"}
"""The extra with which a library comes that a command needs."""

_PLAIN: Final[dict[str, Any]] = {
    "add_completion": False,
    "pretty_exceptions_show_locals": False,  # they may have secrets
    "rich_markup_mode": None,  # boxes around the help take as long as all the rest of it
}


class _Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # their names alone

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        """Return a command, whose module is imported now; None: there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(**_PLAIN)
        app.command(cmd_name)(_function_of(cmd_name))
        return typer.main.get_command(app)

    def format_commands(self, ctx: object, formatter: Any) -> None:
        """Write the overview of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _function_of(name: str) -> Any:
    module, _ = COMMANDS[name]
    try:
        return getattr(import_module(f".{module}", __package__), name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRAS:
            raise
        sys.exit(
            f"leaseq {name} needs {library}, which is not installed: "
            f"pip install 'leaseq[{_EXTRAS[library]}]'"
        )


def make_app() -> typer.Typer:
    """Return the typer application with all commands."""
    app = typer.Typer(name="leaseq", cls=_Commands, no_args_is_help=True, **_PLAIN)

    def show_version(asked: bool) -> None:
        if asked:
            from importlib.metadata import version

            typer.echo(f"leaseq {version('leaseq')}")
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

    return app
