"""The command ``leaseq``. It needs the extra ``leaseq[cli]``, and says so if that is missing."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line with the arguments of this process."""
    signal.signal(signal.SIGINT, _leave)  # as `_leaseq_start` does, for `python -m leaseq`
    # The last thing that is done: at its end the interpreter takes the handler away.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = _tell_unraisable
    from .streams import mended_streams

    with mended_streams():
        code = _run()
    sys.exit(code)


def _leave(*_: object) -> None:
    os._exit(130)


def _run() -> int | str | None:
    """Run the command line, and return what `sys.exit` takes."""
    try:
        try:
            app = make_app()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            app()
        finally:
            signal.signal(signal.SIGINT, _leave)
            sys.stdout.flush()
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        return (
            "the command line of leaseq needs typer, which is not installed: "
            "pip install 'leaseq[cli]'"
        )
    except SystemExit as exit:
        return exit.code
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        from .._core.texts import leaves
        from .streams import OutputError, end, is_interrupt

        first = next(leaves(error))
        if isinstance(first, OutputError):
            return end(first)
        if all(map(is_interrupt, leaves(error))):
            return 130
        raise
    return None


def _tell_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Tell of an error in a finalizer, but of an event loop that Ctrl-C has left half made."""
    finalizer = getattr(unraisable.object, "__qualname__", "")
    if finalizer != "BaseEventLoop.__del__" or unraisable.exc_type is not AttributeError:
        sys.__unraisablehook__(unraisable)


def make_app() -> typer.Typer:
    """Return the typer application with all commands.

    Raises:
        ModuleNotFoundError: typer is not installed. It is imported here, not above, so that `main`
            can report it.
    """
    from .app import make_app

    return make_app()
