"""One worker process of the demo: ``python -m leaseq._cli.demo.process URL RUN BACKEND …``.

It takes files until it is asked to stop, or is killed. It reports each step in a line of JSON, with
the time of a clock that all processes of the machine share, so that the demo can compare them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import CapacityLimiter, create_task_group, current_time, to_thread

from leaseq import Broker, Lease, LeasedQueue, connect, serve, stop_on_signals

from .files import read_facts
from .job import EDIT_RATE


async def queues(
    broker: Broker, run: str, lease_timeout: float
) -> tuple[LeasedQueue[str, int], LeasedQueue[str, Any]]:
    """Return the queue of files, and that of the records of those that are done."""
    files = await broker.queue(f"demo-{run}", default_lease_timeout=lease_timeout)
    return files, await broker.queue(f"demo-{run}.records", default_lease_timeout=lease_timeout)


def is_edited(path: str, seed: int) -> bool:
    """Return True if a file is saved again while the first worker holds it."""
    return random.Random(f"{seed} {path}").random() < EDIT_RATE


def say(*words: object) -> None:
    """Say something to the process that has started this one."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def work(url: str, run: str, workers: int, lease_timeout: float, seed: int) -> None:
    """Index files until this process is asked to stop."""
    threads = CapacityLimiter(1)
    stop = anyio.Event()

    async def index(broker: Broker, files: Any, records: Any, lease: Lease[str, int]) -> None:
        left = lease.deadline - current_time()
        say("taken", lease.key, lease.token, time.monotonic(), time.monotonic() + left)
        path, revision = lease.key, lease.value
        if revision == 0 and is_edited(path, seed):
            await files.put(path, 1, if_in_flight="buffer")
        facts = await to_thread.run_sync(read_facts, Path(path), limiter=threads)
        found = {**dataclasses.asdict(facts), "imports": [*facts.imports]}
        record = [path, revision, lease.token, found]
        say("done", lease.key, lease.token, time.monotonic())
        async with broker.transaction() as step:  # both, or neither
            step.ack(lease)
            step.put(records, f"{lease.token} {path}", record)

    async with create_task_group() as tg, connect(url) as broker:
        await tg.start(broker.run)
        await tg.start(stop_on_signals, stop)
        files, records = await queues(broker, run, lease_timeout)
        say("ready")
        handler = partial(index, broker, files, records)
        await serve(files, handler, workers, stop=stop, heartbeat=True)
        tg.cancel_scope.cancel()


def main() -> None:
    """Run the worker process."""
    url, run, backend, workers, lease_timeout, seed = sys.argv[1:]
    warnings.simplefilter("ignore")  # from ast.parse
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)  # the audit sees what is lost
    anyio.run(work, url, run, int(workers), float(lease_timeout), int(seed), backend=backend)


if __name__ == "__main__":
    main()
