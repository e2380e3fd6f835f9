"""Processes that are killed and frozen all the time: ``python -m tests.sqlite.soak``.

Producers and consumers are processes of their own on one file. Every few hundred milliseconds one
is killed, or stands still for a while. In the end all that is left is done, and it is counted, as
`tests.valkey.soak` does: what was put and confirmed was acknowledged once, or is dead, or is still
there. Nothing is missing, and nothing is there twice.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
from anyio import create_task_group, move_on_after
from tests.valkey.soak import BACKENDS, OPTIONS, PATIENCE, PRODUCERS, QUEUE, Hand, Report, Soak

import leaseq

__all__ = ["run_soak"]

CONSUMERS = 4
REST = (0.1, 0.5)  # seconds from one fault to the next
TROUBLES = (
    "kill_a_consumer",
    "kill_a_producer",
    "kill_a_consumer",
    "kill_a_producer",
    "freeze_a_consumer",
)


async def soak(seconds: float, seed: int, url: str) -> Report:
    """Have things go wrong for a while, and count."""
    made = Soak(seed, cast("Any", SimpleNamespace(url=url)))
    report = made.report
    async with leaseq.connect(url) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        queue = await broker.queue("work", **QUEUE)
        wire = cast("Any", SimpleNamespace(mend=lambda: None))
        for number, what in enumerate(["supply"] * PRODUCERS + ["toil"] * CONSUMERS):
            backend = ("--backend", BACKENDS[number % len(BACKENDS)])
            hand = Hand(f"{what}-{number}", wire, url, what, *OPTIONS[what], *backend)
            made.hands.append(hand)
            tg.start_soon(hand.run, report.failures)
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            await anyio.sleep(made.span(*REST))
            name = made.chance.choice(TROUBLES)
            report.faults[name.replace("_", " ")] += 1
            await getattr(made, name)()
        for hand in made.producers:
            await hand.end()
        with move_on_after(PATIENCE) as patience:
            await queue.join()
        if patience.cancelled_caught:
            report.failures.append(f"not all was done within {PATIENCE:g} s")
        for hand in made.consumers:
            await hand.end()
        await made.count(queue)
        tg.cancel_scope.cancel()
    return report


def run_soak(seconds: float, seed: int, folder: Path) -> Report:
    """Have it all in a file in a folder."""
    return anyio.run(soak, seconds, seed, f"sqlite:///{folder / 'soak.db'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sqlite.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        report = run_soak(asked.seconds, asked.seed, Path(folder))
    sys.stdout.write(f"{report}\n")
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
