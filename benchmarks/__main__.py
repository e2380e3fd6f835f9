"""What leaseq costs beside other queues, on asyncio and trio: one table, from one run."""

import argparse
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import get_args

from . import batcher, context, cycle, delays, memory, parts, pool, tasks, timers, turns, waiters
from .harness import LINE, Backend, Bench, Section, show

SECTIONS: Mapping[str, Section] = {
    "parts": parts.parts,
    "cycle": cycle.untimed_leases,
    "timed": cycle.timed_leases,
    "context": context.lease_contexts,
    "pool": pool.pools,
    "tasks": tasks.tasks_in_a_pool,
    "batcher": batcher.items_to_a_callback,
    "waiters": waiters.waiting_consumers,
    "tenants": turns.tenants_and_priorities,
    "idle": timers.idle_queue,
    "expiry": timers.expiry,
    "burst": timers.burst,
    "delays": delays.delayed_items,
    "memory": memory.bytes_an_item,
    "collections": memory.collections,
}
PEERS = ("anyio", "trio", "leasedkeyq", "beque")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds: some 40 s")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="NAME",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--backend", nargs="+", choices=get_args(Backend), default=get_args(Backend)
    )
    return parser.parse_args()


def main() -> None:
    """Run the sections that are asked for, on each backend."""
    asked = arguments()
    logging.getLogger("leaseq").setLevel(logging.ERROR)  # not a line for every lease that expires
    versions = ", ".join(f"{package} {version(package)}" for package in PEERS)
    print(f"{platform.python_implementation()} {platform.python_version()}, {versions}")
    print("Medians over rounds. Ratios first, then the processor time an item behind them.")
    met = []
    for name in asked.only:
        section = SECTIONS[name]
        for backend in asked.backend:
            print(f"\n{name}, {backend}: {section.__doc__}")
            print(LINE.format("measured", "target", "met", "", "cost", "beside"))
            for row in section(Bench(backend, asked.quick)):
                print(show(row), flush=True)
                met.append(row.met)
    print(f"\n{met.count(True)} targets met, {met.count(False)} missed")


if __name__ == "__main__":
    main()
