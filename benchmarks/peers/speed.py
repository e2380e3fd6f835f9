"""Items a second, and what each costs: one process puts items in, and drains them."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from tests.servers import Server

from benchmarks.peers.sizes import BATCH, CONCURRENCY, KEEP
from benchmarks.peers.subjects import NONE, Subject

PATIENCE = 600  # seconds for one round of one queue

Measured: TypeAlias = dict[str, dict[str, float]]
"""For "one", "many", "bulk" and "drain", the items a second and what each of them costs."""

ROWS: Mapping[str, tuple[str, str]] = {
    "one": ("put one by one", "rate"),
    "many": (f"put, {CONCURRENCY} at once", "rate"),
    "bulk": (f"put in bulk, {BATCH:,} a call", "rate"),
    "drain": ("drained", "rate"),
}

LINE = "{:24}{:>13}{:>13}{:>13}{:>13}{:>10}"


def measure(
    subject: Subject, command: Sequence[str], server: Server, items: int, *, results: bool
) -> Measured | None:
    """Run a queue once on an empty server; None if it fails, which it says itself."""
    server.command("FLUSHALL")
    url = server.url.replace("valkey://", "redis://")  # the one that all of them know
    options = ["--backend", subject.backend, "--way", subject.way, "--items", str(items)]
    full = [*command, url, "speed", *options, *(["--results"] if results else [])]
    # In a group of its own: some have worker processes, which end with it.
    with subprocess.Popen(
        full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            print(f"not done in {PATIENCE} s: {shlex.join(full)}", file=sys.stderr)
            return None
    for line in out.splitlines():
        if line.startswith('{"'):
            found: Measured = json.loads(line)
            return found
    print(f"{shlex.join(full)}\n{errors[-1500:]}", file=sys.stderr)
    return None


def medians(rounds: Iterable[Measured]) -> Measured:
    """The median round, each figure by itself."""
    rounds = list(rounds)
    return {
        how: {figure: median(each[how][figure] for each in rounds) for figure in rounds[0][how]}
        for how in rounds[0]
    }


def ratio(of: Sequence[Measured], to: Sequence[Measured], how: str) -> float | None:
    """The median of the ratios of two queues, round by round."""
    pairs = [
        one[how]["rate"] / other[how]["rate"]
        for one, other in zip(of, to, strict=False)
        if how in one and how in other
    ]
    return median(pairs) if pairs else None


def show(measured: Mapping[Subject, list[Measured]], absent: Mapping[Subject, str]) -> None:
    """Print the tables of what was measured."""
    here = {subject: medians(rounds) for subject, rounds in measured.items() if rounds}
    head = ("one by one", f"{CONCURRENCY} at once", "in bulk", "drained")
    print(LINE.format("items a second", *head, "trips"))
    for subject, found in here.items():
        rates = [f"{found[how]['rate']:,.0f}" if how in found else NONE for how in ROWS]
        print(LINE.format(subject.name, *rates, f"{found['drain']['trips']:.3f}"))
    print(LINE.format("microseconds an item", *head, "").rstrip())
    for subject, found in here.items():
        times = [processor_time(found.get(how)) for how in ROWS]
        print(LINE.format(subject.name, *times, "").rstrip())
    for subject, rounds in measured.items():
        if not rounds:
            print(f"{subject.name}: {NONE} (it failed)")
    for subject, why in absent.items():
        print(f"{subject.name}: {NONE} ({why})")


def processor_time(found: Mapping[str, float] | None) -> str:
    """The processor time of client and server in a stretch, for an item, in microseconds."""
    if found is None:
        return NONE
    client = f"{1e6 * found['client']:.0f}" if "client" in found else "?"
    return f"{client} + {1e6 * found['server']:.0f}"


COMPARED = (
    ("leaseq serve", "BullMQ"),
    ("leaseq serve_batches", "leaseq serve"),
    ("leaseq lease_batch", "leaseq serve"),
    ("leaseq tasks", "BullMQ"),
    ("leaseq tasks", "SAQ"),
)
"""Pairs whose ratios are told in any case."""


def compare(measured: Mapping[Subject, list[Measured]]) -> dict[str, float]:
    """Print the medians of ratios, and return them by what they compare."""
    rounds = {subject.name: found for subject, found in measured.items() if found}
    acknowledging = {
        subject.name: medians(found)["drain"]["rate"]
        for subject, found in measured.items()
        if found and subject.is_peer and subject.name not in ("BullMQ", "huey")
    }
    pairs = list(COMPARED)
    if acknowledging:
        pairs.append(("leaseq serve", max(acknowledging, key=acknowledging.__getitem__)))
    pairs += [("leaseq serve", "huey"), ("leaseq serve", "SAQ")]
    found: dict[str, float] = {}
    for one, other in dict.fromkeys(pairs):
        if one not in rounds or other not in rounds:
            continue
        for how, (what, _) in ROWS.items():
            if how != "drain" and other.startswith("leaseq"):
                continue  # put in the same way
            times = ratio(rounds[one], rounds[other], how)
            if times is not None:
                found[f"{one} / {other}: {what}"] = times
    for what, times in found.items():
        print(f"  {times:6.2f} x  {what}")
    return found


def speed(
    commands: Mapping[Subject, Sequence[str]],
    server: Server,
    items: int,
    rounds: int,
    *,
    results: bool,
) -> tuple[dict[Subject, list[Measured]], dict[Subject, str]]:
    """Run all in turn, round by round; and why some were not."""
    absent = {
        each: "it keeps no results" for each in commands if results and not each.keeps_results
    }
    measured: dict[Subject, list[Measured]] = {each: [] for each in commands if each not in absent}
    for _ in range(rounds):
        for each, found in measured.items():
            count = max(100, int(items * each.share))
            one = measure(each, commands[each], server, count, results=results)
            if one is not None:
                found.append(one)
    return measured, absent


def document(measured: Mapping[Subject, list[Measured]]) -> dict[str, Any]:
    """What was measured, as JSON has it: all rounds, and their medians."""
    return {
        each.name: {"rounds": rounds, "medians": medians(rounds) if rounds else None}
        for each, rounds in measured.items()
    }


TITLE = (
    "{items:,} items that do nothing (fewer of slow queues), put and drained by one process, "
    f"{CONCURRENCY} at once, {{kept}}; medians of {{rounds}} rounds, in turn.\n"
    "trips: how often the server reads from a client, for an item that is drained.\n"
    "microseconds: the processor time of client and server. The first tenth that is drained does "
    "not count"
)


def title(items: int, rounds: int, *, results: bool) -> str:
    """The words above the table."""
    kept = f"results kept for {KEEP} s" if results else "no results kept"
    return TITLE.format(items=items, rounds=rounds, kept=kept)
