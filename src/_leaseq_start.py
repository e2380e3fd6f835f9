"""The start of the command ``leaseq``, from where on Ctrl-C is quiet.

It is not in the package, whose ``__init__`` would be run before the first line of this, and it
imports nothing from a file: an interruption of that would be told with a traceback.
"""

import os
from _signal import (  # type: ignore[import-not-found]  # `signal` takes some milliseconds
    SIGINT,
    signal,
)


def main() -> None:
    """Run the command line with the arguments of this process."""
    signal(SIGINT, _leave)  # while there is nothing yet that could be left undone
    from leaseq._cli import main

    main()


def _leave(*_: object) -> None:
    os._exit(130)
