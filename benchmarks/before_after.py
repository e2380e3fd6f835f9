"""What a change costs: the sections of two checkouts in turn, and the ratio of each subject.

``python -m benchmarks.before_after ../before`` runs this checkout and the other one round by round,
each with its own code and its own benchmarks. It prints the median over the rounds of the cost
after divided by the cost before. Both checkouts use the dependencies of this environment.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

HERE = Path(__file__).resolve().parent.parent
SECTIONS = ("cycle", "timed", "context", "pool", "tenants", "memory")

#: The cost of each subject, by section, backend and place.
Costs: TypeAlias = dict[str, float]


def name_of(subject: Any) -> str:
    """Name a subject by its function and what it was given."""
    if not isinstance(subject, partial):
        return str(getattr(subject, "__name__", subject))
    given = [
        *map(name_of, subject.args),
        *(f"{k}={name_of(v)}" for k, v in subject.keywords.items()),
    ]
    return f"{name_of(subject.func)}({', '.join(given)})"


def run_sections(sections: list[str], backend: str) -> None:
    """Run sections with the code of the working directory, and print each subject's cost."""
    import anyio  # here, and so from the environment of the process that measures

    from benchmarks import __main__ as benchmarks
    from benchmarks.harness import Bench

    costs: Costs = {}

    class Recording(Bench):
        def measure(self, subjects: Any, *, items: int, rounds: int) -> Any:
            del rounds
            subjects = tuple(subjects)
            for number, each in enumerate(subjects):
                cost = anyio.run(each, items, backend=backend)
                costs[f"{section} {number} {name_of(each)}"] = cost
            return _Silent()

    class _Silent:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **options: None

    for section in sections:
        for _ in benchmarks.SECTIONS[section](Recording(backend, True)):  # type: ignore[arg-type]
            pass
    print(json.dumps(costs))


def measure(checkout: Path, sections: list[str], backend: str) -> Costs:
    """Run sections with the code of a checkout."""
    path = os.pathsep.join((str(checkout / "src"), str(checkout)))
    program = (
        f"import sys; sys.path.append({str(HERE)!r}); import runpy; "
        f"run = runpy.run_path({str(Path(__file__))!r}); "
        f"run['run_sections']({sections!r}, {backend!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure both checkouts in turn, and print the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after")
    parser.add_argument("before", type=Path, help="the checkout to compare with")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--backend", default="asyncio")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    rounds = []
    for number in range(asked.rounds):
        checkouts = [asked.before.resolve(), HERE]
        if number % 2:
            checkouts.reverse()
        found = {each: measure(each, asked.only, asked.backend) for each in checkouts}
        rounds.append((found[asked.before.resolve()], found[HERE]))
        print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{asked.backend}, {asked.rounds} rounds, the machine's load after: {loads}")
    print(f"{'after/before':>12}  {'before':>11}  subject")
    for subject in rounds[0][0]:
        if all(subject in after for _, after in rounds):
            ratio = median(after[subject] / before[subject] for before, after in rounds)
            before_cost = median(before[subject] for before, _ in rounds)
            unit = (
                f"{before_cost:9.1f} B" if "memory" in subject else f"{before_cost * 1e6:8.2f} us"
            )
            print(f"{ratio:12.3f}  {unit}  {subject}")


if __name__ == "__main__":
    main()
